//! What is asked of the fuser, and the list of maps that it and what it emits share.

use super::specialise::{Member, PoolIndex};
use super::turn::Turn;
use crate::asm::Insn;
use crate::hook::kind::Returns;

/// How members become part of main.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Inline what can be, call the rest.
    Inline,
    /// Call all.
    Call,
    /// Call all as global functions, each of which the verifier checks alone: what it has to do
    /// for each adds up instead of multiplying, and big loops do not share one stack of branches.
    Global(GlobalForm),
}

/// How a global function says that it takes the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalForm {
    /// By the tag `arg:ctx` on its parameter (kernel/bpf/btf.c, `btf_prepare_func_args`, since
    /// 6.8).
    Tagged,
    /// By the type of its parameter, a pointer to this struct.
    Typed(&'static str),
}

/// Where a segment that is not the last one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The PROG_ARRAY.
    pub progs: PoolIndex,
    /// The hook's control words, where a jump that fails is counted.
    pub control: PoolIndex,
    /// Index of the next segment.
    pub index: u16,
    /// Index of the next segment for a running verdict of 0; the same where returns mean nothing.
    pub index_zero: u16,
}

/// What main does besides running its members.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How returns combine.
    pub returns: Returns,
    /// The running verdict at the start.
    pub verdict: i32,
    /// One-entry PERCPU_ARRAY that counts runs; in the first segment.
    pub counter: Option<PoolIndex>,
    /// A CPU may run the set while it runs it already (`KindInfo::nests`).
    pub nests: bool,
    /// When it runs, if it is not jumped to.
    pub turn: Option<Turn>,
    /// Where it goes on; not in the last segment.
    pub next: Option<Next>,
    /// How members become part of main.
    pub style: Style,
}

/// Collects the maps of the result.
#[derive(Default)]
pub(super) struct Maps(pub(super) Vec<PoolIndex>);

impl Maps {
    /// Place of a map in the result's list; it joins if it is not there.
    pub(super) fn index(&mut self, map: PoolIndex) -> u32 {
        let at = self.0.iter().position(|m| *m == map).unwrap_or_else(|| {
            self.0.push(map);
            self.0.len() - 1
        });
        at as u32
    }

    /// The member's instructions with map indices of the result.
    pub(super) fn translate(&mut self, member: &Member, insns: &[Insn]) -> Vec<Insn> {
        insns
            .iter()
            .map(|insn| {
                let mut insn = *insn;
                if let Some(map) = insn.map_index().and_then(|i| member.maps.get(i as usize)) {
                    insn.imm = self.index(*map) as i32;
                }
                insn
            })
            .collect()
    }
}
