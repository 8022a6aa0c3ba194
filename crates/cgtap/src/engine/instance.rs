//! Instances: an object that is loaded once, its maps and its image pinned.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use cgtap_sys::bpf::{Map, Prog, ProgSpec, ProgType, pin};
use cgtap_sys::{Errno, SysError};

use super::error::{Error, ErrorKind, Result};
use super::request::{ObjectSource, ProgramChoice};
use super::session::Session;
use crate::asm::{encode, helper};
use crate::hook::HookSpec;
use crate::id::InstanceId;
use crate::kernel::target::{self, Target};
use crate::meter::record::MeterRecord;
use crate::object::image::ObjectImage;
use crate::object::{self, LoadOptions};
use crate::store::config::{Config, InstanceRecord, MapRecord, ProgramRecord, StorageRecord};
use crate::store::{blob, pins};

/// An object that is relocated and has its maps, but is not in the state yet.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) image: ObjectImage,
    pub(super) maps: Vec<Option<OwnedFd>>,
    /// Programs that are attached if none is named.
    pub(super) chosen: Vec<u32>,
    /// What it counts, if it is a meter.
    pub(super) meter: Option<MeterRecord>,
}

/// What programs are taken from.
pub(super) enum Source {
    New(Box<Loaded>),
    Known(InstanceId),
}

/// Reads the object, or takes the instance that is named.
pub(super) fn load(source: &ObjectSource, choices: &[ProgramChoice]) -> Result<Source> {
    let names = || choices.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let read = |options: &LoadOptions, programs: Option<Vec<String>>| {
        let options = LoadOptions {
            programs,
            ..options.clone()
        };
        match source {
            ObjectSource::File { path, .. } => object::load_file(path, &options),
            ObjectSource::Bytes { elf, .. } => object::load(elf, &options),
            ObjectSource::Instance(_) => object::load(&[], &options),
        }
    };
    let options = match source {
        ObjectSource::Instance(id) => return Ok(Source::Known(*id)),
        ObjectSource::File { path, set } => LoadOptions {
            name: path.display().to_string(),
            programs: None,
            set: set.clone(),
        },
        ObjectSource::Bytes { name, set, .. } => LoadOptions {
            name: name.clone(),
            programs: None,
            set: set.clone(),
        },
    };
    // All that can be scoped is kept, so that more of the instance can be attached later; what
    // libbpf does not take that way, or names nobody would guess, is asked for by name.
    let named = !choices.is_empty();
    let loaded = match read(&options, None) {
        Ok(all) if !named => all,
        Ok(all)
            if names()
                .iter()
                .all(|n| all.image.programs.iter().any(|p| p.name == *n)) =>
        {
            all
        }
        Err(e) if !named => return Err(e.into()),
        _ => read(&options, Some(names()))?,
    };
    for skipped in &loaded.skipped {
        tracing::info!("{skipped:?}");
    }
    Ok(Source::New(Box::new(Loaded {
        name: options.name,
        image: loaded.image,
        maps: loaded.maps,
        chosen: loaded.chosen,
        meter: None,
    })))
}

/// The instance to attach from: the one named, or a new one, pinned.
pub(super) fn instance_of(
    session: &Session,
    next: &mut Config,
    source: Source,
) -> Result<(InstanceId, Vec<u32>, bool)> {
    let loaded = match source {
        Source::New(loaded) => loaded,
        Source::Known(id) => {
            let record = next.instances.get(&id).ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("there is no instance {id}; `cgtap maps` shows those there are"),
                )
                .with_errno(Errno::ENOENT)
            })?;
            return Ok((id, (0..record.programs.len() as u32).collect(), false));
        }
    };
    let id = InstanceId(next.next.instance);
    next.next.instance += 1;
    let record = store_instance(session, id, &loaded)?;
    next.instances.insert(id, record);
    Ok((id, loaded.chosen, true))
}

/// Pins the maps and the image of a new instance.
fn store_instance(session: &Session, id: InstanceId, loaded: &Loaded) -> Result<InstanceRecord> {
    let Loaded {
        name,
        image,
        maps: fds,
        ..
    } = loaded;
    let sys = |what: &str| {
        let what = format!("{what} of {name}");
        move |e: SysError| Error::sys(what, &e)
    };
    for dir in [pins::map_dir(id), pins::storage_dir(id)] {
        session.dir.make_dir(&dir)?;
    }
    let mut taken = BTreeSet::new();
    let mut maps = Vec::new();
    for (map, fd) in image.maps.iter().zip(fds) {
        let record = match (map.storage, fd) {
            (Some(kind), _) => MapRecord {
                name: map.name.clone(),
                map_type: map.map_type,
                pin: None,
                storage: Some(StorageRecord {
                    per_cpu: kind.per_cpu,
                    per_hook: kind.per_hook,
                    value_size: map.value_size,
                }),
            },
            (None, Some(fd)) => {
                let pin_name = pins::clean_name(&map.name, &mut taken);
                pin(fd, &session.path(&pins::map(id, &pin_name))).map_err(sys("pin a map"))?;
                MapRecord {
                    name: map.name.clone(),
                    map_type: map.map_type,
                    pin: Some(pin_name),
                    storage: None,
                }
            }
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Object,
                    format!("map {} was not made", map.name),
                ));
            }
        };
        maps.push(record);
    }
    blob::write(&session.path(&pins::image(id)), "cgtap_image", image).map_err(|e| match e {
        blob::BlobError::Sys(e) => sys("keep the image")(e),
        other => Error::new(
            ErrorKind::State,
            format!("cannot keep the image of {name}: {other}"),
        ),
    })?;
    fill_prog_arrays(image, fds)?;
    let programs = image.programs.iter().map(|p| ProgramRecord {
        name: p.name.clone(),
        section: p.section.clone(),
        verdicts: Vec::new(),
    });
    Ok(InstanceRecord {
        object: name.clone(),
        programs: programs.collect(),
        maps,
        meter: loaded.meter.clone(),
    })
}

/// Puts the programs that the object names as first entries of its PROG_ARRAYs there. They are
/// reached from members only, so they need no place of their own.
fn fill_prog_arrays(image: &ObjectImage, fds: &[Option<OwnedFd>]) -> Result<()> {
    if image.prog_array_slots.is_empty() {
        return Ok(());
    }
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Verifier,
            format!("cannot fill a PROG_ARRAY with {what}: {e}"),
        )
    };
    let btf = if image.btf.is_empty() {
        None
    } else {
        Some(cgtap_sys::bpf::load_btf(&image.btf).map_err(|e| failed("its programs", &e))?)
    };
    for slot in &image.prog_array_slots {
        let (Some(program), Some(Some(map))) = (
            image.programs.get(slot.program as usize),
            fds.get(slot.map as usize),
        ) else {
            continue;
        };
        let kind = HookSpec::kind_of_section(&program.section);
        let info = kind.map_err(|e| failed(&program.name, &e))?.info();
        // Only typed programs are loaded for one hook; the others need not name any.
        let is_typed = matches!(info.prog_type, ProgType::Tracing | ProgType::Lsm);
        let resolved = match HookSpec::from_section(&program.section) {
            Ok(Some(spec)) if is_typed => Some(target::resolve(&spec)?),
            Ok(None) if is_typed => {
                return Err(failed(&program.name, &"its section names no hook"));
            }
            _ => None,
        };
        let at = resolved.as_ref().map(|(spec, info)| Target { spec, info });
        let attach_btf = at
            .map(|at| at.load_btf())
            .transpose()
            .map_err(|e| failed(&program.name, &e))?
            .flatten();
        let code = crate::dispatch::specialise::code_of(program);
        if code.calls(helper::GET_ATTACH_COOKIE) {
            // Whose tail call it was it cannot know: the array is the instance's, a cookie an attachment's.
            return Err(failed(
                &program.name,
                &"it calls bpf_get_attach_cookie(), which has no answer behind a tail call here; pass the \
                  cookie on in a map, or on the stack of a subprogram",
            ));
        }
        let borrowed: Vec<_> = fds
            .iter()
            .map(|fd| fd.as_ref().map(std::os::fd::AsFd::as_fd))
            .collect::<Option<_>>()
            .ok_or_else(|| failed(&program.name, &"cgroup storage cannot be used there"))?;
        let prog = Prog::load(&ProgSpec {
            name: &program.name,
            prog_type: info.prog_type,
            attach_type: info.attach_type,
            flags: 0,
            license: &image.license,
            kern_version: image.kern_version,
            insns: &encode(&code.insns),
            maps: &borrowed,
            btf: btf.as_ref().map(std::os::fd::AsFd::as_fd),
            func_info: &program
                .func_info
                .iter()
                .map(|f| [f.insn_off, f.type_id])
                .collect::<Vec<_>>(),
            line_info: &program
                .line_info
                .iter()
                .map(|l| [l.insn_off, l.file_name_off, l.line_off, l.line_col])
                .collect::<Vec<_>>(),
            attach_btf_id: at.map_or(0, |at| at.load_btf_id()),
            attach_btf: attach_btf.as_ref().map(std::os::fd::AsFd::as_fd),
        })
        .map_err(|e| failed(&program.name, &e).with_log(e.log))?;
        let copy = map.try_clone().map_err(|e| failed(&program.name, &e))?;
        Map::from_fd(copy)
            .and_then(|m| m.set_prog(slot.slot, std::os::fd::AsFd::as_fd(&prog)))
            .map_err(|e| failed(&program.name, &e))?;
    }
    Ok(())
}
