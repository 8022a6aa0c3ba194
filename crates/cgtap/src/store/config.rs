//! What is recorded: the lists of every hook, the instances, and which set serves which cgroup.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attach::{self, Lists};
use crate::dispatch::bounds::Verdict;
use crate::hook::HookSpec;
use crate::id::{AttachmentId, CgroupId, InstanceId, ProgramId};
use crate::kernel::layout::Layout;
use crate::kernel::place::Place;
use crate::kernel::scope::ScopeInfo;
use crate::kernel::target::{Target, TargetInfo};
use crate::limit::record::Limits;
use crate::meter::record::MeterRecord;

/// Identity of a hook in a state; its directory's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HookId(pub u32);

/// The whole record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Boot that it belongs to: bpffs does not outlive one, but a copied record would.
    pub boot_id: String,
    /// Next id to give, of each kind.
    pub next: NextIds,
    /// Deaths of cgroups that have been dealt with.
    pub deaths_seen: u64,
    /// This kernel's layout.
    pub layout: Layout,
    /// `current` is found by the table that is pinned.
    pub current_table: bool,
    /// Configured cgroups and their ancestors.
    pub cgroups: BTreeMap<CgroupId, CgroupRecord>,
    /// Loaded objects.
    pub instances: BTreeMap<InstanceId, InstanceRecord>,
    /// Hooks with lists.
    pub hooks: BTreeMap<HookId, HookRecord>,
    /// Attachments that go with a process.
    pub owners: BTreeMap<AttachmentId, Owner>,
    /// What cgroups may use.
    pub limits: Limits,
}

/// Ids are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextIds {
    /// Attachments.
    pub attachment: u32,
    /// Instances.
    pub instance: u32,
    /// Hooks.
    pub hook: u32,
    /// Sets.
    pub set: u32,
}

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRecord {
    /// Path below the root, with a leading slash.
    pub path: String,
    /// Its parent; none for the root.
    pub parent: Option<CgroupId>,
}

/// A loaded object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Path as it was given.
    pub object: String,
    /// Its programs.
    pub programs: Vec<ProgramRecord>,
    /// Its maps.
    pub maps: Vec<MapRecord>,
    /// What it counts, if it is a meter.
    pub meter: Option<MeterRecord>,
}

/// A program of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramRecord {
    /// Name of the function.
    pub name: String,
    /// Section as in the object.
    pub section: String,
    /// What the kernel said of it at each hook where it was tried, whatever the scope.
    pub verdicts: Vec<(HookSpec, Verdict)>,
}

/// A map of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRecord {
    /// Name as in the object.
    pub name: String,
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Name of its pin; none for cgroup storage.
    pub pin: Option<String>,
    /// For cgroup storage, what it is.
    pub storage: Option<StorageRecord>,
}

/// A cgroup storage map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageRecord {
    /// One value a CPU.
    pub per_cpu: bool,
    /// Hooks do not share.
    pub per_hook: bool,
    /// Size of a value in bytes.
    pub value_size: u32,
}

/// A hook with lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookRecord {
    /// Which.
    pub spec: HookSpec,
    /// What this kernel calls it.
    pub target: TargetInfo,
    /// How the cgroup of its events is found.
    pub scope: ScopeInfo,
    /// Its sets take turns by links of their own, since the kernel attaches nothing there that jumps.
    pub turns: bool,
    /// The lists of all its cgroups.
    pub lists: Lists,
    /// The set that serves each configured cgroup.
    pub sets: BTreeMap<CgroupId, SetRecord>,
    /// Sets that serve no cgroup any more and whose counts are still to be taken over.
    pub retired: Vec<SetRecord>,
    /// Runs of each attachment in sets that are gone.
    pub counted: BTreeMap<AttachmentId, u64>,
}

/// A set that is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRecord {
    /// Its number, which names its counter's pin.
    pub serial: u32,
    /// Index of its first segment.
    pub head: u16,
    /// Indices of all its segments.
    pub indices: Vec<u16>,
    /// Its members, in order.
    pub members: Vec<MemberRecord>,
}

/// A member of a set: all that its code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its program.
    pub program: ProgramId,
    /// Its cookie.
    pub cookie: u64,
    /// The cgroup it is attached to.
    pub cgroup: CgroupId,
    /// The gate of the process it goes with.
    pub gate: Option<u16>,
}

/// The process that an attachment goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its pid.
    pub pid: u32,
    /// Its start, in clock ticks since boot: with the pid it is never another process.
    pub start_ticks: u64,
    /// Its gate: the word that its end sets.
    pub gate: u16,
}

impl HookRecord {
    /// A hook that nothing is attached to yet.
    #[must_use]
    pub fn new(spec: HookSpec, target: TargetInfo, scope: ScopeInfo, turns: bool) -> Self {
        Self {
            spec,
            target,
            scope,
            turns,
            lists: Lists::new(),
            sets: BTreeMap::new(),
            retired: Vec::new(),
            counted: BTreeMap::new(),
        }
    }

    /// It has something in the kernel: attachments, or sets that are not cleared away yet.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.lists.configured().next().is_some() || !self.retired.is_empty()
    }

    /// What its programs are tried at and its dispatcher is attached to.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        Target {
            spec: &self.spec,
            info: &self.target,
        }
    }

    /// Its last place, if it stands at a path where none of the files is any more that it stands in.
    #[must_use]
    pub fn left_behind(&self) -> Option<&Place> {
        let places = &self.target.places;
        let is_left = self.spec.mapped().is_none() && !places.iter().any(Place::is_there);
        places.last().filter(|_| is_left)
    }

    /// The files that it follows, if it does that.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let places = self.target.places.iter();
        let places = places.filter(|_| self.spec.mapped().is_some());
        places.map(|place| place.path.clone()).collect()
    }

    /// The numbers of the links that its dispatcher is attached by.
    #[must_use]
    pub fn links(&self) -> Vec<u32> {
        let places = &self.target.places;
        match places.is_empty() {
            false => places.iter().map(|place| place.number).collect(),
            true => (0..self.target.cpus.len().max(1) as u32).collect(),
        }
    }

    /// The sets that have a place in the kernel.
    pub fn all_sets(&self) -> impl Iterator<Item = &SetRecord> {
        self.sets.values().chain(&self.retired)
    }
}

impl attach::Hierarchy for BTreeMap<CgroupId, CgroupRecord> {
    fn parent(&self, cgroup: CgroupId) -> Option<CgroupId> {
        self.get(&cgroup)?.parent
    }
}

impl Config {
    /// The hook that is written so, if it has lists.
    #[must_use]
    pub fn hook(&self, spec: &HookSpec) -> Option<(HookId, &HookRecord)> {
        self.hooks
            .iter()
            .find(|(_, h)| h.spec == *spec)
            .map(|(id, h)| (*id, h))
    }

    /// Where an attachment is.
    #[must_use]
    pub fn find(&self, id: AttachmentId) -> Option<(HookId, CgroupId, &attach::Attachment)> {
        self.hooks.iter().find_map(|(hook, record)| {
            record
                .lists
                .find(id)
                .map(|(cgroup, attachment)| (*hook, cgroup, attachment))
        })
    }

    /// Path of a cgroup, or `id:N` for one that is not recorded.
    #[must_use]
    pub fn path(&self, id: CgroupId) -> String {
        self.cgroups
            .get(&id)
            .map_or_else(|| format!("id:{id}"), |c| c.path.clone())
    }

    /// Name of a program, or its numbers.
    #[must_use]
    pub fn program_name(&self, id: ProgramId) -> String {
        self.instances
            .get(&id.instance)
            .and_then(|i| i.programs.get(id.index as usize))
            .map_or_else(
                || format!("{}.{}", id.instance, id.index),
                |p| p.name.clone(),
            )
    }

    /// Forgets what nothing refers to any more: hooks without attachments, instances without,
    /// cgroups that are no ancestor of a list.
    pub fn forget_unused(&mut self) {
        // A hook without attachments is remembered as long as one of its cgroups lives: their
        // revisions go on (S18).
        self.hooks
            .retain(|_, h| h.lists.known().next().is_some() || h.is_active());
        let used: std::collections::BTreeSet<InstanceId> = self
            .hooks
            .values()
            .flat_map(|h| h.lists.attachments().map(|(_, a)| a.program.instance))
            .collect();
        self.instances.retain(|id, _| used.contains(id));
        let ids: std::collections::BTreeSet<AttachmentId> = self
            .hooks
            .values()
            .flat_map(|h| h.lists.attachments().map(|(_, a)| a.id))
            .collect();
        self.owners.retain(|id, _| ids.contains(id));
        for hook in self.hooks.values_mut() {
            hook.counted.retain(|id, _| ids.contains(id));
        }
        let mut needed = std::collections::BTreeSet::new();
        for known in self.watched() {
            let mut up = Some(known);
            while let Some(id) = up.filter(|id| needed.insert(*id)) {
                up = self.cgroups.get(&id).and_then(|c| c.parent);
            }
        }
        self.cgroups.retain(|id, _| needed.contains(id));
    }

    /// What stands in a set for an attachment.
    #[must_use]
    pub fn member(&self, cgroup: CgroupId, attachment: &attach::Attachment) -> MemberRecord {
        MemberRecord {
            attachment: attachment.id,
            program: attachment.program,
            cookie: attachment.cookie,
            cgroup,
            gate: self.owners.get(&attachment.id).map(|o| o.gate),
        }
    }

    /// Every cgroup that a list is or was on, or that is limited: those whose end must be noticed.
    #[must_use]
    pub fn watched(&self) -> std::collections::BTreeSet<CgroupId> {
        self.hooks
            .values()
            .flat_map(|h| h.lists.known().collect::<Vec<_>>())
            .chain(self.limits.limits.values().map(|l| l.cgroup))
            .chain(self.limits.patterns.iter().map(|p| p.anchor))
            .collect()
    }

    /// Whether an attachment belongs to limits, not to a user.
    #[must_use]
    pub fn is_of_limits(&self, attachment: &attach::Attachment) -> bool {
        self.limits.is_gate(attachment.id) || self.limits.is_charger(attachment.program.instance)
    }

    /// What runs for a cgroup's events, in order. Of the gates of limits it is the nearest one alone:
    /// it asks the budgets of those above it too.
    #[must_use]
    pub fn effective(
        &self,
        hook: &HookRecord,
        hierarchy: &impl attach::Hierarchy,
        cgroup: CgroupId,
    ) -> Vec<attach::EffectiveEntry> {
        let mut entries = hook.lists.effective(hierarchy, cgroup);
        let mut has_gate = false;
        entries.retain(|e| {
            !self.limits.is_gate(e.attachment.id) || !std::mem::replace(&mut has_gate, true)
        });
        entries
    }
}
