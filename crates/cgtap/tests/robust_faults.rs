//! Whatever fails in the middle of a change leaves everything as it was: what the kernel refuses,
//! at every call; a cgroup that goes; an interrupt.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cgtap::engine::Detach;
use robust_support::ledger::Ledger;
use robust_support::shape::Shape;
use robust_support::{End, amount, count_calls, driver, sample, traced};
use support::{Sandbox, compile};

/// Makes each of `calls` fail in turn and looks at what is left: a refusal leaves all as it was,
/// and what was done is done whole.
fn failing_everywhere(name: &str, errors: &[&str], change: impl Fn(&Shape, &str) -> Vec<String>) {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new(name);
    let object = compile("robust");
    let object = object.to_str().unwrap();
    let start = || {
        let shape = Shape::listed(&sandbox);
        if shape.ids().len() == 3 && sandbox.engine.maps(None).unwrap().len() == 1 {
            return shape;
        }
        sandbox.engine.detach(&Detach::All).unwrap();
        sandbox.attach("c", "robust");
        Shape::listed(&sandbox)
    };
    let before = start();
    let words = change(&before, object);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let calls = ["bpf", "perf_event_open", "mmap", "flock"];
    let calls = count_calls(&sandbox, &calls, &words);
    let new = Shape::of(&sandbox).since(&before);
    let (mut refused, mut done, mut never) = (0, 0, 0);
    for (call, count) in &calls {
        let at_most = if call == "bpf" { 9 } else { 2 };
        for (nth, number) in sample(*count, at_most).into_iter().enumerate() {
            // In a guest each call meets one of them, in turn.
            let one = &errors[nth % errors.len()..][..1];
            for (at, error) in amount(one, errors, errors).iter().enumerate() {
                // One call, or that one and every later one.
                let for_good = if (number + at) % 2 == 0 { "+" } else { "" };
                let before = start();
                let words = change(&before, object);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let inject = format!("inject={call}:error={error}:when={number}{for_good}");
                let trace = format!("trace={call}");
                let what = format!("{words:?}, {inject}");
                let output = traced(&sandbox, &["-e", &trace, "-e", &inject], &words)
                    .output()
                    .unwrap();
                // Without memory it may not even come to life.
                if output.status.code() == Some(127) {
                    assert_eq!(call, "mmap", "{what}");
                    assert_eq!(Shape::listed(&sandbox), before, "{what}");
                    never += 1;
                    continue;
                }
                let end = End::from_output(&output);
                let after = Shape::of(&sandbox);
                match &end {
                    End::Done => {
                        assert_eq!(after.since(&before), new, "{what}");
                        done += 1;
                    }
                    // Without memory for itself it cannot be started, or Rust aborts.
                    End::Killed(6 | 11) if call == "mmap" => {
                        assert!(after == before || after.since(&before) == new, "{what}");
                        never += 1;
                    }
                    End::Killed(_) => panic!("{what}: {end:?}"),
                    End::Refused { message, .. } => {
                        assert_eq!(after, before, "{what}: {message}");
                        assert!(message.starts_with("cannot "), "{what}: {message}");
                        refused += 1;
                    }
                }
                after.runs(&sandbox, "c", 2);
            }
        }
    }
    println!("{name}: {refused} refused, {done} done all the same, {never} never began");
    // Some calls may fail and the change is done by another way; many may not. In guests few are tried.
    assert!(refused * 3 >= refused + done + never, "{calls:?}");
    drop(sandbox);
    ledger.close();
}

#[test]
fn attach_with_a_call_that_fails_changes_nothing() {
    failing_everywhere(
        "fault-attach",
        &["ENOMEM", "EPERM", "ENOSPC", "E2BIG"],
        |_, object| {
            // The sandbox has a cgroup `c` below its own one; the driver takes any path.
            vec![
                "attach".to_owned(),
                cgroup_of("fault-attach"),
                object.to_owned(),
            ]
        },
    );
}

#[test]
fn detach_with_a_call_that_fails_changes_nothing() {
    failing_everywhere("fault-detach", &["ENOMEM", "EPERM"], |shape, _| {
        let ids = shape.ids().into_iter().map(|id| id.to_string());
        ["detach".to_owned()].into_iter().chain(ids).collect()
    });
}

#[test]
fn replace_with_a_call_that_fails_changes_nothing() {
    failing_everywhere("fault-replace", &["ENOMEM", "EPERM"], |shape, object| {
        let first = shape.ids().into_iter().next().unwrap().to_string();
        ["replace", &first, object, "raw"]
            .map(str::to_owned)
            .to_vec()
    });
}

/// The cgroup `c` of the sandbox of this name.
fn cgroup_of(name: &str) -> String {
    let root = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = root.lines().find(|l| l.contains(" - cgroup2 ")).unwrap();
    let root = PathBuf::from(line.split(' ').nth(4).unwrap());
    let prefix = format!("cgtap-test-{name}-{}-", std::process::id());
    let entries = std::fs::read_dir(root).unwrap().flatten();
    let mut found = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix));
    found.next().unwrap().path().join("c").display().to_string()
}

/// The cgroup goes while the attach is under way: stopped at each of its calls, and let go on when
/// the cgroup is gone. Either it is refused, or what it attached goes with the cgroup.
#[test]
fn a_cgroup_that_goes_in_the_middle_leaves_nothing() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("fault-gone");
    sandbox.attach("c", "robust");
    let object = compile("robust");
    let words = |cgroup: &str| {
        let dir = sandbox.dir(cgroup).display().to_string();
        vec!["attach".to_owned(), dir, object.display().to_string()]
    };
    sandbox.cgroup("first");
    let first = words("first");
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    let calls = count_calls(&sandbox, &["bpf"], &first);
    sandbox.remove("first");
    let before = Shape::of(&sandbox);
    let (mut refused, mut done) = (0, 0);
    for number in sample(calls["bpf"], 12) {
        let name = format!("g{number}");
        sandbox.cgroup(&name);
        let words = words(&name);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let inject = format!("inject=bpf:signal=STOP:when={number}");
        let mut strace = traced(&sandbox, &["-e", "trace=bpf", "-e", &inject], &words);
        let mut strace = strace.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let pid = stopped_child(strace.id());
        sandbox.remove(&name);
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        // On a busy machine it may have looked stopped before it was: until it ends, it goes on.
        while strace.try_wait().unwrap().is_none() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
            std::thread::sleep(Duration::from_millis(20));
        }
        match End::from_output(&strace.wait_with_output().unwrap()) {
            End::Done => done += 1,
            End::Refused {
                kind,
                errno,
                message,
            } => {
                assert_eq!(
                    (kind.as_str(), errno.as_deref()),
                    ("cgroup", Some("ENOENT")),
                    "{message}"
                );
                refused += 1;
            }
            end @ End::Killed(_) => panic!("{number}: {end:?}"),
        }
        let after = Shape::of(&sandbox);
        assert_eq!(after, before, "stopped at call {number}");
        assert_eq!(sandbox.engine.maps(None).unwrap().len(), 1);
    }
    println!("{refused} refused, {done} attached and gone with their cgroup");
    assert!(refused > 0);
    drop(sandbox);
    ledger.close();
}

/// Waits until the process that this strace runs is stopped; its pid.
fn stopped_child(strace: u32) -> i32 {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let path = format!("/proc/{strace}/task/{strace}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        for pid in children.split_whitespace() {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let is_driver = status.lines().next().is_some_and(|l| l.ends_with("driver"));
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
            // Traced processes show `t` also at each call; only a group stop lasts.
            if is_driver && matches!(state, Some(b't' | b'T')) && is_group_stopped(pid) {
                return pid.parse().unwrap();
            }
        }
        assert!(Instant::now() < end, "it never stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Still at the same place after a while.
fn is_group_stopped(pid: &str) -> bool {
    let times = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        text.lines()
            .filter(|l| l.contains("ctxt_switches"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let first = times();
    std::thread::sleep(Duration::from_millis(30));
    !first.is_empty() && first == times()
}

/// Ctrl-C in the middle of a program that does not catch it is a death like any other.
#[test]
fn an_interrupt_in_the_middle_leaves_the_state_whole() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("fault-int");
    sandbox.attach("c", "robust");
    let object = compile("robust");
    let cgroup = sandbox.dir("c").display().to_string();
    let words = ["attach", &cgroup, object.to_str().unwrap()];
    // An attach beside, with no list to join, makes no more calls than those below.
    sandbox.cgroup("first");
    let first = sandbox.dir("first").display().to_string();
    let calls = count_calls(&sandbox, &["bpf"], &["attach", &first, words[2]]);
    sandbox.remove("first");
    drop(Shape::of(&sandbox));
    // How many calls it makes hangs on what else is loaded on this machine meanwhile (types of modules
    // are looked for among all types): one that makes less than was counted is done, not interrupted.
    let mut interrupted = 0;
    for number in sample(calls["bpf"], 8) {
        let before = Shape::listed(&sandbox);
        let inject = format!("inject=bpf:signal=INT:when={number}");
        let end = End::of(&mut traced(
            &sandbox,
            &["-e", "trace=bpf", "-e", &inject],
            &words,
        ));
        assert!(matches!(end, End::Killed(2) | End::Done), "{end:?}");
        interrupted += usize::from(end == End::Killed(2));
        let after = Shape::of(&sandbox);
        after.runs(&sandbox, "c", 1);
        if after != before {
            let new: Vec<_> = after.ids().difference(&before.ids()).copied().collect();
            assert_eq!(new.len(), 3, "all of it or none");
            let words: Vec<String> = new.iter().map(u32::to_string).collect();
            let words: Vec<&str> = ["detach"]
                .into_iter()
                .chain(words.iter().map(String::as_str))
                .collect();
            assert_eq!(End::of(&mut driver(&sandbox, &words)), End::Done);
        }
    }
    assert!(interrupted >= 2, "{interrupted} interrupted, {calls:?}");
    drop(sandbox);
    ledger.close();
}
