//! Asking the kernel what it would let a program do alone (S31).
//!
//! A program that is called, or reached by tail call, escapes the kernel's check of its context
//! size against the tracepoint. So each is first loaded alone, behind a gate that stays shut, and
//! the kernel is asked in the way that fits the kind. None of its code runs.

use std::os::fd::{AsFd, OwnedFd};

use cgtap_sys::bpf::{Link, LoadError, Map, MapSpec, MapType, Prog, ProgSpec};
use cgtap_sys::libbpf::{Btf, BtfKind};
use cgtap_sys::{Errno, SysError, perf};
use serde::{Deserialize, Serialize};

use super::pool::{BtfPool, MapPool};
use super::specialise::PoolIndex;
use crate::asm::{Code, Cond, Insn, Reg, Size, encode, helper};
use crate::hook::HookKind;
use crate::kernel::place;
use crate::kernel::target::{Target, TargetError, open_kprobe, open_sampled};

/// A program to try, with its constants built in.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its code.
    pub code: &'a Code,
    /// What its map indices mean.
    pub maps: &'a [PoolIndex],
    /// Place of its BTF.
    pub btf: Option<usize>,
    /// The licence its object declares.
    pub license: &'a str,
    /// The kernel version its object declares.
    pub kern_version: u32,
    /// Load flags.
    pub flags: u32,
}

/// What the verifier told of a program that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Instructions processed.
    pub verified_insns: u32,
    /// Stack of the entry function in bytes.
    pub frame_bytes: u32,
    /// Stack of the deepest chain of calls in bytes.
    pub chain_bytes: u32,
}

/// A program that may not run at the hook.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The kernel does not take it even alone.
    #[error("the kernel refuses it: {0}")]
    Load(LoadError),
    /// It reads or writes past what this hook gives.
    #[error("{what} ({errno})")]
    Bounds {
        /// What it does, and what the hook gives.
        what: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The hook is not to be had.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The trial itself could not be made.
    #[error("cannot try it: {0}")]
    Sys(#[from] SysError),
}

/// The gate: a word that is 0 and stays so. Not frozen, or the verifier would know it for a
/// constant and drop the program behind it.
fn gate_map() -> Result<Map, SysError> {
    Map::create(&MapSpec {
        name: "cgtap_gate",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: 0,
    })
}

/// Loads a shut copy of the program alone and asks whether it may run at the target.
///
/// # Errors
/// [`TrialError`].
pub fn check(
    target: &Target<'_>,
    candidate: &Candidate<'_>,
    maps: &MapPool,
    btfs: &BtfPool,
) -> Result<Verdict, TrialError> {
    if candidate.code.calls(helper::OVERRIDE_RETURN) {
        // kernel/bpf/core.c, `bpf_prog_map_compatible`: EINVAL without a word.
        return Err(TrialError::Bounds {
            what: "it calls bpf_override_return(), and the kernel lets no program that does be \
                   reached by a tail call; fmod_ret and lsm hooks can set a return"
                .to_owned(),
            errno: Errno::EINVAL,
        });
    }
    if calls_kfunc(candidate.code, "bpf_throw") {
        return Err(TrialError::Bounds {
            what: "it calls bpf_throw(), as bpf_assert() does, which ends all that runs with it, also what is \
                   attached above"
                .to_owned(),
            errno: Errno::EINVAL,
        });
    }
    let gate = gate_map()?;
    let gate_at = candidate.maps.len() as u32;
    let mut shut = Insn::load_map_value(Reg::R2, gate_at, 0).to_vec();
    shut.extend([
        Insn::load(Size::Dw, Reg::R2, Reg::R2, 0),
        Insn::jump_if_imm(Cond::Ne, Reg::R2, 0, 2),
        Insn::mov_imm(Reg::R0, target.returns().neutral()),
        Insn::exit(),
    ]);
    let mut code = candidate.code.clone();
    code.prepend(&shut);
    let (prog, stats) = load(target, candidate, &code, Some(&gate), maps, btfs).or_else(|e| {
        // In the kernel's own words on the program as it is, not on our copy.
        load(target, candidate, candidate.code, None, maps, btfs).and(Err(e))
    })?;
    match target.spec.kind() {
        HookKind::RawTracepoint => in_arguments(&prog, target)?,
        HookKind::RawTracepointWritable => in_buffer(&prog, candidate.code, target)?,
        HookKind::Tracepoint => in_record(&prog, target)?,
        HookKind::Kprobe | HookKind::Kretprobe => at_event(&prog, open_kprobe(target.spec)?)?,
        HookKind::Uprobe | HookKind::Uretprobe => {
            // What it may read is the same in all files.
            if let Some(place) = place::any(target.spec, &target.info.places)? {
                at_event(&prog, place::open(target.spec, &place)?)?;
            }
        }
        HookKind::PerfEvent => {
            let cpu = target.info.cpus.first().copied().unwrap_or(0);
            at_event(&prog, open_sampled(target.spec, cpu)?)?;
        }
        // Typed arguments and the one context of cgroup:dev were checked when the program was loaded,
        // and registers are always there.
        HookKind::TpBtf
        | HookKind::Fentry
        | HookKind::Fexit
        | HookKind::FmodRet
        | HookKind::Lsm
        | HookKind::KprobeMulti
        | HookKind::KretprobeMulti
        | HookKind::CgroupDevice => {}
    }
    let (frame_bytes, chain_bytes) = stack(&stats, candidate.code);
    Ok(Verdict {
        verified_insns: prog.info()?.verified_insns,
        frame_bytes,
        chain_bytes,
    })
}

/// Whether it calls this function of the kernel, where the kernel has it.
fn calls_kfunc(code: &Code, name: &str) -> bool {
    let called: Vec<i32> = code.iter().filter_map(|(_, insn)| insn.kfunc()).collect();
    // Most call none, and need not look.
    !called.is_empty()
        && Btf::vmlinux()
            .ok()
            .and_then(|btf| btf.find(name, BtfKind::Func))
            .is_some_and(|id| called.contains(&id.cast_signed()))
}

fn load(
    target: &Target<'_>,
    candidate: &Candidate<'_>,
    code: &Code,
    gate: Option<&Map>,
    maps: &MapPool,
    btfs: &BtfPool,
) -> Result<(Prog, String), TrialError> {
    let mut fds = maps.fds(candidate.maps)?;
    fds.extend(gate.map(AsFd::as_fd));
    let btf = candidate.btf.map(|index| btfs.fd(index)).transpose()?;
    let funcs: Vec<[u32; 2]> = code
        .funcs
        .iter()
        .map(|f| [f.start as u32, f.type_id])
        .collect();
    let lines: Vec<[u32; 4]> = code
        .lines
        .iter()
        .map(|l| [l.at as u32, l.file_name_off, l.line_off, l.line_col])
        .collect();
    let kind = target.spec.kind().info();
    let attach_btf = target.load_btf()?;
    Prog::load_with_stats(&ProgSpec {
        name: candidate.name,
        prog_type: kind.prog_type,
        attach_type: kind.attach_type,
        flags: candidate.flags,
        license: candidate.license,
        kern_version: candidate.kern_version,
        insns: &encode(&code.insns),
        maps: &fds,
        btf,
        func_info: &funcs,
        line_info: &lines,
        attach_btf_id: target.load_btf_id(),
        attach_btf: attach_btf.as_ref().map(AsFd::as_fd),
    })
    .map_err(TrialError::Load)
}

/// raw_tp: a test run refuses a context that is smaller than what the program may read
/// (net/bpf/test_run.c, `bpf_prog_test_run_raw_tp`). The gate is all that runs.
fn in_arguments(prog: &Prog, target: &Target<'_>) -> Result<(), TrialError> {
    prog.test_run_raw_tp(&vec![0; target.info.arg_count as usize])
        .map(drop)
        .map_err(|e| match e.errno {
            Errno::EINVAL => TrialError::Bounds {
                what: format!(
                    "it reads past the last of the {} arguments of raw tracepoint {}",
                    target.info.arg_count,
                    target.spec.name()
                ),
                errno: e.errno,
            },
            _ => e.into(),
        })
}

/// raw_tp.w: attaching compares the context and the writes with the tracepoint
/// (kernel/trace/bpf_trace.c, `bpf_probe_register`). The shut copy is attached for a moment.
fn in_buffer(prog: &Prog, code: &Code, target: &Target<'_>) -> Result<(), TrialError> {
    let has_jumps = code
        .iter()
        .any(|(_, insn)| insn.is_call_of(helper::TAIL_CALL));
    Link::raw_tracepoint(prog, Some(target.spec.name())).map(drop).map_err(|e| match e.errno {
        Errno::EINVAL if has_jumps => TrialError::Bounds {
            what: format!(
                "it makes tail calls, and this kernel attaches no program that does to the writable \
                 tracepoint {}: it cannot know how much those write",
                target.spec.name()
            ),
            errno: e.errno,
        },
        Errno::EINVAL => TrialError::Bounds {
            what: format!(
                "it reads past the arguments of tracepoint {}, or writes past what that one lets \
                 be written",
                target.spec.name()
            ),
            errno: e.errno,
        },
        _ => e.into(),
    })
}

/// Classic: setting the program on the event compares its context with the record
/// (kernel/events/core.c, `perf_event_set_bpf_prog`).
fn in_record(prog: &Prog, target: &Target<'_>) -> Result<(), TrialError> {
    let event = perf::open_tracepoint(target.info.tracefs_id)?;
    perf::set_bpf(event.as_fd(), prog).map_err(|e| match e.errno {
        Errno::EACCES => TrialError::Bounds {
            what: format!(
                "it reads past the record of tracepoint {}",
                target.spec.name()
            ),
            errno: e.errno,
        },
        _ => e.into(),
    })
}

/// Probes and sampled events: the kernel says whether it would take the program there
/// (kernel/events/core.c, `perf_event_set_bpf_prog`).
fn at_event(prog: &Prog, event: OwnedFd) -> Result<(), TrialError> {
    perf::set_bpf(event.as_fd(), prog).map_err(|e| match e.errno {
        Errno::EINVAL | Errno::EPROTO | Errno::EOPNOTSUPP => TrialError::Bounds {
            what: "the kernel does not take such a program there".to_owned(),
            errno: e.errno,
        },
        _ => e.into(),
    })
}

/// Frame of the entry and of the deepest chain, from the verifier's `stack depth 8+16+0`; the
/// worst there can be where the kernel does not tell.
fn stack(stats: &str, code: &Code) -> (u32, u32) {
    const WORST: (u32, u32) = (512, 512);
    let Some(depths) = stats.lines().find_map(|l| l.strip_prefix("stack depth ")) else {
        return WORST;
    };
    // `stack depth 8+16 max 24` since 6.20: only the list is of use.
    let list = depths.split_whitespace().next().unwrap_or(depths);
    let depths: Option<Vec<u32>> = list.split('+').map(|d| d.trim().parse().ok()).collect();
    let Some(mut depths) = depths.filter(|d| d.len() == code.funcs.len()) else {
        return WORST;
    };
    let starts: Vec<usize> = code.funcs.iter().map(|f| f.start).collect();
    let function_of = |at: usize| starts.partition_point(|s| *s <= at).saturating_sub(1);
    // Since 6.12 what is spilled around calls that leave the registers alone is not among it: the verifier takes
    // that out first (`remove_fastcall_spills_fills`). Here it may stay, and so may not be ours.
    for (at, insn) in code.iter() {
        let depth = depths.get_mut(function_of(at));
        if let (Some(bytes), Some(depth)) = (insn.writes_frame(), depth) {
            *depth = (*depth).max(bytes);
        }
    }
    let mut callees: Vec<Vec<usize>> = vec![Vec::new(); starts.len()];
    for (at, insn) in code
        .iter()
        .filter(|(_, i)| i.is_call_sub() || i.is_load_func())
    {
        let to = at as i64 + 1 + i64::from(insn.imm);
        if let Some(callee) = starts.iter().position(|s| *s as i64 == to) {
            callees[function_of(at)].push(callee);
        }
    }
    (depths[0], chain(0, &depths, &callees, 0))
}

fn chain(function: usize, depths: &[u32], callees: &[Vec<usize>], level: u32) -> u32 {
    // The verifier allows 8 frames; a circle cannot get here, but a bound costs nothing.
    if level > 8 {
        return 512;
    }
    let below = callees[function]
        .iter()
        .map(|callee| chain(*callee, depths, callees, level + 1))
        .max()
        .unwrap_or(0);
    depths[function].max(1).next_multiple_of(32) + below
}
