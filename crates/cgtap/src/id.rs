//! The identities that the rest of the crate speaks of.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// The kernel's 64-bit id of a cgroup (`kernfs_node.id`, what `bpf_get_current_cgroup_id()`
    /// returns). Never given to another cgroup while the machine runs.
    CgroupId,
    u64
);
id!(
    /// One attachment: a program on a list of a cgroup and hook. Never given twice in one state.
    AttachmentId,
    u32
);
id!(
    /// One loading of an object; its programs share its maps. Never given twice in one state.
    InstanceId,
    u32
);
id!(
    /// One limit. Never given twice in one state.
    LimitId,
    u32
);

/// A loaded program: instance and its place in the object. What the kernel would know by one
/// program descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProgramId {
    /// The instance it belongs to.
    pub instance: InstanceId,
    /// Its index among the programs of the instance.
    pub index: u32,
}
