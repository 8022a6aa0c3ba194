//! Who reads for limits, again and again: what was used is charged to them when it is read, and not before.

use super::super::error::Result;
use super::super::follow;
use super::super::session::Session;
use super::super::{Engine, Lock};
use super::limits;

/// Reads what limits are on, and follows the files of hooks, as often as it is told to. Any number of
/// them charge what is new once.
#[derive(Debug)]
pub struct Reader {
    engine: Engine,
    /// The record that was looked at last, by its inode.
    seen: Option<u64>,
    /// It has limits on what is read.
    has_limits: bool,
    /// It has hooks that follow files.
    follows: bool,
}

impl Engine {
    /// Somebody who reads for limits.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            engine: self.clone(),
            seen: None,
            has_limits: false,
            follows: false,
        }
    }
}

impl Reader {
    /// Reads once and charges what is new; what could not be read, in words. None if no limit is on
    /// anything that is read and no hook follows files, which costs no more than looking whether the record is
    /// still the same.
    ///
    /// # Errors
    /// [`Error`](super::super::Error): a state that cannot be read.
    pub fn step(&mut self) -> Result<Option<Vec<String>>> {
        let inode = self.engine.record();
        let open = |lock| Session::open(self.engine.state(), lock, self.engine.hierarchy()?);
        if inode != self.seen {
            // Whether there is anything to be done is looked at without keeping others out.
            let session = open(Lock::Shared)?;
            let session = session.as_ref();
            self.has_limits = session.is_some_and(|s| limits(s).next().is_some());
            self.follows = session.is_some_and(follow::is_wanted);
            self.seen = inode;
        }
        if !self.has_limits && !self.follows {
            return Ok(None);
        }
        let mut unread = Vec::new();
        if self.follows {
            unread = self.engine.follow();
        }
        if self.has_limits
            && let Some(session) = open(Lock::Exclusive)?
        {
            unread.extend(session.feed_limits());
        }
        Ok(Some(unread))
    }
}
