//! From a meter on this kernel to an object: programs, and the maps that they share.

use std::os::fd::OwnedFd;

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapSpec, MapType, map_flags};

use super::program::{CodeError, Plan, generate};
use super::resolved::{Job, Program, Resolved};
use super::shape::{
    CHAINS, CLIENTS, GRAVE_BYTES, GRAVES, LABEL_SETS, NOTES, OTHER_WORD, RESOURCES, Shape, Sink,
    client, control, maps, note,
};
use super::written::Meter;
use super::{bury, chain};
use crate::asm::{Insn, text};
use crate::budget::{denial, reserve, words};
use crate::hook::HookSpec;
use crate::kernel::layout::Layout;
use crate::kernel::read::Access;
use crate::object::image::{MapImage, ObjectImage, ProgramImage};

/// A program of a meter, and where it goes.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its name in the object.
    pub name: String,
    /// Its hook.
    pub hook: HookSpec,
    /// It has to see the events of all cgroups, wherever the meter is enabled.
    pub at_root: bool,
    /// Its code; maps by their place in [`super::shape::maps`].
    pub insns: Vec<Insn>,
}

/// Generates the programs of a meter.
///
/// # Errors
/// [`CodeError`], or in words if the hook for cgroups that go is not there.
pub fn programs(
    layout: &Layout,
    access: Access,
    with_current_table: bool,
    resolved: &Resolved,
    shape: &Shape,
    sink: &Sink,
) -> Result<Vec<Placed>, CodeError> {
    let plan = Plan {
        layout,
        access,
        with_current_table,
        shape,
        sink,
    };
    let mut placed = Vec::new();
    for (at, program) in resolved.programs.iter().enumerate() {
        let neutral = program.hook.kind().info().returns.neutral();
        placed.push(Placed {
            name: name(program, at),
            hook: program.hook.clone(),
            at_root: program.sees_all(),
            insns: generate(plan, program, neutral)?,
        });
    }
    let followers = match sink {
        Sink::Usage => vec![("bury", bury::HOOK, bury::generate(layout, shape)?)],
        Sink::Budgets(_) => vec![
            ("heir", chain::MADE, chain::at_mkdir(layout)?),
            ("bury", chain::REMOVED, chain::at_rmdir(layout)?),
        ],
    };
    for (name, hook, insns) in followers {
        if let Ok(hook) = hook.parse() {
            placed.push(Placed {
                name: name.to_owned(),
                hook,
                at_root: true,
                insns,
            });
        }
    }
    Ok(placed)
}

fn name(program: &Program, at: usize) -> String {
    match program.job {
        Job::Note { .. } => format!("note_{at}"),
        Job::Charge { .. } => format!("charge_{at}"),
    }
}

/// The maps of a meter, in the order of [`super::shape::maps`].
fn specs(meter: &Meter, shape: &Shape, sink: &Sink) -> Vec<(String, MapSpec<'static>)> {
    let room = meter.room;
    let spec = |name: &'static str, map_type, key_size, value_size, max_entries| {
        let spec = MapSpec {
            name,
            map_type,
            key_size,
            value_size,
            max_entries,
            // All entries are made now: none is allocated in an event.
            flags: 0,
        };
        (name.to_owned(), spec)
    };
    let names: &[&'static str] = match sink {
        Sink::Usage => &maps::NAMES_OF_USAGE,
        Sink::Budgets(_) => &maps::NAMES_OF_BUDGETS,
    };
    let at = |place: u32, map_type, key_size, value_size, max_entries| {
        let name = names[place as usize];
        spec(name, map_type, key_size, value_size, max_entries)
    };
    let mut all = vec![
        at(
            maps::CONTROL,
            MapType::Array,
            4,
            control::WORDS as u32 * 8,
            1,
        ),
        at(maps::GONE, MapType::LruHash, 8, 8, GRAVES * 4),
        at(maps::BUSY, MapType::Hash, 8, 8, RESOURCES),
        at(maps::CURRENT, MapType::Array, 4, 8, 1),
    ];
    match sink {
        Sink::Usage => all.extend([
            at(
                maps::USAGE,
                MapType::Hash,
                shape.key_bytes(),
                shape.bytes,
                room,
            ),
            at(maps::ZERO, MapType::Array, 4, shape.bytes, 1),
            at(
                maps::LABELS,
                MapType::Hash,
                shape.label_bytes(),
                8,
                LABEL_SETS * 2,
            ),
            at(
                maps::LABEL_LIST,
                MapType::Array,
                4,
                shape.label_bytes(),
                LABEL_SETS,
            ),
            at(maps::GRAVES, MapType::Array, 4, GRAVE_BYTES, GRAVES),
        ]),
        Sink::Budgets(_) => {
            let (name, mut chains) = at(maps::CHAINS, MapType::Hash, 8, 8, CHAINS);
            // Entries are made by cgroups that are, not by events.
            chains.flags = map_flags::NO_PREALLOC;
            let (noted, mut reserved) = at(
                maps::RESERVED,
                MapType::Hash,
                8,
                reserve::BYTES,
                reserve::NOTES,
            );
            // Hardly ever more than a few, and of most values none.
            reserved.flags = map_flags::NO_PREALLOC;
            all.extend([
                (name, chains),
                at(maps::BUDGETS, MapType::Array, 4, words::ALL_BYTES, 1),
                at(maps::DENIALS, MapType::Array, 4, denial::BYTES as u32, 1),
                (noted, reserved),
            ]);
        }
    }
    for number in 0..shape.notes {
        let bytes = note::WORDS as u32 * 8;
        let (_, spec) = spec(
            "note",
            MapType::LruHash,
            super::written::KEYS_MAX as u32 * 8,
            bytes,
            NOTES,
        );
        all.push((format!("note_{number}"), spec));
    }
    if meter.source.is_some() {
        let key = client::KEY_BYTES;
        let value = client::value_bytes(shape.forms.len());
        all.push(spec("clients", MapType::Hash, key, value, CLIENTS));
    }
    all
}

/// What the maps of a meter are called, by their place in its programs' lists.
#[must_use]
pub fn map_names(meter: &Meter, shape: &Shape) -> Vec<String> {
    let specs = specs(meter, shape, &Sink::Usage).into_iter();
    specs.map(|(name, _)| name).collect()
}

/// The code of a program as people read it; `maps` are their names.
#[must_use]
pub fn listing(layout: &Layout, maps: &[String], placed: &Placed) -> String {
    let maps: Vec<&str> = maps.iter().map(String::as_str).collect();
    let cast = layout.cast.as_ref();
    let kfuncs: Vec<(i32, &str)> = cast
        .map(|c| (c.rdonly_cast_id, "bpf_rdonly_cast"))
        .into_iter()
        .collect();
    text::listing(&placed.insns, &maps, &kfuncs)
}

/// Maps that a meter shares with others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared<'a> {
    /// The table of the addresses of `current`.
    pub current: Option<&'a Map>,
    /// The budgets of the state, and its denials.
    pub budgets: Option<(&'a Map, &'a Map)>,
}

/// Makes the maps of a meter.
///
/// # Errors
/// The kernel's answer.
pub fn make_maps(
    meter: &Meter,
    shape: &Shape,
    sink: &Sink,
    shared: Shared<'_>,
) -> Result<Vec<(MapImage, OwnedFd)>, SysError> {
    let mut made = Vec::new();
    let is_budgets = *sink != Sink::Usage;
    for (at, (name, spec)) in specs(meter, shape, sink).into_iter().enumerate() {
        let map = match (at as u32, shared.current, shared.budgets) {
            (maps::CURRENT, Some(table), _) => table.try_clone()?,
            (maps::BUDGETS, _, Some((budgets, _))) if is_budgets => budgets.try_clone()?,
            (maps::DENIALS, _, Some((_, denials))) if is_budgets => denials.try_clone()?,
            (maps::CONTROL, ..) => make_control(&spec)?,
            (maps::LABEL_LIST, ..) if !is_budgets => make_label_list(&spec, shape)?,
            _ => Map::create(&spec)?,
        };
        let image = MapImage::of(&name, &map)?;
        made.push((image, map.into()));
    }
    Ok(made)
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// The control words, which user space maps. The first of the labels is `other`, which needs no
/// finding.
fn make_control(spec: &MapSpec<'_>) -> Result<Map, SysError> {
    let map = Map::create(&MapSpec {
        flags: map_flags::MMAPABLE,
        ..*spec
    })?;
    let mut words = [0u64; control::WORDS];
    words[control::LABELS] = 1;
    map.update(&0u32.to_ne_bytes(), &bytes(&words))?;
    Ok(map)
}

fn make_label_list(spec: &MapSpec<'_>, shape: &Shape) -> Result<Map, SysError> {
    let map = Map::create(spec)?;
    let other = vec![OTHER_WORD; shape.label_words.max(1)];
    map.update(&0u32.to_ne_bytes(), &bytes(&other))?;
    Ok(map)
}

/// The object that these programs and maps are.
#[must_use]
pub fn object(placed: &[Placed], maps: Vec<MapImage>) -> ObjectImage {
    let program = |p: &Placed| ProgramImage::generated(&p.name, &p.hook, p.insns.clone());
    let programs = placed.iter().map(program).collect();
    ObjectImage::generated("cgtap_meter", maps, programs)
}
