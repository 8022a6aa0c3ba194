//! The program of a gate: at one hook, for one limited cgroup, it asks the budgets of that cgroup and
//! of all limited ones above, and refuses the event if one of them has too little left.
//!
//! The budgets are constants of the code: nothing is looked up. Where patterns give cgroups budgets as
//! they are made, the nearest is looked up on the way from the event's cgroup up instead, and leads to
//! those above ([`crate::budget::ladder`]). First those are asked whose amount is
//! known only afterwards, then the others are taken from, the nearest first; where one refuses, what
//! was taken is given back, so an event is charged at all levels or at none. Budgets that are only
//! observed come last: what they would have refused is written down, and the event goes on.

mod ask;
mod measure;

use ask::{Climbed, ladders};

use crate::asm::{Alu, Builder, Cond, Frame, Insn, Label, Reg, Size, helper};
use crate::budget::denial::SIGNAL;
use crate::budget::emit::{Charger, Maps, Slots as ChargeSlots};
use crate::budget::ladder::Asks;
use crate::budget::pair::Pairs;
use crate::budget::reserve::{ROOM_WORDS, Room};
use crate::hook::HookKind;
use crate::kernel::layout::Layout;
use crate::kernel::read::{Access, Reader};
use crate::kernel::scope::ScopeInfo;
use crate::meter::CodeError;
use crate::meter::code::{Emitter, Slots};
use crate::meter::resolved::GateProgram;
use crate::meter::text::TEXT_WORDS;

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

impl Generator<'_> {
    fn amount(&self, part: usize) -> i16 {
        self.amounts + part as i16 * 8
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
