//! Who reads for limits, again and again: what was used is charged to them when it is read, and not before.

use std::os::unix::fs::MetadataExt;

use super::super::error::Result;
use super::super::session::Session;
use super::super::{Engine, Lock};
use super::limits;
use crate::store::pins;

/// Reads what limits are on, as often as it is told to. Any number of them charge what is new once.
#[derive(Debug)]
pub struct Reader {
    engine: Engine,
    /// The record that was looked at last, by its inode.
    seen: Option<u64>,
    /// It has limits on what is read.
    is_wanted: bool,
}

impl Engine {
    /// Somebody who reads for limits.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            engine: self.clone(),
            seen: None,
            is_wanted: false,
        }
    }
}

impl Reader {
    /// Reads once and charges what is new; what could not be read, in words. None if no limit is on
    /// anything that is read, which costs no more than looking whether the record is still the same.
    ///
    /// # Errors
    /// [`Error`](super::super::Error): a state that cannot be read.
    pub fn step(&mut self) -> Result<Option<Vec<String>>> {
        let inode = std::fs::metadata(self.engine.state().join(pins::CONFIG)).map(|m| m.ino());
        let inode = inode.ok();
        if inode == self.seen && !self.is_wanted {
            return Ok(None);
        }
        let open = |lock| Session::open(self.engine.state(), lock, self.engine.hierarchy()?);
        if inode != self.seen {
            // Whether there is anything to be read is looked at without keeping others out.
            self.is_wanted = open(Lock::Shared)?.is_some_and(|s| limits(&s).next().is_some());
            self.seen = inode;
            if !self.is_wanted {
                return Ok(None);
            }
        }
        Ok(open(Lock::Exclusive)?.map(|session| session.feed_limits()))
    }
}
