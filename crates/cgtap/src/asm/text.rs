//! Instructions as people read them, in the manner of `llvm-objdump` and `bpftool prog dump xlated`.

use std::collections::BTreeSet;

use super::insn::{Insn, PSEUDO_MAP_IDX, PSEUDO_MAP_IDX_VALUE, helper};

/// Names of the helpers that generated code calls.
const HELPERS: &[(i32, &str)] = &[
    (helper::MAP_LOOKUP_ELEM, "map_lookup_elem"),
    (helper::MAP_UPDATE_ELEM, "map_update_elem"),
    (helper::MAP_DELETE_ELEM, "map_delete_elem"),
    (helper::KTIME_GET_NS, "ktime_get_ns"),
    (helper::GET_SMP_PROCESSOR_ID, "get_smp_processor_id"),
    (helper::TAIL_CALL, "tail_call"),
    (helper::GET_CURRENT_TASK, "get_current_task"),
    (helper::GET_CURRENT_CGROUP_ID, "get_current_cgroup_id"),
    (helper::PROBE_READ_KERNEL, "probe_read_kernel"),
    (helper::PROBE_READ_KERNEL_STR, "probe_read_kernel_str"),
    (helper::GET_CURRENT_TASK_BTF, "get_current_task_btf"),
];

/// The stream, a line an instruction, with labels where jumps lead. `maps` are the names of the maps
/// in the program's list; `kfuncs` those of functions of the kernel by their BTF id.
#[must_use]
pub fn listing(insns: &[Insn], maps: &[&str], kfuncs: &[(i32, &str)]) -> String {
    let targets: BTreeSet<i64> = insns
        .iter()
        .enumerate()
        .filter(|(_, insn)| insn.is_jump())
        .map(|(at, insn)| at as i64 + 1 + i64::from(insn.off))
        .collect();
    let label = |at: i64| targets.iter().position(|t| *t == at).map_or(0, |n| n + 1);
    let mut text = String::new();
    let mut skip = false;
    for (at, insn) in insns.iter().enumerate() {
        if std::mem::take(&mut skip) {
            continue;
        }
        if targets.contains(&(at as i64)) {
            text += &format!("L{}:\n", label(at as i64));
        }
        skip = insn.is_load_imm64();
        let line = if skip {
            wide(*insn, insns.get(at + 1).copied(), maps)
        } else if insn.is_jump() {
            jump(*insn, label(at as i64 + 1 + i64::from(insn.off)))
        } else {
            one(*insn, kfuncs)
        };
        text += &format!("{at:5}: {line}\n");
    }
    text
}

fn wide(insn: Insn, second: Option<Insn>, maps: &[&str]) -> String {
    let high = second.map_or(0, |s| s.imm);
    let map = |at: i32| {
        let name = usize::try_from(at).ok().and_then(|at| maps.get(at));
        name.map_or_else(|| format!("map{at}"), |name| (*name).to_owned())
    };
    let to = insn.dst();
    match insn.src() {
        PSEUDO_MAP_IDX => format!("r{to} = map {}", map(insn.imm)),
        PSEUDO_MAP_IDX_VALUE => format!("r{to} = &{}[0] + {high}", map(insn.imm)),
        _ => {
            let value = u64::from(high.cast_unsigned()) << 32 | u64::from(insn.imm.cast_unsigned());
            format!("r{to} = {value:#x} ll")
        }
    }
}

fn jump(insn: Insn, label: usize) -> String {
    let sign = match insn.code & 0xf0 {
        0x00 => return format!("goto L{label}"),
        0x10 => "==",
        0x20 => ">",
        0x30 => ">=",
        0x40 => "&",
        0x50 => "!=",
        0x60 => "s>",
        0x70 => "s>=",
        0xa0 => "<",
        0xb0 => "<=",
        0xc0 => "s<",
        _ => "s<=",
    };
    let second = if insn.code & 0x08 != 0 {
        format!("r{}", insn.src())
    } else {
        insn.imm.to_string()
    };
    format!("if r{} {sign} {second} goto L{label}", insn.dst())
}

fn place(reg: u8, off: i16, size: u8) -> String {
    let name = match size {
        0x00 => "u32",
        0x08 => "u16",
        0x10 => "u8",
        _ => "u64",
    };
    let sign = if off < 0 { '-' } else { '+' };
    format!("*({name} *)(r{reg} {sign} {})", off.unsigned_abs())
}

fn one(insn: Insn, kfuncs: &[(i32, &str)]) -> String {
    let (to, from, size) = (insn.dst(), insn.src(), insn.code & 0x18);
    match insn.code & 0x07 {
        0x01 => format!("r{to} = {}", place(from, insn.off, size)),
        0x02 => format!("{} = {}", place(to, insn.off, size), insn.imm),
        0x03 if insn.code & 0xe0 == 0xc0 => {
            let at = place(to, insn.off, size);
            match insn.imm {
                0x01 => format!("r{from} = atomic_fetch_add({at}, r{from})"),
                0xf1 => format!("r0 = atomic_cmpxchg({at}, r0, r{from})"),
                _ => format!("lock {at} += r{from}"),
            }
        }
        0x03 => format!("{} = r{from}", place(to, insn.off, size)),
        class @ (0x04 | 0x07) => {
            let reg = if class == 0x04 { 'w' } else { 'r' };
            let sign = match insn.code & 0xf0 {
                0x00 => "+=",
                0x10 => "-=",
                0x20 => "*=",
                0x30 => "/=",
                0x40 => "|=",
                0x50 => "&=",
                0x60 => "<<=",
                0x70 => ">>=",
                0x90 => "%=",
                0xa0 => "^=",
                0xb0 => "=",
                _ => "s>>=",
            };
            let second = if insn.code & 0x08 != 0 {
                format!("{reg}{from}")
            } else {
                insn.imm.to_string()
            };
            format!("{reg}{to} {sign} {second}")
        }
        _ if insn.is_exit() => "exit".to_owned(),
        _ if insn.src() == 2 => match kfuncs.iter().find(|(id, _)| *id == insn.imm) {
            Some((_, name)) => format!("call {name}"),
            None => format!("call kernel function {}", insn.imm),
        },
        _ => match HELPERS.iter().find(|(id, _)| *id == insn.imm) {
            Some((_, name)) => format!("call {name}"),
            None => format!("call {}", insn.imm),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Cond, Reg, Size};
    use super::*;

    #[test]
    fn a_stream_reads_as_bpf_assembly_does() {
        let mut b = Builder::new();
        let out = b.label();
        b.push(Insn::mov(Reg::R6, Reg::R1))
            .push(Insn::load(Size::W, Reg::R7, Reg::R6, 28))
            .jump_if_imm(Cond::Eq, Reg::R7, 0, out)
            .push(Insn::store(Size::Dw, Reg::R10, -8, Reg::R7))
            .extend(Insn::load_map(Reg::R1, 0))
            .push(Insn::call(helper::MAP_LOOKUP_ELEM))
            .push(Insn::atomic_add(Reg::R0, 8, Reg::R7))
            .place(out)
            .push(Insn::exit());
        assert_eq!(
            listing(&b.finish().unwrap(), &["usage"], &[]),
            "    0: r6 = r1
    1: r7 = *(u32 *)(r6 + 28)
    2: if r7 == 0 goto L1
    3: *(u64 *)(r10 - 8) = r7
    4: r1 = map usage
    6: call map_lookup_elem
    7: lock *(u64 *)(r0 + 8) += r7
L1:
    8: exit
"
        );
    }
}
