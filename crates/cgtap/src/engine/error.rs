//! What can go wrong, in words: what was asked, what the kernel said, what to do now.

use cgtap_sys::Errno;

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

/// A result of the engine.
pub type Result<T> = std::result::Result<T, Error>;
