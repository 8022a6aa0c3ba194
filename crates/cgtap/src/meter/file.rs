//! Meter files: a meter as a person writes it down.
//!
//! The reference is docs/meters.md; the JSON schema is made of the types here.

mod gates;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use self::reader::Reader;
use super::source::Source;
use super::usage::{Truth, Unit};
use super::written::Meter;

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
    /// What is read, for a meter without probes: its values and labels are those that the source has.
    #[schemars(with = "Option<Source>")]
    source: Option<Spanned<Source>>,
    /// What is noted at one hook for another.
    #[serde(default)]
    notes: Vec<NoteFile>,
    /// Where it counts; a meter without any has a `source`.
    #[serde(default)]
    probes: Vec<ProbeFile>,
    /// Where limits on its values can be held.
    #[serde(default)]
    gates: Vec<GateFile>,
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
    /// What the note, or what is carried, is found by.
    #[schemars(with = "Option<String>")]
    key: Option<Text>,
    /// Only if this is not 0.
    #[serde(rename = "if")]
    #[schemars(with = "Option<String>")]
    condition: Option<Text>,
    /// Numbers of this event that the next one with the same key has here, by the name that it has for them;
    /// 0 at the first.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    carry: Texts,
    /// Events for which this is not 0 come to the hook two times: only the first counts.
    #[schemars(with = "Option<String>")]
    twice: Option<Text>,
    /// An expression for each label.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    by: Texts,
    /// For each value what is done: count(), sum(X), hist(X), busy(RESOURCE), add(X), sub(X).
    #[serde(rename = "do")]
    #[schemars(with = "BTreeMap<String, String>")]
    updates: Texts,
    /// A hook: a kernel that has it does not need this probe, since another counts there.
    #[schemars(with = "Option<String>")]
    unless: Option<Text>,
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
    carry: Option<Texts>,
    #[schemars(with = "Option<String>")]
    twice: Option<Text>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    by: Option<Texts>,
    #[serde(rename = "do")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    updates: Option<Texts>,
}

/// A place where events can be refused before they happen. It has at least one value in `ask` or
/// `holds`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GateFile {
    /// The hook: one of lsm, `fmod_ret`, `cgroup` or `raw_tracepoint.w`.
    #[schemars(with = "String")]
    hook: Text,
    /// Hooks with the same arguments where the same is asked, at the first one that this kernel has;
    /// one that has none of them has no such events.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    also: Vec<Text>,
    /// Whose limit counts: `current`, or a path from the hook's arguments.
    #[schemars(with = "Option<String>")]
    of: Option<Text>,
    /// Only if this is not 0.
    #[serde(rename = "if")]
    #[schemars(with = "Option<String>")]
    condition: Option<Text>,
    /// An expression for each label that can be told here.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    by: Texts,
    /// For values whose amount is known before: how much of it an event asks for.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    ask: Texts,
    /// Values whose amount is known only afterwards: the gate is shut while there is nothing left.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    holds: Vec<Text>,
    /// For values whose amount is known only afterwards: how much is to be expected. What is charged is
    /// what it comes to.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    expect: Texts,
    /// Events for which this is not 0 come to the hook two times: only the first is asked.
    #[schemars(with = "Option<String>")]
    twice: Option<Text>,
    /// The errno that the caller gets unless it is said otherwise: EPERM, EDQUOT and so on.
    #[schemars(with = "String")]
    deny: Text,
    /// The errnos at which clients try again at once, for ever.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    retried: Vec<Text>,
    /// At a writable tracepoint: fields behind the first argument, and the word that is stored there
    /// to refuse.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    write: Texts,
    /// What else to try, in order; what is not said is as above.
    #[serde(default, rename = "else")]
    others: Vec<GateElse>,
}

/// Another way to refuse.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GateElse {
    #[schemars(with = "String")]
    hook: Text,
    #[schemars(with = "Option<String>")]
    of: Option<Text>,
    #[serde(rename = "if")]
    #[schemars(with = "Option<String>")]
    condition: Option<Text>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    by: Option<Texts>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    ask: Option<Texts>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    expect: Option<Texts>,
    #[schemars(with = "Option<String>")]
    twice: Option<Text>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    write: Option<Texts>,
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
