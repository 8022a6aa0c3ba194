//! What a test that goes on does not try.

use std::io::Write as _;

/// Says what a test that goes on cannot try on this kernel, past its captured output: `./dev test` and guests
/// count it as skipped.
pub fn not_run(what: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let words = format!("NOT RUN: {test}: {what}\n");
    std::io::stderr().write_all(words.as_bytes()).unwrap();
}
