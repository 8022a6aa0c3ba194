//! S31 on a real kernel: nobody gets more through cgtap than the kernel would give him alone.
//!
//! Each refusal has the errno and the reason that the kernel has for it, and leaves everything as
//! it was, whether the state is new or in use.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "support/rules.rs"]
mod rules;

mod support;

use cgtap::engine::{AttachRequest, ErrorKind};
use cgtap_sys::Errno;
use rules::{Lab, choose, choose_as_written, letters, ok, refused, source};
use support::Sandbox;

/// Attaches a program of `unsafe.bpf.c` and expects this errno and these words; in a state that
/// is not there yet, and in one where others run.
fn is_refused(name: &str, program: &str, errno: Errno, words: &[&str]) -> String {
    let fresh = Sandbox::new(&format!("{name}-new"));
    let used = Lab::new(name);
    used.put("t", "a");
    used.put("t", "x");
    let ask = |sandbox: &Sandbox| {
        let mut request: AttachRequest = sandbox.request("t", "unsafe");
        request.programs = choose_as_written(&[program]);
        request
    };
    let first = ask(&fresh);
    rules::unchanged(&fresh, || refused(fresh.engine.attach(first), errno));
    let request = ask(&used.sandbox);
    let said = used.unchanged(|| {
        let error = used.engine.attach(request).unwrap_err();
        assert_eq!(error.errno(), Some(errno), "{error}\n{}", error.log());
        assert_eq!(error.kind(), ErrorKind::Verifier, "{error}");
        format!("{error}\n{}", error.log())
    });
    let name = program.split('@').next().unwrap();
    assert!(said.contains(name), "{said}");
    for part in words {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(
        letters(&{
            used.getppid("t", 1);
            let mut all = used.logged();
            all.sort_unstable();
            all
        }),
        "ax"
    );
    said
}

/// S31: sys_enter has two arguments, and what lies behind them is the kernel's stack.
#[test]
fn s31_reading_past_the_arguments_of_a_raw_tracepoint_is_einval() {
    let words = ["past the last of the 2 arguments of raw tracepoint sys_enter"];
    is_refused("s31-raw", "raw_over", Errno::EINVAL, &words);
    is_refused("s31-third", "raw_third", Errno::EINVAL, &words);
}

/// S31: nor in a function of the program, nor where it would rarely be reached.
#[test]
fn s31_reading_past_the_arguments_anywhere_in_the_program_is_einval() {
    let words = ["past the last of the 2 arguments of raw tracepoint sys_enter"];
    is_refused("s31-deep", "raw_over_deep", Errno::EINVAL, &words);
    is_refused("s31-guarded", "raw_over_guarded", Errno::EINVAL, &words);
}

/// S31: each hook is asked anew: what is right at one is not at another.
#[test]
fn s31_a_program_is_held_to_the_hook_it_is_attached_to() {
    let words = ["past the last of the 2 arguments of raw tracepoint sys_enter"];
    let moved = "raw_of_switch@raw_tracepoint:sys_enter";
    is_refused("s31-hook", moved, Errno::EINVAL, &words);
    // Also when the same instance runs where it may.
    let lab = Lab::new("s31-moved");
    let mut request = lab.request("t", "unsafe");
    request.programs = choose_as_written(&["raw_of_switch"]);
    let report = ok(lab.engine.attach(request));
    let mut again = lab.ask("t", &[moved]);
    again.source = cgtap::engine::ObjectSource::Instance(report.instance);
    lab.unchanged(|| refused(lab.engine.attach(again), Errno::EINVAL));
}

/// S31: the record of a classic tracepoint ends where its format says.
#[test]
fn s31_reading_past_the_record_of_a_classic_tracepoint_is_eacces() {
    let words = ["past the record of tracepoint sys_enter_getppid"];
    is_refused("s31-classic", "classic_over", Errno::EACCES, &words);
    is_refused("s31-wide", "classic_wide", Errno::EACCES, &words);
    // The last field is its own.
    let lab = Lab::new("s31-last");
    let mut request = lab.request("t", "unsafe");
    request.programs = choose_as_written(&["classic_last"]);
    ok(lab.engine.attach(request));
}

/// S31: a classic record is for reading.
#[test]
fn s31_writing_the_record_of_a_classic_tracepoint_is_eacces() {
    let words = ["invalid bpf_context access"];
    is_refused("s31-write", "classic_write", Errno::EACCES, &words);
}

/// S31: bpf_test_finish lets four bytes be written, and has one argument.
#[test]
fn s31_writing_past_a_writable_tracepoint_is_einval() {
    let words = ["bpf_test_finish", "writes past"];
    is_refused("s31-w-size", "writable_over", Errno::EINVAL, &words);
    is_refused("s31-w-behind", "writable_behind", Errno::EINVAL, &words);
    is_refused("s31-w-args", "writable_args_over", Errno::EINVAL, &words);
    // A tracepoint that lets nothing be written.
    is_refused("s31-w-none", "not_writable", Errno::EINVAL, &["sys_enter"]);
}

/// S31: typed arguments are checked by the verifier, in its words.
#[test]
fn s31_reading_past_typed_arguments_is_eacces() {
    let words = ["func 'sys_enter' doesn't have", "off=40"];
    is_refused("s31-typed", "typed_over", Errno::EACCES, &words);
    let words = ["func 'sys_enter' doesn't have", "off=24"];
    let moved = "typed_of_switch@tp_btf:sys_enter";
    is_refused("s31-typed-hook", moved, Errno::EACCES, &words);
    let words = ["invalid bpf_context access"];
    is_refused("s31-typed-write", "typed_write", Errno::EACCES, &words);
}

/// S31: a helper that programs of the type may not call.
#[test]
fn s31_a_helper_of_another_type_is_einval() {
    let said = is_refused(
        "s31-helper",
        "foreign_helper",
        Errno::EINVAL,
        &["bpf_skb_load_bytes#26"],
    );
    // Linux 6.1 does not know it, later ones not for this type.
    let ways = ["cannot use helper", "unknown func"];
    assert!(ways.iter().any(|way| said.contains(way)), "{said}");
}

/// S31: what the verifier would refuse alone is refused here, with its words.
#[test]
fn s31_what_the_verifier_refuses_alone_is_refused() {
    let words = ["invalid mem access 'scalar'"];
    is_refused("s31-wild", "wild_pointer", Errno::EACCES, &words);
    is_refused("s31-endless", "endless", Errno::EINVAL, &["infinite loop"]);
}

/// S31: the set it would run in is ours, but the licence is its own.
#[test]
fn s31_a_gpl_only_helper_needs_a_licence_that_fits() {
    let lab = Lab::with("s31-licence", "unfree");
    let mut request = lab.request("t", "unfree");
    request.programs = choose(&["greedy"]);
    let said = lab.unchanged(|| refused(lab.engine.attach(request), Errno::EINVAL));
    assert!(said.contains("GPL"), "{said}");
    // What calls nothing of the kind is welcome, also beside those that do.
    lab.put("t", "modest");
    assert_eq!(lab.letters("t"), "m");
    let mut others = lab.request("t", "gpl");
    others.source = source("gpl");
    ok(lab.engine.attach(others));
    assert_eq!(lab.letters("t"), "m");
}
