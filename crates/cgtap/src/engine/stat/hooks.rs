//! Counting hooks: a generated program on the same lists as any other.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapSpec, MapType};

use super::super::instance::Loaded;
use super::super::query::{Counts, lost_at};
use super::super::session::{Session, sum_words};
use super::super::{
    AttachRequest, CgroupRef, Detach, Engine, Error, ErrorKind, Lifetime, Lock, ObjectSource,
    ProgramChoice, Result,
};
use crate::asm::{Builder, Cond, Insn, Label, Reg, Size, helper};
use crate::hook::HookSpec;
use crate::hook::kind::Returns;
use crate::id::{AttachmentId, CgroupId, InstanceId};
use crate::kernel::place;
use crate::object::image::{MapImage, ObjectImage, ProgramImage};

/// Cgroups that one event can be counted for at a time; more are counted as lost.
const CGROUPS_MAX: u32 = 16_384;

/// Hooks that are counted: for each cgroup one attachment a hook. They go with this value, or with
/// the process.
#[derive(Debug)]
pub(super) struct Hooks {
    engine: Engine,
    specs: Vec<HookSpec>,
    /// In the order of the cgroups that were asked for.
    cgroups: Vec<Vec<Counter>>,
    /// Events lost at each hook before the start.
    lost_before: u64,
    is_finished: bool,
}

#[derive(Debug)]
struct Counter {
    attachment: AttachmentId,
    counted: Counted,
}

/// Where the program counts. Ours, not the attachment's runs: those go when its cgroup does.
#[derive(Debug)]
enum Counted {
    /// A per-CPU word.
    Together(Map),
    /// A per-CPU word for each cgroup, and a word for what found no room.
    ByCgroup { counts: Map, full: Map },
}

impl Counted {
    /// The program's maps, by their index.
    fn maps(&self) -> Vec<(&'static str, &Map)> {
        match self {
            Self::Together(count) => vec![("count", count)],
            Self::ByCgroup { counts, full } => vec![("counts", counts), ("lost", full)],
        }
    }
}

/// What the hooks of one cgroup counted, one number a hook.
pub(super) struct HookCounts {
    /// Descendants included.
    pub totals: Vec<u64>,
    /// Each cgroup by itself; empty without `per_cgroup`.
    pub own: BTreeMap<CgroupId, Vec<u64>>,
}

/// The program that counts, in map 0.
fn counting(returns: Returns, nests: bool) -> Result<Vec<Insn>> {
    const KEY: i16 = -8;
    let mut b = Builder::new();
    let out = b.label();
    b.push(Insn::store_imm(Size::W, Reg::R10, KEY, 0))
        .call_map(0, KEY, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .increment_per_cpu(nests);
    end(b, out, returns)
}

/// The end of a program that counts: it changes nothing.
fn end(mut b: Builder, out: Label, returns: Returns) -> Result<Vec<Insn>> {
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, returns.neutral()))
        .push(Insn::exit());
    b.finish()
        .map_err(|e| Error::new(ErrorKind::Kernel, format!("cannot generate: {e}")))
}

/// The program that counts by the event's cgroup, in map 0; what finds no room is counted in the
/// first word of map 1.
fn counting_by_cgroup(returns: Returns, nests: bool) -> Result<Vec<Insn>> {
    const KEY: i16 = -8;
    const ZERO: i16 = -16;
    let mut b = Builder::new();
    let (found, full, out) = (b.label(), b.label(), b.label());
    let lookup = |b: &mut Builder| {
        b.call_map(0, KEY, helper::MAP_LOOKUP_ELEM);
    };
    b.push(Insn::call(helper::GET_CURRENT_CGROUP_ID))
        .push(Insn::store(Size::Dw, Reg::R10, KEY, Reg::R0));
    lookup(&mut b);
    b.jump_if_imm(Cond::Ne, Reg::R0, 0, found)
        .push(Insn::mov_imm(Reg::R1, 0))
        .push(Insn::store(Size::Dw, Reg::R10, ZERO, Reg::R1))
        .stack_address(Reg::R3, ZERO)
        .stack_address(Reg::R2, KEY)
        .extend(Insn::load_map(Reg::R1, 0))
        // BPF_NOEXIST: another CPU may have been first.
        .push(Insn::mov_imm(Reg::R4, 1))
        .push(Insn::call(helper::MAP_UPDATE_ELEM));
    lookup(&mut b);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, full);
    b.place(found).increment_per_cpu(nests).jump(out);
    b.place(full).increment(1, 0);
    end(b, out, returns)
}

fn program(event: &HookSpec, per_cgroup: bool) -> Result<ProgramImage> {
    let info = event.kind().info();
    let insns = if per_cgroup {
        counting_by_cgroup(info.returns, info.nests)?
    } else {
        counting(info.returns, info.nests)?
    };
    Ok(ProgramImage::generated("count", event, insns))
}

/// The maps of a counter.
fn maps(per_cgroup: bool) -> Result<Counted> {
    let make = |name, map_type, key_size, max_entries| {
        Map::create(&MapSpec {
            name,
            map_type,
            key_size,
            value_size: 8,
            max_entries,
            flags: 0,
        })
        .map_err(|e| Error::sys("make the counters", &e))
    };
    Ok(match per_cgroup {
        true => Counted::ByCgroup {
            counts: make("counts", MapType::PercpuHash, 8, CGROUPS_MAX)?,
            full: make("lost", MapType::Array, 4, 1)?,
        },
        false => Counted::Together(make("count", MapType::PercpuArray, 4, 1)?),
    })
}

impl Hooks {
    /// Starts counting `specs` in each of `cgroups`. Nothing is touched if there are none.
    pub fn start(
        engine: &Engine,
        cgroups: &[CgroupRef],
        specs: Vec<HookSpec>,
        per_cgroup: bool,
    ) -> Result<Self> {
        let mut hooks = Self {
            engine: engine.clone(),
            specs: specs.iter().map(place::one_name).collect(),
            cgroups: Vec::new(),
            lost_before: 0,
            is_finished: false,
        };
        for cgroup in cgroups {
            // What was started goes again with `hooks` if a later one fails.
            hooks.cgroups.push(Vec::new());
            for spec in hooks.specs.clone() {
                let counter = start_counter(engine, cgroup, &spec, per_cgroup)?;
                if let Some(last) = hooks.cgroups.last_mut() {
                    last.push(counter);
                }
            }
        }
        hooks.lost_before = hooks.lost_at_hooks()?;
        Ok(hooks)
    }

    fn session(&self) -> Result<Option<Session>> {
        if self.specs.is_empty() {
            return Ok(None);
        }
        Session::open(self.engine.state(), Lock::Shared, self.engine.hierarchy()?)
    }

    fn lost_at_hooks(&self) -> Result<u64> {
        let Some(session) = self.session()? else {
            return Ok(0);
        };
        lost_at(&session, |hook| self.specs.contains(&hook.spec))
    }

    /// What each cgroup that was asked for counted, and how many events were lost.
    pub fn read(&self) -> Result<(Vec<HookCounts>, u64)> {
        let mut lost = 0;
        let mut counts = Vec::new();
        for counters in &self.cgroups {
            counts.push(self.counts(counters, &mut lost)?);
        }
        let mut there = BTreeSet::new();
        if let Some(session) = self.session()? {
            for (id, hook) in &session.config.hooks {
                if self.specs.contains(&hook.spec) {
                    let counts = Counts::read(&session, *id, hook)?;
                    there.extend(hook.lists.attachments().map(|(_, a)| a.id));
                    lost += counts.lost + counts.recursion_misses;
                }
            }
        }
        let all = self.cgroups.iter().flatten();
        for gone in all.filter(|c| !there.contains(&c.attachment)) {
            tracing::warn!(
                "counter {} is not attached any more: somebody detached it, or its cgroup was removed; what \
                 it counted until then is shown, and what was lost there is not known",
                gone.attachment
            );
        }
        Ok((counts, lost.saturating_sub(self.lost_before)))
    }

    /// What the counters of a cgroup counted, one count an event. Adds what found no room to `lost`.
    fn counts(&self, counters: &[Counter], lost: &mut u64) -> Result<HookCounts> {
        let sys = |e: SysError| Error::sys("read the counters", &e);
        let word = |map: &Map, key: &[u8]| {
            let value = map.lookup(key).map_err(sys)?;
            Ok::<_, Error>(value.map_or(0, |value| sum_words(&value)))
        };
        let only = 0u32.to_ne_bytes();
        let mut of_all = HookCounts {
            totals: vec![0; counters.len()],
            own: BTreeMap::new(),
        };
        for (at, counter) in counters.iter().enumerate() {
            let (counts, full) = match &counter.counted {
                Counted::Together(count) => {
                    of_all.totals[at] = word(count, &only)?;
                    continue;
                }
                Counted::ByCgroup { counts, full } => (counts, full),
            };
            let no_room = word(full, &only)?;
            *lost += no_room;
            of_all.totals[at] = no_room;
            for key in counts.keys().map_err(sys)? {
                let id = key.as_slice().try_into().map(u64::from_ne_bytes);
                let count = word(counts, &key)?;
                of_all.totals[at] += count;
                let own = of_all.own.entry(CgroupId(id.unwrap_or_default()));
                own.or_insert_with(|| vec![0; counters.len()])[at] = count;
            }
        }
        Ok(of_all)
    }

    /// Stops counting.
    pub fn stop(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_finished, true) {
            return Ok(());
        }
        let ids: Vec<AttachmentId> = self
            .cgroups
            .iter()
            .flatten()
            .map(|c| c.attachment)
            .collect();
        // One whose cgroup went is detached already.
        for id in ids {
            match self.engine.detach(&Detach::Ids(vec![id])) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            tracing::warn!("the counters are still attached: {e}");
        }
    }
}

fn start_counter(
    engine: &Engine,
    cgroup: &CgroupRef,
    event: &HookSpec,
    per_cgroup: bool,
) -> Result<Counter> {
    let counted = maps(per_cgroup)?;
    let mut images = Vec::new();
    let mut fds: Vec<Option<OwnedFd>> = Vec::new();
    for (name, map) in counted.maps() {
        let image = MapImage::of(name, map);
        images.push(image.map_err(|e| Error::sys("look at a counter", &e))?);
        let fd = map
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::new(ErrorKind::Kernel, format!("cannot open a counter: {e}")))?;
        fds.push(Some(fd));
    }
    let loaded = Loaded {
        name: format!("cgtap stat {event}"),
        image: ObjectImage::generated("cgtap_stat", images, vec![program(event, per_cgroup)?]),
        maps: fds,
        chosen: vec![0],
        meter: None,
    };
    let request = AttachRequest {
        programs: vec![ProgramChoice {
            name: "count".to_owned(),
            hook: Some(event.clone()),
        }],
        lifetime: Lifetime::Process,
        ..AttachRequest::new(cgroup.clone(), ObjectSource::Instance(InstanceId(0)))
    };
    let report = engine.attach_loaded(&[request], loaded)?;
    let attachment = report.attachments.first().map_or(AttachmentId(0), |a| a.id);
    Ok(Counter {
        attachment,
        counted,
    })
}
