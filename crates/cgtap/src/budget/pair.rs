//! Events that come to a gate or a probe two times: what the kernel asks twice for is charged once. A task's note
//! says that the first of a pair has passed, and the second takes the note away.
//!
//! A first one whose second never comes (the call failed in between) leaves its note, and the next first
//! one of the task passes by it; its second is then asked. So of any two that pass one is charged, and
//! what needs both to happen is never had for nothing. A note that makes room for others is charged again.

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapSpec, MapType};

use crate::asm::{Builder, Cond, Frame, Insn, Label, Reg, Size, helper};

/// Tasks between the first and the second at a time.
const NOTES: u32 = 4096;

/// Makes the map of notes: task -> a word that says nothing.
///
/// # Errors
/// The kernel's answer.
pub fn make() -> Result<Map, SysError> {
    Map::create(&MapSpec {
        name: "cgtap_pairs",
        map_type: MapType::LruHash,
        key_size: 8,
        value_size: 8,
        max_entries: NOTES,
        flags: 0,
    })
}

/// Takes the running task's note out of `map` and goes to `out`, or falls through where it has none. The task
/// is in the word on the stack at `key` then, with which the key begins.
pub fn take(b: &mut Builder, map: u32, key: i16, out: Label) {
    b.push(Insn::call(helper::GET_CURRENT_PID_TGID))
        .push(Insn::store(Size::Dw, Reg::R10, key, Reg::R0))
        .call_map(map, key, helper::MAP_DELETE_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, out);
}

/// Emits what a gate does with pairs.
#[derive(Clone, Copy, Debug)]
pub struct Pairs {
    /// Place of the map.
    map: u32,
    /// 1 if the event is one of a pair.
    is_paired: i16,
    /// The task.
    key: i16,
}

impl Pairs {
    /// Takes its stack from `frame`; `map` is the place of the notes.
    pub fn new(frame: &mut Frame, map: u32) -> Self {
        Self {
            map,
            is_paired: frame.take(1),
            key: frame.take(1),
        }
    }

    /// It is none of a pair as far as is known.
    pub fn begin(self, b: &mut Builder) {
        b.push(Insn::store_imm(Size::Dw, Reg::R10, self.is_paired, 0));
    }

    /// It is one of a pair.
    pub fn mark(self, b: &mut Builder) {
        b.push(Insn::store_imm(Size::Dw, Reg::R10, self.is_paired, 1));
    }

    fn unless_paired(self, b: &mut Builder, no: Label) {
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, self.is_paired))
            .jump_if_imm(Cond::Eq, Reg::R1, 0, no);
    }

    /// Goes to `out` if it is the second of a pair.
    pub fn pass_second(self, b: &mut Builder, out: Label) {
        let first = b.label();
        self.unless_paired(b, first);
        take(b, self.map, self.key, out);
        b.place(first);
    }

    /// Notes that the first of a pair has passed; goes to `out` if it is none.
    pub fn note_first(self, b: &mut Builder, out: Label) {
        self.unless_paired(b, out);
        b.stack_address(Reg::R3, self.is_paired)
            .push(Insn::mov_imm(Reg::R4, 0))
            .call_map(self.map, self.key, helper::MAP_UPDATE_ELEM);
    }
}
