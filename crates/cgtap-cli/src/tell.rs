//! What goes to standard error: errors, and notes beside the result.

use std::io::Write;

use tracing_subscriber::filter::LevelFilter;

use crate::cli::Color;
use crate::failure::Failure;
use crate::render::{self, Look, Tone};

/// How errors and notes are told.
#[derive(Clone, Copy, Debug)]
pub struct Teller {
    /// Errors as JSON documents.
    pub json: bool,
    /// The whole log of the verifier too.
    pub log: bool,
    /// In colour.
    pub color: Color,
}

impl Teller {
    /// Tells why the command did not do what was asked.
    pub fn failure(&self, failure: &Failure) {
        let text = match (
            self.json,
            serde_json::to_string(&failure.document(self.log)),
        ) {
            (true, Ok(text)) => text + "\n",
            // Strings have always a JSON form; and better plain than not at all.
            _ => render::failure(failure, self.log, &self.look()),
        };
        write_to_stderr(&text);
    }

    /// Tells what the result alone does not say. JSON says it in its own fields.
    pub fn note(&self, text: &str) {
        if !self.json {
            let look = self.look();
            let text = render::printable(text);
            write_to_stderr(&format!("{}: {text}\n", look.paint(Tone::Warn, "note")));
        }
    }

    fn look(&self) -> Look {
        Look::of_stderr(self.color)
    }
}

fn write_to_stderr(text: &str) {
    // If that fails nobody is left to tell it to.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Lets what the engine reports of its work go to standard error, the more the higher `verbosity`.
/// With JSON only if it is asked for: whoever reads that expects documents there.
pub fn log_to_stderr(verbosity: u8, json: bool) {
    let level = match verbosity {
        0 if json => LevelFilter::OFF,
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(false)
        .with_target(verbosity > 1)
        .without_time()
        .init();
}
