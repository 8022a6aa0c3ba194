//! In a container: /proc tells cgroups from the root of the container's cgroup namespace, while the hierarchy
//! that is mounted is the host's. With a real runtime it is done in guests (`guest_containers.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

#[path = "support/machine.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod machine;
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use machine::{Bench, amdgpu};
use support::{Ran, Running, Sandbox, cgroup_root, compiled, value};

/// A sandbox with two pods beside each other, of which `pods/own` is where the box is.
fn pods() -> Sandbox {
    let mut sandbox = Sandbox::new();
    for name in ["pods", "pods/own", "pods/own/inner", "pods/other"] {
        sandbox.child(name);
    }
    sandbox
}

/// Runs `cgtap` in `pods/own`.
fn run(sandbox: &Sandbox, set_up: &str, words: &[&str]) -> Ran {
    Ran::of(&mut sandbox.boxed("pods/own", set_up, &sandbox.cgtap(words)))
}

/// A process that waits in a cgroup.
fn waiting(sandbox: &Sandbox, name: &str) -> (Running, String) {
    let procs = sandbox.directory.join(name).join("cgroup.procs");
    let script = format!(
        "echo $$ > {} && echo in && exec sleep 1000",
        procs.display()
    );
    let mut sh = Command::new("sh");
    let child = sh.args(["-c", &script]).stdout(Stdio::piped());
    let mut child: Child = child.spawn().unwrap();
    let mut line = String::new();
    let out = child.stdout.as_mut().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    assert_eq!(line, "in\n");
    let word = format!("pid:{}", child.id());
    (Running(child), word)
}

#[test]
fn processes_are_where_they_are() {
    let sandbox = pods();
    for name in ["", "pods", "pods/own", "pods/own/inner", "pods/other"] {
        let (_running, word) = waiting(&sandbox, name);
        let said = run(&sandbox, "", &["--json", "explain", &word])
            .done()
            .json();
        let cgroup = format!("{}/{name}", sandbox.cgroup);
        let shown = &said["cgroup"];
        assert_eq!(shown, cgroup.trim_end_matches('/'), "{name}");
    }
    // A command of `stat` stays below where that is.
    let words = ["stat", "-e", "task-clock", "--", "cat", "/proc/self/cgroup"];
    let said = run(&sandbox, "", &words).done();
    assert!(said.out.contains("0::/cgtap-stat-"), "{said:?}");
    // Both are mounted: the one that shows most is taken.
    let own = tempfile::tempdir().unwrap();
    let both = format!("mount -t cgroup2 none {} &&", own.path().display());
    let (_running, word) = waiting(&sandbox, "pods/other");
    let said = run(&sandbox, &both, &["--json", "explain", &word]).done();
    let cgroup = format!("{}/pods/other", sandbox.cgroup);
    assert_eq!(said.json()["cgroup"], cgroup, "{said:?}");
    // A path in the other is of the same cgroup.
    let inner = own.path().join("inner");
    let said = run(
        &sandbox,
        &both,
        &["--json", "explain", inner.to_str().unwrap()],
    )
    .done();
    let cgroup = format!("{}/pods/own/inner", sandbox.cgroup);
    assert_eq!(said.json()["cgroup"], cgroup, "{said:?}");
}

#[test]
fn what_its_own_mount_does_not_show_is_said() {
    let sandbox = pods();
    let root = cgroup_root();
    let own = format!("umount {0} && mount -t cgroup2 none {0} &&", root.display());
    let (_inner, inner) = waiting(&sandbox, "pods/own/inner");
    let said = run(&sandbox, &own, &["--json", "explain", &inner]).done();
    assert_eq!(said.json()["cgroup"], "/inner", "{said:?}");
    let (_other, other) = waiting(&sandbox, "pods/other");
    let refused = run(&sandbox, &own, &["--json", "explain", &other]);
    assert_eq!(
        (refused.status, &refused.error()["errno"]),
        (1, &"ENOENT".into())
    );
    let words = "does not show /../other, as /proc or another mount calls it";
    assert!(refused.err.contains(words), "{refused:?}");
}

/// Who enforces from a container is not frozen by it, and freezes the others.
#[test]
fn whoever_freezes_does_not_freeze_itself() {
    let sandbox = pods();
    for name in ["pods/own", "pods/other"] {
        let cgroup = format!("{}/{name}", sandbox.cgroup);
        let words = ["limit", "set", &cgroup, "tasks_born", "0", "--on", "freeze"];
        sandbox.run(&words).done();
    }
    let mut enforce = sandbox.boxed("pods/own", "", &sandbox.cgtap(&["enforce"]));
    let said = tempfile::NamedTempFile::new().unwrap();
    let _running = Running(enforce.stderr(said.reopen().unwrap()).spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(60);
    while !sandbox.is_frozen("pods/other") {
        assert!(Instant::now() < end, "{:?}", std::fs::read_to_string(&said));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!sandbox.is_frozen("pods/own"));
    let said = std::fs::read_to_string(&said).unwrap();
    let own = format!(
        "{}/pods/own is not frozen: whoever would thaw it",
        sandbox.cgroup
    );
    assert!(said.contains(&own), "{said}");
}

/// What is read of processes is charged to the cgroups that they are in.
#[test]
fn what_drivers_tell_is_charged_to_the_cgroups_of_processes() {
    let mut bench = Bench::new();
    bench.sandbox.child("own");
    let words = ["meter", "enable", "gpu_engine"];
    let boxed =
        |words: &[&str]| Ran::of(&mut bench.sandbox.boxed("own", "", &bench.cgtap(words))).done();
    bench.machine.process(101, 50, "/../a");
    bench
        .machine
        .open(101, 5, "gpu", &amdgpu(1, 7_000_000, 100));
    boxed(&words);
    bench
        .machine
        .open(101, 5, "gpu", &amdgpu(1, 7_500_000, 100));
    let usage = boxed(&["--json", "usage", &bench.sandbox.cgroup, "--recursive"]).json();
    assert_eq!(
        value(&usage, &bench.a, "gpu_engine_busy", None),
        (500_000, 500_000)
    );
    assert_eq!(usage["unread"], serde_json::json!([]));
}

/// Another PID namespace.
const PIDS: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// `cgtap` in a PID namespace of its own, where its number is 1 and others are not seen.
fn alone(sandbox: &Sandbox, words: &[&str]) -> Command {
    let cgtap = sandbox.cgtap(words);
    let mut command = Command::new(PIDS[0]);
    command.args(&PIDS[1..]).arg(cgtap.get_program());
    command.args(cgtap.get_args());
    command
}

/// How much is attached, as told from a PID namespace of its own, or from here.
fn attached(sandbox: &Sandbox, is_alone: bool) -> usize {
    let words = ["--json", "list", "--recursive"];
    let ran = match is_alone {
        true => Ran::of(&mut alone(sandbox, &words)),
        false => sandbox.run(&words),
    };
    let lists = ran.done().json()["lists"].clone();
    let lists = lists.as_array().unwrap().iter();
    lists
        .map(|l| l["attachments"].as_array().unwrap().len())
        .sum()
}

/// What a process of another PID namespace holds is there as long as it lives, whoever looks from where, and
/// goes with it.
#[test]
fn what_is_held_goes_with_who_holds_it() {
    let sandbox = pods();
    let cgroup = format!("{}/pods", sandbox.cgroup);
    let event = "tracepoint:syscalls/sys_enter_getsid";
    let words = [
        "--json",
        "stat",
        "-c",
        &cgroup,
        "-e",
        event,
        "--",
        "sh",
        "-c",
        "read end; true",
    ];
    let start = || {
        let mut boxed = sandbox.boxed("pods/own", "", &alone(&sandbox, &words));
        let boxed = boxed.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = boxed.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while attached(&sandbox, true) == 0 {
            assert!(Instant::now() < end);
        }
        child
    };
    let mut child = start();
    assert_eq!(attached(&sandbox, false), 1);
    sandbox.inside(
        "pods/other",
        &format!(
            "exec {} use /dev/null 7 > /dev/null",
            compiled("fixtures/opens").display()
        ),
    );
    drop(child.stdin.take());
    let ran = Ran::from(child.wait_with_output().unwrap()).done();
    let counted = ran.json()["cgroups"][0]["events"][0]["count"].clone();
    assert_eq!(counted, 7, "{ran:?}");
    let mut child = start();
    child.kill().unwrap();
    child.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while attached(&sandbox, true) > 0 {
        assert!(Instant::now() < end);
    }
}
