//! Attaching a program at a hook: a dispatcher is, once a hook, for as long as its links are pinned.

use std::os::fd::AsFd;

use cgtap_sys::bpf::{Link, Prog};
use cgtap_sys::{Errno, SysError, perf};

use super::function;
use super::target::{Target, TargetError, addresses, open_probe, open_sampled};
use crate::hook::HookKind;

/// Attaches the program at the target. Classic tracepoints and probes take a perf event on one
/// CPU: the kernel keeps programs with the place, and they run on all. Only what is sampled is an
/// event a CPU, and so a link a CPU; a CPU that comes online later has none.
///
/// # Errors
/// The kernel's answer; `E2BIG` or `ENOSPC` where a classic tracepoint has 64 programs already, or
/// a traced function 38.
pub fn attach(prog: &Prog, target: &Target<'_>) -> Result<Vec<Link>, TargetError> {
    let link = match target.spec.kind() {
        HookKind::RawTracepoint => Link::raw_tracepoint(prog, Some(target.spec.name()))?,
        HookKind::RawTracepointWritable => Link::raw_tracepoint(prog, Some(target.spec.name()))
            .map_err(|e| match e.errno {
                // Members were tried alone before, so it is the jump of the dispatcher.
                Errno::EINVAL => TargetError::Unsupported {
                    what: "dispatchers at writable tracepoints",
                    why: "it attaches no writable program there that jumps to others (6.18.44 \
                          does not, 6.18.15 did); without writing, `raw_tracepoint:` hooks work"
                        .to_owned(),
                },
                _ => e.into(),
            })?,
        HookKind::TpBtf => Link::raw_tracepoint(prog, None)?,
        HookKind::Fentry | HookKind::Fexit | HookKind::FmodRet | HookKind::Lsm => {
            Link::raw_tracepoint(prog, None).map_err(|e| no_trampoline(target, e))?
        }
        HookKind::Tracepoint => {
            let event = perf::open_tracepoint(target.info.tracefs_id)?;
            Link::perf_event(prog, event.as_fd())?
        }
        HookKind::Kprobe | HookKind::Kretprobe | HookKind::Uprobe | HookKind::Uretprobe => {
            let event = open_probe(target.spec, target.info)?;
            Link::perf_event(prog, event.as_fd())?
        }
        HookKind::KprobeMulti | HookKind::KretprobeMulti => {
            let addresses = addresses(target.spec.target())?;
            Link::kprobe_multi(prog, &addresses, target.spec.kind().is_return()).map_err(|e| {
                match e.errno {
                    Errno::EOPNOTSUPP => TargetError::Unsupported {
                        what: "probes at many functions",
                        why: "it was built without CONFIG_FPROBE; kprobe hooks, one for each \
                              function, do the same"
                            .to_owned(),
                    },
                    _ => e.into(),
                }
            })?
        }
        HookKind::PerfEvent => {
            return (target.info.cpus.iter())
                .map(|cpu| {
                    let event = open_sampled(target.spec, *cpu)?;
                    Ok(Link::perf_event(prog, event.as_fd())?)
                })
                .collect();
        }
    };
    Ok(vec![link])
}

/// Why a trampoline could not be put into a function.
fn no_trampoline(target: &Target<'_>, error: SysError) -> TargetError {
    let function = target.spec.name();
    let why = match error.errno {
        Errno::E2BIG => {
            "38 programs stand there already (BPF_MAX_TRAMP_LINKS), those of other tools among them"
        }
        _ if target.spec.kind() != HookKind::Lsm
            && function::is_traceable(function) == Some(false) =>
        {
            "ftrace cannot trace it (it is not in tracefs' available_filter_functions: too small, \
             or notrace); trace a function that calls it"
        }
        _ => return error.into(),
    };
    TargetError::Refused {
        what: format!("cannot trace {function}"),
        why: why.to_owned(),
        errno: error.errno,
    }
}
