//! What the tests of robustness share: the driver, run plainly or under strace that kills it or
//! makes its calls fail; what a state looks like, to be compared; and what the kernel holds of
//! ours.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

pub mod damage;
pub mod ledger;
pub mod load;
pub mod shape;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::support::Sandbox;

/// How much of what could go on forever. `CGTAP_TEST_FULL=1`: `full`, however long it takes.
/// `CGTAP_TEST_LIGHT=1`: `light`, for guests without KVM. Otherwise `usual`, which ends soon.
pub fn amount<T>(light: T, usual: T, full: T) -> T {
    let is_set = |name: &str| std::env::var(name).is_ok_and(|v| v == "1");
    if is_set("CGTAP_TEST_FULL") {
        full
    } else if is_set("CGTAP_TEST_LIGHT") {
        light
    } else {
        usual
    }
}

/// The binary of examples/driver.rs. `cargo test` builds it beside the tests; for one test file
/// alone it is built here.
pub fn driver_binary() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let driver = test
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples/driver");
        let made = |path: &Path| path.metadata().and_then(|m| m.modified());
        let is_fresh = made(&driver).is_ok_and(|at| made(&test).is_ok_and(|test| at >= test));
        if !is_fresh && let Some(cargo) = std::env::var_os("CARGO") {
            let target = driver.ancestors().nth(3).unwrap();
            let status = Command::new(cargo)
                .args([
                    "build",
                    "--quiet",
                    "--package",
                    "cgtap",
                    "--example",
                    "driver",
                ])
                .env("CARGO_TARGET_DIR", target)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap();
            assert!(status.success(), "the driver cannot be built");
        }
        assert!(driver.exists(), "{} is not built", driver.display());
        driver
    })
}

/// The driver on a sandbox's state.
pub fn driver(sandbox: &Sandbox, words: &[&str]) -> Command {
    let mut command = Command::new(driver_binary());
    command.arg(&sandbox.state).args(words).stdin(Stdio::null());
    command
}

/// The driver under strace with these options.
pub fn traced(sandbox: &Sandbox, options: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-qq", "-e", "signal=none", "-o", "/dev/null"])
        .args(options)
        .arg("--")
        .arg(driver_binary())
        .arg(&sandbox.state)
        .args(words)
        .stdin(Stdio::null());
    command
}

/// How a driver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It did what it was asked for.
    Done,
    /// It refused, in these words.
    Refused {
        kind: String,
        errno: Option<String>,
        message: String,
    },
    /// A signal ended it.
    Killed(i32),
}

impl End {
    /// Runs a driver to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        Self::from_output(&output)
    }

    pub fn from_output(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(signal) = output.status.signal() {
            return Self::Killed(signal);
        }
        match output.status.code() {
            Some(0) => Self::Done,
            Some(1) => {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| {
                    let words = String::from_utf8_lossy(&output.stderr);
                    panic!("no answer ({e}): {text}{words}")
                });
                let word = |name: &str| value[name].as_str().map(str::to_owned);
                Self::Refused {
                    kind: word("kind").unwrap(),
                    errno: word("errno"),
                    message: word("message").unwrap(),
                }
            }
            other => panic!(
                "{other:?}: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }

    /// The message of a refusal.
    pub fn message(&self) -> &str {
        match self {
            Self::Refused { message, .. } => message,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// How often a driver calls each of these, without the children it starts. It does its work, so
/// the state is another one afterwards.
pub fn count_calls(sandbox: &Sandbox, calls: &[&str], words: &[&str]) -> BTreeMap<String, usize> {
    let log = std::env::temp_dir().join(format!(
        "cgtap-strace-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let trace = format!("trace={}", calls.join(","));
    let path = log.display().to_string();
    let end = End::of(&mut traced(sandbox, &["-o", &path, "-e", &trace], words));
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    assert_eq!(end, End::Done);
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        if let Some((call, _)) = line.split_once('(') {
            *counts.entry(call.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// 1, 2, ... up to `last`, all of them or about `at_most` spread over all, with both ends.
pub fn sample(last: usize, at_most: usize) -> Vec<usize> {
    let at_most = amount(at_most.div_ceil(3).max(2), at_most, usize::MAX);
    if last <= at_most {
        return (1..=last).collect();
    }
    let mut picked: Vec<usize> = (0..at_most)
        .map(|at| 1 + at * (last - 1) / (at_most - 1).max(1))
        .collect();
    picked.dedup();
    picked
}
