//! Assembling code with labels.

use super::code::EditError;
use super::insn::{Alu, Cond, Insn, Reg, Size};

/// A place that jumps can name before it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// Collects instructions; jumps to labels are filled in by [`Builder::finish`].
#[derive(Debug, Default)]
pub struct Builder {
    insns: Vec<Insn>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Builder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A label that is to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label stands here.
    pub fn place(&mut self, label: Label) -> &mut Self {
        self.labels[label.0] = Some(self.insns.len());
        self
    }

    /// One instruction.
    pub fn push(&mut self, insn: Insn) -> &mut Self {
        self.insns.push(insn);
        self
    }

    /// Several instructions.
    pub fn extend(&mut self, insns: impl IntoIterator<Item = Insn>) -> &mut Self {
        self.insns.extend(insns);
        self
    }

    /// `reg =` a constant.
    pub fn constant(&mut self, reg: Reg, value: u64) -> &mut Self {
        match i32::try_from(value.cast_signed()) {
            Ok(small) => self.push(Insn::mov_imm(reg, small)),
            Err(_) => self.extend(Insn::load_imm64(reg, value)),
        }
    }

    /// `reg =` the stack at `at` from the frame pointer.
    pub fn stack_address(&mut self, reg: Reg, at: i16) -> &mut Self {
        self.push(Insn::mov(reg, Reg::R10))
            .push(Insn::alu_imm(Alu::Add, reg, i32::from(at)))
    }

    /// Call of a helper with a map, by its place in the program's list, and a key on the stack.
    pub fn call_map(&mut self, map: u32, key: i16, helper: i32) -> &mut Self {
        self.stack_address(Reg::R2, key)
            .extend(Insn::load_map(Reg::R1, map))
            .push(Insn::call(helper))
    }

    /// Jump to `label`.
    pub fn jump(&mut self, label: Label) -> &mut Self {
        self.jumps.push((self.insns.len(), label));
        self.push(Insn::jump(0))
    }

    /// Jump to `label` if `reg COND imm`.
    pub fn jump_if_imm(&mut self, cond: Cond, reg: Reg, imm: i32, label: Label) -> &mut Self {
        self.jumps.push((self.insns.len(), label));
        self.push(Insn::jump_if_imm(cond, reg, imm, 0))
    }

    /// Jump to `label` if `dst COND src`.
    pub fn jump_if(&mut self, cond: Cond, dst: Reg, src: Reg, label: Label) -> &mut Self {
        self.jumps.push((self.insns.len(), label));
        self.push(Insn::jump_if(cond, dst, src, 0))
    }

    /// One more in 64-bit word number `word` of the value of a one-entry ARRAY, `map` by its place in
    /// the program's list, whatever other CPUs do. Clobbers R1 and R2.
    pub fn increment(&mut self, map: u32, word: usize) -> &mut Self {
        self.extend(Insn::load_map_value(Reg::R1, map, word as u32 * 8))
            .push(Insn::mov_imm(Reg::R2, 1))
            .push(Insn::atomic_add(Reg::R1, 0, Reg::R2))
    }

    /// One more in the per-CPU word that R0 points to. Where the kernel never runs a hook's dispatcher
    /// inside itself on one CPU (`prog->active`, `bpf_prog_active`) a plain load, add and store is
    /// exact, since what it dispatches runs nowhere else; where it `nests`, it takes an atomic add.
    /// Clobbers R1.
    pub fn increment_per_cpu(&mut self, nests: bool) -> &mut Self {
        if nests {
            self.push(Insn::mov_imm(Reg::R1, 1))
                .push(Insn::atomic_add(Reg::R0, 0, Reg::R1))
        } else {
            self.push(Insn::load(Size::Dw, Reg::R1, Reg::R0, 0))
                .push(Insn::alu_imm(Alu::Add, Reg::R1, 1))
                .push(Insn::store(Size::Dw, Reg::R0, 0, Reg::R1))
        }
    }

    /// Number of instructions so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.insns.len()
    }

    /// No instruction so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.insns.is_empty()
    }

    /// The stream, every jump filled in.
    ///
    /// # Errors
    /// [`EditError`] for a jump that is too long or to a label that was never placed.
    pub fn finish(mut self) -> Result<Vec<Insn>, EditError> {
        for (at, label) in self.jumps {
            let to = self.labels[label.0].ok_or(EditError::Wild { at })?;
            let distance = to as i64 - (at as i64 + 1);
            self.insns[at].off =
                i16::try_from(distance).map_err(|_| EditError::JumpTooFar { at, distance })?;
        }
        Ok(self.insns)
    }
}
