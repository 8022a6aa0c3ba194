//! Asking the budgets of a gate: those that it knows, and those that are found from the event's cgroup up.

use super::{Budgets, Claim, Generator, Part, maps};
use crate::asm::{Alu, Cond, Frame, Insn, Label, Reg, Size, helper};
use crate::budget::emit::{Doer, Look};
use crate::budget::ladder::Ladder;
use crate::budget::reserve::Levels;
use crate::kernel::read::{Access, Reader};
use crate::kernel::scope::ScopeInfo;
use crate::kernel::{current, emit};

/// Cgroups above an event's own that are looked at for the nearest budget.
const CLIMB_MAX: i32 = 128;

/// What is asked in one go.
#[derive(Clone, Copy)]
enum Step {
    One(Asked),
    Up(Climbed),
}

/// A part whose budgets are found.
#[derive(Clone, Copy)]
pub(super) struct Climbed {
    part: usize,
    number: u32,
    ladder: Ladder,
    has_amount: bool,
    is_taken: bool,
}

/// A claim and its part.
#[derive(Clone, Copy)]
struct Asked {
    part: usize,
    claim: Claim,
    /// What it takes is known, or at least expected.
    has_amount: bool,
    is_taken: bool,
}

pub(super) fn ladders(frame: &mut Frame, parts: &[Part<'_>]) -> Vec<Climbed> {
    let climbed = |(part, p): (usize, &Part<'_>)| match p.of {
        Budgets::Known(_) => None,
        Budgets::Found(number, asks) => Some(Climbed {
            part,
            number,
            ladder: Ladder::new(frame, asks),
            has_amount: p.program.ask.is_some() || p.program.expect.is_some(),
            is_taken: p.is_taken(),
        }),
    };
    parts.iter().enumerate().filter_map(climbed).collect()
}

impl Step {
    fn part(&self) -> usize {
        match self {
            Self::One(asked) => asked.part,
            Self::Up(climbed) => climbed.part,
        }
    }
}

impl Generator<'_> {
    /// Finds the budgets that are not known, from the event's cgroup up; goes to `out` if it is of
    /// none.
    pub(super) fn climb(&mut self, scope: &ScopeInfo, out: Label) {
        if self.ladders.is_empty() {
            return;
        }
        let layout = self.emit.reader.layout();
        let typed = Reader::new(layout, Access::Typed, self.emit.slots.scratch);
        let (cgroup, key) = (self.home, self.home + 8);
        let reader = match scope {
            ScopeInfo::Path(walk) => {
                self.emit.reader.cgroup(&mut self.b, walk, out);
                self.emit.reader
            }
            // Whoever made the plan has seen to it that the gate's events are those of `current`.
            ScopeInfo::Current | ScopeInfo::Owner(_) => {
                current::emit(&mut self.b, layout, None);
                emit::cgroup_of_task(&mut self.b, layout, Reg::R9, Reg::R0);
                typed
            }
        };
        self.b
            .push(Insn::store(Size::Dw, Reg::R10, cgroup, Reg::R9));
        for climbed in self.ladders.clone() {
            climbed.ladder.clear(&mut self.b);
            let next = self.b.label();
            self.unless_active(climbed.part, next);
            let b = &mut self.b;
            let (level, found) = (b.label(), b.label());
            b.push(Insn::load(Size::Dw, Reg::R9, Reg::R10, cgroup));
            b.constant(Reg::R1, u64::from(climbed.number));
            b.push(Insn::store(Size::Dw, Reg::R10, key + 8, Reg::R1));
            reader.id(b);
            b.push(Insn::mov_imm(Reg::R7, 0)).place(level);
            b.push(Insn::store(Size::Dw, Reg::R10, key, Reg::R1))
                .call_map(maps::HOMES, key, helper::MAP_LOOKUP_ELEM)
                .jump_if_imm(Cond::Ne, Reg::R0, 0, found);
            reader.parent(b, next);
            b.push(Insn::alu_imm(Alu::Add, Reg::R7, 1))
                .jump_if_imm(Cond::Lt, Reg::R7, CLIMB_MAX, level)
                .jump(next)
                .place(found)
                .push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0));
            climbed.ladder.fill(b, &self.charger);
            b.place(next);
        }
    }

    fn look(&self, asked: Asked) -> Look {
        Look {
            index: asked.claim.index,
            is_bucket: asked.claim.is_bucket,
            amount: asked.has_amount.then(|| self.amount(asked.part)),
            verdict: asked.claim.verdict,
        }
    }

    /// Asks all budgets: falls through with the verdict noted, and everything charged or nothing.
    pub(super) fn ask(&mut self, parts: &[Part<'_>]) {
        let all: Vec<Asked> = parts
            .iter()
            .enumerate()
            .flat_map(|(part, p)| {
                let is_taken = p.is_taken();
                let has_amount = is_taken || p.program.expect.is_some();
                p.claims().iter().map(move |claim| Asked {
                    part,
                    claim: *claim,
                    has_amount,
                    is_taken,
                })
            })
            .collect();
        let climbed = self.ladders.clone();
        let steps = |is_wanted: &dyn Fn(&Asked) -> bool, is_taken: bool| -> Vec<Step> {
            let known = all.iter().filter(|a| is_wanted(a)).copied();
            let found = climbed.iter().filter(|c| c.is_taken == is_taken).copied();
            known.map(Step::One).chain(found.map(Step::Up)).collect()
        };
        let holds = |a: &Asked| a.claim.verdict != 0;
        let looked = steps(&|a| holds(a) && !a.is_taken, false);
        let taken = steps(&|a| holds(a) && a.is_taken, true);
        let observed: Vec<Asked> = all.iter().filter(|a| !holds(a)).copied().collect();

        self.charger.begin(&mut self.b);
        if all.iter().any(|a| a.claim.is_bucket) || !climbed.is_empty() {
            self.charger.read_clock(&mut self.b);
        }
        // Where what was taken from the first `n` of `taken` is given back; it is never all of them.
        let undo: Vec<Label> = (0..taken.len().max(1)).map(|_| self.b.label()).collect();
        let end = self.b.label();
        for step in &looked {
            self.where_active(*step, |gate, step| gate.look_at(step, undo[0]));
        }
        for (at, step) in taken.iter().enumerate() {
            self.where_active(*step, |gate, step| gate.take(step, undo[at]));
        }
        for step in &taken {
            let is_reserved = parts[step.part()].reserved.is_some();
            if !is_reserved {
                self.where_active(*step, Self::done);
            }
        }
        self.reserve(parts, &all, &climbed);
        for asked in &observed {
            self.where_active(Step::One(*asked), |gate, _| gate.observe(*asked));
        }
        for climbed in climbed.iter().filter(|c| c.is_taken) {
            self.where_active(Step::Up(*climbed), |gate, _| {
                let amount = gate.amount(climbed.part);
                climbed.ladder.observe(&mut gate.b, &gate.charger, amount);
            });
        }
        self.b.jump(end);
        for at in (1..taken.len()).rev() {
            self.b.place(undo[at]);
            self.where_active(taken[at - 1], Self::undo);
        }
        self.b.place(undo[0]).place(end);
        self.charger.tell(&mut self.b, Doer::Current);
    }

    /// Gives back what an earlier call of the task left: it is over.
    pub(super) fn settle(&mut self, parts: &[Part<'_>]) {
        for (at, part) in parts.iter().enumerate() {
            if let Some(map) = part.reserved {
                let next = self.b.label();
                self.unless_active(at, next);
                self.room.settle(&mut self.b, &self.charger, map);
                self.b.place(next);
            }
        }
    }

    /// Notes what was taken for parts whose amount is only expected; of what nothing is expected
    /// nothing is kept.
    fn reserve(&mut self, parts: &[Part<'_>], all: &[Asked], climbed: &[Climbed]) {
        for (at, part) in parts.iter().enumerate() {
            let Some(map) = part.reserved else { continue };
            let (next, back) = (self.b.label(), self.b.label());
            self.unless_active(at, next);
            let ladder = climbed.iter().find(|c| c.part == at).map(|c| c.ladder);
            let taken = all.iter().filter(|a| a.part == at && a.claim.verdict != 0);
            let known: Vec<u32> = taken.map(|a| a.claim.index).collect();
            let amount = self.amount(at);
            let levels = match &ladder {
                Some(ladder) => Levels::Found(ladder),
                None => Levels::Known(&known),
            };
            self.b
                .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, self.unknown))
                .push(Insn::alu_imm(Alu::And, Reg::R1, 1 << at))
                .jump_if_imm(Cond::Ne, Reg::R1, 0, back);
            self.room.keep(&mut self.b, amount, levels, map);
            self.b.jump_if_imm(Cond::Eq, Reg::R0, 0, next);
            // Without a note it could not be given back: it does not happen.
            self.charger.refuse(&mut self.b, part.program.deny.0);
            self.b.place(back);
            match ladder {
                Some(ladder) => ladder.undo(&mut self.b, &self.charger, amount),
                None => known
                    .iter()
                    .for_each(|index| self.charger.undo(&mut self.b, *index, amount)),
            }
            self.b.place(next);
        }
    }

    fn where_active(&mut self, step: Step, body: impl FnOnce(&mut Self, Step)) {
        let next = self.b.label();
        self.unless_active(step.part(), next);
        body(self, step);
        self.b.place(next);
    }

    fn look_at(&mut self, step: Step, refused: Label) {
        match step {
            Step::One(asked) => {
                let look = self.look(asked);
                self.charger.look(&mut self.b, look, refused);
            }
            Step::Up(c) => {
                let amount = c.has_amount.then(|| self.amount(c.part));
                c.ladder.look(&mut self.b, &self.charger, amount, refused);
            }
        }
    }

    fn take(&mut self, step: Step, refused: Label) {
        match step {
            Step::One(asked) => {
                let look = self.look(asked);
                self.charger.take(&mut self.b, look, refused);
            }
            Step::Up(c) => {
                let amount = self.amount(c.part);
                c.ladder.take(&mut self.b, &self.charger, amount, refused);
            }
        }
    }

    fn done(&mut self, step: Step) {
        let amount = self.amount(step.part());
        match step {
            Step::One(asked) if asked.claim.is_bucket => {
                self.charger.done(&mut self.b, asked.claim.index, amount);
            }
            Step::One(_) => {}
            Step::Up(c) => c.ladder.done(&mut self.b, &self.charger, amount),
        }
    }

    fn undo(&mut self, step: Step) {
        let amount = self.amount(step.part());
        match step {
            Step::One(asked) => self.charger.undo(&mut self.b, asked.claim.index, amount),
            Step::Up(c) => c.ladder.undo(&mut self.b, &self.charger, amount),
        }
    }

    /// Charges a budget that refuses nothing, where it fits; where it does not, that is noted.
    fn observe(&mut self, asked: Asked) {
        let next = self.b.label();
        let look = self.look(asked);
        if asked.is_taken {
            self.charger.take(&mut self.b, look, next);
            self.done(Step::One(asked));
        } else {
            self.charger.look(&mut self.b, look, next);
        }
        self.b.place(next);
    }
}
