//! `cgtap demo` from beginning to end, and in the middle. Needs root, cgroup2 and a bpffs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Ran, Sandbox, alone, cgroup_root, cgtap};

/// What a demo with the process id `pid` would make, as far as it is there.
fn left(pid: u32) -> Vec<PathBuf> {
    let name = format!("cgtap-demo-{pid}");
    let places = [
        Path::new("/sys/fs/bpf"),
        Path::new("/var/tmp"),
        &cgroup_root(),
    ];
    let paths = places.map(|place| place.join(&name));
    paths.into_iter().filter(|path| path.exists()).collect()
}

fn start(words: &[&str]) -> Child {
    let mut command = cgtap();
    command
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn in_a_pipe_it_is_plain_and_narrow_and_leaves_nothing() {
    let _alone = alone();
    let child = start(&["demo"]);
    let pid = child.id();
    let ran = Ran::from(child.wait_with_output().unwrap()).done();
    assert!(left(pid).is_empty(), "{:?}", left(pid));
    assert!(!ran.out.contains('\x1b'), "{ran:?}");
    for line in ran.out.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for part in [
        "tenant-a",
        "inherited from",
        "tenant-b/late",
        "exact",
        "Detached",
    ] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    assert!(!ran.out.contains("WRONG"), "{ran:?}");
}

#[test]
fn as_json_it_is_an_object_a_line() {
    let _alone = alone();
    let ran = Ran::from(start(&["--json", "demo"]).wait_with_output().unwrap()).done();
    let steps: Vec<Value> = ran
        .out
        .lines()
        .map(|line| {
            assert!(
                line.starts_with(r#"{"schema":"cgtap/1","step":""#),
                "{line}"
            );
            serde_json::from_str(line).unwrap()
        })
        .collect();
    let of = |name: &str| {
        steps
            .iter()
            .filter(|s| s["step"] == name)
            .collect::<Vec<_>>()
    };
    for name in ["cgroups", "attached", "created", "detached", "done"] {
        assert_eq!(of(name).len(), 1, "{name}");
    }
    assert!(of("counts").len() > 1);
    let checks = of("check");
    assert!(checks.iter().all(|check| check["ok"] == true), "{checks:?}");
    // The late cgroup is counted from its first event on.
    assert!(
        checks
            .iter()
            .any(|check| check["cgroup"] == "tenant-b/late")
    );
    assert_eq!(of("detached")[0]["attachments_left"], 0);
    assert_eq!(of("done")[0]["ok"], true);
}

#[test]
fn in_a_state_that_is_named_it_leaves_the_rest_alone() {
    let _alone = alone();
    let sandbox = Sandbox::new();
    let object = support::object().to_str().unwrap();
    let attach = ["attach", sandbox.directory.to_str().unwrap(), object];
    sandbox.run(&attach).done();
    sandbox.run(&["demo"]).done();
    let lists = sandbox.run(&["--json", "list"]).done().json();
    assert_eq!(lists["lists"].as_array().unwrap().len(), 2);
}

#[test]
fn after_a_signal_it_leaves_nothing() {
    let _alone = alone();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut child = start(&["--json", "demo"]);
        let pid = child.id();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut lines = out.lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(r#""step":"counts""#)));
        assert!(!left(pid).is_empty());
        kill_process(Pid::from_child(&child), signal).unwrap();
        lines.for_each(drop);
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.status, 130, "{ran:?}");
        assert_eq!(ran.error()["kind"], "interrupted");
        assert!(left(pid).is_empty(), "{:?}", left(pid));
    }
}

#[test]
fn when_its_reader_goes_it_ends_and_leaves_nothing() {
    let _alone = alone();
    let mut child = start(&["demo"]);
    let pid = child.id();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    drop(out);
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert!(left(pid).is_empty(), "{:?}", left(pid));
}

#[test]
fn what_a_killed_demo_left_is_removed_by_the_next() {
    let _alone = alone();
    let mut child = start(&["--json", "demo"]);
    let pid = child.id();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = out.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(r#""step":"counts""#)));
    child.kill().unwrap();
    child.wait().unwrap();
    // Its workers die with it; what has no process cannot.
    assert!(!left(pid).is_empty());
    Ran::from(start(&["demo"]).wait_with_output().unwrap()).done();
    assert!(left(pid).is_empty(), "{:?}", left(pid));
}

#[test]
fn a_dead_demos_workers_are_waited_for_and_a_living_ones_are_left() {
    let _alone = alone();
    // No process has this id.
    let pid = u32::MAX;
    let name = format!("cgtap-demo-{pid}");
    let (cgroup, state) = (
        cgroup_root().join(&name),
        Path::new("/sys/fs/bpf").join(name),
    );
    for (seconds, stay) in [("1", false), ("60", true)] {
        std::fs::create_dir_all(cgroup.join("tenant")).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        let mut worker = Command::new("sleep").arg(seconds).spawn().unwrap();
        let procs = cgroup.join("tenant/cgroup.procs");
        std::fs::write(procs, worker.id().to_string()).unwrap();
        Ran::from(start(&["demo"]).wait_with_output().unwrap()).done();
        let there = left(pid).len();
        let _ = worker.kill();
        worker.wait().unwrap();
        assert_eq!(there, if stay { 2 } else { 0 });
    }
    Ran::from(start(&["demo"]).wait_with_output().unwrap()).done();
    assert!(left(pid).is_empty(), "{:?}", left(pid));
}
