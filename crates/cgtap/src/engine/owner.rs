//! Processes that attachments go with, and their gates.
//!
//! A process may be killed at any moment, and nobody of ours need be alive to notice: a program at
//! `sched_process_exit` sets the gate of the process, a word that its attachments read before
//! anything else. The next command detaches them.
//!
//! Processes are recorded by the kernel's own numbers. Who runs in a container, with a /proc that does not have
//! them, goes by the gates alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirEntry;
use std::path::{Path, PathBuf};

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
/// a process that is gone, or of which no thread runs any more.
fn start_ticks(pid: &str) -> Option<u64> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let (is_running, start) = task(&dir)?;
    // Its first thread may have ended before the others (pthread_exit(3) in main).
    let mut others = std::fs::read_dir(dir.join("task")).into_iter().flatten();
    let runs = |entry: std::io::Result<DirEntry>| Some(task(&entry.ok()?.path())?.0);
    let is_alive = is_running || others.any(|entry| runs(entry) == Some(true));
    is_alive.then_some(start)
}

/// Whether a task runs still, and its start, by its directory in /proc.
fn task(dir: &Path) -> Option<(bool, u64)> {
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let is_running = !matches!(fields.next()?, "Z" | "X");
    Some((is_running, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

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

    #[test]
    fn a_process_lives_while_one_of_its_threads_does() {
        const PROGRAM: &str = "#include <pthread.h>\n#include <unistd.h>\n\
            static void *other(void *none) { usleep(300000); write(1, \"x\", 1); pause(); return none; }\n\
            int main(void) { pthread_t thread; pthread_create(&thread, 0, other, 0); pthread_exit(0); }\n";
        let dir = tempfile::tempdir().unwrap();
        let (source, program) = (dir.path().join("a.c"), dir.path().join("a"));
        std::fs::write(&source, PROGRAM).unwrap();
        let mut cc = Command::new("cc");
        let status = cc
            .arg("-pthread")
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .status();
        assert!(status.unwrap().success());
        let mut child = Command::new(&program)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut byte)
            .unwrap();
        let pid = child.id().to_string();
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let first = task(&dir).unwrap();
        let alive = start_ticks(&pid);
        child.kill().unwrap();
        // Nobody has waited for it yet.
        let end = Instant::now() + Duration::from_secs(30);
        while start_ticks(&pid).is_some() {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert_eq!((first.0, alive), (false, Some(first.1)));
    }
}
