//! The main jobs, end to end: attached to a cgroup, counted exactly there and below, nowhere else;
//! and, by a program of another's, what a cgroup used and what is left of its limit.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use support::Sandbox;

#[test]
fn what_is_attached_to_a_cgroup_runs_there_and_below_and_nowhere_else() {
    let sandbox = Sandbox::new("smoke");
    sandbox.cgroup("b");
    let request = sandbox.request("a", "count");
    let report = sandbox
        .engine
        .attach(request)
        .unwrap_or_else(|e| panic!("{e}\n{}", e.log()));
    sandbox.getppid("a", 1000);
    sandbox.getppid("b", 100);
    sandbox.getppid("", 10);
    // Made after the attach (S14).
    sandbox.getppid("a/young", 3);
    assert_eq!(sandbox.map_word(&report, "counts", 0), 1003);
}

/// `examples/usage.rs` tells what the kernel's own accounting does, and takes all away at its end.
#[test]
fn a_program_of_the_library_meters_and_watches_a_limit() {
    let sandbox = Sandbox::new("library");
    sandbox.cgroup("a");
    let mut example = Command::new(support::example("usage"))
        .arg(&sandbox.state)
        .arg(sandbox.dir("a"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = example.stdin.take().unwrap();
    let mut lines = BufReader::new(example.stdout.take().unwrap()).lines();
    // The limit is told last.
    let mut ask = || {
        input.write_all(b"\n").unwrap();
        let mut told = Vec::new();
        while !told.last().is_some_and(|l: &String| l.starts_with("left ")) {
            told.push(lines.next().unwrap().unwrap());
        }
        told
    };
    // It has enabled and set all when it answers.
    ask();
    sandbox.getppid("a", 300_000);
    let told = ask();
    let number = |line: &str| line.split(' ').nth(2).unwrap().parse::<i64>().unwrap();
    let used = told.iter().find(|l| l.starts_with("used cpu_time "));
    let used = number(used.unwrap_or_else(|| panic!("{told:?}")));
    let stat = std::fs::read_to_string(sandbox.dir("a").join("cpu.stat")).unwrap();
    let usage = stat.lines().find_map(|l| l.strip_prefix("usage_usec "));
    let truth = usage.unwrap().parse::<i64>().unwrap() * 1000;
    // What the worker ran before it had moved in is the kernel's in another cgroup, to a switch.
    let off = (used - truth).abs();
    assert!(off <= truth / 50 + 2_000_000, "{used} of {truth}");
    let left = number(&told[told.len() - 1]);
    assert!(
        left >= 300_000_000 - used && left <= 300_000_000,
        "{told:?}"
    );

    drop(input);
    assert!(example.wait().unwrap().success());
    assert!(sandbox.engine.meters().unwrap().is_empty());
    assert!(sandbox.engine.limits(None).unwrap().is_empty());
}
