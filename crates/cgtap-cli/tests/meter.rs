//! `cgtap meter`, `cgtap usage` and values in `cgtap stat`, as a user calls them. Needs root, cgroup2
//! and a bpffs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::{Ran, Sandbox, run};

/// What `dd` writes.
const WRITES: &str = r#"
name = "writes"
help = "What dd writes"
cannot_see = ["what others write"]
values.bytes = { help = "Bytes", unit = "bytes" }
values.calls = { help = "Calls" }
[[probes]]
hook = "tracepoint:syscalls/sys_enter_write"
if = 'current->comm == "dd"'
do = { bytes = "sum(count)", calls = "count()" }
"#;

/// A file of a test's own.
fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The rows of a cgroup in `usage`.
fn meters(usage: &Value, cgroup: &str) -> Vec<Value> {
    let rows = usage["cgroups"].as_array().unwrap();
    let row = rows.iter().find(|r| r["cgroup"] == cgroup);
    row.unwrap_or_else(|| panic!("no {cgroup} in {usage}"))["meters"]
        .as_array()
        .unwrap()
        .clone()
}

const DD: &str = "dd if=/dev/zero of=/dev/null bs=1000 count=50 status=none";

#[test]
fn a_file_of_ones_own_counts_with_no_process_of_ours() {
    let mut sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "writes.toml", WRITES);
    let path = path.to_str().unwrap();
    let enabled = sandbox
        .run(&[
            "--json",
            "meter",
            "enable",
            path,
            "--cgroup",
            &sandbox.cgroup,
        ])
        .done()
        .json();
    assert_eq!(enabled["meters"][0]["name"], "writes");
    assert_eq!(enabled["meters"][0]["cgroup"], sandbox.cgroup.as_str());
    let (a, x) = (sandbox.child("a"), sandbox.child("a/x"));
    sandbox.inside("a", DD);
    sandbox.inside("a/x", DD);

    let usage = sandbox.run(&["--json", "usage", &sandbox.cgroup, "--recursive"]);
    let usage = usage.done().json();
    assert_eq!(usage["lost"], 0);
    let found = meters(&usage, &a);
    assert_eq!(found[0]["meter"], "writes_bytes");
    assert_eq!(found[0]["unit"], "bytes");
    assert_eq!(found[0]["kind"], "measured");
    assert_eq!(
        (&found[0]["own"], &found[0]["total"]),
        (&50_000.into(), &100_000.into())
    );
    assert_eq!(
        (&found[1]["own"], &found[1]["total"]),
        (&50.into(), &100.into())
    );
    assert_eq!(meters(&usage, &x)[0]["total"], 50_000);
    // One level is shown, and what is below is in the totals all the same.
    let shallow = sandbox.run(&[
        "--json",
        "usage",
        &sandbox.cgroup,
        "--recursive",
        "--depth",
        "1",
    ]);
    let shallow = shallow.done().json();
    assert_eq!(shallow["cgroups"].as_array().unwrap().len(), 2);
    assert_eq!(meters(&shallow, &a)[0]["total"], 100_000);

    let table = sandbox.run(&["usage", &a]).done().out;
    assert!(
        table.contains("writes_bytes  48.83 KiB  97.66 KiB"),
        "{table}"
    );
    sandbox.run(&["meter", "disable", "writes"]).done();
    let none = sandbox.run(&["usage"]).done();
    assert!(none.err.contains("no meter is enabled"), "{}", none.err);
}

#[test]
fn meters_of_a_directory_are_listed_and_bad_files_told() {
    let sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    file(&dir, "writes.toml", WRITES);
    file(&dir, "again.toml", WRITES);
    file(&dir, "mine.toml", &WRITES.replace("\"writes\"", "\"cpu\""));
    file(&dir, "bad.toml", "name = \"bad\"\nhelp = 3\n");
    file(
        &dir,
        "absent.toml",
        &WRITES
            .replace("\"writes\"", "\"absent\"")
            .replace("sys_enter_write", "sys_enter_wriet"),
    );
    file(&dir, "not-a-meter.txt", "hello");
    let words = [
        "--json",
        "meter",
        "--meters",
        dir.path().to_str().unwrap(),
        "list",
    ];
    let listed = sandbox.run(&words).done().json();
    let all = listed["meters"].as_array().unwrap();
    let of = |name: &str| all.iter().find(|m| m["name"] == name).unwrap();
    assert_eq!(of("writes")["state"], "available");
    assert!(
        of("writes")["source"]
            .as_str()
            .unwrap()
            .ends_with("again.toml")
    );
    assert_eq!(of("cpu")["source"], "built-in");
    let absent = of("absent");
    assert_eq!(absent["state"], "unavailable");
    let why = absent["why"].as_str().unwrap();
    assert!(
        why.contains("did you mean syscalls/sys_enter_write"),
        "{why}"
    );
    let wrong: Vec<&str> = listed["wrong"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w.as_str().unwrap())
        .collect();
    for (name, word) in [
        ("bad.toml:2", "string"),
        ("writes.toml", "give this one another name"),
        ("mine.toml", "comes with cgtap"),
    ] {
        let told = wrong.iter().any(|w| w.contains(name) && w.contains(word));
        assert!(told, "{name}: {wrong:#?}");
    }
    assert_eq!(wrong.len(), 3, "{wrong:#?}");
}

#[test]
fn what_cannot_be_enabled_leaves_nothing_enabled() {
    let sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    let good = file(&dir, "writes.toml", WRITES);
    let text = WRITES
        .replace("\"writes\"", "\"other\"")
        .replace("sum(count)", "sum(cout)");
    let bad = file(&dir, "other.toml", &text);
    let words = [good.to_str().unwrap(), bad.to_str().unwrap()];
    let ran = sandbox.run(&[
        "meter",
        "enable",
        words[0],
        words[1],
        "--cgroup",
        &sandbox.cgroup,
    ]);
    assert_eq!(ran.status, 1);
    for part in [
        "it has no field cout; did you mean count?",
        "line 10 of the meter's file",
        "^",
    ] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    let listed = sandbox.run(&["--json", "list"]).done().json();
    assert_eq!(listed["lists"].as_array().unwrap().len(), 0, "{listed}");
    let ran = sandbox.run(&["meter", "enable", "cpuu"]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("did you mean cpu?"), "{}", ran.err);
    let ran = sandbox.run(&["meter", "disable", "cpu"]);
    assert_eq!(
        (ran.status, ran.err.contains("none is")),
        (1, true),
        "{}",
        ran.err
    );
    let ran = sandbox.run(&["meter", "enable", "/nonexistent.toml"]);
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("/nonexistent.toml"), "{}", ran.err);
}

/// However many enable it at a time, one does, and each event is counted once.
#[test]
fn a_meter_is_enabled_once() {
    let sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "writes.toml", WRITES);
    let path = path.to_str().unwrap();
    let enable = ["meter", "enable", path, "--cgroup", &sandbox.cgroup];
    let all: Vec<Ran> = std::thread::scope(|scope| {
        let all = [(); 4].map(|()| scope.spawn(|| sandbox.run(&enable)));
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let done = all.iter().filter(|ran| ran.status == 0).count();
    assert_eq!(done, 1, "{all:?}");
    for ran in all.iter().filter(|ran| ran.status != 0) {
        assert!(ran.err.contains("is enabled already"), "{ran:?}");
    }
    sandbox.inside("", DD);
    let usage = sandbox.run(&["--json", "usage", &sandbox.cgroup]);
    let found = meters(&usage.done().json(), &sandbox.cgroup);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[1]["own"], 50, "{found:?}");
    let listed = sandbox.run(&["--json", "list"]).done().json();
    let all = |wanted: &str| {
        let lists = listed["lists"].as_array().unwrap();
        lists
            .iter()
            .filter(|l| l["hook"].as_str().unwrap().contains(wanted))
            .count()
    };
    assert_eq!(all("sys_enter_write"), 1, "{listed}");
}

/// A meter whose cgroup is gone says so, and is in nobody's way: neither in that of one that is enabled for
/// the cgroup that is made anew, nor in a policy's.
#[test]
fn a_meter_whose_cgroup_is_gone_gives_way() {
    let mut sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    let cgroup = sandbox.child("a");
    let path = file(&dir, "writes.toml", WRITES);
    let enable = [
        "meter",
        "enable",
        path.to_str().unwrap(),
        "--cgroup",
        &cgroup,
    ];
    sandbox.run(&enable).done();
    let meters_dir = dir.path().to_str().unwrap();
    let anew = || {
        std::fs::remove_dir(sandbox.directory.join("a")).unwrap();
        std::fs::create_dir(sandbox.directory.join("a")).unwrap();
    };
    anew();
    let list = sandbox
        .run(&["meter", "list", "--meters", meters_dir])
        .done();
    assert!(list.out.contains("its cgroup is gone"), "{}", list.out);
    sandbox.run(&enable).done();
    let again = sandbox.run(&enable);
    assert!(again.err.contains("is enabled already"), "{again:?}");
    sandbox.inside("a", DD);
    let calls = || {
        let usage = sandbox.run(&["--json", "usage", &cgroup]).done().json();
        meters(&usage, &cgroup)[1]["own"].clone()
    };
    assert_eq!(calls(), 50);
    anew();
    let policy = file(
        &dir,
        "policy.toml",
        &format!("[[meters]]\nname = \"writes\"\ncgroup = \"{cgroup}\"\n"),
    );
    let apply = ["apply", policy.to_str().unwrap(), "--meters", meters_dir];
    sandbox.run(&apply).done();
    sandbox.inside("a", DD);
    assert_eq!(calls(), 50);
    // One whose cgroup nobody finds is an error, also where all meters are meant that can be had.
    let nowhere = format!("{cgroup}/nowhere");
    let ran = sandbox.run(&["meter", "enable", "--all", "--cgroup", &nowhere]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains("nowhere"), "{ran:?}");
}

#[test]
fn a_meter_is_shown_as_words_as_code_and_as_its_file() {
    let words = run(&["meter", "show", "cpu"]).done().out;
    for part in ["cpu_time", "measured", "It cannot see:"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let text = run(&["meter", "show", "cpu", "--file"]).done().out;
    assert!(text.contains("name = \"cpu\""), "{text}");
    let code = run(&["meter", "show", "tasks", "--code"]).done().out;
    for part in [
        "charge_0 at raw_tracepoint:sched_process_fork scope=child",
        "call map_lookup_elem",
        "lock *(u64 *)(r9 + 0) += r1",
        "bury at tp_btf:cgroup_rmdir",
    ] {
        assert!(code.contains(part), "{part}: {code}");
    }
    let schema: Value = serde_json::from_str(&run(&["meter", "schema"]).done().out).unwrap();
    assert_eq!(schema["title"], "cgtap meter");
}

/// The counts of a report with values: value and labels to count.
fn counts(ran: &Ran) -> Vec<(String, String, u64)> {
    let report = ran.json();
    let events = report["cgroups"][0]["events"].as_array().unwrap().clone();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|e| {
            let labels = e.get("labels").map(ToString::to_string).unwrap_or_default();
            (text(&e["value"]), labels, e["count"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn stat_adds_up_and_splits_what_events_carry() {
    let sandbox = Sandbox::new();
    let event = "tracepoint:syscalls/sys_enter_write count() sum(count) hist(count) \
                 by fd == 1 ? \"out\" : \"else\" if count > 1";
    let words = [
        "--json",
        "stat",
        "-e",
        event,
        "-e",
        "tracepoint:syscalls/sys_enter_write",
        "--",
    ];
    let dd: Vec<&str> = DD.split(' ').collect();
    let ran = sandbox.run(&[&words[..], &dd].concat()).done();
    let label = "{\"fd == 1 ? \\\"out\\\" : \\\"else\\\"\":\"out\"}";
    let found = counts(&ran);
    assert_eq!(
        found,
        [
            ("count()".to_owned(), label.to_owned(), 50),
            ("sum(count)".to_owned(), label.to_owned(), 50_000),
            ("hist(count)".to_owned(), label.to_owned(), 50_000),
            (String::new(), String::new(), 50),
        ],
        "{}",
        ran.out
    );
    let events = ran.json()["cgroups"][0]["events"].clone();
    assert_eq!(events[2]["buckets"][9], 50);
    assert_eq!(events[0]["event"], event);
}

#[test]
fn stat_measures_the_time_between_two_events() {
    let sandbox = Sandbox::new();
    let event = "raw_tracepoint:sys_exit since raw_tracepoint:sys_enter key current->pid \
                 count() sum(elapsed) hist(elapsed) if elapsed > 150000000";
    let ran = sandbox.run(&["--json", "stat", "-e", event, "--", "sleep", "0.2"]);
    let found = counts(&ran.done());
    assert_eq!(found[0].2, 1, "{found:?}");
    assert!(
        (200_000_000..400_000_000).contains(&found[1].2),
        "{found:?}"
    );
}

#[test]
fn a_mistake_in_an_event_is_shown_where_it_stands() {
    for (event, status, why) in [
        (
            "tracepoint:syscalls/sys_enter_write sum(cout)",
            1,
            "did you mean count?",
        ),
        (
            "tracepoint:syscalls/sys_enter_write sum(count",
            2,
            "`)` is missing here",
        ),
        (
            "tracepoint:syscalls/sys_enter_write by",
            2,
            "a value is missing",
        ),
        (
            "tracepoint:syscalls/sys_enter_write add(count)",
            2,
            "takes a meter file",
        ),
        (
            "tracepoint:syscalls/sys_enter_write if 1 == 2",
            1,
            "never true",
        ),
        (
            "tp_btf:sched_switch sum(prev->pidd)",
            1,
            "did you mean pid?",
        ),
        ("tp_btf:sched_switch sum(prev)", 1, "hook"),
    ] {
        let sandbox = Sandbox::new();
        let ran = sandbox.run(&["stat", "-e", event, "-d", "0.05"]);
        if why == "hook" {
            // A pointer is a number too.
            assert_eq!(ran.status, 0, "{event}: {}", ran.err);
            continue;
        }
        assert_eq!(ran.status, status, "{event}: {}", ran.err);
        assert!(
            ran.err.contains(why) && ran.err.contains('^'),
            "{event}: {}",
            ran.err
        );
        assert!(!sandbox.state.exists(), "{event}");
    }
}

#[test]
fn a_container_is_shown_and_meant_by_its_name() {
    let mut sandbox = Sandbox::new();
    let id = format!("{:064x}", u128::from(std::process::id()) << 64 | 0xabc);
    let scope = format!("docker-{id}.scope");
    let path = sandbox.child(&scope);
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, "writes.toml", WRITES);
    sandbox
        .run(&["meter", "enable", file.to_str().unwrap()])
        .done();
    sandbox.inside(&scope, DD);
    let word = format!("container:{id}");
    let usage = sandbox.run(&["--json", "usage", &word]).done().json();
    assert_eq!(usage["cgroups"][0]["cgroup"], path.as_str());
    let name = format!("container:{}", &id[..12]);
    assert_eq!(usage["cgroups"][0]["name"], name.as_str());
    assert_eq!(meters(&usage, &path)[0]["own"], 50_000);
    let table = sandbox
        .run(&["usage", &sandbox.cgroup, "--recursive"])
        .done()
        .out;
    assert!(table.contains(&format!("({name})")), "{table}");
    // That of a process: this one's.
    let own = std::process::id().to_string();
    let usage = sandbox
        .run(&["--json", "usage", &format!("pid:{own}")])
        .done()
        .json();
    let known = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let known = known.lines().find_map(|l| l.strip_prefix("0::")).unwrap();
    assert_eq!(usage["cgroups"][0]["cgroup"], known);
    let ran = sandbox.run(&["usage", "container:no-such-container"]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.err
            .contains("there is no cgroup called container:no-such"),
        "{}",
        ran.err
    );
    sandbox.run(&["meter", "disable", "--all"]).done();
}
