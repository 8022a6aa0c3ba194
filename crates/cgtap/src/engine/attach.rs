//! Attaching: which programs, at which hooks, by the rules, as the kernel allows.

use std::collections::BTreeSet;

use cgtap_sys::Errno;
use cgtap_sys::bpf::ProgType;

use super::Engine;
use super::detach::refuse_limits;
use super::error::{Error, ErrorKind, Result};
use super::feed::say_unread;
use super::instance::{Loaded, Source, instance_of, load};
use super::report::{AttachReport, AttachedReport};
use super::request::{AttachRequest, Lifetime, ProgramChoice};
use super::session::Session;
use super::workshop::Workshop;
use crate::attach::{self, Anchor, RuleError};
use crate::cgroup::Cgroup;
use crate::hook::kind::KindInfo;
use crate::hook::{HookSpec, Scope};
use crate::id::{AttachmentId, CgroupId, InstanceId, ProgramId};
use crate::kernel::target::Target;
use crate::kernel::{anchor, scope, target};
use crate::near;
use crate::store::config::{CgroupRecord, Config, HookId, HookRecord, MemberRecord};

/// A program and the hook it is to run at.
pub(super) struct Job {
    pub(super) program: ProgramId,
    pub(super) spec: HookSpec,
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
        self.attach_source(&[request], source)
    }

    /// Attaches an object that was made, not read: all that is asked for, or nothing.
    pub(super) fn attach_loaded(
        &self,
        requests: &[AttachRequest],
        loaded: Loaded,
    ) -> Result<AttachReport> {
        self.attach_source(requests, Source::New(Box::new(loaded)))
    }

    fn attach_source(&self, requests: &[AttachRequest], source: Source) -> Result<AttachReport> {
        let hierarchy = self.hierarchy()?;
        let cgroups = (requests.iter())
            .map(|r| super::find_cgroup(&hierarchy, &r.cgroup))
            .collect::<Result<Vec<_>>>()?;
        let mut session = Session::create(self.state(), hierarchy)?;
        say_unread(&session.follow_paths());
        let asked: Vec<_> = requests.iter().zip(&cgroups).collect();
        let report = session.change_or_go(|session| attach_in(session, &asked, source))?;
        let attached = &report.attachments;
        if attached.iter().any(|a| a.hook.mapped().is_some()) {
            say_unread(&self.follow_now());
        }
        Ok(report)
    }
}

/// A rule's refusal, with names for what the rule knows by number.
pub(super) fn rule(config: &Config, asked: &str, error: &RuleError) -> Error {
    const NAME: &str = "cgroup ";
    let text = error.to_string();
    let (mut words, mut rest) = (String::new(), text.as_str());
    while let Some(at) = rest.find(NAME) {
        let (before, after) = rest.split_at(at + NAME.len());
        let end = after.find(|c: char| !c.is_ascii_digit());
        let (id, behind) = after.split_at(end.unwrap_or(after.len()));
        let known = id
            .parse()
            .ok()
            .and_then(|id| config.cgroups.get(&CgroupId(id)));
        words += before;
        words += known.map_or(id, |record| &record.path);
        rest = behind;
    }
    words += rest;
    let errno = Errno(error.errno().number());
    Error::new(
        ErrorKind::Rule,
        format!("cannot {asked}: {words} ({errno})"),
    )
    .with_errno(errno)
}

/// Does what is asked for, each in its cgroup, with the programs of one source.
fn attach_in(
    session: &mut Session,
    asked: &[(&AttachRequest, &Cgroup)],
    source: Source,
) -> Result<AttachReport> {
    let mut next = session.config.clone();
    for (request, _) in asked {
        refuse_limits(&next, request.replace.as_slice(), "replace")?;
    }
    let is_kept = |(r, _): &(&AttachRequest, _)| r.lifetime == Lifetime::Pinned;
    if asked.iter().all(is_kept)
        && let Source::New(loaded) = &source
        && let Some(record) = &loaded.meter
    {
        super::meter::make_way(session, &mut next, &record.name)?;
    }
    let (instance, chosen, fresh) = instance_of(session, &mut next, source)?;
    let mut report = AttachReport {
        instance,
        attachments: Vec::new(),
    };
    let mut seen = BTreeSet::new();
    for (request, cgroup) in asked {
        remember(session, &mut next, cgroup)?;
        for job in jobs(&next, instance, &chosen, &request.programs, &request.scope)? {
            // What the caller saw is the list before the call, not between two of its programs.
            let is_first = seen.insert((cgroup.id, job.spec.clone()));
            let attached = attach_one(session, &mut next, &job, request, cgroup, is_first)?;
            report.attachments.push(attached);
        }
    }
    if fresh && report.attachments.is_empty() {
        return Err(Error::new(
            ErrorKind::Object,
            "the object has no program that can be attached",
        ));
    }
    session.apply(next)?;
    Ok(report)
}

/// Puts one program on the list of a cgroup in `next`, as the rules and the kernel allow.
pub(super) fn attach_one(
    session: &Session,
    next: &mut Config,
    job: &Job,
    request: &AttachRequest,
    cgroup: &Cgroup,
    is_first: bool,
) -> Result<AttachedReport> {
    let (hook, spec) = hook_for(next, &job.spec)?;
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
            next,
            &format!("attach {name} to {spec} in {}", cgroup.path),
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
        let owner = session.gate_for_this_process(next)?;
        next.owners.insert(id, owner);
    }
    check(
        session,
        next,
        hook,
        MemberRecord {
            attachment: id,
            program: job.program,
            cookie: request.cookie,
            cgroup: cgroup.id,
            gate: None,
        },
    )?;
    Ok(AttachedReport {
        id: attached.id,
        program: name,
        hook: spec,
        cgroup: cgroup.path.clone(),
        mode: request.mode,
    })
}

/// Records the cgroup and its ancestors.
pub(super) fn remember(session: &Session, next: &mut Config, cgroup: &Cgroup) -> Result<()> {
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
pub(super) fn jobs(
    config: &Config,
    instance: InstanceId,
    chosen: &[u32],
    choices: &[ProgramChoice],
    scope: &Scope,
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
        let mut spec = hook_of(at, given)?;
        if *scope != Scope::Current {
            spec = spec.with_scope(scope.clone());
        }
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
                            near::hint(&choice.name, &names),
                            names.join(", ")
                        ),
                    )
                    .with_errno(Errno::ENOENT)
                })?;
            job(at, choice.hook.as_ref())
        })
        .collect()
}

/// The record of a hook, made if nothing is attached there yet; its spec is the one name of its
/// place.
fn hook_for(next: &mut Config, spec: &HookSpec) -> Result<(HookId, HookSpec)> {
    // Also of one that has just lost its last attachment in this change something is in the kernel.
    let active = |next: &Config, spec: &HookSpec| {
        let Some((id, record)) = next.hook(spec) else {
            return Ok(None);
        };
        let has_sets = record.all_sets().next().is_some();
        if !record.is_active() && !has_sets {
            return Ok(None);
        }
        is_there(record).map(|()| Some(id))
    };
    if let Some(id) = active(next, spec)? {
        return Ok((id, spec.clone()));
    }
    let (spec, target) = target::resolve(spec)?;
    if let Some(id) = active(next, &spec)? {
        return Ok((id, spec));
    }
    let scope = scope::resolve(&spec, &target)?;
    let turns = !anchor::takes_jumps(&Target {
        spec: &spec,
        info: &target,
    })?;
    let mut record = HookRecord::new(spec.clone(), target, scope, turns);
    // Of one that nothing is attached to any more its lists go on. Where it is may have changed since: a
    // program that was updated, a module that was loaded again.
    let known = next
        .hook(&spec)
        .map(|(id, known)| (id, known.lists.clone()));
    let id = match known {
        Some((id, lists)) => {
            record.lists = lists;
            id
        }
        None => {
            let id = HookId(next.next.hook);
            next.next.hook += 1;
            id
        }
    };
    next.hooks.insert(id, record);
    Ok((id, spec))
}

/// A hook at a path stands in the file that is there now, which it has followed by then; or that file has no
/// such place, and what is attached would see none of those that are started from now on.
fn is_there(record: &HookRecord) -> Result<()> {
    if let Some(last) = record.left_behind() {
        last.find_again(&record.spec, last.number)?;
    }
    Ok(())
}

/// Whether a program that was written for hooks of one kind may be tried at one of another: both
/// have to give it the same context.
fn may_run(own: &KindInfo, at: &KindInfo) -> bool {
    own.prog_type == at.prog_type
        && (own.prog_type != ProgType::Tracing || own.attach_type == at.attach_type)
}

/// Asks the kernel about a program at a hook, once an instance.
pub(super) fn check(
    session: &Session,
    next: &mut Config,
    hook: HookId,
    member: MemberRecord,
) -> Result<()> {
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
    if let Ok(own) = HookSpec::kind_of_section(&known.section)
        && !may_run(own.info(), kind)
    {
        return Err(Error::new(
            ErrorKind::Hook,
            format!(
                "cannot attach {} to {spec}: its section `{}` makes it a program for {} hooks",
                known.name,
                known.section,
                own.info().prefix
            ),
        )
        .with_errno(Errno::EINVAL));
    }
    // What a program may read at its hook hangs on no scope.
    let place = spec.without_scope();
    if known.verdicts.iter().any(|(s, _)| *s == place) {
        return Ok(());
    }
    let verdict = Workshop::new(session).try_alone(next, hook, record, &member)?;
    if let Some(program) = next
        .instances
        .get_mut(&member.program.instance)
        .and_then(|i| i.programs.get_mut(member.program.index as usize))
    {
        program.verdicts.push((place, verdict));
    }
    Ok(())
}
