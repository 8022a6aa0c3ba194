//! Runs the plan, in the guest: each test binary in turn, each with its time.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::{Deserialize, Serialize};

use super::RESULTS_FILE;
use super::libtest::{self, Outcome, Test};
use super::plan::{Binary, Plan};
use crate::Result;

/// Cases of each property in a guest, of 256: what has no kernel is tested outside.
const PROPTEST_CASES: &str = "16";

/// What the agent is told.
#[derive(clap::Args)]
pub struct Args {
    /// The directory of plan and results.
    pub dir: PathBuf,
}

/// What came of one binary.
#[derive(Serialize, Deserialize)]
pub struct BinaryResult {
    /// The binary's name in the plan.
    pub name: String,
    /// How long it took.
    pub took_s: f64,
    /// Its tests.
    pub tests: Vec<Test>,
}

/// Runs all of the plan. Results are written after each binary: a guest that dies keeps those.
pub fn run(args: &Args) -> Result<()> {
    let plan = Plan::read(&args.dir)?;
    let mut results = Vec::new();
    for binary in &plan.binaries {
        let result = run_binary(&plan, binary)?;
        println!("{}", line(&result));
        // At once: a run of hours may be ended before its report.
        for (name, words) in failures(&result) {
            println!("    {name}: {}", words.trim().replace('\n', "\n        "));
        }
        std::io::stdout().flush()?;
        results.push(result);
        write(&args.dir, &results)?;
    }
    Ok(())
}

fn write(dir: &Path, results: &[BinaryResult]) -> Result<()> {
    let unfinished = dir.join("results.unfinished");
    std::fs::write(&unfinished, serde_json::to_vec(results)?)?;
    std::fs::rename(unfinished, dir.join(RESULTS_FILE))?;
    Ok(())
}

/// The results in a directory, as far as they go.
pub fn read(dir: &Path) -> Vec<BinaryResult> {
    let text = std::fs::read(dir.join(RESULTS_FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Tests that failed, and what they said.
fn failures(result: &BinaryResult) -> impl Iterator<Item = (&str, &str)> {
    result.tests.iter().filter_map(|test| match &test.outcome {
        Outcome::Failed(words) => Some((test.name.as_str(), words.as_str())),
        _ => None,
    })
}

fn line(result: &BinaryResult) -> String {
    let failed: Vec<&str> = failures(result).map(|(name, _)| name).collect();
    let count = result.tests.len();
    let tail = match failed.len() {
        0 => String::new(),
        number => format!("  {number} FAILED: {}", failed.join(", ")),
    };
    format!(
        "{:7.1} s  {:3} tests  {}{tail}",
        result.took_s, count, result.name
    )
}

fn run_binary(plan: &Plan, binary: &Binary) -> Result<BinaryResult> {
    let start = Instant::now();
    // Files, no pipes: what a test leaves running may hold them open for ever.
    let (out, error) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command(binary)
        .args(&plan.arguments)
        .args(binary.arguments())
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(error.try_clone()?)
        // So that all of it can be killed.
        .process_group(0)
        .spawn()
        .map_err(|e| format!("cannot run {}: {e}", binary.path.display()))?;
    let ended = wait(&mut child, start + Duration::from_secs(plan.timeout_s))?;
    let took_s = start.elapsed().as_secs_f64();
    let (out, error) = (all_of(&out)?, all_of(&error)?);
    let mut tests = libtest::parse(&out);
    let why = match ended {
        None => Some(format!("not ended after {} s and killed", plan.timeout_s)),
        // 101 is libtest's own, for tests that failed.
        Some(status) if matches!(status.code(), Some(0 | 101)) => None,
        Some(status) => Some(format!("its program ended early ({status})")),
    };
    // A binary that ends as one that failed, and names no failure, did not get that far.
    let is_told = out.contains("\ntest result: ");
    if let Some(why) = why.or_else(|| (!is_told).then(|| "its program ended early".to_owned())) {
        let words = format!("{why}\n{}", tail(&error));
        for name in all_names(plan, binary)? {
            if tests.iter().all(|t| t.name != name) {
                tests.push(Test {
                    name,
                    outcome: Outcome::Failed(words.clone()),
                });
            }
        }
    }
    Ok(BinaryResult {
        name: binary.name.clone(),
        took_s,
        tests,
    })
}

/// As cargo would start it, but with no cargo to be found: nothing is built here.
fn command(binary: &Binary) -> Command {
    let mut command = Command::new(&binary.path);
    command
        .current_dir(&binary.dir)
        .env("CARGO_MANIFEST_DIR", &binary.dir)
        .env("CI", "1")
        // The words of a failure say where it is; the frames below drown them.
        .env("RUST_BACKTRACE", "0")
        .env_remove("CARGO");
    if std::env::var_os("CGTAP_GUEST").is_some() {
        // Every test, with fewer repetitions: without KVM all takes ten times as long.
        for (name, value) in [
            ("CGTAP_TEST_LIGHT", "1"),
            ("PROPTEST_CASES", PROPTEST_CASES),
        ] {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        if preempts_programs() && std::env::var_os("RUST_TEST_THREADS").is_none() {
            command.env("RUST_TEST_THREADS", "1");
        }
    }
    command
}

/// Whether this kernel may preempt a program at a tracepoint, as those from 7.0 on do: what other tasks do
/// meanwhile at that hook on that CPU is missed, and a test that storms would cost its neighbours theirs.
/// There is nothing to ask but the version.
fn preempts_programs() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let major = release
        .split('.')
        .next()
        .and_then(|m| m.parse::<u32>().ok());
    major.is_some_and(|major| major >= 7)
}

/// The names of the tests that the binary would run.
fn all_names(plan: &Plan, binary: &Binary) -> Result<Vec<String>> {
    let output = command(binary)
        .args(&plan.arguments)
        .args(binary.arguments())
        .args(["--list", "--format", "terse"])
        .output()?;
    Ok(libtest::listed(&String::from_utf8_lossy(&output.stdout)))
}

/// Waits for it until then. It is killed when it is late, and in any case what it leaves running of its group.
fn wait(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    let group = Pid::from_child(child);
    let is_over = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let has_ended = loop {
        // Not waited for yet: the group's number stays its own.
        if waitid(WaitId::Pid(group), is_over)?.is_some() {
            break true;
        }
        if Instant::now() > deadline {
            break false;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    kill_process_group(group, Signal::KILL)?;
    let status = child.wait()?;
    Ok(has_ended.then_some(status))
}

/// What was written to a file, whoever goes on writing there.
fn all_of(file: &File) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(dir: &Path, script: &str, timeout_s: u64) -> BinaryResult {
        let list = "case $0 in --list) echo 'first: test'; echo 'second: test'; exit;; esac";
        let binary = Binary {
            name: "package/binary".to_owned(),
            path: "/bin/sh".into(),
            dir: dir.to_owned(),
        };
        let plan = Plan {
            binaries: Vec::new(),
            arguments: vec!["-c".to_owned(), format!("{list}\n{script}")],
            timeout_s,
        };
        run_binary(&plan, &binary).unwrap()
    }

    fn failed(result: &BinaryResult) -> Vec<&str> {
        let tests = result.tests.iter();
        let failed = tests.filter(|t| matches!(t.outcome, Outcome::Failed(_)));
        failed.map(|t| t.name.as_str()).collect()
    }

    /// Who has its output still open, in a group of its own, is not waited for.
    #[test]
    fn what_a_test_leaves_running_does_not_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let said = "echo 'test first ... ok'; echo; echo 'test result: ok. 1 passed'";
        // Its group is its own before the test ends.
        let left = "setsid sh -c 'echo > is-left; cat lets-go' &";
        let script = format!("mkfifo is-left lets-go; {left} read -r line < is-left; {said}");
        let result = ran(dir.path(), &script, 60);
        assert_eq!(result.tests.len(), 1);
        assert_eq!(failed(&result), Vec::<&str>::new());
        // Ends what was left.
        drop(File::create(dir.path().join("lets-go")).unwrap());
    }

    #[test]
    fn a_late_one_is_killed_and_what_has_not_ended_failed() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo 'test first ... ok'; sleep 1000 & wait";
        let result = ran(dir.path(), script, 1);
        assert_eq!(failed(&result), ["second"]);
    }
}
