//! How results look on a terminal and in a pipe. Everything here makes strings from reports, and
//! knows neither where they go nor where they come from.

mod attachments;
mod doctor;
mod histogram;
mod limits;
mod maps;
mod meters;
mod policy;
mod stat;
mod table;
mod tree;

use std::borrow::Cow;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use anstyle::{AnsiColor, Style};

use crate::cli::Color;
use crate::failure::Failure;

pub use attachments::{attached, detached, files, list, losses, replaced};
pub use doctor::doctor;
pub use limits::{
    denials, explained, follows, later, limit_amount, limit_value, limited, limits, missed,
};
pub use maps::{maps, storage};
pub use meters::{meter, meter_code, meters, usage};
pub use policy::{policy_changes, policy_reach};
pub use stat::{stat, stat_notes};
pub use table::{Cell, Column, Table};
pub use tree::tree;

/// What the place that is written to can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colours.
    pub colour: bool,
    /// More than ASCII.
    pub unicode: bool,
    /// So many columns; none where it is no terminal, and nothing needs to be cut.
    pub width: Option<usize>,
}

/// What a piece of text is, which decides its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// A heading.
    Heading,
    /// Of less interest.
    Dim,
    /// As it should be.
    Good,
    /// Not quite.
    Warn,
    /// Wrong.
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        let colour = |c: AnsiColor| Style::new().fg_color(Some(c.into()));
        match self {
            Self::Plain => Style::new(),
            Self::Heading => Style::new().bold(),
            Self::Dim => Style::new().dimmed(),
            Self::Good => colour(AnsiColor::Green),
            Self::Warn => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red).bold(),
        }
    }
}

impl Look {
    /// Neither colour nor more than ASCII, as wide as need be.
    #[cfg(test)]
    pub const PLAIN: Self = Self {
        colour: false,
        unicode: false,
        width: None,
    };

    /// What a file can show.
    pub fn of_file() -> Self {
        Self {
            colour: false,
            unicode: is_utf8(|name| std::env::var(name).ok()),
            width: None,
        }
    }

    /// What standard output can show.
    pub fn of_stdout(color: Color) -> Self {
        let out = std::io::stdout();
        Self {
            colour: is_coloured(color, &out),
            unicode: is_utf8(|name| std::env::var(name).ok()),
            width: width(&out),
        }
    }

    /// What standard error can show.
    pub fn of_stderr(color: Color) -> Self {
        let err = std::io::stderr();
        Self {
            colour: is_coloured(color, &err),
            unicode: is_utf8(|name| std::env::var(name).ok()),
            width: width(&err),
        }
    }

    /// `text` in the colour of `tone`.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let style = tone.style();
        if self.colour && !style.is_plain() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

fn is_coloured(color: Color, stream: &impl anstream::stream::RawStream) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
    }
}

fn width(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    // Serial lines say 0.
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Whether the locale's encoding is UTF-8: the first of the three that is set decides.
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|name| variable(name))
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

/// `text` without what a terminal would obey. The names of cgroups and files are others' choice.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control()) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    });
    Cow::Owned(escaped.collect())
}

/// The lines that tell of a failure. The whole log only if `log`.
pub fn failure(failure: &Failure, log: bool, look: &Look) -> String {
    let message = failure.message();
    let errno = failure
        .errno()
        .filter(|errno| !message.contains(errno.as_str()))
        .map(|errno| format!(" ({errno})"))
        .unwrap_or_default();
    let error = look.paint(Tone::Bad, "error");
    // The place of a mistake in an expression takes lines of its own.
    let (first, place) = message.split_once('\n').unwrap_or((&message, ""));
    let mut text = format!("{error}: {}{errno}\n", printable(first));
    for line in place.lines() {
        text += &printable(line);
        text.push('\n');
    }
    let lines = || failure.log().lines().filter(|line| !line.trim().is_empty());
    match lines().count() {
        0 => {}
        _ if log => {
            for line in lines() {
                text += &format!("  {}\n", printable(line).replace("\\t", "    "));
            }
        }
        1 => text += &format!("  {}\n", printable(failure.log().trim())),
        count => {
            let note = look.paint(Tone::Warn, "note");
            text += &format!("{note}: -v shows the {count} lines of the log\n");
        }
    }
    text
}

/// `word` for one, `words` for any other number of them.
pub fn counted(number: usize, word: &str, words: &str) -> String {
    format!("{number} {}", if number == 1 { word } else { words })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::engine::{Error, ErrorKind};
    use cgtap_sys::Errno;

    #[test]
    fn the_first_locale_variable_that_is_set_decides() {
        let utf8 = |pairs: &'static [(&str, &str)]| {
            is_utf8(|name| {
                let value = pairs.iter().find(|(n, _)| *n == name)?.1;
                Some(value.to_owned())
            })
        };
        assert!(utf8(&[("LANG", "en_US.UTF-8")]));
        assert!(utf8(&[("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(utf8(&[("LC_ALL", ""), ("LANG", "de_DE.utf-8")]));
        assert!(!utf8(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]));
        assert!(!utf8(&[]));
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b]0;x\x07"), "a\\u{1b}]0;x\\u{7}");
        assert_eq!(printable("ä b"), "ä b");
    }

    #[test]
    fn a_failure_tells_the_errno_once_and_the_log_on_demand() {
        let error = |message: &str| {
            Error::new(ErrorKind::Verifier, message)
                .with_errno(Errno::EACCES)
                .with_log("0: r1 = 1\n\n1: exit\n")
                .into()
        };
        assert_eq!(
            failure(&error("refused"), false, &Look::PLAIN),
            "error: refused (EACCES)\nnote: -v shows the 2 lines of the log\n"
        );
        assert_eq!(
            failure(&error("refused (EACCES)"), true, &Look::PLAIN),
            "error: refused (EACCES)\n  0: r1 = 1\n  1: exit\n"
        );
    }

    #[test]
    fn colour_is_used_only_where_it_is_wanted() {
        let colour = Look {
            colour: true,
            ..Look::PLAIN
        };
        assert_eq!(colour.paint(Tone::Good, "yes"), "\x1b[32myes\x1b[0m");
        assert_eq!(colour.paint(Tone::Plain, "yes"), "yes");
        assert_eq!(Look::PLAIN.paint(Tone::Good, "yes"), "yes");
    }
}
