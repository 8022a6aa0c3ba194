//! Counts of events.

use cgtap::engine::{StatReport, StatRow};

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
    format!("{}{:.3} s\n", table.render(look), report.seconds)
}

fn events(report: &StatReport) -> impl Iterator<Item = &cgtap::engine::StatCount> {
    report.cgroups.iter().flat_map(|row| &row.events)
}

fn push(table: &mut Table, row: &StatRow, own: bool) {
    for (i, event) in row.events.iter().enumerate() {
        let cgroup = if i == 0 { row.cgroup.as_str() } else { "" };
        let mut cells: Vec<Cell> = vec![cgroup.into(), event.event.as_str().into()];
        if own {
            cells.push(event.own.map_or_else(Cell::default, Cell::from));
        }
        cells.push(event.count.into());
        table.push(cells);
    }
}

/// What was not counted, as a note.
pub fn lost(report: &StatReport) -> Option<String> {
    let lost = usize::try_from(report.lost).unwrap_or(usize::MAX);
    (lost > 0).then(|| format!("{} could not be counted", counted(lost, "event", "events")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::engine::StatCount;
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
                })
                .collect(),
        }
    }

    fn report(cgroups: Vec<StatRow>) -> StatReport {
        StatReport {
            seconds: 1.5,
            cgroups,
            lost: 0,
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

    #[test]
    fn what_was_lost_is_told() {
        let mut report = report(vec![]);
        assert_eq!(lost(&report), None);
        report.lost = 1;
        assert_eq!(lost(&report).unwrap(), "1 event could not be counted");
    }
}
