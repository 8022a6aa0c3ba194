//! S30 on a real kernel: how return values combine, seen by a perf event of the same tracepoint,
//! and what writers of a writable tracepoint see of each other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use cgtap::attach::Place;
use rules::{Lab, act, ok, word};

const GETPPID: &str = "tracepoint:syscalls/sys_enter_getppid";
const EVENTS: u64 = 1000;

/// What a process in a cgroup counts and samples of its own events at the tracepoint.
fn perf(lab: &Lab, cgroup: &str) -> [u64; 2] {
    let id = std::fs::read_to_string("/sys/kernel/tracing/events/syscalls/sys_enter_getppid/id");
    let id = id.expect("these tests need tracefs at /sys/kernel/tracing");
    let procs = lab.procs(cgroup).display().to_string();
    let told = act(&["perf", &procs, id.trim(), &EVENTS.to_string()]);
    let (counted, sampled) = told.split_once(' ').unwrap();
    [counted, sampled].map(|n| n.parse().unwrap())
}

/// All events are there, but for those that the kernel says it missed: where it is inside another one's map on
/// that CPU it filters the record, whoever attached what (kernel/trace/bpf_trace.c, `trace_call_bpf`).
fn all(lab: &Lab, seen: u64) {
    lab.assert_counted(GETPPID, seen, EVENTS);
}

/// S30: 0 filters the record, for whoever counts or samples; 1 changes nothing.
#[test]
fn s30_zero_filters_the_perf_record_and_one_does_not() {
    let lab = Lab::with("s30", "verdicts");
    let counts = lab.map(lab.instance, "counts");
    assert_eq!(perf(&lab, "t"), [EVENTS; 2]);
    let pass = lab.put("t", "pass");
    let seen = perf(&lab, "t");
    all(&lab, seen[0]);
    all(&lab, seen[1]);
    all(&lab, word(&counts, 10));
    lab.detach(pass).unwrap();

    let filter = lab.put("t", "filter");
    assert_eq!(perf(&lab, "t"), [0, 0]);
    all(&lab, word(&counts, 12));
    lab.detach(filter).unwrap();
    assert_eq!(perf(&lab, "t"), [EVENTS; 2]);
}

/// S30: an event with nothing effective changes nothing for other users of the tracepoint.
#[test]
fn s30_nothing_effective_changes_nothing_for_others() {
    let lab = Lab::with("s30-others", "verdicts");
    lab.put("t/inner", "filter");
    for cgroup in ["t", "beside", ""] {
        let seen = perf(&lab, cgroup);
        all(&lab, seen[0]);
        all(&lab, seen[1]);
    }
    // Inherited, it filters below too.
    assert_eq!(perf(&lab, "t/inner"), [0, 0]);
    assert_eq!(perf(&lab, "t/inner/leaf"), [0, 0]);
}

/// S30: verdicts are ANDed, in whatever order and from whichever level they come, and every
/// program runs, also behind one that filters.
#[test]
fn s30_verdicts_are_anded_and_all_programs_run() {
    for (n, (above, below)) in [
        (&["pass"][..], &["pass_too"][..]),
        (&["filter"], &["pass"]),
        (&["pass"], &["filter"]),
        (&["filter"], &["filter_too"]),
        (&["pass", "filter", "pass_too"], &[]),
        (&[], &["filter", "pass", "pass_too"]),
        (&["pass", "pass_large"], &["pass_too"]),
    ]
    .into_iter()
    .enumerate()
    {
        let lab = Lab::with(&format!("s30-and{n}"), "verdicts");
        for (cgroup, programs) in [("t", above), ("t/child", below)] {
            if !programs.is_empty() {
                ok(lab.engine.attach(lab.ask(cgroup, programs)));
            }
        }
        let filters = above.iter().chain(below).any(|p| p.starts_with("filter"));
        let seen = perf(&lab, "t/child");
        if filters {
            assert_eq!(seen, [0, 0], "{above:?} {below:?}");
        } else {
            all(&lab, seen[0]);
            all(&lab, seen[1]);
        }
        let counts = lab.map(lab.instance, "counts");
        let place = |name: &&str| match *name {
            "pass" => 10,
            "pass_too" => 11,
            "filter" => 12,
            "filter_too" => 13,
            _ => 15,
        };
        for name in above.iter().chain(below) {
            all(&lab, word(&counts, place(name)));
        }
    }
}

/// S30: the AND is the kernel's, bit by bit and from 1 on: an even value filters like 0.
#[test]
fn s30_an_even_verdict_filters_as_in_the_kernel() {
    let lab = Lab::with("s30-even", "verdicts");
    let two = lab.put("t", "pass_two");
    assert_eq!(perf(&lab, "t"), [0, 0]);
    lab.put("t", "pass");
    assert_eq!(perf(&lab, "t"), [0, 0]);
    lab.detach(two).unwrap();
    let seen = perf(&lab, "t");
    all(&lab, seen[0]);
}

/// S30: at a writable tracepoint each program sees what the earlier ones wrote, and the kernel
/// what the last one wrote. (bpf_test_finish is the only one on a kernel without modules.)
#[test]
fn s30_each_writer_sees_what_the_earlier_wrote() {
    let lab = Lab::with("s30-write", "writers");
    let finish = |cgroup: &str| {
        let procs = lab.procs(cgroup).display().to_string();
        act(&["finish", &procs, "1"])
    };
    assert_eq!(finish("t"), "0");
    lab.put("t", "set");
    assert_eq!(finish("t"), "100");
    assert_eq!(lab.logged(), [0]);
    let more = lab.put("t", "more");
    assert_eq!(finish("t"), "101");
    assert_eq!(lab.logged(), [0, 100]);
    lab.put("t", "doubled");
    assert_eq!(finish("t"), "202");
    assert_eq!(lab.logged(), [0, 100, 101]);

    // Another order writes another result.
    lab.detach(more).unwrap();
    lab.put_as("t", "more", |r| r.place = Place::After(None));
    assert_eq!(finish("t"), "201");
    assert_eq!(lab.logged(), [0, 100, 200]);
    // Over levels too, and only in this cgroup.
    lab.put("t/child", "same");
    assert_eq!(finish("t/child"), "201");
    assert_eq!(lab.logged(), [0, 0, 100, 200]);
    assert_eq!(finish("beside"), "0");
    assert!(lab.logged().is_empty());
    assert_eq!(
        lab.own("t")[0].hook.to_string(),
        "raw_tracepoint.w:bpf_test_finish"
    );
}

/// The same where the kernel attaches no writable program that jumps to others, which is pretended on
/// those that do: each set is attached by itself, and takes turns.
#[test]
fn s30_each_writer_sees_what_the_earlier_wrote_where_sets_take_turns() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "s30_each_writer_sees_what_the_earlier_wrote"])
        .env("CGTAP_PRETEND_MISSING", "writable_jumps")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}
