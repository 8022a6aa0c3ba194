//! One program of several: main calls its members in order, or holds them.
//!
//! A member is *inlined* where it can be: its entry's instructions stand in main itself, each
//! `exit` a jump to what follows, because a call and its return cost more than most members do
//! (64 counting members: 6.9 times an empty program called, 1.4 inlined). Main then keeps the
//! context on its stack below everything an inlined member uses. A member that tail-calls, is
//! long, or needs much stack is called; where no member is inlined main keeps the context in R6
//! and uses no stack at all.

use super::main_code::{Home, combine, count, finish, restore_context, save};
use super::plan::{GlobalForm, Maps, Plan, Style};
use super::specialise::{Member, PoolIndex};
use super::turn;
use crate::asm::{Builder, Edit, EditError, Insn, Label, Line, Reg, helper};
use crate::hook::kind::Returns;

/// Longest entry function that is inlined, in instructions: its exits must reach its end.
const INLINE_INSNS: usize = 2_000;
/// Largest frame of an inlined member, in bytes.
const INLINE_FRAME_BYTES: u32 = 256;
/// Stack of a chain of calls (`MAX_BPF_STACK`).
const STACK_BYTES: u32 = 512;

/// Whose record a function of the result has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FuncRecord {
    /// Main's own.
    Main,
    /// A function of a member.
    Member {
        /// Place of its BTF, `None` for an object without.
        btf: Option<usize>,
        /// Its `FUNC` there.
        type_id: u32,
        /// It is the entry of a member that is called, and must be static: a global one would be
        /// verified alone and fail for want of a context.
        entry: bool,
    },
}

/// The result: a stream, its maps, and whose its records are.
#[derive(Clone, Debug)]
pub struct Fused {
    /// The stream; map indices are places in `maps`.
    pub insns: Vec<Insn>,
    /// Its maps.
    pub maps: Vec<PoolIndex>,
    /// Functions, in the order of the stream.
    pub funcs: Vec<(usize, FuncRecord)>,
    /// Line records, in the order of the stream, with the place of their BTF.
    pub lines: Vec<(Line, usize)>,
    /// Entries of members that are called are to be global functions, in this form.
    pub global: Option<GlobalForm>,
}

fn can_inline(member: &Member) -> bool {
    let entry = &member.code.insns[..member.code.entry_len()];
    member.frame_bytes <= INLINE_FRAME_BYTES
        && entry.len() <= INLINE_INSNS
        && !entry.iter().any(|insn| insn.is_call_of(helper::TAIL_CALL))
        // Only the last instruction of a function leads on; the verifier wants an exit or a jump
        // there, and an exit is what we know how to replace.
        && entry.last().is_some_and(|insn| insn.is_exit() || insn.is_jump())
}

fn round_up(bytes: u32) -> u32 {
    // The verifier counts each frame in steps of 32 bytes with an interpreter, 16 without
    // (kernel/bpf/verifier.c, round_up_stack_depth).
    bytes.max(1).next_multiple_of(32)
}

fn global(style: Style) -> Option<GlobalForm> {
    match style {
        Style::Global(form) => Some(form),
        Style::Inline | Style::Call => None,
    }
}

/// Which members are inlined: all that can be, if the called ones still have the stack they need.
fn choose(members: &[Member], style: Style) -> (Vec<bool>, Home) {
    let none = (vec![false; members.len()], Home::Registers);
    if style != Style::Inline {
        return none;
    }
    let inline: Vec<bool> = members.iter().map(can_inline).collect();
    let frame = members
        .iter()
        .zip(&inline)
        .filter(|(_, inline)| **inline)
        .map(|(m, _)| m.frame_bytes)
        .max();
    let Some(frame) = frame else { return none };
    // The first eight bytes are the counter's key, before any member runs.
    let frame = frame.max(8).next_multiple_of(8);
    let main = round_up(frame + 16);
    let fits = members.iter().zip(&inline).all(|(m, inline)| {
        let callees = if *inline {
            m.chain_bytes.saturating_sub(m.frame_bytes)
        } else {
            m.chain_bytes
        };
        callees == 0 || main + round_up(callees) <= STACK_BYTES
    });
    if !fits {
        return none;
    }
    let offset = |below: u32| -(i16::try_from(frame + below).unwrap_or(i16::MAX));
    (
        inline,
        Home::Stack {
            context: offset(8),
            verdict: offset(16),
        },
    )
}

/// A call or an address in main that leads into a member's functions, wherever they come to lie.
struct Reference {
    at: usize,
    member: usize,
    /// Place in the member's own stream.
    to: usize,
}

/// Makes one program of `members`, which are not empty.
///
/// # Errors
/// [`EditError`] if a jump became too long.
pub fn fuse(members: &[Member], plan: &Plan) -> Result<Fused, EditError> {
    let mut maps = Maps::default();
    // Alone, with nothing before it and nothing behind it, a member's return is the set's.
    if let [only] = members
        && plan.next.is_none()
        && plan.returns.passes_on()
    {
        let is_zero = plan.returns == Returns::And && plan.verdict == 0;
        if !is_zero {
            return single(only, plan, maps);
        }
        // One that tail-calls may end elsewhere.
        if !only.tail_calls() {
            return single(&silent(only)?, plan, maps);
        }
    }
    let (inline, home) = choose(members, plan.style);
    let mut main = Builder::new();
    let mut references = Vec::new();
    let mut lines: Vec<(Line, usize)> = Vec::new();

    save(&mut main, home, Reg::R1, plan);
    if let Some(turn) = &plan.turn {
        turn::wait(&mut main, &mut maps, turn);
    }
    if let Some(counter) = plan.counter {
        count(&mut main, maps.index(counter), plan.nests);
    }
    for (at, member) in members.iter().enumerate() {
        let first = main.len();
        restore_context(&mut main, home);
        if inline[at] {
            let end = main.label();
            body(&mut main, &mut maps, at, member, end, &mut references);
            let start = main.len() - member.code.entry_len();
            lines.extend(lines_of(member, 0..member.code.entry_len(), start, first));
            main.place(end);
        } else {
            references.push(Reference {
                at: main.len(),
                member: at,
                to: 0,
            });
            main.push(Insn::call_sub(0));
        }
        combine(&mut main, home, plan.returns);
    }
    finish(&mut main, &mut maps, home, plan);

    let mut insns = main.finish()?;
    let mut funcs = vec![(0, FuncRecord::Main)];
    // Where each member's functions lie, less where they lay in its own stream.
    let mut shift = Vec::with_capacity(members.len());
    for (at, member) in members.iter().enumerate() {
        let from = if inline[at] {
            member.code.entry_len()
        } else {
            0
        };
        let start = insns.len();
        shift.push((start, from));
        insns.extend(maps.translate(member, &member.code.insns[from..]));
        for func in member.code.funcs.iter().filter(|f| f.start >= from) {
            let record = FuncRecord::Member {
                btf: member.btf,
                type_id: func.type_id,
                entry: func.start == 0,
            };
            funcs.push((func.start - from + start, record));
        }
        lines.extend(lines_of(
            member,
            from..member.code.insns.len(),
            start,
            start,
        ));
    }
    for reference in references {
        let (start, from) = shift[reference.member];
        let to = reference.to - from + start;
        let distance = to as i64 - (reference.at as i64 + 1);
        insns[reference.at].imm = i32::try_from(distance).map_err(|_| EditError::JumpTooFar {
            at: reference.at,
            distance,
        })?;
    }
    Ok(Fused {
        insns,
        maps: maps.0,
        funcs,
        lines,
        global: global(plan.style),
    })
}

/// A member that returns 0, whatever it would have returned.
fn silent(member: &Member) -> Result<Member, EditError> {
    let mut member = member.clone();
    let entry = member
        .code
        .iter()
        .take_while(|(at, _)| *at < member.code.entry_len());
    let exits = entry.filter(|(_, insn)| insn.is_exit());
    let edits: Vec<Edit> = exits
        .map(|(at, _)| Edit {
            at,
            width: 1,
            with: vec![Insn::mov_imm(Reg::R0, 0), Insn::exit()],
        })
        .collect();
    member.code.edit(&edits)?;
    Ok(member)
}

/// A set of one: its own code with the count in front, records untouched.
fn single(member: &Member, plan: &Plan, mut maps: Maps) -> Result<Fused, EditError> {
    let mut main = Builder::new();
    if let Some(counter) = plan.counter {
        main.push(Insn::mov(Reg::R6, Reg::R1));
        if let Some(turn) = &plan.turn {
            turn::wait(&mut main, &mut maps, turn);
        }
        count(&mut main, maps.index(counter), plan.nests);
        main.push(Insn::mov(Reg::R1, Reg::R6));
    }
    let shift = main.len();
    let mut insns = main.finish()?;
    insns.extend(maps.translate(member, &member.code.insns));
    let place = |start: usize| if start == 0 { 0 } else { start + shift };
    let funcs = member
        .code
        .funcs
        .iter()
        .map(|f| {
            let record = FuncRecord::Member {
                btf: member.btf,
                type_id: f.type_id,
                entry: false,
            };
            (place(f.start), record)
        })
        .collect();
    let lines = member
        .btf
        .into_iter()
        .flat_map(|btf| {
            member.code.lines.iter().map(move |l| {
                (
                    Line {
                        at: place(l.at),
                        ..*l
                    },
                    btf,
                )
            })
        })
        .collect();
    Ok(Fused {
        insns,
        maps: maps.0,
        funcs,
        lines,
        global: global(plan.style),
    })
}

/// Line records of a part of a member that now starts at `start`; the first of them moves to
/// `first`, so that what leads up to the member belongs to its first line.
fn lines_of(
    member: &Member,
    part: std::ops::Range<usize>,
    start: usize,
    first: usize,
) -> Vec<(Line, usize)> {
    let Some(btf) = member.btf else {
        return Vec::new();
    };
    member
        .code
        .lines
        .iter()
        .filter(|l| part.contains(&l.at))
        .map(|l| {
            let at = if l.at == part.start {
                first
            } else {
                l.at - part.start + start
            };
            (Line { at, ..*l }, btf)
        })
        .collect()
}

/// Appends the entry function of a member, its exits turned into jumps to `end`.
fn body(
    main: &mut Builder,
    maps: &mut Maps,
    at: usize,
    member: &Member,
    end: Label,
    references: &mut Vec<Reference>,
) {
    let entry = maps.translate(member, &member.code.insns[..member.code.entry_len()]);
    let mut second_half = false;
    for (local, insn) in entry.into_iter().enumerate() {
        if second_half {
            second_half = false;
            main.push(insn);
            continue;
        }
        second_half = insn.is_load_imm64();
        if insn.is_exit() {
            main.jump(end);
            continue;
        }
        if insn.is_call_sub() || insn.is_load_func() {
            let to = local as i64 + 1 + i64::from(insn.imm);
            references.push(Reference {
                at: main.len(),
                member: at,
                to: usize::try_from(to).unwrap_or_default(),
            });
        }
        main.push(insn);
    }
}
