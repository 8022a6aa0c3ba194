//! Work that may crash, done in a child process.
//!
//! libbpf trusts the ELF files it reads; a malformed one can make it read or write where it must
//! not. The child has the file's consequences, the parent an error message.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::io::Errno as IoErrno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getpid, getppid, getrlimit,
    pidfd_open, pidfd_send_signal, set_parent_process_death_signal, setrlimit, waitid,
};

use super::wire::{Answer, Kind, listen, reply};
use crate::errno::SysError;

/// What a child may use before it is ended.
#[derive(Clone, Copy, Debug)]
pub struct ChildLimits {
    /// Wall-clock time.
    pub timeout: Duration,
    /// CPU time, in seconds.
    pub cpu_s: u64,
    /// Address space beyond what the parent has when it forks, in bytes.
    pub address_space_bytes: u64,
    /// Size of the reply, in bytes.
    pub reply_bytes: usize,
    /// Descriptors in the reply.
    pub reply_fds: usize,
}

impl Default for ChildLimits {
    /// 60 s, 50 s of CPU, 6 GiB (a BPF arena alone may map 4), 256 MiB and 4,096 descriptors.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            cpu_s: 50,
            address_space_bytes: 6 << 30,
            reply_bytes: 256 << 20,
            reply_fds: 4096,
        }
    }
}

/// What a child hands back: bytes, and descriptors in the order it gave them.
pub type Reply = (Vec<u8>, Vec<OwnedFd>);

/// Why there is no [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChildError {
    /// The child could not be started or listened to.
    #[error("cannot run a child process: {0}")]
    System(#[from] SysError),
    /// A signal ended it.
    #[error("the child process died of {name}", name = signal_name(*signal))]
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It ended without a reply.
    #[error("the child process ended with status {status} and no answer")]
    NoAnswer {
        /// Its exit status.
        status: i32,
    },
    /// It took longer than its limit and was killed.
    #[error("the child process was killed after {} s without an answer", after.as_secs())]
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// The function returned this error.
    #[error("the child process reported an error")]
    Failed(Vec<u8>),
    /// The function panicked with this message.
    #[error("the child process panicked: {0}")]
    Panicked(String),
    /// The reply breaks the protocol or a limit.
    #[error("the child process answered with nonsense: {0}")]
    Protocol(&'static str),
}

/// The name of a signal that ends processes, or `signal N`.
#[must_use]
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV (a memory fault)",
        libc::SIGBUS => "SIGBUS (a memory fault)",
        libc::SIGABRT => "SIGABRT (a failed self-check)",
        libc::SIGFPE => "SIGFPE (an arithmetic fault)",
        libc::SIGILL => "SIGILL (an illegal instruction)",
        libc::SIGXCPU => "SIGXCPU (out of CPU time)",
        libc::SIGKILL => "SIGKILL (killed, perhaps for lack of memory)",
        libc::SIGTERM => "SIGTERM",
        libc::SIGSYS => "SIGSYS (a forbidden system call)",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// Runs `f` in a forked child under `limits` and returns what it returned. The caller waits; the
/// child dies with the calling thread.
///
/// `f` sees a copy of the parent's memory; what it changes is lost. Only its own thread exists
/// there: it must not wait for another, nor take a lock that another may hold. Standard input,
/// output and error are /dev/null.
///
/// # Errors
/// [`ChildError`]; never a crash or a panic of the parent.
pub fn run_in_child<F>(f: F, limits: &ChildLimits) -> Result<Reply, ChildError>
where
    F: FnOnce() -> Result<Reply, Vec<u8>>,
{
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| system("socketpair", e))?;
    let address_space = used_address_space().saturating_add(limits.address_space_bytes);
    let parent = getpid();
    // SAFETY: the child continues with a copy of this thread alone. It runs only `child`, which
    // never returns: `f`'s panics are caught and it leaves by `_exit`, so no destructor or exit
    // handler of the parent runs twice. Locks that other threads held stay locked in it: those of
    // malloc are made usable again by fork itself (glibc, and musl since 1.2.2), the others are
    // for `f` to keep clear of, and one that does not is ended by the timeout.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(ours);
        child(f, theirs, parent, limits.cpu_s, address_space);
    }
    let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
        return Err(SysError::last("fork").into());
    };
    drop(theirs);
    // Until it is waited for, the number cannot belong to another process.
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(e) => {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            return Err(system("pidfd_open", e));
        }
    };
    let answer = listen(ours.as_fd(), pidfd.as_fd(), limits);
    if !matches!(answer, Ok(Answer::Ended)) {
        // Whole answer, nonsense or silence: it has no more to do.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    let ended = loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(IoErrno::INTR) => {}
            // A parent that ignores SIGCHLD has nothing to wait for.
            Err(_) => break None,
            Ok(status) => break status,
        }
    };
    match answer? {
        Answer::Reply(Kind::Done, bytes, fds) => Ok((bytes, fds)),
        Answer::Reply(Kind::Failed, bytes, _) => Err(ChildError::Failed(bytes)),
        Answer::Reply(Kind::Panicked, bytes, _) => Err(ChildError::Panicked(
            String::from_utf8_lossy(&bytes).into_owned(),
        )),
        Answer::Ended => Err(match ended.as_ref().and_then(|s| s.terminating_signal()) {
            Some(signal) => ChildError::Signal { signal },
            None => ChildError::NoAnswer {
                status: ended.and_then(|s| s.exit_status()).unwrap_or(-1),
            },
        }),
    }
}

pub(super) fn system(call: &'static str, errno: IoErrno) -> ChildError {
    ChildError::System(SysError {
        call,
        errno: errno.into(),
    })
}

/// Address space of this process in bytes; a limit below it would fail every allocation.
fn used_address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or(1 << 20);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// The child's whole life.
fn child<F>(f: F, socket: OwnedFd, parent: Pid, cpu_s: u64, address_space: u64) -> !
where
    F: FnOnce() -> Result<Reply, Vec<u8>>,
{
    // Below 3 it would be replaced with the standard descriptors.
    let socket = rustix::io::fcntl_dupfd_cloexec(&socket, 3).unwrap_or(socket);
    let result = catch_unwind(AssertUnwindSafe(|| {
        confine(parent, cpu_s, address_space);
        f()
    }));
    let (kind, bytes, fds) = match result {
        Ok(Ok((bytes, fds))) => (Kind::Done, bytes, fds),
        Ok(Err(bytes)) => (Kind::Failed, bytes, Vec::new()),
        Err(panic) => (
            Kind::Panicked,
            panic_text(panic.as_ref()).into_bytes(),
            Vec::new(),
        ),
    };
    // If the parent is gone there is nobody to tell.
    let _ = reply(socket.as_fd(), kind, &bytes, &fds);
    // SAFETY: ends the process at once; nothing of the parent's is flushed or run.
    unsafe { libc::_exit(0) }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

fn confine(parent: Pid, cpu_s: u64, address_space: u64) {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if getppid() != Some(parent) {
        // The parent died before the line above: nobody would end us.
        // SAFETY: as in `child`.
        unsafe { libc::_exit(0) }
    }
    // Crashes are expected: no handler of the parent's (Rust's own prints at stack overflow) and
    // no core file. Ctrl-C reaches the whole group; what it means is for the parent to say.
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGABRT,
        libc::SIGTERM,
    ] {
        // SAFETY: sets the default action, no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP] {
        // SAFETY: sets "ignore", no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    limit(Resource::Core, 0, 0);
    limit(Resource::Cpu, cpu_s, cpu_s.saturating_add(5));
    limit(Resource::As, address_space, address_space);
    if let Ok(null) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        use std::os::fd::AsRawFd;
        for fd in 0..=2 {
            // SAFETY: replaces the three standard descriptors, which nobody owns.
            unsafe { libc::dup2(null.as_raw_fd(), fd) };
        }
    }
}

/// Lowers a limit, never raises it.
fn limit(resource: Resource, soft: u64, hard: u64) {
    let old = getrlimit(resource);
    let maximum = old.maximum.map_or(hard, |old| old.min(hard));
    let _ = setrlimit(
        resource,
        Rlimit {
            current: Some(soft.min(maximum)),
            maximum: Some(maximum),
        },
    );
}
