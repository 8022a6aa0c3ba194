//! Charges of budgets that are found where the event is, not known when the gate is made: from the
//! nearest up, as [`word::UP`] leads. They are read once, on to the stack: a change of limits in the
//! middle of an event cannot make it give back to others than it took from.
//!
//! The steps are those of constant budgets. R9 counts the levels; otherwise as in [`super::emit`].

use super::denial::SIGNAL;
use super::emit::{Charger, LEVELS_MAX, get, give_back, has_left, make_certain, slot, take_left};
use super::words::{VERDICT_SHIFT, word};
use crate::asm::{Alu, Builder, Cond, Frame, Insn, Label, Reg, Size};

/// Bytes of a level on the stack: the index of its budget and 1 more, 0 behind the last, and bits.
const LEVEL_BYTES: i32 = 2;
/// The gate does not ask it.
const PASSED: i32 = 0x4000;
/// It refuses nothing.
const OBSERVED: i32 = 0x8000;
/// The bits of the index.
const INDEX: i32 = 0x3fff;
/// Bits of an errno.
const ERRNO_BITS: i32 = 0xfff;
/// Bits of a verdict that is a signal.
const SIGNAL_BITS: i32 = SIGNAL | 0x3f;

/// Which budgets a gate asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// All: what is asked is taken from them.
    All,
    /// Those that refuse with an errno.
    Errnos,
    /// Those that send a signal.
    Signals,
}

/// The levels of one value, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Ladder {
    levels: i16,
    /// The level at which a charge ended.
    stop: i16,
    asks: Asks,
}

impl Ladder {
    /// Takes its room from `frame`.
    pub fn new(frame: &mut Frame, asks: Asks) -> Self {
        Self {
            levels: frame.take(LEVELS_MAX * LEVEL_BYTES as usize / 8),
            stop: frame.take(1),
            asks,
        }
    }

    /// The levels that a note has, at `levels` on the stack.
    pub(super) fn noted(levels: i16) -> Self {
        Self {
            levels,
            stop: 0,
            asks: Asks::Errnos,
        }
    }

    /// Where a word of the levels is, four to one.
    pub(super) fn word(&self, word: usize) -> i16 {
        self.levels + word as i16 * 8
    }

    /// There is no level.
    pub fn clear(&self, b: &mut Builder) {
        for word in 0..(LEVELS_MAX as i16 * LEVEL_BYTES as i16 / 8) {
            let at = self.levels + word * 8;
            b.push(Insn::store_imm(Size::Dw, Reg::R10, at, 0));
        }
    }

    /// R2 = where the level R9 is.
    fn level(&self, b: &mut Builder) {
        b.push(Insn::mov(Reg::R3, Reg::R9))
            .push(Insn::alu_imm(Alu::Mul, Reg::R3, LEVEL_BYTES))
            .stack_address(Reg::R2, self.levels)
            .push(Insn::alu(Alu::Add, Reg::R2, Reg::R3));
    }

    /// The levels from the budget whose index R1 holds up.
    pub fn fill(&self, b: &mut Builder, charger: &Charger) {
        let (level, known, end) = (b.label(), b.label(), b.label());
        b.push(Insn::mov_imm(Reg::R9, 0)).place(level);
        b.push(Insn::mov(Reg::R7, Reg::R1));
        charger.budget_at(b);
        b.push(Insn::alu_imm(Alu::Add, Reg::R7, 1))
            .push(Insn::alu_imm(Alu::And, Reg::R7, INDEX));
        get(b, Reg::R1, word::FLAGS);
        b.push(Insn::alu_imm(Alu::Rsh, Reg::R1, VERDICT_SHIFT as i32));
        match self.asks {
            Asks::All => {
                b.jump_if_imm(Cond::Ne, Reg::R1, 0, known)
                    .push(Insn::alu_imm(Alu::Or, Reg::R7, OBSERVED));
            }
            Asks::Errnos => {
                let passed = b.label();
                b.jump_if_imm(Cond::Eq, Reg::R1, 0, passed)
                    .jump_if_imm(Cond::Lt, Reg::R1, SIGNAL, known)
                    .place(passed)
                    .push(Insn::alu_imm(Alu::Or, Reg::R7, PASSED));
            }
            Asks::Signals => {
                b.jump_if_imm(Cond::Ge, Reg::R1, SIGNAL, known)
                    .push(Insn::alu_imm(Alu::Or, Reg::R7, PASSED));
            }
        }
        b.place(known);
        self.level(b);
        b.push(Insn::store(Size::H, Reg::R2, 0, Reg::R7));
        get(b, Reg::R1, word::UP);
        b.jump_if_imm(Cond::Eq, Reg::R1, 0, end)
            .push(Insn::alu_imm(Alu::Sub, Reg::R1, 1))
            .push(Insn::alu_imm(Alu::Add, Reg::R9, 1))
            .jump_if_imm(Cond::Lt, Reg::R9, LEVELS_MAX as i32, level)
            .place(end);
    }

    /// Goes through the levels, R8 being the budget of each: `body` goes on with the label that it is
    /// given. Levels with a bit of `skip` are left out; with `until`, what stands there ends it.
    fn each(
        &self,
        b: &mut Builder,
        charger: &Charger,
        skip: i32,
        until: Option<i16>,
        body: impl FnOnce(&mut Builder, Label),
    ) {
        let (level, next, end) = (b.label(), b.label(), b.label());
        b.push(Insn::mov_imm(Reg::R9, 0)).place(level);
        if let Some(until) = until {
            slot(b, Reg::R1, until);
            b.jump_if(Cond::Ge, Reg::R9, Reg::R1, end);
        }
        self.level(b);
        b.push(Insn::load(Size::H, Reg::R1, Reg::R2, 0))
            .jump_if_imm(Cond::Eq, Reg::R1, 0, end)
            .jump_if_imm(Cond::Set, Reg::R1, skip, next)
            .push(Insn::alu_imm(Alu::And, Reg::R1, INDEX))
            .push(Insn::alu_imm(Alu::Sub, Reg::R1, 1));
        charger.budget_at(b);
        body(b, next);
        b.place(next)
            .push(Insn::alu_imm(Alu::Add, Reg::R9, 1))
            .jump_if_imm(Cond::Lt, Reg::R9, LEVELS_MAX as i32, level)
            .place(end);
    }

    /// Counts and notes that the level R9 refuses.
    fn deny(&self, b: &mut Builder, charger: &Charger) {
        charger.deny_by_budget(
            b,
            match self.asks {
                Asks::All | Asks::Errnos => ERRNO_BITS,
                Asks::Signals => SIGNAL_BITS,
            },
        );
        self.level(b);
        b.push(Insn::load(Size::H, Reg::R1, Reg::R2, 0))
            .push(Insn::alu_imm(Alu::And, Reg::R1, INDEX));
        charger.note_of(b);
    }

    /// Goes to `refused`, with the denial noted, unless each level has the amount left; without an
    /// amount, unless it has anything left. What levels that refuse nothing would have said is noted.
    pub fn look(&self, b: &mut Builder, charger: &Charger, amount: Option<i16>, refused: Label) {
        self.each(b, charger, PASSED, None, |b, next| {
            let shut = b.label();
            charger.allowed_of_any(b);
            has_left(b, amount, next, shut);
            b.place(shut);
            self.deny(b, charger);
            self.level(b);
            b.push(Insn::load(Size::H, Reg::R1, Reg::R2, 0))
                .jump_if_imm(Cond::Set, Reg::R1, OBSERVED, next)
                .jump(refused);
        });
    }

    /// Takes the amount from each level, or nothing and goes to `refused`.
    pub fn take(&self, b: &mut Builder, charger: &Charger, amount: i16, refused: Label) {
        let (shut, taken) = (b.label(), b.label());
        self.each(b, charger, PASSED | OBSERVED, None, |b, next| {
            self.take_one(b, charger, amount, next, shut);
        });
        b.jump(taken).place(shut);
        self.deny(b, charger);
        b.push(Insn::store(Size::Dw, Reg::R10, self.stop, Reg::R9));
        self.give_back(b, charger, amount, Some(self.stop));
        b.jump(refused).place(taken);
    }

    /// Takes the amount from the budget R8 and goes to `next`, or nothing and goes to `shut`.
    fn take_one(&self, b: &mut Builder, charger: &Charger, amount: i16, next: Label, shut: Label) {
        charger.allowed_of_any(b);
        take_left(b, amount, next, shut);
        b.jump(shut);
    }

    fn give_back(&self, b: &mut Builder, charger: &Charger, amount: i16, until: Option<i16>) {
        self.each(b, charger, PASSED | OBSERVED, until, |b, _| {
            slot(b, Reg::R1, amount);
            give_back(b);
        });
    }

    /// Gives back what was taken from all levels.
    pub fn undo(&self, b: &mut Builder, charger: &Charger, amount: i16) {
        self.give_back(b, charger, amount, None);
    }

    /// What was taken is certain.
    pub fn done(&self, b: &mut Builder, charger: &Charger, amount: i16) {
        self.each(b, charger, PASSED | OBSERVED, None, |b, _| {
            make_certain(b, amount);
        });
    }

    /// Takes the amount from levels that refuse nothing, where it fits; where it does not, that is
    /// noted.
    pub fn observe(&self, b: &mut Builder, charger: &Charger, amount: i16) {
        self.each(b, charger, PASSED, None, |b, next| {
            let (taken, shut) = (b.label(), b.label());
            self.level(b);
            b.push(Insn::load(Size::H, Reg::R1, Reg::R2, 0))
                .push(Insn::alu_imm(Alu::And, Reg::R1, OBSERVED))
                .jump_if_imm(Cond::Eq, Reg::R1, 0, next);
            self.take_one(b, charger, amount, taken, shut);
            b.place(shut);
            self.deny(b, charger);
            b.jump(next).place(taken);
            make_certain(b, amount);
        });
    }
}
