//! BPF instructions: [`Insn`] and its encoders.

mod insn;

pub use insn::{
    Alu, Cond, Insn, PSEUDO_BTF_ID, PSEUDO_FUNC, PSEUDO_MAP_FD, PSEUDO_MAP_IDX,
    PSEUDO_MAP_IDX_VALUE, PSEUDO_MAP_VALUE, Reg, Size, helper,
};
