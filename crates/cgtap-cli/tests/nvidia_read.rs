//! The meter that reads NVIDIA's library, held to a stand-in for that library: one of our own making, of the
//! same name, that tells what the test writes down (`nvidia/nvml.c`). What is tested is that what the library
//! tells is joined to processes, cgroups and time; that NVIDIA's tells the truth is not. `./dev gpu-check`
//! does that where there is a GPU.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

#[path = "support/nvml.rs"]
mod nvml;
mod support;

use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use nvml::Nvml;
use serde_json::Value;
use support::{Ran, Running, Sandbox};

const GPU: &str = "0000:3b:00.0";

struct Gpu {
    nvml: Nvml,
    sandbox: Sandbox,
}

impl Gpu {
    fn new() -> Self {
        Self {
            nvml: Nvml::new(),
            sandbox: Sandbox::new(),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.cgtap(words);
        self.nvml.lend(&mut command);
        command
    }

    fn cgtap(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.command(words))
    }

    fn usage(&self) -> Value {
        let words = ["--json", "usage", &self.sandbox.cgroup, "--recursive"];
        self.cgtap(&words).done().json()
    }
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_micros() as u64
}

fn process(sandbox: &Sandbox, cgroup: &str) -> Running {
    let procs = sandbox.directory.join(cgroup).join("cgroup.procs");
    let child: Child = Command::new("sleep").arg("600").spawn().unwrap();
    std::fs::write(procs, child.id().to_string()).unwrap();
    Running(child)
}

/// Own of a value, 0 if there is none.
fn own(usage: &Value, cgroup: &str, meter: &str) -> u64 {
    let rows = usage["cgroups"].as_array().unwrap();
    let row = rows.iter().find(|r| r["cgroup"] == cgroup);
    let row = row.unwrap_or_else(|| panic!("no {cgroup} in {usage}"));
    let found = row["meters"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["meter"] == meter);
    found.map_or(0, |m| {
        assert_eq!(
            (&m["labels"]["dev"], &m["kind"]),
            (&GPU.into(), &"estimate".into())
        );
        m["own"].as_u64().unwrap()
    })
}

#[test]
fn where_there_is_no_library_the_meter_is_listed_with_the_reason() {
    let gpu = Gpu::new();
    // No library, whatever this machine has.
    std::fs::write(gpu.nvml.library(), "").unwrap();
    let shown = gpu
        .cgtap(&["--json", "meter", "show", "nvidia"])
        .done()
        .json();
    let row = &shown["meters"][0];
    assert_eq!(row["state"], "unavailable", "{row}");
    let why = row["why"].as_str().unwrap();
    assert!(
        why.contains("there is no NVIDIA library libnvidia-ml.so.1 here"),
        "{why}"
    );
    let ran = gpu.cgtap(&["--json", "meter", "enable", "nvidia"]);
    assert_eq!(ran.status, 1);
    assert_eq!(ran.error()["errno"], "ENODEV");
}

#[test]
fn what_the_library_tells_is_charged_to_the_cgroups_of_processes() {
    let mut gpu = Gpu::new();
    let (a, b) = (gpu.sandbox.child("a"), gpu.sandbox.child("b"));
    let (one, two) = (process(&gpu.sandbox, "a"), process(&gpu.sandbox, "b"));
    let begun_us = now_us();
    gpu.nvml.tell(one.0.id(), 1 << 30, 50);
    // One that is not there any more.
    gpu.nvml.tell(u32::MAX >> 2, 1 << 40, 100);
    let enable = ["meter", "enable", "nvidia", "--cgroup", &gpu.sandbox.cgroup];
    gpu.cgtap(&enable).done();
    let usage = gpu.usage();
    let (before_us, before) = (gpu.nvml.asked_us(), own(&usage, &a, "nvidia_busy"));
    let most = (before_us - begun_us) * 1_000 / 2;
    assert!(before <= most, "{before} of {most}");
    assert_eq!(own(&usage, &a, "nvidia_memory"), 1 << 30);

    std::thread::sleep(Duration::from_millis(1_000));
    gpu.nvml.tell(one.0.id(), 3 << 20, 40);
    gpu.nvml.tell(two.0.id(), 5 << 20, 20);
    let usage = gpu.usage();
    let at_us = gpu.nvml.asked_us();
    let time = (at_us - before_us) * 1_000;
    let near = |found: u64, truth: u64| found.abs_diff(truth) * 50 <= truth;
    // The first is known since its last sample, the other since the last reading, a moment later.
    let (busy_a, busy_b) = (
        own(&usage, &a, "nvidia_busy"),
        own(&usage, &b, "nvidia_busy"),
    );
    let new = busy_a - before;
    assert!(near(new, time * 2 / 5), "{new} of {time}");
    assert!(
        busy_b > 0 && busy_b <= time / 5 + time / 50,
        "{busy_b} of {time}"
    );
    assert_eq!(own(&usage, &a, "nvidia_memory"), 3 << 20);
    assert_eq!(own(&usage, &b, "nvidia_memory"), 5 << 20);
    // Read again without a new sample, nothing is new.
    gpu.nvml.tell_of(one.0.id(), 3 << 20, 40, at_us);
    gpu.nvml.tell_of(two.0.id(), 5 << 20, 20, at_us);
    assert_eq!(own(&gpu.usage(), &a, "nvidia_busy"), busy_a);
    // Idle for a while: that is nobody's, and what comes after is charged from then on.
    std::thread::sleep(Duration::from_millis(2_500));
    let first = now_us();
    assert_eq!(own(&gpu.usage(), &a, "nvidia_busy"), busy_a);
    let last = now_us();
    std::thread::sleep(Duration::from_millis(500));
    gpu.nvml.tell(one.0.id(), 3 << 20, 100);
    let more = own(&gpu.usage(), &a, "nvidia_busy") - busy_a;
    let at_us = gpu.nvml.asked_us();
    let idle_until = (at_us - last) * 1_000..=(at_us - first) * 1_000;
    assert!(idle_until.contains(&more), "{more}, {idle_until:?}");
    gpu.nvml.tell_of(one.0.id(), 3 << 20, 100, at_us);

    // A process ends: what it used stays.
    drop(two);
    let usage = gpu.usage();
    assert_eq!(
        (
            own(&usage, &b, "nvidia_busy"),
            own(&usage, &b, "nvidia_memory")
        ),
        (busy_b, 0)
    );
    // Split up, there is memory and no time, and that is said.
    std::fs::write(gpu.nvml.told().join("mig"), "").unwrap();
    gpu.nvml.tell(one.0.id(), 9 << 20, 100);
    let split = gpu.usage();
    assert_eq!(own(&split, &a, "nvidia_busy"), busy_a + more);
    assert_eq!(own(&split, &a, "nvidia_memory"), 9 << 20);
    let said = format!("utilisation of the GPU {GPU} is not told: it is split up (MIG)");
    assert_eq!(split["unread"], serde_json::json!([said]));
    // The library goes: the rest is told all the same.
    std::fs::write(gpu.nvml.library(), "").unwrap();
    let usage = gpu.usage();
    assert_eq!(own(&usage, &a, "nvidia_busy"), busy_a + more);
    let unread = usage["unread"][0].as_str().unwrap();
    assert!(
        unread.starts_with("nvidia was not read: there is no NVIDIA library"),
        "{unread}"
    );
}

/// Waits until something is so.
#[track_caller]
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < end, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn limits_on_what_the_library_tells_freeze_who_is_over_them() {
    let mut gpu = Gpu::new();
    let (a, b) = (gpu.sandbox.child("a"), gpu.sandbox.child("b"));
    let (one, two) = (process(&gpu.sandbox, "a"), process(&gpu.sandbox, "b"));
    let set = |cgroup: &str, value: &str, amount: &str| {
        let words = [
            "--json", "limit", "set", cgroup, value, amount, "--on", "freeze",
        ];
        gpu.cgtap(&words)
    };
    let stands = |cgroup: &str, value: &str| -> Value {
        let all = gpu.cgtap(&["--json", "limit", "list"]).done().json();
        let all = all["limits"].as_array().unwrap().clone();
        let mut all = all.into_iter();
        all.find(|l| l["cgroup"] == cgroup && l["meter"] == value)
            .unwrap()
    };
    let used = |cgroup: &str, value: &str| stands(cgroup, value)["used"].as_u64().unwrap();
    gpu.nvml.tell(one.0.id(), 6 << 30, 0);
    gpu.nvml.tell(two.0.id(), 1 << 30, 0);
    // Memory that is held already counts; what runs before does not.
    let memory = set(&b, "nvidia_memory", "4GiB").done().json();
    assert_eq!(memory["limits"][0]["used"], 1_u64 << 30, "{memory}");
    set(&a, "nvidia_busy", "400ms/1s").done();
    let enforce = gpu.command(&["enforce", "--read-every", "0.1"]);
    let enforcing = Running({ enforce }.spawn().unwrap());
    // It works all the time: the burst is used up, and it is in debt.
    wait("frozen for its time", || {
        gpu.nvml.tell(one.0.id(), 6 << 30, 100);
        gpu.sandbox.is_frozen("a")
    });
    assert!(!gpu.sandbox.is_frozen("b"));
    let busy = used(&a, "nvidia_busy");
    assert!(busy >= 400_000_000, "{busy}");
    // Frozen it works no more, and the debt is paid back.
    wait("thawed by time", || {
        gpu.nvml.tell(one.0.id(), 6 << 30, 0);
        !gpu.sandbox.is_frozen("a")
    });
    gpu.nvml.tell(two.0.id(), 5 << 30, 0);
    wait("frozen for its memory", || gpu.sandbox.is_frozen("b"));
    assert_eq!(used(&b, "nvidia_memory"), 5 << 30);
    gpu.nvml.tell(two.0.id(), 3 << 30, 0);
    wait("thawed by what was given back", || {
        !gpu.sandbox.is_frozen("b")
    });
    drop(two);
    wait("the memory of the dead", || used(&b, "nvidia_memory") == 0);
    drop(enforcing);

    // Without the library nothing new can be limited, with the reason.
    std::fs::write(gpu.nvml.library(), "").unwrap();
    let refused = set(&a, "nvidia_memory", "1GiB");
    assert_eq!(refused.status, 1, "{refused:?}");
    let error = refused.error();
    let why = error["message"].as_str().unwrap();
    assert!(
        error["errno"] == "ENODEV"
            && why.contains("there is no NVIDIA library libnvidia-ml.so.1 here"),
        "{error}"
    );
}
