//! Why a command did not do what was asked, and the exit status that says so.

use std::io;

use cgtap::engine;
use cgtap_sys::Errno;

use crate::json::{Document, ErrorBody, ErrorDocument};

/// The exit status of a command that did what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// Done.
    pub const DONE: Self = Self(0);
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// The kernel or the state said no.
    Engine(engine::Error),
    /// The words are wrong in a way that the parser does not see.
    Usage(String),
    /// What is asked for cannot be had.
    Unsupported(String),
    /// A file, directory or process could not be used: what was tried, and the kernel's answer.
    System {
        /// What could not be done.
        what: String,
        /// The answer.
        source: io::Error,
    },
    /// The command ran, and its result is bad: it is on standard output, this sums it up.
    Bad(String),
    /// A signal asked for the end.
    Interrupted,
    /// Whoever reads standard output has gone.
    BrokenPipe,
}

impl Failure {
    /// The words of the call are wrong.
    pub const USAGE_STATUS: u8 = 2;
    /// Interrupted.
    pub const INTERRUPTED_STATUS: u8 = 130;

    /// A system call that failed while doing `what`.
    pub fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The same for what usually only root may do.
    pub fn privileged(what: impl Into<String>, source: io::Error) -> Self {
        let mut what = what.into();
        if source.kind() == io::ErrorKind::PermissionDenied {
            what += "; this needs root";
        }
        Self::system(what, source)
    }

    /// An error of writing to standard output.
    pub fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::system("cannot write the output", error)
        }
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Usage(_) => Self::USAGE_STATUS,
            Self::Interrupted => Self::INTERRUPTED_STATUS,
            Self::Engine(error) if error.kind().name() == "interrupted" => Self::INTERRUPTED_STATUS,
            _ => 1,
        }
    }

    /// What went wrong, in a word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Engine(error) => error.kind().name(),
            Self::Usage(_) => "usage",
            Self::Unsupported(_) => "unsupported",
            Self::System { .. } | Self::BrokenPipe => "system",
            Self::Bad(_) => "result",
            Self::Interrupted => "interrupted",
        }
    }

    /// The name of the kernel's answer, where there was one.
    pub fn errno(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.errno().map(Errno::name),
            Self::System { source, .. } => source.raw_os_error().map(|n| Errno(n).name()),
            _ => None,
        }
    }

    /// What went wrong, in one line.
    pub fn message(&self) -> String {
        match self {
            Self::Engine(error) => error.to_string(),
            Self::Usage(message) | Self::Unsupported(message) | Self::Bad(message) => {
                message.clone()
            }
            // The name of the number is told beside it.
            Self::System { what, source } if source.raw_os_error().is_some() => what.clone(),
            Self::System { what, source } => format!("{what}: {source}"),
            Self::Interrupted => "interrupted".to_owned(),
            Self::BrokenPipe => "the reader of the output has gone".to_owned(),
        }
    }

    /// The verifier's or libbpf's log; empty where there is none.
    pub fn log(&self) -> &str {
        match self {
            Self::Engine(error) => error.log(),
            _ => "",
        }
    }

    /// As JSON, with the log if `log`.
    pub fn document(&self, log: bool) -> Document<ErrorDocument> {
        Document::new(ErrorDocument {
            error: ErrorBody {
                kind: self.kind(),
                errno: self.errno(),
                message: self.message(),
                log: (log && !self.log().is_empty()).then(|| self.log().to_owned()),
            },
        })
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        Self::Engine(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::engine::ErrorKind;

    #[test]
    fn an_error_document_has_its_fields_in_order_and_errno_null_where_there_is_none() {
        let json = |failure: &Failure, log| serde_json::to_string(&failure.document(log)).unwrap();
        let error = engine::Error::new(ErrorKind::Rule, "cannot")
            .with_errno(Errno::EPERM)
            .with_log("1: r0 = 0");
        let error = Failure::from(error);
        assert_eq!(
            json(&error, false),
            r#"{"schema":"cgtap/1","error":{"kind":"rule","errno":"EPERM","message":"cannot"}}"#
        );
        assert_eq!(
            json(&error, true),
            concat!(
                r#"{"schema":"cgtap/1","error":{"kind":"rule","errno":"EPERM","#,
                r#""message":"cannot","log":"1: r0 = 0"}}"#
            )
        );
        assert_eq!(
            json(&Failure::Usage("what?".to_owned()), true),
            r#"{"schema":"cgtap/1","error":{"kind":"usage","errno":null,"message":"what?"}}"#
        );
    }

    #[test]
    fn each_failure_has_its_exit_status() {
        let engine = |kind| Failure::from(engine::Error::new(kind, "x")).status();
        assert_eq!(engine(ErrorKind::Kernel), 1);
        assert_eq!(Failure::Usage(String::new()).status(), 2);
        assert_eq!(Failure::Unsupported(String::new()).status(), 1);
        assert_eq!(Failure::Interrupted.status(), 130);
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::output(gone).status(), 0);
        let denied = Failure::privileged("no", io::Error::from_raw_os_error(13));
        assert_eq!(denied.message(), "no; this needs root");
        let full = Failure::output(io::Error::from_raw_os_error(28));
        assert_eq!(
            (full.status(), full.errno()),
            (1, Some("ENOSPC".to_owned()))
        );
    }
}
