//! The programs that see configured cgroups and owning processes go, with no process of ours
//! alive.
//!
//! The one for cgroups stands at `cgroup_rmdir`, which is exact where `cgroup_release` can be seconds late while
//! pages stay charged. A cgroup that is removed has no tasks, so nothing of its own can run any
//! more; what is left to do is to say so: its attachments are void from now on, and the next
//! command frees them.

use crate::asm::{Alu, Builder, Cond, EditError, Insn, Reg, Size, helper};
use crate::kernel::emit;
use crate::kernel::layout::Layout;

/// Processes that can hold attachments at a time: words in the map of gates.
pub const GATES_MAX: u16 = 4_096;

/// State of a cgroup in the map of configured ones.
pub const ALIVE: u64 = 1;
/// It has been removed.
pub const DEAD: u64 = 2;

const CGROUPS: u32 = 0;
const CONTROL: u32 = 1;

/// Generates the program (`tp_btf/cgroup_rmdir`). Its maps are, in this order: the hash of
/// configured cgroups, id to state, and the state's control words, the first of which counts the
/// deaths.
///
/// # Errors
/// [`EditError`] if a jump became too long; it cannot.
pub fn generate(layout: &Layout) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let out = b.label();
    emit::cgroup_argument(&mut b, layout, out);
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.kn_id))
        .push(Insn::store(Size::Dw, Reg::R10, -8, Reg::R1))
        .call_map(CGROUPS, -8, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .push(Insn::mov_imm(Reg::R1, DEAD as i32))
        .push(Insn::store(Size::Dw, Reg::R0, 0, Reg::R1))
        .increment(CONTROL, 0);
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
    b.finish()
}

/// Generates the program for processes (`tp_btf/sched_process_exit`). Its maps are, in this order:
/// the hash of owning processes, pid to gate, and the gates, one word each.
///
/// # Errors
/// [`EditError`] if a jump became too long; it cannot.
pub fn generate_for_processes(layout: &Layout) -> Result<Vec<Insn>, EditError> {
    const OWNERS: u32 = 0;
    const GATES: u32 = 1;
    let mut b = Builder::new();
    let out = b.label();
    b.push(Insn::load(Size::Dw, Reg::R6, Reg::R1, 0))
        .push(Insn::load(Size::W, Reg::R1, Reg::R6, layout.task_tgid))
        .push(Insn::store(Size::Dw, Reg::R10, -8, Reg::R1))
        .call_map(OWNERS, -8, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        // The last thread of a process takes it along; do_exit() counts before it traces.
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.task_signal))
        .push(Insn::load(Size::W, Reg::R1, Reg::R1, layout.signal_live))
        .jump_if_imm(Cond::Ne, Reg::R1, 0, out)
        .push(Insn::load(Size::W, Reg::R1, Reg::R0, 0))
        .push(Insn::alu_imm(Alu::And, Reg::R1, i32::from(GATES_MAX) - 1))
        .push(Insn::alu_imm(Alu::Lsh, Reg::R1, 3))
        .extend(Insn::load_map_value(Reg::R2, GATES, 0))
        .push(Insn::alu(Alu::Add, Reg::R2, Reg::R1))
        .push(Insn::mov_imm(Reg::R1, 1))
        .push(Insn::store(Size::Dw, Reg::R2, 0, Reg::R1));
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
    b.finish()
}
