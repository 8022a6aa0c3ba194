//! Limits as they are told: what is left, who is held back, what was denied.

use std::collections::BTreeMap;

use cgtap_sys::Errno;
use cgtap_sys::memory::Words;
use serde::Serialize;

use super::super::error::{Error, Result};
use super::super::query::missed_at;
use super::super::session::Session;
use super::super::usage::now;
use super::super::{CgroupRef, Engine, Lock};
use super::pattern::PatternReport;
use super::words::BudgetWords;
use crate::budget::denial::{self, Verdict};
use crate::budget::words::{Budget, word};
use crate::hook::HookSpec;
use crate::id::{CgroupId, LimitId};
use crate::limit::record::{Action, Group, LimitRecord, PatternRecord, Way};
use crate::meter::shape::control;
use crate::meter::usage::Unit;

/// A limit and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitReport {
    /// Its id.
    pub id: LimitId,
    /// Path of its cgroup.
    pub cgroup: String,
    /// Id of its cgroup.
    pub cgroup_id: CgroupId,
    /// What is limited, as usage calls it.
    pub meter: String,
    /// Labels that events must have.
    pub labels: BTreeMap<String, String>,
    /// What it is of.
    pub unit: Unit,
    /// How much.
    pub amount: u64,
    /// Each so many nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_ns: Option<u64>,
    /// How much may gather.
    pub burst: u64,
    /// What happens then: `deny:EDQUOT`, `signal:SIGTERM`, `freeze`, `observe`.
    pub on: String,
    /// What happens then.
    #[serde(skip)]
    pub action: Action,
    /// Only while others want their share.
    pub borrow: bool,
    /// A policy set it, and takes it away when it asks for it no more.
    pub policy: bool,
    /// `before` the event, at the gate, or `after` it: then the gate shuts until there is something
    /// left again; when it is `read`, by whoever enforces or serves, and gates as after it; by the
    /// `kernel`, which holds it too.
    pub charged: &'static str,
    /// Nanoseconds since it was read last, of what is charged when it is read; none if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ago_ns: Option<u64>,
    /// Hooks of its gates.
    pub gates: Vec<HookSpec>,
    /// What was used in all.
    pub used: u64,
    /// What is left now; below 0 is debt.
    pub left: i64,
    /// Nothing is left.
    pub is_reached: bool,
    /// Nanoseconds until something is left again; none if time does not bring it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_in_ns: Option<u64>,
    /// Events that could not be charged, and cgroups below that there was no room to charge.
    pub lost: u64,
    /// Events of any cgroup at its hooks for which the kernel ran no program, since one was in the middle of
    /// running on that CPU: they passed its gates, or were not charged.
    pub missed: u64,
    /// Events that it denied, or would have.
    pub denied: u64,
    /// What they asked.
    pub denied_amount: u64,
    /// Nanoseconds since it denied first, without a pause of ten seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denies_since_ns: Option<u64>,
    /// Nanoseconds since it denied last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied_ago_ns: Option<u64>,
}

/// A denial, with names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DenialReport {
    /// Its number, from 1.
    pub number: u64,
    /// Nanoseconds since then.
    pub ago_ns: u64,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Name of the thread.
    pub comm: String,
    /// Path of its cgroup, or `id:N` of one that is gone.
    pub cgroup: String,
    /// The limit.
    pub limit: LimitId,
    /// Path of the limit's cgroup; none if the limit is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// What is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meter: Option<String>,
    /// What it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// What was asked.
    pub asked: u64,
    /// What was left; below 0 is debt.
    pub left: i64,
    /// What became of it: `EDQUOT`, `SIGTERM`, `observed`.
    pub verdict: String,
}

/// Denials that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Denials {
    /// Oldest first.
    pub denials: Vec<DenialReport>,
    /// Older ones that were overwritten.
    pub lost: u64,
}

/// Whether a cgroup is held back, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Its path.
    pub cgroup: String,
    /// It is frozen.
    pub is_frozen: bool,
    /// Somebody freezes and thaws by limits (`cgtap enforce`).
    pub is_enforced: bool,
    /// The limits of it and of the cgroups above it, the nearest first.
    pub limits: Vec<LimitReport>,
    /// The patterns whose one budget it, or a cgroup above it, shares with others that found no place.
    pub shared: Vec<PatternReport>,
}

/// Name of a signal, `SIGTERM`.
#[must_use]
pub fn signal_name(signal: i32) -> String {
    SIGNALS
        .iter()
        .find(|(_, number)| *number == signal)
        .map_or_else(
            || format!("signal {signal}"),
            |(name, _)| format!("SIG{name}"),
        )
}

/// Number of the signal of a name, with `SIG` or without.
#[must_use]
pub fn signal_number(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    SIGNALS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, number)| *number)
}

/// Signals that may be sent to whoever is over a limit.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
    ("STOP", 19),
    ("TSTP", 20),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// An action as it is written.
#[must_use]
pub fn show_action(action: Action) -> String {
    match action {
        Action::Deny(errno) => format!("deny:{}", Errno(errno)),
        Action::Signal(signal) => {
            format!("signal:{}", signal_name(signal).trim_start_matches("SIG"))
        }
        Action::Freeze => "freeze".to_owned(),
        Action::Controller(controller) => controller.file().to_owned(),
        Action::Observe => "observe".to_owned(),
    }
}

impl Session {
    /// What the kernel says is used of what it counts by itself; none of what we count. 0 where the
    /// cgroup or its file is gone.
    fn counted(&self, limit: &LimitRecord, group: &Group) -> Option<u64> {
        let Action::Controller(controller) = limit.action else {
            return None;
        };
        let file = controller.usage_file()?;
        let cgroup = self.hierarchy.by_id(limit.cgroup).ok();
        let text = cgroup.and_then(|c| {
            std::fs::read_to_string(self.hierarchy.directory(&c.path).join(file)).ok()
        });
        Some(
            controller
                .usage(&group.labels, &text.unwrap_or_default())
                .unwrap_or(0),
        )
    }

    /// All limits, in the order of their cgroups' paths.
    pub(super) fn limit_reports(&self) -> Result<Vec<LimitReport>> {
        let limits = &self.config.limits;
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.budget_words()?;
        let now_ns = now().as_nanos() as u64;
        let mut lost: BTreeMap<u32, u64> = BTreeMap::new();
        let mut read: BTreeMap<u32, u64> = BTreeMap::new();
        for (number, group) in &limits.groups {
            if let Some(charger) = &group.charger {
                let words = self.charger_words(charger)?;
                let all = [control::STRANDED, control::NOTES_LOST, control::LOST];
                lost.insert(*number, all.map(|word| words.get(word)).iter().sum());
                let read_ns = words.get(control::READ_NS);
                if charger.reads.is_some() && read_ns > 0 {
                    read.insert(*number, now_ns.saturating_sub(read_ns));
                }
            }
        }
        // Groups share hooks: each is asked once.
        let missed = missed_at(
            self,
            &limits.groups.values().flat_map(Group::hooks).collect(),
        )?;
        let missed_of = |group: &Group| -> u64 {
            let hooks = group.hooks();
            hooks.iter().filter_map(|hook| missed.get(hook)).sum()
        };
        let missed: BTreeMap<u32, u64> = (limits.groups.iter())
            .map(|(number, group)| (*number, missed_of(group)))
            .collect();
        let mut reports: Vec<LimitReport> = limits
            .limits
            .iter()
            .filter_map(|(id, limit)| {
                let group = limits.groups.get(&limit.group)?;
                let words = BudgetWords::of(&all, limit.slot).read();
                let budget = Budget::of(&words);
                let (used, left) = match self.counted(limit, group) {
                    Some(used) => (used, limit.amount.cast_signed() - used.cast_signed()),
                    None => {
                        let taken = words[word::TAKEN].cast_signed().max(0);
                        (taken.cast_unsigned(), budget.left(now_ns))
                    }
                };
                let ago =
                    |word: usize| (words[word] > 0).then(|| now_ns.saturating_sub(words[word]));
                let free_in_ns = (left <= 0).then(|| budget.open_at(now_ns)).flatten();
                Some(LimitReport {
                    id: *id,
                    cgroup: self.config.path(limit.cgroup),
                    cgroup_id: limit.cgroup,
                    meter: group.name(),
                    labels: group.labels.clone(),
                    unit: group.unit,
                    amount: limit.amount,
                    period_ns: limit.period_ns,
                    burst: limit.burst,
                    on: show_action(limit.action),
                    action: limit.action,
                    borrow: limit.borrow,
                    policy: limit.policy,
                    charged: match group.way {
                        Way::Before => "before",
                        Way::After if group.reads().is_some() => "read",
                        Way::After => "after",
                        Way::Kernel => "kernel",
                    },
                    read_ago_ns: read.get(&limit.group).copied(),
                    gates: group.gates.iter().map(|g| g.hook.clone()).collect(),
                    used,
                    left,
                    is_reached: left <= 0,
                    free_in_ns,
                    lost: lost.get(&limit.group).copied().unwrap_or(0),
                    missed: missed.get(&limit.group).copied().unwrap_or(0),
                    denied: words[word::DENIED],
                    denied_amount: words[word::DENIED_AMOUNT],
                    denies_since_ns: ago(word::FIRST_DENIED_NS),
                    denied_ago_ns: ago(word::LAST_DENIED_NS),
                })
            })
            .collect();
        reports.sort_by(|a, b| (&a.cgroup, &a.meter, a.id).cmp(&(&b.cgroup, &b.meter, b.id)));
        Ok(reports)
    }
}

impl Engine {
    /// What limits denied last, the oldest first; the newest 4,096 are kept.
    ///
    /// # Errors
    /// [`Error`]: a state that cannot be read.
    pub fn denials(&self) -> Result<Denials> {
        let Some(session) = Session::open(self.state(), Lock::Shared, self.hierarchy()?)? else {
            return Ok(Denials::default());
        };
        let limits = &session.config.limits;
        if limits.is_empty() {
            return Ok(Denials::default());
        }
        let (_, map) = session.budget_maps()?;
        let words = Words::map(&map).map_err(|e| Error::sys("map the denials of limits", &e))?;
        let (all, lost) = denial::read(words.as_slice());
        let now_ns = now().as_nanos() as u64;
        let mut paths: BTreeMap<CgroupId, String> = BTreeMap::new();
        let denials = all.into_iter().map(|d| {
            let path = paths.entry(d.cgroup).or_insert_with(|| {
                let found = session.hierarchy.by_id(d.cgroup);
                found.map_or_else(|_| format!("id:{}", d.cgroup), |c| c.path)
            });
            let id = LimitId(d.limit);
            let limit = limits.limits.get(&id);
            let group = limit.and_then(|l| limits.groups.get(&l.group));
            DenialReport {
                number: d.number,
                ago_ns: now_ns.saturating_sub(d.when_ns),
                pid: d.pid,
                tid: d.tid,
                comm: d.comm,
                cgroup: path.clone(),
                limit: id,
                level: limit.map(|l| session.config.path(l.cgroup)),
                meter: group.map(crate::limit::record::Group::name),
                unit: group.map(|g| g.unit),
                asked: d.asked,
                left: d.left,
                verdict: match d.verdict {
                    Verdict::Errno(errno) => Errno(errno).name(),
                    Verdict::Signal(signal) => signal_name(signal),
                    Verdict::Observed => "observed".to_owned(),
                },
            }
        });
        Ok(Denials {
            denials: denials.collect(),
            lost,
        })
    }

    /// Whether a cgroup is held back: by which limits, since when, until when.
    ///
    /// # Errors
    /// [`Error`]: a cgroup that is not there, a state that cannot be read.
    pub fn explain(&self, cgroup: &CgroupRef) -> Result<Explained> {
        let hierarchy = self.hierarchy()?;
        let asked = super::super::find_cgroup(&hierarchy, cgroup)?;
        let mut explained = Explained {
            is_frozen: is_frozen(&hierarchy.directory(&asked.path)),
            is_enforced: false,
            cgroup: asked.path.clone(),
            limits: Vec::new(),
            shared: Vec::new(),
        };
        let Some(session) = Session::open(self.state(), Lock::Shared, hierarchy)? else {
            return Ok(explained);
        };
        let mut way: Vec<CgroupId> = vec![asked.id];
        way.extend(&asked.ancestors);
        session.thaw_forgotten()?;
        let reports = session.limit_reports()?;
        explained.is_enforced = !reports.is_empty() && session.is_paced()?;
        let patterns = session.pattern_reports()?;
        if !patterns.is_empty() {
            let own = session.own(&session.config)?;
            let shares = |p: &PatternRecord| {
                let mut all = way.iter();
                all.any(|at| own.get(&(p.group, *at)) == Some(&p.shared))
            };
            let patterns = patterns.into_iter().filter(|(p, _)| shares(p));
            explained.shared = patterns.map(|(_, report)| report).collect();
        }
        for at in way {
            explained
                .limits
                .extend(reports.iter().filter(|r| r.cgroup_id == at).cloned());
        }
        Ok(explained)
    }
}

/// Whether a cgroup, or one above it, is frozen (cgroup.events, since 5.2).
fn is_frozen(dir: &std::path::Path) -> bool {
    std::fs::read_to_string(dir.join("cgroup.events"))
        .is_ok_and(|text| text.lines().any(|l| l == "frozen 1"))
}
