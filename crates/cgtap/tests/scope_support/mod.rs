//! What the tests of scopes share: programs that count, and processes that do known things in one
//! cgroup to what belongs to another.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use cgtap::engine::{AttachReport, AttachRequest, Error, ListReport, ListRequest, ProgramChoice};
use cgtap::id::AttachmentId;

use crate::support::made::make_once;
use crate::support::{Sandbox, ids, run, scratch};

/// What is counted where: a program that does nothing, whose runs cgtap counts, at a hook.
pub fn request(sandbox: &Sandbox, cgroup: &str, hook: &str, scope: &str) -> AttachRequest {
    let spec: cgtap::hook::HookSpec = hook.parse().unwrap();
    let name = match spec.kind().info().prefix {
        "tp_btf" => format!("typed_{}", spec.name()),
        "raw_tracepoint" => "at_raw".to_owned(),
        prefix => format!("at_{}", prefix.replace('.', "_")),
    };
    let fixture = if name.starts_with("typed_") {
        "scope_typed"
    } else {
        "scope"
    };
    AttachRequest {
        programs: vec![ProgramChoice {
            name,
            hook: Some(spec),
        }],
        scope: scope.parse().unwrap_or_else(|e| panic!("{scope}: {e}")),
        ..sandbox.request(cgroup, fixture)
    }
}

/// Attaches such a counter.
pub fn counter(sandbox: &Sandbox, cgroup: &str, hook: &str, scope: &str) -> AttachmentId {
    let report = sandbox
        .engine
        .attach(request(sandbox, cgroup, hook, scope))
        .unwrap_or_else(|e| panic!("{e}\n{}", e.log()));
    ids(&report)[0]
}

/// Why such a counter is refused.
pub fn refusal(sandbox: &Sandbox, hook: &str, scope: &str) -> Error {
    match sandbox.engine.attach(request(sandbox, "a", hook, scope)) {
        Ok(report) => panic!("{hook} scope={scope} was to be refused: {report:?}"),
        Err(e) => e,
    }
}

/// The lists of all cgroups at the hooks of a place.
pub fn lists(sandbox: &Sandbox, hook: &str) -> Vec<ListReport> {
    let request = ListRequest {
        hook: Some(hook.parse().unwrap()),
        ..ListRequest::default()
    };
    sandbox.engine.list(&request).unwrap()
}

/// The counts by cgroup id that a program of `scope_truth` made in its map.
pub fn truth(sandbox: &Sandbox, report: &AttachReport) -> BTreeMap<u64, u64> {
    let instances = sandbox.engine.maps(Some(report.instance)).unwrap();
    let found = instances[0].maps.iter().find(|m| m.name == "counts");
    let map = cgtap_sys::bpf::get_map(found.unwrap().pin.as_ref().unwrap()).unwrap();
    let number = |bytes: &[u8]| u64::from_ne_bytes(bytes[..8].try_into().unwrap());
    map.keys()
        .unwrap()
        .iter()
        .map(|key| (number(key), number(&map.lookup(key).unwrap().unwrap())))
        .collect()
}

/// Id of a cgroup: the number of its directory.
pub fn id(sandbox: &Sandbox, cgroup: &str) -> u64 {
    std::fs::metadata(sandbox.dir(cgroup)).unwrap().ino()
}

fn actor() -> PathBuf {
    let binary = scratch().join("scope_act");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scope_support/act.c");
    make_once(&binary, &[&source], |path| {
        run(Command::new("cc")
            .args(["-O2", "-Wall", "-o"])
            .arg(path)
            .arg(&source));
    });
    binary
}

fn command(sandbox: &Sandbox, cgroup: &str, action: &str, arguments: &[&str]) -> Command {
    sandbox.cgroup(cgroup);
    let mut command = Command::new(actor());
    command
        .arg(action)
        .arg(sandbox.dir(cgroup).join("cgroup.procs"))
        .args(arguments);
    command
}

/// Does something in a cgroup, to its end.
pub fn act(sandbox: &Sandbox, cgroup: &str, action: &str, arguments: &[&str]) {
    run(&mut command(sandbox, cgroup, action, arguments));
}

/// Something that goes on in a cgroup; it ends with this value.
pub struct Acting {
    pub child: Child,
    /// The first line that it printed.
    pub line: String,
    output: BufReader<ChildStdout>,
}

/// Begins something in a cgroup that says a line when it is ready.
pub fn begin(sandbox: &Sandbox, cgroup: &str, action: &str, arguments: &[&str]) -> Acting {
    let mut child = command(sandbox, cgroup, action, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "{action} did not begin");
    Acting {
        child,
        line: line.trim().to_owned(),
        output,
    }
}

impl Acting {
    /// Its pid, as words of a command.
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Lets a puppet rename itself once; done when this returns.
    pub fn rename(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"r").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, ".\n");
    }

    /// Waits for its end.
    pub fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs all tests of this binary once more, in a process of its own, on a kernel that is taken to
/// lack something.
pub fn again_without(missing: &str, itself: &str) {
    const VARIABLE: &str = "CGTAP_PRETEND_MISSING";
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--skip", itself, "--test-threads", "1"])
        .env(VARIABLE, missing)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "without {missing}:\n{words}");
    assert!(!words.contains(" 0 passed"), "nothing ran:\n{words}");
}
