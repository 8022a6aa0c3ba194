//! `cgtap stat` against work whose events are known. Needs root, cgroup2 and a bpffs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Ran, Running, Sandbox, cgroup_root};

const WRITES: &str = "tracepoint:syscalls/sys_enter_write";
const FORKS: &str = "tracepoint:sched/sched_process_fork";
const CALLS: &str = "raw_tracepoint:sys_enter";

/// Writes a thousand times, and nothing else.
const THOUSAND: [&str; 6] = [
    "dd",
    "if=/dev/zero",
    "of=/dev/null",
    "bs=1",
    "count=1000",
    "status=none",
];

fn count(report: &Value, row: usize, event: usize) -> u64 {
    let event = &report["cgroups"][row]["events"][event];
    event["count"]
        .as_u64()
        .unwrap_or_else(|| panic!("{report}"))
}

/// The cgroups that `stat` makes for commands.
fn homes() -> Vec<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
    let entries = std::fs::read_dir(cgroup_root().join(own)).unwrap();
    let entries = entries.map(|e| e.unwrap().path());
    entries
        .filter(|p| p.to_str().unwrap().contains("/cgtap-stat-"))
        .collect()
}

#[test]
fn a_commands_events_are_counted_exactly() {
    let sandbox = Sandbox::new();
    let words = ["--json", "stat", "-e", WRITES, "-e", FORKS, "--"];
    let ran = sandbox.run(&[&words[..], &THOUSAND].concat()).done();
    let report = ran.json();
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(report["lost"], 0);
    assert_eq!(report["status"], 0);
    let rows = report["cgroups"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    assert!(rows[0]["cgroup"].as_str().unwrap().contains("/cgtap-stat-"));
    assert!(rows[0]["cgroup_id"].is_u64());
    assert_eq!(rows[0]["events"][0]["event"], WRITES);
    assert!(rows[0]["events"][0].get("own").is_none());
    assert_eq!((count(&report, 0, 0), count(&report, 0, 1)), (1000, 0));
}

#[test]
fn nothing_but_the_command_is_counted() {
    let sandbox = Sandbox::new();
    // What it does is the same each time; anything of ours in it would not be.
    let calls = || {
        let ran = sandbox
            .run(&["--json", "stat", "-e", CALLS, "--", "true"])
            .done();
        count(&ran.json(), 0, 0)
    };
    let first = calls();
    assert!(first > 0);
    assert!((0..5).all(|_| calls() == first));
}

#[test]
fn cgroups_that_are_named_are_counted_while_the_command_runs() {
    let mut sandbox = Sandbox::new();
    let (one, other) = (sandbox.child("one"), sandbox.child("other"));
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec {}",
        sandbox.directory.join("one").display(),
        THOUSAND.join(" ")
    );
    let words = [
        "--json",
        "stat",
        "-c",
        &one,
        "-c",
        &other,
        "-c",
        &sandbox.cgroup,
    ];
    let rest = ["-e", WRITES, "--", "sh", "-c", &script];
    let report = sandbox.run(&[&words[..], &rest].concat()).done().json();
    let rows = report["cgroups"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r["cgroup"].as_str().unwrap()).collect();
    assert_eq!(names, [&one, &other, &sandbox.cgroup]);
    let counts: Vec<_> = (0..3).map(|row| count(&report, row, 0)).collect();
    assert_eq!(counts, [1000, 0, 1000]);
}

#[test]
fn per_cgroup_has_a_row_for_each_with_own_and_total() {
    let mut sandbox = Sandbox::new();
    let child = sandbox.child("child");
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec {}",
        sandbox.directory.join("child").display(),
        THOUSAND.join(" ")
    );
    let stat = |words: &[&str]| {
        let call = ["--json", "stat", "-c", &sandbox.cgroup, "--per-cgroup"];
        let rest = ["-e", WRITES, "--", "sh", "-c", &script];
        let ran = sandbox.run(&[&call[..], words, &rest].concat()).done();
        let rows = ran.json()["cgroups"].as_array().unwrap().clone();
        let brief = rows.into_iter().map(|row| {
            let event = &row["events"][0];
            let number = |field: &str| event[field].as_u64().unwrap();
            let name = row["cgroup"].as_str().unwrap().to_owned();
            (name, number("count"), number("own"), number("total"))
        });
        brief.collect::<Vec<_>>()
    };
    let top = (sandbox.cgroup.clone(), 1000, 0, 1000);
    let below = (child, 1000, 1000, 1000);
    assert_eq!(stat(&[]), [top.clone(), below]);
    assert_eq!(stat(&["--depth", "0"]), [top]);
}

/// What a cgroup did that is removed while it is counted is known at the end, of events and of values.
#[test]
fn a_cgroup_that_is_removed_meanwhile_keeps_its_counts() {
    let mut sandbox = Sandbox::new();
    let bytes = format!("{WRITES} sum(count)");
    for more in [&[][..], &["--per-cgroup"]] {
        let gone = sandbox.child("gone");
        let script = format!(
            "sh -c 'echo $$ > {0}/cgroup.procs && exec {1}' && rmdir {0}",
            sandbox.directory.join("gone").display(),
            THOUSAND.join(" ")
        );
        let words = ["--json", "stat", "-c", &gone, "-e", WRITES, "-e", &bytes];
        let rest = ["--", "sh", "-c", &script];
        let report = sandbox
            .run(&[&words[..], more, &rest].concat())
            .done()
            .json();
        assert_eq!(report["cgroups"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(
            (count(&report, 0, 0), count(&report, 0, 1)),
            (1000, 1000),
            "{report}"
        );
        assert_eq!(report["lost"], 0);
    }
}

/// Of cgroups that are gone, too, only as many levels are shown as are asked for.
#[test]
fn a_cgroup_that_was_too_deep_has_no_row() {
    let sandbox = Sandbox::new();
    let script = format!(
        "mkdir {0}/gone && sh -c 'echo $$ > {0}/gone/cgroup.procs && exec {1}' && rmdir {0}/gone",
        sandbox.directory.display(),
        THOUSAND.join(" ")
    );
    let words = [
        "--json",
        "stat",
        "-c",
        &sandbox.cgroup,
        "--per-cgroup",
        "-e",
        WRITES,
    ];
    let rest = ["--", "sh", "-c", &script];
    let rows = |more: &[&str]| {
        let report = sandbox
            .run(&[&words[..], more, &rest].concat())
            .done()
            .json();
        assert_eq!(count(&report, 0, 0), 1000);
        report["cgroups"].as_array().unwrap().len()
    };
    assert_eq!(rows(&[]), 2);
    assert_eq!(rows(&["--depth", "0"]), 1);
}

/// A value whose meter somebody detaches is not known; the next one keeps its own place.
#[test]
fn a_value_that_is_detached_takes_no_others_place() {
    let sandbox = Sandbox::new();
    let events = [WRITES, "tracepoint:syscalls/sys_enter_openat"].map(|e| format!("{e} count()"));
    let mut command = sandbox.cgtap(&["--json", "stat", "-d", "600", "-c", &sandbox.cgroup]);
    command.args(["-e", &events[0], "-e", &events[1]]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = Running(command.spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(60);
    let instances = loop {
        let maps = sandbox.run(&["--json", "maps"]).done().json();
        let all = maps["instances"].as_array().unwrap();
        if all.len() == 2 {
            let mut ids: Vec<u64> = all.iter().map(|i| i["id"].as_u64().unwrap()).collect();
            ids.sort_unstable();
            break ids;
        }
        assert!(Instant::now() < end, "nothing is counted: {maps}");
        thread::sleep(Duration::from_millis(20));
    };
    let first = instances[0].to_string();
    sandbox.run(&["detach", "--instance", &first]).done();
    sandbox.inside("", "cat /dev/null");
    let report = child.ended_by(Signal::INT).json();
    let told = report["cgroups"][0]["events"].as_array().unwrap();
    let names: Vec<&str> = told.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(names, events, "{report}");
    assert_eq!(count(&report, 0, 0), 0);
    assert!(count(&report, 0, 1) > 0, "{report}");
    assert!(report["lost"].as_u64().unwrap() > 0, "{report}");
}

/// A signal that comes while `stat` waits for the state: the command is not started, and nothing is left.
#[test]
fn a_command_is_not_started_after_a_signal() {
    let sandbox = Sandbox::new();
    sandbox.run(&["meter", "enable", "cpu"]).done();
    let started = std::env::temp_dir().join(format!("cgtap-test-started-{}", std::process::id()));
    let words = [
        "stat",
        "-e",
        CALLS,
        "--",
        "touch",
        started.to_str().unwrap(),
    ];
    for is_freed in [true, false] {
        let lock = File::open(&sandbox.state).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let mut command = sandbox.cgtap(&words);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let home = format!("cgtap-stat-{}", child.id());
        let is_there = || homes().iter().any(|path| path.ends_with(&home));
        let end = Instant::now() + Duration::from_secs(60);
        while !is_there() {
            assert!(Instant::now() < end, "{child:?} makes no cgroup");
            thread::sleep(Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        // As long as somebody has the state it gives up by itself.
        let lock = (!is_freed).then_some(lock);
        let ran = Ran::from(child.wait_with_output().unwrap());
        drop(lock);
        assert_eq!(ran.status, 130, "{ran:?}");
        assert!(!started.exists());
        assert!(!is_there());
    }
}

/// Counts that have nowhere to go are not counted at all, or are printed after all.
#[test]
fn a_file_that_cannot_be_written_is_told_before_the_command_runs() {
    let sandbox = Sandbox::new();
    let started = std::env::temp_dir().join(format!("cgtap-test-output-{}", std::process::id()));
    let run = |file: &str| {
        let rest = ["-e", CALLS, "--", "touch", started.to_str().unwrap()];
        sandbox.run(&[&["stat", "-o", file][..], &rest].concat())
    };
    let ran = run("/no/such/directory/counts");
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.err.contains("cannot write /no/such/directory/counts"),
        "{ran:?}"
    );
    assert!(!started.exists());
    let ran = run("/dev/full");
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.err.contains("ENOSPC") && ran.out.contains(CALLS),
        "{ran:?}"
    );
    std::fs::remove_file(started).unwrap();
}

#[test]
fn the_status_of_the_command_is_the_status_of_stat() {
    let sandbox = Sandbox::new();
    for (script, status) in [("exit 7", 7), ("kill -TERM $$", 143), ("exit 0", 0)] {
        let ran = sandbox.run(&["stat", "-e", CALLS, "--", "sh", "-c", script]);
        assert_eq!(ran.status, status, "{ran:?}");
        assert!(ran.out.contains(CALLS), "{ran:?}");
    }
    let ran = sandbox.run(&["--json", "stat", "-e", CALLS, "--", "no-such-program"]);
    assert_eq!(
        (ran.status, ran.error()["errno"].as_str()),
        (1, Some("ENOENT"))
    );
    let ran = sandbox.run(&["--json", "stat", "-e", CALLS, "--", "/etc/passwd"]);
    assert_eq!(
        (ran.status, ran.error()["errno"].as_str()),
        (1, Some("EACCES"))
    );
}

#[test]
fn the_command_has_standard_input_and_output_for_itself() {
    let sandbox = Sandbox::new();
    let file = std::env::temp_dir().join(format!("cgtap-test-stat-{}", std::process::id()));
    let mut command = sandbox.cgtap(&["stat", "--json", "-o"]);
    command.arg(&file).args(["-e", WRITES, "--", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap()).done();
    assert_eq!(ran.out, "through");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(count(&report, 0, 0), 1);
}

#[test]
fn what_a_command_leaves_running_does_not_keep_its_cgroup() {
    let sandbox = Sandbox::new();
    let pids = std::env::temp_dir().join(format!("cgtap-test-left-{}", std::process::id()));
    let script = format!("sleep 60 >/dev/null 2>&1 & echo $! > {}", pids.display());
    let ran = sandbox
        .run(&["--json", "stat", "-e", CALLS, "--", "sh", "-c", &script])
        .done();
    let cgroup = ran.json()["cgroups"][0]["cgroup"]
        .as_str()
        .unwrap()
        .to_owned();
    let sleeper: i32 = std::fs::read_to_string(&pids)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    std::fs::remove_file(&pids).unwrap();
    assert!(PathBuf::from(format!("/proc/{sleeper}")).exists());
    kill_process(Pid::from_raw(sleeper).unwrap(), Signal::KILL).unwrap();
    assert!(
        !homes()
            .iter()
            .any(|home| home.ends_with(cgroup.trim_start_matches('/')))
    );
    assert_eq!(ran.err, "");
}

/// Sends `signal` once something is counted.
fn interrupt(sandbox: &Sandbox, words: &[&str], signal: Signal) -> Ran {
    let mut command = sandbox.cgtap(words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = Running(command.spawn().unwrap());
    await_counting(sandbox, &child.0);
    child.ended_by(signal)
}

fn await_counting(sandbox: &Sandbox, child: &Child) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let list = sandbox.run(&["list"]).done();
        if list.out.contains("count") {
            break;
        }
        assert!(Instant::now() < end, "{child:?} does not count");
        thread::sleep(Duration::from_millis(20));
    }
    // The last of it: the command is started after everything is attached.
    thread::sleep(Duration::from_millis(200));
}

#[test]
fn after_a_signal_the_counts_are_printed() {
    let sandbox = Sandbox::new();
    for signal in [Signal::INT, Signal::TERM] {
        let words = ["--json", "stat", "-c", &sandbox.cgroup, "-e", CALLS];
        for time in [&["-d", "600"][..], &[], &["--", "sleep", "600"]] {
            let ran = interrupt(&sandbox, &[&words[..], time].concat(), signal);
            assert_eq!(ran.status, 130, "{time:?}: {ran:?}");
            assert_eq!(count(&ran.json(), 0, 0), 0);
        }
    }
    let left = sandbox.run(&["list"]).done();
    assert_eq!(left.out, "");
}

#[test]
fn a_time_is_kept() {
    let sandbox = Sandbox::new();
    let words = [
        "stat",
        "--json",
        "-c",
        &sandbox.cgroup,
        "-e",
        CALLS,
        "-d",
        "0.4",
    ];
    let report = sandbox.run(&words).done().json();
    let seconds = report["seconds"].as_f64().unwrap();
    // Far from forever: how late a busy machine is, nobody knows.
    assert!((0.4..30.0).contains(&seconds), "{seconds}");
}

#[test]
fn the_whole_machine_is_counted_where_no_cgroup_is_named() {
    let sandbox = Sandbox::new();
    let ran = sandbox
        .run(&["stat", "--json", "-e", CALLS, "-d", "0.2"])
        .done();
    let report = ran.json();
    assert_eq!(report["cgroups"][0]["cgroup"], "/");
    // Reading the clock and sleeping is something, too.
    assert!(count(&report, 0, 0) > 0);
}
