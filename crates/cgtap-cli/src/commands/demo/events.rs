//! What the demo counts.

use cgtap::engine::{CgroupRef, Engine, Error, ErrorKind, Stat, StatRequest};
use cgtap::hook::HookSpec;

use crate::failure::Failure;

/// An event that the demo counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// System calls.
    Calls,
    /// Calls of `write`.
    Writes,
    /// Processes started.
    Forks,
    /// Block I/O submitted.
    BlockIo,
    /// Times that a task went off a CPU.
    Switches,
}

impl Event {
    /// All of them. Every kind of hook is among them.
    pub const ALL: [Self; 5] = [
        Self::Calls,
        Self::Writes,
        Self::Forks,
        Self::BlockIo,
        Self::Switches,
    ];

    /// Where it is counted.
    pub fn hook(self) -> &'static str {
        match self {
            Self::Calls => "raw_tracepoint:sys_enter",
            Self::Writes => "tracepoint:syscalls/sys_enter_write",
            Self::Forks => "tracepoint:sched/sched_process_fork",
            Self::BlockIo => "tracepoint:block/block_bio_queue",
            Self::Switches => "tp_btf:sched_switch",
        }
    }

    /// What it is, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Calls => "system calls",
            Self::Writes => "writes",
            Self::Forks => "forks",
            Self::BlockIo => "block I/O",
            Self::Switches => "switches",
        }
    }

    /// The same as the title of a column.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Calls => "SYSCALLS",
            Self::Writes => "WRITES",
            Self::Forks => "FORKS",
            Self::BlockIo => "BLOCK I/O",
            Self::Switches => "SWITCHES",
        }
    }

    fn spec(self) -> Result<HookSpec, Failure> {
        self.hook()
            .parse()
            .map_err(|e: cgtap::hook::SpecError| Failure::Bad(e.to_string()))
    }
}

/// Starts counting `events` in `cgroup`.
///
/// # Errors
/// The engine's.
pub fn count(
    engine: &Engine,
    cgroup: CgroupRef,
    events: &[Event],
    per_cgroup: bool,
) -> Result<Stat, Failure> {
    let events: Result<_, _> = events
        .iter()
        .map(|event| event.spec().map(Into::into))
        .collect();
    Ok(engine.stat(StatRequest {
        cgroups: vec![cgroup],
        events: events?,
        per_cgroup,
        depth: None,
    })?)
}

/// Starts counting all events that this kernel has in `cgroup`, and says which, and why it does
/// not have the others.
///
/// # Errors
/// The engine's, if it is about anything but the hook, or if none is left.
pub fn count_all(
    engine: &Engine,
    cgroup: &CgroupRef,
    per_cgroup: bool,
) -> Result<(Stat, Vec<Event>, Vec<String>), Failure> {
    let mut there = Event::ALL.to_vec();
    let mut missing = Vec::new();
    loop {
        match count(engine, cgroup.clone(), &there, per_cgroup) {
            Ok(stat) if !there.is_empty() => return Ok((stat, there, missing)),
            Err(Failure::Engine(error)) if is_about_hook(&error) && missing.is_empty() => {}
            Err(other) => return Err(other),
            Ok(_) => {
                return Err(Failure::Unsupported(
                    "this kernel has none of the tracepoints that the demo counts".to_owned(),
                ));
            }
        }
        // The error names one of them; which others are missing too only trying can tell.
        there.clear();
        for event in Event::ALL {
            match count(engine, cgroup.clone(), &[event], false) {
                Ok(_) => there.push(event),
                Err(Failure::Engine(error)) if is_about_hook(&error) => {
                    missing.push(error.to_string());
                }
                Err(other) => return Err(other),
            }
        }
    }
}

fn is_about_hook(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Hook | ErrorKind::NotFound | ErrorKind::Unsupported
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_hook() {
        for event in Event::ALL {
            assert_eq!(event.spec().unwrap().to_string(), event.hook());
        }
    }
}
