//! Charging budgets, as instructions. The order of the steps is what `model` explores; each is one
//! load or one atomic operation, none waits for another, and no loop is in them.
//!
//! R8 holds the address of a budget and R6 the context; R0-R5 and R7 are lost.

use super::denial;
use super::words::{BUDGETS, BYTES, VERDICT_SHIFT, flag, word};
use crate::asm::{Alu, Builder, Cond, Frame, Insn, Label, Reg, Size, helper};

/// Bytes of a budget as a shift.
const BYTES_SHIFT: i32 = BYTES.trailing_zeros() as i32;
/// Amounts from 2^this on fit no budget: sums of them could not be told from debts.
const AMOUNT_BITS: i32 = 56;
/// Limited cgroups above one another that are charged, the nearest first.
pub const LEVELS_MAX: usize = 16;
/// Denials further apart than this begin a new row of them.
const STREAK_NS: u64 = 10_000_000_000;

/// Where a program keeps what it found out about budgets.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Nanoseconds since boot.
    now: i16,
    /// The budget of the denial that is told: its index and one more; 0 for none.
    which: i16,
    /// What was asked of it.
    asked: i16,
    /// What it had left.
    left: i16,
    /// What becomes of the event, see [`denial::word::VERDICT`].
    verdict: i16,
    /// Index of the budget that is charged.
    at: i16,
}

impl Slots {
    /// Takes them from `frame`.
    pub fn new(frame: &mut Frame) -> Self {
        Self {
            now: frame.take(1),
            which: frame.take(1),
            asked: frame.take(1),
            left: frame.take(1),
            verdict: frame.take(1),
            at: frame.take(1),
        }
    }
}

/// Who is told to have used what an observed budget would have denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doer {
    /// The task that runs.
    Current,
    /// Nobody that is known, of the cgroup whose id is in this slot, at some time since the reading before.
    Read(i16),
}

/// Maps of budgets and denials, by their place in the program's list.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    /// One entry: all budgets.
    pub budgets: u32,
    /// One entry: the ring of denials.
    pub denials: u32,
}

/// Emits charges of one program.
#[derive(Clone, Copy, Debug)]
pub struct Charger {
    /// The maps.
    pub maps: Maps,
    /// Where things are kept.
    pub slots: Slots,
}

fn at(word: usize) -> i16 {
    word as i16 * 8
}

pub(super) fn get(b: &mut Builder, to: Reg, word: usize) {
    b.push(Insn::load(Size::Dw, to, Reg::R8, at(word)));
}

pub(super) fn slot(b: &mut Builder, to: Reg, slot: i16) {
    b.push(Insn::load(Size::Dw, to, Reg::R10, slot));
}

pub(super) fn keep(b: &mut Builder, slot: i16, from: Reg) {
    b.push(Insn::store(Size::Dw, Reg::R10, slot, from));
}

impl Charger {
    /// Nothing is denied yet.
    pub fn begin(&self, b: &mut Builder) {
        for slot in [self.slots.which, self.slots.verdict] {
            b.push(Insn::store_imm(Size::Dw, Reg::R10, slot, 0));
        }
    }

    /// It is now.
    pub fn read_clock(&self, b: &mut Builder) {
        b.push(Insn::call(helper::KTIME_GET_NS));
        keep(b, self.slots.now, Reg::R0);
    }

    /// The event does not happen, and no budget has refused it.
    pub fn refuse(&self, b: &mut Builder, verdict: i32) {
        b.push(Insn::store_imm(
            Size::Dw,
            Reg::R10,
            self.slots.verdict,
            verdict,
        ));
    }

    /// R1 = what becomes of the event that was denied; 0 if nothing does.
    pub fn verdict(&self, b: &mut Builder) {
        slot(b, Reg::R1, self.slots.verdict);
    }

    /// R8 = the budget of a number.
    pub fn budget(&self, b: &mut Builder, index: u32) {
        b.extend(Insn::load_map_value(
            Reg::R8,
            self.maps.budgets,
            index * BYTES as u32,
        ));
    }

    /// R8 = the budget whose index R1 holds.
    pub(super) fn budget_at(&self, b: &mut Builder) {
        b.push(Insn::alu_imm(Alu::And, Reg::R1, BUDGETS as i32 - 1))
            .push(Insn::alu_imm(Alu::Lsh, Reg::R1, BYTES_SHIFT))
            .extend(Insn::load_map_value(Reg::R8, self.maps.budgets, 0))
            .push(Insn::alu(Alu::Add, Reg::R8, Reg::R1));
    }

    /// R7 = what was refilled up to now; what nobody used of it and is beyond the burst is lost.
    fn clamp(&self, b: &mut Builder) {
        let (positive, clamped) = (b.label(), b.label());
        slot(b, Reg::R1, self.slots.now);
        get(b, Reg::R2, word::EPOCH_NS);
        b.push(Insn::alu(Alu::Sub, Reg::R1, Reg::R2))
            // CPUs need not agree to the last nanosecond.
            .jump_if_imm(Cond::SignedGe, Reg::R1, 0, positive)
            .push(Insn::mov_imm(Reg::R1, 0))
            .place(positive);
        get(b, Reg::R3, word::PERIOD_NS);
        b.push(Insn::mov(Reg::R7, Reg::R1))
            .push(Insn::alu(Alu::Div, Reg::R7, Reg::R3))
            .push(Insn::alu(Alu::Mod, Reg::R1, Reg::R3));
        get(b, Reg::R2, word::AMOUNT);
        b.push(Insn::alu(Alu::Mul, Reg::R7, Reg::R2));
        get(b, Reg::R2, word::MULT);
        b.push(Insn::alu(Alu::Mul, Reg::R1, Reg::R2));
        get(b, Reg::R2, word::SHIFT);
        b.push(Insn::alu(Alu::Rsh, Reg::R1, Reg::R2))
            .push(Insn::alu(Alu::Add, Reg::R7, Reg::R1));

        b.push(Insn::mov(Reg::R2, Reg::R7));
        get(b, Reg::R1, word::DONE);
        b.push(Insn::alu(Alu::Sub, Reg::R2, Reg::R1));
        get(b, Reg::R0, word::LOST);
        b.jump_if(Cond::SignedLe, Reg::R2, Reg::R0, clamped)
            .push(Insn::atomic_compare_exchange(
                Reg::R8,
                at(word::LOST),
                Reg::R2,
            ))
            .place(clamped);
    }

    /// R4 = what may be taken in all, up to now.
    fn allowed(&self, b: &mut Builder, is_bucket: bool) {
        if is_bucket {
            self.clamp(b);
            get(b, Reg::R4, word::CAP);
            get(b, Reg::R2, word::LOST);
            b.push(Insn::alu(Alu::Add, Reg::R4, Reg::R7))
                .push(Insn::alu(Alu::Sub, Reg::R4, Reg::R2));
        } else {
            get(b, Reg::R4, word::CAP);
        }
    }

    /// The same of a budget that may be either.
    pub(super) fn allowed_of_any(&self, b: &mut Builder) {
        let (absolute, known) = (b.label(), b.label());
        get(b, Reg::R1, word::PERIOD_NS);
        b.jump_if_imm(Cond::Eq, Reg::R1, 0, absolute);
        self.allowed(b, true);
        b.jump(known).place(absolute);
        self.allowed(b, false);
        b.place(known);
    }

    /// Counts that the budget R8 has too little for R1, R4 being allowed and R2 taken, and notes it.
    fn deny(&self, b: &mut Builder, verdict: i32) {
        b.push(Insn::mov_imm(Reg::R3, verdict));
        self.deny_as(b);
    }

    /// The same, and the verdict is the budget's own, of which the bits in `most` may be set.
    pub(super) fn deny_by_budget(&self, b: &mut Builder, most: i32) {
        get(b, Reg::R3, word::FLAGS);
        b.push(Insn::alu_imm(Alu::Rsh, Reg::R3, VERDICT_SHIFT as i32))
            .push(Insn::alu_imm(Alu::And, Reg::R3, most));
        self.deny_as(b);
    }

    /// The same, and R3 is the verdict.
    fn deny_as(&self, b: &mut Builder) {
        keep(b, self.slots.verdict, Reg::R3);
        keep(b, self.slots.asked, Reg::R1);
        b.push(Insn::alu(Alu::Sub, Reg::R4, Reg::R2));
        keep(b, self.slots.left, Reg::R4);
        b.push(Insn::atomic_add(Reg::R8, at(word::DENIED_AMOUNT), Reg::R1))
            .push(Insn::mov_imm(Reg::R1, 1))
            .push(Insn::atomic_add(Reg::R8, at(word::DENIED), Reg::R1));
    }

    /// The denial that is told is that of the budget whose index and 1 more R1 holds.
    pub(super) fn note_of(&self, b: &mut Builder) {
        keep(b, self.slots.which, Reg::R1);
    }

    /// The denial that is told is that of the budget of this number.
    fn note(&self, b: &mut Builder, index: u32) {
        let which = i32::try_from(index + 1).unwrap_or(0);
        b.push(Insn::store_imm(Size::Dw, Reg::R10, self.slots.which, which));
    }

    /// Goes to `refused`, with the denial noted, unless budget `index` has the amount in `amount`
    /// left; without an amount, unless it has anything left.
    pub fn look(&self, b: &mut Builder, what: Look, refused: Label) {
        let (open, shut) = (b.label(), b.label());
        self.budget(b, what.index);
        self.allowed(b, what.is_bucket);
        has_left(b, what.amount, open, shut);
        b.place(shut);
        self.deny(b, what.verdict);
        self.note(b, what.index);
        b.jump(refused).place(open);
    }

    /// Takes the amount in `amount` from budget `index`, or takes nothing and goes to `refused`.
    pub fn take(&self, b: &mut Builder, what: Look, refused: Label) {
        let Some(amount) = what.amount else { return };
        let (taken, shut) = (b.label(), b.label());
        self.budget(b, what.index);
        self.allowed(b, what.is_bucket);
        take_left(b, amount, taken, shut);
        b.place(shut);
        self.deny(b, what.verdict);
        self.note(b, what.index);
        b.jump(refused).place(taken);
    }

    /// Gives the amount in `amount` back to budget `index`.
    pub fn undo(&self, b: &mut Builder, index: u32, amount: i16) {
        self.budget(b, index);
        slot(b, Reg::R1, amount);
        give_back(b);
    }

    /// What was taken from the bucket `index` is certain.
    pub fn done(&self, b: &mut Builder, index: u32, amount: i16) {
        self.budget(b, index);
        make_certain(b, amount);
    }

    /// Charges what is in `amount`, which has happened already, to the budget whose index R1 holds
    /// and to all above it. What budgets that are only observed would have denied is noted, as done
    /// by `doer`; what is given back they deny to nobody.
    pub fn post(&self, b: &mut Builder, amount: i16, doer: Doer) {
        let (level, next, end) = (b.label(), b.label(), b.label());
        keep(b, self.slots.at, Reg::R1);
        self.begin(b);
        self.read_clock(b);
        b.push(Insn::mov_imm(Reg::R9, LEVELS_MAX as i32))
            .place(level);
        slot(b, Reg::R1, self.slots.at);
        self.budget_at(b);
        if doer == Doer::Current {
            self.allowed_of_any(b);
        }
        slot(b, Reg::R1, amount);
        b.push(Insn::mov(Reg::R2, Reg::R1))
            .push(Insn::atomic_fetch_add(Reg::R8, at(word::TAKEN), Reg::R2))
            .push(Insn::atomic_add(Reg::R8, at(word::DONE), Reg::R1));
        if doer != Doer::Current {
            // It was used while the bucket refilled: what came meanwhile found room in it, and is not lost.
            self.allowed_of_any(b);
            slot(b, Reg::R1, amount);
            get(b, Reg::R2, word::TAKEN);
        }
        get(b, Reg::R3, word::FLAGS);
        b.push(Insn::alu_imm(Alu::And, Reg::R3, flag::OBSERVE as i32))
            .jump_if_imm(Cond::Eq, Reg::R3, 0, next)
            .jump_if_imm(Cond::SignedLe, Reg::R1, 0, next);
        match doer {
            // Something was left when it began.
            Doer::Current => b.jump_if(Cond::SignedLt, Reg::R2, Reg::R4, next),
            // All of it was there.
            Doer::Read(_) => b.jump_if(Cond::SignedLe, Reg::R2, Reg::R4, next),
        };
        self.deny(b, 0);
        slot(b, Reg::R1, self.slots.at);
        b.push(Insn::alu_imm(Alu::Add, Reg::R1, 1));
        keep(b, self.slots.which, Reg::R1);

        b.place(next);
        get(b, Reg::R1, word::UP);
        b.jump_if_imm(Cond::Eq, Reg::R1, 0, end)
            .push(Insn::alu_imm(Alu::Sub, Reg::R1, 1));
        keep(b, self.slots.at, Reg::R1);
        b.push(Insn::alu_imm(Alu::Sub, Reg::R9, 1))
            .jump_if_imm(Cond::Ne, Reg::R9, 0, level)
            .place(end);
        self.tell(b, doer);
    }

    /// Writes down the denial that was noted, if one was, as one of `doer`.
    pub fn tell(&self, b: &mut Builder, doer: Doer) {
        let (nothing, streak) = (b.label(), b.label());
        slot(b, Reg::R1, self.slots.which);
        b.jump_if_imm(Cond::Eq, Reg::R1, 0, nothing)
            .push(Insn::alu_imm(Alu::Sub, Reg::R1, 1));
        self.budget_at(b);
        self.read_clock(b);
        b.push(Insn::mov(Reg::R1, Reg::R0))
            .push(Insn::mov(Reg::R2, Reg::R0));
        get(b, Reg::R3, word::LAST_DENIED_NS);
        b.push(Insn::alu(Alu::Sub, Reg::R2, Reg::R3));
        b.constant(Reg::R3, STREAK_NS);
        b.jump_if(Cond::Lt, Reg::R2, Reg::R3, streak)
            .push(Insn::store(
                Size::Dw,
                Reg::R8,
                at(word::FIRST_DENIED_NS),
                Reg::R1,
            ))
            .place(streak)
            .push(Insn::store(
                Size::Dw,
                Reg::R8,
                at(word::LAST_DENIED_NS),
                Reg::R1,
            ));

        // R7 = the number of the denial, R9 = its place in the ring.
        b.extend(Insn::load_map_value(Reg::R9, self.maps.denials, 0))
            .push(Insn::mov_imm(Reg::R7, 1))
            .push(Insn::atomic_fetch_add(Reg::R9, at(denial::HEAD), Reg::R7))
            .push(Insn::mov(Reg::R1, Reg::R7))
            .push(Insn::alu_imm(Alu::And, Reg::R1, denial::DENIALS as i32 - 1))
            .push(Insn::alu_imm(Alu::Lsh, Reg::R1, denial::SHIFT))
            .push(Insn::alu(Alu::Add, Reg::R9, Reg::R1))
            .push(Insn::alu_imm(
                Alu::Add,
                Reg::R9,
                denial::HEADER_WORDS as i32 * 8,
            ))
            .push(Insn::store_imm(Size::Dw, Reg::R9, at(denial::word::SEQ), 0));
        let put = |b: &mut Builder, word: usize, from: Reg| {
            b.push(Insn::store(Size::Dw, Reg::R9, at(word), from));
        };
        for (word, from) in [
            (denial::word::WHEN_NS, self.slots.now),
            (denial::word::ASKED, self.slots.asked),
            (denial::word::LEFT, self.slots.left),
            (denial::word::VERDICT, self.slots.verdict),
        ] {
            slot(b, Reg::R1, from);
            put(b, word, Reg::R1);
        }
        get(b, Reg::R1, word::LIMIT);
        put(b, denial::word::LIMIT, Reg::R1);
        match doer {
            Doer::Current => {
                b.push(Insn::call(helper::GET_CURRENT_PID_TGID));
                put(b, denial::word::PID_TGID, Reg::R0);
                b.push(Insn::call(helper::GET_CURRENT_CGROUP_ID));
                put(b, denial::word::CGROUP, Reg::R0);
                b.push(Insn::mov(Reg::R1, Reg::R9))
                    .push(Insn::alu_imm(
                        Alu::Add,
                        Reg::R1,
                        i32::from(at(denial::word::COMM)),
                    ))
                    .push(Insn::mov_imm(Reg::R2, denial::COMM_BYTES as i32))
                    .push(Insn::call(helper::GET_CURRENT_COMM));
            }
            Doer::Read(cgroup) => {
                slot(b, Reg::R1, cgroup);
                put(b, denial::word::CGROUP, Reg::R1);
                let comm = denial::word::COMM..denial::word::COMM + denial::COMM_BYTES / 8;
                for word in comm.chain([denial::word::PID_TGID]) {
                    b.push(Insn::store_imm(Size::Dw, Reg::R9, at(word), 0));
                }
            }
        }
        // Whoever sees its number sees all of it.
        b.push(Insn::alu_imm(Alu::Add, Reg::R7, 1))
            .push(Insn::atomic_fetch_add(
                Reg::R9,
                at(denial::word::SEQ),
                Reg::R7,
            ))
            .place(nothing);
    }
}

/// One budget that is asked.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Its number.
    pub index: u32,
    /// It is refilled.
    pub is_bucket: bool,
    /// Where on the stack the amount is.
    pub amount: Option<i16>,
    /// What becomes of an event that it denies.
    pub verdict: i32,
}

/// Goes to `open` if the budget R8, of which R4 is allowed, has the amount left; without an amount, if it
/// has anything left. Goes on behind itself, or to `shut`, if not: then R1 is the amount and R2 is taken.
pub(super) fn has_left(b: &mut Builder, amount: Option<i16>, open: Label, shut: Label) {
    get(b, Reg::R2, word::TAKEN);
    match amount {
        Some(amount) => {
            sum(b, amount, shut);
            b.jump_if(Cond::SignedLe, Reg::R3, Reg::R4, open);
        }
        None => {
            b.push(Insn::mov_imm(Reg::R1, 0))
                .jump_if(Cond::SignedLt, Reg::R2, Reg::R4, open);
        }
    }
}

/// Takes the amount from the budget R8, of which R4 is allowed, and goes to `taken`. Goes on behind itself,
/// or to `shut`, with nothing taken, if it does not fit: a look, an atomic add, and a second look.
pub(super) fn take_left(b: &mut Builder, amount: i16, taken: Label, shut: Label) {
    get(b, Reg::R2, word::TAKEN);
    sum(b, amount, shut);
    b.jump_if(Cond::SignedGt, Reg::R3, Reg::R4, shut)
        .push(Insn::mov(Reg::R2, Reg::R1))
        .push(Insn::atomic_fetch_add(Reg::R8, at(word::TAKEN), Reg::R2))
        .push(Insn::mov(Reg::R3, Reg::R2))
        .push(Insn::alu(Alu::Add, Reg::R3, Reg::R1))
        .jump_if(Cond::SignedLe, Reg::R3, Reg::R4, taken);
    give_back(b);
}

/// What was taken from the budget R8 is certain.
pub(super) fn make_certain(b: &mut Builder, amount: i16) {
    slot(b, Reg::R1, amount);
    b.push(Insn::atomic_add(Reg::R8, at(word::DONE), Reg::R1));
}

/// R1 = the amount in `amount`, R3 = what is taken, R2, with it; goes to `shut` if it fits no budget.
fn sum(b: &mut Builder, amount: i16, shut: Label) {
    slot(b, Reg::R1, amount);
    b.push(Insn::mov(Reg::R3, Reg::R1))
        .push(Insn::alu_imm(Alu::Rsh, Reg::R3, AMOUNT_BITS))
        .jump_if_imm(Cond::Ne, Reg::R3, 0, shut)
        .push(Insn::mov(Reg::R3, Reg::R2))
        .push(Insn::alu(Alu::Add, Reg::R3, Reg::R1));
}

/// Gives back R1 to the budget R8; R2 is what is taken then.
pub(super) fn give_back(b: &mut Builder) {
    b.push(Insn::mov_imm(Reg::R3, 0))
        .push(Insn::alu(Alu::Sub, Reg::R3, Reg::R1))
        .push(Insn::mov(Reg::R2, Reg::R3))
        .push(Insn::atomic_fetch_add(Reg::R8, at(word::TAKEN), Reg::R2))
        .push(Insn::alu(Alu::Add, Reg::R2, Reg::R3));
}
