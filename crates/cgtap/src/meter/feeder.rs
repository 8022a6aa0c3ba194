//! The programs that charge what was read, to usage and to budgets. They hang at no hook: whoever reads runs
//! one, once a charge, with the charge for its arguments. So an entry is found, made, added to and counted as
//! lost by the same instructions as where events are counted, beside the program that moves usage of removed
//! cgroups; and budgets are charged at all levels by the same instructions, beside gates that ask them.

use super::chain;
use super::entry::{self, Places};
use super::record::MeterRecord;
use super::resolved::words_of;
use super::shape::maps;
use super::usage::Form;
use crate::asm::{Builder, Cond, EditError, Frame, Insn, Reg, Size, helper};
use crate::budget::emit::{Doer, Slots};

/// Arguments that a program can be run with.
pub const ARGUMENTS_MAX: usize = 12;

/// The maps that it uses of usage, by their places in [`maps`].
pub const MAPS_OF_USAGE: &[&str] = maps::NAMES_OF_USAGE
    .split_at(maps::LABEL_LIST as usize + 1)
    .0;

/// The maps that it uses of budgets, by their places in [`maps`].
pub const MAPS_OF_BUDGETS: &[&str] = maps::NAMES_OF_BUDGETS
    .split_at(maps::DENIALS as usize + 1)
    .0;

/// Words of a meter's labels.
#[must_use]
pub fn label_words(record: &MeterRecord) -> usize {
    record.labels.iter().map(|l| words_of(&l.shown)).sum()
}

/// Generates that of usage. Its arguments are the cgroup, the words of the labels, and an amount a value.
///
/// # Errors
/// [`EditError`] if a jump became too long; the constants keep it from that.
pub fn of_usage(record: &MeterRecord) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let mut frame = Frame::default();
    let words = 1 + label_words(record);
    let places = Places {
        key: frame.take(words),
        label_words: words - 1,
        scratch: frame.take(1),
    };
    let (found, out) = (b.label(), b.label());
    b.push(Insn::mov(Reg::R6, Reg::R1));
    for at in (0..words as i16).map(|word| word * 8) {
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, at))
            .push(Insn::store(Size::Dw, Reg::R10, places.key + at, Reg::R1));
    }
    b.call_map(maps::USAGE, places.key, helper::MAP_LOOKUP_ELEM);
    b.jump_if_imm(Cond::Ne, Reg::R0, 0, found);
    entry::create(&mut b, places, found, out);
    b.place(found).push(Insn::mov(Reg::R9, Reg::R0));
    for (at, value) in record.values.iter().enumerate() {
        let argument = ((words + at) * 8) as i16;
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, argument));
        match value.form {
            Form::Gauge => entry::raise(&mut b, value.offset as i16),
            _ => {
                b.push(Insn::atomic_add(Reg::R9, value.offset as i16, Reg::R1));
            }
        }
    }
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
    b.finish()
}

/// Generates that of budgets. Its arguments are the cgroup and an amount, which may be less than nothing.
///
/// # Errors
/// As [`of_usage`].
pub fn of_budgets() -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let mut frame = Frame::default();
    let (key, amount) = (frame.take(1), frame.take(1));
    let charger = chain::charger(Slots::new(&mut frame));
    b.push(Insn::mov(Reg::R6, Reg::R1));
    for (at, to) in [(0, key), (8, amount)] {
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, at))
            .push(Insn::store(Size::Dw, Reg::R10, to, Reg::R1));
    }
    chain::post(&mut b, &charger, key, amount, Doer::Read(key));
    b.push(Insn::mov_imm(Reg::R0, 0)).push(Insn::exit());
    b.finish()
}
