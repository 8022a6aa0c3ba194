//! Which programs charge budgets, and where: at the topmost limited cgroups of a group.

use std::collections::BTreeSet;

use super::super::error::{Error, Result};
use super::super::instance::{Loaded, Source, instance_of};
use super::super::meter::Compiled;
use super::super::session::Session;
use super::path_up;
use super::plan::{attached, put, take_off};
use super::ready::Meters;
use super::words::PREFIX;
use crate::id::{CgroupId, ProgramId};
use crate::kernel::read::Access;
use crate::limit::record::{Charger, Group, Reads, Way};
use crate::meter::image;
use crate::meter::record::MeterRecord;
use crate::meter::shape::{Shape, Sink};
use crate::store::config::Config;

/// Programs that charge budgets where the meters count.
pub(super) fn reconcile(session: &Session, next: &mut Config, meters: &mut Meters) -> Result<()> {
    let groups: Vec<u32> = next.limits.groups.keys().copied().collect();
    let root = session.hierarchy.by_path(std::path::Path::new("/"))?;
    for number in groups {
        let Some(group) = next.limits.groups.get(&number).cloned() else {
            continue;
        };
        if group.way != Way::After {
            continue;
        }
        let charger = match group.charger {
            Some(charger) => charger,
            None => make_charger(session, next, number, &group, meters)?,
        };
        let limited = (next.limits.limits.values()).filter(|l| l.group == number);
        let found = next.limits.patterns.iter().filter(|p| p.group == number);
        let limited: BTreeSet<CgroupId> = (limited.map(|l| l.cgroup))
            .chain(found.map(|p| p.anchor))
            .collect();
        let is_topmost = |cgroup: &CgroupId| {
            let above = &path_up(next, *cgroup)[1..];
            !above.iter().any(|c| limited.contains(c))
        };
        let topmost: Vec<CgroupId> = limited.iter().copied().filter(is_topmost).collect();
        let mut wanted: BTreeSet<(u32, CgroupId)> = BTreeSet::new();
        for (at, (_, at_root)) in charger.programs.iter().enumerate() {
            if *at_root {
                wanted.insert((at as u32, root.id));
            } else {
                wanted.extend(topmost.iter().map(|c| (at as u32, *c)));
            }
        }
        for (id, cgroup, index) in attached(next, charger.instance) {
            if !wanted.remove(&(index, cgroup)) {
                take_off(next, id)?;
            }
        }
        for (index, cgroup) in wanted {
            let cgroup = session.hierarchy.by_id(cgroup)?;
            let program = ProgramId {
                instance: charger.instance,
                index,
            };
            let spec = charger.programs[index as usize].0.clone();
            put(session, next, &cgroup, program, &spec, None)?;
        }
    }
    Ok(())
}

fn make_charger(
    session: &Session,
    next: &mut Config,
    number: u32,
    group: &Group,
    meters: &mut Meters,
) -> Result<Charger> {
    let ready = meters.of(number, group)?;
    let compiled = Compiled::of(&ready.meter, ready.resolved.clone())?.for_loading();
    let resolved = ready.resolved.only(ready.value);
    let shape = Shape::new(&ready.meter, &resolved);
    // Where a label begins among the words.
    let mut begin = 0;
    let mut firsts = Vec::new();
    for shown in &resolved.labels {
        firsts.push(begin);
        begin += crate::meter::resolved::words_of(shown);
    }
    let only = ready.only.iter().flat_map(|(label, words)| {
        let first = firsts[*label];
        words
            .iter()
            .enumerate()
            .map(move |(at, w)| (first + at, *w))
    });
    let only: Vec<(usize, u64)> = only.collect();
    let root = session.hierarchy.by_path(std::path::Path::new("/"))?.id;
    let reads = ready.meter.source.map(|source| Reads {
        meter: MeterRecord::new(&ready.meter, &resolved, &shape, root),
        source,
        value: ready.value,
        only: only.clone(),
    });
    let sink = Sink::Budgets(only);
    let access = compiled.ways().first().copied().unwrap_or(Access::Probe);
    let placed = compiled.programs_of(access, &resolved, &shape, &sink)?;
    let (budgets, denials) = session.budget_maps()?;
    let shared = image::Shared {
        current: compiled.current(),
        budgets: Some((&budgets, &denials)),
    };
    let made = image::make_maps(&ready.meter, &shape, &sink, shared)
        .map_err(|e| Error::sys(format!("make the maps of limits on {}", group.name()), &e))?;
    let (maps, fds) = made.into_iter().map(|(map, fd)| (map, Some(fd))).unzip();
    let loaded = Loaded {
        name: format!("{PREFIX}{}", group.name()),
        image: image::object(&placed, maps),
        maps: fds,
        chosen: Vec::new(),
        meter: None,
    };
    let (instance, ..) = instance_of(session, next, Source::New(Box::new(loaded)))?;
    let charger = Charger {
        instance,
        programs: placed.into_iter().map(|p| (p.hook, p.at_root)).collect(),
        reads,
    };
    if let Some(group) = next.limits.groups.get_mut(&number) {
        group.charger = Some(charger.clone());
    }
    Ok(charger)
}
