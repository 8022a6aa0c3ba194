//! The arguments of a hook: their names and types by BTF, and where a program finds them.

use cgtap_sys::libbpf::{Btf, BtfKind};

use super::target::TargetInfo;
use crate::hook::{HookKind, HookSpec};
use crate::near::lacking;

/// An argument.
#[derive(Clone, Debug)]
pub struct Argument {
    /// Its name; empty where BTF has none.
    pub name: String,
    /// Its type.
    pub type_id: u32,
    /// Where it lies in the context, in bytes; or in words why no program finds it.
    pub offset: Result<i16, String>,
}

/// Registers of the first arguments of a function, as `struct pt_regs` has them.
const REGISTERS: &[&str] = if cfg!(target_arch = "x86_64") {
    &["di", "si", "dx", "cx", "r8", "r9"]
} else {
    &[]
};

/// The register that a function's result comes in.
const RESULT: Option<&str> = if cfg!(target_arch = "x86_64") {
    Some("ax")
} else {
    None
};

/// Where a register of a probe's context lies that holds argument `number`, or the result.
///
/// # Errors
/// In words: on this kind of machine they are not known.
pub fn register(btf: &Btf, number: Option<usize>) -> Result<i16, String> {
    let name = match number {
        Some(number) => REGISTERS.get(number).copied(),
        None => RESULT,
    };
    let name = name.ok_or("no register of this machine is known to hold it")?;
    let offset = btf
        .field_offset("pt_regs", name)
        .map_err(|e| e.to_string())?;
    i16::try_from(offset).map_err(|e| e.to_string())
}

/// How the name of a function begins that has the arguments of a tracepoint, with their names,
/// behind a `void *` (include/linux/tracepoint.h, include/trace/bpf_probe.h).
const TRACERS: [&str; 3] = ["__traceiter_", "__probestub_", "__bpf_trace_"];

/// Why hooks of this kind have no typed arguments, and which have; `None` if they have.
#[must_use]
pub fn lacks(spec: &HookSpec) -> Option<String> {
    let target = spec.name();
    let function = spec.function().0;
    match spec.kind() {
        HookKind::Tracepoint => {
            let name = match spec.target().strip_prefix("syscalls/") {
                Some(call) if call.starts_with("sys_exit_") => "sys_exit",
                Some(_) => "sys_enter",
                None => target,
            };
            Some(format!(
                "a classic tracepoint has no typed arguments; use tp_btf:{name} or \
                 raw_tracepoint:{name}"
            ))
        }
        HookKind::KprobeMulti | HookKind::KretprobeMulti => Some(
            "it stands at many functions, whose arguments differ; use kprobe:FUNC or fentry:FUNC"
                .to_owned(),
        ),
        HookKind::Kretprobe => Some(format!(
            "a return has no arguments any more; use fexit:{function}, which has them and `ret`"
        )),
        HookKind::Uprobe | HookKind::Uretprobe => Some(
            "the kernel has no types for a program's arguments; use tp_btf: or raw_tracepoint: \
             hooks, or the scope current"
                .to_owned(),
        ),
        HookKind::PerfEvent => Some(
            "an overflow has no arguments; use tp_btf: or raw_tracepoint: hooks, or the scope \
             current"
                .to_owned(),
        ),
        HookKind::CgroupDevice => Some(
            "the device controller is asked for the running task and leads to nothing else; use the \
             scope current, or lsm:file_open"
                .to_owned(),
        ),
        HookKind::Kprobe if spec.function().1 > 0 => Some(format!(
            "inside a function its arguments may be gone; use kprobe:{function} or fentry:{function}"
        )),
        _ => None,
    }
}

/// Programs of such hooks know the types of their arguments.
#[must_use]
pub fn are_typed(kind: HookKind) -> bool {
    matches!(
        kind,
        HookKind::TpBtf | HookKind::Fentry | HookKind::Fexit | HookKind::FmodRet | HookKind::Lsm
    )
}

/// Size of an integer or pointer in bytes: 1, 2, 4 or 8.
#[must_use]
pub fn word_bytes(btf: &Btf, type_id: u32) -> Option<u8> {
    let id = btf.resolve(type_id);
    match btf.kind(id)? {
        BtfKind::Ptr => Some(8),
        BtfKind::Int | BtfKind::Enum | BtfKind::Enum64 => match btf.size_bytes(id)? {
            size @ (1 | 2 | 4 | 8) => Some(size as u8),
            _ => None,
        },
        _ => None,
    }
}

/// The arguments of a hook that has some ([`lacks`]).
///
/// # Errors
/// In words: what BTF lacks.
pub fn arguments(btf: &Btf, spec: &HookSpec, info: &TargetInfo) -> Result<Vec<Argument>, String> {
    match spec.kind() {
        HookKind::RawTracepoint | HookKind::RawTracepointWritable | HookKind::TpBtf => {
            of_tracepoint(btf, spec.name(), info)
        }
        HookKind::Kprobe => {
            let name = spec.function().0;
            let func = btf.find(name, BtfKind::Func);
            let func = func.ok_or_else(|| format!("BTF has no types for the function {name}"))?;
            Ok(in_registers(btf, params(btf, func)?))
        }
        kind => {
            let func = info.attach_btf_id;
            let mut all = in_slots(btf, params(btf, func)?);
            if kind == HookKind::Fexit {
                let result = btf.target(func).and_then(|proto| btf.target(proto));
                let behind = all
                    .iter()
                    .try_fold(0, |sum, a| Some(sum + slots(btf, a.type_id)?));
                if let (Some(type_id @ 1..), Some(behind)) = (result, behind) {
                    all.push(Argument {
                        name: "ret".to_owned(),
                        type_id,
                        offset: Ok(behind * 8),
                    });
                }
            }
            Ok(all)
        }
    }
}

fn params(btf: &Btf, func: u32) -> Result<Vec<(String, u32)>, String> {
    btf.target(func)
        .and_then(|proto| btf.func_proto_params(proto))
        .ok_or_else(|| "BTF does not describe its arguments".to_owned())
}

fn of_tracepoint(btf: &Btf, name: &str, info: &TargetInfo) -> Result<Vec<Argument>, String> {
    let proto = btf
        .pointee(info.attach_btf_id)
        .ok_or_else(|| "BTF does not describe its arguments".to_owned())?;
    let mut typed = btf.func_proto_params(proto).unwrap_or_default();
    let named = TRACERS.iter().find_map(|prefix| {
        let func = btf.find(&format!("{prefix}{name}"), BtfKind::Func)?;
        let params = btf.func_proto_params(btf.target(func)?)?;
        (params.len() == typed.len()).then_some(params)
    });
    for ((name, _), (known, _)) in typed.iter_mut().zip(named.unwrap_or_default()) {
        *name = known;
    }
    let mut offset = 0;
    // The first is the `void *` that programs do not see; each has a slot of its own.
    let all = typed.into_iter().skip(1).map(|(name, type_id)| {
        let argument = Argument {
            name,
            type_id,
            offset: Ok(offset),
        };
        offset += 8;
        argument
    });
    Ok(all.collect())
}

/// Words that an argument takes in the context of a trampoline.
fn slots(btf: &Btf, type_id: u32) -> Option<i16> {
    i16::try_from(btf.size_bytes(type_id)?.div_ceil(8)).ok()
}

fn in_slots(btf: &Btf, params: Vec<(String, u32)>) -> Vec<Argument> {
    let mut next = Some(0);
    let one = |(name, type_id)| {
        let offset = next.map(|slot: i16| slot * 8);
        next = next.and_then(|slot| slot.checked_add(slots(btf, type_id)?));
        Argument {
            name,
            type_id,
            offset: offset.ok_or_else(|| "an argument before it has no known size".to_owned()),
        }
    };
    params.into_iter().map(one).collect()
}

fn in_registers(btf: &Btf, params: Vec<(String, u32)>) -> Vec<Argument> {
    let mut is_plain = true;
    let one = |(at, (name, type_id)): (usize, (String, u32))| {
        is_plain &= word_bytes(btf, type_id).is_some();
        let offset = match REGISTERS.get(at) {
            _ if REGISTERS.is_empty() => {
                Err("its registers are not known here; use fentry".to_owned())
            }
            None => Err("it is passed on the stack; use fentry".to_owned()),
            Some(_) if !is_plain => {
                Err("a struct before it is passed by value; use fentry".to_owned())
            }
            Some(register) => btf
                .field_offset("pt_regs", register)
                .map_err(|e| e.to_string())
                .map(|offset| offset as i16),
        };
        Argument {
            name,
            type_id,
            offset,
        }
    };
    params.into_iter().enumerate().map(one).collect()
}

/// The argument of a name: its own, or `arg0`, `arg1`, ...
///
/// # Errors
/// In words, with the names that there are.
pub fn named<'a>(all: &'a [Argument], name: &str) -> Result<&'a Argument, String> {
    if let Some(found) = all.iter().find(|a| a.name == name) {
        return Ok(found);
    }
    let number = name.strip_prefix("arg").and_then(|n| n.parse().ok());
    if let Some(found) = number.and_then(|n: usize| all.get(n)) {
        return Ok(found);
    }
    let names: Vec<String> = all
        .iter()
        .enumerate()
        .map(|(at, a)| match a.name.as_str() {
            "" => format!("arg{at}"),
            name => name.to_owned(),
        })
        .collect();
    Err(lacking(
        "argument",
        name,
        &names,
        "the hook has no arguments",
    ))
}
