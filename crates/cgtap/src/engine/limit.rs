//! Limits: set, cleared, listed.
//!
//! A change of limits is one change of the state: what is to be charged and asked after it is worked
//! out ([`plan`]), programs that are missing are made beside the old ones, and all of it is published
//! with the record, or none. The words of the budgets follow the record ([`words`]).

mod ask;
mod birth;
mod chargers;
mod controllers;
mod freeze;
mod gates;
mod held;
mod pattern;
mod plan;
mod ready;
mod settle;
mod value;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use cgtap_sys::Errno;

use super::error::{Error, ErrorKind, Result};
use super::feed::say_unread;
use super::session::Session;
use super::{CgroupRef, Engine, Lock};
use crate::budget::rate::Rate;
use crate::cgroup::Cgroup;
use crate::id::{CgroupId, LimitId};
use crate::kernel;
use crate::limit::controller::Controller;
use crate::limit::record::{Action, Group, LimitRecord, Limits};
use crate::meter::library::Known;
use crate::store::config::Config;

pub use ask::{
    DenialReport, Denials, Explained, LimitReport, show_action, signal_name, signal_number,
};
pub use freeze::{Paced, Pacer};
pub use pattern::{PatternReport, PatternRequest};
pub(super) use plan::{forget, take_off_instance};

/// A limit that is asked for.
#[derive(Clone, Debug)]
pub struct LimitRequest {
    /// Of which cgroup, and all below it.
    pub cgroup: CgroupRef,
    /// The meter.
    pub meter: Known,
    /// Its value.
    pub value: String,
    /// Labels that events must have to count.
    pub labels: BTreeMap<String, String>,
    /// How much, in the value's unit.
    pub amount: u64,
    /// Each so long; none for in all.
    pub period: Option<Duration>,
    /// How much may gather while nobody uses it; as much as the amount if not given.
    pub burst: Option<u64>,
    /// What happens then; what clients bear best if not given.
    pub action: Option<Action>,
    /// Also with an errno at which clients try again for ever.
    pub force: bool,
    /// Hold it only while others of the same parent want their share.
    pub borrow: bool,
    /// A policy asks for it, and takes it away when it asks no more.
    pub policy: bool,
}

/// What is to become of limits, together.
#[derive(Clone, Debug, Default)]
pub struct LimitChange {
    /// Limits that are to be; one of the same cgroup, value and labels changes.
    pub set: Vec<LimitRequest>,
    /// Limits that are to go.
    pub clear: Vec<LimitId>,
    /// The limits of what is made later that there are to be, instead of those there are; none to leave
    /// them as they are.
    pub patterns: Option<Vec<PatternRequest>>,
}

impl LimitChange {
    /// All limits that are asked for.
    fn requests(&self) -> impl Iterator<Item = &LimitRequest> {
        let patterns = self.patterns.iter().flatten().map(|p| &p.limit);
        self.set.iter().chain(patterns)
    }
}

impl LimitRequest {
    /// So much in all of a value of a meter, whatever its labels; everything else as it is if nothing
    /// is said of it.
    #[must_use]
    pub fn new(cgroup: CgroupRef, meter: Known, value: &str, amount: u64) -> Self {
        Self {
            cgroup,
            meter,
            value: value.to_owned(),
            labels: BTreeMap::new(),
            amount,
            period: None,
            burst: None,
            action: None,
            force: false,
            borrow: false,
            policy: false,
        }
    }

    /// What is limited, as usage calls it.
    #[must_use]
    pub fn value_name(&self) -> String {
        self.meter.meter.value_name(&self.value)
    }

    /// The period in nanoseconds, as it is recorded.
    #[must_use]
    pub fn period_ns(&self) -> Option<u64> {
        let nanos = |period: Duration| u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        self.period.map(nanos)
    }

    /// How much may gather: what was said, or the amount.
    #[must_use]
    pub fn burst_or_amount(&self) -> u64 {
        let said = self.burst.filter(|_| self.period.is_some());
        said.unwrap_or(self.amount)
    }

    /// What it is of is read now and then, and charged then.
    fn is_read(&self) -> bool {
        self.meter.meter.source.is_some()
    }

    /// It takes a gate, or would.
    fn may_gate(&self) -> bool {
        let is_own = Controller::of_own(&self.value_name()).is_some();
        !is_own && matches!(self.action, None | Some(Action::Deny(_) | Action::Observe))
    }
}

/// Ways to a gate that are tried at the most.
const WAYS_MAX: usize = 4;

/// Another way to a gate may do better.
fn is_of_way(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::Verifier | ErrorKind::Hook
    )
}

fn wrong(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Rule, why).with_errno(Errno::EINVAL)
}

impl Engine {
    /// Sets and clears limits, all or none.
    ///
    /// # Errors
    /// [`Error`]: EINVAL for what cannot be limited so, ENOENT for a limit that is not there or a
    /// gate that this kernel lacks, ENOSPC when there are too many. Nothing has changed then.
    pub fn change_limits(&self, change: &LimitChange) -> Result<Vec<LimitReport>> {
        let _kept = kernel::keep();
        let mut last = None;
        for way in 0..WAYS_MAX {
            match self.try_limits(change, way) {
                Ok(ids) => {
                    say_unread(&self.follow_now());
                    let all = self.limits(None)?;
                    return Ok(all.into_iter().filter(|l| ids.contains(&l.id)).collect());
                }
                // The kernel has no such gate: it may have the next one.
                Err(e) if is_of_way(&e) && change.requests().any(LimitRequest::may_gate) => {
                    tracing::debug!("limits, way {way}: {e}: {}", e.log());
                    let is_end = value::is_last_way(change, way);
                    last.get_or_insert(e);
                    if is_end {
                        break;
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Err(match last {
            Some(e) => {
                let words = format!("{e}; --on freeze, signal:NAME and observe need no gate");
                e.with_message(words)
            }
            None => wrong("there is nothing to change"),
        })
    }

    /// Whether a limit could be set, whatever its cgroup, as far as that is told without loading
    /// anything; what would happen where it is reached.
    ///
    /// # Errors
    /// [`Error`] as [`Engine::change_limits`].
    pub fn check_limit(&self, request: &LimitRequest) -> Result<Action> {
        let _kept = kernel::keep();
        let mut first = None;
        for way in 0..WAYS_MAX {
            match look(request, way, &mut Looked::default()) {
                Ok((_, action)) => return Ok(action),
                Err(e) if is_of_way(&e) => first = first.or(Some(e)),
                Err(e) => return Err(e),
            }
        }
        Err(first.unwrap_or_else(|| wrong("there is nothing to limit")))
    }

    /// A cgroup that may be limited.
    ///
    /// # Errors
    /// [`Error`]: one that is not there, or the root.
    pub fn limitable(&self, cgroup: &CgroupRef) -> Result<Cgroup> {
        let found = self.cgroup(cgroup)?;
        check_cgroup(&found)?;
        Ok(found)
    }

    fn try_limits(&self, change: &LimitChange, way: usize) -> Result<Vec<LimitId>> {
        let hierarchy = self.hierarchy()?;
        let cgroups = (change.set.iter())
            .map(|r| super::find_cgroup(&hierarchy, &r.cgroup))
            .collect::<Result<Vec<_>>>()?;
        if change.requests().next().is_none() && !self.state().exists() {
            return Err(match change.clear.first() {
                Some(id) => no_limit(*id),
                None => wrong("there is nothing to change"),
            });
        }
        let mut session = Session::create(self.state(), hierarchy)?;
        say_unread(&session.follow_paths());
        let reads = change.requests().any(LimitRequest::is_read);
        session.change_or_go(|session| {
            if reads {
                // What was used up to now is charged to the limits there are.
                say_unread(&session.feed_limits());
            }
            let mut next = session.config.clone();
            for id in &change.clear {
                next.limits.limits.remove(id).ok_or_else(|| no_limit(*id))?;
            }
            let mut ids = Vec::new();
            let mut looked = Looked::default();
            for (request, cgroup) in change.set.iter().zip(&cgroups) {
                check_cgroup(cgroup)?;
                let (group, action) = look(request, way, &mut looked)?;
                let id = record(session, &mut next, request, cgroup, group, action)?;
                if ids.contains(&id) {
                    return Err(wrong(format!(
                        "{} of {} is limited twice in one change; keep one of them",
                        next.limits.name_of(id),
                        cgroup.path
                    )));
                }
                ids.push(id);
            }
            if let Some(patterns) = &change.patterns {
                pattern::record(session, &mut next, patterns, way)?;
            }
            session.lay_budgets(&next.limits)?;
            plan::reconcile(session, &mut next)?;
            session.write_new_budgets(&next.limits)?;
            session.show_homes(&next)?;
            session.write_controllers(&mut next.limits, &ids)?;
            session.apply(next)?;
            if let Err(e) = session.fill_limits() {
                session.unfinished(&e);
            }
            if reads {
                // What was used before now is nobody's; what is held is held.
                say_unread(&session.feed_limits());
            }
            Ok(ids)
        })
    }

    /// The limits of a cgroup, or all of them.
    ///
    /// # Errors
    /// [`Error`]: a cgroup that is not there, a state that cannot be read.
    pub fn limits(&self, cgroup: Option<&CgroupRef>) -> Result<Vec<LimitReport>> {
        let hierarchy = self.hierarchy()?;
        let asked = cgroup
            .map(|c| super::find_cgroup(&hierarchy, c))
            .transpose()?;
        let Some(session) = Session::open(self.state(), Lock::Shared, hierarchy)? else {
            return Ok(Vec::new());
        };
        // How limits stand is told all the same: whoever reads them may not be one who may thaw.
        if let Err(e) = session.thaw_forgotten() {
            tracing::warn!("{e}");
        }
        let mut reports = session.limit_reports()?;
        if let Some(asked) = asked {
            reports.retain(|r| r.cgroup_id == asked.id);
        }
        Ok(reports)
    }
}

impl Limits {
    fn name_of(&self, id: LimitId) -> String {
        let limit = self.limits.get(&id);
        let group = limit.and_then(|l| self.groups.get(&l.group));
        group.map_or_else(|| id.to_string(), Group::name)
    }
}

/// There is no such limit.
fn no_limit(id: LimitId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no limit {id}; `cgtap limit list` shows those there are"),
    )
    .with_errno(Errno::ENOENT)
}

fn check_cgroup(cgroup: &Cgroup) -> Result<()> {
    if cgroup.ancestors.is_empty() {
        return Err(wrong(format!(
            "the root cannot be limited: it holds this machine's own processes, and what would lift \
             the limit; limit a cgroup below it ({})",
            Errno::EINVAL
        )));
    }
    Ok(())
}

/// Groups that were worked out in one way: limits on many cgroups are of few.
#[derive(Default)]
struct Looked<'a>(Vec<(&'a LimitRequest, Action, Group)>);

impl<'a> Looked<'a> {
    fn group(
        &mut self,
        request: &'a LimitRequest,
        asked: &value::Asked<'_>,
        action: Action,
        way: usize,
    ) -> Result<Group> {
        let what = |r: &'a LimitRequest| (&r.meter.text, &r.value, &r.labels, r.force);
        let same = |known: &&(&'a LimitRequest, Action, Group)| {
            what(known.0) == what(request) && known.1 == action
        };
        if let Some((.., group)) = self.0.iter().find(same) {
            return Ok(group.clone());
        }
        let group = asked.group(action, way, request.force)?;
        self.0.push((request, action, group.clone()));
        Ok(group)
    }
}

/// What is limited, whatever the cgroup, and what happens then.
fn look<'a>(
    request: &'a LimitRequest,
    way: usize,
    looked: &mut Looked<'a>,
) -> Result<(Group, Action)> {
    let name = request.value_name();
    let asked = value::Asked::new(&request.meter, &request.value, &request.labels)?;
    let action = match request.action {
        Some(action) => action,
        None => asked.usual_action(),
    };
    check_rate(&name, request)?;
    if asked.is_gauge() && request.period.is_some() {
        return Err(wrong(format!(
            "{name} is what is held now and is given back: limit it to an amount, without a period"
        )));
    }
    if request.borrow && (action != Action::Freeze || request.period.is_none()) {
        return Err(wrong(format!(
            "{name}: only a rate that is held by freezing can be lent: write AMOUNT/PERIOD with \
             --on freeze, or leave --borrow out"
        )));
    }
    let group = looked.group(request, &asked, action, way)?;
    Ok((group, action))
}

fn check_rate(name: &str, request: &LimitRequest) -> Result<()> {
    match request.period_ns() {
        None if request.burst.is_some() => Err(wrong(format!(
            "{name}: a burst is what gathers from period to period, and there is no period"
        ))),
        None => Ok(()),
        Some(period_ns) => Rate::new(request.amount, period_ns)
            .map(drop)
            .map_err(|e| wrong(format!("{name}: {e}"))),
    }
}

/// Adds a limit to the record, or changes the one that is there.
fn record(
    session: &Session,
    next: &mut Config,
    request: &LimitRequest,
    cgroup: &Cgroup,
    group: Group,
    action: Action,
) -> Result<LimitId> {
    super::attach::remember(session, next, cgroup)?;
    let limits = &mut next.limits;
    // The same value may have been limited here in the other way.
    let here: Vec<LimitId> = limits
        .limits
        .iter()
        .filter(|(_, l)| l.cgroup == cgroup.id)
        .filter(|(_, l)| {
            limits.groups.get(&l.group).is_some_and(|g| {
                (&g.meter, &g.value, &g.labels) == (&group.meter, &group.value, &group.labels)
            })
        })
        .map(|(id, _)| *id)
        .collect();
    let number = limits.number_of(group);
    let period_ns = request.period_ns();
    let old = here.first().and_then(|id| limits.limits.get(id)).cloned();
    let is_kept = old.as_ref().is_some_and(|o| {
        let same_rate = period_ns.is_none() || o.amount == request.amount;
        o.group == number && o.period_ns == period_ns && same_rate
    });
    let slot = match &old {
        // What was used so far counts on.
        Some(old) if is_kept => old.slot,
        _ => free_slot(session, limits)?,
    };
    let id = match here.first() {
        Some(id) => *id,
        None => {
            limits.last_limit += 1;
            LimitId(limits.last_limit)
        }
    };
    limits.limits.insert(
        id,
        LimitRecord {
            cgroup: cgroup.id,
            group: number,
            amount: request.amount,
            period_ns,
            burst: request.burst_or_amount(),
            action,
            borrow: request.borrow,
            policy: request.policy,
            slot,
            held: old.filter(|o| o.action == action).and_then(|o| o.held),
        },
    );
    Ok(id)
}

/// A budget that no limit has.
fn free_slot(session: &Session, limits: &Limits) -> Result<u32> {
    limits.free_slot(&session.config.limits).ok_or_else(|| {
        Error::new(
            ErrorKind::Full,
            format!(
                "cannot set another limit: there are {} and a state has room for no more; clear \
                 some with `cgtap limit clear`",
                limits.limits.len()
            ),
        )
        .with_errno(Errno::ENOSPC)
    })
}

/// A cgroup and those above it, the nearest first.
fn path_up(config: &Config, from: CgroupId) -> Vec<CgroupId> {
    let mut all = vec![from];
    let mut at = from;
    while let Some(parent) = config.cgroups.get(&at).and_then(|c| c.parent) {
        all.push(parent);
        at = parent;
    }
    all
}
