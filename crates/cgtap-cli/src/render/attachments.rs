//! What was attached, and the lists.

use std::collections::BTreeSet;

use cgtap::engine::{AttachReport, AttachmentReport, DetachReport, ListReport};

use super::{Cell, Column, Look, Table, Tone, counted};

/// What an attach made, a line each.
pub fn attached(report: &AttachReport) -> String {
    lines(report, "attached")
}

/// What a replace made.
pub fn replaced(report: &AttachReport) -> String {
    lines(report, "replaced")
}

fn lines(report: &AttachReport, verb: &str) -> String {
    let line = |a: &cgtap::engine::AttachedReport| {
        let line = format!(
            "{verb} {} {} to {} in {} ({}), instance {}",
            a.id, a.program, a.hook, a.cgroup, a.mode, report.instance
        );
        super::printable(&line).into_owned() + "\n"
    };
    report.attachments.iter().map(line).collect()
}

/// What a detach removed, a line each.
pub fn detached(report: &DetachReport) -> String {
    let gone = report.detached.iter().map(|id| format!("detached {id}\n"));
    let unloaded = report.instances_unloaded.iter();
    gone.chain(unloaded.map(|id| format!("unloaded instance {id}\n")))
        .collect()
}

/// Lists, or effective arrays, a row an attachment, in the order in which they run.
pub fn list(lists: &[ListReport], effective: bool, look: &Look) -> String {
    let rows = || lists.iter().flat_map(|l| &l.attachments);
    if rows().next().is_none() {
        return String::new();
    }
    let cookies = rows().any(|a| a.cookie != 0);
    let flags = rows().any(|a| !flags(a).is_empty());
    let mut columns = vec![
        Column::numbers("ID"),
        Column::words("PROGRAM"),
        Column::words("HOOK"),
        Column::paths("CGROUP"),
    ];
    if effective {
        columns.push(Column::paths("FROM"));
    } else {
        columns.extend([Column::words("MODE"), Column::numbers("REV")]);
    }
    columns.push(Column::numbers("RUNS"));
    if cookies {
        columns.push(Column::numbers("COOKIE"));
    }
    if flags {
        columns.push(Column::words("FLAGS"));
    }
    let mut table = Table::new(columns);
    for list in lists {
        for attachment in &list.attachments {
            table.push(row(list, attachment, effective, cookies, flags));
        }
    }
    table.render(look)
}

fn row(
    list: &ListReport,
    attachment: &AttachmentReport,
    effective: bool,
    cookies: bool,
    with_flags: bool,
) -> Vec<Cell> {
    let mut cells: Vec<Cell> = vec![
        attachment.id.into(),
        attachment.program.as_str().into(),
        list.hook.to_string().into(),
        list.cgroup.as_str().into(),
    ];
    if effective {
        let inherited = attachment.cgroup != list.cgroup;
        let tone = if inherited { Tone::Dim } else { Tone::Plain };
        cells.push(Cell::toned(&attachment.cgroup, tone));
    } else {
        cells.extend([list.mode.name().into(), list.revision.into()]);
    }
    cells.push(attachment.run_count.into());
    if cookies {
        cells.push(match attachment.cookie {
            0 => Cell::default(),
            cookie => format!("{cookie:#x}").into(),
        });
    }
    if with_flags {
        cells.push(flags(attachment).into());
    }
    cells
}

fn flags(attachment: &AttachmentReport) -> String {
    let preorder = attachment.preorder.then(|| "preorder".to_owned());
    let owner = attachment.owner_pid.map(|pid| format!("of process {pid}"));
    let flags: Vec<_> = preorder.into_iter().chain(owner).collect();
    flags.join(", ")
}

/// Where hooks at `*/FILE` stand, a note each.
pub fn files(lists: &[ListReport]) -> Vec<String> {
    let lists = lists.iter().filter(|list| !list.files.is_empty());
    let notes: BTreeSet<String> = lists
        .map(|list| format!("{} stands in {}", list.hook, list.files.join(", ")))
        .collect();
    notes.into_iter().collect()
}

/// What the lists' hooks lost, a note each. A hook has one dispatcher, whatever the number of its
/// lists, so each hook is told of once.
pub fn losses(lists: &[ListReport]) -> Vec<String> {
    let mut told = Vec::new();
    let mut notes = Vec::new();
    for list in lists {
        if told.contains(&&list.hook) {
            continue;
        }
        told.push(&list.hook);
        let events = |number| {
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            counted(number, "event", "events")
        };
        if list.recursion_misses > 0 {
            notes.push(format!(
                "{}: {} ran no program: one of this hook's was already running on that CPU",
                list.hook,
                events(list.recursion_misses)
            ));
        }
        if list.lost > 0 {
            notes.push(format!(
                "{}: {} missed some or all programs",
                list.hook,
                events(list.lost)
            ));
        }
        if list.unowned > 0 {
            notes.push(format!(
                "{}: {} belonged to no cgroup by this scope, and ran no program",
                list.hook,
                events(list.unowned)
            ));
        }
        if list.notes_lost > 0 {
            notes.push(format!(
                "{}: {} could not be noted for this scope",
                list.hook,
                events(list.notes_lost)
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::attach::Mode;
    use cgtap::engine::AttachedReport;
    use cgtap::id::{AttachmentId, CgroupId, InstanceId};

    fn attachment(id: u32, cgroup: &str) -> AttachmentReport {
        AttachmentReport {
            id: AttachmentId(id),
            program: "trace_io".to_owned(),
            instance: InstanceId(3),
            cgroup: cgroup.to_owned(),
            preorder: false,
            cookie: 0,
            run_count: 1234,
            owner_pid: None,
        }
    }

    fn report(effective: bool, attachments: Vec<AttachmentReport>) -> ListReport {
        ListReport {
            cgroup: "/tenants/a".to_owned(),
            cgroup_id: CgroupId(77),
            hook: "raw_tracepoint:sys_enter".parse().unwrap(),
            mode: Mode::Multi,
            revision: 3,
            effective,
            files: Vec::new(),
            attachments,
            recursion_misses: 0,
            lost: 0,
            unowned: 0,
            notes_lost: 0,
        }
    }

    #[test]
    fn an_attach_is_told_in_a_line_each() {
        let report = AttachReport {
            instance: InstanceId(3),
            attachments: vec![AttachedReport {
                id: AttachmentId(12),
                program: "trace_io".to_owned(),
                hook: "raw_tp:sys_enter".parse().unwrap(),
                cgroup: "/tenants/a".to_owned(),
                mode: Mode::Multi,
            }],
        };
        assert_eq!(
            attached(&report),
            "attached 12 trace_io to raw_tracepoint:sys_enter in /tenants/a (multi), instance 3\n"
        );
    }

    #[test]
    fn a_detach_is_told_in_a_line_each() {
        let report = DetachReport {
            detached: vec![AttachmentId(4), AttachmentId(5)],
            instances_unloaded: vec![InstanceId(2)],
        };
        assert_eq!(
            detached(&report),
            "detached 4\ndetached 5\nunloaded instance 2\n"
        );
    }

    #[test]
    fn own_lists_fit_80_columns() {
        let lists = [report(false, vec![attachment(12, "/tenants/a")])];
        assert_eq!(
            list(&lists, false, &Look::PLAIN),
            "\
ID  PROGRAM   HOOK                      CGROUP      MODE   REV  RUNS
12  trace_io  raw_tracepoint:sys_enter  /tenants/a  multi    3  1234
"
        );
    }

    #[test]
    fn cookie_and_flags_have_columns_where_there_are_any() {
        let mut first = attachment(12, "/tenants/a");
        first.preorder = true;
        first.owner_pid = Some(99);
        let mut second = attachment(13, "/tenants/a");
        second.cookie = 0x1f;
        let lists = [report(false, vec![first, second])];
        let text = list(&lists, false, &Look::PLAIN);
        let tails: Vec<_> = text
            .lines()
            .map(|l| &l[l.find("12").unwrap_or(0)..])
            .collect();
        assert!(
            text.lines()
                .next()
                .unwrap()
                .ends_with("RUNS  COOKIE  FLAGS")
        );
        assert!(tails[1].ends_with("1234          preorder, of process 99"));
        assert!(text.lines().nth(2).unwrap().ends_with("1234    0x1f"));
    }

    #[test]
    fn an_effective_array_names_where_each_comes_from() {
        let own = attachment(12, "/tenants/a");
        let lists = [report(true, vec![own, attachment(2, "/")])];
        assert_eq!(
            list(&lists, true, &Look::PLAIN),
            "\
ID  PROGRAM   HOOK                      CGROUP      FROM        RUNS
12  trace_io  raw_tracepoint:sys_enter  /tenants/a  /tenants/a  1234
 2  trace_io  raw_tracepoint:sys_enter  /tenants/a  /           1234
"
        );
    }

    #[test]
    fn lists_without_attachments_are_no_table() {
        assert_eq!(list(&[report(false, vec![])], false, &Look::PLAIN), "");
    }

    #[test]
    fn a_hook_that_lost_events_is_told_of_once() {
        let mut lossy = report(false, vec![attachment(1, "/tenants/a")]);
        lossy.recursion_misses = 1;
        lossy.lost = 20;
        lossy.unowned = 3;
        lossy.notes_lost = 2;
        assert_eq!(
            losses(&[lossy.clone(), lossy]),
            [
                "raw_tracepoint:sys_enter: 1 event ran no program: one of this hook's was already \
                 running on that CPU",
                "raw_tracepoint:sys_enter: 20 events missed some or all programs",
                "raw_tracepoint:sys_enter: 3 events belonged to no cgroup by this scope, and ran no \
                 program",
                "raw_tracepoint:sys_enter: 2 events could not be noted for this scope"
            ]
        );
        assert!(losses(&[report(false, vec![])]).is_empty());
    }
}
