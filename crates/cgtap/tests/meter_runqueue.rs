//! What tasks waited for a CPU, held to what the kernel says of each of them: to the nanosecond, since both
//! are read while the tasks sleep.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod meter_support;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use meter_support::{both, builtin, enable, of, usage};
use support::{Sandbox, program};

/// Works when it is told to, says when it has, and sleeps.
const WORKER: &str =
    "while read count; do i=0; while [ $i -lt $count ]; do i=$((i+1)); done; echo; done";

/// A task that sleeps unless it works.
struct Worker {
    child: Child,
    ask: ChildStdin,
    said: BufReader<std::process::ChildStdout>,
}

/// What the kernel says of a task: nanoseconds that it waited for a CPU, times that it left one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Told {
    waited_ns: u64,
    left: u64,
}

impl Worker {
    /// One that may run on these CPUs.
    fn new(cpus: &str) -> Self {
        let mut child = Command::new("taskset")
            .args(["-c", cpus, "sh", "-c", WORKER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut worker = Self {
            ask: child.stdin.take().unwrap(),
            said: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        // It is the shell by then.
        worker.ask(1);
        worker.wait();
        worker
    }

    fn ask(&mut self, count: u32) {
        writeln!(self.ask, "{count}").unwrap();
    }

    fn wait(&mut self) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line, "\n");
    }

    fn file(&self, name: &str) -> String {
        let path = PathBuf::from(format!("/proc/{}", self.child.id())).join(name);
        std::fs::read_to_string(path).unwrap()
    }

    /// As soon as it sleeps.
    fn told(&self) -> Told {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.file("stat").contains(") S ") {
            assert!(Instant::now() < end, "it does not sleep");
            std::thread::sleep(Duration::from_millis(5));
        }
        // A task that sleeps may still be on its CPU for a moment.
        std::thread::sleep(Duration::from_millis(20));
        let status = self.file("status");
        let switches = status.lines().filter(|l| l.contains("ctxt_switches:"));
        let number = |text: &str| text.parse::<u64>().unwrap();
        Told {
            // proc(5): on CPUs, waiting for one, turns.
            waited_ns: number(self.file("schedstat").split(' ').nth(1).unwrap()),
            left: switches
                .map(|l| number(l.split_whitespace().nth(1).unwrap()))
                .sum(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cgroup, what was charged to it before, and its workers with what they had been told of before.
type Group = (&'static str, Told, Vec<(Worker, Told)>);

/// Two cgroups with so many workers each: what is charged is what their tasks waited since they are in there.
fn held_to_the_kernel(cpus: &str, workers: usize, is_waiting: impl Fn(u64) -> bool) {
    let sandbox = Sandbox::new("runqueue");
    enable(&sandbox, builtin("runqueue"));
    let mut groups: Vec<Group> = Vec::new();
    for cgroup in ["a", "b"] {
        sandbox.cgroup(cgroup);
        let members = (0..workers).map(|_| {
            let mut worker = Worker::new(cpus);
            let procs = sandbox.dir(cgroup).join("cgroup.procs");
            std::fs::write(procs, worker.child.id().to_string()).unwrap();
            // Its first turn in a cgroup where it is counted is not charged.
            worker.ask(1);
            worker.wait();
            let before = worker.told();
            (worker, before)
        });
        let members: Vec<(Worker, Told)> = members.collect();
        let report = usage(&sandbox);
        let charged = |value| both(&sandbox, &report, cgroup, value).0;
        let before = Told {
            waited_ns: charged("runqueue_wait"),
            left: charged("runqueue_switches"),
        };
        groups.push((cgroup, before, members));
    }
    for round in 1..=3 {
        let mut all: Vec<&mut Worker> = groups
            .iter_mut()
            .flat_map(|(_, _, of)| of.iter_mut().map(|(w, _)| w))
            .collect();
        for worker in &mut all {
            worker.ask(60_000);
        }
        for worker in &mut all {
            worker.wait();
        }
        for (cgroup, charged, of) in &groups {
            let mut told = *charged;
            for (worker, before) in of {
                let now = worker.told();
                told.waited_ns += now.waited_ns - before.waited_ns;
                told.left += now.left - before.left;
            }
            let report = usage(&sandbox);
            let own = |value| both(&sandbox, &report, cgroup, value).0;
            assert_eq!(
                (own("runqueue_wait"), own("runqueue_switches")),
                (told.waited_ns, told.left),
                "{cgroup}, round {round}"
            );
            assert!(is_waiting(told.waited_ns), "{told:?}");
            assert_eq!(report.lost, 0);
        }
    }
}

#[test]
fn the_wait_for_one_cpu_is_what_the_kernel_says() {
    // Four work on one: each waits three times as long as it works.
    held_to_the_kernel("0", 2, |waited_ns| waited_ns > 10_000_000);
}

#[test]
fn tasks_that_are_moved_while_they_wait_are_charged_for_all_of_it() {
    let all = "0-4095";
    held_to_the_kernel(all, 3, |waited_ns| waited_ns > 0);
}

/// A thread that calls exec gets the pid of the first one of its process, and the kernel's count of it stays
/// its own: one is not taken for the other, however many turns they had.
#[test]
fn a_thread_that_calls_exec_is_not_taken_for_the_first_one() {
    let sandbox = Sandbox::new("runqueue");
    enable(&sandbox, builtin("runqueue"));
    sandbox.cgroup("a");
    let start = Instant::now();
    for ahead in -3..=12 {
        let status = Command::new(program(
            "exec_thread",
            "support/exec_thread.c",
            &["-pthread"],
        ))
        .arg(sandbox.dir("a").join("cgroup.procs"))
        .arg(ahead.to_string())
        .status()
        .unwrap();
        assert!(status.success(), "{status}");
        let wait = of(&usage(&sandbox), &sandbox.path("a"), "runqueue_wait");
        // A difference that fell below 0 makes the sum fall by as much, which nobody sees in the sum: it is in the
        // highest bucket. None waited for longer than all of this took.
        let longest = wait.histogram.unwrap().own_buckets.len();
        let most_ns = start.elapsed().as_nanos();
        assert!(
            wait.own > 0 && longest <= 128 - most_ns.leading_zeros() as usize,
            "{ahead} turns ahead: a wait in bucket {longest}, in {most_ns} ns"
        );
    }
}
