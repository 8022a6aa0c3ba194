//! From text to a tree that remembers where each part stood.

use super::ExprError;
use super::node::Op;
use crate::hook::scope::Path;

/// Parentheses and operators that may stand in each other; more would exhaust the stack.
const NESTING_MAX: usize = 64;

/// A part of an expression and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Ast {
    /// Where, in bytes.
    pub at: usize,
    /// What.
    pub kind: AstKind,
}

/// What is written.
#[derive(Clone, Debug, PartialEq)]
pub enum AstKind {
    /// `12`, `0x1f`, `64K`, `'R'`.
    Number(u64),
    /// `"R"`.
    Text(String),
    /// `rq->bio`.
    Name(Path),
    /// `!a`.
    Not(Box<Ast>),
    /// `-a`.
    Negate(Box<Ast>),
    /// `~a`.
    Complement(Box<Ast>),
    /// `u32(a)`: bits and whether they have a sign.
    Cast(u8, bool, Box<Ast>),
    /// `dev_t(a)`: a device number of the kernel.
    Device(Box<Ast>),
    /// `user_u32(a)`: the number of so many bits in the caller's memory.
    User(u8, Box<Ast>),
    /// `a OP b`.
    Binary(Written, Box<Ast>, Box<Ast>),
    /// `a ? b : c`.
    Choose(Box<Ast>, Box<Ast>, Box<Ast>),
}

/// An operator as it is written; what it does hangs on the types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// `&&`.
    And,
    /// `||`.
    Or,
    /// `=~`: a text and how it begins, `"R*"`.
    Like,
    /// One that computes. Comparisons and divisions are the unsigned ones here.
    Op(Op),
}

/// Operators, loosest first; in a row the longer ones first.
const LEVELS: &[&[(&str, Written)]] = &[
    &[("||", Written::Or)],
    &[("&&", Written::And)],
    &[
        ("==", Written::Op(Op::Eq)),
        ("!=", Written::Op(Op::Ne)),
        ("=~", Written::Like),
        ("<=", Written::Op(Op::Le)),
        (">=", Written::Op(Op::Ge)),
        ("<", Written::Op(Op::Lt)),
        (">", Written::Op(Op::Gt)),
    ],
    &[("|", Written::Op(Op::Or))],
    &[("^", Written::Op(Op::Xor))],
    &[("&", Written::Op(Op::And))],
    &[("<<", Written::Op(Op::Shl)), (">>", Written::Op(Op::Shr))],
    &[("+", Written::Op(Op::Add)), ("-", Written::Op(Op::Sub))],
    &[
        ("*", Written::Op(Op::Mul)),
        ("/", Written::Op(Op::Div)),
        ("%", Written::Op(Op::Mod)),
    ],
];

/// What looks like a shorter operator but is none at its place.
const LONGER: &[&str] = &["||", "&&", "<<", ">>", "->"];

/// Names of types: bits and sign.
const TYPES: &[(&str, u8, bool)] = &[
    ("i8", 8, true),
    ("i16", 16, true),
    ("i32", 32, true),
    ("i64", 64, true),
    ("u8", 8, false),
    ("u16", 16, false),
    ("u32", 32, false),
    ("u64", 64, false),
];

/// Reads a text from left to right.
#[derive(Debug)]
pub struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// At the beginning of `text`.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// The expression that `text` is, and nothing behind it.
    ///
    /// # Errors
    /// [`ExprError`] with the place.
    pub fn whole(text: &'a str) -> Result<Ast, ExprError> {
        let mut parser = Self::new(text);
        let ast = parser.expression()?;
        parser.end()?;
        Ok(ast)
    }

    /// An error at `at`.
    #[must_use]
    pub fn error_at(&self, at: usize, why: impl Into<String>) -> ExprError {
        ExprError {
            text: self.text.to_owned(),
            at,
            why: why.into(),
        }
    }

    /// An error here.
    pub fn error(&mut self, why: impl Into<String>) -> ExprError {
        self.skip_space();
        self.error_at(self.at, why)
    }

    /// Where the next word begins.
    pub fn here(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Nothing is left.
    pub fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.rest().is_empty()
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`ExprError`] at what is.
    pub fn end(&mut self) -> Result<(), ExprError> {
        if self.is_at_end() {
            return Ok(());
        }
        let left: String = self.rest().chars().take(12).collect();
        Err(self.error(format!("an operator is missing before `{left}`")))
    }

    /// Takes `sign` if it comes next.
    pub fn take(&mut self, sign: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len();
        }
        found
    }

    /// Takes `sign`, which has to come next.
    ///
    /// # Errors
    /// [`ExprError`] at what comes instead.
    pub fn expect(&mut self, sign: &str) -> Result<(), ExprError> {
        if self.take(sign) {
            return Ok(());
        }
        Err(self.error(format!("`{sign}` is missing here")))
    }

    /// The word that comes next, without taking it: letters, digits and `_`.
    pub fn peek_word(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    }

    /// Takes the word that comes next; empty if none does.
    pub fn word(&mut self) -> &'a str {
        let word = self.peek_word();
        self.at += word.len();
        word
    }

    /// Takes `word` if it comes next.
    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word() == word;
        if found {
            self.at += word.len();
        }
        found
    }

    /// Takes everything up to the next space.
    pub fn until_space(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let taken = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// An expression.
    ///
    /// # Errors
    /// [`ExprError`] with the place.
    pub fn expression(&mut self) -> Result<Ast, ExprError> {
        self.deeper()?;
        let at = self.here();
        let condition = self.binary(0)?;
        let ast = if self.take("?") {
            let yes = self.expression()?;
            self.expect(":")?;
            let no = self.expression()?;
            Ast {
                at,
                kind: AstKind::Choose(condition.into(), yes.into(), no.into()),
            }
        } else {
            condition
        };
        self.depth -= 1;
        Ok(ast)
    }

    fn deeper(&mut self) -> Result<(), ExprError> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(self.error(format!(
                "more than {NESTING_MAX} expressions stand in each other"
            )));
        }
        Ok(())
    }

    fn operator(&mut self, level: usize) -> Option<Written> {
        self.skip_space();
        let rest = self.rest();
        let (sign, written) = LEVELS[level].iter().find(|(s, _)| rest.starts_with(s))?;
        let is_longer = LONGER
            .iter()
            .any(|l| l.len() > sign.len() && rest.starts_with(l));
        if is_longer {
            return None;
        }
        self.at += sign.len();
        Some(*written)
    }

    fn binary(&mut self, level: usize) -> Result<Ast, ExprError> {
        if level == LEVELS.len() {
            return self.unary();
        }
        let at = self.here();
        let mut left = self.binary(level + 1)?;
        let mut count = 0;
        while let Some(written) = self.operator(level) {
            count += 1;
            if count > NESTING_MAX {
                return Err(self.error(format!("more than {NESTING_MAX} operators in a row")));
            }
            let right = self.binary(level + 1)?;
            left = Ast {
                at,
                kind: AstKind::Binary(written, left.into(), right.into()),
            };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Ast, ExprError> {
        let at = self.here();
        let make: fn(Box<Ast>) -> AstKind = if self.rest().starts_with("!=") {
            return Err(self.error("a value is missing here"));
        } else if self.take("!") {
            AstKind::Not
        } else if self.take("-") {
            AstKind::Negate
        } else if self.take("~") {
            AstKind::Complement
        } else {
            return self.primary();
        };
        self.deeper()?;
        let inner = self.unary()?;
        self.depth -= 1;
        Ok(Ast {
            at,
            kind: make(inner.into()),
        })
    }

    fn primary(&mut self) -> Result<Ast, ExprError> {
        let at = self.here();
        let kind = match self.rest().chars().next() {
            None => return Err(self.error("a value is missing here, at the end")),
            Some('(') => {
                self.at += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Some('"') => AstKind::Text(self.quoted('"')?),
            Some('\'') => {
                let text = self.quoted('\'')?;
                let mut bytes = text.bytes();
                match (bytes.next(), bytes.next()) {
                    (Some(byte), None) => AstKind::Number(byte.into()),
                    _ => {
                        return Err(self.error_at(
                            at,
                            "one character stands between single quotes; write \"text\" for more",
                        ));
                    }
                }
            }
            Some(c) if c.is_ascii_digit() => AstKind::Number(self.number()?),
            Some(c) if c.is_ascii_alphabetic() || c == '_' => return self.name(),
            Some(c) => return Err(self.error(format!("`{c}` begins no value"))),
        };
        Ok(Ast { at, kind })
    }

    fn quoted(&mut self, quote: char) -> Result<String, ExprError> {
        let from = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at = from + offset + 1;
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c)) if c == quote || c == '\\' => text.push(c),
                    _ => {
                        return Err(
                            self.error_at(from + offset, "`\\` stands before n, t, \\ or a quote")
                        );
                    }
                },
                c => text.push(c),
            }
        }
        Err(self.error_at(from, format!("the closing {quote} is missing")))
    }

    fn number(&mut self) -> Result<u64, ExprError> {
        let at = self.at;
        let word = self.word();
        let (digits, radix) = match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
            Some(hex) => (hex, 16),
            None => (word, 10),
        };
        let scaled = [('K', 10), ('M', 20), ('G', 30), ('T', 40)]
            .into_iter()
            .find_map(|(suffix, shift)| Some((digits.strip_suffix(suffix)?, shift)));
        let (digits, shift) = scaled.filter(|_| radix == 10).unwrap_or((digits, 0));
        let value = u64::from_str_radix(&digits.replace('_', ""), radix).map_err(|_| {
            self.error_at(
                at,
                format!(
                    "`{word}` is no number of 64 bits; write 512, 0x200 or 64K (K, M, G, T are \
                     powers of 1024)"
                ),
            )
        })?;
        value
            .checked_mul(1 << shift)
            .ok_or_else(|| self.error_at(at, format!("`{word}` has more than 64 bits")))
    }

    /// What stands before a parenthesis that closes.
    fn closed(&mut self) -> Result<Box<Ast>, ExprError> {
        let inner = self.expression()?;
        self.expect(")")?;
        Ok(inner.into())
    }

    fn name(&mut self) -> Result<Ast, ExprError> {
        let at = self.at;
        let first = self.word();
        let user = first.strip_prefix(USER).and_then(|of| {
            let mut types = TYPES.iter().filter(|(_, _, signed)| !signed);
            types.find(|(name, ..)| *name == of)
        });
        if let Some((_, bits, _)) = user
            && self.take("(")
        {
            let kind = AstKind::User(*bits, self.closed()?);
            return Ok(Ast { at, kind });
        }
        if let Some((_, bits, signed)) = TYPES.iter().find(|(name, ..)| *name == first)
            && self.take("(")
        {
            let kind = AstKind::Cast(*bits, *signed, self.closed()?);
            return Ok(Ast { at, kind });
        }
        if first == DEVICE && self.take("(") {
            let kind = AstKind::Device(self.closed()?);
            return Ok(Ast { at, kind });
        }
        let mut written = first.to_owned();
        loop {
            let sign = if self.take("->") {
                "->"
            } else if self.take(".") {
                "."
            } else {
                break;
            };
            let here = self.here();
            let member = self.word();
            if member.is_empty() {
                return Err(self.error_at(
                    here,
                    format!("the name of a member is missing behind {sign}"),
                ));
            }
            written = written + sign + member;
        }
        let path = written
            .parse()
            .map_err(|e| self.error_at(at, format!("{e}")))?;
        if self.rest().trim_start().starts_with('(') {
            return Err(self.error_at(
                at,
                format!(
                    "`{written}` is no function; there are casts: {}, {DEVICE}, and the caller's \
                     memory: {USER}u32(ADDRESS) and so on",
                    type_names()
                ),
            ));
        }
        Ok(Ast {
            at,
            kind: AstKind::Name(path),
        })
    }
}

/// What stands before a type where it is read from the caller's memory.
const USER: &str = "user_";
/// The type of device numbers, 32 bits that are shown as two numbers.
const DEVICE: &str = "dev_t";

fn type_names() -> String {
    let names: Vec<&str> = TYPES.iter().map(|(name, ..)| *name).collect();
    names.join(", ")
}
