//! Which parts of a gate an event is of, and what it asks of each.

use super::{Generator, Part};
use crate::asm::{Alu, Cond, Insn, Label, Reg, Size};
use crate::meter::CodeError;
use crate::meter::expr::Label as MeterLabel;
use crate::meter::resolved::GateProgram;
use crate::meter::text::TEXT_WORDS;

impl Generator<'_> {
    /// Which parts an event is of, and what it asks of each; goes to `out` if it is of none.
    pub(super) fn measure(&mut self, parts: &[Part<'_>], out: Label) -> Result<(), CodeError> {
        if let Some(active) = self.active {
            self.b.push(Insn::store_imm(Size::Dw, Reg::R10, active, 0));
        }
        let unknown = self.unknown;
        if parts.iter().any(|p| p.reserved.is_some()) {
            self.b.push(Insn::store_imm(Size::Dw, Reg::R10, unknown, 0));
        }
        for (at, part) in parts.iter().enumerate() {
            let next = match self.active {
                Some(_) => self.b.label(),
                None => out,
            };
            if let Some(condition) = &part.program.condition {
                self.emit.unless(&mut self.b, condition, next)?;
            }
            for (label, words) in part.only {
                self.only(part.program, *label, words, next)?;
            }
            let program = part.program;
            if let Some(ask) = program.ask.as_ref().or(program.expect.as_ref()) {
                self.emit.number(&mut self.b, ask)?;
                if program.ask.is_none() {
                    // Whatever is expected, nothing passes where nothing is left.
                    let some = self.b.label();
                    self.b.jump_if_imm(Cond::Ne, Reg::R7, 0, some);
                    if part.reserved.is_some() {
                        self.b
                            .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, unknown))
                            .push(Insn::alu_imm(Alu::Or, Reg::R1, 1 << at))
                            .push(Insn::store(Size::Dw, Reg::R10, unknown, Reg::R1));
                    }
                    self.b.push(Insn::mov_imm(Reg::R7, 1)).place(some);
                }
                let amount = self.amount(at);
                self.b
                    .push(Insn::store(Size::Dw, Reg::R10, amount, Reg::R7));
            }
            if let Some(active) = self.active {
                self.b
                    .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, active))
                    .push(Insn::alu_imm(Alu::Or, Reg::R1, 1 << at))
                    .push(Insn::store(Size::Dw, Reg::R10, active, Reg::R1))
                    .place(next);
            }
        }
        if let Some(active) = self.active {
            self.b
                .push(Insn::load(Size::Dw, Reg::R1, Reg::R10, active))
                .jump_if_imm(Cond::Eq, Reg::R1, 0, out);
        }
        Ok(())
    }

    /// Goes to `next` unless a label is `words`.
    fn only(
        &mut self,
        program: &GateProgram,
        label: usize,
        words: &[u64],
        next: Label,
    ) -> Result<(), CodeError> {
        match program.by.get(label) {
            Some(Some(MeterLabel::Number(node, _))) => {
                self.emit.number(&mut self.b, node)?;
                self.b
                    .constant(Reg::R1, words.first().copied().unwrap_or(0));
                self.b.jump_if(Cond::Ne, Reg::R7, Reg::R1, next);
            }
            Some(Some(MeterLabel::Text(load))) => {
                self.emit.label_text(&mut self.b, load, self.text);
                for (at, word) in words.iter().enumerate().take(TEXT_WORDS) {
                    let at = self.text + at as i16 * 8;
                    self.b.push(Insn::load(Size::Dw, Reg::R2, Reg::R10, at));
                    self.b.constant(Reg::R1, *word);
                    self.b.jump_if(Cond::Ne, Reg::R2, Reg::R1, next);
                }
            }
            // Whoever made the plan has seen to it that the gate tells the label.
            _ => {
                self.b.jump(next);
            }
        }
        Ok(())
    }

    /// Goes to `out` if the event was asked when it came before.
    pub(super) fn pass_second(&mut self, parts: &[Part<'_>], out: Label) -> Result<(), CodeError> {
        let Some(pairs) = self.pairs else {
            return Ok(());
        };
        pairs.begin(&mut self.b);
        for (at, part) in parts.iter().enumerate() {
            if let Some(twice) = &part.program.twice {
                let next = self.b.label();
                self.unless_active(at, next);
                self.emit.unless(&mut self.b, twice, next)?;
                pairs.mark(&mut self.b);
                self.b.place(next);
            }
        }
        pairs.pass_second(&mut self.b, out);
        Ok(())
    }
}
