//! The entry of a cgroup and labels: found or made, and whose it is once the cgroup is gone. The
//! programs that charge and the one that moves usage do it alike.

use super::shape::maps;
use crate::asm::{Alu, Builder, Cond, Insn, Label, Reg, Size, helper};

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
