//! Finding `current` in generated code.
//!
//! `bpf_get_current_task()` is a call, and a call with its return is the largest part of what a
//! dispatcher costs where returns are mitigated (measured in a bare loop: 0.1-0.2 of an empty program; all the
//! rest of a miss is 0.05). The kernel keeps `current` in a per-CPU variable. Its address on each
//! CPU is found once, checked against the helper on that CPU, and kept in a map; from then on
//! `current` is two loads, because `bpf_get_smp_processor_id()` (x86-64, since 6.10) and
//! `bpf_rdonly_cast()` (since 6.2) are inlined by the verifier. A CPU whose address is not known
//! uses the helper.
//!
//! Reading it is right whatever may preempt us: programs do not migrate, so whenever our load
//! runs, this CPU's `current` is the task that runs it.

use std::os::fd::AsFd;

use cgtap_sys::bpf::{Map, MapSpec, MapType, Prog, ProgSpec, ProgType, possible_cpus};

use super::layout::{CastLayout, CurrentLayout, Layout};
use super::pretend::{self, Pretended};
use crate::asm::{Alu, Builder, Cond, EditError, Insn, Reg, Size, encode, helper};

/// CPUs that the table of addresses has room for; on machines with more the helper is called.
const MAX_CPUS: usize = 4096;

/// Appends `R0 = (TYPE *)R1`, and clobbers R1-R5. The verifier puts one move in the call's place,
/// and what is read through R0 is 0 where nothing can be read.
pub fn cast(b: &mut Builder, layout: &CastLayout, type_id: i32) {
    b.push(Insn::mov_imm(Reg::R2, type_id))
        .push(Insn::call_kfunc(layout.rdonly_cast_id));
}

/// Appends code that leaves `current` in R0, typed `struct task_struct *`. Clobbers R1-R5.
/// `addresses` is the index of the table in the program's list of maps; without it the helper is
/// called (since 5.11).
pub fn emit(b: &mut Builder, layout: &Layout, addresses: Option<u32>) {
    let (Some(types), Some(addresses)) = (&layout.cast, addresses) else {
        b.push(Insn::call(helper::GET_CURRENT_TASK_BTF));
        return;
    };
    let (call, have) = (b.label(), b.label());
    b.push(Insn::call(helper::GET_SMP_PROCESSOR_ID))
        .jump_if_imm(Cond::Ge, Reg::R0, MAX_CPUS as i32, call)
        .push(Insn::alu_imm(Alu::Lsh, Reg::R0, 3))
        .extend(Insn::load_map_value(Reg::R1, addresses, 0))
        .push(Insn::alu(Alu::Add, Reg::R1, Reg::R0))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, 0))
        .jump_if_imm(Cond::Eq, Reg::R1, 0, call);
    cast(b, types, types.word_struct_id);
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0)).jump(have);
    b.place(call)
        .push(Insn::call(helper::GET_CURRENT_TASK))
        .push(Insn::mov(Reg::R1, Reg::R0));
    b.place(have);
    cast(b, types, types.task_struct_id);
}

/// The program that finds the address on the CPU it runs on, checks it, and stores it.
fn finder(layout: &CurrentLayout, types: &CastLayout) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let out = b.label();
    b.push(Insn::call(helper::GET_SMP_PROCESSOR_ID))
        .jump_if_imm(Cond::Ge, Reg::R0, MAX_CPUS as i32, out)
        .push(Insn::alu_imm(Alu::Lsh, Reg::R0, 3))
        .extend(Insn::load_map_value(Reg::R7, 0, 0))
        .push(Insn::alu(Alu::Add, Reg::R7, Reg::R0))
        .push(Insn::call(helper::GET_CURRENT_TASK_BTF))
        // The run queue of this CPU lies in the same per-CPU section as `current_task`.
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R0, layout.task_cfs_rq))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.cfs_rq_rq))
        // Through the stack, so that the pointer becomes a number.
        .push(Insn::store(Size::Dw, Reg::R10, -8, Reg::R1))
        .stack_address(Reg::R1, -16)
        .push(Insn::mov_imm(Reg::R2, 8))
        .stack_address(Reg::R3, -8)
        .push(Insn::call(helper::PROBE_READ_KERNEL))
        .push(Insn::load(Size::Dw, Reg::R8, Reg::R10, -16))
        .jump_if_imm(Cond::Eq, Reg::R8, 0, out)
        .push(Insn::alu_imm(
            Alu::Add,
            Reg::R8,
            layout.runqueues_to_current,
        ))
        .push(Insn::mov(Reg::R1, Reg::R8));
    cast(&mut b, types, types.word_struct_id);
    b.push(Insn::load(Size::Dw, Reg::R9, Reg::R0, 0))
        .push(Insn::call(helper::GET_CURRENT_TASK))
        .jump_if(Cond::Ne, Reg::R9, Reg::R0, out)
        .push(Insn::store(Size::Dw, Reg::R7, 0, Reg::R8));
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
    b.finish()
}

/// The table of the addresses of `current_task`, one word a CPU, 0 for a CPU where it was not
/// found; `None` on a kernel where it would not be faster than the helper, or could not be made.
/// Failing is no error: the helper is right everywhere.
#[must_use]
pub fn find(layout: &Layout) -> Option<Map> {
    if pretend::is_missing(Pretended::CurrentTable) {
        return None;
    }
    let (current, types) = (layout.current.as_ref()?, layout.cast.as_ref()?);
    let cpus = possible_cpus().ok().filter(|n| *n <= MAX_CPUS)?;
    let map = Map::create(&MapSpec {
        name: "cgtap_current",
        map_type: MapType::Array,
        key_size: 4,
        value_size: (MAX_CPUS * 8) as u32,
        max_entries: 1,
        flags: 0,
    })
    .ok()?;
    let insns = finder(current, types).ok()?;
    let prog = Prog::load(&ProgSpec::generated(
        "cgtap_current",
        ProgType::RawTracepoint,
        &encode(&insns),
        &[map.as_fd()],
    ))
    .map_err(|e| tracing::debug!("current by the helper: {e}: {}", e.log))
    .ok()?;
    if prog
        .calls_helper(helper::GET_SMP_PROCESSOR_ID)
        .unwrap_or(true)
    {
        tracing::debug!("current by the helper: the CPU number is not inlined here");
        return None;
    }
    for cpu in 0..cpus {
        // An offline CPU answers ENXIO and keeps its 0.
        if let Err(e) = prog.test_run_on_cpu(cpu as u32, &[]) {
            tracing::debug!("current on CPU {cpu} by the helper: {e}");
        }
    }
    let table = map.lookup(&0u32.to_ne_bytes()).ok().flatten()?;
    table[..cpus * 8].iter().any(|b| *b != 0).then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap_sys::libbpf::Btf;

    /// The kernel is the judge: the code loads with the table and without, and on this CPU both
    /// name the same task.
    #[test]
    fn both_ways_to_current_agree() {
        let layout = Layout::read(&Btf::vmlinux().unwrap()).unwrap();
        let tid = |table: Option<&Map>| {
            let mut b = Builder::new();
            emit(&mut b, &layout, table.map(|_| 0));
            // Both end typed as a task: a field read through it is its proof.
            b.push(Insn::load(Size::Dw, Reg::R0, Reg::R0, layout.task_cgroups))
                .push(Insn::mov_imm(Reg::R0, 7))
                .push(Insn::exit());
            let maps: Vec<_> = table.iter().map(|m| m.as_fd()).collect();
            let prog = Prog::load(&ProgSpec::generated(
                "current",
                ProgType::RawTracepoint,
                &encode(&b.finish().unwrap()),
                &maps,
            ))
            .unwrap_or_else(|e| panic!("{e}: {}", e.log));
            prog.test_run_raw_tp(&[]).unwrap()
        };
        assert_eq!(tid(None), 7);
        if let Some(map) = find(&layout) {
            assert_eq!(tid(Some(&map)), 7);
        }
    }
}
