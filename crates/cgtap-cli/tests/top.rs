//! `cgtap top` as a process. Needs root, cgroup2 and a bpffs where it reads a state.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use support::{Sandbox, run};

#[test]
fn wrong_words_are_usage_errors() {
    for (words, said) in [
        (&["-d", "0"][..], "greater than 0"),
        (&["-d", "0.01"], "0.1 seconds"),
        (&["-n", "x"], "--iterations"),
        (&["--depth", "x"], "--depth"),
        (&["pod:"], "a name is missing"),
    ] {
        let ran = run(&[&["top"], words].concat());
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.err.contains(said), "{ran:?}");
    }
}

#[test]
fn the_man_page_and_the_completions_know_it() {
    assert!(run(&["man", "top"]).done().out.contains("iterations"));
    assert!(
        run(&["completions", "bash"])
            .done()
            .out
            .contains("cgtap__subcmd__top")
    );
}

#[test]
fn where_nothing_is_counted_it_says_so_and_what_to_do() {
    let sandbox = Sandbox::new();
    let begin = Instant::now();
    let ran = sandbox.run(&["top", &sandbox.cgroup, "-d", "0.2"]).done();
    assert_eq!(ran.out, "");
    assert!(ran.err.contains("cgtap meter enable block"), "{ran:?}");
    assert!(begin.elapsed().as_millis() >= 200);
}

#[test]
fn without_a_meter_a_frame_is_a_document_without_values() {
    let sandbox = Sandbox::new();
    let words = ["--json", "top", &sandbox.cgroup, "-d", "0.1", "-n", "2"];
    let ran = sandbox.run(&words).done();
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
    for line in ran.out.lines() {
        let frame: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(frame["schema"], "cgtap/1");
        assert!(frame["seconds"].as_f64().unwrap() > 0.0, "{frame}");
        assert_eq!(frame["lost"], 0);
        for cgroup in frame["cgroups"].as_array().unwrap() {
            assert_eq!(cgroup["meters"].as_array().unwrap().len(), 0, "{frame}");
        }
    }
    assert_eq!(ran.err, "");
}

#[test]
fn in_a_terminal_it_draws_until_a_key_ends_it() {
    let sandbox = Sandbox::new();
    let command = format!(
        "stty rows 24 cols 80; {} --state {} top {}",
        env!("CARGO_BIN_EXE_cgtap"),
        sandbox.state.display(),
        sandbox.cgroup,
    );
    let mut script = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run script: {e}; `./dev test` installs it"));
    script.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let output = script.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out:?}");
    assert!(
        out.contains("\x1b[?1049h") && out.contains("\x1b[?1049l"),
        "{out:?}"
    );
}
