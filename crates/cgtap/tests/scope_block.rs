//! Requests of a block device belong to the cgroup of their bio, whoever runs when they end.
//!
//! Which cgroup that is hangs on where the controller of block I/O is: with cgroup2 it is the
//! submitter's; where v1 has it, as on hybrid hosts, the bio names a cgroup of v1, and the event is
//! nobody's here. Each machine tests what it has, and says which.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod scope_support;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use scope_support::{act, counter, lists};
use support::{Sandbox, again_without, run, scratch};

const BLOCKS: u64 = 64;

/// A block device of its own: a loop over a file.
struct Device {
    path: String,
    file: PathBuf,
}

impl Device {
    fn new(name: &str) -> Self {
        // Tests of one process run beside each other: a file of its own for each.
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = scratch().join(format!("scope-{name}-{}-{number}.img", std::process::id()));
        std::fs::write(&file, vec![7; BLOCKS as usize * 4096]).unwrap();
        // In a guest it is a module, and no udev loads it; elsewhere losetup says what is missing.
        if std::env::var_os("CGTAP_GUEST").is_some() {
            run(Command::new("modprobe").arg("loop"));
        }
        let mut words = String::new();
        // Finding a free one and taking it are two steps: somebody else may be faster.
        for _ in 0..50 {
            let made = Command::new("losetup")
                .args(["--find", "--show"])
                .arg(&file)
                .output()
                .unwrap();
            if made.status.success() {
                let path = String::from_utf8(made.stdout).unwrap().trim().to_owned();
                return Self { path, file };
            }
            words = String::from_utf8_lossy(&made.stderr).into_owned();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("no loop device: {words}");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        run(Command::new("losetup").args(["--detach", &self.path]));
        let _ = std::fs::remove_file(&self.file);
    }
}

/// cgroup2 has the controller of block I/O; it is switched on for what is below the root.
fn has_io(sandbox: &Sandbox) -> bool {
    let root = sandbox.engine.cgroup_root().unwrap();
    let read = |file: &str| std::fs::read_to_string(Path::new(&root).join(file)).unwrap();
    if !read("cgroup.controllers")
        .split_whitespace()
        .any(|c| c == "io")
    {
        return false;
    }
    if !read("cgroup.subtree_control").contains("io") {
        std::fs::write(Path::new(&root).join("cgroup.subtree_control"), "+io").unwrap();
    }
    std::fs::write(sandbox.dir("cgroup.subtree_control"), "+io").unwrap();
    true
}

fn requests(hook: &str, scope: &str) {
    let sandbox = Sandbox::new("block");
    let device = Device::new("rq");
    let owned = has_io(&sandbox);
    let a = counter(&sandbox, "a", hook, scope);
    let b = counter(&sandbox, "b", hook, scope);
    let count = BLOCKS.to_string();
    act(&sandbox, "a", "read", &[&device.path, &count]);
    let list = lists(&sandbox, hook).remove(0);
    let counts = (sandbox.runs(a), sandbox.runs(b));
    println!("{hook} scope={scope}: {counts:?}, unowned {}", list.unowned);
    let is_noted = scope.starts_with("owner");
    if owned || is_noted {
        // The worker of the loop reads the file for them: from the page cache, or by requests that
        // are the submitter's too.
        assert!(counts.0 >= BLOCKS, "{counts:?}");
    } else {
        println!("v1 has the controller here: the cgroup of a bio is none of cgroup2");
        assert_eq!(counts.0, 0);
        assert!(list.unowned >= BLOCKS, "{list:?}");
    }
    assert_eq!((counts.1, list.lost), (0, 0));
}

#[test]
fn a_request_belongs_to_its_bio() {
    for hook in ["tp_btf:block_rq_issue", "raw_tracepoint:block_rq_complete"] {
        for scope in ["rq", "rq->bio->bi_blkg->blkcg->css.cgroup"] {
            requests(hook, scope);
        }
    }
}

#[test]
fn a_request_that_ends_belongs_to_who_made_it() {
    // A bio of a process goes to the queue in that process.
    requests(
        "tp_btf:block_rq_complete",
        "owner(rq->bio) noted at tp_btf:block_bio_queue by bio",
    );
}

#[test]
fn requests_are_scoped_without_casts() {
    again_without("rdonly_cast", "requests_are_scoped_without_casts");
}
