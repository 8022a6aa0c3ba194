//! From typed expressions to instructions.
//!
//! R6 holds the context all the time. A number ends in R7; R0-R5 and R8 are lost. Where two numbers
//! are needed, the first waits on the stack while the second is computed.

use super::expr::{Builtin, Load, Node, Op, Root, TextLoad};
use super::text::TEXT_WORDS;
use crate::asm::{Alu, Builder, Cond, Frame, Insn, Label, Reg, Size, helper};
use crate::kernel::path::Walk;
use crate::kernel::read::Reader;

/// Bytes of a text that are read to be compared.
const TEXT_BYTES: i16 = 32;
/// Numbers that may wait at a time.
pub const WAITING_MAX: usize = 12;
/// Numbers that a paired probe may note.
pub const NOTED_MAX: usize = 4;

/// Where a program keeps what expressions need.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Numbers that wait.
    waiting: i16,
    /// A text.
    text: i16,
    /// A word for what helpers read.
    pub scratch: i16,
    /// What the paired probe noted.
    pub noted: i16,
    /// Time since it.
    pub elapsed: i16,
}

impl Slots {
    /// Takes them from `frame`.
    pub fn new(frame: &mut Frame) -> Self {
        Self {
            waiting: frame.take(WAITING_MAX),
            text: frame.take(TEXT_BYTES as usize / 8),
            scratch: frame.take(1),
            noted: frame.take(NOTED_MAX),
            elapsed: frame.take(1),
        }
    }
}

/// Emits expressions of one program.
#[derive(Clone, Copy, Debug)]
pub struct Emitter<'a> {
    /// Reads memory of the kernel.
    pub reader: Reader<'a>,
    /// Arguments of the hook are typed pointers, which the verifier takes for no number.
    pub has_typed_arguments: bool,
    /// Where things are kept.
    pub slots: Slots,
}

/// More numbers wait than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the expression is too deep: at most {WAITING_MAX} values can wait for others; split it")]
pub struct TooDeep;

/// The constant as an immediate, which the instruction widens by its sign.
fn immediate(node: &Node) -> Option<i32> {
    match node {
        Node::Constant(value) => i32::try_from(value.cast_signed()).ok(),
        _ => None,
    }
}

/// The low `bits` of `reg`, widened.
fn widen(b: &mut Builder, reg: Reg, bits: u8, signed: bool) {
    let unused = 64 - i32::from(bits);
    if unused == 0 {
        return;
    }
    let back = if signed { Alu::Arsh } else { Alu::Rsh };
    b.push(Insn::alu_imm(Alu::Lsh, reg, unused))
        .push(Insn::alu_imm(back, reg, unused));
}

fn condition(op: Op) -> Option<Cond> {
    Some(match op {
        Op::Eq => Cond::Eq,
        Op::Ne => Cond::Ne,
        Op::Lt => Cond::Lt,
        Op::Le => Cond::Le,
        Op::Gt => Cond::Gt,
        Op::Ge => Cond::Ge,
        Op::LtSigned => Cond::SignedLt,
        Op::LeSigned => Cond::SignedLe,
        Op::GtSigned => Cond::SignedGt,
        Op::GeSigned => Cond::SignedGe,
        _ => return None,
    })
}

fn arithmetic(op: Op) -> Option<Alu> {
    Some(match op {
        Op::Add => Alu::Add,
        Op::Sub => Alu::Sub,
        Op::Mul => Alu::Mul,
        Op::Div => Alu::Div,
        Op::Mod => Alu::Mod,
        Op::And => Alu::And,
        Op::Or => Alu::Or,
        Op::Xor => Alu::Xor,
        Op::Shl => Alu::Lsh,
        Op::Shr => Alu::Rsh,
        Op::ShrSigned => Alu::Arsh,
        _ => return None,
    })
}

/// What the second of two numbers is.
enum Second {
    Immediate(i32),
    Register(Reg),
}

impl Emitter<'_> {
    /// R7 = a number.
    ///
    /// # Errors
    /// [`TooDeep`].
    pub fn number(&self, b: &mut Builder, node: &Node) -> Result<(), TooDeep> {
        self.number_at(b, node, 0)
    }

    /// Goes to `no` if a number is 0, and falls through if it is not.
    ///
    /// # Errors
    /// [`TooDeep`].
    pub fn unless(&self, b: &mut Builder, node: &Node, no: Label) -> Result<(), TooDeep> {
        self.branch(b, node, 0, false, no)
    }

    fn number_at(&self, b: &mut Builder, node: &Node, depth: usize) -> Result<(), TooDeep> {
        match node {
            Node::Constant(value) => {
                b.constant(Reg::R7, *value);
            }
            Node::Load(load) => self.load(b, load),
            Node::Noted(number) => {
                let at = self.slots.noted + i16::from(*number) * 8;
                b.push(Insn::load(Size::Dw, Reg::R7, Reg::R10, at));
            }
            Node::Builtin(Builtin::ElapsedNs) => {
                b.push(Insn::load(Size::Dw, Reg::R7, Reg::R10, self.slots.elapsed));
            }
            Node::Builtin(Builtin::NowNs) => {
                b.push(Insn::call(helper::KTIME_GET_NS))
                    .push(Insn::mov(Reg::R7, Reg::R0));
            }
            Node::Builtin(Builtin::Cpu) => {
                b.push(Insn::call(helper::GET_SMP_PROCESSOR_ID))
                    .push(Insn::mov(Reg::R7, Reg::R0));
            }
            Node::Cast(bits, signed, of) => {
                self.number_at(b, of, depth)?;
                widen(b, Reg::R7, *bits, *signed);
            }
            Node::User(bits, of) => {
                self.number_at(b, of, depth)?;
                let scratch = self.slots.scratch;
                b.push(Insn::store_imm(Size::Dw, Reg::R10, scratch, 0))
                    .stack_address(Reg::R1, scratch)
                    .push(Insn::mov_imm(Reg::R2, i32::from(bits / 8)))
                    .push(Insn::mov(Reg::R3, Reg::R7))
                    .push(Insn::call(helper::PROBE_READ_USER))
                    .push(Insn::load(
                        Size::of_bytes(bits / 8),
                        Reg::R7,
                        Reg::R10,
                        scratch,
                    ));
            }
            Node::Choose(condition, yes, no) => {
                let (otherwise, end) = (b.label(), b.label());
                self.branch(b, condition, depth, false, otherwise)?;
                self.number_at(b, yes, depth)?;
                b.jump(end).place(otherwise);
                self.number_at(b, no, depth)?;
                b.place(end);
            }
            Node::Binary(op, left, right) => match arithmetic(*op) {
                Some(alu) => self.compute(b, alu, left, right, depth)?,
                None => self.truth(b, node, depth)?,
            },
            Node::Not(_) | Node::And(..) | Node::Or(..) | Node::Same { .. } => {
                self.truth(b, node, depth)?;
            }
        }
        Ok(())
    }

    /// R7 = 1 or 0.
    fn truth(&self, b: &mut Builder, node: &Node, depth: usize) -> Result<(), TooDeep> {
        let (no, end) = (b.label(), b.label());
        self.branch(b, node, depth, false, no)?;
        b.push(Insn::mov_imm(Reg::R7, 1)).jump(end);
        b.place(no).push(Insn::mov_imm(Reg::R7, 0)).place(end);
        Ok(())
    }

    fn compute(
        &self,
        b: &mut Builder,
        alu: Alu,
        left: &Node,
        right: &Node,
        depth: usize,
    ) -> Result<(), TooDeep> {
        let (first, second) = self.pair(b, left, right, depth)?;
        let is_shift = matches!(alu, Alu::Lsh | Alu::Rsh | Alu::Arsh);
        let is_division = matches!(alu, Alu::Div | Alu::Mod);
        match second {
            Second::Immediate(value) if is_shift => {
                b.push(Insn::alu_imm(alu, first, value & 63));
            }
            // The verifier takes no 0, and widens what is negative by its sign: both mean it.
            Second::Immediate(value) if is_division && value <= 0 => {
                b.constant(Reg::R2, i64::from(value).cast_unsigned());
                b.push(Insn::alu(alu, first, Reg::R2));
            }
            Second::Immediate(value) => {
                b.push(Insn::alu_imm(alu, first, value));
            }
            Second::Register(reg) => {
                if is_shift {
                    b.push(Insn::alu_imm(Alu::And, reg, 63));
                }
                b.push(Insn::alu(alu, first, reg));
            }
        }
        if first != Reg::R7 {
            b.push(Insn::mov(Reg::R7, first));
        }
        Ok(())
    }

    /// Where two numbers are.
    fn pair(
        &self,
        b: &mut Builder,
        left: &Node,
        right: &Node,
        depth: usize,
    ) -> Result<(Reg, Second), TooDeep> {
        self.number_at(b, left, depth)?;
        if let Some(value) = immediate(right) {
            return Ok((Reg::R7, Second::Immediate(value)));
        }
        if let Node::Constant(value) = right {
            b.constant(Reg::R1, *value);
            return Ok((Reg::R7, Second::Register(Reg::R1)));
        }
        if let Node::Load(Load::Context {
            offset,
            bytes,
            signed,
        }) = right
        {
            self.context(b, Reg::R1, *offset, *bytes, *signed);
            return Ok((Reg::R7, Second::Register(Reg::R1)));
        }
        if depth == WAITING_MAX {
            return Err(TooDeep);
        }
        let at = self.slots.waiting + depth as i16 * 8;
        b.push(Insn::store(Size::Dw, Reg::R10, at, Reg::R7));
        self.number_at(b, right, depth + 1)?;
        b.push(Insn::load(Size::Dw, Reg::R1, Reg::R10, at));
        Ok((Reg::R1, Second::Register(Reg::R7)))
    }

    /// Goes to `to` if whether a number is not 0 is `wanted`, and falls through otherwise.
    fn branch(
        &self,
        b: &mut Builder,
        node: &Node,
        depth: usize,
        wanted: bool,
        to: Label,
    ) -> Result<(), TooDeep> {
        match node {
            Node::Constant(value) => {
                if (*value != 0) == wanted {
                    b.jump(to);
                }
            }
            Node::Not(of) => self.branch(b, of, depth, !wanted, to)?,
            Node::And(left, right) if !wanted => {
                self.branch(b, left, depth, false, to)?;
                self.branch(b, right, depth, false, to)?;
            }
            Node::Or(left, right) if wanted => {
                self.branch(b, left, depth, true, to)?;
                self.branch(b, right, depth, true, to)?;
            }
            Node::And(left, right) | Node::Or(left, right) => {
                // The first one settles it the other way.
                let past = b.label();
                self.branch(b, left, depth, !wanted, past)?;
                self.branch(b, right, depth, wanted, to)?;
                b.place(past);
            }
            Node::Same { load, text, prefix } => {
                if wanted {
                    let no = b.label();
                    self.unless_same(b, load, text, *prefix, no);
                    b.jump(to).place(no);
                } else {
                    self.unless_same(b, load, text, *prefix, to);
                }
            }
            Node::Binary(op, left, right) if condition(*op).is_some() => {
                let (first, second) = self.pair(b, left, right, depth)?;
                let cond = condition(*op).and_then(|c| if wanted { Some(c) } else { c.negated() });
                let cond = cond.unwrap_or(Cond::Ne);
                match second {
                    Second::Immediate(value) => b.jump_if_imm(cond, first, value, to),
                    Second::Register(reg) => b.jump_if(cond, first, reg, to),
                };
            }
            _ => {
                self.number_at(b, node, depth)?;
                let cond = if wanted { Cond::Ne } else { Cond::Eq };
                b.jump_if_imm(cond, Reg::R7, 0, to);
            }
        }
        Ok(())
    }

    fn context(&self, b: &mut Builder, to: Reg, offset: i16, bytes: u8, signed: bool) {
        b.push(Insn::load(Size::of_bytes(bytes), to, Reg::R6, offset));
        if signed {
            widen(b, to, bytes * 8, true);
        }
    }

    fn load(&self, b: &mut Builder, load: &Load) {
        match load {
            Load::Context {
                offset,
                bytes,
                signed,
            } => self.context(b, Reg::R7, *offset, *bytes, *signed),
            Load::Walk { root, walk, .. } if self.is_typed_argument(*root, walk) => {
                b.stack_address(Reg::R1, self.slots.scratch);
                b.push(Insn::mov_imm(Reg::R2, 8))
                    .push(Insn::mov(Reg::R3, Reg::R6))
                    .push(Insn::alu_imm(Alu::Add, Reg::R3, i32::from(walk.argument)))
                    .push(Insn::call(helper::PROBE_READ_KERNEL))
                    .push(Insn::load(Size::Dw, Reg::R7, Reg::R10, self.slots.scratch));
            }
            Load::Walk {
                root,
                walk,
                signed,
                bits,
            } => {
                self.walk(b, *root, walk);
                narrow(b, walk, *signed, *bits);
            }
        }
    }

    /// The verifier takes it for a pointer, not for a number.
    fn is_typed_argument(&self, root: Root, walk: &Walk) -> bool {
        root == Root::Argument
            && self.has_typed_arguments
            && walk.loads.is_empty()
            && walk.bytes == 8
    }

    /// R7 = what a way ends in; 0 if it ends at a NULL.
    fn walk(&self, b: &mut Builder, root: Root, walk: &Walk) {
        let (null, end) = (b.label(), b.label());
        match root {
            Root::Argument => self.reader.walk(b, walk, null),
            Root::Current => {
                b.push(Insn::call(helper::GET_CURRENT_TASK))
                    .push(Insn::mov(Reg::R7, Reg::R0));
                self.reader.walk_on(b, walk, null);
            }
        }
        if walk.loads.is_empty() {
            b.place(null);
            return;
        }
        b.jump(end)
            .place(null)
            .push(Insn::mov_imm(Reg::R7, 0))
            .place(end);
    }

    /// A text as a label keeps it, at `to` in the frame.
    pub fn label_text(&self, b: &mut Builder, load: &TextLoad, to: i16) {
        let bytes = TEXT_WORDS as i16 * 8;
        for at in (to..to + bytes).step_by(8) {
            b.push(Insn::store_imm(Size::Dw, Reg::R10, at, 0));
        }
        self.text(b, load, to, bytes);
    }

    /// Copies a text to the stack at `to`, `bytes` with its end at the most; what is behind its end
    /// stays as it is.
    fn text(&self, b: &mut Builder, load: &TextLoad, to: i16, bytes: i16) {
        match load {
            TextLoad::Context { offset, .. } => {
                b.push(Insn::mov(Reg::R3, Reg::R6)).push(Insn::alu_imm(
                    Alu::Add,
                    Reg::R3,
                    i32::from(*offset),
                ));
            }
            TextLoad::Data { offset, relative } => {
                b.push(Insn::load(Size::W, Reg::R1, Reg::R6, *offset))
                    .push(Insn::alu_imm(Alu::And, Reg::R1, 0xffff))
                    .push(Insn::mov(Reg::R3, Reg::R6));
                if *relative {
                    b.push(Insn::alu_imm(Alu::Add, Reg::R3, i32::from(*offset) + 4));
                }
                b.push(Insn::alu(Alu::Add, Reg::R3, Reg::R1));
            }
            TextLoad::Memory { root, walk, offset } => {
                self.walk(b, *root, walk);
                b.push(Insn::mov(Reg::R3, Reg::R7))
                    .push(Insn::alu_imm(Alu::Add, Reg::R3, *offset));
            }
            TextLoad::Fixed(words) => {
                for (at, word) in (to..to + bytes).step_by(8).zip(words) {
                    b.constant(Reg::R1, *word);
                    b.push(Insn::store(Size::Dw, Reg::R10, at, Reg::R1));
                }
                return;
            }
        }
        let bytes = match load {
            TextLoad::Context { bytes: has, .. } => bytes.min(i16::from(*has)),
            _ => bytes,
        };
        b.stack_address(Reg::R1, to);
        b.push(Insn::mov_imm(Reg::R2, i32::from(bytes)))
            .push(Insn::call(helper::PROBE_READ_KERNEL_STR));
    }

    fn unless_same(&self, b: &mut Builder, load: &TextLoad, text: &str, prefix: bool, no: Label) {
        let end = (!prefix).then_some(0);
        let bytes: Vec<u8> = text.bytes().chain(end).collect();
        let (base, from) = match load {
            TextLoad::Context { offset, .. } => (Reg::R6, *offset),
            _ => {
                self.text(b, load, self.slots.text, TEXT_BYTES);
                (Reg::R10, self.slots.text)
            }
        };
        let room = match load {
            TextLoad::Context { bytes, .. } => usize::from(*bytes),
            _ => usize::from(TEXT_BYTES.unsigned_abs()),
        };
        for (at, byte) in bytes.into_iter().enumerate().take(room) {
            b.push(Insn::load(Size::B, Reg::R1, base, from + at as i16))
                .jump_if_imm(Cond::Ne, Reg::R1, i32::from(byte), no);
        }
    }
}

fn narrow(b: &mut Builder, walk: &Walk, signed: bool, bits: Option<(u8, u8)>) {
    match bits {
        Some((count, from)) => {
            let above = 64 - i32::from(count) - i32::from(from);
            let back = if signed { Alu::Arsh } else { Alu::Rsh };
            b.push(Insn::alu_imm(Alu::Lsh, Reg::R7, above))
                .push(Insn::alu_imm(back, Reg::R7, above + i32::from(from)));
        }
        None if signed => widen(b, Reg::R7, walk.bytes * 8, true),
        None => {}
    }
}
