//! Updating in place.

use cgtap_sys::Errno;

use super::Engine;
use super::attach::{Job, check, jobs, rule};
use super::detach::{no_attachment, refuse_limits};
use super::error::{Error, ErrorKind, Result};
use super::feed::say_unread;
use super::instance::{Source, instance_of, load};
use super::report::{AttachReport, AttachedReport};
use super::request::{ProgramChoice, ReplaceRequest};
use super::session::Session;
use crate::hook::HookSpec;
use crate::id::{InstanceId, ProgramId};
use crate::kernel::place;
use crate::store::config::{Config, MemberRecord};

impl Engine {
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
        say_unread(&session.follow_paths());
        session.change(|session| replace_in(session, &request, source))
    }
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
    refuse_limits(&next, &[request.id], "replace")?;
    let (instance, chosen, _) = instance_of(session, &mut next, source)?;
    let spec = next
        .hooks
        .get(&hook)
        .map(|h| h.spec.clone())
        .ok_or_else(|| no_attachment(request.id))?;
    let fitting = match &request.program {
        Some(name) => {
            let choice = ProgramChoice {
                name: name.clone(),
                hook: Some(spec.clone()),
            };
            jobs(&next, instance, &chosen, &[choice], spec.scope())?
        }
        None => fitting(&next, instance, &chosen, &spec),
    };
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

/// The programs whose sections say that they are for the hook; if none does, those that are for its
/// kind and leave open where.
fn fitting(config: &Config, instance: InstanceId, chosen: &[u32], spec: &HookSpec) -> Vec<Job> {
    let programs = config
        .instances
        .get(&instance)
        .map_or(&[][..], |i| &i.programs);
    let with = |fits: &dyn Fn(&str) -> bool| -> Vec<Job> {
        (chosen.iter())
            .filter(|at| {
                programs
                    .get(**at as usize)
                    .is_some_and(|p| fits(&p.section))
            })
            .map(|at| Job {
                program: ProgramId {
                    instance,
                    index: *at,
                },
                spec: spec.clone(),
            })
            .collect()
    };
    let named = with(&|section| {
        HookSpec::from_section(section)
            .ok()
            .flatten()
            .is_some_and(|own| stands_at(&own, spec))
    });
    if !named.is_empty() {
        return named;
    }
    with(&|section| {
        matches!(HookSpec::from_section(section), Ok(None))
            && HookSpec::kind_of_section(section).is_ok_and(|kind| kind == spec.kind())
    })
}

/// A section names its hook in any of the ways there are, a binary by any of its paths; `spec` is
/// the one name of its place.
fn stands_at(own: &HookSpec, spec: &HookSpec) -> bool {
    place::one_name(own).with_scope(spec.scope().clone()) == *spec
}
