//! What is recorded of a meter that counts: enough to read what it counted, by any later process.

use serde::{Deserialize, Serialize};

use super::expr::Shown;
use super::resolved::{Resolved, words_of};
use super::shape::{OTHER_WORD, Shape};
use super::source::Source;
use super::text::{self, TEXT_WORDS};
use super::usage::{Form, Truth, Unit};
use super::written::Meter;
use crate::id::CgroupId;

/// Name of a meter that counts for one process alone.
pub const PRIVATE: &str = "stat";

/// A meter that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterRecord {
    /// Its name.
    pub name: String,
    /// Where it is enabled.
    pub cgroup: CgroupId,
    /// What it counts.
    pub values: Vec<ValueRecord>,
    /// What it splits by.
    pub labels: Vec<LabelRecord>,
    /// Where its figures are read, if no program counts them.
    pub source: Option<Source>,
}

/// A value of a meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueRecord {
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
    /// First byte of it in an entry.
    pub offset: u32,
}

/// A label of a meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelRecord {
    /// Its name.
    pub name: String,
    /// How it is shown.
    pub shown: Shown,
}

impl MeterRecord {
    /// The record of a meter that is enabled at `cgroup`.
    #[must_use]
    pub fn new(meter: &Meter, resolved: &Resolved, shape: &Shape, cgroup: CgroupId) -> Self {
        let values = meter.values.iter().zip(&shape.offsets);
        let labels = meter.labels.iter().zip(&resolved.labels);
        Self {
            name: meter.name.clone(),
            cgroup,
            values: values
                .map(|(value, offset)| ValueRecord {
                    name: value.name.clone(),
                    help: value.help.clone(),
                    unit: value.unit,
                    truth: value.truth,
                    form: value.form,
                    offset: *offset,
                })
                .collect(),
            labels: labels
                .map(|(label, shown)| LabelRecord {
                    name: label.name.clone(),
                    shown: shown.clone(),
                })
                .collect(),
            source: meter.source,
        }
    }

    /// It counts for one process alone, and is no meter to others.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.name == PRIVATE
    }

    /// What a value is called: its meter's name and its own.
    #[must_use]
    pub fn value_name(&self, value: &ValueRecord) -> String {
        if self.is_private() {
            value.name.clone()
        } else {
            format!("{}_{}", self.name, value.name)
        }
    }

    /// The labels' texts, by the words of a key.
    #[must_use]
    pub fn label_texts(&self, words: &[u64]) -> Vec<String> {
        let mut rest = words;
        let is_other = !words.is_empty() && words.iter().all(|w| *w == OTHER_WORD);
        let text = |label: &LabelRecord| {
            let (own, behind) = rest.split_at(words_of(&label.shown).min(rest.len()));
            rest = behind;
            if is_other {
                "other".to_owned()
            } else {
                show(&label.shown, own)
            }
        };
        self.labels.iter().map(text).collect()
    }
}

/// A device number of the kernel: twelve bits major, twenty minor (include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

fn show(shown: &Shown, words: &[u64]) -> String {
    let word = words.first().copied().unwrap_or(0);
    match shown {
        Shown::Unsigned => word.to_string(),
        Shown::Signed => word.cast_signed().to_string(),
        Shown::Hex => format!("{word:#x}"),
        Shown::Device => format!("{}:{}", word >> MINOR_BITS, word & ((1 << MINOR_BITS) - 1)),
        Shown::Names(names) => usize::try_from(word)
            .ok()
            .and_then(|at| names.get(at))
            .cloned()
            .unwrap_or_else(|| word.to_string()),
        Shown::Text => {
            let bytes: Vec<u8> = words
                .iter()
                .take(TEXT_WORDS)
                .flat_map(|w| w.to_ne_bytes())
                .take_while(|b| *b != 0)
                .collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

/// The words of a label that is shown as `text`.
///
/// # Errors
/// Why it is never shown so.
pub fn words_of_text(shown: &Shown, text: &str) -> Result<Vec<u64>, String> {
    let number = |text: &str| {
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        parsed.ok_or_else(|| "it is a number".to_owned())
    };
    match shown {
        Shown::Unsigned | Shown::Hex => Ok(vec![number(text)?]),
        Shown::Signed => match text.parse::<i64>() {
            Ok(value) => Ok(vec![value.cast_unsigned()]),
            Err(_) => Err("it is a number".to_owned()),
        },
        Shown::Device => {
            let wrong = || "it is a device's number, MAJOR:MINOR".to_owned();
            let (major, minor) = text.split_once(':').ok_or_else(wrong)?;
            let (major, minor): (u64, u64) = (
                major.parse().map_err(|_| wrong())?,
                minor.parse().map_err(|_| wrong())?,
            );
            Ok(vec![major << MINOR_BITS | minor])
        }
        Shown::Names(names) => names
            .iter()
            .position(|n| n == text)
            .map(|at| vec![at as u64])
            .ok_or_else(|| format!("it is one of {}", names.join(", "))),
        Shown::Text => {
            if text.len() >= TEXT_WORDS * 8 {
                return Err(format!("it has less than {} bytes", TEXT_WORDS * 8));
            }
            Ok(text::words(text).to_vec())
        }
    }
}
