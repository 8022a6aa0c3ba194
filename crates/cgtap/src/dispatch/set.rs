//! Loading a set: its segments, and the ways there are to make the verifier take one.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use cgtap_sys::SysError;
use cgtap_sys::bpf::{LoadError, Prog, ProgSpec};

use super::fuse::{self, Fused};
use super::plan::{GlobalForm, Next, Plan, Style};
use super::pool::{BtfPool, MapPool};
use super::records::{RecordError, Source, records};
use super::segment::{self, LIMITS, TooManySegments, Weight};
use super::specialise::{Member, PoolIndex};
use super::turn::Turn;
use super::word::SET_MAX;
use crate::asm::{EditError, encode};
use crate::hook::kind::{ContextType, KindInfo, Returns};
use crate::kernel::pretend::{self, Pretended};

/// Which entries of a PROG_ARRAY are free.
#[derive(Clone, Debug)]
pub struct Indices {
    used: BTreeSet<u16>,
}

/// Every entry of the array of sets is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hook has no room for another set: {SET_MAX} are in use")]
pub struct NoIndex;

impl Indices {
    /// All but `used` are free; 0 never is.
    pub fn new(used: impl IntoIterator<Item = u16>) -> Self {
        Self {
            used: used.into_iter().collect(),
        }
    }

    /// The lowest free one: low numbers are reached by a direct jump.
    fn take_low(&mut self) -> Result<u16, NoIndex> {
        let free = (1..=SET_MAX)
            .find(|i| !self.used.contains(i))
            .ok_or(NoIndex)?;
        self.used.insert(free);
        Ok(free)
    }

    /// The first free one from a number on.
    fn take_from(&mut self, from: u16) -> Result<u16, NoIndex> {
        let from = from.clamp(1, SET_MAX);
        let free = (from..=SET_MAX)
            .chain(1..from)
            .find(|i| !self.used.contains(i))
            .ok_or(NoIndex)?;
        self.used.insert(free);
        Ok(free)
    }

    /// The highest free one, for what only a constant jump reaches.
    fn take_high(&mut self) -> Result<u16, NoIndex> {
        let free = (1..=SET_MAX)
            .rev()
            .find(|i| !self.used.contains(i))
            .ok_or(NoIndex)?;
        self.used.insert(free);
        Ok(free)
    }
}

/// A set in the kernel, not yet in its place.
#[derive(Debug)]
pub struct LoadedSet {
    /// Index of the first segment: the set's number.
    pub head: u16,
    /// Every segment with its index, the first one first.
    pub progs: Vec<(u16, Prog)>,
}

/// What all sets of a hook share.
#[derive(Clone, Copy, Debug)]
pub struct Loader<'a> {
    /// The hook's kind.
    pub kind: &'a KindInfo,
    /// How returns combine at this target.
    pub returns: Returns,
    /// BTF id of its target, 0 if the kind has none.
    pub attach_btf_id: u32,
    /// The module's BTF where the target is in a module.
    pub attach_btf: Option<BorrowedFd<'a>>,
    /// Maps.
    pub maps: &'a MapPool,
    /// BTFs.
    pub btfs: &'a BtfPool,
    /// The hook's PROG_ARRAY.
    pub progs: PoolIndex,
    /// The hook's control words.
    pub control: PoolIndex,
    /// Sets take turns by links of their own, instead of being jumped to.
    pub turns: Option<Turns>,
}

/// What sets that take turns share.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// Where turns are written down.
    pub decided: PoolIndex,
    /// The number to look for a free one from: that of a set whose link may not be gone yet is not given
    /// again soon.
    pub from: u16,
}

/// A set that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The kernel refuses a member that it took alone, or memory ran out.
    #[error("the kernel refuses the program that runs {members} attachments: {source}")]
    Load {
        /// Number of members of the program.
        members: usize,
        /// The kernel's answer.
        source: LoadError,
    },
    /// Too long a chain.
    #[error(transparent)]
    Segments(#[from] TooManySegments),
    /// The verdict of this hook cannot pass from one program to the next.
    #[error(
        "the returns of this hook are combined in one BPF program, and {members} attachments do \
         not fit one: {source}"
    )]
    OneProgram {
        /// Number of members.
        members: usize,
        /// Why not.
        source: Box<SetError>,
    },
    /// No room in the PROG_ARRAY.
    #[error(transparent)]
    Index(#[from] NoIndex),
    /// Code that cannot be laid out.
    #[error("cannot lay out the program of a set: {0}")]
    Edit(#[from] EditError),
    /// Records and BTF that cannot be made.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The kernel said no to something else.
    #[error(transparent)]
    Sys(#[from] SysError),
}

fn weigh(member: &Member) -> Weight {
    // A member knows all maps of its object; what counts is those that its code names.
    let mut maps: Vec<PoolIndex> = (member.code.iter())
        .filter_map(|(_, insn)| member.maps.get(insn.map_index()? as usize).copied())
        .collect();
    maps.sort_unstable();
    maps.dedup();
    Weight {
        maps,
        functions: member.code.funcs.len(),
        insns: member.code.insns.len(),
        verified: u64::from(member.verified_insns),
    }
}

impl Loader<'_> {
    /// Loads the set of `members`, which are not empty, at fresh indices. Nothing reaches it yet.
    ///
    /// # Errors
    /// [`SetError`]; nothing is left behind.
    pub fn load(
        &self,
        members: &[Member],
        counter: PoolIndex,
        indices: &mut Indices,
    ) -> Result<LoadedSet, SetError> {
        let weights: Vec<Weight> = members.iter().map(weigh).collect();
        let whole_only = self.returns.wants_one_program() || self.turns.is_some();
        let mut segments = match segment::fit(&weights, &LIMITS) {
            Ok(segments) if !whole_only => segments,
            Err(e) if !whole_only => return Err(e.into()),
            _ => std::iter::once(0..members.len()).collect(),
        };
        loop {
            // A refusal leaves the indices as they were.
            let mut trial = indices.clone();
            match self.load_segments(members, counter, &segments, &mut trial) {
                Ok(set) => {
                    *indices = trial;
                    return Ok(set);
                }
                Err((at, error)) => {
                    let whole = segments.get(at).cloned().unwrap_or(0..0);
                    let splittable = matches!(error, SetError::Load { .. } | SetError::Edit(_));
                    if !splittable || whole.len() < 2 {
                        return Err(error);
                    }
                    if whole_only {
                        return Err(SetError::OneProgram {
                            members: members.len(),
                            source: Box::new(error),
                        });
                    }
                    tracing::debug!("segment {whole:?} is cut in two: {error}");
                    let middle = whole.start + whole.len() / 2;
                    segments.splice(at..=at, [whole.start..middle, middle..whole.end]);
                    if segments.len() > LIMITS.segments {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Loads the segments, the last one first so that each knows where it goes on. The error
    /// comes with the segment that it is about.
    fn load_segments(
        &self,
        members: &[Member],
        counter: PoolIndex,
        segments: &[Range<usize>],
        indices: &mut Indices,
    ) -> Result<LoadedSet, (usize, SetError)> {
        let head = match self.turns {
            Some(turns) => indices.take_from(turns.from),
            None => indices.take_low(),
        };
        let head = head.map_err(|e| (0, e.into()))?;
        let turn = self.turns.map(|turns| Turn {
            decided: turns.decided,
            control: self.control,
            set: head,
        });
        let mut progs = Vec::new();
        let mut next: Option<Next> = None;
        for (at, range) in segments.iter().enumerate().rev() {
            let first = at == 0;
            let mut load = |verdict: i32, indices: &mut Indices| {
                let plan = Plan {
                    returns: self.returns,
                    verdict,
                    counter: first.then_some(counter),
                    nests: self.kind.nests,
                    turn,
                    next,
                    style: Style::Inline,
                };
                let prog = self
                    .load_one(&members[range.clone()], plan)
                    .map_err(|e| (at, e))?;
                let index = if first {
                    head
                } else {
                    indices.take_high().map_err(|e| (at, e.into()))?
                };
                progs.push((index, prog));
                Ok(index)
            };
            let index = load(self.returns.neutral(), indices)?;
            // The running verdict cannot travel with a tail call: it is in the choice of program.
            let index_zero = if first || self.returns != Returns::And {
                index
            } else {
                load(0, indices)?
            };
            next = Some(Next {
                progs: self.progs,
                control: self.control,
                index,
                index_zero,
            });
        }
        progs.reverse();
        Ok(LoadedSet { head, progs })
    }

    fn load_one(&self, members: &[Member], plan: Plan) -> Result<Prog, SetError> {
        // Inlined is fastest; where the verifier does not bear that many branches in one
        // function, calls; where it does not bear them in one program, functions checked alone.
        let typed = match self.kind.context {
            ContextType::Struct(name) => Some(Style::Global(GlobalForm::Typed(name))),
            ContextType::None => None,
        };
        let tagged = (!pretend::is_missing(Pretended::ArgCtxTag))
            .then_some(Style::Global(GlobalForm::Tagged));
        let styles: Vec<Style> = match members {
            [_] => vec![Style::Inline],
            _ => [Style::Inline, Style::Call]
                .into_iter()
                .chain(tagged)
                .chain(typed)
                .collect(),
        };
        let (last, before) = styles.split_last().unwrap_or((&Style::Inline, &[]));
        for style in before {
            let plan = Plan {
                style: *style,
                ..plan
            };
            match self.load_fused(members, &fuse::fuse(members, &plan)?, Prog::load_quietly) {
                Err(e @ SetError::Load { .. }) => {
                    tracing::debug!("{} members, {style:?}: {e}", members.len());
                }
                other => return other,
            }
        }
        let plan = Plan {
            style: *last,
            ..plan
        };
        self.load_fused(members, &fuse::fuse(members, &plan)?, Prog::load)
    }

    fn load_fused(
        &self,
        members: &[Member],
        fused: &Fused,
        load: fn(&ProgSpec<'_>) -> Result<Prog, LoadError>,
    ) -> Result<Prog, SetError> {
        let records = records(fused, self.btfs)?;
        let btf = match &records.btf {
            Source::None => None,
            Source::Object(index) => Some(self.btfs.fd(*index)?),
            Source::Merged(fd) => Some(fd.as_fd()),
        };
        let maps = self.maps.fds(&fused.maps)?;
        // Each member was checked alone under its own licence; main calls nothing that needs one,
        // but a member may: so the set declares GPL.
        load(&ProgSpec {
            attach_type: self.kind.attach_type,
            btf,
            func_info: &records.funcs,
            line_info: &records.lines,
            attach_btf_id: self.attach_btf_id,
            attach_btf: self.attach_btf,
            ..ProgSpec::generated(
                "cgtap_set",
                self.kind.prog_type,
                &encode(&fused.insns),
                &maps,
            )
        })
        .map_err(|source| SetError::Load {
            members: members.len(),
            source,
        })
    }
}
