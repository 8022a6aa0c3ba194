//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::Model;
use super::series::Basis;
use super::view::{Prompt, View};
use crate::cli::interval;

/// The keys and what they do, as the help lists them.
pub const KEYS: [(&str, &str); 18] = [
    ("up down, k j", "select the cgroup above or below"),
    ("PgUp PgDn", "a page up or down"),
    ("Home End, g G", "the first or last cgroup"),
    ("left right, h l", "scroll the columns"),
    ("Enter", "the values of the selected cgroup, or back"),
    ("J K", "scroll these values"),
    ("space", "fold or unfold what is below the cgroup"),
    ("+ -", "unfold or fold all"),
    ("s", "sort by the next column, or by name"),
    ("S", "sort the other way round"),
    (
        "/",
        "show only paths that contain what is typed, and those above",
    ),
    ("Esc", "close what is open, or show all again"),
    ("f", "freeze: read nothing, or go on"),
    (
        "r",
        "what a cgroup used itself (own), or with all below it (total)",
    ),
    ("d", "another interval between readings"),
    ("?", "this help, or back"),
    ("q", "quit"),
    ("Ctrl-C", "quit with exit status 130"),
];

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Draw again.
    Draw,
    /// End.
    Quit,
    /// End as after Ctrl-C.
    Interrupted,
}

impl View {
    /// Does what `key` asks for.
    pub fn key(&mut self, key: KeyEvent, model: &Model) -> Answer {
        if key.kind == KeyEventKind::Release {
            return Answer::Draw;
        }
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Answer::Interrupted,
                _ => Answer::Draw,
            };
        }
        if let Some(prompt) = self.prompt.take() {
            self.typed(prompt, key.code, model);
            return Answer::Draw;
        }
        if let Some(line) = self.help {
            return self.key_in_help(line, key.code);
        }
        match key.code {
            KeyCode::Char('q') => return Answer::Quit,
            KeyCode::Char('?') => self.help = Some(0),
            KeyCode::Enter => {
                self.detail = match self.detail {
                    None if !self.lines().is_empty() => Some(0),
                    _ => None,
                }
            }
            KeyCode::Esc => {
                if self.detail.take().is_none() {
                    self.filter_by(String::new(), model);
                }
            }
            KeyCode::Char('/') => self.prompt = Some(Prompt::Filter(self.filter.clone())),
            KeyCode::Char('d') => self.prompt = Some(Prompt::Interval(String::new())),
            KeyCode::Char('f') => self.frozen = !self.frozen,
            KeyCode::Char(' ') => self.fold(model),
            KeyCode::Char('+' | '=') => self.fold_all(false, model),
            KeyCode::Char('-') => self.fold_all(true, model),
            KeyCode::Char('s') => self.sort_by_next(model),
            KeyCode::Char('S') => {
                self.order.reverse = !self.order.reverse;
                self.arrange(model);
            }
            KeyCode::Char('r') => {
                self.order.basis = match self.order.basis {
                    Basis::Total => Basis::Own,
                    Basis::Own => Basis::Total,
                };
                self.arrange(model);
            }
            KeyCode::Left | KeyCode::Char('h') => self.scroll_columns(false, model),
            KeyCode::Right | KeyCode::Char('l') => self.scroll_columns(true, model),
            KeyCode::Char('J') => self.detail = self.detail.map(|line| line + 1),
            KeyCode::Char('K') => self.detail = self.detail.map(|line| line.saturating_sub(1)),
            code => {
                if let Some(line) = moved(self.cursor(), self.page(), code) {
                    self.move_to(line, model);
                }
            }
        }
        Answer::Draw
    }

    fn key_in_help(&mut self, line: usize, code: KeyCode) -> Answer {
        match code {
            KeyCode::Char('q' | '?') | KeyCode::Esc | KeyCode::Enter => self.help = None,
            code => self.help = Some(moved(line, 10, code).unwrap_or(line).min(KEYS.len())),
        }
        Answer::Draw
    }

    fn typed(&mut self, prompt: Prompt, code: KeyCode, model: &Model) {
        match (prompt, code) {
            // The filter works while it is typed: Esc gives back the one before.
            (Prompt::Filter(before), KeyCode::Esc) => self.filter_by(before, model),
            (Prompt::Filter(_), KeyCode::Enter) => {}
            (Prompt::Filter(before), code) => {
                let mut filter = std::mem::take(&mut self.filter);
                edit(&mut filter, code);
                self.filter_by(filter, model);
                self.prompt = Some(Prompt::Filter(before));
            }
            (Prompt::Interval(_), KeyCode::Esc) => {}
            (Prompt::Interval(text), KeyCode::Enter) => match interval(&text) {
                Ok(interval) => self.interval = interval,
                Err(message) => self.message = Some(message),
            },
            (Prompt::Interval(mut text), code) => {
                edit(&mut text, code);
                self.prompt = Some(Prompt::Interval(text));
            }
        }
    }
}

/// The most that is typed: longer than any path that is looked for.
const LONGEST: usize = 256;

fn edit(text: &mut String, code: KeyCode) {
    match code {
        KeyCode::Char(c) if !c.is_control() && text.len() < LONGEST => text.push(c),
        KeyCode::Backspace => {
            text.pop();
        }
        _ => {}
    }
}

/// Where `code` leads from line `from`; none if it is no key that moves. The end is cut by whoever
/// knows it.
fn moved(from: usize, page: usize, code: KeyCode) -> Option<usize> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => from.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => from.saturating_add(1),
        KeyCode::PageUp => from.saturating_sub(page),
        KeyCode::PageDown => from.saturating_add(page),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => usize::MAX,
        _ => return None,
    })
}
