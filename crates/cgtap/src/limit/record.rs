//! What is recorded of limits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::controller::Controller;
use crate::hook::HookSpec;
use crate::id::{AttachmentId, CgroupId, InstanceId, LimitId};
use crate::meter::usage::{Form, Unit};

/// What happens where a limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// What would go beyond it fails with this errno.
    Deny(i32),
    /// Whoever goes on gets this signal at the next system call.
    Signal(i32),
    /// The cgroup is frozen until there is something left: `cgtap enforce` does it.
    Freeze,
    /// A controller of the kernel's holds it.
    Controller(Controller),
    /// It is written down, and nothing else.
    Observe,
}

/// Where a value is charged to budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// At the gate, before it happens: what is asked is known there.
    Before,
    /// Where the meter counts it: after it happened.
    After,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRecord {
    /// Of which cgroup.
    pub cgroup: CgroupId,
    /// Number of what is limited, in [`Limits::groups`].
    pub group: u32,
    /// How much.
    pub amount: u64,
    /// Each so many nanoseconds; none for in all.
    pub period_ns: Option<u64>,
    /// How much may gather while nobody uses it; with a period only.
    pub burst: u64,
    /// What happens then.
    pub action: Action,
    /// Only while others of the same parent want their share.
    pub borrow: bool,
    /// A policy set it.
    pub policy: bool,
    /// Index of its budget.
    pub slot: u32,
}

/// What is limited: a value of a meter, of events with certain labels, charged in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Where the meter's file is from, for messages.
    pub path: String,
    /// The meter's file.
    pub text: String,
    /// Name of the meter.
    pub meter: String,
    /// Name of the value, without the meter's.
    pub value: String,
    /// What it is of.
    pub unit: Unit,
    /// What is done with what is measured.
    pub form: Form,
    /// Labels that events must have, and what they must be.
    pub labels: BTreeMap<String, String>,
    /// How it is charged.
    pub way: Way,
    /// The programs that charge it, where the meter counts.
    pub charger: Option<Charger>,
    /// The gates that hold it on this kernel.
    pub gates: Vec<GateChoice>,
}

/// Programs that charge budgets after the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charger {
    /// Their instance.
    pub instance: InstanceId,
    /// Their hooks, and whether they have to see the events of all cgroups.
    pub programs: Vec<(HookSpec, bool)>,
}

/// A gate as it is had on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateChoice {
    /// Its hook.
    pub hook: HookSpec,
    /// Which of the ways that the meter's file has.
    pub choice: usize,
}

/// A gate that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRecord {
    /// Where.
    pub hook: HookSpec,
    /// Of which cgroup, and of those below it that have none of their own.
    pub cgroup: CgroupId,
    /// Its attachment.
    pub attachment: AttachmentId,
    /// What its code was made of.
    pub parts: Vec<PartRecord>,
}

/// What a gate asks for one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// The group.
    pub group: u32,
    /// Which of its gates; none for the one of signals.
    pub gate: Option<usize>,
    /// Budgets, nearest first: index, whether it is a bucket, verdict.
    pub claims: Vec<(u32, bool, i32)>,
}

/// All limits of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Next number of a group.
    pub next_group: u32,
    /// Number of the last limit that was set.
    pub last_limit: u32,
    /// The limits.
    pub limits: BTreeMap<LimitId, LimitRecord>,
    /// What is limited.
    pub groups: BTreeMap<u32, Group>,
    /// The gates that stand.
    pub gates: Vec<GateRecord>,
}

impl Group {
    /// What usage calls the value.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}_{}", self.meter, self.value)
    }
}

impl Limits {
    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// A budget that no limit has, nor had in `before`: programs that still run may charge that.
    #[must_use]
    pub fn free_slot(&self, before: &Self) -> Option<u32> {
        let all = self.limits.values().chain(before.limits.values());
        let used: std::collections::BTreeSet<u32> = all.map(|l| l.slot).collect();
        (0..crate::budget::words::BUDGETS as u32).find(|slot| !used.contains(slot))
    }

    /// The limits of a group at a cgroup.
    pub fn at(&self, group: u32, cgroup: CgroupId) -> Option<(LimitId, &LimitRecord)> {
        let mut all = self.limits.iter();
        all.find(|(_, l)| l.group == group && l.cgroup == cgroup)
            .map(|(id, l)| (*id, l))
    }

    /// Whether an attachment belongs to limits, not to a user.
    #[must_use]
    pub fn is_gate(&self, attachment: AttachmentId) -> bool {
        self.gates.iter().any(|g| g.attachment == attachment)
    }

    /// Whether an instance belongs to limits, not to a user.
    #[must_use]
    pub fn is_charger(&self, instance: InstanceId) -> bool {
        let chargers = self.groups.values().filter_map(|g| g.charger.as_ref());
        chargers.into_iter().any(|c| c.instance == instance)
    }

    /// Forgets the limits of a cgroup that is gone, and its gates.
    pub fn forget_cgroup(&mut self, cgroup: CgroupId) {
        self.limits.retain(|_, l| l.cgroup != cgroup);
        self.gates.retain(|g| g.cgroup != cgroup);
    }

    /// Forgets groups that limit nothing any more; the instances that charged them.
    pub fn forget_groups(&mut self) -> Vec<InstanceId> {
        let limits = &self.limits;
        let is_used = |id: &u32| limits.values().any(|l| l.group == *id);
        let gone = self.groups.iter().filter(|(id, _)| !is_used(id));
        let instances = gone.filter_map(|(_, g)| g.charger.as_ref().map(|c| c.instance));
        let instances = instances.collect();
        self.groups.retain(|id, _| is_used(id));
        instances
    }
}
