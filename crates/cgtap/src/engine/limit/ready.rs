//! The meters of a change, each read once.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::super::error::{Error, ErrorKind, Result};
use super::wrong;
use crate::limit::record::Group;
use crate::meter::file;
use crate::meter::resolve::resolve;
use crate::meter::resolved::Resolved;
use crate::meter::written::Meter;

/// Numbers of label words, and what stands there.
pub(super) type Only = Vec<(usize, Vec<u64>)>;

/// The words of labels: label by label.
pub(super) fn words_of_labels(
    meter: &Meter,
    resolved: &Resolved,
    labels: &BTreeMap<String, String>,
) -> Result<Only> {
    let mut only = Vec::new();
    for (at, (label, shown)) in meter.labels.iter().zip(&resolved.labels).enumerate() {
        let Some(text) = labels.get(&label.name) else {
            continue;
        };
        let words = crate::meter::record::words_of_text(shown, text)
            .map_err(|why| wrong(format!("the label {} is never `{text}`: {why}", label.name)))?;
        only.push((at, words));
    }
    Ok(only)
}

/// A group's meter on this kernel, read once a change.
pub(super) struct Ready {
    pub(super) meter: Meter,
    pub(super) value: usize,
    pub(super) resolved: Resolved,
    pub(super) only: Only,
}

#[derive(Default)]
pub(super) struct Meters {
    ready: HashMap<u32, Ready>,
}

impl Meters {
    pub(super) fn of(&mut self, number: u32, group: &Group) -> Result<&Ready> {
        match self.ready.entry(number) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(Ready::new(group)?)),
        }
    }
}

impl Ready {
    fn new(group: &Group) -> Result<Self> {
        let meter = file::parse(&group.path, &group.text)
            .map_err(|e| Error::new(ErrorKind::State, e.to_string()))?;
        let mut values = meter.values.iter();
        let value = values.position(|v| v.name == group.value).unwrap_or(0);
        let resolved = resolve(&meter).map_err(|e| Error::new(ErrorKind::Hook, e.to_string()))?;
        let only = words_of_labels(&meter, &resolved, &group.labels)?;
        Ok(Self {
            meter,
            value,
            resolved,
            only,
        })
    }
}
