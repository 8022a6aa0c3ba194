//! Counts of events.

use std::collections::BTreeMap;

use cgtap::engine::{StatCount, StatReport, StatRow};

use super::histogram::histogram;
use super::{Cell, Column, Look, Table, counted};

/// A row for each cgroup and event; the cgroup's name stands in its first row.
pub fn stat(report: &StatReport, look: &Look) -> String {
    let own = events(report).any(|event| event.own.is_some());
    let mut columns = vec![Column::paths("CGROUP"), Column::words("EVENT")];
    if own {
        columns.extend([Column::numbers("OWN"), Column::numbers("TOTAL")]);
    } else {
        columns.push(Column::numbers("COUNT"));
    }
    let mut table = Table::new(columns);
    for row in &report.cgroups {
        push(&mut table, row, own);
    }
    let mut text = table.render(look);
    for row in &report.cgroups {
        for event in row.events.iter().filter(|e| !e.buckets.is_empty()) {
            let value = event.value.as_deref().unwrap_or(&event.event);
            let title = format!("{} {value}{}", row.cgroup, labels(&event.labels));
            text += &histogram(&title, &event.buckets, event.unit == Some("ns"), look);
        }
    }
    format!("{text}{:.3} s\n", report.seconds)
}

fn events(report: &StatReport) -> impl Iterator<Item = &StatCount> {
    report.cgroups.iter().flat_map(|row| &row.events)
}

fn push(table: &mut Table, row: &StatRow, own: bool) {
    let mut last = "";
    let mut cgroup = row.cgroup.as_str();
    for event in &row.events {
        let name = match &event.value {
            // An event with values has a row of its own, and they stand below it.
            Some(value) => {
                if last != event.event {
                    table.push(vec![cgroup.into(), event.event.as_str().into()]);
                    cgroup = "";
                    last = &event.event;
                }
                format!("  {value}{}", labels(&event.labels))
            }
            None => event.event.clone(),
        };
        let mut cells: Vec<Cell> = vec![std::mem::take(&mut cgroup).into(), name.into()];
        if own {
            let own = event.own.map(|own| number(event, own));
            cells.push(own.map_or_else(Cell::default, Cell::from));
        }
        cells.push(number(event, event.count).into());
        table.push(cells);
    }
}

/// Labels as they stand behind a value.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    labels
        .iter()
        .map(|(name, value)| format!(" {name}={value}"))
        .collect()
}

/// A count as people read it: times in milliseconds, estimates marked, and no number where there
/// was no counter at all.
fn number(event: &StatCount, number: u64) -> String {
    if event.estimate && event.running_ns == Some(0) {
        return "not counted".to_owned();
    }
    let about = if event.estimate { "~" } else { "" };
    if event.unit == Some("ns") {
        format!("{about}{:.3} ms", number as f64 / 1e6)
    } else {
        format!("{about}{number}")
    }
}

/// What is to be said of the counts.
pub fn stat_notes(report: &StatReport) -> Vec<String> {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let mut notes = Vec::new();
    if report.lost > 0 {
        let events = counted(number(report.lost), "event", "events");
        notes.push(format!("{events} could not be counted"));
    }
    if report.merged > 0 {
        let cgroups = counted(number(report.merged), "cgroup", "cgroups");
        notes.push(format!(
            "{cgroups} found no row and are counted in the one above"
        ));
    }
    notes.extend(shared(report));
    notes
}

/// Which hardware events had no counter of the CPU for some of the time.
fn shared(report: &StatReport) -> Option<String> {
    let parts: BTreeMap<&str, u64> = events(report)
        .filter(|event| event.estimate)
        .filter_map(|event| {
            let (enabled, running) = event.enabled_ns.zip(event.running_ns)?;
            Some((event.event.as_str(), running * 100 / enabled.max(1)))
        })
        .collect();
    let parts: Vec<String> = parts
        .iter()
        .map(|(e, part)| format!("{e} {part} %"))
        .collect();
    (!parts.is_empty()).then(|| {
        format!(
            "~ is an estimate: the CPU has too few counters, and counted {} of the time; name fewer \
             events",
            parts.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::id::CgroupId;

    fn row(cgroup: &str, counts: &[(u64, Option<u64>)]) -> StatRow {
        let events = ["tracepoint:syscalls/sys_enter_write", "tp_btf:sched_switch"];
        StatRow {
            cgroup: cgroup.to_owned(),
            cgroup_id: CgroupId(1),
            events: events
                .iter()
                .zip(counts)
                .map(|(event, (count, own))| StatCount {
                    event: (*event).to_owned(),
                    count: *count,
                    own: *own,
                    total: own.map(|_| *count),
                    ..StatCount::default()
                })
                .collect(),
        }
    }

    fn report(cgroups: Vec<StatRow>) -> StatReport {
        StatReport {
            seconds: 1.5,
            cgroups,
            ..StatReport::default()
        }
    }

    #[test]
    fn counts_have_a_row_an_event() {
        let report = report(vec![row("/a", &[(1234, None), (5, None)])]);
        assert_eq!(
            stat(&report, &Look::PLAIN),
            "\
CGROUP  EVENT                                COUNT
/a      tracepoint:syscalls/sys_enter_write   1234
        tp_btf:sched_switch                      5
1.500 s
"
        );
    }

    #[test]
    fn with_per_cgroup_own_events_stand_beside_the_total() {
        let report = report(vec![
            row("/a", &[(12, Some(2)), (5, Some(5))]),
            row("/a/b", &[(10, Some(10)), (0, Some(0))]),
        ]);
        assert_eq!(
            stat(&report, &Look::PLAIN),
            "\
CGROUP  EVENT                                OWN  TOTAL
/a      tracepoint:syscalls/sys_enter_write    2     12
        tp_btf:sched_switch                    5      5
/a/b    tracepoint:syscalls/sys_enter_write   10     10
        tp_btf:sched_switch                    0      0
1.500 s
"
        );
    }

    fn counter(event: &str, count: u64, unit: &'static str) -> StatCount {
        StatCount {
            event: event.to_owned(),
            count,
            unit: Some(unit),
            ..StatCount::default()
        }
    }

    #[test]
    fn times_are_in_milliseconds_and_estimates_are_marked() {
        let hardware = |event: &str, enabled, running| StatCount {
            estimate: running < enabled,
            enabled_ns: Some(enabled),
            running_ns: Some(running),
            ..counter(event, 1500, "count")
        };
        let mut row = row("/a", &[]);
        row.events = vec![
            counter("task-clock", 1_234_567, "ns"),
            hardware("cycles", 300, 200),
            hardware("branches", 300, 300),
            hardware("r1a8", 300, 0),
        ];
        let report = report(vec![row]);
        assert_eq!(
            stat(&report, &Look::PLAIN),
            "\
CGROUP  EVENT             COUNT
/a      task-clock     1.235 ms
        cycles            ~1500
        branches           1500
        r1a8        not counted
1.500 s
"
        );
        let notes = stat_notes(&report);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("cycles 66 %, r1a8 0 % of the time"));
    }

    #[test]
    fn what_was_lost_is_told() {
        let mut report = report(vec![]);
        assert!(stat_notes(&report).is_empty());
        report.lost = 1;
        report.merged = 2;
        assert_eq!(
            stat_notes(&report),
            [
                "1 event could not be counted",
                "2 cgroups found no row and are counted in the one above"
            ]
        );
    }
}
