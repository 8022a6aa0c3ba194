//! The ground that is measured on: cgroups, states and compiled objects of our own, all taken
//! away at the end.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cgtap::engine::{CgroupRef, Detach, Engine, Options};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Result;

/// Our subtree of the hierarchy, a scratch directory, and the states that were made.
pub struct Ground {
    /// The subtree's own cgroup.
    top: PathBuf,
    scratch: tempfile::TempDir,
    states: RefCell<Vec<State>>,
}

impl Ground {
    /// Makes the subtree.
    pub fn new() -> Result<Self> {
        let root = Engine::open(Options::default())?.cgroup_root()?;
        sweep(&root);
        let top = root.join(format!("cgtap-bench-{}", std::process::id()));
        std::fs::create_dir(&top)
            .map_err(|e| format!("{}: {e}; this needs root", top.display()))?;
        Ok(Self {
            top,
            scratch: tempfile::tempdir()?,
            states: RefCell::default(),
        })
    }

    /// The root of the hierarchy.
    pub fn root(&self) -> Result<&Path> {
        Ok(self.top.parent().ok_or("our subtree has no parent")?)
    }

    /// The directory of a cgroup below ours, made with those above it.
    pub fn cgroup(&self, name: &str) -> Result<PathBuf> {
        let dir = self.top.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// A directory for files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// An engine of a new state, and its directory. It goes with the ground.
    pub fn engine(&self) -> Result<(Engine, PathBuf)> {
        let mut states = self.states.borrow_mut();
        let name = format!("cgtap-bench-{}-{}", std::process::id(), states.len());
        let state = State {
            dir: Path::new("/sys/fs/bpf").join(name),
        };
        let (engine, dir) = (state.engine()?, state.dir.clone());
        states.push(state);
        Ok((engine, dir))
    }

    /// Takes the states away before the end.
    pub fn clear_states(&self) {
        // Their numbers are not given again.
        for state in self.states.borrow().iter() {
            state.clear();
        }
    }

    /// The object of a fixture.
    pub fn compile(&self, fixture: &str) -> Result<PathBuf> {
        let object = self.scratch().join(format!("{fixture}.bpf.o"));
        if object.exists() {
            return Ok(object);
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let mut clang = Command::new("clang");
        clang.args(["-target", "bpf", "-O2", "-g", "-Wall", "-c"]);
        clang
            .arg(sources.join(format!("{fixture}.bpf.c")))
            .arg("-o")
            .arg(&object);
        let output = clang
            .output()
            .map_err(|e| format!("cannot run clang: {e}"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("clang cannot compile {fixture}: {words}").into());
        }
        Ok(object)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Ok(root) = self.root() {
            // We may be in one of the cgroups ourselves.
            drop(enter(root));
        }
        self.clear_states();
        remove_tree(&self.top);
    }
}

/// Takes away what runs left that were killed.
fn sweep(root: &Path) {
    let is_stale = |name: &str| {
        let pid = name
            .strip_prefix("cgtap-bench-")
            .and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    let stale = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .filter(|e| is_stale(&e.file_name().to_string_lossy()))
            .map(|e| e.path())
            .collect()
    };
    for dir in stale(Path::new("/sys/fs/bpf")) {
        // Nothing but pins of ours: their removal is their end.
        drop(std::fs::remove_dir_all(dir));
    }
    stale(root).iter().for_each(|dir| remove_tree(dir));
}

/// A state directory.
struct State {
    dir: PathBuf,
}

impl State {
    fn engine(&self) -> Result<Engine> {
        Ok(Engine::open(Options {
            state: self.dir.clone(),
            cgroup_root: None,
        })?)
    }

    /// Detaches everything, and removes it.
    fn clear(&self) {
        if !self.dir.exists() {
            return;
        }
        let gone = self.engine().and_then(|e| Ok(e.detach(&Detach::All)?));
        if let Err(error) = gone {
            eprintln!("{} is left behind: {error}", self.dir.display());
        }
    }
}

/// How the engine is told of a cgroup.
pub fn reference(dir: &Path) -> CgroupRef {
    CgroupRef::Path(dir.to_owned())
}

/// A cgroup's id: the inode of its directory.
pub fn id(dir: &Path) -> Result<u64> {
    Ok(std::fs::metadata(dir)?.ino())
}

/// A shell that moves into a cgroup and does there what `script` says.
pub fn shell(dir: &Path, script: &str) -> Command {
    let procs = dir.join("cgroup.procs");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("echo $$ >{} && {script}", procs.display())]);
    shell
}

/// Moves this process into a cgroup.
pub fn enter(dir: &Path) -> Result<()> {
    let path = dir.join("cgroup.procs");
    std::fs::write(&path, "0").map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(())
}

/// Keeps this thread, and those it starts, on one CPU.
pub fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None::<Pid>, &set).map_err(|e| format!("cannot run on CPU {cpu}: {e}"))?;
    Ok(())
}

/// Time that this process has had a CPU for. On a machine with other work to do it tells what a
/// loop cost where the wall clock tells how often it was interrupted.
pub fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Puts this process before those of others.
pub fn go_first() -> Result<()> {
    rustix::process::nice(-20).map_err(|e| format!("cannot have priority: {e}"))?;
    Ok(())
}

/// Kills what is in the cgroups below `dir`, and removes them.
pub fn remove_tree(dir: &Path) {
    drop(std::fs::write(dir.join("cgroup.kill"), "1"));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    for _ in 0..200 {
        if std::fs::remove_dir(dir).is_ok() || !dir.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("{} is left behind", dir.display());
}
