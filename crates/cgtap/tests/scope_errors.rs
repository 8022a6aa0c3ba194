//! Scopes that cannot be had are refused in words, and nothing has changed then.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod scope_support;
mod support;

use cgtap::engine::{AttachRequest, ErrorKind, ProgramChoice};
use cgtap_sys::Errno;
use scope_support::{act, begin, counter, lists, refusal};
use support::Sandbox;

const ISSUE: &str = "raw_tracepoint:block_rq_issue";

#[test]
fn bad_paths_name_the_type_that_was_met_and_what_it_has() {
    let sandbox = Sandbox::new("paths");
    for (hook, scope, want) in [
        (
            ISSUE,
            "rq->boi",
            "cannot scope raw_tracepoint:block_rq_issue by rq->boi: struct request has no member \
             boi; did you mean bio?",
        ),
        (
            ISSUE,
            "rq->tag",
            "cannot scope raw_tracepoint:block_rq_issue by rq->tag: it ends in int; a scope ends \
             in a cgroup, task, bio, request or sock",
        ),
        (
            ISSUE,
            "rq->q",
            "it ends in struct request_queue *; a scope ends in",
        ),
        (ISSUE, "rq->tag->bio", "int has no members, so no bio"),
        (ISSUE, "rg", "it has no argument rg; there are rq"),
        (ISSUE, "zzz", "it has no argument zzz; there are rq"),
        (ISSUE, "arg1", "it has no argument arg1"),
        (
            "tp_btf:sys_enter",
            "id",
            "it ends in long int; a scope ends in",
        ),
        (
            "tp_btf:sys_enter",
            "regs->dii",
            "struct pt_regs has no member dii; did you mean di",
        ),
        ("tp_btf:sched_switch", "preempt", "it ends in bool; a scope"),
    ] {
        let error = refusal(&sandbox, hook, scope);
        assert!(error.to_string().contains(want), "{error}\n{want}");
        assert_eq!(
            (error.kind(), error.errno()),
            (ErrorKind::Hook, Some(Errno::EINVAL))
        );
    }
    assert!(!sandbox.state.exists(), "a refused attach leaves no state");
}

#[test]
fn hooks_without_typed_arguments_say_which_to_use() {
    let sandbox = Sandbox::new("kinds");
    for (hook, want) in [
        (
            "tracepoint:block/block_rq_issue",
            "a classic tracepoint has no typed arguments; use tp_btf:block_rq_issue or \
             raw_tracepoint:block_rq_issue",
        ),
        (
            "tracepoint:syscalls/sys_enter_getppid",
            "use tp_btf:sys_enter or raw_tracepoint:sys_enter",
        ),
        (
            "uprobe:libc.so.6:malloc",
            "no types for a program's arguments",
        ),
        ("perf_event:cpu-clock", "an overflow has no arguments"),
    ] {
        let error = refusal(&sandbox, hook, "next").to_string();
        assert!(error.contains(want), "{error}\n{want}");
    }
}

#[test]
fn one_program_that_cannot_have_the_scope_refuses_all() {
    let sandbox = Sandbox::new("all");
    let choice = |name: &str, hook: &str| ProgramChoice {
        name: name.to_owned(),
        hook: Some(hook.parse().unwrap()),
    };
    let request = AttachRequest {
        programs: vec![
            choice("at_raw", "raw_tp:signal_generate"),
            choice("at_tracepoint", "tracepoint:signal/signal_generate"),
        ],
        scope: "task".parse().unwrap(),
        ..sandbox.request("a", "scope")
    };
    let error = sandbox.engine.attach(request).unwrap_err().to_string();
    assert!(error.contains("a classic tracepoint"), "{error}");
    assert!(!sandbox.state.exists());
}

#[test]
fn a_null_on_the_way_is_nobodys_event_and_counted() {
    for hook in ["tp_btf:signal_generate", "raw_tracepoint:signal_generate"] {
        let sandbox = Sandbox::new("null");
        // Nobody waits for a lock that the receiver holds.
        let scope = "task->pi_top_task";
        let top = counter(&sandbox, "", hook, scope);
        let deeper = counter(&sandbox, "", hook, "task->pi_top_task->group_leader");
        let waiting = begin(&sandbox, "a", "wait", &["0"]);
        act(&sandbox, "a", "signal", &[&waiting.pid(), "25"]);
        assert_eq!((sandbox.runs(top), sandbox.runs(deeper)), (0, 0));
        for list in lists(&sandbox, hook) {
            // Others on this machine send signals too, if few.
            assert!((25..1000).contains(&list.unowned), "{list:?}");
            assert_eq!(list.lost, 0);
        }
    }
}
