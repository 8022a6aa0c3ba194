//! Processes that attachments go with, and their gates.
//!
//! A process may be killed at any moment, and nobody of ours need be alive to notice: a program at
//! `sched_process_exit` sets the gate of the process, a word that its attachments read before
//! anything else. The next command detaches them.
//!
//! Processes are recorded by the kernel's own numbers. Who runs in a container, with a /proc that does not have
//! them, goes by the gates alone.

use std::collections::{BTreeMap, BTreeSet};

use cgtap_sys::bpf::{get_map, pin};
use cgtap_sys::libbpf::Btf;
use cgtap_sys::memory::Words;
use cgtap_sys::{Errno, SysError};

use super::error::{Error, ErrorKind, Result};
use super::foundation::attach_watcher;
use super::session::Session;
use crate::dispatch::reaper::{self, GATES_MAX};
use crate::id::AttachmentId;
use crate::kernel::pid;
use crate::store::config::{Config, Owner};
use crate::store::pins;

impl Session {
    /// The gate of this process: the one it has, or a fresh one, open.
    pub(super) fn gate_for_this_process(&self, next: &Config) -> Result<Owner> {
        let sys = |e: SysError| Error::sys("open the gate of this process", &e);
        let pid = pid::own().map_err(sys)?;
        let start_ticks = start_ticks("self").unwrap_or_default();
        let same = |o: &&Owner| o.pid == pid && o.start_ticks == start_ticks;
        if let Some(owner) = next.owners.values().find(same) {
            return Ok(*owner);
        }
        let used: BTreeSet<u16> = next.owners.values().map(|o| o.gate).collect();
        let gate = (0..GATES_MAX).find(|g| !used.contains(g)).ok_or_else(|| {
            Error::new(
                ErrorKind::Full,
                format!("{GATES_MAX} processes hold attachments; no other can"),
            )
            .with_errno(Errno::ENOSPC)
        })?;
        let gates = get_map(&self.path(pins::GATES)).map_err(sys)?;
        Words::map(&gates).map_err(sys)?.set(usize::from(gate), 0);
        Ok(Owner {
            pid,
            start_ticks,
            gate,
        })
    }

    /// Attachments whose processes run no more.
    pub(super) fn orphans(&self) -> Result<Vec<AttachmentId>> {
        let owners = self.config.owners.iter();
        if self.config.owners.is_empty() || pid::are_the_kernels() {
            let gone = owners.filter(|(_, owner)| !is_alive(**owner));
            return Ok(gone.map(|(id, _)| *id).collect());
        }
        let sys = |e: SysError| Error::sys("read the gates of processes", &e);
        let gates = get_map(&self.path(pins::GATES)).map_err(sys)?;
        let gates = Words::map(&gates).map_err(sys)?;
        let gone = owners.filter(|(_, owner)| gates.get(usize::from(owner.gate)) != 0);
        Ok(gone.map(|(id, _)| *id).collect())
    }

    /// Tells the program at sched_process_exit whom to look for; attaches it if there are such processes.
    pub(super) fn watch_owners(&self, config: &Config) -> Result<()> {
        let sys = |e: SysError| Error::sys("watch the processes that hold attachments", &e);
        let owners = get_map(&self.path(pins::OWNERS)).map_err(sys)?;
        let wanted: BTreeMap<u32, u16> = config.owners.values().map(|o| (o.pid, o.gate)).collect();
        for (pid, gate) in &wanted {
            owners
                .update(&pid.to_ne_bytes(), &u32::from(*gate).to_ne_bytes())
                .map_err(sys)?;
        }
        let link = self.path(pins::UNDERTAKER);
        if wanted.is_empty() || link.exists() {
            return Ok(());
        }
        let btf = Btf::vmlinux().map_err(|e| {
            Error::new(
                ErrorKind::Unsupported,
                format!("cannot read this kernel's BTF: {e}"),
            )
        })?;
        let gates = get_map(&self.path(pins::GATES)).map_err(sys)?;
        let insns = reaper::generate_for_processes(&config.layout);
        let attached = attach_watcher(&btf, "sched_process_exit", insns, &[&owners, &gates])?;
        pin(&attached, &link).map_err(sys)
    }

    /// No longer looks for the processes that hold nothing any more by the record. It comes after the record: one
    /// that is killed while it gives up what it holds either holds it still, and is looked for, or does not.
    pub(super) fn unwatch_owners(&self) -> Result<()> {
        let sys = |e: SysError| Error::sys("forget a process that held attachments", &e);
        let owners = get_map(&self.path(pins::OWNERS)).map_err(sys)?;
        let keys = self.config.owners.values().map(|o| o.pid.to_ne_bytes());
        let wanted: BTreeSet<[u8; 4]> = keys.collect();
        for key in owners.keys().map_err(sys)? {
            if !<[u8; 4]>::try_from(&key[..]).is_ok_and(|pid| wanted.contains(&pid)) {
                owners.delete(&key).map_err(sys)?;
            }
        }
        Ok(())
    }
}

/// The process still runs. A pid that was given again is another process: its start differs.
fn is_alive(owner: Owner) -> bool {
    start_ticks(&owner.pid.to_string()) == Some(owner.start_ticks)
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)): the start in clock ticks since boot; `None` for
/// a process that is gone or a zombie.
fn start_ticks(pid: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_start_is_another_process() {
        let pid = std::process::id();
        let me = Owner {
            pid,
            start_ticks: start_ticks("self").unwrap(),
            gate: 0,
        };
        assert!(is_alive(me));
        assert!(!is_alive(Owner {
            start_ticks: me.start_ticks + 1,
            ..me
        }));
    }
}
