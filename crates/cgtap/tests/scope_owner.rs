//! Events that belong to the cgroup that was noted at an earlier hook.
//!
//! A signal notes its sender under the pid of a puppet, or under a value that is sent along; when
//! the puppet renames itself it is the sender's event. (Others are renamed when they begin a program,
//! so that what belongs to nobody is counted from below only.)
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod scope_support;
mod support;

use cgtap::attach::Mode;
use cgtap::engine::ListReport;
use cgtap_sys::bpf::get_map;
use scope_support::{Acting, act, begin, counter, lists, refusal, request};
use support::{Sandbox, again_without, ids};

const RENAME: &str = "tp_btf:task_rename";
const RAW_RENAME: &str = "raw_tracepoint:task_rename";
const BY_PID: &str = "owner(task->pid) noted at tp_btf:signal_generate by task->pid";
const BY_VALUE: &str = "owner(task->pid) noted at tp_btf:signal_generate by \
                        info->_sifields._rt._sigval.sival_int";

fn signal(sandbox: &Sandbox, from: &str, to: &Acting) {
    act(sandbox, from, "signal", &[&to.pid(), "1"]);
}

/// The first list at a hook: what was lost is the hook's, not the list's.
fn first(sandbox: &Sandbox, hook: &str) -> ListReport {
    lists(sandbox, hook).remove(0)
}

#[test]
fn an_event_belongs_to_who_was_noted_last() {
    for (hook, scope) in [
        (RENAME, BY_PID.to_owned()),
        (RAW_RENAME, BY_PID.to_owned()),
        (RENAME, BY_PID.replace("tp_btf", "raw_tracepoint")),
        // An argument itself as key, of 4 bytes; and two keys.
        (
            RENAME,
            BY_PID
                .replace("(task->pid)", "(task->pid, task->tgid)")
                .replace("by task->pid", "by task->pid, task->tgid"),
        ),
        // Whose cgroup is noted may be said too.
        (RENAME, format!("{BY_PID} of task->group_leader")),
    ] {
        let sandbox = Sandbox::new("owner");
        let [a, b, own] = ["a", "b", "puppet"].map(|c| counter(&sandbox, c, hook, &scope));
        let mut puppet = begin(&sandbox, "puppet", "puppet", &["0"]);
        puppet.rename();
        assert!(first(&sandbox, hook).unowned >= 1, "nobody was noted yet");
        signal(&sandbox, "a", &puppet);
        (0..3).for_each(|_| puppet.rename());
        signal(&sandbox, "b/below", &puppet);
        (0..4).for_each(|_| puppet.rename());
        let counts = [a, b, own].map(|id| sandbox.runs(id));
        let want = if scope.contains(" of ") {
            [0, 0, 7]
        } else {
            [3, 4, 0]
        };
        assert_eq!(counts, want, "{hook} {scope}");
        let list = first(&sandbox, hook);
        assert_eq!((list.lost, list.notes_lost), (0, 0));
        puppet.finish();
    }
}

#[test]
fn a_note_outlives_its_cgroup() {
    let sandbox = Sandbox::new("gone");
    let top = counter(&sandbox, "t", RENAME, BY_PID);
    let gone = counter(&sandbox, "t/gone", RENAME, BY_PID);
    let mut puppet = begin(&sandbox, "puppet", "puppet", &["0"]);
    signal(&sandbox, "t/gone/below", &puppet);
    puppet.rename();
    assert_eq!((sandbox.runs(top), sandbox.runs(gone)), (1, 1));
    sandbox.remove("t/gone/below");
    sandbox.remove("t/gone");
    // The cgroup is gone, and its attachments with it; those above it still have the event.
    puppet.rename();
    assert_eq!(sandbox.runs(top), 2);
    // A new one of that name is another cgroup.
    let again = counter(&sandbox, "t/gone", RENAME, BY_PID);
    puppet.rename();
    assert_eq!((sandbox.runs(top), sandbox.runs(again)), (3, 0));
    signal(&sandbox, "t/gone", &puppet);
    puppet.rename();
    assert_eq!((sandbox.runs(top), sandbox.runs(again)), (4, 1));
}

#[test]
fn what_is_attached_after_the_note_counts_too() {
    let sandbox = Sandbox::new("after");
    let top = counter(&sandbox, "t", RENAME, BY_PID);
    let mut puppet = begin(&sandbox, "puppet", "puppet", &["0"]);
    signal(&sandbox, "t/a", &puppet);
    puppet.rename();
    let mut below = request(&sandbox, "t/a", RENAME, BY_PID);
    below.mode = Mode::Multi;
    let below = ids(&sandbox.engine.attach(below).unwrap())[0];
    puppet.rename();
    assert_eq!((sandbox.runs(top), sandbox.runs(below)), (2, 1));
    sandbox.detach(top).unwrap();
    puppet.rename();
    assert_eq!(sandbox.runs(below), 2);
}

/// This thread, and the processes that it makes, run on one CPU from now on.
fn stay_on_this_cpu() {
    let mut one = rustix::thread::CpuSet::new();
    one.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &one).unwrap();
}

#[test]
fn notes_are_bounded_and_what_was_pushed_out_belongs_to_nobody() {
    // Each CPU keeps the notes that it made last to itself, where another's do not push them out.
    stay_on_this_cpu();
    let sandbox = Sandbox::new("many");
    let a = counter(&sandbox, "a", RENAME, BY_VALUE);
    let mut puppet = begin(&sandbox, "puppet", "puppet", &["0"]);
    let pid = puppet.pid();
    act(&sandbox, "a", "queue", &[&pid, &pid, "1"]);
    // More others than there is room for. (A note that was looked up would stay longer.)
    act(&sandbox, "b", "queue", &[&pid, "10000000", "40000"]);
    let before = first(&sandbox, RENAME).unowned;
    puppet.rename();
    let list = first(&sandbox, RENAME);
    assert_eq!((sandbox.runs(a), list.notes_lost), (0, 0));
    assert!(list.unowned > before);
    act(&sandbox, "a", "queue", &[&pid, &pid, "1"]);
    puppet.rename();
    assert_eq!(sandbox.runs(a), 1);
    let notes = get_map(&sandbox.state.join("hooks/1/notes")).unwrap();
    let kept = notes.keys().unwrap().len();
    assert!((1..=16_384).contains(&kept), "{kept}");
}

#[test]
fn a_note_that_is_too_deep_is_counted_and_not_made() {
    let sandbox = Sandbox::new("deep");
    let a = counter(&sandbox, "a", RENAME, BY_PID);
    let mut puppet = begin(&sandbox, "puppet", "puppet", &["0"]);
    signal(&sandbox, "a", &puppet);
    puppet.rename();
    // The root, the sandbox's own, `a`, and so many that they are 16: the last that fits.
    let fits = format!("a{}", "/x".repeat(16 - 3 - depth_above(&sandbox)));
    signal(&sandbox, &fits, &puppet);
    puppet.rename();
    assert_eq!(sandbox.runs(a), 2);
    signal(&sandbox, &format!("{fits}/deeper"), &puppet);
    puppet.rename();
    let list = first(&sandbox, RENAME);
    // Its signal, and the one to its parent at its end.
    assert_eq!((sandbox.runs(a), list.notes_lost), (2, 2));
}

/// Cgroups between the root and the sandbox's own.
fn depth_above(sandbox: &Sandbox) -> usize {
    sandbox.path("").matches('/').count() - 1
}

#[test]
fn a_noter_goes_with_its_hook() {
    let sandbox = Sandbox::new("pins");
    let owner = counter(&sandbox, "a", RENAME, BY_PID);
    let plain = counter(&sandbox, "a", RENAME, "current");
    let exists = |name: &str| sandbox.state.join("hooks/1").join(name).exists();
    assert!(exists("noter") && exists("notes") && exists("link"));
    assert!(!sandbox.state.join("hooks/2/noter").exists());
    assert_eq!(sandbox.engine.state_problems(), [""; 0]);
    sandbox.detach(owner).unwrap();
    assert!(!exists("noter") && !exists("notes") && !exists("link"));
    // A lost noter is seen, and made anew.
    let owner = counter(&sandbox, "a", RENAME, BY_PID);
    std::fs::remove_file(sandbox.state.join("hooks/1/noter")).unwrap();
    let problems = sandbox.engine.state_problems();
    assert_eq!(problems, ["hooks/1/noter is missing"]);
    sandbox.engine.repair().unwrap();
    assert_eq!(sandbox.engine.state_problems(), [""; 0]);
    let mut puppet = begin(&sandbox, "puppet", "puppet", &["0"]);
    signal(&sandbox, "a", &puppet);
    puppet.rename();
    assert_eq!((sandbox.runs(owner), sandbox.runs(plain)), (1, 0));
}

#[test]
fn a_work_item_belongs_to_who_queued_it() {
    let sandbox = Sandbox::new("work");
    let queued = counter(&sandbox, "a", "tp_btf:workqueue_queue_work", "current");
    let executed = counter(
        &sandbox,
        "a",
        "tp_btf:workqueue_execute_start",
        "owner(work) noted at tp_btf:workqueue_queue_work by work",
    );
    let current = counter(&sandbox, "a", "tp_btf:workqueue_execute_start", "current");
    act(&sandbox, "a", "echo", &["200"]);
    let (queued, executed) = (sandbox.runs(queued), sandbox.runs(executed));
    assert_eq!(sandbox.runs(current), 0, "a worker runs it");
    assert!(
        executed >= 200,
        "{executed} of 200 bytes through a terminal"
    );
    // What was queued last may not have run yet.
    assert!(executed <= queued, "{executed} of {queued}");
}

#[test]
fn a_timer_belongs_to_who_started_it() {
    let sandbox = Sandbox::new("timer");
    let scope = "owner(hrtimer) noted at tp_btf:hrtimer_start by hrtimer";
    let a = counter(&sandbox, "a", "tp_btf:hrtimer_expire_entry", scope);
    let b = counter(&sandbox, "b", "tp_btf:hrtimer_expire_entry", scope);
    let started = counter(&sandbox, "a", "tp_btf:hrtimer_start", "current");
    act(&sandbox, "a", "sleep", &["300"]);
    let (expired, started) = (sandbox.runs(a), sandbox.runs(started));
    // The kernel drops an event where a program of its hook runs on that CPU already (timers are
    // started and expire in interrupts too), and says so: with those it is all.
    let at = first(&sandbox, "tp_btf:hrtimer_expire_entry");
    let missed = at.recursion_misses + at.notes_lost;
    assert!(
        expired + missed >= 300,
        "{expired} of 300 sleeps, {missed} missed, {started} started, {at:?}"
    );
    assert!(expired <= started, "{expired} of {started}");
    assert_eq!(sandbox.runs(b), 0);
}

#[test]
fn bad_keys_are_refused_with_what_is_there() {
    let sandbox = Sandbox::new("bad-keys");
    for (scope, want) in [
        (
            BY_PID.replace("by task->pid", "by task->comm"),
            "cannot scope tp_btf:signal_generate by task->comm: it ends in char[16]; a key ends in \
             an integer or a pointer",
        ),
        (
            BY_PID.replace("(task->pid)", "(task->se)"),
            "cannot scope tp_btf:task_rename by task->se: it ends in struct sched_entity; a key \
             ends in an integer or a pointer",
        ),
        (
            BY_PID.replace("(task->pid)", "(task->in_execve)"),
            "it ends in a bit field of unsigned int; a key ends in",
        ),
        (
            BY_PID.replace(
                "tp_btf:signal_generate",
                "tracepoint:signal/signal_generate",
            ),
            "cannot scope tracepoint:signal/signal_generate by task->pid: a classic tracepoint has \
             no typed arguments; use tp_btf:signal_generate or raw_tracepoint:signal_generate",
        ),
        (
            BY_PID.replace("tp_btf:signal_generate", "tp_btf:signal_generat"),
            "no tracepoint `signal_generat`; did you mean signal_generate",
        ),
        (
            format!("{BY_PID} of task->pid"),
            "cannot scope tp_btf:signal_generate by task->pid: it ends in pid_t; a scope ends in",
        ),
    ] {
        let error = refusal(&sandbox, RENAME, &scope).to_string();
        assert!(error.contains(want), "{scope}\n{error}\n{want}");
    }
    assert!(!sandbox.state.exists());
}

#[test]
fn what_is_scoped_by_a_note_works_without_casts() {
    again_without(
        "rdonly_cast,current_table",
        "what_is_scoped_by_a_note_works_without_casts",
    );
}
