//! What tests on a real kernel share: a state and cgroups of their own, objects compiled from C,
//! and workers that do a known number of things in a cgroup. Everything is taken away again, and
//! a sandbox that leaves something behind fails its test.
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

pub mod event;
pub mod made;
pub mod told;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use cgtap::engine::{
    AttachReport, AttachRequest, CgroupRef, Detach, Engine, Error, ListReport, ListRequest,
    ObjectSource, Options, ProgramChoice,
};
use cgtap::hook::HookSpec;
use cgtap::id::AttachmentId;

use event::Event;
use made::make_once;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A state directory and a cgroup subtree that no other test uses.
pub struct Sandbox {
    pub engine: Engine,
    pub state: PathBuf,
    /// The subtree's own cgroup, below the cgroup root.
    pub top: String,
    root: PathBuf,
}

impl Sandbox {
    /// `name` shows up in the names of the state and the cgroups.
    pub fn new(name: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // bpffs has no names with dots.
        let name = name.replace('.', "-");
        let unique = format!("cgtap-test-{name}-{}-{number}", std::process::id());
        let state = PathBuf::from("/sys/fs/bpf").join(&unique);
        let engine = Engine::open(Options {
            state: state.clone(),
            cgroup_root: None,
        })
        .unwrap();
        let root = engine
            .cgroup_root()
            .expect("these tests need a cgroup2 mount");
        let sandbox = Self {
            engine,
            state,
            top: unique,
            root,
        };
        std::fs::create_dir(sandbox.dir("")).expect("these tests need root");
        sandbox
    }

    /// The directory of a cgroup below the sandbox's own one; `""` is that one.
    pub fn dir(&self, cgroup: &str) -> PathBuf {
        let top = self.root.join(&self.top);
        if cgroup.is_empty() {
            top
        } else {
            top.join(cgroup)
        }
    }

    /// The path of a cgroup as reports have it.
    pub fn path(&self, cgroup: &str) -> String {
        if cgroup.is_empty() {
            format!("/{}", self.top)
        } else {
            format!("/{}/{cgroup}", self.top)
        }
    }

    /// Makes a cgroup, and those above it.
    pub fn cgroup(&self, cgroup: &str) -> CgroupRef {
        std::fs::create_dir_all(self.dir(cgroup)).unwrap();
        CgroupRef::Path(self.dir(cgroup))
    }

    /// Removes a cgroup.
    pub fn remove(&self, cgroup: &str) {
        std::fs::remove_dir(self.dir(cgroup)).unwrap();
    }

    /// A request for all programs of a fixture.
    pub fn request(&self, cgroup: &str, fixture: &str) -> AttachRequest {
        let source = ObjectSource::File {
            path: compile(fixture),
            set: Vec::new(),
        };
        let mut request = AttachRequest::new(self.cgroup(cgroup), source);
        request.programs = whole(fixture);
        request
    }

    /// Attaches a fixture; the ids in the order of its programs.
    pub fn attach(&self, cgroup: &str, fixture: &str) -> Vec<AttachmentId> {
        let report = self.engine.attach(self.request(cgroup, fixture));
        ids(&report.unwrap_or_else(|e| panic!("{e}\n{}", e.log())))
    }

    /// Detaches one attachment.
    pub fn detach(&self, id: AttachmentId) -> Result<(), Error> {
        self.engine.detach(&Detach::Ids(vec![id])).map(drop)
    }

    /// The own lists of a cgroup.
    pub fn own(&self, cgroup: &str) -> Vec<ListReport> {
        let cgroup = Some(CgroupRef::Path(self.dir(cgroup)));
        self.engine
            .list(&ListRequest {
                cgroup,
                ..ListRequest::default()
            })
            .unwrap()
    }

    /// The ids that are effective for a cgroup at a hook, in order.
    pub fn effective(&self, cgroup: &str, hook: &str) -> Vec<AttachmentId> {
        let request = ListRequest {
            cgroup: Some(CgroupRef::Path(self.dir(cgroup))),
            hook: Some(hook.parse::<HookSpec>().unwrap().into()),
            effective: true,
            recursive: false,
        };
        let lists = self.engine.list(&request).unwrap();
        lists
            .iter()
            .flat_map(|l| l.attachments.iter().map(|a| a.id))
            .collect()
    }

    /// How often an attachment has run.
    pub fn runs(&self, id: AttachmentId) -> u64 {
        let lists = self.engine.list(&ListRequest::default()).unwrap();
        let all = lists.iter().flat_map(|l| &l.attachments);
        all.filter(|a| a.id == id)
            .map(|a| a.run_count)
            .next()
            .unwrap_or_else(|| panic!("no {id}"))
    }

    /// Events of a hook, of the whole machine, for which the kernel ran no dispatcher since the hook
    /// is there: 0 but where it preempts programs or bpf(2) (docs/kernel-facts.md, "Jumping").
    pub fn missed(&self, hook: &str) -> u64 {
        let lists = self.engine.list(&ListRequest::default()).unwrap();
        let at = lists.iter().find(|l| l.hook.to_string() == hook);
        at.map_or(0, |l| l.recursion_misses)
    }

    /// What an attachment at a hook has counted is what was done, less no more than what the kernel
    /// says that it missed there.
    pub fn assert_counted(&self, hook: &str, counted: u64, done: u64) {
        let missed = self.missed(hook);
        assert!(
            counted <= done && counted + missed >= done,
            "{hook}: {counted} of {done} counted, {missed} missed"
        );
    }

    /// `count` events in a cgroup, each with one call of getppid, done when this returns.
    pub fn getppid(&self, cgroup: &str, count: u64) {
        assert_eq!(self.worker(cgroup, "getppid", count).go().finish(), count);
    }

    /// A worker in a cgroup, ready and waiting.
    pub fn worker(&self, cgroup: &str, action: &str, count: u64) -> Worker {
        std::fs::create_dir_all(self.dir(cgroup)).unwrap();
        let mut child = Command::new(worker_binary())
            .arg(self.dir(cgroup).join("cgroup.procs"))
            .arg(action)
            .arg(count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(
            line,
            "ready\n",
            "the worker could not enter {}",
            self.dir(cgroup).display()
        );
        Worker {
            input: child.stdin.take(),
            child,
            output,
        }
    }

    /// The first 8 bytes of the value under a 4-byte key of a pinned map of an instance.
    pub fn map_word(&self, report: &AttachReport, map: &str, key: u32) -> u64 {
        let instances = self.engine.maps(Some(report.instance)).unwrap();
        let found = instances[0]
            .maps
            .iter()
            .find(|m| m.name == map)
            .expect("a map of that name");
        let map = cgtap_sys::bpf::get_map(found.pin.as_ref().unwrap()).unwrap();
        let value = map.lookup(&key.to_ne_bytes()).unwrap().unwrap();
        u64::from_ne_bytes(value[..8].try_into().unwrap())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let detached = self.engine.detach(&Detach::All);
        let state_left = self.state.exists();
        remove_tree(&self.dir(""));
        let cgroup_left = self.dir("").exists();
        if std::thread::panicking() {
            return;
        }
        detached.unwrap();
        assert!(!state_left, "{} is left behind", self.state.display());
        assert!(!cgroup_left, "{} is left behind", self.dir("").display());
    }
}

/// Kills what is in the cgroups below `dir`, and removes them.
fn remove_tree(dir: &Path) {
    let _ = std::fs::write(dir.join("cgroup.kill"), "1");
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    for _ in 0..6_000 {
        if std::fs::remove_dir(dir).is_ok() || !dir.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A process in a cgroup.
pub struct Worker {
    pub child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Lets it begin.
    pub fn go(mut self) -> Self {
        self.input.take().unwrap().write_all(b"g").unwrap();
        self
    }

    /// Waits for its end; what it counted.
    pub fn finish(mut self) -> u64 {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(self.child.wait().unwrap().success());
        line.trim().parse().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ids of a report.
pub fn ids(report: &AttachReport) -> Vec<AttachmentId> {
    report.attachments.iter().map(|a| a.id).collect()
}

/// An example program of the crate, built anew if need be: cargo builds them with the whole suite,
/// but not with one test file.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap();
    let binary = target.join("examples").join(name);
    // Once a process: others may be running it.
    static BUILT: Mutex<()> = Mutex::new(());
    let _one = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !binary.exists() || std::env::var_os("CI").is_none() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "-p", "cgtap", "--example", name]);
        if target.ends_with("release") {
            build.arg("--release");
        }
        run(&mut build);
    }
    binary
}

pub fn scratch() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) {
    made::run(command);
}

/// What to choose of a fixture to have all of it: nothing, but where sections name no hook.
pub fn whole(fixture: &str) -> Vec<ProgramChoice> {
    let names: &[&str] = match fixture {
        _ if !event::event().wants_hook() => &[],
        "count" => &["count"],
        "half" => &["good", "bad"],
        "loops" => &["loops"],
        "gpl" => &["reads"],
        _ => &[],
    };
    let choice = |name: &&str| ProgramChoice {
        name: (*name).to_owned(),
        hook: Some(event::event().spec()),
    };
    names.iter().map(choice).collect()
}

/// The object of `tests/fixtures/engine/NAME.bpf.c`, for the kind of hook that is tested.
pub fn compile(fixture: &str) -> PathBuf {
    compile_with(fixture, fixture, &[])
}

/// The same with flags for clang, under a name of its own.
pub fn compile_with(fixture: &str, name: &str, flags: &[&str]) -> PathBuf {
    compile_for(event::event(), fixture, name, flags)
}

/// The same for a kind of hook.
pub fn compile_for(event: &Event, fixture: &str, name: &str, flags: &[&str]) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (engine, shared) = (sources.join("engine"), sources.join("object"));
    let source = engine.join(format!("{fixture}.bpf.c"));
    let text = std::fs::read_to_string(&source).unwrap();
    let (name, kind) = if is_for_kinds(&text) {
        (event.object(name), event.flags())
    } else {
        (name.to_owned(), Vec::new())
    };
    let object = scratch().join(format!("{name}.bpf.o"));
    make_once(&object, &[&engine, &shared], |path| {
        let mut clang = Command::new("clang");
        clang
            .args(["-target", "bpf", "-O2", "-g", "-Wall"])
            .args(flags)
            .args(&kind);
        if text.contains("\"bpf.h\"") {
            clang.arg("-I").arg(made::kernel_types(&scratch()));
        }
        clang.arg("-I").arg(shared.clone()).arg("-c");
        run(clang.arg(&source).arg("-o").arg(path));
    });
    object
}

/// The fixture of this text is compiled for each kind of hook.
pub fn is_for_kinds(text: &str) -> bool {
    text.contains("EVENT_SECTION")
}

/// A program of one C file below `tests`.
pub fn program(name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let binary = scratch().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(source);
    make_once(&binary, &[&source], |path| {
        let mut cc = Command::new("cc");
        run(cc.arg("-O2").arg("-o").arg(path).arg(&source).args(flags));
    });
    binary
}

pub fn worker_binary() -> PathBuf {
    with_events("worker", "support/worker.c")
}

/// A program of one C file that makes events.
pub fn with_events(name: &str, source: &str) -> PathBuf {
    let library = event::library();
    // Its name tells which events.
    let name = format!("{name}-{}", library.file_stem().unwrap().display());
    program(&name, source, &[library.to_str().unwrap()])
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
