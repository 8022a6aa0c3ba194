//! The façade: open a state, attach, detach, query.
//!
//! There is no daemon. Every call takes the state's lock, reads it, changes it and leaves it
//! whole; what is attached works on with no process alive.

mod error;
mod report;
mod request;

pub use error::{Error, ErrorKind, Result};
pub use report::*;
pub use request::*;

use crate::id::{AttachmentId, InstanceId};

/// An opened state.
#[derive(Debug)]
pub struct Engine {
    options: Options,
}

impl Engine {
    /// Opens the state; it is made by the first attach.
    pub fn open(options: Options) -> Result<Self> {
        Ok(Self { options })
    }
    pub fn attach(&self, _request: AttachRequest) -> Result<AttachReport> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    pub fn detach(&self, _what: &Detach) -> Result<DetachReport> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    pub fn replace(&self, _request: ReplaceRequest) -> Result<AttachReport> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    pub fn list(&self, _request: &ListRequest) -> Result<Vec<ListReport>> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    pub fn tree(&self, _root: Option<&CgroupRef>) -> Result<TreeReport> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    pub fn maps(&self, _instance: Option<InstanceId>) -> Result<Vec<InstanceReport>> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    pub fn storage(&self, _attachment: AttachmentId) -> Result<StorageReport> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    pub fn doctor(&self, _repair: bool) -> Result<DoctorReport> {
        let _ = &self.options;
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    /// Starts counting; the counters go with the returned value (and with this process).
    pub fn stat(&self, _request: StatRequest) -> Result<Stat<'_>> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    /// Mount point of cgroup2 that paths are relative to.
    pub fn cgroup_root(&self) -> Result<std::path::PathBuf> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
}

/// Counting that is under way.
#[derive(Debug)]
pub struct Stat<'a> {
    _engine: &'a Engine,
}
impl Stat<'_> {
    /// Counts since the start, or since the last call of it.
    pub fn read(&self) -> Result<StatReport> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
    /// Stops counting and returns the last counts.
    pub fn finish(self) -> Result<StatReport> {
        Err(Error::new(ErrorKind::Kernel, "x"))
    }
}
