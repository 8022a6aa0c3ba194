//! What is said at the end: a table of times, what failed and why, and one line that counts all.

use std::collections::BTreeSet;
use std::ops::Add as _;
use std::path::Path;
use std::process::ExitCode;

use super::agent::{self, BinaryResult};
use super::libtest::{self, Outcome};
use super::plan::Plan;

/// Lines shown of what a failed test wrote.
const FAILURE_LINES: usize = 30;

/// The results of one boot of a kernel.
pub struct Run {
    name: String,
    results: Vec<BinaryResult>,
    /// What is wrong besides tests that failed.
    faults: Vec<String>,
    /// Binaries that were not run, and why.
    skipped: Option<(usize, String)>,
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Run {
    /// Reads them. A binary of the plan without a result is a fault.
    pub fn read(name: &str, dir: &Path, plan: &Plan, fault: Option<String>) -> Self {
        let results = agent::read(dir);
        let mut faults: Vec<String> = fault.into_iter().collect();
        for binary in &plan.binaries {
            if results.iter().all(|r| r.name != binary.name) {
                faults.push(format!("{} did not run, or not to its end", binary.name));
            }
        }
        Self {
            name: name.to_owned(),
            results,
            faults,
            skipped: None,
        }
    }

    /// So many binaries that could not be run.
    pub fn skipped(name: &str, why: String, binaries: usize) -> Self {
        Self {
            name: name.to_owned(),
            results: Vec::new(),
            faults: Vec::new(),
            skipped: Some((binaries, why)),
        }
    }

    /// Why nothing of it could be run, if that is so.
    pub fn why_skipped(&self) -> Option<&str> {
        self.skipped.as_ref().map(|(_, why)| why.as_str())
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts {
            failed: self.faults.len(),
            skipped: self.skipped.as_ref().map_or(0, |(binaries, _)| *binaries),
            ..Counts::default()
        };
        for result in &self.results {
            let [passed, failed, ignored] = libtest::count(&result.tests);
            counts.passed += passed;
            counts.failed += failed;
            counts.skipped += ignored + result.not_run.len();
        }
        counts
    }
}

/// Prints all; the exit status.
pub fn print(runs: &[Run]) -> ExitCode {
    for run in runs {
        details(run);
    }
    times(runs);
    let mut all = Counts::default();
    for run in runs {
        let counts = run.counts();
        let Counts {
            passed,
            failed,
            skipped,
        } = counts;
        println!(
            "{}: {passed} passed, {failed} failed, {skipped} skipped",
            run.name
        );
        all.passed += passed;
        all.failed += failed;
        all.skipped += skipped;
    }
    println!(
        "{} passed, {} failed, {} skipped",
        all.passed, all.failed, all.skipped
    );
    if all.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn details(run: &Run) {
    if let Some((binaries, why)) = &run.skipped {
        println!("\n{}: {binaries} TEST BINARIES NOT RUN: {why}", run.name);
    }
    for fault in &run.faults {
        println!("\n{}: {fault}", run.name);
    }
    for result in &run.results {
        for what in &result.not_run {
            println!("\n{}: {} NOT RUN: {what}", run.name, result.name);
        }
        for test in &result.tests {
            let (name, binary) = (&test.name, &result.name);
            match &test.outcome {
                Outcome::Passed => {}
                Outcome::Ignored(reason) => {
                    println!("\n{}: {binary} {name} is skipped: {reason}", run.name)
                }
                Outcome::Failed(words) => {
                    println!("\n{}: {binary} {name} FAILED", run.name);
                    for line in shortened(words) {
                        println!("    {line}");
                    }
                }
            }
        }
    }
}

/// The first and the last lines: what was expected, and what the verifier said last.
fn shortened(words: &str) -> Vec<&str> {
    let lines: Vec<&str> = words.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.len() <= FAILURE_LINES {
        return lines;
    }
    let half = FAILURE_LINES / 2;
    let mut short = lines[..half].to_vec();
    short.push("...");
    short.extend(&lines[lines.len() - half..]);
    short
}

/// Seconds of each binary in each guest.
fn times(runs: &[Run]) {
    let line = |cell: &dyn Fn(&Run) -> String| -> String {
        let padded = |run: &Run| format!("{:>1$}", cell(run), run.name.len().max(6) + 2);
        runs.iter().map(padded).collect()
    };
    println!("\n{}  seconds", line(&|run| run.name.clone()));
    let results = runs.iter().flat_map(|run| &run.results);
    let names: BTreeSet<&str> = results.map(|result| result.name.as_str()).collect();
    for name in names {
        let cell = |run: &Run| match run.results.iter().find(|r| r.name == name) {
            Some(result) => format!("{:.1}", result.took_s),
            None => "-".to_owned(),
        };
        println!("{}  {name}", line(&cell));
    }
    let sum = |run: &Run| run.results.iter().map(|r| r.took_s).fold(0.0, f64::add);
    println!("{}  all", line(&|run| format!("{:.1}", sum(run))));
}
