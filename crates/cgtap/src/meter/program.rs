//! The programs of a meter: those that note and those that charge.

mod notes;

use super::chain;
use super::code::{Emitter, Slots, TooDeep};
use super::entry;
use super::expr::{Label, Node};
use super::resolved::{Carried, Do, Job, Owner, Program, Twice};
use super::shape::{Shape, Sink, control, maps, note};
use super::text::TEXT_WORDS;
use super::usage::BUCKETS;
use crate::asm::{Alu, Builder, Cond, EditError, Frame, Insn, Label as Target, Reg, Size, helper};
use crate::budget::emit as charge;
use crate::budget::reserve::Room;
use crate::kernel::layout::Layout;
use crate::kernel::read::{Access, Reader};
use crate::kernel::{current, emit};

/// Why a program cannot be generated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// An expression is too deep.
    #[error(transparent)]
    TooDeep(#[from] TooDeep),
    /// A jump is too long.
    #[error("its code is too long: {0}; split the meter")]
    Edit(#[from] EditError),
}

/// What all programs of a meter are generated from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// This kernel's layout.
    pub layout: &'a Layout,
    /// How memory of the kernel is read.
    pub access: Access,
    /// `current` is looked up in a table.
    pub with_current_table: bool,
    /// The meter's maps.
    pub shape: &'a Shape,
    /// Where what is measured goes.
    pub sink: &'a Sink,
}

/// Stack of one program.
struct Stack {
    slots: Slots,
    /// The key of usage: cgroup, labels.
    key: i16,
    /// The key of a note, and behind it the rest of the note.
    note: i16,
    /// Now.
    now: i16,
    /// What is to be added, a word an update.
    amounts: i16,
    /// What charging budgets needs.
    charger: Option<charge::Slots>,
}

struct Generator<'a> {
    b: Builder,
    plan: Plan<'a>,
    emit: Emitter<'a>,
    stack: Stack,
    /// Where nothing is done any more.
    out: Target,
}

/// Generates a program; `neutral` is what it returns.
///
/// # Errors
/// [`CodeError`].
pub fn generate(plan: Plan<'_>, program: &Program, neutral: i32) -> Result<Vec<Insn>, CodeError> {
    let mut b = Builder::new();
    let out = b.label();
    let mut frame = Frame::default();
    let updates = match &program.job {
        Job::Charge { updates, .. } => updates.len(),
        Job::Note { .. } => 0,
    };
    let slots = Slots::new(&mut frame);
    let stack = Stack {
        slots,
        key: frame.take(1 + plan.shape.label_words),
        note: frame.take(note::WORDS),
        now: frame.take(1),
        amounts: frame.take(updates),
        charger: match plan.sink {
            Sink::Usage => None,
            Sink::Budgets(_) => Some(charge::Slots::new(&mut frame)),
        },
    };
    let emit = Emitter {
        reader: Reader::new(plan.layout, plan.access, slots.scratch),
        has_typed_arguments: program.has_typed_arguments,
        slots,
    };
    let mut generator = Generator {
        b,
        plan,
        emit,
        stack,
        out,
    };
    generator.b.push(Insn::mov(Reg::R6, Reg::R1));
    match &program.job {
        Job::Note { note, key, keep } => generator.note(program, *note, key, keep)?,
        Job::Charge {
            carried,
            twice,
            by,
            updates,
        } => {
            let before = (carried.as_ref(), twice.as_ref());
            generator.charge(program, before, by, updates)?;
        }
    }
    let mut b = generator.b;
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, neutral))
        .push(Insn::exit());
    Ok(b.finish()?)
}

impl Generator<'_> {
    fn store(&mut self, at: i16, reg: Reg) {
        self.b.push(Insn::store(Size::Dw, Reg::R10, at, reg));
    }

    fn load(&mut self, reg: Reg, at: i16) {
        self.b.push(Insn::load(Size::Dw, reg, Reg::R10, at));
    }

    /// The id of the cgroup that an event belongs to, in the key of usage. A note has been found
    /// already.
    fn cgroup(&mut self, owner: &Owner) {
        match owner {
            Owner::Current => {
                let layout = self.plan.layout;
                let table = self.plan.with_current_table.then_some(maps::CURRENT);
                current::emit(&mut self.b, layout, table);
                emit::cgroup_of_task(&mut self.b, layout, Reg::R9, Reg::R0);
                // Through typed pointers, whatever the arguments are.
                Reader::new(layout, Access::Typed, self.stack.slots.scratch).id(&mut self.b);
                self.store(self.stack.key, Reg::R1);
            }
            Owner::Path(walk) => {
                let (nobody, found) = (self.b.label(), self.b.label());
                self.emit.reader.cgroup(&mut self.b, walk, nobody);
                self.store(self.stack.key, Reg::R1);
                self.b.jump(found).place(nobody);
                self.b.increment(maps::CONTROL, control::UNOWNED);
                let out = self.out;
                self.b.jump(out).place(found);
            }
            Owner::Noted(_) => {}
        }
    }

    fn condition(&mut self, program: &Program) -> Result<(), CodeError> {
        if let Some(condition) = &program.condition {
            self.emit.unless(&mut self.b, condition, self.out)?;
        }
        Ok(())
    }

    fn charge(
        &mut self,
        program: &Program,
        (carried, twice): (Option<&Carried>, Option<&Twice>),
        by: &[Label],
        updates: &[(usize, Do)],
    ) -> Result<(), CodeError> {
        // A note is looked up only for events that pass, and taken away only by them.
        let asks_note = program.condition.as_ref().is_some_and(Node::asks_note);
        if !asks_note {
            self.condition(program)?;
        }
        if let Some(twice) = twice {
            self.pass_second(twice)?;
        }
        if let Owner::Noted(find) = &program.owner {
            self.find(find)?;
            if asks_note {
                self.condition(program)?;
            }
            if find.is_last {
                let map = self.plan.sink.first_note() + find.note as u32;
                self.b
                    .call_map(map, self.stack.note, helper::MAP_DELETE_ELEM);
            }
        }
        if let Some(carried) = carried {
            self.carry(carried)?;
            if asks_note {
                self.condition(program)?;
            }
        }
        self.cgroup(&program.owner);
        match self.plan.sink {
            // Whatever the labels are.
            Sink::Budgets(only) if only.is_empty() => {}
            _ => self.labels(by)?,
        }
        for (at, (_, what)) in updates.iter().enumerate() {
            self.amount(at, what)?;
        }
        if let (Sink::Budgets(only), Some(slots)) = (self.plan.sink, self.stack.charger) {
            self.charge_budgets(only, slots, updates, &program.owner);
            return Ok(());
        }
        let found = self.b.label();
        self.b
            .call_map(maps::USAGE, self.stack.key, helper::MAP_LOOKUP_ELEM);
        self.b.jump_if_imm(Cond::Ne, Reg::R0, 0, found);
        let places = entry::Places {
            key: self.stack.key,
            label_words: self.plan.shape.label_words,
            scratch: self.stack.slots.scratch,
        };
        let out = self.out;
        entry::create(&mut self.b, places, found, out);
        self.b.place(found).push(Insn::mov(Reg::R9, Reg::R0));
        for (at, (value, what)) in updates.iter().enumerate() {
            self.add(at, *value, what);
        }
        Ok(())
    }

    /// Charges what was measured to the budgets of the cgroup, if the labels are `only` these.
    fn charge_budgets(
        &mut self,
        only: &[(usize, u64)],
        slots: charge::Slots,
        updates: &[(usize, Do)],
        owner: &Owner,
    ) {
        let out = self.out;
        for (word, value) in only {
            self.load(Reg::R1, self.stack.key + 8 + *word as i16 * 8);
            self.b.constant(Reg::R2, *value);
            self.b.jump_if(Cond::Ne, Reg::R1, Reg::R2, out);
        }
        for (at, (_, what)) in updates.iter().enumerate() {
            let amount = self.amount_at(at);
            match what {
                Do::Count => {
                    self.b.push(Insn::store_imm(Size::Dw, Reg::R10, amount, 1));
                }
                Do::Sub(_) => {
                    self.load(Reg::R1, amount);
                    self.b.push(Insn::mov_imm(Reg::R2, 0)).push(Insn::alu(
                        Alu::Sub,
                        Reg::R2,
                        Reg::R1,
                    ));
                    self.store(amount, Reg::R2);
                }
                _ => {}
            }
            let (charger, key) = (chain::charger(slots), self.stack.key);
            chain::post(&mut self.b, &charger, key, amount, charge::Doer::Current);
            if let (Do::Add(_), Owner::Current) = (what, owner) {
                // What was made is charged: what was reserved for it is not needed any more. The note
                // of this event was read, its room is free.
                let room = Room(self.stack.note);
                room.settle(&mut self.b, &charger, maps::RESERVED);
            }
        }
    }

    fn labels(&mut self, by: &[Label]) -> Result<(), CodeError> {
        let mut at = self.stack.key + 8;
        for label in by {
            match label {
                Label::Number(node, _) => {
                    self.emit.number(&mut self.b, node)?;
                    self.store(at, Reg::R7);
                    at += 8;
                }
                Label::Text(load) => {
                    self.emit.label_text(&mut self.b, load, at);
                    at += TEXT_WORDS as i16 * 8;
                }
            }
        }
        Ok(())
    }

    fn amount_at(&self, update: usize) -> i16 {
        self.stack.amounts + update as i16 * 8
    }

    /// Computes what is to be added.
    fn amount(&mut self, update: usize, what: &Do) -> Result<(), CodeError> {
        let to = self.amount_at(update);
        match what {
            Do::Count => {}
            Do::Sum(node) | Do::Hist(node) | Do::Add(node) | Do::Sub(node) => {
                self.emit.number(&mut self.b, node)?;
                self.store(to, Reg::R7);
            }
            Do::Busy(resource) => self.busy(resource, to)?,
        }
        Ok(())
    }

    /// The time since the note or since the resource was last done, whichever is less; the resource
    /// is done now.
    fn busy(&mut self, resource: &Node, to: i16) -> Result<(), CodeError> {
        let (known, counted) = (self.b.label(), self.b.label());
        let (key, now) = (self.stack.slots.scratch, self.stack.now);
        self.load(Reg::R1, self.stack.slots.elapsed);
        self.store(to, Reg::R1);
        self.emit.number(&mut self.b, resource)?;
        self.store(key, Reg::R7);
        self.b.call_map(maps::BUSY, key, helper::MAP_LOOKUP_ELEM);
        self.b.jump_if_imm(Cond::Ne, Reg::R0, 0, known);
        self.b.stack_address(Reg::R3, now);
        self.b.push(Insn::mov_imm(Reg::R4, 0));
        self.b.call_map(maps::BUSY, key, helper::MAP_UPDATE_ELEM);
        self.b.jump_if_imm(Cond::Eq, Reg::R0, 0, counted);
        self.b.increment(maps::CONTROL, control::NOTES_LOST);
        self.b.jump(counted);

        self.b
            .place(known)
            .push(Insn::load(Size::Dw, Reg::R2, Reg::R0, 0));
        self.load(Reg::R1, now);
        self.b
            .push(Insn::store(Size::Dw, Reg::R0, 0, Reg::R1))
            .push(Insn::alu(Alu::Sub, Reg::R1, Reg::R2));
        let positive = self.b.label();
        self.b
            .jump_if_imm(Cond::SignedGe, Reg::R1, 0, positive)
            .push(Insn::mov_imm(Reg::R1, 0))
            .place(positive);
        self.load(Reg::R2, to);
        self.b.jump_if(Cond::Ge, Reg::R1, Reg::R2, counted);
        self.store(to, Reg::R1);
        self.b.place(counted);
        Ok(())
    }

    /// Adds to the values at R9.
    fn add(&mut self, update: usize, value: usize, what: &Do) {
        let offset = self.plan.shape.offsets[value] as i16;
        let amount = self.amount_at(update);
        match what {
            Do::Count => {
                self.b.push(Insn::mov_imm(Reg::R1, 1));
            }
            _ => self.load(Reg::R1, amount),
        }
        match what {
            Do::Count | Do::Sum(_) | Do::Busy(_) => {
                self.b.push(Insn::atomic_add(Reg::R9, offset, Reg::R1));
            }
            Do::Hist(_) => {
                self.b.push(Insn::atomic_add(Reg::R9, offset, Reg::R1));
                bucket(&mut self.b);
                self.b
                    .push(Insn::alu_imm(Alu::Lsh, Reg::R2, 3))
                    .push(Insn::alu(Alu::Add, Reg::R2, Reg::R9))
                    .push(Insn::mov_imm(Reg::R1, 1))
                    .push(Insn::atomic_add(Reg::R2, offset + 8, Reg::R1));
            }
            Do::Add(_) => entry::raise(&mut self.b, offset),
            Do::Sub(_) => {
                self.b
                    .push(Insn::mov_imm(Reg::R2, 0))
                    .push(Insn::alu(Alu::Sub, Reg::R2, Reg::R1))
                    .push(Insn::atomic_add(Reg::R9, offset, Reg::R2));
            }
        }
    }
}

/// R2 = the bucket of R1: the place of its highest bit, without a branch, so that the verifier has
/// one way to follow. Clobbers R1, R3 and R4.
fn bucket(b: &mut Builder) {
    b.push(Insn::mov_imm(Reg::R2, 0));
    for step in [5, 4, 3, 2, 1, 0] {
        // R4 = 1 << step if something is left above, else 0.
        b.push(Insn::mov(Reg::R3, Reg::R1))
            .push(Insn::alu_imm(Alu::Rsh, Reg::R3, 1 << step))
            .push(Insn::mov_imm(Reg::R4, 0))
            .push(Insn::alu(Alu::Sub, Reg::R4, Reg::R3))
            .push(Insn::alu(Alu::Or, Reg::R4, Reg::R3))
            .push(Insn::alu_imm(Alu::Rsh, Reg::R4, 63))
            .push(Insn::alu_imm(Alu::Lsh, Reg::R4, step))
            .push(Insn::alu(Alu::Rsh, Reg::R1, Reg::R4))
            .push(Insn::alu(Alu::Or, Reg::R2, Reg::R4));
    }
    b.push(Insn::alu_imm(Alu::And, Reg::R2, BUCKETS as i32 - 1));
}
