//! The programs that keep the chains true: a cgroup that is made below a limited one is charged to
//! the same budgets before a task can enter it; one that is removed is forgotten, and what still ends
//! for it later is charged to the one above.
//!
//! The kernel calls both tracepoints under `cgroup_mutex` (kernel/cgroup/cgroup.c, `cgroup_mkdir`,
//! `cgroup_rmdir`), which whoever wants to put a task into the cgroup has to take too.

use super::entry;
use super::shape::{CLIMB_MAX, control, maps};
use crate::asm::{Builder, Cond, EditError, Frame, Insn, Label, Reg, Size, helper};
use crate::budget::emit::{Charger, Doer, Maps, Slots};
use crate::kernel::emit;
use crate::kernel::layout::Layout;

/// The tracepoint of cgroups that come.
pub const MADE: &str = "tp_btf:cgroup_mkdir";
/// The tracepoint of cgroups that go.
pub const REMOVED: &str = "tp_btf:cgroup_rmdir";

/// `EEXIST`, as a helper returns it: the cgroup has a budget of its own, from a pattern.
const HAS_OWN: i32 = -17;

/// What charges the budgets of the programs' own maps.
pub(super) fn charger(slots: Slots) -> Charger {
    Charger {
        maps: Maps {
            budgets: maps::BUDGETS,
            denials: maps::DENIALS,
        },
        slots,
    }
}

/// Charges what is in `amount` to the budgets of the cgroup whose id is in `key`, which becomes that of the
/// one that is charged: what comes after a cgroup is gone is charged to the one above it. Goes on behind
/// itself if nothing limits it.
pub(super) fn post(b: &mut Builder, charger: &Charger, key: i16, amount: i16, doer: Doer) {
    let (found, next) = (b.label(), b.label());
    b.call_map(maps::CHAINS, key, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Ne, Reg::R0, 0, found);
    entry::climb(b, key, Reg::R8, CLIMB_MAX);
    b.call_map(maps::CHAINS, key, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, next)
        .place(found)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0));
    charger.post(b, amount, doer);
    b.place(next);
}

struct Stack {
    id: i16,
    parent: i16,
}

/// Puts the ids of the cgroup of the event and of its parent on the stack.
fn family(b: &mut Builder, layout: &Layout, out: Label) -> Stack {
    let mut frame = Frame::default();
    let stack = Stack {
        id: frame.take(1),
        parent: frame.take(1),
    };
    emit::cgroup_argument(b, layout, out);
    b.push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.kn_id))
        .push(Insn::store(Size::Dw, Reg::R10, stack.id, Reg::R1))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.cgroup_parent))
        .jump_if_imm(Cond::Eq, Reg::R1, 0, out)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.css_cgroup))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.cgroup_kn))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R1, layout.kn_id))
        .push(Insn::store(Size::Dw, Reg::R10, stack.parent, Reg::R1));
    stack
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
/// [`EditError`] if a jump became too long; it is too short for that.
pub fn at_mkdir(layout: &Layout) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let out = b.label();
    let stack = family(&mut b, layout, out);
    b.call_map(maps::CHAINS, stack.parent, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0))
        .push(Insn::store(Size::Dw, Reg::R10, stack.parent, Reg::R1))
        .stack_address(Reg::R3, stack.parent)
        // BPF_NOEXIST: whichever of the programs comes first.
        .push(Insn::mov_imm(Reg::R4, 1))
        .call_map(maps::CHAINS, stack.id, helper::MAP_UPDATE_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .jump_if_imm(Cond::Eq, Reg::R0, HAS_OWN, out)
        .increment(maps::CONTROL, control::STRANDED);
    end(b, out)
}

/// Generates the program at [`REMOVED`].
///
/// # Errors
/// As [`at_mkdir`].
pub fn at_rmdir(layout: &Layout) -> Result<Vec<Insn>, EditError> {
    let mut b = Builder::new();
    let out = b.label();
    let stack = family(&mut b, layout, out);
    b.call_map(maps::CHAINS, stack.id, helper::MAP_LOOKUP_ELEM)
        .jump_if_imm(Cond::Eq, Reg::R0, 0, out)
        .stack_address(Reg::R3, stack.parent)
        .push(Insn::mov_imm(Reg::R4, 0))
        .call_map(maps::GONE, stack.id, helper::MAP_UPDATE_ELEM)
        .call_map(maps::CHAINS, stack.id, helper::MAP_DELETE_ELEM);
    end(b, out)
}
