//! Which programs are loaded.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod object_support;

use object_support::{load_all, names, try_load};

#[test]
fn by_default_all_that_can_be_scoped_and_are_not_optional() {
    let object = load_all("kinds");
    assert_eq!(
        names(&object.image),
        ["on_switch", "on_open", "on_nbd", "on_probe"]
    );
    assert_eq!(object.chosen, [0, 1, 2, 3]);
    let skipped: Vec<(&str, &str)> = object
        .skipped
        .iter()
        .map(|s| (s.program.as_str(), s.section.as_str()))
        .collect();
    assert_eq!(
        skipped,
        [("optional", "raw_tp/sys_enter"), ("on_packet", "xdp")]
    );
    for skipped in &object.skipped {
        assert!(!skipped.reason.is_empty());
    }
}

#[test]
fn by_name_only_those() {
    let object = try_load("kinds", &["optional", "on_switch"], &[]).unwrap();
    assert_eq!(names(&object.image), ["on_switch", "optional"]);
    assert!(object.skipped.is_empty());
}

#[test]
fn a_wrong_name_is_answered_with_the_right_ones() {
    let error = try_load("kinds", &["on_swich"], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot load kinds.bpf.o: it has no program on_swich; it has on_switch, on_open, \
         on_nbd, optional, on_probe, on_packet; did you mean on_switch?"
    );
    assert_eq!(error.kind(), "unknown-program");
    assert!(error.is_usage());
}

#[test]
fn a_program_of_another_kind_is_refused_with_the_kinds_there_are() {
    let error = try_load("kinds", &["on_packet"], &[]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("cannot load kinds.bpf.o: program on_packet cannot be scoped: `xdp`"),
        "{text}"
    );
    for kind in [
        "tracepoint:",
        "raw_tracepoint:",
        "raw_tracepoint.w:",
        "tp_btf:",
    ] {
        assert!(text.contains(kind), "{text}");
    }
    assert_eq!(error.kind(), "unsupported-kind");
}

#[test]
fn an_object_without_programs_is_refused() {
    let error = try_load("data_only", &[], &[]).unwrap_err();
    assert_eq!(error.kind(), "no-programs");
    assert!(error.to_string().contains("it has no programs"), "{error}");
}
