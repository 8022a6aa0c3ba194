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
    let has_verdict = plan.returns != Returns::Ignored;
    match home {
        Home::Registers => {
            main.push(Insn::mov(Reg::R6, context));
            if has_verdict {
                main.push(Insn::mov_imm(Reg::R7, plan.verdict));
            }
        }
        Home::Stack {
            context: slot,
            verdict,
        } => {
            main.push(Insn::store(Size::Dw, Reg::R10, slot, context));
            if has_verdict {
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

/// Appends what makes the running verdict of itself and R0, as the kernel combines the returns of
/// an array (S30; include/linux/bpf.h, `bpf_prog_run_array`). Clobbers R0 and R1.
pub(super) fn combine(main: &mut Builder, home: Home, returns: Returns) {
    if returns == Returns::Ignored {
        return;
    }
    let running = match home {
        Home::Registers => Reg::R7,
        Home::Stack { verdict, .. } => {
            main.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, verdict));
            Reg::R1
        }
    };
    if returns == Returns::And {
        main.push(Insn::alu(Alu::And, running, Reg::R0));
    } else {
        let keep = main.label();
        main.jump_if_imm(Cond::Ne, running, 0, keep)
            // The kernel takes an int.
            .push(Insn::alu_imm(Alu::Lsh, Reg::R0, 32))
            .push(Insn::alu_imm(Alu::Arsh, Reg::R0, 32));
        if matches!(returns, Returns::FirstErrno | Returns::FirstErrnoChecked) {
            main.jump_if_imm(Cond::SignedGe, Reg::R0, 0, keep);
        }
        main.push(Insn::mov(running, Reg::R0)).place(keep);
    }
    if let Home::Stack { verdict, .. } = home {
        main.push(Insn::store(Size::Dw, Reg::R10, verdict, running));
    }
}

/// `MAX_ERRNO` (include/linux/err.h).
const ERRNO_MAX: i32 = 4095;

pub(super) fn load_verdict(main: &mut Builder, home: Home, returns: Returns) {
    match (returns, home) {
        (Returns::Ignored, _) => main.push(Insn::mov_imm(Reg::R0, 0)),
        (_, Home::Registers) => main.push(Insn::mov(Reg::R0, Reg::R7)),
        (_, Home::Stack { verdict, .. }) => {
            main.push(Insn::load(Size::Dw, Reg::R0, Reg::R10, verdict))
        }
    };
    // The verifier wants to see how far the hook's returns go (kernel/bpf/bpf_lsm.c,
    // `bpf_lsm_get_retval_range`, since 6.12).
    let fits = main.label();
    match returns {
        // It is negative or 0.
        Returns::FirstErrno | Returns::FirstErrnoChecked => {
            main.jump_if_imm(Cond::SignedGe, Reg::R0, -ERRNO_MAX, fits)
                .push(Insn::mov_imm(Reg::R0, -ERRNO_MAX));
        }
        Returns::Any => {
            main.jump_if_imm(Cond::Eq, Reg::R0, 0, fits)
                .push(Insn::mov_imm(Reg::R0, 1));
        }
        Returns::Ignored | Returns::And | Returns::FirstNonZero => {}
    }
    main.place(fits);
}

/// Appends one more run in the per-CPU counter.
pub(super) fn count(main: &mut Builder, counter: u32, nests: bool) {
    let null = main.label();
    main.push(Insn::store_imm(Size::W, Reg::R10, -4, 0))
        .call_map(counter, -4, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, null);
    main.increment_per_cpu(nests);
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
        let control = maps.index(next.control);
        main.place(lost).increment(control, CONTROL_LOST_SET);
    }
    load_verdict(main, home, plan.returns);
    main.push(Insn::exit());
}
