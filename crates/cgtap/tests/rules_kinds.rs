//! The rules at every kind of hook: the tests that hold them at raw tracepoints are run again for
//! each, as other processes that are told the kind (`support/event.rs`).
//!
//! A test that cannot hold at a kind stands in [`EXCEPT`] with the reason, and has to fail there. A
//! kind that this kernel lacks has to be refused in the words that are promised.
//!
//! `CGTAP_TEST_FULL=1` runs all of them; without, each kind has to pass those of [`SAMPLE`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "support/kinds.rs"]
mod kinds;
#[path = "support/rules.rs"]
mod rules;

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use support::event;

/// The tests of the rules.
const RULES: [&str; 7] = [
    "rules_modes",
    "rules_order",
    "rules_lifetime",
    "rules_links",
    "rules_query",
    "rules_storage",
    "rules_safety",
];
/// Those that every run passes: what programs get and return, and how they come and go.
const SAMPLE: [&str; 3] = ["rules_links", "rules_query", "rules_storage"];
/// The tests of sets, and the kinds that load programs in a way of their own. At `lsm` and `fmod_ret` a set
/// is one program, and what does not fit one is refused:
/// rules_verdicts::a_set_that_does_not_fit_one_program_changes_nothing.
const SETS: [&str; 2] = ["sets_large", "sets_loops"];
const SET_KINDS: [&str; 4] = ["kprobe", "uprobe", "fentry", "perf_event"];

/// Tests that cannot hold at a kind of hook, and why.
const EXCEPT: &[(&[&str], &str, &str, &str)] = &[
    (
        &["fmod_ret", "lsm"],
        "rules_modes",
        "s10_an_effective_array_that_cannot_be_built_undoes_the_whole_change",
        "the verdict is combined in one program, so a set has no segments: \
         rules_verdicts::a_set_that_does_not_fit_one_program_changes_nothing",
    ),
    (
        &["lsm"],
        "rules_safety",
        "s31_a_gpl_only_helper_needs_a_licence_that_fits",
        "the kernel takes programs under the GPL only at security hooks: \
         hooks_refused::s31_security_hooks_take_the_gpl_only",
    ),
];

/// The binary of another test file, built from what is there now.
fn binary(name: &str) -> PathBuf {
    static BUILT: LazyLock<()> = LazyLock::new(|| {
        // CI has built everything.
        if std::env::var_os("CI").is_some() {
            return;
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["test", "--quiet", "-p", "cgtap", "--no-run"]);
        for name in RULES.iter().chain(&SETS) {
            cargo.args(["--test", name]);
        }
        support::run(&mut cargo);
    });
    LazyLock::force(&BUILT);
    let dir = std::env::current_exe().unwrap();
    let dir = dir.parent().unwrap();
    let written = |path: &Path| path.metadata().unwrap().modified().unwrap();
    let found = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let file = path.file_name().unwrap().to_str().unwrap();
            let hash = file.strip_prefix(name).and_then(|f| f.strip_prefix('-'));
            hash.is_some_and(|hash| hash.chars().all(|c| c.is_ascii_hexdigit()))
        })
        .max_by_key(|path| written(path));
    let found = found.unwrap_or_else(|| panic!("{name} is not built: cargo test --no-run"));
    let newest = newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(
        written(&found) >= newest,
        "{} is older than the library: cargo test --no-run",
        found.display()
    );
    found
}

fn newest(dir: &Path) -> SystemTime {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let times = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => newest(&entry.path()),
        false => entry.metadata().unwrap().modified().unwrap(),
    });
    times.max().unwrap()
}

/// Runs tests of a binary at a kind of hook; how many passed, and what was said if any failed.
fn run(name: &str, kind: &str, arguments: &[&str]) -> (usize, Option<String>) {
    let output = Command::new(binary(name))
        .args(arguments)
        .env(event::VARIABLE, kind)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines();
    let passed = lines.filter(|l| l.starts_with("test ") && l.ends_with(" ... ok"));
    let failure = match output.status.code() {
        Some(0) => None,
        _ => Some(text.clone() + &String::from_utf8_lossy(&output.stderr)),
    };
    (passed.count(), failure)
}

fn count(name: &str) -> usize {
    let mut command = Command::new(binary(name));
    let output = support::made::run(command.args(["--list", "--format", "terse"]));
    let text = String::from_utf8(output).unwrap();
    text.lines().filter(|l| l.ends_with(": test")).count()
}

/// All that is to hold at a kind of hook.
fn holds(kind: &str) {
    // They have the machine to themselves: each runs many tests at once already.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !kinds::is_there(kind) {
        return;
    }
    let is_full = std::env::var_os("CGTAP_TEST_FULL").is_some();
    let mut binaries: Vec<&str> = if is_full {
        RULES.to_vec()
    } else {
        SAMPLE.to_vec()
    };
    if is_full && SET_KINDS.contains(&kind) {
        binaries.extend(SETS);
    }
    let mut failures = String::new();
    for name in &binaries {
        let except: Vec<&str> = EXCEPT
            .iter()
            .filter(|(kinds, binary, ..)| kinds.contains(&kind) && binary == name)
            .map(|(_, _, test, _)| *test)
            .collect();
        let mut arguments = vec!["--exact"];
        for test in &except {
            arguments.extend(["--skip", test]);
        }
        let (passed, failure) = run(name, kind, &arguments);
        println!(
            "{kind}: {name}: {passed} passed, {} not applicable",
            except.len()
        );
        match failure {
            Some(said) => failures += &format!("{name} at {kind}:\n{said}\n"),
            None => assert_eq!(
                passed + except.len(),
                count(name),
                "{name}: not all were run"
            ),
        }
    }
    // Sample or not.
    for (kinds, name, test, _) in EXCEPT {
        let is_held = kinds.contains(&kind) && run(name, kind, &["--exact", test]).1.is_none();
        assert!(
            !is_held,
            "{name}::{test} holds at {kind}, but stands in EXCEPT"
        );
    }
    assert!(failures.is_empty(), "{failures}");
}

macro_rules! at {
    ($($test:ident: $kind:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            holds($kind);
        })*

        #[test]
        fn every_kind_is_held() {
            assert_eq!([$($kind),*], event::KINDS);
            let all: Vec<&str> = cgtap::hook::kind::KINDS.iter().map(|k| k.prefix).collect();
            assert_eq!(all, event::KINDS);
        }
    };
}

at! {
    the_rules_hold_at_tracepoint: "tracepoint",
    the_rules_hold_at_raw_tracepoint: "raw_tracepoint",
    the_rules_hold_at_raw_tracepoint_w: "raw_tracepoint.w",
    the_rules_hold_at_tp_btf: "tp_btf",
    the_rules_hold_at_kprobe: "kprobe",
    the_rules_hold_at_kretprobe: "kretprobe",
    the_rules_hold_at_kprobe_multi: "kprobe.multi",
    the_rules_hold_at_kretprobe_multi: "kretprobe.multi",
    the_rules_hold_at_uprobe: "uprobe",
    the_rules_hold_at_uretprobe: "uretprobe",
    the_rules_hold_at_fentry: "fentry",
    the_rules_hold_at_fexit: "fexit",
    the_rules_hold_at_fmod_ret: "fmod_ret",
    the_rules_hold_at_lsm: "lsm",
    the_rules_hold_at_perf_event: "perf_event",
    the_rules_hold_at_cgroup: "cgroup",
}
