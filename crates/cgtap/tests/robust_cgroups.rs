//! Cgroups that are born and die by the thousand, under load: counts are exact, nothing grows, and
//! one cgroup is never taken for another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cgtap::dispatch::switch::Switch;
use cgtap::dispatch::word::{GENERATION_MAX, slot};
use cgtap::engine::{AttachReport, AttachRequest, Detach, ListRequest, ObjectSource};
use robust_support::amount;
use robust_support::ledger::Ledger;
use robust_support::load::Load;
use robust_support::shape::{HOOKS, Shape, nothing_lost};
use support::{Sandbox, ids};

fn attach(sandbox: &Sandbox, cgroup: &str, fixture: &str) -> AttachReport {
    sandbox
        .engine
        .attach(sandbox.request(cgroup, fixture))
        .unwrap_or_else(|e| panic!("{e}\n{}", e.log()))
}

/// Attaches what is loaded already.
fn attach_again(sandbox: &Sandbox, cgroup: &str, loaded: &AttachReport) -> AttachReport {
    let source = ObjectSource::Instance(loaded.instance);
    let request = AttachRequest::new(sandbox.cgroup(cgroup), source);
    sandbox.engine.attach(request).unwrap()
}

/// Each program of the fixture `robust` has counted what was done.
fn assert_counted(sandbox: &Sandbox, report: &AttachReport, done: u64) {
    for (word, hook) in (0..).zip(HOOKS) {
        sandbox.assert_counted(hook, sandbox.map_word(report, "counts", word), done);
    }
}

/// Every pin below a state.
fn pins(sandbox: &Sandbox) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![sandbox.state.clone()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Attached above: every event of every cgroup that ever was below is counted, from its first to
/// its last, and no other.
#[test]
fn cgroups_that_are_born_and_die_below_are_counted_exactly() {
    const EVENTS: u64 = 7;
    let births: u64 = amount(200, 2_000, 10_000);
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("births");
    let report = attach(&sandbox, "a", "robust");
    sandbox.cgroup("b");
    let before = pins(&sandbox);
    // Load that counts, and load that must not.
    let inside = Load::run(0, &sandbox.dir("a")).go();
    let outside = Load::run(1, &sandbox.dir("b")).go();
    let dir = sandbox.dir("a").display().to_string();
    let words = [
        "births",
        &(births / 2).to_string(),
        &EVENTS.to_string(),
        &dir,
    ];
    let nurses = [Load::new(&words), Load::new(&words)].map(Load::go);
    let born: u64 = nurses.into_iter().map(|n| n.stop()[0]).sum();
    let (inside, outside) = (inside.stop()[0], outside.stop()[0]);
    assert_eq!(born, births * EVENTS);
    println!("{births} cgroups, {born} events in them, {inside} beside and {outside} outside");
    assert_counted(&sandbox, &report, born + inside);
    nothing_lost(&sandbox);
    assert_eq!(pins(&sandbox), before);
    let shape = Shape::of(&sandbox);
    assert_eq!(shape.ids().len(), 3);
    drop(sandbox);
    ledger.close();
}

/// Attached to the short-lived ones themselves: gone with them, exact while they live, and nothing
/// stays.
#[test]
fn what_is_attached_to_a_cgroup_that_dies_goes_with_it() {
    const EVENTS: u64 = 9;
    let lives = amount(10, 60, 1_000);
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("deaths");
    // It stays loaded, and what is attached above sees everything.
    let loaded = attach(&sandbox, "parked", "count");
    let above = attach(&sandbox, "a", "robust");
    let before = (pins(&sandbox), Shape::of(&sandbox));
    let other = Load::run(1, &sandbox.dir("parked")).go();
    let mut expected = 0;
    for life in 0..lives {
        let name = format!("a/life{life}");
        attach_again(&sandbox, &name, &loaded);
        sandbox.getppid(&name, EVENTS);
        expected += EVENTS;
        sandbox.remove(&name);
        // Another of the same name, to which nothing is attached.
        sandbox.cgroup(&name);
        sandbox.getppid(&name, 1);
        if life % 7 != 0 {
            sandbox.remove(&name);
        }
        if life % 16 == 0 {
            let lists = sandbox.engine.list(&ListRequest::default()).unwrap();
            assert_eq!(lists.len(), 4, "only what stays: {lists:?}");
        }
    }
    let parked = other.stop()[0];
    let seen = sandbox.map_word(&loaded, "counts", 0);
    sandbox.assert_counted(HOOKS[0], seen, expected + parked);
    assert_counted(&sandbox, &above, expected + lives);
    nothing_lost(&sandbox);
    let after = (pins(&sandbox), Shape::of(&sandbox));
    assert_eq!(after, before, "{lives} lives");
    drop(sandbox);
    ledger.close();
}

/// Cgroups whose words share one place of the cache push each other out, and nothing else.
#[test]
fn cgroups_that_share_a_place_of_the_cache_are_told_apart() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("slots");
    sandbox.cgroup("s");
    let mut by_slot: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut pairs: Vec<[String; 2]> = Vec::new();
    for number in 0..6_000 {
        let name = format!("s/{number}");
        sandbox.cgroup(&name);
        let id = sandbox.dir(&name).metadata().unwrap().ino();
        let (index, _) = slot(id).unwrap();
        let sharing = by_slot.entry(index).or_default();
        sharing.push(name);
        if let [one, other] = sharing.as_slice() {
            pairs.push([one.clone(), other.clone()]);
            if pairs.len() == 6 {
                break;
            }
        }
    }
    let made: usize = by_slot.values().map(Vec::len).sum();
    println!("{} pairs share a place, among {made} cgroups", pairs.len());
    assert!(!pairs.is_empty());
    for names in by_slot.values().flatten() {
        if !pairs.iter().flatten().any(|p| p == names) {
            sandbox.remove(names);
        }
    }
    let one = attach(&sandbox, &pairs[0][0], "robust");
    for pair in &pairs[1..] {
        attach_again(&sandbox, &pair[0], &one);
    }
    // One of each pair counts, the other has nothing; both run at the same time, and in turn.
    let mut expected = 0;
    for pair in &pairs {
        let dirs = pair.clone().map(|name| sandbox.dir(&name));
        let loads = [Load::run(0, &dirs[0]).go(), Load::run(1, &dirs[1]).go()];
        let procs = dirs.map(|d| d.join("cgroup.procs").display().to_string());
        let turns = Load::new(&["move", "-1", "1", &procs[0], &procs[1]]).go();
        std::thread::sleep(std::time::Duration::from_millis(300));
        expected += turns.stop()[0];
        let [counted, other] = loads.map(|l| l.stop()[0]);
        expected += counted;
        assert!(other > 0);
        assert_counted(&sandbox, &one, expected);
    }
    // Both attached, to different things.
    let two = attach(&sandbox, &pairs[0][1], "robust");
    let procs = pairs[0].clone().map(|name| {
        sandbox
            .dir(&name)
            .join("cgroup.procs")
            .display()
            .to_string()
    });
    let turns = Load::new(&["move", "-1", "1", &procs[0], &procs[1]]).go();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let turns = turns.stop();
    assert_counted(&sandbox, &one, expected + turns[0]);
    assert_counted(&sandbox, &two, turns[1]);
    nothing_lost(&sandbox);
    Shape::of(&sandbox);
    drop(sandbox);
    ledger.close();
}

/// A task that moves is counted where it is, from its first event there on.
#[test]
fn a_task_that_moves_is_counted_where_it_is() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("moves");
    let above = attach(&sandbox, "", "robust");
    let one = attach(&sandbox, "one", "robust");
    let deep = attach(&sandbox, "two/deep", "robust");
    sandbox.cgroup("three");
    let procs = ["one", "two/deep", "two", "three"]
        .map(|name| sandbox.dir(name).join("cgroup.procs").display().to_string());
    let mut words = vec!["move", "-1", "3"];
    words.extend(procs.iter().map(String::as_str));
    let movers = [Load::new(&words), Load::new(&words), Load::new(&words)].map(Load::go);
    std::thread::sleep(std::time::Duration::from_secs(amount(2, 2, 20)));
    let mut sums = [0; 4];
    for mover in movers {
        let counts = mover.stop();
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    println!("events in each: {sums:?}");
    assert_counted(&sandbox, &one, sums[0]);
    assert_counted(&sandbox, &deep, sums[1]);
    assert_counted(&sandbox, &above, sums.iter().sum());
    nothing_lost(&sandbox);
    drop(sandbox);
    ledger.close();
}

/// Threads of one process in different cgroups.
#[test]
fn threads_are_counted_in_their_own_cgroups() {
    const EVENTS: u64 = 200_000;
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("threads");
    sandbox.cgroup("t");
    for name in ["t/a", "t/b", "t/b/c"] {
        sandbox.cgroup(name);
        std::fs::write(sandbox.dir(name).join("cgroup.type"), "threaded").unwrap();
    }
    let a = attach(&sandbox, "t/a", "robust");
    let b = attach(&sandbox, "t/b", "robust");
    let c = attach(&sandbox, "t/b/c", "robust");
    let t = attach(&sandbox, "t", "robust");
    let procs = sandbox.dir("t").join("cgroup.procs").display().to_string();
    let threads = ["t/a", "t/b", "t/b/c", "t"].map(|name| {
        sandbox
            .dir(name)
            .join("cgroup.threads")
            .display()
            .to_string()
    });
    let events = EVENTS.to_string();
    let mut words = vec!["threads", &events, &procs];
    words.extend(threads.iter().map(String::as_str));
    let counts = Load::new(&words).go().stop();
    assert_eq!(counts, [EVENTS; 4]);
    for (report, threads) in [(&a, 1), (&b, 2), (&c, 1), (&t, 4)] {
        assert_counted(&sandbox, report, threads * EVENTS);
    }
    nothing_lost(&sandbox);
    drop(sandbox);
    ledger.close();
}

/// The generations begin again behind the last, under load: words of the first round are not taken
/// for those of the second.
#[test]
fn generations_begin_again_without_a_wrong_event() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("wrap");
    sandbox.cgroup("c");
    let stays = attach(&sandbox, "c", "robust");
    let switch = Switch::open(&sandbox.state.join("hooks/1")).unwrap();
    let loads = [
        Load::run(0, &sandbox.dir("c")).go(),
        Load::run(1, &sandbox.dir("c")).go(),
    ];
    let rounds = amount(1, 3, 40);
    let mut others = 0;
    for round in 0..rounds {
        // The first generations are in the cache with what is attached now.
        assert!(switch.generation() < 100, "round {round}");
        for _ in 0..3 {
            let report = attach(&sandbox, "c", "robust");
            // Without `other` the words of these generations would hold its set.
            others += 1;
            sandbox.engine.detach(&Detach::Ids(ids(&report))).unwrap();
        }
        switch.set_generation(GENERATION_MAX - 2);
        for _ in 0..4 {
            let report = attach(&sandbox, "c", "robust");
            sandbox.engine.detach(&Detach::Ids(ids(&report))).unwrap();
        }
        Shape::of(&sandbox);
    }
    let events: u64 = loads.into_iter().map(|l| l.stop()[0]).sum();
    println!("{rounds} rounds, {others} sets before, {events} events");
    assert_counted(&sandbox, &stays, events);
    nothing_lost(&sandbox);
    Shape::of(&sandbox).runs(&sandbox, "c", 5);
    // It holds what is in the array.
    drop(switch);
    drop(sandbox);
    ledger.close();
}
