//! Reads what a test binary of Rust's writes. Its JSON is not stable; its lines for people are.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed, and wrote this.
    Failed(String),
    /// It is marked as not to be run, for this reason.
    Ignored(String),
}

/// A test and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// Its path in the binary.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// The tests that a binary told the end of.
pub fn parse(output: &str) -> Vec<Test> {
    let mut words = failures(output);
    let mut test = |line: &str| {
        let (name, end) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        let name = name.trim_end_matches(" - should panic").to_owned();
        let outcome = match end.split_once(", ").unwrap_or((end, "")) {
            ("ok", _) => Outcome::Passed,
            ("FAILED", _) => Outcome::Failed(words.remove(&name).unwrap_or_default()),
            ("ignored", reason) => Outcome::Ignored(reason.to_owned()),
            _ => return None,
        };
        Some(Test { name, outcome })
    };
    output.lines().filter_map(&mut test).collect()
}

/// How many passed, failed and were ignored, as the binary says at its end.
pub fn sums(output: &str) -> Option<[usize; 3]> {
    let (_, said) = output.rsplit_once("\ntest result: ")?;
    let number = |word: &str| {
        let (before, _) = said.split_once(word)?;
        before.rsplit(' ').next()?.parse().ok()
    };
    Some([
        number(" passed;")?,
        number(" failed;")?,
        number(" ignored;")?,
    ])
}

/// The same of tests.
pub fn count(tests: &[Test]) -> [usize; 3] {
    let mut sums = [0; 3];
    for test in tests {
        sums[match test.outcome {
            Outcome::Passed => 0,
            Outcome::Failed(_) => 1,
            Outcome::Ignored(_) => 2,
        }] += 1;
    }
    sums
}

/// What each failed test wrote.
fn failures(output: &str) -> HashMap<String, String> {
    let mut all = HashMap::new();
    let mut now: Option<(String, String)> = None;
    for line in output.lines() {
        let begins = line
            .strip_prefix("---- ")
            .and_then(|l| l.strip_suffix(" stdout ----"));
        if begins.is_some() || line == "failures:" || line.starts_with("test result: ") {
            all.extend(now.take());
            now = begins.map(|name| (name.to_owned(), String::new()));
        } else if let Some((_, words)) = &mut now {
            words.push_str(line);
            words.push('\n');
        }
    }
    all.extend(now);
    all
}

/// The names in the answer to `--list --format terse`.
pub fn listed(output: &str) -> Vec<String> {
    let name = |line: &str| line.strip_suffix(": test").map(str::to_owned);
    output.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 4 tests\ntest a ... ok\ntest m::b - should panic ... ok\n\
        test c has been running for over 60 seconds\ntest c ... FAILED\n\
        test d ... ignored, needs a disk\n\nfailures:\n\n---- c stdout ----\n\n\
        thread 'c' panicked at x.rs:1:2:\nleft\nnote: run with `RUST_BACKTRACE=1`\n\n\n\
        failures:\n    c\n\ntest result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured\n";

    #[test]
    fn every_end_is_read() {
        let tests = parse(OUTPUT);
        let names: Vec<&str> = tests.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "m::b", "c", "d"]);
        assert_eq!(tests[1].outcome, Outcome::Passed);
        assert_eq!(
            tests[3].outcome,
            Outcome::Ignored("needs a disk".to_owned())
        );
    }

    #[test]
    fn sums_are_those_of_the_ends() {
        assert_eq!(sums(OUTPUT), Some([2, 1, 1]));
        assert_eq!(count(&parse(OUTPUT)), [2, 1, 1]);
        assert_eq!(sums("running 2 tests\ntest a ... ok\n"), None);
        // A word of somebody else's in the line of one.
        let disturbed = OUTPUT.replace("test c ... FAILED", "test c ... word\nFAILED");
        assert_ne!(sums(&disturbed), Some(count(&parse(&disturbed))));
    }

    #[test]
    fn a_failure_has_its_words() {
        let Outcome::Failed(words) = &parse(OUTPUT)[2].outcome else {
            unreachable!("c failed");
        };
        assert!(words.contains("panicked at x.rs:1:2:\nleft\n"), "{words}");
        assert!(!words.contains("test result"), "{words}");
    }

    #[test]
    fn a_cut_output_keeps_what_it_has() {
        assert_eq!(parse("running 2 tests\ntest a ... ok\ntest b ...").len(), 1);
    }

    #[test]
    fn names_are_listed() {
        assert_eq!(listed("a::b: test\nc: benchmark\n"), ["a::b"]);
    }
}
