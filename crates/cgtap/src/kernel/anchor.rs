//! Attaching a program at a hook: a dispatcher is, once a hook, for as long as its links are pinned.

use std::os::fd::AsFd;

use cgtap_sys::bpf::{Link, LoadError, Map, MapSpec, MapType, Prog, ProgSpec};
use cgtap_sys::{Errno, SysError, perf};

use super::function;
use super::place::{self, Place};
use super::pretend::{self, Pretended};
use super::target::{Target, TargetError, addresses, open_kprobe, open_sampled};
use crate::asm::{Insn, Reg, encode, helper};
use crate::cgroup::Hierarchy;
use crate::hook::{HookKind, HookSpec};

/// A PROG_ARRAY of one entry, to try with.
pub(super) fn jump_table() -> Result<Map, SysError> {
    Map::create(&MapSpec {
        name: "cgtap_probe",
        map_type: MapType::ProgArray,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        flags: 0,
    })
}

/// Whether a program that jumps to others may be attached at the target. At a writable tracepoint it may
/// not on some newer kernels (seen on one build of 6.18.44; another one and 6.18.15 took it): they cannot
/// know how much those write. What they answer is EINVAL, without a word.
///
/// # Errors
/// The kernel's answer, if it is another one.
pub fn takes_jumps(target: &Target<'_>) -> Result<bool, TargetError> {
    if target.spec.kind() != HookKind::RawTracepointWritable {
        return Ok(true);
    }
    if pretend::is_missing(Pretended::WritableJumps) {
        return Ok(false);
    }
    let progs = jump_table()?;
    let mut insns = Insn::load_map(Reg::R2, 0).to_vec();
    insns.extend([
        Insn::mov_imm(Reg::R3, 0),
        Insn::call(helper::TAIL_CALL),
        Insn::mov_imm(Reg::R0, 0),
        Insn::exit(),
    ]);
    let code = encode(&insns);
    let kind = target.spec.kind().info();
    let spec = ProgSpec::generated("cgtap_probe", kind.prog_type, &code, &[]);
    let loaded = Prog::load(&ProgSpec {
        maps: &[progs.as_fd()],
        ..spec
    });
    let prog = loaded.map_err(|e| SysError {
        call: "BPF_PROG_LOAD",
        errno: e.errno,
    })?;
    match Link::raw_tracepoint(&prog, Some(target.spec.name())) {
        Ok(_) => Ok(true),
        Err(e) if e.errno == Errno::EINVAL => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Attaches the program at the target. Classic tracepoints and probes take a perf event on one
/// CPU: the kernel keeps programs with the place, and they run on all. What is sampled is an
/// event a CPU, and so a link a CPU; a CPU that comes online later has none. A uprobe has a link a file.
///
/// # Errors
/// The kernel's answer; `E2BIG` or `ENOSPC` where a classic tracepoint has 64 programs already, or
/// a traced function 38.
pub fn attach(prog: &Prog, target: &Target<'_>) -> Result<Vec<Link>, TargetError> {
    let link = match target.spec.kind() {
        HookKind::RawTracepoint | HookKind::RawTracepointWritable => {
            Link::raw_tracepoint(prog, Some(target.spec.name()))?
        }
        HookKind::TpBtf => Link::raw_tracepoint(prog, None)?,
        HookKind::Fentry | HookKind::Fexit | HookKind::FmodRet | HookKind::Lsm => {
            Link::raw_tracepoint(prog, None).map_err(|e| no_trampoline(target, e))?
        }
        HookKind::Tracepoint => {
            let event = perf::open_tracepoint(target.info.tracefs_id)?;
            Link::perf_event(prog, event.as_fd())?
        }
        HookKind::Kprobe | HookKind::Kretprobe => {
            Link::perf_event(prog, open_kprobe(target.spec)?.as_fd())?
        }
        HookKind::Uprobe | HookKind::Uretprobe => {
            let places = target.info.places.iter();
            return places
                .map(|place| at_place(prog, target.spec, place))
                .collect();
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
                    // `ftrace_location()` of one of them is none.
                    Errno::EINVAL | Errno::ENOENT if addresses.len() > 1 => TargetError::Refused {
                        what: format!("cannot probe {}", target.spec.target()),
                        why: format!(
                            "one of the {} functions cannot be traced: it has its name from one \
                             that can; a narrower pattern, or kprobe:FUNC for each, does without",
                            addresses.len()
                        ),
                        errno: e.errno,
                    },
                    _ => e.into(),
                }
            })?
        }
        HookKind::CgroupDevice => at_root(prog)?,
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

/// Attaches the program at a place in a file.
///
/// # Errors
/// The kernel's answer.
pub fn at_place(prog: &Prog, spec: &HookSpec, place: &Place) -> Result<Link, TargetError> {
    Ok(Link::perf_event(prog, place::open(spec, place)?.as_fd())?)
}

/// Attaches a cgroup/dev program to the root of the hierarchy, where it is asked for all tasks, beside
/// what others have attached there and below.
fn at_root(prog: &Prog) -> Result<Link, TargetError> {
    let what = "attach to the root of cgroup2";
    let hierarchy = Hierarchy::open(None).map_err(|e| TargetError::Unsupported {
        what,
        why: e.to_string(),
    })?;
    Link::cgroup_device(prog, hierarchy.as_fd()).map_err(|e| {
        let why = match e.errno {
            Errno::EPERM => {
                "a device program stands there that excludes others (attached without \
                 BPF_F_ALLOW_MULTI), or it takes CAP_NET_ADMIN; `bpftool cgroup show` names it"
            }
            Errno::E2BIG => "64 programs stand there already (BPF_CGROUP_MAX_PROGS)",
            _ => return e.into(),
        };
        TargetError::Refused {
            what: format!("cannot {what}"),
            why: why.to_owned(),
            errno: e.errno,
        }
    })
}

/// Why a program that does nothing could not be had at a hook.
pub(super) enum Lack {
    /// It was not loaded.
    Load(LoadError),
    /// There is no such place, or it was not attached there.
    Target(TargetError),
}

impl From<TargetError> for Lack {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

/// Attaches a program that changes nothing, and takes it away again.
pub(super) fn try_at(target: &Target<'_>) -> Result<(), Lack> {
    let kind = target.spec.kind().info();
    let insns = encode(&[
        Insn::mov_imm(Reg::R0, target.returns().neutral()),
        Insn::exit(),
    ]);
    let attach_btf = target.load_btf().map_err(TargetError::from)?;
    let prog = Prog::load(&ProgSpec {
        attach_type: kind.attach_type,
        attach_btf_id: target.load_btf_id(),
        attach_btf: attach_btf.as_ref().map(AsFd::as_fd),
        ..ProgSpec::generated("cgtap_probe", kind.prog_type, &insns, &[])
    })
    .map_err(Lack::Load)?;
    attach(&prog, target)?;
    Ok(())
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
