//! Changes as fast as they can be made on one CPU, events on the other: every event runs the old
//! or the new, none both, none neither, and nothing runs once a detach has returned.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::time::{Duration, Instant};

use cgtap::dispatch::switch::Switch;
use cgtap::engine::{
    AttachReport, AttachRequest, Detach, ObjectSource, ProgramChoice, ReplaceRequest,
};
use cgtap::id::{AttachmentId, CgroupId, InstanceId};
use robust_support::amount;
use robust_support::ledger::Ledger;
use robust_support::load::Load;
use robust_support::shape::{HOOKS, Shape};
use support::{Sandbox, ids};

/// With fewer changes there is nothing to be seen.
const CHANGES_MIN: u64 = 11;

/// A sandbox with instances that stay loaded: each is attached to a cgroup without processes.
struct Storm {
    sandbox: Sandbox,
    instances: Vec<AttachReport>,
    ledger: Ledger,
}

impl Storm {
    fn new(name: &str, fixture: &str, instances: usize) -> Self {
        let ledger = Ledger::open();
        let sandbox = Sandbox::new(name);
        sandbox.cgroup("c");
        let instances = (0..instances)
            .map(|at| {
                let request = sandbox.request(&format!("parked{at}"), fixture);
                sandbox.engine.attach(request).unwrap()
            })
            .collect();
        Self {
            sandbox,
            instances,
            ledger,
        }
    }

    fn instance(&self, at: usize) -> InstanceId {
        self.instances[at].instance
    }

    /// Attaches programs of an instance to `c`.
    fn attach(&self, at: usize, programs: &[&str]) -> Vec<AttachmentId> {
        let source = ObjectSource::Instance(self.instance(at));
        let choice = |name: &&str| ProgramChoice {
            name: (*name).to_owned(),
            hook: None,
        };
        let request = AttachRequest {
            programs: programs.iter().map(choice).collect(),
            ..AttachRequest::new(self.sandbox.cgroup("c"), source)
        };
        ids(&self.sandbox.engine.attach(request).unwrap())
    }

    fn detach(&self, ids: Vec<AttachmentId>) {
        self.sandbox.engine.detach(&Detach::Ids(ids)).unwrap();
    }

    fn word(&self, at: usize, word: u32) -> u64 {
        self.sandbox.map_word(&self.instances[at], "counts", word)
    }

    /// What the programs have counted of these events together: all, but for what the kernel missed.
    fn assert_counted(&self, counted: u64, events: u64) {
        self.sandbox.assert_counted(HOOKS[0], counted, events);
    }

    /// Makes changes on this thread while getppids run in `c`; how many changes, how many events.
    fn rage(&self, mut change: impl FnMut(u64)) -> (u64, u64) {
        let load = Load::run(1, &self.sandbox.dir("c")).go();
        let end = Instant::now() + Duration::from_secs(amount(4, 4, 30));
        let mut changes = 0;
        // However long so many take: in a guest without KVM a change is half a second.
        while Instant::now() < end || changes < CHANGES_MIN {
            change(changes);
            changes += 1;
        }
        let events = load.stop()[0];
        assert!(events > 1000, "{changes} changes, {events} events");
        (changes, events)
    }

    /// Nothing was lost, nothing is left.
    fn end(self) {
        Shape::of(&self.sandbox);
        drop(self.sandbox);
        self.ledger.close();
    }
}

#[test]
fn every_event_runs_the_old_or_the_new_program() {
    let storm = Storm::new("switch-replace", "count", 2);
    let id = storm.attach(0, &["count"])[0];
    let (changes, events) = storm.rage(|at| {
        let request = ReplaceRequest {
            id,
            source: ObjectSource::Instance(storm.instance((at as usize + 1) % 2)),
            program: Some("count".to_owned()),
            expect: None,
        };
        storm.sandbox.engine.replace(request).unwrap();
    });
    let (old, new) = (storm.word(0, 0), storm.word(1, 0));
    println!("{changes} replaces, {events} events: {old} + {new}");
    storm.assert_counted(old + new, events);
    assert!(old > 0 && new > 0);
    // Its runs are every system call of the load, which made a few more than getppids.
    assert!(storm.sandbox.runs(id) >= old + new);
    storm.end();
}

#[test]
fn what_stays_attached_misses_nothing_while_another_comes_and_goes() {
    let storm = Storm::new("switch-beside", "count", 2);
    storm.attach(0, &["count"]);
    let mut runs_after = 0;
    let (changes, events) = storm.rage(|_| {
        let before = storm.word(1, 0);
        let ids = storm.attach(1, &["count"]);
        storm.detach(ids);
        let after = storm.word(1, 0);
        std::thread::sleep(Duration::from_millis(2));
        runs_after += storm.word(1, 0) - after;
        assert!(after >= before);
    });
    println!("{changes} times attached and detached, {events} events");
    storm.assert_counted(storm.word(0, 0), events);
    assert_eq!(runs_after, 0, "runs after a detach returned");
    assert!(storm.word(1, 0) > 0, "the other never ran");
    storm.end();
}

#[test]
fn two_programs_that_come_together_are_seen_together() {
    let storm = Storm::new("switch-twins", "twins", 1);
    let (changes, events) = storm.rage(|_| {
        let ids = storm.attach(0, &["one", "other"]);
        storm.detach(ids);
        // Detached, and so at rest.
        assert_eq!(storm.word(0, 0), storm.word(0, 1));
    });
    let seen = storm.word(0, 0);
    println!("{changes} times attached and detached, {seen} of {events} events seen by both");
    assert!(seen > 0 && seen < events);
    storm.end();
}

/// The switch alone, as fast as a grace period lets it.
#[test]
fn every_event_runs_the_old_or_the_new_set() {
    let storm = Storm::new("switch-bare", "count", 2);
    storm.attach(0, &["count"]);
    let switch = Switch::open(&storm.sandbox.state.join("hooks/1")).unwrap();
    let before = switch.in_force().unwrap();
    let cgroup = |name: &str| {
        let meta = storm.sandbox.dir(name).metadata().unwrap();
        CgroupId(std::os::unix::fs::MetadataExt::ino(&meta))
    };
    let sets = [before[&cgroup("c")], before[&cgroup("parked1")]];
    let (changes, events) = storm.rage(|at| {
        let mut desired = before.clone();
        desired.insert(cgroup("c"), sets[(at as usize + 1) % 2]);
        switch.publish(&desired).unwrap();
        cgtap_sys::bpf::grace_period().unwrap();
        switch.settle();
        // The set that is not in force has run for the last time.
        let idle = storm.word(at as usize % 2, 0);
        std::thread::yield_now();
        assert_eq!(storm.word(at as usize % 2, 0), idle);
    });
    switch.publish(&before).unwrap();
    let (one, other) = (storm.word(0, 0), storm.word(1, 0));
    println!("{changes} publications, {events} events: {one} + {other}");
    storm.assert_counted(one + other, events);
    assert!(one > 0 && other > 0);
    // It holds what is in the array.
    drop(switch);
    storm.end();
}

/// A publication is written where no event looks: a hash gives the memory of an entry that is
/// replaced to the next one at once, so whoever held it would see another cgroup's set.
#[test]
fn what_is_in_force_is_not_touched_by_what_is_prepared() {
    let storm = Storm::new("switch-apart", "count", 2);
    storm.attach(0, &["count"]);
    let dir = storm.sandbox.state.join("hooks/1");
    let switch = Switch::open(&dir).unwrap();
    let read = || {
        ["table_even", "table_odd"].map(|name| {
            let table = cgtap_sys::bpf::get_map(&dir.join(name)).unwrap();
            let keys = table.keys().unwrap();
            let mut all: Vec<_> = keys
                .into_iter()
                .map(|key| (table.lookup(&key).unwrap(), key))
                .collect();
            all.sort();
            all
        })
    };
    let in_force = switch.in_force().unwrap();
    assert_eq!(in_force.len(), 3);
    let before = read();
    let at = (switch.generation() & 1) as usize;
    let mut desired = in_force.clone();
    let gone = desired.pop_first().unwrap();
    desired.values_mut().for_each(|set| *set += 100);
    desired.insert(CgroupId(gone.0.0 + (1 << 50)), 7);
    let prepared = switch.prepare(&desired).unwrap();
    let after = read();
    assert_eq!(after[at], before[at], "the table that events read");
    assert_eq!(after[1 - at].len(), desired.len());
    assert_eq!(switch.in_force().unwrap(), in_force);
    // Never committed: the next publication starts from what is in force.
    drop(prepared);
    cgtap_sys::bpf::grace_period().unwrap();
    switch.publish(&in_force).unwrap();
    assert_eq!(switch.in_force().unwrap(), in_force);
    drop(switch);
    storm.end();
}

/// The hook itself comes and goes: its dispatcher is attached by the first and removed with the
/// last.
#[test]
fn a_hook_that_comes_and_goes_leaves_nothing_running() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("switch-hook");
    sandbox.cgroup("c");
    let load = Load::run(1, &sandbox.dir("c")).go();
    let end = Instant::now() + Duration::from_secs(amount(4, 4, 30));
    let (mut changes, mut seen) = (0, 0);
    while Instant::now() < end {
        let report = sandbox
            .engine
            .attach(sandbox.request("c", "robust"))
            .unwrap();
        let instances = sandbox.engine.maps(Some(report.instance)).unwrap();
        let pin = instances[0].maps[0].pin.as_ref().unwrap();
        // Held here, it outlives its pin.
        let counts = cgtap_sys::bpf::get_map(pin).unwrap();
        let words = || {
            [0u32, 1, 2].map(|word| {
                let value = counts.lookup(&word.to_ne_bytes()).unwrap().unwrap();
                u64::from_ne_bytes(value[..8].try_into().unwrap())
            })
        };
        std::thread::sleep(Duration::from_millis(1));
        if changes % 2 == 0 {
            sandbox.engine.detach(&Detach::Ids(ids(&report))).unwrap();
        } else {
            sandbox.engine.detach(&Detach::All).unwrap();
        }
        let after = words();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(words(), after, "runs after a detach returned");
        seen += after.iter().sum::<u64>();
        changes += 1;
    }
    let events = load.stop()[0];
    println!("{changes} hooks came and went, {seen} runs in {events} events");
    assert!(seen > 0 && seen < 3 * events);
    drop(sandbox);
    ledger.close();
}

/// Above and below at once: what is effective in `c` changes by its parent, too.
#[test]
fn a_change_above_is_one_change_below() {
    let storm = Storm::new("switch-above", "twins", 2);
    storm.attach(0, &["one"]);
    let above = |at: usize| {
        let source = ObjectSource::Instance(storm.instance(at));
        let choice = ["one", "other"].map(|name| ProgramChoice {
            name: name.to_owned(),
            hook: None,
        });
        let request = AttachRequest {
            programs: choice.to_vec(),
            ..AttachRequest::new(storm.sandbox.cgroup(""), source)
        };
        ids(&storm.sandbox.engine.attach(request).unwrap())
    };
    let (changes, events) = storm.rage(|_| {
        storm.detach(above(1));
        assert_eq!(storm.word(1, 0), storm.word(1, 1));
    });
    println!(
        "{changes} times above, {} of {events} seen there",
        storm.word(1, 0)
    );
    storm.assert_counted(storm.word(0, 0), events);
    assert!(storm.word(1, 0) > 0);
    storm.end();
}
