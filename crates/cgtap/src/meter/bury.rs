//! The program at `cgroup_rmdir`: what a cgroup used that is gone goes to the one above it, once.
//!
//! The kernel calls this tracepoint under `cgroup_mutex` (kernel/cgroup/cgroup.c, `cgroup_rmdir`), so
//! the program never runs beside itself. A cgroup that goes is noted with the time; usage is moved
//! [`GRACE_NS`](super::shape::GRACE_NS) later, at a later removal, when no program that looked up an
//! entry before can still be adding to it. Until then whoever reads adds it up in the same way.

use super::entry;
use super::shape::{GRACE_NS, GRAVES, LABEL_SETS, Shape, control, maps, words_that_move};
use crate::asm::{Alu, Builder, Cond, EditError, Frame, Insn, Label, Reg, Size, helper};
use crate::kernel::emit;
use crate::kernel::layout::Layout;

/// The tracepoint.
pub const HOOK: &str = "tp_btf:cgroup_rmdir";

/// Cgroups and labels that are dealt with at one removal: more than one cgroup has, so that graves get
/// fewer however many cgroups are removed in a row.
const STEPS: i32 = LABEL_SETS as i32 * 2;
/// With so many graves the grace is not waited for.
const CROWDED: i32 = (GRAVES / 4 * 3) as i32;
/// With so many a reader is not waited for either: what finds no grave is not moved at all.
const JAMMED: i32 = (GRAVES / 16 * 15) as i32;
/// Cgroups above one that is gone that are gone too.
const CLIMB_MAX: i32 = 8;

struct Stack {
    /// Cgroup and labels that usage is moved from.
    from: i16,
    /// And to.
    to: i16,
    now: i16,
    index: i16,
    /// Steps that are left.
    steps: i16,
}

/// Generates the program.
///
/// # Errors
/// [`EditError`] if a jump became too long; the constants keep it from that.
pub fn generate(layout: &Layout, shape: &Shape) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let mut frame = Frame::default();
    let stack = Stack {
        from: frame.take(1 + shape.label_words),
        to: frame.take(1 + shape.label_words),
        now: frame.take(1),
        index: frame.take(1),
        steps: frame.take(1),
    };
    let out = b.label();
    dig(&mut b, layout, &stack, out);
    b.push(Insn::store_imm(Size::Dw, Reg::R10, stack.steps, STEPS));
    fill(&mut b, shape, &stack, out);
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
    b.finish()
}

fn word(b: &mut Builder, reg: Reg, word: usize) {
    b.extend(Insn::load_map_value(reg, maps::CONTROL, word as u32 * 8));
}

/// `reg =` a control word.
fn get(b: &mut Builder, reg: Reg, at: usize) {
    word(b, reg, at);
    b.push(Insn::load(Size::Dw, reg, reg, 0));
}

/// Notes the cgroup that goes: in the ring, and in the map that says what is above it.
fn dig(b: &mut Builder, layout: &Layout, stack: &Stack, out: Label) {
    emit::cgroup_argument(b, layout, out);
    b.push(Insn::load(Size::Dw, Reg::R7, Reg::R6, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R7, Reg::R7, layout.kn_id))
        .push(Insn::load(Size::Dw, Reg::R8, Reg::R6, layout.cgroup_parent))
        .jump_if_imm(Cond::Eq, Reg::R8, 0, out)
        .push(Insn::load(Size::Dw, Reg::R8, Reg::R8, layout.css_cgroup))
        .push(Insn::load(Size::Dw, Reg::R8, Reg::R8, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R8, Reg::R8, layout.kn_id))
        .push(Insn::store(Size::Dw, Reg::R10, stack.from, Reg::R7))
        .push(Insn::store(Size::Dw, Reg::R10, stack.to, Reg::R8));
    b.stack_address(Reg::R3, stack.to);
    b.push(Insn::mov_imm(Reg::R4, 0));
    b.call_map(maps::GONE, stack.from, helper::MAP_UPDATE_ELEM);
    b.push(Insn::call(helper::KTIME_GET_NS)).push(Insn::store(
        Size::Dw,
        Reg::R10,
        stack.now,
        Reg::R0,
    ));

    let (full, dug) = (b.label(), b.label());
    get(b, Reg::R9, control::DUG);
    get(b, Reg::R2, control::FILLED);
    b.push(Insn::mov(Reg::R1, Reg::R9))
        .push(Insn::alu(Alu::Sub, Reg::R1, Reg::R2))
        .jump_if_imm(Cond::Ge, Reg::R1, GRAVES as i32, full)
        .push(Insn::mov(Reg::R1, Reg::R9))
        .push(Insn::alu_imm(Alu::And, Reg::R1, GRAVES as i32 - 1))
        .push(Insn::store(Size::Dw, Reg::R10, stack.index, Reg::R1));
    b.call_map(maps::GRAVES, stack.index, helper::MAP_LOOKUP_ELEM);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, full)
        .push(Insn::store(Size::Dw, Reg::R0, 0, Reg::R7))
        .push(Insn::store(Size::Dw, Reg::R0, 8, Reg::R8))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, stack.now))
        .push(Insn::store(Size::Dw, Reg::R0, 16, Reg::R1))
        .push(Insn::alu_imm(Alu::Add, Reg::R9, 1));
    word(b, Reg::R1, control::DUG);
    b.push(Insn::store(Size::Dw, Reg::R1, 0, Reg::R9)).jump(dug);
    b.place(full).increment(maps::CONTROL, control::STRANDED);
    b.place(dug);
}

/// Moves what is old enough, one cgroup and labels a step.
fn fill(b: &mut Builder, shape: &Shape, stack: &Stack, out: Label) {
    let (step, next, filled) = (b.label(), b.label(), b.label());
    let (crowded, jammed) = (b.label(), b.label());
    b.place(step);
    // R7 = the oldest grave, R8 = its number.
    get(b, Reg::R8, control::FILLED);
    get(b, Reg::R9, control::DUG);
    b.jump_if(Cond::Eq, Reg::R8, Reg::R9, out)
        .push(Insn::mov(Reg::R1, Reg::R8))
        .push(Insn::alu_imm(Alu::And, Reg::R1, GRAVES as i32 - 1))
        .push(Insn::store(Size::Dw, Reg::R10, stack.index, Reg::R1));
    b.call_map(maps::GRAVES, stack.index, helper::MAP_LOOKUP_ELEM);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .push(Insn::mov(Reg::R7, Reg::R0))
        .push(Insn::alu(Alu::Sub, Reg::R9, Reg::R8))
        .jump_if_imm(Cond::Ge, Reg::R9, CROWDED, crowded)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, stack.now))
        .push(Insn::load(Size::Dw, Reg::R2, Reg::R7, 16))
        .push(Insn::mov(Reg::R3, Reg::R1))
        .push(Insn::alu(Alu::Sub, Reg::R3, Reg::R2))
        .jump_if_imm(Cond::Lt, Reg::R3, GRACE_NS as i32, out)
        .place(crowded)
        .jump_if_imm(Cond::Ge, Reg::R9, JAMMED, jammed)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, stack.now));
    get(b, Reg::R2, control::HOLD_UNTIL_NS);
    b.jump_if(Cond::Lt, Reg::R1, Reg::R2, out).place(jammed);

    // R9 = which of the labels that there are is next.
    get(b, Reg::R9, control::CURSOR);
    get(b, Reg::R1, control::LABELS);
    b.jump_if(Cond::Ge, Reg::R9, Reg::R1, filled)
        .jump_if_imm(Cond::Ge, Reg::R9, LABEL_SETS as i32, filled)
        .push(Insn::store(Size::Dw, Reg::R10, stack.index, Reg::R9))
        .push(Insn::alu_imm(Alu::Add, Reg::R9, 1));
    word(b, Reg::R1, control::CURSOR);
    b.push(Insn::store(Size::Dw, Reg::R1, 0, Reg::R9))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R7, 0))
        .push(Insn::store(Size::Dw, Reg::R10, stack.from, Reg::R1))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R7, 8))
        .push(Insn::store(Size::Dw, Reg::R10, stack.to, Reg::R1));
    if shape.label_words > 0 {
        b.call_map(maps::LABEL_LIST, stack.index, helper::MAP_LOOKUP_ELEM);
        b.jump_if_imm(Cond::Eq, Reg::R0, 0, next);
        for at in (0..shape.label_words as i16).map(|word| word * 8) {
            b.push(Insn::load(Size::Dw, Reg::R1, Reg::R0, at))
                .push(Insn::store(
                    Size::Dw,
                    Reg::R10,
                    stack.from + 8 + at,
                    Reg::R1,
                ))
                .push(Insn::store(Size::Dw, Reg::R10, stack.to + 8 + at, Reg::R1));
        }
    }
    one(b, shape, stack, next);
    b.jump(next);

    b.place(filled).push(Insn::mov_imm(Reg::R1, 0));
    word(b, Reg::R2, control::CURSOR);
    b.push(Insn::store(Size::Dw, Reg::R2, 0, Reg::R1))
        .push(Insn::alu_imm(Alu::Add, Reg::R8, 1));
    word(b, Reg::R2, control::FILLED);
    b.push(Insn::store(Size::Dw, Reg::R2, 0, Reg::R8));

    b.place(next)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, stack.steps))
        .push(Insn::alu_imm(Alu::Sub, Reg::R1, 1))
        .push(Insn::store(Size::Dw, Reg::R10, stack.steps, Reg::R1))
        .jump_if_imm(Cond::Ne, Reg::R1, 0, step);
}

/// Moves the usage of one cgroup and labels to the nearest cgroup above that is there.
fn one(b: &mut Builder, shape: &Shape, stack: &Stack, next: Label) {
    let (found, stranded) = (b.label(), b.label());
    b.call_map(maps::USAGE, stack.from, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, next)
        .push(Insn::mov(Reg::R6, Reg::R0));
    entry::climb(b, stack.to, Reg::R7, CLIMB_MAX);
    entry::find_or_make(b, stack.to, found);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, stranded).place(found);
    b.push(Insn::mov(Reg::R7, Reg::R0));
    b.increment(maps::CONTROL, control::MOVES);
    for (form, offset) in shape.forms.iter().zip(&shape.offsets) {
        for at in (0..words_that_move(*form) as i16).map(|word| *offset as i16 + word * 8) {
            b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, at))
                .push(Insn::atomic_add(Reg::R7, at, Reg::R1));
        }
    }
    b.call_map(maps::USAGE, stack.from, helper::MAP_DELETE_ELEM);
    b.increment(maps::CONTROL, control::MOVES);
    b.jump(next)
        .place(stranded)
        .increment(maps::CONTROL, control::STRANDED);
}
