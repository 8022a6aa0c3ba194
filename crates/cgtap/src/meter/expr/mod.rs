//! Expressions over what an event carries: written, typed, folded, evaluated.
//!
//! ```text
//! EXPR  = EXPR ? EXPR : EXPR | EXPR OP EXPR | (! | - | ~) EXPR | ( EXPR ) | TYPE ( EXPR )
//!       | NAME ((-> | .) NAME)* | NUMBER | "TEXT" | 'C'
//! OP    = || && == != < <= > >= =~ | ^ & << >> + - * / %
//! TYPE  = i8 i16 i32 i64 u8 u16 u32 u64
//! ```
//!
//! Numbers have 64 bits. A field is widened by its own sign. An operation is signed if one side is a
//! signed field or negated and no side is an unsigned one of 64 bits. `x / 0` is 0 and `x % 0` is `x`,
//! as in BPF. `&`, `^` and `|` bind stronger than comparisons, unlike in C. What cannot be read, a
//! field behind a NULL pointer for one, is 0 or the empty text.

mod check;
mod node;
mod parse;

pub use check::{Found, Label, Names, Shown, check_label, check_number};
pub use node::{Builtin, Load, Node, Op, Record, Root, TextLoad};
pub use parse::{Ast, AstKind, Parser};

/// Why a text is no expression, or none of this hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// The whole text.
    pub text: String,
    /// Where in it, in bytes.
    pub at: usize,
    /// What is wrong there.
    pub why: String,
}

impl std::fmt::Display for ExprError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = self.text.get(..self.at).unwrap_or(&self.text);
        let line_at = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_at..].lines().next().unwrap_or("");
        let column = before[line_at..].chars().count();
        write!(f, "{}\n  {line}\n  {:column$}^", self.why, "")
    }
}

impl std::error::Error for ExprError {}

#[cfg(test)]
pub(super) mod tests;
