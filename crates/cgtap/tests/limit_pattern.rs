//! Limits on patterns hold for cgroups that are made later, with no process of ours alive: each has its
//! own amount from its first event on, and what is above it is charged too.
//!
//! Those that charge after the event are tried with `freeze`, which charges so whatever the meter.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "support/packets.rs"]
mod packets;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use cgtap::cgroup::pattern::Pattern;
use cgtap::engine::{CgroupRef, LimitChange, LimitReport, LimitRequest, PatternRequest};
use cgtap::limit::record::Action;
use packets::{EDQUOT, begin, end};
use support::Sandbox;

/// A limit of a policy's; its cgroup is not looked at.
fn request(value: &str, amount: u64) -> LimitRequest {
    LimitRequest {
        policy: true,
        ..packets::request(CgroupRef::Path("/".into()), value, amount)
    }
}

/// A limit on `pattern` below the sandbox's own cgroup.
fn pattern(sandbox: &Sandbox, pattern: &str, limit: LimitRequest) -> PatternRequest {
    let text = format!("{}/{pattern}", sandbox.top);
    PatternRequest {
        pattern: Pattern::of(&text).unwrap().unwrap(),
        limit,
    }
}

fn follow(sandbox: &Sandbox, patterns: Vec<PatternRequest>) {
    change(sandbox, Vec::new(), patterns);
}

fn change(sandbox: &Sandbox, set: Vec<LimitRequest>, patterns: Vec<PatternRequest>) {
    let change = LimitChange {
        set,
        clear: Vec::new(),
        patterns: Some(patterns),
    };
    packets::change(sandbox, &change);
}

fn set(sandbox: &Sandbox, cgroup: &str, value: &str, amount: u64) -> LimitReport {
    let change = LimitChange {
        set: vec![LimitRequest {
            cgroup: sandbox.cgroup(cgroup),
            policy: false,
            ..request(value, amount)
        }],
        ..LimitChange::default()
    };
    packets::change(sandbox, &change).remove(0)
}

/// Makes a cgroup as anybody does: nothing of ours takes part.
fn mkdir(sandbox: &Sandbox, cgroup: &str) {
    let made = Command::new("mkdir").arg(sandbox.dir(cgroup)).status();
    assert!(made.unwrap().success());
}

fn run(sandbox: &Sandbox, cgroup: &str, times: u32) -> (u64, u64, i64) {
    end(begin(sandbox, cgroup, 1, times))
}

fn limits(sandbox: &Sandbox) -> BTreeMap<(String, String), LimitReport> {
    let all = sandbox.engine.limits(None).unwrap();
    let key = |l: &LimitReport| (l.cgroup.clone(), l.meter.clone());
    all.into_iter().map(|l| (key(&l), l)).collect()
}

#[test]
fn each_that_is_made_later_has_its_own_amount() {
    let sandbox = packets::alone("pattern");
    follow(
        &sandbox,
        vec![pattern(&sandbox, "pod-*", request("runs", 5))],
    );
    assert_eq!(sandbox.engine.limits(None).unwrap(), []);
    for name in ["pod-a", "pod-b", "pad-a", "xpod-a", "pod-", "pod-a/below"] {
        mkdir(&sandbox, name);
    }
    // No command of ours ran since.
    assert_eq!(run(&sandbox, "pod-a", 3), (3, 0, 0));
    assert_eq!(run(&sandbox, "pod-a/below", 4), (2, 2, EDQUOT));
    assert_eq!(run(&sandbox, "pod-b", 8), (5, 3, EDQUOT));
    assert_eq!(run(&sandbox, "pod-", 6), (5, 1, EDQUOT));
    for name in ["pad-a", "xpod-a", ""] {
        assert_eq!(run(&sandbox, name, 7), (7, 0, 0), "{name}");
    }
    // The next command shows them, with what they used.
    let all = limits(&sandbox);
    let stand: Vec<_> = all
        .values()
        .map(|l| (l.cgroup.as_str(), l.amount, l.used, l.left, l.denied))
        .collect();
    assert_eq!(
        stand,
        [
            (sandbox.path("pod-").as_str(), 5, 5, 0, 1),
            (sandbox.path("pod-a").as_str(), 5, 5, 0, 2),
            (sandbox.path("pod-b").as_str(), 5, 5, 0, 3),
        ]
    );
    assert!(all.values().all(|l| l.policy && l.charged == "before"));
    let log = sandbox.engine.denials().unwrap().denials;
    assert_eq!(log.len(), 6);
    let levels: BTreeSet<&str> = log.iter().map(|d| d.level.as_deref().unwrap()).collect();
    assert_eq!(levels.len(), 3, "{levels:?}");
    // What they are is as before, and goes on.
    assert_eq!(run(&sandbox, "pod-a", 2), (0, 2, EDQUOT));
    let explained = sandbox
        .engine
        .explain(&CgroupRef::Path(sandbox.dir("pod-a/below")))
        .unwrap();
    assert!(explained.limits[0].is_reached);
    // One of them is overridden by hand, and the others stay.
    let by_hand = set(&sandbox, "pod-b", "runs", 9);
    assert_eq!((by_hand.used, by_hand.left, by_hand.policy), (5, 4, false));
    assert_eq!(run(&sandbox, "pod-b", 6), (4, 2, EDQUOT));
    assert_eq!(run(&sandbox, "pod-a", 1), (0, 1, EDQUOT));
    mkdir(&sandbox, "pod-c");
    assert_eq!(run(&sandbox, "pod-c", 6), (5, 1, EDQUOT));
    // Another amount, of the pattern and of one of them: what was used stays.
    let mut again = request("runs", 7);
    again.cgroup = CgroupRef::Path(sandbox.dir("pod-c"));
    change(
        &sandbox,
        vec![again],
        vec![pattern(&sandbox, "pod-*", request("runs", 6))],
    );
    assert_eq!(run(&sandbox, "pod-c", 3), (2, 1, EDQUOT));
    mkdir(&sandbox, "pod-d");
    assert_eq!(run(&sandbox, "pod-d", 7), (6, 1, EDQUOT));
    // No pattern any more: what was born stays limited until it is cleared.
    follow(&sandbox, Vec::new());
    mkdir(&sandbox, "pod-e");
    assert_eq!(run(&sandbox, "pod-e", 9), (9, 0, 0));
    assert_eq!(run(&sandbox, "pod-d", 1), (0, 1, EDQUOT));
    let clear = limits(&sandbox).values().map(|l| l.id).collect();
    let change = LimitChange {
        clear,
        ..LimitChange::default()
    };
    sandbox.engine.change_limits(&change).unwrap();
    assert_eq!(run(&sandbox, "pod-d", 4), (4, 0, 0));
}

/// Levels that are born, levels that are named and levels above the pattern are all charged, or none is.
#[test]
fn all_levels_are_asked() {
    let sandbox = packets::alone("pattern");
    set(&sandbox, "", "runs", 20);
    let day = Some(Duration::from_secs(86_400));
    let bucket = LimitRequest {
        period: day,
        ..request("runs", 8)
    };
    follow(
        &sandbox,
        vec![
            pattern(&sandbox, "*", request("runs", 12)),
            pattern(&sandbox, "*/c?/in", bucket),
            pattern(&sandbox, "*/c?", request("units", 70)),
        ],
    );
    for name in [
        "a",
        "a/c1",
        "a/c1/in",
        "a/c1/in/deep",
        "a/c12",
        "b",
        "b/c2",
        "b/c2/in",
    ] {
        mkdir(&sandbox, name);
    }
    // Its own bucket of 8 is the least; then its 12 with the others of `a`.
    assert_eq!(run(&sandbox, "a/c1/in/deep", 9), (8, 1, EDQUOT));
    // 70 units are ten runs.
    assert_eq!(run(&sandbox, "a/c1", 9), (2, 7, EDQUOT));
    assert_eq!(run(&sandbox, "a/c12", 9), (2, 7, EDQUOT));
    // What was refused further up was charged nowhere: 8 of the 20 are left.
    assert_eq!(run(&sandbox, "b/c2/in", 12), (8, 4, EDQUOT));
    assert_eq!(run(&sandbox, "b", 1), (0, 1, EDQUOT));
    let all = limits(&sandbox);
    let used = |cgroup: &str, meter: &str| all[&(sandbox.path(cgroup), meter.to_owned())].used;
    assert_eq!(used("", "packets_runs"), 20);
    assert_eq!(used("a", "packets_runs"), 12);
    assert_eq!(used("a/c1/in", "packets_runs"), 8);
    assert_eq!(used("a/c1", "packets_units"), 70);
    assert_eq!(used("b", "packets_runs"), 8);
    assert_eq!(used("b/c2/in", "packets_runs"), 8);
    assert_eq!(used("b/c2", "packets_units"), 56);
    assert_eq!(all.len(), 7, "{all:?}");
}

/// Tasks that begin with their cgroup, on all CPUs: not one run too many in any of them, not one lost.
#[test]
fn nothing_slips_through_at_birth() {
    let sandbox = packets::alone("pattern");
    follow(
        &sandbox,
        vec![pattern(&sandbox, "n*", request("runs", 100))],
    );
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for round in 0..10 {
                    let name = format!("n{worker}-{round}");
                    std::fs::create_dir(sandbox.dir(&name)).unwrap();
                    let both = [0, 1].map(|_| begin(sandbox, &name, 2, 60));
                    let ran = both.map(end);
                    let through: u64 = ran.iter().map(|r| r.0).sum();
                    // Of a kernel that preempts programs, as `limit_gate.rs` has it.
                    let path = sandbox.path(&name);
                    let all = limits(sandbox);
                    let missed = all[&(path, "packets_runs".to_owned())].missed;
                    assert!(
                        (100..=100 + missed).contains(&through),
                        "{name}: {ran:?}, {missed}"
                    );
                }
            });
        }
    });
    let all = limits(&sandbox);
    assert_eq!(all.len(), 40);
    for l in all.values() {
        assert_eq!(l.used, 100, "{l:?}");
        assert!((l.denied..=l.denied + l.missed).contains(&140), "{l:?}");
    }
}

fn after(value: &str, amount: u64) -> LimitRequest {
    LimitRequest {
        action: Some(Action::Freeze),
        ..request(value, amount)
    }
}

/// The same of what is charged after the event: exact for each, from its first event on.
#[test]
fn what_is_charged_after_the_event_is_each_ones_own() {
    let sandbox = packets::alone("pattern");
    let top = LimitRequest {
        cgroup: sandbox.cgroup(""),
        policy: false,
        ..after("units", 1 << 40)
    };
    let patterns = vec![
        pattern(&sandbox, "*/pod?", after("units", 70)),
        pattern(&sandbox, "k*", after("units", 1_000)),
    ];
    change(&sandbox, vec![top], patterns);
    for name in ["k", "k/pod1", "k/pod1/x", "k/pod22", "m", "m/pod2"] {
        mkdir(&sandbox, name);
    }
    for (name, times) in [
        ("k/pod1", 3),
        ("k/pod1/x", 4),
        ("k/pod22", 5),
        ("k", 6),
        ("m", 7),
        ("m/pod2", 8),
    ] {
        assert_eq!(run(&sandbox, name, times), (u64::from(times), 0, 0));
    }
    let used = |cgroup: &str| {
        let all = limits(&sandbox);
        all[&(sandbox.path(cgroup), "packets_units".to_owned())].used / 7
    };
    assert_eq!(used("k/pod1"), 7);
    assert_eq!(used("m/pod2"), 8);
    assert_eq!(used("k"), 18);
    assert_eq!(used(""), 33);
    assert_eq!(limits(&sandbox).len(), 4);
    // A change beside them changes nothing of it.
    set_after(&sandbox, "m", 50);
    mkdir(&sandbox, "m/pod3");
    assert_eq!(run(&sandbox, "m/pod3", 2).0, 2);
    assert_eq!(run(&sandbox, "k/pod1/x", 2).0, 2);
    assert_eq!(
        [used("k/pod1"), used("m/pod3"), used("m"), used("")],
        [9, 2, 2, 37]
    );
    // One that goes leaves what it used with those above, and what comes anew begins anew.
    sandbox.remove("k/pod1/x");
    sandbox.remove("k/pod1");
    assert_eq!(limits(&sandbox).len(), 5);
    mkdir(&sandbox, "k/pod1");
    assert_eq!(run(&sandbox, "k/pod1", 1).0, 1);
    assert_eq!([used("k/pod1"), used("k"), used("")], [1, 21, 38]);
}

fn set_after(sandbox: &Sandbox, cgroup: &str, amount: u64) {
    let change = LimitChange {
        set: vec![LimitRequest {
            cgroup: sandbox.cgroup(cgroup),
            policy: false,
            ..after("units", amount)
        }],
        ..LimitChange::default()
    };
    sandbox.engine.change_limits(&change).unwrap();
}

/// What gets a signal is what is over its own amount.
#[test]
fn each_gets_its_signal_for_itself() {
    let sandbox = packets::alone("pattern");
    let limit = LimitRequest {
        action: Some(Action::Signal(12)),
        ..request("runs", 5)
    };
    follow(&sandbox, vec![pattern(&sandbox, "*-job", limit)]);
    for name in ["a-job", "b-job", "a-job/in", "c-jobs"] {
        mkdir(&sandbox, name);
    }
    use std::os::unix::process::ExitStatusExt;
    let signal = |cgroup: &str, times| {
        let output = begin(&sandbox, cgroup, 1, times)
            .wait_with_output()
            .unwrap();
        output.status.signal()
    };
    assert_eq!(signal("a-job", 3), None);
    assert_eq!(signal("c-jobs", 30), None);
    assert_eq!(signal("a-job/in", 3), Some(12));
    assert_eq!(signal("b-job", 3), None);
    assert_eq!(signal("b-job", 30), Some(12));
    let all = limits(&sandbox);
    assert_eq!(all.len(), 2);
    assert!(
        all.values().all(|l| l.denied > 0 && l.is_reached),
        "{all:?}"
    );
}

/// Places come back: many more cgroups than there are places come and go, and each is given one.
#[test]
fn places_come_back() {
    let sandbox = packets::alone("pattern");
    follow(&sandbox, vec![pattern(&sandbox, "*", after("runs", 5))]);
    let free = || sandbox.engine.patterns().unwrap()[0].places_free;
    let all = free();
    for round in 0..1_000 {
        let name = format!("r{round}");
        std::fs::create_dir(sandbox.dir(&name)).unwrap();
        sandbox.remove(&name);
    }
    assert_eq!(free(), all);
    assert_eq!(limits(&sandbox).len(), 0);
    let stand = &sandbox.engine.patterns().unwrap()[0];
    assert_eq!((stand.places_short, stand.lost), (0, 0));
}

/// Those that find no place share one budget, and it is told; places that came back are given out again.
#[test]
fn what_finds_no_place_shares_one() {
    let sandbox = packets::alone("pattern");
    follow(&sandbox, vec![pattern(&sandbox, "*", after("runs", 5))]);
    let stand = || sandbox.engine.patterns().unwrap().remove(0);
    let places = stand().places_free;
    for at in 0..places {
        std::fs::create_dir(sandbox.dir(&format!("r{at}"))).unwrap();
    }
    for name in ["s1", "s2"] {
        mkdir(&sandbox, name);
        assert_eq!(run(&sandbox, name, 4).0, 4);
    }
    let now = stand();
    assert_eq!((now.places_free, now.places_short, now.lost), (0, 2, 0));
    assert_eq!((now.shared_used, now.shared_left), (8, -3));
    assert_eq!(limits(&sandbox).len() as u64, places);
    // Who has it is told so, and nobody else.
    let shared = |name: &str| {
        let at = cgtap::engine::CgroupRef::Path(sandbox.path(name).into());
        sandbox.engine.explain(&at).unwrap().shared
    };
    assert_eq!(shared("s1"), std::slice::from_ref(&now));
    assert_eq!(shared("r0"), []);
    assert_eq!(now.places_used, places);
    // Looking at it changed nothing.
    assert_eq!(run(&sandbox, "s1", 1).0, 1);
    assert_eq!(stand().shared_used, 9);
    for at in 0..places {
        sandbox.remove(&format!("r{at}"));
    }
    // They rest for a second.
    std::thread::sleep(Duration::from_millis(1_200));
    mkdir(&sandbox, "t");
    assert_eq!(run(&sandbox, "t", 2).0, 2);
    let left = limits(&sandbox);
    let used: Vec<(&str, u64)> = left.values().map(|l| (l.cgroup.as_str(), l.used)).collect();
    assert_eq!(used, [(sandbox.path("t").as_str(), 2)]);
    assert_eq!(stand().places_free, places - 1);
}
