//! What is generated from the definition of the words, and pipes that close.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
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

/// The page is written by looking at each kernel in a guest: in such a guest it is what `doctor` says there,
/// elsewhere it has the same rows.
#[test]
fn the_table_of_features_is_what_doctor_says() {
    // Of who asks and of what is mounted.
    const NO_ROW: [&str; 5] = ["user", "bpffs", "cgroup2", "tracefs", "no lockdown"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/features.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = page.lines().filter(|l| l.starts_with("| "));
    let rows: Vec<Vec<&str>> = table
        .map(|l| l.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let guest = std::env::var("CGTAP_GUEST").ok();
    let column = rows[0].iter().position(|k| Some(*k) == guest.as_deref());
    let said = run(&["--json", "doctor"]).json();
    let features = said["features"].as_array().unwrap();
    let is_row = |f: &&Value| {
        let name = f["name"].as_str().unwrap();
        !NO_ROW.contains(&name) && !name.starts_with("CAP_")
    };
    let features: Vec<&Value> = features.iter().filter(is_row).collect();
    let names: Vec<&str> = features
        .iter()
        .map(|f| f["name"].as_str().unwrap())
        .collect();
    let row_names: Vec<&str> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(row_names, names, "`./dev features` writes the page");
    for (row, feature) in rows[1..].iter().zip(features) {
        if let Some(column) = column {
            assert_eq!(row[column], feature["state"], "{feature}");
        }
    }
}
