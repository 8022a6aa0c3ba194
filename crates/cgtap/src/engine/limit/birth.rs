//! Budgets that cgroups are given as they are made: their maps and programs, and how the record
//! follows what was born.

use std::collections::BTreeMap;
use std::time::Duration;

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapSpec, MapType, get_map, map_flags, pin};
use cgtap_sys::memory::Words;

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::{Session, words};
use super::plan::{attached, chain, install, put, take_off_instance};
use crate::budget::places::{self, Birth};
use crate::cgroup::Cgroup;
use crate::hook::HookSpec;
use crate::id::{CgroupId, InstanceId, LimitId, ProgramId};
use crate::limit::birth::{self, Follow, Plan};
use crate::limit::record::{BirthRecord, LimitRecord, Limits, PatternRecord, Way};
use crate::object::image::ProgramImage;
use crate::store::config::Config;
use crate::store::pins;

/// Cgroups that have a budget of their own, of what patterns limit.
const HOMES: u32 = 65_536;

/// How long it is waited for that a cgroup is there for anybody, or gone, and how often.
const SOON: Duration = Duration::from_millis(1);
const SOON_TRIES: usize = 100;

/// The budget that each cgroup has of its own, by number of what is limited.
pub(super) type Own = BTreeMap<(u32, CgroupId), u32>;

fn spec(name: &'static str, map_type: MapType, sizes: (u32, u32), flags: u32) -> MapSpec<'static> {
    let (key_size, value_size) = sizes;
    let max_entries = match (map_type, flags) {
        (MapType::Array, _) => 1,
        (_, 0) => places::PLACES as u32,
        _ => HOMES,
    };
    MapSpec {
        name,
        map_type,
        key_size,
        value_size,
        max_entries,
        flags,
    }
}

/// The key of a home.
fn home(group: u32, cgroup: CgroupId) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&cgroup.0.to_ne_bytes());
    key[8..].copy_from_slice(&u64::from(group).to_ne_bytes());
    key
}

fn of_home(key: &[u8]) -> (u32, CgroupId) {
    let mut all = words(key);
    let cgroup = CgroupId(all.next().unwrap_or_default());
    (all.next().unwrap_or_default() as u32, cgroup)
}

impl Session {
    /// A map that is pinned at the top of the state.
    pub(super) fn pinned(&self, name: &str) -> Result<Map> {
        let path = self.path(name);
        get_map(&path).map_err(|e| Error::sys(format!("open {}", path.display()), &e))
    }

    /// The words of the places, if there are any.
    pub(super) fn places(&self) -> Result<Option<Words>> {
        if !self.config.limits.has_places() {
            return Ok(None);
        }
        let map = self.pinned(pins::PLACES)?;
        let words = Words::map(&map).map_err(|e| Error::sys("map the places of limits", &e))?;
        Ok(Some(words))
    }

    /// Pins the maps of places, if patterns need them and they are not.
    pub(super) fn lay_places(&self, limits: &Limits) -> Result<()> {
        if !limits.has_places() {
            return Ok(());
        }
        let sys = |e: SysError| Error::sys("make the places of limits", &e);
        for (name, spec) in [
            (
                pins::PLACES,
                spec(
                    "cgtap_places",
                    MapType::Array,
                    (4, places::BYTES as u32),
                    map_flags::MMAPABLE,
                ),
            ),
            (pins::BIRTHS, spec("cgtap_births", MapType::Hash, (8, 8), 0)),
            (
                pins::HOMES,
                spec(
                    "cgtap_homes",
                    MapType::Hash,
                    (16, 8),
                    map_flags::NO_PREALLOC,
                ),
            ),
        ] {
            let path = self.path(name);
            if get_map(&path).is_ok() {
                continue;
            }
            let map = match self.map_of_limits(name) {
                Some(map) => map,
                None => {
                    let map = Map::create(&spec).map_err(sys)?;
                    if name == pins::PLACES {
                        // Numbers go on: no limit has the id of one that was.
                        let words = places::at_first(limits.births_seen);
                        map.update(&0u32.to_ne_bytes(), &words).map_err(sys)?;
                    }
                    map
                }
            };
            pin(&map, &path).map_err(sys)?;
        }
        Ok(())
    }

    /// Births that are no limits yet.
    fn fresh(&self, limits: &Limits) -> Result<Vec<(Birth, Option<PatternRecord>)>> {
        let Some(words) = self.places()? else {
            return Ok(Vec::new());
        };
        let all = places::births(words.as_slice());
        let fresh = all.into_values().filter(|b| b.number > limits.births_seen);
        let of = |b: &Birth| limits.patterns.iter().find(|p| p.number == b.pattern);
        Ok(fresh.map(|b| (b, of(&b).cloned())).collect())
    }

    /// Something was born that is no limit yet.
    pub(in crate::engine) fn has_births(&self) -> bool {
        let seen = self.config.limits.births_seen;
        let places = self.places().ok().flatten();
        places.is_some_and(|p| places::born(p.as_slice()) != seen)
    }

    /// The cgroup of a birth, which has its place a moment before it is there for anybody, and until a
    /// moment after it is not any more (kernel/cgroup/cgroup.c: `kernfs_activate()` comes behind the
    /// tracepoint, `kernfs_remove()` before it).
    fn of_birth(&self, words: &Words, birth: &Birth) -> Option<Cgroup> {
        for _ in 0..SOON_TRIES {
            if let Ok(cgroup) = self.hierarchy.by_id(birth.cgroup) {
                return Some(cgroup);
            }
            if places::owner(words.as_slice(), birth.slot) != Some(birth.cgroup) {
                return None;
            }
            std::thread::sleep(SOON);
        }
        None
    }

    /// Makes limits of what was born, in `next`.
    pub(in crate::engine) fn adopt(&self, next: &mut Config) -> Result<()> {
        let Some(words) = self.places()? else {
            return Ok(());
        };
        // What is born meanwhile has a greater number.
        let mut born = places::born(words.as_slice());
        for (birth, pattern) in self.fresh(&next.limits)? {
            let (Some(pattern), true) = (pattern, birth.number <= born) else {
                continue;
            };
            let Some(cgroup) = self.of_birth(&words, &birth) else {
                if places::owner(words.as_slice(), birth.slot) == Some(birth.cgroup) {
                    // It stays one that is to be looked at, with those behind it.
                    born = birth.number - 1;
                    break;
                }
                // One that is gone again needs no limit.
                continue;
            };
            super::super::attach::remember(self, next, &cgroup)?;
            let limit = LimitRecord {
                cgroup: cgroup.id,
                group: pattern.group,
                amount: pattern.amount,
                period_ns: pattern.period_ns,
                burst: pattern.burst,
                action: pattern.action,
                borrow: pattern.borrow,
                policy: true,
                slot: birth.slot,
                held: None,
            };
            next.limits.limits.insert(LimitId(birth.limit()), limit);
        }
        next.limits.births_seen = born;
        Ok(())
    }

    /// Which budget each cgroup has of its own by `config`, and by what was born meanwhile.
    pub(super) fn own(&self, config: &Config) -> Result<Own> {
        let limits = &config.limits;
        let mut own = Own::new();
        if self.config.limits.has_places() && !limits.patterns.is_empty() {
            let homes = self.pinned(pins::HOMES)?.entries();
            for (key, value) in homes.map_err(|e| Error::sys("read what was born", &e))? {
                let (group, cgroup) = of_home(&key);
                let slot = words(&value).next().unwrap_or_default() as u32;
                if limits
                    .patterns
                    .iter()
                    .any(|p| (p.group, p.shared) == (group, slot))
                {
                    own.insert((group, cgroup), slot);
                }
            }
            for (birth, pattern) in self.fresh(limits)? {
                if let Some(pattern) = pattern {
                    own.insert((pattern.group, birth.cgroup), birth.slot);
                }
            }
        }
        for limit in limits.limits.values() {
            own.insert((limit.group, limit.cgroup), limit.slot);
        }
        Ok(own)
    }

    /// Budgets that were born and are no limits yet, and what is to be in them by `config`.
    pub(super) fn fresh_words(&self, config: &Config) -> Result<Vec<(u32, super::words::Follow)>> {
        let fresh = self.fresh(&config.limits)?;
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        let own = self.own(config)?;
        let mut all = Vec::new();
        for (birth, pattern) in fresh {
            let (Some(pattern), Ok(cgroup)) = (pattern, self.hierarchy.by_id(birth.cgroup)) else {
                continue;
            };
            let above = |c: &CgroupId| own.get(&(pattern.group, *c));
            let up = cgroup.ancestors.iter().find_map(above);
            let way = config.limits.groups.get(&pattern.group).map(|g| g.way);
            let follow = super::words::Follow {
                cap: pattern.burst,
                up: up.map_or(0, |slot| u64::from(*slot) + 1),
                limit: u64::from(birth.limit()),
                action: pattern.action,
                way: way.unwrap_or(Way::After),
            };
            all.push((birth.slot, follow));
        }
        Ok(all)
    }

    /// A budget is that of a cgroup still: a place may be another's by now.
    pub(super) fn is_of(&self, words: Option<&Words>, slot: u32, cgroup: CgroupId) -> bool {
        let is_named = (slot as usize) < crate::budget::words::NAMED;
        is_named || words.is_some_and(|w| places::owner(w.as_slice(), slot) == Some(cgroup))
    }

    /// Notes the budgets of `next` where gates are going to look for them.
    pub(super) fn show_homes(&self, next: &Config) -> Result<()> {
        let groups = next.limits.found_groups();
        if groups.is_empty() {
            return Ok(());
        }
        self.fill_words(next)?;
        let homes = self.pinned(pins::HOMES)?;
        for ((group, cgroup), slot) in self.own(next)? {
            if groups.contains(&group) {
                let slot = u64::from(slot).to_ne_bytes();
                homes
                    .update(&home(group, cgroup), &slot)
                    .map_err(|e| Error::sys("note the budget of a cgroup", &e))?;
            }
        }
        Ok(())
    }

    /// Forgets the budgets that cgroups have no more.
    pub(super) fn fill_homes(&self) -> Result<()> {
        if !self.config.limits.has_places() {
            return Ok(());
        }
        let homes = self.pinned(pins::HOMES)?;
        let sys = |e: SysError| Error::sys("forget the budget of a cgroup", &e);
        // What is born after this is not among them.
        let before = homes.keys().map_err(sys)?;
        self.show_homes(&self.config)?;
        let (own, groups) = (self.own(&self.config)?, self.config.limits.found_groups());
        for key in before {
            let (group, cgroup) = of_home(&key);
            if !groups.contains(&group) || !own.contains_key(&(group, cgroup)) {
                homes.delete(&key).map_err(sys)?;
            }
        }
        Ok(())
    }
}

/// What the programs are to be made of.
fn plan(config: &Config) -> (Plan, Vec<InstanceId>) {
    let limits = &config.limits;
    let mut chargers: Vec<InstanceId> = Vec::new();
    let mut values = Vec::new();
    let follow = limits.patterns.iter().filter_map(|pattern| {
        let group = limits.groups.get(&pattern.group)?;
        let chains = group.charger.as_ref().map(|c| {
            let known = chargers.iter().position(|i| *i == c.instance);
            known.unwrap_or_else(|| {
                chargers.push(c.instance);
                chargers.len() - 1
            }) as u32
        });
        let value = (&group.meter, &group.value, &group.labels);
        let known = values.iter().position(|v| *v == value);
        let value = known.unwrap_or_else(|| {
            values.push(value);
            values.len() - 1
        });
        let up = chain(config, pattern.group, pattern.anchor);
        Some(Follow {
            number: pattern.number,
            anchor: pattern.anchor,
            components: pattern.components.clone(),
            group: pattern.group,
            chains,
            value: value as u32,
            up: up.first().map_or(0, |l| l.slot + 1),
            shared: pattern.shared,
            cap: pattern.burst,
            rate: pattern.period_ns.map(|ns| (pattern.amount, ns)),
            verdict: pattern.action.verdict(),
            flags: pattern.action.flags(group.way),
        })
    });
    let follow = follow.collect();
    (Plan { follow }, chargers)
}

/// Puts the programs there, or takes them away.
pub(super) fn reconcile(session: &Session, next: &mut Config) -> Result<()> {
    let old = next.limits.births.take();
    if !next.limits.has_places() {
        if let Some(old) = old {
            take_off_instance(next, old.instance)?;
        }
        return Ok(());
    }
    let (plan, chargers) = plan(next);
    if let Some(old) = old.clone().filter(|old| old.plan == plan) {
        next.limits.births = Some(old);
        return Ok(());
    }
    let layout = &next.layout;
    let groups: Vec<u32> = next.limits.found_groups().into_iter().collect();
    let failed = |e: crate::asm::EditError| {
        Error::new(
            ErrorKind::Full,
            format!(
                "these patterns are too much for one program: {e}; write fewer or shorter ones"
            ),
        )
        .with_errno(cgtap_sys::Errno::E2BIG)
    };
    let codes = [
        (
            "born",
            birth::MADE,
            birth::at_mkdir(layout, &plan).map_err(failed)?,
        ),
        (
            "gone",
            birth::REMOVED,
            birth::at_rmdir(layout, &groups).map_err(failed)?,
        ),
    ];
    let (budgets, _) = session.budget_maps()?;
    let mut all = vec![("budgets".to_owned(), budgets)];
    for name in [pins::PLACES, pins::BIRTHS, pins::HOMES] {
        all.push((name.to_owned(), session.pinned(name)?));
    }
    for (at, instance) in chargers.iter().enumerate() {
        let chains = super::words::map_of(session, next, *instance, "chains")?;
        all.push((format!("chains_{at}"), chains));
    }
    let mut specs: Vec<HookSpec> = Vec::new();
    let mut programs = Vec::new();
    for (name, hook, insns) in codes {
        let spec: HookSpec = hook
            .parse()
            .map_err(|_| Error::new(ErrorKind::Kernel, format!("{hook} is no hook")))?;
        programs.push(ProgramImage::generated(name, &spec, insns));
        specs.push(spec);
    }
    let names = ("patterns", "cgtap_births");
    let instance = install(session, next, names, all, programs)?;
    let root = session.hierarchy.by_path(std::path::Path::new("/"))?;
    let stand = old.map_or_else(Vec::new, |old| attached(next, old.instance));
    for (index, spec) in specs.iter().enumerate() {
        let index = index as u32;
        let program = ProgramId { instance, index };
        let old = stand.iter().find(|(.., at)| *at == index).map(|a| a.0);
        put(session, next, &root, program, spec, old)?;
    }
    next.limits.births = Some(BirthRecord { instance, plan });
    Ok(())
}
