//! The screen, drawn from the model and the view. Only what is seen is worked on.

mod detail;
mod help;
mod tree;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use unicode_width::UnicodeWidthStr;

use super::format::grouped;
use super::model::Model;
use super::plain;
use super::series::Basis;
use super::view::{Prompt, View};
use crate::render::{Look, counted, printable};

/// The fewest lines of a screen on which the detail stands below the tree, and not in its place.
const ROOM_FOR_BOTH: u16 = 16;

/// Draws everything. `clock` is the time as it is shown.
pub fn draw(frame: &mut Frame, view: &mut View, model: &Model, look: &Look, clock: &str) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(header(view, model, look, clock), head);
    frame.render_widget(footer(view, look), foot);
    if let Some(line) = view.help {
        help::draw(frame, body, line, look);
        return;
    }
    if model.columns().is_empty() && model.limits().is_empty() {
        let lines = plain::NOTHING.map(|text| Line::from(text).centered());
        frame.render_widget(Paragraph::new(Vec::from(lines)), body);
        return;
    }
    match view.detail {
        None => tree::draw(frame, body, view, model, look),
        Some(_) if body.height < ROOM_FOR_BOTH => detail::draw(frame, body, view, model, look),
        Some(_) => {
            let halves = Layout::vertical([Constraint::Fill(2), Constraint::Fill(3)]);
            let [upper, lower]: [Rect; 2] = halves.areas(body);
            tree::draw(frame, upper, view, model, look);
            detail::draw(frame, lower, view, model, look);
        }
    }
}

/// What matters most stands first: a narrow screen cuts the end.
fn header(view: &View, model: &Model, look: &Look, clock: &str) -> Line<'static> {
    let mut line = Line::from(Span::styled("cgtap top", bold()));
    let mut add = |text: String, style: Style| {
        line.push_span("  ");
        line.push_span(Span::styled(text, style));
    };
    if view.frozen {
        add(
            "FROZEN".to_owned(),
            colour(look, Color::Yellow).add_modifier(Modifier::REVERSED),
        );
    }
    if model.lost() > 0 {
        let style = colour(look, Color::Red).add_modifier(Modifier::BOLD);
        add(format!("lost {}", grouped(model.lost())), style);
    }
    if !model.unread().is_empty() {
        let number = model.unread().len() as u64;
        add(format!("unread {number}"), colour(look, Color::Yellow));
    }
    let cgroups = model.nodes().len();
    let cgroups = match cgroups {
        1 => counted(1, "cgroup", "cgroups"),
        _ => format!("{} cgroups", grouped(cgroups as u64)),
    };
    add(cgroups, Style::new());
    add(
        format!("every {} s", view.pace().as_secs_f64()),
        Style::new(),
    );
    add(clock.to_owned(), Style::new());
    line
}

/// What is typed, what went wrong, or how the tree is shown.
fn footer(view: &View, look: &Look) -> Line<'static> {
    if let Some(message) = &view.message {
        return Line::styled(message.clone(), colour(look, Color::Red));
    }
    match &view.prompt {
        Some(Prompt::Filter(_)) => {
            return Line::from(format!("/{}_", printable(&view.filter)));
        }
        Some(Prompt::Interval(text)) => {
            return Line::from(format!("seconds between readings: {}_", printable(text)));
        }
        None => {}
    }
    let sort = view.order.column.as_deref().unwrap_or("name");
    let reverse = if view.order.reverse { " reversed" } else { "" };
    let basis = match view.order.basis {
        Basis::Total => "total",
        Basis::Own => "own",
    };
    let mut text = format!("? help  q quit  {basis}  by {}{reverse}", printable(sort));
    if !view.filter.is_empty() {
        text += &format!("  /{}", printable(&view.filter));
    }
    Line::from(text)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn colour(look: &Look, colour: Color) -> Style {
    if look.colour {
        Style::new().fg(colour)
    } else {
        Style::new()
    }
}

/// The beginning of `text` in exactly `width` columns, with a mark where something is missing.
fn fitted(text: &str, width: usize, unicode: bool) -> String {
    let mut fitted = String::new();
    if text.width() <= width {
        fitted.push_str(text);
    } else {
        let mark = if unicode { "…" } else { "~" };
        for c in text.chars() {
            if fitted.width() + c.to_string().width() + mark.width() > width {
                break;
            }
            fitted.push(c);
        }
        if fitted.width() + mark.width() <= width {
            fitted.push_str(mark);
        }
    }
    let blank = width.saturating_sub(fitted.width());
    fitted + &" ".repeat(blank)
}

/// `text` at the right end of `width` columns.
fn right(text: &str, width: usize) -> String {
    let blank = width.saturating_sub(text.width());
    " ".repeat(blank) + text
}

#[cfg(test)]
mod tests;
