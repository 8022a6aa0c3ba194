//! Loading a set: segments, merged BTF, fallbacks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cgtap_sys::bpf::{LoadError, Map, Prog, ProgSpec, load_btf};
use cgtap_sys::libbpf::{Btf, BtfError, Linkage};
use cgtap_sys::{Errno, SysError};

use super::fuse::{self, FuncRecord, Fused, Next, Plan, Style};
use super::segment::{self, LIMITS, TooManySegments, Weight};
use super::specialise::{Member, PoolIndex};
use super::word::SET_MAX;
use crate::asm::{EditError, encode};
use crate::hook::kind::{KindInfo, Returns};

/// The maps that the sets of a change may use, each once.
#[derive(Debug, Default)]
pub struct MapPool {
    maps: Vec<Map>,
}

impl MapPool {
    /// Takes a map; its place is what members and plans speak of.
    pub fn add(&mut self, map: Map) -> PoolIndex {
        self.maps.push(map);
        self.maps.len() - 1
    }

    /// Descriptors of the maps at these places.
    ///
    /// # Errors
    /// `EBADF` for a place where there is none.
    pub fn fds(&self, places: &[PoolIndex]) -> Result<Vec<BorrowedFd<'_>>, SysError> {
        places
            .iter()
            .map(|index| {
                self.maps.get(*index).map(AsFd::as_fd).ok_or(SysError {
                    call: "BPF_PROG_LOAD",
                    errno: Errno::EBADF,
                })
            })
            .collect()
    }
}

/// BTF of the objects that members come from.
#[derive(Debug, Default)]
pub struct BtfPool {
    objects: Vec<(Vec<u8>, std::cell::OnceCell<OwnedFd>)>,
}

impl BtfPool {
    /// Takes raw BTF, or finds the same bytes again; its place is what members speak of. `None`
    /// for an object without BTF.
    pub fn add(&mut self, raw: &[u8]) -> Option<usize> {
        if raw.is_empty() {
            return None;
        }
        Some(
            self.objects
                .iter()
                .position(|(o, _)| o == raw)
                .unwrap_or_else(|| {
                    self.objects
                        .push((raw.to_vec(), std::cell::OnceCell::new()));
                    self.objects.len() - 1
                }),
        )
    }

    /// A descriptor of it, loaded at first use.
    ///
    /// # Errors
    /// What the kernel says of the BTF.
    pub fn fd(&self, index: usize) -> Result<BorrowedFd<'_>, SysError> {
        let (raw, cell) = self.objects.get(index).ok_or(SysError {
            call: "BPF_BTF_LOAD",
            errno: Errno::EINVAL,
        })?;
        if cell.get().is_none() {
            let fd = load_btf(raw)?;
            drop(cell.set(fd));
        }
        cell.get().map(AsFd::as_fd).ok_or(SysError {
            call: "BPF_BTF_LOAD",
            errno: Errno::EINVAL,
        })
    }

    fn raw(&self, index: usize) -> &[u8] {
        self.objects.get(index).map_or(&[], |(raw, _)| raw)
    }
}

/// Which entries of a PROG_ARRAY are free.
#[derive(Clone, Debug)]
pub struct Indices {
    used: std::collections::BTreeSet<u16>,
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
    /// BTF id of its target, 0 if the kind has none.
    pub attach_btf_id: u32,
    /// Maps.
    pub maps: &'a MapPool,
    /// BTFs.
    pub btfs: &'a BtfPool,
    /// The hook's PROG_ARRAY.
    pub progs: PoolIndex,
    /// The hook's control words.
    pub control: PoolIndex,
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
    /// No room in the PROG_ARRAY.
    #[error(transparent)]
    Index(#[from] NoIndex),
    /// Code that cannot be laid out.
    #[error("cannot lay out the program of a set: {0}")]
    Edit(#[from] EditError),
    /// BTF that cannot be merged.
    #[error("cannot merge the BTF of a set: {0}")]
    Btf(#[from] BtfError),
    /// The kernel refuses the merged BTF.
    #[error("the kernel refuses the BTF of a set: {0}")]
    Sys(#[from] SysError),
}

fn weigh(member: &Member) -> Weight {
    Weight {
        maps: member.maps.clone(),
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
        let mut segments = segment::cut(&weights, &LIMITS)?;
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
        let head = indices.take_low().map_err(|e| (0, e.into()))?;
        let mut progs = Vec::new();
        let mut next: Option<Next> = None;
        for (at, range) in segments.iter().enumerate().rev() {
            let first = at == 0;
            let mut load = |verdict: i32, indices: &mut Indices| {
                let plan = Plan {
                    returns: self.kind.returns,
                    verdict,
                    counter: first.then_some(counter),
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
            let index = load(1, indices)?;
            // The running verdict cannot travel with a tail call: it is in the choice of program.
            let index_zero = if first || self.kind.returns == Returns::Ignored {
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
        let styles: &[Style] = match members {
            [_] => &[Style::Inline],
            _ => &[Style::Inline, Style::Call, Style::Global],
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
        load(&ProgSpec {
            name: "cgtap_set",
            prog_type: self.kind.prog_type,
            attach_type: self.kind.attach_type,
            flags: 0,
            // Each member was checked alone under its own licence; main calls nothing that needs
            // one, but a member may.
            license: "GPL",
            kern_version: 0,
            insns: &encode(&fused.insns),
            maps: &maps,
            btf,
            func_info: &records.funcs,
            line_info: &records.lines,
            attach_btf_id: self.attach_btf_id,
        })
        .map_err(|source| SetError::Load {
            members: members.len(),
            source,
        })
    }
}

enum Source {
    None,
    Object(usize),
    Merged(OwnedFd),
}

/// BTF and records as the kernel takes them.
struct Records {
    btf: Source,
    funcs: Vec<[u32; 2]>,
    lines: Vec<[u32; 4]>,
}

fn records(fused: &Fused, btfs: &BtfPool) -> Result<Records, SetError> {
    // A set of one keeps its object's BTF as it is.
    let mut sources = fused.funcs.iter().map(|(_, record)| match record {
        FuncRecord::Member {
            btf, entry: false, ..
        } => Some(*btf),
        _ => None,
    });
    if let Some(Some(first)) = sources.next()
        && sources.all(|s| s == Some(first))
        && matches!(fused.funcs.first(), Some((0, FuncRecord::Member { .. })))
    {
        let Some(index) = first else {
            return Ok(Records {
                btf: Source::None,
                funcs: Vec::new(),
                lines: Vec::new(),
            });
        };
        return Ok(Records {
            btf: Source::Object(index),
            funcs: fused
                .funcs
                .iter()
                .map(|(at, record)| match record {
                    FuncRecord::Member { type_id, .. } => [*at as u32, *type_id],
                    FuncRecord::Main => [*at as u32, 0],
                })
                .collect(),
            lines: fused
                .lines
                .iter()
                .map(|(l, _)| [l.at as u32, l.file_name_off, l.line_off, l.line_col])
                .collect(),
        });
    }
    merged(fused, btfs)
}

/// Merges the BTFs of all members and adds what main needs.
fn merged(fused: &Fused, btfs: &BtfPool) -> Result<Records, SetError> {
    let mut used: Vec<usize> = fused
        .funcs
        .iter()
        .filter_map(|(_, record)| match record {
            FuncRecord::Member { btf, .. } => *btf,
            FuncRecord::Main => None,
        })
        .chain(fused.lines.iter().map(|(_, btf)| *btf))
        .collect();
    let mut seen = std::collections::HashSet::new();
    used.retain(|b| seen.insert(*b));

    // The first object's BTF is the start, so that its type ids stay what they are: programs that
    // use bpf_obj_new() name a type of their own BTF in an instruction.
    let mut merged = match used.first() {
        Some(first) => Btf::from_bytes(btfs.raw(*first))?,
        None => Btf::new_empty()?,
    };
    let mut shifts = BTreeMap::new();
    let mut sources = BTreeMap::new();
    for (at, index) in used.iter().enumerate() {
        let source = Btf::from_bytes(btfs.raw(*index))?;
        let base = if at == 0 {
            0
        } else {
            merged.add_btf(&source)?.type_id_base
        };
        shifts.insert(*index, base);
        sources.insert(*index, source);
    }
    let int = merged.add_int("int", 4, true)?;
    let context = merged.add_ptr(0)?;
    let proto = merged.add_func_proto(int, &[("ctx", context)])?;
    let main = merged.add_func("cgtap_set", Linkage::Global, proto)?;
    let mut plain = None;
    // `int member(u64 *ctx __arg_ctx)`: the form of a global function that takes the context of
    // any of our program types (kernel/bpf/btf.c, `btf_prepare_func_args`, since 6.8; older
    // kernels refuse it, and the segment is cut instead).
    let mut global = None;

    let mut funcs = Vec::with_capacity(fused.funcs.len());
    for (at, record) in &fused.funcs {
        let type_id = match record {
            FuncRecord::Main => main,
            FuncRecord::Member { entry: true, .. } if fused.global => {
                let proto = match global {
                    Some(proto) => proto,
                    None => {
                        let word = merged.add_int("u64", 8, false)?;
                        let words = merged.add_ptr(word)?;
                        *global.insert(merged.add_func_proto(int, &[("ctx", words)])?)
                    }
                };
                let func = merged.add_func(&format!("member_{at}"), Linkage::Global, proto)?;
                merged.add_decl_tag("arg:ctx", func, Some(0))?;
                func
            }
            FuncRecord::Member {
                btf: Some(btf),
                type_id,
                entry,
            } => {
                let id = type_id + shifts.get(btf).copied().unwrap_or_default();
                if *entry {
                    merged.set_func_static(id)?;
                }
                id
            }
            FuncRecord::Member { btf: None, .. } => match plain {
                Some(id) => id,
                None => {
                    let id = merged.add_func("member", Linkage::Static, proto)?;
                    plain = Some(id);
                    id
                }
            },
        };
        funcs.push([*at as u32, type_id]);
    }
    let lines = lines(fused, &mut merged, &sources)?;
    let btf = Source::Merged(load_btf(&merged.raw())?);
    Ok(Records { btf, funcs, lines })
}

/// Line records with the strings of the merged BTF. Where there are any, the kernel wants one at
/// the start of each function: those that have none get `cgtap`.
fn lines(
    fused: &Fused,
    merged: &mut Btf,
    sources: &BTreeMap<usize, Btf>,
) -> Result<Vec<[u32; 4]>, SetError> {
    if fused.lines.is_empty() {
        return Ok(Vec::new());
    }
    let own = merged.add_str("cgtap")?;
    let mut known: BTreeMap<(usize, u32), u32> = BTreeMap::new();
    let mut lines: BTreeMap<u32, [u32; 4]> = fused
        .funcs
        .iter()
        .map(|(at, _)| (*at as u32, [*at as u32, own, own, 0]))
        .collect();
    for (line, btf) in &fused.lines {
        let mut string = |offset: u32| -> Result<u32, SetError> {
            if let Some(at) = known.get(&(*btf, offset)) {
                return Ok(*at);
            }
            let text = sources
                .get(btf)
                .and_then(|b| b.str_at(offset))
                .unwrap_or("");
            let at = merged.add_str(text)?;
            known.insert((*btf, offset), at);
            Ok(at)
        };
        let record = [
            line.at as u32,
            string(line.file_name_off)?,
            string(line.line_off)?,
            line.line_col,
        ];
        lines.insert(line.at as u32, record);
    }
    Ok(lines.into_values().collect())
}
