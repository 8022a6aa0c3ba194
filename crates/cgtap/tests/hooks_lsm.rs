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

use cgtap::asm::{Insn, Reg, encode};
use cgtap::engine::{AttachRequest, Detach, ErrorKind, ObjectSource};
use cgtap_sys::bpf::{AttachType, Prog, ProgSpec, ProgType};
use cgtap_sys::libbpf::{Btf, BtfKind};
use kinds::is_there;
use rules::{act_as, choose, ok};
use support::event::Event;
use support::{Sandbox, compile_for};

/// The security hooks that programs may stand at, and those that the kernel keeps them away from
/// (since 6.12, where returns are no errnos): as it answers when it is asked for each alone.
fn hooks() -> (Vec<String>, Vec<String>) {
    let btf = Btf::vmlinux().unwrap();
    let (mut open, mut disabled) = (Vec::new(), Vec::new());
    for id in 1..btf.type_count() {
        let name = btf.type_name(id).and_then(|n| n.strip_prefix("bpf_lsm_"));
        let (Some(name), Some(BtfKind::Func)) = (name, btf.kind(id)) else {
            continue;
        };
        let insns = encode(&[Insn::mov_imm(Reg::R0, 0), Insn::exit()]);
        let asked = Prog::load(&ProgSpec {
            attach_type: AttachType::LsmMac,
            attach_btf_id: id,
            ..ProgSpec::generated("cgtap_test", ProgType::Lsm, &insns, &[])
        });
        match asked {
            Ok(_) => open.push(name.to_owned()),
            Err(e) if e.log.contains("disabled hook") => disabled.push(name.to_owned()),
            // A function of the kernel's own that is called like one.
            Err(e) => assert!(e.log.contains("wrong type name"), "{name}: {e} {}", e.log),
        }
    }
    (open, disabled)
}

/// What the test itself goes by.
const LOOKED_AT: [&str; 2] = ["task_getsid", "task_getpgid"];

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
    let (mut names, mut disabled) = hooks();
    assert!(names.len() > 200, "{names:?}");
    if std::env::var_os("CGTAP_TEST_LIGHT").is_some() {
        // Without KVM all of them take a quarter of an hour: these are still five times ten.
        let mut at = 0..;
        names.retain(|n| LOOKED_AT.contains(&n.as_str()) || at.next().is_some_and(|n| n % 5 == 0));
        disabled.truncate(2);
        assert!(names.len() > 40, "{names:?}");
    }

    let start = Instant::now();
    let report = ok(sandbox.engine.attach(request(source, &names)));
    let attached_s = start.elapsed().as_secs_f64();
    for name in &disabled {
        let instance = ObjectSource::Instance(report.instance);
        let asked = request(instance, std::slice::from_ref(name));
        let error = rules::unchanged(&sandbox, || sandbox.engine.attach(asked).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Verifier, "{error}");
        assert!(error.to_string().contains("disabled hook"), "{error}");
    }

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
    assert_eq!(runs.len(), names.len());
    assert_eq!(runs["lsm:task_getsid"], 42);
    assert_eq!(runs["lsm:task_getpgid"], 0);

    let start = Instant::now();
    ok(sandbox.engine.detach(&Detach::All));
    println!(
        "{} security hooks ({} are disabled): attached in {attached_s:.1} s, detached in {:.1} s",
        names.len(),
        disabled.len(),
        start.elapsed().as_secs_f64()
    );
}
