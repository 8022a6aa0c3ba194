//! Meters of GPUs on real kernels: jobs of the kernel's GPU scheduler, with a simulated engine behind
//! it that says itself how long it worked for whom; buffers and calls of a real driver.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use guest_support::{compiled, modprobe, simulated_gpu, tool, wait_until};
use support::Sandbox;

/// One value of a cgroup, all its labels together: own and total.
fn value(usage: &serde_json::Value, cgroup: &str, meter: &str) -> (u64, u64) {
    let rows = usage["cgroups"].as_array().unwrap();
    let row = rows.iter().find(|r| r["cgroup"] == cgroup);
    let row = row.unwrap_or_else(|| panic!("no {cgroup} in {usage}"));
    let all = row["meters"].as_array().unwrap().iter();
    all.filter(|m| m["meter"] == meter).fold((0, 0), |sum, m| {
        (
            sum.0 + m["own"].as_u64().unwrap(),
            sum.1 + m["total"].as_u64().unwrap(),
        )
    })
}

fn is_within_2_percent(found: u64, truth: u64) -> bool {
    found.abs_diff(truth) * 50 <= truth
}

#[test]
#[ignore = "needs the GPU scheduler and a module for it: ./dev test-vm"]
fn a_serial_engine_is_charged_to_the_cgroups_whose_jobs_it_works_on() {
    let has_engine = simulated_gpu();
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    sandbox.child("b");
    if !has_engine {
        sandbox.run(&["meter", "enable", "drm"]).done();
        sandbox.run(&["meter", "disable", "drm"]).done();
        return;
    }
    sandbox.run(&["meter", "enable", "drm"]).done();
    let submit = compiled("simgpu/submit");
    let begin = |cgroup: &str, count: &str, length_us: &str| {
        let dir = sandbox.directory.join(cgroup);
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec {} {count} {length_us}",
            dir.display(),
            submit.display()
        );
        Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let worked = |child: std::process::Child| -> u64 {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    let (a, b) = (begin("a", "10", "50000"), begin("b", "10", "80000"));
    let truth = [worked(a), worked(b)];
    // Nothing to do for a while, which is nobody's.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let again = worked(begin("a", "1", "100000"));
    let usage = sandbox
        .run(&["--json", "usage", "--recursive"])
        .done()
        .json();
    let path = |cgroup: &str| format!("{}/{cgroup}", sandbox.cgroup);
    for (cgroup, truth, jobs) in [("a", truth[0] + again, 11), ("b", truth[1], 10)] {
        let (own, total) = value(&usage, &path(cgroup), "drm_busy");
        assert_eq!(own, total);
        println!("{cgroup}: busy {own} ns, in truth {truth} ns");
        assert!(
            is_within_2_percent(own, truth),
            "{cgroup}: {own}, in truth {truth}"
        );
        assert_eq!(value(&usage, &path(cgroup), "drm_done"), (jobs, jobs));
        assert_eq!(value(&usage, &path(cgroup), "drm_queued"), (jobs, jobs));
    }
    // The sum over the tree is the device's.
    let whole = value(&usage, "/", "drm_busy").1;
    let truth = truth[0] + truth[1] + again;
    assert!(
        is_within_2_percent(whole, truth),
        "{whole}, in truth {truth}"
    );
    sandbox.run(&["meter", "disable", "drm"]).done();
    tool(&["rmmod", "simgpu"]);
}

#[test]
#[ignore = "needs a DRM driver: ./dev test-vm"]
fn buffers_and_calls_of_a_driver_are_their_makers() {
    modprobe(&["vgem"]);
    wait_until("/dev/dri/card0", || Path::new("/dev/dri/card0").exists());
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    sandbox
        .run(&["meter", "enable", "drm_memory", "drm_ioctl"])
        .done();
    let client = compiled("fixtures/dumb_buffer");
    // Three buffers of 64 x 64 x 4 bytes are made, one is destroyed, and then we look.
    let held = sandbox.try_inside(
        "a",
        &format!("{} /dev/dri/card0 3 1 {}", client.display(), look(&sandbox)),
    );
    assert_eq!(held.0, 0, "{}", held.1);
    let usage: serde_json::Value = serde_json::from_str(held.1.trim()).unwrap();
    let path = format!("{}/a", sandbox.cgroup);
    assert_eq!(value(&usage, &path, "drm_memory_bytes"), (32_768, 32_768));
    assert_eq!(value(&usage, &path, "drm_memory_made"), (3, 3));
    assert_eq!(value(&usage, &path, "drm_ioctl_calls"), (4, 4));
    // With the process its buffers are gone.
    let usage = sandbox
        .run(&["--json", "usage", "--recursive"])
        .done()
        .json();
    assert_eq!(value(&usage, &path, "drm_memory_bytes"), (0, 0));
    sandbox.run(&["meter", "disable", "--all"]).done();
}

/// The command that tells usage.
fn look(sandbox: &Sandbox) -> String {
    format!(
        "{} --state {} --json usage --recursive",
        env!("CARGO_BIN_EXE_cgtap"),
        sandbox.state.display()
    )
}
