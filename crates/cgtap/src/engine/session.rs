//! A session: the state, opened, locked and whole.
//!
//! How it stays whole: what is new is loaded and pinned beside the old; then the record is
//! replaced by one rename, which is the moment the change counts; then it is published to the
//! dispatchers; then what nothing refers to any more is taken away. A word in the state says that
//! a change is under way. Whoever finds it set under the lock finds the work of a dead process and
//! makes the kernel agree with the record: forward if the rename was done, back if not. A change
//! that fails is taken back in the same way. What a change writes outside of the state, files of
//! controllers, it notes in the record before, with what was there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cgtap_sys::bpf::{Map, get_map, grace_period};
use cgtap_sys::memory::Words;
use cgtap_sys::{Errno, SysError};

use super::error::{Error, ErrorKind, Result};
use super::foundation;
use crate::cgroup::Hierarchy;
use crate::dispatch::reaper::{ALIVE, DEAD};
use crate::dispatch::switch::Switch;
use crate::id::CgroupId;
use crate::kernel;
use crate::store::blob::{self, BlobError};
use crate::store::config::{Config, HookId, HookRecord};
use crate::store::dir::{Lock, StateDir};
use crate::store::pins;

/// Control word of the state: deaths of configured cgroups.
const DEATHS: usize = 0;
/// Control word of the state: a change is under way.
pub(super) const UNDER_WAY: usize = 1;

/// How often the record is made to follow cgroups that come and go meanwhile.
const FOLLOW_TRIES: usize = 8;

/// The state, locked.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) dir: StateDir,
    pub(super) config: Config,
    pub(super) hierarchy: Hierarchy,
    cgroups: Map,
    words: Words,
    /// It was made by this session.
    is_fresh: bool,
    /// The change stands, but what it left could not all be taken away.
    is_unfinished: bool,
}

fn broken(path: &Path, error: &BlobError) -> Error {
    let words = match error {
        BlobError::Sys(e) => return Error::sys(format!("read the state {}", path.display()), e),
        BlobError::Newer { .. } => "use the cgtap that made it",
        BlobError::Foreign => "name another directory with --state",
        BlobError::Damaged(_) => "detach everything with `cgtap detach --all` and attach anew",
    };
    Error::new(
        ErrorKind::State,
        format!("cannot use the state {}: {error}; {words}", path.display()),
    )
    .with_errno(Errno::EINVAL)
}

/// Something of ours is not where it is pinned, or is something else.
fn unopened(path: &Path, error: &SysError) -> Error {
    let path = path.display();
    match error.errno {
        Errno::ENOENT | Errno::EINVAL => Error::new(
            ErrorKind::State,
            format!("the state is damaged: {path} cannot be opened ({error}); `cgtap doctor --repair` makes it anew"),
        )
        .with_errno(error.errno),
        _ => Error::sys(format!("open {path}"), error),
    }
}

impl Session {
    /// Opens an existing state, `None` if there is none. It is whole when this returns: what a
    /// dead process left is mended, removed cgroups are dealt with.
    pub(super) fn open(path: &Path, lock: Lock, hierarchy: Hierarchy) -> Result<Option<Self>> {
        let Some(dir) = StateDir::open(path, lock)? else {
            return Ok(None);
        };
        let Some(config) = read_config(&dir)? else {
            // Somebody is about to fill it, or died over that, or over taking it away.
            let is_half = !dir.walk()?.is_empty();
            return match lock {
                Lock::Shared if is_half => {
                    drop(dir);
                    Self::open(path, Lock::Exclusive, hierarchy)
                }
                _ if is_half => remove_half(dir).map(|_| None),
                _ => Ok(None),
            };
        };
        let mut session = Self::attach_maps(dir, config, hierarchy)?;
        if session.needs_work() {
            if lock == Lock::Shared {
                // Between one lock and the other anything may happen to it: begin anew.
                let Self { dir, hierarchy, .. } = session;
                drop(dir);
                return Self::open(path, Lock::Exclusive, hierarchy);
            }
            session.mend()?;
        }
        Ok(Some(session))
    }

    /// Makes the kernel agree with the record whether a change was under way or not.
    pub(super) fn repair(&mut self) -> Result<Vec<String>> {
        self.words.set(UNDER_WAY, 1);
        self.mend()
    }

    /// Opens the state for a change; makes it if there is none.
    pub(super) fn create(path: &Path, hierarchy: Hierarchy) -> Result<Self> {
        let dir = StateDir::create(path)?;
        let known = read_config(&dir)?;
        let is_fresh = known.is_none();
        let config = match known {
            Some(config) => config,
            None => foundation::make_state(&dir).inspect_err(|_| {
                // Nothing was there before, so nothing is to stay.
                if dir.sweep(&BTreeSet::new()).is_ok() {
                    drop(std::fs::remove_dir(dir.path()));
                }
            })?,
        };
        let mut session = Self::attach_maps(dir, config, hierarchy)?;
        session.is_fresh = is_fresh;
        if session.needs_work() {
            session.mend()?;
        }
        Ok(session)
    }

    /// Does the first change of a session that may have made the state: where it fails, the state
    /// goes again.
    pub(super) fn change_or_go<T>(mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let result = self.change(f);
        if result.is_err() && self.is_fresh {
            self.destroy()
                .unwrap_or_else(|e| tracing::warn!("the new state is still there: {e}"));
        }
        result
    }

    /// The state as it is, without looking whether it is whole.
    pub(super) fn attach_maps(dir: StateDir, config: Config, hierarchy: Hierarchy) -> Result<Self> {
        let get = |name: &str| get_map(&dir.join(name)).map_err(|e| unopened(&dir.join(name), &e));
        let cgroups = get(pins::CGROUPS)?;
        let words = Words::map(&get(pins::CONTROL)?)
            .map_err(|e| Error::sys("map the control words of the state", &e))?;
        Ok(Self {
            dir,
            config,
            hierarchy,
            cgroups,
            words,
            is_fresh: false,
            is_unfinished: false,
        })
    }

    fn needs_work(&self) -> bool {
        self.words.get(UNDER_WAY) != 0
            || self.words.get(DEATHS) != self.config.deaths_seen
            || self.has_births()
            // What cannot be told is found out by mending.
            || self.orphans().map_or(true, |orphans| !orphans.is_empty())
    }

    /// A change was under way when its process died.
    pub(super) fn is_interrupted(&self) -> bool {
        self.words.get(UNDER_WAY) != 0
    }

    /// Path of something in the state.
    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.join(name)
    }

    /// Makes the kernel agree with the record, and the record with the cgroups and processes that
    /// are still there.
    pub(super) fn mend(&mut self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        if self.words.get(UNDER_WAY) != 0 {
            done = self.agree()?;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.follow_kernel(&mut done) {
                // What was born a moment ago may be gone again: it is looked at anew.
                Err(e) if e.kind() == ErrorKind::Cgroup && tries < FOLLOW_TRIES => {}
                result => return result.map(|()| done),
            }
        }
    }

    /// Makes the record follow cgroups and processes that went, and limits that were born.
    fn follow_kernel(&mut self, done: &mut Vec<String>) -> Result<()> {
        let deaths = self.words.get(DEATHS);
        let dead = self.dead_cgroups()?;
        let orphans = self.orphans()?;
        let has_births = self.has_births();
        if deaths == self.config.deaths_seen && dead.is_empty() && orphans.is_empty() && !has_births
        {
            return Ok(());
        }
        let mut next = self.config.clone();
        next.deaths_seen = deaths;
        for cgroup in &dead {
            next.limits.forget_cgroup(*cgroup);
        }
        if has_births {
            self.adopt(&mut next)?;
        }
        super::limit::forget(&mut next)?;
        for hook in next.hooks.values_mut() {
            for cgroup in &dead {
                for gone in hook.lists.remove_cgroup(*cgroup) {
                    done.push(format!("attachment {} went with its cgroup", gone.id));
                }
            }
            for id in &orphans {
                let Some((cgroup, _)) = hook.lists.find(*id) else {
                    continue;
                };
                let what = Some(crate::attach::Anchor::Id(*id));
                if hook.lists.detach(cgroup, what, None).is_ok() {
                    done.push(format!("attachment {id} went with its process"));
                }
            }
        }
        self.change(|session| session.apply(next))
    }

    fn dead_cgroups(&self) -> Result<Vec<CgroupId>> {
        let sys = |e: SysError| Error::sys("read the configured cgroups", &e);
        let mut dead = Vec::new();
        if self.words.get(DEATHS) == self.config.deaths_seen {
            return Ok(dead);
        }
        for key in self.cgroups.keys().map_err(sys)? {
            let state = self.cgroups.lookup(&key).map_err(sys)?;
            if state.is_some_and(|s| s == DEAD.to_ne_bytes()) {
                dead.push(id_of(&key));
            }
        }
        Ok(dead)
    }

    /// Does a change: whatever goes wrong in it, the state is as before.
    pub(super) fn change<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let _kept = kernel::keep();
        self.words.set(UNDER_WAY, 1);
        self.is_unfinished = false;
        let before = self.config.clone();
        let result = f(self);
        if result.is_ok() && !self.is_unfinished {
            self.words.set(UNDER_WAY, 0);
            return result;
        }
        self.config = match read_config(&self.dir) {
            Ok(Some(config)) => config,
            _ => before,
        };
        if let Err(e) = self.agree() {
            // The word stays set: the next command tries again.
            tracing::warn!("what the change left is still there: {e}");
        }
        result
    }

    /// Notes that a change stands with something left to take away.
    pub(super) fn unfinished(&mut self, error: &Error) {
        tracing::info!("the change is made, but not all is cleared away yet: {error}");
        self.is_unfinished = true;
    }

    /// Makes the kernel agree with the record: every entry of every table, every place of every
    /// array, every pin. Returns what was left over and is gone now.
    fn agree(&mut self) -> Result<Vec<String>> {
        let mut next = self.config.clone();
        Self::put_files_back(&mut next.limits);
        for (id, record) in self.config.hooks.iter().filter(|(_, h)| h.is_active()) {
            let switch = self.switch(*id)?;
            let sys = |e: SysError| Error::sys(format!("restore hook {}", record.spec), &e);
            switch.publish(&desired(record)).map_err(sys)?;
        }
        self.watch_again()?;
        self.watch_owners(&next)?;
        self.settle(&mut next)?;
        for (id, record) in self.config.hooks.iter().filter(|(_, h)| h.is_active()) {
            let keep = record
                .all_sets()
                .flat_map(|s| s.indices.iter().copied())
                .collect();
            let sys = |e: SysError| Error::sys(format!("clear hook {}", record.spec), &e);
            let switch = self.switch(*id)?;
            switch.vacate_others(&keep).map_err(sys)?;
        }
        self.unwatch()?;
        self.unwatch_owners()?;
        self.lay_budgets(&self.config.limits)?;
        self.fill_limits()?;
        let gone = self.dir.sweep(&pins::expected(&self.config))?;
        self.words.set(UNDER_WAY, 0);
        Ok(gone
            .into_iter()
            .map(|name| format!("removed {name}, which nothing owned"))
            .collect())
    }

    /// The maps of a hook.
    pub(super) fn switch(&self, hook: HookId) -> Result<Switch> {
        let dir = self.path(&pins::hook_dir(hook));
        Switch::open(&dir).map_err(|e| unopened(&dir, &e))
    }

    /// Replaces the record. From here on the change counts.
    pub(super) fn write_config(&mut self, config: Config) -> Result<()> {
        write_config(&self.dir, &config)?;
        self.config = config;
        Ok(())
    }

    /// Tells the program at cgroup_rmdir which cgroups to look for, and makes sure that none of
    /// them went before it was told.
    pub(super) fn watch(&self, config: &Config) -> Result<()> {
        for id in config.watched() {
            let known = self
                .cgroups
                .lookup(&id.0.to_ne_bytes())
                .map_err(|e| Error::sys("look up a configured cgroup", &e))?;
            if known.is_some() {
                continue;
            }
            self.cgroups
                .update(&id.0.to_ne_bytes(), &ALIVE.to_ne_bytes())
                .map_err(|e| Error::sys(format!("watch cgroup {}", config.path(id)), &e))?;
            if self.hierarchy.exists(id) == Some(false) {
                let path = config.path(id);
                return Err(Error::new(
                    ErrorKind::Cgroup,
                    format!("cgroup {path} was removed meanwhile"),
                )
                .with_errno(Errno::ENOENT));
            }
        }
        Ok(())
    }

    /// Watches what is recorded, as far as it is not watched. What went unseen is taken for a death
    /// seen now.
    pub(super) fn watch_again(&self) -> Result<()> {
        let sys = |e: SysError| Error::sys("watch a configured cgroup", &e);
        for id in self.config.watched() {
            let key = id.0.to_ne_bytes();
            if self.cgroups.lookup(&key).map_err(sys)?.is_some() {
                continue;
            }
            self.cgroups
                .update(&key, &ALIVE.to_ne_bytes())
                .map_err(sys)?;
            if self.hierarchy.exists(id) == Some(false) {
                self.cgroups
                    .update(&key, &DEAD.to_ne_bytes())
                    .map_err(sys)?;
                self.words.set(DEATHS, self.words.get(DEATHS) + 1);
            }
        }
        Ok(())
    }

    /// Recorded cgroups that nobody watches, and watched ones that are not recorded.
    pub(super) fn is_watch_wrong(&self) -> bool {
        let watched = self.config.watched();
        self.cgroups.keys().is_ok_and(|keys| {
            let keys: BTreeSet<CgroupId> = keys.iter().map(|k| id_of(k)).collect();
            keys != watched
        })
    }

    fn unwatch(&self) -> Result<()> {
        let sys = |e: SysError| Error::sys("forget a cgroup", &e);
        let watched = self.config.watched();
        for key in self.cgroups.keys().map_err(sys)? {
            if !watched.contains(&id_of(&key)) {
                self.cgroups.delete(&key).map_err(sys)?;
            }
        }
        Ok(())
    }

    /// Waits until nothing runs any more that was not published last; takes over the counts of
    /// retired sets, once; writes that down; and takes away what is not needed.
    pub(super) fn settle(&mut self, next: &mut Config) -> Result<()> {
        grace_period().map_err(|e| Error::sys("wait for running programs", &e))?;
        let mut retired: BTreeMap<HookId, Vec<u16>> = BTreeMap::new();
        for (id, hook) in &mut next.hooks {
            for set in std::mem::take(&mut hook.retired) {
                let runs = counter(&self.path(&pins::set_counter(*id, set.serial)))?;
                for member in &set.members {
                    *hook.counted.entry(member.attachment).or_default() += runs;
                }
                retired.entry(*id).or_default().extend(set.indices);
            }
        }
        next.forget_unused();
        if *next != self.config {
            self.write_config(next.clone())?;
        }
        for (id, indices) in &retired {
            // A hook that nothing is attached to is taken away whole.
            if self.config.hooks.get(id).is_some_and(HookRecord::is_active) {
                let sys = |e: SysError| Error::sys("empty the places of old sets", &e);
                let switch = self.switch(*id)?;
                switch.vacate(indices).map_err(sys)?;
                switch.settle();
            }
        }
        Ok(())
    }

    /// Takes away the pins that `before` accounted for and the record does not.
    pub(super) fn clear(&self, before: &BTreeSet<String>) -> Result<()> {
        let keep = pins::expected(&self.config);
        let gone: Vec<&String> = before.difference(&keep).collect();
        self.dir.remove_all(gone.into_iter())?;
        if self.cgroups_changed() {
            self.unwatch()?;
        }
        self.unwatch_owners()
    }

    fn cgroups_changed(&self) -> bool {
        self.cgroups
            .keys()
            .is_ok_and(|keys| keys.len() != self.config.watched().len())
    }

    /// Removes the state, whatever is attached, and what its limits wrote elsewhere. Without its record it
    /// is none any more: whoever finds what is left of it takes that away.
    pub(super) fn destroy(mut self) -> Result<()> {
        self.words.set(UNDER_WAY, 1);
        if let Err(e) = self.lift_limits() {
            tracing::warn!("what limits wrote elsewhere is still there: {e}");
        }
        self.dir.unpin(pins::CONFIG)?;
        remove_half(self.dir)?;
        grace_period().map_err(|e| Error::sys("wait for running programs", &e))
    }
}

/// Removes a state that has no record; returns what was in it. Links go first: from then on
/// nothing runs, and nothing that runs lacks what it needs.
pub(super) fn remove_half(dir: StateDir) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    for (name, _) in dir
        .walk()?
        .into_iter()
        .filter(|(n, _)| pins::is_hook_link(n))
    {
        dir.unpin(&name)?;
        gone.push(name);
    }
    gone.extend(dir.sweep(&BTreeSet::new())?);
    dir.remove_itself()?;
    Ok(gone)
}

/// The cgroup that a key of the map of configured ones stands for.
fn id_of(key: &[u8]) -> CgroupId {
    CgroupId(key.try_into().map(u64::from_ne_bytes).unwrap_or_default())
}

/// The set that each configured cgroup is to have.
pub(super) fn desired(hook: &HookRecord) -> BTreeMap<CgroupId, u16> {
    hook.sets
        .iter()
        .map(|(cgroup, set)| (*cgroup, set.head))
        .collect()
}

/// The runs that a set's counter counted, over all CPUs; 0 where it is gone.
pub(super) fn counter(path: &Path) -> Result<u64> {
    let map = match get_map(path) {
        Ok(map) => map,
        Err(e) if e.errno == Errno::ENOENT => return Ok(0),
        Err(e) => return Err(Error::sys(format!("open {}", path.display()), &e)),
    };
    let value = map
        .lookup(&0u32.to_ne_bytes())
        .map_err(|e| Error::sys(format!("read {}", path.display()), &e))?
        .unwrap_or_default();
    Ok(sum_words(&value))
}

/// The sum of a per-CPU counter: one word a CPU.
pub(super) fn sum_words(value: &[u8]) -> u64 {
    words(value).sum()
}

/// The 64-bit words of a key or value.
pub(super) fn words(value: &[u8]) -> impl Iterator<Item = u64> {
    let words = value.chunks_exact(8);
    words.map(|word| word.try_into().map(u64::from_ne_bytes).unwrap_or_default())
}

pub(super) fn read_config(dir: &StateDir) -> Result<Option<Config>> {
    let config: Option<Config> =
        blob::read(&dir.join(pins::CONFIG)).map_err(|e| broken(dir.path(), &e))?;
    match config {
        Some(config) if config.boot_id != boot_id() => Err(broken(
            dir.path(),
            &BlobError::Damaged("it is of another boot of this machine"),
        )),
        other => Ok(other),
    }
}

pub(super) fn write_config(dir: &StateDir, config: &Config) -> Result<()> {
    dir.unpin(pins::CONFIG_NEW)?;
    blob::write(&dir.join(pins::CONFIG_NEW), "cgtap_config", config).map_err(|e| match e {
        BlobError::Sys(e) => Error::sys(format!("write the state {}", dir.path().display()), &e),
        other => broken(dir.path(), &other),
    })?;
    Ok(dir.rename(pins::CONFIG_NEW, pins::CONFIG)?)
}

pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}
