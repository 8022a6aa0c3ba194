//! What a program knows of events before: those of other hooks, and its own.

use super::{CodeError, Generator};
use crate::asm::{Alu, Cond, Insn, Label as Target, Reg, Size, helper};
use crate::budget::pair;
use crate::meter::code::NOTED_MAX;
use crate::meter::expr::Node;
use crate::meter::resolved::{Carried, Find, Owner, Program, Twice};
use crate::meter::shape::{control, maps, note};
use crate::meter::written::KEYS_MAX;

impl Generator<'_> {
    /// So many words of the note from a place on: what these come to, those that are left as 0.
    fn note_words(&mut self, from: usize, count: usize, nodes: &[Node]) -> Result<(), CodeError> {
        for word in 0..count {
            let at = self.stack.note + (from + word) as i16 * 8;
            match nodes.get(word) {
                Some(node) => {
                    self.emit.number(&mut self.b, node)?;
                    self.store(at, Reg::R7);
                }
                None => {
                    self.b.push(Insn::store_imm(Size::Dw, Reg::R10, at, 0));
                }
            }
        }
        Ok(())
    }

    fn note_key(&mut self, key: &[Node]) -> Result<(), CodeError> {
        self.note_words(0, KEYS_MAX, key)
    }

    /// Goes to `other` if the entry at a register is not that of the note's key: one that is evicted is
    /// another key's at once.
    fn unless_of_key(&mut self, entry: Reg, other: Target) {
        for at in (0..KEYS_MAX as i16).map(|word| word * 8) {
            self.b.push(Insn::load(Size::Dw, Reg::R1, entry, at));
            self.load(Reg::R2, self.stack.note + at);
            self.b.jump_if(Cond::Ne, Reg::R1, Reg::R2, other);
        }
    }

    /// Puts the note into its map and goes to `done`, or falls through where there is no room, which is
    /// counted.
    fn put_note(&mut self, number: usize, done: Target) {
        self.b.stack_address(Reg::R3, self.stack.note);
        self.b.push(Insn::mov_imm(Reg::R4, 0));
        self.b.call_map(
            self.plan.sink.first_note() + number as u32,
            self.stack.note,
            helper::MAP_UPDATE_ELEM,
        );
        self.b.jump_if_imm(Cond::Eq, Reg::R0, 0, done);
        self.b.increment(maps::CONTROL, control::NOTES_LOST);
    }

    /// Finds a note: its cgroup is in the key of usage, its age and what it keeps in their slots.
    pub(super) fn find(&mut self, find: &Find) -> Result<(), CodeError> {
        self.note_key(&find.key)?;
        let map = self.plan.sink.first_note() + find.note as u32;
        let (missed, found) = (self.b.label(), self.b.label());
        self.b
            .call_map(map, self.stack.note, helper::MAP_LOOKUP_ELEM);
        self.b
            .jump_if_imm(Cond::Eq, Reg::R0, 0, missed)
            .push(Insn::mov(Reg::R9, Reg::R0));
        let word = |at: usize| at as i16 * 8;
        self.b
            .push(Insn::load(Size::Dw, Reg::R1, Reg::R9, word(note::CGROUP)));
        self.store(self.stack.key, Reg::R1);
        self.b
            .push(Insn::load(Size::Dw, Reg::R8, Reg::R9, word(note::AT_NS)));
        for kept in 0..NOTED_MAX {
            self.b.push(Insn::load(
                Size::Dw,
                Reg::R1,
                Reg::R9,
                word(note::KEPT + kept),
            ));
            self.store(self.stack.slots.noted + word(kept), Reg::R1);
        }
        // What was read is this key's if the key still is.
        self.unless_of_key(Reg::R9, missed);
        self.b.push(Insn::call(helper::KTIME_GET_NS));
        self.store(self.stack.now, Reg::R0);
        let after = self.b.label();
        self.b
            .push(Insn::alu(Alu::Sub, Reg::R0, Reg::R8))
            // CPUs need not agree to the last nanosecond.
            .jump_if_imm(Cond::SignedGe, Reg::R0, 0, after)
            .push(Insn::mov_imm(Reg::R0, 0))
            .place(after);
        self.store(self.stack.slots.elapsed, Reg::R0);
        self.b.jump(found).place(missed);
        self.b.increment(maps::CONTROL, control::UNPAIRED);
        let out = self.out;
        self.b.jump(out).place(found);
        Ok(())
    }

    pub(super) fn note(
        &mut self,
        program: &Program,
        number: usize,
        key: &[Node],
        keep: &[Node],
    ) -> Result<(), CodeError> {
        self.condition(program)?;
        if let Owner::Noted(find) = &program.owner {
            self.find(find)?;
        }
        self.cgroup(&program.owner);
        let word = |at: usize| at as i16 * 8;
        self.note_words(note::KEPT, NOTED_MAX, keep)?;
        self.note_key(key)?;
        self.load(Reg::R1, self.stack.key);
        self.store(self.stack.note + word(note::CGROUP), Reg::R1);
        self.b.push(Insn::call(helper::KTIME_GET_NS));
        self.store(self.stack.note + word(note::AT_NS), Reg::R0);
        self.put_note(number, self.out);
        Ok(())
    }

    /// What the event before with the same key left is in its slots, 0 where there was none; this one's is
    /// in its place.
    pub(super) fn carry(&mut self, carried: &Carried) -> Result<(), CodeError> {
        let word = |at: usize| at as i16 * 8;
        let kept = |at: usize| word(note::KEPT + at);
        self.note_words(note::KEPT, carried.keep.len(), &carried.keep)?;
        self.note_key(&carried.key)?;
        let map = self.plan.sink.first_note() + carried.note as u32;
        self.b
            .call_map(map, self.stack.note, helper::MAP_LOOKUP_ELEM);
        let (unknown, known) = (self.b.label(), self.b.label());
        self.b.jump_if_imm(Cond::Eq, Reg::R0, 0, unknown);
        self.unless_of_key(Reg::R0, unknown);
        for at in 0..carried.keep.len() {
            self.b
                .push(Insn::load(Size::Dw, Reg::R1, Reg::R0, kept(at)));
            self.store(self.stack.slots.noted + word(at), Reg::R1);
            self.load(Reg::R1, self.stack.note + kept(at));
            self.b
                .push(Insn::store(Size::Dw, Reg::R0, kept(at), Reg::R1));
        }
        self.b.jump(known).place(unknown);
        let unused = [note::CGROUP, note::AT_NS].into_iter();
        let unused = unused.chain(note::KEPT + carried.keep.len()..note::WORDS);
        let slots = (0..carried.keep.len()).map(|at| self.stack.slots.noted + word(at));
        for at in unused.map(|at| self.stack.note + word(at)).chain(slots) {
            self.b.push(Insn::store_imm(Size::Dw, Reg::R10, at, 0));
        }
        self.put_note(carried.note, known);
        self.b.place(known);
        Ok(())
    }

    /// Goes on with what comes once, and with the first of what comes two times ([`crate::budget::pair`]).
    pub(super) fn pass_second(&mut self, twice: &Twice) -> Result<(), CodeError> {
        let once = self.b.label();
        self.emit.unless(&mut self.b, &twice.when, once)?;
        // The key is the task, which is written there below.
        self.note_words(1, note::WORDS - 1, &[])?;
        let map = self.plan.sink.first_note() + twice.note as u32;
        pair::take(&mut self.b, map, self.stack.note, self.out);
        self.put_note(twice.note, once);
        self.b.place(once);
        Ok(())
    }
}
