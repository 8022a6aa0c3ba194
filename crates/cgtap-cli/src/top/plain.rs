//! Frames on standard output: tables, or JSON.

use std::collections::HashSet;
use std::time::Instant;

use cgtap::engine::LimitReport;
use cgtap::id::CgroupId;
use cgtap::meter::usage::{Form, Histogram, Truth, Unit};
use serde::Serialize;

use super::arrange::{Order, arrange};
use super::model::{Model, Node};
use super::series::{Basis, Labels, Series};
use super::{Options, Snapshot, Watch, check, format};
use crate::commands::Context;
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;
use crate::render::{Cell, Column, Look, Table, Tone, counted};

/// What is said where there is no value at all.
pub const NOTHING: [&str; 2] = [
    "no meter has counted anything here",
    "enable one, for example: cgtap meter enable block",
];

/// Prints a frame after each interval.
///
/// # Errors
/// What the reading says; [`Failure::Usage`] where there is nothing of the name to sort by; what
/// writing says.
pub fn run<R: FnMut() -> Result<Snapshot, Failure>>(
    context: &Context,
    options: &Options,
    order: &Order,
    watch: &mut Watch<R>,
    interrupt: &Interrupt,
) -> Result<Status, Failure> {
    let frames = options.iterations.unwrap_or(1);
    let mut next = Instant::now();
    let (mut done, mut is_known) = (0, false);
    while frames == 0 || done < frames {
        // One that took longer than the interval is not made up for.
        next = next.checked_add(options.interval).unwrap_or(next);
        next = next.max(Instant::now());
        if !interrupt.wait_until(Some(next)) {
            return Ok(Status(Failure::INTERRUPTED_STATUS));
        }
        watch.take()?;
        let model = &watch.model;
        // One that counts no more later on is sorted by no more.
        if !is_known {
            check(order, model)?;
            is_known = !model.columns().is_empty();
        }
        if context.json {
            context.document(frame(model, order))?;
        } else if model.columns().is_empty() && model.limits().is_empty() {
            context.teller.note(&NOTHING.join("; "));
        } else {
            let gap = if done > 0 { "\n" } else { "" };
            context.print(&format!("{gap}{}", table(model, order, &context.look)))?;
            if model.lost() > 0 {
                let number = usize::try_from(model.lost()).unwrap_or(usize::MAX);
                let events = counted(number, "event", "events");
                context
                    .teller
                    .note(&format!("{events} could not be counted"));
            }
            for unread in model.unread() {
                context.teller.note(unread);
            }
        }
        done += 1;
    }
    Ok(Status::DONE)
}

fn ordered<'a>(model: &'a Model, order: &Order) -> impl Iterator<Item = (usize, &'a Node)> {
    let lines = arrange(model, order, "", &HashSet::new());
    lines
        .into_iter()
        .map(|line| (line.node, &model.nodes()[line.node]))
}

/// The frame as a table: of counters how fast they grow, of gauges what they are; how limits stand
/// if there are any.
pub fn table(model: &Model, order: &Order, look: &Look) -> String {
    let (columns, limits) = (model.columns(), model.limits());
    let titles = columns.iter().map(|column| {
        let mark = column.mark(look.unicode);
        Column::numbers(format!("{}{mark} {}", column.meter, column.head()))
    });
    let mut table = Table::new(
        std::iter::once(Column::paths("CGROUP"))
            .chain(titles)
            .chain((!limits.is_empty()).then(|| Column::words("LIMITS")))
            .collect(),
    );
    for (at, node) in ordered(model, order) {
        let cells = columns.iter().enumerate().map(|(place, column)| {
            let number = node.shown(columns, place, order.basis);
            Cell::from(format::shown(column, number))
        });
        table.push(
            std::iter::once(Cell::from(node.title()))
                .chain(cells)
                .chain((!limits.is_empty()).then(|| held(model, at)))
                .collect(),
        );
    }
    let seconds = model.seconds().unwrap_or_default();
    format!("{}{seconds:.3} s\n", table.render(look))
}

/// How the limits of a cgroup stand.
fn held(model: &Model, at: usize) -> Cell {
    let limits = model.limits();
    let tone = if limits.holds(at) {
        Tone::Bad
    } else {
        Tone::Plain
    };
    let said = model.nodes().get(at).map(|node| limits.said(node));
    Cell::toned(said.unwrap_or_default(), tone)
}

/// A frame as a document.
#[derive(Debug, Serialize)]
pub struct Frame<'a> {
    /// How long the readings were apart from which the rates are; null if there was one only.
    seconds: Option<f64>,
    /// Events that were not charged.
    lost: u64,
    /// What could not be read of meters that read, in words.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unread: &'a [String],
    cgroups: Vec<Row<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    limits: &'a [LimitReport],
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    cgroup: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    cgroup_id: CgroupId,
    meters: Vec<Value<'a>>,
}

/// A value as reports have it, and how fast it grows; null where it is not known, as of gauges.
#[derive(Debug, Serialize)]
struct Value<'a> {
    meter: &'a str,
    kind: Truth,
    unit: Unit,
    form: Form,
    labels: &'a Labels,
    own: u64,
    total: u64,
    own_per_second: Option<f64>,
    total_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak: Option<u64>,
    #[serde(flatten)]
    histogram: Option<&'a Histogram>,
}

/// The frame as a document, with the cgroups in `order`.
pub fn frame<'a>(model: &'a Model, order: &Order) -> Frame<'a> {
    let value = |series: &'a Series| {
        let place = usize::try_from(series.column).ok()?;
        let column = model.columns().get(place)?;
        Some(Value {
            meter: &column.meter,
            kind: series.kind,
            unit: column.unit,
            form: column.form,
            labels: &series.labels,
            own: series.reading.own,
            total: series.reading.total,
            own_per_second: series.reading.rate(Basis::Own),
            total_per_second: series.reading.rate(Basis::Total),
            peak: series.peak(),
            histogram: series.histogram(),
        })
    };
    let row = |(_, node): (usize, &'a Node)| Row {
        cgroup: &node.path,
        name: node.called.as_deref(),
        image: node.image.as_deref(),
        cgroup_id: node.id,
        meters: node.series.iter().filter_map(value).collect(),
    };
    Frame {
        seconds: model.seconds(),
        lost: model.lost(),
        unread: model.unread(),
        cgroups: ordered(model, order).map(row).collect(),
        limits: model.limits().all(),
    }
}
