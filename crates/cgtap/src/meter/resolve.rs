//! From a meter as it is written to what is counted on this kernel: hooks found, expressions typed,
//! alternatives chosen.

mod place;

use place::Place;

use super::expr::{ExprError, Label, Node, Shown};
use super::names::Paired;
use super::resolved::{
    Carried, Do, Find, GateProgram, Job, LABEL_WORDS_MAX, Program, Resolved, Twice, Write, words_of,
};
use super::text::TEXT_WORDS;
use super::written::{GateChoice, Meter, NoteChoice, ProbeChoice, What};
use crate::hook::HookSpec;
use crate::kernel::arguments;
use crate::kernel::target::TargetError;

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
    let mut words: Vec<String> = all.iter().map(ToString::to_string).collect();
    // Several may lack the same.
    words.dedup();
    words.join("; ")
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
    if let Some(source) = meter.source {
        return Ok(Resolved {
            programs: Vec::new(),
            labels: vec![Shown::Text; source.labels().len()],
            notes: 0,
        });
    }
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
    let mut notes = known.len();
    let mut labels: Vec<Option<Shown>> = vec![None; meter.labels.len()];
    let is_here = |hook: &HookSpec| Place::find(hook).is_ok();
    for probe in &meter.probes {
        if probe.unless.as_ref().is_some_and(is_here) {
            continue;
        }
        let (mut program, shown) = first(&probe.choices, |choice| {
            probe_program(meter, choice, &known, &labels)
        })?;
        // A plain number, such as 0 for none, says nothing of how others are shown.
        let known = labels.into_iter().zip(shown);
        let known = known.map(|(known, shown)| match shown {
            Shown::Unsigned => known.or(Some(shown)),
            shown => Some(shown),
        });
        labels = known.collect();
        for note in program.job.own_notes() {
            *note = notes;
            notes += 1;
        }
        programs.push(program);
    }
    Ok(Resolved {
        programs,
        labels: labels.into_iter().map(Option::unwrap_or_default).collect(),
        notes,
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
    Err(none(refused))
}

/// All choices that can be had, at least one.
fn all<C, T>(
    choices: &[C],
    have: impl FnMut(&C) -> Result<T, ResolveError>,
) -> Result<Vec<T>, ResolveError> {
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for choice in choices.iter().map(have) {
        match choice {
            Ok(one) => found.push(one),
            Err(e) => refused.push(e),
        }
    }
    if found.is_empty() {
        Err(none(refused))
    } else {
        Ok(found)
    }
}

fn none(mut refused: Vec<ResolveError>) -> ResolveError {
    match refused.pop() {
        Some(only) if refused.is_empty() => only,
        last => {
            refused.extend(last);
            ResolveError::None(refused)
        }
    }
}

/// The gates of a value, by its index: for each all the ways in which it can be had on this kernel,
/// best first; none where it need not be had. `labels` are those of the same meter, resolved.
///
/// # Errors
/// [`ResolveError`]: a gate cannot be had in any way, and why.
pub fn resolve_gates(
    meter: &Meter,
    value: usize,
    labels: &[Shown],
) -> Result<Vec<Vec<GateProgram>>, ResolveError> {
    let mut gates = Vec::new();
    for gate in meter.gates_of(value) {
        let ways = all(&gate.choices, |choice| {
            gate_program(meter, choice, value, labels)
        });
        match ways {
            Ok(ways) => gates.push(ways),
            Err(e) if gate.is_optional => {
                tracing::debug!("no such gate here: {e}");
                gates.push(Vec::new());
            }
            Err(e) => return Err(e),
        }
    }
    Ok(gates)
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
    let after = note_named(known, choice.after.as_deref(), &place)?;
    let (key, keep, condition) = place.check(Paired::default(), |c| {
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
    let names: Vec<String> = choice.carry.iter().map(|(name, _)| name.clone()).collect();
    let paired = Paired {
        is_paired: since.is_some(),
        noted: since.map_or(&names, |at| &known[at].keep),
    };
    // What is left is this event's own. Most leave nothing, and names are looked for in the kernel's types.
    let keep = match choice.carry.as_slice() {
        [] => Vec::new(),
        carry => place.check(Paired::default(), |c| {
            carry.iter().map(|(_, e)| c.number(e)).collect()
        })?,
    };
    let (key, by, updates, condition, twice) = place.check(paired, |c| {
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
            choice.twice.as_ref().map(|e| c.number(e)).transpose()?,
        ))
    })?;
    if since.is_none() && updates.iter().any(|(_, d)| matches!(d, Do::Busy(_))) {
        return Err(place.wrong("busy() is the time since a note; say since which"));
    }
    let shown: Vec<Shown> = by.iter().map(shown_as).collect();
    for ((now, before), text) in shown.iter().zip(labels).zip(&meter.labels) {
        if before.as_ref().is_some_and(|before| differ(before, now)) {
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
    let carried = (!keep.is_empty()).then(|| Carried {
        note: 0,
        key: key.clone(),
        keep,
    });
    let noted = since.map(|note| Find {
        note,
        key,
        is_last: true,
    });
    // Notes of its own are numbered behind those of the meter.
    let twice = twice.map(|when| Twice { note: 0, when });
    let job = Job::Charge {
        carried,
        twice,
        by,
        updates,
    };
    Ok((place.program(noted, condition, job), shown))
}

fn shown_as(label: &Label) -> Shown {
    match label {
        Label::Number(_, shown) => shown.clone(),
        Label::Text(_) => Shown::Text,
    }
}

/// A label that is shown so at one place cannot be shown so at another.
fn differ(a: &Shown, b: &Shown) -> bool {
    let is_special = |s: &Shown| matches!(s, Shown::Signed | Shown::Device | Shown::Hex);
    (*a == Shown::Text) != (*b == Shown::Text)
        || matches!(a, Shown::Names(_)) != matches!(b, Shown::Names(_))
        || is_special(a) && is_special(b) && a != b
}

fn gate_program(
    meter: &Meter,
    choice: &GateChoice,
    value: usize,
    labels: &[Shown],
) -> Result<GateProgram, ResolveError> {
    let place = Place::find(&choice.hook)?;
    let asked = choice
        .held(value)
        .ok_or_else(|| place.wrong("the value is not held here"))?;
    let paired = Paired::default();
    let expected = choice.expects.iter().find(|(held, _)| *held == value);
    let (condition, by, ask, expect, twice, writes) = place.check(paired, |c| {
        let by = choice.by.iter().zip(labels).zip(&meter.labels);
        let by: Vec<Option<Label>> = by
            .map(|((expr, shown), text)| {
                let expr = expr.as_ref();
                expr.map(|e| c.gate_label(e, shown, text)).transpose()
            })
            .collect::<Result<_, _>>()?;
        let writes = choice.writes.iter();
        let writes: Vec<Write> = writes
            .map(|(field, value)| c.write(field, *value))
            .collect::<Result<_, _>>()?;
        Ok((
            c.condition(choice.condition.as_ref())?,
            by,
            asked.map(|e| c.number(e)).transpose()?,
            expected.map(|(_, e)| c.number(e)).transpose()?,
            choice.twice.as_ref().map(|e| c.number(e)).transpose()?,
            writes,
        ))
    })?;
    Ok(GateProgram {
        has_typed_arguments: arguments::are_typed(place.hook.kind()),
        hook: place.hook,
        condition,
        by,
        ask,
        expect,
        twice,
        deny: choice.deny,
        retried: choice.retried.clone(),
        writes,
    })
}
