//! What can go wrong, in words: what was asked, what the kernel said, what to do now.

use cgtap_sys::{Errno, SysError};

use crate::cgroup::CgroupError;
use crate::counter::CounterError;
use crate::kernel::target::TargetError;
use crate::object::ObjectError;
use crate::store::dir::DirError;

/// An error of the engine. Displays as one line that says what was asked, what the kernel said
/// and what to do; [`Error::kind`] and [`Error::errno`] are for programs, [`Error::log`] is the
/// verifier's or libbpf's whole log where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    errno: Option<Errno>,
    message: String,
    log: String,
}

/// What kind of thing went wrong. Its name is the `kind` of JSON errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A rule of attaching forbids it (EPERM, EINVAL, ...).
    Rule,
    /// No such cgroup, attachment, instance, hook or program.
    NotFound,
    /// The cgroup cannot be used: not a cgroup, a v1 one, removed.
    Cgroup,
    /// The object cannot be read.
    Object,
    /// The kernel refuses a program.
    Verifier,
    /// The hook is not there or of the wrong kind.
    Hook,
    /// A capability or permission is missing.
    Permission,
    /// The kernel lacks something.
    Unsupported,
    /// The state is foreign, newer, broken or cannot be written.
    State,
    /// Something is full.
    Full,
    /// The kernel said no to something else.
    Kernel,
}

impl ErrorKind {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::NotFound => "not_found",
            Self::Cgroup => "cgroup",
            Self::Object => "object",
            Self::Verifier => "verifier",
            Self::Hook => "hook",
            Self::Permission => "permission",
            Self::Unsupported => "unsupported",
            Self::State => "state",
            Self::Full => "full",
            Self::Kernel => "kernel",
        }
    }
}

impl Error {
    /// An error of `kind` in words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            errno: None,
            message: message.into(),
            log: String::new(),
        }
    }

    /// With the kernel's answer, which is appended to the words.
    #[must_use]
    pub fn with_errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno);
        self
    }

    /// The same in other words.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// With a log.
    #[must_use]
    pub fn with_log(mut self, log: impl Into<String>) -> Self {
        self.log = log.into();
        self
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The kernel's answer, where there was one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// The verifier's or libbpf's log; empty where there is none.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }
}

/// Words for what the kernel said, by the errno that says it.
fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            "; this needs root, or CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN"
        }
        Errno::ENOMEM => "; the machine or this cgroup is out of memory",
        Errno::ENOSPC => "; bpffs or a table of the kernel is full",
        Errno::EROFS => "; the bpffs is mounted read-only",
        Errno::EMFILE => "; this process has too many open files, raise `ulimit -n`",
        _ => "",
    }
}

impl Error {
    /// The kernel refused a call: `what` says what was asked.
    pub(crate) fn sys(what: impl std::fmt::Display, error: &SysError) -> Self {
        let kind = match error.errno {
            Errno::EPERM | Errno::EACCES => ErrorKind::Permission,
            Errno::ENOSPC | Errno::ENOMEM | Errno::E2BIG => ErrorKind::Full,
            _ => ErrorKind::Kernel,
        };
        let message = format!("cannot {what}: {error}{}", remedy(error.errno));
        Self::new(kind, message).with_errno(error.errno)
    }
}

impl Error {
    /// A hook cannot be had: `asked` says what for, if that is not plain.
    pub(crate) fn target(asked: &str, error: &TargetError) -> Self {
        let kind = match error {
            TargetError::Sys(e) => {
                let what = if asked.is_empty() {
                    "open the hook"
                } else {
                    asked
                };
                return Self::sys(what.trim_start_matches("cannot "), e);
            }
            TargetError::Unsupported { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Hook,
        };
        let message = if asked.is_empty() {
            error.to_string()
        } else {
            format!("{asked}: {error}")
        };
        Self::new(kind, message).with_errno(error.errno())
    }
}

impl From<DirError> for Error {
    fn from(error: DirError) -> Self {
        match &error {
            DirError::Io { source, .. } => {
                let errno = source.raw_os_error().map(Errno);
                let words = errno.map_or("", remedy);
                let made = Self::new(ErrorKind::State, format!("{error}{words}"));
                errno.map_or_else(
                    || Self::new(ErrorKind::State, error.to_string()),
                    |e| made.with_errno(e),
                )
            }
            DirError::Owner { .. } | DirError::Mode { .. } => {
                Self::new(ErrorKind::State, error.to_string()).with_errno(Errno::EPERM)
            }
            _ => Self::new(ErrorKind::State, error.to_string()).with_errno(Errno::EINVAL),
        }
    }
}

impl From<CgroupError> for Error {
    fn from(error: CgroupError) -> Self {
        let made = Self::new(ErrorKind::Cgroup, error.to_string());
        match error.errno() {
            Some(errno) => made.with_errno(errno),
            None => made,
        }
    }
}

impl From<ObjectError> for Error {
    fn from(error: ObjectError) -> Self {
        let kind = match error.errno().map(Errno) {
            _ if error.is_usage() => ErrorKind::NotFound,
            Some(Errno::EPERM | Errno::EACCES) => ErrorKind::Permission,
            _ => ErrorKind::Object,
        };
        let made = Self::new(kind, error.to_string()).with_log(error.log());
        match error.errno() {
            Some(errno) => made.with_errno(Errno(errno)),
            None => made,
        }
    }
}

impl From<TargetError> for Error {
    fn from(error: TargetError) -> Self {
        Self::target("", &error)
    }
}

impl From<CounterError> for Error {
    fn from(error: CounterError) -> Self {
        let words = error.to_string();
        match error {
            CounterError::Sys { what, source } => Self::sys(what, &source),
            CounterError::NoCounter { errno, .. } => {
                Self::new(ErrorKind::Unsupported, words).with_errno(errno)
            }
            CounterError::Load { name, errno, log } => {
                let call = "BPF_PROG_LOAD";
                Self::sys(format!("load {name}"), &SysError { call, errno }).with_log(log)
            }
            CounterError::Tracepoint(error) => TargetError::from(error).into(),
            CounterError::Event(_) => Self::new(ErrorKind::Rule, words).with_errno(Errno::EINVAL),
            CounterError::Generate { .. } | CounterError::Online(_) => {
                Self::new(ErrorKind::Kernel, words)
            }
            CounterError::Btf(_) => Self::new(ErrorKind::Unsupported, words),
        }
    }
}

/// The line of a verifier's log that says what is wrong: the last one that is not about numbers. Newer kernels
/// (7.3) have a report of many lines behind it.
pub(crate) fn verifier_words(log: &str) -> &str {
    let said = log.rsplit_once("\nVerification failed:");
    said.map_or(log, |(said, _)| said)
        .lines()
        .rev()
        .map(str::trim)
        .find(|l| {
            !l.is_empty()
                && !l.starts_with("processed ")
                && !l.starts_with("verification time")
                && !l.starts_with("stack depth")
                && !l.starts_with("peak_states")
        })
        .unwrap_or("")
}

/// A result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_verifier_says_stands_before_numbers_and_reports() {
        let said = "7: (85) call bpf_probe_read_kernel#113\ncannot call it\n";
        let numbers = "processed 8 insns (limit 1000000)\n";
        let report =
            "Verification failed: Policy\nReason:\n  The helper is restricted to\n  programs.\n";
        for log in [
            said.to_owned() + numbers,
            format!("{said}{report}{numbers}"),
        ] {
            assert_eq!(verifier_words(&log), "cannot call it");
        }
        assert_eq!(verifier_words(numbers), "");
    }
}
