//! Meter files: a meter as a person writes it down.
//!
//! The reference is docs/meters.md; the JSON schema is made of the types here.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::code::NOTED_MAX;
use super::expr::{ExprError, Parser};
use super::usage::{Form, Truth, Unit};
use super::written::{
    Expr, KEYS_MAX, LABELS_MAX, LabelText, Meter, Note, NoteChoice, Probe, ProbeChoice, ROOM,
    Update, VALUES_MAX, Value, What,
};
use crate::hook::HookSpec;
use crate::hook::scope::Scope;

/// Entries that a meter may ask for at the most.
const ROOM_MAX: u32 = 1 << 20;

/// Why a file is no meter.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the meter file {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is not as meter files are.
    #[error("{path}{}: {why}", at_line(*line))]
    Wrong {
        /// The file.
        path: String,
        /// The line, from 1; 0 if it is of no single line.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

fn at_line(line: usize) -> String {
    if line == 0 {
        String::new()
    } else {
        format!(":{line}")
    }
}

/// A meter: what to count, for whom, by what.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "cgtap meter")]
pub struct MeterFile {
    /// Its name: lower-case letters, digits and `_`. Those of its values begin with it.
    #[schemars(with = "String", regex(pattern = r"^[a-z][a-z0-9_]*$"))]
    name: Spanned<String>,
    /// What it tells, in a sentence.
    help: String,
    /// How true its values are, unless they say otherwise.
    #[serde(default)]
    kind: Truth,
    /// What it does not see, a sentence each.
    #[serde(default)]
    cannot_see: Vec<String>,
    /// Cgroups and labels that it has room for; what finds none is counted as lost.
    #[schemars(with = "Option<u32>", range(min = 1, max = 1_048_576))]
    room: Option<Spanned<u32>>,
    /// What it counts, by name.
    values: BTreeMap<String, ValueFile>,
    /// What it splits by, by name.
    #[serde(default)]
    labels: BTreeMap<String, LabelFile>,
    /// What is noted at one hook for another.
    #[serde(default)]
    notes: Vec<NoteFile>,
    /// Where it counts.
    probes: Vec<ProbeFile>,
}

/// A value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ValueFile {
    /// What it tells, in a sentence.
    help: String,
    /// What it is of.
    #[serde(default)]
    unit: Unit,
    /// How true it is.
    kind: Option<Truth>,
}

/// A label.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LabelFile {
    /// What it tells, in a sentence.
    help: String,
}

type Text = Spanned<String>;
type Texts = BTreeMap<String, Spanned<String>>;

/// Something noted at a hook under a key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoteFile {
    /// What `since` and `after` call it.
    #[schemars(with = "String")]
    name: Text,
    /// The hook.
    #[schemars(with = "String")]
    hook: Text,
    /// Whose cgroup is noted: `current`, or a path from the hook's arguments.
    #[schemars(with = "Option<String>")]
    of: Option<Text>,
    /// The note whose cgroup is taken over, found by the same key.
    after: Option<String>,
    /// What it is found by: one or two numbers.
    #[schemars(with = "String")]
    key: Text,
    /// Only if this is not 0.
    #[serde(rename = "if")]
    #[schemars(with = "Option<String>")]
    condition: Option<Text>,
    /// Numbers that are noted too, by the name that probes have for them.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    keep: Texts,
    /// What to try, in order, where this kernel has no such hook; what is not said is as above.
    #[serde(default, rename = "else")]
    others: Vec<NoteElse>,
}

/// Another way to note.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoteElse {
    #[schemars(with = "String")]
    hook: Text,
    #[schemars(with = "Option<String>")]
    of: Option<Text>,
    after: Option<String>,
    #[schemars(with = "Option<String>")]
    key: Option<Text>,
    #[serde(rename = "if")]
    #[schemars(with = "Option<String>")]
    condition: Option<Text>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    keep: Option<Texts>,
}

/// A place where it counts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProbeFile {
    /// The hook.
    #[schemars(with = "String")]
    hook: Text,
    /// Who is charged: `current`, or a path from the hook's arguments.
    #[schemars(with = "Option<String>")]
    of: Option<Text>,
    /// The note that says who is charged, and since when.
    since: Option<String>,
    /// What the note is found by.
    #[schemars(with = "Option<String>")]
    key: Option<Text>,
    /// Only if this is not 0.
    #[serde(rename = "if")]
    #[schemars(with = "Option<String>")]
    condition: Option<Text>,
    /// An expression for each label.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    by: Texts,
    /// For each value what is done: count(), sum(X), hist(X), busy(RESOURCE), add(X), sub(X).
    #[serde(rename = "do")]
    #[schemars(with = "BTreeMap<String, String>")]
    updates: Texts,
    /// What to try, in order, where this kernel has no such hook; what is not said is as above.
    #[serde(default, rename = "else")]
    others: Vec<ProbeElse>,
}

/// Another way to count.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProbeElse {
    #[schemars(with = "String")]
    hook: Text,
    #[schemars(with = "Option<String>")]
    of: Option<Text>,
    since: Option<String>,
    #[schemars(with = "Option<String>")]
    key: Option<Text>,
    #[serde(rename = "if")]
    #[schemars(with = "Option<String>")]
    condition: Option<Text>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    by: Option<Texts>,
    #[serde(rename = "do")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    updates: Option<Texts>,
}

/// The JSON schema of meter files.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(MeterFile).to_value()
}

/// Reads a meter file.
///
/// # Errors
/// [`FileError`] with the line.
pub fn read(path: &Path) -> Result<Meter, FileError> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&name, &text),
        Err(source) => Err(FileError::Read { path: name, source }),
    }
}

/// The meter that `text` describes, `path` for messages.
///
/// # Errors
/// [`FileError`] with the line.
pub fn parse(path: &str, text: &str) -> Result<Meter, FileError> {
    let reader = Reader { path, text };
    let file: MeterFile = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |span| reader.line(span.start));
        reader.wrong(line, e.message())
    })?;
    reader.meter(file)
}

struct Reader<'a> {
    path: &'a str,
    text: &'a str,
}

/// Everything that a choice may say, where it was said.
struct ProbeParts<'f> {
    hook: &'f Text,
    of: Option<&'f Text>,
    since: Option<&'f String>,
    key: Option<&'f Text>,
    condition: Option<&'f Text>,
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
    fn line(&self, at: usize) -> usize {
        self.text
            .get(..at)
            .map_or(0, |before| before.matches('\n').count() + 1)
    }

    fn line_of(&self, text: &Text) -> usize {
        self.line(text.span().start)
    }

    fn wrong(&self, line: usize, why: impl ToString) -> FileError {
        FileError::Wrong {
            path: self.path.to_owned(),
            line,
            why: why.to_string(),
        }
    }

    fn expr_error(&self, line: usize, error: &ExprError) -> FileError {
        self.wrong(line, error)
    }

    fn meter(&self, file: MeterFile) -> Result<Meter, FileError> {
        let name_line = self.line_of(&file.name);
        let name = file.name.get_ref();
        if !is_name(name) || name == super::record::PRIVATE {
            return Err(self.wrong(
                name_line,
                format!(
                    "`{name}` cannot be a meter's name: lower-case letters, digits and _, at most \
                     40, not `{}`",
                    super::record::PRIVATE
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
        if file.values.is_empty() || file.probes.is_empty() {
            return Err(self.wrong(0, "a meter has at least one value and one probe"));
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
        let (probes, forms) = self.probes(&file, &notes)?;
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
            notes,
            probes,
        })
    }

    fn hook(&self, hook: &Text, of: Option<&Text>) -> Result<HookSpec, FileError> {
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

    fn expr(&self, text: &Text) -> Result<Expr, FileError> {
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
        if parts.keep.len() > NOTED_MAX {
            return Err(self.wrong(line, format!("a note keeps at most {NOTED_MAX} numbers")));
        }
        let keep = parts.keep.iter();
        Ok(NoteChoice {
            hook: self.hook(parts.hook, parts.of)?,
            key: self.key(parts.key)?,
            after: parts.after.cloned(),
            condition: parts.condition.map(|c| self.expr(c)).transpose()?,
            keep: keep
                .map(|(name, text)| Ok((name.clone(), self.expr(text)?)))
                .collect::<Result<_, FileError>>()?,
        })
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
                    by: other.by.as_ref().unwrap_or(main.by),
                    updates: other.updates.as_ref().unwrap_or(main.updates),
                };
                choices.push(self.probe(file, &parts, notes, &mut forms)?);
            }
            probes.push(Probe { choices });
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
            (None, Some(key)) => {
                return Err(self.wrong(self.line_of(key), "a key finds a note: say since which"));
            }
            (None, None) => {}
        }
        let mut by = Vec::new();
        for name in file.labels.keys() {
            let text = parts.by.get(name).ok_or_else(|| {
                self.wrong(line, format!("this probe does not say the label {name}"))
            })?;
            by.push(self.expr(text)?);
        }
        if let Some((name, text)) = parts.by.iter().find(|(n, _)| !file.labels.contains_key(*n)) {
            return Err(self.wrong(
                self.line_of(text),
                format!("`{name}` is no label of this meter; write [labels.{name}]"),
            ));
        }
        Ok(ProbeChoice {
            hook,
            since: parts.since.cloned(),
            key,
            condition: parts.condition.map(|c| self.expr(c)).transpose()?,
            by,
            updates: self.updates(file, parts, forms)?,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"name = "writes"
help = "What is written"
room = 64
[values.bytes]
help = "Bytes"
unit = "bytes"
[labels.fd]
help = "File"
[[notes]]
name = "begun"
hook = "raw_tracepoint:sys_enter"
key = "current->pid, id"
keep.n = "id"
[[probes]]
hook = "tracepoint:syscalls/sys_enter_write"
if = "count > 0"
since = "begun"
key = "current->pid, 1"
by.fd = "fd"
do.bytes = "sum(count)"
[[probes.else]]
hook = "tp_btf:other"
"#;

    #[test]
    fn a_file_is_read_as_it_is_written() {
        let meter = parse("x.toml", GOOD).unwrap();
        assert_eq!((meter.name.as_str(), meter.room), ("writes", 64));
        assert_eq!(meter.values[0].form, Form::Sum);
        assert_eq!(meter.notes[0].choices[0].keep[0].0, "n");
        let ways = &meter.probes[0].choices;
        assert_eq!(ways.len(), 2);
        // What another way does not say is as above.
        assert_eq!(ways[1].updates, ways[0].updates);
        assert_eq!(ways[1].hook.to_string(), "tp_btf:other");
        assert_eq!(ways[0].condition.as_ref().map(|c| c.line), Some(16));
    }

    /// One change to the good file, the line of what is wrong then, and something that is said.
    const WRONG: &[(&str, &str, usize, &str)] = &[
        ("name = \"writes\"", "name = \"Writes\"", 1, "lower-case"),
        ("name = \"writes\"", "name = \"stat\"", 1, "not `stat`"),
        ("name = \"writes\"\n", "", 0, "missing field `name`"),
        ("help = \"What", "hlep = \"What", 2, "unknown field `hlep`"),
        ("room = 64", "room = 0", 3, "from 1 to"),
        ("room = 64", "room = \"x\"", 3, "invalid type"),
        ("room = 64", "room = ", 3, "string values must be quoted"),
        (
            "unit = \"bytes\"",
            "unit = \"pounds\"",
            6,
            "unknown variant `pounds`",
        ),
        (
            "[values.bytes]",
            "[values.Bytes]",
            0,
            "cannot be a value's name",
        ),
        (
            "raw_tracepoint:sys_enter",
            "sys_enter",
            11,
            "names no hook kind",
        ),
        (
            "key = \"current->pid, id\"",
            "key = \"a, b, c\"",
            12,
            "at most 2",
        ),
        (
            "key = \"current->pid, id\"",
            "key = \"a +\"",
            12,
            "a value is missing",
        ),
        (
            "if = \"count > 0\"",
            "if = \"count >\"",
            16,
            "a value is missing",
        ),
        (
            "since = \"begun\"",
            "since = \"begn\"",
            15,
            "no note `begn`",
        ),
        ("since = \"begun\"\n", "", 17, "say since which"),
        (
            "key = \"current->pid, 1\"",
            "key = \"1\"",
            15,
            "found by 2 numbers",
        ),
        ("by.fd = \"fd\"\n", "", 15, "does not say the label fd"),
        (
            "by.fd = \"fd\"",
            "by.fd = \"fd\"\nby.x = \"fd\"",
            20,
            "no label",
        ),
        (
            "do.bytes = \"sum(count)\"",
            "do.bites = \"count()\"",
            20,
            "no value",
        ),
        (
            "do.bytes = \"sum(count)\"",
            "do.bytes = \"avg(count)\"",
            20,
            "`avg` is no value",
        ),
        (
            "do.bytes = \"sum(count)\"",
            "do.bytes = \"sum(count) 3\"",
            20,
            "operator is missing",
        ),
        ("do.bytes = \"sum(count)\"", "do = {}", 15, "does nothing"),
        (
            "hook = \"tp_btf:other\"",
            "hook = \"tp_btf:other\"\ndo.bytes = \"count()\"",
            23,
            "something else",
        ),
        (
            "hook = \"tp_btf:other\"",
            "of = \"rq\"",
            21,
            "missing field `hook`",
        ),
        (
            "hook = \"tp_btf:other\"",
            "hook = \"tp_btf:other\"\nof = \"owner(a) noted at tp_btf:b by a\"",
            23,
            "write a note",
        ),
    ];

    #[test]
    fn each_mistake_is_told_with_its_line() {
        for (from, to, line, why) in WRONG {
            assert!(GOOD.contains(from), "{from}");
            let error = parse("x.toml", &GOOD.replacen(from, to, 1)).expect_err(to);
            let place = if *line == 0 {
                "x.toml".to_owned()
            } else {
                format!("x.toml:{line}: ")
            };
            let error = error.to_string();
            assert!(error.starts_with(&place), "{to}: {error}");
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    #[test]
    fn the_schema_names_what_files_may_say() {
        let schema = schema().to_string();
        for word in ["cannot_see", "\"else\"", "keep", "measured", "since"] {
            assert!(schema.contains(word), "{word}");
        }
    }
}
