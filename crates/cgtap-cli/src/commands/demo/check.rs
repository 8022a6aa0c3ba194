//! Holding what was counted against what was done.

use cgtap::engine::{StatReport, StatRow};
use serde::Serialize;

use super::events::Event;
use super::worker::Promise;

/// A number that is known, beside the one that was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Whose events.
    pub cgroup: String,
    /// What was compared, in words.
    pub what: String,
    /// What it has to be.
    pub expected: u64,
    /// What was counted.
    pub counted: u64,
    /// By how much they differ, where no more than that was reported lost: a kernel that preempts programs keeps
    /// some events from them, and says how many.
    pub lost: u64,
    /// They are the same, but for that.
    pub ok: bool,
}

impl Check {
    fn new(cgroup: &str, what: impl Into<String>, expected: u64, counted: u64) -> Self {
        Self {
            cgroup: cgroup.to_owned(),
            what: what.into(),
            expected,
            counted,
            lost: 0,
            ok: expected == counted,
        }
    }

    /// The same, where so many events were reported lost.
    pub fn but_for(mut self, reported: u64) -> Self {
        let differs = self.expected.abs_diff(self.counted);
        if !self.ok && differs <= reported {
            self.lost = differs;
            self.ok = true;
        }
        self
    }
}

/// What the worker in `cgroup` promised, against what was counted there.
pub fn promises(cgroup: &str, promise: Promise, row: &StatRow, events: &[Event]) -> Vec<Check> {
    let known = |event: Event| match event {
        Event::Calls => promise.calls,
        Event::Writes => Some(promise.writes),
        Event::Forks => Some(promise.forks),
        Event::BlockIo | Event::Switches => None,
    };
    events
        .iter()
        .zip(&row.events)
        .filter_map(|(event, count)| Some((event, known(*event)?, count.count)))
        // That nothing happened where nothing should is worth a line only if something did.
        .filter(|(_, expected, counted)| *expected > 0 || *counted > 0)
        .map(|(event, expected, counted)| Check::new(cgroup, event.title(), expected, counted))
        .collect()
}

/// The count of the topmost cgroup, against the sum of what each cgroup counted for itself.
pub fn sum(whole: &StatReport, top: &StatRow, events: &[Event]) -> Vec<Check> {
    let check = |(i, event): (usize, &Event)| {
        let own = |row: &StatRow| row.events.get(i).and_then(|count| count.own);
        let sum = whole.cgroups.iter().filter_map(own).sum();
        let counted = top.events.get(i)?.count;
        let what = format!("{}, sum of the cgroups", event.title());
        Some(Check::new("all", what, sum, counted))
    };
    events.iter().enumerate().filter_map(check).collect()
}

/// A row of counts, and what was counted there.
pub type Counted<'a> = (&'a StatRow, &'a [Event]);

/// What the counters at the top and those at `cgroup` itself say of it: programs that know
/// nothing of each other.
pub fn agreement(cgroup: &str, top: Counted<'_>, own: Counted<'_>) -> Vec<Check> {
    let check = |(i, event): (usize, &Event)| {
        let at_top = top.1.iter().position(|other| other == event)?;
        let expected = top.0.events.get(at_top)?.count;
        let what = format!("{}, two counters", event.title());
        let counted = own.0.events.get(i)?.count;
        Some(Check::new(cgroup, what, expected, counted))
    };
    own.1.iter().enumerate().filter_map(check).collect()
}

/// The row of the cgroup that is called `name` below the demo's topmost one, which is called
/// `top`.
pub fn row<'a>(report: &'a StatReport, top: &str, name: &str) -> Option<&'a StatRow> {
    let path = if name.is_empty() {
        format!("/{top}")
    } else {
        format!("/{top}/{name}")
    };
    report
        .cgroups
        .iter()
        .find(|row| row.cgroup.ends_with(&path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::engine::StatCount;
    use cgtap::id::CgroupId;

    const EVENTS: [Event; 3] = [Event::Calls, Event::Writes, Event::Forks];

    fn stat_row(cgroup: &str, counts: [(u64, u64); 3]) -> StatRow {
        let count = |(count, own)| StatCount {
            event: String::new(),
            count,
            own: Some(own),
            total: Some(count),
            ..StatCount::default()
        };
        StatRow {
            cgroup: cgroup.to_owned(),
            cgroup_id: CgroupId(1),
            events: counts.map(count).into(),
        }
    }

    #[test]
    fn a_promise_is_kept_or_not() {
        let promise = Promise {
            calls: Some(10),
            writes: 4,
            forks: 0,
        };
        let row = stat_row("/d/a", [(10, 10), (5, 5), (0, 0)]);
        let checks = promises("a", promise, &row, &EVENTS);
        let brief: Vec<_> = checks
            .iter()
            .map(|c| (c.what.as_str(), c.expected, c.counted, c.ok))
            .collect();
        assert_eq!(
            brief,
            [("system calls", 10, 10, true), ("writes", 4, 5, false)]
        );
    }

    #[test]
    fn what_was_reported_lost_may_be_missing_and_no_more() {
        let of = |reported| Check::new("a", "writes", 10, 8).but_for(reported);
        let all = [of(0), of(1), of(2), of(9)].map(|c| (c.ok, c.lost));
        assert_eq!(all, [(false, 0), (false, 0), (true, 2), (true, 2)]);
        assert_eq!(Check::new("a", "writes", 8, 8).but_for(3).lost, 0);
    }

    #[test]
    fn the_top_counts_what_all_count() {
        let whole = StatReport {
            seconds: 1.0,
            cgroups: vec![
                stat_row("/d", [(7, 0), (3, 1), (1, 0)]),
                stat_row("/d/a", [(7, 7), (2, 2), (0, 0)]),
            ],
            lost: 0,
            ..StatReport::default()
        };
        let checks = sum(&whole, &whole.cgroups[0], &EVENTS);
        let ok: Vec<_> = checks.iter().map(|c| c.ok).collect();
        assert_eq!(ok, [true, true, false]);
    }

    #[test]
    fn two_counters_agree_or_not() {
        let top = stat_row("/d/a", [(7, 7), (3, 3), (1, 1)]);
        let own = stat_row("/d/a", [(1, 0), (7, 0), (9, 0)]);
        let other = [Event::Forks, Event::Calls, Event::BlockIo];
        let checks = agreement("a", (&top, &EVENTS), (&own, &other));
        let brief: Vec<_> = checks.iter().map(|c| (c.what.as_str(), c.ok)).collect();
        assert_eq!(
            brief,
            [
                ("forks, two counters", true),
                ("system calls, two counters", true)
            ]
        );
        let wrong = agreement("a", (&top, &EVENTS[1..]), (&own, &other[..1]));
        assert!(!wrong[0].ok);
    }

    #[test]
    fn a_row_is_found_by_its_name() {
        let report = StatReport {
            seconds: 1.0,
            cgroups: vec![
                stat_row("/x/d", [(0, 0); 3]),
                stat_row("/x/d/a", [(0, 0); 3]),
            ],
            lost: 0,
            ..StatReport::default()
        };
        assert_eq!(row(&report, "d", "").unwrap().cgroup, "/x/d");
        assert_eq!(row(&report, "d", "a").unwrap().cgroup, "/x/d/a");
        assert!(row(&report, "d", "b").is_none());
    }
}
