//! Built-in meters of what every machine has, held to what work says of itself; others, that need devices,
//! are in `guest_*.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use support::{Ran, Sandbox, compiled, compiled_with, value};

/// The rows of all cgroups below the sandbox's.
fn usage(sandbox: &Sandbox) -> Value {
    let words = ["--json", "usage", &sandbox.cgroup, "--recursive"];
    sandbox.run(&words).done().json()
}

/// What `fixtures/talk.c` says that it did.
struct Talk {
    family: String,
    numbers: [u64; 4],
}

fn talk(sandbox: &Sandbox, cgroup: &str, times: u32) -> Vec<Talk> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let program = BUILT.get_or_init(|| compiled("fixtures/talk"));
    let mut command = Command::new(program);
    command
        .arg(sandbox.directory.join(cgroup).join("cgroup.procs"))
        .arg(times.to_string());
    let said = Ran::of(&mut command).done().out;
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        Talk {
            family: words[0].to_owned(),
            numbers: [1, 2, 3, 4].map(|at| words[at].parse().unwrap()),
        }
    };
    said.lines().map(line).collect()
}

/// However they are called, on streams, datagrams and packets, looked at, failed or ended.
#[test]
fn what_is_sent_and_received_is_the_programs_own_count() {
    const VALUES: [&str; 4] = [
        "net_sends",
        "net_sent_bytes",
        "net_receives",
        "net_received_bytes",
    ];
    let mut sandbox = Sandbox::new();
    let (a, b) = (sandbox.child("a"), sandbox.child("b"));
    sandbox
        .run(&["meter", "enable", "net", "--cgroup", &sandbox.cgroup])
        .done();
    let (in_a, in_b) = (talk(&sandbox, "a", 3), talk(&sandbox, "b", 5));
    let usage = usage(&sandbox);
    assert_eq!(in_a.len(), 3);
    for (of_a, of_b) in in_a.iter().zip(&in_b) {
        let family = of_a.family.as_str();
        for (at, name) in VALUES.iter().enumerate() {
            let is = |cgroup: &str| value(&usage, cgroup, name, Some(("family", family)));
            let (in_a, in_b) = (of_a.numbers[at], of_b.numbers[at]);
            assert!(in_a > 0);
            assert_eq!(is(&a), (in_a, in_a), "{family} {name}");
            assert_eq!(is(&b), (in_b, in_b), "{family} {name}");
            assert_eq!(is(&sandbox.cgroup), (0, in_a + in_b), "{family} {name}");
        }
    }
}

/// Packets are those that the device counted, but for the one by which the kernel itself took the connection.
#[test]
fn packets_are_the_devices_own_count() {
    const TIMES: u64 = 60;
    let mut sandbox = Sandbox::new();
    let a = sandbox.child("a");
    let words = [
        "meter",
        "enable",
        "net_packets",
        "--cgroup",
        &sandbox.cgroup,
    ];
    sandbox.run(&words).done();
    let mut process = Command::new(compiled("fixtures/segments"))
        .arg(sandbox.directory.join("a/cgroup.procs"))
        .arg(TIMES.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let out = process.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut said).unwrap();
    let given: u64 = said.trim().parse().unwrap();
    let usage = usage(&sandbox);
    drop(process.stdin.take());
    assert!(process.wait().unwrap().success());
    // Datagrams, texts, and what opened the connection.
    assert!(given >= 2 * TIMES + 3, "{given}");
    let is = |name: &str, dev: &str| value(&usage, &a, name, Some(("dev", dev)));
    assert_eq!(is("net_packets_sent", "lo"), (given - 1, given - 1));
    let features = sandbox.run(&["--json", "doctor"]).json();
    let mut features = features["features"].as_array().unwrap().iter();
    let fentry = features.find(|f| f["name"] == "hook fentry").unwrap();
    if fentry["state"] == "yes" {
        assert_eq!(is("net_packets_received", "lo"), (given, given));
    } else {
        // Without what opened the connection.
        let (own, total) = is("net_packets_received", "");
        assert!(own >= 2 * TIMES && own < given, "{own} of {given}");
        assert_eq!(own, total);
    }
}

/// Pages that are touched for the first time, one by one.
#[test]
fn faults_are_the_pages_that_were_touched() {
    let mut sandbox = Sandbox::new();
    let (a, b) = (sandbox.child("a"), sandbox.child("b"));
    let words = ["meter", "enable", "memory", "--cgroup", &sandbox.cgroup];
    sandbox.run(&words).done();
    let counted = compiled_with("fixtures/counted", &["-Wl,-z,now"]);
    let procs = |cgroup: &str| sandbox.directory.join(cgroup).join("cgroup.procs");
    for (cgroup, pages) in [("a", 700), ("b", 90)] {
        // Back in the sandbox's own cgroup it ends: its faults there are nobody's of these two.
        let script = format!(
            "echo go | {} {} {} 0 {pages}",
            counted.display(),
            procs(cgroup).display(),
            procs("").display()
        );
        Ran::of(Command::new("sh").args(["-c", &script])).done();
    }
    let usage = usage(&sandbox);
    assert_eq!(value(&usage, &a, "memory_faults", None), (700, 700));
    assert_eq!(value(&usage, &b, "memory_faults", None), (90, 90));
}

/// The kernel's own sum of the same cgroup.
#[test]
fn time_is_what_the_kernel_accounts_for() {
    let mut sandbox = Sandbox::new();
    let a = sandbox.child("a");
    let words = ["meter", "enable", "cpu", "--cgroup", &sandbox.cgroup];
    sandbox.run(&words).done();
    // Several processes, on all CPUs, that end.
    let work = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
    let all = format!("{{ ({work}) & ({work}) & ({work}) & wait; }}");
    sandbox.inside("a", &all);
    let usage = usage(&sandbox);
    let stat = std::fs::read_to_string(sandbox.directory.join("a/cpu.stat")).unwrap();
    let line = stat.lines().find_map(|l| l.strip_prefix("usage_usec "));
    let truth_ns = line.unwrap().parse::<u64>().unwrap() * 1_000;
    let (own_ns, total_ns) = value(&usage, &a, "cpu_time", None);
    println!("cpu_time {own_ns} ns, cpu.stat {truth_ns} ns");
    assert_eq!(own_ns, total_ns);
    assert!(
        own_ns.abs_diff(truth_ns) * 100 <= truth_ns,
        "{own_ns}, {truth_ns}"
    );
}
