//! The meter of NVIDIA's CUDA library, held to a stand-in for that library: a library of the same name
//! with functions of the same names that do nothing. What is tested is that calls and their arguments
//! are counted for whoever makes them; that the real library has these functions is not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod meter_support;
mod support;

use std::path::Path;
use std::process::Command;

use meter_support::{both, builtin, enable, usage};
use support::{Sandbox, program, scratch};

/// The stand-in at `path`.
fn library(path: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/cuda.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-DLIBRARY", "-o"]);
    support::run(cc.arg(path).arg(source));
}

/// The meter, of the library at `path`.
fn enabled(sandbox: &Sandbox, path: &Path) {
    let text = builtin("cuda");
    let hook = format!("uprobe:{}:", path.display());
    enable(sandbox, &text.replace("uprobe:libcuda.so.1:", &hook));
}

#[test]
fn the_machines_library_is_seen_in_containers_that_are_given_it_and_another_is_not() {
    let host = scratch().join("libcuda-machine.so");
    let own = scratch().join("libcuda-container.so");
    library(&host);
    library(&own);
    let client = program("cuda-container", "support/cuda.c", &[own.to_str().unwrap()]);
    let sandbox = Sandbox::new("meter");
    enabled(&sandbox, &host);
    let calls = |cgroup: &str, before: &str| {
        sandbox.cgroup(cgroup);
        let procs = sandbox.dir(cgroup).join("cgroup.procs");
        let script = format!("{before} exec {} {} 2", client.display(), procs.display());
        let mut shell = Command::new("unshare");
        support::run(shell.args(["--mount", "sh", "-ec", &script]));
        both(&sandbox, &usage(&sandbox), cgroup, "cuda_launches").0
    };
    // As NVIDIA's toolkit does it: the machine's file, at a path of the container's.
    let given = format!("mount --bind {} {};", host.display(), own.display());
    assert_eq!(calls("given", &given), 6);
    assert_eq!(calls("own", ""), 0);
}

#[test]
fn launches_copies_and_allocations_are_the_callers() {
    let path = scratch().join("libcuda-stand-in.so");
    library(&path);
    let client = program("cuda-client", "support/cuda.c", &[path.to_str().unwrap()]);

    let sandbox = Sandbox::new("meter");
    enabled(&sandbox, &path);
    for (cgroup, rounds) in [("a", "3"), ("b", "1")] {
        sandbox.cgroup(cgroup);
        let procs = sandbox.dir(cgroup).join("cgroup.procs");
        let mut client = Command::new(&client);
        support::run(client.arg(procs).arg(rounds));
    }
    let report = usage(&sandbox);
    for (cgroup, rounds) in [("a", 3), ("b", 1)] {
        let own = |value: &str| both(&sandbox, &report, cgroup, value).0;
        // Each round: two kernels, a graph, 1000 bytes there, 500 back, 250 there, 4096 allocated.
        assert_eq!(own("cuda_launches"), 3 * rounds);
        assert_eq!(own("cuda_copied_bytes"), 1_750 * rounds);
        assert_eq!(own("cuda_allocated_bytes"), 4_096 * rounds);
    }
    let path = sandbox.path("a");
    let row = report.cgroups.iter().find(|r| r.cgroup == path).unwrap();
    let to_host = row
        .meters
        .iter()
        .find(|m| *m.meter == *"cuda_copied_bytes" && m.labels["what"] == "to_host");
    assert_eq!(to_host.unwrap().own, 1_500);
}
