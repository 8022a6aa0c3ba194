//! Finding the cgroup of an event, and keys, by paths from the hook's arguments.
//!
//! While a path is followed R6 holds the context, R7 the pointer so far and R8 is lost; the cgroup
//! ends in R9 and its id in R1. R0-R5 are lost. A pointer that is NULL, and one that nothing can be
//! read through, end the way: the event belongs to nobody.

use crate::asm::{Alu, Builder, Cond, Insn, Label, Reg, Size, helper};
use crate::hook::HookKind;

use super::arguments;
use super::current::cast;
use super::layout::{CastLayout, Layout};
use super::path::Walk;

/// `TCP_TIME_WAIT` and `TCP_NEW_SYN_RECV` (include/net/tcp_states.h): such a sock is not a whole
/// one.
const HALF_SOCKS: [i32; 2] = [6, 12];

/// How memory of the kernel is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Through typed pointers, as the verifier knows them.
    Typed,
    /// Through `bpf_rdonly_cast()`, which makes a typed pointer of any number.
    Cast,
    /// By `bpf_probe_read_kernel()`.
    Probe,
}

impl Access {
    /// The ways to try at a hook, the best one first. Typed pointers alone are used only where
    /// there is no cast: from 6.2 to 6.12 the verifier takes the arguments of tracepoints for never
    /// NULL, drops checks of them and lets the kernel fault on one that is (cb4158ce8ec8, 6.13),
    /// where what is read through a cast, and before 6.2 through any typed pointer, is 0 then.
    #[must_use]
    pub fn ways(layout: &Layout, kind: HookKind) -> Vec<Self> {
        match (&layout.cast, arguments::are_typed(kind)) {
            (Some(_), _) => vec![Self::Cast, Self::Probe],
            (None, true) => vec![Self::Typed, Self::Probe],
            (None, false) => vec![Self::Probe],
        }
    }
}

/// Emits reads of one program.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    layout: &'a Layout,
    access: Access,
    /// Eight bytes of stack for what is read, from the frame pointer.
    scratch: i16,
}

impl<'a> Reader<'a> {
    /// Reads by `access`; `scratch` is an offset of eight bytes of stack.
    #[must_use]
    pub fn new(layout: &'a Layout, access: Access, scratch: i16) -> Self {
        Self {
            layout,
            access,
            scratch,
        }
    }

    /// This kernel's layout.
    #[must_use]
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// The types to cast to; none where nothing is cast.
    fn types(&self) -> Option<&'a CastLayout> {
        self.layout
            .cast
            .as_ref()
            .filter(|_| self.access == Access::Cast)
    }

    /// `to = *(from + offset)`.
    fn read(&self, b: &mut Builder, size: Size, to: Reg, from: Reg, offset: i32) {
        if let Some(types) = self.types() {
            // Whatever lies there is read as the first word of a struct: so neither the types on
            // the way nor those of a module matter.
            b.push(Insn::mov(Reg::R1, from));
            add(b, Reg::R1, offset);
            cast(b, types, types.word_struct_id);
            b.push(Insn::load(size, to, Reg::R0, 0));
        } else if self.access == Access::Probe {
            self.probe(b, size, to, from, offset);
        } else if let Ok(near) = i16::try_from(offset) {
            b.push(Insn::load(size, to, from, near));
        } else {
            b.push(Insn::mov(Reg::R1, from));
            add(b, Reg::R1, offset);
            b.push(Insn::load(size, to, Reg::R1, 0));
        }
    }

    fn probe(&self, b: &mut Builder, size: Size, to: Reg, from: Reg, offset: i32) {
        b.push(Insn::mov(Reg::R3, from));
        add(b, Reg::R3, offset);
        b.stack_address(Reg::R1, self.scratch)
            .push(Insn::mov_imm(Reg::R2, i32::from(size.bytes())))
            // What cannot be read is filled with zeros.
            .push(Insn::call(helper::PROBE_READ_KERNEL))
            .push(Insn::load(size, to, Reg::R10, self.scratch));
    }

    /// `to = *(from + offset)` of a cgroup that was found, or of what its fields point to.
    pub fn field(&self, b: &mut Builder, size: Size, to: Reg, from: Reg, offset: i16) {
        if self.access == Access::Probe {
            self.probe(b, size, to, from, i32::from(offset));
        } else {
            b.push(Insn::load(size, to, from, offset));
        }
    }

    /// `R1 =` the id of the cgroup R9.
    pub fn id(&self, b: &mut Builder) {
        self.field(b, Size::Dw, Reg::R1, Reg::R9, self.layout.cgroup_kn);
        self.field(b, Size::Dw, Reg::R1, Reg::R1, self.layout.kn_id);
    }

    /// `R9 =` the parent of the cgroup R9 and R1 its id; goes to `top` if it has none.
    /// The parent's css is embedded in the parent (kernel/cgroup/cgroup.c, `cgroup_parent`).
    pub fn parent(&self, b: &mut Builder, top: Label) {
        self.field(b, Size::Dw, Reg::R1, Reg::R9, self.layout.cgroup_parent);
        b.jump_if_imm(Cond::Eq, Reg::R1, 0, top);
        self.field(b, Size::Dw, Reg::R9, Reg::R1, self.layout.css_cgroup);
        self.id(b);
    }

    /// Follows a path from an argument: R7 is what it ends in.
    pub fn walk(&self, b: &mut Builder, walk: &Walk, nobody: Label) {
        b.push(Insn::load(Size::Dw, Reg::R7, Reg::R6, walk.argument));
        self.walk_on(b, walk, nobody);
    }

    /// Follows a path from the value in R7.
    pub fn walk_on(&self, b: &mut Builder, walk: &Walk, nobody: Label) {
        let Some(last) = walk.loads.len().checked_sub(1) else {
            if walk.bytes < 8 {
                // The rest of the register is whatever the caller had there.
                let unused = 64 - i32::from(walk.bytes) * 8;
                b.push(Insn::alu_imm(Alu::Lsh, Reg::R7, unused))
                    .push(Insn::alu_imm(Alu::Rsh, Reg::R7, unused));
            }
            return;
        };
        for (at, load) in walk.loads.iter().enumerate() {
            b.jump_if_imm(Cond::Eq, Reg::R7, 0, nobody);
            if let Some(state) = load.sock_state {
                self.read(b, Size::B, Reg::R8, Reg::R7, state);
                for half in HALF_SOCKS {
                    b.jump_if_imm(Cond::Eq, Reg::R8, half, nobody);
                }
            }
            let bytes = if at == last { walk.bytes } else { 8 };
            self.read(b, Size::of_bytes(bytes), Reg::R7, Reg::R7, load.offset);
        }
    }

    /// R9 = the cgroup that a path leads to, R1 = its id.
    pub fn cgroup(&self, b: &mut Builder, walk: &Walk, nobody: Label) {
        self.walk(b, walk, nobody);
        b.jump_if_imm(Cond::Eq, Reg::R7, 0, nobody);
        match self.types() {
            Some(types) => {
                b.push(Insn::mov(Reg::R1, Reg::R7));
                cast(b, types, types.cgroup_struct_id);
                b.push(Insn::mov(Reg::R9, Reg::R0));
            }
            None => {
                b.push(Insn::mov(Reg::R9, Reg::R7));
            }
        }
        if walk.any_hierarchy {
            let layout = self.layout;
            self.field(b, Size::Dw, Reg::R1, Reg::R9, layout.cgroup_root);
            self.field(b, Size::W, Reg::R1, Reg::R1, layout.root_hierarchy_id);
            b.jump_if_imm(Cond::Ne, Reg::R1, 0, nobody);
        }
        self.id(b);
    }

    /// Puts a key of `words` words on the stack, at `at` from the frame pointer.
    pub fn key(&self, b: &mut Builder, walks: &[Walk], words: i16, at: i16, nobody: Label) {
        for (slot, word) in (0..words).enumerate() {
            let place = at + word * 8;
            match walks.get(slot) {
                Some(walk) => {
                    self.walk(b, walk, nobody);
                    b.push(Insn::store(Size::Dw, Reg::R10, place, Reg::R7));
                }
                None => {
                    b.push(Insn::store_imm(Size::Dw, Reg::R10, place, 0));
                }
            }
        }
    }
}

/// `to += offset`.
fn add(b: &mut Builder, to: Reg, offset: i32) {
    if offset != 0 {
        b.push(Insn::alu_imm(Alu::Add, to, offset));
    }
}
