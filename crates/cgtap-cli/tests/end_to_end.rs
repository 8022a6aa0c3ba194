//! Objects attached, listed, counted and detached on this kernel, by the documents that scripts
//! rely on. Needs root, cgroup2, a bpffs and clang.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Ran, Sandbox, object};

const SYS_ENTER: &str = "raw_tracepoint:sys_enter";
const SYS_EXIT: &str = "raw_tracepoint:sys_exit";

/// Attaches the fixture to the sandbox's cgroup `name`, with more `words`.
#[track_caller]
fn attach(sandbox: &Sandbox, name: &str, words: &[&str]) -> Value {
    let cgroup = sandbox.directory.join(name);
    let mut command = sandbox.cgtap(&["--json", "attach"]);
    Ran::of(command.arg(cgroup).arg(object()).args(words))
        .done()
        .json()
}

fn id(attached: &Value, place: usize) -> String {
    attached["attachments"][place]["id"].to_string()
}

fn lists(sandbox: &Sandbox, words: &[&str]) -> Vec<Value> {
    let ran = sandbox.run(&[&["--json", "list"], words].concat()).done();
    ran.json()["lists"].as_array().unwrap().clone()
}

#[test]
fn attach_prints_the_document_of_the_contract() {
    let sandbox = Sandbox::new();
    let attached = attach(&sandbox, "", &[]);
    assert!(attached["instance"].is_u64());
    let attachments = attached["attachments"].as_array().unwrap();
    assert_eq!(attachments.len(), 2);
    for (attachment, (program, hook)) in attachments
        .iter()
        .zip([("enter", SYS_ENTER), ("leave", SYS_EXIT)])
    {
        assert!(attachment["id"].is_u64());
        assert_eq!(attachment["program"], program);
        assert_eq!(attachment["hook"], hook);
        assert_eq!(attachment["cgroup"], sandbox.cgroup.as_str());
        assert_eq!(attachment["mode"], "multi");
    }
}

#[test]
fn attach_prints_a_line_an_attachment() {
    let sandbox = Sandbox::new();
    let cgroup = sandbox.directory.to_str().unwrap();
    let ran = sandbox
        .run(&[
            "attach",
            cgroup,
            object().to_str().unwrap(),
            "--program",
            "enter",
        ])
        .done();
    let words: Vec<&str> = ran.out.split_whitespace().collect();
    assert_eq!(words[0], "attached");
    let rest = format!(
        "enter to {SYS_ENTER} in {} (multi), instance",
        sandbox.cgroup
    );
    assert!(words[2..].join(" ").starts_with(&rest), "{ran:?}");
    assert_eq!((ran.out.lines().count(), ran.err.as_str()), (1, ""));
}

#[test]
fn list_prints_own_and_effective_arrays() {
    let mut sandbox = Sandbox::new();
    let child = sandbox.child("child");
    let parent = attach(&sandbox, "", &["--program", "enter", "--cookie", "0x10"]);
    let own = attach(&sandbox, "child", &["--program", "enter", "--preorder"]);

    let list = lists(&sandbox, &[&child, "--hook", SYS_ENTER]).remove(0);
    assert_eq!(list["cgroup"], child.as_str());
    assert!(list["cgroup_id"].is_u64());
    assert_eq!(list["hook"], SYS_ENTER);
    assert_eq!(list["mode"], "multi");
    assert_eq!(list["revision"], 2);
    assert_eq!(list["effective"], false);
    let attachments = list["attachments"].as_array().unwrap();
    assert_eq!(attachments.len(), 1);
    let attachment = &attachments[0];
    assert_eq!(attachment["id"], own["attachments"][0]["id"]);
    assert_eq!(attachment["instance"], own["instance"]);
    assert_eq!(attachment["program"], "enter");
    assert_eq!(attachment["cgroup"], child.as_str());
    assert_eq!(attachment["preorder"], true);
    assert_eq!(attachment["cookie"], 0);
    assert!(attachment["run_count"].is_u64());

    let effective = lists(&sandbox, &[&child, "--effective", "--hook", SYS_ENTER]).remove(0);
    assert_eq!(effective["effective"], true);
    let brief: Vec<_> = effective["attachments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["id"].clone(), a["cgroup"].clone(), a["cookie"].clone()))
        .collect();
    let (mine, inherited) = (
        &own["attachments"][0]["id"],
        &parent["attachments"][0]["id"],
    );
    assert_eq!(
        brief,
        [
            (mine.clone(), json!(child), json!(0)),
            (inherited.clone(), json!(sandbox.cgroup), json!(16))
        ]
    );
    let below = lists(&sandbox, &[&sandbox.cgroup, "--recursive"]);
    assert_eq!(below.len(), 2);
}

#[test]
fn list_is_a_table_of_80_columns() {
    let sandbox = Sandbox::new();
    let attached = attach(&sandbox, "", &[]);
    let ran = sandbox.run(&["list"]).done();
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(lines.iter().all(|l| l.chars().count() <= 80), "{ran:?}");
    let titles: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(
        titles,
        ["ID", "PROGRAM", "HOOK", "CGROUP", "MODE", "REV", "RUNS"]
    );
    let cells: Vec<&str> = lines[1].split_whitespace().collect();
    let first = id(&attached, 0);
    assert_eq!(cells[..2], [first.as_str(), "enter"]);
    assert_eq!(cells[2..6], [SYS_ENTER, &sandbox.cgroup, "multi", "2"]);
}

#[test]
fn an_instance_can_be_attached_elsewhere() {
    let mut sandbox = Sandbox::new();
    let child = sandbox.child("child");
    let first = attach(&sandbox, "", &["--program", "enter"]);
    let instance = first["instance"].to_string();
    let words = [
        "--json",
        "attach",
        &child,
        "--instance",
        &instance,
        "--program",
        "leave",
    ];
    let second = sandbox.run(&words).done().json();
    assert_eq!(second["instance"], first["instance"]);
    assert_eq!(second["attachments"][0]["hook"], SYS_EXIT);
    assert_eq!(second["attachments"][0]["cgroup"], child.as_str());
}

#[test]
fn maps_are_pinned_where_they_are_said_to_be() {
    let sandbox = Sandbox::new();
    let attached = attach(&sandbox, "", &[]);
    let instance = attached["instance"].to_string();
    let maps = sandbox.run(&["--json", "maps", &instance]).done().json();
    let instance = &maps["instances"][0];
    assert_eq!(instance["id"], attached["instance"]);
    assert_eq!(instance["object"], object().to_str().unwrap());
    let map = |name: &str| {
        let maps = instance["maps"].as_array().unwrap();
        maps.iter().find(|m| m["name"] == name).unwrap().clone()
    };
    let counts = map("counts");
    assert_eq!(counts["type"], "array");
    let pin = std::path::PathBuf::from(counts["pin"].as_str().unwrap());
    assert!(pin.starts_with(&sandbox.state), "{counts}");
    assert!(pin.exists(), "{counts}");
    assert_eq!(map("own")["pin"], Value::Null);
    let text = sandbox.run(&["maps"]).done().out;
    assert!(text.contains(pin.to_str().unwrap()), "{text}");
}

#[test]
fn storage_belongs_to_the_attachment() {
    let mut sandbox = Sandbox::new();
    sandbox.child("child");
    let id = id(&attach(&sandbox, "", &["--program", "enter"]), 0);
    let value = || {
        let storage = sandbox.run(&["--json", "storage", &id]).done().json();
        assert_eq!(storage["attachment"].to_string(), id);
        let map = &storage["maps"][0];
        assert_eq!(map["name"], "own");
        let hex = map["value_hex"].as_str().unwrap().to_owned();
        let bytes: Vec<u8> = (0..16)
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect();
        u64::from_ne_bytes(bytes.try_into().unwrap())
    };
    assert_eq!(value(), 0);
    sandbox.inside("child", "true");
    let counted = value();
    assert!(counted > 0);
    let text = sandbox.run(&["storage", &id]).done().out;
    assert!(text.contains(&counted.to_string()), "{text}");
    let runs = &lists(&sandbox, &[&sandbox.cgroup])[0]["attachments"][0]["run_count"];
    assert_eq!(runs.as_u64().unwrap(), counted);
}

#[test]
fn replace_keeps_the_attachment_and_may_insist_on_what_is_there() {
    let sandbox = Sandbox::new();
    let first = attach(&sandbox, "", &["--program", "enter"]);
    let (id, old) = (id(&first, 0), first["instance"].to_string());
    let file = object().to_str().unwrap();
    let replace = |words: &[&str]| {
        let call = ["--json", "replace", &id, file, "--program", "enter"];
        sandbox.run(&[&call, words].concat())
    };
    let replaced = replace(&["--expect-program", &old]).done().json();
    assert_eq!(replaced["attachments"][0]["id"].to_string(), id);
    assert_ne!(replaced["instance"].to_string(), old);
    let refused = replace(&["--expect-program", &old]);
    assert_eq!(refused.status, 1);
    assert_eq!(refused.error()["errno"], "EPERM");
}

#[test]
fn each_way_to_detach_removes_what_it_says() {
    let mut sandbox = Sandbox::new();
    let child = sandbox.child("child");
    let gone = |words: &[&str]| {
        let ran = sandbox.run(&[&["--json", "detach"], words].concat()).done();
        ran.json()["detached"].as_array().unwrap().len()
    };
    let first = attach(&sandbox, "", &[]);
    attach(&sandbox, "child", &[]);
    assert_eq!(gone(&[&id(&first, 0)]), 1);
    assert_eq!(gone(&["--cgroup", &child, "--hook", SYS_EXIT]), 1);
    assert_eq!(gone(&["--cgroup", &child]), 1);
    assert_eq!(gone(&["--instance", &first["instance"].to_string()]), 1);
    attach(&sandbox, "", &[]);
    attach(&sandbox, "child", &[]);
    assert_eq!(gone(&["--all"]), 4);
    let ran = sandbox.run(&["list"]).done();
    assert_eq!(
        (ran.out.as_str(), ran.err.as_str()),
        ("", "note: nothing is attached\n")
    );
    let ran = sandbox.run(&["--json", "detach", "4000000"]);
    assert_eq!(
        (ran.status, ran.error()["kind"].clone()),
        (1, json!("not_found"))
    );
}

#[test]
fn the_tree_marks_what_is_inherited() {
    let mut sandbox = Sandbox::new();
    let child = sandbox.child("child");
    attach(&sandbox, "", &["--program", "enter"]);
    let tree = sandbox
        .run(&["--json", "tree", &sandbox.cgroup])
        .done()
        .json();
    assert_eq!(tree["tree"]["cgroup"], sandbox.cgroup.as_str());
    let below = &tree["tree"]["children"][0];
    assert_eq!(below["cgroup"], child.as_str());
    assert_eq!(below["hooks"][0]["attachments"][0]["inherited"], true);
    let ascii = sandbox.run(&["tree", &sandbox.cgroup]).done();
    assert!(
        ascii.out.is_ascii() && ascii.out.contains("`- child"),
        "{ascii:?}"
    );
    let inherited = format!("1 inherited from {}", sandbox.cgroup);
    assert!(ascii.out.contains(&inherited), "{ascii:?}");
    let mut command = sandbox.cgtap(&["tree", &sandbox.cgroup]);
    let unicode = Ran::of(command.env("LANG", "C.UTF-8")).done();
    assert!(unicode.out.contains("└─ child"), "{unicode:?}");
}

#[test]
fn what_the_kernel_or_the_state_refuses_exits_1_with_a_document() {
    let mut sandbox = Sandbox::new();
    let child = sandbox.child("child");
    attach(&sandbox, "", &["--program", "enter", "--mode", "none"]);
    let file = object().to_str().unwrap();
    let rule = ["attach", &child, file, "--program", "enter"];
    let replace = [
        "attach",
        &child,
        file,
        "--replace",
        "1",
        "--before",
        "first",
    ];
    let stale = [
        "attach",
        &child,
        file,
        "--program",
        "leave",
        "--expect-revision",
        "9",
    ];
    for (words, kind, errno) in [
        (&rule[..], "rule", json!("EPERM")),
        (&replace, "rule", json!("EINVAL")),
        (&stale, "rule", json!("ESTALE")),
        (
            &["attach", "/no/such/cgroup", file],
            "cgroup",
            json!("ENOENT"),
        ),
        (
            &["stat", "-e", "raw_tp:no_such", "-d", "1"],
            "hook",
            json!("ENOENT"),
        ),
    ] {
        let ran = sandbox.run(&[&["--json"], words].concat());
        assert_eq!(ran.status, 1, "{words:?}: {ran:?}");
        let error = ran.error();
        assert_eq!(error["kind"], kind, "{words:?}: {error}");
        assert_eq!(error["errno"], errno, "{words:?}: {error}");
        let plain = sandbox.run(words);
        assert!(plain.err.starts_with("error: "), "{plain:?}");
    }
    assert_eq!(lists(&sandbox, &[]).len(), 1);
}

#[test]
fn two_states_never_see_each_other() {
    let (one, other) = (Sandbox::new(), Sandbox::new());
    attach(&one, "", &[]);
    assert!(lists(&other, &[]).is_empty());
    let mut command = support::cgtap();
    command
        .env("CGTAP_STATE", &one.state)
        .args(["--json", "list"]);
    assert_eq!(
        Ran::of(&mut command).done().json()["lists"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// Whoever may not look is told so, and not that the kernel lacks it.
#[test]
fn doctor_says_no_of_nothing_that_it_may_not_see() {
    // Where everybody can run it.
    let dir = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let program = dir.path().join("cgtap");
    std::fs::copy(env!("CARGO_BIN_EXE_cgtap"), &program).unwrap();
    let mut nobody = Command::new("setpriv");
    nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(["--json", "doctor"])
        .stdin(Stdio::null());
    let nobodys = Ran::of(&mut nobody).json();
    let roots = Sandbox::new().run(&["--json", "doctor"]).json();
    let state = |told: &Value, name: &str| {
        let features = told["features"].as_array().unwrap();
        let found = features.iter().find(|f| f["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {told}"))["state"].clone()
    };
    assert_eq!(state(&nobodys, "CAP_BPF"), "no", "{nobodys}");
    // An older kernel may lack it.
    let is_had = |name: &&str| state(&roots, name) == "yes";
    let names = ["current without a call", "CGRP_STORAGE maps"];
    for name in names.into_iter().filter(is_had) {
        assert_eq!(state(&nobodys, name), "unknown", "{name}: {nobodys}");
    }
    // Some kernels show it to everybody.
    if is_had(&"tracefs") {
        assert_ne!(state(&nobodys, "tracefs"), "no", "{nobodys}");
    }
}

#[test]
fn doctor_says_what_works() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["--json", "doctor"]);
    let report = ran.json();
    assert!(
        report["kernel"]
            .as_str()
            .unwrap()
            .starts_with(char::is_numeric)
    );
    let features = report["features"].as_array().unwrap();
    assert!(!features.is_empty());
    for feature in features {
        for field in ["name", "state", "why", "remedy"] {
            assert!(feature[field].is_string(), "{feature}");
        }
        let state = feature["state"].as_str().unwrap();
        assert!(["yes", "no", "unknown"].contains(&state), "{feature}");
    }
    let works = features
        .iter()
        .all(|f| f["required"] == false || f["state"] == "yes");
    assert_eq!(ran.status, i32::from(!works));
    sandbox.run(&["doctor", "--repair"]);
}

/// The process has come as far as to have a handler for SIGINT.
fn catches_interrupts(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught & (1 << (Signal::INT.as_raw() - 1)) != 0
}

/// Starts `list` while the state is locked, and stays so until it has ended; `signals` are sent to it.
fn interrupted_while_waiting(signals: usize) -> (Ran, Duration) {
    let sandbox = Sandbox::new();
    attach(&sandbox, "", &["--program", "enter"]);
    let state = File::open(&sandbox.state).unwrap();
    flock(&state, FlockOperation::LockExclusive).unwrap();
    let mut command = sandbox.cgtap(&["--json", "list"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    while !catches_interrupts(child.id()) {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    for _ in 0..signals {
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    let ran = Ran::from(child.wait_with_output().unwrap());
    let took = begun.elapsed();
    drop(state);
    (ran, took)
}

#[test]
fn a_command_that_has_to_wait_can_be_interrupted() {
    let (once, in_time) = interrupted_while_waiting(1);
    assert_eq!(once.status, 130, "{once:?}");
    assert_eq!(once.error()["kind"], "interrupted");
    // A machine that stands still for a while may take as long; not each time.
    let mut at_once = (0..5).map(|_| {
        let (twice, at_once) = interrupted_while_waiting(2);
        assert_eq!(twice.status, 130, "{twice:?}");
        at_once
    });
    assert!(
        at_once.any(|at_once| at_once < in_time),
        "never within {in_time:?}"
    );
}
