//! Damage of every kind: `doctor` names it and changes nothing, `doctor --repair` mends what can
//! be mended, and says what cannot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::os::fd::AsFd;

use cgtap::engine::{AttachRequest, Detach, ErrorKind, Lifetime, ListRequest};
use cgtap_sys::bpf::{get_map, pin};
use cgtap_sys::memory::Words;
use robust_support::damage::{sandbox, stray};
use robust_support::ledger::Ledger;
use robust_support::shape::Shape;
use support::Sandbox;

/// Damages a state; `doctor` says so in these words and leaves it, `--repair` makes it as it was.
fn mended(name: &str, words: &[&str], damage: impl FnOnce(&Sandbox)) {
    let ledger = Ledger::open();
    let (sandbox, before) = sandbox(name);
    damage(&sandbox);
    let found = sandbox.engine.state_problems();
    let problems = found.join("\n");
    for word in words {
        assert!(problems.contains(word), "`{word}` is not in: {problems}");
    }
    assert_eq!(
        sandbox.engine.state_problems(),
        found,
        "looking changes nothing"
    );
    let repaired = sandbox.engine.repair().unwrap();
    println!("{problems}\n=> {repaired:?}");
    let left = sandbox.engine.state_problems();
    assert_eq!(left, Vec::<String>::new(), "{problems}");
    assert!(!repaired.is_empty() || words.is_empty());
    let after = Shape::of(&sandbox);
    assert_eq!(after, before);
    after.runs(&sandbox, "c", 7);
    // And it is a state like any other.
    let ids = sandbox.attach("c/below", "robust");
    Shape::of(&sandbox).runs(&sandbox, "c/below", 3);
    sandbox.engine.detach(&Detach::Ids(ids)).unwrap();
    assert_eq!(Shape::of(&sandbox), before);
    drop(sandbox);
    ledger.close();
}

fn unpin(sandbox: &Sandbox, name: &str) {
    std::fs::remove_file(sandbox.state.join(name)).unwrap();
}

/// Names of pins below the state that start so.
fn pins(sandbox: &Sandbox, dir: &str, start: &str) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.state.join(dir))
        .unwrap()
        .flatten();
    let names = entries.map(|e| e.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.starts_with(start)).collect();
    names.sort();
    names.into_iter().map(|n| format!("{dir}/{n}")).collect()
}

#[test]
fn nothing_is_wrong_with_a_whole_state() {
    mended("doctor-whole", &[], |_| {});
}

/// The whole of `doctor`, which tries the kernel too; the other tests ask for the state alone.
#[test]
fn the_doctor_says_what_is_wrong_and_mends_it_when_told() {
    let (sandbox, before) = sandbox("doctor-told");
    unpin(&sandbox, "reaper");
    let report = sandbox.engine.doctor(false).unwrap();
    let problems = report.state_problems.join("\n");
    assert!(problems.contains("reaper is missing"), "{problems}");
    assert_eq!(report.repaired, Vec::<String>::new());
    assert!(!report.features.is_empty());
    let report = sandbox.engine.doctor(true).unwrap();
    assert_eq!(report.state_problems, Vec::<String>::new());
    assert!(!report.repaired.is_empty());
    assert_eq!(Shape::of(&sandbox), before);
}

#[test]
fn stray_pins_and_directories_go() {
    let words = [
        "hooks/1/set_77 belongs to nothing",
        "hooks/9 belongs to nothing",
        "hooks/9/deep/map belongs to nothing",
        "instances/1/maps/stray belongs to nothing",
        "config_new belongs to nothing",
    ];
    mended("doctor-stray", &words, |sandbox| {
        let map = stray();
        std::fs::create_dir_all(sandbox.state.join("hooks/9/deep")).unwrap();
        for name in [
            "hooks/1/set_77",
            "hooks/9/deep/map",
            "instances/1/maps/stray",
            "config_new",
        ] {
            pin(&map, &sandbox.state.join(name)).unwrap();
        }
    });
}

#[test]
fn a_change_that_was_under_way_is_mended() {
    let words = ["a change was under way", "place 300 of"];
    let ledger = Ledger::open();
    let (sandbox, before) = sandbox("doctor-way");
    interrupt(&sandbox);
    let problems = sandbox.engine.state_problems().join("\n");
    for word in words {
        assert!(problems.contains(word), "`{word}` is not in: {problems}");
    }
    // Any command does it; no doctor is needed.
    assert_eq!(Shape::of(&sandbox), before);
    interrupt(&sandbox);
    assert!(!sandbox.engine.repair().unwrap().is_empty());
    assert_eq!(Shape::of(&sandbox), before);
    before.runs(&sandbox, "c", 3);
    drop(sandbox);
    ledger.close();
}

/// As a process leaves it that dies in the middle: the word is set, a set is in its place and its
/// counter pinned, the record is the old one, and the table says what is to be.
fn interrupt(sandbox: &Sandbox) {
    let control = get_map(&sandbox.state.join("control")).unwrap();
    Words::map(&control).unwrap().set(1, 1);
    pin(&stray(), &sandbox.state.join("hooks/1/set_900")).unwrap();
    let progs = get_map(&sandbox.state.join("hooks/1/progs")).unwrap();
    let id = (1..300u32).find_map(|i| progs.lookup(&i.to_ne_bytes()).unwrap());
    let id = u32::from_ne_bytes(id.unwrap()[..4].try_into().unwrap());
    let prog = cgtap_sys::bpf::Prog::from_id(id).unwrap();
    progs.set_prog(300, prog.as_fd()).unwrap();
}

#[test]
fn a_missing_set_counter_is_made_anew() {
    mended("doctor-counter", &["set_", "is missing"], |sandbox| {
        let counters = pins(sandbox, "hooks/1", "set_");
        unpin(sandbox, counters.last().unwrap());
    });
}

#[test]
fn a_missing_link_is_made_anew() {
    mended(
        "doctor-link",
        &["hooks/1/link is missing", "hooks/2/link is missing"],
        |sandbox| {
            unpin(sandbox, "hooks/1/link");
            unpin(sandbox, "hooks/2/link");
        },
    );
}

#[test]
fn a_hook_without_anything_is_made_anew() {
    let words = [
        "hooks/3/progs is missing",
        "hooks/3/cache is missing",
        "hooks/3 is missing",
    ];
    mended("doctor-hook", &words, |sandbox| {
        for entry in std::fs::read_dir(sandbox.state.join("hooks/3"))
            .unwrap()
            .flatten()
        {
            std::fs::remove_file(entry.path()).unwrap();
        }
        std::fs::remove_dir(sandbox.state.join("hooks/3")).unwrap();
    });
}

#[test]
fn a_pin_that_is_something_else_is_made_anew() {
    let words = [
        "hooks/1/table_odd is something else",
        "hooks/2/link is something else",
    ];
    mended("doctor-kind", &words, |sandbox| {
        unpin(sandbox, "hooks/1/table_odd");
        let link = cgtap_sys::bpf::get_link(&sandbox.state.join("hooks/2/link")).unwrap();
        pin(&link, &sandbox.state.join("hooks/1/table_odd")).unwrap();
        unpin(sandbox, "hooks/2/link");
        pin(&stray(), &sandbox.state.join("hooks/2/link")).unwrap();
    });
}

#[test]
fn a_set_that_is_not_in_its_place_is_made_anew() {
    mended("doctor-place", &["is not in its place"], |sandbox| {
        let progs = get_map(&sandbox.state.join("hooks/1/progs")).unwrap();
        for index in 0..300u32 {
            progs.delete(&index.to_ne_bytes()).unwrap();
        }
    });
}

#[test]
fn a_table_that_says_something_else_is_made_right() {
    mended(
        "doctor-table",
        &["other sets of", "are in force than are recorded"],
        |sandbox| {
            for name in ["hooks/1/table_even", "hooks/1/table_odd"] {
                let table = get_map(&sandbox.state.join(name)).unwrap();
                for key in table.keys().unwrap() {
                    table.delete(&key).unwrap();
                }
            }
        },
    );
}

#[test]
fn what_it_stands_on_is_made_anew() {
    for name in ["control", "cgroups", "reaper", "owners", "gates"] {
        let missing = format!("{name} is missing");
        mended(&format!("doctor-{name}"), &[&missing], |sandbox| {
            unpin(sandbox, name);
            // Nobody does anything with half a state.
            if name == "control" || name == "cgroups" {
                let error = sandbox.engine.list(&ListRequest::default()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::State, "{error}");
                assert!(error.to_string().contains("doctor --repair"), "{error}");
            }
        });
    }
}

/// What goes with a process reads its gate where the state has it, so it is built anew with that.
#[test]
fn gates_are_made_anew_with_what_reads_them() {
    let (sandbox, _) = sandbox("doctor-gated");
    let request = AttachRequest {
        lifetime: Lifetime::Process,
        ..sandbox.request("c", "robust")
    };
    sandbox.engine.attach(request).unwrap();
    let before = Shape::of(&sandbox);
    for name in ["gates", "undertaker"] {
        unpin(&sandbox, name);
        let problems = sandbox.engine.state_problems().join("\n");
        assert!(
            problems.contains(&format!("{name} is missing")),
            "{problems}"
        );
        sandbox.engine.repair().unwrap();
        let after = Shape::of(&sandbox);
        assert_eq!(after, before);
        after.runs(&sandbox, "c", 4);
    }
}

/// The cgroup goes while nobody watches: what was attached to it goes at the repair.
#[test]
fn a_cgroup_that_went_unseen_is_noticed() {
    let (sandbox, before) = sandbox("doctor-unseen");
    sandbox.attach("gone", "robust");
    unpin(&sandbox, "reaper");
    sandbox.remove("gone");
    let repaired = sandbox.engine.repair().unwrap().join("\n");
    assert!(repaired.contains("went with its cgroup"), "{repaired}");
    let after = Shape::of(&sandbox);
    assert_eq!(after, before);
    assert_eq!(sandbox.engine.maps(None).unwrap().len(), 2);
    after.runs(&sandbox, "c", 2);
    // And it is watched again.
    sandbox.attach("gone", "robust");
    sandbox.remove("gone");
    assert_eq!(Shape::of(&sandbox), before);
}

/// What cannot be made anew is said, stays as long as it runs, and can be detached.
#[test]
fn a_lost_image_is_said_and_can_be_detached() {
    let (sandbox, before) = sandbox("doctor-image");
    unpin(&sandbox, "instances/2/image");
    sandbox.engine.repair().unwrap();
    let problems = sandbox.engine.state_problems().join("\n");
    assert!(problems.contains("instance 2 is damaged"), "{problems}");
    assert!(problems.contains("cgtap detach --instance 2"), "{problems}");
    before.runs(&sandbox, "c", 2);
    let other = sandbox
        .engine
        .attach(sandbox.request("c", "robust"))
        .unwrap_err();
    assert_eq!(other.kind(), ErrorKind::State, "{other}");
    assert_eq!(Shape::listed(&sandbox), before);
    sandbox
        .engine
        .detach(&Detach::Instance(cgtap::id::InstanceId(2)))
        .unwrap();
    let after = Shape::of(&sandbox);
    assert_eq!(after.ids().len(), 3);
    after.runs(&sandbox, "c", 2);
}

#[test]
fn a_lost_image_with_its_hook_is_given_up() {
    let (sandbox, _) = sandbox("doctor-lost");
    unpin(&sandbox, "instances/2/image");
    unpin(&sandbox, "hooks/1/progs");
    let repaired = sandbox.engine.repair().unwrap().join("\n");
    assert!(
        repaired.contains("is lost: its instance 2 is damaged"),
        "{repaired}"
    );
    let listed = Shape::listed(&sandbox);
    assert_eq!(listed.ids().len(), 5);
    listed.runs(&sandbox, "c", 2);
    sandbox
        .engine
        .detach(&Detach::Instance(cgtap::id::InstanceId(2)))
        .unwrap();
    Shape::of(&sandbox).runs(&sandbox, "c", 2);
}

/// Anything that the next command, or `detach --all`, has to get along with.
#[test]
fn a_state_that_cannot_be_read_can_be_detached_whole() {
    let ledger = Ledger::open();
    for name in ["config", "control", "hooks/1/progs", "instances/1/image"] {
        let (sandbox, _) = sandbox("doctor-all");
        unpin(&sandbox, name);
        if name == "config" {
            let problems = sandbox.engine.state_problems().join("\n");
            assert!(problems.contains("no record"), "{problems}");
        }
        sandbox.engine.detach(&Detach::All).unwrap();
        assert!(!sandbox.state.exists());
    }
    ledger.close();
}

/// A state without a record is none: it is taken away by whoever finds it.
#[test]
fn a_half_made_state_is_removed() {
    let ledger = Ledger::open();
    for repair in [true, false] {
        let (sandbox, _) = sandbox("doctor-half");
        unpin(&sandbox, "config");
        if repair {
            let repaired = sandbox.engine.repair().unwrap();
            assert_eq!(sandbox.engine.state_problems(), Vec::<String>::new());
            assert!(repaired.iter().any(|r| r.contains("hooks/1/link")));
        } else {
            assert!(
                sandbox
                    .engine
                    .list(&ListRequest::default())
                    .unwrap()
                    .is_empty()
            );
        }
        assert!(!sandbox.state.exists());
        sandbox.attach("c", "robust");
        Shape::of(&sandbox).runs(&sandbox, "c", 2);
    }
    ledger.close();
}

/// Where there is a table of the addresses of `current`, its loss is like that of the others.
#[test]
fn the_table_of_current_is_made_anew() {
    let (probe, _) = sandbox("doctor-current");
    if probe.state.join("current").exists() {
        mended("doctor-current", &["current is missing"], |sandbox| {
            unpin(sandbox, "current");
        });
    }
}
