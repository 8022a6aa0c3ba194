//! What is recorded of limits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::birth;
use super::controller::Controller;
use crate::budget::denial::SIGNAL;
use crate::budget::words::{NAMED, flag};
use crate::hook::HookSpec;
use crate::id::{AttachmentId, CgroupId, InstanceId, LimitId};
use crate::meter::record::MeterRecord;
use crate::meter::source::Source;
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
    /// The kernel counts and holds it, in files of the cgroup.
    Kernel,
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
    /// What a controller's file said and says, where one holds it.
    pub held: Option<Held>,
}

/// What is in a controller's file, as it is written there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Before the limit was set: it is put back when the limit goes.
    pub before: String,
    /// Since the limit was set, as long as nobody else writes there.
    pub says: String,
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

impl Group {
    /// The hooks where it is charged or held, each once.
    #[must_use]
    pub fn hooks(&self) -> BTreeSet<&HookSpec> {
        let charging = self.charger.iter().flat_map(|charger| &charger.programs);
        let gates = self.gates.iter().map(|gate| &gate.hook);
        gates.chain(charging.map(|(hook, _)| hook)).collect()
    }
}

/// Programs that charge budgets after the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charger {
    /// Their instance.
    pub instance: InstanceId,
    /// Their hooks, and whether they have to see the events of all cgroups.
    pub programs: Vec<(HookSpec, bool)>,
    /// What is read instead of counted; none of these programs charges it.
    pub reads: Option<Reads>,
}

/// What budgets are charged with that is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// The meter that is read.
    pub meter: MeterRecord,
    /// Where it is read.
    pub source: Source,
    /// Which of its values is limited.
    pub value: usize,
    /// Labels that are charged: number of the word, and what stands there.
    pub only: Vec<(usize, u64)>,
}

/// A limit of each cgroup that a pattern matches when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatternRecord {
    /// Its number, never given twice.
    pub number: u32,
    /// The pattern as it is written.
    pub pattern: String,
    /// The cgroup below which it is looked for.
    pub anchor: CgroupId,
    /// Its components below that.
    pub components: Vec<String>,
    /// Number of what is limited, in [`Limits::groups`].
    pub group: u32,
    /// How much.
    pub amount: u64,
    /// Each so many nanoseconds; none for in all.
    pub period_ns: Option<u64>,
    /// How much may gather while nobody uses it.
    pub burst: u64,
    /// What happens then.
    pub action: Action,
    /// Only while others of the same parent want their share.
    pub borrow: bool,
    /// Index of the budget that those share that find no place.
    pub shared: u32,
}

/// The programs that give cgroups budgets as they are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BirthRecord {
    /// Their instance.
    pub instance: InstanceId,
    /// What their code was made of.
    pub plan: birth::Plan,
}

/// The program that settles reservations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettlerRecord {
    /// Its instance.
    pub instance: InstanceId,
    /// The programs that charge what is reserved.
    pub chargers: Vec<InstanceId>,
}

/// A gate as it is had on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateChoice {
    /// Its hook, by which the way is known again.
    pub hook: HookSpec,
    /// Which of the value's gates that the meter's file has.
    pub gate: usize,
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
    /// They are found from the event's cgroup up instead: a pattern gives some as cgroups are made.
    pub is_found: bool,
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
    /// Limits of what is made later, in the order in which they are tried.
    pub patterns: Vec<PatternRecord>,
    /// Number of the last pattern.
    pub last_pattern: u32,
    /// The programs that give places out and take them back.
    pub births: Option<BirthRecord>,
    /// The program that settles reservations at the end of a system call.
    pub settler: Option<SettlerRecord>,
    /// Births that have become limits.
    pub births_seen: u64,
    /// What files of controllers said before the change that is under way.
    pub files: Vec<(PathBuf, String)>,
}

impl Action {
    /// What becomes of an event that a budget refuses, see
    /// [`VERDICT_SHIFT`](crate::budget::words::VERDICT_SHIFT).
    #[must_use]
    pub fn verdict(self) -> i32 {
        match self {
            Self::Deny(errno) => errno,
            Self::Signal(signal) => SIGNAL + signal,
            Self::Freeze | Self::Controller(_) | Self::Observe => 0,
        }
    }

    /// The flags of a budget that is charged in this way.
    #[must_use]
    pub fn flags(self, way: Way) -> u64 {
        if self == Self::Observe && way == Way::After {
            flag::OBSERVE
        } else {
            0
        }
    }
}

impl Group {
    /// What usage calls the value.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}_{}", self.meter, self.value)
    }

    /// What is read of it, if it is not counted.
    #[must_use]
    pub fn reads(&self) -> Option<&Reads> {
        self.charger.as_ref()?.reads.as_ref()
    }
}

impl Limits {
    /// There is none, and none that is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty() && self.patterns.is_empty()
    }

    /// Places may be given out, or have to come back.
    #[must_use]
    pub fn has_places(&self) -> bool {
        !self.patterns.is_empty() || self.limits.values().any(|l| l.slot as usize >= NAMED)
    }

    /// What is expected of a group's events is reserved before they happen. That stays so while the
    /// group is there: what is reserved has to be given back whatever its limits do by then.
    #[must_use]
    pub fn is_reserved(&self, number: u32) -> bool {
        let group = self.groups.get(&number);
        group.is_some_and(|g| {
            let is_gauge = g.form == Form::Gauge && g.way == Way::After;
            is_gauge && !g.gates.is_empty() && g.reads().is_none()
        })
    }

    /// The programs that charge what is reserved.
    #[must_use]
    pub fn reserving(&self) -> Vec<InstanceId> {
        let all = self.groups.iter().filter(|(n, _)| self.is_reserved(**n));
        all.filter_map(|(_, g)| Some(g.charger.as_ref()?.instance))
            .collect()
    }

    /// The numbers of what patterns limit.
    #[must_use]
    pub fn found_groups(&self) -> BTreeSet<u32> {
        self.patterns.iter().map(|p| p.group).collect()
    }

    /// The number of a group, new if there was none like it.
    pub fn number_of(&mut self, group: Group) -> u32 {
        let is_same = |g: &Group| {
            (&g.text, &g.value, &g.labels, g.way)
                == (&group.text, &group.value, &group.labels, group.way)
        };
        let mut all = self.groups.iter_mut();
        if let Some((number, known)) = all.find(|(_, g)| is_same(g)) {
            if known.gates.is_empty() {
                known.gates = group.gates;
            }
            return *number;
        }
        let number = self.next_group;
        self.next_group += 1;
        self.groups.insert(number, group);
        number
    }

    /// A budget that no limit has, nor had in `before`: programs that still run may charge that.
    #[must_use]
    pub fn free_slot(&self, before: &Self) -> Option<u32> {
        let used: BTreeSet<u32> = self.slots().chain(before.slots()).collect();
        (0..NAMED as u32).find(|slot| !used.contains(slot))
    }

    /// The indices of all budgets that limits have, and those that are shared.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        let shared = self.patterns.iter().map(|p| p.shared);
        self.limits.values().map(|l| l.slot).chain(shared)
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
        let births = self.births.iter().map(|b| b.instance);
        let settler = self.settler.iter().map(|s| s.instance);
        let mut all = chargers.map(|c| c.instance).chain(births).chain(settler);
        all.any(|i| i == instance)
    }

    /// Forgets the limits of a cgroup that is gone, and its gates.
    pub fn forget_cgroup(&mut self, cgroup: CgroupId) {
        self.limits.retain(|_, l| l.cgroup != cgroup);
        self.gates.retain(|g| g.cgroup != cgroup);
        self.patterns.retain(|p| p.anchor != cgroup);
    }

    /// Forgets groups that limit nothing any more; the instances that charged them.
    pub fn forget_groups(&mut self) -> Vec<InstanceId> {
        let found = self.found_groups();
        let used: BTreeSet<u32> = self.limits.values().map(|l| l.group).chain(found).collect();
        let is_used = |id: &u32| used.contains(id);
        let gone = self.groups.iter().filter(|(id, _)| !is_used(id));
        let instances = gone.filter_map(|(_, g)| g.charger.as_ref().map(|c| c.instance));
        let instances = instances.collect();
        self.groups.retain(|id, _| is_used(id));
        instances
    }
}
