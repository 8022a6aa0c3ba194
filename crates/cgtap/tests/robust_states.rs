//! States that are not ours to use, or not to be understood: refused in words by every command, and
//! left as they are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cgtap::engine::{
    AttachRequest, CgroupRef, Detach, Engine, ErrorKind, ListRequest, ObjectSource, Options,
};
use cgtap_sys::Errno;
use cgtap_sys::bpf::{Map, MapSpec, MapType, get_map, pin};
use robust_support::damage::{sandbox, stray};
use robust_support::shape::Shape;
use support::{Sandbox, compile};

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
        sandbox.engine.repair().unwrap_err(),
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
        sandbox.engine.repair().unwrap_err(),
    ];
    let problems = sandbox.engine.state_problems();
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
    let before = Shape::of_state(&with);
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
    assert_eq!(Shape::of_state(&with), before);
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
