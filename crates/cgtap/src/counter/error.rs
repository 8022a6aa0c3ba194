//! Why nothing can be counted.

use cgtap_sys::libbpf::BtfError;
use cgtap_sys::{Errno, SysError};

use super::event::{CounterEvent, EventError};
use crate::asm::EditError;
use crate::kernel::tracepoint::TracepointError;

/// Why perf events cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// The events do not go together.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The machine does not have the event.
    #[error("{words}")]
    NoCounter {
        /// What it does not have, and what to do.
        words: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel said no to a call.
    #[error("cannot {what}: {source}")]
    Sys {
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        source: SysError,
    },
    /// The kernel did not take a program.
    #[error("cannot load {name}: {errno}")]
    Load {
        /// The program.
        name: &'static str,
        /// The kernel's answer.
        errno: Errno,
        /// The verifier's log.
        log: String,
    },
    /// A program could not be generated.
    #[error("cannot generate {name}: {source}")]
    Generate {
        /// The program.
        name: &'static str,
        /// Why.
        source: EditError,
    },
    /// The kernel's types are not as they were.
    #[error("cannot read this kernel's BTF: {0}; cgtap needs CONFIG_DEBUG_INFO_BTF")]
    Btf(BtfError),
    /// A tracepoint is not there.
    #[error(transparent)]
    Tracepoint(#[from] TracepointError),
    /// The list of CPUs cannot be read.
    #[error("cannot tell which CPUs are online: {0}")]
    Online(std::io::Error),
}

impl CounterError {
    pub(super) fn sys(what: &'static str) -> impl Fn(SysError) -> Self {
        move |source| Self::Sys { what, source }
    }

    /// An event could not be opened; on `beyond` of others, which took it.
    pub(super) fn open(event: &CounterEvent, source: SysError, beyond: Option<u32>) -> Self {
        let errno = source.errno;
        let words = match (errno, event.is_hardware()) {
            (Errno::ENOENT | Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EINVAL, true)
                if let Some(cpu) = beyond =>
            {
                format!(
                    "CPU {cpu} has another PMU than those before it, without {event} (cores of two kinds); \
                     events with a name of their own, such as cycles, are on both"
                )
            }
            (Errno::ENOENT | Errno::EOPNOTSUPP | Errno::ENODEV, true) => format!(
                "this machine has no hardware counter for {event} (no PMU, or a virtual machine \
                 without one); software events such as task-clock work"
            ),
            (Errno::EINVAL, true) => format!(
                "the PMU of this machine has no event {event}; `perf list` shows those it has"
            ),
            (Errno::EBUSY, true) => format!(
                "somebody else has the counter for {event} for himself; `perf` and the NMI \
                 watchdog (sysctl kernel.nmi_watchdog) may hold some"
            ),
            (Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL, false) => {
                format!("this kernel does not count {event}")
            }
            _ => {
                return Self::Sys {
                    what: "open a perf event",
                    source,
                };
            }
        };
        Self::NoCounter { words, errno }
    }
}
