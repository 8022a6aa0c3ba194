//! Global variables: initial values, and `--set` before the programs see them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod object_support;

use cgtap::object::Problem;
use object_support::{first_u64, load_all, map, must_load, try_load};

/// The bytes of a data section.
fn section(object: &cgtap::object::LoadedObject, name: &str) -> Vec<u8> {
    map(object, name).lookup(&[0; 4]).unwrap().unwrap()
}

#[test]
fn sections_keep_the_values_of_the_source() {
    let object = load_all("variables");
    let mut names: Vec<&str> = object.image.maps.iter().map(|m| m.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, [".bss", ".data", ".data.apart", ".rodata"]);
    assert_eq!(first_u64(&object, ".data"), 40);
    assert_eq!(section(&object, ".data.apart"), 9_u32.to_ne_bytes());
    let rodata = section(&object, ".rodata");
    assert!(rodata.windows(4).any(|w| w == b"all\0"));
}

#[test]
fn a_program_computes_with_what_was_set() {
    let object = try_load(
        "variables",
        &[],
        &[
            ("small", "200"),
            ("small_signed", "-100"),
            ("half", "0x100"),
            ("number", "-1000"),
            ("target_tgid", "12345"),
            ("wide", "1000000000000"),
            ("flag", "true"),
            ("level", "7"),
            ("filter", "A"),
            ("hidden", "5"),
            ("counter", "1"),
            ("zeroed", "70"),
            ("quiet_zeroed", "-3"),
            ("apart", "4000000000"),
        ],
    )
    .unwrap();
    let prog = must_load(&object, "read_them");
    prog.test_run_raw_tp(&[0, 0]).unwrap();
    let sum = 200 - 100 + 0x100 - 1000 + 12345 + 1_000_000_000_000_i64 + 1 + 7 + 65 + 5;
    assert_eq!(first_u64(&object, ".data"), (1 + sum).cast_unsigned());
    let bss = section(&object, ".bss");
    assert!(bss.windows(8).any(|w| w == 71_u64.to_ne_bytes()));
    assert!(bss.windows(8).any(|w| w == (-4_i64).to_ne_bytes()));
    assert_eq!(
        section(&object, ".data.apart"),
        4_000_000_001_u32.to_ne_bytes()
    );
}

#[test]
fn constants_stay_constant() {
    let object = load_all("variables");
    // Frozen by libbpf: the verifier may take it for granted.
    assert!(
        map(&object, ".rodata")
            .update(&[0; 4], &section(&object, ".rodata"))
            .is_err()
    );
}

#[test]
fn an_unknown_variable_is_answered_with_those_there_are() {
    let error = try_load("variables", &[], &[("target_tgit", "1")]).unwrap_err();
    assert_eq!(error.kind(), "unknown-variable");
    assert!(error.is_usage());
    let text = error.to_string();
    assert!(
        text.starts_with("cannot load variables.bpf.o: there is no target_tgit to set; there are "),
        "{text}"
    );
    assert!(text.ends_with("; did you mean target_tgid?"), "{text}");
    for name in ["small", "hidden", "counter", "zeroed", "apart", "filter"] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    let error = try_load("maps", &[], &[("x", "1")]).unwrap_err();
    assert!(
        error.to_string().ends_with("there is nothing to set"),
        "{error}"
    );
    // The kernel says what these are.
    let error = try_load("kernel", &[], &[("CONFIG_HZ", "1")]).unwrap_err();
    assert_eq!(error.kind(), "unknown-variable");
}

#[test]
fn a_value_that_does_not_fit_is_refused_with_what_would() {
    for (name, value, want) in [
        ("small", "256", "an integer from 0 to 255"),
        ("small_signed", "-129", "an integer from -128 to 127"),
        ("half", "65536", "an integer from 0 to 65535"),
        (
            "number",
            "lots",
            "an integer from -2147483648 to 2147483647",
        ),
        ("flag", "maybe", "true or false"),
        ("filter", "sixteen letters!", "a text of at most 15 bytes"),
        (
            "whole",
            "1",
            "a struct; only integers, booleans and arrays of characters can be set",
        ),
    ] {
        let error = try_load("variables", &[], &[(name, value)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot load variables.bpf.o: `{value}` is no value for {name}, which is {want}"
            )
        );
        assert!(matches!(*error.problem, Problem::BadValue { .. }));
    }
}
