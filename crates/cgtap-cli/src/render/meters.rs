//! Meters, and what cgroups used.

use cgtap::engine::{Form, MeterCode, Truth, Unit, UsageReport};

use super::stat::labels;
use super::{Cell, Column, Look, Table, Tone, printable};
use crate::commands::meter::MeterRow;

/// The meters that there are, a row each.
pub fn meters(rows: &[MeterRow], look: &Look) -> String {
    let mut table = Table::new(vec![
        Column::words("METER"),
        Column::words("STATE"),
        Column::words("WHAT IT TELLS"),
    ]);
    for row in rows {
        let state = match (&row.cgroup, row.state) {
            (Some(cgroup), _) => Cell::toned(format!("enabled for {cgroup}"), Tone::Good),
            (None, "available") => Cell::from("available"),
            (None, state) => Cell::toned(state, Tone::Warn),
        };
        table.row([row.name.as_str().into(), state, row.help.as_str().into()]);
    }
    let mut text = table.render(look);
    for row in rows {
        if let Some(why) = &row.why {
            text += &match &row.cgroup {
                Some(_) => format!("\n{} counts nothing more:\n", row.name),
                None => format!("\n{} cannot be had here:\n", row.name),
            };
            for line in why.lines() {
                text += &format!("  {}\n", printable(line));
            }
        }
    }
    text
}

/// One meter.
pub fn meter(row: &MeterRow, look: &Look) -> String {
    let name = look.paint(Tone::Heading, &row.name);
    let mut text = format!("{name}  {}\n", printable(&row.help));
    text += &match (&row.cgroup, &row.why) {
        (Some(cgroup), None) => format!("enabled for {}\n", printable(cgroup)),
        (Some(cgroup), Some(why)) => format!("enabled for {}: {why}\n", printable(cgroup)),
        (None, None) => "available; `cgtap meter enable` lets it count\n".to_owned(),
        (None, Some(why)) => {
            let lines: Vec<_> = why.lines().map(printable).collect();
            format!("unavailable: {}\n", lines.join("\n"))
        }
    };
    text += &format!("from {}\n\n", printable(&row.source));
    let mut table = Table::new(vec![
        Column::words("VALUE"),
        Column::words("FORM"),
        Column::words("UNIT"),
        Column::words("KIND"),
        Column::words("WHAT IT TELLS"),
    ]);
    for value in &row.values {
        table.row([
            value.meter.as_str().into(),
            value.form.into(),
            value.unit.into(),
            value.kind.into(),
            value.help.as_str().into(),
        ]);
    }
    text += &table.render(look);
    if !row.labels.is_empty() {
        let mut table = Table::new(vec![Column::words("LABEL"), Column::words("WHAT IT TELLS")]);
        for label in &row.labels {
            table.row([label.name.as_str().into(), label.help.as_str().into()]);
        }
        text += &format!("\n{}", table.render(look));
    }
    if !row.cannot_see.is_empty() {
        text += "\nIt cannot see:\n";
        for line in &row.cannot_see {
            text += &format!("  - {}\n", printable(line));
        }
    }
    text
}

/// The programs of a meter.
pub fn meter_code(programs: &[MeterCode], look: &Look) -> String {
    let mut text = String::new();
    for program in programs {
        let head = format!("{} at {}", program.program, program.hook);
        text += &format!("{}\n{}\n", look.paint(Tone::Heading, &head), program.code);
    }
    text
}

/// What cgroups used, a row a value and labels.
pub fn usage(report: &UsageReport, look: &Look) -> String {
    let mut table = Table::new(vec![
        Column::paths("CGROUP"),
        Column::words("METER"),
        Column::numbers("OWN"),
        Column::numbers("TOTAL"),
    ]);
    for row in &report.cgroups {
        let mut cgroup = match (&row.name, &row.image) {
            (Some(name), Some(image)) => format!("{} ({name}, {image})", row.cgroup),
            (Some(name), None) => format!("{} ({name})", row.cgroup),
            (None, _) => row.cgroup.clone(),
        };
        for value in &row.meters {
            let mark = match value.kind {
                Truth::Measured => "",
                Truth::Estimate => "~",
                Truth::Proxy => "?",
            };
            let held = if value.form == Form::Gauge {
                " held"
            } else {
                ""
            };
            table.row([
                std::mem::take(&mut cgroup).into(),
                format!("{}{}", value.meter, labels(&value.labels)).into(),
                format!("{mark}{}{held}", amount(value.unit, value.own)).into(),
                format!("{mark}{}{held}", amount(value.unit, value.total)).into(),
            ]);
        }
    }
    table.render(look)
}

/// A number as people read it.
pub fn amount(unit: Unit, number: u64) -> String {
    let scaled = |steps: &[(&str, f64)]| {
        let number = number as f64;
        let (suffix, per) = steps
            .iter()
            .rfind(|(_, per)| number >= *per)
            .or(steps.first())
            .copied()
            .unwrap_or(("", 1.0));
        if per <= 1.0 {
            format!("{number}{suffix}")
        } else {
            format!("{:.2}{suffix}", number / per)
        }
    };
    match unit {
        Unit::Count => number.to_string(),
        Unit::Bytes => scaled(&[
            (" B", 1.0),
            (" KiB", 1024.0),
            (" MiB", 1_048_576.0),
            (" GiB", 1_073_741_824.0),
            (" TiB", 1_099_511_627_776.0),
        ]),
        Unit::Ns => scaled(&[(" ns", 1.0), (" us", 1e3), (" ms", 1e6), (" s", 1e9)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_by_people() {
        assert_eq!(amount(Unit::Count, 1_234_567), "1234567");
        assert_eq!(amount(Unit::Bytes, 512), "512 B");
        assert_eq!(amount(Unit::Bytes, 3 << 20), "3.00 MiB");
        assert_eq!(amount(Unit::Ns, 1_500), "1.50 us");
        assert_eq!(amount(Unit::Ns, 0), "0 ns");
    }
}
