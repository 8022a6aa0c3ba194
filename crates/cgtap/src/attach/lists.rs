//! All lists of a hook, and every change of them (S4, S10, S15, S20).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attachment::{Anchor, Attachment};
use super::error::RuleError;
use super::hierarchy::{Hierarchy, path_to_root};
use super::list::List;
use super::mode::Mode;
use super::request::AttachRequest;
use crate::id::{AttachmentId, CgroupId, ProgramId};

/// What is attached to one hook, all over the cgroup tree.
///
/// Every change is granted whole or refused with nothing changed (S10).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lists {
    /// A list stays here when it empties, for its revision goes on while the cgroup lives (S18).
    lists: BTreeMap<CgroupId, List>,
}

/// A granted attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The new attachment.
    pub id: AttachmentId,
    /// The attachment whose place it took: named by `replace` (S9), or the only one of a list in
    /// mode `none` or `override` (S5).
    pub replaced: Option<Attachment>,
}

/// A granted update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updated {
    /// The cgroup on whose list the attachment stands.
    pub cgroup: CgroupId,
    /// The program that it ran until now.
    pub old: ProgramId,
}

impl Lists {
    /// No attachment anywhere.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches. The checks stand in the kernel's order (`__cgroup_bpf_attach()`), which shows
    /// where a call breaks two rules.
    ///
    /// # Errors
    /// S2, S3, S4, S6, S7, S9, S17, S18, as [`RuleError`] tells. Nothing has changed then.
    pub fn attach<H>(
        &mut self,
        hierarchy: &H,
        request: AttachRequest,
    ) -> Result<Attached, RuleError>
    where
        H: Hierarchy + ?Sized,
    {
        let cgroup = request.cgroup;
        request.check()?;
        // A new list comes to stay only below, when nothing can refuse any more.
        let fresh = List::default();
        let list = self.lists.get(&cgroup).unwrap_or(&fresh);
        list.check_revision(cgroup, request.expect_revision)?;
        self.check_ancestors(hierarchy, cgroup)?;
        self.check_fresh(request.id)?;
        let slot = list.slot_for(&request)?;

        let replaced = self.lists.entry(cgroup).or_default().put(&request, slot);
        Ok(Attached {
            id: request.id,
            replaced,
        })
    }

    /// S4: the nearest ancestor with anything attached decides, and only an exclusive one
    /// forbids. What stands above that one is not asked, even if it is exclusive.
    fn check_ancestors<H>(&self, hierarchy: &H, cgroup: CgroupId) -> Result<(), RuleError>
    where
        H: Hierarchy + ?Sized,
    {
        let nearest = path_to_root(hierarchy, cgroup)
            .skip(1)
            .find_map(|ancestor| Some((ancestor, self.own(ancestor)?)));
        match nearest {
            Some((ancestor, list)) if list.mode == Mode::None => {
                Err(RuleError::AncestorExclusive { ancestor })
            }
            _ => Ok(()),
        }
    }

    /// S6 for the attachment itself: the kernel refuses to attach one link twice.
    fn check_fresh(&self, id: AttachmentId) -> Result<(), RuleError> {
        match self.find(id) {
            Some((cgroup, _)) => Err(RuleError::IdTaken { id, cgroup }),
            None => Ok(()),
        }
    }

    /// Detaches from `cgroup` what `what` names; nothing has to be named where there can be only
    /// one (S8). With the last attachment the mode goes too (S1).
    ///
    /// # Errors
    /// S8 EINVAL if nothing is named in mode `multi`, ENOENT if it is not attached there; S18
    /// ESTALE. Nothing has changed then.
    pub fn detach(
        &mut self,
        cgroup: CgroupId,
        what: Option<Anchor>,
        expect_revision: Option<u64>,
    ) -> Result<Attachment, RuleError> {
        let mut fresh = List::default();
        let list = self.lists.get_mut(&cgroup).unwrap_or(&mut fresh);
        list.check_revision(cgroup, expect_revision)?;
        let index = list.find_detached(cgroup, what)?;
        Ok(list.take(index))
    }

    /// Gives attachment `id` the program `new`: same place, same id, same cookie (S20). With
    /// `expect_old` only if that is what it runs now.
    ///
    /// As with the kernel's links, S6 is not asked: the new program may run elsewhere on the list.
    ///
    /// # Errors
    /// S20: EPERM if it runs another program than `expect_old`; ENOLINK if it is on no list, as
    /// its cgroup is gone or it was detached. An id that was never given looks the same from
    /// here: who hands out the ids can say ENOENT.
    pub fn update(
        &mut self,
        id: AttachmentId,
        new: ProgramId,
        expect_old: Option<ProgramId>,
    ) -> Result<Updated, RuleError> {
        let (cgroup, index, list) = self
            .lists
            .iter_mut()
            .find_map(|(&cgroup, list)| {
                let index = Anchor::Id(id).position(&list.attachments)?;
                Some((cgroup, index, list))
            })
            .ok_or(RuleError::Gone { id })?;
        let actual = list.attachments[index].program;
        match expect_old {
            Some(expected) if expected != actual => Err(RuleError::ProgramDiffers {
                id,
                expected,
                actual,
            }),
            _ => Ok(Updated {
                cgroup,
                old: list.set_program(index, new),
            }),
        }
    }

    /// Forgets a cgroup that was removed (S15); returns what was attached to it, in order. Its
    /// id is never another cgroup's, so nothing is kept, not even the revision.
    pub fn remove_cgroup(&mut self, cgroup: CgroupId) -> Vec<Attachment> {
        self.lists
            .remove(&cgroup)
            .map(|list| list.attachments)
            .unwrap_or_default()
    }

    /// The list of `cgroup`, if anything is attached to it.
    #[must_use]
    pub fn own(&self, cgroup: CgroupId) -> Option<&List> {
        self.lists
            .get(&cgroup)
            .filter(|list| !list.attachments.is_empty())
    }

    /// The revision of the list of `cgroup`: 1 for one that never had an attachment (S18).
    #[must_use]
    pub fn revision(&self, cgroup: CgroupId) -> u64 {
        match self.lists.get(&cgroup) {
            Some(list) => list.revision,
            None => List::default().revision,
        }
    }

    /// The cgroups to which anything is attached, by id.
    pub fn configured(&self) -> impl Iterator<Item = CgroupId> {
        self.lists
            .iter()
            .filter(|(_, list)| !list.attachments.is_empty())
            .map(|(&cgroup, _)| cgroup)
    }

    /// The cgroups of which anything is remembered, those with an emptied list too. The cgroups
    /// to look after for removal (S15).
    pub fn known(&self) -> impl Iterator<Item = CgroupId> {
        self.lists.keys().copied()
    }

    /// Every attachment, with the cgroup on whose list it stands.
    pub fn attachments(&self) -> impl Iterator<Item = (CgroupId, &Attachment)> {
        self.lists
            .iter()
            .flat_map(|(&cgroup, list)| list.attachments.iter().map(move |a| (cgroup, a)))
    }

    /// The attachment `id`, with the cgroup on whose list it stands.
    #[must_use]
    pub fn find(&self, id: AttachmentId) -> Option<(CgroupId, &Attachment)> {
        self.attachments().find(|(_, a)| a.id == id)
    }
}
