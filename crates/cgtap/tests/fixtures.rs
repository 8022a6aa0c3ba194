//! Every fixture compiles. This needs no root, and it is what guests run after: they see what it
//! made.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    clippy::duplicate_mod,
    reason = "both supports make files once, each on its own"
)]

mod object_support;
mod robust_support;
#[path = "support/rules.rs"]
mod rules;
mod support;

/// The names of the fixtures in a folder of `tests/fixtures`.
fn names(folder: &str) -> Vec<String> {
    let dir = object_support::fixtures().with_file_name(folder);
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    let mut names: Vec<String> = files
        .filter_map(|file| Some(file.to_str()?.strip_suffix(".bpf.c")?.to_owned()))
        .collect();
    names.sort();
    names
}

#[test]
fn of_the_engine() {
    for name in names("engine") {
        support::compile(&name);
    }
}

#[test]
fn of_the_engine_for_each_kind_of_hook() {
    for kind in support::event::KINDS {
        let event = support::event::Event::of(kind);
        for name in names("engine") {
            let source = object_support::fixtures().with_file_name("engine");
            let source = source.join(format!("{name}.bpf.c"));
            if support::is_for_kinds(&std::fs::read_to_string(source).unwrap()) {
                support::compile_for(&event, &name, &name, &[]);
            }
        }
    }
}

#[test]
fn of_objects() {
    for name in names("object") {
        object_support::compile(&name);
    }
}

#[test]
fn of_programs_that_do_known_things() {
    support::worker_binary();
    rules::actor();
    robust_support::load::binary();
}
