//! Meters of GPUs on real kernels: jobs of the kernel's GPU scheduler, with a simulated engine behind
//! it that says itself how long it worked for whom; buffers and calls of a real driver.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use guest_support::{modprobe, remove_simulated_gpu, simulated_gpu, wait_until};
use support::{Ran, Sandbox, alone, compiled, value};

fn is_within_2_percent(found: u64, truth: u64) -> bool {
    found.abs_diff(truth) * 50 <= truth
}

#[test]
#[ignore = "needs the GPU scheduler and a module for it: ./dev test-vm"]
fn a_serial_engine_is_charged_to_the_cgroups_whose_jobs_it_works_on() {
    let _alone = alone();
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
        let (own, total) = value(&usage, &path(cgroup), "drm_busy", None);
        assert_eq!(own, total);
        println!("{cgroup}: busy {own} ns, in truth {truth} ns");
        assert!(
            is_within_2_percent(own, truth),
            "{cgroup}: {own}, in truth {truth}"
        );
        assert_eq!(value(&usage, &path(cgroup), "drm_done", None), (jobs, jobs));
        assert_eq!(
            value(&usage, &path(cgroup), "drm_queued", None),
            (jobs, jobs)
        );
    }
    // The sum over the tree is the device's.
    let whole = value(&usage, "/", "drm_busy", None).1;
    let truth = truth[0] + truth[1] + again;
    assert!(
        is_within_2_percent(whole, truth),
        "{whole}, in truth {truth}"
    );
    sandbox.run(&["meter", "disable", "drm"]).done();
    remove_simulated_gpu();
}

/// A client that has used the engine and stays; what the engine says it worked for it.
struct Staying {
    child: Child,
    worked: u64,
}

impl Staying {
    fn begin(sandbox: &Sandbox, cgroup: &str, count: &str, length_us: &str, bytes: &str) -> Self {
        let procs = sandbox.directory.join(cgroup).join("cgroup.procs");
        let submit = compiled("simgpu/submit");
        let script = format!(
            "echo $$ > {} && exec {} {count} {length_us} {bytes}",
            procs.display(),
            submit.display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let worked = line.trim().parse().unwrap();
        Self { child, worked }
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
#[ignore = "needs the GPU scheduler and a module for it: ./dev test-vm"]
fn what_a_driver_tells_of_open_files_is_charged_to_the_cgroups_that_have_them() {
    let _alone = alone();
    let has_engine = simulated_gpu();
    let mut sandbox = Sandbox::new();
    let (a, b) = (sandbox.child("a"), sandbox.child("b"));
    let before = has_engine.then(|| Staying::begin(&sandbox, "a", "3", "20000", "4096"));
    sandbox
        .run(&["meter", "enable", "gpu_engine", "gpu_memory"])
        .done();
    let read = || {
        let words = ["--json", "usage", "--recursive"];
        sandbox.run(&words).done().json()
    };
    let Some(before) = before else {
        assert_eq!(read()["unread"], serde_json::json!([]));
        sandbox.run(&["meter", "disable", "--all"]).done();
        return;
    };
    let first = Staying::begin(&sandbox, "a", "5", "30000", "1048576");
    let second = Staying::begin(&sandbox, "b", "8", "10000", "65536");
    let usage = read();
    // What was used before the meter is nobody's; the rest is what the engine says, to the nanosecond.
    assert!(before.worked >= 60_000_000 && first.worked >= 150_000_000);
    println!("a: {}, b: {}", first.worked, second.worked);
    for (cgroup, worked, held) in [(&a, first.worked, 1_052_672), (&b, second.worked, 65_536)] {
        assert_eq!(
            value(&usage, cgroup, "gpu_engine_busy", None),
            (worked, worked)
        );
        assert_eq!(
            value(&usage, cgroup, "gpu_memory_resident", None),
            (held, held)
        );
    }
    let whole = first.worked + second.worked;
    assert_eq!(value(&usage, "/", "gpu_engine_busy", None).1, whole);
    // Whoever may not look at open files says so, and takes nothing for closed.
    let mut unable = Command::new("setpriv");
    unable.args(["--bounding-set=-sys_ptrace", "--inh-caps=-all", "--"]);
    unable.arg(env!("CARGO_BIN_EXE_cgtap"));
    unable.arg("--state").arg(&sandbox.state);
    unable.args(["--json", "usage", "--recursive"]);
    let told = Ran::of(&mut unable).done().json();
    let unread = told["unread"][0].as_str().unwrap();
    assert!(unread.contains("may not be looked at"), "{told}");
    assert_eq!(
        value(&told, &b, "gpu_memory_resident", None),
        (65_536, 65_536)
    );
    let worked = [(&a, first.worked), (&b, second.worked)];
    for client in [before, first, second] {
        client.end();
    }
    let usage = read();
    for (cgroup, worked) in worked {
        assert_eq!(
            value(&usage, cgroup, "gpu_engine_busy", None),
            (worked, worked)
        );
        assert_eq!(value(&usage, cgroup, "gpu_memory_resident", None), (0, 0));
    }
    sandbox.run(&["meter", "disable", "--all"]).done();
    remove_simulated_gpu();
}

#[test]
#[ignore = "needs a DRM driver: ./dev test-vm"]
fn buffers_and_calls_of_a_driver_are_their_makers() {
    modprobe(&["vgem"]);
    wait_until("/dev/dri/card0", || Path::new("/dev/dri/card0").exists());
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    // A kernel without kprobes has trampolines for the same.
    for (missing, kind) in [("", "kprobe:"), ("kprobes", "fentry:")] {
        let enable = ["meter", "enable", "drm_memory", "drm_ioctl"];
        sandbox.run_without(missing, &enable).done();
        let listed = sandbox.run(&["--json", "list"]).done().out;
        let hook = format!("\"{kind}drm_gem_object_release\"");
        assert!(listed.contains(&hook), "{listed}");
        makers_have_their_buffers(&sandbox);
        sandbox.run(&["meter", "disable", "--all"]).done();
    }
}

fn makers_have_their_buffers(sandbox: &Sandbox) {
    let client = compiled("fixtures/dumb_buffer");
    // Three buffers of 64 x 64 x 4 bytes are made, one is destroyed, and then we look.
    let held = sandbox.try_inside(
        "a",
        &format!("{} /dev/dri/card0 3 1 {}", client.display(), look(sandbox)),
    );
    assert_eq!(held.0, 0, "{}", held.1);
    let usage: serde_json::Value = serde_json::from_str(held.1.trim()).unwrap();
    let path = format!("{}/a", sandbox.cgroup);
    assert_eq!(
        value(&usage, &path, "drm_memory_bytes", None),
        (32_768, 32_768)
    );
    assert_eq!(value(&usage, &path, "drm_memory_made", None), (3, 3));
    assert_eq!(value(&usage, &path, "drm_ioctl_calls", None), (4, 4));
    // With the process its buffers are gone.
    let usage = sandbox
        .run(&["--json", "usage", "--recursive"])
        .done()
        .json();
    assert_eq!(value(&usage, &path, "drm_memory_bytes", None), (0, 0));
}

/// Fences of a driver are whose process made and signalled them, and took as long as it let them.
#[test]
#[ignore = "needs a DRM driver: ./dev test-vm"]
fn fences_of_a_driver_are_counted_and_timed_by_cgroup() {
    const FENCES: &str = "tracepoint:dma_fence/dma_fence_signaled since \
                          tracepoint:dma_fence/dma_fence_init key context \
                          count() sum(elapsed) by driver";
    modprobe(&["vgem"]);
    wait_until("/dev/dri/card0", || Path::new("/dev/dri/card0").exists());
    let mut sandbox = Sandbox::new();
    let all = [("a", 40, 5_000), ("b", 25, 20_000)];
    let paths = all.map(|(name, ..)| sandbox.child(name));
    let fences = compiled("fixtures/fences");
    let client = |cgroup: &str, count: u64, length_us: u64| {
        let procs = sandbox.directory.join(cgroup).join("cgroup.procs");
        let (procs, fences) = (procs.display(), fences.display());
        format!("sh -c 'echo $$ > {procs} && exec {fences} /dev/dri/card0 {count} {length_us}'")
    };
    let (a, b) = (
        client("a", all[0].1, all[0].2),
        client("b", all[1].1, all[1].2),
    );
    let script = format!("{a} & {b} && wait $!");
    let words = [
        "--json",
        "stat",
        "-c",
        &paths[0],
        "-c",
        &paths[1],
        "--per-cgroup",
        "-e",
        FENCES,
        "--",
        "sh",
        "-c",
        &script,
    ];
    let begin = Instant::now();
    let report = sandbox.run(&words).done().json();
    let whole_ns = begin.elapsed().as_nanos() as u64;
    for ((_, count, length_us), path) in all.into_iter().zip(&paths) {
        let rows = report["cgroups"].as_array().unwrap();
        let row = rows.iter().find(|r| r["cgroup"] == path.as_str()).unwrap();
        let events = row["events"].as_array().unwrap();
        let of = |value: &str| {
            let mut found = events.iter().filter(|e| e["value"] == value);
            let event = found
                .next()
                .unwrap_or_else(|| panic!("no {value}: {report}"));
            assert_eq!(event["labels"]["driver"], "vgem", "{report}");
            assert!(found.next().is_none(), "{report}");
            event["total"].as_u64().unwrap()
        };
        assert_eq!(of("count()"), count, "{report}");
        // A sleep never ends early; how late it ends is the machine's.
        let least_ns = count * length_us * 1_000;
        let elapsed_ns = of("sum(elapsed)");
        assert!((least_ns..whole_ns).contains(&elapsed_ns), "{report}");
    }
}

/// The command that tells usage.
fn look(sandbox: &Sandbox) -> String {
    format!(
        "{} --state {} --json usage --recursive",
        env!("CARGO_BIN_EXE_cgtap"),
        sandbox.state.display()
    )
}
