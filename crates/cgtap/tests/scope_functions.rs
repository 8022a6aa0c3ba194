//! Scopes at functions and security hooks: a signal, asked about once, belongs to whom it is sent.
//!
//! Kernels differ in which of these hooks they have; one that lacks a kind is named on standard
//! error. `xtask vm run` has kernels with all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod scope_support;
mod support;

use std::path::Path;
use std::sync::LazyLock;

use cgtap::kernel::feature::{Feature, FeatureState, probe_all};
use scope_support::{act, begin, counter, lists, refusal};
use support::{Sandbox, again_without};

/// Whether this kernel has hooks of a kind; said aloud if not, past the test's captured output.
fn has(kind: &str) -> bool {
    // To look at all of them takes a guest ten seconds.
    static FEATURES: LazyLock<Vec<Feature>> =
        LazyLock::new(|| probe_all(Path::new("/sys/fs/bpf/cgtap-test-scope"), None));
    let name = format!("hook {kind}");
    let found = FEATURES.iter().find(|f| f.name == name);
    let feature = found.unwrap_or_else(|| panic!("no feature {name}"));
    if feature.state == FeatureState::Yes {
        return true;
    }
    let why = &feature.why;
    support::told::not_run(&format!("scopes at {kind} hooks: {why}"));
    false
}

const HOOKS: [(&str, &str); 4] = [
    ("kprobe", "kprobe:security_task_kill"),
    ("fentry", "fentry:security_task_kill"),
    ("fexit", "fexit:security_task_kill"),
    ("lsm", "lsm:task_kill"),
];

#[test]
fn an_argument_of_a_function_scopes_it() {
    for (kind, hook) in HOOKS {
        if !has(kind) {
            continue;
        }
        // How paths are followed does not hang on the kind: the others are tried at one.
        let scopes = if kind == "kprobe" {
            &["p", "arg0", "p->group_leader"][..]
        } else {
            &["p"]
        };
        for scope in scopes {
            let sandbox = Sandbox::new("function");
            let from = counter(&sandbox, "from", hook, "current");
            let to = counter(&sandbox, "to", hook, scope);
            let not = counter(&sandbox, "from", hook, scope);
            let waiting = begin(&sandbox, "to", "wait", &["0"]);
            act(&sandbox, "from", "signal", &[&waiting.pid(), "50"]);
            let counts = [from, to, not].map(|id| sandbox.runs(id));
            assert_eq!(counts, [50, 50, 0], "{hook} {scope}");
            let lost: Vec<_> = lists(&sandbox, hook)
                .iter()
                .map(|l| (l.lost, l.recursion_misses))
                .collect();
            assert!(lost.iter().all(|l| *l == (0, 0)), "{hook} {scope} {lost:?}");
        }
    }
}

#[test]
fn notes_are_made_at_functions_too() {
    for (kind, hook) in HOOKS {
        if !has(kind) {
            continue;
        }
        let sandbox = Sandbox::new("noter");
        let scope = format!("owner(task->pid) noted at {hook} by p->pid");
        let a = counter(&sandbox, "a", "tp_btf:task_rename", &scope);
        let mut puppet = begin(&sandbox, "puppet", "puppet", &["0"]);
        act(&sandbox, "a/below", "signal", &[&puppet.pid(), "1"]);
        puppet.rename();
        assert_eq!(sandbox.runs(a), 1, "{hook}");
        // The same as the key of an argument: signals are numbers of 4 bytes.
        let scope = format!("owner(sig) noted at {hook} by sig");
        let b = counter(&sandbox, "b", "tp_btf:signal_generate", &scope);
        act(&sandbox, "b", "signal", &[&puppet.pid(), "9"]);
        assert_eq!(sandbox.runs(b), 9, "{hook}");
    }
}

#[test]
fn functions_whose_arguments_cannot_be_had_say_so() {
    let sandbox = Sandbox::new("function-errors");
    for (kind, hook, scope, want) in [
        (
            "kprobe",
            "kretprobe:security_task_kill",
            "p",
            "a return has no arguments any more; use fexit:security_task_kill",
        ),
        (
            "kprobe",
            "kprobe:security_task_kill+0x4",
            "p",
            "inside a function its arguments may be gone",
        ),
        (
            "fexit",
            "fexit:security_task_kill",
            "ret",
            "it ends in int; a scope ends",
        ),
        (
            "fentry",
            "fentry:security_task_kill",
            "ret",
            "it has no argument ret; there are p, info, sig, cred",
        ),
        (
            "lsm",
            "lsm:task_kill",
            "sig",
            "it ends in int; a scope ends",
        ),
        (
            "kprobe.multi",
            "kprobe.multi:security_task_k*",
            "p",
            "it stands at many functions",
        ),
    ] {
        if !has(kind) {
            continue;
        }
        let error = refusal(&sandbox, hook, scope).to_string();
        // Inside a function the kernel may first say that no instruction begins there.
        assert!(
            error.contains(want) || hook.contains('+'),
            "{error}\n{want}"
        );
    }
}

#[test]
fn functions_are_scoped_without_casts() {
    again_without(
        "rdonly_cast,current_table",
        "functions_are_scoped_without_casts",
    );
}
