//! Whether this kernel lets typed programs stand at its functions, by trampolines: fentry, fexit, fmod_ret and
//! lsm hooks do.
//!
//! Types of functions come with BTF, which kernels have that can do no more with them. So it is tried, once a
//! process, at a function that hardly ever runs.

use std::sync::OnceLock;

use cgtap_sys::Errno;
use cgtap_sys::bpf::{LoadError, Prog, ProgSpec, ProgType};

use super::anchor;
use super::caller::Caller;
use super::pretend::{self, Pretended};
use super::target::{self, Target, TargetError};
use crate::asm::{Insn, Reg, encode};
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
    let (call, errno) = refused(&target)?;
    let is_lack = LACKING.contains(&errno) && !Caller::read().is_about_us(errno);
    is_lack.then(|| format!("{call} for {spec} gave {errno}"))
}

/// What the kernel says to a program there that does nothing; nothing if it takes it.
fn refused(target: &Target<'_>) -> Option<(&'static str, Errno)> {
    let kind = target.spec.kind().info();
    let insns = encode(&[Insn::mov_imm(Reg::R0, 0), Insn::exit()]);
    let spec = ProgSpec {
        attach_type: kind.attach_type,
        attach_btf_id: target.load_btf_id(),
        ..ProgSpec::generated("cgtap_probe", ProgType::Tracing, &insns, &[])
    };
    match Prog::load_quietly(&spec) {
        Err(LoadError { errno, .. }) => Some(("loading a program", errno)),
        Ok(prog) => match anchor::attach(&prog, target) {
            Err(TargetError::Sys(error)) => Some(("attaching a program", error.errno)),
            // Any other refusal is about that function.
            Ok(_) | Err(_) => None,
        },
    }
}
