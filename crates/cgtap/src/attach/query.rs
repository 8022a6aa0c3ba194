//! Reading a list or an effective array (S22). `__cgroup_bpf_query()` in the kernel.

use super::effective::EffectiveEntry;
use super::error::RuleError;
use super::hierarchy::Hierarchy;
use super::lists::Lists;
use super::mode::Mode;
use crate::id::CgroupId;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Array {
    /// The cgroup's own list, in the order of the list.
    Own,
    /// What runs for the cgroup, in the order in which it runs (`BPF_F_QUERY_EFFECTIVE`).
    Effective,
}

/// What a query returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The mode of the cgroup's own list. `None` if that is empty, and for an effective array,
    /// which has members of many lists.
    pub mode: Option<Mode>,
    /// The revision of the cgroup's own list; `None` for an effective array, as above.
    pub revision: Option<u64>,
    /// How many there are, whether or not there was room for them.
    pub count: usize,
    /// The first of them, as many as there was room for.
    pub entries: Vec<EffectiveEntry>,
}

impl Answer {
    /// An effective array, at most `room` of it.
    #[must_use]
    pub fn effective(mut entries: Vec<EffectiveEntry>, room: usize) -> Self {
        let count = entries.len();
        entries.truncate(room);
        Self {
            mode: None,
            revision: None,
            count,
            entries,
        }
    }

    /// Whether all that was asked for has found room. Room for none asks only how many there are.
    ///
    /// # Errors
    /// S22, ENOSPC: the room was too short. `count` is true nevertheless, and `entries` filled.
    pub fn complete(&self) -> Result<(), RuleError> {
        let room = self.entries.len();
        if room > 0 && room < self.count {
            return Err(RuleError::NoRoom {
                room,
                count: self.count,
            });
        }
        Ok(())
    }
}

impl Lists {
    /// The own list or the effective array of `cgroup`, at most `room` of it.
    #[must_use]
    pub fn query<H>(&self, hierarchy: &H, cgroup: CgroupId, array: Array, room: usize) -> Answer
    where
        H: Hierarchy + ?Sized,
    {
        let own = self.own(cgroup);
        match array {
            Array::Own => {
                let attachments = own.map_or(&[][..], |list| &list.attachments);
                let entries = attachments
                    .iter()
                    .map(|&attachment| EffectiveEntry { cgroup, attachment });
                Answer {
                    mode: own.map(|list| list.mode),
                    revision: Some(self.revision(cgroup)),
                    ..Answer::effective(entries.collect(), room)
                }
            }
            Array::Effective => Answer::effective(self.effective(hierarchy, cgroup), room),
        }
    }
}
