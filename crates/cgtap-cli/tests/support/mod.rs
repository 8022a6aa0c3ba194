//! Runs the built `cgtap`, and gives kernel-backed tests a state and cgroups of their own.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

#[path = "../../../cgtap/tests/support/told.rs"]
pub mod told;

use std::io::{ErrorKind, read_to_string};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `cgtap`, without what the tester's environment would tell it.
pub fn cgtap() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgtap"));
    for name in [
        "CGTAP_STATE",
        "CGTAP_CGROUP_ROOT",
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "LC_ALL",
        "LC_CTYPE",
        "LANG",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs `cgtap` with `words`.
pub fn run(words: &[&str]) -> Ran {
    Ran::of(cgtap().args(words))
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// The document on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert!(self.out.starts_with(r#"{"schema":"cgtap/1","#), "{self:?}");
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        value
    }

    /// The `error` of the document on standard error.
    #[track_caller]
    pub fn error(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.err).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert!(
            self.err.starts_with(r#"{"schema":"cgtap/1","error":{"#),
            "{self:?}"
        );
        assert_eq!(self.out, "", "{self:?}");
        value["error"].clone()
    }

    /// Itself, if all went well.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A process that ends with the value.
pub struct Running(pub Child);

impl Running {
    /// Sends it a signal; what it left. Its outputs are pipes.
    pub fn ended_by(mut self, signal: Signal) -> Ran {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        let out = read_to_string(self.0.stdout.take().unwrap()).unwrap();
        let err = read_to_string(self.0.stderr.take().unwrap()).unwrap();
        let status = self.0.wait().unwrap().code().unwrap_or(-1);
        Ran { status, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command and kills it after `wait`; whether it still ran.
pub fn killed_after(command: &mut Command, wait: Duration) -> bool {
    let mut child = Running(command.spawn().unwrap());
    std::thread::sleep(wait);
    child.0.try_wait().unwrap().is_none()
}

/// Where cgroup2 is mounted.
pub fn cgroup_root() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[2] == "cgroup2").then(|| PathBuf::from(words[1]))
    });
    root.unwrap_or_else(|| panic!("no cgroup2 is mounted; `./dev test` mounts it"))
}

/// A state and a cgroup of the test's own. Both go with the value.
pub struct Sandbox {
    pub state: PathBuf,
    /// The cgroup's directory.
    pub directory: PathBuf,
    /// The cgroup as reports name it.
    pub cgroup: String,
    made: Vec<PathBuf>,
}

impl Sandbox {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "this test loads BPF programs: run it as root, or with `./dev test`"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cgtap-test-cli-{}-{number}", std::process::id());
        let mut sandbox = Self {
            state: Path::new("/sys/fs/bpf").join(&name),
            directory: cgroup_root().join(&name),
            cgroup: format!("/{name}"),
            made: Vec::new(),
        };
        let directory = sandbox.directory.clone();
        sandbox.make(directory);
        sandbox
    }

    fn make(&mut self, directory: PathBuf) {
        std::fs::create_dir(&directory).unwrap();
        self.made.push(directory);
    }

    /// Makes a cgroup below the sandbox's, and returns its name in reports.
    pub fn child(&mut self, name: &str) -> String {
        self.make(self.directory.join(name));
        format!("{}/{name}", self.cgroup)
    }

    /// `cgtap` on the sandbox's state.
    pub fn cgtap(&self, words: &[&str]) -> Command {
        let mut command = cgtap();
        command.arg("--state").arg(&self.state).args(words);
        command
    }

    /// Runs it.
    pub fn run(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.cgtap(words))
    }

    /// Runs it as if the kernel had nothing of `lacking`.
    pub fn run_without(&self, lacking: &str, words: &[&str]) -> Ran {
        Ran::of(self.cgtap(words).env("CGTAP_PRETEND_MISSING", lacking))
    }

    /// A command as it runs in a container: in the sandbox's cgroup `name`, which is the root of a cgroup
    /// namespace of its own, with mounts of its own that `set_up` may change first.
    pub fn boxed(&self, name: &str, set_up: &str, command: &Command) -> Command {
        let procs = self.directory.join(name).join("cgroup.procs");
        let inner = format!("{set_up} exec \"$0\" \"$@\"");
        let script = format!(
            "echo $$ > {} && exec unshare --mount --cgroup sh -c '{inner}' \"$0\" \"$@\"",
            procs.display()
        );
        let mut boxed = Command::new("sh");
        boxed.args(["-c", &script]).arg(command.get_program());
        boxed.args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => boxed.env(name, value),
                None => boxed.env_remove(name),
            };
        }
        boxed
    }

    /// The files that a hook at `*/NAME` stands in.
    #[track_caller]
    pub fn files(&self, hook: &str) -> Vec<String> {
        let said = self.run(&["--json", "list"]).done().json();
        let lists = said["lists"].as_array().unwrap();
        let list = lists.iter().find(|list| list["hook"] == hook).unwrap();
        let files = list["files"].as_array().unwrap().iter();
        files.map(|f| f.as_str().unwrap().to_owned()).collect()
    }

    /// The sandbox's cgroup `name` is frozen.
    pub fn is_frozen(&self, name: &str) -> bool {
        let events = self.directory.join(name).join("cgroup.events");
        let text = std::fs::read_to_string(events).unwrap();
        text.contains("frozen 1")
    }

    /// Waits until the sandbox's cgroup `name` was frozen and is thawed again, what it was in debt paid back: the
    /// last moment before that, and what `read` said then. Whoever looks late sees nothing of what comes behind.
    #[track_caller]
    pub fn thawed<T>(&self, name: &str, read: impl Fn() -> T) -> (Instant, T) {
        let end = Instant::now() + Duration::from_secs(120);
        let mut last = None;
        while Instant::now() < end {
            let seen = (Instant::now(), read());
            if self.is_frozen(name) {
                last = Some(seen);
            } else if let Some(last) = last {
                return last;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{name} is not frozen and thawed");
    }

    /// A shell in the sandbox's cgroup `name` that goes on with `script`.
    fn running(&self, name: &str, script: &str) -> Running {
        let procs = self.directory.join(name).join("cgroup.procs");
        let script = format!("echo $$ > {} && {script}", procs.display());
        Running(Command::new("sh").args(["-c", &script]).spawn().unwrap())
    }

    /// Who does nothing but run, in the sandbox's cgroup `name`.
    pub fn spinner(&self, name: &str) -> Running {
        self.running(name, "while :; do :; done")
    }

    /// A fork bomb in the sandbox's cgroup `name`; the value is who began it.
    pub fn bomb(&self, name: &str) -> Running {
        let bomb = compiled("fixtures/bomb");
        self.running(name, &format!("exec {}", bomb.display()))
    }

    /// How many processes are in the sandbox's cgroup `name`.
    pub fn tasks(&self, name: &str) -> u64 {
        let procs = self.directory.join(name).join("cgroup.procs");
        std::fs::read_to_string(procs).unwrap().lines().count() as u64
    }

    /// Runs a shell command inside the sandbox's cgroup `name`.
    pub fn inside(&self, name: &str, script: &str) {
        let procs = self.directory.join(name).join("cgroup.procs");
        let script = format!("echo $$ > {} && {script}", procs.display());
        let status = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(status.success(), "{script}");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let detached = self.run(&["detach", "--all"]);
        let mut left = Vec::new();
        if self.state.exists() {
            left.push(&self.state);
            let _ = std::fs::remove_dir_all(&self.state);
        }
        let is_gone = |directory: &Path| {
            let removed = std::fs::remove_dir(directory);
            removed.is_ok() || removed.is_err_and(|e| e.kind() == ErrorKind::NotFound)
        };
        for directory in self.made.iter().rev() {
            // What ran inside may be on its way out.
            let end = Instant::now() + Duration::from_secs(60);
            while !is_gone(directory) {
                if Instant::now() > end {
                    left.push(directory);
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if !std::thread::panicking() {
            assert_eq!(detached.status, 0, "{detached:?}");
            assert!(left.is_empty(), "{left:?} are left behind");
        }
    }
}

/// `tests/fixtures/trace.bpf.c`, compiled.
pub fn object() -> &'static Path {
    static OBJECT: OnceLock<PathBuf> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trace.bpf.c");
        let object = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("trace-{}.bpf.o", std::process::id()));
        let status = Command::new("clang")
            .args([
                "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", "-o",
            ])
            .arg(&object)
            .arg(source)
            .status()
            .unwrap_or_else(|e| panic!("cannot run clang: {e}; `./dev test` installs it"));
        assert!(status.success());
        object
    })
}

/// A program of one C file below `tests`.
pub fn compiled(name: &str) -> PathBuf {
    compiled_with(name, &[])
}

/// The same with flags: `-lNAME`, `-pthread`.
#[track_caller]
pub fn compiled_with(name: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{name}.c"));
    let stem = source.file_stem().unwrap().display();
    let binary =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{stem}-{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).arg(&binary).arg(&source).args(flags);
    let status = cc
        .status()
        .unwrap_or_else(|e| panic!("cannot run cc: {e}; `./dev test` installs it"));
    assert!(status.success(), "{cc:?}");
    binary
}

/// Own and total of a value of a cgroup in a report of usage, of all its labels together, or of those where
/// a label is a word; what there is none of is 0.
#[track_caller]
pub fn value(usage: &Value, cgroup: &str, meter: &str, label: Option<(&str, &str)>) -> (u64, u64) {
    let rows = usage["cgroups"].as_array().unwrap();
    let row = rows.iter().find(|r| r["cgroup"] == cgroup);
    let row = row.unwrap_or_else(|| panic!("no {cgroup} in {usage}"));
    let is_meant = |m: &&Value| {
        m["meter"] == meter && label.is_none_or(|(name, word)| m["labels"][name] == word)
    };
    let all = row["meters"].as_array().unwrap().iter().filter(is_meant);
    all.fold((0, 0), |(own, total), m| {
        let number = |name: &str| m[name].as_u64().unwrap();
        (own + number("own"), total + number("total"))
    })
}

/// Held by tests whose numbers another test's work would disturb.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
