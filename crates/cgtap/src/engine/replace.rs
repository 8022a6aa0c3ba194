//! Updating in place.

use cgtap_sys::Errno;

use super::Engine;
use super::attach::{Job, check, jobs, rule};
use super::detach::no_attachment;
use super::error::{Error, ErrorKind, Result};
use super::instance::{Source, instance_of, load};
use super::report::{AttachReport, AttachedReport};
use super::request::{ProgramChoice, ReplaceRequest};
use super::session::Session;
use crate::store::config::MemberRecord;

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
    let fitting: Vec<Job> = jobs(&next, instance, &chosen, &choice, spec.scope())?
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
