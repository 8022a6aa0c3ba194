//! Notes: which cgroup was seen with a key, for a hook that only has the key.
//!
//! A note holds ids and no pointer: the cgroup may be gone when it is looked up. It holds its key
//! too, in front: an entry of an LRU hash that is evicted is given to another key at once, while a
//! program may still look at it. The kernel copies a value from its beginning to its end, so whoever
//! reads an id and then finds the key unchanged has read the key's own id, where neither loads nor
//! stores pass each other (x86). Elsewhere a lookup that races an eviction may take the other's.

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapSpec, MapType};

use super::word::{CONTROL_NOTES_LOST, NOTE_LEVELS};
use crate::asm::{Builder, EditError, Insn, Reg, Size, helper};
use crate::kernel::layout::Layout;
use crate::kernel::read::{Access, Reader};
use crate::kernel::scope::OwnerInfo;
use crate::kernel::{current, emit};

/// Notes that a hook keeps; the one that was not used for the longest time makes room.
pub const NOTES_MAX: u32 = 16_384;
/// Words of a key.
pub const KEY_WORDS: i16 = 2;
/// Where the ids of a note lie, the cgroup's own first, then its parent's and so on; 0 behind the
/// root's.
pub const NOTE_IDS: i16 = KEY_WORDS * 8;
/// Size of a note in bytes.
const NOTE_BYTES: i16 = NOTE_IDS + NOTE_LEVELS * 8;

/// Places of the maps in the noter's list.
mod maps {
    pub const NOTES: u32 = 0;
    pub const CONTROL: u32 = 1;
    pub const CURRENT: u32 = 2;
}

/// Its stack, from the frame pointer.
mod stack {
    use super::{KEY_WORDS, NOTE_BYTES};
    pub const KEY: i16 = -KEY_WORDS * 8;
    pub const NOTE: i16 = KEY - NOTE_BYTES;
    pub const SCRATCH: i16 = NOTE - 8;
}

/// Makes the map of a hook's notes.
///
/// # Errors
/// The kernel's answer.
pub fn make_notes() -> Result<Map, SysError> {
    Map::create(&MapSpec {
        name: "cgtap_notes",
        map_type: MapType::LruHash,
        key_size: KEY_WORDS as u32 * 8,
        value_size: NOTE_BYTES as u32,
        max_entries: NOTES_MAX,
        // All entries are made now: none is allocated in an event.
        flags: 0,
    })
}

/// Generates the program that makes notes. Its maps are, in this order: the notes, the control
/// words of the scoped hook and, if `with_current_table`, the addresses of `current`.
///
/// # Errors
/// [`EditError`] if a jump became too long; the constants keep it from that.
pub fn generate(
    layout: &Layout,
    owner: &OwnerInfo,
    access: Access,
    with_current_table: bool,
) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let (out, nobody, lost, store) = (b.label(), b.label(), b.label(), b.label());
    let reader = Reader::new(layout, access, stack::SCRATCH);
    b.push(Insn::mov(Reg::R6, Reg::R1));
    reader.key(&mut b, &owner.by, KEY_WORDS, stack::KEY, out);
    // The cgroup of `current` is read through typed pointers, whatever the arguments are.
    let cgroups = match &owner.of {
        Some(walk) => {
            reader.cgroup(&mut b, walk, nobody);
            reader
        }
        None => {
            let typed = Reader::new(layout, Access::Typed, stack::SCRATCH);
            let table = with_current_table.then_some(maps::CURRENT);
            current::emit(&mut b, layout, table);
            emit::cgroup_of_task(&mut b, layout, Reg::R9, Reg::R0);
            typed.id(&mut b);
            typed
        }
    };

    let id = |level: i16| stack::NOTE + NOTE_IDS + level * 8;
    b.push(Insn::store(Size::Dw, Reg::R10, id(0), Reg::R1));
    for word in 0..KEY_WORDS {
        b.push(Insn::load(
            Size::Dw,
            Reg::R1,
            Reg::R10,
            stack::KEY + word * 8,
        ))
        .push(Insn::store(
            Size::Dw,
            Reg::R10,
            stack::NOTE + word * 8,
            Reg::R1,
        ));
    }
    for level in 1..NOTE_LEVELS {
        b.push(Insn::store_imm(Size::Dw, Reg::R10, id(level), 0));
    }
    for level in 1..NOTE_LEVELS {
        cgroups.parent(&mut b, store);
        b.push(Insn::store(Size::Dw, Reg::R10, id(level), Reg::R1));
    }
    // Too deep: what is above cannot be noted, so nothing is.
    cgroups.parent(&mut b, store);
    b.jump(lost);

    b.place(store)
        .stack_address(Reg::R2, stack::KEY)
        .stack_address(Reg::R3, stack::NOTE)
        .push(Insn::mov_imm(Reg::R4, 0))
        .extend(Insn::load_map(Reg::R1, maps::NOTES))
        .push(Insn::call(helper::MAP_UPDATE_ELEM))
        .jump_if_imm(crate::asm::Cond::Eq, Reg::R0, 0, out);

    b.place(lost);
    b.increment(maps::CONTROL, CONTROL_NOTES_LOST);
    // Whose it is now is not known, so what was noted of an earlier use of the key goes.
    b.place(nobody)
        .call_map(maps::NOTES, stack::KEY, helper::MAP_DELETE_ELEM);
    b.place(out)
        .push(Insn::mov_imm(Reg::R0, 0))
        .push(Insn::exit());
    b.finish()
}
