//! What the user got wrong, and who the user is not: a clear word, and all is as it was.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod robust_support;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use cgtap::engine::{
    AttachRequest, CgroupRef, Detach, Error, ErrorKind, ObjectSource, ProgramChoice,
};
use cgtap::id::CgroupId;
use cgtap_sys::Errno;
use robust_support::ledger::Ledger;
use robust_support::shape::Shape;
use robust_support::{End, driver_binary};
use support::{Sandbox, compile};

/// What is asked for, to be refused.
struct Wrong {
    cgroup: CgroupRef,
    object: PathBuf,
    program: Option<(&'static str, Option<&'static str>)>,
}

/// Asks, with nothing attached and beside something attached: both times nothing changes.
fn refused(sandbox: &Sandbox, wrong: &Wrong) -> Error {
    let request = || AttachRequest {
        programs: wrong
            .program
            .iter()
            .map(|(name, hook)| ProgramChoice {
                name: (*name).to_owned(),
                hook: hook.map(|h| h.parse().unwrap()),
            })
            .collect(),
        ..AttachRequest::new(
            wrong.cgroup.clone(),
            ObjectSource::File {
                path: wrong.object.clone(),
                set: Vec::new(),
            },
        )
    };
    sandbox.engine.detach(&Detach::All).unwrap();
    sandbox.engine.attach(request()).unwrap_err();
    assert!(!sandbox.state.exists(), "a refused attach has left a state");
    sandbox.attach("c", "robust");
    let before = Shape::of(sandbox);
    let error = sandbox.engine.attach(request()).unwrap_err();
    let after = Shape::of(sandbox);
    assert_eq!(after, before);
    after.runs(sandbox, "c", 2);
    error
}

fn expect(error: &Error, kind: ErrorKind, errno: Option<Errno>, words: &[&str]) {
    assert_eq!((error.kind(), error.errno()), (kind, errno), "{error}");
    for word in words {
        assert!(
            error.to_string().contains(word),
            "`{word}` is not in: {error}"
        );
    }
}

#[test]
fn what_the_kernel_refuses_is_said_in_its_words() {
    let ledger = Ledger::open();
    let sandbox = Sandbox::new("fault-words");
    let cgroup = sandbox.cgroup("c");
    let object = compile("refused");
    let ask = |program: &'static str, hook| {
        refused(
            &sandbox,
            &Wrong {
                cgroup: cgroup.clone(),
                object: object.clone(),
                program: Some((program, hook)),
            },
        )
    };
    let error = ask("unchecked", None);
    expect(
        &error,
        ErrorKind::Verifier,
        Some(Errno::EACCES),
        &["map_value_or_null"],
    );
    assert!(
        error.log().contains("processed "),
        "the log is the verifier's"
    );
    let error = ask("beyond", None);
    expect(
        &error,
        ErrorKind::Verifier,
        Some(Errno::EINVAL),
        &["beyond", "sys_enter"],
    );
    let error = ask("nowhere", None);
    expect(
        &error,
        ErrorKind::Hook,
        Some(Errno::ENOENT),
        &["sys_entr", "did you mean", "sys_enter"],
    );
    let error = ask("elsewhere", None);
    let near = ["did you mean syscalls/sys_enter_getppid"];
    expect(&error, ErrorKind::Hook, Some(Errno::ENOENT), &near);
    let error = ask("nowhere", Some("tp_btf:sys_enter"));
    expect(
        &error,
        ErrorKind::Hook,
        Some(Errno::EINVAL),
        &["raw_tp/sys_entr", "tp_btf"],
    );
    let error = ask("unchekced", None);
    let words = ["unchekced", "unchecked", "beyond", "nowhere", "elsewhere"];
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    expect(&error, ErrorKind::NotFound, error.errno(), &words);
    drop(sandbox);
    ledger.close();
}

#[test]
fn an_object_that_is_none_is_refused() {
    let sandbox = Sandbox::new("fault-elf");
    let cgroup = sandbox.cgroup("c");
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(compile("robust")).unwrap();
    let foreign = dir.path().join("foreign.o");
    let source = dir.path().join("foreign.c");
    std::fs::write(&source, "int raw(void) { return 0; }\n").unwrap();
    let built = Command::new("cc")
        .arg("-c")
        .arg(&source)
        .arg("-o")
        .arg(&foreign)
        .status();
    assert!(built.unwrap().success());
    let mut files = vec![foreign, dir.path().join("missing.o"), dir.path().to_owned()];
    for size in [0, 3, 64, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        let path = dir.path().join(format!("cut{size}.o"));
        std::fs::write(&path, &whole[..size]).unwrap();
        files.push(path);
    }
    for object in files {
        let name = object.display().to_string();
        let wrong = Wrong {
            cgroup: cgroup.clone(),
            object,
            program: None,
        };
        let error = refused(&sandbox, &wrong);
        assert_eq!(error.kind(), ErrorKind::Object, "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
}

#[test]
fn what_is_no_cgroup_is_refused() {
    let sandbox = Sandbox::new("fault-cgroup");
    sandbox.cgroup("c");
    let ask = |cgroup: CgroupRef| {
        refused(
            &sandbox,
            &Wrong {
                cgroup,
                object: compile("robust"),
                program: None,
            },
        )
    };
    let path = |path: &str| CgroupRef::Path(PathBuf::from(path));
    let kind = ErrorKind::Cgroup;
    expect(
        &ask(path("/tmp")),
        kind,
        Some(Errno::EINVAL),
        &["/tmp is not a cgroup"],
    );
    expect(
        &ask(path("/nowhere/at/all")),
        kind,
        Some(Errno::ENOENT),
        &["no cgroup"],
    );
    let file = sandbox.dir("c").join("cgroup.procs");
    let error = ask(CgroupRef::Path(file));
    expect(
        &error,
        kind,
        Some(Errno::EINVAL),
        &["cgroup.procs is not a cgroup"],
    );
    if Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists() {
        let error = ask(path("/sys/fs/cgroup/memory"));
        expect(&error, kind, Some(Errno::EINVAL), &["cgroup v1", "cgroup2"]);
    }
    let id = {
        use std::os::unix::fs::MetadataExt;
        sandbox.cgroup("gone");
        let id = sandbox.dir("gone").metadata().unwrap().ino();
        sandbox.remove("gone");
        CgroupRef::Id(CgroupId(id))
    };
    expect(
        &ask(id),
        kind,
        Some(Errno::ENOENT),
        &["may have been removed"],
    );
    let gone = CgroupRef::Path(sandbox.dir("gone"));
    expect(
        &ask(gone),
        kind,
        Some(Errno::ENOENT),
        &["there is no cgroup"],
    );
}

/// A copy of the driver that anybody may run.
fn public_driver(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let copy = dir.join("driver");
    std::fs::copy(driver_binary(), &copy).unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[test]
fn who_may_not_is_told_what_is_missing() {
    let sandbox = Sandbox::new("fault-user");
    let before = {
        sandbox.attach("c", "robust");
        Shape::of(&sandbox)
    };
    let dir = tempfile::tempdir().unwrap();
    let binary = public_driver(dir.path());
    let object = dir.path().join("robust.o");
    std::fs::copy(compile("robust"), &object).unwrap();
    let cgroup = sandbox.dir("c").display().to_string();
    let object = object.display().to_string();
    let fresh = PathBuf::from(format!("{}-fresh", sandbox.state.display()));
    let run = |who: &[&str], state: &Path, words: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(who)
            .arg("--")
            .arg(&binary)
            .arg(state)
            .args(words);
        command.output().unwrap()
    };
    let whos: [(&[&str], &str); 3] = [
        (
            &["--reuid=65534", "--regid=65534", "--clear-groups"],
            "CAP_BPF",
        ),
        (&["--bounding-set=-all", "--inh-caps=-all"], "CAP_BPF"),
        (
            &["--bounding-set=-bpf,-sys_admin", "--inh-caps=-all"],
            "CAP_BPF",
        ),
    ];
    for (who, capability) in whos {
        for state in [&sandbox.state, &fresh] {
            let end = End::from_output(&run(who, state, &["attach", &cgroup, &object]));
            let End::Refused {
                kind,
                errno,
                message,
            } = &end
            else {
                panic!("{who:?}: {end:?}");
            };
            println!("{who:?}: {message}");
            assert_eq!(kind, "permission", "{message}");
            assert!(
                matches!(errno.as_deref(), Some("EPERM" | "EACCES")),
                "{message}"
            );
            assert!(message.contains(capability), "{message}");
            assert!(!fresh.exists());
        }
        let doctor = run(who, &fresh, &["doctor"]);
        let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let feature = |name: &str| {
            let features = report["features"].as_array().unwrap();
            let found = features.iter().find(|f| f["name"] == name);
            found.unwrap_or_else(|| panic!("no {name}")).clone()
        };
        assert_eq!(feature(capability)["state"], "no");
        assert_eq!(feature(capability)["required"], true);
        for hook in ["tracepoint", "raw_tracepoint", "raw_tracepoint.w", "tp_btf"] {
            let hook = feature(&format!("hook {hook}"));
            assert_eq!(hook["state"], "no", "{hook}");
            assert!(hook["why"].as_str().unwrap().contains(capability), "{hook}");
        }
        assert_eq!(feature("kernel BTF")["state"], "yes");
        assert_eq!(Shape::of(&sandbox), before);
    }
}
