//! Reservations: what a gate takes for an event before it is known whether it happens. The task's note
//! says how much was taken, and where. It is settled by whoever comes first: the program that charges
//! what was made, behind its charge, or the one at the end of the system call, if nothing was made.
//! A task is in one call at a time, so it has one note.

use super::emit::{Charger, LEVELS_MAX};
use super::ladder::Ladder;
use crate::asm::{Builder, Cond, Insn, Reg, Size, helper};

/// Words of a note: the amount and the levels, as [`Ladder`] has them.
pub const WORDS: usize = 1 + LEVELS_MAX / 4;
/// Bytes of a note.
pub const BYTES: u32 = WORDS as u32 * 8;
/// Tasks that may be in such a call at a time; beyond them calls are refused.
pub const NOTES: u32 = 16_384;
/// Words of stack that settling takes: the key and the note.
pub const ROOM_WORDS: usize = 1 + WORDS;

/// Where a note lies on the stack while it is made or settled.
#[derive(Clone, Copy, Debug)]
pub struct Room(pub i16);

impl Room {
    fn note(self) -> i16 {
        self.0 + 8
    }

    fn ladder(self) -> Ladder {
        Ladder::noted(self.note() + 8)
    }

    /// The key: the task.
    fn key(self, b: &mut Builder) {
        b.push(Insn::call(helper::GET_CURRENT_PID_TGID))
            .push(Insn::store(Size::Dw, Reg::R10, self.0, Reg::R0));
    }

    /// Gives back what the task has reserved and still has; `map` has the notes.
    pub fn settle(self, b: &mut Builder, charger: &Charger, map: u32) {
        let none = b.label();
        self.key(b);
        b.call_map(map, self.0, helper::MAP_LOOKUP_ELEM)
            .jump_if_imm(Cond::Eq, Reg::R0, 0, none);
        for word in 0..WORDS as i16 {
            b.push(Insn::load(Size::Dw, Reg::R1, Reg::R0, word * 8))
                .push(Insn::store(
                    Size::Dw,
                    Reg::R10,
                    self.note() + word * 8,
                    Reg::R1,
                ));
        }
        b.call_map(map, self.0, helper::MAP_DELETE_ELEM)
            .jump_if_imm(Cond::Ne, Reg::R0, 0, none);
        self.ladder().undo(b, charger, self.note());
        b.place(none);
    }

    /// Notes that the task has taken what is at `amount` from `levels`, four a word; R0 is not 0 if
    /// there is no room.
    pub fn keep(self, b: &mut Builder, amount: i16, levels: Levels<'_>, map: u32) {
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, amount))
            .push(Insn::store(Size::Dw, Reg::R10, self.note(), Reg::R1));
        for word in 0..WORDS - 1 {
            let to = self.note() + 8 + word as i16 * 8;
            match levels {
                Levels::Known(all) => {
                    let four = all.iter().skip(word * 4).take(4).enumerate();
                    let bits = four.map(|(at, index)| u64::from(index + 1) << (16 * at));
                    b.constant(Reg::R1, bits.sum());
                }
                Levels::Found(ladder) => {
                    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, ladder.word(word)));
                }
            }
            b.push(Insn::store(Size::Dw, Reg::R10, to, Reg::R1));
        }
        self.key(b);
        b.stack_address(Reg::R3, self.note())
            .push(Insn::mov_imm(Reg::R4, 0))
            .call_map(map, self.0, helper::MAP_UPDATE_ELEM);
    }
}

/// What something was taken from.
#[derive(Clone, Copy, Debug)]
pub enum Levels<'a> {
    /// Budgets of these indices.
    Known(&'a [u32]),
    /// Those that were found.
    Found(&'a Ladder),
}
