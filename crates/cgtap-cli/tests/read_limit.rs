//! Limits on what is read, on a machine that is made up: its processes and GPUs are the test's, cgroups,
//! budgets, programs and the processes that are frozen or killed are real. With a driver that is real it
//! runs in guests (`guest_limit.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

#[path = "support/machine.rs"]
mod machine;
mod support;

use std::fmt::Debug;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use machine::{Bench, amdgpu};
use serde_json::Value;
use support::{Ran, Running};

const MS: u64 = 1_000_000;

impl Bench {
    /// Sets a limit; how it stands then.
    fn limit(&self, cgroup: &str, value: &str, amount: &str, on: &str) -> Value {
        let words = ["--json", "limit", "set", cgroup, value, amount, "--on", on];
        self.run(&words).done().json()["limits"][0].clone()
    }

    /// How a cgroup's limit on a value stands.
    fn stands(&self, cgroup: &str, value: &str) -> Value {
        let all = self.run(&["--json", "limit", "list"]).done().json();
        let all = all["limits"].as_array().unwrap().clone();
        let mut found = all
            .into_iter()
            .filter(|l| l["cgroup"] == cgroup && l["meter"] == value);
        found
            .next()
            .unwrap_or_else(|| panic!("no {value} of {cgroup}"))
    }

    fn used(&self, cgroup: &str, value: &str) -> u64 {
        self.stands(cgroup, value)["used"].as_u64().unwrap()
    }

    /// Somebody who reads often.
    fn enforcing(&self) -> Running {
        let mut command = self.cgtap(&["enforce", "--read-every", "0.05"]);
        Running(command.stderr(Stdio::null()).spawn().unwrap())
    }

    fn serving(&self) -> Running {
        let words = ["serve", "--listen", "127.0.0.1:0", "--read-every", "0.05"];
        let mut command = self.cgtap(&words);
        Running(command.stdout(Stdio::null()).spawn().unwrap())
    }

    /// A real process in a cgroup, that does a little again and again.
    fn busy(&self, cgroup: &str) -> Child {
        let procs = self.sandbox.directory.join(cgroup).join("cgroup.procs");
        let script = format!(
            "echo $$ > {} && exec sh -c 'while :; do sleep 0.02; done'",
            procs.display()
        );
        Command::new("sh").args(["-c", &script]).spawn().unwrap()
    }
}

/// Waits until something is as it should be.
#[track_caller]
fn wait<T: PartialEq + Debug>(wanted: T, found: impl Fn() -> T) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let now = found();
        if now == wanted {
            return;
        }
        assert!(Instant::now() < end, "{now:?} does not become {wanted:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const BUSY: &str = "gpu_engine_busy";
const HELD: &str = "gpu_memory_resident";

#[test]
fn time_that_is_read_is_charged_at_every_level_and_held_by_freezing() {
    let bench = Bench::new();
    let (machine, a, b, top) = (&bench.machine, &bench.a, &bench.b, &bench.sandbox.cgroup);
    machine.process(101, 50, a);
    machine.process(102, 51, b);
    machine.open(101, 5, "gpu", &amdgpu(1, 7_000 * MS, 0));
    machine.open(102, 5, "gpu", &amdgpu(2, 9_000 * MS, 0));
    let set = bench.limit(a, BUSY, "500ms", "freeze");
    assert_eq!(
        (&set["charged"], &set["used"]),
        (&"read".into(), &0.into()),
        "{set}"
    );
    assert!(set["read_ago_ns"].is_u64(), "{set}");
    bench.limit(top, BUSY, "850ms", "observe");
    let worker = Running(bench.busy("a"));

    // With nobody who reads, nothing is charged, and that is said.
    machine.open(101, 5, "gpu", &amdgpu(1, 7_400 * MS, 0));
    assert_eq!(bench.used(a, BUSY), 0);
    let said = bench.run(&["explain", a]).done().out;
    assert!(
        said.contains("charged when read; `cgtap enforce` has to run"),
        "{said}"
    );
    assert!(said.contains("    last read "), "{said}");

    let enforcing = bench.enforcing();
    wait([400 * MS; 2], || [a, top].map(|c| bench.used(c, BUSY)));
    assert!(!bench.sandbox.is_frozen("a"));
    machine.open(101, 5, "gpu", &amdgpu(1, 7_600 * MS, 0));
    wait(true, || bench.sandbox.is_frozen("a"));
    assert_eq!([a, top].map(|c| bench.used(c, BUSY)), [600 * MS; 2]);
    assert!(!bench.sandbox.is_frozen("b"));
    let said = bench.run(&["explain", a]).done().out;
    assert!(
        said.contains("is held back by 1 limit, and frozen"),
        "{said}"
    );
    // What the engine had been given goes on, and is charged.
    machine.open(101, 5, "gpu", &amdgpu(1, 7_650 * MS, 0));
    machine.open(102, 5, "gpu", &amdgpu(2, 9_300 * MS, 0));
    wait([650 * MS, 950 * MS], || {
        [a, top].map(|c| bench.used(c, BUSY))
    });
    // What is observed is counted and told, without a task: nobody knows which it was.
    let stands = bench.stands(top, BUSY);
    assert_eq!(stands["denied"], 1, "{stands}");
    let log = bench.run(&["--json", "limit", "log"]).done().json();
    let last = log["denials"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["cgroup"], &last["pid"], &last["comm"]),
        (&b.as_str().into(), &0.into(), &"".into()),
        "{last}"
    );
    assert_eq!(last["left"], -(100 * MS.cast_signed()), "{last}");
    // Raised, it goes on; what was used stays.
    bench.limit(a, BUSY, "2s", "freeze");
    wait(false, || bench.sandbox.is_frozen("a"));
    assert_eq!(bench.used(a, BUSY), 650 * MS);
    // Nobody stays frozen when it ends, and nothing is lost: it is charged when somebody reads again.
    bench.limit(a, BUSY, "1ms", "freeze");
    wait(true, || bench.sandbox.is_frozen("a"));
    drop(enforcing);
    wait(false, || bench.sandbox.is_frozen("a"));
    machine.open(101, 5, "gpu", &amdgpu(1, 7_700 * MS, 0));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(bench.used(a, BUSY), 650 * MS);
    let _serving = bench.serving();
    wait(700 * MS, || bench.used(a, BUSY));
    drop(worker);
}

#[test]
fn a_rate_comes_back_and_thaws() {
    let bench = Bench::new();
    bench.machine.process(101, 50, &bench.a);
    bench.machine.open(101, 5, "gpu", &amdgpu(1, 0, 0));
    // What was used since the limit is there had the refill of that time.
    let begin = Instant::now();
    bench.limit(&bench.a, BUSY, "200ms/1s", "freeze");
    let _worker = Running(bench.busy("a"));
    let _enforcing = bench.enforcing();
    bench.machine.open(101, 5, "gpu", &amdgpu(1, 900 * MS, 0));
    wait(true, || bench.sandbox.is_frozen("a"));
    wait(false, || bench.sandbox.is_frozen("a"));
    // 700 ms of debt at a fifth of a second a second: longer than what is slow here takes to see it.
    let waited = begin.elapsed();
    assert!(waited > Duration::from_millis(3_400), "{waited:?}");
}

#[test]
fn only_what_has_the_labels_is_charged() {
    let bench = Bench::new();
    let (machine, a) = (&bench.machine, &bench.a);
    let only = format!("{BUSY}{{engine=npu}}");
    bench.limit(a, &only, "1s", "observe");
    bench.limit(&bench.sandbox.cgroup, BUSY, "1s", "observe");
    machine.process(101, 50, a);
    machine.open(101, 5, "gpu", &amdgpu(1, 300 * MS, 0));
    let npu = "drm-driver:\tivpu\ndrm-client-id:\t3\ndrm-engine-npu:\t70000000 ns\n";
    machine.open(101, 6, "accel", npu);
    let _serving = bench.serving();
    wait([70 * MS, 370 * MS], || {
        [a, &bench.sandbox.cgroup].map(|c| bench.used(c, BUSY))
    });
}

#[test]
fn what_is_held_is_held_and_given_back() {
    let mut bench = Bench::new();
    let below = bench.sandbox.child("a/below");
    let (machine, a, b, top) = (
        &bench.machine,
        bench.a.clone(),
        bench.b.clone(),
        bench.sandbox.cgroup.clone(),
    );
    let kib = |n: u64| n << 10;
    machine.process(101, 50, &below);
    machine.process(102, 51, &b);
    machine.open(101, 5, "gpu", &amdgpu(1, 0, 100));
    // What is held already counts, and no time is needed for it.
    let set = bench.limit(&a, HELD, "200KiB", "freeze");
    assert_eq!(set["used"], kib(100), "{set}");
    let enforcing = bench.enforcing();
    machine.open(102, 5, "gpu", &amdgpu(2, 0, 40));
    machine.open(101, 5, "gpu", &amdgpu(1, 0, 150));
    wait(kib(150), || bench.used(&a, HELD));
    // One that is limited later has what it and those below hold; the other keeps what it has.
    let set = bench.limit(&top, HELD, "1MiB", "observe");
    assert_eq!(set["used"], kib(190), "{set}");
    assert_eq!(bench.used(&a, HELD), kib(150));
    let _worker = Running(bench.busy("a"));
    machine.open(101, 6, "gpu", &amdgpu(3, 0, 50));
    wait(true, || bench.sandbox.is_frozen("a"));
    assert_eq!(bench.used(&a, HELD), kib(200));
    // It goes elsewhere, with what it holds.
    machine.process(101, 50, &b);
    wait([0, kib(240)], || [&a, &top].map(|c| bench.used(c, HELD)));
    wait(false, || bench.sandbox.is_frozen("a"));
    machine.process(101, 50, &below);
    wait([kib(200), kib(240)], || {
        [&a, &top].map(|c| bench.used(c, HELD))
    });
    // Its cgroup goes: it is still below the others. The dead hold nothing.
    machine.end(102);
    wait([kib(200), kib(200)], || {
        [&a, &top].map(|c| bench.used(c, HELD))
    });
    std::fs::remove_dir(bench.sandbox.directory.join("a/below")).unwrap();
    machine.end(101);
    wait([0, 0], || [&a, &top].map(|c| bench.used(c, HELD)));
    // No drift, and no more than is held.
    drop(enforcing);
    bench.run(&["limit", "clear", "--cgroup", &a]).done();
    machine.process(103, 60, &a);
    machine.open(103, 5, "gpu", &amdgpu(9, 0, 30));
    let set = bench.limit(&a, HELD, "200KiB", "freeze");
    assert_eq!(
        (&set["used"], &set["left"]),
        (&kib(30).into(), &kib(170).into())
    );
    assert_eq!(bench.used(&top, HELD), kib(30));
}

#[test]
fn a_limit_begins_with_what_is_used_after_it_was_set() {
    let bench = Bench::new();
    let (machine, a, b) = (&bench.machine, &bench.a, &bench.b);
    machine.process(101, 50, a);
    machine.process(102, 51, b);
    machine.open(101, 5, "gpu", &amdgpu(1, 0, 0));
    machine.open(102, 5, "gpu", &amdgpu(2, 0, 0));
    bench.limit(a, BUSY, "1s", "observe");
    // Nobody reads meanwhile.
    machine.open(101, 5, "gpu", &amdgpu(1, 300 * MS, 0));
    machine.open(102, 5, "gpu", &amdgpu(2, 500 * MS, 0));
    let set = bench.limit(b, BUSY, "1s", "observe");
    assert_eq!(set["used"], 0, "{set}");
    assert_eq!(bench.used(a, BUSY), 300 * MS);
    machine.open(102, 5, "gpu", &amdgpu(2, 501 * MS, 0));
    let _serving = bench.serving();
    wait([300 * MS, MS], || [a, b].map(|c| bench.used(c, BUSY)));
}

#[test]
fn readers_at_a_time_charge_once() {
    let bench = Bench::new();
    let (machine, a) = (&bench.machine, &bench.a);
    machine.process(101, 50, a);
    bench.limit(a, BUSY, "1h", "observe");
    let words = ["meter", "enable", "gpu_engine", "--cgroup", a];
    bench.run(&words).done();
    let readers = [bench.enforcing(), bench.serving(), bench.serving()];
    for round in 1..=10_u64 {
        for client in 1..=20 {
            machine.open(101, client as u32, "gpu", &amdgpu(client, round * MS, 0));
        }
        let usages: Vec<Running> = (0..4)
            .map(|_| {
                let mut command = bench.cgtap(&["usage"]);
                Running(command.stdout(Stdio::null()).spawn().unwrap())
            })
            .collect();
        wait(20 * round * MS, || bench.used(a, BUSY));
        drop(usages);
    }
    // Killed at any moment, none of them has charged twice; what one had just read may be missing.
    drop(readers);
    for _ in 0..15 {
        drop(bench.serving());
    }
    assert_eq!(bench.used(a, BUSY), 200 * MS);
}

#[test]
fn whoever_is_over_it_gets_a_signal() {
    let bench = Bench::new();
    bench.machine.process(101, 50, &bench.a);
    bench.limit(&bench.a, BUSY, "1s", "signal:KILL");
    let mut worker = bench.busy("a");
    let _neighbour = Running(bench.busy("b"));
    let _serving = bench.serving();
    std::thread::sleep(Duration::from_millis(300));
    assert!(worker.try_wait().unwrap().is_none());
    bench.machine.open(101, 5, "gpu", &amdgpu(1, 1_000 * MS, 0));
    let end = Instant::now() + Duration::from_secs(60);
    while worker.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "no signal comes");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn cgroups_that_a_pattern_matches_later_have_budgets_of_their_own() {
    let mut bench = Bench::new();
    let policy = bench.machine.root().join("policy.toml");
    let text = format!(
        "[[limits]]\ncgroup = \"{}/t*\"\nmeter = \"{BUSY}\"\namount = \"500ms\"\non = \"freeze\"\n\
         [[limits]]\ncgroup = \"{}/t*\"\nmeter = \"{HELD}\"\namount = \"1MiB\"\non = \"observe\"\n",
        bench.sandbox.cgroup, bench.sandbox.cgroup
    );
    std::fs::write(&policy, text).unwrap();
    let first = bench.sandbox.child("t1");
    bench.machine.process(101, 50, &first);
    bench.machine.open(101, 5, "gpu", &amdgpu(1, 900 * MS, 64));
    bench.run(&["apply", policy.to_str().unwrap()]).done();
    let _enforcing = bench.enforcing();
    let late = bench.sandbox.child("t2");
    bench.machine.process(102, 51, &late);
    let _worker = Running(bench.busy("t2"));
    bench.machine.open(102, 5, "gpu", &amdgpu(2, 600 * MS, 32));
    wait([0, 600 * MS], || {
        [&first, &late].map(|c| bench.used(c, BUSY))
    });
    wait([64 << 10, 32 << 10], || {
        [&first, &late].map(|c| bench.used(c, HELD))
    });
    wait(true, || bench.sandbox.is_frozen("t2"));
    assert!(!bench.sandbox.is_frozen("t1"));
    // Applied again, nothing changes.
    bench.run(&["apply", policy.to_str().unwrap()]).done();
    assert_eq!(
        [&first, &late].map(|c| (bench.used(c, BUSY), bench.used(c, HELD))),
        [(0, 64 << 10), (600 * MS, 32 << 10)]
    );
}

#[test]
fn what_cannot_be_held_so_is_refused_with_the_reason() {
    let bench = Bench::new();
    let refused = |words: &[&str], why: &str| {
        let words = [&["limit", "set", &bench.a], words].concat();
        let ran = bench.run(&words);
        assert_ne!(ran.status, 0, "{words:?}");
        assert!(ran.err.contains(why), "{words:?}: {}", ran.err);
    };
    refused(
        &[BUSY, "1s", "--on", "deny:EDQUOT"],
        "knows no place where it could be refused",
    );
    refused(
        &[HELD, "1MiB/1s", "--on", "freeze"],
        "limit it to an amount, without a period",
    );
    refused(
        &["gpu_engine_busy{ring=gfx}", "1s", "--on", "freeze"],
        "has no label ring; it has dev, engine",
    );
    refused(
        &["gpu_engine_idle", "1s", "--on", "freeze"],
        "no meter counts gpu_engine_idle",
    );
    refused(
        &["gpu_time", "1s", "--on", "freeze"],
        "; of gpu they count gpu_engine_busy, ",
    );
    refused(
        &["gpu_memory", "1MiB"],
        "gpu_memory is a meter: say which of its values, gpu_memory_allocated, ",
    );
    refused(&[HELD, "1MiB", "--on", "cpu.max"], "cpu.max");
    // A state that was made for what was refused is gone again.
    assert!(!bench.sandbox.state.exists());
    for every in ["0", "-1", "often"] {
        let ran = bench.run(&["enforce", "--read-every", every]);
        assert_eq!(ran.status, 2, "{every}: {ran:?}");
    }
}

#[test]
fn what_may_not_be_read_is_said_once() {
    let bench = Bench::new();
    bench.machine.process(101, 50, &bench.a);
    let nameless = "drm-driver:\told\ndrm-engine-gfx:\t5 ns\n";
    bench.machine.open(101, 5, "gpu", nameless);
    bench.machine.open(101, 6, "gpu", &amdgpu(1, 0, 0));
    bench.limit(&bench.a, BUSY, "1s", "observe");
    let mut command = bench.cgtap(&["enforce", "--read-every", "0.02"]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    // It is read again and again, as the other file shows.
    for round in 1..=10 {
        bench.machine.open(101, 6, "gpu", &amdgpu(1, round * MS, 0));
        wait(round * MS, || bench.used(&bench.a, BUSY));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap()).done();
    let said = ran.err.matches("cannot be read (1 files)").count();
    assert_eq!(said, 1, "{}", ran.err);
}
