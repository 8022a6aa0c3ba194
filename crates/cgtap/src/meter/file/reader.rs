//! From a file's parts to a meter: names, hooks and expressions looked at, each mistake with its line.

use toml::Spanned;

use super::super::code::NOTED_MAX;
use super::super::expr::{ExprError, Parser};
use super::super::record::PRIVATE;
use super::super::source::Source;
use super::super::usage::Form;
use super::super::written::{
    Expr, KEYS_MAX, LABELS_MAX, LabelText, Meter, Note, NoteChoice, Probe, ProbeChoice, ROOM,
    Update, VALUES_MAX, Value, What,
};
use super::{FileError, GateFile, MeterFile, ROOM_MAX, Text, Texts};
use crate::hook::HookSpec;
use crate::hook::scope::Scope;

/// Reads one file.
pub(super) struct Reader<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
}

/// Everything that a choice may say, where it was said.
struct ProbeParts<'f> {
    hook: &'f Text,
    of: Option<&'f Text>,
    since: Option<&'f String>,
    key: Option<&'f Text>,
    condition: Option<&'f Text>,
    carry: &'f Texts,
    twice: Option<&'f Text>,
    by: &'f Texts,
    updates: &'f Texts,
}

struct NoteParts<'f> {
    hook: &'f Text,
    of: Option<&'f Text>,
    after: Option<&'f String>,
    key: &'f Text,
    condition: Option<&'f Text>,
    keep: &'f Texts,
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.len() <= 40
}

impl Reader<'_> {
    /// The line of a place, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text
            .get(..at)
            .map_or(0, |before| before.matches('\n').count() + 1)
    }

    pub(super) fn line_of(&self, text: &Text) -> usize {
        self.line(text.span().start)
    }

    pub(super) fn wrong(&self, line: usize, why: impl ToString) -> FileError {
        FileError::Wrong {
            path: self.path.to_owned(),
            line,
            why: why.to_string(),
        }
    }

    pub(super) fn expr_error(&self, line: usize, error: &ExprError) -> FileError {
        self.wrong(line, error)
    }

    /// The meter that a file is.
    pub(super) fn meter(&self, file: MeterFile) -> Result<Meter, FileError> {
        let name_line = self.line_of(&file.name);
        let name = file.name.get_ref();
        if !is_name(name) || name == PRIVATE {
            return Err(self.wrong(
                name_line,
                format!(
                    "`{name}` cannot be a meter's name: lower-case letters, digits and _, at most \
                     40, not `{}`",
                    PRIVATE
                ),
            ));
        }
        for (what, names, most) in [
            ("value", file.values.keys().collect::<Vec<_>>(), VALUES_MAX),
            ("label", file.labels.keys().collect(), LABELS_MAX),
        ] {
            if names.len() > most {
                return Err(self.wrong(0, format!("a meter has at most {most} {what}s")));
            }
            if let Some(bad) = names.iter().find(|n| !is_name(n)) {
                return Err(self.wrong(
                    0,
                    format!("`{bad}` cannot be a {what}'s name: lower-case letters, digits and _"),
                ));
            }
        }
        if file.values.is_empty() || (file.probes.is_empty() && file.source.is_none()) {
            return Err(self.wrong(
                0,
                "a meter has at least one value, and one probe or a source",
            ));
        }
        let room = match &file.room {
            None => ROOM,
            Some(room) if (1..=ROOM_MAX).contains(room.get_ref()) => *room.get_ref(),
            Some(room) => {
                return Err(self.wrong(
                    self.line(room.span().start),
                    format!("room is a number from 1 to {ROOM_MAX}"),
                ));
            }
        };
        let labels: Vec<LabelText> = file
            .labels
            .iter()
            .map(|(name, label)| LabelText {
                name: name.clone(),
                help: label.help.clone(),
            })
            .collect();
        let notes = self.notes(&file)?;
        let (probes, mut forms) = self.probes(&file, &notes)?;
        if let Some(source) = &file.source {
            forms = self.source(&file, source)?;
        }
        let gates = self.gates(&file)?;
        let values = file.values.iter().zip(forms);
        Ok(Meter {
            name: name.clone(),
            help: file.help,
            cannot_see: file.cannot_see,
            room,
            values: values
                .map(|((name, value), form)| {
                    let form = form.ok_or_else(|| {
                        self.wrong(0, format!("no probe does anything with the value {name}"))
                    })?;
                    Ok(Value {
                        name: name.clone(),
                        help: value.help.clone(),
                        unit: value.unit,
                        truth: value.kind.unwrap_or(file.kind),
                        form,
                    })
                })
                .collect::<Result<_, FileError>>()?,
            labels,
            source: file.source.map(Spanned::into_inner),
            notes,
            probes,
            gates,
        })
    }

    /// What a source makes of each value, if it has all that the file says.
    fn source(
        &self,
        file: &MeterFile,
        source: &Spanned<Source>,
    ) -> Result<Vec<Option<Form>>, FileError> {
        let line = self.line(source.span().start);
        let source = *source.get_ref();
        let word = source.word();
        if !(file.probes.is_empty() && file.notes.is_empty()) {
            return Err(self.wrong(
                line,
                format!("a meter that reads {word} has no probes and no notes"),
            ));
        }
        let others = |g: &GateFile| {
            let mut all = g.others.iter();
            all.any(|o| o.ask.is_some() || o.expect.is_some())
        };
        let mut gates = file.gates.iter();
        if let Some(gate) = gates.find(|g| !g.ask.is_empty() || !g.expect.is_empty() || others(g)) {
            return Err(self.wrong(
                self.line_of(&gate.hook),
                format!(
                    "what {word} tells is known when it is read: a gate can hold it, and neither ask \
                     nor expect it"
                ),
            ));
        }
        if !file.labels.keys().eq(source.labels()) {
            return Err(self.wrong(
                line,
                format!("the labels of {word} are {}", source.labels().join(", ")),
            ));
        }
        let form = |(name, value): (&String, &super::ValueFile)| {
            let known = source.values().iter().find(|v| v.name == name);
            match known {
                Some(known) if known.unit == value.unit => Ok(Some(known.form)),
                Some(known) => Err(self.wrong(
                    line,
                    format!("the unit of {name} is {} where {word} is read", known.unit),
                )),
                None => {
                    let names: Vec<&str> = source.values().iter().map(|v| v.name).collect();
                    let names = names.join(", ");
                    Err(self.wrong(line, format!("{word} has no {name}; it has {names}")))
                }
            }
        };
        file.values.iter().map(form).collect()
    }

    pub(super) fn hook(&self, hook: &Text, of: Option<&Text>) -> Result<HookSpec, FileError> {
        let spec: HookSpec = hook
            .get_ref()
            .parse()
            .map_err(|e: crate::hook::SpecError| self.wrong(self.line_of(hook), e))?;
        let Some(of) = of else { return Ok(spec) };
        let wrong = |why: String| self.wrong(self.line_of(of), why);
        match of.get_ref().parse() {
            Ok(Scope::Owner(_)) => Err(wrong(
                "a meter notes owners itself: write a note, and say since which".to_owned(),
            )),
            Ok(scope) => Ok(spec.with_scope(scope)),
            Err(e) => Err(wrong(e.to_string())),
        }
    }

    pub(super) fn expr(&self, text: &Text) -> Result<Expr, FileError> {
        let line = self.line_of(text);
        Expr::whole(text.get_ref(), line).map_err(|e| self.expr_error(line, &e))
    }

    fn key(&self, text: &Text) -> Result<Vec<Expr>, FileError> {
        let line = self.line_of(text);
        let key = Expr::list(text.get_ref(), line).map_err(|e| self.expr_error(line, &e))?;
        if key.len() > KEYS_MAX {
            return Err(self.wrong(line, format!("a key is made of at most {KEYS_MAX} numbers")));
        }
        Ok(key)
    }

    fn notes(&self, file: &MeterFile) -> Result<Vec<Note>, FileError> {
        let mut notes: Vec<Note> = Vec::new();
        for note in &file.notes {
            let line = self.line_of(&note.name);
            let name = note.name.get_ref();
            let main = NoteParts {
                hook: &note.hook,
                of: note.of.as_ref(),
                after: note.after.as_ref(),
                key: &note.key,
                condition: note.condition.as_ref(),
                keep: &note.keep,
            };
            let mut choices = vec![self.note(&main, &notes)?];
            for other in &note.others {
                let parts = NoteParts {
                    hook: &other.hook,
                    of: other.of.as_ref().or(main.of),
                    after: other.after.as_ref().or(main.after),
                    key: other.key.as_ref().unwrap_or(main.key),
                    condition: other.condition.as_ref().or(main.condition),
                    keep: other.keep.as_ref().unwrap_or(main.keep),
                };
                choices.push(self.note(&parts, &notes)?);
            }
            // A note may be made at several places.
            let known = notes.iter().find(|n| n.name == *name);
            let first = known.map_or(&choices[0], |n| &n.choices[0]);
            let shape = |c: &NoteChoice| {
                let names: Vec<String> = c.keep.iter().map(|k| k.0.clone()).collect();
                (names, c.key.len())
            };
            if choices.iter().any(|c| shape(c) != shape(first)) {
                return Err(self.wrong(
                    line,
                    format!(
                        "wherever and in whatever way {name} is noted, it keeps the same names and \
                         has as many keys"
                    ),
                ));
            }
            notes.push(Note {
                name: name.clone(),
                choices,
            });
        }
        Ok(notes)
    }

    fn note(&self, parts: &NoteParts<'_>, before: &[Note]) -> Result<NoteChoice, FileError> {
        let line = self.line_of(parts.hook);
        if let Some(after) = parts.after {
            self.known(before, after, line)?;
        }
        Ok(NoteChoice {
            hook: self.hook(parts.hook, parts.of)?,
            key: self.key(parts.key)?,
            after: parts.after.cloned(),
            condition: parts.condition.map(|c| self.expr(c)).transpose()?,
            keep: self.numbers(parts.keep)?,
        })
    }

    /// Numbers that stay for another event, by name.
    fn numbers(&self, texts: &Texts) -> Result<Vec<(String, Expr)>, FileError> {
        if let Some(first) = texts.values().next().filter(|_| texts.len() > NOTED_MAX) {
            let why = format!("at most {NOTED_MAX} numbers are kept");
            return Err(self.wrong(self.line_of(first), why));
        }
        let all = texts.iter();
        all.map(|(name, text)| Ok((name.clone(), self.expr(text)?)))
            .collect()
    }

    fn known<'n>(&self, notes: &'n [Note], name: &str, line: usize) -> Result<&'n Note, FileError> {
        notes.iter().find(|n| n.name == name).ok_or_else(|| {
            let names: Vec<&str> = notes.iter().map(|n| n.name.as_str()).collect();
            self.wrong(
                line,
                format!(
                    "there is no note `{name}` before it; there are: {}",
                    names.join(", ")
                ),
            )
        })
    }

    /// The probes, and what they make of each value.
    fn probes(
        &self,
        file: &MeterFile,
        notes: &[Note],
    ) -> Result<(Vec<Probe>, Vec<Option<Form>>), FileError> {
        let mut forms: Vec<Option<Form>> = vec![None; file.values.len()];
        let mut probes = Vec::new();
        for probe in &file.probes {
            let main = ProbeParts {
                hook: &probe.hook,
                of: probe.of.as_ref(),
                since: probe.since.as_ref(),
                key: probe.key.as_ref(),
                condition: probe.condition.as_ref(),
                carry: &probe.carry,
                twice: probe.twice.as_ref(),
                by: &probe.by,
                updates: &probe.updates,
            };
            let mut choices = vec![self.probe(file, &main, notes, &mut forms)?];
            for other in &probe.others {
                let parts = ProbeParts {
                    hook: &other.hook,
                    of: other.of.as_ref().or(main.of),
                    since: other.since.as_ref().or(main.since),
                    key: other.key.as_ref().or(main.key),
                    condition: other.condition.as_ref().or(main.condition),
                    carry: other.carry.as_ref().unwrap_or(main.carry),
                    twice: other.twice.as_ref(),
                    by: other.by.as_ref().unwrap_or(main.by),
                    updates: other.updates.as_ref().unwrap_or(main.updates),
                };
                choices.push(self.probe(file, &parts, notes, &mut forms)?);
            }
            let unless = probe.unless.as_ref().map(|hook| self.hook(hook, None));
            probes.push(Probe {
                unless: unless.transpose()?,
                choices,
            });
        }
        if let (true, Some(unless)) = (
            probes.iter().all(|p| p.unless.is_some()),
            file.probes.iter().find_map(|p| p.unless.as_ref()),
        ) {
            let why = "one probe at least is needed on every kernel: leave out its `unless`";
            return Err(self.wrong(self.line_of(unless), why));
        }
        Ok((probes, forms))
    }

    fn probe(
        &self,
        file: &MeterFile,
        parts: &ProbeParts<'_>,
        notes: &[Note],
        forms: &mut [Option<Form>],
    ) -> Result<ProbeChoice, FileError> {
        let line = self.line_of(parts.hook);
        let hook = self.hook(parts.hook, parts.of)?;
        let key = parts.key.map_or(Ok(Vec::new()), |k| self.key(k))?;
        match (parts.since, parts.key) {
            (Some(since), _) => {
                let note = self.known(notes, since, line)?;
                let wanted = note.choices.first().map_or(0, |c| c.key.len());
                if wanted != key.len() {
                    return Err(self.wrong(
                        line,
                        format!(
                            "the note {since} is found by {wanted} numbers, and the key here has {}",
                            key.len()
                        ),
                    ));
                }
            }
            (None, Some(key)) if parts.carry.is_empty() => {
                let why = "a key finds a note, say since which; or what is carried";
                return Err(self.wrong(self.line_of(key), why));
            }
            _ => {}
        }
        let carry = self.numbers(parts.carry)?;
        let carried = parts.carry.values().next();
        if let (Some(_), Some(carried)) = (parts.since, carried) {
            let why = "a probe has numbers of a note (since) or of the event before (carry)";
            return Err(self.wrong(self.line_of(carried), why));
        }
        if let (None, Some(carried)) = (parts.key, carried) {
            let why = "carried from which event? say the key that both have";
            return Err(self.wrong(self.line_of(carried), why));
        }
        if let (Some(_), Some(twice)) = (parts.key, parts.twice) {
            let why = "what comes two times (twice) has no note and carries nothing";
            return Err(self.wrong(self.line_of(twice), why));
        }
        let mut by = Vec::new();
        for name in file.labels.keys() {
            let text = parts.by.get(name).ok_or_else(|| {
                self.wrong(line, format!("this probe does not say the label {name}"))
            })?;
            by.push(self.expr(text)?);
        }
        self.labels_known(file, parts.by)?;
        Ok(ProbeChoice {
            hook,
            since: parts.since.cloned(),
            key,
            condition: parts.condition.map(|c| self.expr(c)).transpose()?,
            carry,
            twice: parts.twice.map(|e| self.expr(e)).transpose()?,
            by,
            updates: self.updates(file, parts, forms)?,
        })
    }

    pub(super) fn labels_known(&self, file: &MeterFile, by: &Texts) -> Result<(), FileError> {
        match by.iter().find(|(n, _)| !file.labels.contains_key(*n)) {
            None => Ok(()),
            Some((name, text)) => Err(self.wrong(
                self.line_of(text),
                format!("`{name}` is no label of this meter; write [labels.{name}]"),
            )),
        }
    }

    fn updates(
        &self,
        file: &MeterFile,
        parts: &ProbeParts<'_>,
        forms: &mut [Option<Form>],
    ) -> Result<Vec<Update>, FileError> {
        let mut updates = Vec::new();
        for (name, text) in parts.updates {
            let line = self.line_of(text);
            let value = file.values.keys().position(|v| v == name).ok_or_else(|| {
                self.wrong(
                    line,
                    format!("`{name}` is no value of this meter; write [values.{name}]"),
                )
            })?;
            let written = text.get_ref();
            let mut parser = Parser::new(written);
            let what = What::parse(&mut parser, written, line)
                .and_then(|what| parser.end().map(|()| what))
                .map_err(|e| self.expr_error(line, &e))?;
            let form = what.form();
            if forms[value].is_some_and(|known| known != form) {
                return Err(self.wrong(
                    line,
                    format!(
                        "{}() makes the value {name} something else than another probe does",
                        what.verb()
                    ),
                ));
            }
            forms[value] = Some(form);
            if form == Form::Busy && parts.since.is_none() {
                return Err(self.wrong(line, "busy() is the time since a note; say since which"));
            }
            updates.push(Update { value, what });
        }
        if updates.is_empty() {
            return Err(self.wrong(self.line_of(parts.hook), "this probe does nothing"));
        }
        Ok(updates)
    }
}
