//! A meter on the command line.
//!
//! ```text
//! HOOK [of SCOPE] [since HOOK key KEY [of SCOPE]] [VALUE]... [by LABEL[, LABEL]] [if EXPR]
//! VALUE = count() | sum(EXPR) | hist(EXPR) | busy(RESOURCE)
//! KEY   = EXPR[, EXPR]
//! ```

use super::expr::{Ast, AstKind, ExprError, Parser};
use super::record::PRIVATE;
use super::usage::{Truth, Unit};
use super::written::{
    Expr, KEYS_MAX, LABELS_MAX, LabelText, Meter, Note, NoteChoice, Probe, ProbeChoice, ROOM,
    Update, VALUES_MAX, Value, What,
};
use crate::hook::HookSpec;
use crate::hook::scope::Scope;

/// What the note of a line is called.
const NOTE: &str = "begin";

/// Words that begin a part.
const CLAUSES: [&str; 4] = ["of", "since", "by", "if"];

/// The meter that a line describes. Its values are named as they are written.
///
/// # Errors
/// [`ExprError`] with the place.
pub fn parse(text: &str) -> Result<Meter, ExprError> {
    Line {
        parser: Parser::new(text),
        text,
    }
    .meter()
}

struct Line<'a> {
    parser: Parser<'a>,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn meter(mut self) -> Result<Meter, ExprError> {
        let mut hook = self.hook()?;
        let (mut values, mut updates): (Vec<Value>, Vec<Update>) = Default::default();
        let (mut labels, mut by): (Vec<LabelText>, Vec<Expr>) = Default::default();
        let mut condition = None;
        let mut note: Option<(NoteChoice, Vec<Expr>)> = None;
        while !self.parser.is_at_end() {
            let at = self.parser.here();
            let clause = self.parser.peek_word();
            if clause.is_empty() {
                return Err(self.parser.error(
                    "this is no operator; behind a hook come values (count(), sum(X), hist(X), \
                     busy(RESOURCE)), of, since, by and if",
                ));
            }
            if !CLAUSES.contains(&clause) {
                self.value(&mut values, &mut updates)?;
                continue;
            }
            self.parser.word();
            let twice = match clause {
                "of" => hook.scope() != &Scope::Current,
                "since" => note.is_some(),
                "by" => !by.is_empty(),
                _ => condition.is_some(),
            };
            if twice {
                return Err(self
                    .parser
                    .error_at(at, format!("`{clause}` is said twice")));
            }
            match clause {
                "of" => hook = hook.with_scope(self.scope()?),
                "since" => note = Some(self.since()?),
                "by" => (labels, by) = self.labels()?,
                _ => {
                    let ast = self.parser.expression()?;
                    condition = Some(self.expr(ast));
                }
            }
        }
        if updates.is_empty() {
            self.push(&mut values, &mut updates, What::Count, "count()");
        }
        let choice = ProbeChoice {
            hook,
            since: note.as_ref().map(|_| NOTE.to_owned()),
            key: note.as_ref().map_or_else(Vec::new, |(_, own)| own.clone()),
            condition,
            carry: Vec::new(),
            twice: None,
            by,
            updates,
        };
        Ok(Meter {
            name: PRIVATE.to_owned(),
            help: String::new(),
            cannot_see: Vec::new(),
            room: ROOM,
            values,
            labels,
            source: None,
            notes: note
                .into_iter()
                .map(|(choice, _)| Note {
                    name: NOTE.to_owned(),
                    choices: vec![choice],
                })
                .collect(),
            probes: vec![Probe {
                unless: None,
                choices: vec![choice],
            }],
            gates: Vec::new(),
        })
    }

    fn expr(&self, ast: Ast) -> Expr {
        Expr {
            text: self.text.to_owned(),
            line: 0,
            ast,
        }
    }

    fn hook(&mut self) -> Result<HookSpec, ExprError> {
        let at = self.parser.here();
        let word = self.parser.until_space();
        word.parse()
            .map_err(|e: crate::hook::SpecError| self.parser.error_at(at, e.to_string()))
    }

    fn scope(&mut self) -> Result<Scope, ExprError> {
        let at = self.parser.here();
        if self.parser.take_word("current") {
            return Ok(Scope::Current);
        }
        match self.parser.expression()?.kind {
            AstKind::Name(path) => Ok(Scope::Path(path)),
            _ => Err(self
                .parser
                .error_at(at, "a scope is current or a path such as rq->bio")),
        }
    }

    /// The note, and the key that it is found by.
    fn since(&mut self) -> Result<(NoteChoice, Vec<Expr>), ExprError> {
        let mut hook = self.hook()?;
        if !self.parser.take_word("key") {
            return Err(self.parser.error(
                "`key KEY` is missing: what both events have in common, for example key rq",
            ));
        }
        let at = self.parser.here();
        let key = Expr::some(&mut self.parser, self.text, 0)?;
        if key.len() > KEYS_MAX {
            return Err(self
                .parser
                .error_at(at, format!("a key is made of at most {KEYS_MAX} numbers")));
        }
        // The same words at both hooks, unless the other's key is given too.
        let own = if self.parser.take_word("at") {
            let at = self.parser.here();
            let own = Expr::some(&mut self.parser, self.text, 0)?;
            if own.len() != key.len() {
                return Err(self.parser.error_at(
                    at,
                    format!(
                        "both keys have to be of as many numbers, and the first has {}",
                        key.len()
                    ),
                ));
            }
            own
        } else {
            key.clone()
        };
        if self.parser.take_word("of") {
            hook = hook.with_scope(self.scope()?);
        }
        let choice = NoteChoice {
            hook,
            key,
            after: None,
            condition: None,
            keep: Vec::new(),
        };
        Ok((choice, own))
    }

    fn labels(&mut self) -> Result<(Vec<LabelText>, Vec<Expr>), ExprError> {
        let (mut labels, mut by) = (Vec::new(), Vec::new());
        loop {
            let at = self.parser.here();
            let ast = self.parser.expression()?;
            if by.len() == LABELS_MAX {
                return Err(self
                    .parser
                    .error_at(at, format!("at most {LABELS_MAX} labels")));
            }
            let end = self.parser.here();
            labels.push(LabelText {
                name: self.text[at..end].trim().to_owned(),
                help: String::new(),
            });
            by.push(self.expr(ast));
            if !self.parser.take(",") {
                return Ok((labels, by));
            }
        }
    }

    fn value(
        &mut self,
        values: &mut Vec<Value>,
        updates: &mut Vec<Update>,
    ) -> Result<(), ExprError> {
        let at = self.parser.here();
        let what = What::parse(&mut self.parser, self.text, 0)?;
        if matches!(what, What::Add(_) | What::Sub(_)) {
            return Err(self.parser.error_at(
                at,
                "add() and sub() make a gauge of two probes, which takes a meter file",
            ));
        }
        if values.len() == VALUES_MAX {
            return Err(self
                .parser
                .error_at(at, format!("at most {VALUES_MAX} values")));
        }
        let end = self.parser.here();
        let written = self.text[at..end].trim().to_owned();
        if values.iter().any(|v| v.name == written) {
            return Err(self
                .parser
                .error_at(at, format!("`{written}` is asked for twice")));
        }
        self.push(values, updates, what, &written);
        Ok(())
    }

    fn push(&self, values: &mut Vec<Value>, updates: &mut Vec<Update>, what: What, written: &str) {
        let is_time =
            |e: &Expr| matches!(&e.ast.kind, AstKind::Name(path) if path.argument() == "elapsed");
        let unit = match &what {
            What::Busy(_) => Unit::Ns,
            What::Sum(e) | What::Hist(e) if is_time(e) => Unit::Ns,
            _ => Unit::Count,
        };
        values.push(Value {
            name: written.to_owned(),
            help: String::new(),
            unit,
            truth: Truth::Measured,
            form: what.form(),
        });
        updates.push(Update {
            value: values.len() - 1,
            what,
        });
    }
}
