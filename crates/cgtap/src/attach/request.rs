//! What is asked of an attach (S19, and what S17 can say without knowing the list).

use super::attachment::{Anchor, Attachment};
use super::error::RuleError;
use super::flags::Flags;
use super::mode::Mode;
use crate::id::{AttachmentId, CgroupId, ProgramId};

/// Where a new attachment is to stand on the list (S16). What makes no sense can be said too, so
/// that the rules, and not whoever reads the words, refuse it in the kernel's order (S17).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Behind all others.
    #[default]
    Append,
    /// Directly before the relative; without one, before all.
    Before(Option<Anchor>),
    /// Directly after the relative; without one, behind all.
    After(Option<Anchor>),
    /// Both words at once: "this is to be the only one". Only an empty list and no relative can
    /// grant that.
    BeforeAndAfter(Option<Anchor>),
    /// A relative, and neither word: never granted.
    Beside(Anchor),
}

impl Place {
    /// The place that `BPF_F_BEFORE`, `BPF_F_AFTER` and a relative ask for.
    #[must_use]
    pub fn from_flags(before: bool, after: bool, relative: Option<Anchor>) -> Self {
        match (before, after, relative) {
            (true, true, _) => Self::BeforeAndAfter(relative),
            (true, false, _) => Self::Before(relative),
            (false, true, _) => Self::After(relative),
            (false, false, Some(anchor)) => Self::Beside(anchor),
            (false, false, None) => Self::Append,
        }
    }

    /// Does it say `before` or `after`?
    pub(super) fn has_direction(self) -> bool {
        !matches!(self, Self::Append | Self::Beside(_))
    }
}

/// One attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// To which cgroup.
    pub cgroup: CgroupId,
    /// What.
    pub program: ProgramId,
    /// A fresh id for the new attachment.
    pub id: AttachmentId,
    /// The mode of the list, which the first attachment sets and the others must repeat (S3).
    pub mode: Mode,
    /// Whether it runs before everything that is not preorder (S12).
    pub preorder: bool,
    /// What `bpf_get_attach_cookie()` will return (S28).
    pub cookie: u64,
    /// Where on the list (S16). Not looked at where the new attachment takes the place of an old
    /// one in mode `none` or `override` (S5), as in the kernel.
    pub place: Place,
    /// Take the place of this one (S9).
    pub replace: Option<Anchor>,
    /// Only if the list is at this revision (S18).
    pub expect_revision: Option<u64>,
}

impl AttachRequest {
    /// A request to append, without options.
    #[must_use]
    pub fn new(cgroup: CgroupId, program: ProgramId, id: AttachmentId, mode: Mode) -> Self {
        Self {
            cgroup,
            program,
            id,
            mode,
            preorder: false,
            cookie: 0,
            place: Place::Append,
            replace: None,
            expect_revision: None,
        }
    }

    /// A request for a link (S19): `BPF_LINK_CREATE` takes no mode, it always means `multi`. So
    /// links stand beside multi attachments, and never beside exclusive ones (S3).
    #[must_use]
    pub fn link(cgroup: CgroupId, program: ProgramId, id: AttachmentId) -> Self {
        Self::new(cgroup, program, id, Mode::Multi)
    }

    /// What can be refused without knowing any list.
    pub(super) fn check(&self) -> Result<(), RuleError> {
        Flags::for_mode(self.mode, self.replace.is_some()).mode()?;
        // S17. A relative alone is no contradiction to the kernel: nobody looks at it.
        if self.replace.is_some() && self.place.has_direction() {
            return Err(RuleError::ReplaceWithPlace);
        }
        Ok(())
    }

    /// What will stand on the list.
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            id: self.id,
            program: self.program,
            preorder: self.preorder,
            cookie: self.cookie,
        }
    }
}
