//! What is generated from the definition of the words, and pipes that close.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::{cgtap, run};

#[test]
fn every_shell_has_completions() {
    for (shell, mark) in [
        ("bash", "_cgtap()"),
        ("zsh", "#compdef cgtap"),
        ("fish", "complete -c cgtap"),
    ] {
        let ran = run(&["completions", shell]).done();
        assert!(ran.out.contains(mark), "{shell}");
        assert!(ran.out.contains("expect-revision"), "{shell}");
        // Not a user's command.
        assert!(!ran.out.contains("demo-worker"), "{shell}");
    }
}

#[test]
fn bash_understands_its_completions() {
    let ran = run(&["completions", "bash"]).done();
    let status = Command::new("bash").args(["-n", "-c", &ran.out]).status();
    assert!(status.unwrap().success());
}

#[test]
fn the_man_page_has_its_sections() {
    let ran = run(&["man"]).done();
    for title in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "EXIT STATUS",
        "ENVIRONMENT",
    ] {
        assert!(
            ran.out
                .lines()
                .any(|l| l.starts_with(".SH") && l.contains(title)),
            "{title}"
        );
    }
    let attach = run(&["man", "attach"]).done();
    assert!(
        attach
            .out
            .contains("cgtap attach [OPTIONS] <CGROUP> [OBJECT]")
    );
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    for words in [&["man"][..], &["completions", "bash"], &["--help"]] {
        let mut child = cgtap()
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Closed before a word is read: whatever is written finds no reader.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert_eq!(output.stderr, b"", "{words:?}");
    }
}

#[test]
fn the_first_line_comes_through_a_pipe_that_then_closes() {
    let mut child = cgtap().arg("man").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    drop(out);
    assert!(!line.is_empty());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_full_device_is_an_error() {
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = cgtap()
        .args(["--json", "man"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(r#""errno":"ENOSPC""#), "{error}");
}
