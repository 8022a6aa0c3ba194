//! Whether this kernel lets typed programs stand at its functions, by trampolines: fentry, fexit, fmod_ret and
//! lsm hooks do.
//!
//! Types of functions come with BTF, which kernels have that can do no more with them. So it is tried, once a
//! process, at a function that hardly ever runs.

use std::sync::OnceLock;

use cgtap_sys::Errno;

use super::anchor::{self, Lack};
use super::caller::Caller;
use super::pretend::{self, Pretended};
use super::target::{self, Target, TargetError};
use crate::hook::{HookKind, HookSpec};

/// Functions that hardly ever run; the first that this kernel has is taken.
pub(super) const QUIET: [&str; 2] = ["bpf_fentry_test1", "kernel_halt"];

/// What kernels without trampolines answer (`kernel/bpf/trampoline.c`; a machine that keeps them back: EPERM).
/// 524 is `ENOTSUPP`, which user space has no name for.
const LACKING: [Errno; 5] = [
    Errno::EPERM,
    Errno::EINVAL,
    Errno::ENOSYS,
    Errno::EOPNOTSUPP,
    Errno(524),
];

/// Asks for trampolines.
///
/// # Errors
/// [`TargetError::Unsupported`] if there are none. Where that could not be told, there may be some.
pub(super) fn ask() -> Result<(), TargetError> {
    static LACK: OnceLock<Option<String>> = OnceLock::new();
    if cfg!(test) {
        // Unit tests look at types and code, on kernels without as well. Whether they run is for other tests.
        return Ok(());
    }
    if pretend::is_missing(Pretended::Trampolines) {
        return Err(lacking("it was built without"));
    }
    match LACK.get_or_init(lack) {
        None => Ok(()),
        Some(why) => Err(lacking(&format!("{why}; they take"))),
    }
}

fn lacking(why: &str) -> TargetError {
    TargetError::Unsupported {
        what: "BPF trampolines",
        why: format!(
            "{why} CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS. Tracepoint hooks work without"
        ),
    }
}

/// How a program at a function is refused, if it is for want of trampolines.
fn lack() -> Option<String> {
    let specs = QUIET.iter();
    let mut specs = specs.filter_map(|name| HookSpec::new(HookKind::Fentry, name).ok());
    let found = specs.find_map(|spec| {
        let info = target::traced(spec.target(), "function", spec.target()).ok()?;
        Some((spec, info))
    });
    let (spec, info) = found?;
    let target = Target {
        spec: &spec,
        info: &info,
    };
    let (call, errno) = match anchor::try_at(&target) {
        Err(Lack::Load(error)) => ("loading a program", error.errno),
        Err(Lack::Target(TargetError::Sys(error))) => ("attaching a program", error.errno),
        // Any other refusal is about that function.
        Ok(()) | Err(Lack::Target(_)) => return None,
    };
    let is_lack = LACKING.contains(&errno) && !Caller::read().is_about_us(errno);
    is_lack.then(|| format!("{call} for {spec} gave {errno}"))
}
