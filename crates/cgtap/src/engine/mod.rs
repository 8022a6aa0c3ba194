//! The façade: open a state, attach, detach, query.
//!
//! There is no daemon. Every call takes the state's lock, reads it, changes it and leaves it
//! whole; what is attached works on with no process alive.

mod apply;
mod attach;
mod detach;
mod doctor;
mod error;
mod feed;
mod follow;
mod foundation;
mod instance;
mod limit;
mod link;
mod meter;
mod owner;
mod query;
mod repair;
mod replace;
mod report;
mod request;
mod session;
mod stand;
mod stat;
mod usage;
mod workshop;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::{Error, ErrorKind, Result};
pub use feed::Reader;
pub use limit::{
    DenialReport, Denials, Explained, LimitChange, LimitReport, LimitRequest, Paced, Pacer,
    PatternReport, PatternRequest, show_action, signal_name, signal_number,
};
pub use link::Link;
pub use report::*;
pub use request::*;
pub use stat::Stat;

use crate::cgroup::pattern::{Found, Pattern};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::store::dir::Lock;
use crate::store::pins;

/// A state, by its directory. Nothing is held open between calls, so any number of these may work
/// on one state at once.
///
/// ```no_run
/// use cgtap::engine::{AttachRequest, CgroupRef, Detach, Engine, ObjectSource, Options};
///
/// # fn main() -> cgtap::engine::Result<()> {
/// let engine = Engine::open(Options::default())?;
/// let object = ObjectSource::File { path: "trace_io.bpf.o".into(), set: Vec::new() };
/// let report = engine.attach(AttachRequest::new(CgroupRef::Path("/tenants/a".into()), object))?;
/// let ids = report.attachments.iter().map(|a| a.id).collect();
/// engine.detach(&Detach::Ids(ids))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    options: Options,
    pace: Arc<follow::Pace>,
}

impl Engine {
    /// Takes the options; the state is made by the first attach.
    ///
    /// # Errors
    /// None yet; what is wrong with the state or the hierarchy is said by the call that needs it.
    pub fn open(options: Options) -> Result<Self> {
        Ok(Self {
            options,
            pace: Arc::default(),
        })
    }

    /// The state's directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.options.state
    }

    /// The inode of the record that there is: each change makes another. None where there is no state.
    fn record(&self) -> Option<u64> {
        let record = std::fs::metadata(self.state().join(pins::CONFIG));
        record.ok().map(|m| m.ino())
    }

    /// Mount point of the cgroup2 hierarchy that paths are below.
    ///
    /// # Errors
    /// [`Error`] if none is mounted.
    pub fn cgroup_root(&self) -> Result<PathBuf> {
        Ok(self.hierarchy()?.root().to_owned())
    }

    /// A cgroup that exists.
    ///
    /// # Errors
    /// [`Error`] if it does not.
    pub fn cgroup(&self, cgroup: &CgroupRef) -> Result<Cgroup> {
        find_cgroup(&self.hierarchy()?, cgroup)
    }

    /// The cgroups that a pattern matches now, by path.
    ///
    /// # Errors
    /// [`Error`] if no hierarchy is mounted.
    pub fn matching(&self, pattern: &Pattern) -> Result<Vec<Found>> {
        Ok(pattern.matching(&self.hierarchy()?))
    }

    fn hierarchy(&self) -> Result<Hierarchy> {
        Ok(Hierarchy::open(self.options.cgroup_root.as_deref())?)
    }
}

fn find_cgroup(hierarchy: &Hierarchy, reference: &CgroupRef) -> Result<Cgroup> {
    Ok(match reference {
        CgroupRef::Path(path) => hierarchy.by_path(path)?,
        CgroupRef::Id(id) => hierarchy.by_id(*id)?,
        CgroupRef::Named(kind, name) => hierarchy.by_name(*kind, name)?,
        CgroupRef::Pid(pid) => hierarchy.by_pid(*pid)?,
    })
}
