//! The keys, and what the marks mean.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::{bold, fitted};
use crate::render::Look;
use crate::top::keys::KEYS;

/// Draws the help into `area`, from line `from` on.
pub fn draw(frame: &mut Frame, area: Rect, from: usize, look: &Look) {
    let lines: Vec<Line> = lines(look).into_iter().skip(from).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn lines(look: &Look) -> Vec<Line<'static>> {
    let proxy = if look.unicode { "≈" } else { "p" };
    let mut lines = vec![
        Line::styled("Marks", bold()),
        Line::from("no mark: measured, each event    ~ estimate, from samples"),
        Line::from(format!(
            "! held back by a limit    {proxy} proxy, something else that goes along with it"
        )),
        Line::styled("Keys", bold()),
    ];
    lines.extend(
        KEYS.iter()
            .map(|(key, does)| Line::from(format!("{} {does}", fitted(key, 15, look.unicode)))),
    );
    lines
}
