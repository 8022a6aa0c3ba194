//! What meters count: each form of value, held to what the workload did.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod meter_support;
mod support;

use cgtap::engine::{CgroupRef, ErrorKind, Lifetime};
use meter_support::{JOBS, Moment, WRITES, between, both, enable, meter, of, steps, usage};
use support::Sandbox;

#[test]
fn sums_counts_and_histograms_are_the_workloads_own() {
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, WRITES);
    steps(&sandbox, "a", "write 10 100 write 5000 7");
    steps(&sandbox, "a/x", "write 300 3");
    steps(&sandbox, "b", "write 1 1");
    let report = usage(&sandbox);
    assert_eq!(report.lost, 0);
    let values = |cgroup: &str| {
        ["writes_bytes", "writes_calls"].map(|value| both(&sandbox, &report, cgroup, value))
    };
    assert_eq!(values("a"), [(36_000, 36_900), (107, 110)]);
    assert_eq!(values("a/x"), [(900, 900), (3, 3)]);
    assert_eq!(values("b"), [(1, 1), (1, 1)]);
    assert_eq!(values(""), [(0, 36_901), (0, 111)]);
    // The sum over the tree is what all used.
    assert_eq!(of(&report, "/", "writes_bytes").total, 36_901);

    let path = sandbox.path("a");
    let row = report.cgroups.iter().find(|r| r.cgroup == path).unwrap();
    let mut sizes: Vec<_> = row
        .meters
        .iter()
        .filter(|m| *m.meter == *"writes_sizes")
        .map(|m| (m.labels["size"].as_str(), m.histogram.clone().unwrap()))
        .collect();
    sizes.sort_by_key(|(size, _)| *size);
    assert_eq!(sizes[0].0, "large");
    assert_eq!(sizes[0].1.own_buckets[12], 7, "{sizes:?}");
    assert_eq!(sizes[1].0, "small");
    assert_eq!(sizes[1].1.own_buckets[3], 100);
    // 300 is from 256 up, and of the cgroup below.
    assert_eq!(sizes[1].1.own_buckets.len(), 4);
    assert_eq!(sizes[1].1.total_buckets[8], 3);
}

#[test]
fn a_meter_below_the_root_counts_nobody_else() {
    let sandbox = Sandbox::new("meter");
    let a = sandbox.cgroup("a");
    sandbox
        .engine
        .enable_meter(&meter(WRITES), &a, Lifetime::Pinned)
        .unwrap();
    steps(&sandbox, "a/x", "write 10 5");
    steps(&sandbox, "b", "write 10 70");
    let report = usage(&sandbox);
    assert_eq!(both(&sandbox, &report, "a", "writes_calls"), (0, 5));
    assert_eq!(both(&sandbox, &report, "", "writes_calls"), (0, 5));
    assert_eq!(both(&sandbox, &report, "b", "writes_calls"), (0, 0));
}

#[test]
fn a_serial_resource_is_charged_to_whose_job_it_works_on() {
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, JOBS);
    // The second job waits behind the first; then nothing is done; then a third one.
    let at = steps(
        &sandbox,
        "a",
        "begin 1 @b begin 2 sleep 40 @c end 1 sleep 30 end 2 sleep 50 @a begin 3 sleep 20 @c end 3",
    );
    let [a1, b2, a1_end, b2_end, a3, a3_end] = at[..] else {
        panic!("{at:?}")
    };
    let report = usage(&sandbox);
    let value = |cgroup: &str, value: &str| both(&sandbox, &report, cgroup, value).0;
    assert_eq!(value("a", "jobs_done"), 2);
    assert_eq!(value("b", "jobs_done"), 1);
    assert_eq!(value("c", "jobs_done"), 0);
    let sum = |a: Moment, b: Moment| (a.0 + b.0, a.1 + b.1);
    let is_within = |found: u64, truth: Moment| truth.0 <= found && found <= truth.1;
    for (cgroup, name, truth) in [
        (
            "a",
            "jobs_busy",
            sum(between(a1, a1_end), between(a3, a3_end)),
        ),
        ("b", "jobs_busy", between(a1_end, b2_end)),
        ("b", "jobs_elapsed", between(b2, b2_end)),
    ] {
        let found = value(cgroup, name);
        assert!(
            is_within(found, truth),
            "{cgroup} {name}: {found}, not {truth:?}"
        );
    }
    // Time in which nothing was done is nobody's.
    let whole = of(&report, "/", "jobs_busy").total;
    let truth = sum(between(a1, b2_end), between(a3, a3_end));
    assert!(is_within(whole, truth), "{whole}, not {truth:?}");
}

/// Memory that is taken and given back, by whomever.
const MEMORY: &str = r#"
name = "held"
help = "Memory"
values.bytes = { help = "Bytes held", unit = "bytes" }
[[notes]]
name = "taken"
hook = "tracepoint:syscalls/sys_enter_lseek"
if = 'fd == 0xffffffff && whence >= 100'
key = "offset"
keep.size = "whence - 100"
[[probes]]
hook = "tracepoint:syscalls/sys_enter_lseek"
if = 'fd == 0xffffffff && whence >= 100'
do.bytes = "add(whence - 100)"
[[probes]]
hook = "tracepoint:syscalls/sys_enter_lseek"
if = 'fd == 0xffffffff && whence == 2'
since = "taken"
key = "offset"
do.bytes = "sub(size)"
"#;

#[test]
fn what_is_held_is_given_back_by_whoever_took_it() {
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, MEMORY);
    steps(
        &sandbox,
        "a",
        "take 1 1000 take 2 500 give 1 take 3 100 @b give 2 take 4 70",
    );
    let report = usage(&sandbox);
    assert_eq!(both(&sandbox, &report, "a", "held_bytes"), (100, 100));
    assert_eq!(both(&sandbox, &report, "b", "held_bytes"), (70, 70));
    let a = of(&report, &sandbox.path("a"), "held_bytes");
    assert_eq!(a.peak, Some(1500));
    assert_eq!(of(&report, "/", "held_bytes").total, 170);
    // What was never taken is given back by nobody.
    steps(&sandbox, "b", "give 77");
    let report = usage(&sandbox);
    assert_eq!(report.unpaired, 1);
    assert_eq!(of(&report, "/", "held_bytes").total, 170);
}

/// By how much a number is above that of the event before of the same task.
const MARKS: &str = r#"
name = "marks"
help = "Marks"
values.grown = { help = "By how much they grew" }
[[probes]]
hook = "tracepoint:syscalls/sys_enter_getpriority"
key = "current->pid"
carry.before = "who"
carry.doubled = "who * 2"
if = 'before != 0 && doubled == before + before'
do.grown = "sum(who - before)"
"#;

#[test]
fn an_event_has_the_numbers_that_the_one_before_with_its_key_left() {
    let words = "mark 5 mark 9 @b mark 20 @a mark 26";
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, MARKS);
    steps(&sandbox, "a", words);
    let grown = |cgroup: &str| both(&sandbox, &usage(&sandbox), cgroup, "marks_grown");
    assert_eq!((grown("a"), grown("b")), ((10, 10), (11, 11)));
    drop(sandbox);

    // What happens elsewhere it does not see.
    let sandbox = Sandbox::new("meter");
    let a = sandbox.cgroup("a");
    sandbox
        .engine
        .enable_meter(&meter(MARKS), &a, Lifetime::Pinned)
        .unwrap();
    steps(&sandbox, "a", words);
    let report = usage(&sandbox);
    assert_eq!(both(&sandbox, &report, "a", "marks_grown"), (21, 21));
    assert_eq!(of(&report, "/", "marks_grown").total, 21);
}

#[test]
fn labels_that_are_too_many_go_to_other_and_nothing_is_lost() {
    let sandbox = Sandbox::new("meter");
    enable(
        &sandbox,
        &WRITES.replace(r#"'count < 1000 ? "small" : "large"'"#, r#""count""#),
    );
    let sizes: String = (1..=200).map(|n| format!("write {n} 2 ")).collect();
    steps(&sandbox, "a", &sizes);
    let report = usage(&sandbox);
    assert_eq!(both(&sandbox, &report, "a", "writes_calls"), (400, 400));
    let path = sandbox.path("a");
    let row = report.cgroups.iter().find(|r| r.cgroup == path).unwrap();
    let calls: Vec<_> = row
        .meters
        .iter()
        .filter(|m| *m.meter == *"writes_calls")
        .collect();
    // Sixty-three that were first, and the rest.
    assert_eq!(calls.len(), 64);
    let other = calls.iter().find(|m| m.labels["size"] == "other").unwrap();
    assert_eq!(other.own, 2 * (200 - 63));
    assert!(report.other_labels > 0);
    assert_eq!(report.lost, 0);
}

#[test]
fn what_finds_no_room_is_counted_as_lost() {
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, &WRITES.replace("room = 4096", "room = 3"));
    for cgroup in ["a", "b", "c", "d", "e"] {
        steps(&sandbox, cgroup, "write 10 4");
    }
    let report = usage(&sandbox);
    assert_eq!(both(&sandbox, &report, "", "writes_calls").1, 12);
    assert_eq!(report.lost, 8);
}

#[test]
fn the_first_way_that_this_kernel_has_is_taken() {
    let sandbox = Sandbox::new("meter");
    let text = WRITES.replace(
        "[[probes]]\nhook = \"tracepoint:syscalls/sys_enter_write\"",
        "[[probes]]\nhook = \"tracepoint:syscalls/sys_enter_no_such_call\"",
    ) + "[[probes.else]]\nhook = \"tp_btf:no_such_either\"\n[[probes.else]]\nhook = \
         \"tracepoint:syscalls/sys_enter_write\"\n";
    enable(&sandbox, &text);
    steps(&sandbox, "a", "write 10 4");
    assert_eq!(
        both(&sandbox, &usage(&sandbox), "a", "writes_calls"),
        (4, 4)
    );

    let none = text.replace("sys_enter_write\"\n", "sys_enter_nor_this\"\n");
    let error = sandbox.engine.check_meter(&meter(&none)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Hook);
    for word in ["3 ways", "no_such_call", "no_such_either", "nor_this"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// Where a newer kernel sees it all at one hook, nothing counts at those of older ones beside it.
#[test]
fn a_probe_that_another_hook_makes_needless_is_left_out() {
    let older = |hook: &str| {
        let probe = WRITES.split_once("[[probes]]").unwrap().1;
        format!("{WRITES}[[probes]]{probe}unless = \"{hook}\"\n")
    };
    for (hook, times) in [("tp_btf:sys_enter", 4), ("tp_btf:no_such_hook", 8)] {
        let sandbox = Sandbox::new("meter");
        enable(&sandbox, &older(hook));
        steps(&sandbox, "a", "write 10 4");
        let counted = both(&sandbox, &usage(&sandbox), "a", "writes_calls");
        assert_eq!(counted, (times, times), "{hook}");
    }
}

#[test]
fn two_meters_of_one_name_are_refused() {
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, WRITES);
    let top = CgroupRef::Path(sandbox.dir(""));
    let again = sandbox
        .engine
        .enable_meter(&meter(WRITES), &top, Lifetime::Pinned);
    let error = again.unwrap_err();
    assert_eq!(error.errno(), Some(cgtap_sys::Errno::EEXIST), "{error}");
    // What counts goes on; disabled it is gone, and can be enabled anew.
    steps(&sandbox, "a", "write 10 4");
    assert_eq!(
        both(&sandbox, &usage(&sandbox), "a", "writes_calls"),
        (4, 4)
    );
    sandbox.engine.disable_meter("writes").unwrap();
    assert!(sandbox.engine.meters().unwrap().is_empty());
    assert!(sandbox.engine.disable_meter("writes").is_err());
    enable(&sandbox, WRITES);
    assert_eq!(
        both(&sandbox, &usage(&sandbox), "a", "writes_calls"),
        (0, 0)
    );
}

#[test]
fn several_meters_count_side_by_side() {
    let sandbox = Sandbox::new("meter");
    enable(&sandbox, WRITES);
    enable(&sandbox, JOBS);
    enable(&sandbox, MEMORY);
    steps(&sandbox, "a", "write 10 4 begin 1 end 1 take 1 50");
    let report = usage(&sandbox);
    for (value, own) in [("writes_calls", 4), ("jobs_done", 1), ("held_bytes", 50)] {
        assert_eq!(both(&sandbox, &report, "a", value).0, own, "{value}");
    }
}

#[test]
fn all_of_it_without_casts() {
    support::again_without("rdonly_cast", "all_of_it_without_casts");
}
