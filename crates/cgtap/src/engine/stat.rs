//! Counting events: a generated program on the same lists as any other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapSpec, MapType};

use super::error::{Error, Result};
use super::instance::Loaded;
use super::query::Counts;
use super::report::{StatCount, StatReport, StatRow};
use super::request::{
    AttachRequest, CgroupRef, Detach, Lifetime, ObjectSource, ProgramChoice, StatRequest,
};
use super::session::{Session, sum_words};
use super::{Engine, Lock};
use crate::asm::{Alu, Builder, Cond, Insn, Reg, Size, helper};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::hook::HookSpec;
use crate::hook::kind::Returns;
use crate::id::{AttachmentId, CgroupId, InstanceId};
use crate::object::image::{MapImage, ObjectImage, ProgramImage};

/// Cgroups that one event can be counted for at a time; more are counted as lost.
const CGROUPS_MAX: u32 = 16_384;

/// Counting that is under way. It goes with this value, or with the process.
#[derive(Debug)]
pub struct Stat {
    engine: Engine,
    hierarchy: Hierarchy,
    request: StatRequest,
    cgroups: Vec<CgroupUnderStat>,
    started: Instant,
    /// Events lost at each hook before the start.
    lost_before: u64,
    finished: bool,
}

/// A cgroup that is counted, with one counter an event.
#[derive(Debug)]
struct CgroupUnderStat {
    cgroup: Cgroup,
    counters: Vec<Counter>,
}

#[derive(Debug)]
struct Counter {
    attachment: AttachmentId,
    /// Counts of each cgroup, and what did not fit; with `per_cgroup`.
    per_cgroup: Option<(Map, Map)>,
}

/// The program that counts by being run: the runs of an attachment are counted anyway.
fn counting(returns: Returns) -> Vec<Insn> {
    vec![Insn::mov_imm(Reg::R0, returns.neutral()), Insn::exit()]
}

/// The program that counts by the event's cgroup, in map 0; what finds no room is counted in the
/// first word of map 1.
fn counting_by_cgroup(returns: Returns) -> Result<Vec<Insn>> {
    const KEY: i16 = -8;
    const ZERO: i16 = -16;
    let mut b = Builder::new();
    let (found, full, out) = (b.label(), b.label(), b.label());
    let lookup = |b: &mut Builder| {
        b.push(Insn::mov(Reg::R2, Reg::R10))
            .push(Insn::alu_imm(Alu::Add, Reg::R2, i32::from(KEY)))
            .extend(Insn::load_map(Reg::R1, 0))
            .push(Insn::call(helper::MAP_LOOKUP_ELEM));
    };
    b.push(Insn::call(helper::GET_CURRENT_CGROUP_ID))
        .push(Insn::store(Size::Dw, Reg::R10, KEY, Reg::R0));
    lookup(&mut b);
    b.jump_if_imm(Cond::Ne, Reg::R0, 0, found)
        .push(Insn::mov_imm(Reg::R1, 0))
        .push(Insn::store(Size::Dw, Reg::R10, ZERO, Reg::R1))
        .push(Insn::mov(Reg::R3, Reg::R10))
        .push(Insn::alu_imm(Alu::Add, Reg::R3, i32::from(ZERO)))
        .push(Insn::mov(Reg::R2, Reg::R10))
        .push(Insn::alu_imm(Alu::Add, Reg::R2, i32::from(KEY)))
        .extend(Insn::load_map(Reg::R1, 0))
        // BPF_NOEXIST: another CPU may have been first.
        .push(Insn::mov_imm(Reg::R4, 1))
        .push(Insn::call(helper::MAP_UPDATE_ELEM));
    lookup(&mut b);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, full);
    b.place(found)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0))
        .push(Insn::alu_imm(Alu::Add, Reg::R1, 1))
        .push(Insn::store(Size::Dw, Reg::R0, 0, Reg::R1))
        .jump(out);
    b.place(full)
        .extend(Insn::load_map_value(Reg::R1, 1, 0))
        .push(Insn::mov_imm(Reg::R2, 1))
        .push(Insn::atomic_add(Reg::R1, 0, Reg::R2));
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, returns.neutral()))
        .push(Insn::exit());
    b.finish()
        .map_err(|e| Error::new(super::ErrorKind::Kernel, format!("cannot generate: {e}")))
}

fn program(event: &HookSpec, per_cgroup: bool) -> Result<ProgramImage> {
    let returns = event.kind().info().returns;
    Ok(ProgramImage {
        name: "count".to_owned(),
        section: format!("{}/{}", event.kind().info().sections[0], event.target()),
        sleepable: false,
        insns: if per_cgroup {
            counting_by_cgroup(returns)?
        } else {
            counting(returns)
        },
        func_info: Vec::new(),
        line_info: Vec::new(),
    })
}

/// The maps of a counter by cgroup.
fn maps() -> Result<(Map, Map)> {
    let sys = |e: SysError| Error::sys("make the counters", &e);
    let counts = Map::create(&MapSpec {
        name: "counts",
        map_type: MapType::PercpuHash,
        key_size: 8,
        value_size: 8,
        max_entries: CGROUPS_MAX,
        flags: 0,
    })
    .map_err(sys)?;
    let lost = Map::create(&MapSpec {
        name: "lost",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: 0,
    })
    .map_err(sys)?;
    Ok((counts, lost))
}

fn map_image(name: &str, map: &Map) -> Result<MapImage> {
    let info = map
        .info()
        .map_err(|e| Error::sys("look at a counter", &e))?;
    Ok(MapImage {
        name: name.to_owned(),
        map_type: info.map_type,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        storage: None,
    })
}

impl Engine {
    /// Starts counting. The counters go with the returned value, or with this process.
    ///
    /// # Errors
    /// [`Error`] as [`Engine::attach`].
    pub fn stat(&self, request: StatRequest) -> Result<Stat> {
        let hierarchy = self.hierarchy()?;
        let mut stat = Stat {
            engine: self.clone(),
            hierarchy,
            cgroups: Vec::new(),
            started: Instant::now(),
            lost_before: 0,
            finished: false,
            request,
        };
        for reference in stat.request.cgroups.clone() {
            let cgroup = super::find_cgroup(&stat.hierarchy, &reference)?;
            // What was started goes again with `stat` if a later one fails.
            stat.cgroups.push(CgroupUnderStat {
                cgroup,
                counters: Vec::new(),
            });
            for event in stat.request.events.clone() {
                let counter = self.start_counter(&reference, &event, stat.request.per_cgroup)?;
                if let Some(last) = stat.cgroups.last_mut() {
                    last.counters.push(counter);
                }
            }
        }
        stat.lost_before = stat.lost_at_hooks()?;
        stat.started = Instant::now();
        Ok(stat)
    }

    fn start_counter(
        &self,
        cgroup: &CgroupRef,
        event: &HookSpec,
        per_cgroup: bool,
    ) -> Result<Counter> {
        let maps = if per_cgroup { Some(maps()?) } else { None };
        let mut images = Vec::new();
        let mut fds: Vec<Option<OwnedFd>> = Vec::new();
        if let Some((counts, lost)) = &maps {
            for (name, map) in [("counts", counts), ("lost", lost)] {
                images.push(map_image(name, map)?);
                let fd = map.as_fd().try_clone_to_owned().map_err(|e| {
                    Error::new(
                        super::ErrorKind::Kernel,
                        format!("cannot open a counter: {e}"),
                    )
                })?;
                fds.push(Some(fd));
            }
        }
        let loaded = Loaded {
            name: format!("cgtap stat {event}"),
            image: ObjectImage {
                name: "cgtap_stat".to_owned(),
                license: "GPL".to_owned(),
                kern_version: 0,
                btf: Vec::new(),
                maps: images,
                programs: vec![program(event, per_cgroup)?],
                prog_array_slots: Vec::new(),
            },
            maps: fds,
            chosen: vec![0],
        };
        let request = AttachRequest {
            programs: vec![ProgramChoice {
                name: "count".to_owned(),
                hook: Some(event.clone()),
            }],
            lifetime: Lifetime::Process,
            ..AttachRequest::new(cgroup.clone(), ObjectSource::Instance(InstanceId(0)))
        };
        let report = self.attach_loaded(&request, loaded)?;
        let attachment = report.attachments.first().map_or(AttachmentId(0), |a| a.id);
        Ok(Counter {
            attachment,
            per_cgroup: maps,
        })
    }
}

impl Stat {
    fn session(&self) -> Result<Option<Session>> {
        Session::open(self.engine.state(), Lock::Shared, self.engine.hierarchy()?)
    }

    fn lost_at_hooks(&self) -> Result<u64> {
        let Some(session) = self.session()? else {
            return Ok(0);
        };
        let mut lost = 0;
        for (id, hook) in &session.config.hooks {
            if self.request.events.contains(&hook.spec) {
                let counts = Counts::read(&session, *id, hook)?;
                lost += counts.lost + counts.recursion_misses;
            }
        }
        Ok(lost)
    }

    /// The counts since the start.
    ///
    /// # Errors
    /// [`Error`] if the state cannot be read.
    pub fn read(&self) -> Result<StatReport> {
        let seconds = self.started.elapsed().as_secs_f64();
        // What each cgroup counted is read before what all counted: a total read later is never
        // less than its parts, though events go on meanwhile.
        let mut lost = 0;
        let mut own = Vec::new();
        for under in &self.cgroups {
            own.push(self.own_counts(under, &mut lost)?);
        }
        let mut runs: BTreeMap<AttachmentId, u64> = BTreeMap::new();
        if let Some(session) = self.session()? {
            for (id, hook) in &session.config.hooks {
                if self.request.events.contains(&hook.spec) {
                    let counts = Counts::read(&session, *id, hook)?;
                    let ids = hook.lists.attachments().map(|(_, a)| a.id);
                    runs.extend(ids.map(|id| (id, counts.of(id))));
                    lost += counts.lost + counts.recursion_misses;
                }
            }
        }
        let lost = lost.saturating_sub(self.lost_before);
        let mut rows = Vec::new();
        for (under, own) in self.cgroups.iter().zip(&own) {
            let totals: Vec<u64> = under
                .counters
                .iter()
                .map(|counter| runs.get(&counter.attachment).copied().unwrap_or(0))
                .collect();
            if self.request.per_cgroup {
                self.per_cgroup(under, own, &totals, &mut rows);
            } else {
                rows.push(self.row(&under.cgroup.path, under.cgroup.id, &totals, None));
            }
        }
        Ok(StatReport {
            seconds,
            cgroups: rows,
            lost,
        })
    }

    fn row(&self, path: &str, id: CgroupId, totals: &[u64], own: Option<&[u64]>) -> StatRow {
        let events = self.request.events.iter().zip(totals).enumerate();
        let events = events.map(|(at, (event, total))| StatCount {
            event: event.to_string(),
            count: *total,
            own: own.map(|o| o.get(at).copied().unwrap_or(0)),
            total: own.map(|_| *total),
        });
        StatRow {
            cgroup: path.to_owned(),
            cgroup_id: id,
            events: events.collect(),
        }
    }

    /// What each cgroup below `under` counted itself, one count an event; empty without
    /// `per_cgroup`. Adds what found no room to `lost`.
    fn own_counts(
        &self,
        under: &CgroupUnderStat,
        lost: &mut u64,
    ) -> Result<BTreeMap<CgroupId, Vec<u64>>> {
        let sys = |e: SysError| Error::sys("read the counters", &e);
        let mut own: BTreeMap<CgroupId, Vec<u64>> = BTreeMap::new();
        for (at, counter) in under.counters.iter().enumerate() {
            let Some((counts, full)) = &counter.per_cgroup else {
                continue;
            };
            for key in counts.keys().map_err(sys)? {
                let id = key
                    .as_slice()
                    .try_into()
                    .map(u64::from_ne_bytes)
                    .unwrap_or_default();
                let value = counts
                    .lookup(&key)
                    .map_err(sys)?
                    .map_or(0, |value| sum_words(&value));
                let width = self.request.events.len();
                own.entry(CgroupId(id)).or_insert_with(|| vec![0; width])[at] = value;
            }
            *lost += full
                .lookup(&0u32.to_ne_bytes())
                .map_err(sys)?
                .map_or(0, |value| sum_words(&value));
        }
        Ok(own)
    }

    /// One row a cgroup below `under`; its total adds up what it and those below it counted. A
    /// cgroup that is gone has a row without a name, and is in the total of the one that was asked
    /// for.
    fn per_cgroup(
        &self,
        under: &CgroupUnderStat,
        own: &BTreeMap<CgroupId, Vec<u64>>,
        totals: &[u64],
        rows: &mut Vec<StatRow>,
    ) {
        let none = vec![0; totals.len()];
        let mine = |id: CgroupId| own.get(&id).unwrap_or(&none);
        let mut open = vec![(under.cgroup.clone(), 0usize)];
        // Every cgroup before those below it, with its level.
        let mut order = Vec::new();
        while let Some((cgroup, level)) = open.pop() {
            let children = self.hierarchy.children(&cgroup.path);
            open.extend(children.into_iter().rev().map(|c| (c, level + 1)));
            order.push((cgroup, level));
        }
        // Sums from the leaves up: in reverse order each cgroup comes after all below it.
        let mut sums: Vec<Vec<u64>> = order.iter().map(|(c, _)| mine(c.id).clone()).collect();
        let mut parents: Vec<usize> = Vec::new();
        let mut above = vec![0; order.len()];
        for (at, (_, level)) in order.iter().enumerate() {
            parents.truncate(*level);
            above[at] = parents.last().copied().unwrap_or(0);
            parents.push(at);
        }
        for at in (1..order.len()).rev() {
            let below = sums[at].clone();
            for (sum, more) in sums[above[at]].iter_mut().zip(below) {
                *sum += more;
            }
        }
        for (at, (cgroup, level)) in order.iter().enumerate() {
            if self.request.depth.is_some_and(|depth| *level > depth) {
                continue;
            }
            let total = if at == 0 { totals } else { &sums[at] };
            rows.push(self.row(&cgroup.path, cgroup.id, total, Some(mine(cgroup.id))));
        }
        let known: std::collections::BTreeSet<CgroupId> = order.iter().map(|(c, _)| c.id).collect();
        for (id, counts) in own.iter().filter(|(id, _)| !known.contains(id)) {
            rows.push(self.row(&format!("id:{id}"), *id, counts, Some(counts)));
        }
    }

    /// Stops counting and returns the last counts.
    ///
    /// # Errors
    /// [`Error`] if the state cannot be read or changed.
    pub fn finish(mut self) -> Result<StatReport> {
        let report = self.read();
        self.stop()?;
        report
    }

    fn stop(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        let ids: Vec<AttachmentId> = self
            .cgroups
            .iter()
            .flat_map(|c| c.counters.iter().map(|c| c.attachment))
            .collect();
        // One whose cgroup went is detached already.
        for id in ids {
            match self.engine.detach(&Detach::Ids(vec![id])) {
                Err(e) if e.kind() != super::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Stat {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            tracing::warn!("the counters are still attached: {e}");
        }
    }
}
