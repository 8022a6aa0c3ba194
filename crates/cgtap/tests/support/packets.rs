//! Limits on runs of BPF programs, and a client that makes such runs: a gate that every kernel has.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::fmt::Display;
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cgtap::engine::{CgroupRef, LimitChange, LimitReport, LimitRequest};
use cgtap::meter::file;
use cgtap::meter::library::{Known, Source};

use super::support::{Sandbox, program};

pub const EDQUOT: i64 = 122;

/// A run asks for one run and for seven units.
const RUNS: &str = include_str!("packets.toml");

/// The sandbox of a test while no other has one. A kernel that preempts a program in the middle misses what
/// others do at its hook meanwhile (7.3), and all clients run at one hook: alone, a client of one thread
/// has every run of its own seen.
pub struct Alone {
    sandbox: Sandbox,
    _others: MutexGuard<'static, ()>,
}

/// Waits until no other test has such a sandbox.
pub fn alone(name: &str) -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    // A test that failed has nothing of others' in its hands.
    let others = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Alone {
        sandbox: Sandbox::new(name),
        _others: others,
    }
}

impl Deref for Alone {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.sandbox
    }
}

fn known() -> Known {
    Known {
        meter: file::parse("packets.toml", RUNS).unwrap(),
        source: Source::Builtin,
        text: RUNS.to_owned(),
    }
}

pub fn request(cgroup: CgroupRef, value: &str, amount: u64) -> LimitRequest {
    LimitRequest::new(cgroup, known(), value, amount)
}

/// Makes a change that is to be taken.
pub fn change(sandbox: &Sandbox, change: &LimitChange) -> Vec<LimitReport> {
    let made = sandbox.engine.change_limits(change);
    made.unwrap_or_else(|e| panic!("{e}\n{}", e.log()))
}

/// A client in a cgroup that is there.
pub fn begin(sandbox: &Sandbox, cgroup: &str, threads: u32, times: impl Display) -> Child {
    Command::new(program("packets", "support/packets.c", &["-pthread"]))
        .arg(sandbox.dir(cgroup))
        .args([threads.to_string(), times.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs that were let through and that were not, and the last errno.
pub fn end(child: Child) -> (u64, u64, i64) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<i64> = (text.lines().last().unwrap().split(' '))
        .map(|w| w.parse().unwrap())
        .collect();
    (words[0] as u64, words[1] as u64, words[2])
}
