//! Meters that read what drivers of GPUs tell of open files, on a machine that is made up: its processes,
//! devices and numbers are the test's, cgroups, state and programs are real. With a driver that is real
//! they run in guests (`guest_gpu.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/prometheus.rs"]
#[allow(dead_code, reason = "the client is used, not the server")]
mod prometheus;
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use machine::{Bench, amdgpu};
use rustix::thread::CapabilitySet;
use serde_json::Value;
use support::{Ran, Running};

impl Bench {
    fn enable(&self, meters: &[&str]) {
        let words = [
            &["meter", "enable", "--cgroup", &self.sandbox.cgroup],
            meters,
        ]
        .concat();
        self.run(&words).done();
    }

    fn usage(&self) -> Value {
        let words = ["--json", "usage", &self.sandbox.cgroup, "--recursive"];
        self.run(&words).done().json()
    }
}

/// Own of a value under labels, 0 if there is none.
fn own(usage: &Value, cgroup: &str, meter: &str, label: &str) -> u64 {
    let rows = usage["cgroups"].as_array().unwrap();
    let row = rows.iter().find(|r| r["cgroup"] == cgroup);
    let row = row.unwrap_or_else(|| panic!("no {cgroup} in {usage}"));
    let meters = row["meters"].as_array().unwrap();
    let found = meters.iter().find(|m| {
        let labels = m["labels"].as_object().unwrap();
        m["meter"] == meter && labels.values().any(|l| l == label)
    });
    found.map_or(0, |m| m["own"].as_u64().unwrap())
}

#[test]
fn what_drivers_tell_is_charged_to_the_cgroups_of_processes() {
    let bench = Bench::new();
    let (machine, a, b) = (&bench.machine, &bench.a, &bench.b);
    machine.process(101, 50, a);
    // What was used before is nobody's, and what is held is held.
    machine.open(101, 5, "gpu", &amdgpu(1, 7_000_000, 100));
    machine.open(101, 6, "zero", "drm-driver:\tno\ndrm-client-id:\t9\n");
    bench.enable(&["gpu_engine", "gpu_memory"]);
    let usage = bench.usage();
    assert_eq!(own(&usage, a, "gpu_engine_busy", "gfx"), 0);
    assert_eq!(own(&usage, a, "gpu_memory_resident", "vram"), 100 << 10);

    machine.open(101, 5, "gpu", &amdgpu(1, 7_500_000, 120));
    // The same client again: a descriptor that was duplicated.
    machine.open(101, 7, "gpu", &amdgpu(1, 7_500_000, 120));
    machine.process(102, 60, b);
    machine.open(102, 3, "gpu", &amdgpu(2, 40_000, 8));
    machine.open(
        102,
        4,
        "accel",
        "drm-driver:\tivpu\ndrm-client-id:\t3\ndrm-engine-npu:\t9 ns\n",
    );
    let usage = bench.usage();
    assert_eq!(own(&usage, a, "gpu_engine_busy", "gfx"), 500_000);
    assert_eq!(own(&usage, a, "gpu_memory_resident", "vram"), 120 << 10);
    assert_eq!(own(&usage, b, "gpu_engine_busy", "gfx"), 40_000);
    assert_eq!(own(&usage, b, "gpu_engine_busy", "npu"), 9);
    assert_eq!(own(&usage, b, "gpu_memory_resident", "vram"), 8 << 10);
    // Read again, nothing is new.
    assert_eq!(bench.usage(), usage);
    let rows = usage["cgroups"].as_array().unwrap();
    let busy = rows[0]["meters"].as_array().unwrap().iter();
    let totals = busy.filter(|m| m["meter"] == "gpu_engine_busy");
    assert_eq!(
        totals.map(|m| m["total"].as_u64().unwrap()).sum::<u64>(),
        540_009
    );
    assert_eq!(
        (&usage["lost"], &usage["unread"]),
        (&0.into(), &Value::Array(vec![]))
    );

    // Inherited by a process that was started later, in another cgroup: from now on it is that one's.
    machine.process(103, 70, b);
    machine.open(103, 5, "gpu", &amdgpu(1, 7_600_000, 120));
    machine.open(101, 5, "gpu", &amdgpu(1, 7_600_000, 120));
    // And one moves.
    machine.process(102, 60, a);
    machine.open(102, 3, "gpu", &amdgpu(2, 40_500, 16));
    let usage = bench.usage();
    assert_eq!(own(&usage, a, "gpu_engine_busy", "gfx"), 500_500);
    assert_eq!(own(&usage, b, "gpu_engine_busy", "gfx"), 140_000);
    assert_eq!(own(&usage, a, "gpu_memory_resident", "vram"), 16 << 10);
    assert_eq!(own(&usage, b, "gpu_memory_resident", "vram"), 120 << 10);

    // Processes end: what they used stays, what they held does not.
    for pid in [101, 102, 103] {
        machine.end(pid);
    }
    let usage = bench.usage();
    assert_eq!(own(&usage, a, "gpu_engine_busy", "gfx"), 500_500);
    assert_eq!(own(&usage, b, "gpu_engine_busy", "gfx"), 140_000);
    assert_eq!(own(&usage, a, "gpu_memory_resident", "vram"), 0);
    assert_eq!(own(&usage, b, "gpu_memory_resident", "vram"), 0);
}

#[test]
fn a_cgroup_that_goes_leaves_what_was_read_to_its_parent() {
    let mut bench = Bench::new();
    let below = bench.sandbox.child("a/below");
    bench.machine.process(101, 50, &below);
    bench.enable(&["gpu_engine", "gpu_memory"]);
    bench.machine.open(101, 5, "gpu", &amdgpu(1, 1_000, 64));
    let usage = bench.usage();
    assert_eq!(own(&usage, &below, "gpu_engine_busy", "gfx"), 1_000);
    std::fs::remove_dir(bench.sandbox.directory.join("a/below")).unwrap();
    bench.machine.process(101, 50, &bench.a);
    bench.machine.open(101, 5, "gpu", &amdgpu(1, 1_300, 32));
    for _ in 0..2 {
        let usage = bench.usage();
        assert_eq!(own(&usage, &bench.a, "gpu_engine_busy", "gfx"), 1_300);
        assert_eq!(
            own(&usage, &bench.a, "gpu_memory_resident", "vram"),
            32 << 10
        );
    }
}

#[test]
fn readers_at_a_time_do_not_charge_twice() {
    let bench = Bench::new();
    bench.machine.process(101, 50, &bench.a);
    bench.enable(&["gpu_engine"]);
    for round in 1..=5 {
        for client in 1..=20 {
            let text = amdgpu(client, round * 1_000, 0);
            bench.machine.open(101, client as u32, "gpu", &text);
        }
        let readers: Vec<_> = (0..6)
            .map(|_| {
                let mut command = bench.cgtap(&["--json", "usage"]);
                command.stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for reader in readers {
            let ran = Ran::from(reader.wait_with_output().unwrap()).done();
            let found = own(&ran.json(), "/", "gpu_engine_busy", "gfx");
            assert_eq!(found, 0);
        }
        let usage = bench.usage();
        assert_eq!(
            own(&usage, &bench.a, "gpu_engine_busy", "gfx"),
            20_000 * round
        );
    }
}

#[test]
fn what_is_counted_in_cycles_is_time_by_the_devices_clock() {
    let bench = Bench::new();
    let xe = |id: u64, used: u64, whole: u64| {
        format!(
            "drm-driver:\txe\ndrm-client-id:\t{id}\ndrm-pdev:\t0000:00:02.0\n\
             drm-cycles-rcs:\t{used}\ndrm-total-cycles-rcs:\t{whole}\n"
        )
    };
    bench.machine.process(101, 50, &bench.a);
    bench.machine.process(102, 51, &bench.b);
    bench.machine.open(101, 5, "gpu", &xe(1, 1_000, 5_000_000));
    bench.machine.open(102, 5, "gpu", &xe(2, 1_000, 5_000_000));
    bench.enable(&["gpu_engine"]);
    // A quarter and a half of the time, however long that was.
    let began = std::time::Instant::now();
    std::thread::sleep(std::time::Duration::from_millis(200));
    bench
        .machine
        .open(101, 5, "gpu", &xe(1, 251_000, 6_000_000));
    bench
        .machine
        .open(102, 5, "gpu", &xe(2, 501_000, 6_000_000));
    let usage = bench.usage();
    let most = began.elapsed().as_nanos() as u64;
    let (a, b) = (
        own(&usage, &bench.a, "gpu_engine_busy", "rcs"),
        own(&usage, &bench.b, "gpu_engine_busy", "rcs"),
    );
    // Enabling, too, took its time before and after it read.
    assert!(
        a >= 50_000_000 && a * 4 <= most + 1_000_000_000,
        "{a} of {most}"
    );
    assert!(b.abs_diff(a * 2) <= 2, "{a}, {b}");
    assert_eq!(own(&usage, &bench.b, "gpu_engine_cycles", "rcs"), 500_000);
}

#[test]
fn drivers_that_do_not_say_which_client_it_is_are_told() {
    let bench = Bench::new();
    bench.machine.process(101, 50, &bench.a);
    bench
        .machine
        .open(101, 5, "gpu", "drm-driver:\told\ndrm-engine-gfx:\t5 ns\n");
    bench.enable(&["gpu_engine"]);
    let ran = bench.run(&["usage"]).done();
    assert!(ran.err.contains("cannot be read (1 files)"), "{ran:?}");
    let usage = bench.usage();
    assert_eq!(usage["unread"].as_array().unwrap().len(), 1, "{usage}");
    assert_eq!(own(&usage, &bench.a, "gpu_engine_busy", "gfx"), 0);
}

#[test]
fn processes_that_may_not_be_looked_at_are_counted() {
    let bench = Bench::new();
    bench.machine.process(101, 50, &bench.a);
    bench.enable(&["gpu_engine"]);
    // A file where a directory should be is no directory that may not be read: a mode is.
    let fds = bench.machine.root().join("proc/101/fd");
    let mut command = Command::new("setpriv");
    command
        .args([
            "--bounding-set=-dac_override,-dac_read_search,-sys_ptrace",
            "--inh-caps=-all",
            "--",
        ])
        .arg(env!("CARGO_BIN_EXE_cgtap"))
        .arg("--state")
        .arg(&bench.sandbox.state)
        .args(["--json", "usage"])
        .env("CGTAP_PRETEND_ROOT", bench.machine.root());
    let status = Command::new("chown")
        .arg("65534")
        .arg(&fds)
        .status()
        .unwrap();
    assert!(status.success());
    let status = Command::new("chmod")
        .arg("0700")
        .arg(&fds)
        .status()
        .unwrap();
    assert!(status.success());
    let usage = Ran::of(&mut command).done().json();
    let unread = usage["unread"][0].as_str().unwrap();
    assert!(
        unread.contains("may not be looked at (1 of them)"),
        "{unread}"
    );
}

#[test]
fn serve_and_top_read_each_time() {
    let bench = Bench::new();
    bench.machine.process(101, 50, &bench.a);
    bench.enable(&["gpu_engine"]);
    let mut child = bench
        .cgtap(&["--json", "serve", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let pid = child.id();
    let _running = Running(child);
    out.read_line(&mut line).unwrap();
    // What other processes have open takes this, and it is kept for as long as something is read.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let held = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let held = u64::from_str_radix(held.unwrap().trim(), 16).unwrap();
    let kept =
        CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE;
    assert_eq!(held, kept.bits());
    let document: Value = serde_json::from_str(&line).unwrap();
    let address = document["listen"].as_str().unwrap().parse().unwrap();
    let mut top = bench
        .cgtap(&["--json", "top", "-d", "1", "-n", "20"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let frames = BufReader::new(top.stdout.take().unwrap()).lines();
    let _top = Running(top);
    let mut told = 0;
    for (round, frame) in (1..=3_u64).zip(frames) {
        serde_json::from_str::<Value>(&frame.unwrap()).unwrap();
        let text = amdgpu(1, round * 1_000_000_000, 0);
        bench.machine.open(101, 5, "gpu", &text);
        let page = prometheus::get_open(address).body;
        let series = format!("cgroup=\"{}\"", bench.a);
        let line = page
            .lines()
            .find(|l| l.starts_with("cgtap_gpu_engine_busy") && l.contains(&series))
            .unwrap_or_else(|| panic!("{page}"));
        let seconds: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        assert!((seconds - round as f64).abs() < 1e-9, "{line}");
        assert!(page.contains("\ncgtap_unread 0\n"), "{page}");
        told += 1;
    }
    assert_eq!(told, 3);
}
