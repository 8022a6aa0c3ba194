//! The constants of an attachment, built into a copy of its program.

use crate::asm::{
    Code, Cond, Edit, EditError, Func, Insn, Line, PSEUDO_MAP_IDX_VALUE, Reg, Size, helper,
};
use crate::object::image::{ObjectImage, ProgramImage};

/// A map in the pool of those that a set may use; see [`super::pool::MapPool`].
pub type PoolIndex = usize;

/// What stands for a cgroup storage map in one attachment (S23-S27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A one-entry ARRAY: the value's address is a constant.
    Plain(PoolIndex),
    /// A one-entry PERCPU_ARRAY, looked up with a constant key.
    PerCpu {
        /// The PERCPU_ARRAY.
        map: PoolIndex,
        /// A one-entry ARRAY of zeros with the same value size: its first four bytes are the key,
        /// and its address is what a lookup that cannot fail would return if it did.
        zero: PoolIndex,
    },
}

/// What a map of the object is in this attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapUse {
    /// Itself.
    Plain(PoolIndex),
    /// Cgroup storage.
    Storage(Storage),
}

/// A program with its constants built in. Map indices in the code are places in `maps`.
#[derive(Clone, Debug)]
pub struct Member {
    /// The code.
    pub code: Code,
    /// What its map indices mean.
    pub maps: Vec<PoolIndex>,
    /// Whose BTF its records speak of: the place in the list of BTFs; `None` for an object
    /// without.
    pub btf: Option<usize>,
    /// Stack of the entry function, in bytes, as the verifier counted it.
    pub frame_bytes: u32,
    /// Stack of the deepest chain of calls, entry included.
    pub chain_bytes: u32,
    /// Instructions the verifier processed when it was checked alone.
    pub verified_insns: u32,
}

impl Member {
    /// It tail-calls: what stands behind the call may never be reached.
    #[must_use]
    pub fn tail_calls(&self) -> bool {
        self.code.calls(helper::TAIL_CALL)
    }
}

/// The gate of an attachment that goes with a process: the member steps aside once the process
/// has ended, whoever notices that, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The map of the gates.
    pub map: PoolIndex,
    /// Which of its words.
    pub word: u16,
    /// What the member returns behind a shut gate: what changes nothing.
    pub shut: i32,
}

/// A program that cannot be given its constants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecialiseError {
    /// `bpf_get_local_storage()` without a storage map in sight.
    #[error(
        "instruction {at} calls bpf_get_local_storage() with a map that cannot be told: load the \
         map's address into R1 right before the call, or use one storage map of each kind"
    )]
    UnknownStorage {
        /// The call.
        at: usize,
    },
    /// The program is not well formed.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// The code of a program as it came from its object.
#[must_use]
pub fn code_of(image: &ProgramImage) -> Code {
    let mut code = Code {
        insns: image.insns.clone(),
        funcs: image
            .func_info
            .iter()
            .map(|f| Func {
                start: f.insn_off as usize,
                type_id: f.type_id,
            })
            .collect(),
        lines: image
            .line_info
            .iter()
            .map(|l| Line {
                at: l.insn_off as usize,
                file_name_off: l.file_name_off,
                line_off: l.line_off,
                line_col: l.line_col,
            })
            .collect(),
    };
    if code.funcs.is_empty() {
        // Without BTF the calls tell where functions start.
        let mut starts = code.called_starts();
        starts.insert(0, 0);
        starts.dedup();
        code.funcs = starts
            .into_iter()
            .map(|start| Func { start, type_id: 0 })
            .collect();
    }
    code
}

/// Builds `cookie`, `uses` (one entry a map of the object) and the gate into the program: the
/// code, and what its map indices mean.
///
/// # Errors
/// [`SpecialiseError`].
pub fn specialise(
    object: &ObjectImage,
    image: &ProgramImage,
    cookie: u64,
    uses: &[MapUse],
    gate: Option<Gate>,
) -> Result<(Code, Vec<PoolIndex>), SpecialiseError> {
    let mut code = code_of(image);
    code.check()?;
    let mut maps: Vec<PoolIndex> = uses
        .iter()
        .map(|u| match u {
            MapUse::Plain(index) | MapUse::Storage(Storage::Plain(index)) => *index,
            MapUse::Storage(Storage::PerCpu { map, .. }) => *map,
        })
        .collect();

    let mut edits = Vec::new();
    for (at, insn) in code.iter() {
        if insn.is_call_of(helper::GET_ATTACH_COOKIE) {
            edits.push(Edit {
                at,
                width: 1,
                with: Insn::load_imm64(Reg::R0, cookie).to_vec(),
            });
        } else if insn.is_call_of(helper::GET_LOCAL_STORAGE) {
            let map =
                storage_map(&code, at, object).ok_or(SpecialiseError::UnknownStorage { at })?;
            let Some(MapUse::Storage(storage)) = uses.get(map) else {
                return Err(SpecialiseError::UnknownStorage { at });
            };
            edits.push(Edit {
                at,
                width: 1,
                with: local_storage(*storage, map, &mut maps),
            });
        }
    }
    code.edit(&edits)?;
    if let Some(gate) = gate {
        maps.push(gate.map);
        let at = maps.len() as u32 - 1;
        let mut front = Insn::load_map_value(Reg::R2, at, u32::from(gate.word) * 8).to_vec();
        front.extend([
            Insn::load(Size::Dw, Reg::R2, Reg::R2, 0),
            Insn::jump_if_imm(Cond::Eq, Reg::R2, 0, 2),
            Insn::mov_imm(Reg::R0, gate.shut),
            Insn::exit(),
        ]);
        code.prepend(&front);
    }
    Ok((code, maps))
}

/// What `bpf_get_local_storage()` becomes: R0 = address of the attachment's value.
fn local_storage(storage: Storage, map: usize, maps: &mut Vec<PoolIndex>) -> Vec<Insn> {
    match storage {
        Storage::Plain(_) => Insn::load_map_value(Reg::R0, map as u32, 0).to_vec(),
        Storage::PerCpu { zero, .. } => {
            let zero_at = maps.iter().position(|m| *m == zero).unwrap_or_else(|| {
                maps.push(zero);
                maps.len() - 1
            }) as u32;
            let mut code = Insn::load_map(Reg::R1, map as u32).to_vec();
            code.extend(Insn::load_map_value(Reg::R2, zero_at, 0));
            code.push(Insn::call(helper::MAP_LOOKUP_ELEM));
            code.push(Insn::jump_if_imm(Cond::Ne, Reg::R0, 0, 2));
            code.extend(Insn::load_map_value(Reg::R0, zero_at, 0));
            code
        }
    }
}

/// The map that R1 holds at the call: the one storage map the program names, or else the one
/// whose load into R1 stands nearest before the call with nothing in between that writes R1.
fn storage_map(code: &Code, call: usize, object: &ObjectImage) -> Option<usize> {
    let storage = |insn: Insn| {
        let map = insn.map_index()? as usize;
        object.maps.get(map)?.storage.is_some().then_some(map)
    };
    let mut named: Vec<usize> = code.iter().filter_map(|(_, insn)| storage(insn)).collect();
    named.sort_unstable();
    named.dedup();
    if let [only] = named.as_slice() {
        return Some(*only);
    }
    let before: Vec<(usize, Insn)> = code.iter().take_while(|(at, _)| *at < call).collect();
    // What writes R1 last decides, and a call leaves nothing in it.
    let (load, last) = *before.iter().rev().find(|(_, insn)| {
        insn.is_jump() || insn.is_exit() || insn.is_call() || insn.writes(Reg::R1)
    })?;
    let is_map = last.is_load_imm64() && last.src() != PSEUDO_MAP_IDX_VALUE;
    // Whoever comes there by a jump has something else in it.
    let behind = load as i64 + 1..=call as i64;
    let is_passed = code.jump_targets().any(|to| behind.contains(&to));
    storage(last).filter(|_| is_map && !is_passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::image::{MapImage, StorageKind};

    /// Two storage maps.
    fn object() -> ObjectImage {
        let map = MapImage {
            name: "storage".to_owned(),
            map_type: 19,
            key_size: 8,
            value_size: 8,
            max_entries: 0,
            storage: Some(StorageKind {
                per_cpu: false,
                per_hook: false,
            }),
        };
        ObjectImage {
            name: "object".to_owned(),
            license: "GPL".to_owned(),
            kern_version: 0,
            btf: Vec::new(),
            maps: vec![map.clone(), map],
            programs: Vec::new(),
            prog_array_slots: Vec::new(),
        }
    }

    /// Which map the last call of these instructions is for.
    fn found(parts: &[&[Insn]]) -> Option<usize> {
        let code = Code {
            insns: parts.concat(),
            ..Code::default()
        };
        storage_map(&code, code.insns.len() - 1, &object())
    }

    #[test]
    fn a_call_is_for_the_map_that_is_in_its_register() {
        let (first, second) = (Insn::load_map(Reg::R1, 0), Insn::load_map(Reg::R1, 1));
        let kept = Insn::load_map(Reg::R6, 1);
        let ask = [Insn::call(helper::GET_LOCAL_STORAGE)];
        let flags = [Insn::mov_imm(Reg::R2, 0)];
        assert_eq!(found(&[&first, &ask, &second, &flags, &ask]), Some(1));
        assert_eq!(found(&[&second, &ask, &first, &flags, &ask]), Some(0));
        // Out of another register, or of nowhere: a map that was loaded earlier is another call's.
        let moved = [Insn::mov(Reg::R1, Reg::R6)];
        assert_eq!(found(&[&kept, &first, &ask, &moved, &ask]), None);
        assert_eq!(found(&[&kept, &first, &ask, &flags, &ask]), None);
        // One of two, by a jump past the second.
        let choice = [Insn::jump_if_imm(Cond::Eq, Reg::R7, 0, 2)];
        assert_eq!(found(&[&first, &choice, &second, &flags, &ask]), None);
        assert_eq!(found(&[&choice, &first, &second, &flags, &ask]), Some(1));
    }
}
