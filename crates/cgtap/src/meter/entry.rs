//! The entry of a cgroup and labels: found or made, and whose it is once the cgroup is gone. The
//! programs that charge and the one that moves usage do it alike.

use super::shape::{CLIMB_MAX, LABEL_SETS, OTHER_WORD, control, maps};
use crate::asm::{Alu, Builder, Cond, Insn, Label, Reg, Size, helper};

/// How often a peak is tried to be set.
const PEAK_TRIES: usize = 4;

/// Where on the stack a key is, and a word that may be overwritten.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The cgroup, and behind it the labels.
    pub key: i16,
    /// Words of the labels.
    pub label_words: usize,
    /// The word.
    pub scratch: i16,
}

/// Appends: the cgroup in the key at `key` becomes the nearest one above that is not gone, looked for
/// `most` times. Clobbers `left` and R0-R5.
pub fn climb(b: &mut Builder, key: i16, left: Reg, most: i32) {
    let (climb, there) = (b.label(), b.label());
    b.push(Insn::mov_imm(left, most))
        .place(climb)
        .call_map(maps::GONE, key, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, there)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0))
        .push(Insn::store(Size::Dw, Reg::R10, key, Reg::R1))
        .push(Insn::alu_imm(Alu::Sub, left, 1))
        .jump_if_imm(Cond::Ne, left, 0, climb)
        .place(there);
}

/// Appends: R0 = the values under the key at `key`, made of zeros if there were none; goes to `found`
/// if there were. R0 is 0 if there is no room. Clobbers R1-R5.
pub fn find_or_make(b: &mut Builder, key: i16, found: Label) {
    b.call_map(maps::USAGE, key, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Ne, Reg::R0, 0, found)
        .extend(Insn::load_map_value(Reg::R3, maps::ZERO, 0))
        // BPF_NOEXIST: another CPU may have been first.
        .push(Insn::mov_imm(Reg::R4, 1))
        .call_map(maps::USAGE, key, helper::MAP_UPDATE_ELEM)
        .call_map(maps::USAGE, key, helper::MAP_LOOKUP_ELEM);
}

/// Appends: R0 = the entry of a key that has none, made; goes to `out` if there is no room. Where the
/// cgroup is gone it is the entry of the nearest one above that is not, if that is there already it goes
/// to `found`. Clobbers R1-R5 and R8.
pub fn create(b: &mut Builder, places: Places, found: Label, out: Label) {
    climb(b, places.key, Reg::R8, CLIMB_MAX);
    if places.label_words > 0 {
        note_labels(b, places);
    }
    find_or_make(b, places.key, found);
    b.jump_if_imm(Cond::Ne, Reg::R0, 0, found);
    b.increment(maps::CONTROL, control::LOST);
    b.jump(out);
}

/// Appends: label words that were never seen are put on the list of them, or changed to `other` if that
/// is full. Clobbers R0-R5.
fn note_labels(b: &mut Builder, places: Places) {
    let (known, other) = (b.label(), b.label());
    let labels = places.key + 8;
    let index = places.scratch;
    b.call_map(maps::LABELS, labels, helper::MAP_LOOKUP_ELEM);
    b.jump_if_imm(Cond::Ne, Reg::R0, 0, known)
        .extend(Insn::load_map_value(
            Reg::R1,
            maps::CONTROL,
            control::LABELS as u32 * 8,
        ))
        .push(Insn::load(Size::Dw, Reg::R2, Reg::R1, 0))
        .jump_if_imm(Cond::Ge, Reg::R2, LABEL_SETS as i32, other)
        .push(Insn::mov_imm(Reg::R2, 1))
        .push(Insn::atomic_fetch_add(Reg::R1, 0, Reg::R2))
        .jump_if_imm(Cond::Ge, Reg::R2, LABEL_SETS as i32, other)
        .push(Insn::store(Size::Dw, Reg::R10, index, Reg::R2));
    b.call_map(maps::LABEL_LIST, index, helper::MAP_LOOKUP_ELEM);
    b.jump_if_imm(Cond::Eq, Reg::R0, 0, other);
    for word in 0..places.label_words as i16 {
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, labels + word * 8))
            .push(Insn::store(Size::Dw, Reg::R0, word * 8, Reg::R1));
    }
    b.stack_address(Reg::R3, index);
    b.push(Insn::mov_imm(Reg::R4, 0));
    b.call_map(maps::LABELS, labels, helper::MAP_UPDATE_ELEM);
    b.jump(known).place(other);
    for word in 0..places.label_words as i16 {
        let ones = OTHER_WORD as u32 as i32;
        b.push(Insn::store_imm(Size::Dw, Reg::R10, labels + word * 8, ones));
    }
    b.increment(maps::CONTROL, control::OTHER);
    b.place(known);
}

/// Appends: R1 more is held of the value at R9 + `offset`, and the peak behind it follows. Clobbers R0-R2.
pub fn raise(b: &mut Builder, offset: i16) {
    let done = b.label();
    b.push(Insn::mov(Reg::R2, Reg::R1))
        .push(Insn::atomic_fetch_add(Reg::R9, offset, Reg::R2))
        .push(Insn::alu(Alu::Add, Reg::R1, Reg::R2))
        .push(Insn::load(Size::Dw, Reg::R0, Reg::R9, offset + 8));
    for _ in 0..PEAK_TRIES {
        b.jump_if(Cond::SignedGe, Reg::R0, Reg::R1, done)
            .push(Insn::mov(Reg::R2, Reg::R0))
            .push(Insn::atomic_compare_exchange(Reg::R9, offset + 8, Reg::R1))
            .jump_if(Cond::Eq, Reg::R0, Reg::R2, done);
    }
    b.place(done);
}
