//! BPF instructions: [`Insn`] and its encoders, [`Builder`] to assemble, [`Code`] to rewrite.

mod builder;
mod code;
mod frame;
mod insn;
pub mod text;

pub use builder::{Builder, Label};
pub use code::{Code, Edit, EditError, Func, Line};
pub use frame::Frame;
pub use insn::{
    Alu, Cond, Insn, PSEUDO_BTF_ID, PSEUDO_FUNC, PSEUDO_MAP_FD, PSEUDO_MAP_IDX,
    PSEUDO_MAP_IDX_VALUE, PSEUDO_MAP_VALUE, Reg, Size, helper,
};

/// The stream as the kernel takes it.
#[must_use]
pub fn encode(insns: &[Insn]) -> Vec<[u8; 8]> {
    insns
        .iter()
        .map(|insn| {
            let [o0, o1] = insn.off.to_ne_bytes();
            let [i0, i1, i2, i3] = insn.imm.to_ne_bytes();
            [insn.code, insn.regs, o0, o1, i0, i1, i2, i3]
        })
        .collect()
}
