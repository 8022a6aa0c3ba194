//! From counts to the rows of the report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::report::{StatCount, StatRow, UsageValue};
use super::super::request::{StatEvent, StatRequest};
use super::hooks::HookCounts;
use super::meters::MeterTable;
use crate::cgroup::{Branch, Cgroup, Hierarchy};
use crate::counter::rows::{self, Value};
use crate::counter::{Counts, Unit};
use crate::id::CgroupId;

/// Everything that was counted, with the totals of the perf events.
pub(super) struct Table<'a> {
    request: &'a StatRequest,
    /// Those that were asked for.
    cgroups: &'a [Cgroup],
    hooks: &'a [HookCounts],
    meters: Option<&'a MeterTable>,
    counters: Option<&'a Counts>,
    totals: Vec<Vec<Value>>,
}

/// A cgroup's counts, one a hook.
struct HookRow {
    own: Vec<u64>,
    total: Vec<u64>,
}

impl<'a> Table<'a> {
    pub fn new(
        request: &'a StatRequest,
        cgroups: &'a [Cgroup],
        hooks: &'a [HookCounts],
        meters: Option<&'a MeterTable>,
        counters: Option<&'a Counts>,
    ) -> Self {
        Self {
            request,
            cgroups,
            hooks,
            meters,
            counters,
            totals: counters.map_or_else(Vec::new, |c| rows::totals(&c.rows)),
        }
    }

    /// The row of the `at`th cgroup that was asked for.
    pub fn total(&self, at: usize) -> StatRow {
        let cgroup = &self.cgroups[at];
        let hooks = HookRow {
            own: Vec::new(),
            total: self.hooks[at].totals.clone(),
        };
        self.row(at, &cgroup.path, cgroup.id, &hooks)
    }

    /// The row of a perf event's counts.
    fn counted(&self, id: CgroupId) -> Option<usize> {
        self.counters?.row_of(id)
    }

    /// The row of a cgroup, for the `asked`th one that was asked for.
    fn row(&self, asked: usize, path: &str, id: CgroupId, hooks: &HookRow) -> StatRow {
        let is_asked = self.cgroups[asked].id == id;
        let row = self.counted(id);
        let (mut hook, mut counter, mut meter) = (0, 0, 0);
        let mut events = Vec::new();
        for event in &self.request.events {
            match event {
                StatEvent::Hook(spec) => {
                    let number = |of: &[u64]| of.get(hook).copied().unwrap_or(0);
                    let (own, count) = (number(&hooks.own), number(&hooks.total));
                    hook += 1;
                    events.push(self.count(spec.to_string(), own, count));
                }
                StatEvent::Counter(event) => {
                    let value = |of: Option<&Vec<Value>>| {
                        of.and_then(|v| v.get(counter)).copied().unwrap_or_default()
                    };
                    let own = self.counters.zip(row).map(|(c, row)| &c.rows[row].own);
                    let total = value(row.and_then(|row| self.totals.get(row)));
                    let own = value(own).scaled().0;
                    counter += 1;
                    let (count, is_estimate) = total.scaled();
                    events.push(StatCount {
                        unit: Some(match event.unit() {
                            Unit::Count => "count",
                            Unit::Ns => "ns",
                        }),
                        estimate: is_estimate,
                        enabled_ns: event.is_hardware().then_some(total.enabled_ns),
                        running_ns: event.is_hardware().then_some(total.running_ns),
                        ..self.count(event.to_string(), own, count)
                    });
                }
                StatEvent::Meter(_) => {
                    let values = self.meters.map(|m| m.values(asked, meter, id, is_asked));
                    meter += 1;
                    let values = values.unwrap_or_default();
                    if values.is_empty() {
                        events.push(self.count(event.to_string(), 0, 0));
                    }
                    let counted = values.into_iter();
                    events.extend(counted.map(|v| self.measured(event.to_string(), v)));
                }
            }
        }
        StatRow {
            cgroup: path.to_owned(),
            cgroup_id: id,
            events,
        }
    }

    fn measured(&self, event: String, value: UsageValue) -> StatCount {
        StatCount {
            value: Some(value.meter.to_string()),
            labels: Arc::unwrap_or_clone(value.labels),
            unit: Some(value.unit.word()),
            buckets: value.histogram.map_or_else(Vec::new, |h| h.total_buckets),
            ..self.count(event, value.own, value.total)
        }
    }

    fn count(&self, event: String, own: u64, count: u64) -> StatCount {
        let per_cgroup = self.request.per_cgroup;
        StatCount {
            event,
            count,
            own: per_cgroup.then_some(own),
            total: per_cgroup.then_some(count),
            ..StatCount::default()
        }
    }

    /// One row a cgroup below the `asked`th that was asked for; its total adds up what it and those
    /// below it counted. A cgroup that is gone has a row without a name, and is in the total of the
    /// one that was asked for.
    pub fn per_cgroup(&self, hierarchy: &Hierarchy, asked: usize, rows: &mut Vec<StatRow>) {
        let top = &self.cgroups[asked];
        let HookCounts { totals, own } = &self.hooks[asked];
        let none = vec![0; totals.len()];
        let mine = |id: CgroupId| own.get(&id).unwrap_or(&none).clone();
        let listing = hierarchy.listing(top);
        let sums = sums(&listing, mine);
        for (at, cgroup) in listing.iter().enumerate() {
            if self.request.depth.is_some_and(|depth| cgroup.level > depth) {
                continue;
            }
            let hooks = HookRow {
                own: mine(cgroup.id),
                total: if at == 0 { totals } else { &sums[at] }.clone(),
            };
            rows.push(self.row(asked, &cgroup.path, cgroup.id, &hooks));
        }
        let known: BTreeSet<CgroupId> = listing.iter().map(|c| c.id).collect();
        let below = self.below(top.id);
        let mut gone: BTreeSet<CgroupId> = own.keys().copied().collect();
        let counted = below.iter().filter(|(_, (_, is_counted))| *is_counted);
        gone.extend(counted.map(|(id, _)| *id));
        // Of hooks alone nobody knows where it was: it is in the total of the top.
        let is_shown = |id: &&CgroupId| {
            let level = below.get(*id).map(|(level, _)| *level);
            let is_within = |depth| level.is_some_and(|level| level <= depth);
            self.request.depth.is_none_or(is_within)
        };
        for id in gone.difference(&known).filter(is_shown) {
            let hooks = HookRow {
                own: mine(*id),
                total: mine(*id),
            };
            rows.push(self.row(asked, &format!("id:{id}"), *id, &hooks));
        }
    }

    /// The cgroups below `top` that have rows of perf events: how far below, and whether any was counted.
    fn below(&self, top: CgroupId) -> BTreeMap<CgroupId, (usize, bool)> {
        let (Some(counters), Some(top)) = (self.counters, self.counted(top)) else {
            return BTreeMap::new();
        };
        let mut levels = vec![None; counters.rows.len()];
        levels[top] = Some(0);
        let mut found = BTreeMap::new();
        // A row's parent comes before it.
        for (at, row) in counters.rows.iter().enumerate().skip(top + 1) {
            levels[at] = levels[row.parent.min(at)].map(|above| above + 1);
            if let Some(level) = levels[at] {
                let is_counted = row.own.iter().any(|v| v.count > 0);
                found.insert(row.id, (level, is_counted));
            }
        }
        found
    }
}

/// What each cgroup of a listing and those below it come to.
fn sums(listing: &[Branch], own: impl Fn(CgroupId) -> Vec<u64>) -> Vec<Vec<u64>> {
    let mut sums: Vec<Vec<u64>> = listing.iter().map(|c| own(c.id)).collect();
    // From the leaves up: in reverse order each cgroup comes after all below it.
    for (at, cgroup) in listing.iter().enumerate().skip(1).rev() {
        let below = sums[at].clone();
        for (sum, more) in sums[cgroup.parent].iter_mut().zip(below) {
            *sum += more;
        }
    }
    sums
}
