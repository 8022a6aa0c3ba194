//! Damaged and hostile files: always an error or a sound image, never a crash here.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

#[path = "object_support/mutate.rs"]
mod mutate;
mod object_support;

use std::collections::BTreeMap;

use cgtap::object::{LoadOptions, ObjectError, load, validate};
use mutate::{Random, damaged};
use object_support::compile;

/// Loads `bytes`; a kind of error, or `sound`.
fn verdict(bytes: &[u8]) -> &'static str {
    let options = LoadOptions {
        name: "hostile.o".to_owned(),
        ..LoadOptions::default()
    };
    let told = |error: &ObjectError| {
        let text = error.to_string();
        assert!(text.starts_with("cannot load hostile.o: "), "{text}");
        assert!(!text.contains('\n'), "more than a line: {text}");
        error.kind()
    };
    match load(bytes, &options) {
        Ok(object) => {
            validate(&object.image).unwrap();
            assert_eq!(object.maps.len(), object.image.maps.len());
            "sound"
        }
        Err(error) => told(&error),
    }
}

fn read(fixture: &str) -> Vec<u8> {
    std::fs::read(compile(fixture)).unwrap()
}

#[test]
fn cut_anywhere_it_is_an_error() {
    let whole = read("calls");
    for len in (0..whole.len()).step_by(64) {
        let verdict = verdict(&whole[..len]);
        assert!(
            ["truncated", "not-an-object"].contains(&verdict),
            "{len} bytes: {verdict}"
        );
    }
    assert_eq!(verdict(&whole), "sound");
}

#[test]
fn zeros_from_anywhere_on_are_an_error_or_sound() {
    // Unlike a cut file this one is as long as it says.
    let whole = read("storage");
    for len in (64..whole.len()).step_by(64) {
        let mut file = whole[..len].to_vec();
        file.resize(whole.len(), 0);
        verdict(&file);
    }
}

#[test]
fn five_hundred_damaged_copies_are_errors_or_sound() {
    let files = ["calls", "storage", "tail_calls", "variables"].map(read);
    let mut verdicts: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..500_u64 {
        let file = damaged(&files[seed as usize % files.len()], &mut Random::new(seed));
        *verdicts.entry(verdict(&file)).or_default() += 1;
    }
    println!("{verdicts:?}");
    // The damage is neither always fatal nor always harmless, or it would prove nothing.
    assert!(
        verdicts["sound"] > 20 && verdicts["sound"] < 480,
        "{verdicts:?}"
    );
    assert!(verdicts.contains_key("libbpf"), "{verdicts:?}");
    assert!(!verdicts.contains_key("timed-out"), "{verdicts:?}");
}

#[test]
fn every_machine_but_bpf_is_refused() {
    let mut file = read("plain");
    for machine in 1..=300_u16 {
        if machine != 247 {
            file[18..20].copy_from_slice(&machine.to_le_bytes());
            assert_eq!(verdict(&file), "wrong-machine", "{machine}");
        }
    }
}

#[test]
fn texts_and_noise_are_refused() {
    let mut random = Random::new(7);
    let noise: Vec<u8> = (0..4096).map(|_| random.next() as u8).collect();
    let mut elf_noise = noise.clone();
    elf_noise[..20].copy_from_slice(&read("plain")[..20]);
    let files: [&[u8]; 5] = [
        b"",
        b"\x7f",
        b"int main(void) { return 0; }\n",
        &noise,
        &elf_noise,
    ];
    for file in files {
        let verdict = verdict(file);
        assert!(
            ["not-an-object", "truncated"].contains(&verdict),
            "{verdict}"
        );
    }
}
