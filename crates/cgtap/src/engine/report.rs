//! What the engine answers with: one definition for the library, the tables and JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::attach::Mode;
use crate::hook::HookSpec;
use crate::id::{AttachmentId, CgroupId, InstanceId};
pub use crate::kernel::feature::{Feature, FeatureState};
pub use crate::meter::usage::{Form, Histogram, Truth, Unit, UsageReport, UsageRow, UsageValue};

/// What an attach or a replace made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachReport {
    /// The instance whose programs were attached.
    pub instance: InstanceId,
    /// The attachments, in the order in which they were asked for.
    pub attachments: Vec<AttachedReport>,
}

/// One attachment that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachedReport {
    /// Its id.
    pub id: AttachmentId,
    /// Name of the program.
    pub program: String,
    /// Where it runs; in JSON its scope is a member of its own.
    #[serde(flatten, serialize_with = "hook_and_scope")]
    pub hook: HookSpec,
    /// Path of the cgroup below the cgroup root, with a leading slash.
    pub cgroup: String,
    /// Mode of the list it is on.
    pub mode: Mode,
}

/// What a detach removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DetachReport {
    /// The attachments that are gone.
    pub detached: Vec<AttachmentId>,
    /// The instances whose last attachment that was: their maps are unpinned.
    pub instances_unloaded: Vec<InstanceId>,
}

/// A list of a cgroup and hook, own or effective, in the order in which it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListReport {
    /// Path of the cgroup.
    pub cgroup: String,
    /// Its id.
    pub cgroup_id: CgroupId,
    /// The hook; in JSON its scope is a member of its own.
    #[serde(flatten, serialize_with = "hook_and_scope")]
    pub hook: HookSpec,
    /// The files that a hook at `*/FILE` stands in; what processes map later is added when usage is read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Mode of the cgroup's own list; `none` where it has none of its own.
    pub mode: Mode,
    /// Revision of the cgroup's own list.
    pub revision: u64,
    /// This is the effective array, not the own list.
    pub effective: bool,
    /// The attachments.
    pub attachments: Vec<AttachmentReport>,
    /// Events of the hook that ran no program because its dispatcher was already running on that
    /// CPU (`recursion_misses` of the kernel).
    pub recursion_misses: u64,
    /// Events of the hook that ran no program, or not all of them, for any other reason: a set
    /// that was not in its place, a cgroup too deep.
    pub lost: u64,
    /// Events of the hook that belonged to nobody by its scope, and so ran no program: a NULL on
    /// the way, a cgroup of another hierarchy, no note.
    pub unowned: u64,
    /// Notes for the hook's scope that could not be stored: a cgroup too deep, no room, a noter
    /// that was already running on that CPU.
    pub notes_lost: u64,
}

fn hook_and_scope<S: serde::Serializer>(hook: &HookSpec, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Both {
        hook: HookSpec,
        scope: String,
    }
    let both = Both {
        hook: hook.without_scope(),
        scope: hook.scope().to_string(),
    };
    both.serialize(to)
}

/// An attachment on a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachmentReport {
    /// Its id.
    pub id: AttachmentId,
    /// Name of the program.
    pub program: String,
    /// Its instance.
    pub instance: InstanceId,
    /// Path of the cgroup it is attached to; another than the list's in an effective array.
    pub cgroup: String,
    /// It runs before all others.
    pub preorder: bool,
    /// What `bpf_get_attach_cookie()` returns in it.
    pub cookie: u64,
    /// How often it has run since it was attached. Exact.
    pub run_count: u64,
    /// It goes with the process that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_pid: Option<u32>,
}

/// A cgroup in the tree, with what is effective there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TreeReport {
    /// Path of the cgroup.
    pub cgroup: String,
    /// Its id.
    pub cgroup_id: CgroupId,
    /// What runs for its events, hook by hook, in order.
    pub hooks: Vec<TreeHook>,
    /// Its children, by name.
    pub children: Vec<TreeReport>,
}

/// What runs at one hook for the events of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TreeHook {
    /// The hook; in JSON its scope is a member of its own.
    #[serde(flatten, serialize_with = "hook_and_scope")]
    pub hook: HookSpec,
    /// In the order in which they run.
    pub attachments: Vec<TreeAttachment>,
}

/// An attachment in the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TreeAttachment {
    /// Its id.
    pub id: AttachmentId,
    /// Name of the program.
    pub program: String,
    /// Path of the cgroup it is attached to.
    pub from: String,
    /// It comes from an ancestor.
    pub inherited: bool,
    /// How often it has run, everywhere it is effective.
    pub run_count: u64,
}

/// A loaded object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceReport {
    /// Its id.
    pub id: InstanceId,
    /// Path of the object as it was given.
    pub object: String,
    /// Its programs.
    pub programs: Vec<String>,
    /// Its maps.
    pub maps: Vec<MapReport>,
}

/// A map of a loaded object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapReport {
    /// Name as in the object.
    pub name: String,
    /// Type as bpftool names it.
    #[serde(rename = "type")]
    pub map_type: String,
    /// Where it is pinned; none for cgroup storage, which each attachment has its own of.
    pub pin: Option<PathBuf>,
}

/// The cgroup storage of one attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StorageReport {
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its storage, one entry a map of the object.
    pub maps: Vec<StorageMap>,
}

/// The value of one storage map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StorageMap {
    /// Name as in the object.
    pub name: String,
    /// The value, as bytes in hexadecimal; absent for per-CPU storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_hex: Option<String>,
    /// The values, one a CPU; absent for plain storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values_hex: Option<Vec<String>>,
}

/// What this kernel, this user and this machine can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// Release of the kernel.
    pub kernel: String,
    /// Each feature.
    pub features: Vec<Feature>,
    /// What is wrong with the state, in words; empty where it is whole or there is none.
    pub state_problems: Vec<String>,
    /// What a repair did; empty if none was asked for.
    pub repaired: Vec<String>,
}

/// What counting found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StatReport {
    /// How long it counted.
    pub seconds: f64,
    /// One row a cgroup that was asked for, or with `per_cgroup` one a cgroup below it.
    pub cgroups: Vec<StatRow>,
    /// Events that were not counted; of perf events, moments at which a counter could not be
    /// charged.
    pub lost: u64,
    /// Cgroups that found no row of their own for perf events and are counted in that of the one
    /// above; nothing is lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub merged: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Counts of one cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatRow {
    /// Path of the cgroup; `id:N` for one that is gone.
    pub cgroup: String,
    /// Its id.
    pub cgroup_id: CgroupId,
    /// One entry an event, in the order in which they were asked for.
    pub events: Vec<StatCount>,
}

/// One count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatCount {
    /// The event as it was written.
    pub event: String,
    /// Events of the cgroup and its descendants.
    pub count: u64,
    /// Events of the cgroup itself; only with `per_cgroup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<u64>,
    /// The same as `count`; only with `per_cgroup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Of an event with values: which of them, as it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Of an event with labels: what they were.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Of `hist()`: how many numbers were from 2^n up to 2^(n+1), n from 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<u64>,
    /// Of a perf event or a value: `count`, `bytes`, or `ns` for nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    /// The count is what it would have been with a counter of the CPU all the time: it had one for
    /// `running_ns` of `enabled_ns`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub estimate: bool,
    /// Of a hardware event: for how long it was to be counted, on all CPUs together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled_ns: Option<u64>,
    /// Of a hardware event: for how much of that it had a counter of the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_ns: Option<u64>,
}

/// A meter that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnabledMeter {
    /// Its name.
    pub name: String,
    /// Path of the cgroup where it is enabled.
    pub cgroup: String,
    /// The instance that its programs and maps are.
    pub instance: InstanceId,
    /// That cgroup is gone: nothing comes any more. What was counted is there until another meter of the
    /// name is enabled, or it is disabled.
    pub is_gone: bool,
}

/// A program of a meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeterCode {
    /// Its name.
    pub program: String,
    /// Where it runs; in JSON its scope is a member of its own.
    #[serde(flatten, serialize_with = "hook_and_scope")]
    pub hook: HookSpec,
    /// Its instructions, a line each.
    pub code: String,
}
