//! Function and line records of a fused program, and their BTF.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use cgtap_sys::SysError;
use cgtap_sys::bpf::load_btf;
use cgtap_sys::libbpf::{Btf, BtfError, Linkage};

use super::fuse::{FuncRecord, Fused};
use super::plan::GlobalForm;
use super::pool::BtfPool;

/// Records that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// BTF that cannot be merged.
    #[error("cannot merge the BTF of a set: {0}")]
    Btf(#[from] BtfError),
    /// The kernel refuses the merged BTF.
    #[error("the kernel refuses the BTF of a set: {0}")]
    Sys(#[from] SysError),
}

/// Whose BTF a program is loaded with.
pub(super) enum Source {
    None,
    Object(usize),
    Merged(OwnedFd),
}

/// BTF and records as the kernel takes them.
pub(super) struct Records {
    pub(super) btf: Source,
    pub(super) funcs: Vec<[u32; 2]>,
    pub(super) lines: Vec<[u32; 4]>,
}

/// The records of a program, and the BTF they speak of: its object's own, or one merged of all
/// members'.
pub(super) fn records(fused: &Fused, btfs: &BtfPool) -> Result<Records, RecordError> {
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
fn merged(fused: &Fused, btfs: &BtfPool) -> Result<Records, RecordError> {
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
    let mut global = None;

    let mut funcs = Vec::with_capacity(fused.funcs.len());
    for (at, record) in &fused.funcs {
        let type_id = match record {
            FuncRecord::Main => main,
            FuncRecord::Member { entry: true, .. } if let Some(form) = fused.global => {
                let proto = match global {
                    Some(proto) => proto,
                    None => *global.insert(global_proto(&mut merged, int, form)?),
                };
                let func = merged.add_func(&format!("member_{at}"), Linkage::Global, proto)?;
                if form == GlobalForm::Tagged {
                    merged.add_decl_tag("arg:ctx", func, Some(0))?;
                }
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

/// `int member(u64 *ctx)`, or with a pointer to the struct that the kernel knows as the context.
fn global_proto(merged: &mut Btf, int: u32, form: GlobalForm) -> Result<u32, BtfError> {
    let context = match form {
        GlobalForm::Tagged => merged.add_int("u64", 8, false)?,
        // What is in it does not matter: it is known by its name.
        GlobalForm::Typed(name) => merged.add_struct(name, 8)?,
    };
    let pointer = merged.add_ptr(context)?;
    merged.add_func_proto(int, &[("ctx", pointer)])
}

/// Line records with the strings of the merged BTF. Where there are any, the kernel wants one at
/// the start of each function: those that have none get `cgtap`.
fn lines(
    fused: &Fused,
    merged: &mut Btf,
    sources: &BTreeMap<usize, Btf>,
) -> Result<Vec<[u32; 4]>, RecordError> {
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
        let mut string = |offset: u32| -> Result<u32, RecordError> {
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
