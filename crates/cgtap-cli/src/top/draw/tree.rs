//! The tree with its columns.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use unicode_width::UnicodeWidthStr;

use super::{bold, colour, dim, fitted, right};
use crate::render::{Look, printable};
use crate::top::arrange;
use crate::top::column::Column;
use crate::top::format;
use crate::top::model::{Model, Node};
use crate::top::view::View;

/// The narrowest and the widest column.
const NARROWEST: usize = 9;
const WIDEST: usize = 18;
/// What names have at least, where there is as much, and at the most.
const NAMES: (usize, usize) = (24, 60);
/// The fewest lines with which a line of them is spent on units.
const ROOM_FOR_UNITS: u16 = 8;

/// A column with its place and width.
struct Shown<'a> {
    column: &'a Column,
    place: usize,
    width: usize,
}

/// Draws the tree into `area`.
pub fn draw(frame: &mut Frame, area: Rect, view: &mut View, model: &Model, look: &Look) {
    let width = usize::from(area.width);
    let (columns, names) = columns(view, model, look, width);
    view.shown_columns = columns.len();
    let mut text = vec![head(view, model, &columns, names, look)];
    if area.height >= ROOM_FOR_UNITS {
        text.push(units(&columns, names));
    }
    let height = usize::from(area.height).saturating_sub(text.len());
    let basis = view.order.basis;
    let selected = view.cursor();
    view.window(height);
    let top = view.top();
    for (i, line) in view.lines().iter().enumerate().skip(top).take(height) {
        let node = &model.nodes()[line.node];
        let name = name(line, node, model);
        let held = model.limits().holds(line.node);
        let mut row = indented(line, &name, held, names, look);
        for shown in &columns {
            let number = node.shown(model.columns(), shown.place, basis);
            let text = format::shown(shown.column, number);
            let style = if number.is_none_or(|n| n == 0.0) {
                dim()
            } else {
                Style::new()
            };
            row.push_span(Span::styled(
                format!(" {}", right(&text, shown.width)),
                style,
            ));
        }
        if i == selected {
            row = row.style(Style::new().add_modifier(Modifier::REVERSED));
        }
        text.push(row);
    }
    frame.render_widget(Paragraph::new(text), area);
}

/// The columns that fit into `width`, from the first that is not scrolled away, and what is left for
/// the names.
fn columns<'a>(
    view: &View,
    model: &'a Model,
    look: &Look,
    width: usize,
) -> (Vec<Shown<'a>>, usize) {
    let least = NAMES.0.min(width / 2);
    let mut left = width;
    let mut columns = Vec::new();
    let all = model.columns().iter().enumerate();
    for (place, column) in all.skip(view.first_column) {
        let title = column.meter.width() + column.mark(look.unicode).width();
        let width = title.clamp(NARROWEST, WIDEST);
        if left < least + width + 1 {
            break;
        }
        left -= width + 1;
        columns.push(Shown {
            column,
            place,
            width,
        });
    }
    (columns, left.min(NAMES.1))
}

fn head(view: &View, model: &Model, columns: &[Shown], names: usize, look: &Look) -> Line<'static> {
    let before = view.first_column > 0;
    let behind = view.first_column + columns.len() < model.columns().len();
    let more = match (before, behind) {
        (true, true) => " <>",
        (true, false) => " <",
        (false, true) => " >",
        (false, false) => "",
    };
    let mut text = fitted(&format!("CGROUP{more}"), names, look.unicode);
    for shown in columns {
        let mark = shown.column.mark(look.unicode);
        let room = shown.width.saturating_sub(mark.width());
        let meter = printable(&shown.column.meter);
        let title = fitted(&meter, room.min(meter.width()), look.unicode);
        text += &format!(" {}", right(&(title + mark), shown.width));
    }
    Line::styled(text, bold())
}

fn units(columns: &[Shown], names: usize) -> Line<'static> {
    let mut text = " ".repeat(names);
    for shown in columns {
        text += &format!(" {}", right(shown.column.head(), shown.width));
    }
    Line::styled(text, dim())
}

/// The path behind that of the cgroup above.
fn name(line: &arrange::Line, node: &Node, model: &Model) -> String {
    let parent = node.parent.filter(|_| line.depth > 0);
    let above = parent.map_or("", |parent| &*model.nodes()[parent].path);
    let rest = node.path.strip_prefix(above).unwrap_or(&node.path);
    let name = match parent {
        Some(_) => rest.trim_start_matches('/'),
        None => rest,
    };
    match &node.called {
        // What runs there says more than the directory.
        Some(called) => format!("{} {}", printable(called), printable(name)),
        None => printable(name).into_owned(),
    }
}

/// The name below those above it, behind marks: whether it is folded, whether a limit holds it back.
fn indented(
    line: &arrange::Line,
    name: &str,
    held: bool,
    width: usize,
    look: &Look,
) -> Line<'static> {
    let mark = match (line.has_children, line.folded, look.unicode) {
        (false, ..) => " ",
        (true, true, true) => "▸",
        (true, false, true) => "▾",
        (true, true, false) => "+",
        (true, false, false) => "-",
    };
    // However deep, some of the name is left.
    let indent = (2 * line.depth).min(width.saturating_sub(14));
    let before = format!("{}{mark}", " ".repeat(indent));
    if !held {
        return Line::from(fitted(&format!("{before} {name}"), width, look.unicode));
    }
    let rest = width.saturating_sub(indent + 2);
    let bad = colour(look, Color::Red).add_modifier(Modifier::BOLD);
    Line::from(vec![
        Span::raw(fitted(&before, width.min(indent + 1), look.unicode)),
        Span::styled(
            fitted("!", width.saturating_sub(indent + 1).min(1), look.unicode),
            bad,
        ),
        Span::raw(fitted(name, rest, look.unicode)),
    ])
}
