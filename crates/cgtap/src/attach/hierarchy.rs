//! What the rules have to know of the cgroup tree.

use std::iter::successors;

use crate::id::CgroupId;

/// The cgroup tree. It must be one: a circle would make every walk endless.
pub trait Hierarchy {
    /// The parent of `cgroup`; none for the root.
    fn parent(&self, cgroup: CgroupId) -> Option<CgroupId>;
}

/// `cgroup` itself, its parent, and so on up to the root.
pub fn path_to_root<H>(hierarchy: &H, cgroup: CgroupId) -> impl Iterator<Item = CgroupId>
where
    H: Hierarchy + ?Sized,
{
    successors(Some(cgroup), |&below| hierarchy.parent(below))
}
