//! Limits that controllers of the kernel's hold: their files. What somebody else had written there comes
//! back when the limit goes.
//!
//! These files are outside of the state, so a change writes down what they say before it writes there: if
//! it fails, or is killed, they say that again ([`Session::put_files_back`]).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cgtap_sys::Errno;

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::Session;
use crate::cgroup::is_gone;
use crate::id::LimitId;
use crate::limit::controller::{Controller, Setting, Wanted};
use crate::limit::record::{Action, Held, Limits};

/// A file of a controller's, and what lifts a limit there.
type Place = (PathBuf, String);

/// A limit that a controller holds.
struct Kept {
    id: LimitId,
    controller: Controller,
    /// What is written for it.
    set: String,
    held: Option<Held>,
}

impl Kept {
    /// What the file says of it now.
    fn present(&self, (file, lift): &Place) -> io::Result<String> {
        Ok(self
            .controller
            .present(lift, &std::fs::read_to_string(file)?))
    }
}

impl Session {
    /// What the limits' controllers are to say.
    fn settings(&self, limits: &Limits) -> Result<BTreeMap<Place, Kept>> {
        let mut all = BTreeMap::new();
        for (id, limit) in &limits.limits {
            let (Action::Controller(controller), Some(group)) =
                (limit.action, limits.groups.get(&limit.group))
            else {
                continue;
            };
            let name = group.name();
            let wanted = Wanted {
                meter: &name,
                labels: &group.labels,
                amount: limit.amount,
                period_ns: limit.period_ns,
            };
            let Setting { file, set, lift } = controller
                .setting(wanted)
                .map_err(|why| super::wrong(format!("cannot limit {name}: {why}")))?;
            let Ok(cgroup) = self.hierarchy.by_id(limit.cgroup) else {
                continue;
            };
            let dir = self.hierarchy.directory(&cgroup.path);
            let kept = Kept {
                id: *id,
                controller,
                set,
                held: limit.held.clone(),
            };
            all.insert((dir.join(file), lift), kept);
        }
        Ok(all)
    }

    /// Makes the controllers' files say what the limits of `next` are, which remember what was there: where that
    /// has changed, and of those that are `asked` for also where somebody else has written since. To be
    /// called within [`Session::change`], which puts back what was written if that fails.
    ///
    /// # Errors
    /// EINVAL for what a controller does not hold, ENOENT where it is not enabled.
    pub(super) fn write_controllers(&mut self, next: &mut Limits, asked: &[LimitId]) -> Result<()> {
        let before = self.settings(&self.config.limits)?;
        let after = self.settings(next)?;
        let is_held = |(place, new): &(&Place, &Kept)| {
            let known = before.get(*place).filter(|old| old.set == new.set);
            let says = |held: &Held| new.present(place).is_ok_and(|says| says == held.says);
            let is_so = |old: &Kept| old.held.as_ref().is_some_and(says);
            known.is_some_and(|old| !asked.contains(&new.id) || is_so(old))
        };
        let gone = before
            .iter()
            .filter(|(place, _)| !after.contains_key(*place));
        let gone: Vec<_> = gone.collect();
        let new: Vec<_> = after.iter().filter(|new| !is_held(new)).collect();
        self.note_files(gone.iter().chain(&new).copied())?;
        for (place, old) in gone {
            self.lift(place, old)?;
        }
        for (place, new) in new {
            let known = before.get(place).and_then(|k| k.held.as_ref());
            let held = hold(place, new, known).map_err(|e| self.refused("hold", place, new, &e))?;
            if let Some(limit) = next.limits.get_mut(&new.id) {
                limit.held = Some(held);
            }
        }
        Ok(())
    }

    /// Puts back what was in the controllers' files before any limit, as far as that can be done.
    ///
    /// # Errors
    /// The first that could not.
    pub(super) fn lift_controllers(&mut self) -> Result<()> {
        let all = self.settings(&self.config.limits)?;
        let mut lifted = self.note_files(all.iter());
        for (place, old) in &all {
            lifted = lifted.and(self.lift(place, old));
        }
        lifted
    }

    /// Writes down what files say that are about to be written. Those that cannot be read are not written
    /// either.
    fn note_files<'a>(&mut self, all: impl Iterator<Item = (&'a Place, &'a Kept)>) -> Result<()> {
        let says = |(place, kept): (&'a Place, &Kept)| Some((&place.0, kept.present(place).ok()?));
        let files = all.filter_map(says);
        let mut noted = self.config.clone();
        noted.limits.files = files.map(|(file, says)| (file.clone(), says)).collect();
        if noted == self.config {
            return Ok(());
        }
        self.write_config(noted)
    }

    /// Makes files say again what they said before a change that did not come to its end.
    pub(in crate::engine) fn put_files_back(limits: &mut Limits) {
        for (file, before) in std::mem::take(&mut limits.files).into_iter().rev() {
            match write(&file, &before) {
                Err(e) if !is_gone(&e) => {
                    tracing::warn!("{} keeps what a failed change wrote: {e}", file.display());
                }
                _ => {}
            }
        }
    }

    /// Puts back what was there before a limit. A cgroup that is gone needs no lifting.
    fn lift(&self, place: &Place, old: &Kept) -> Result<()> {
        match lift(place, old) {
            Err(e) if !is_gone(&e) => Err(self.refused("lift", place, old, &e)),
            _ => Ok(()),
        }
    }

    fn refused(&self, verb: &str, (file, _): &Place, kept: &Kept, error: &io::Error) -> Error {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno);
        let words = format!(
            "cannot {verb} limit {}, `{}` in {}: {error}{}",
            kept.id,
            kept.set,
            file.display(),
            self.remedy(file, error)
        );
        Error::new(ErrorKind::Unsupported, words).with_errno(errno)
    }

    /// What is to be said of a file of a controller that could not be written, and to be done.
    fn remedy(&self, file: &Path, error: &io::Error) -> String {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let controller = name.split('.').next().unwrap_or_default();
        if error.kind() != io::ErrorKind::NotFound {
            return match controller {
                "dmem" => "; dmem.capacity of the root names the regions there are".to_owned(),
                _ => String::new(),
            };
        }
        let there_are = self.hierarchy.root().join("cgroup.controllers");
        let there_are = std::fs::read_to_string(there_are).unwrap_or_default();
        if there_are.split_whitespace().any(|c| c == controller) {
            format!(
                "; the controller has to be enabled for the cgroup: write +{controller} to \
                 cgroup.subtree_control of each above it, from the root"
            )
        } else {
            format!(
                "; there is no controller {controller} in this hierarchy: this kernel was built without it, or \
                 it is mounted as cgroup v1"
            )
        }
    }
}

/// Puts back what was there before a limit, unless somebody else has written there since.
fn lift(place: &Place, old: &Kept) -> io::Result<()> {
    let (file, _) = place;
    let says = old.present(place)?;
    if let Some(held) = old.held.as_ref().filter(|h| h.says == says) {
        return write(file, &held.before);
    }
    tracing::warn!(
        "{} says `{says}`, which limit {} did not write: it is left so",
        file.display(),
        old.id
    );
    Ok(())
}

/// Writes a limit; what was there before any of ours, and what is.
fn hold(place: &Place, new: &Kept, known: Option<&Held>) -> io::Result<Held> {
    let there = new.present(place)?;
    write(&place.0, &new.set)?;
    let says = new.present(place)?;
    let before = match known.filter(|h| h.says == there) {
        Some(held) => held.before.clone(),
        None => there,
    };
    Ok(Held { before, says })
}

/// Writes a file that is there: what creates one is told EACCES where there is none.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(file)?;
    file.write_all(text.as_bytes())
}
