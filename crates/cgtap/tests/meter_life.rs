//! What becomes of usage when cgroups go: it is the parent's, once, and no total ever falls.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod meter_support;
mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cgtap::engine::UsageReport;
use meter_support::{JOBS, WRITES, both, enable, steps, usage};
use support::Sandbox;

/// Longer than usage of a cgroup that is gone stays where it was.
const GRACE: Duration = Duration::from_millis(1_100);

/// Cgroups in a row; all of them with `CGTAP_TEST_FULL`.
fn many() -> usize {
    match std::env::var_os("CGTAP_TEST_FULL") {
        Some(_) => 100_000,
        None => 6_000,
    }
}

#[test]
fn usage_of_a_cgroup_that_is_gone_is_its_parents() {
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, WRITES);
    steps(&sandbox, "a/x", "write 10 5");
    steps(&sandbox, "a/y", "write 10 2 write 2000 1");
    let calls = |cgroup| both(&sandbox, &usage(&sandbox), cgroup, "writes_calls");
    assert_eq!(calls("a"), (0, 8));
    sandbox.remove("a/x");
    assert_eq!(calls("a"), (5, 8));
    sandbox.remove("a/y");
    assert_eq!(calls("a"), (8, 8));
    sandbox.remove("a");
    assert_eq!(calls(""), (8, 8));
    // Moved for good, at a later removal, it is the same.
    for round in 0..3 {
        std::thread::sleep(GRACE);
        sandbox.cgroup("later");
        sandbox.remove("later");
        assert_eq!(calls(""), (8, 8), "round {round}");
    }
    settle(&sandbox, 2);
    assert_eq!(calls(""), (8, 8));
    // A new cgroup of an old name begins anew.
    sandbox.cgroup("a/x");
    steps(&sandbox, "a/x", "write 10 1");
    assert_eq!(calls("a/x"), (1, 1));
    assert_eq!(calls(""), (8, 9));
}

/// Entries of the meter's map.
fn entries(sandbox: &Sandbox) -> usize {
    let instances = sandbox.engine.maps(None).unwrap();
    let maps = instances.iter().flat_map(|i| &i.maps);
    let usage = maps.into_iter().find(|m| m.name == "usage").unwrap();
    let map = cgtap_sys::bpf::get_map(usage.pin.as_ref().unwrap()).unwrap();
    map.entries().unwrap().len()
}

/// Removes cgroups until so many entries are left. Each removal deals with many that went before it,
/// also with those that other tests removed: of them there may be thousands.
fn settle(sandbox: &Sandbox, left: usize) {
    for _ in 0..1_000 {
        if entries(sandbox) == left {
            return;
        }
        sandbox.cgroup("later");
        sandbox.remove("later");
    }
    panic!("{} entries are left, not {left}", entries(sandbox));
}

/// Every total of every cgroup.
fn totals(report: &UsageReport) -> BTreeMap<(u64, String, String), u64> {
    let mut all = BTreeMap::new();
    for row in &report.cgroups {
        for value in &row.meters {
            let labels = format!("{:?}", value.labels);
            all.insert(
                (row.cgroup_id.0, value.meter.to_string(), labels),
                value.total,
            );
        }
    }
    all
}

/// This kernel takes the CPU from who is in the middle of a system call (Debian's does since 6.18). Where it
/// does not tell how it was built, it may.
fn preempts() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let read = "zcat /proc/config.gz 2>/dev/null || cat /boot/config-$(uname -r)";
        let output = Command::new("sh").args(["-c", read]).output().unwrap();
        let config = String::from_utf8_lossy(&output.stdout).into_owned();
        let does_not = ["CONFIG_PREEMPT_NONE=y", "CONFIG_PREEMPT_VOLUNTARY=y"];
        !config.lines().any(|line| does_not.contains(&line))
    })
}

/// All of so many events are counted. A kernel that preempts those who read maps does not run programs of
/// classic tracepoints on that CPU meanwhile, for whatever process: there all but a few, which are told.
fn are_told(events: usize, counted: u64, report: &UsageReport) {
    let (events, lost) = (events as u64, report.lost);
    let most = if preempts() {
        events.max(3_000) / 50
    } else {
        0
    };
    assert!(lost <= most, "{lost} lost");
    let told = events - lost..=events;
    assert!(told.contains(&counted), "{counted} of {told:?}");
}

#[test]
fn no_total_falls_while_cgroups_come_and_go() {
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, WRITES);
    let is_over = AtomicBool::new(false);
    let rounds = many();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = BTreeMap::new();
            let mut reads = 0;
            while !is_over.load(Ordering::Relaxed) {
                let now = totals(&usage(&sandbox));
                for (key, total) in &last {
                    // One that is gone is not shown any more.
                    let Some(now) = now.get(key) else { continue };
                    assert!(now >= total, "{key:?} fell from {total} to {now}");
                }
                last = now;
                reads += 1;
            }
            reads
        });
        let here = sandbox.dir("").display().to_string();
        steps(&sandbox, "", &format!("brief {here} {rounds}"));
        is_over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 3);
    });
    let report = usage(&sandbox);
    let counted = both(&sandbox, &report, "", "writes_calls");
    assert_eq!(counted.0, counted.1);
    are_told(rounds * 2, counted.0, &report);
    std::thread::sleep(GRACE);
    settle(&sandbox, 1);
    let report = usage(&sandbox);
    assert_eq!(both(&sandbox, &report, "", "writes_calls"), counted);
}

#[test]
fn what_is_charged_after_a_cgroup_is_gone_is_its_parents() {
    let sandbox = Sandbox::new("meter");
    // A job of a cgroup that is gone when it ends.
    enable(&sandbox, JOBS);
    steps(&sandbox, "a/x", "begin 1 begin 2 begin 3 end 1");
    sandbox.remove("a/x");
    steps(&sandbox, "b", "end 2");
    let done = |cgroup| both(&sandbox, &usage(&sandbox), cgroup, "jobs_done");
    assert_eq!(done("a"), (2, 2));
    std::thread::sleep(GRACE);
    sandbox.cgroup("later");
    sandbox.remove("later");
    assert_eq!(done("a"), (2, 2));
    // By now nothing of it is left, and still it is known whose it was.
    steps(&sandbox, "b", "end 3");
    assert_eq!(done("a"), (3, 3));
    assert_eq!(done("b"), (0, 0));
    sandbox.remove("a");
    assert_eq!(done(""), (3, 3));
}

#[test]
fn ten_thousand_cgroups_have_room() {
    let sandbox = Sandbox::new("meter");
    let count: usize = match std::env::var_os("CGTAP_TEST_FULL") {
        Some(_) => 10_000,
        None => 600,
    };
    enable(&sandbox, &WRITES.replace("room = 4096", "room = 16384"));
    let mut words = String::new();
    for number in 0..count {
        words += &format!("@g{}/c{number} write 10 1 ", number % 10);
    }
    steps(&sandbox, "first", &words);
    let report = usage(&sandbox);
    for (cgroup, events) in [("", count), ("g7", count / 10)] {
        let (own, all) = both(&sandbox, &report, cgroup, "writes_calls");
        assert_eq!(own, 0);
        are_told(events, all, &report);
    }
}
