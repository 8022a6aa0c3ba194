//! cgtap as it is used: attached by the engine, dispatched by its own dispatcher.

use std::path::Path;

use cgtap::attach::Mode;
use cgtap::engine::{AttachReport, AttachRequest, Engine, ObjectSource, ProgramChoice};
use cgtap::id::InstanceId;

use super::Offer;
use super::load::{bss, dispatcher};
use super::measure::Variant;
use crate::Result;
use crate::ground::{Ground, reference};

/// Names of the programs of `many` and `called`, in their order: octal, as the preprocessor
/// counts them.
pub fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| {
        if n < 8 {
            format!("count_0{n}")
        } else {
            format!("count_0{n:o}")
        }
    })
}

fn attach(
    engine: &Engine,
    dir: &Path,
    source: ObjectSource,
    programs: usize,
) -> Result<AttachReport> {
    let choices = names(programs)
        .map(|name| ProgramChoice { name, hook: None })
        .collect();
    let request = AttachRequest {
        programs: if programs == 0 { Vec::new() } else { choices },
        mode: Mode::Multi,
        ..AttachRequest::new(reference(dir), source)
    };
    Ok(engine.attach(request)?)
}

fn file(ground: &Ground, fixture: &str) -> Result<ObjectSource> {
    Ok(ObjectSource::File {
        path: ground.compile(fixture)?,
        set: Vec::new(),
    })
}

/// A state in which `fixture` is attached to one cgroup.
pub fn single(
    ground: &Ground,
    name: &str,
    cgroup: &Path,
    fixture: &str,
    programs: usize,
    per_call: u64,
) -> Result<Variant> {
    let (engine, state) = ground.engine()?;
    let report = attach(&engine, cgroup, file(ground, fixture)?, programs)?;
    let counts = bss(&engine, report.instance)?;
    let (prog, _) = dispatcher(&state)?;
    Ok(Variant::new(name, prog).counted(counts, per_call))
}

/// One program in each of `count` cgroups, `hot` being the `at`th.
fn containers(ground: &Ground, name: &str, hot: &Path, count: usize, at: usize) -> Result<Variant> {
    let (engine, state) = ground.engine()?;
    let mut instance: Option<InstanceId> = None;
    for number in 0..count {
        let cgroup = ground.cgroup(&format!("containers/{number}"))?;
        let cgroup = if number == at { hot } else { &cgroup };
        let source = match instance {
            Some(id) => ObjectSource::Instance(id),
            None => file(ground, "count")?,
        };
        instance = Some(attach(&engine, cgroup, source, 0)?.instance);
    }
    let counts = bss(&engine, instance.ok_or("no containers")?)?;
    let (prog, _) = dispatcher(&state)?;
    Ok(Variant::new(name, prog).counted(counts, 1))
}

/// `count` objects, each with a map of its own, on one cgroup.
fn objects(ground: &Ground, name: &str, hot: &Path, count: usize) -> Result<Variant> {
    let (engine, state) = ground.engine()?;
    let mut last = None;
    for _ in 0..count {
        last = Some(attach(&engine, hot, file(ground, "count")?, 0)?.instance);
    }
    let counts = bss(&engine, last.ok_or("no objects")?)?;
    let (prog, _) = dispatcher(&state)?;
    Ok(Variant::new(name, prog).counted(counts, 1))
}

/// The variants for a process in `hot`.
pub fn offers<'a>(ground: &'a Ground, hot: &'a Path, other: &'a Path) -> Vec<Offer<'a>> {
    let mut offers = vec![
        Offer::new("miss", move |name| {
            Ok(single(ground, name, other, "count", 0, 0)?.goal(1.15))
        }),
        Offer::new("hit, 1 program", move |name| {
            Ok(single(ground, name, hot, "count", 0, 1)?.goal(1.35))
        }),
        Offer::new("hit, 100 containers, the first", move |name| {
            Ok(containers(ground, name, hot, 100, 0)?.goal(1.4))
        }),
        Offer::new("hit, 100 containers, the last", move |name| {
            Ok(containers(ground, name, hot, 100, 99)?.goal(1.4))
        }),
        Offer::new("hit, 200 containers, the last", move |name| {
            containers(ground, name, hot, 200, 199)
        }),
    ];
    for count in [2, 8, 16, 32, 64] {
        offers.push(Offer::new(&format!("{count} effective"), move |name| {
            let variant = single(ground, name, hot, "many", count, count as u64)?;
            Ok(if count == 64 {
                variant.goal(6.0)
            } else {
                variant
            })
        }));
    }
    offers.push(Offer::new("64 effective, of 64 objects", move |name| {
        objects(ground, name, hot, 64)
    }));
    offers.push(Offer::new("64 effective, none inlinable", move |name| {
        single(ground, name, hot, "called", 64, 64)
    }));
    offers
}

/// The variants for a process at the end of a path of nested cgroups, when nothing is cached: the
/// program is attached this many levels above it.
pub fn uncached<'a>(ground: &'a Ground, path: &'a [std::path::PathBuf]) -> Vec<Offer<'a>> {
    let at = |above: usize| {
        Offer::new(&format!("hit, uncached, {above} up"), move |name| {
            let (engine, state) = ground.engine()?;
            let cgroup = path.get(path.len() - 1 - above).ok_or("not that deep")?;
            let report = attach(&engine, cgroup, file(ground, "count")?, 0)?;
            let counts = bss(&engine, report.instance)?;
            let (prog, words) = dispatcher(&state)?;
            let variant = Variant::new(name, prog).counted(counts, 1);
            Ok(Variant {
                uncached: Some(words),
                ..variant
            })
        })
    };
    vec![at(0), at(1), at(4), at(8)]
}
