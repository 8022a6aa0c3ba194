//! The values of the selected cgroup, one meter below the other.

use cgtap::engine::LimitReport;
use cgtap::meter::usage::Unit;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use unicode_width::UnicodeWidthStr;

use super::{bold, colour, dim, fitted, right};
use crate::render::{Look, limit_amount, limit_value, printable};
use crate::top::column::Column;
use crate::top::format::{self, amount, full_rate};
use crate::top::limits::{is_holding, left};
use crate::top::model::{Model, Node};
use crate::top::series::{Basis, Series, label_text};
use crate::top::view::View;

/// How wide the numbers are.
const NUMBER: usize = 11;

/// Draws the values into `area`.
pub fn draw(frame: &mut Frame, area: Rect, view: &mut View, model: &Model, look: &Look) {
    let node = view.selected().and_then(|id| model.place(id));
    let Some(node) = node.map(|place| &model.nodes()[place]) else {
        return;
    };
    let width = usize::from(area.width);
    let mut lines = limits(model.limits().over(&node.path), width, look);
    lines.extend(values_of(
        node,
        model.columns(),
        view.order.basis,
        width,
        look,
    ));
    let room = usize::from(area.height).saturating_sub(1);
    // Not beyond the end: the next key up is to be seen.
    let from = view.detail.unwrap_or(0);
    let from = from.min(lines.len().saturating_sub(room));
    view.detail = view.detail.map(|_| from);
    let line = if look.unicode { "─" } else { "-" };
    let title = format!("{line}{line} {} ", printable(&node.title()));
    let rest = width.saturating_sub(title.width());
    let title = fitted(&title, width.min(title.width()), look.unicode);
    let mut text = vec![Line::styled(title + &line.repeat(rest), bold())];
    text.extend(lines.into_iter().skip(from).take(room));
    frame.render_widget(Paragraph::new(text), area);
}

fn values_of(
    node: &Node,
    columns: &[Column],
    basis: Basis,
    width: usize,
    look: &Look,
) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (place, column) in columns.iter().enumerate() {
        let series: Vec<&Series> = node.series.iter().filter(|s| s.is_of(place)).collect();
        if series.is_empty() {
            continue;
        }
        let meter = printable(&column.meter);
        let kind = format!("{} of {}, {}", column.form, unit(column.unit), column.kind);
        let title = format!("{meter}{}  {kind}", column.mark(look.unicode));
        lines.push(Line::styled(title, bold()));
        lines.extend(history(node, place, column, basis, width, look));
        lines.extend(values(&series, column, basis, width, look));
        lines.extend(histogram(&series, column, basis, width, look));
    }
    if lines.is_empty() {
        lines.push(Line::from("nothing was counted in this cgroup"));
    }
    lines
}

/// The limits of the cgroup and of those above it, the nearest first.
fn limits<'a>(
    over: impl Iterator<Item = &'a LimitReport>,
    width: usize,
    look: &Look,
) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for limit in over {
        if lines.is_empty() {
            lines.push(Line::styled("limits", bold()));
        }
        let style = if is_holding(limit) {
            colour(look, Color::Red).add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        };
        let head = [
            printable(&limit_value(limit)).into_owned(),
            format!("of {}", printable(&limit.cgroup)),
            limit_amount(limit),
            limit.on.clone(),
        ];
        let head = flowing(&head, "  ", 2, width);
        lines.extend(head.into_iter().map(|line| Line::styled(line, style)));
        let mut stands = vec![
            format!("used {}", amount(limit.unit, limit.used as f64)),
            format!("left {}", left(limit)),
            format!("denied {}", amount(Unit::Count, limit.denied as f64)),
        ];
        if limit.is_reached {
            stands.push(match limit.free_in_ns {
                Some(ns) => format!("free again in {}", amount(Unit::Ns, ns as f64)),
                None => "not free again by itself".to_owned(),
            });
        }
        let stands = flowing(&stands, ", ", 4, width);
        lines.extend(stands.into_iter().map(Line::from));
    }
    lines
}

/// `pieces` with `gap` between them, in lines of `width`, `indent` from the left.
fn flowing(pieces: &[String], gap: &str, indent: usize, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.width() + gap.width() + piece.width() <= width => {
                *line += gap;
                *line += piece;
            }
            _ => lines.push(format!("{}{piece}", " ".repeat(indent))),
        }
    }
    lines
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "events",
        Unit::Bytes => "bytes",
        Unit::Ns => "time",
    }
}

fn history(
    node: &Node,
    place: usize,
    column: &Column,
    basis: Basis,
    width: usize,
    look: &Look,
) -> Option<Line<'static>> {
    let points: Vec<f32> = node
        .histories
        .get(place)?
        .points(basis == Basis::Own)
        .collect();
    if points.is_empty() {
        return None;
    }
    let text = |point: f32| format::shown(column, Some(f64::from(point)));
    let now = text(points.last().copied().unwrap_or_default());
    let most = text(points.iter().copied().fold(0.0, f32::max));
    let said = format!(" now {now}, most {most} {}", column.head());
    let room = width.saturating_sub(said.width() + 2);
    let bars = format::sparkline(&points, room, look.unicode);
    Some(Line::from(format!("  {bars}{said}")))
}

fn values(
    series: &[&Series],
    column: &Column,
    basis: Basis,
    width: usize,
    look: &Look,
) -> Vec<Line<'static>> {
    let counter = column.form.is_counter();
    let last = if counter { "RATE" } else { "PEAK" };
    let room = width.saturating_sub(2 + 3 * (NUMBER + 1));
    let row = |labels: &str, numbers: [&str; 3]| {
        let numbers = numbers.map(|n| format!(" {}", right(n, NUMBER)));
        format!(
            "  {}{}",
            fitted(labels, room, look.unicode),
            numbers.concat()
        )
    };
    let mut lines = vec![Line::styled(row("LABELS", ["OWN", "TOTAL", last]), dim())];
    for series in series {
        let number = |n: u64| amount(column.unit, n as f64);
        let last = if counter {
            let rate = series.reading.rate(basis);
            rate.map(|rate| full_rate(column.unit, rate))
        } else {
            series.peak().map(number)
        };
        let labels = label_text(&series.labels);
        let numbers = [
            number(series.reading.own),
            number(series.reading.total),
            last.unwrap_or_else(|| "-".to_owned()),
        ];
        let labels = printable(&labels);
        let text = row(&labels, numbers.each_ref().map(String::as_str));
        lines.push(Line::from(text));
    }
    lines
}

/// The numbers of all labels by their size.
fn histogram(
    series: &[&Series],
    column: &Column,
    basis: Basis,
    width: usize,
    look: &Look,
) -> Vec<Line<'static>> {
    let mut buckets: Vec<u64> = Vec::new();
    for histogram in series.iter().filter_map(|s| s.histogram()) {
        let more = match basis {
            Basis::Own => &histogram.own_buckets,
            Basis::Total => &histogram.total_buckets,
        };
        buckets.resize(buckets.len().max(more.len()), 0);
        for (sum, n) in buckets.iter_mut().zip(more) {
            *sum = sum.saturating_add(*n);
        }
    }
    let Some(first) = buckets.iter().position(|n| *n > 0) else {
        return Vec::new();
    };
    let last = buckets.iter().rposition(|n| *n > 0).unwrap_or(first);
    let most = buckets.iter().copied().max().unwrap_or(1);
    let part = |part| format::quantile(column.unit, &buckets, part).unwrap_or_default();
    let all = buckets.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
    let mut lines = vec![Line::from(format!(
        "  {} values, half below {}, 99% below {}",
        amount(Unit::Count, all as f64),
        part(0.5),
        part(0.99)
    ))];
    let room = width.saturating_sub(2 + 20 + 1 + 8 + 1);
    for (n, count) in buckets.iter().enumerate().take(last + 1).skip(first) {
        let (from, to) = format::bounds(column.unit, n);
        let bounds = format!("{} to {}", right(&from, 8), right(&to, 8));
        let bar = format::bar(*count, most, room, look.unicode);
        let count = right(&amount(Unit::Count, *count as f64), 8);
        lines.push(Line::from(format!("  {bounds} {count} {bar}")));
    }
    lines
}
