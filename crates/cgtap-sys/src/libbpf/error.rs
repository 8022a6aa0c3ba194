//! What libbpf said.

use std::ffi::{CStr, c_char};

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
}

impl LibbpfError {
    pub(super) fn new(doing: &'static str, code: i32, log: &str) -> Self {
        Self {
            doing,
            errno: Errno(code.wrapping_abs()),
            log: log
                .lines()
                .map(|line| line.strip_prefix("libbpf: ").unwrap_or(line).trim_end())
                .filter(|line| !line.is_empty())
                .collect::<Vec<_>>()
                .join("\n"),
        }
    }

    /// One line: libbpf's last warning, or the words for the number where it was silent.
    #[must_use]
    pub fn summary(&self) -> String {
        match self.log.lines().last() {
            Some(line) => line.to_owned(),
            None => words(self.errno),
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
