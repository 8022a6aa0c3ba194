//! As many security hooks as the kernel has, at once: lsm_cgroup programs stand at ten.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/kinds.rs"]
mod kinds;
#[path = "support/rules.rs"]
mod rules;

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use cgtap::engine::{AttachRequest, Detach, ErrorKind, ObjectSource};
use cgtap_sys::libbpf::{Btf, BtfKind};
use kinds::is_there;
use rules::{act_as, choose, ok};
use support::event::Event;
use support::{Sandbox, compile_for};

/// Hooks that kernels from 6.12 on keep programs away from, because their returns are no errnos
/// (kernel/bpf/bpf_lsm.c, `bpf_lsm_disabled_hooks`).
const DISABLED: [&str; 10] = [
    "vm_enough_memory",
    "inode_need_killpriv",
    "inode_getsecurity",
    "inode_listsecurity",
    "inode_copy_up_xattr",
    "getselfattr",
    "getprocattr",
    "setprocattr",
    "key_getsecurity",
    "audit_rule_match",
];
const DISABLED_TOO: [&str; 1] = ["ismaclabel"];

/// The security hooks of this kernel.
fn hooks() -> Vec<String> {
    let btf = Btf::vmlinux().unwrap();
    let mut names: Vec<String> = (1..btf.type_count())
        .filter(|id| btf.kind(*id) == Some(BtfKind::Func))
        .filter_map(|id| Some(btf.type_name(id)?.strip_prefix("bpf_lsm_")?.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn every_security_hook_is_served_at_once() {
    if !is_there("lsm") {
        return;
    }
    let sandbox = Sandbox::new("lsm-all");
    let source = ObjectSource::File {
        path: compile_for(&Event::of("lsm"), "count", "count", &[]),
        set: Vec::new(),
    };
    let request = |source: ObjectSource, names: &[String]| {
        let mut request = AttachRequest::new(sandbox.cgroup("t"), source);
        let at: Vec<String> = names.iter().map(|n| format!("count@lsm:{n}")).collect();
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        request.programs = choose(&at);
        request
    };
    let is_disabled =
        |name: &String| DISABLED.contains(&&**name) || DISABLED_TOO.contains(&&**name);
    let (doubtful, names): (Vec<String>, Vec<String>) = hooks().into_iter().partition(is_disabled);

    let start = Instant::now();
    let report = ok(sandbox.engine.attach(request(source, &names)));
    let attached_s = start.elapsed().as_secs_f64();
    let mut served = names.len();
    let instance = ObjectSource::Instance(report.instance);
    for name in &doubtful {
        let asked = request(instance.clone(), std::slice::from_ref(name));
        match sandbox.engine.attach(asked) {
            Ok(_) => served += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Verifier, "{error}");
                assert!(error.to_string().contains("disabled hook"), "{error}");
            }
        }
    }
    assert!(served > 200, "{served}");

    // Each event is counted where it is, and nowhere else.
    for (cgroup, count) in [("t", "30"), ("beside", "500"), ("t/child", "12")] {
        act_as(
            "lsm",
            &["hop", &sandbox.procs(cgroup).display().to_string(), count],
        );
    }
    let runs: BTreeMap<String, u64> = sandbox
        .own("t")
        .iter()
        .map(|list| (list.hook.to_string(), list.attachments[0].run_count))
        .collect();
    assert_eq!(runs.len(), served);
    assert_eq!(runs["lsm:task_getsid"], 42);
    assert_eq!(runs["lsm:task_getpgid"], 0);
    // A process ends, in either cgroup.
    assert!(
        runs["lsm:task_free"] + runs["lsm:cred_free"] > 0,
        "{runs:?}"
    );

    let start = Instant::now();
    ok(sandbox.engine.detach(&Detach::All));
    println!(
        "{served} security hooks: {} attached in {attached_s:.1} s, all detached in {:.1} s",
        names.len(),
        start.elapsed().as_secs_f64()
    );
}
