//! Perf events of `cgtap stat` against work whose counts are known, and against perf. Needs root,
//! cgroup2 and perf.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Ran, Sandbox, compiled_with};

/// Software events that are exact.
const EXACT: [&str; 5] = [
    "context-switches",
    "page-faults",
    "minor-faults",
    "cpu-migrations",
    "cgroup-switches",
];
const HOOK: &str = "tp_btf:sched_switch";

/// `tests/fixtures/counted.c`, compiled.
fn worker() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| compiled_with("fixtures/counted", &["-Wl,-z,now"]))
}

/// A shell command that works in `cgroup` of the sandbox: sleeps, and new pages. It comes from the
/// sandbox's own cgroup and goes back there.
fn work(sandbox: &Sandbox, cgroup: &str, sleeps: u64, pages: u64) -> String {
    let procs = |cgroup: &str| sandbox.directory.join(cgroup).join("cgroup.procs");
    format!(
        "echo go | {} {} {} {sleeps} {pages}",
        worker().display(),
        procs(cgroup).display(),
        procs("").display()
    )
}

/// The event `name` of the cgroup whose path ends in `cgroup`.
#[track_caller]
fn event<'a>(report: &'a Value, cgroup: &str, name: &str) -> &'a Value {
    let rows = report["cgroups"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|r| r["cgroup"].as_str().unwrap().ends_with(cgroup))
        .unwrap_or_else(|| panic!("no {cgroup} in {report}"));
    let events = row["events"].as_array().unwrap();
    events
        .iter()
        .find(|e| e["event"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[track_caller]
fn count(report: &Value, cgroup: &str, name: &str) -> u64 {
    event(report, cgroup, name)["count"].as_u64().unwrap()
}

/// `cgtap --json stat WORDS -o FILE -- sh -c SCRIPT`, and its file.
fn stat_of(sandbox: &Sandbox, words: &[&str], script: &str) -> (Command, PathBuf) {
    let file = std::env::temp_dir().join(format!(
        "cgtap-test-counters-{}",
        sandbox.cgroup.trim_start_matches('/')
    ));
    let mut ours = sandbox.cgtap(&["--json", "stat"]);
    ours.args(words)
        .arg("-o")
        .arg(&file)
        .args(["--", "sh", "-c", script]);
    (ours, file)
}

/// The report in `file`, which goes.
fn report_in(file: &Path) -> Value {
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::remove_file(file).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Runs it, by itself or below perf; what the script printed, the report, and what perf printed.
fn stat(sandbox: &Sandbox, perf: &[&str], words: &[&str], script: &str) -> (String, Value, String) {
    let (mut ours, file) = stat_of(sandbox, words, script);
    let ran = if perf.is_empty() {
        Ran::of(&mut ours)
    } else {
        let mut outer = Command::new("perf");
        outer.args(perf).arg("--").arg(ours.get_program());
        outer.args(ours.get_args()).stdin(Stdio::null());
        Ran::of(&mut outer)
    }
    .done();
    (ran.out, report_in(&file), ran.err)
}

/// Does it again where something was lost: a kernel may keep switches from programs (docs/kernel-facts.md), and
/// what ran then is charged to another cgroup. That is told, and all that is told is exact without.
#[track_caller]
fn with_nothing_lost(mut stat: impl FnMut() -> (String, Value, String)) -> (String, Value, String) {
    let mut lost = Vec::new();
    for _ in 0..10 {
        let ran = stat();
        if ran.1["lost"] == 0 {
            return ran;
        }
        lost.push(ran.1["lost"].clone());
    }
    panic!("something was lost each time: {lost:?}");
}

/// The counts that `perf stat -x,` printed: value, event, cgroup.
fn perfs(text: &str) -> Vec<(f64, String, String)> {
    let rows = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(',').collect();
        let value = words.first()?.parse().ok()?;
        Some((value, words[2].to_owned(), words[3].to_owned()))
    });
    rows.collect()
}

/// Where our task-clock is not perf's within 5 %.
fn clocks_apart(report: &Value, perfs: &[(f64, String, String)]) -> Vec<String> {
    let clocks = perfs.iter().filter(|(_, name, _)| name == "task-clock");
    clocks
        .filter_map(|(perf_ms, name, cgroup)| {
            let ours_ms = count(report, &format!("/{cgroup}"), name) as f64 / 1e6;
            // What it ran in the middle of its move is the old cgroup's, and to perf the new one's.
            let moved = if cgroup.ends_with("/end") { 10.0 } else { 0.0 };
            let is_near = (ours_ms - perf_ms).abs() <= 0.05 * perf_ms + 0.5 + moved;
            (!is_near).then(|| format!("{cgroup}: {ours_ms} ms, perf {perf_ms} ms"))
        })
        .collect()
}

/// perf has to see these cgroups, or there is nothing to compare with.
fn perf_sees_cgroup2() {
    let controllers = std::fs::read_to_string("/proc/cgroups").unwrap();
    let line = controllers.lines().find(|l| l.starts_with("perf_event"));
    let hierarchy = line.and_then(|l| l.split_whitespace().nth(1));
    assert_eq!(
        hierarchy,
        Some("0"),
        "NOT RUN: perf_event is bound to a v1 hierarchy here, so perf does not see cgroup2; boot with \
         cgroup_no_v1=perf_event"
    );
}

#[test]
fn software_events_are_exact_and_the_same_as_perfs() {
    perf_sees_cgroup2();
    let mut sandbox = Sandbox::new();
    let [a, b, end, idle] = ["a", "b", "end", "idle"].map(|name| sandbox.child(name));
    let events = EXACT.join(",");
    // perf says `<not counted>` of an idle one.
    let names: Vec<&str> = [&a, &b, &end].map(|c| c.trim_start_matches('/')).into();
    let cgroups = names.join(",");
    let perf_events = format!("{events},task-clock");
    let perf = [
        "stat",
        "-a",
        "-x,",
        "-e",
        &perf_events,
        "--for-each-cgroup",
        &cgroups,
    ];
    let words = [
        "-c",
        &a,
        "-c",
        &b,
        "-c",
        &end,
        "-c",
        &idle,
        "-e",
        &events,
        "-e",
        "task-clock",
        "-e",
        HOOK,
    ];
    let script = format!(
        "({}) & ({}) & (echo 0 >{}/cgroup.procs; exec true) & wait",
        work(&sandbox, "a", 200, 500),
        work(&sandbox, "b", 100, 300),
        // It comes without a switch and goes with one, the last of its life.
        sandbox.directory.join("end").display()
    );
    // What the switches themselves take is ours and not perf's: not much, unless the machine stands still in one.
    let mut far = Vec::new();
    let (out, report, err, perfs) = loop {
        let (out, report, err) = with_nothing_lost(|| stat(&sandbox, &perf, &words, &script));
        let perfs = perfs(&err);
        let apart = clocks_apart(&report, &perfs);
        if apart.is_empty() {
            break (out, report, err, perfs);
        }
        far.push(apart);
        assert!(far.len() < 5, "{far:?}");
    };
    // What the workers know of themselves.
    assert_eq!(count(&report, "/a", "page-faults"), 500);
    assert_eq!(count(&report, "/b", "page-faults"), 300);
    let mut bounds: Vec<Vec<u64>> = out
        .lines()
        .map(|l| l.split(' ').map(|w| w.parse().unwrap()).collect())
        .collect();
    bounds.sort();
    for (cgroup, bound) in ["/b", "/a"].iter().zip(&bounds) {
        let switches = count(&report, cgroup, "context-switches");
        assert!(
            (bound[0]..=bound[1]).contains(&switches),
            "{cgroup}: {switches} is not in {bound:?}: {report}\n{err}"
        );
    }
    assert!(count(&report, "/end", "context-switches") > 0, "{report}");
    // A switch in the middle of a move is of the cgroup that was, or of the one that will be. How many there
    // were the workers know; of the one that ends, at most one.
    let between = |cgroup: &str| match cgroup {
        "/b" => bounds[0][1] - bounds[0][0],
        "/a" => bounds[1][1] - bounds[1][0],
        _ => 1,
    };
    for cgroup in ["/a", "/b", "/end"] {
        let switches = count(&report, cgroup, "context-switches");
        // The same event counted in another way, by a hook. That is read a moment later, and a process
        // that has ended may leave its CPU for the last time in between.
        let hook = count(&report, cgroup, HOOK);
        let most = between(cgroup);
        assert!(
            (switches.saturating_sub(most)..=switches + most + 1).contains(&hook),
            "{cgroup}: {report}"
        );
    }
    // What perf counted of the same work.
    assert_eq!(perfs.len(), 18, "{err}");
    for (value, name, cgroup) in &perfs {
        let ours = count(&report, &format!("/{cgroup}"), name);
        if name != "task-clock" {
            let of_switches = name.ends_with("switches") || name == "cpu-migrations";
            let most = match cgroup.rfind('/') {
                Some(at) if of_switches => between(&cgroup[at..]),
                _ => 0,
            };
            assert!(
                (ours as f64 - value).abs() <= most as f64,
                "{name} of {cgroup}: {report}\n{err}"
            );
        }
        println!("{cgroup} {name}: {ours}, perf {value}");
    }
    for name in EXACT.iter().chain(&["task-clock", HOOK]) {
        assert_eq!(count(&report, "/idle", name), 0, "{name}");
    }
}

#[test]
fn totals_are_own_and_below() {
    let mut sandbox = Sandbox::new();
    let a = sandbox.child("a");
    sandbox.child("a/x");
    sandbox.child("a/x/deep");
    let script = [
        work(&sandbox, "a", 0, 1),
        work(&sandbox, "a/x", 0, 20),
        work(&sandbox, "a/x/deep", 0, 300),
    ]
    .join(";");
    let words = ["-c", &a, "-e", "faults", "--per-cgroup"];
    let (_, report, _) = with_nothing_lost(|| stat(&sandbox, &[], &words, &script));
    let both = |cgroup: &str| {
        let event = event(&report, cgroup, "faults");
        (
            event["own"].as_u64().unwrap(),
            event["total"].as_u64().unwrap(),
        )
    };
    assert_eq!(both("/a"), (1, 321));
    assert_eq!(both("/x"), (20, 320));
    assert_eq!(both("/deep"), (300, 300));
    // The same where one is named and one far below it: those between have their rows.
    let (x, deep) = (format!("{a}/x"), format!("{a}/x/deep"));
    let words = ["-c", &a, "-c", &deep, "-e", "faults", "--per-cgroup"];
    let (_, report, _) = with_nothing_lost(|| stat(&sandbox, &[], &words, &script));
    let totals = ["/a", "/x", "/deep"].map(|c| event(&report, c, "faults")["total"].as_u64());
    assert_eq!(totals, [321, 320, 300].map(Some), "{report}");
    // The same without a row for each.
    let words = ["-c", &a, "-c", &x, "-c", &a, "-e", "faults"];
    let (_, report, _) = with_nothing_lost(|| stat(&sandbox, &[], &words, &script));
    let counts: Vec<_> = (0..3)
        .map(|row| report["cgroups"][row]["events"][0]["count"].as_u64())
        .collect();
    assert_eq!(counts, [Some(321), Some(320), Some(321)]);
}

#[test]
fn a_cgroup_that_comes_and_goes_is_in_the_totals_above_it() {
    let mut sandbox = Sandbox::new();
    let a = sandbox.child("a");
    sandbox.child("a/x");
    let dir = sandbox.directory.join("a/x");
    let script = format!(
        "mkdir -p {0}/n/m && {1} && {2} && rmdir {0}/n/m {0}/n",
        dir.display(),
        work(&sandbox, "a/x/n", 0, 40),
        work(&sandbox, "a/x/n/m", 0, 5),
    );
    let words = ["-c", &a, "-e", "faults"];
    let (_, report, _) = with_nothing_lost(|| stat(&sandbox, &[], &words, &script));
    assert_eq!(count(&report, "/a", "faults"), 45);
    let words = ["-c", &a, "-e", "faults", "--per-cgroup"];
    let (_, report, _) = with_nothing_lost(|| stat(&sandbox, &[], &words, &script));
    let rows: Vec<(bool, u64, u64)> = report["cgroups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let number = |field: &str| row["events"][0][field].as_u64().unwrap();
            let is_gone = row["cgroup"].as_str().unwrap().starts_with("id:");
            (is_gone, number("own"), number("total"))
        })
        .collect();
    let expected = [(false, 0, 45), (false, 0, 45), (true, 40, 45), (true, 5, 5)];
    assert_eq!(rows, expected, "{report}");
    assert_eq!(report["lost"], 0);
}

#[test]
fn cgroups_without_a_row_are_counted_in_the_one_above() {
    let mut sandbox = Sandbox::new();
    let a = sandbox.child("a");
    let dir = sandbox.directory.join("a").display().to_string();
    // More than there are rows to come.
    let script = format!(
        "cd {dir} && mkdir $(seq 1100) && rmdir $(seq 1100) && mkdir last && {} && rmdir last",
        work(&sandbox, "a/last", 0, 40)
    );
    let words = ["-c", &a, "-e", "faults", "--per-cgroup"];
    let (_, report, _) = with_nothing_lost(|| stat(&sandbox, &[], &words, &script));
    let merged = report["merged"].as_u64().unwrap();
    assert!((50..150).contains(&merged), "{merged}");
    let row = event(&report, "/a", "faults");
    assert_eq!((&row["own"], &row["total"]), (&40.into(), &40.into()));
}

#[test]
fn all_cgroups_together_are_the_whole_machine() {
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    sandbox.child("b");
    // Between perf on the outside and perf on the inside, with tasks that move between CPUs.
    let events = "context-switches,page-faults,cpu-migrations";
    let outer = ["stat", "-a", "-x,", "-e", events];
    let script = format!(
        "perf stat -a -x, -e {events} -- sh -c '({}) & ({}) & for i in 1 2 3 4 5 6 7 8; do true | cat; \
         done; wait' 2>&1 >/dev/null",
        work(&sandbox, "a", 100, 500),
        work(&sandbox, "b", 100, 300)
    );
    let words = ["-c", "/", "-e", events, "--per-cgroup"];
    let (inner, report, outer) = stat(&sandbox, &outer, &words, &script);
    let (inner, outer) = (perfs(&inner), perfs(&outer));
    assert_eq!((inner.len(), outer.len()), (3, 3));
    for (at, name) in events.split(',').enumerate() {
        let rows = report["cgroups"].as_array().unwrap();
        let own = |row: &Value| row["events"][at]["own"].as_u64().unwrap();
        let sum: u64 = rows.iter().map(own).sum();
        assert_eq!(
            sum,
            rows[0]["events"][at]["total"].as_u64().unwrap(),
            "{name}"
        );
        let (low, high) = (inner[at].0, outer[at].0);
        assert!(
            low <= sum as f64 && sum as f64 <= high,
            "{name}: {low} <= {sum} <= {high} does not hold"
        );
        println!("{name}: perf inside {low}, all cgroups {sum}, perf outside {high}");
    }
}

#[test]
fn a_task_that_never_leaves_its_cpu_is_counted_up_to_the_end() {
    let mut sandbox = Sandbox::new();
    let a = sandbox.child("a");
    let script = format!(
        "echo 0 >{}/cgroup.procs && while :; do :; done",
        sandbox.directory.join("a").display()
    );
    // Before all others on its CPU, so that no switch brings its counts in.
    let mut spinner = Command::new("chrt")
        .args(["-f", "1", "sh", "-c", &script])
        .spawn()
        .unwrap();
    let procs = sandbox.directory.join("a/cgroup.procs");
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(&procs).unwrap().is_empty() {
        assert!(Instant::now() < end, "the spinner does not begin");
        thread::sleep(Duration::from_millis(5));
    }
    let words = [
        "--json",
        "stat",
        "-c",
        &a,
        "-e",
        "task-clock,cs",
        "-d",
        "0.3",
    ];
    let ran = sandbox.run(&words);
    spinner.kill().unwrap();
    spinner.wait().unwrap();
    let report = ran.done().json();
    let ran_s = count(&report, "/a", "task-clock") as f64 / 1e9;
    let seconds = report["seconds"].as_f64().unwrap();
    assert!(ran_s > 0.25 * seconds && ran_s < 1.1 * seconds, "{report}");
}

/// A worker that is to be moved by others.
struct Moved {
    child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Moved {
    fn start(sandbox: &Sandbox, cgroup: &str, pages: u64) -> Self {
        let mut child = Command::new(worker())
            .arg(sandbox.directory.join(cgroup).join("cgroup.procs"))
            .args(["-", "0", &pages.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Lets it go on, and waits for what it says.
    fn go(&mut self) {
        self.input.write_all(b"go\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_ne!(line, "");
    }
}

#[test]
fn a_task_that_others_move_while_it_waits_is_charged_where_it_works() {
    let mut sandbox = Sandbox::new();
    let (a, b) = (sandbox.child("a"), sandbox.child("b"));
    let words = ["-c", &a, "-c", &b, "-e", "faults"];
    let (_, report, _) = with_nothing_lost(|| {
        let mut worker = Moved::start(&sandbox, "a", 50);
        // Its command runs from when it counts until it is told to stop.
        let (mut stat, file) = stat_of(&sandbox, &words, "echo counting && read -r stop");
        stat.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut stat = stat.spawn().unwrap();
        let mut begun = BufReader::new(stat.stdout.take().unwrap());
        assert!(begun.read_line(&mut String::new()).unwrap() > 0);
        worker.go();
        let pid = worker.child.id().to_string();
        std::fs::write(sandbox.directory.join("b/cgroup.procs"), pid).unwrap();
        worker.go();
        stat.stdin.take().unwrap().write_all(b"stop\n").unwrap();
        assert!(stat.wait().unwrap().success());
        drop(worker.input);
        worker.child.wait().unwrap();
        (String::new(), report_in(&file), String::new())
    });
    let counts = ["/a", "/b"].map(|cgroup| count(&report, cgroup, "faults"));
    assert_eq!(counts, [50, 50]);
}

/// The numbers behind `field` in a process's fdinfo: ids of its programs or maps.
fn ids(pid: u32, field: &str) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten();
    let texts = entries.filter_map(|e| std::fs::read_to_string(e.ok()?.path()).ok());
    texts
        .filter_map(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix(field))?;
            Some(line.trim().to_owned())
        })
        .collect()
}

#[test]
fn nothing_is_left_of_a_count_that_is_killed() {
    let sandbox = Sandbox::new();
    let mut stat = sandbox.cgtap(&[
        "stat",
        "-c",
        &sandbox.cgroup,
        "-e",
        "cs,task-clock",
        "-d",
        "600",
    ]);
    let mut stat = stat.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while ids(stat.id(), "link_id:").len() < 4 {
        assert!(Instant::now() < end, "{stat:?} does not count");
        thread::sleep(Duration::from_millis(20));
    }
    let (progs, maps) = (ids(stat.id(), "prog_id:"), ids(stat.id(), "map_id:"));
    assert!(progs.len() >= 5 && maps.len() >= 6, "{progs:?} {maps:?}");
    stat.kill().unwrap();
    stat.wait().unwrap();
    assert!(
        !sandbox.state.exists(),
        "counting perf events needs no state"
    );
    let is_there = |kind: &str, id: &String| {
        let output = Command::new("bpftool")
            .args([kind, "show", "id", id])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output();
        output.unwrap().status.success()
    };
    let end = Instant::now() + Duration::from_secs(60);
    // Freed after a grace period or two.
    while progs.iter().any(|id| is_there("prog", id)) || maps.iter().any(|id| is_there("map", id)) {
        assert!(
            Instant::now() < end,
            "programs {progs:?} or maps {maps:?} are left"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_hardware_event_is_counted_or_said_not_to_be_there() {
    let sandbox = Sandbox::new();
    let words = [
        "--json",
        "stat",
        "-c",
        &sandbox.cgroup,
        "-e",
        "cycles",
        "-d",
        "0.1",
    ];
    let ran = sandbox.run(&words);
    // Where the CPU's PMU is known to the kernel it is one of these.
    let has_pmu = ["cpu", "cpu_core", "armv8_pmuv3_0"].iter().any(|name| {
        Path::new("/sys/bus/event_source/devices")
            .join(name)
            .exists()
    });
    if has_pmu {
        assert!(ran.done().json()["cgroups"][0]["events"][0]["enabled_ns"].is_u64());
    } else {
        assert_eq!(ran.status, 1);
        let error = ran.error();
        assert_eq!(error["kind"], "unsupported");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with(
                "this machine has no hardware counter for cycles (no PMU, or a virtual machine \
                 without one); software events such as task-clock work"
            ),
            "{message}"
        );
    }
}

#[test]
fn a_cgroup_that_is_gone_before_the_start_is_said() {
    let sandbox = Sandbox::new();
    let gone = sandbox.directory.join("gone");
    std::fs::create_dir(&gone).unwrap();
    std::fs::remove_dir(&gone).unwrap();
    let words = [
        "--json",
        "stat",
        "-c",
        gone.to_str().unwrap(),
        "-e",
        "cs",
        "-d",
        "1",
    ];
    let ran = sandbox.run(&words);
    assert_eq!((ran.status, &ran.error()["kind"]), (1, &"cgroup".into()));
}

#[test]
fn a_commands_own_counts_are_told_in_the_order_asked_for() {
    let sandbox = Sandbox::new();
    let words = [
        "--json",
        "stat",
        "-e",
        "faults,tp_btf:sched_process_exec",
        "-e",
        "task-clock",
    ];
    let ran = sandbox.run(&[&words[..], &["--", "true"]].concat()).done();
    let report = ran.json();
    let rows = report["cgroups"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    let events = rows[0]["events"].as_array().unwrap();
    let names: Vec<_> = events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["faults", "tp_btf:sched_process_exec", "task-clock"]);
    let units: Vec<_> = events.iter().map(|e| e["unit"].as_str()).collect();
    assert_eq!(units, [Some("count"), None, Some("ns")]);
    assert!(
        events.iter().all(|e| e["count"].as_u64() > Some(0)),
        "{report}"
    );
    assert_eq!(events[1]["count"], 1);
    let table = sandbox
        .run(&["stat", "-e", "task-clock", "--", "true"])
        .done();
    assert!(table.out.contains(" ms\n"), "{table:?}");
}
