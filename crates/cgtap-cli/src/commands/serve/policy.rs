//! A policy that is kept in force: its file is looked at, and what its patterns match.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use cgtap::engine::Engine;

use super::super::Context;
use super::super::apply::{Absent, Act, Difference, Policy, apply};
use crate::failure::Failure;
use crate::render::counted;

/// How long between two looks.
const TICK: Duration = Duration::from_secs(1);

/// A file that is no policy here is tried again after this, also if it has not changed: what it asks
/// for may have come.
const RETRY: Duration = Duration::from_secs(10);

/// How a policy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When what is in force was applied last.
    pub applied: SystemTime,
    /// Why the file, as it is now, is not in force.
    pub wrong: Option<String>,
}

/// How a policy stands, for all who tell it.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Standing>>);

impl Shared {
    /// It was applied now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Standing {
            applied: SystemTime::now(),
            wrong: None,
        })))
    }

    /// How it stands.
    pub fn get(&self) -> Standing {
        let standing = self.0.lock();
        standing.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What tells one content of a file from another. A file that is gone has none.
type Mark = Option<(u64, u64, i64, i64)>;

fn mark(path: &Path) -> Mark {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// Keeps a policy in force.
#[derive(Debug)]
pub struct Keeper {
    context: Context,
    engine: Engine,
    meters: PathBuf,
    path: PathBuf,
    policy: Policy,
    /// The file that was read last.
    read: Mark,
    /// The file at the last look: one that is being written is not read.
    seen: Mark,
    retry: Option<Instant>,
    /// What was said of the file, and of its patterns: each is said once.
    said: [Option<String>; 2],
    standing: Shared,
}

/// Of the file.
const FILE: usize = 0;
/// Of what is in force.
const FORCE: usize = 1;

impl Keeper {
    /// Applies the policy at `path`.
    ///
    /// # Errors
    /// [`Failure`]: nothing has changed then.
    pub fn start(context: &Context, meters: &Path, path: &Path) -> Result<Self, Failure> {
        let engine = context.engine()?;
        let read = mark(path);
        let policy = Policy::read(&engine, meters, path)?;
        for wrong in policy.wrong() {
            context.teller.note(wrong);
        }
        let done = apply(&engine, &policy, Absent::Refused)?;
        let keeper = Self {
            context: context.clone(),
            engine,
            meters: meters.to_owned(),
            path: path.to_owned(),
            policy,
            read,
            seen: read,
            retry: None,
            said: [None, None],
            standing: Shared::new(),
        };
        keeper.tell(&done);
        Ok(keeper)
    }

    /// How it stands, from now on.
    pub fn standing(&self) -> Shared {
        self.standing.clone()
    }

    /// Keeps it in force in a thread of its own, until the value goes.
    ///
    /// # Errors
    /// [`Failure::System`] if there can be no thread.
    pub fn run(mut self) -> Result<Running, Failure> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("policy".to_owned())
            .spawn(move || self.keep(&stopped))
            .map_err(|e| Failure::system("cannot start a thread", e))?;
        Ok(Running {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn keep(&mut self, stopped: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
            self.look();
        }
    }

    fn look(&mut self) {
        let now = mark(&self.path);
        let is_new = now != self.read || self.retry.is_some_and(|at| Instant::now() >= at);
        // What changed a moment ago may be half of what is to come.
        if now == std::mem::replace(&mut self.seen, now) && is_new {
            self.read = now;
            self.reload();
        }
        self.expand();
    }

    /// Applies the file as it is now, or keeps what is in force.
    fn reload(&mut self) {
        let policy = Policy::read(&self.engine, &self.meters, &self.path);
        let done = policy.and_then(|policy| {
            let done = apply(&self.engine, &policy, Absent::Refused)?;
            Ok((policy, done))
        });
        match done {
            Ok((policy, done)) => {
                self.policy = policy;
                self.retry = None;
                self.well(FILE, &done);
            }
            Err(failure) => {
                self.retry = Some(Instant::now() + RETRY);
                self.failed(FILE, failure);
            }
        }
    }

    /// Sees to cgroups that have come or gone.
    fn expand(&mut self) {
        let done = self
            .policy
            .difference(&self.engine, Absent::Skipped)
            .and_then(|found| {
                if found.is_empty() {
                    Ok(None)
                } else {
                    apply(&self.engine, &self.policy, Absent::Skipped).map(Some)
                }
            });
        match done {
            Ok(Some(done)) => self.well(FORCE, &done),
            Ok(None) => self.forget(FORCE),
            Err(failure) => self.failed(FORCE, failure),
        }
    }

    fn well(&mut self, what: usize, done: &Difference) {
        self.tell(done);
        self.standing.change(|s| s.applied = SystemTime::now());
        self.forget(what);
    }

    fn forget(&mut self, what: usize) {
        self.said[what] = None;
        self.stand();
    }

    fn failed(&mut self, what: usize, failure: Failure) {
        let why = failure.message();
        if self.said[what].as_ref() != Some(&why) {
            self.context.teller.failure(&failure);
            self.context.teller.note(
                "the policy is not applied as it is now; what was in force before stays in force",
            );
        }
        self.said[what] = Some(why);
        self.stand();
    }

    fn stand(&self) {
        let wrong = self.said.iter().flatten().next().cloned();
        self.standing.change(|s| s.wrong = wrong);
    }

    /// Says what was changed, in a line.
    fn tell(&self, done: &Difference) {
        let count = |act: Act| done.changes.iter().filter(|c| c.change == act).count();
        let parts: Vec<String> = [
            (Act::Enable, "enabled"),
            (Act::Set, "set"),
            (Act::Change, "changed"),
            (Act::Clear, "cleared"),
        ]
        .into_iter()
        .filter(|(act, _)| count(*act) > 0)
        .map(|(act, word)| format!("{} {word}", count(act)))
        .collect();
        if !parts.is_empty() {
            let kept = counted(done.kept, "kept", "kept");
            let path = self.path.display();
            let text = format!("applied {path}: {}, {kept}", parts.join(", "));
            self.context.teller.note(&text);
        }
    }
}

/// A thread that keeps a policy in force; it ends with the value.
#[derive(Debug)]
pub struct Running {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A change that is under way is brought to its end.
            let _ = thread.join();
        }
    }
}
