//! Starting a command inside a cgroup.
//!
//! A process that is started and then moved has run outside for a while, and one that moves
//! itself runs the moving inside: either way its events are not the command's own. `clone3` with
//! `CLONE_INTO_CGROUP` (since 5.7) makes it inside, so that everything from its `execve` on, and
//! nothing else, is the cgroup's.

use std::ffi::{CStr, CString, c_char};
use std::io::{ErrorKind, Read};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::errno::{Errno, SysError};

/// A command that runs.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: Pid,
    /// Its pidfd: readable once it has ended, and what to `waitid` for.
    pub pidfd: OwnedFd,
}

/// `struct clone_args` of linux/sched.h, as far as `cgroup` (`CLONE_ARGS_SIZE_VER2`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts `program` (a path; nothing is searched) with `arguments`, the first of which is the
/// name it sees itself under, and with `environment` (`NAME=value`), inside the cgroup2 directory
/// `cgroup`. It inherits standard input, output and error, the signal mask and what is ignored,
/// but for SIGPIPE, which Rust ignores and commands do not expect to be.
///
/// Its first and only event before the program's own is the `execve`.
///
/// # Errors
/// That of `clone3`: `EBADF` and `ENOENT` for what is no cgroup2 directory or is gone, `EACCES`,
/// `EBUSY` and `EOPNOTSUPP` where the cgroup takes no process; or that of `execve`. Either way
/// nothing runs.
pub fn spawn_in_cgroup(
    cgroup: BorrowedFd<'_>,
    program: &CStr,
    arguments: &[CString],
    environment: &[CString],
) -> Result<Spawned, SysError> {
    let argv = pointers(arguments);
    let envp = pointers(environment);
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| SysError {
        call: "pipe2",
        errno: e.into(),
    })?;
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup: u64::from(cgroup.as_raw_fd().unsigned_abs()),
        ..CloneArgs::default()
    };
    // Set here and not in the child, where it would be one more system call of the command's.
    // SAFETY: SIG_DFL is a valid disposition.
    let sigpipe = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: `args` and what it points to outlive the call. Without CLONE_VM the child goes on
    // with a copy of this thread and of the memory, as after fork. It touches nothing but what
    // was made ready above, by system calls alone, and leaves by `execve` or `_exit`: no lock, no
    // allocation, no destructor.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_mut(&mut args),
            size_of::<CloneArgs>(),
        )
    };
    if pid == 0 {
        // SAFETY: both arrays end in a null pointer and, as the strings in them, live in the
        // copied memory.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let errno = Errno::last().0.to_ne_bytes();
        // SAFETY: writes from an array of four bytes; then ends this process only.
        unsafe {
            libc::write(theirs.as_raw_fd(), errno.as_ptr().cast(), errno.len());
            libc::_exit(127);
        }
    }
    let failed = (pid < 0).then(|| SysError::last("clone3"));
    if sigpipe != libc::SIG_ERR {
        // SAFETY: what stood there before.
        unsafe { libc::signal(libc::SIGPIPE, sigpipe) };
    }
    if let Some(error) = failed {
        return Err(error);
    }
    drop(theirs);
    // SAFETY: the kernel has just opened it for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if let Some(errno) = exec_error(ours) {
        let ended = WaitId::PidFd(pidfd.as_fd());
        while let Err(rustix::io::Errno::INTR) = waitid(ended.clone(), WaitIdOptions::EXITED) {}
        return Err(SysError {
            call: "execve",
            errno,
        });
    }
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(SysError {
            call: "clone3",
            errno: Errno::EOVERFLOW,
        })?;
    Ok(Spawned { pid, pidfd })
}

/// What the child wrote before it ended; nothing where `execve` closed the pipe.
fn exec_error(pipe: OwnedFd) -> Option<Errno> {
    let mut pipe = std::fs::File::from(pipe);
    let mut errno = [0; 4];
    loop {
        match pipe.read(&mut errno) {
            Ok(4) => return Some(Errno(i32::from_ne_bytes(errno))),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([ptr::null()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup_root() -> std::fs::File {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                Some((words.next()?, words.next()?))
            })
            .find(|(_, kind)| *kind == "cgroup2")
            .unwrap()
            .0
            .to_owned();
        std::fs::File::open(root).unwrap()
    }

    fn words(words: &[&str]) -> Vec<CString> {
        words.iter().map(|w| CString::new(*w).unwrap()).collect()
    }

    #[test]
    fn the_command_gets_its_words_and_its_status_comes_back() {
        let spawned = spawn_in_cgroup(
            cgroup_root().as_fd(),
            c"/bin/sh",
            &words(&["sh", "-c", "exit $A"]),
            &words(&["A=7"]),
        )
        .unwrap();
        let status = waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED)
            .unwrap()
            .unwrap();
        assert_eq!(status.exit_status(), Some(7));
    }

    #[test]
    fn what_cannot_be_run_is_an_error_and_leaves_no_process() {
        let error = spawn_in_cgroup(cgroup_root().as_fd(), c"/no/such", &words(&["x"]), &[])
            .map(|s| s.pid)
            .unwrap_err();
        assert_eq!((error.call, error.errno), ("execve", Errno::ENOENT));
    }

    #[test]
    fn what_is_no_cgroup_is_an_error() {
        let file = std::fs::File::open("/tmp").unwrap();
        let error = spawn_in_cgroup(file.as_fd(), c"/bin/true", &words(&["true"]), &[])
            .map(|s| s.pid)
            .unwrap_err();
        assert_eq!((error.call, error.errno), ("clone3", Errno::EBADF));
    }
}
