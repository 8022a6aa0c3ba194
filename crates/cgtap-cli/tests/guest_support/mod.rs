//! What the tests share that need devices or kernels this machine may lack: they run in guests
//! (`./dev test-vm`), as root on a kernel of Debian's, where everything may be tried.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

pub mod containers;
pub mod cri;
pub mod kubernetes;
pub mod nbd;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Sandbox;
use crate::support::told::not_run;

/// Runs a program of the machine; its standard output. It fails the test if it fails.
#[track_caller]
pub fn tool(words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}; `./dev test-vm` installs it", words[0]));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Loads a module of the guest's kernel.
#[track_caller]
pub fn modprobe(words: &[&str]) {
    tool(&[&["modprobe"], words].concat());
}

/// Loads the kernel's GPU scheduler and, behind it, an engine that is simulated; whether there is one.
/// Debian has no headers for 6.18 to build it with: that programs load is all that can be seen there.
#[track_caller]
pub fn simulated_gpu() -> bool {
    modprobe(&["gpu-sched"]);
    let module = std::env::var("CGTAP_SIMGPU").unwrap_or_default();
    if module.is_empty() {
        assert_eq!(std::env::var("CGTAP_GUEST").unwrap(), "6.18");
        not_run(
            "the simulated engine: Debian has no headers for this kernel to build its module with",
        );
        return false;
    }
    if Path::new("/dev/simgpu").exists() {
        // Of a test that failed.
        tool(&["rmmod", "simgpu"]);
    }
    tool(&["insmod", &module]);
    wait_until("/dev/simgpu", || Path::new("/dev/simgpu").exists());
    true
}

/// Unloads it, when the last client is gone.
#[track_caller]
pub fn remove_simulated_gpu() {
    wait_until("the end of the module simgpu", || {
        Command::new("rmmod")
            .arg("simgpu")
            .env("PATH", "/sbin:/usr/sbin")
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    });
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The object of `examples/NAME.bpf.c` at the root of the tree.
pub fn example(name: &str) -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let object =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.bpf.o", std::process::id()));
    let source = tree.join(format!("examples/{name}.bpf.c"));
    let flags = ["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c"];
    let status = Command::new("clang")
        .args(flags)
        .arg(source)
        .arg("-o")
        .arg(&object)
        .status()
        .unwrap_or_else(|e| panic!("cannot run clang: {e}"));
    assert!(status.success());
    object
}

impl Sandbox {
    /// Runs a shell command inside the sandbox's cgroup `name`, whether or not it succeeds: its
    /// exit status, and all it said.
    pub fn try_inside(&self, name: &str, script: &str) -> (i32, String) {
        let procs = self.directory.join(name).join("cgroup.procs");
        let script = format!("echo $$ > {} && {{ {script}; }} 2>&1", procs.display());
        let output = Command::new("sh")
            .args(["-c", &script])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    /// The variables of an instance's `.bss`, as 64-bit words.
    #[track_caller]
    pub fn bss(&self, instance: &serde_json::Value) -> Vec<u64> {
        let id = instance.to_string();
        let maps = self.run(&["--json", "maps", &id]).done().json();
        let maps = maps["instances"][0]["maps"].as_array().unwrap().clone();
        let bss = maps.iter().find(|m| m["name"] == ".bss").unwrap();
        let map = cgtap_sys::bpf::get_map(Path::new(bss["pin"].as_str().unwrap())).unwrap();
        let value = map.lookup(&0u32.to_ne_bytes()).unwrap().unwrap();
        value
            .chunks_exact(8)
            .map(|w| u64::from_ne_bytes(w.try_into().unwrap()))
            .collect()
    }
}
