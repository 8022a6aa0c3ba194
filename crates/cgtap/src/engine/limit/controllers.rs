//! Limits that controllers of the kernel's hold: their files, written with the change and put back if it
//! fails.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cgtap_sys::Errno;

use super::super::error::{Error, ErrorKind, Result};
use super::super::session::Session;
use crate::id::LimitId;
use crate::limit::controller::{Setting, Wanted};
use crate::limit::record::{Action, Limits};

/// A file and what is in it.
type Files = BTreeMap<(PathBuf, String), (LimitId, String)>;

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
    /// What the limits' controllers are to say: by file and what lifts it.
    fn settings(&self, limits: &Limits) -> Result<Files> {
        let mut files = Files::new();
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
            files.insert((dir.join(file), lift), (*id, set));
        }
        Ok(files)
    }

    /// Makes the controllers' files say what the limits of `next` are.
    ///
    /// # Errors
    /// EINVAL for what a controller does not hold, ENOENT where it is not enabled; what was written is
    /// put back then.
    pub(super) fn write_controllers(&self, next: &Limits) -> Result<Written> {
        let before = self.settings(&self.config.limits)?;
        let after = self.settings(next)?;
        let mut written = Written::default();
        for ((file, lift), (_, old)) in &before {
            if !after.contains_key(&(file.clone(), lift.clone())) {
                // A cgroup that is gone needs no lifting.
                if write(file, lift).is_ok() {
                    written.0.push((file.clone(), old.clone()));
                }
            }
        }
        for ((file, lift), (id, text)) in &after {
            let known = before.get(&(file.clone(), lift.clone()));
            if known.is_some_and(|(_, old)| old == text) {
                continue;
            }
            if let Err(e) = write(file, text) {
                written.undo();
                let errno = e.raw_os_error().map_or(Errno::EIO, Errno);
                let words = format!(
                    "cannot hold limit {id}: writing `{text}` to {}: {e}{}",
                    file.display(),
                    self.remedy(file, &e)
                );
                return Err(Error::new(ErrorKind::Unsupported, words).with_errno(errno));
            }
            let back = known.map_or_else(|| lift.clone(), |(_, old)| old.clone());
            written.0.push((file.clone(), back));
        }
        Ok(written)
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

/// Writes a file that is there: what creates one is told EACCES where there is none.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(file)?;
    file.write_all(text.as_bytes())
}
