//! A meter as it is written, whether in a file or on the command line: everything that can be said of
//! it without a kernel.

use cgtap_sys::Errno;

use super::expr::{Ast, ExprError, Parser};
use super::source::Source;
use super::usage::{Form, Truth, Unit};
use crate::hook::HookSpec;

/// Values of a meter.
pub const VALUES_MAX: usize = 8;
/// Labels of a meter.
pub const LABELS_MAX: usize = 4;
/// Numbers that make a key.
pub const KEYS_MAX: usize = 2;
/// Cgroups and labels that a meter has room for unless its file says otherwise.
pub const ROOM: u32 = 16_384;

/// A meter.
#[derive(Clone, Debug, PartialEq)]
pub struct Meter {
    /// Its name, which those of its values begin with.
    pub name: String,
    /// What it tells, in a sentence.
    pub help: String,
    /// What it does not see, a sentence each.
    pub cannot_see: Vec<String>,
    /// Entries, one a cgroup and labels, that it has room for.
    pub room: u32,
    /// What it counts.
    pub values: Vec<Value>,
    /// What it splits by.
    pub labels: Vec<LabelText>,
    /// Where its figures are read, if it has no probes.
    pub source: Option<Source>,
    /// What is noted at one hook for another.
    pub notes: Vec<Note>,
    /// Where it counts.
    pub probes: Vec<Probe>,
    /// Where limits on its values are held.
    pub gates: Vec<Gate>,
}

impl Meter {
    /// What usage calls a value: the meter's name and its own.
    #[must_use]
    pub fn value_name(&self, value: &str) -> String {
        format!("{}_{value}", self.name)
    }

    /// The gates that hold a limit on a value, by the value's index.
    pub fn gates_of(&self, value: usize) -> impl Iterator<Item = &Gate> {
        self.gates
            .iter()
            .filter(move |gate| gate.choices.iter().any(|c| c.held(value).is_some()))
    }
}

/// A value of a meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name within the meter.
    pub name: String,
    /// What it tells, in a sentence.
    pub help: String,
    /// What it is of.
    pub unit: Unit,
    /// How true it is.
    pub truth: Truth,
    /// What is done with what is measured.
    pub form: Form,
}

/// A label's name and what it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelText {
    /// Its name.
    pub name: String,
    /// What it tells, in a sentence.
    pub help: String,
}

/// An expression, with its text for messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// As it was written.
    pub text: String,
    /// Line of the file that it begins in, from 1; 0 on the command line.
    pub line: usize,
    /// What it says.
    pub ast: Ast,
}

/// Something noted at a hook under a key, for probes at other hooks.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// Its name.
    pub name: String,
    /// The first one that this kernel has is taken.
    pub choices: Vec<NoteChoice>,
}

/// One way to note.
#[derive(Clone, Debug, PartialEq)]
pub struct NoteChoice {
    /// Where; its scope says whose cgroup is noted.
    pub hook: HookSpec,
    /// Under which key.
    pub key: Vec<Expr>,
    /// The note whose cgroup is taken over, found by the same key.
    pub after: Option<String>,
    /// Only if this is not 0.
    pub condition: Option<Expr>,
    /// Numbers that are noted too, by name.
    pub keep: Vec<(String, Expr)>,
}

/// A place where a meter counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// A kernel that has this hook does not need it.
    pub unless: Option<HookSpec>,
    /// The first one that this kernel has is taken.
    pub choices: Vec<ProbeChoice>,
}

/// One way to count.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeChoice {
    /// Where; its scope says who is charged, unless a note does.
    pub hook: HookSpec,
    /// The note that says who is charged and since when.
    pub since: Option<String>,
    /// The key that it is found by.
    pub key: Vec<Expr>,
    /// Only if this is not 0.
    pub condition: Option<Expr>,
    /// Numbers that the next event with the same key has, by name.
    pub carry: Vec<(String, Expr)>,
    /// Events of which this is not 0 come to the hook two times, and count at the first.
    pub twice: Option<Expr>,
    /// One expression a label, in the order of the meter's labels.
    pub by: Vec<Expr>,
    /// What is done with which value.
    pub updates: Vec<Update>,
}

/// A place where events can be refused before they happen.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// Best first; all hold the same values.
    pub choices: Vec<GateChoice>,
    /// A kernel that has none of them has no such events.
    pub is_optional: bool,
}

/// One way to refuse.
#[derive(Clone, Debug, PartialEq)]
pub struct GateChoice {
    /// Where; its scope says whose limit counts.
    pub hook: HookSpec,
    /// Only if this is not 0.
    pub condition: Option<Expr>,
    /// One a label, in the order of the meter's labels; none for a label that cannot be told here.
    pub by: Vec<Option<Expr>>,
    /// Indices of values, in order, and how much of each an event asks for; none where that is known
    /// only afterwards.
    pub holds: Vec<(usize, Option<Expr>)>,
    /// Of those that are known only afterwards, how much is to be expected.
    pub expects: Vec<(usize, Expr)>,
    /// Events of which this is not 0 come to the hook two times, and are asked at the first.
    pub twice: Option<Expr>,
    /// What the caller gets unless it is said otherwise, above 0.
    pub deny: Errno,
    /// What clients try again at, at once and for ever.
    pub retried: Vec<Errno>,
    /// How an event is refused where it is not by what a program returns: fields, and what is stored
    /// there, as this machine orders bytes.
    pub writes: Vec<(Expr, u64)>,
}

impl GateChoice {
    /// How much of a value an event asks for, if the value is held here.
    #[must_use]
    pub fn held(&self, value: usize) -> Option<Option<&Expr>> {
        let (_, ask) = self.holds.iter().find(|(held, _)| *held == value)?;
        Some(ask.as_ref())
    }
}

/// What a probe does with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Index of the value.
    pub value: usize,
    /// What.
    pub what: What,
}

/// See [`Form`].
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// One more.
    Count,
    /// So much more.
    Sum(Expr),
    /// One more of that size, and so much more.
    Hist(Expr),
    /// The time since the note, or since the resource of that number was last done, whichever is
    /// less.
    Busy(Expr),
    /// So much more is held.
    Add(Expr),
    /// So much less is held.
    Sub(Expr),
}

impl What {
    /// What it makes of the value.
    #[must_use]
    pub fn form(&self) -> Form {
        match self {
            Self::Count => Form::Count,
            Self::Sum(_) => Form::Sum,
            Self::Hist(_) => Form::Hist,
            Self::Busy(_) => Form::Busy,
            Self::Add(_) | Self::Sub(_) => Form::Gauge,
        }
    }

    /// What it is called.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum(_) => "sum",
            Self::Hist(_) => "hist",
            Self::Busy(_) => "busy",
            Self::Add(_) => "add",
            Self::Sub(_) => "sub",
        }
    }

    /// `count()`, `sum(EXPR)` and so on, from where `parser` is.
    ///
    /// # Errors
    /// [`ExprError`] with the place.
    pub fn parse(parser: &mut Parser<'_>, text: &str, line: usize) -> Result<Self, ExprError> {
        const VERBS: &str = "count(), sum(X), hist(X), busy(RESOURCE), add(X) and sub(X)";
        let at = parser.here();
        let verb = parser.word();
        let make: fn(Expr) -> Self = match verb {
            "count" => {
                if parser.take("(") {
                    parser.expect(")")?;
                }
                return Ok(Self::Count);
            }
            "sum" => Self::Sum,
            "hist" => Self::Hist,
            "busy" => Self::Busy,
            "add" => Self::Add,
            "sub" => Self::Sub,
            "" => {
                return Err(
                    parser.error_at(at, format!("a value is missing here; there are {VERBS}"))
                );
            }
            _ => {
                return Err(parser.error_at(at, format!("`{verb}` is no value; there are {VERBS}")));
            }
        };
        parser.expect("(")?;
        let ast = parser.expression()?;
        parser.expect(")")?;
        Ok(make(Expr {
            text: text.to_owned(),
            line,
            ast,
        }))
    }
}

impl Expr {
    /// The expression that `text` is.
    ///
    /// # Errors
    /// [`ExprError`] with the place.
    pub fn whole(text: &str, line: usize) -> Result<Self, ExprError> {
        Ok(Self {
            text: text.to_owned(),
            line,
            ast: Parser::whole(text)?,
        })
    }

    /// Several, with commas between.
    ///
    /// # Errors
    /// [`ExprError`] with the place.
    pub fn list(text: &str, line: usize) -> Result<Vec<Self>, ExprError> {
        let mut parser = Parser::new(text);
        let all = Self::some(&mut parser, text, line)?;
        parser.end()?;
        Ok(all)
    }

    /// Several with commas between, from where `parser` is.
    ///
    /// # Errors
    /// [`ExprError`] with the place.
    pub fn some(parser: &mut Parser<'_>, text: &str, line: usize) -> Result<Vec<Self>, ExprError> {
        let mut all = Vec::new();
        loop {
            all.push(Self {
                text: text.to_owned(),
                line,
                ast: parser.expression()?,
            });
            if !parser.take(",") {
                return Ok(all);
            }
        }
    }
}
