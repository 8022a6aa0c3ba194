//! `kill -9` at every system call of attach, replace and detach: the next command finds the state
//! whole, and as before or as after.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::collections::BTreeSet;
use std::process::Command;

use cgtap::engine::{Detach, ListRequest};
use robust_support::ledger::Ledger;
use robust_support::shape::Shape;
use robust_support::{End, amount, count_calls, driver_binary, sample, traced};
use support::{Sandbox, compile};

/// Every call that changes something, or that something can be waited for in.
const CALLS: [&str; 16] = [
    "bpf",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "mmap",
    "munmap",
    "flock",
    "perf_event_open",
    "ioctl",
    "openat",
    "close",
];

/// A change, and how to come to where it starts.
struct Change {
    name: &'static str,
    /// Attached before, each time: instances of the whole fixture in `c`.
    instances: usize,
    /// The words for the driver, by the ids that are attached.
    words: fn(&Sandbox, &str, &Shape) -> Vec<String>,
}

const CHANGES: [Change; 6] = [
    Change {
        name: "the first attach",
        instances: 0,
        words: attach,
    },
    Change {
        name: "another attach",
        instances: 1,
        words: attach,
    },
    Change {
        name: "replace",
        instances: 2,
        words: |_, object, shape| {
            let first = shape.ids().into_iter().next().unwrap().to_string();
            words(&["replace", &first, object, "raw"])
        },
    },
    Change {
        name: "detach of one of two",
        instances: 2,
        words: |_, _, shape| {
            let ids: Vec<u32> = shape.ids().into_iter().collect();
            detach(&ids[3..])
        },
    },
    Change {
        name: "detach of the last",
        instances: 1,
        words: |_, _, shape| detach(&shape.ids().into_iter().collect::<Vec<_>>()),
    },
    Change {
        name: "detach of all and the state",
        instances: 2,
        words: |_, _, _| words(&["detach-all"]),
    },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn attach(sandbox: &Sandbox, object: &str, _: &Shape) -> Vec<String> {
    words(&["attach", sandbox.dir("c").to_str().unwrap(), object])
}

fn detach(ids: &[u32]) -> Vec<String> {
    let ids = ids.iter().map(u32::to_string);
    ["detach".to_owned()].into_iter().chain(ids).collect()
}

/// Brings the state to where a change starts.
fn start(sandbox: &Sandbox, change: &Change, object: &str) -> (Shape, Vec<String>) {
    if change.instances == 0 {
        sandbox.engine.detach(&Detach::All).unwrap();
    } else {
        let shape = Shape::listed(sandbox);
        let is_whole = shape.ids().len() == 3 * change.instances;
        let is_replaced = sandbox.engine.maps(None).unwrap().len() != change.instances;
        if !is_whole || is_replaced {
            sandbox.engine.detach(&Detach::All).unwrap();
            for _ in 0..change.instances {
                sandbox.attach("c", "robust");
            }
        }
    }
    let shape = Shape::listed(sandbox);
    let words = (change.words)(sandbox, object, &shape);
    (shape, words)
}

/// Kills the driver at its `number`th `call` and looks at what is left.
fn kill(
    sandbox: &Sandbox,
    change: &Change,
    object: &str,
    new: &[String],
    at: (&str, usize, bool),
) -> End {
    let (call, number, follow) = at;
    let (before, words) = start(sandbox, change, object);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let mut options = vec!["-e", &trace, "-e", &inject];
    if follow {
        options.push("-f");
    }
    let end = End::of(&mut traced(sandbox, &options, &words));
    let after = Shape::of(sandbox);
    let shape = after.since(&before);
    let what = format!("{}, killed at {call} {number}: {end:?}", change.name);
    match end {
        End::Done => assert_eq!(shape, new, "{what}"),
        // The child that reads the object was killed, which is an error like any other.
        End::Refused { .. } => assert_eq!(after, before, "{what}"),
        End::Killed(_) if after == before => {}
        End::Killed(_) => assert_eq!(shape, new, "{what}"),
    }
    // A state that nothing is left of leaves nothing, but perhaps its directory.
    if sandbox
        .engine
        .list(&ListRequest::default())
        .unwrap()
        .is_empty()
        && change.instances == 0
    {
        let left = std::fs::read_dir(&sandbox.state)
            .into_iter()
            .flatten()
            .flatten();
        let left: Vec<_> = left.map(|e| e.file_name()).collect();
        assert!(
            left.is_empty() || left.iter().any(|n| n == "config"),
            "{what}: {left:?}"
        );
    }
    after.runs(sandbox, "c", 3);
    end
}

/// Of how many calls one is killed in at most: all of those that are few; they are what the change
/// hangs on.
fn killed_at_most(call: &str) -> usize {
    match call {
        "bpf" => 10,
        "close" | "mmap" | "munmap" | "openat" => 2,
        _ => 4,
    }
}

fn killed_everywhere(change: &Change) {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("kill");
    sandbox.cgroup("c");
    let object = compile("robust");
    let object = object.to_str().unwrap();
    let (before, driver_words) = start(&sandbox, change, object);
    let driver_words: Vec<&str> = driver_words.iter().map(String::as_str).collect();
    let calls = count_calls(&sandbox, &CALLS, &driver_words);
    let new = Shape::of(&sandbox).since(&before);
    let (mut killed, mut done) = (0, 0);
    for (call, count) in &calls {
        for number in sample(*count, killed_at_most(call)) {
            match kill(&sandbox, change, object, &new, (call, number, false)) {
                End::Killed(_) => killed += 1,
                End::Done => done += 1,
                other @ End::Refused { .. } => {
                    panic!("{}, {call} {number}: {other:?}", change.name)
                }
            }
        }
    }
    // The child that reads the object, which may be killed without its parent.
    if driver_words.contains(&object) {
        for call in ["bpf", "openat", "sendmsg"] {
            for number in sample(12, 2) {
                kill(&sandbox, change, object, &new, (call, number, true));
            }
        }
    }
    println!("{}: {killed} killed, {done} came through", change.name);
    assert!(killed > amount(10, 20, 100), "{calls:?}");
    drop(sandbox);
    ledger.close();
}

/// What a process holds goes with it, wherever it is killed. Whoever looks from another PID namespace goes by the
/// gate alone, which the kernel's side has to have set.
#[test]
fn kill_of_one_that_holds() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("kill-holder");
    let dir = sandbox.dir("c").display().to_string();
    sandbox.cgroup("c");
    let object = compile("robust").display().to_string();
    let words = ["hold", &dir, &object];
    let calls = count_calls(&sandbox, &CALLS, &words);
    let (mut killed, mut held) = (0, 0);
    for (call, count) in &calls {
        // What gives it up is the last of it.
        let numbers = sample(*count, killed_at_most(call)).into_iter();
        let last = count.saturating_sub(killed_at_most(call))..=*count;
        let numbers: BTreeSet<usize> = numbers.chain(last.filter(|n| *n > 0)).collect();
        for number in numbers {
            let inject = format!("inject={call}:signal=KILL:when={number}");
            let trace = format!("trace={call}");
            let end = End::of(&mut traced(
                &sandbox,
                &["-e", &trace, "-e", &inject],
                &words,
            ));
            killed += usize::from(matches!(end, End::Killed(_)));
            held += usize::from(sandbox.state.join("undertaker").exists());
            let mut elsewhere = Command::new("unshare");
            elsewhere.args(["--pid", "--fork"]).arg(driver_binary());
            elsewhere.arg(&sandbox.state).arg("list");
            let listed = elsewhere.output().unwrap();
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            assert_eq!(listed, "[]\n", "killed at {call} {number}: {end:?}");
            assert_eq!(Shape::of(&sandbox).ids(), BTreeSet::new());
        }
    }
    println!("{killed} killed, {held} of them while they held something");
    assert!(killed > amount(10, 20, 100) && held > 1, "{calls:?}");
    drop(sandbox);
    ledger.close();
}

#[test]
fn kill_in_the_first_attach() {
    killed_everywhere(&CHANGES[0]);
}

#[test]
fn kill_in_another_attach() {
    killed_everywhere(&CHANGES[1]);
}

#[test]
fn kill_in_replace() {
    killed_everywhere(&CHANGES[2]);
}

#[test]
fn kill_in_detach_of_one_of_two() {
    killed_everywhere(&CHANGES[3]);
}

#[test]
fn kill_in_detach_of_the_last() {
    killed_everywhere(&CHANGES[4]);
}

#[test]
fn kill_in_detach_of_all() {
    killed_everywhere(&CHANGES[5]);
}
