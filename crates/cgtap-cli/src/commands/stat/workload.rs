//! The command around which is counted.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgtap_sys::Errno;
use cgtap_sys::spawn::{Spawned, spawn_in_cgroup};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use signal_hook::consts::SIGINT;

use super::home::Home;
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// How often it is looked whether a signal has come: one can come just before the waiting begins.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// How long a command may take to end after Ctrl-C, which the terminal sends to it too, and after
/// the signal that follows.
const GRACE: Duration = Duration::from_secs(2);

/// A command that can be started.
#[derive(Debug)]
pub struct Workload {
    program: PathBuf,
    words: Vec<OsString>,
}

/// A command that was started.
#[derive(Debug)]
pub struct Running {
    pidfd: OwnedFd,
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself or by a signal of others, with the exit status that a shell would see.
    Status(u8),
    /// Because we were asked to end.
    Interrupted,
}

impl Workload {
    /// Finds the program of `words` as a shell does.
    ///
    /// # Errors
    /// [`Failure::System`] where there is no such program.
    pub fn find(words: &[OsString]) -> Result<Self, Failure> {
        let name = words
            .first()
            .map_or_else(|| OsStr::new(""), |w| w.as_os_str());
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let program = find(name, &path).map_err(|errno| {
            let name = name.to_string_lossy();
            Failure::system(format!("cannot run `{name}`"), errno)
        })?;
        Ok(Self {
            program,
            words: words.to_vec(),
        })
    }

    /// Starts it inside `home`: nothing of it runs outside, and nothing but it inside.
    ///
    /// # Errors
    /// [`Failure::System`] where the kernel does not run it.
    pub fn start_in(&self, home: &Home) -> Result<Running, Failure> {
        let program = c_string(self.program.as_os_str())?;
        let words = self
            .words
            .iter()
            .map(|w| c_string(w))
            .collect::<Result<Vec<_>, _>>()?;
        let environment = std::env::vars_os()
            .map(|(mut variable, value)| {
                variable.push("=");
                variable.push(value);
                c_string(&variable)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let spawned = spawn_in_cgroup(home.directory(), &program, &words, &environment);
        let Spawned { pidfd, .. } = spawned.map_err(|e| {
            let what = match e.call {
                "execve" => format!("cannot run {}", self.program.display()),
                call => format!(
                    "cannot start a process in {}: {call}",
                    home.path().display()
                ),
            };
            Failure::system(what, io::Error::from_raw_os_error(e.errno.0))
        })?;
        Ok(Running { pidfd })
    }

    /// Starts it where we are.
    ///
    /// # Errors
    /// [`Failure::System`] where the kernel does not run it.
    pub fn start(&self) -> Result<Running, Failure> {
        use std::os::unix::process::CommandExt;
        let cannot =
            |e: io::Error| Failure::system(format!("cannot run {}", self.program.display()), e);
        let mut words = self.words.iter();
        let mut command = std::process::Command::new(&self.program);
        if let Some(name) = words.next() {
            command.arg0(name);
        }
        let mut child = command.args(words).spawn().map_err(cannot)?;
        // Its number is its own until it is waited for, which nobody has done.
        let opened = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(rustix::io::Errno::OVERFLOW)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match opened {
            Ok(pidfd) => Ok(Running { pidfd }),
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(cannot(errno.into()))
            }
        }
    }
}

impl Running {
    /// Waits until the command has ended. If we are asked to end before: until it has had the
    /// time to, and then no longer.
    ///
    /// # Errors
    /// [`Failure::System`] where the kernel cannot say.
    pub fn wait(&mut self, interrupt: &Interrupt) -> Result<Ended, Failure> {
        let cannot = |e: rustix::io::Errno| Failure::system("cannot wait for the command", e);
        while !interrupt.requested() {
            if self.has_ended(GLANCE).map_err(cannot)? {
                let status = self.status().map_err(cannot)?;
                return Ok(Ended::Status(status));
            }
        }
        // The terminal has sent Ctrl-C to both. All else was sent to us alone.
        if interrupt.signal() != Some(SIGINT) || !self.ends_soon().map_err(cannot)? {
            let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
            self.ends_soon().map_err(cannot)?;
        }
        Ok(Ended::Interrupted)
    }

    fn ends_soon(&self) -> Result<bool, rustix::io::Errno> {
        let end = Instant::now() + GRACE;
        loop {
            if self.has_ended(GLANCE)? {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
        }
    }

    fn has_ended(&self, within: Timespec) -> Result<bool, rustix::io::Errno> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&within)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// The exit status of the command, which has ended.
    fn status(&self) -> Result<u8, rustix::io::Errno> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok(ended) => {
                    let status = ended.and_then(|e| {
                        let signal = e.terminating_signal().map(|signal| 128 + signal);
                        signal.or(e.exit_status())
                    });
                    return Ok(status.and_then(|s| u8::try_from(s).ok()).unwrap_or(1));
                }
            }
        }
    }
}

/// The file that `name` runs, looked for in the directories of `path`.
fn find(name: &OsStr, path: &OsStr) -> Result<PathBuf, io::Error> {
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let mut errno = Errno::ENOENT;
    for directory in std::env::split_paths(path) {
        // An empty entry is the working directory.
        let candidate = Path::new(".").join(directory).join(name);
        if name.is_empty() || !candidate.is_file() {
            continue;
        }
        if access(&candidate, Access::EXEC_OK).is_ok() {
            return Ok(candidate);
        }
        errno = Errno::EACCES;
    }
    Err(io::Error::from_raw_os_error(errno.0))
}

fn c_string(text: &OsStr) -> Result<CString, Failure> {
    CString::new(text.to_owned().into_vec())
        .map_err(|_| Failure::Usage("a word of the command has a NUL in it".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Ended {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        let mut running = Workload::find(&words).unwrap().start().unwrap();
        running.wait(&Interrupt::default()).unwrap()
    }

    #[test]
    fn the_status_of_the_command_is_told() {
        assert_eq!(run(&["true"]), Ended::Status(0));
        assert_eq!(run(&["sh", "-c", "exit 7"]), Ended::Status(7));
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]), Ended::Status(137));
    }

    #[test]
    fn a_program_is_looked_for_as_a_shell_does() {
        let find = |name: &str, path: &str| {
            find(OsStr::new(name), OsStr::new(path)).map_err(|e| e.raw_os_error())
        };
        assert_eq!(find("sh", "/nowhere:/bin"), Ok(PathBuf::from("/bin/sh")));
        assert_eq!(find("./x/y", "/bin"), Ok(PathBuf::from("./x/y")));
        assert_eq!(find("no-such-program", "/bin"), Err(Some(2)));
        assert_eq!(find("passwd", "/etc"), Err(Some(13)));
        assert_eq!(find("", "/bin"), Err(Some(2)));
    }

    #[test]
    fn what_cannot_be_run_is_an_error_with_its_errno() {
        let failure = Workload::find(&["no-such-program".into()]).unwrap_err();
        assert_eq!(failure.errno().unwrap(), "ENOENT");
        assert_eq!(failure.message(), "cannot run `no-such-program`");
        let failure = Workload::find(&["/no/such".into()]).unwrap().start();
        assert_eq!(failure.unwrap_err().errno().unwrap(), "ENOENT");
    }
}
