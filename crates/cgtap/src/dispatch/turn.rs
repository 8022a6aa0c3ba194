//! Turns, where the kernel attaches no program that jumps to others (writable tracepoints of some newer
//! kernels): the dispatcher stands first at the hook and writes down which set is to run; each set is
//! attached behind it by a link of its own, and does nothing unless it is its turn.
//!
//! An event is decided once, however many sets there are, so that a change is in force for it wholly or
//! not at all, as with jumps. What is written is a word of the CPU: the kernel runs the programs of a
//! tracepoint one after another with preemption off (include/linux/tracepoint.h, `__DO_TRACE_CALL`). The
//! task is written beside it, so that a kernel that does otherwise loses the turn, which is counted, and
//! gives it to nobody else. A set takes its turn away when it begins: one that does not come does not
//! leave it to the next event.

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapSpec, MapType};

use super::plan::Maps;
use super::specialise::PoolIndex;
use super::word::CONTROL_LOST_SET;
use crate::asm::{Builder, Cond, Insn, Label, Reg, Size, helper};

/// Where the task lies in an entry.
const TASK: i16 = 0;
/// Where the set lies.
const SET: i16 = 8;

/// What a set is told of its turns.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Where they are written down.
    pub decided: PoolIndex,
    /// The hook's control words, where a lost turn is counted.
    pub control: PoolIndex,
    /// The set's number.
    pub set: u16,
}

/// Where turns are written down.
///
/// # Errors
/// The kernel's answer.
pub fn make() -> Result<Map, SysError> {
    Map::create(&MapSpec {
        name: "cgtap_turns",
        map_type: MapType::PercpuArray,
        key_size: 4,
        value_size: 16,
        max_entries: 1,
        flags: 0,
    })
}

/// Appends `R0 =` this CPU's entry of `map`; goes on behind itself only if there is one.
fn entry(b: &mut Builder, map: u32, key: i16, none: Label) {
    b.push(Insn::store_imm(Size::W, Reg::R10, key, 0))
        .call_map(map, key, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, none);
}

/// Appends that it is the turn of the set in a register; `key` is free stack. Clobbers R0-R5, R7, R8.
pub(super) fn write(b: &mut Builder, map: u32, key: i16, set: Reg) {
    let none = b.label();
    b.push(Insn::mov(Reg::R7, set));
    entry(b, map, key, none);
    b.push(Insn::mov(Reg::R8, Reg::R0))
        .push(Insn::call(helper::GET_CURRENT_TASK))
        .push(Insn::store(Size::Dw, Reg::R8, TASK, Reg::R0))
        .push(Insn::store(Size::Dw, Reg::R8, SET, Reg::R7));
    b.place(none);
}

/// Appends the end of a set whose turn it is not. Clobbers R0-R5 and R8, and the first eight bytes of stack.
pub(super) fn wait(b: &mut Builder, maps: &mut Maps, turn: &Turn) {
    let (over, run) = (b.label(), b.label());
    entry(b, maps.index(turn.decided), -4, over);
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R0, SET))
        .jump_if_imm(Cond::Ne, Reg::R1, i32::from(turn.set), over)
        .push(Insn::load(Size::Dw, Reg::R8, Reg::R0, TASK))
        .push(Insn::store_imm(Size::Dw, Reg::R0, SET, 0))
        .push(Insn::call(helper::GET_CURRENT_TASK))
        .jump_if(Cond::Eq, Reg::R0, Reg::R8, run);
    b.increment(maps.index(turn.control), CONTROL_LOST_SET);
    b.place(over)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
    b.place(run);
}
