//! A hook of a meter on this kernel, and expressions typed by what it has.

use super::super::expr::{
    ExprError, Label, Load, Names, Node, Parser, Root, Shown, check_label, check_number,
};
use super::super::names::{Paired, with_names};
use super::super::resolved::{Find, Job, Owner, Program, Write};
use super::super::written::{Expr, LabelText};
use super::{ResolveError, differ, shown_as};
use crate::hook::HookSpec;
use crate::kernel::arguments;
use crate::kernel::path::Walk;
use crate::kernel::scope::{self, ScopeInfo};
use crate::kernel::target;

/// A hook of a meter on this kernel.
pub(super) struct Place {
    pub(super) hook: HookSpec,
    info: target::TargetInfo,
    owner: Option<Walk>,
}

impl Place {
    pub(super) fn find(hook: &HookSpec) -> Result<Self, ResolveError> {
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
    pub(super) fn program(self, noted: Option<Find>, condition: Option<Node>, job: Job) -> Program {
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
    pub(super) fn check<T>(
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

    pub(super) fn wrong(&self, why: impl Into<String>) -> ResolveError {
        ResolveError::Hook {
            hook: self.hook.to_string(),
            why: why.into(),
        }
    }
}

pub(super) struct Checking<'a> {
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

    pub(super) fn number(&self, expr: &Expr) -> Result<Node, ResolveError> {
        check_number(&expr.text, &expr.ast, self.names).map_err(|e| self.told(expr, e))
    }

    pub(super) fn numbers(&self, all: &[Expr]) -> Result<Vec<Node>, ResolveError> {
        all.iter().map(|e| self.number(e)).collect()
    }

    pub(super) fn condition(&self, expr: Option<&Expr>) -> Result<Option<Node>, ResolveError> {
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

    pub(super) fn label(&self, expr: &Expr, shown: Option<&Shown>) -> Result<Label, ResolveError> {
        check_label(&expr.text, &expr.ast, self.names, shown).map_err(|e| self.told(expr, e))
    }

    /// The label of a gate, which is one that a probe can tell too.
    pub(super) fn gate_label(
        &self,
        expr: &Expr,
        shown: &Shown,
        text: &LabelText,
    ) -> Result<Label, ResolveError> {
        let label = self.label(expr, Some(shown))?;
        let why = match (shown_as(&label), shown) {
            (Shown::Names(words), Shown::Names(known)) => match words.get(known.len()) {
                None => return Ok(label),
                Some(word) => format!("the label {} is never \"{word}\" at a probe", text.name),
            },
            (now, known) if differ(&now, known) => format!(
                "the label {} is a text at a probe and a number at a gate, or the other way round",
                text.name
            ),
            _ => return Ok(label),
        };
        Err(self.told(expr, Parser::new(&expr.text).error_at(expr.ast.at, why)))
    }

    pub(super) fn write(&self, field: &Expr, value: u64) -> Result<Write, ResolveError> {
        let wrong =
            |why: String| self.told(field, Parser::new(&field.text).error_at(field.ast.at, why));
        let (offset, bytes) = match self.number(field)? {
            Node::Load(Load::Walk {
                root: Root::Argument,
                walk,
                bits: None,
                ..
            }) if walk.argument == 0 && walk.loads.len() == 1 => (walk.loads[0].offset, walk.bytes),
            // The argument itself: the number that it points to.
            Node::Load(Load::Walk {
                root: Root::Argument,
                walk,
                ..
            }) if walk.argument == 0 && walk.loads.is_empty() => (0, 4),
            _ => {
                return Err(wrong(
                    "only whole fields of what the first argument points to can be written, or by its \
                     name the 32-bit number that it points to"
                        .to_owned(),
                ));
            }
        };
        if bytes < 8 && value >> (u32::from(bytes) * 8) != 0 {
            return Err(wrong(format!("{value:#x} has more than its {bytes} bytes")));
        }
        let offset = i16::try_from(offset)
            .map_err(|_| wrong(format!("it lies too far behind the argument: {offset}")))?;
        Ok(Write {
            offset,
            bytes,
            value,
        })
    }
}
