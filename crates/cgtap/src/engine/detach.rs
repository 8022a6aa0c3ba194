//! Detaching.

use std::collections::BTreeSet;

use cgtap_sys::Errno;

use super::Engine;
use super::attach::rule;
use super::error::{Error, ErrorKind, Result};
use super::report::DetachReport;
use super::request::Detach;
use super::session::Session;
use crate::attach::Anchor;
use crate::cgroup::Cgroup;
use crate::id::{AttachmentId, InstanceId};
use crate::kernel::place;
use crate::store::config::{Config, HookRecord};

impl Engine {
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
            refuse_limits(&session.config, &gone, "detach")?;
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
            Err(e) if e.kind() == ErrorKind::State => tracing::warn!(
                "{e}; what limits of it froze, or wrote into files of cgroups, is left as it is"
            ),
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

/// Refuses to do `what` to programs that belong to limits.
pub(super) fn refuse_limits(config: &Config, ids: &[AttachmentId], what: &str) -> Result<()> {
    let is_of_limits = |id: &&AttachmentId| {
        let found = config.find(**id);
        found.is_some_and(|(_, _, attachment)| config.is_of_limits(attachment))
    };
    match ids.iter().find(is_of_limits) {
        None => Ok(()),
        Some(id) => Err(Error::new(
            ErrorKind::Rule,
            format!(
                "cannot {what} attachment {id}: it holds a limit; `cgtap limit clear` takes limits \
                 away ({})",
                Errno::EBUSY
            ),
        )
        .with_errno(Errno::EBUSY)),
    }
}

/// Nothing is attached under this id.
pub(super) fn no_attachment(id: AttachmentId) -> Error {
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
        Detach::Cgroup(_, hook) => {
            let filter = hook.clone().map(|h| h.map(place::one_name));
            all.filter(|(_, at, _)| cgroup.is_some_and(|c| c.id == *at))
                .filter(|(spec, _, _)| filter.as_ref().is_none_or(|h| h.matches(spec)))
                // Limits go by `limit clear`.
                .filter(|(_, _, a)| !config.is_of_limits(a))
                .map(|(_, _, a)| a.id)
                .collect()
        }
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
