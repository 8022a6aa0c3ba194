//! Processes that the kernel kills for want of memory, where cgroups have limits on it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
mod support;

use support::{Sandbox, value};

/// One is killed in a cgroup that has no more, another in the one below it; nobody beside them.
#[test]
#[ignore = "needs the memory controller: ./dev test-vm"]
fn who_is_killed_for_want_of_memory_is_counted_where_it_was() {
    let mut sandbox = Sandbox::new();
    let root = support::cgroup_root();
    for cgroup in [&root, &sandbox.directory] {
        std::fs::write(cgroup.join("cgroup.subtree_control"), "+memory").unwrap();
    }
    let [a, b] = ["a", "b"].map(|name| sandbox.child(name));
    for (cgroup, mib) in [("a", 16), ("b", 400)] {
        let file = sandbox.directory.join(cgroup).join("memory.max");
        std::fs::write(file, (mib << 20).to_string()).unwrap();
    }
    let words = ["meter", "enable", "memory", "--cgroup", &sandbox.cgroup];
    sandbox.run(&words).done();
    // Holds so much in a process of its own, which is the largest there.
    let holds = |mib: u64| {
        let bytes = mib << 20;
        format!("head -c {bytes} /dev/zero | tail -c {bytes} > /dev/null")
    };
    sandbox.try_inside("a", &format!("{}; {}", holds(64), holds(64)));
    let (status, said) = sandbox.try_inside("b", &holds(64));
    assert_eq!(status, 0, "{said}");
    let words = ["--json", "usage", &sandbox.cgroup, "--recursive"];
    let usage = sandbox.run(&words).done().json();
    let killed = |cgroup: &str| value(&usage, cgroup, "memory_oom_kills", None).1;
    let told = |cgroup: &str| {
        let file = sandbox.directory.join(cgroup).join("memory.events");
        let text = std::fs::read_to_string(file).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((killed(&a), killed(&b)), (told("a"), told("b")));
    assert_eq!((killed(&a), killed(&sandbox.cgroup)), (2, 2));
}
