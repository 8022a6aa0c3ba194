//! Counting: exact, in the cgroup and below, for each cgroup, and gone afterwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use cgtap::engine::{ListRequest, StatReport, StatRequest};
use support::Sandbox;

const GETPPID: &str = "tracepoint:syscalls/sys_enter_getppid";

fn request(sandbox: &Sandbox, cgroups: &[&str], per_cgroup: bool) -> StatRequest {
    StatRequest {
        cgroups: cgroups.iter().map(|c| sandbox.cgroup(c)).collect(),
        events: vec![GETPPID.parse().unwrap()],
        per_cgroup,
        depth: None,
    }
}

fn rows(sandbox: &Sandbox, report: &StatReport) -> Vec<(String, u64, Option<u64>)> {
    let top = sandbox.path("");
    let name = |path: &str| path.strip_prefix(&top).unwrap_or(path).to_owned();
    report
        .cgroups
        .iter()
        .map(|r| (name(&r.cgroup), r.events[0].count, r.events[0].own))
        .collect()
}

#[test]
fn counts_include_descendants_and_nobody_else() {
    let sandbox = Sandbox::new("stat");
    sandbox.cgroup("a/x");
    let stat = sandbox
        .engine
        .stat(request(&sandbox, &["a", "b"], false))
        .unwrap();
    sandbox.getppid("a", 100);
    sandbox.getppid("a/x", 10);
    sandbox.getppid("b", 1);
    sandbox.getppid("", 1000);
    let report = stat.finish().unwrap();
    assert_eq!(
        rows(&sandbox, &report),
        [("/a".into(), 110, None), ("/b".into(), 1, None)]
    );
    assert_eq!(report.lost, 0);
    // The counters are gone.
    assert!(
        sandbox
            .engine
            .list(&ListRequest::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn per_cgroup_adds_up_from_own_to_total() {
    let sandbox = Sandbox::new("statper");
    for cgroup in ["a/x/deep", "a/y"] {
        sandbox.cgroup(cgroup);
    }
    let stat = sandbox
        .engine
        .stat(request(&sandbox, &["a"], true))
        .unwrap();
    sandbox.getppid("a", 1);
    sandbox.getppid("a/x", 10);
    sandbox.getppid("a/x/deep", 100);
    sandbox.getppid("a/y", 1000);
    sandbox.getppid("a/gone", 10_000);
    sandbox.remove("a/gone");
    let report = stat.finish().unwrap();
    let found = rows(&sandbox, &report);
    assert_eq!(
        found[..4],
        [
            ("/a".into(), 11_111, Some(1)),
            ("/a/x".into(), 110, Some(10)),
            ("/a/x/deep".into(), 100, Some(100)),
            ("/a/y".into(), 1000, Some(1000)),
        ]
    );
    assert!(
        found[4].0.starts_with("id:") && found[4].1 == 10_000,
        "{found:?}"
    );
}

#[test]
fn what_is_read_on_the_way_only_grows() {
    let sandbox = Sandbox::new("statread");
    sandbox.cgroup("a");
    // A kernel may keep switches from the programs (docs/kernel-facts.md): not each time.
    let lost: Vec<u64> = (0..10)
        .map(|_| counted_on_the_way(&sandbox))
        .take_while(|lost| *lost > 0)
        .collect();
    assert!(lost.len() < 10, "something was lost each time: {lost:?}");
}

/// How much was lost of what was counted.
fn counted_on_the_way(sandbox: &Sandbox) -> u64 {
    let mut wanted = request(sandbox, &["a"], false);
    wanted.events = ["task-clock", GETPPID, "context-switches"]
        .map(|event| event.parse().unwrap())
        .into();
    let stat = sandbox.engine.stat(wanted).unwrap();
    let mut last = vec![0; 3];
    let mut check = |report: &StatReport| {
        let counts: Vec<u64> = report.cgroups[0].events.iter().map(|e| e.count).collect();
        // A switch that was not seen may be missing, and time.
        let grows = |(now, last)| now > last || (now == last && report.lost > 0);
        assert!(counts.iter().zip(&last).all(grows), "{report:?}");
        last = counts;
    };
    for _ in 0..3 {
        sandbox.getppid("a", 1000);
        check(&stat.read().unwrap());
    }
    sandbox.getppid("a", 1000);
    let report = stat.finish().unwrap();
    check(&report);
    assert_eq!(report.cgroups[0].events[1].count, 4000);
    report.lost
}
