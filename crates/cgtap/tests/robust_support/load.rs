//! Getppids by processes in cgroups, counted exactly.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::program;

/// A process of load.c, which has entered its cgroup and waits.
pub struct Load {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

pub fn binary() -> PathBuf {
    program("load", "robust_support/load.c", &["-Wall", "-pthread"])
}

impl Load {
    pub fn new(words: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{words:?}");
        Self {
            input: child.stdin.take(),
            child,
            output,
        }
    }

    /// In one cgroup, until it is stopped; on a CPU, or on any with -1.
    pub fn run(cpu: i32, cgroup: &Path) -> Self {
        let procs = cgroup.join("cgroup.procs");
        Self::new(&["run", &cpu.to_string(), procs.to_str().unwrap()])
    }

    /// Lets it begin.
    pub fn go(mut self) -> Self {
        self.input.as_mut().unwrap().write_all(b"g").unwrap();
        self
    }

    /// Ends it, or waits for its end if it ends by itself; its counts.
    pub fn stop(mut self) -> Vec<u64> {
        drop(self.input.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success());
        text.split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
