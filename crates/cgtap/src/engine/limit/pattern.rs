//! Limits on patterns, for cgroups that come later: recorded, and told.

use std::collections::BTreeMap;

use cgtap_sys::Errno;
use serde::Serialize;

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::Session;
use super::super::usage::now;
use super::super::{Engine, Lock};
use super::ask::show_action;
use super::words::BudgetWords;
use super::{LimitRequest, Looked, free_slot, look, path_up, wrong};
use crate::budget::emit::LEVELS_MAX;
use crate::budget::places::{self, header};
use crate::budget::words::{Budget, word};
use crate::cgroup::pattern::Pattern;
use crate::limit::birth::PATTERNS_MAX;
use crate::limit::record::{Action, Limits, PatternRecord};
use crate::meter::usage::Unit;
use crate::store::config::Config;

/// A limit of each cgroup that a pattern matches when it is made.
#[derive(Clone, Debug)]
pub struct PatternRequest {
    /// The pattern.
    pub pattern: Pattern,
    /// The limit; its cgroup is not looked at.
    pub limit: LimitRequest,
}

/// A limit of what is made later, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PatternReport {
    /// The pattern, with a leading slash.
    pub pattern: String,
    /// What is limited.
    pub meter: String,
    /// Labels that events must have.
    pub labels: BTreeMap<String, String>,
    /// What it is of.
    pub unit: Unit,
    /// How much each cgroup has.
    pub amount: u64,
    /// Each so many nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_ns: Option<u64>,
    /// How much may gather.
    pub burst: u64,
    /// What happens then.
    pub on: String,
    /// Only while others want their share.
    pub borrow: bool,
    /// Places that are free for cgroups that come, of all patterns together.
    pub places_free: u64,
    /// Places that cgroups have.
    pub places_used: u64,
    /// Cgroups that ever found no place, of all patterns together: those of one pattern share one
    /// budget.
    pub places_short: u64,
    /// Cgroups that are held by what is above them alone, since there was no room to note more.
    pub lost: u64,
    /// What those that share have used.
    pub shared_used: u64,
    /// What is left for them.
    pub shared_left: i64,
}

impl PatternRequest {
    /// Why cgroups that come later are not limited by themselves; none if they are.
    #[must_use]
    pub fn obstacle(&self, engine: &Engine) -> Option<String> {
        let hierarchy = engine.hierarchy().ok()?;
        self.check(&hierarchy).err()
    }

    fn check(&self, hierarchy: &crate::cgroup::Hierarchy) -> std::result::Result<(), String> {
        if let Some(Action::Controller(controller)) = self.limit.action {
            return Err(format!("{} has to be written", controller.file()));
        }
        let anchor = self.pattern.anchor(hierarchy).map_err(|e| e.to_string())?;
        anchor.globs().map(drop)
    }
}

/// Records the patterns there are to be instead of those there were.
pub(super) fn record(
    session: &Session,
    next: &mut Config,
    asked: &[PatternRequest],
    way: usize,
) -> Result<()> {
    let before = std::mem::take(&mut next.limits.patterns);
    if asked.len() > PATTERNS_MAX {
        return Err(Error::new(
            ErrorKind::Full,
            format!(
                "cannot follow {} patterns; a state follows {PATTERNS_MAX}",
                asked.len()
            ),
        )
        .with_errno(Errno::ENOSPC));
    }
    let mut looked = Looked::default();
    for request in asked {
        let anchor = request.pattern.anchor(&session.hierarchy)?;
        request
            .check(&session.hierarchy)
            .map_err(|why| wrong(format!("cannot follow {}: {why}", request.pattern)))?;
        let (group, action) = look(&request.limit, way, &mut looked)?;
        super::super::attach::remember(session, next, &anchor.cgroup)?;
        let limits = &mut next.limits;
        let mut record = PatternRecord {
            number: 0,
            pattern: request.pattern.to_string(),
            anchor: anchor.cgroup.id,
            components: anchor.components,
            group: limits.number_of(group),
            amount: request.limit.amount,
            period_ns: request.limit.period_ns(),
            burst: request.limit.burst_or_amount(),
            action,
            borrow: request.limit.borrow,
            shared: 0,
        };
        match before.iter().find(|old| is_same(old, &record)) {
            Some(old) => (record.number, record.shared) = (old.number, old.shared),
            None => {
                limits.last_pattern += 1;
                record.number = limits.last_pattern;
                record.shared = free_slot(session, limits)?;
            }
        }
        limits.patterns.push(record);
        check_levels(next)?;
    }
    Ok(())
}

/// What was given out by one is as the other gives it out, but for its size.
fn is_same(old: &PatternRecord, new: &PatternRecord) -> bool {
    let rate = |p: &PatternRecord| p.period_ns.map(|ns| (ns, p.amount));
    (&old.pattern, old.anchor, old.group, rate(old))
        == (&new.pattern, new.anchor, new.group, rate(new))
}

/// Each cgroup from the anchor down may have a budget.
fn check_levels(config: &Config) -> Result<()> {
    for pattern in &config.limits.patterns {
        let above = super::plan::chain(config, pattern.group, pattern.anchor).len();
        let levels = above + pattern.components.len();
        if levels > LEVELS_MAX {
            return Err(wrong(format!(
                "{} may become the {levels}th limited cgroup above one another; there can be \
                 {LEVELS_MAX}",
                pattern.pattern
            )));
        }
    }
    Ok(())
}

impl Limits {
    /// Patterns of a group give budgets to cgroups at this one or below it.
    pub(super) fn is_found_at(&self, config: &Config, group: u32, at: crate::id::CgroupId) -> bool {
        let mut all = self.patterns.iter().filter(|p| p.group == group).peekable();
        if all.peek().is_none() {
            return false;
        }
        let way = path_up(config, at);
        all.any(|p| way.contains(&p.anchor))
    }
}

impl Engine {
    /// Limits of cgroups that come later, in the order in which their patterns are tried.
    ///
    /// # Errors
    /// [`Error`]: a state that cannot be read.
    pub fn patterns(&self) -> Result<Vec<PatternReport>> {
        let Some(session) = Session::open(self.state(), Lock::Shared, self.hierarchy()?)? else {
            return Ok(Vec::new());
        };
        let all = session.pattern_reports()?;
        Ok(all.into_iter().map(|(_, report)| report).collect())
    }
}

impl Session {
    /// All patterns, and how they stand.
    pub(super) fn pattern_reports(&self) -> Result<Vec<(&PatternRecord, PatternReport)>> {
        let limits = &self.config.limits;
        let Some(places) = self.places()?.filter(|_| !limits.patterns.is_empty()) else {
            return Ok(Vec::new());
        };
        let all = self.budget_words()?;
        let now_ns = now().as_nanos() as u64;
        let free = places::free(places.as_slice());
        let report = |pattern: &PatternRecord| {
            let group = limits.groups.get(&pattern.group)?;
            let words = BudgetWords::of(&all, pattern.shared).read();
            Some(PatternReport {
                pattern: pattern.pattern.clone(),
                meter: group.name(),
                labels: group.labels.clone(),
                unit: group.unit,
                amount: pattern.amount,
                period_ns: pattern.period_ns,
                burst: pattern.burst,
                on: show_action(pattern.action),
                borrow: pattern.borrow,
                places_free: free,
                places_used: (places::PLACES as u64).saturating_sub(free),
                places_short: places.get(header::SHARING),
                lost: places.get(header::LOST),
                shared_used: words[word::TAKEN].cast_signed().max(0).cast_unsigned(),
                shared_left: Budget::of(&words).left(now_ns),
            })
        };
        let patterns = limits.patterns.iter();
        Ok(patterns.filter_map(|p| Some((p, report(p)?))).collect())
    }
}
