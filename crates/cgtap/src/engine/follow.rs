//! Hooks in files follow those: a hook at a path goes to the file that an update puts there, and goes on
//! standing in the one before, for who runs that still. A hook at `*/FILE` follows the files that processes
//! map: those of containers that were started since.
//!
//! Nobody tells of a mapping, so all processes are looked at now and then: whenever such a hook is made,
//! by whoever reads usage, and by whoever reads for limits. What they called before that was not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Prog, get_link, pin};

use super::error::{Error, ErrorKind, Result};
use super::session::Session;
use super::{Engine, Lock};
use crate::cgroup::Hierarchy;
use crate::id::CgroupId;
use crate::kernel::anchor;
use crate::kernel::mapped::{FileId, Scan, scan};
use crate::kernel::place::Place;
use crate::store::config::{HookId, HookRecord};
use crate::store::pins;

/// Files that a hook stands in at the most. What is beyond is told, not probed.
const FILES_MAX: usize = 64;
/// Files that were at its path before, and that a hook goes on standing in.
const OLD_FILES_MAX: usize = 4;
/// For so many times as long as looking took it is not done again: 2 % of a CPU.
const REST: u32 = 50;

/// When processes were looked at last.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Option<Look>>);

#[derive(Clone, Debug)]
struct Look {
    ended: Instant,
    took: Duration,
    unreached: Vec<String>,
}

impl Pace {
    fn last(&self) -> MutexGuard<'_, Option<Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a hook follows files.
pub(super) fn is_wanted(session: &Session) -> bool {
    let mut hooks = session.config.hooks.values();
    hooks.any(|h| h.is_active() && !h.target.places.is_empty())
}

/// Hooks at a path where another file is by now, and the last place that they stand in.
pub(super) fn replaced(session: &Session) -> impl Iterator<Item = (HookId, &HookRecord, &Place)> {
    let hooks = session.config.hooks.iter().filter(|(_, h)| h.is_active());
    hooks.filter_map(|(id, hook)| {
        let last = hook.left_behind()?;
        // Where there is none, there is nothing to stand in.
        Path::new(&last.path).exists().then_some((*id, hook, last))
    })
}

/// What is to change at each of them for it to stand in the file that is there now.
fn moved(session: &Session, unreached: &mut BTreeSet<String>) -> BTreeMap<HookId, Change> {
    let mut all = BTreeMap::new();
    for (id, hook, last) in replaced(session) {
        let old = &hook.target.places;
        match last.find_again(&hook.spec, next_number(old)) {
            Ok(place) => {
                let too_many = old.len().saturating_sub(OLD_FILES_MAX);
                let change = Change {
                    come: vec![place],
                    gone: old.iter().take(too_many).map(|p| p.number).collect(),
                };
                all.insert(id, change);
            }
            Err(e) => drop(unreached.insert(format!(
                "{} does not stand in the file that is at {} now: {e}",
                hook.spec, last.path
            ))),
        }
    }
    all
}

/// A number for a link that none of these has.
fn next_number<'a>(places: impl IntoIterator<Item = &'a Place>) -> u32 {
    let last = places.into_iter().map(|place| place.number).max();
    last.map_or(0, |last| last + 1)
}

fn following(session: &Session) -> impl Iterator<Item = (HookId, &HookRecord, &str)> {
    let hooks = session.config.hooks.iter().filter(|(_, h)| h.is_active());
    hooks.filter_map(|(id, hook)| Some((*id, hook, hook.spec.mapped()?)))
}

/// What is to change at a hook.
#[derive(Debug, Default)]
struct Change {
    come: Vec<Place>,
    /// Numbers of links.
    gone: BTreeSet<u32>,
}

impl Engine {
    /// Looks at all processes for files that hooks at `*/FILE` are to stand in and do not, and puts them
    /// there; takes them out of files that are no more. Not again within 50 times as long as that took: what
    /// was found then comes back.
    ///
    /// Returns, in words, what has the name of such a file and is not probed, or why nothing was looked at: the
    /// hooks are there, and what they stand in they stand in.
    pub fn follow(&self) -> Vec<String> {
        if let Some(last) = &*self.pace.last()
            && last.ended.elapsed() < last.took * REST
        {
            return last.unreached.clone();
        }
        self.follow_now()
    }

    /// As [`Engine::follow`], whenever that was done last.
    pub(super) fn follow_now(&self) -> Vec<String> {
        let began = Instant::now();
        let unreached = match self.look_for_files() {
            Ok(unreached) => unreached.into_iter().collect(),
            Err(e) => vec![format!(
                "files that hooks are to stand in were not looked for: {e}"
            )],
        };
        *self.pace.last() = Some(Look {
            ended: Instant::now(),
            took: began.elapsed(),
            unreached: unreached.clone(),
        });
        unreached
    }

    fn look_for_files(&self) -> Result<BTreeSet<String>> {
        let open = |lock| Session::open(self.state(), lock, self.hierarchy()?);
        let Some(session) = open(Lock::Shared)? else {
            return Ok(BTreeSet::new());
        };
        let mut unreached = BTreeSet::new();
        let is_moved = !moved(&session, &mut unreached).is_empty();
        let names: BTreeSet<String> = following(&session).map(|(.., n)| n.to_owned()).collect();
        drop(session);
        if is_moved && let Some(mut session) = open(Lock::Exclusive)? {
            unreached = session.follow_paths().into_iter().collect();
        }
        if names.is_empty() {
            return Ok(unreached);
        }
        let scan = scan(&names).map_err(|e| {
            let what = format!("cannot list the processes that map files of hooks: {e}");
            Error::new(ErrorKind::Kernel, what)
        })?;
        unreached.extend(scan.unreached.iter().cloned());
        let is_new = match open(Lock::Shared)? {
            Some(session) => !changes(&session, &scan, &mut unreached).is_empty(),
            None => false,
        };
        // What others did meanwhile is in the record by now.
        if is_new && let Some(mut session) = open(Lock::Exclusive)? {
            let changes = changes(&session, &scan, &mut unreached);
            session.change(|session| session.move_links(&changes, &mut unreached))?;
        }
        Ok(unreached)
    }
}

impl Session {
    /// Puts hooks at paths into the files that are there now; in words, which of them cannot stand there.
    pub(super) fn follow_paths(&mut self) -> Vec<String> {
        let mut unreached = BTreeSet::new();
        let changes = moved(self, &mut unreached);
        if !changes.is_empty()
            && let Err(e) = self.change(|session| session.move_links(&changes, &mut unreached))
        {
            unreached.insert(format!(
                "hooks do not stand in the files that are there now: {e}"
            ));
        }
        unreached.into_iter().collect()
    }

    /// Attaches the dispatchers of hooks at new places, and takes them away from old ones.
    fn move_links(
        &mut self,
        changes: &BTreeMap<HookId, Change>,
        unreached: &mut BTreeSet<String>,
    ) -> Result<()> {
        let before = pins::expected(&self.config);
        let mut next = self.config.clone();
        for (id, change) in changes {
            let Some(hook) = next.hooks.get_mut(id) else {
                continue;
            };
            let sys = |e: SysError| Error::sys(format!("attach {} at more files", hook.spec), &e);
            let first = hook.links().first().copied().unwrap_or(0);
            let first = self.path(&pins::hook_link(*id, first));
            let dispatcher = get_link(&first).and_then(|link| Prog::from_id(link.info()?.prog_id));
            let prog = match dispatcher.map_err(sys) {
                Ok(prog) => prog,
                // For a repair; others have nothing to do with it.
                Err(e) => {
                    unreached.insert(e.to_string());
                    continue;
                }
            };
            for place in &change.come {
                match anchor::at_place(&prog, &hook.spec, place) {
                    Ok(link) => {
                        pin(&link, &self.path(&pins::hook_link(*id, place.number))).map_err(sys)?;
                        hook.target.places.push(place.clone());
                    }
                    Err(e) => drop(unreached.insert(format!("{} is not probed: {e}", place.path))),
                }
            }
            let places = &mut hook.target.places;
            // The hook is live by its links: one stays.
            if places
                .iter()
                .any(|place| !change.gone.contains(&place.number))
            {
                places.retain(|place| !change.gone.contains(&place.number));
            }
        }
        self.write_config(next)?;
        if let Err(e) = self.clear(&before) {
            self.unfinished(&e);
        }
        Ok(())
    }
}

/// What is to change at each hook for it to stand in all files that processes of its cgroups map.
fn changes(
    session: &Session,
    scan: &Scan,
    unreached: &mut BTreeSet<String>,
) -> BTreeMap<HookId, Change> {
    let mut families = Families::of(&session.hierarchy);
    let mut all = BTreeMap::new();
    for (id, hook, name) in following(session) {
        let attached: BTreeSet<CgroupId> = hook.lists.configured().collect();
        let places = &hook.target.places;
        let mut change = Change::default();
        for (file, mapped) in scan.files(name) {
            let is_known = places.iter().any(|place| place.file == file);
            let mut cgroups = mapped.cgroups.iter();
            if is_known || !cgroups.any(|path| families.is_below(path, &attached)) {
                continue;
            }
            if places.len() + change.come.len() >= FILES_MAX {
                unreached.insert(format!(
                    "{} is not probed: {} stands in {FILES_MAX} files already",
                    mapped.path.display(),
                    hook.spec
                ));
                continue;
            }
            let number = next_number(places.iter().chain(&change.come));
            match Place::find(&hook.spec, number, &mapped.path) {
                Ok(place) => change.come.push(place),
                Err(e) => drop(unreached.insert(format!("it is not probed: {e}"))),
            }
        }
        let mapped: BTreeSet<FileId> = scan.files(name).map(|(file, _)| file).collect();
        let gone = places
            .iter()
            .filter(|place| !place.is_there() && !mapped.contains(&place.file));
        change.gone = gone.map(|place| place.number).collect();
        if change.gone.len() == places.len() && change.come.is_empty() {
            change.gone.clear();
        }
        if !change.come.is_empty() || !change.gone.is_empty() {
            all.insert(id, change);
        }
    }
    all
}

/// The cgroups of processes, with those above them.
struct Families<'a> {
    hierarchy: &'a Hierarchy,
    known: BTreeMap<PathBuf, Vec<CgroupId>>,
}

impl<'a> Families<'a> {
    fn of(hierarchy: &'a Hierarchy) -> Self {
        Self {
            hierarchy,
            known: BTreeMap::new(),
        }
    }

    /// Whether the cgroup at `path`, as /proc told it, is one of `cgroups` or below it. One that is gone is not.
    fn is_below(&mut self, path: &PathBuf, cgroups: &BTreeSet<CgroupId>) -> bool {
        if !self.known.contains_key(path) {
            let found = self.hierarchy.by_told(path);
            let line = found.map(|c| [vec![c.id], c.ancestors].concat());
            self.known.insert(path.clone(), line.unwrap_or_default());
        }
        let line = self.known.get(path).map_or(&[][..], Vec::as_slice);
        line.iter().any(|id| cgroups.contains(id))
    }
}
