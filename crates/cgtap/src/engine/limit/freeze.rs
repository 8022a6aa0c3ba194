//! Freezing what is over its limit, and thawing it when something is left again.
//!
//! Budgets carry debts over, so the share in the long run is that of the limit whatever the steps
//! are; steps only say how bursty it is. What is frozen is marked in its budget, and whoever steps
//! holds a lock: if it dies, whoever comes next sees what is still frozen by nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgtap_sys::memory::Words;
use cgtap_sys::{Errno, SysError};
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::Session;
use super::super::usage::now;
use super::super::{Engine, Lock};
use super::words::BudgetWords;
use crate::budget::places;
use crate::budget::words::{Budget, flag, word};
use crate::cgroup::{Cgroup, CgroupError, is_gone};
use crate::id::LimitId;
use crate::limit::pace;
use crate::limit::record::{Action, LimitRecord};
use crate::store::pins;

/// What freezes a cgroup, since 5.2.
const FILE: &str = "cgroup.freeze";
/// Who used something within so long wants a share.
const ACTIVE_FOR: Duration = Duration::from_millis(500);
/// How often the lock is tried for, and how long between.
const LOCK_TRIES: usize = 5;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// A cgroup that a limit freezes.
#[derive(Debug)]
struct Frozen {
    id: LimitId,
    limit: LimitRecord,
    /// What has to be left before it is thawed.
    enough: i64,
    file: PathBuf,
    path: String,
    /// Of the same parent and value.
    siblings: Vec<u32>,
    is_frozen: bool,
    /// That it cannot be frozen or thawed was said.
    is_told: bool,
    /// What was taken when last looked at, and when it last became more.
    taken: i64,
    active_ns: u64,
}

/// Something that a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paced {
    /// The limit.
    pub limit: LimitId,
    /// Path of its cgroup.
    pub cgroup: String,
    /// Its file `cgroup.freeze`.
    pub file: PathBuf,
    /// It is frozen now; else it is thawed.
    pub is_frozen: bool,
}

/// Freezes and thaws cgroups by their limits, step by step. One a state.
#[derive(Debug)]
pub struct Pacer {
    engine: Engine,
    budgets: Option<Words>,
    all: Vec<Frozen>,
    /// The record that `all` was made of, by its inode.
    seen: Option<u64>,
    /// Where cgroups that are born to limits are counted, and how many were when `all` was made.
    births: Option<(Words, u64)>,
    /// While it is held no other pacer runs.
    lock: Option<File>,
}

/// Whether both are locks of one state: one that is made anew has another.
fn is_one(a: &File, b: &File) -> bool {
    let inode = |lock: &File| lock.metadata().ok().map(|m| m.ino());
    inode(a).is_some_and(|a| inode(b) == Some(a))
}

fn write(file: &Path, is_frozen: bool) -> std::io::Result<()> {
    std::fs::write(file, if is_frozen { "1" } else { "0" })
}

/// It says that its cgroup is to be frozen.
fn is_written(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}

impl Engine {
    /// Begins to pace what limits freeze; there need be none yet, nor a state.
    ///
    /// # Errors
    /// [`Error`]: EBUSY if another process does it, whatever is wrong with the state.
    pub fn pacer(&self) -> Result<Pacer> {
        let mut pacer = Pacer {
            engine: self.clone(),
            budgets: None,
            all: Vec::new(),
            seen: None,
            births: None,
            lock: None,
        };
        pacer.load()?;
        Ok(pacer)
    }
}

impl Session {
    /// Thaws what a pacer froze that does not live any more.
    pub(super) fn thaw_forgotten(&self) -> Result<()> {
        if self.config.limits.is_empty() || self.is_paced()? {
            return Ok(());
        }
        self.thaw_marked()
    }

    /// Thaws what is marked as frozen.
    pub(super) fn thaw_marked(&self) -> Result<()> {
        let words = self.budget_words()?;
        let is_marked = |l: &&LimitRecord| {
            BudgetWords::of(&words, l.slot).read()[word::FLAGS] & flag::FROZEN != 0
        };
        let mut thawed = Ok(());
        for limit in self.config.limits.limits.values().filter(is_marked) {
            let Ok(cgroup) = self.hierarchy.by_id(limit.cgroup) else {
                continue;
            };
            let file = self.hierarchy.directory(&cgroup.path).join(FILE);
            match write(&file, false) {
                Err(e) if !is_gone(&e) => {
                    let words = format!(
                        "cannot thaw {}, which nobody paces any more: {e}; write 0 to {}",
                        cgroup.path,
                        file.display()
                    );
                    thawed = thawed.and(Err(Error::new(ErrorKind::Cgroup, words)));
                }
                _ => BudgetWords::of(&words, limit.slot).mark(flag::FROZEN, false),
            }
        }
        thawed
    }

    /// What whoever paces holds a lock of, for as long as it lives.
    fn pacers_lock(&self) -> Result<File> {
        let dir = self.path(pins::INSTANCES);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&dir, flags, Mode::empty()).map_err(|e| {
            let call = "open";
            let errno = e.into();
            Error::sys(format!("open {}", dir.display()), &SysError { call, errno })
        })?;
        Ok(opened.into())
    }

    /// Somebody paces.
    pub(super) fn is_paced(&self) -> Result<bool> {
        let lock = self.pacers_lock()?;
        Ok(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
    }
}

impl Pacer {
    /// Looks at all budgets once, freezes and thaws; what was done. A cgroup that is gone is left out.
    /// A state that comes, or is made anew, is followed. `tell` is told of each before it is frozen, and after
    /// it was thawed: so whoever is to thaw it if this process dies knows it in time.
    ///
    /// # Errors
    /// [`Error`]: a state that cannot be read, EBUSY if another process paces one that came. Nothing
    /// stays frozen by a pacer that is dropped.
    pub fn step(&mut self, mut tell: impl FnMut(&Paced)) -> Result<Vec<Paced>> {
        let mut done = self.reload()?;
        done.iter().for_each(&mut tell);
        let now_ns = now().as_nanos() as u64;
        let Some(budgets) = &self.budgets else {
            return Ok(done);
        };
        for one in &mut self.all {
            let taken = Budget::of(&BudgetWords::of(budgets, one.limit.slot).read()).taken;
            if taken != one.taken {
                one.taken = taken;
                one.active_ns = now_ns;
            }
        }
        let active: BTreeSet<u32> = self
            .all
            .iter()
            .filter(|o| now_ns.saturating_sub(o.active_ns) < ACTIVE_FOR.as_nanos() as u64)
            .map(|o| o.limit.slot)
            .collect();
        for one in &mut self.all {
            let words = BudgetWords::of(budgets, one.limit.slot);
            let budget = Budget::of(&words.read());
            let mut left = budget.left(now_ns);
            let is_wanted = one.siblings.iter().any(|s| active.contains(s));
            if one.limit.borrow && !is_wanted && left <= 0 {
                left = words.forgive(&budget, left);
            }
            let is_frozen = pace::is_to_freeze(one.is_frozen, left, one.enough);
            // What somebody else has frozen is theirs to thaw.
            if is_frozen == one.is_frozen || is_frozen && is_written(&one.file) {
                continue;
            }
            // The mark first: whoever finds it thaws what may not be frozen yet.
            if is_frozen {
                words.mark(flag::FROZEN, true);
                tell(&Paced {
                    is_frozen,
                    ..one.told()
                });
            }
            match write(&one.file, is_frozen) {
                Ok(()) => {
                    (one.is_frozen, one.is_told) = (is_frozen, false);
                    if !is_frozen {
                        tell(&one.told());
                    }
                    done.push(one.told());
                }
                Err(e) => one.failed(is_frozen, &e),
            }
            if !one.is_frozen {
                words.mark(flag::FROZEN, false);
            }
        }
        Ok(done)
    }

    /// Thaws everything that it froze.
    pub fn thaw(&mut self) -> Vec<Paced> {
        thaw(&mut self.all, self.budgets.as_ref())
    }

    /// Number of cgroups that may be frozen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Follows the record if that has changed; what was thawed since nothing freezes it any more.
    fn reload(&mut self) -> Result<Vec<Paced>> {
        let is_told = |(places, seen): &(Words, u64)| places::born(places.as_slice()) == *seen;
        if self.engine.record() == self.seen && self.births.as_ref().is_none_or(is_told) {
            return Ok(Vec::new());
        }
        self.load()
    }

    /// Sees to it that nobody else paces this state; whether it is the one that was paced before.
    fn lock(&mut self, session: &Session) -> Result<bool> {
        let lock = session.pacers_lock()?;
        if self.lock.as_ref().is_some_and(|held| is_one(held, &lock)) {
            return Ok(true);
        }
        let mut tries = 0;
        // Whoever looks whether somebody paces holds it for a moment.
        while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            tries += 1;
            if tries == LOCK_TRIES {
                return Err(Error::new(
                    ErrorKind::Rule,
                    "another process enforces the limits of this state already",
                )
                .with_errno(Errno::EBUSY));
            }
            std::thread::sleep(LOCK_WAIT);
        }
        self.lock = Some(lock);
        if !session.config.limits.is_empty() {
            session.thaw_marked()?;
        }
        Ok(false)
    }

    /// Takes over what the record says, and the lock of its state.
    fn load(&mut self) -> Result<Vec<Paced>> {
        let inode = self.engine.record();
        let hierarchy = self.engine.hierarchy()?;
        let session = Session::open(self.engine.state(), Lock::Shared, hierarchy)?;
        let mut is_same = false;
        match &session {
            Some(session) => is_same = self.lock(session)?,
            None => self.lock = None,
        }
        let mut done = Vec::new();
        if !is_same {
            // Of another state are other limits and budgets, whatever their numbers.
            done = self.thaw();
            self.all.clear();
        }
        let limited = session.filter(|s| !s.config.limits.is_empty());
        let limited = limited.map(Limited::of).transpose()?;
        let mut before = std::mem::take(&mut self.all);
        if let Some(limited) = &limited {
            self.all = limited.frozen(&mut before);
        }
        // What is limited no more.
        done.extend(thaw(&mut before, self.budgets.as_ref()));
        let (budgets, births) = limited.map(|l| (l.budgets, l.births)).unzip();
        (self.budgets, self.births) = (budgets, births.flatten());
        self.seen = inode;
        Ok(done)
    }
}

/// Thaws those that are frozen, and takes their marks away.
fn thaw(all: &mut [Frozen], budgets: Option<&Words>) -> Vec<Paced> {
    let mut done = Vec::new();
    for one in all.iter_mut().filter(|o| o.is_frozen) {
        done.push(one.thaw());
        if let Some(budgets) = budgets {
            BudgetWords::of(budgets, one.limit.slot).mark(flag::FROZEN, false);
        }
    }
    done
}

/// A state with limits, as a pacer looks at it.
struct Limited {
    session: Session,
    budgets: Words,
    births: Option<(Words, u64)>,
    /// The pacer's own cgroup, if it can be frozen at all.
    own: Option<Cgroup>,
}

impl Limited {
    fn of(session: Session) -> Result<Self> {
        let seen = session.config.limits.births_seen;
        Ok(Self {
            budgets: session.budget_words()?,
            births: session.places()?.map(|places| (places, seen)),
            own: match session.hierarchy.by_pid(std::process::id()) {
                // Then it is no cgroup that we freeze.
                Err(CgroupError::Unseen { .. }) => None,
                own => Some(own?),
            },
            session,
        })
    }

    /// What its limits freeze, as far as it was there before taken from that.
    fn frozen(&self, before: &mut Vec<Frozen>) -> Vec<Frozen> {
        let limits = &self.session.config.limits.limits;
        let frozen = limits.iter().filter(|(_, l)| l.action == Action::Freeze);
        // By what is limited and their parent.
        let mut families: BTreeMap<_, Vec<&LimitRecord>> = BTreeMap::new();
        for (_, limit) in frozen.clone() {
            let record = self.session.config.cgroups.get(&limit.cgroup);
            let parent = record.and_then(|r| r.parent);
            families
                .entry((limit.group, parent))
                .or_default()
                .push(limit);
        }
        let mut all = Vec::new();
        for (id, limit) in frozen {
            let Ok(cgroup) = self.session.hierarchy.by_id(limit.cgroup) else {
                continue;
            };
            let is_ours = |own: &Cgroup| own.id == cgroup.id || own.ancestors.contains(&cgroup.id);
            if self.own.as_ref().is_some_and(is_ours) {
                tracing::warn!(
                    "{} is not frozen: whoever would thaw it runs in it; run `cgtap enforce` \
                     elsewhere",
                    cgroup.path
                );
                continue;
            }
            let family = families.get(&(limit.group, cgroup.ancestors.first().copied()));
            // Who lends nothing need not know them.
            let family = family.filter(|_| limit.borrow).into_iter().flatten();
            let siblings = family.filter(|l| l.cgroup != limit.cgroup);
            let file = self.session.hierarchy.directory(&cgroup.path).join(FILE);
            // A budget may be another limit's by now.
            let is_it = |o: &Frozen| (o.id, o.limit.slot) == (*id, limit.slot);
            let old = before.iter().position(is_it);
            let old = old.map(|at| before.swap_remove(at));
            all.push(Frozen {
                id: *id,
                enough: pace::enough(limit.amount, limit.period_ns, limit.burst),
                limit: limit.clone(),
                path: cgroup.path,
                siblings: siblings.map(|l| l.slot).collect(),
                is_frozen: old.as_ref().is_some_and(|o| o.is_frozen),
                is_told: old.as_ref().is_some_and(|o| o.is_told),
                taken: old.as_ref().map_or(0, |o| o.taken),
                active_ns: old.as_ref().map_or(0, |o| o.active_ns),
                file,
            });
        }
        all
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.thaw();
    }
}

impl Frozen {
    /// Thaws it; one that is gone needs no thawing.
    fn thaw(&mut self) -> Paced {
        if let Err(e) = write(&self.file, false) {
            self.failed(false, &e);
        }
        self.is_frozen = false;
        self.told()
    }

    /// It could not be frozen, or thawed: that is said once, until it can be. One that is gone, or going,
    /// needs neither, and the record follows.
    fn failed(&mut self, is_frozen: bool, error: &std::io::Error) {
        if is_gone(error) || std::mem::replace(&mut self.is_told, true) {
            tracing::debug!("{}: {error}", self.file.display());
            return;
        }
        tracing::warn!(
            "cannot {} {}: {error}; whoever enforces limits has to be able to write {}",
            if is_frozen { "freeze" } else { "thaw" },
            self.path,
            self.file.display()
        );
    }

    fn told(&self) -> Paced {
        Paced {
            limit: self.id,
            cgroup: self.path.clone(),
            file: self.file.clone(),
            is_frozen: self.is_frozen,
        }
    }
}
