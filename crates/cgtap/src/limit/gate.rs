//! The program of a gate: at one hook, for one limited cgroup, it asks the budgets of that cgroup and
//! of all limited ones above, and refuses the event if one of them has too little left.
//!
//! The budgets are constants of the code: nothing is looked up. Where patterns give cgroups budgets as
//! they are made, the nearest is looked up on the way from the event's cgroup up instead, and leads to
//! those above ([`crate::budget::ladder`]). First those are asked whose amount is
//! known only afterwards, then the others are taken from, the nearest first; where one refuses, what
//! was taken is given back, so an event is charged at all levels or at none. Budgets that are only
//! observed come last: what they would have refused is written down, and the event goes on.

use crate::asm::{Alu, Builder, Cond, Frame, Insn, Label, Reg, Size, helper};
use crate::budget::denial::SIGNAL;
use crate::budget::emit::{Charger, Doer, Look, Maps, Slots as ChargeSlots};
use crate::budget::ladder::{Asks, Ladder};
use crate::budget::pair::Pairs;
use crate::budget::reserve::{Levels, ROOM_WORDS, Room};
use crate::hook::HookKind;
use crate::kernel::layout::Layout;
use crate::kernel::read::{Access, Reader};
use crate::kernel::scope::ScopeInfo;
use crate::kernel::{current, emit};
use crate::meter::CodeError;
use crate::meter::code::{Emitter, Slots};
use crate::meter::expr::Label as MeterLabel;
use crate::meter::resolved::{GateProgram, TEXT_WORDS};

/// Places of the maps in a gate's list.
pub mod maps {
    /// One entry: all budgets.
    pub const BUDGETS: u32 = 0;
    /// One entry: the ring of denials.
    pub const DENIALS: u32 = 1;
    /// Hash: cgroup and number of what is limited -> index of its budget; there if any is found so.
    /// Behind it come hashes: task -> what it has reserved, one for each value of which something is.
    pub const HOMES: u32 = 2;
}

/// Cgroups above an event's own that are looked at for the nearest budget.
const CLIMB_MAX: i32 = 128;
/// Values whose budgets one gate looks up at the most.
pub const LADDERS_MAX: usize = 4;

/// Values of meters that one gate holds at the most.
pub const PARTS_MAX: usize = 16;

/// A budget that a gate asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Index of the budget.
    pub index: u32,
    /// It is refilled.
    pub is_bucket: bool,
    /// What becomes of an event that it refuses: an errno, a signal from [`SIGNAL`] on, 0 if it is only
    /// observed.
    pub verdict: i32,
}

/// A value of a meter that a gate holds.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// The gate on this kernel.
    pub program: &'a GateProgram,
    /// Labels that an event must have, by their number, with the words that they are.
    pub only: &'a [(usize, Vec<u64>)],
    /// The budgets.
    pub of: Budgets<'a>,
    /// What is expected is reserved until it is known: place of the map of reservations.
    pub reserved: Option<u32>,
}

/// The budgets that a part asks.
#[derive(Clone, Copy, Debug)]
pub enum Budgets<'a> {
    /// These, the nearest first.
    Known(&'a [Claim]),
    /// Those that are found under this number of what is limited, from the event's cgroup up.
    Found(u32, Asks),
}

impl<'a> Part<'a> {
    /// What it asks is taken, be it for a while.
    fn is_taken(&self) -> bool {
        self.program.ask.is_some() || self.reserved.is_some()
    }

    fn claims(&self) -> &'a [Claim] {
        match self.of {
            Budgets::Known(claims) => claims,
            Budgets::Found(..) => &[],
        }
    }
}

/// What is asked in one go.
#[derive(Clone, Copy)]
enum Step {
    One(Asked),
    Up(Climbed),
}

/// A part whose budgets are found.
#[derive(Clone, Copy)]
struct Climbed {
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

struct Generator<'a> {
    b: Builder,
    emit: Emitter<'a>,
    charger: Charger,
    /// Stack of the amounts, a word a part.
    amounts: i16,
    /// Bits of the parts that the event is of, where there are several.
    active: Option<i16>,
    /// A text label.
    text: i16,
    /// The cgroup of the event, and the key of its budget.
    home: i16,
    ladders: Vec<Climbed>,
    /// A reservation.
    room: Room,
    /// Bits of the parts of which nothing is expected.
    unknown: i16,
    /// Events that come two times.
    pairs: Option<Pairs>,
}

/// Generates the program of a gate, whose events are those of the cgroups that `scope` says. `pairs` is
/// the place of the map of events that come two times, `neutral` what it returns to let an event pass.
///
/// # Errors
/// [`CodeError`].
pub fn generate(
    layout: &Layout,
    access: Access,
    kind: HookKind,
    scope: &ScopeInfo,
    parts: &[Part<'_>],
    pairs: Option<u32>,
    neutral: i32,
) -> Result<Vec<Insn>, CodeError> {
    let mut frame = Frame::default();
    let slots = Slots::new(&mut frame);
    let charger = Charger {
        maps: Maps {
            budgets: maps::BUDGETS,
            denials: maps::DENIALS,
        },
        slots: ChargeSlots::new(&mut frame),
    };
    let mut b = Builder::new();
    let out = b.label();
    let mut generator = Generator {
        b,
        emit: Emitter {
            reader: Reader::new(layout, access, slots.scratch),
            has_typed_arguments: parts.iter().any(|p| p.program.has_typed_arguments),
            slots,
        },
        charger,
        amounts: frame.take(parts.len()),
        active: (parts.len() > 1).then(|| frame.take(1)),
        text: frame.take(TEXT_WORDS),
        home: frame.take(3),
        ladders: ladders(&mut frame, parts),
        room: Room(frame.take(ROOM_WORDS)),
        unknown: frame.take(1),
        pairs: pairs.map(|map| Pairs::new(&mut frame, map)),
    };
    generator.b.push(Insn::mov(Reg::R6, Reg::R1));
    if kind == HookKind::CgroupDevice {
        // Others' programs, those of cgroups further down, were asked before: what one of them has
        // refused does not happen, and costs nothing.
        generator
            .b
            .push(Insn::call(helper::GET_RETVAL))
            .jump_if_imm(Cond::Ne, Reg::R0, 0, out);
    }
    generator.measure(parts, out)?;
    generator.pass_second(parts, out)?;
    generator.settle(parts);
    generator.climb(scope, out);
    generator.ask(parts);
    let passed = generator.b.label();
    generator.verdict(kind, parts, passed);
    let mut b = generator.b;
    b.place(passed);
    if let Some(pairs) = generator.pairs {
        pairs.note_first(&mut b, out);
    }
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, neutral))
        .push(Insn::exit());
    Ok(b.finish()?)
}

fn ladders(frame: &mut Frame, parts: &[Part<'_>]) -> Vec<Climbed> {
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
    fn climb(&mut self, scope: &ScopeInfo, out: Label) {
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

    fn amount(&self, part: usize) -> i16 {
        self.amounts + part as i16 * 8
    }

    /// Which parts an event is of, and what it asks of each; goes to `out` if it is of none.
    fn measure(&mut self, parts: &[Part<'_>], out: Label) -> Result<(), CodeError> {
        if let Some(active) = self.active {
            self.b.push(Insn::store_imm(Size::Dw, Reg::R10, active, 0));
        }
        let unknown = self.unknown;
        if parts.iter().any(|p| p.reserved.is_some()) {
            self.b.push(Insn::store_imm(Size::Dw, Reg::R10, unknown, 0));
        }
        for (at, part) in parts.iter().enumerate() {
            let next = match self.active {
                Some(_) => self.b.label(),
                None => out,
            };
            if let Some(condition) = &part.program.condition {
                self.emit.unless(&mut self.b, condition, next)?;
            }
            for (label, words) in part.only {
                self.only(part.program, *label, words, next)?;
            }
            let program = part.program;
            if let Some(ask) = program.ask.as_ref().or(program.expect.as_ref()) {
                self.emit.number(&mut self.b, ask)?;
                if program.ask.is_none() {
                    // Whatever is expected, nothing passes where nothing is left.
                    let some = self.b.label();
                    self.b.jump_if_imm(Cond::Ne, Reg::R7, 0, some);
                    if part.reserved.is_some() {
                        self.b
                            .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, unknown))
                            .push(Insn::alu_imm(Alu::Or, Reg::R1, 1 << at))
                            .push(Insn::store(Size::Dw, Reg::R10, unknown, Reg::R1));
                    }
                    self.b.push(Insn::mov_imm(Reg::R7, 1)).place(some);
                }
                let amount = self.amount(at);
                self.b
                    .push(Insn::store(Size::Dw, Reg::R10, amount, Reg::R7));
            }
            if let Some(active) = self.active {
                self.b
                    .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, active))
                    .push(Insn::alu_imm(Alu::Or, Reg::R1, 1 << at))
                    .push(Insn::store(Size::Dw, Reg::R10, active, Reg::R1))
                    .place(next);
            }
        }
        if let Some(active) = self.active {
            self.b
                .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, active))
                .jump_if_imm(Cond::Eq, Reg::R1, 0, out);
        }
        Ok(())
    }

    /// Goes to `next` unless a label is `words`.
    fn only(
        &mut self,
        program: &GateProgram,
        label: usize,
        words: &[u64],
        next: Label,
    ) -> Result<(), CodeError> {
        match program.by.get(label) {
            Some(Some(MeterLabel::Number(node, _))) => {
                self.emit.number(&mut self.b, node)?;
                self.b
                    .constant(Reg::R1, words.first().copied().unwrap_or(0));
                self.b.jump_if(Cond::Ne, Reg::R7, Reg::R1, next);
            }
            Some(Some(MeterLabel::Text(load))) => {
                let bytes = TEXT_WORDS as i16 * 8;
                for word in 0..TEXT_WORDS as i16 {
                    self.b
                        .push(Insn::store_imm(Size::Dw, Reg::R10, self.text + word * 8, 0));
                }
                self.emit.text(&mut self.b, load, self.text, bytes);
                for (at, word) in words.iter().enumerate().take(TEXT_WORDS) {
                    let at = self.text + at as i16 * 8;
                    self.b.push(Insn::load(Size::Dw, Reg::R2, Reg::R10, at));
                    self.b.constant(Reg::R1, *word);
                    self.b.jump_if(Cond::Ne, Reg::R2, Reg::R1, next);
                }
            }
            // Whoever made the plan has seen to it that the gate tells the label.
            _ => {
                self.b.jump(next);
            }
        }
        Ok(())
    }

    /// Goes to `out` if the event was asked when it came before.
    fn pass_second(&mut self, parts: &[Part<'_>], out: Label) -> Result<(), CodeError> {
        let Some(pairs) = self.pairs else {
            return Ok(());
        };
        pairs.begin(&mut self.b);
        for (at, part) in parts.iter().enumerate() {
            if let Some(twice) = &part.program.twice {
                let next = self.b.label();
                self.unless_active(at, next);
                self.emit.unless(&mut self.b, twice, next)?;
                pairs.mark(&mut self.b);
                self.b.place(next);
            }
        }
        pairs.pass_second(&mut self.b, out);
        Ok(())
    }

    /// Goes to `next` if the event is not of a part.
    fn unless_active(&mut self, part: usize, next: Label) {
        if let Some(active) = self.active {
            self.b
                .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, active))
                .push(Insn::alu_imm(Alu::And, Reg::R1, 1 << part))
                .jump_if_imm(Cond::Eq, Reg::R1, 0, next);
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
    fn ask(&mut self, parts: &[Part<'_>]) {
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
    fn settle(&mut self, parts: &[Part<'_>]) {
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

    /// Does what was found out; goes to `out` to let the event pass.
    fn verdict(&mut self, kind: HookKind, parts: &[Part<'_>], out: Label) {
        let is_signal = parts.iter().any(|p| match p.of {
            Budgets::Known(claims) => claims.iter().any(|c| c.verdict >= SIGNAL),
            Budgets::Found(_, asks) => asks == Asks::Signals,
        });
        self.charger.verdict(&mut self.b);
        self.b.jump_if_imm(Cond::Eq, Reg::R1, 0, out);
        if is_signal {
            self.b
                .push(Insn::alu_imm(Alu::Sub, Reg::R1, SIGNAL))
                .push(Insn::call(helper::SEND_SIGNAL));
        } else if kind == HookKind::RawTracepointWritable {
            // All gates of a tracepoint refuse its events in the same way.
            for write in parts.iter().take(1).flat_map(|p| &p.program.writes) {
                self.b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, 0));
                self.b.constant(Reg::R2, write.value);
                self.b.push(Insn::store(
                    Size::of_bytes(write.bytes),
                    Reg::R1,
                    write.offset,
                    Reg::R2,
                ));
            }
        } else if kind == HookKind::CgroupDevice {
            // 0 refuses, with EPERM unless something else is said.
            self.b
                .push(Insn::mov_imm(Reg::R2, 0))
                .push(Insn::alu(Alu::Sub, Reg::R2, Reg::R1))
                .push(Insn::mov(Reg::R1, Reg::R2))
                .push(Insn::call(helper::SET_RETVAL))
                .push(Insn::mov_imm(Reg::R0, 0))
                .push(Insn::exit());
        } else {
            self.b
                .push(Insn::mov_imm(Reg::R0, 0))
                .push(Insn::alu(Alu::Sub, Reg::R0, Reg::R1))
                .push(Insn::exit());
        }
    }
}
