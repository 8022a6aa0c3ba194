//! Damage of every kind: `doctor` names it and changes nothing, `doctor --repair` mends what can
//! be mended, and what is not ours is left alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cgtap::engine::{
    AttachRequest, CgroupRef, Detach, Engine, ErrorKind, Lifetime, ListRequest, ObjectSource,
    Options,
};
use cgtap_sys::Errno;
use cgtap_sys::bpf::{Map, MapSpec, MapType, get_map, pin};
use cgtap_sys::memory::Words;
use robust_support::ledger::Ledger;
use robust_support::shape::Shape;
use support::{Sandbox, compile};

/// A map that is none of ours.
fn stray() -> Map {
    Map::create(&MapSpec {
        name: "stray",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: 0,
    })
    .unwrap()
}

/// Attached twice to `c`, and run 5 times.
fn sandbox(name: &str) -> (Sandbox, Shape) {
    let sandbox = Sandbox::new(name);
    sandbox.attach("c", "robust");
    sandbox.attach("c", "robust");
    let shape = Shape::of(&sandbox);
    shape.runs(&sandbox, "c", 5);
    (sandbox, shape)
}

/// Damages a state; `doctor` says so in these words and leaves it, `--repair` makes it as it was.
fn mended(name: &str, words: &[&str], damage: impl FnOnce(&Sandbox)) {
    let ledger = Ledger::open();
    let (sandbox, before) = sandbox(name);
    damage(&sandbox);
    let report = sandbox.engine.doctor(false).unwrap();
    assert!(report.repaired.is_empty());
    let problems = report.state_problems.join("\n");
    for word in words {
        assert!(problems.contains(word), "`{word}` is not in: {problems}");
    }
    assert_eq!(
        sandbox.engine.state_problems(),
        report.state_problems,
        "looking changes nothing"
    );
    let report = sandbox.engine.doctor(true).unwrap();
    println!("{problems}\n=> {:?}", report.repaired);
    assert_eq!(report.state_problems, Vec::<String>::new(), "{problems}");
    assert!(!report.repaired.is_empty() || words.is_empty());
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
        "hooks/1/table is something else",
        "hooks/2/link is something else",
    ];
    mended("doctor-kind", &words, |sandbox| {
        unpin(sandbox, "hooks/1/table");
        let link = cgtap_sys::bpf::get_link(&sandbox.state.join("hooks/2/link")).unwrap();
        pin(&link, &sandbox.state.join("hooks/1/table")).unwrap();
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
            let table = get_map(&sandbox.state.join("hooks/1/table")).unwrap();
            for key in table.keys().unwrap() {
                table.delete(&key).unwrap();
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
    let problems = sandbox
        .engine
        .doctor(true)
        .unwrap()
        .state_problems
        .join("\n");
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
    let report = sandbox.engine.doctor(true).unwrap();
    let repaired = report.repaired.join("\n");
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
            let report = sandbox.engine.doctor(true).unwrap();
            assert_eq!(report.state_problems, Vec::<String>::new());
            assert!(report.repaired.iter().any(|r| r.contains("hooks/1/link")));
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

/// The record in another form: refused by every command, in words, and nothing is touched.
fn record(name: &str, words: &[&str], bytes: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let (sandbox, before) = sandbox(name);
    let path = sandbox.state.join("config");
    let good = get_map(&path).unwrap();
    let bytes = bytes(good.lookup(&0u32.to_ne_bytes()).unwrap().unwrap());
    let map = Map::create(&MapSpec {
        name: "cgtap_config",
        map_type: MapType::Array,
        key_size: 4,
        value_size: bytes.len() as u32,
        max_entries: 1,
        flags: 0,
    })
    .unwrap();
    map.update(&0u32.to_ne_bytes(), &bytes).unwrap();
    std::fs::remove_file(&path).unwrap();
    pin(&map, &path).unwrap();
    let errors = [
        sandbox.engine.list(&ListRequest::default()).unwrap_err(),
        sandbox
            .engine
            .attach(sandbox.request("c", "robust"))
            .unwrap_err(),
        sandbox.engine.doctor(true).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
        for word in words {
            assert!(
                error.to_string().contains(word),
                "`{word}` is not in: {error}"
            );
        }
    }
    assert!(sandbox.engine.state_problems()[0].contains(words[0]));
    std::fs::remove_file(&path).unwrap();
    pin(&good, &path).unwrap();
    assert_eq!(Shape::of(&sandbox), before);
    before.runs(&sandbox, "c", 2);
    // With it once more, to be thrown away whole.
    std::fs::remove_file(&path).unwrap();
    pin(&map, &path).unwrap();
    sandbox.engine.detach(&Detach::All).unwrap();
    assert!(!sandbox.state.exists());
}

#[test]
fn a_newer_layout_is_refused() {
    let words = [
        "made by a newer cgtap (layout 99",
        "use the cgtap that made it",
    ];
    record("doctor-newer", &words, |mut bytes| {
        bytes[8] = 99;
        bytes
    });
}

#[test]
fn a_damaged_record_is_refused() {
    let words = ["checksum is wrong", "detach --all"];
    record("doctor-crc", &words, |mut bytes| {
        let last = bytes.len() - 1;
        bytes[last] ^= 0x55;
        bytes
    });
    record(
        "doctor-cut",
        &["its length is not what it says"],
        |mut bytes| {
            bytes.truncate(bytes.len() - 9);
            bytes
        },
    );
    record(
        "doctor-alien",
        &["it was not made by cgtap"],
        |mut bytes| {
            bytes[..8].copy_from_slice(b"ABCDEFGH");
            bytes
        },
    );
    record("doctor-tiny", &["it was not made by cgtap"], |_| {
        vec![1, 2, 3, 4]
    });
}

#[test]
fn a_record_that_is_no_map_is_refused() {
    let (sandbox, before) = sandbox("doctor-link-config");
    let path = sandbox.state.join("config");
    let good = get_map(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let link = cgtap_sys::bpf::get_link(&sandbox.state.join("hooks/1/link")).unwrap();
    pin(&link, &path).unwrap();
    let error = sandbox.engine.list(&ListRequest::default()).unwrap_err();
    assert!(
        error.to_string().contains("it was not made by cgtap"),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    pin(&good, &path).unwrap();
    assert_eq!(Shape::of(&sandbox), before);
}

/// Refused by every command, named by doctor, and after `undo` all is as before.
fn left_alone(name: &str, errno: Errno, words: &[&str], disturb: impl Fn(&Path, bool)) {
    let (sandbox, before) = sandbox(name);
    disturb(&sandbox.state, true);
    let errors = [
        sandbox.engine.list(&ListRequest::default()).unwrap_err(),
        sandbox
            .engine
            .attach(sandbox.request("c", "robust"))
            .unwrap_err(),
        sandbox.engine.detach(&Detach::All).unwrap_err(),
        sandbox.engine.doctor(true).unwrap_err(),
    ];
    let problems = sandbox.engine.doctor(false).unwrap().state_problems;
    for text in errors.iter().map(ToString::to_string).chain(problems) {
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }
    for error in &errors {
        assert_eq!(
            (error.kind(), error.errno()),
            (ErrorKind::State, Some(errno)),
            "{error}"
        );
    }
    disturb(&sandbox.state, false);
    assert_eq!(Shape::of(&sandbox), before);
    before.runs(&sandbox, "c", 2);
}

#[test]
fn what_somebody_else_keeps_there_is_left_alone() {
    let words = ["is not a state of cgtap: it holds `theirs`", "--state"];
    left_alone("doctor-foreign", Errno::EINVAL, &words, |state, on| {
        let theirs = state.join("theirs");
        if on {
            pin(&stray(), &theirs).unwrap();
        } else {
            std::fs::remove_file(theirs).unwrap();
        }
    });
}

#[test]
fn somebody_elses_state_is_refused() {
    left_alone(
        "doctor-owner",
        Errno::EPERM,
        &["belongs to uid 1234"],
        |state, on| {
            std::os::unix::fs::chown(state, Some(if on { 1234 } else { 0 }), None).unwrap();
        },
    );
}

#[test]
fn a_state_that_others_may_write_is_refused() {
    let words = ["may be written by others (mode 770)", "chmod go-w"];
    left_alone("doctor-mode", Errno::EPERM, &words, |state, on| {
        let mode = if on { 0o770 } else { 0o700 };
        std::fs::set_permissions(state, std::fs::Permissions::from_mode(mode)).unwrap();
    });
}

/// A bpffs of its own, unmounted in the end.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new() -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        mount.run("mount", &["-t", "bpf", "bpf"]);
        mount
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(self.0.path()).unwrap().count()
    }

    fn run(&self, command: &str, words: &[&str]) {
        let status = Command::new(command)
            .args(words)
            .arg(self.0.path())
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.run("umount", &[]);
    }
}

fn engine(state: PathBuf) -> Engine {
    Engine::open(Options {
        state,
        cgroup_root: None,
    })
    .unwrap()
}

fn feature(engine: &Engine, name: &str) -> cgtap::engine::Feature {
    let report = engine.doctor(false).unwrap();
    report
        .features
        .into_iter()
        .find(|f| f.name == name)
        .unwrap()
}

#[test]
fn a_read_only_bpffs_is_said() {
    let sandbox = Sandbox::new("doctor-ro");
    let cgroup = sandbox.cgroup("c");
    let mount = Mount::new();
    // Some kernels put their own iterators into each bpffs.
    let fresh = mount.entries();
    let request = || {
        let source = ObjectSource::File {
            path: compile("robust"),
            set: Vec::new(),
        };
        AttachRequest::new(cgroup.clone(), source)
    };
    let with = engine(mount.0.path().join("with"));
    let without = engine(mount.0.path().join("without"));
    with.attach(request()).unwrap();
    let before = with.list(&ListRequest::default()).unwrap();
    mount.run("mount", &["-o", "remount,ro"]);
    for engine in [&with, &without] {
        let error = engine.attach(request()).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EROFS), "{error}");
        assert!(error.to_string().contains("mounted read-only"), "{error}");
        let bpffs = feature(engine, "bpffs");
        assert_eq!(bpffs.state, cgtap::engine::FeatureState::No);
        assert!(bpffs.remedy.contains("remount,rw"), "{bpffs:?}");
    }
    mount.run("mount", &["-o", "remount,rw"]);
    assert_eq!(with.list(&ListRequest::default()).unwrap(), before);
    assert_eq!(with.state_problems(), Vec::<String>::new());
    with.detach(&Detach::All).unwrap();
    assert_eq!(mount.entries(), fresh);
}

#[test]
fn a_state_outside_of_bpffs_is_refused() {
    let sandbox = Sandbox::new("doctor-tmpfs");
    let cgroup = sandbox.cgroup("c");
    let dir = tempfile::tempdir().unwrap();
    for state in [dir.path().to_owned(), dir.path().join("new")] {
        let engine = engine(state.clone());
        let source = ObjectSource::File {
            path: compile("robust"),
            set: Vec::new(),
        };
        let error = engine
            .attach(AttachRequest::new(cgroup.clone(), source))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
        assert!(error.to_string().contains("is not in a bpffs"), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert_eq!(
            feature(&engine, "bpffs").state,
            cgtap::engine::FeatureState::No
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let missing = Engine::open(Options {
        state: sandbox.state.clone(),
        cgroup_root: Some(dir.path().to_owned()),
    })
    .unwrap();
    let error = missing
        .attach(AttachRequest::new(
            CgroupRef::Path("/".into()),
            ObjectSource::File {
                path: compile("robust"),
                set: Vec::new(),
            },
        ))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cgroup, "{error}");
    assert_eq!(
        feature(&missing, "cgroup2").state,
        cgtap::engine::FeatureState::No
    );
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

/// A map whose values cannot be mapped in the place of the control words.
#[test]
fn control_words_that_cannot_be_mapped_are_an_error() {
    let (sandbox, before) = sandbox("doctor-words");
    let path = sandbox.state.join("control");
    let good = get_map(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    pin(&stray(), &path).unwrap();
    let error = sandbox.engine.list(&ListRequest::default()).unwrap_err();
    assert!(error.to_string().contains("control"), "{error}");
    std::fs::remove_file(&path).unwrap();
    pin(&good, &path).unwrap();
    assert_eq!(Shape::of(&sandbox), before);
}
