//! Attaching, replacing and detaching.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use cgtap_sys::bpf::{Map, Prog, ProgSpec, pin};
use cgtap_sys::libbpf::Btf;
use cgtap_sys::{Errno, SysError};

use super::Engine;
use super::error::{Error, ErrorKind, Result};
use super::report::{AttachReport, AttachedReport, DetachReport};
use super::request::{
    AttachRequest, Detach, Lifetime, ObjectSource, ProgramChoice, ReplaceRequest,
};
use super::session::Session;
use super::workshop::Workshop;
use crate::asm::encode;
use crate::attach::{self, Anchor, RuleError};
use crate::cgroup::Cgroup;
use crate::hook::{HookKind, HookSpec};
use crate::id::{AttachmentId, InstanceId, ProgramId};
use crate::kernel::tracepoint;
use crate::object::image::ObjectImage;
use crate::object::{self, LoadOptions};
use crate::store::config::{
    CgroupRecord, Config, HookId, HookRecord, InstanceRecord, MapRecord, MemberRecord,
    ProgramRecord, StorageRecord, TargetRecord,
};
use crate::store::{blob, pins};

/// An object that is relocated and has its maps, but is not in the state yet.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) image: ObjectImage,
    pub(super) maps: Vec<Option<OwnedFd>>,
    /// Programs that are attached if none is named.
    pub(super) chosen: Vec<u32>,
}

/// What programs are taken from.
enum Source {
    New(Box<Loaded>),
    Known(InstanceId),
}

/// A program and the hook it is to run at.
struct Job {
    program: ProgramId,
    spec: HookSpec,
}

impl Engine {
    /// Attaches programs to a cgroup, all or none.
    ///
    /// # Errors
    /// [`Error`]: a rule of attaching (S2-S7, S16-S19), a hook or cgroup that is not there, an
    /// object that cannot be read, a program that the kernel refuses at that hook (S31). Nothing
    /// has changed then (S10).
    pub fn attach(&self, request: AttachRequest) -> Result<AttachReport> {
        let source = load(&request.source, &request.programs)?;
        self.attach_source(&request, source)
    }

    /// Attaches an object that was made, not read.
    pub(super) fn attach_loaded(
        &self,
        request: &AttachRequest,
        loaded: Loaded,
    ) -> Result<AttachReport> {
        self.attach_source(request, Source::New(Box::new(loaded)))
    }

    fn attach_source(&self, request: &AttachRequest, source: Source) -> Result<AttachReport> {
        let hierarchy = self.hierarchy()?;
        let cgroup = super::find_cgroup(&hierarchy, &request.cgroup)?;
        let session = Session::create(self.state(), hierarchy)?;
        session.change_or_go(|session| attach_in(session, request, source, &cgroup))
    }

    /// Puts another program in the place of an attached one (S20). Position, id and cookie stay;
    /// every event sees one or the other.
    ///
    /// # Errors
    /// [`Error`]: ENOENT or ENOLINK for an attachment that is not there (any more), EPERM if
    /// another program than the expected one is there, or what [`Engine::attach`] says.
    pub fn replace(&self, request: ReplaceRequest) -> Result<AttachReport> {
        let choice: Vec<ProgramChoice> = request
            .program
            .iter()
            .map(|name| ProgramChoice {
                name: name.clone(),
                hook: None,
            })
            .collect();
        let source = load(&request.source, &choice)?;
        let hierarchy = self.hierarchy()?;
        let mut session = Session::open(self.state(), super::Lock::Exclusive, hierarchy)?
            .ok_or_else(|| no_attachment(request.id))?;
        session.change(|session| replace_in(session, &request, source))
    }

    /// Detaches. When this returns, what was detached does not run any more anywhere.
    ///
    /// # Errors
    /// [`Error`]: EINVAL if nothing is named, ENOENT for something that is not attached (S8).
    /// Nothing has changed then.
    pub fn detach(&self, what: &Detach) -> Result<DetachReport> {
        if matches!(what, Detach::Ids(ids) if ids.is_empty()) {
            return Err(Error::new(
                ErrorKind::Rule,
                format!("name what is to be detached ({})", Errno::EINVAL),
            )
            .with_errno(Errno::EINVAL));
        }
        let hierarchy = self.hierarchy()?;
        let cgroup = match what {
            Detach::Cgroup(reference, _) => Some(super::find_cgroup(&hierarchy, reference)?),
            _ => None,
        };
        if *what == Detach::All {
            return self.detach_all(hierarchy);
        }
        let Some(mut session) = Session::open(self.state(), super::Lock::Exclusive, hierarchy)?
        else {
            return Err(nothing_attached(what));
        };
        session.change(|session| {
            let gone = select(&session.config, what, cgroup.as_ref())?;
            let mut next = session.config.clone();
            for id in &gone {
                let Some((hook, cgroup, _)) = next.find(*id).map(|(h, c, a)| (h, c, *a)) else {
                    return Err(no_attachment(*id));
                };
                if let Some(hook) = next.hooks.get_mut(&hook) {
                    hook.lists
                        .detach(cgroup, Some(Anchor::Id(*id)), None)
                        .map_err(|e| rule(&session.config, "detach", &e))?;
                }
            }
            let before: BTreeSet<InstanceId> = session.config.instances.keys().copied().collect();
            session.apply(next)?;
            let left = &session.config.instances;
            Ok(DetachReport {
                detached: gone,
                instances_unloaded: before
                    .into_iter()
                    .filter(|i| !left.contains_key(i))
                    .collect(),
            })
        })
    }

    /// Everything, and the state with it; also one that cannot be read any more.
    fn detach_all(&self, hierarchy: crate::cgroup::Hierarchy) -> Result<DetachReport> {
        match Session::open(self.state(), super::Lock::Exclusive, hierarchy) {
            Ok(None) => {}
            Ok(Some(session)) => {
                let ids =
                    |h: &HookRecord| h.lists.attachments().map(|(_, a)| a.id).collect::<Vec<_>>();
                let report = DetachReport {
                    detached: session.config.hooks.values().flat_map(ids).collect(),
                    instances_unloaded: session.config.instances.keys().copied().collect(),
                };
                session.destroy()?;
                return Ok(report);
            }
            Err(e) if e.kind() == ErrorKind::State => tracing::warn!("{e}"),
            Err(e) => return Err(e),
        }
        // A directory that is ours by its names, whatever is in it.
        if let Some(dir) = crate::store::dir::StateDir::open(self.state(), super::Lock::Exclusive)?
        {
            dir.sweep(&BTreeSet::new())?;
            dir.remove_itself()?;
        }
        Ok(DetachReport::default())
    }
}

fn no_attachment(id: AttachmentId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no attachment {id}; `cgtap list` shows those there are"),
    )
    .with_errno(Errno::ENOENT)
}

fn nothing_attached(what: &Detach) -> Error {
    match what {
        Detach::Ids(ids) if !ids.is_empty() => no_attachment(ids[0]),
        _ => Error::new(ErrorKind::NotFound, "nothing is attached there").with_errno(Errno::ENOENT),
    }
}

/// Which attachments `what` names.
fn select(config: &Config, what: &Detach, cgroup: Option<&Cgroup>) -> Result<Vec<AttachmentId>> {
    let all = config.hooks.values().flat_map(|hook| {
        hook.lists
            .attachments()
            .map(move |(cgroup, a)| (&hook.spec, cgroup, a))
    });
    let gone: Vec<AttachmentId> = match what {
        Detach::Ids(ids) => {
            let mut seen = BTreeSet::new();
            return Ok(ids.iter().copied().filter(|id| seen.insert(*id)).collect());
        }
        Detach::Cgroup(_, hook) => all
            .filter(|(_, at, _)| cgroup.is_some_and(|c| c.id == *at))
            .filter(|(spec, _, _)| hook.as_ref().is_none_or(|h| h == *spec))
            .map(|(_, _, a)| a.id)
            .collect(),
        Detach::Instance(id) => all
            .filter(|(_, _, a)| a.program.instance == *id)
            .map(|(_, _, a)| a.id)
            .collect(),
        Detach::All => all.map(|(_, _, a)| a.id).collect(),
    };
    if gone.is_empty() {
        Err(nothing_attached(what))
    } else {
        Ok(gone)
    }
}

/// A rule's refusal, with names for what the rule knows by number.
fn rule(config: &Config, asked: &str, error: &RuleError) -> Error {
    let mut words = error.to_string();
    for (id, record) in &config.cgroups {
        words = words.replace(&format!("cgroup {id}"), &format!("cgroup {}", record.path));
    }
    let errno = Errno(error.errno().number());
    Error::new(
        ErrorKind::Rule,
        format!("cannot {asked}: {words} ({errno})"),
    )
    .with_errno(errno)
}

fn load(source: &ObjectSource, choices: &[ProgramChoice]) -> Result<Source> {
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
    })))
}

fn attach_in(
    session: &mut Session,
    request: &AttachRequest,
    source: Source,
    cgroup: &Cgroup,
) -> Result<AttachReport> {
    let mut next = session.config.clone();
    let (instance, chosen, fresh) = instance_of(session, &mut next, source)?;
    remember(session, &mut next, cgroup)?;
    let jobs = jobs(&next, instance, &chosen, &request.programs)?;
    if fresh && jobs.is_empty() {
        return Err(Error::new(
            ErrorKind::Object,
            "the object has no program that can be attached",
        ));
    }
    let mut report = AttachReport {
        instance,
        attachments: Vec::new(),
    };
    let mut seen = BTreeSet::new();
    for job in &jobs {
        let hook = hook_for(&mut next, &job.spec)?;
        // What the caller saw is the list before the call, not between two of its programs.
        let is_first = seen.insert(hook);
        let id = AttachmentId(next.next.attachment);
        next.next.attachment += 1;
        let asked = attach::AttachRequest {
            preorder: request.preorder,
            cookie: request.cookie,
            place: request.place,
            replace: request.replace.map(Anchor::Id),
            expect_revision: request.expect_revision.filter(|_| is_first),
            ..attach::AttachRequest::new(cgroup.id, job.program, id, request.mode)
        };
        let name = next.program_name(job.program);
        let refused = |e: &RuleError| {
            rule(
                &next,
                &format!("attach {name} to {} in {}", job.spec, cgroup.path),
                e,
            )
        };
        let mut lists = next
            .hooks
            .get(&hook)
            .map(|h| h.lists.clone())
            .unwrap_or_default();
        let attached = lists
            .attach(&next.cgroups, asked)
            .map_err(|e| refused(&e))?;
        if let Some(record) = next.hooks.get_mut(&hook) {
            record.lists = lists;
        }
        if request.lifetime == Lifetime::Process {
            let owner = session.gate_for_this_process(&next)?;
            next.owners.insert(id, owner);
        }
        report.attachments.push(AttachedReport {
            id: attached.id,
            program: name,
            hook: job.spec.clone(),
            cgroup: cgroup.path.clone(),
            mode: request.mode,
        });
        check(
            session,
            &mut next,
            hook,
            MemberRecord {
                attachment: id,
                program: job.program,
                cookie: request.cookie,
                cgroup: cgroup.id,
                gate: None,
            },
        )?;
    }
    session.apply(next)?;
    Ok(report)
}

fn replace_in(
    session: &mut Session,
    request: &ReplaceRequest,
    source: Source,
) -> Result<AttachReport> {
    let mut next = session.config.clone();
    let Some((hook, cgroup, old)) = next.find(request.id).map(|(h, c, a)| (h, c, *a)) else {
        // Ids are given in order: one that was given belonged to something that is gone.
        let given = request.id.0 < next.next.attachment && request.id.0 > 0;
        let errno = if given { Errno::ENOLINK } else { Errno::ENOENT };
        let mut error = no_attachment(request.id).with_errno(errno);
        if given {
            error = Error::new(
                ErrorKind::Rule,
                format!(
                    "cannot replace attachment {}: it was detached, or its cgroup was removed \
                     ({errno})",
                    request.id
                ),
            )
            .with_errno(errno);
        }
        return Err(error);
    };
    let (instance, chosen, _) = instance_of(session, &mut next, source)?;
    let spec = next
        .hooks
        .get(&hook)
        .map(|h| h.spec.clone())
        .ok_or_else(|| no_attachment(request.id))?;
    let choice: Vec<ProgramChoice> = match &request.program {
        Some(name) => vec![ProgramChoice {
            name: name.clone(),
            hook: Some(spec.clone()),
        }],
        None => Vec::new(),
    };
    let fitting: Vec<Job> = jobs(&next, instance, &chosen, &choice)?
        .into_iter()
        .filter(|j| j.spec == spec)
        .collect();
    let [job] = fitting.as_slice() else {
        return Err(Error::new(
            ErrorKind::Object,
            format!(
                "{} programs of the object are for {spec}; name one with --program",
                fitting.len()
            ),
        )
        .with_errno(Errno::EINVAL));
    };
    let record = next
        .hooks
        .get_mut(&hook)
        .ok_or_else(|| no_attachment(request.id))?;
    record
        .lists
        .update(request.id, job.program, request.expect)
        .map_err(|e| {
            rule(
                &session.config,
                &format!("replace attachment {}", request.id),
                &e,
            )
        })?;
    let mode = record.lists.own(cgroup).map(|l| l.mode).unwrap_or_default();
    check(
        session,
        &mut next,
        hook,
        MemberRecord {
            attachment: request.id,
            program: job.program,
            cookie: old.cookie,
            cgroup,
            gate: None,
        },
    )?;
    let report = AttachReport {
        instance,
        attachments: vec![AttachedReport {
            id: request.id,
            program: next.program_name(job.program),
            hook: spec,
            cgroup: next.path(cgroup),
            mode,
        }],
    };
    session.apply(next)?;
    Ok(report)
}

/// The instance to attach from: the one named, or a new one, pinned.
fn instance_of(
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
    let vmlinux = Btf::vmlinux().ok();
    for slot in &image.prog_array_slots {
        let (Some(program), Some(Some(map))) = (
            image.programs.get(slot.program as usize),
            fds.get(slot.map as usize),
        ) else {
            continue;
        };
        let spec = HookSpec::from_section(&program.section).ok().flatten();
        let Some(spec) = spec else {
            return Err(failed(&program.name, &"its section names no hook"));
        };
        let info = spec.kind().info();
        let attach_btf_id = match (info.attach_type, &vmlinux) {
            (cgtap_sys::bpf::AttachType::None, _) | (_, None) => 0,
            (_, Some(btf)) => tracepoint::raw(btf, spec.name())?.typedef_id,
        };
        let code = crate::dispatch::specialise::code_of(program);
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
            attach_btf_id,
        })
        .map_err(|e| failed(&program.name, &e).with_log(e.log))?;
        let copy = map.try_clone().map_err(|e| failed(&program.name, &e))?;
        Map::from_fd(copy)
            .and_then(|m| m.set_prog(slot.slot, std::os::fd::AsFd::as_fd(&prog)))
            .map_err(|e| failed(&program.name, &e))?;
    }
    Ok(())
}

/// Records the cgroup and its ancestors.
fn remember(session: &Session, next: &mut Config, cgroup: &Cgroup) -> Result<()> {
    let mut chain = vec![cgroup.clone()];
    for id in &cgroup.ancestors {
        if let Some(known) = next.cgroups.get(id) {
            let path = known.path.clone();
            chain.push(Cgroup {
                id: *id,
                path,
                ancestors: Vec::new(),
            });
        } else {
            chain.push(session.hierarchy.by_id(*id)?);
        }
    }
    for (at, link) in chain.iter().enumerate() {
        let parent = chain.get(at + 1).map(|c| c.id);
        next.cgroups.entry(link.id).or_insert_with(|| CgroupRecord {
            path: link.path.clone(),
            parent,
        });
    }
    Ok(())
}

/// Which programs are to run where.
fn jobs(
    config: &Config,
    instance: InstanceId,
    chosen: &[u32],
    choices: &[ProgramChoice],
) -> Result<Vec<Job>> {
    let programs = config
        .instances
        .get(&instance)
        .map_or(&[][..], |i| &i.programs);
    let hook_of = |at: usize, given: Option<&HookSpec>| -> Result<HookSpec> {
        if let Some(spec) = given {
            return Ok(spec.clone());
        }
        let program = &programs[at];
        match HookSpec::from_section(&program.section) {
            Ok(Some(spec)) => Ok(spec),
            Ok(None) => Err(Error::new(
                ErrorKind::Hook,
                format!(
                    "program {name} (section `{section}`) names no hook; say which with \
                     --program {name}@HOOK",
                    name = program.name,
                    section = program.section
                ),
            )
            .with_errno(Errno::EINVAL)),
            Err(e) => Err(
                Error::new(ErrorKind::Hook, format!("program {}: {e}", program.name))
                    .with_errno(Errno::EINVAL),
            ),
        }
    };
    let job = |at: usize, given: Option<&HookSpec>| {
        let spec = hook_of(at, given)?;
        Ok(Job {
            program: ProgramId {
                instance,
                index: at as u32,
            },
            spec,
        })
    };
    if choices.is_empty() {
        return chosen.iter().map(|at| job(*at as usize, None)).collect();
    }
    choices
        .iter()
        .map(|choice| {
            let at = programs
                .iter()
                .position(|p| p.name == choice.name)
                .ok_or_else(|| {
                    let names: Vec<String> = programs.iter().map(|p| p.name.clone()).collect();
                    Error::new(
                        ErrorKind::NotFound,
                        format!(
                            "there is no program {} in it{}; it has {}",
                            choice.name,
                            tracepoint::hint(&choice.name, &names),
                            names.join(", ")
                        ),
                    )
                    .with_errno(Errno::ENOENT)
                })?;
            job(at, choice.hook.as_ref())
        })
        .collect()
}

/// The record of a hook, made if nothing is attached there yet.
fn hook_for(next: &mut Config, spec: &HookSpec) -> Result<HookId> {
    if let Some((id, _)) = next.hook(spec) {
        return Ok(id);
    }
    let target = match spec.kind() {
        HookKind::Tracepoint => TargetRecord {
            tracefs_id: tracepoint::classic_id(spec.target())?,
            ..TargetRecord::default()
        },
        _ => {
            let btf = Btf::vmlinux().map_err(|e| {
                Error::new(
                    ErrorKind::Unsupported,
                    format!("cannot read this kernel's BTF: {e}"),
                )
            })?;
            let raw = tracepoint::raw(&btf, spec.name())?;
            TargetRecord {
                attach_btf_id: raw.typedef_id,
                arg_count: raw.arg_count as u32,
                tracefs_id: 0,
            }
        }
    };
    let id = HookId(next.next.hook);
    next.next.hook += 1;
    next.hooks.insert(id, HookRecord::new(spec.clone(), target));
    Ok(id)
}

/// Asks the kernel about a program at a hook, once an instance.
fn check(session: &Session, next: &mut Config, hook: HookId, member: MemberRecord) -> Result<()> {
    let Some(record) = next.hooks.get(&hook) else {
        return Ok(());
    };
    let spec = record.spec.clone();
    let program = |config: &Config| {
        config
            .instances
            .get(&member.program.instance)
            .and_then(|i| i.programs.get(member.program.index as usize))
            .cloned()
    };
    let Some(known) = program(next) else {
        return Ok(());
    };
    let kind = spec.kind().info();
    if let Ok(Some(own)) = HookSpec::from_section(&known.section)
        && own.kind().info().prog_type != kind.prog_type
    {
        return Err(Error::new(
            ErrorKind::Hook,
            format!(
                "cannot attach {} to {spec}: its section `{}` makes it a program for {} hooks",
                known.name,
                known.section,
                own.kind().info().prefix
            ),
        )
        .with_errno(Errno::EINVAL));
    }
    if known.verdicts.iter().any(|(s, _)| *s == spec) {
        return Ok(());
    }
    let verdict = Workshop::new(session).try_alone(next, hook, record, &member)?;
    if let Some(program) = next
        .instances
        .get_mut(&member.program.instance)
        .and_then(|i| i.programs.get_mut(member.program.index as usize))
    {
        program.verdicts.push((spec, verdict));
    }
    Ok(())
}
