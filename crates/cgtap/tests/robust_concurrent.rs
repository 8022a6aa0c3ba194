//! Several processes change one state at random while others read it and load runs: never a wrong
//! list, never a half one, never a leak, never a deadlock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cgtap::engine::{Detach, ListRequest};
use cgtap::id::AttachmentId;
use robust_support::ledger::Ledger;
use robust_support::load::Load;
use robust_support::shape::{HOOKS, Shape};
use robust_support::{amount, driver};
use support::{Sandbox, compile};

/// Waits for a process that should have ended by itself.
fn finish(mut child: Child, patience: Duration) -> String {
    let end = Instant::now() + patience;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("a process hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

fn concurrent(name: &str, writers: usize, kill_one: bool) {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new(name);
    let object = compile("robust");
    let cgroups = ["", "a", "a/deep", "b"];
    let dirs: Vec<String> = cgroups
        .iter()
        .map(|c| {
            sandbox.cgroup(c);
            sandbox.dir(c).display().to_string()
        })
        .collect();
    // It stays, so everything it should have seen is known in the end.
    let stays = sandbox.attach("a", "robust");
    let load = [
        Load::run(0, &sandbox.dir("a/deep")),
        Load::run(1, &sandbox.dir("b")),
    ]
    .map(Load::go);
    let seconds = amount(6, 6, 60);
    let time = seconds.to_string();
    let spawn = |words: &[&str]| {
        let mut command = driver(&sandbox, words);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut storms: Vec<Child> = (0..writers)
        .map(|at| {
            let seed = (at as u64 * 7919 + u64::from(std::process::id())).to_string();
            let mut words = vec!["storm", &seed, &time, object.to_str().unwrap()];
            words.extend(dirs.iter().map(String::as_str));
            spawn(&words)
        })
        .collect();
    let watchers: Vec<Child> = (0..2).map(|_| spawn(&["watch", &time, "3"])).collect();
    let patience = Duration::from_secs(seconds + 120);
    if kill_one {
        std::thread::sleep(Duration::from_secs(seconds / 2));
        let mut killed = storms.pop().unwrap();
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let mut expected: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for storm in storms {
        let text = finish(storm, patience);
        let ids: Vec<(u32, String)> = serde_json::from_str(&text).unwrap();
        for (id, dir) in ids {
            let at = dirs.iter().position(|d| *d == dir).unwrap();
            expected
                .entry(sandbox.path(cgroups[at]))
                .or_default()
                .push(id);
        }
    }
    let mut reads = 0;
    for watcher in watchers {
        reads += finish(watcher, patience).trim().parse::<u64>().unwrap();
    }
    let [deep, _] = load.map(|l| l.stop()[0]);
    let count = |id: AttachmentId| sandbox.runs(id);
    let (runs, missed) = (count(stays[0]), sandbox.missed(HOOKS[0]));
    assert!(runs + missed >= deep, "{runs} of {deep}, {missed} missed");
    sandbox.engine.detach(&Detach::Ids(stays)).unwrap();
    let shape = Shape::of(&sandbox);

    // The lists are what the processes attached and did not detach, in the order of their ids.
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (cgroup, ids) in shape.lists() {
        assert!(ids.is_sorted(), "{ids:?}");
        found.entry(cgroup).or_default().extend(ids);
    }
    for ids in found.values_mut().chain(expected.values_mut()) {
        ids.sort_unstable();
    }
    let total: usize = found.values().map(Vec::len).sum();
    println!("{writers} writers, {reads} lists read, {total} attached in the end");
    if kill_one {
        // What the killed one had attached stays, whole.
        for (cgroup, ids) in &expected {
            assert!(ids.iter().all(|id| found[cgroup].contains(id)));
        }
        assert_eq!(total % 3, 0);
    } else {
        assert_eq!(found, expected);
    }
    // What is effective: nearest first, and that is what runs.
    let own = |cgroup: &str, hook: &str| -> Vec<AttachmentId> {
        let path = sandbox.path(cgroup);
        let lists = sandbox.engine.list(&ListRequest::default()).unwrap();
        lists
            .iter()
            .filter(|l| l.cgroup == path && l.hook.to_string() == hook)
            .flat_map(|l| l.attachments.iter().map(|a| a.id))
            .collect()
    };
    for hook in HOOKS {
        let deep = [own("a/deep", hook), own("a", hook), own("", hook)].concat();
        assert_eq!(sandbox.effective("a/deep", hook), deep);
        assert_eq!(
            sandbox.effective("b", hook),
            [own("b", hook), own("", hook)].concat()
        );
    }
    for cgroup in cgroups {
        shape.runs(&sandbox, cgroup, 11);
    }
    assert!(reads > 0);
    drop(sandbox);
    ledger.close();
}

#[test]
fn two_processes() {
    concurrent("concurrent-two", 2, false);
}

#[test]
fn four_processes() {
    concurrent("concurrent-four", 4, false);
}

#[test]
fn three_processes_of_which_one_is_killed() {
    concurrent("concurrent-kill", 3, true);
}

/// The state itself comes and goes: each attaches the first and detaches everything.
#[test]
fn a_state_that_is_made_and_removed_at_once_by_several() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("concurrent-state");
    let object = compile("robust");
    let object = object.to_str().unwrap();
    sandbox.cgroup("c");
    let dir = sandbox.dir("c").display().to_string();
    let end = Instant::now() + Duration::from_secs(amount(5, 5, 30));
    let mut rounds = 0;
    while Instant::now() < end {
        let words: [&[&str]; 5] = [
            &["attach", &dir, object],
            &["detach-all"],
            &["list"],
            &["attach", &dir, object],
            &["detach-all"],
        ];
        let children = words.map(|w| {
            let mut command = driver(&sandbox, w);
            command.stdout(Stdio::piped()).spawn().unwrap()
        });
        for child in children {
            finish(child, Duration::from_secs(120));
        }
        let shape = Shape::of(&sandbox);
        assert!(matches!(shape.ids().len(), 0 | 3 | 6), "{shape:?}");
        shape.runs(&sandbox, "c", 2);
        rounds += 1;
    }
    println!("{rounds} rounds");
    drop(sandbox);
    ledger.close();
}
