//! How the record becomes what its limits take: programs that charge, gates that ask, and what serves both.

use cgtap_sys::bpf::Map;

use super::super::CgroupRef;
use super::super::attach::{self, attach_one, remember};
use super::super::error::{Error, Result};
use super::super::instance::{Loaded, Source, instance_of};
use super::super::request::{AttachRequest, ObjectSource};
use super::super::session::Session;
use super::ready::Meters;
use super::words::PREFIX;
use super::{birth, chargers, gates, path_up, settle, wrong};
use crate::attach::Anchor;
use crate::budget::emit::LEVELS_MAX;
use crate::cgroup::Cgroup;
use crate::hook::HookSpec;
use crate::id::{AttachmentId, CgroupId, InstanceId, ProgramId};
use crate::limit::record::LimitRecord;
use crate::object::image::{MapImage, ObjectImage, ProgramImage};
use crate::store::config::Config;
use crate::store::pins;

/// Makes lists and instances of `next` what its limits take.
pub(super) fn reconcile(session: &Session, next: &mut Config) -> Result<()> {
    let mut meters = Meters::default();
    forget(next)?;
    check_levels(next)?;
    chargers::reconcile(session, next, &mut meters)?;
    birth::reconcile(session, next)?;
    settle::reconcile(session, next)?;
    gates::reconcile(session, next, &mut meters)
}

/// Takes away the programs that charge what nothing limits any more.
pub(in crate::engine) fn forget(next: &mut Config) -> Result<()> {
    for instance in next.limits.forget_groups() {
        take_off_instance(next, instance)?;
    }
    if !next.limits.has_places()
        && let Some(births) = next.limits.births.take()
    {
        take_off_instance(next, births.instance)?;
    }
    if next.limits.reserving().is_empty()
        && let Some(settler) = next.limits.settler.take()
    {
        take_off_instance(next, settler.instance)?;
    }
    Ok(())
}

fn check_levels(config: &Config) -> Result<()> {
    for limit in config.limits.limits.values() {
        let levels = chain(config, limit.group, limit.cgroup).len();
        if levels > LEVELS_MAX {
            return Err(wrong(format!(
                "{} would be the {levels}th limited cgroup above one another; there can be \
                 {LEVELS_MAX}",
                config.path(limit.cgroup)
            )));
        }
    }
    Ok(())
}

/// The limits of a group at a cgroup and above it, the nearest first.
pub(super) fn chain(config: &Config, group: u32, from: CgroupId) -> Vec<&LimitRecord> {
    path_up(config, from)
        .into_iter()
        .filter_map(|cgroup| config.limits.at(group, cgroup).map(|(_, l)| l))
        .collect()
}

pub(super) fn take_off(next: &mut Config, id: AttachmentId) -> Result<()> {
    let Some((hook, cgroup, _)) = next.find(id).map(|(h, c, a)| (h, c, *a)) else {
        return Ok(());
    };
    if let Some(record) = next.hooks.get_mut(&hook) {
        let gone = record.lists.detach(cgroup, Some(Anchor::Id(id)), None);
        gone.map_err(|e| wrong(format!("cannot take a program of limits away: {e}")))?;
    }
    Ok(())
}

pub(super) fn attached(
    config: &Config,
    instance: InstanceId,
) -> Vec<(AttachmentId, CgroupId, u32)> {
    config
        .hooks
        .values()
        .flat_map(|h| h.lists.attachments())
        .filter(|(_, a)| a.program.instance == instance)
        .map(|(cgroup, a)| (a.id, cgroup, a.program.index))
        .collect()
}

pub(in crate::engine) fn take_off_instance(next: &mut Config, instance: InstanceId) -> Result<()> {
    for (id, ..) in attached(next, instance) {
        take_off(next, id)?;
    }
    Ok(())
}

fn request() -> AttachRequest {
    AttachRequest::new(
        CgroupRef::Path("/".into()),
        ObjectSource::Instance(InstanceId(0)),
    )
}

pub(super) fn put(
    session: &Session,
    next: &mut Config,
    cgroup: &Cgroup,
    program: ProgramId,
    spec: &HookSpec,
    replace: Option<AttachmentId>,
) -> Result<AttachmentId> {
    remember(session, next, cgroup)?;
    let request = AttachRequest {
        replace,
        ..request()
    };
    let job = attach::Job {
        program,
        spec: spec.clone(),
    };
    Ok(attach_one(session, next, &job, &request, cgroup, true)?.id)
}

/// Makes an instance of generated programs and the maps that they share with others; `names` are that of
/// the instance and that of its object.
pub(super) fn install(
    session: &Session,
    next: &mut Config,
    names: (&str, &str),
    maps: Vec<(String, Map)>,
    programs: Vec<ProgramImage>,
) -> Result<InstanceId> {
    let images = maps.iter().map(|(name, map)| MapImage::of(name, map));
    let images = images
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| Error::sys("look at the maps of limits", &e))?;
    let loaded = Loaded {
        name: format!("{PREFIX}{}", names.0),
        image: ObjectImage::generated(names.1, images, programs),
        maps: maps.into_iter().map(|(_, map)| Some(map.into())).collect(),
        chosen: Vec::new(),
        meter: None,
    };
    let (instance, ..) = instance_of(session, next, Source::New(Box::new(loaded)))?;
    Ok(instance)
}

impl Session {
    /// The budgets and the denials of the state.
    pub(in crate::engine) fn budget_maps(&self) -> Result<(Map, Map)> {
        Ok((self.pinned(pins::BUDGETS)?, self.pinned(pins::DENIALS)?))
    }
}
