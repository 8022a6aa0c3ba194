//! The workers as the demo sees them: started, moved into their cgroups, told to go, watched, and
//! ended whatever happens.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::worker::{self, DONE, GO, READY, Work};
use crate::failure::Failure;

/// How long a worker may take to be ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// A worker process. It is killed with the value.
#[derive(Debug)]
pub struct Worker {
    /// Its cgroup, below the demo's.
    pub cgroup: String,
    /// What it does.
    pub work: Work,
    child: Child,
    socket: UnixStream,
    done: bool,
}

impl Worker {
    /// Starts a worker and moves it into the cgroup at `directory`, where it then waits. When
    /// this returns it is asleep: it makes no further system call until it is told to go.
    ///
    /// # Errors
    /// [`Failure::System`] where it cannot be started or moved, or does not answer.
    pub fn start(work: Work, cgroup: &str, directory: &Path, file: &Path) -> Result<Self, Failure> {
        let cannot = |e| Failure::system("cannot start a worker", e);
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        ours.set_read_timeout(Some(PATIENCE)).map_err(cannot)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(worker::WORD).arg(work.name());
        if work == Work::Files {
            command.arg(file);
        }
        let child = command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C is for the demo, which then ends its workers.
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        let mut worker = Self {
            cgroup: cgroup.to_owned(),
            work,
            child,
            socket: ours,
            done: false,
        };
        // `command` still holds the worker's end, without which its death would not be heard of.
        drop(command);
        worker.hear(READY)?;
        // Before it is moved too: the call in which it sleeps would be counted where others are already.
        worker.await_sleep()?;
        worker.move_into(directory)?;
        Ok(worker)
    }

    fn move_into(&self, directory: &Path) -> Result<(), Failure> {
        let procs = directory.join("cgroup.procs");
        std::fs::write(&procs, self.child.id().to_string())
            .map_err(|e| Failure::system(format!("cannot write {}", procs.display()), e))
    }

    /// Tells it to go.
    ///
    /// # Errors
    /// [`Failure::System`] where it is not there any more.
    pub fn go(&mut self) -> Result<(), Failure> {
        self.socket
            .write_all(&[GO])
            .map_err(|e| Failure::system(self.died(), e))
    }

    /// Whether it has done its work, and sleeps again.
    ///
    /// # Errors
    /// [`Failure::System`] where it has died.
    pub fn is_done(&mut self) -> Result<bool, Failure> {
        if !self.done {
            let cannot = |e| Failure::system("cannot listen to a worker", e);
            self.socket.set_nonblocking(true).map_err(cannot)?;
            let mut word = [0];
            match self.socket.read(&mut word) {
                Ok(1) if word == [DONE] => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(false),
                Err(e) => return Err(Failure::system(self.died(), e)),
                Ok(_) => return Err(Failure::Bad(self.died())),
            }
            self.await_sleep()?;
            self.done = true;
        }
        Ok(true)
    }

    fn hear(&mut self, want: u8) -> Result<(), Failure> {
        let mut word = [0];
        match self.socket.read(&mut word) {
            Ok(1) if word == [want] => Ok(()),
            Ok(_) => Err(Failure::Bad(self.died())),
            Err(e) => Err(Failure::system(self.died(), e)),
        }
    }

    fn died(&self) -> String {
        format!("the worker in {} has ended before its time", self.cgroup)
    }

    /// Returns once it sleeps in the one system call that it was about to make.
    fn await_sleep(&self) -> Result<(), Failure> {
        let path = format!("/proc/{}/stat", self.child.id());
        let end = Instant::now() + PATIENCE;
        loop {
            let stat = std::fs::read_to_string(&path)
                .map_err(|e| Failure::system(format!("cannot read {path}"), e))?;
            if state(&stat) == Some('S') {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Failure::Bad(format!(
                    "the worker in {} does not come to rest",
                    self.cgroup
                )));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The state of a process, from its /proc/PID/stat. The name before it may hold anything.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_stands_behind_the_name() {
        assert_eq!(state("12 (a) R) S 1 2 3"), Some('S'));
        assert_eq!(state("12 (cgtap) R 1 2 3"), Some('R'));
        assert_eq!(state(""), None);
    }
}
