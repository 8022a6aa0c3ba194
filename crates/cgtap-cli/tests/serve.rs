//! `cgtap serve` as a process: its words, its signals, its privileges, and Prometheus reading it.
//! What is on its pages is tested beside the source, with readings that are made up.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

#[allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]
#[path = "../../cgtap/tests/support/cuda.rs"]
mod cuda;
#[path = "support/prometheus.rs"]
mod prometheus;
mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prometheus::{Prometheus, get, get_open, promtool};
use rustix::process::{Pid, Signal, kill_process};
use support::{Ran, Running, Sandbox, object, run};

/// A server on a state of its own, with something attached in it.
struct Serving {
    child: Child,
    address: SocketAddr,
    sandbox: Sandbox,
}

impl Serving {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let mut attach = sandbox.cgtap(&["attach"]);
        Ran::of(attach.arg(&sandbox.directory).arg(object())).done();
        Self::on(sandbox)
    }

    /// On a state with whatever is in it.
    fn on(sandbox: Sandbox) -> Self {
        let mut child = sandbox
            .cgtap(&["--json", "serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let document: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(document["schema"], "cgtap/1");
        let address = document["listen"].as_str().unwrap().parse().unwrap();
        Self {
            child,
            address,
            sandbox,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ends it by a signal, and returns its exit status.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(self.pid(), signal).unwrap();
        self.child.wait().unwrap().code()
    }

    /// A field of the status of each of its threads.
    fn fields(&self, name: &str) -> Vec<u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            .map(|task| {
                let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                let field = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
                u64::from_str_radix(field.trim(), 16).unwrap()
            })
            .collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_serves_and_ends_by_a_signal() {
    for (signal, status) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let mut serving = Serving::new();
        let to = serving.address;
        assert_eq!(get(to, "/healthz").body, "ok\n");
        let page = get_open(to);
        assert_eq!(page.status, 200, "{page:?}");
        assert!(
            page.head.contains("application/openmetrics-text"),
            "{page:?}"
        );
        assert!(page.body.ends_with("# EOF\n"), "{page:?}");
        assert_eq!(serving.end(signal), Some(status));
    }
}

#[test]
fn a_port_that_is_taken_is_said_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = run(&["serve", "--listen", &address]);
    assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(
        ran.err.contains(&format!("cannot listen on {address}")),
        "{ran:?}"
    );
    assert!(ran.err.contains("another process has it"), "{ran:?}");
    assert!(
        ran.err.contains("--listen") && ran.err.contains("EADDRINUSE"),
        "{ran:?}"
    );
}

#[test]
fn it_keeps_two_privileges_and_reads_with_them() {
    let serving = Serving::new();
    assert_eq!(get(serving.address, "/metrics").status, 200);
    // CAP_DAC_READ_SEARCH is 2, CAP_SYS_ADMIN 21.
    let kept = 1 << 2 | 1 << 21;
    for name in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let fields = serving.fields(name);
        assert!(fields.len() >= 2, "the thread that reads is one of them");
        assert!(fields.iter().all(|f| *f == kept), "{name} {fields:x?}");
    }
    assert!(serving.fields("NoNewPrivs:").iter().all(|f| *f == 1));
    // A cgroup with something attached goes: the next reading mends the state, and may.
    let below = serving.sandbox.directory.join("below");
    std::fs::create_dir(&below).unwrap();
    let mut attach = serving.sandbox.cgtap(&["attach"]);
    Ran::of(attach.arg(&below).arg(object())).done();
    std::fs::remove_dir(&below).unwrap();
    let page = get(serving.address, "/metrics");
    assert_eq!(page.status, 200, "{page:?}");
}

/// A process in a sandbox's cgroup that maps a library and does nothing.
fn maps(sandbox: &Sandbox, library: &Path) -> Running {
    Running(cuda::idle(Some(&sandbox.directory), library))
}

#[test]
fn libraries_that_are_mapped_later_are_probed_with_the_privileges_that_are_kept() {
    let sandbox = Sandbox::new();
    let dir = tempfile::tempdir().unwrap();
    let [first, later] = ["first", "later"].map(|name| {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let library = dir.join("libcuda.so.1");
        cuda::library(&library, cuda::NAME);
        library
    });
    let first = maps(&sandbox, &first);
    let enable = ["meter", "enable", "--cgroup", &sandbox.cgroup, "cuda"];
    sandbox.run(&enable).done();
    let serving = Serving::on(sandbox);
    // Those of a reading, and CAP_SYS_PTRACE, 19.
    let kept = 1 << 2 | 1 << 19 | 1 << 21;
    assert!(serving.fields("CapEff:").iter().all(|f| *f == kept));
    // Both end before the sandbox does.
    let _both = [first, maps(&serving.sandbox, &later)];
    let files = || {
        serving
            .sandbox
            .files("uprobe:*/libcuda.so.1:cuLaunchKernel")
            .len()
    };
    // Nobody asks for it: it looks by itself.
    let end = Instant::now() + Duration::from_secs(60);
    while files() < 2 {
        assert!(Instant::now() < end, "it stands in {} files", files());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn limits_are_told_and_shown_by_top() {
    let serving = Serving::new();
    let (sandbox, cgroup) = (&serving.sandbox, serving.sandbox.cgroup.as_str());
    let page = || get(serving.address, "/metrics").body;
    assert!(!page().contains("cgtap_limit"));
    let set = format!("limit set {cgroup} tasks_ended 3 --on observe");
    sandbox.run(&set.split(' ').collect::<Vec<_>>()).done();
    // The five, and the shell itself.
    sandbox.inside("", "for i in 1 2 3 4 5; do /bin/true; done");
    let page = page();
    let labels = format!(r#"{{cgroup="{cgroup}",meter="tasks_ended",action="observe"}}"#);
    for (name, value) in [
        ("amount", "3"),
        ("used", "6"),
        ("left", "-3"),
        ("reached", "1"),
        ("denied_total", "3"),
    ] {
        let line = format!("cgtap_limit_{name}{labels} {value}");
        assert!(page.lines().any(|l| l == line), "{line} in {page}");
    }
    assert_eq!(promtool(&page), "");
    let ran = sandbox.run(&["top", cgroup, "--once", "-d", "0.1"]).done();
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].ends_with("LIMITS"), "{ran:?}");
    assert!(lines[1].ends_with("tasks_ended -3 left"), "{ran:?}");
}

#[test]
fn promtool_and_prometheus_take_it() {
    let serving = Serving::new();
    assert_eq!(promtool(&get(serving.address, "/metrics").body), "");
    let prometheus = Prometheus::scraping(serving.address);
    // The first scrape of a machine that is slow may be cut off; this waits for one that is not.
    assert_eq!(prometheus.value("up%20==%201"), "1");
    assert_eq!(prometheus.value("cgtap_build_info"), "1");
    assert_eq!(prometheus.value("cgtap_lost_total"), "0");
}

#[test]
fn the_unit_files_are_understood_and_tight() {
    for unit in ["serve", "enforce"] {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=30", "--no-pager"])
            .arg(format!("{directory}/cgtap-{unit}.service"))
            .output();
        let ran = Ran::from(output.unwrap_or_else(|e| {
            panic!("cannot run systemd-analyze: {e}; `./dev test` installs it")
        }));
        // 30 is an exposure of 3.0.
        assert_eq!(ran.status, 0, "{ran:?}");
        let exposure = ran.out.lines().last().unwrap();
        assert!(exposure.contains("Overall exposure level"), "{ran:?}");
    }
}
