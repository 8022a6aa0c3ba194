//! What main does around its members: keep the context and the verdict, count, go on.

use super::plan::{Maps, Plan};
use super::word::CONTROL_LOST_SET;
use crate::asm::{Alu, Builder, Cond, Insn, Reg, Size, helper};
use crate::hook::kind::Returns;

/// Where main keeps the context and the running verdict.
#[derive(Clone, Copy)]
pub(super) enum Home {
    /// R6 and R7.
    Registers,
    /// The stack, at these offsets.
    Stack { context: i16, verdict: i16 },
}

pub(super) fn save(main: &mut Builder, home: Home, context: Reg, plan: &Plan) {
    match home {
        Home::Registers => {
            main.push(Insn::mov(Reg::R6, context));
            if plan.returns == Returns::And {
                main.push(Insn::mov_imm(Reg::R7, plan.verdict));
            }
        }
        Home::Stack {
            context: slot,
            verdict,
        } => {
            main.push(Insn::store(Size::Dw, Reg::R10, slot, context));
            if plan.returns == Returns::And {
                main.push(Insn::mov_imm(Reg::R1, plan.verdict));
                main.push(Insn::store(Size::Dw, Reg::R10, verdict, Reg::R1));
            }
        }
    }
}

pub(super) fn restore_context(main: &mut Builder, home: Home) {
    match home {
        Home::Registers => main.push(Insn::mov(Reg::R1, Reg::R6)),
        Home::Stack { context, .. } => main.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, context)),
    };
}

/// Appends `verdict &= R0`, as the kernel combines the returns of an array
/// (include/linux/bpf.h, `bpf_prog_run_array`).
pub(super) fn combine(main: &mut Builder, home: Home, returns: Returns) {
    if returns == Returns::Ignored {
        return;
    }
    match home {
        Home::Registers => {
            main.push(Insn::alu(Alu::And, Reg::R7, Reg::R0));
        }
        Home::Stack { verdict, .. } => {
            main.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, verdict))
                .push(Insn::alu(Alu::And, Reg::R1, Reg::R0))
                .push(Insn::store(Size::Dw, Reg::R10, verdict, Reg::R1));
        }
    }
}

pub(super) fn load_verdict(main: &mut Builder, home: Home, returns: Returns) {
    match (returns, home) {
        (Returns::Ignored, _) => main.push(Insn::mov_imm(Reg::R0, 0)),
        (Returns::And, Home::Registers) => main.push(Insn::mov(Reg::R0, Reg::R7)),
        (Returns::And, Home::Stack { verdict, .. }) => {
            main.push(Insn::load(Size::Dw, Reg::R0, Reg::R10, verdict))
        }
    };
}

/// Appends one more run in the per-CPU counter. The kernel never runs a hook's dispatcher inside
/// itself on one CPU (`prog->active`, `bpf_prog_active`), and what it dispatches runs nowhere
/// else: a plain load, add and store is exact.
pub(super) fn count(main: &mut Builder, counter: u32) {
    let null = main.label();
    main.push(Insn::store_imm(Size::W, Reg::R10, -4, 0))
        .push(Insn::mov(Reg::R2, Reg::R10))
        .push(Insn::alu_imm(Alu::Add, Reg::R2, -4))
        .extend(Insn::load_map(Reg::R1, counter))
        .push(Insn::call(helper::MAP_LOOKUP_ELEM))
        .jump_if_imm(Cond::Eq, Reg::R0, 0, null)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0))
        .push(Insn::alu_imm(Alu::Add, Reg::R1, 1))
        .push(Insn::store(Size::Dw, Reg::R0, 0, Reg::R1));
    main.place(null);
}

/// Appends the end of main: on to the next segment, or out.
pub(super) fn finish(main: &mut Builder, maps: &mut Maps, home: Home, plan: &Plan) {
    if let Some(next) = plan.next {
        let (zero, lost) = (main.label(), main.label());
        let progs = maps.index(next.progs);
        if plan.returns == Returns::And && next.index != next.index_zero {
            load_verdict(main, home, plan.returns);
            main.jump_if_imm(Cond::Eq, Reg::R0, 0, zero);
        }
        restore_context(main, home);
        main.extend(Insn::load_map(Reg::R2, progs))
            .push(Insn::mov_imm(Reg::R3, i32::from(next.index)))
            .push(Insn::call(helper::TAIL_CALL))
            .jump(lost);
        main.place(zero);
        if plan.returns == Returns::And && next.index != next.index_zero {
            restore_context(main, home);
            main.extend(Insn::load_map(Reg::R2, progs))
                .push(Insn::mov_imm(Reg::R3, i32::from(next.index_zero)))
                .push(Insn::call(helper::TAIL_CALL));
        }
        main.place(lost)
            .extend(Insn::load_map_value(
                Reg::R1,
                maps.index(next.control),
                CONTROL_LOST_SET as u32 * 8,
            ))
            .push(Insn::mov_imm(Reg::R2, 1))
            .push(Insn::atomic_add(Reg::R1, 0, Reg::R2));
    }
    load_verdict(main, home, plan.returns);
    main.push(Insn::exit());
}
