//! The words of the budgets, and which cgroup is charged to which: what the programs read. They
//! follow the record, and are written again from it wherever they might not agree.

use std::collections::{BTreeMap, BTreeSet};

use cgtap_sys::bpf::{Map, MapSpec, MapType, get_map, map_flags, pin};
use cgtap_sys::memory::Words;
use cgtap_sys::{Errno, SysError};

use super::super::error::{Error, Result};
use super::super::session::{Session, words};
use super::super::usage::now;
use super::plan::chain;
use crate::budget::denial;
use crate::budget::rate::Rate;
use crate::budget::words::{ALL_BYTES, Budget, VERDICT_SHIFT, WORDS, flag, word};
use crate::cgroup::Branch;
use crate::id::{CgroupId, InstanceId};
use crate::limit::record::{Action, Charger, Group, LimitRecord, Limits, Way};
use crate::meter::shape::control;
use crate::store::config::Config;
use crate::store::pins;

/// What instances of limits are called begins so.
pub(super) const PREFIX: &str = "limit:";

/// Cgroups that come while chains are filled are found by looking once more: those that come after
/// that find their parent's.
const PASSES: usize = 2;

fn make(name: &'static str, bytes: u32) -> std::result::Result<Map, SysError> {
    Map::create(&MapSpec {
        name,
        map_type: MapType::Array,
        key_size: 4,
        value_size: bytes,
        max_entries: 1,
        flags: map_flags::MMAPABLE,
    })
}

/// A map of programs of limits, by its name.
pub(super) fn map_of(
    session: &Session,
    config: &Config,
    instance: InstanceId,
    name: &str,
) -> Result<Map> {
    let record = config.instances.get(&instance);
    let pin = record
        .and_then(|i| i.maps.iter().find(|m| m.name == name))
        .and_then(|m| m.pin.clone())
        .unwrap_or_default();
    let path = session.path(&pins::map(instance, &pin));
    get_map(&path).map_err(|e| Error::sys(format!("open {}", path.display()), &e))
}

/// One budget's words.
pub(super) struct BudgetWords<'a> {
    all: &'a Words,
    first: usize,
}

impl BudgetWords<'_> {
    pub(super) fn of(all: &Words, slot: u32) -> BudgetWords<'_> {
        BudgetWords {
            all,
            first: slot as usize * WORDS,
        }
    }

    pub(super) fn read(&self) -> [u64; WORDS] {
        std::array::from_fn(|at| self.all.get(self.first + at))
    }

    fn set(&self, word: usize, value: u64) {
        self.all.set(self.first + word, value);
    }

    /// Writes what hangs on the record, where it is not so.
    pub(super) fn follow(&self, follow: &Follow) {
        let put = |word: usize, value: u64| {
            if self.all.get(self.first + word) != value {
                self.set(word, value);
            }
        };
        put(word::CAP, follow.cap);
        put(word::UP, follow.up);
        put(word::LIMIT, follow.limit);
        let flags = self.all.get(self.first + word::FLAGS) & flag::FROZEN;
        let verdict = u64::from(follow.action.verdict().cast_unsigned());
        put(
            word::FLAGS,
            flags | follow.action.flags(follow.way) | verdict << VERDICT_SHIFT,
        );
    }

    /// Lets so much be taken, if it is not.
    pub(super) fn hold(&self, taken: u64) {
        if self.all.get(self.first + word::TAKEN) != taken {
            self.set(word::TAKEN, taken);
        }
    }

    /// Sets or takes away a flag.
    pub(super) fn mark(&self, flag: u64, is_set: bool) {
        let flags = self.all.get(self.first + word::FLAGS);
        let flags = if is_set { flags | flag } else { flags & !flag };
        self.set(word::FLAGS, flags);
    }

    /// Lets a bucket in debt forget it. What is left then.
    pub(super) fn forgive(&self, budget: &Budget, left: i64) -> i64 {
        if budget.rate.is_none() {
            return left;
        }
        self.set(word::LOST, budget.lent(left).cast_unsigned());
        1
    }
}

/// What of a budget hangs on the record.
pub(super) struct Follow {
    pub(super) cap: u64,
    /// Index of the budget above, and 1 more; 0 for none.
    pub(super) up: u64,
    pub(super) limit: u64,
    pub(super) action: Action,
    pub(super) way: Way,
}

impl Session {
    /// Pins the maps of budgets and denials, if limits need them and they are not: those that programs
    /// of limits have, or new ones.
    pub(in crate::engine) fn lay_budgets(&self, limits: &Limits) -> Result<()> {
        if limits.is_empty() {
            return Ok(());
        }
        let sys = |e: SysError| Error::sys("make the budgets of limits", &e);
        for (name, map, bytes) in [
            (pins::BUDGETS, "cgtap_budgets", ALL_BYTES),
            (pins::DENIALS, "cgtap_denials", denial::BYTES as u32),
        ] {
            let path = self.path(name);
            if get_map(&path).is_err() {
                let map = match self.map_of_limits(name) {
                    Some(map) => map,
                    None => make(map, bytes).map_err(sys)?,
                };
                pin(&map, &path).map_err(sys)?;
            }
        }
        self.lay_places(limits)
    }

    /// A map that programs of limits share, by its name.
    pub(super) fn map_of_limits(&self, name: &str) -> Option<Map> {
        let all = self.config.instances.iter();
        let mut of_limits = all.filter(|(_, i)| i.object.starts_with(PREFIX));
        of_limits.find_map(|(id, record)| {
            let map = record.maps.iter().find(|m| m.name == name)?;
            get_map(&self.path(&pins::map(*id, map.pin.as_deref()?))).ok()
        })
    }

    /// Takes back what limits wrote outside of the state: files of controllers, frozen cgroups.
    pub(in crate::engine) fn lift_limits(&mut self) -> Result<()> {
        if self.config.limits.is_empty() {
            return Ok(());
        }
        let lifted = self.lift_controllers();
        self.thaw_marked()?;
        lifted
    }

    /// The words of all budgets.
    pub(super) fn budget_words(&self) -> Result<Words> {
        let (budgets, _) = self.budget_maps()?;
        Words::map(&budgets).map_err(|e| Error::sys("map the budgets of limits", &e))
    }

    /// Begins the budgets that `next` has and the record has not.
    pub(super) fn write_new_budgets(&self, next: &Limits) -> Result<()> {
        if next.is_empty() {
            return Ok(());
        }
        let all = self.budget_words()?;
        let known: BTreeSet<u32> = self.config.limits.slots().collect();
        let limits = next.limits.values();
        let limits = limits.map(|l| (l.slot, l.burst, l.amount, l.period_ns));
        let shared = next.patterns.iter();
        let shared = shared.map(|p| (p.shared, p.burst, p.amount, p.period_ns));
        for (slot, cap, amount, period_ns) in limits.chain(shared) {
            if known.contains(&slot) {
                continue;
            }
            let budget = BudgetWords::of(&all, slot);
            for word in 0..WORDS {
                budget.set(word, 0);
            }
            budget.set(word::EPOCH_NS, now().as_nanos() as u64);
            budget.set(word::CAP, cap);
            if let Some(rate) = period_ns.and_then(|period| Rate::new(amount, period).ok()) {
                budget.set(word::AMOUNT, rate.amount);
                budget.set(word::MULT, rate.mult);
                budget.set(word::SHIFT, u64::from(rate.shift));
                budget.set(word::PERIOD_NS, rate.period_ns);
            }
        }
        Ok(())
    }

    /// Writes what hangs on the record: caps, levels, and which cgroup is charged to which budget.
    pub(in crate::engine) fn fill_limits(&self) -> Result<()> {
        let limits = &self.config.limits;
        if limits.is_empty() {
            return Ok(());
        }
        self.fill_words(&self.config)?;
        self.fill_homes()?;
        for (number, group) in &limits.groups {
            if group.charger.is_some() {
                self.fill_chains(*number, group)?;
            }
        }
        Ok(())
    }

    /// Writes caps, levels and what happens then, as `config` has them.
    pub(super) fn fill_words(&self, config: &Config) -> Result<()> {
        let limits = &config.limits;
        let all = self.budget_words()?;
        let places = self.places()?;
        let way = |group: u32| limits.groups.get(&group).map_or(Way::After, |g| g.way);
        let up = |levels: &[&LimitRecord]| levels.first().map_or(0, |l| u64::from(l.slot) + 1);
        for (id, limit) in &limits.limits {
            if self.is_of(places.as_ref(), limit.slot, limit.cgroup) {
                let levels = chain(config, limit.group, limit.cgroup);
                BudgetWords::of(&all, limit.slot).follow(&Follow {
                    cap: limit.burst,
                    up: up(levels.get(1..).unwrap_or_default()),
                    limit: u64::from(id.0),
                    action: limit.action,
                    way: way(limit.group),
                });
            }
        }
        for pattern in &limits.patterns {
            BudgetWords::of(&all, pattern.shared).follow(&Follow {
                cap: pattern.burst,
                up: up(&chain(config, pattern.group, pattern.anchor)),
                limit: 0,
                action: pattern.action,
                way: way(pattern.group),
            });
        }
        for (slot, follow) in self.fresh_words(config)? {
            BudgetWords::of(&all, slot).follow(&follow);
        }
        Ok(())
    }

    fn charger_map(&self, charger: &Charger, name: &str) -> Result<Map> {
        map_of(self, &self.config, charger.instance, name)
    }

    /// Control words of the programs that charge a group.
    pub(super) fn charger_words(&self, charger: &Charger) -> Result<Words> {
        Words::map(&self.charger_map(charger, "control")?)
            .map_err(|e| Error::sys("map the control words of limits", &e))
    }

    fn fill_chains(&self, number: u32, group: &Group) -> Result<()> {
        let Some(charger) = &group.charger else {
            return Ok(());
        };
        let chains = self.charger_map(charger, "chains")?;
        let sys = |e: SysError| Error::sys(format!("limit {}", group.name()), &e);
        let limited: BTreeMap<CgroupId, &LimitRecord> = (self.config.limits.limits.values())
            .filter(|l| l.group == number)
            .map(|l| (l.cgroup, l))
            .collect();
        let mut wanted: BTreeMap<CgroupId, u32> = BTreeMap::new();
        let mut homeless = 0;
        for _ in 0..PASSES {
            wanted.clear();
            let mut listings: Vec<Vec<Branch>> = Vec::new();
            for cgroup in limited.keys() {
                // Those below another are listed with that one.
                let above = &super::path_up(&self.config, *cgroup)[1..];
                if above.iter().any(|c| limited.contains_key(c)) {
                    continue;
                }
                if let Ok(top) = self.hierarchy.by_id(*cgroup) {
                    listings.push(self.hierarchy.listing(&top));
                }
            }
            // Read after the listings: what is in them and was born has its budget noted by now.
            let own = self.own(&self.config)?;
            for branches in &listings {
                let mut slots: Vec<Option<u32>> = Vec::with_capacity(branches.len());
                for (at, branch) in branches.iter().enumerate() {
                    let own = own.get(&(number, branch.id)).copied();
                    let parent = (at > 0).then(|| slots.get(branch.parent).copied().flatten());
                    let slot = own.or(parent.flatten());
                    slots.push(slot);
                    wanted.extend(slot.map(|s| (branch.id, s)));
                }
            }
            homeless = 0;
            for (cgroup, slot) in &wanted {
                let slot = u64::from(*slot).to_ne_bytes();
                match chains.update(&cgroup.0.to_ne_bytes(), &slot) {
                    // Full: they are told, as those are that come while it is.
                    Err(e) if e.errno == Errno::E2BIG => homeless += 1,
                    other => other.map_err(sys)?,
                }
            }
        }
        self.charger_words(charger)?
            .set(control::STRANDED, homeless);
        let entries = chains.entries().map_err(sys)?;
        let own = self.own(&self.config)?;
        let is_kept = |c: &CgroupId| wanted.contains_key(c) || own.contains_key(&(number, *c));
        for (key, _) in entries {
            let cgroup = CgroupId(words(&key).next().unwrap_or_default());
            // One that came since then has its parent's.
            let is_below = || {
                let found = self.hierarchy.by_id(cgroup);
                found.is_ok_and(|c| c.ancestors.iter().any(is_kept))
            };
            if !is_kept(&cgroup) && !is_below() {
                chains.delete(&key).map_err(sys)?;
            }
        }
        Ok(())
    }
}
