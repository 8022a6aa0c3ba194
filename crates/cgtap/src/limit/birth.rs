//! The programs that give cgroups budgets of their own as they are made, and take them back as they
//! go: so limits on a pattern hold for what matches it later, with no process of ours alive.
//!
//! The kernel calls both tracepoints under `cgroup_mutex`, and `cgroup_mkdir` before the directory is
//! there for anybody (kernel/cgroup/cgroup.c, `cgroup_mkdir`): no task can be in it yet. So the
//! programs never run beside themselves, and what they keep in the map of places needs no atomics.
//!
//! Patterns are compared by straight-line code: the names of the cgroup and of those above it up to
//! the anchor, whose id is a constant.

use serde::{Deserialize, Serialize};

use crate::asm::{Alu, Builder, Cond, EditError, Frame, Insn, Label, Reg, Size, helper};
use crate::budget::places::{self, NAME_BYTES, NAMES_AT, PLACES, REST_NS, header};
use crate::budget::rate::Rate;
use crate::budget::words::{self, BYTES, NAMED, VERDICT_SHIFT};
use crate::cgroup::pattern::Glob;
use crate::id::CgroupId;
use crate::kernel::emit;
use crate::kernel::layout::Layout;

pub use crate::meter::chain::{MADE, REMOVED};

/// Places of the maps in the programs' lists.
pub mod maps {
    /// One entry: all budgets.
    pub const BUDGETS: u32 = 0;
    /// One entry: [`crate::budget::places`].
    pub const PLACES: u32 = 1;
    /// Hash: cgroup -> the first of its places.
    pub const BIRTHS: u32 = 2;
    /// Hash: cgroup and number of what is limited -> index of its budget.
    pub const HOMES: u32 = 3;
    /// Hashes: cgroup -> index of the budget that it is charged to first, one for each value that is
    /// charged after the event.
    pub const CHAINS: u32 = 4;
}

/// Patterns of a state.
pub const PATTERNS_MAX: usize = 64;

/// A pattern, as the program is made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Its number.
    pub number: u32,
    /// The cgroup below which it is compared.
    pub anchor: CgroupId,
    /// The components below that, from the top down.
    pub components: Vec<String>,
    /// Number of what is limited.
    pub group: u32,
    /// Which of the maps [`maps::CHAINS`] begins with is that of the group; none for one that is
    /// charged before.
    pub chains: Option<u32>,
    /// A cgroup is given one budget of those that have this in common: the first that matches.
    pub value: u32,
    /// Index of the budget of the anchor or the next one above it, and 1 more; 0 for none.
    pub up: u32,
    /// Index of the budget that those share that find no place.
    pub shared: u32,
    /// What may be used, or may gather.
    pub cap: u64,
    /// With a period: so much, each so many nanoseconds.
    pub rate: Option<(u64, u64)>,
    /// What becomes of an event that is refused.
    pub verdict: i32,
    /// [`words::flag`].
    pub flags: u64,
}

/// All that the programs are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The patterns, in the order in which they are tried.
    pub follow: Vec<Follow>,
}

struct Stack {
    /// Ids of the cgroup and of those above it.
    ids: i16,
    /// Bytes of their names, with the end.
    lengths: i16,
    now: i16,
    /// Values of which it has a budget.
    has: i16,
    /// Its first place, and 1 more.
    first: i16,
    /// Index of the budget that it is given.
    slot: i16,
    /// Of its number, and that of what is above.
    key: i16,
    up: i16,
}

fn at(word: usize) -> i16 {
    word as i16 * 8
}

/// `reg =` a word in front of the places.
fn get(b: &mut Builder, reg: Reg, word: usize) {
    b.extend(Insn::load_map_value(reg, maps::PLACES, word as u32 * 8))
        .push(Insn::load(Size::Dw, reg, reg, 0));
}

/// A word in front of the places becomes `from`; clobbers R5.
fn put(b: &mut Builder, word: usize, from: Reg) {
    b.extend(Insn::load_map_value(Reg::R5, maps::PLACES, word as u32 * 8))
        .push(Insn::store(Size::Dw, Reg::R5, 0, from));
}

/// `to =` the address of the place, or of the entry of the ring, whose number is in `index`; `shift`
/// is its size.
fn address(b: &mut Builder, to: Reg, index: Reg, first_word: usize, shift: usize) {
    b.push(Insn::mov(Reg::R5, index))
        .push(Insn::alu_imm(Alu::And, Reg::R5, PLACES as i32 - 1))
        .push(Insn::alu_imm(Alu::Lsh, Reg::R5, shift as i32))
        .extend(Insn::load_map_value(
            to,
            maps::PLACES,
            first_word as u32 * 8,
        ))
        .push(Insn::alu(Alu::Add, to, Reg::R5));
}

fn place(b: &mut Builder, to: Reg, index: Reg) {
    address(b, to, index, places::FIRST, places::WORDS_SHIFT + 3);
}

fn of_ring(b: &mut Builder, to: Reg, index: Reg) {
    address(b, to, index, places::RING, 3);
}

fn slot(b: &mut Builder, to: Reg, slot: i16) {
    b.push(Insn::load(Size::Dw, to, Reg::R10, slot));
}

fn keep(b: &mut Builder, slot: i16, from: Reg) {
    b.push(Insn::store(Size::Dw, Reg::R10, slot, from));
}

fn end(mut b: Builder, out: Label) -> Result<Vec<Insn>, EditError> {
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
    b.finish()
}

/// Generates the program at [`MADE`].
///
/// # Errors
/// [`EditError`] if the patterns are so many that a jump becomes too long.
pub fn at_mkdir(layout: &Layout, plan: &Plan) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let mut frame = Frame::default();
    let levels = plan.follow.iter().map(|f| f.components.len()).max();
    let levels = levels.unwrap_or(0);
    let stack = Stack {
        ids: frame.take(levels + 1),
        lengths: frame.take(levels.max(1)),
        now: frame.take(1),
        has: frame.take(1),
        first: frame.take(1),
        slot: frame.take(1),
        key: frame.take(2),
        up: frame.take(1),
    };
    let out = b.label();
    emit::cgroup_argument(&mut b, layout, out);
    look_up(&mut b, layout, &stack, levels);
    b.push(Insn::call(helper::KTIME_GET_NS));
    keep(&mut b, stack.now, Reg::R0);
    for word in [stack.has, stack.first] {
        b.push(Insn::store_imm(Size::Dw, Reg::R10, word, 0));
    }
    for follow in &plan.follow {
        let next = b.label();
        matches(&mut b, &stack, follow, next);
        give(&mut b, &stack, follow, next);
        b.place(next);
    }
    end(b, out)
}

/// Reads the ids and names of the cgroup R6 and of so many above it.
fn look_up(b: &mut Builder, layout: &Layout, stack: &Stack, levels: usize) {
    let known = b.label();
    for level in 0..=levels {
        b.push(Insn::store_imm(
            Size::Dw,
            Reg::R10,
            stack.ids + at(level),
            0,
        ));
    }
    for level in 0..levels.max(1) {
        let at = stack.lengths + at(level);
        b.push(Insn::store_imm(Size::Dw, Reg::R10, at, 0));
    }
    for level in 0..=levels {
        b.push(Insn::load(Size::Dw, Reg::R7, Reg::R6, layout.cgroup_kn))
            .push(Insn::load(Size::Dw, Reg::R1, Reg::R7, layout.kn_id));
        keep(b, stack.ids + at(level), Reg::R1);
        if level == levels {
            break;
        }
        let names = (NAMES_AT + level * NAME_BYTES) as u32;
        b.push(Insn::load(Size::Dw, Reg::R3, Reg::R7, layout.kn_name))
            .extend(Insn::load_map_value(Reg::R1, maps::PLACES, names))
            .push(Insn::mov_imm(Reg::R2, NAME_BYTES as i32))
            .push(Insn::call(helper::PROBE_READ_KERNEL_STR));
        keep(b, stack.lengths + at(level), Reg::R0);
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.cgroup_parent))
            .jump_if_imm(Cond::Eq, Reg::R1, 0, known)
            .push(Insn::load(Size::Dw, Reg::R6, Reg::R1, layout.css_cgroup));
    }
    b.place(known);
}

/// Goes to `next` unless the cgroup is one that the pattern matches, and has no budget of its value.
fn matches(b: &mut Builder, stack: &Stack, follow: &Follow, next: Label) {
    slot(b, Reg::R1, stack.ids + at(follow.components.len()));
    b.constant(Reg::R2, follow.anchor.0);
    b.jump_if(Cond::Ne, Reg::R1, Reg::R2, next);
    slot(b, Reg::R1, stack.has);
    b.constant(Reg::R2, 1 << (follow.value % 64));
    b.jump_if(Cond::Set, Reg::R1, Reg::R2, next);
    for (level, component) in follow.components.iter().rev().enumerate() {
        // What is no glob was refused when the pattern was recorded.
        match Glob::of(component) {
            Ok(glob) => fits(b, stack, level, &glob, next),
            Err(_) => {
                b.jump(next);
            }
        }
    }
}

/// Goes to `next` unless the name at a level is as `glob` says.
fn fits(b: &mut Builder, stack: &Stack, level: usize, glob: &Glob, next: Label) {
    let name = (NAMES_AT + level * NAME_BYTES) as u32;
    let least = glob.head.len() + glob.tail.as_ref().map_or(0, Vec::len) + 1;
    slot(b, Reg::R1, stack.lengths + at(level));
    if least > NAME_BYTES {
        b.jump(next);
        return;
    }
    if glob.tail.is_none() {
        b.jump_if_imm(Cond::Ne, Reg::R1, least as i32, next);
    } else {
        b.jump_if_imm(Cond::Lt, Reg::R1, least as i32, next)
            .jump_if_imm(Cond::Gt, Reg::R1, NAME_BYTES as i32, next);
    }
    if glob.head.iter().any(Option::is_some) {
        b.extend(Insn::load_map_value(Reg::R3, maps::PLACES, name));
        same(b, &glob.head, next);
    }
    let tail = glob.tail.as_deref().unwrap_or_default();
    if tail.iter().any(Option::is_some) {
        b.push(Insn::alu_imm(Alu::Sub, Reg::R1, tail.len() as i32 + 1))
            .extend(Insn::load_map_value(Reg::R3, maps::PLACES, name))
            .push(Insn::alu(Alu::Add, Reg::R3, Reg::R1));
        same(b, tail, next);
    }
}

/// Goes to `next` unless these bytes are at R3.
fn same(b: &mut Builder, bytes: &[Option<u8>], next: Label) {
    for (at, byte) in bytes.iter().enumerate() {
        if let Some(byte) = byte {
            b.push(Insn::load(Size::B, Reg::R2, Reg::R3, at as i16))
                .jump_if_imm(Cond::Ne, Reg::R2, i32::from(*byte), next);
        }
    }
}

/// Gives the cgroup a budget of the pattern: a place of its own, or the one that is shared.
fn give(b: &mut Builder, stack: &Stack, follow: &Follow, next: Label) {
    let (none, have) = (b.label(), b.label());
    slot(b, Reg::R1, stack.has);
    b.constant(Reg::R2, 1 << (follow.value % 64));
    b.push(Insn::alu(Alu::Or, Reg::R1, Reg::R2));
    keep(b, stack.has, Reg::R1);
    b.constant(Reg::R1, u64::from(follow.group));
    keep(b, stack.key + 8, Reg::R1);
    above(b, stack, follow);

    // R9 = the place that has been free longest, R8 = its words.
    get(b, Reg::R7, header::GIVEN);
    get(b, Reg::R2, header::BACK);
    b.jump_if(Cond::Eq, Reg::R7, Reg::R2, none);
    of_ring(b, Reg::R3, Reg::R7);
    b.push(Insn::load(Size::Dw, Reg::R9, Reg::R3, 0))
        .push(Insn::alu_imm(Alu::And, Reg::R9, PLACES as i32 - 1));
    place(b, Reg::R8, Reg::R9);
    let rested = b.label();
    b.push(Insn::load(
        Size::Dw,
        Reg::R2,
        Reg::R8,
        at(places::word::BACK_NS),
    ))
    .jump_if_imm(Cond::Eq, Reg::R2, 0, rested);
    slot(b, Reg::R1, stack.now);
    b.push(Insn::alu(Alu::Sub, Reg::R1, Reg::R2))
        .jump_if_imm(Cond::Lt, Reg::R1, REST_NS as i32, none)
        .place(rested)
        .push(Insn::alu_imm(Alu::Add, Reg::R7, 1));
    put(b, header::GIVEN, Reg::R7);
    // R7 = the number of the birth.
    get(b, Reg::R7, header::BORN);
    b.push(Insn::alu_imm(Alu::Add, Reg::R7, 1));
    let word = |word: usize, from: Reg| Insn::store(Size::Dw, Reg::R8, at(word), from);
    slot(b, Reg::R1, stack.ids);
    b.push(word(places::word::CGROUP, Reg::R1));
    b.constant(Reg::R1, u64::from(follow.number));
    b.push(word(places::word::PATTERN, Reg::R1));
    slot(b, Reg::R1, stack.first);
    b.push(word(places::word::NEXT, Reg::R1))
        .push(word(places::word::BIRTH, Reg::R7))
        .push(Insn::mov(Reg::R1, Reg::R9))
        .push(Insn::alu_imm(Alu::Add, Reg::R1, 1));
    keep(b, stack.first, Reg::R1);
    budget(b, stack, follow);
    b.push(Insn::mov(Reg::R1, Reg::R9))
        .push(Insn::alu_imm(Alu::Add, Reg::R1, NAMED as i32));
    keep(b, stack.slot, Reg::R1);
    note(b, maps::BIRTHS, stack.ids, stack.first);
    put(b, header::BORN, Reg::R7);
    b.jump(have).place(none);
    // What is shared leads to what is above the anchor: where there is a budget in between, that holds.
    let share = b.label();
    slot(b, Reg::R1, stack.up);
    b.jump_if_imm(Cond::Eq, Reg::R1, follow.up as i32, share)
        .increment(maps::PLACES, header::LOST)
        .jump(next)
        .place(share);
    b.increment(maps::PLACES, header::SHARING);
    b.constant(Reg::R1, u64::from(follow.shared));
    keep(b, stack.slot, Reg::R1);

    b.place(have);
    slot(b, Reg::R1, stack.ids);
    keep(b, stack.key, Reg::R1);
    note(b, maps::HOMES, stack.key, stack.slot);
    if let Some(chains) = follow.chains {
        note(b, maps::CHAINS + chains, stack.ids, stack.slot);
    }
}

/// What is at `value` is put under the key at `key`; where there is no room that is counted.
fn note(b: &mut Builder, map: u32, key: i16, value: i16) {
    let done = b.label();
    b.stack_address(Reg::R3, value)
        .push(Insn::mov_imm(Reg::R4, 0))
        .call_map(map, key, helper::MAP_UPDATE_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, done)
        .increment(maps::PLACES, header::LOST)
        .place(done);
}

/// The index, and 1 more, of the budget above: that of a cgroup between it and the anchor, or what is
/// known of the anchor.
fn above(b: &mut Builder, stack: &Stack, follow: &Follow) {
    let (found, known) = (b.label(), b.label());
    for level in 1..follow.components.len() {
        slot(b, Reg::R1, stack.ids + at(level));
        keep(b, stack.key, Reg::R1);
        b.call_map(maps::HOMES, stack.key, helper::MAP_LOOKUP_ELEM)
            .jump_if_imm(Cond::Ne, Reg::R0, 0, found);
    }
    b.constant(Reg::R1, u64::from(follow.up));
    b.jump(known).place(found);
    if follow.components.len() > 1 {
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0))
            .push(Insn::alu_imm(Alu::Add, Reg::R1, 1));
    }
    b.place(known);
    keep(b, stack.up, Reg::R1);
}

/// Begins the budget of the place R9; R7 is the number of the birth. Clobbers R8.
fn budget(b: &mut Builder, stack: &Stack, follow: &Follow) {
    b.push(Insn::mov(Reg::R1, Reg::R9))
        .push(Insn::alu_imm(
            Alu::Lsh,
            Reg::R1,
            BYTES.trailing_zeros() as i32,
        ))
        .extend(Insn::load_map_value(
            Reg::R8,
            maps::BUDGETS,
            (NAMED * BYTES) as u32,
        ))
        .push(Insn::alu(Alu::Add, Reg::R8, Reg::R1));
    let rate = follow.rate.and_then(|(n, ns)| Rate::new(n, ns).ok());
    let verdict = u64::from(follow.verdict.cast_unsigned()) << VERDICT_SHIFT;
    for word in 0..words::WORDS {
        use words::word::{AMOUNT, CAP, EPOCH_NS, FLAGS, LIMIT, MULT, PERIOD_NS, SHIFT, UP};
        match word {
            EPOCH_NS => slot(b, Reg::R1, stack.now),
            UP => slot(b, Reg::R1, stack.up),
            LIMIT => {
                b.push(Insn::mov(Reg::R1, Reg::R7))
                    .push(Insn::alu_imm(Alu::Mod, Reg::R1, places::LIMIT_IDS as i32))
                    .push(Insn::alu_imm(Alu::Add, Reg::R1, places::LIMIT_IDS as i32));
            }
            _ => {
                let value = match (word, &rate) {
                    (CAP, _) => follow.cap,
                    (FLAGS, _) => follow.flags | verdict,
                    (PERIOD_NS, Some(rate)) => rate.period_ns,
                    (AMOUNT, Some(rate)) => rate.amount,
                    (MULT, Some(rate)) => rate.mult,
                    (SHIFT, Some(rate)) => u64::from(rate.shift),
                    _ => 0,
                };
                b.constant(Reg::R1, value);
            }
        }
        b.push(Insn::store(Size::Dw, Reg::R8, at(word), Reg::R1));
    }
}

/// Generates the program at [`REMOVED`]; `groups` are the numbers of what is limited.
///
/// # Errors
/// As [`at_mkdir`].
pub fn at_rmdir(layout: &Layout, groups: &[u32]) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let mut frame = Frame::default();
    let (key, now) = (frame.take(2), frame.take(1));
    let (out, none, next) = (b.label(), b.label(), b.label());
    emit::cgroup_argument(&mut b, layout, out);
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.kn_id));
    keep(&mut b, key, Reg::R1);
    b.push(Insn::call(helper::KTIME_GET_NS));
    keep(&mut b, now, Reg::R0);
    for group in groups {
        b.constant(Reg::R1, u64::from(*group));
        keep(&mut b, key + 8, Reg::R1);
        b.call_map(maps::HOMES, key, helper::MAP_DELETE_ELEM);
    }
    b.call_map(maps::BIRTHS, key, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .push(Insn::load(Size::Dw, Reg::R9, Reg::R0, 0))
        .push(Insn::mov_imm(Reg::R7, 0))
        .place(next)
        .jump_if_imm(Cond::Eq, Reg::R9, 0, none)
        .push(Insn::alu_imm(Alu::Sub, Reg::R9, 1))
        .push(Insn::alu_imm(Alu::And, Reg::R9, PLACES as i32 - 1));
    place(&mut b, Reg::R8, Reg::R9);
    b.push(Insn::load(
        Size::Dw,
        Reg::R1,
        Reg::R8,
        at(places::word::CGROUP),
    ));
    slot(&mut b, Reg::R2, key);
    b.jump_if(Cond::Ne, Reg::R1, Reg::R2, none);
    slot(&mut b, Reg::R1, now);
    b.push(Insn::store(
        Size::Dw,
        Reg::R8,
        at(places::word::BACK_NS),
        Reg::R1,
    ))
    .push(Insn::store_imm(
        Size::Dw,
        Reg::R8,
        at(places::word::CGROUP),
        0,
    ));
    get(&mut b, Reg::R4, header::BACK);
    of_ring(&mut b, Reg::R3, Reg::R4);
    b.push(Insn::store(Size::Dw, Reg::R3, 0, Reg::R9))
        .push(Insn::alu_imm(Alu::Add, Reg::R4, 1));
    put(&mut b, header::BACK, Reg::R4);
    b.push(Insn::load(
        Size::Dw,
        Reg::R9,
        Reg::R8,
        at(places::word::NEXT),
    ))
    .push(Insn::alu_imm(Alu::Add, Reg::R7, 1))
    .jump_if_imm(Cond::Lt, Reg::R7, PATTERNS_MAX as i32, next)
    .place(none)
    .call_map(maps::BIRTHS, key, helper::MAP_DELETE_ELEM);
    end(b, out)
}
