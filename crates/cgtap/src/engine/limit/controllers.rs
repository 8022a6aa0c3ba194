//! Limits that controllers of the kernel's hold: their files, written with the change and put back if it
//! fails. What somebody else had written there comes back when the limit goes.

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

/// What was written: file, and what puts it back.
#[derive(Debug, Default)]
pub(super) struct Written(Vec<(PathBuf, String)>);

impl Written {
    /// Puts everything back.
    pub(super) fn undo(self) {
        for (file, before) in self.0.into_iter().rev() {
            if let Err(e) = write(&file, &before) {
                tracing::warn!("{} keeps what a failed change wrote: {e}", file.display());
            }
        }
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

    /// Makes the controllers' files say what the limits of `next` are, which remember what was there.
    ///
    /// # Errors
    /// EINVAL for what a controller does not hold, ENOENT where it is not enabled; what was written is
    /// put back then.
    pub(super) fn write_controllers(&self, next: &mut Limits) -> Result<Written> {
        let mut written = Written::default();
        match self.write_files(next, &mut written) {
            Ok(()) => Ok(written),
            Err(e) => {
                written.undo();
                Err(e)
            }
        }
    }

    fn write_files(&self, next: &mut Limits, written: &mut Written) -> Result<()> {
        let before = self.settings(&self.config.limits)?;
        let after = self.settings(next)?;
        for (place, old) in before
            .iter()
            .filter(|(place, _)| !after.contains_key(*place))
        {
            self.lift(place, old, written)?;
        }
        for (place, new) in &after {
            let known = before.get(place);
            if known.is_some_and(|old| old.set == new.set) {
                continue;
            }
            let held = hold(place, new, known.and_then(|k| k.held.as_ref()), written)
                .map_err(|e| self.refused("hold", place, new, &e))?;
            if let Some(limit) = next.limits.get_mut(&new.id) {
                limit.held = Some(held);
            }
        }
        Ok(())
    }

    /// Puts back what was in the controllers' files, as far as that can be done.
    ///
    /// # Errors
    /// The first that could not.
    pub(super) fn lift_controllers(&self) -> Result<()> {
        let mut lifted = Ok(());
        for (place, old) in self.settings(&self.config.limits)? {
            lifted = lifted.and(self.lift(&place, &old, &mut Written::default()));
        }
        lifted
    }

    /// Puts back what was there before a limit. A cgroup that is gone needs no lifting.
    fn lift(&self, place: &Place, old: &Kept, written: &mut Written) -> Result<()> {
        match lift(place, old, written) {
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
fn lift(place: &Place, old: &Kept, written: &mut Written) -> io::Result<()> {
    let (file, _) = place;
    let says = old.present(place)?;
    let Some(held) = old.held.as_ref().filter(|h| h.says == says) else {
        tracing::warn!(
            "{} says `{says}`, which limit {} did not write: it is left so",
            file.display(),
            old.id
        );
        return Ok(());
    };
    write(file, &held.before)?;
    written.0.push((file.clone(), says));
    Ok(())
}

/// Writes a limit; what was there before any of ours, and what is.
fn hold(
    place: &Place,
    new: &Kept,
    known: Option<&Held>,
    written: &mut Written,
) -> io::Result<Held> {
    let (file, lift) = place;
    let there = new.present(place)?;
    let ours = known.filter(|h| h.says == there);
    write(file, &new.set)?;
    written.0.push((file.clone(), there.clone()));
    let says = new.present(place)?;
    let before = match ours {
        Some(held) => held.before.clone(),
        // A change that was killed had got so far.
        None if there == says => lift.clone(),
        None => there,
    };
    Ok(Held { before, says })
}

/// Writes a file that is there: what creates one is told EACCES where there is none.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(file)?;
    file.write_all(text.as_bytes())
}
