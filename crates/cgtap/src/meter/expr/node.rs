//! A typed expression: what is computed, of what.

use crate::kernel::path::Walk;
use crate::meter::text::TEXT_WORDS;

/// What computes a number of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the operators")]
pub enum Op {
    Add,
    Sub,
    Mul,
    /// Unsigned; by 0 it is 0.
    Div,
    /// Unsigned; by 0 it is what is divided.
    Mod,
    And,
    Or,
    Xor,
    /// By the low six bits.
    Shl,
    /// Fills with zeros.
    Shr,
    /// Fills with the sign.
    ShrSigned,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    LtSigned,
    LeSigned,
    GtSigned,
    GeSigned,
}

/// What can be read anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// Nanoseconds since boot, without suspend (`bpf_ktime_get_ns`).
    NowNs,
    /// Number of this CPU.
    Cpu,
    /// Nanoseconds since the probe that this one is paired with.
    ElapsedNs,
}

/// Where a way begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// At the argument of the hook that it names.
    Argument,
    /// At the running task; the argument that the way names means nothing.
    Current,
}

/// A number that an event carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    /// In the context, `bytes` from `offset`.
    Context {
        /// Bytes from the beginning.
        offset: i16,
        /// 1, 2, 4 or 8.
        bytes: u8,
        /// It is widened by its sign.
        signed: bool,
    },
    /// Behind pointers.
    Walk {
        /// Where the way begins.
        root: Root,
        /// The way to it.
        walk: Walk,
        /// It is widened by its sign.
        signed: bool,
        /// Bits that it has, from which on; none for whole bytes.
        bits: Option<(u8, u8)>,
    },
}

/// A text that an event carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextLoad {
    /// An array in the context.
    Context {
        /// Bytes from the beginning.
        offset: i16,
        /// Its length.
        bytes: u8,
    },
    /// `__data_loc`: a word in the context says where in the context it is
    /// (include/trace/stages/stage1_struct_define.h).
    Data {
        /// Where that word is.
        offset: i16,
        /// It counts from behind itself (`__rel_loc`).
        relative: bool,
    },
    /// Behind the pointer that a way ends in.
    Memory {
        /// Where the way begins.
        root: Root,
        /// The way.
        walk: Walk,
        /// Bytes behind the pointer.
        offset: i32,
    },
    /// The same at each event.
    Fixed([u64; TEXT_WORDS]),
}

/// A typed expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A constant.
    Constant(u64),
    /// A field.
    Load(Load),
    /// Number `n` of what the paired probe noted.
    Noted(u8),
    /// What can be read anywhere.
    Builtin(Builtin),
    /// `op(a, b)`.
    Binary(Op, Box<Node>, Box<Node>),
    /// 1 if 0, else 0.
    Not(Box<Node>),
    /// 1 if both are not 0; the second is not looked at without need.
    And(Box<Node>, Box<Node>),
    /// 1 if one is not 0; the second is not looked at without need.
    Or(Box<Node>, Box<Node>),
    /// The second if the first is not 0, else the third.
    Choose(Box<Node>, Box<Node>, Box<Node>),
    /// The low bits, widened.
    Cast(u8, bool, Box<Node>),
    /// A number of so many bits at an address of the caller's; 0 where nothing can be read.
    User(u8, Box<Node>),
    /// 1 if a text is another, or begins with it.
    Same {
        /// What is read.
        load: TextLoad,
        /// What it is compared with.
        text: String,
        /// Only how it begins.
        prefix: bool,
    },
}

/// An event as a plain program sees it.
pub trait Record {
    /// A number, widened to 64 bits.
    fn number(&self, load: &Load) -> u64;
    /// A text without its end.
    fn text(&self, load: &TextLoad) -> Vec<u8>;
    /// What was noted.
    fn noted(&self, number: u8) -> u64;
    /// What can be read anywhere.
    fn builtin(&self, builtin: Builtin) -> u64;
    /// Eight bytes of the caller's memory.
    fn user(&self, _address: u64) -> u64 {
        0
    }
}

impl Op {
    /// What it computes.
    #[must_use]
    pub fn apply(self, a: u64, b: u64) -> u64 {
        let (x, y) = (a.cast_signed(), b.cast_signed());
        match self {
            Self::Add => a.wrapping_add(b),
            Self::Sub => a.wrapping_sub(b),
            Self::Mul => a.wrapping_mul(b),
            Self::Div => a.checked_div(b).unwrap_or(0),
            Self::Mod => a.checked_rem(b).unwrap_or(a),
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
            Self::Shl => a << (b & 63),
            Self::Shr => a >> (b & 63),
            Self::ShrSigned => (x >> (b & 63)).cast_unsigned(),
            Self::Eq => u64::from(a == b),
            Self::Ne => u64::from(a != b),
            Self::Lt => u64::from(a < b),
            Self::Le => u64::from(a <= b),
            Self::Gt => u64::from(a > b),
            Self::Ge => u64::from(a >= b),
            Self::LtSigned => u64::from(x < y),
            Self::LeSigned => u64::from(x <= y),
            Self::GtSigned => u64::from(x > y),
            Self::GeSigned => u64::from(x >= y),
        }
    }

    /// It yields 0 or 1.
    #[must_use]
    pub fn is_comparison(self) -> bool {
        matches!(
            self,
            Self::Eq
                | Self::Ne
                | Self::Lt
                | Self::Le
                | Self::Gt
                | Self::Ge
                | Self::LtSigned
                | Self::LeSigned
                | Self::GtSigned
                | Self::GeSigned
        )
    }

    /// The same of signed numbers, for those where that differs and that BPF has.
    #[must_use]
    pub fn signed(self) -> Self {
        match self {
            Self::Shr => Self::ShrSigned,
            Self::Lt => Self::LtSigned,
            Self::Le => Self::LeSigned,
            Self::Gt => Self::GtSigned,
            Self::Ge => Self::GeSigned,
            other => other,
        }
    }
}

/// The low `bits` of a number, widened.
#[must_use]
pub fn cast(bits: u8, signed: bool, value: u64) -> u64 {
    let unused = 64 - u32::from(bits.clamp(1, 64));
    if signed {
        ((value << unused).cast_signed() >> unused).cast_unsigned()
    } else {
        value << unused >> unused
    }
}

impl Node {
    /// What it is of an event, in plain Rust: what the generated code is held to.
    pub fn evaluate(&self, record: &impl Record) -> u64 {
        match self {
            Self::Constant(value) => *value,
            Self::Load(load) => record.number(load),
            Self::Noted(number) => record.noted(*number),
            Self::Builtin(builtin) => record.builtin(*builtin),
            Self::Binary(op, a, b) => op.apply(a.evaluate(record), b.evaluate(record)),
            Self::Not(a) => u64::from(a.evaluate(record) == 0),
            Self::And(a, b) => u64::from(a.evaluate(record) != 0 && b.evaluate(record) != 0),
            Self::Or(a, b) => u64::from(a.evaluate(record) != 0 || b.evaluate(record) != 0),
            Self::Choose(c, a, b) => {
                if c.evaluate(record) != 0 {
                    a.evaluate(record)
                } else {
                    b.evaluate(record)
                }
            }
            Self::Cast(bits, signed, a) => cast(*bits, *signed, a.evaluate(record)),
            Self::User(bits, a) => cast(*bits, false, record.user(a.evaluate(record))),
            Self::Same { load, text, prefix } => {
                let found = record.text(load);
                u64::from(if *prefix {
                    found.starts_with(text.as_bytes())
                } else {
                    found == text.as_bytes()
                })
            }
        }
    }

    /// It takes something from the paired probe.
    #[must_use]
    pub fn asks_note(&self) -> bool {
        match self {
            Self::Noted(_) | Self::Builtin(Builtin::ElapsedNs) => true,
            Self::Constant(_) | Self::Load(_) | Self::Builtin(_) | Self::Same { .. } => false,
            Self::Not(a) | Self::Cast(_, _, a) | Self::User(_, a) => a.asks_note(),
            Self::Binary(_, a, b) | Self::And(a, b) | Self::Or(a, b) => {
                a.asks_note() || b.asks_note()
            }
            Self::Choose(c, a, b) => c.asks_note() || a.asks_note() || b.asks_note(),
        }
    }

    fn constant(&self) -> Option<u64> {
        match self {
            Self::Constant(value) => Some(*value),
            _ => None,
        }
    }

    /// It is 0 or 1.
    fn is_truth(&self) -> bool {
        match self {
            Self::Constant(value) => *value <= 1,
            Self::Binary(op, ..) => op.is_comparison(),
            Self::Not(_) | Self::And(..) | Self::Or(..) | Self::Same { .. } => true,
            _ => false,
        }
    }

    /// 0 or 1, whatever it was.
    fn truth(self) -> Self {
        if self.is_truth() {
            self
        } else {
            Self::Binary(Op::Ne, self.into(), Self::Constant(0).into())
        }
    }

    /// The same with everything computed that is known.
    #[must_use]
    pub fn fold(self) -> Self {
        match self {
            Self::Binary(op, a, b) => fold_binary(op, a.fold(), b.fold()),
            Self::Not(a) => match a.fold() {
                Self::Constant(value) => Self::Constant(u64::from(value == 0)),
                a => Self::Not(a.into()),
            },
            Self::And(a, b) => match (a.fold(), b.fold()) {
                (Self::Constant(0), _) => Self::Constant(0),
                (Self::Constant(_), b) => b.truth(),
                (a, b) => match b.constant() {
                    Some(0) => Self::Constant(0),
                    Some(_) => a.truth(),
                    None => Self::And(a.into(), b.into()),
                },
            },
            Self::Or(a, b) => match (a.fold(), b.fold()) {
                (Self::Constant(0), b) => b.truth(),
                (Self::Constant(_), _) => Self::Constant(1),
                (a, b) => match b.constant() {
                    Some(0) => a.truth(),
                    Some(_) => Self::Constant(1),
                    None => Self::Or(a.into(), b.into()),
                },
            },
            Self::Choose(c, a, b) => match c.fold() {
                Self::Constant(0) => b.fold(),
                Self::Constant(_) => a.fold(),
                c => Self::Choose(c.into(), a.fold().into(), b.fold().into()),
            },
            Self::Cast(bits, signed, a) => match a.fold() {
                Self::Constant(value) => Self::Constant(cast(bits, signed, value)),
                a if bits == 64 => a,
                a => Self::Cast(bits, signed, a.into()),
            },
            Self::User(bits, a) => Self::User(bits, a.fold().into()),
            other => other,
        }
    }
}

fn fold_binary(op: Op, a: Node, b: Node) -> Node {
    match (op, a.constant(), b.constant()) {
        (_, Some(x), Some(y)) => Node::Constant(op.apply(x, y)),
        (Op::Add | Op::Or | Op::Xor, Some(0), None) => b,
        (
            Op::Add | Op::Sub | Op::Or | Op::Xor | Op::Shl | Op::Shr | Op::ShrSigned,
            None,
            Some(0),
        ) => a,
        (Op::Mul, Some(1), None) => b,
        (Op::Mul | Op::Div, None, Some(1)) => a,
        (Op::Mul | Op::And, Some(0), None) | (Op::Mul | Op::And | Op::Div, None, Some(0)) => {
            Node::Constant(0)
        }
        (Op::Mod, None, Some(1)) => Node::Constant(0),
        (Op::Mod, None, Some(0)) => a,
        (Op::Div, None, Some(y)) if y.is_power_of_two() => {
            let by = Node::Constant(u64::from(y.trailing_zeros()));
            Node::Binary(Op::Shr, a.into(), by.into())
        }
        (Op::Mod, None, Some(y)) if y.is_power_of_two() => {
            Node::Binary(Op::And, a.into(), Node::Constant(y - 1).into())
        }
        _ => Node::Binary(op, a.into(), b.into()),
    }
}
