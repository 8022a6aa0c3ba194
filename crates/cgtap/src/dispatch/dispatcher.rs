//! The program that stands at a hook: finds the cgroup of the event, its set, and jumps there.

use crate::asm::{Alu, Builder, Cond, EditError, Insn, Reg, Size, helper};
use crate::hook::kind::Returns;
use crate::kernel::current;
use crate::kernel::layout::Layout;

use super::word::{
    CACHE_BITS, CACHE_SLOTS, CONTROL_LOST_DEPTH, CONTROL_LOST_SET, DEPTH_MAX, DIRECT_SETS,
    GENERATION_SHIFT, SET_MAX, TAG_BITS,
};

/// Places of the maps in the dispatcher's list.
mod maps {
    pub const PROGS: u32 = 0;
    pub const CACHE: u32 = 1;
    pub const CONTROL: u32 = 2;
    pub const TABLE_EVEN: u32 = 3;
    pub const TABLE_ODD: u32 = 4;
    pub const CURRENT: u32 = 5;
}

/// Stack of the slow path, in bytes from the frame pointer.
mod stack {
    /// Id of the cgroup that is looked up: the table's key.
    pub const KEY: i16 = -8;
    /// The generation that was read.
    pub const GENERATION: i16 = -16;
    /// Levels climbed.
    pub const DEPTH: i16 = -24;
    /// Stands in for the cache slot of an id that has none.
    pub const NO_SLOT: i16 = -32;
}

/// Generates the dispatcher. Its maps are, in this order: the PROG_ARRAY of sets, the cache, the
/// control words, the tables of configured cgroups of even and of odd generations and, if
/// `with_current_table`, the addresses of `current`. With `has_func_ip` it asks for the address of
/// the traced function, on a path that hardly ever runs: the trampoline leaves that address where
/// members look for it only if the attached program asks (arch/x86/net/bpf_jit_comp.c,
/// `BPF_TRAMP_F_IP_ARG`).
///
/// # Errors
/// [`EditError`] if a jump became too long; the constants keep it from that.
pub fn generate(
    layout: &Layout,
    returns: Returns,
    has_func_ip: bool,
    with_current_table: bool,
) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let (none, jump, slow, uncached) = (b.label(), b.label(), b.label(), b.label());

    b.push(Insn::mov(Reg::R6, Reg::R1));
    current::emit(&mut b, layout, with_current_table.then_some(maps::CURRENT));

    // R5 = cgroup of the event, R1 = its id.
    b.push(Insn::load(Size::Dw, Reg::R5, Reg::R0, layout.task_cgroups))
        .push(Insn::load(
            Size::Dw,
            Reg::R5,
            Reg::R5,
            layout.css_set_dfl_cgrp,
        ))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R5, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.kn_id));

    // R0 = generation, read before anything is resolved by it: what is found is stored under the
    // generation it was found in, never under a newer one.
    b.extend(Insn::load_map_value(Reg::R0, maps::CONTROL, 0))
        .push(Insn::load(Size::Dw, Reg::R0, Reg::R0, 0));

    // R2 = tag, R4 = slot, R3 = what differs from a valid word: the set alone on a hit.
    b.push(Insn::mov(Reg::R2, Reg::R1))
        .push(Insn::alu_imm(Alu::Rsh, Reg::R2, CACHE_BITS as i32))
        .push(Insn::mov(Reg::R3, Reg::R2))
        .push(Insn::alu_imm(Alu::Rsh, Reg::R3, TAG_BITS as i32))
        .jump_if_imm(Cond::Ne, Reg::R3, 0, uncached)
        .push(Insn::mov(Reg::R3, Reg::R1))
        .push(Insn::alu(Alu::Xor, Reg::R3, Reg::R2))
        .push(Insn::alu_imm(Alu::And, Reg::R3, CACHE_SLOTS as i32 - 1))
        .push(Insn::alu_imm(Alu::Lsh, Reg::R3, 3))
        .extend(Insn::load_map_value(Reg::R4, maps::CACHE, 0))
        .push(Insn::alu(Alu::Add, Reg::R4, Reg::R3))
        .push(Insn::load(Size::Dw, Reg::R3, Reg::R4, 0))
        .push(Insn::alu_imm(Alu::Lsh, Reg::R2, 64 - TAG_BITS as i32))
        .push(Insn::alu(Alu::Or, Reg::R2, Reg::R0))
        .push(Insn::alu(Alu::Xor, Reg::R3, Reg::R2))
        .jump_if_imm(Cond::Gt, Reg::R3, (1 << GENERATION_SHIFT) - 1, slow)
        .jump_if_imm(Cond::Eq, Reg::R3, 0, none);

    b.place(jump).push(Insn::mov(Reg::R1, Reg::R6));
    tail_calls(&mut b);
    count(&mut b, CONTROL_LOST_SET);

    b.place(none)
        .push(Insn::mov_imm(Reg::R0, returns.neutral()))
        .push(Insn::exit());

    b.place(uncached)
        .push(Insn::mov(Reg::R4, Reg::R10))
        .push(Insn::alu_imm(Alu::Add, Reg::R4, i32::from(stack::NO_SLOT)))
        .push(Insn::mov_imm(Reg::R2, 0));
    b.place(slow);
    resolve(&mut b, layout, has_func_ip, jump, none);
    b.finish()
}

/// Appends the jump to set R3, context in R1; falls through if the set is not in its place.
fn tail_calls(b: &mut Builder) {
    let (lost, indirect) = (b.label(), b.label());
    b.jump_if_imm(Cond::Gt, Reg::R3, i32::from(DIRECT_SETS), indirect);
    tree(b, 0, i32::from(DIRECT_SETS) + 1, lost);
    b.place(indirect)
        .extend(Insn::load_map(Reg::R2, maps::PROGS));
    b.push(Insn::call(helper::TAIL_CALL)).place(lost);
}

/// A binary search over `low..high`. A tail call with a constant index becomes a direct jump.
fn tree(b: &mut Builder, low: i32, high: i32, lost: crate::asm::Label) {
    if high - low == 1 {
        b.extend(Insn::load_map(Reg::R2, maps::PROGS))
            .push(Insn::mov_imm(Reg::R3, low))
            .push(Insn::call(helper::TAIL_CALL))
            .jump(lost);
        return;
    }
    let (middle, right) = (low + (high - low) / 2, b.label());
    b.jump_if_imm(Cond::Ge, Reg::R3, middle, right);
    tree(b, low, middle, lost);
    b.place(right);
    tree(b, middle, high, lost);
}

/// Appends the increment of a control word. Only on paths that should never be taken.
fn count(b: &mut Builder, word: usize) {
    b.extend(Insn::load_map_value(
        Reg::R1,
        maps::CONTROL,
        word as u32 * 8,
    ))
    .push(Insn::mov_imm(Reg::R2, 1))
    .push(Insn::atomic_add(Reg::R1, 0, Reg::R2));
}

/// Appends the slow path: climb to the nearest configured cgroup, store what was found, go on.
/// Comes with R0 = generation, R1 = id, R2 = tag and generation, R4 = slot, R5 = cgroup.
fn resolve(
    b: &mut Builder,
    layout: &Layout,
    has_func_ip: bool,
    jump: crate::asm::Label,
    none: crate::asm::Label,
) {
    let (climb, up, found) = (b.label(), b.label(), b.label());
    let (odd, looked_up) = (b.label(), b.label());
    b.push(Insn::mov(Reg::R7, Reg::R4))
        .push(Insn::mov(Reg::R8, Reg::R2))
        .push(Insn::mov(Reg::R9, Reg::R5))
        .push(Insn::store(Size::Dw, Reg::R10, stack::KEY, Reg::R1))
        .push(Insn::store(Size::Dw, Reg::R10, stack::GENERATION, Reg::R0))
        .push(Insn::mov_imm(Reg::R1, 0))
        .push(Insn::store(Size::Dw, Reg::R10, stack::DEPTH, Reg::R1));
    if has_func_ip {
        b.push(Insn::mov(Reg::R1, Reg::R6))
            .push(Insn::call(helper::GET_FUNC_IP));
    }

    b.place(climb)
        .push(Insn::mov(Reg::R2, Reg::R10))
        .push(Insn::alu_imm(Alu::Add, Reg::R2, i32::from(stack::KEY)))
        // The generation that was read chooses the table.
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, stack::GENERATION))
        .jump_if_imm(Cond::Set, Reg::R1, 1 << GENERATION_SHIFT, odd)
        .extend(Insn::load_map(Reg::R1, maps::TABLE_EVEN))
        .push(Insn::call(helper::MAP_LOOKUP_ELEM))
        .jump(looked_up);
    b.place(odd)
        .extend(Insn::load_map(Reg::R1, maps::TABLE_ODD))
        .push(Insn::call(helper::MAP_LOOKUP_ELEM));
    b.place(looked_up)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, up)
        .push(Insn::load(Size::W, Reg::R3, Reg::R0, 0))
        .push(Insn::alu_imm(Alu::And, Reg::R3, 0xffff))
        .jump(found);

    // cgroup_parent(): the parent's css is embedded in the parent (kernel/cgroup/cgroup.c).
    b.place(up)
        .push(Insn::mov_imm(Reg::R3, 0))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R9, layout.cgroup_parent))
        .jump_if_imm(Cond::Eq, Reg::R1, 0, found)
        .push(Insn::load(Size::Dw, Reg::R9, Reg::R1, layout.css_cgroup))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R9, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.kn_id))
        .push(Insn::store(Size::Dw, Reg::R10, stack::KEY, Reg::R1))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, stack::DEPTH))
        .push(Insn::alu_imm(Alu::Add, Reg::R1, 1))
        .push(Insn::store(Size::Dw, Reg::R10, stack::DEPTH, Reg::R1))
        .jump_if_imm(Cond::Lt, Reg::R1, DEPTH_MAX, climb);
    count(b, CONTROL_LOST_DEPTH);
    b.jump(none);

    b.place(found)
        .push(Insn::mov(Reg::R1, Reg::R8))
        .push(Insn::alu(Alu::Or, Reg::R1, Reg::R3))
        .push(Insn::store(Size::Dw, Reg::R7, 0, Reg::R1))
        .jump_if_imm(Cond::Eq, Reg::R3, 0, none)
        .jump_if_imm(Cond::Gt, Reg::R3, i32::from(SET_MAX), none)
        .jump(jump);
}
