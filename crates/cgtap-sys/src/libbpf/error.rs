//! What libbpf said.

use std::ffi::{CStr, c_char};

use super::log::Said;
use crate::errno::Errno;

/// A libbpf call that failed, with the warnings it wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {}", self.summary())]
pub struct LibbpfError {
    /// What was being done, e.g. `open the object`.
    pub doing: &'static str,
    /// The error number: of the system, or one of libbpf's own (from 4000 on).
    pub errno: Errno,
    /// All that libbpf wrote, one warning a line, without its own prefix.
    pub log: String,
    /// The last line it wrote below a warning.
    pub last: String,
}

/// Names in a file are the file's to choose: what steers a terminal is shown, not sent.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

impl LibbpfError {
    pub(super) fn new(doing: &'static str, code: i32, said: &Said) -> Self {
        let clean = |text: &str| {
            text.lines()
                .map(|line| line.strip_prefix("libbpf: ").unwrap_or(line).trim_end())
                .filter(|line| !line.is_empty())
                .map(printable)
                .collect::<Vec<_>>()
                .join("\n")
        };
        Self {
            doing,
            errno: Errno(code.wrapping_abs()),
            log: clean(&said.warnings),
            last: clean(&said.last),
        }
    }

    /// One line: libbpf's last warning; where it warned of nothing, the words for the number and
    /// the last thing it was busy with.
    #[must_use]
    pub fn summary(&self) -> String {
        match (self.log.lines().last(), self.last.lines().last()) {
            (Some(line), _) => line.to_owned(),
            (None, Some(last)) => format!("{} ({last})", words(self.errno)),
            (None, None) => words(self.errno),
        }
    }
}

/// The words for an error number, libbpf's own included.
#[must_use]
pub fn words(errno: Errno) -> String {
    let mut buffer = [0 as c_char; 160];
    // SAFETY: writes at most the buffer's length and always ends it in NUL.
    unsafe { libbpf_sys::libbpf_strerror(errno.0, buffer.as_mut_ptr(), buffer.len() as _) };
    // SAFETY: as above.
    unsafe { CStr::from_ptr(buffer.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}
