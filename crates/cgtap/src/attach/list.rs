//! The list of one cgroup: its mode, its revision, and what may come on it and go from it
//! (S1, S3, S5-S9, S18).
//!
//! A change has two halves. The first only reads and may refuse; the second cannot fail. So a
//! refused change has changed nothing (S10).

use serde::{Deserialize, Serialize};

use super::attachment::{Anchor, Attachment, MAX_ATTACHMENTS};
use super::error::{Role, RuleError};
use super::mode::Mode;
use super::order;
use super::request::AttachRequest;
use crate::id::{CgroupId, ProgramId};

/// What is attached to one cgroup, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Set by the first attachment. [`Mode::None`], and without meaning, while the list is empty.
    pub mode: Mode,
    /// 1 at first, one more with each change (S18). It goes on when the list empties, so that who
    /// saw an earlier state is never told that nothing has changed.
    pub revision: u64,
    /// First attached first, unless an order was asked for.
    pub attachments: Vec<Attachment>,
}

impl Default for List {
    fn default() -> Self {
        Self {
            mode: Mode::None,
            revision: 1,
            attachments: Vec::new(),
        }
    }
}

/// Where a granted attachment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// A place of its own, at this index.
    New(usize),
    /// The place of the attachment at this index.
    Of(usize),
}

impl List {
    /// Its attachments of one class, in order.
    pub fn of_class(&self, preorder: bool) -> impl Iterator<Item = &Attachment> {
        self.attachments
            .iter()
            .filter(move |a| a.preorder == preorder)
    }

    /// Its attachments in the order in which they run: the preorder ones first (S12).
    pub fn in_run_order(&self) -> impl Iterator<Item = &Attachment> {
        self.of_class(true).chain(self.of_class(false))
    }

    /// Refuses if the caller expects another revision (S18).
    pub(super) fn check_revision(
        &self,
        cgroup: CgroupId,
        expected: Option<u64>,
    ) -> Result<(), RuleError> {
        match expected {
            Some(expected) if expected != self.revision => Err(RuleError::Stale {
                cgroup,
                expected,
                actual: self.revision,
            }),
            _ => Ok(()),
        }
    }

    /// Where the attachment of `request` would go.
    pub(super) fn slot_for(&self, request: &AttachRequest) -> Result<Slot, RuleError> {
        let cgroup = request.cgroup;
        let is_empty = self.attachments.is_empty();
        if !is_empty && self.mode != request.mode {
            return Err(RuleError::ModeDiffers {
                cgroup,
                has: self.mode,
                wanted: request.mode,
            });
        }
        // S7. As in the kernel a full list refuses a replacement too, which would not grow it.
        if self.attachments.len() >= MAX_ATTACHMENTS {
            return Err(RuleError::ListFull { cgroup });
        }
        if request.mode != Mode::Multi {
            // S5. There is one place; who comes second takes it, and asking for an order is idle.
            return if is_empty {
                Ok(Slot::New(order::position(&self.attachments, request)?))
            } else {
                Ok(Slot::Of(0))
            };
        }
        let replaced = request
            .replace
            .and_then(|anchor| anchor.position(&self.attachments));
        self.check_not_twice(request, replaced)?;
        match (request.replace, replaced) {
            (None, _) => Ok(Slot::New(order::position(&self.attachments, request)?)),
            (Some(_), Some(index)) => Ok(Slot::Of(index)),
            (Some(anchor), None) => Err(RuleError::NotOnList {
                role: Role::Replaced,
                anchor,
                cgroup,
            }),
        }
    }

    /// S6: one program once on a list, but for a program that takes its own place (S9).
    fn check_not_twice(
        &self,
        request: &AttachRequest,
        replaced: Option<usize>,
    ) -> Result<(), RuleError> {
        if replaced.is_some_and(|index| self.attachments[index].program == request.program) {
            return Ok(());
        }
        let twin = self
            .attachments
            .iter()
            .find(|a| a.program == request.program);
        match twin {
            Some(twin) => Err(RuleError::AttachedTwice {
                cgroup: request.cgroup,
                program: request.program,
                id: twin.id,
            }),
            None => Ok(()),
        }
    }

    /// Puts the attachment of `request` where [`Self::slot_for`] said; returns the one whose
    /// place it took.
    pub(super) fn put(&mut self, request: &AttachRequest, slot: Slot) -> Option<Attachment> {
        self.mode = request.mode;
        self.revision += 1;
        let new = request.attachment();
        match slot {
            Slot::New(index) => {
                self.attachments.insert(index, new);
                None
            }
            Slot::Of(index) => Some(std::mem::replace(&mut self.attachments[index], new)),
        }
    }

    /// The index of what a detach from `cgroup` means (S8).
    pub(super) fn find_detached(
        &self,
        cgroup: CgroupId,
        what: Option<Anchor>,
    ) -> Result<usize, RuleError> {
        if self.attachments.is_empty() {
            return Err(RuleError::NothingAttached { cgroup });
        }
        match (self.mode, what) {
            (Mode::Multi, None) => Err(RuleError::DetachUnnamed { cgroup }),
            // There is only one: the kernel does not look at which program was named, old callers
            // named none. An id names exactly that attachment, as a link does.
            (Mode::None | Mode::Override, None | Some(Anchor::Program(_))) => Ok(0),
            (_, Some(anchor)) => anchor
                .position(&self.attachments)
                .ok_or(RuleError::NotOnList {
                    role: Role::Detached,
                    anchor,
                    cgroup,
                }),
        }
    }

    /// Takes away the attachment at `index`, which [`Self::find_detached`] found.
    pub(super) fn take(&mut self, index: usize) -> Attachment {
        let gone = self.attachments.remove(index);
        self.revision += 1;
        if self.attachments.is_empty() {
            self.mode = Mode::None;
        }
        gone
    }

    /// Gives the attachment at `index` another program in the same place (S20); returns the
    /// program it had.
    pub(super) fn set_program(&mut self, index: usize, new: ProgramId) -> ProgramId {
        self.revision += 1;
        std::mem::replace(&mut self.attachments[index].program, new)
    }
}
