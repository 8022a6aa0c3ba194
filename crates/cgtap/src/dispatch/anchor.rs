//! Attaching a dispatcher: once a hook, for as long as the link is pinned.

use std::os::fd::AsFd;

use cgtap_sys::bpf::{Link, Prog};
use cgtap_sys::{SysError, perf};

use super::bounds::Target;
use crate::hook::HookKind;

/// Attaches the dispatcher at the target. Classic tracepoints take a perf event on one CPU: the
/// kernel keeps programs with the tracepoint, and they run on all.
///
/// # Errors
/// The kernel's answer; `E2BIG` or `ENOSPC` where a classic tracepoint has 64 programs already.
pub fn attach(prog: &Prog, target: &Target<'_>) -> Result<Link, SysError> {
    match target.kind.kind {
        HookKind::RawTracepoint | HookKind::RawTracepointWritable => {
            Link::raw_tracepoint(prog, Some(target.name))
        }
        HookKind::TpBtf => Link::raw_tracepoint(prog, None),
        HookKind::Tracepoint => {
            let event = perf::open_tracepoint(target.tracefs_id)?;
            Link::perf_event(prog, event.as_fd())
        }
    }
}
