//! The gates of a file: where an event can be refused, what it asks for, what refuses it.

use cgtap_sys::Errno;

use super::super::expr::AstKind;
use super::super::written::{Expr, Gate, GateChoice};
use super::reader::Reader;
use super::{FileError, GateFile, MeterFile, Text, Texts};
use crate::hook::{HookKind, HookSpec};

/// Hooks where what a program does decides whether the event happens.
const GATES: [HookKind; 4] = [
    HookKind::Lsm,
    HookKind::FmodRet,
    HookKind::CgroupDevice,
    HookKind::RawTracepointWritable,
];

/// Everything that a way may say, where it was said.
struct GateParts<'f> {
    hook: HookSpec,
    line: usize,
    condition: Option<&'f Text>,
    by: &'f Texts,
    ask: &'f Texts,
    expect: &'f Texts,
    twice: Option<&'f Text>,
    write: &'f Texts,
}

impl Reader<'_> {
    /// The gates of a file, those of `also` behind theirs.
    pub(super) fn gates(&self, file: &MeterFile) -> Result<Vec<Gate>, FileError> {
        let nothing = Texts::new();
        let mut gates = Vec::new();
        for gate in &file.gates {
            let main = GateParts {
                hook: self.gate_hook(&gate.hook, gate.of.as_ref())?,
                line: self.line_of(&gate.hook),
                condition: gate.condition.as_ref(),
                by: &gate.by,
                ask: &gate.ask,
                expect: &gate.expect,
                twice: gate.twice.as_ref(),
                write: &gate.write,
            };
            let first = self.gate(file, gate, &main)?;
            let held = |c: &GateChoice| c.holds.iter().map(|(v, _)| *v).collect::<Vec<_>>();
            let values = held(&first);
            let mut choices = vec![first];
            for other in &gate.others {
                let hook = self.gate_hook(&other.hook, other.of.as_ref().or(gate.of.as_ref()))?;
                // Other kinds write nothing, whatever is above.
                let above = if hook.kind() == HookKind::RawTracepointWritable {
                    main.write
                } else {
                    &nothing
                };
                let parts = GateParts {
                    hook,
                    line: self.line_of(&other.hook),
                    condition: other.condition.as_ref().or(main.condition),
                    by: other.by.as_ref().unwrap_or(main.by),
                    ask: other.ask.as_ref().unwrap_or(main.ask),
                    expect: other.expect.as_ref().unwrap_or(main.expect),
                    // How often a hook is passed is its own.
                    twice: other.twice.as_ref(),
                    write: other.write.as_ref().unwrap_or(above),
                };
                let choice = self.gate(file, gate, &parts)?;
                if held(&choice) != values {
                    return Err(
                        self.wrong(parts.line, "a gate holds the same values in whatever way")
                    );
                }
                choices.push(choice);
            }
            gates.push(Gate {
                choices,
                is_optional: false,
            });
            let mut also = Vec::new();
            for hook in &gate.also {
                let parts = GateParts {
                    hook: self.gate_hook(hook, gate.of.as_ref())?,
                    line: self.line_of(hook),
                    ..main
                };
                also.push(self.gate(file, gate, &parts)?);
            }
            if !also.is_empty() {
                gates.push(Gate {
                    choices: also,
                    is_optional: true,
                });
            }
        }
        Ok(gates)
    }

    fn gate_hook(&self, hook: &Text, of: Option<&Text>) -> Result<HookSpec, FileError> {
        let spec = self.hook(hook, of)?;
        if GATES.contains(&spec.kind()) {
            return Ok(spec);
        }
        let kinds = GATES.map(|kind| format!("{}:", kind.info().prefix));
        Err(self.wrong(
            self.line_of(hook),
            format!(
                "nothing can be refused at {}:; gates are at {}",
                spec.kind().info().prefix,
                kinds.join(", ")
            ),
        ))
    }

    fn gate(
        &self,
        file: &MeterFile,
        gate: &GateFile,
        parts: &GateParts<'_>,
    ) -> Result<GateChoice, FileError> {
        self.labels_known(file, parts.by)?;
        let by = file.labels.keys().map(|name| parts.by.get(name));
        let retried = gate.retried.iter().map(|e| self.errno(e));
        let retried = retried.collect::<Result<Vec<Errno>, _>>()?;
        let deny = self.errno(&gate.deny)?;
        if retried.contains(&deny) {
            return Err(self.wrong(
                self.line_of(&gate.deny),
                format!("clients try again at {deny} for ever; deny with another"),
            ));
        }
        Ok(GateChoice {
            hook: parts.hook.clone(),
            condition: parts.condition.map(|c| self.expr(c)).transpose()?,
            by: by
                .map(|text| text.map(|t| self.expr(t)).transpose())
                .collect::<Result<_, FileError>>()?,
            holds: self.held(file, gate, parts)?,
            expects: self.expects(file, parts)?,
            twice: parts.twice.map(|c| self.expr(c)).transpose()?,
            deny,
            retried,
            writes: self.writes(parts)?,
        })
    }

    fn errno(&self, name: &Text) -> Result<Errno, FileError> {
        Errno::by_name(name.get_ref()).ok_or_else(|| {
            self.wrong(
                self.line_of(name),
                format!(
                    "`{}` is no errno; write a name such as EPERM, EDQUOT or ENOMEM",
                    name.get_ref()
                ),
            )
        })
    }

    /// What a gate asks for and what it holds, by the values' indices.
    fn held(
        &self,
        file: &MeterFile,
        gate: &GateFile,
        parts: &GateParts<'_>,
    ) -> Result<Vec<(usize, Option<Expr>)>, FileError> {
        let asked = parts
            .ask
            .iter()
            .map(|(name, text)| (name, text, Some(text)));
        let expected = parts.expect.iter();
        let expected = expected.map(|(name, text)| (name, text, None));
        let shut = gate.holds.iter().map(|text| (text.get_ref(), text, None));
        let mut held: Vec<(usize, Option<Expr>)> = Vec::new();
        for (name, text, ask) in asked.chain(expected).chain(shut) {
            let line = self.line_of(text);
            let value = file.values.keys().position(|v| v == name).ok_or_else(|| {
                let names: Vec<&str> = file.values.keys().map(String::as_str).collect();
                self.wrong(
                    line,
                    format!(
                        "`{name}` is no value of this meter; there are: {}",
                        names.join(", ")
                    ),
                )
            })?;
            if held.iter().any(|(known, _)| *known == value) {
                return Err(self.wrong(
                    line,
                    format!(
                        "{name} is said twice: a gate knows what an event asks for (ask), or only \
                         what it took (expect, holds)"
                    ),
                ));
            }
            held.push((value, ask.map(|a| self.expr(a)).transpose()?));
        }
        if held.is_empty() {
            return Err(self.wrong(
                parts.line,
                "this gate holds nothing: a value is missing in ask, expect or holds",
            ));
        }
        held.sort_by_key(|(value, _)| *value);
        Ok(held)
    }

    /// How much of which value is to be expected.
    fn expects(
        &self,
        file: &MeterFile,
        parts: &GateParts<'_>,
    ) -> Result<Vec<(usize, Expr)>, FileError> {
        let place = |name: &String| file.values.keys().position(|v| v == name);
        let known = parts
            .expect
            .iter()
            .filter_map(|(n, t)| Some((place(n)?, t)));
        known.map(|(value, t)| Ok((value, self.expr(t)?))).collect()
    }

    fn writes(&self, parts: &GateParts<'_>) -> Result<Vec<(Expr, u64)>, FileError> {
        let is_writable = parts.hook.kind() == HookKind::RawTracepointWritable;
        match (is_writable, parts.write.values().next()) {
            (true, None) => {
                return Err(self.wrong(
                    parts.line,
                    "what refuses an event here is what is written: say write.\"ARG->FIELD\"",
                ));
            }
            (false, Some(text)) => {
                return Err(self.wrong(
                    self.line_of(text),
                    format!(
                        "nothing can be written at {}:, whose programs refuse by what they return; \
                         write is for {}:",
                        parts.hook.kind().info().prefix,
                        HookKind::RawTracepointWritable.info().prefix
                    ),
                ));
            }
            _ => {}
        }
        let one = |(field, text): (&String, &Text)| {
            let line = self.line_of(text);
            let field = Expr::whole(field, line).map_err(|e| self.expr_error(line, &e))?;
            if !matches!(field.ast.kind, AstKind::Name(_)) {
                return Err(self.wrong(
                    line,
                    format!(
                        "`{}` is neither a field behind an argument, ARG->FIELD, nor an argument",
                        field.text
                    ),
                ));
            }
            match self.expr(text)?.ast.kind {
                AstKind::Number(value) => Ok((field, value)),
                _ => Err(self.wrong(line, "what is written is a number: 0x7f")),
            }
        };
        parts.write.iter().map(one).collect()
    }
}
