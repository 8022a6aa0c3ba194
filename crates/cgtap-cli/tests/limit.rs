//! `cgtap limit`, `enforce` and `explain` on this machine's kernel: held by freezing, by signals; what
//! happens when who freezes dies; what is wrong with words.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Running, Sandbox, killed_after};

/// How long anything may take before it is a failure. Guests without KVM are slow.
const PATIENCE: Duration = Duration::from_secs(30);

fn enforce(sandbox: &Sandbox) -> Running {
    let mut command = sandbox.cgtap(&["enforce"]);
    Running(command.stderr(Stdio::null()).spawn().unwrap())
}

/// Microseconds of CPU that a cgroup used.
fn used_us(sandbox: &Sandbox, cgroup: &str) -> u64 {
    let stat = std::fs::read_to_string(sandbox.directory.join(cgroup).join("cpu.stat")).unwrap();
    let line = stat.lines().find_map(|l| l.strip_prefix("usage_usec "));
    line.unwrap().parse().unwrap()
}

fn wait_until(what: &str, most: Duration, is_so: impl Fn() -> bool) {
    let end = Instant::now() + most;
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn children_of(pid: u32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .map(|w| w.parse().unwrap())
        .collect()
}

fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).unwrap();
    kill_process(pid, signal).unwrap();
}

/// The share in the long run is the limit's; whoever is killed, nobody stays frozen.
#[test]
fn freezing_holds_a_share_and_leaves_nobody_frozen() {
    let mut sandbox = Sandbox::new();
    let cgroup = sandbox.child("a");
    sandbox
        .run(&[
            "limit", "set", &cgroup, "cpu_time", "300ms/1s", "--on", "freeze",
        ])
        .done();
    let _spinner = sandbox.spinner("a");
    let pacer = enforce(&sandbox);
    // The burst first; then from one moment without debt to another, however long what is between takes.
    let thawed = || sandbox.thawed("a", || used_us(&sandbox, "a"));
    let (begin, before) = thawed();
    std::thread::sleep(Duration::from_secs(8));
    let (end, after) = thawed();
    let share = (after - before) as f64 / (end - begin).as_micros() as f64;
    println!("share {share:.4} of 0.3");
    assert!((share - 0.3).abs() < 0.3 * 0.02, "{share}");
    let second = sandbox.run(&["enforce"]);
    assert_eq!(second.status, 1);
    assert!(
        second.err.contains("another process enforces"),
        "{}",
        second.err
    );

    // Killed while it is frozen: the guard thaws.
    wait_until("freezing", PATIENCE, || sandbox.is_frozen("a"));
    signal(pacer.0.id().cast_signed(), Signal::KILL);
    wait_until("thawing", PATIENCE, || !sandbox.is_frozen("a"));
    drop(pacer);

    // Killed with its guard: the next command thaws.
    let pacer = enforce(&sandbox);
    let pid = pacer.0.id().cast_signed();
    // Stopped while it is frozen, so that no new guard comes.
    loop {
        wait_until("freezing", PATIENCE, || sandbox.is_frozen("a"));
        signal(pid, Signal::STOP);
        if sandbox.is_frozen("a") {
            break;
        }
        signal(pid, Signal::CONT);
    }
    let guards = children_of(pacer.0.id());
    assert_eq!(guards.len(), 1);
    signal(guards[0], Signal::KILL);
    signal(pid, Signal::KILL);
    drop(pacer);
    assert!(sandbox.is_frozen("a"));
    sandbox.run(&["limit", "list"]).done();
    wait_until("thawing", PATIENCE, || !sandbox.is_frozen("a"));

    // Cleared, it is thawed by who froze it.
    let _pacer = enforce(&sandbox);
    wait_until("freezing", PATIENCE, || sandbox.is_frozen("a"));
    sandbox.run(&["limit", "clear", "--cgroup", &cgroup]).done();
    wait_until("thawing", PATIENCE, || !sandbox.is_frozen("a"));
}

/// It may be there before the first limit and before the state; it follows a state that is made anew,
/// and is known to enforce it.
#[test]
fn enforcing_waits_for_limits_and_follows_the_state() {
    let mut sandbox = Sandbox::new();
    let cgroups = ["a", "b"].map(|name| sandbox.child(name));
    let pacer = enforce(&sandbox);
    // The first of each state has the same number and the same budget.
    for (name, cgroup) in ["a", "b"].iter().zip(&cgroups) {
        let _spinner = sandbox.spinner(name);
        let set = [
            "limit", "set", cgroup, "cpu_time", "10ms/10s", "--on", "freeze",
        ];
        sandbox.run(&set).done();
        wait_until("freezing", PATIENCE, || sandbox.is_frozen(name));
        let told = sandbox.run(&["--json", "explain", cgroup]).done().json();
        assert_eq!(told["is_enforced"], true, "{told}");
        assert_eq!(sandbox.run(&["enforce"]).status, 1);
        // Whoever looks thaws nothing then.
        sandbox.run(&["limit", "list"]).done();
        assert!(sandbox.is_frozen(name));
        sandbox.run(&["detach", "--all"]).done();
        wait_until("thawing", PATIENCE, || !sandbox.is_frozen(name));
    }
    drop(pacer);
}

/// Waits until a cgroup is frozen, or is not; no command of ours runs meanwhile.
fn wait_frozen(sandbox: &Sandbox, cgroup: &str, is_frozen: bool) {
    let what = if is_frozen { "freezing" } else { "thawing" };
    wait_until(what, PATIENCE, || sandbox.is_frozen(cgroup) == is_frozen);
}

/// Of two limits of a cgroup one thaws it and the other freezes it in one step: the guard knows. And what
/// others freeze when neither does stays so.
#[test]
fn a_cgroup_of_two_limits_is_thawed_by_the_guard_and_that_of_others_is_not() {
    let mut sandbox = Sandbox::new();
    let cgroup = sandbox.child("a");
    let set = |meter: &str, amount: &str, on: &str| {
        let words = ["--json", "limit", "set", &cgroup, meter, amount, "--on", on];
        let said = sandbox.run(&words).done().json();
        said["limits"][0]["id"].to_string()
    };
    let first = set("cpu_time", "10ms/100s", "freeze");
    let _spinner = sandbox.spinner("a");
    let pacer = enforce(&sandbox);
    wait_frozen(&sandbox, "a", true);
    let second = set("tasks_born", "0", "freeze");
    std::thread::sleep(Duration::from_millis(100));
    // A number that is said twice is meant once.
    sandbox.run(&["limit", "clear", &first, &first]).done();
    std::thread::sleep(Duration::from_millis(100));
    wait_frozen(&sandbox, "a", true);
    drop(pacer);
    wait_frozen(&sandbox, "a", false);
    let mut pacer = enforce(&sandbox);
    wait_frozen(&sandbox, "a", true);
    assert_eq!(set("tasks_born", "0", "observe"), second);
    wait_frozen(&sandbox, "a", false);
    // Killed before the guard knows, that would thaw it once more.
    signal(pacer.0.id().cast_signed(), Signal::TERM);
    assert!(pacer.0.wait().unwrap().success());
    std::fs::write(sandbox.directory.join("a/cgroup.freeze"), "1").unwrap();
    wait_frozen(&sandbox, "a", true);
    sandbox.run(&["limit", "list"]).done();
    assert!(sandbox.is_frozen("a"));
    sandbox.run(&["limit", "clear", "--all"]).done();
    std::fs::write(sandbox.directory.join("a/cgroup.freeze"), "0").unwrap();
}

/// Where cgroups cannot be written, as in a unit with ProtectControlGroups=yes, that is said, once.
#[test]
fn what_cannot_be_frozen_is_said() {
    let mut sandbox = Sandbox::new();
    let cgroup = sandbox.child("a");
    let set = [
        "limit", "set", &cgroup, "cpu_time", "10ms/10s", "--on", "freeze",
    ];
    sandbox.run(&set).done();
    let _spinner = sandbox.spinner("a");
    let script = "mount --make-rprivate / && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let enforce = sandbox.cgtap(&["enforce"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]);
    command.arg(support::cgroup_root());
    command.arg(enforce.get_program()).args(enforce.get_args());
    let mut pacer = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(pacer.0.stderr.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    let told = lines.find(|l| l.contains("cannot freeze")).unwrap();
    assert!(told.contains(&cgroup), "{told}");
    assert!(told.contains("Read-only file system"), "{told}");
    assert!(told.contains("/a/cgroup.freeze"), "{told}");
    // Nobody takes it for frozen.
    let told = sandbox.run(&["--json", "explain", &cgroup]).done().json();
    assert_eq!(told["is_frozen"], false, "{told}");
    signal(pacer.0.id().cast_signed(), Signal::TERM);
    let again = lines.find(|l| l.contains("cannot"));
    assert_eq!(again, None);
    assert!(pacer.0.wait().unwrap().success());
}

/// A fork bomb is killed by its limit, all of it, before it has grown far beyond that; who is beside it is not.
#[test]
fn a_fork_bomb_is_killed() {
    let mut sandbox = Sandbox::new();
    let cgroup = sandbox.child("a");
    sandbox.child("b");
    let set = [
        "limit",
        "set",
        &cgroup,
        "tasks_born",
        "50",
        "--on",
        "signal:KILL",
    ];
    sandbox.run(&set).done();
    let _neighbour = sandbox.spinner("b");
    let mut bomb = sandbox.bomb("a");
    assert_eq!(bomb.0.wait().unwrap().signal(), Some(9));
    let end = Instant::now() + PATIENCE;
    while sandbox.tasks("a") > 0 {
        assert!(Instant::now() < end, "{} live on", sandbox.tasks("a"));
        std::thread::sleep(Duration::from_millis(10));
    }
    let list = sandbox.run(&["--json", "limit", "list"]).done().json();
    let [born, missed] = ["used", "missed"].map(|key| list["limits"][0][key].as_u64().unwrap());
    // System calls at which a kernel that preempts programs did not run ours, told as missed, go on.
    assert!((50..100 + missed).contains(&born), "{born}, {missed}");
    assert_eq!(sandbox.tasks("b"), 1);
}

/// Whoever goes on beyond the limit gets the signal, at the next system call; others do not.
#[test]
fn a_signal_comes_to_who_is_over() {
    let mut sandbox = Sandbox::new();
    let cgroup = sandbox.child("a");
    sandbox.child("b");
    sandbox
        .run(&[
            "limit",
            "set",
            &cgroup,
            "tasks_ended",
            "3",
            "--on",
            "signal:TERM",
        ])
        .done();
    let run = |name: &str| {
        let procs = sandbox.directory.join(name).join("cgroup.procs");
        let script = format!(
            "echo $$ > {}; for i in 1 2 3 4 5 6 7 8; do /bin/true; done; echo all",
            procs.display()
        );
        Command::new("sh").args(["-c", &script]).output().unwrap()
    };
    let (held, free) = (run("a"), run("b"));
    assert!(!held.status.success() && held.stdout.is_empty(), "{held:?}");
    assert_eq!(free.stdout, b"all\n");
    let log = sandbox.run(&["--json", "limit", "log"]).done().json();
    let all = log["denials"].as_array().unwrap();
    assert!(
        !all.is_empty() && all.iter().all(|d| d["verdict"] == "SIGTERM"),
        "{log}"
    );
    let told = sandbox.run(&["explain", &cgroup]).done().out;
    assert!(told.contains("is held back by 1 limit"), "{told}");
    assert!(told.contains("not free again by itself"), "{told}");
}

#[test]
fn wrong_words_say_what_there_is() {
    let mut sandbox = Sandbox::new();
    let cgroup = sandbox.child("a");
    let refused = |words: &[&str], status: i32| {
        let ran = sandbox.run(&[&["limit", "set"], words].concat());
        assert_eq!(ran.status, status, "{ran:?}");
        ran.err
    };
    assert!(refused(&[&cgroup, "cpu_tiem", "1s"], 2).contains("did you mean cpu_time?"));
    assert!(refused(&[&cgroup, "cpu_time", "10GiB"], 2).contains("the meter counts time"));
    assert!(refused(&[&cgroup, "cpu_time", "-1s"], 2).contains("below 0"));
    assert!(refused(&[&cgroup, "cpu_time", "1s/0s"], 2).contains("no rate"));
    assert!(refused(&[&cgroup, "cpu_time", "99999999999999999999s"], 2).contains("too large"));
    assert!(refused(&[&cgroup, "block_bytes{dev=8:0", "1"], 2).contains("does not close them"));
    let on = |action: &str| refused(&[&cgroup, "cpu_time", "1s/2s", "--on", action], 2);
    assert!(on("shout").contains("deny:ERRNO, freeze, signal:NAME"));
    assert!(on("deny:EWHAT").contains("is no errno"));
    assert!(on("signal:HELLO").contains("is no signal"));
    assert!(refused(&["/", "cpu_time", "1s"], 1).contains("root cannot be limited"));
    let gone = format!("{cgroup}/nowhere");
    assert!(refused(&[&gone, "cpu_time", "1s"], 1).contains("nowhere"));
    let deny = refused(&[&cgroup, "cpu_time", "1s", "--on", "deny:EPERM"], 1);
    assert!(
        deny.contains("knows no place where it could be refused"),
        "{deny}"
    );
    let held = refused(&[&cgroup, "cpu_time", "300ms/1s", "--on", "io.max"], 1);
    assert!(held.contains("io.max does not hold cpu_time"), "{held}");
    let list = sandbox.run(&["limit", "list"]).done();
    assert_eq!(list.out, "no limits\n");
    let clear = sandbox.run(&["limit", "clear", "77"]);
    assert_eq!(clear.status, 1);
    assert!(clear.err.contains("there is no limit 77"), "{}", clear.err);
}

/// Killed at any moment of a change, what is in force stays so: whoever is over gets nothing through,
/// and the next command finds the state whole.
#[test]
fn a_change_that_is_killed_opens_no_gap() {
    let mut sandbox = Sandbox::new();
    let cgroup = sandbox.child("a");
    let inner = sandbox.child("a/b");
    let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cgtap/tests/support");
    let meters = tempfile::tempdir().unwrap();
    std::fs::copy(
        support.join("packets.toml"),
        meters.path().join("packets.toml"),
    )
    .unwrap();
    let client = meters.path().join("packets");
    let source = support.join("packets.c");
    let built = Command::new("cc")
        .args(["-O2", "-pthread", "-o"])
        .args([&client, &source])
        .status();
    assert!(built.unwrap().success());
    let meters = meters.path().to_str().unwrap();
    let run = |times: &str| -> String {
        let mut command = Command::new(&client);
        command.arg(sandbox.directory.join("a")).args(["1", times]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let set = |cgroup: &str, amount: &str| {
        sandbox.cgtap(&[
            "limit",
            "--meters",
            meters,
            "set",
            cgroup,
            "packets_runs",
            amount,
        ])
    };
    support::Ran::of(&mut set(&cgroup, "10")).done();
    assert_eq!(run("15"), "10 5 122\n");
    // As long as a change takes on this machine by then, so that most of them are killed in the middle.
    let begin = Instant::now();
    support::Ran::of(&mut set(&cgroup, "10")).done();
    let mut took = begin.elapsed();
    let mut killed = 0;
    for round in 0..24u32 {
        let (at, amount) = if round % 2 == 0 {
            (&inner, round + 1)
        } else {
            (&cgroup, 10)
        };
        let mut change = set(at, &amount.to_string());
        change.stdout(Stdio::null()).stderr(Stdio::null());
        if killed_after(&mut change, took * round / 24) {
            killed += 1;
        } else {
            took = took * 3 / 4;
        }
        assert_eq!(run("3"), "0 3 122\n", "round {round}");
        let list = sandbox.run(&["--json", "limit", "list"]).done().json();
        let of_a = |l: &&serde_json::Value| l["cgroup"] == cgroup.as_str() && l["amount"] == 10;
        let limits = list["limits"].as_array().unwrap();
        assert_eq!(limits.iter().filter(of_a).count(), 1, "{list}");
    }
    assert!(killed >= 6, "{killed} were killed");
}
