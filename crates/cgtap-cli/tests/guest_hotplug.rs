//! CPUs that go and come again: what is not counted on them is told. In a guest, whose CPUs nobody else needs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod guest_support;
mod support;

use std::process::Stdio;

use guest_support::wait_until;
use rustix::process::Signal;
use serde_json::Value;
use support::{Running, Sandbox};

/// Whether the guest's second CPU is there.
const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";

/// Takes it away, or gives it back.
fn online(is_wanted: bool) {
    std::fs::write(ONLINE, if is_wanted { "1" } else { "0" }).unwrap();
}

/// perf events end with their CPU, and do not begin again with it.
#[test]
#[ignore = "takes a CPU away: ./dev test-vm"]
fn counts_across_a_cpu_that_went_are_told_as_not_whole() {
    let sandbox = Sandbox::new();
    let lost = |script: &str| {
        let words = [
            "--json",
            "stat",
            "-c",
            "/",
            "-e",
            "context-switches,page-faults",
            "--",
        ];
        let ran = sandbox
            .run(&[&words[..], &["sh", "-c", script]].concat())
            .done();
        let report = ran.json();
        for event in report["cgroups"][0]["events"].as_array().unwrap() {
            let count = event["count"].as_u64().unwrap();
            assert!(count < 10_000_000, "{report}");
        }
        report["lost"].as_u64().unwrap()
    };
    assert_eq!(lost("sleep 0.2"), 0);
    let again = format!("echo 0 > {ONLINE} && echo 1 > {ONLINE} && sleep 0.2");
    assert!(lost(&again) > 0);
    assert_eq!(lost("sleep 0.2"), 0);
}

/// A hook samples on the CPUs that were there; `doctor` tells where others are, and mends it.
#[test]
#[ignore = "takes a CPU away: ./dev test-vm"]
fn a_hook_that_samples_on_fewer_cpus_is_told_and_mended() {
    let sandbox = Sandbox::new();
    online(false);
    let mut command = sandbox.cgtap(&["--json", "stat", "-d", "600", "-c", "/"]);
    command.args(["-e", "perf_event:cpu-clock/99hz"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = Running(command.spawn().unwrap());
    wait_until("a hook", || {
        sandbox.run(&["list"]).done().out.contains("perf_event")
    });
    let problems = || {
        let said: Value = sandbox.run(&["--json", "doctor"]).json();
        said["state_problems"].as_array().unwrap().clone()
    };
    assert!(problems().is_empty(), "{:?}", problems());
    online(true);
    assert!(
        problems()[0]
            .as_str()
            .unwrap()
            .contains("samples on CPUs [0]"),
        "{:?}",
        problems()
    );
    let mended = sandbox.run(&["doctor", "--repair"]);
    assert!(
        mended.out.contains("perf_event:cpu-clock/99hz"),
        "{mended:?}"
    );
    assert!(problems().is_empty(), "{:?}", problems());
    let report = child.ended_by(Signal::INT).json();
    assert!(
        report["cgroups"][0]["events"][0]["count"].as_u64().unwrap() > 0,
        "{report}"
    );
}
