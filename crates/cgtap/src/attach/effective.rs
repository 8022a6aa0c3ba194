//! What runs for an event of a cgroup, and in which order (S11, S12). `compute_effective_progs()`
//! in the kernel, which keeps an array for every cgroup; here it is worked out when asked.

use serde::{Deserialize, Serialize};

use super::attachment::Attachment;
use super::hierarchy::{Hierarchy, path_to_root};
use super::list::List;
use super::lists::Lists;
use super::mode::Mode;
use crate::id::CgroupId;

/// An attachment that runs, with the cgroup to which it is attached: its storage is that
/// cgroup's, not the event's (S23).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveEntry {
    /// Where it is attached.
    pub cgroup: CgroupId,
    /// What is attached.
    pub attachment: Attachment,
}

impl Lists {
    /// What runs for an event of `cgroup`, in order; of any cgroup, whether or not it has a list.
    #[must_use]
    pub fn effective<H>(&self, hierarchy: &H, cgroup: CgroupId) -> Vec<EffectiveEntry>
    where
        H: Hierarchy + ?Sized,
    {
        let counting = self.counting(hierarchy, cgroup);
        let class = |(cgroup, list): (CgroupId, &List), preorder: bool| -> Vec<EffectiveEntry> {
            list.of_class(preorder)
                .map(|&attachment| EffectiveEntry { cgroup, attachment })
                .collect()
        };
        // S12: preorder from the root down, then the others from the cgroup up. Within one list
        // the list's own order holds for both.
        let down = counting.iter().rev().flat_map(|&level| class(level, true));
        let up = counting.iter().flat_map(|&level| class(level, false));
        down.chain(up).collect()
    }

    /// The lists that count for `cgroup`, the nearest first (S11): the nearest one whatever its
    /// mode, for it is what an override overrides with; those further up only in mode `multi`.
    fn counting<H>(&self, hierarchy: &H, cgroup: CgroupId) -> Vec<(CgroupId, &List)>
    where
        H: Hierarchy + ?Sized,
    {
        let mut counting = Vec::new();
        for level in path_to_root(hierarchy, cgroup) {
            if let Some(list) = self.own(level)
                && (counting.is_empty() || list.mode == Mode::Multi)
            {
                counting.push((level, list));
            }
        }
        counting
    }
}
