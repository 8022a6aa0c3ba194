//! What tests of meters share: meters of events whose numbers the test chooses, and what they counted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use cgtap::engine::{CgroupRef, Error, Lifetime, UsageReport, UsageRequest, UsageValue};
use cgtap::meter::file;
use cgtap::meter::library::BUILTIN;
use cgtap::meter::written::Meter;

use crate::support::{Sandbox, program};

/// Writes to /dev/null, the first file that `steps` opens, by size.
pub const WRITES: &str = r#"
name = "writes"
help = "What is written"
room = 4096
values.bytes = { help = "Bytes", unit = "bytes" }
values.calls = { help = "Calls" }
values.sizes = { help = "Sizes", unit = "bytes" }
labels.size = { help = "Small or large" }
[[probes]]
hook = "tracepoint:syscalls/sys_enter_write"
if = 'current->comm == "steps" && fd == 3'
by.size = 'count < 1000 ? "small" : "large"'
do = { bytes = "sum(count)", calls = "count()", sizes = "hist(count)" }
"#;

/// Jobs on a machine that does one at a time.
pub const JOBS: &str = r#"
name = "jobs"
help = "Jobs"
values.done = { help = "Jobs done" }
values.elapsed = { help = "Time from begin to end", unit = "ns" }
values.busy = { help = "Time that the machine worked", unit = "ns" }
[[notes]]
name = "begun"
hook = "tracepoint:syscalls/sys_enter_lseek"
if = 'fd == 0xffffffff && whence == 0'
key = "offset"
[[probes]]
hook = "tracepoint:syscalls/sys_enter_lseek"
if = 'fd == 0xffffffff && whence == 1'
since = "begun"
key = "offset"
do = { done = "count()", elapsed = "hist(elapsed)", busy = "busy(7)" }
"#;

/// The file of a meter that comes with cgtap.
pub fn builtin(name: &str) -> &'static str {
    let found = BUILTIN.iter().find(|(known, _)| *known == name);
    found.unwrap().1
}

/// The meter of a file's text.
pub fn meter(text: &str) -> Meter {
    file::parse("test.toml", text).unwrap_or_else(|e| panic!("{e}"))
}

/// Lets a meter count in the whole sandbox.
pub fn enable(sandbox: &Sandbox, text: &str) {
    try_enable(sandbox, text).unwrap_or_else(|e| panic!("{e}\n{}", e.log()));
}

/// As [`enable`], where that may fail.
pub fn try_enable(sandbox: &Sandbox, text: &str) -> Result<(), Error> {
    let top = CgroupRef::Path(sandbox.dir(""));
    let enabled = (sandbox.engine).enable_meter(&meter(text), &top, Lifetime::Pinned);
    enabled.map(drop)
}

/// What all cgroups used.
pub fn usage(sandbox: &Sandbox) -> UsageReport {
    let request = UsageRequest {
        cgroup: None,
        recursive: true,
        depth: None,
    };
    sandbox.engine.usage(&request).unwrap()
}

/// One value of a cgroup: all of its labels together.
pub fn of(report: &UsageReport, cgroup: &str, value: &str) -> UsageValue {
    let row = report.cgroups.iter().find(|row| row.cgroup == cgroup);
    let row = row.unwrap_or_else(|| panic!("no {cgroup}"));
    let mut sum: Option<UsageValue> = None;
    for one in row.meters.iter().filter(|m| *m.meter == *value) {
        match &mut sum {
            Some(sum) => {
                sum.own += one.own;
                sum.total += one.total;
            }
            None => sum = Some(one.clone()),
        }
    }
    sum.unwrap_or_else(|| panic!("{cgroup} has no {value}: {row:?}"))
}

/// Own and total of a value of a cgroup of the sandbox, 0 if it has none.
pub fn both(sandbox: &Sandbox, report: &UsageReport, cgroup: &str, value: &str) -> (u64, u64) {
    let path = sandbox.path(cgroup);
    let row = report.cgroups.iter().find(|row| row.cgroup == path);
    let row = row.unwrap_or_else(|| panic!("no {path}"));
    let all = row.meters.iter().filter(|m| *m.meter == *value);
    all.fold((0, 0), |sum, m| (sum.0 + m.own, sum.1 + m.total))
}

/// When something was done: not before the first, and not after the second.
pub type Moment = (u64, u64);

/// The time from one moment to another: at least, and at the most.
pub fn between(from: Moment, to: Moment) -> Moment {
    (to.0 - from.1, to.1 - from.0)
}

/// Does steps (`support/steps.c`) in a cgroup; the times that it printed.
pub fn steps(sandbox: &Sandbox, cgroup: &str, steps: &str) -> Vec<Moment> {
    std::fs::create_dir_all(sandbox.dir(cgroup)).unwrap();
    let mut command = Command::new(program("steps", "support/steps.c", &[]));
    command.arg("cgroup").arg(sandbox.dir(cgroup));
    let sandboxes = std::fs::metadata(sandbox.dir("")).unwrap().ino();
    command.env("CGTAP_TEST_KEYS", (sandboxes << 16).to_string());
    for word in steps.split_whitespace() {
        match word.strip_prefix('@') {
            // Another cgroup of the sandbox.
            Some(other) => {
                std::fs::create_dir_all(sandbox.dir(other)).unwrap();
                command.arg("cgroup").arg(sandbox.dir(other));
            }
            None => {
                command.arg(word);
            }
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{steps}: {output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let moment = |line: &str| {
        let (before, after) = line.split_once(' ').unwrap();
        (before.parse().unwrap(), after.parse().unwrap())
    };
    lines.lines().map(moment).collect()
}
