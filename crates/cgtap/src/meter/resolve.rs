//! From a meter as it is written to what is counted on this kernel: hooks found, expressions typed,
//! alternatives chosen.

use super::expr::{ExprError, Label, Names, Node, Parser, Shown, check_label, check_number};
use super::names::{Paired, with_names};
use super::written::{Expr, Meter, NoteChoice, ProbeChoice, What};
use crate::hook::HookSpec;
use crate::kernel::arguments;
use crate::kernel::path::Walk;
use crate::kernel::scope::{self, ScopeInfo};
use crate::kernel::target::{self, TargetError};

/// Words of a text label.
pub const TEXT_WORDS: usize = 2;
/// Words of all labels together.
pub const LABEL_WORDS_MAX: usize = 6;

/// Why a meter cannot be had on this kernel.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// An expression does not fit the hook.
    #[error("at {hook}: {error}{}", in_line(*line))]
    Expr {
        /// The hook.
        hook: String,
        /// Line of the meter's file, 0 on the command line.
        line: usize,
        /// What is wrong, and where.
        error: ExprError,
    },
    /// The hook is not there.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Something else about it.
    #[error("at {hook}: {why}")]
    Hook {
        /// The hook.
        hook: String,
        /// What is wrong.
        why: String,
    },
    /// None of the alternatives can be had.
    #[error("none of its {} ways can be had here: {}", .0.len(), list(.0))]
    None(Vec<ResolveError>),
}

fn in_line(line: usize) -> String {
    if line == 0 {
        String::new()
    } else {
        format!("\n  (line {line} of the meter's file)")
    }
}

fn list(all: &[ResolveError]) -> String {
    let words: Vec<String> = all.iter().map(ToString::to_string).collect();
    words.join("; ")
}

/// What runs at one hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Where, its scope included.
    pub hook: HookSpec,
    /// Arguments are typed pointers.
    pub has_typed_arguments: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Only if this is not 0.
    pub condition: Option<Node>,
    /// What it does.
    pub job: Job,
}

/// Whose an event is.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    /// Of the cgroup of the running task.
    Current,
    /// Of the cgroup that a way leads to.
    Path(Walk),
    /// Of the cgroup of a note.
    Noted(Find),
}

/// How a note is found.
#[derive(Clone, Debug, PartialEq)]
pub struct Find {
    /// Index of the note.
    pub note: usize,
    /// Its key.
    pub key: Vec<Node>,
    /// It has served then.
    pub is_last: bool,
}

/// What a program does.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// Makes a note.
    Note {
        /// Index of the note.
        note: usize,
        /// Its key.
        key: Vec<Node>,
        /// What is kept.
        keep: Vec<Node>,
    },
    /// Charges.
    Charge {
        /// One a label.
        by: Vec<Label>,
        /// What is done with which value.
        updates: Vec<(usize, Do)>,
    },
}

/// What is done with a value: [`What`], typed.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each is the case of `What` of its name")]
pub enum Do {
    Count,
    Sum(Node),
    Hist(Node),
    Busy(Node),
    Add(Node),
    Sub(Node),
}

/// A meter on this kernel.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What runs where, notes first.
    pub programs: Vec<Program>,
    /// How each label is shown.
    pub labels: Vec<Shown>,
    /// Number of notes.
    pub notes: usize,
}

/// What stands behind a note's name.
struct KnownNote {
    name: String,
    keep: Vec<String>,
}

/// Finds a meter's hooks on this kernel and types its expressions.
///
/// # Errors
/// [`ResolveError`]: what is missing or does not fit, and where.
pub fn resolve(meter: &Meter) -> Result<Resolved, ResolveError> {
    let mut known: Vec<KnownNote> = Vec::new();
    let mut programs = Vec::new();
    for note in &meter.notes {
        // A note may be made at several places.
        let made = known.iter().position(|n| n.name == note.name);
        let number = made.unwrap_or(known.len());
        let (program, keep) = first(&note.choices, |choice| note_program(choice, &known, number))?;
        programs.push(program);
        if made.is_none() {
            known.push(KnownNote {
                name: note.name.clone(),
                keep,
            });
        }
    }
    let mut labels: Vec<Option<Shown>> = vec![None; meter.labels.len()];
    for probe in &meter.probes {
        let (program, shown) = first(&probe.choices, |choice| {
            probe_program(meter, choice, &known, &labels)
        })?;
        labels = shown.into_iter().map(Some).collect();
        programs.push(program);
    }
    Ok(Resolved {
        programs,
        labels: labels.into_iter().map(Option::unwrap_or_default).collect(),
        notes: known.len(),
    })
}

/// The first choice that can be had.
fn first<C, T>(
    choices: &[C],
    mut have: impl FnMut(&C) -> Result<T, ResolveError>,
) -> Result<T, ResolveError> {
    let mut refused = Vec::new();
    for choice in choices {
        match have(choice) {
            Ok(found) => return Ok(found),
            Err(e) => refused.push(e),
        }
    }
    Err(match refused.pop() {
        Some(only) if refused.is_empty() => only,
        last => {
            refused.extend(last);
            ResolveError::None(refused)
        }
    })
}

/// A hook of a meter on this kernel.
struct Place {
    hook: HookSpec,
    info: target::TargetInfo,
    owner: Option<Walk>,
}

impl Place {
    fn find(hook: &HookSpec) -> Result<Self, ResolveError> {
        let (hook, info) = target::resolve(hook)?;
        let owner = match scope::resolve(&hook, &info)? {
            ScopeInfo::Current => None,
            ScopeInfo::Path(walk) => Some(walk),
            ScopeInfo::Owner(_) => {
                return Err(ResolveError::Hook {
                    hook: hook.to_string(),
                    why: "a meter notes owners itself: say since which note".to_owned(),
                });
            }
        };
        Ok(Self { hook, info, owner })
    }

    /// A program here, for whose cgroup a way leads to, or a note says. Where a note does, every event
    /// counts.
    fn program(self, noted: Option<Find>, condition: Option<Node>, job: Job) -> Program {
        let (hook, owner) = match (noted, self.owner) {
            (Some(find), _) => (self.hook.without_scope(), Owner::Noted(find)),
            (None, Some(walk)) => (self.hook, Owner::Path(walk)),
            (None, None) => (self.hook, Owner::Current),
        };
        Program {
            has_typed_arguments: arguments::are_typed(hook.kind()),
            hook,
            owner,
            condition,
            job,
        }
    }

    /// Types expressions with the names of this hook.
    fn check<T>(
        &self,
        paired: Paired<'_>,
        check: impl Fn(&Checking<'_>) -> Result<T, ResolveError>,
    ) -> Result<T, ResolveError> {
        let hook = self.hook.without_scope().to_string();
        with_names(&self.hook, &self.info, paired, |names| {
            check(&Checking {
                names,
                hook: hook.clone(),
            })
        })?
    }

    fn wrong(&self, why: impl Into<String>) -> ResolveError {
        ResolveError::Hook {
            hook: self.hook.to_string(),
            why: why.into(),
        }
    }
}

struct Checking<'a> {
    names: &'a dyn Names,
    hook: String,
}

impl Checking<'_> {
    fn told(&self, expr: &Expr, error: ExprError) -> ResolveError {
        ResolveError::Expr {
            hook: self.hook.clone(),
            line: expr.line,
            error,
        }
    }

    fn number(&self, expr: &Expr) -> Result<Node, ResolveError> {
        check_number(&expr.text, &expr.ast, self.names).map_err(|e| self.told(expr, e))
    }

    fn numbers(&self, all: &[Expr]) -> Result<Vec<Node>, ResolveError> {
        all.iter().map(|e| self.number(e)).collect()
    }

    fn condition(&self, expr: Option<&Expr>) -> Result<Option<Node>, ResolveError> {
        let Some(expr) = expr else { return Ok(None) };
        match self.number(expr)? {
            Node::Constant(0) => {
                let error = Parser::new(&expr.text).error_at(expr.ast.at, "this is never true");
                Err(self.told(expr, error))
            }
            // What always holds is no condition.
            Node::Constant(_) => Ok(None),
            node => Ok(Some(node)),
        }
    }

    fn label(&self, expr: &Expr, shown: Option<&Shown>) -> Result<Label, ResolveError> {
        let words = match shown {
            Some(Shown::Names(words)) => words.clone(),
            _ => Vec::new(),
        };
        check_label(&expr.text, &expr.ast, self.names, words).map_err(|e| self.told(expr, e))
    }
}

/// The number of a note that is named, if one is.
fn note_named(
    known: &[KnownNote],
    name: Option<&str>,
    place: &Place,
) -> Result<Option<usize>, ResolveError> {
    let Some(name) = name else { return Ok(None) };
    let found = known.iter().position(|n| n.name == name);
    let missing = || place.wrong(format!("there is no note `{name}` before it"));
    found.map(Some).ok_or_else(missing)
}

fn note_program(
    choice: &NoteChoice,
    known: &[KnownNote],
    number: usize,
) -> Result<(Program, Vec<String>), ResolveError> {
    let place = Place::find(&choice.hook)?;
    let paired = Paired {
        is_paired: false,
        noted: &[],
    };
    let after = note_named(known, choice.after.as_deref(), &place)?;
    let (key, keep, condition) = place.check(paired, |c| {
        let keep: Vec<Node> = choice
            .keep
            .iter()
            .map(|(_, e)| c.number(e))
            .collect::<Result<_, _>>()?;
        Ok((
            c.numbers(&choice.key)?,
            keep,
            c.condition(choice.condition.as_ref())?,
        ))
    })?;
    let noted = after.map(|note| Find {
        note,
        key: key.clone(),
        is_last: false,
    });
    let job = Job::Note {
        note: number,
        key,
        keep,
    };
    Ok((
        place.program(noted, condition, job),
        choice.keep.iter().map(|(name, _)| name.clone()).collect(),
    ))
}

fn probe_program(
    meter: &Meter,
    choice: &ProbeChoice,
    known: &[KnownNote],
    labels: &[Option<Shown>],
) -> Result<(Program, Vec<Shown>), ResolveError> {
    let place = Place::find(&choice.hook)?;
    let since = note_named(known, choice.since.as_deref(), &place)?;
    let paired = Paired {
        is_paired: since.is_some(),
        noted: since.map_or(&[], |at| &known[at].keep),
    };
    let (key, by, updates, condition) = place.check(paired, |c| {
        let by: Vec<Label> = choice
            .by
            .iter()
            .zip(labels)
            .map(|(e, shown)| c.label(e, shown.as_ref()))
            .collect::<Result<_, _>>()?;
        let mut updates = Vec::new();
        for update in &choice.updates {
            let what = match &update.what {
                What::Count => Do::Count,
                What::Sum(e) => Do::Sum(c.number(e)?),
                What::Hist(e) => Do::Hist(c.number(e)?),
                What::Busy(e) => Do::Busy(c.number(e)?),
                What::Add(e) => Do::Add(c.number(e)?),
                What::Sub(e) => Do::Sub(c.number(e)?),
            };
            updates.push((update.value, what));
        }
        Ok((
            c.numbers(&choice.key)?,
            by,
            updates,
            c.condition(choice.condition.as_ref())?,
        ))
    })?;
    if since.is_none() && updates.iter().any(|(_, d)| matches!(d, Do::Busy(_))) {
        return Err(place.wrong("busy() is the time since a note; say since which"));
    }
    let shown: Vec<Shown> = by
        .iter()
        .map(|label| match label {
            Label::Number(_, shown) => shown.clone(),
            Label::Text(_) => Shown::Text,
        })
        .collect();
    for ((now, before), text) in shown.iter().zip(labels).zip(&meter.labels) {
        let differs = before.as_ref().is_some_and(|before| {
            (*before == Shown::Text) != (*now == Shown::Text)
                || matches!(before, Shown::Names(_)) != matches!(now, Shown::Names(_))
        });
        if differs {
            return Err(place.wrong(format!(
                "the label {} is a text at one probe and a number at another",
                text.name
            )));
        }
    }
    let words: usize = shown.iter().map(words_of).sum();
    if words > LABEL_WORDS_MAX {
        return Err(place.wrong(format!(
            "its labels take {words} words (a number one, a text {TEXT_WORDS}), and there is room \
             for {LABEL_WORDS_MAX}"
        )));
    }
    let noted = since.map(|note| Find {
        note,
        key,
        is_last: true,
    });
    let job = Job::Charge { by, updates };
    Ok((place.program(noted, condition, job), shown))
}

/// Words that a label takes in a key.
#[must_use]
pub fn words_of(shown: &Shown) -> usize {
    if *shown == Shown::Text { TEXT_WORDS } else { 1 }
}

impl Program {
    /// The running task has nothing to do with whose the event is, so it has to see all of them.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        matches!(self.owner, Owner::Noted(_))
    }
}
