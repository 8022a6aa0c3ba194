//! Limits: how they stand, and what they denied.

use std::collections::BTreeMap;

use cgtap::engine::{Denials, Explained, LimitReport, PatternReport};
use cgtap::hook::HookSpec;
use cgtap::limit::amount::{Amount, show, show_amount};
use cgtap::meter::usage::Unit;

use super::{Cell, Column, Look, Table, Tone, counted, printable};

/// What is limited, as it is written.
pub fn limited(meter: &str, labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, text)| format!("{name}={text}"))
        .collect();
    if labels.is_empty() {
        meter.to_owned()
    } else {
        format!("{meter}{{{}}}", labels.join(","))
    }
}

/// What a limit is of, with its labels.
pub fn limit_value(limit: &LimitReport) -> String {
    limited(&limit.meter, &limit.labels)
}

/// How much, as it is written.
pub fn limit_amount(limit: &LimitReport) -> String {
    let amount = Amount {
        amount: limit.amount,
        period_ns: limit.period_ns,
    };
    show_amount(amount, limit.unit)
}

/// What is left; a debt has a sign.
fn left(left: i64, unit: Unit) -> String {
    let sign = if left < 0 { "-" } else { "" };
    format!("{sign}{}", show(left.unsigned_abs(), unit))
}

/// A row a limit.
pub fn limits(all: &[LimitReport], look: &Look) -> String {
    if all.is_empty() {
        return "no limits\n".to_owned();
    }
    let mut table = Table::new(vec![
        Column::numbers("ID"),
        Column::words("CGROUP"),
        Column::words("METER"),
        Column::numbers("LIMIT"),
        Column::words("ON"),
        Column::numbers("USED"),
        Column::numbers("LEFT"),
        Column::numbers("DENIED"),
    ]);
    for limit in all {
        let tone = if limit.is_reached {
            Tone::Bad
        } else {
            Tone::Plain
        };
        table.row([
            limit.id.to_string().into(),
            printable(&limit.cgroup).into(),
            printable(&limit_value(limit)).into(),
            limit_amount(limit).into(),
            limit.on.as_str().into(),
            show(limit.used, limit.unit).into(),
            Cell::toned(left(limit.left, limit.unit), tone),
            limit.denied.to_string().into(),
        ]);
    }
    table.render(look)
}

/// What is to be said of a limit on cgroups that come later.
pub fn later(pattern: &PatternReport) -> Vec<String> {
    let name = printable(&pattern.pattern);
    let value = limited(&pattern.meter, &pattern.labels);
    let value = printable(&value);
    let mut notes = vec![format!(
        "{value} of what {name} matches later: {} each, {} left",
        show_amount(
            Amount {
                amount: pattern.amount,
                period_ns: pattern.period_ns,
            },
            pattern.unit
        ),
        counted(pattern.places_free as usize, "place", "places"),
    )];
    if pattern.places_short > 0 {
        notes.push(format!(
            "{} found no place; those of {name} share one budget, {} used of it, {} left; the next \
             apply gives each its own",
            counted(pattern.places_short as usize, "cgroup", "cgroups"),
            show(pattern.shared_used, pattern.unit),
            left(pattern.shared_left, pattern.unit),
        ));
    }
    if pattern.lost > 0 {
        notes.push(format!(
            "{} could not be given a budget and are held by what is above them alone",
            counted(pattern.lost as usize, "cgroup", "cgroups")
        ));
    }
    notes
}

/// What follows from a limit's meter and gate, in a sentence.
pub fn follows(limit: &LimitReport) -> String {
    let gates: Vec<String> = limit.gates.iter().map(ToString::to_string).collect();
    let gates = gates.join(", ");
    let borrowed = if limit.borrow {
        "; what others of the same parent do not use may be used beyond it"
    } else {
        ""
    };
    let reader = "`cgtap enforce` or `cgtap serve` has to run";
    match (limit.charged, limit.on.as_str()) {
        ("read", "freeze") => format!(
            "charged when read; `cgtap enforce` has to run to read, and to freeze and thaw {}{borrowed}",
            limit.cgroup
        ),
        ("read", "observe") => format!("charged when read: {reader}; nothing is denied"),
        ("read", on) if on.starts_with("signal") => {
            format!("charged when read: {reader}; the signal comes at the next system call")
        }
        ("read", _) => format!(
            "charged when read: {reader}; what is used up to then goes beyond it, and {gates} is shut \
             until something is left"
        ),
        (_, "freeze") => format!(
            "charged after the event; `cgtap enforce` has to run to freeze and thaw {}{borrowed}",
            limit.cgroup
        ),
        ("before", "observe") => format!("charged before the event at {gates}; nothing is denied"),
        (_, "observe") => "charged after the event; nothing is denied".to_owned(),
        ("before", _) if limit.gates.iter().any(HookSpec::is_at_open) => format!(
            "charged before the event at {gates}: nothing goes beyond it; who has a device open \
             goes on"
        ),
        ("before", _) => format!(
            "charged before the event at {gates}: nothing goes beyond it; what is open already \
             goes through that gate too"
        ),
        ("kernel", on) => format!("counted and held by the kernel, in {on}"),
        (_, on @ ("cpu.max" | "io.max")) => {
            format!("held by the kernel in {on}; what is counted here only shows it")
        }
        (_, on) if on.starts_with("signal") => {
            "charged after the event; the signal comes at the next system call".to_owned()
        }
        _ => {
            let open = match limit.gates.iter().any(HookSpec::is_at_open) {
                true => "; who has the device open goes on",
                false => "",
            };
            format!(
                "charged after the event: what is under way goes beyond it, and {gates} is shut until \
                 something is left{open}"
            )
        }
    }
}

/// A row a denial, oldest first.
pub fn denials(denials: &Denials, look: &Look) -> String {
    if denials.denials.is_empty() {
        return "nothing was denied\n".to_owned();
    }
    let mut table = Table::new(vec![
        Column::numbers("AGO"),
        Column::words("TASK"),
        Column::numbers("PID"),
        Column::words("CGROUP"),
        Column::words("VERDICT"),
        Column::words("METER"),
        Column::words("LEVEL"),
        Column::numbers("ASKED"),
        Column::numbers("LEFT"),
    ]);
    for denial in &denials.denials {
        let unit = denial.unit.unwrap_or_default();
        table.row([
            show(denial.ago_ns / 1_000_000 * 1_000_000, Unit::Ns).into(),
            printable(&denial.comm).into(),
            denial.pid.to_string().into(),
            printable(&denial.cgroup).into(),
            denial.verdict.as_str().into(),
            denial.meter.clone().unwrap_or_default().into(),
            printable(&denial.level.clone().unwrap_or_default()).into(),
            show(denial.asked, unit).into(),
            left(denial.left, unit).into(),
        ]);
    }
    table.render(look)
}

/// Whether a cgroup is held back, by what, since when, until when.
pub fn explained(explained: &Explained, look: &Look) -> String {
    let cgroup = printable(&explained.cgroup);
    let reached: Vec<&LimitReport> = explained
        .limits
        .iter()
        .filter(|l| l.is_reached && l.on != "observe")
        .filter(|l| l.on != "freeze" || explained.is_enforced)
        .collect();
    // Nobody freezes what shares one.
    let shared = explained.shared.iter();
    let shared = shared.filter(|p| p.shared_left <= 0 && p.on != "observe" && p.on != "freeze");
    let by = reached.len() + shared.count();
    let is_paced = explained.is_enforced && explained.limits.iter().any(|l| l.on == "freeze");
    let mut text = match (by == 0, explained.is_frozen) {
        (true, false) => format!("{cgroup} is not held back\n"),
        (true, true) if is_paced => {
            format!("{cgroup} is frozen until enough has come back\n")
        }
        (true, true) => format!("{cgroup} is frozen, by no limit\n"),
        (false, frozen) => {
            let by = counted(by, "limit", "limits");
            let frozen = if frozen { ", and frozen" } else { "" };
            look.paint(Tone::Bad, &format!("{cgroup} is held back by {by}{frozen}")) + "\n"
        }
    };
    for limit in &explained.limits {
        text += &format!(
            "  {} of {}: {} of {} used, {} left ({})\n",
            printable(&limit_value(limit)),
            printable(&limit.cgroup),
            show(limit.used, limit.unit),
            limit_amount(limit),
            left(limit.left, limit.unit),
            limit.on,
        );
        if let Some(ago) = limit.denied_ago_ns {
            let since = limit.denies_since_ns.unwrap_or(ago);
            text += &format!(
                "    {} denied, the first of this row {} ago, the last {} ago\n",
                limit.denied,
                show(since, Unit::Ns),
                show(ago, Unit::Ns),
            );
        }
        if limit.is_reached {
            text += &match limit.free_in_ns {
                Some(ns) => format!("    free again in {}\n", show(ns, Unit::Ns)),
                None => "    not free again by itself: raise it, clear it, or give back what is \
                         held\n"
                    .to_owned(),
            };
        }
        if limit.is_reached && limit.on == "freeze" && !explained.is_enforced {
            text += "    nobody freezes it: `cgtap enforce` does not run\n";
        }
        text += &format!("    {}\n", follows(limit));
        if let Some(missed) = missed(limit) {
            text += &format!("    {missed}\n");
        }
        if limit.charged == "read" {
            text += &match limit.read_ago_ns {
                Some(ns) => format!("    last read {} ago\n", show(ns, Unit::Ns)),
                None => "    never read yet\n".to_owned(),
            };
        }
    }
    for pattern in &explained.shared {
        text += &of_shared(pattern);
    }
    text
}

/// What the kernel ran no program for, if anything.
pub fn missed(limit: &LimitReport) -> Option<String> {
    (limit.missed > 0).then(|| {
        format!(
            "{} of any cgroup passed its hooks unseen: the kernel runs no program for an event while one is in \
             the middle of running on that CPU",
            counted(limit.missed as usize, "event", "events")
        )
    })
}

/// The one budget of those that found no place.
fn of_shared(pattern: &PatternReport) -> String {
    let name = printable(&pattern.pattern);
    let amount = Amount {
        amount: pattern.amount,
        period_ns: pattern.period_ns,
    };
    let held = if pattern.on == "freeze" {
        "\n    nobody freezes what shares a budget"
    } else {
        ""
    };
    format!(
        "  {} of all that {name} matched and that found no place: {} of {} used, {} left ({})\n    it has no \
         budget of its own: the next apply gives it one{held}\n",
        printable(&limited(&pattern.meter, &pattern.labels)),
        show(pattern.shared_used, pattern.unit),
        show_amount(amount, pattern.unit),
        left(pattern.shared_left, pattern.unit),
        pattern.on,
    )
}

#[cfg(test)]
mod tests {
    use cgtap::limit::record::Action;

    use super::*;
    use crate::top::testing::limit;

    #[test]
    fn what_passed_unseen_is_said_where_something_did() {
        let of = |missed| LimitReport {
            missed,
            ..limit(1, "/a", "nbd_bytes", Action::Deny(5))
        };
        assert_eq!(missed(&of(0)), None);
        let said = missed(&of(2)).unwrap_or_default();
        assert!(
            said.starts_with("2 events of any cgroup passed its hooks unseen: "),
            "{said}"
        );
        let explained = Explained {
            cgroup: "/a".to_owned(),
            is_frozen: false,
            is_enforced: false,
            limits: vec![of(2)],
            shared: Vec::new(),
        };
        let text = super::explained(&explained, &Look::PLAIN);
        assert!(text.contains(&format!("    {said}\n")), "{text}");
    }
}
