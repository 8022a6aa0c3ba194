//! What the child process does: libbpf from file to image.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsRawFd, OwnedFd};

use cgtap_sys::Errno;
use cgtap_sys::bpf::{CGRP_STORAGE, has_map_type, map_type_name};
use cgtap_sys::libbpf::{LibbpfError, MapDefinition, Object};
use serde::{Deserialize, Serialize};

use super::elf::Elf;
use super::error::Problem;
use super::image::{MapImage, ObjectImage, ProgArraySlot, ProgramImage};
use super::load::LoadOptions;
use super::prog_array::{NamedSlot, slots};
use super::select::{Selection, Skipped, select};
use super::storage;
use super::translate::translate;
use super::variables::set_all;
use super::verdict::verdict;

/// `BPF_MAP_TYPE_PROG_ARRAY`.
const PROG_ARRAY: u32 = 3;
/// `BPF_MAP_TYPE_STRUCT_OPS`.
const STRUCT_OPS: u32 = 26;

/// `BPF_MAP_TYPE_STACK_TRACE`.
const STACK_TRACE: u32 = 7;
/// Maps whose entries come and go with sockets, inodes, tasks and cgroups: they have no size.
const LOCAL_STORAGE: [u32; 4] = [24, 28, 29, CGRP_STORAGE];

/// What the child sends, beside the descriptors of the maps that have one, in order.
#[derive(Serialize, Deserialize)]
pub(super) struct Relocated {
    pub(super) image: ObjectImage,
    /// Which maps have a descriptor.
    pub(super) has_fd: Vec<bool>,
    /// The programs to attach, by index in the image; the others are only tail-called.
    pub(super) chosen: Vec<u32>,
    pub(super) skipped: Vec<Skipped>,
}

/// Opens, chooses, sets, prepares, translates. `name` is the object's name in the kernel.
pub(super) fn relocate(
    file: &[u8],
    name: &str,
    options: &LoadOptions,
) -> Result<(Relocated, Vec<OwnedFd>), Problem> {
    let elf = Elf::parse(file)?;
    if elf.section("maps").is_some() {
        return Err(Problem::Unsupported {
            what:
                "it has its maps in a section `maps`, the old form, which aya's and old bcc's have"
                    .to_owned(),
            remedy: "; maps of BTF, in `.maps`, can be".to_owned(),
        });
    }
    let mut object = Object::open(file.to_vec(), name).map_err(verdict)?;
    let programs = object.programs();
    let selection = select(&programs, options.programs.as_deref())?;
    let slots = object.with_btf(|btf| slots(&elf, btf)).unwrap_or_default();
    // Programs reached by tail calls are relocated too; those that turn out not to be reached
    // from a chosen one are dropped below.
    let wanted: Vec<bool> = programs
        .iter()
        .enumerate()
        .map(|(i, program)| {
            selection.chosen[i]
                || selection.unfit[i].is_none() && slots.iter().any(|s| s.program == program.name)
        })
        .collect();
    for (i, wanted) in wanted.iter().enumerate() {
        object.set_autoload(i, *wanted).map_err(verdict)?;
    }
    set_all(&mut object, &options.set)?;
    let defined = object.maps();
    let storages = prepare_maps(&mut object, &defined)?;
    object
        .prepare()
        .map_err(|error| unmade_map(&error, &defined).unwrap_or_else(|| verdict(error)))?;

    let (maps, fds, map_of) = created_maps(&object, &defined, storages)?;
    let btf = object.kernel_btf().map_err(verdict)?;
    let mut images = Vec::new();
    for (i, program) in programs.iter().enumerate() {
        if wanted[i]
            && let Some(prepared) = object.prepared(i)
        {
            let image = translate(program, prepared, &map_of, btf.is_some())?;
            images.push((selection.chosen[i], image));
        }
    }
    let (programs, prog_array_slots) = reachable(images, &maps, &slots);
    let has_fd = maps.iter().map(|map| map.storage.is_none()).collect();
    let Selection { skipped, .. } = selection;
    let relocated = Relocated {
        chosen: (0..)
            .zip(&programs)
            .filter(|(_, (chosen, _))| *chosen)
            .map(|(i, _)| i)
            .collect(),
        image: ObjectImage {
            name: name.to_owned(),
            license: elf.license().to_owned(),
            kern_version: object.kern_version(),
            btf: btf.unwrap_or_default(),
            maps,
            programs: programs.into_iter().map(|(_, image)| image).collect(),
            prog_array_slots,
        },
        has_fd,
        skipped,
    };
    Ok((relocated, fds))
}

/// The kind of each map's cgroup storage; those maps become stand-ins.
fn prepare_maps(
    object: &mut Object,
    defined: &[MapDefinition],
) -> Result<Vec<Option<super::image::StorageKind>>, Problem> {
    // Instances are apart: none shares a map with another by a name in /sys/fs/bpf.
    object.forget_pins();
    let mut storages = Vec::with_capacity(defined.len());
    for (i, map) in defined.iter().enumerate() {
        if map.map_type == STRUCT_OPS {
            return Err(Problem::Unsupported {
                what: format!("it implements kernel operations (struct_ops {})", map.name),
                remedy: "; load that with bpftool, and keep the programs to scope in an object \
                         of their own"
                    .to_owned(),
            });
        }
        let storage = storage::kind(map)?;
        if storage.is_some() {
            object
                .set_map_shape(i, storage::STAND_IN)
                .map_err(verdict)?;
        }
        storages.push(storage);
    }
    Ok(storages)
}

/// The problem of a map that the kernel did not make: its size is left to the object's own loader, or the
/// kernel has none of its kind.
fn unmade_map(error: &LibbpfError, defined: &[MapDefinition]) -> Option<Problem> {
    let map = defined.iter().find(|map| {
        let failed = format!("map '{}': failed to create", map.name);
        error.log.contains(&failed)
    })?;
    let attribute = if map.max_entries == 0 && !LOCAL_STORAGE.contains(&map.map_type) {
        "max_entries"
    } else if map.value_size == 0 && map.map_type == STACK_TRACE {
        "value_size"
    } else if error.errno == Errno::EINVAL && has_map_type(map.map_type) == Ok(false) {
        let remedy = match map.map_type {
            CGRP_STORAGE => {
                "it came with Linux 6.2; storage by bpf_get_local_storage() works on every kernel"
            }
            _ => "it takes a newer one, or one that is built with it",
        };
        return Some(Problem::UnknownMapKind {
            map: map.name.clone(),
            kind: map_type_name(map.map_type),
            remedy: remedy.to_owned(),
            errno: error.errno.0,
            log: error.log.clone(),
        });
    } else {
        return None;
    };
    Some(Problem::UnsizedMap {
        map: map.name.clone(),
        attribute: attribute.to_owned(),
        errno: error.errno.0,
        log: error.log.clone(),
    })
}

type Maps = (Vec<MapImage>, Vec<OwnedFd>, HashMap<i32, u32>);

/// The images of the maps, descriptors of those that are not storage, and the index of each map
/// by the descriptor that instructions name it by.
fn created_maps(
    object: &Object,
    defined: &[MapDefinition],
    storages: Vec<Option<super::image::StorageKind>>,
) -> Result<Maps, Problem> {
    let created = object.maps();
    let mut maps = Vec::with_capacity(defined.len());
    let mut fds = Vec::new();
    let mut map_of = HashMap::new();
    for (i, storage) in storages.into_iter().enumerate() {
        // libbpf completes definitions when it creates (a perf event array's size, for one).
        let map = if storage.is_some() {
            &defined[i]
        } else {
            &created[i]
        };
        let fd = object.map_fd(i).ok_or_else(|| Problem::Unsupported {
            what: format!("map {} is not created by libbpf", map.name),
            remedy: String::new(),
        })?;
        map_of.insert(fd.as_raw_fd(), i as u32);
        if storage.is_none() {
            fds.push(fd.try_clone_to_owned().map_err(|e| Problem::Child {
                reason: format!("cannot keep map {}: {e}", map.name),
                errno: e.raw_os_error(),
            })?);
        }
        maps.push(MapImage {
            name: section_name(map).to_owned(),
            map_type: map.map_type,
            key_size: map.key_size,
            value_size: map.value_size,
            max_entries: map.max_entries,
            storage,
        });
    }
    Ok((maps, fds, map_of))
}

/// A data section's map is `OBJECT.SECTION` for libbpf; here it is the section.
fn section_name(map: &MapDefinition) -> &str {
    match map.name.find('.') {
        Some(dot) if map.internal => map.name.get(dot..).unwrap_or(&map.name),
        _ => &map.name,
    }
}

/// The programs that are chosen or can be tail-called by one that stays, and the slots between
/// them.
fn reachable(
    images: Vec<(bool, ProgramImage)>,
    maps: &[MapImage],
    slots: &[NamedSlot],
) -> (Vec<(bool, ProgramImage)>, Vec<ProgArraySlot>) {
    let map_index = |name: &str| {
        maps.iter()
            .position(|map| map.name == name && map.map_type == PROG_ARRAY)
    };
    let mut kept: BTreeSet<usize> = (0..images.len()).filter(|i| images[*i].0).collect();
    let mut work: Vec<usize> = kept.iter().copied().collect();
    while let Some(from) = work.pop() {
        let used: BTreeSet<u32> = images[from]
            .1
            .insns
            .iter()
            .filter_map(|insn| insn.map_index())
            .collect();
        for slot in slots {
            let reached = map_index(&slot.map).is_some_and(|map| used.contains(&(map as u32)));
            let target = images.iter().position(|(_, p)| p.name == slot.program);
            if let Some(target) = target.filter(|_| reached)
                && kept.insert(target)
            {
                work.push(target);
            }
        }
    }
    let programs: Vec<_> = images
        .into_iter()
        .enumerate()
        .filter(|(i, _)| kept.contains(i))
        .map(|(_, image)| image)
        .collect();
    let slots = slots
        .iter()
        .filter_map(|slot| {
            Some(ProgArraySlot {
                map: map_index(&slot.map)? as u32,
                slot: slot.slot,
                program: programs.iter().position(|(_, p)| p.name == slot.program)? as u32,
            })
        })
        .collect();
    (programs, slots)
}

impl From<LibbpfError> for Problem {
    fn from(error: LibbpfError) -> Self {
        verdict(error)
    }
}
