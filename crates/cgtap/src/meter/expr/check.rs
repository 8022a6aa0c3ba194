//! From what is written to what is computed, by the names that a hook has.

use super::node::{Builtin, Load, Node, Op, TextLoad};
use super::parse::{Ast, AstKind, Written};
use super::{ExprError, Parser};
use crate::hook::scope::Path;
use crate::meter::text;

/// Longest text that is compared, in bytes.
pub const TEXT_MAX: usize = 31;

/// How a number is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Shown {
    /// As a number.
    #[default]
    Unsigned,
    /// As a number with its sign.
    Signed,
    /// As a device number of the kernel, `8:0` (include/linux/kdev_t.h).
    Device,
    /// As an address.
    Hex,
    /// By its name, the first one that of 0.
    Names(Vec<String>),
    /// As the text whose bytes it and the words behind it are.
    Text,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A number.
    Number {
        /// Where it is.
        load: Load,
        /// It has a sign, or fewer bits than 64: it may be compared with signed ones.
        fits_signed: bool,
        /// It has a sign.
        signed: bool,
        /// How it is shown.
        shown: Shown,
    },
    /// A text.
    Text(TextLoad),
}

/// The names that expressions of a hook may use.
pub trait Names {
    /// What a path stands for.
    ///
    /// # Errors
    /// In words: what there is instead.
    fn find(&self, path: &Path) -> Result<Found, String>;

    /// What the paired probe noted, by name, in order.
    fn noted(&self) -> &[String];

    /// There is a paired probe.
    fn is_paired(&self) -> bool;
}

/// A label: what an event is split by.
#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    /// A number.
    Number(Node, Shown),
    /// A text, its first 16 bytes.
    Text(TextLoad),
}

/// Whether a number is one with a sign, when it meets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// It has one.
    Signed,
    /// It has none, but fits beside those that have.
    Either,
    /// It has none, and all 64 bits.
    Unsigned,
}

struct Checker<'a> {
    text: &'a str,
    names: &'a dyn Names,
}

type Checked = Result<(Node, Sign), ExprError>;

/// The number that `ast` is at a hook. `text` is what it was read from.
///
/// # Errors
/// [`ExprError`] with the place.
pub fn check_number(text: &str, ast: &Ast, names: &dyn Names) -> Result<Node, ExprError> {
    let checker = Checker { text, names };
    Ok(checker.number(ast)?.0.fold())
}

/// The label that `ast` is at a hook, and how it is shown elsewhere.
///
/// # Errors
/// [`ExprError`] with the place.
pub fn check_label(
    text: &str,
    ast: &Ast,
    names: &dyn Names,
    elsewhere: Option<&Shown>,
) -> Result<Label, ExprError> {
    let checker = Checker { text, names };
    if let (AstKind::Text(word), Some(Shown::Text)) = (&ast.kind, elsewhere) {
        return Ok(Label::Text(TextLoad::Fixed(text::words(word))));
    }
    if is_words(ast) {
        let mut words = match elsewhere {
            Some(Shown::Names(words)) => words.clone(),
            _ => Vec::new(),
        };
        let node = checker.words(ast, &mut words)?;
        return Ok(Label::Number(node.fold(), Shown::Names(words)));
    }
    if let AstKind::Name(path) = &ast.kind {
        match checker.found(ast, path)? {
            Some(Found::Text(load)) => return Ok(Label::Text(load)),
            Some(Found::Number { load, shown, .. }) => {
                return Ok(Label::Number(Node::Load(load), shown));
            }
            None => {}
        }
    }
    let (node, sign) = checker.number(ast)?;
    let shown = match sign {
        _ if matches!(ast.kind, AstKind::Device(_)) => Shown::Device,
        Sign::Signed => Shown::Signed,
        Sign::Either | Sign::Unsigned => Shown::Unsigned,
    };
    Ok(Label::Number(node.fold(), shown))
}

/// It is a choice of texts.
fn is_words(ast: &Ast) -> bool {
    match &ast.kind {
        AstKind::Text(_) => true,
        AstKind::Choose(_, yes, no) => is_words(yes) || is_words(no),
        _ => false,
    }
}

impl Checker<'_> {
    fn error(&self, at: usize, why: impl Into<String>) -> ExprError {
        Parser::new(self.text).error_at(at, why)
    }

    /// The places of words in `words`, chosen.
    fn words(&self, ast: &Ast, words: &mut Vec<String>) -> Result<Node, ExprError> {
        match &ast.kind {
            AstKind::Text(text) => {
                let at = words.iter().position(|w| w == text).unwrap_or_else(|| {
                    words.push(text.clone());
                    words.len() - 1
                });
                Ok(Node::Constant(at as u64))
            }
            AstKind::Choose(condition, yes, no) => Ok(Node::Choose(
                self.number(condition)?.0.into(),
                self.words(yes, words)?.into(),
                self.words(no, words)?.into(),
            )),
            _ => Err(self.error(
                ast.at,
                "the other choice is a text in quotes, so this has to be one too",
            )),
        }
    }

    /// What a name is of the event; `None` for what is not the event's.
    fn found(&self, ast: &Ast, path: &Path) -> Result<Option<Found>, ExprError> {
        let name = path.argument();
        let is_bare = path.members().next().is_none();
        if is_bare && self.names.noted().iter().any(|n| n == name) {
            return Ok(None);
        }
        match self.names.find(path) {
            Ok(found) => Ok(Some(found)),
            Err(_) if is_bare && matches!(name, "now" | "cpu" | "elapsed") => Ok(None),
            Err(why) => Err(self.error(ast.at, why)),
        }
    }

    fn name(&self, ast: &Ast, path: &Path) -> Checked {
        match self.found(ast, path)? {
            Some(Found::Number {
                load,
                fits_signed,
                signed,
                ..
            }) => {
                let sign = match (signed, fits_signed) {
                    (true, _) => Sign::Signed,
                    (false, true) => Sign::Either,
                    (false, false) => Sign::Unsigned,
                };
                Ok((Node::Load(load), sign))
            }
            Some(Found::Text(_)) => Err(self.error(
                ast.at,
                format!("{path} is a text: compare it with one, {path} == \"...\" or =~ \"...*\""),
            )),
            None => {
                let name = path.argument();
                if let Some(at) = self.names.noted().iter().position(|n| n == name) {
                    return Ok((Node::Noted(at as u8), Sign::Unsigned));
                }
                let builtin = match name {
                    "now" => Builtin::NowNs,
                    "cpu" => Builtin::Cpu,
                    _ if self.names.is_paired() => Builtin::ElapsedNs,
                    _ => {
                        return Err(self.error(
                            ast.at,
                            "`elapsed` is the time since a paired probe, and there is none; say \
                             since which: since HOOK key KEY",
                        ));
                    }
                };
                // Times are far from 2^63.
                Ok((Node::Builtin(builtin), Sign::Either))
            }
        }
    }

    fn number(&self, ast: &Ast) -> Checked {
        match &ast.kind {
            AstKind::Number(value) => {
                let fits = i64::try_from(*value).is_ok();
                let sign = if fits { Sign::Either } else { Sign::Unsigned };
                Ok((Node::Constant(*value), sign))
            }
            AstKind::Text(_) => Err(self.error(
                ast.at,
                "a text is no number; texts are compared with == and !=, or chosen as a label",
            )),
            AstKind::Name(path) => self.name(ast, path),
            AstKind::Not(inner) => Ok((Node::Not(self.number(inner)?.0.into()), Sign::Either)),
            AstKind::Negate(inner) => {
                let (node, _) = self.number(inner)?;
                let zero = Node::Constant(0);
                Ok((
                    Node::Binary(Op::Sub, zero.into(), node.into()),
                    Sign::Signed,
                ))
            }
            AstKind::Complement(inner) => {
                let (node, sign) = self.number(inner)?;
                let ones = Node::Constant(u64::MAX);
                let sign = match sign {
                    Sign::Signed => Sign::Signed,
                    Sign::Either | Sign::Unsigned => Sign::Unsigned,
                };
                Ok((Node::Binary(Op::Xor, node.into(), ones.into()), sign))
            }
            AstKind::Cast(bits, signed, inner) => {
                let (node, _) = self.number(inner)?;
                let sign = match (signed, bits) {
                    (true, _) => Sign::Signed,
                    (false, 64) => Sign::Unsigned,
                    (false, _) => Sign::Either,
                };
                Ok((Node::Cast(*bits, *signed, node.into()), sign))
            }
            AstKind::Device(inner) => {
                let (node, _) = self.number(inner)?;
                Ok((Node::Cast(32, false, node.into()), Sign::Either))
            }
            AstKind::User(bits, inner) => {
                let sign = if *bits == 64 {
                    Sign::Unsigned
                } else {
                    Sign::Either
                };
                Ok((Node::User(*bits, self.number(inner)?.0.into()), sign))
            }
            AstKind::Choose(condition, yes, no) => {
                let condition = self.number(condition)?.0;
                let ((yes, a), (no, b)) = (self.number(yes)?, self.number(no)?);
                Ok((
                    Node::Choose(condition.into(), yes.into(), no.into()),
                    together(a, b),
                ))
            }
            AstKind::Binary(written, left, right) => self.binary(ast, *written, left, right),
        }
    }

    fn binary(&self, ast: &Ast, written: Written, left: &Ast, right: &Ast) -> Checked {
        if written == Written::Like && !matches!(right.kind, AstKind::Text(_)) {
            return Err(self.error(right.at, "=~ stands before a text in quotes"));
        }
        if let Some(same) = self.texts(ast, written, left, right)? {
            return Ok((same, Sign::Either));
        }
        let ((a, of_a), (b, of_b)) = (self.number(left)?, self.number(right)?);
        let op = match written {
            Written::And => return Ok((Node::And(a.into(), b.into()), Sign::Either)),
            Written::Or => return Ok((Node::Or(a.into(), b.into()), Sign::Either)),
            Written::Like => {
                return Err(self.error(ast.at, "=~ compares a text with one in quotes"));
            }
            Written::Op(op) => op,
        };
        let sign = match op {
            // Only what is shifted says whether a sign moves along.
            Op::Shl | Op::Shr => of_a,
            _ => together(of_a, of_b),
        };
        if matches!(op, Op::Div | Op::Mod) && sign == Sign::Signed {
            return Err(self.error(
                ast.at,
                "signed numbers are not divided; say how to take it, for example with u64(...)",
            ));
        }
        let op = if sign == Sign::Signed {
            op.signed()
        } else {
            op
        };
        let sign = match (op, sign) {
            (op, _) if op.is_comparison() => Sign::Either,
            // A sum of numbers that fit need not fit.
            (Op::Add | Op::Mul | Op::Shl, Sign::Either) => Sign::Unsigned,
            // What is less than 0 is meant so.
            (Op::Sub, Sign::Either) => Sign::Signed,
            (_, sign) => sign,
        };
        Ok((Node::Binary(op, a.into(), b.into()), sign))
    }

    /// A comparison of texts, if a side is one.
    fn texts(
        &self,
        ast: &Ast,
        written: Written,
        left: &Ast,
        right: &Ast,
    ) -> Result<Option<Node>, ExprError> {
        let (name, literal) = match (&left.kind, &right.kind) {
            (_, AstKind::Text(text)) => (left, (right.at, text)),
            (AstKind::Text(text), _) => (right, (left.at, text)),
            _ => return Ok(None),
        };
        let negated = match written {
            Written::Op(Op::Eq) | Written::Like => false,
            Written::Op(Op::Ne) => true,
            _ => return Err(self.error(ast.at, "texts are compared with ==, != and =~ only")),
        };
        let (at, text) = literal;
        let AstKind::Name(path) = &name.kind else {
            return Err(self.error(name.at, "a text is compared with the name of a field"));
        };
        let Some(Found::Text(load)) = self.found(name, path)? else {
            return Err(self.error(
                name.at,
                format!("{path} is a number, and cannot be compared with a text"),
            ));
        };
        let (text, prefix) = match (written, text.strip_suffix('*')) {
            (Written::Like, Some(head)) => (head, true),
            (Written::Like, None) => {
                return Err(self.error(at, "=~ looks how a text begins: write \"R*\", or use =="));
            }
            _ => (text.as_str(), false),
        };
        if text.len() > TEXT_MAX || text.contains('\0') {
            return Err(self.error(at, format!("at most {TEXT_MAX} bytes are compared")));
        }
        // It is never that: no instructions are wasted on it.
        let is_longer =
            matches!(load, TextLoad::Context { bytes, .. } if text.len() > bytes.into());
        let same = if is_longer {
            Node::Constant(0)
        } else if prefix && text.is_empty() {
            Node::Constant(1)
        } else {
            Node::Same {
                load,
                text: text.to_owned(),
                prefix,
            }
        };
        Ok(Some(if negated {
            Node::Not(same.into())
        } else {
            same
        }))
    }
}

fn together(a: Sign, b: Sign) -> Sign {
    match (a, b) {
        (Sign::Unsigned, _) | (_, Sign::Unsigned) => Sign::Unsigned,
        (Sign::Signed, _) | (_, Sign::Signed) => Sign::Signed,
        (Sign::Either, Sign::Either) => Sign::Either,
    }
}
