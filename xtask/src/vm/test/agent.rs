//! Runs the plan, in the guest: each test binary in turn, each with its time.

use std::collections::BTreeSet;
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

/// What a test writes to standard error, and then what it could not try.
const NOT_RUN: &str = "NOT RUN: ";

/// How far below the roots of bpffs and of cgroups tests make what is theirs.
const LEAVINGS_DEPTH: usize = 3;

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
    /// What tests that passed could not try on this kernel, and why.
    pub not_run: Vec<String>,
}

/// Runs all of the plan. Results are written after each binary: a guest that dies keeps those.
pub fn run(args: &Args) -> Result<()> {
    let plan = Plan::read(&args.dir)?;
    let mut results = Vec::new();
    for binary in &plan.binaries {
        let result = run_binary(&plan, binary)?;
        println!("{}", line(&result));
        // At once: a run of hours may be ended before its report.
        for what in &result.not_run {
            println!("    {NOT_RUN}{what}");
        }
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
    let before = leavings()?;
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
    if let Some(why) = fault(ended, plan.timeout_s, &out, &tests) {
        let words = format!("{why}\n{}", tail(&error));
        let mut untold = all_names(plan, binary)?;
        untold.retain(|name| tests.iter().all(|t| t.name != *name));
        if untold.is_empty() {
            untold.push("the program itself".to_owned());
        }
        tests.extend(untold.into_iter().map(|name| Test {
            name,
            outcome: Outcome::Failed(words.clone()),
        }));
    }
    let left: Vec<_> = leavings()?.difference(&before).cloned().collect();
    if !left.is_empty() {
        tests.push(Test {
            name: "nothing is left behind".to_owned(),
            outcome: Outcome::Failed(left.join("\n")),
        });
    }
    Ok(BinaryResult {
        name: binary.name.clone(),
        took_s,
        tests,
        not_run: error.lines().filter_map(not_run).collect(),
    })
}

/// Everything of tests that stands: pins and cgroups.
fn leavings() -> Result<BTreeSet<String>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut found = BTreeSet::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(root), Some("bpf" | "cgroup2")) = (words.next(), words.next()) {
            look(Path::new(root), LEAVINGS_DEPTH, &mut found);
        }
    }
    Ok(found)
}

/// What below a directory is called as tests call what they make. What goes meanwhile is not there.
fn look(dir: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(b"cgtap-test-")
        {
            found.insert(entry.path().display().to_string());
        } else if depth > 1 {
            look(&entry.path(), depth - 1, found);
        }
    }
}

/// What is wrong with how a binary ended, besides tests that told their end.
fn fault(ended: Option<ExitStatus>, timeout_s: u64, out: &str, tests: &[Test]) -> Option<String> {
    let Some(status) = ended else {
        return Some(format!("not ended after {timeout_s} s and killed"));
    };
    let read @ [_, failed, _] = libtest::count(tests);
    match (status.code(), libtest::sums(out)) {
        (Some(0 | 101), Some(told)) if told != read => Some(format!(
            "it says that {told:?} passed, failed and were ignored, and the ends of {read:?} can be read: something \
             writes between its lines"
        )),
        (Some(0), Some(_)) if failed == 0 => None,
        // libtest's own, for tests that failed.
        (Some(101), Some(_)) if failed > 0 => None,
        _ => Some(format!("its program ended early ({status})")),
    }
}

/// What a test says it did not run.
fn not_run(line: &str) -> Option<String> {
    line.split_once(NOT_RUN).map(|(_, what)| what.to_owned())
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
        let is_set = |name| std::env::var_os(name).is_some();
        if !is_set("CGTAP_TEST_FULL") {
            command.env("CGTAP_TEST_LIGHT", "1");
        }
        if !is_set("PROPTEST_CASES") {
            command.env("PROPTEST_CASES", PROPTEST_CASES);
        }
        if preempts_programs() && !is_set("RUST_TEST_THREADS") {
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
        let sums = "test result: ok. 1 passed; 0 failed; 0 ignored;";
        let said = format!("echo 'test first ... ok'; echo; echo '{sums}'");
        // Its group is its own before the test ends.
        let left = "setsid sh -c 'echo > is-left; cat lets-go' &";
        let script = format!("mkfifo is-left lets-go; {left} read -r line < is-left; {said}");
        let result = ran(dir.path(), &script, 60);
        assert_eq!(result.tests.len(), 1);
        assert_eq!(failed(&result), Vec::<&str>::new());
        // Ends what was left.
        drop(File::create(dir.path().join("lets-go")).unwrap());
    }

    /// Whatever it told before: a guest's run has to fail where cargo's would.
    #[test]
    fn one_that_ends_in_a_way_of_its_own_failed() {
        let dir = tempfile::tempdir().unwrap();
        let ends = |lines: &[&str], end: &str| {
            let lines: String = lines.iter().map(|l| format!("echo '{l}'; ")).collect();
            let result = ran(dir.path(), &format!("{lines} {end}"), 60);
            failed(&result).join(" ")
        };
        let both = ["test first ... ok", "test second ... ok", ""];
        let with = |sums: &'static str| [&both[..], &[sums]].concat();
        let well = with("test result: ok. 2 passed; 0 failed; 0 ignored;");
        assert_eq!(ends(&well, "exit 0"), "");
        for end in ["exit 101", "exit 3", "kill -SEGV $$"] {
            assert_eq!(ends(&well, end), "the program itself", "{end}");
        }
        assert_eq!(ends(&both, "exit 0"), "the program itself");
        // The end of one is not to be read.
        let disturbed = [
            "test first ... ok",
            "test second ... word",
            "FAILED",
            "",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored;",
        ];
        assert_eq!(ends(&disturbed, "exit 101"), "second");
    }

    #[test]
    fn what_could_not_be_tried_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let result = ran(
            dir.path(),
            "echo 'test first ... NOT RUN: x: no disk' >&2",
            60,
        );
        assert_eq!(result.not_run, ["x: no disk"]);
    }

    #[test]
    fn a_late_one_is_killed_and_what_has_not_ended_failed() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo 'test first ... ok'; sleep 1000 & wait";
        let result = ran(dir.path(), script, 1);
        assert_eq!(failed(&result), ["second"]);
    }
}
