//! The program that stands at a hook: finds the cgroup of the event, its set, and jumps there.

use crate::asm::{Alu, Builder, Cond, EditError, Insn, Label, Reg, Size, helper};
use crate::hook::kind::Returns;
use crate::kernel::layout::Layout;
use crate::kernel::scope::{OwnerInfo, ScopeInfo};
use crate::kernel::{current, emit};

use super::noter::{KEY_WORDS, NOTE_IDS};
use super::turn;
use super::word::{
    CACHE_BITS, CACHE_SLOTS, CONTROL_LOST_DEPTH, CONTROL_LOST_SET, CONTROL_UNOWNED, DEPTH_MAX,
    DIRECT_SETS, GENERATION_SHIFT, NOTE_LEVELS, SET_MAX, TAG_BITS,
};
use crate::kernel::read::{Access, Reader};

/// Places of the maps in the dispatcher's list.
mod maps {
    pub const PROGS: u32 = 0;
    pub const CACHE: u32 = 1;
    pub const CONTROL: u32 = 2;
    pub const TABLE_EVEN: u32 = 3;
    pub const TABLE_ODD: u32 = 4;
    /// The addresses of `current`, or the notes: no scope takes both.
    pub const CURRENT: u32 = 5;
    pub const NOTES: u32 = CURRENT;
}

/// Stack of the slow path, in bytes from the frame pointer.
mod stack {
    /// Id of the cgroup that is looked up: the table's key.
    pub const KEY: i16 = -8;
    /// The generation that was read.
    pub const GENERATION: i16 = -16;
    /// Levels climbed.
    pub const DEPTH: i16 = -24;
    /// What is read by a helper.
    pub const SCRATCH: i16 = -32;
    /// The key that a note is looked up by.
    pub const NOTE_KEY: i16 = -48;
}

/// What a dispatcher is generated from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// This kernel's layout.
    pub layout: &'a Layout,
    /// How returns combine: what is returned where nothing runs.
    pub returns: Returns,
    /// Ask for the address of the traced function, on a path that hardly ever runs: the trampoline
    /// leaves that address where members look for it only if the attached program asks
    /// (arch/x86/net/bpf_jit_comp.c, `BPF_TRAMP_F_IP_ARG`).
    pub has_func_ip: bool,
    /// Whose an event is.
    pub scope: &'a ScopeInfo,
    /// How its arguments are read.
    pub access: Access,
    /// `current` is looked up in a table.
    pub with_current_table: bool,
    /// Sets are not jumped to: whose turn it is is written down for them (`turn`).
    pub decides: bool,
}

/// Generates the dispatcher. Its maps are, in this order: the PROG_ARRAY of sets, or where turns are
/// written down if it decides, the cache, the
/// control words, the tables of configured cgroups of even and of odd generations, and then the
/// addresses of `current`, if it looks there, or the notes, if its scope takes some.
///
/// # Errors
/// [`EditError`] if a jump became too long; the constants keep it from that.
pub fn generate(plan: &Plan<'_>) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let (none, jump, slow, uncached) = (b.label(), b.label(), b.label(), b.label());
    let unowned = b.label();

    b.push(Insn::mov(Reg::R6, Reg::R1));
    // R1 = id of the event's cgroup, R9 = what leads up from it.
    let way = find(&mut b, plan, unowned);

    // R0 = generation, read before anything is resolved by it: what is found is stored under the
    // generation it was found in, never under a newer one.
    b.extend(Insn::load_map_value(Reg::R0, maps::CONTROL, 0))
        .push(Insn::load(Size::Dw, Reg::R0, Reg::R0, 0));

    // R2 = tag, R4 = slot, R5 = what does not fit a tag, R3 = what differs from a valid word: the set
    // alone on a hit.
    b.push(Insn::mov(Reg::R2, Reg::R1))
        .push(Insn::alu_imm(Alu::Rsh, Reg::R2, CACHE_BITS as i32))
        .push(Insn::mov(Reg::R5, Reg::R2))
        .push(Insn::alu_imm(Alu::Rsh, Reg::R5, TAG_BITS as i32))
        .push(Insn::mov(Reg::R3, Reg::R1))
        .push(Insn::alu(Alu::Xor, Reg::R3, Reg::R2))
        .push(Insn::alu_imm(Alu::And, Reg::R3, CACHE_SLOTS as i32 - 1))
        .push(Insn::alu_imm(Alu::Lsh, Reg::R3, 3))
        .extend(Insn::load_map_value(Reg::R4, maps::CACHE, 0))
        .push(Insn::alu(Alu::Add, Reg::R4, Reg::R3))
        .jump_if_imm(Cond::Ne, Reg::R5, 0, uncached)
        .push(Insn::load(Size::Dw, Reg::R3, Reg::R4, 0))
        .push(Insn::alu_imm(Alu::Lsh, Reg::R2, 64 - TAG_BITS as i32))
        .push(Insn::alu(Alu::Or, Reg::R2, Reg::R0))
        .push(Insn::alu(Alu::Xor, Reg::R3, Reg::R2))
        .jump_if_imm(Cond::Gt, Reg::R3, (1 << GENERATION_SHIFT) - 1, slow)
        .jump_if_imm(Cond::Eq, Reg::R3, 0, none);

    if plan.decides {
        b.jump(jump);
        b.place(none).push(Insn::mov_imm(Reg::R3, 0));
        b.place(jump);
        turn::write(&mut b, maps::PROGS, stack::KEY, Reg::R3);
    } else {
        b.place(jump).push(Insn::mov(Reg::R1, Reg::R6));
        tail_calls(&mut b);
        b.increment(maps::CONTROL, CONTROL_LOST_SET);
        b.place(none);
    }
    b.push(Insn::mov_imm(Reg::R0, plan.returns.neutral()))
        .push(Insn::exit());

    if !matches!(plan.scope, ScopeInfo::Current) {
        b.place(unowned);
        b.increment(maps::CONTROL, CONTROL_UNOWNED);
        b.jump(none);
    }

    // The slot it would have is another's, so nothing is stored; as said by 0, which no word in force
    // is, since generations begin at 1. A slot on the stack would have the loop verified twice.
    b.place(uncached).push(Insn::mov_imm(Reg::R2, 0));
    b.place(slow);
    let ends = Ends {
        jump,
        none,
        unowned,
    };
    resolve(&mut b, plan, way, ends);
    b.finish()
}

/// What leads up from the cgroup of an event.
#[derive(Clone, Copy, Debug)]
enum Way<'a> {
    /// R9 is the cgroup.
    Cgroup(Reader<'a>),
    /// R9 is a note, which holds the ids of all that is above.
    Note,
}

/// Where the slow path ends.
#[derive(Clone, Copy, Debug)]
struct Ends {
    jump: Label,
    none: Label,
    unowned: Label,
}

/// Appends the way to the cgroup of the event.
fn find<'a>(b: &mut Builder, plan: &Plan<'a>, unowned: Label) -> Way<'a> {
    let layout = plan.layout;
    let reader = Reader::new(layout, plan.access, stack::SCRATCH);
    match plan.scope {
        ScopeInfo::Current => {
            let typed = Reader::new(layout, Access::Typed, stack::SCRATCH);
            let table = plan.with_current_table.then_some(maps::CURRENT);
            current::emit(b, layout, table);
            emit::cgroup_of_task(b, layout, Reg::R9, Reg::R0);
            typed.id(b);
            Way::Cgroup(typed)
        }
        ScopeInfo::Path(walk) => {
            reader.cgroup(b, walk, unowned);
            Way::Cgroup(reader)
        }
        ScopeInfo::Owner(owner) => {
            note(b, &reader, owner, unowned);
            Way::Note
        }
    }
}

/// Appends the lookup of a note: R9 is the note, R1 the id of its cgroup.
fn note(b: &mut Builder, reader: &Reader<'_>, owner: &OwnerInfo, unowned: Label) {
    reader.key(b, &owner.keys, KEY_WORDS, stack::NOTE_KEY, unowned);
    b.call_map(maps::NOTES, stack::NOTE_KEY, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, unowned)
        .push(Insn::mov(Reg::R9, Reg::R0))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R9, NOTE_IDS));
    same_note(b, unowned);
}

/// Appends the check that the note R9 is still its key's: an evicted one is given to another key
/// while we look at it. What was read before the check is right if it holds. Clobbers R2 and R4.
fn same_note(b: &mut Builder, unowned: Label) {
    for word in 0..KEY_WORDS {
        b.push(Insn::load(Size::Dw, Reg::R2, Reg::R9, word * 8))
            .push(Insn::load(
                Size::Dw,
                Reg::R4,
                Reg::R10,
                stack::NOTE_KEY + word * 8,
            ))
            .jump_if(Cond::Ne, Reg::R2, Reg::R4, unowned);
    }
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
fn tree(b: &mut Builder, low: i32, high: i32, lost: Label) {
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

/// Appends the slow path: climb to the nearest configured cgroup, store what was found, go on.
/// Comes with R0 = generation, R1 = id, R2 = tag and generation, R4 = slot, R9 = what leads up.
fn resolve(b: &mut Builder, plan: &Plan<'_>, way: Way<'_>, ends: Ends) {
    let (climb, up, found) = (b.label(), b.label(), b.label());
    let (odd, looked_up) = (b.label(), b.label());
    b.push(Insn::mov(Reg::R7, Reg::R4))
        .push(Insn::mov(Reg::R8, Reg::R2))
        .push(Insn::store(Size::Dw, Reg::R10, stack::KEY, Reg::R1))
        .push(Insn::store(Size::Dw, Reg::R10, stack::GENERATION, Reg::R0))
        .push(Insn::mov_imm(Reg::R1, 0))
        .push(Insn::store(Size::Dw, Reg::R10, stack::DEPTH, Reg::R1));
    if plan.has_func_ip {
        b.push(Insn::mov(Reg::R1, Reg::R6))
            .push(Insn::call(helper::GET_FUNC_IP));
    }

    b.place(climb)
        .stack_address(Reg::R2, stack::KEY)
        // The generation that was read chooses the table.
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, stack::GENERATION))
        .jump_if_imm(Cond::Set, Reg::R1, 1 << GENERATION_SHIFT, odd)
        .extend(Insn::load_map(Reg::R1, maps::TABLE_EVEN))
        .push(Insn::call(helper::MAP_LOOKUP_ELEM))
        .jump_if_imm(Cond::Eq, Reg::R0, 0, up)
        // Here and not where both ways meet: the verifier tells the tables' values apart, and would
        // follow both ways on from there.
        .push(Insn::load(Size::W, Reg::R3, Reg::R0, 0))
        .jump(looked_up);
    b.place(odd)
        .extend(Insn::load_map(Reg::R1, maps::TABLE_ODD))
        .push(Insn::call(helper::MAP_LOOKUP_ELEM))
        .jump_if_imm(Cond::Eq, Reg::R0, 0, up)
        .push(Insn::load(Size::W, Reg::R3, Reg::R0, 0));
    b.place(looked_up)
        .push(Insn::alu_imm(Alu::And, Reg::R3, 0xffff))
        .jump(found);

    b.place(up);
    let top = b.label();
    match way {
        Way::Cgroup(reader) => {
            reader.parent(b, top);
            b.push(Insn::store(Size::Dw, Reg::R10, stack::KEY, Reg::R1));
            deeper(b);
            b.jump_if_imm(Cond::Lt, Reg::R1, DEPTH_MAX, climb);
            b.increment(maps::CONTROL, CONTROL_LOST_DEPTH);
            b.jump(ends.none);
        }
        Way::Note => {
            deeper(b);
            b.jump_if_imm(Cond::Ge, Reg::R1, i32::from(NOTE_LEVELS), top)
                .push(Insn::alu_imm(Alu::Lsh, Reg::R1, 3))
                .push(Insn::mov(Reg::R2, Reg::R9))
                .push(Insn::alu(Alu::Add, Reg::R2, Reg::R1))
                .push(Insn::load(Size::Dw, Reg::R1, Reg::R2, NOTE_IDS))
                .push(Insn::store(Size::Dw, Reg::R10, stack::KEY, Reg::R1))
                .jump_if_imm(Cond::Ne, Reg::R1, 0, climb);
        }
    }
    b.place(top).push(Insn::mov_imm(Reg::R3, 0));

    b.place(found);
    if let Way::Note = way {
        same_note(b, ends.unowned);
    }
    let stored = b.label();
    b.jump_if_imm(Cond::Eq, Reg::R8, 0, stored)
        .push(Insn::mov(Reg::R1, Reg::R8))
        .push(Insn::alu(Alu::Or, Reg::R1, Reg::R3))
        .push(Insn::store(Size::Dw, Reg::R7, 0, Reg::R1));
    b.place(stored)
        .jump_if_imm(Cond::Eq, Reg::R3, 0, ends.none)
        .jump_if_imm(Cond::Gt, Reg::R3, i32::from(SET_MAX), ends.none)
        .jump(ends.jump);
}

/// Appends `R1 =` levels climbed, one more than before.
fn deeper(b: &mut Builder) {
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, stack::DEPTH))
        .push(Insn::alu_imm(Alu::Add, Reg::R1, 1))
        .push(Insn::store(Size::Dw, Reg::R10, stack::DEPTH, Reg::R1));
}
