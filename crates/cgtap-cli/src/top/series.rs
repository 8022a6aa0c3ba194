//! One value with its labels, as it was read and as it grew.

use std::collections::BTreeMap;
use std::sync::Arc;

use cgtap::meter::usage::{Form, Histogram, Truth};

/// What a value is split by.
pub type Labels = BTreeMap<String, String>;

/// Whether what a cgroup used itself is looked at, or what it used with all below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Basis {
    /// With all below it.
    #[default]
    Total,
    /// Itself.
    Own,
}

/// How fast something grew, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// What the cgroup uses itself.
    pub own: f64,
    /// What it and all below it use.
    pub total: f64,
}

/// What was read, and how fast it grew since the reading before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Used by the cgroup itself.
    pub own: u64,
    /// Used by it and all below it.
    pub total: u64,
    /// How fast both grew, a second. None of a gauge, and none at the first reading.
    pub rates: Option<Rates>,
}

impl Reading {
    /// What was used.
    pub fn used(&self, basis: Basis) -> u64 {
        match basis {
            Basis::Own => self.own,
            Basis::Total => self.total,
        }
    }

    /// How fast that grew.
    pub fn rate(&self, basis: Basis) -> Option<f64> {
        self.rates.map(|rates| match basis {
            Basis::Own => rates.own,
            Basis::Total => rates.total,
        })
    }

    /// The number that stands in a column: of a counter how fast it grows, of a gauge what it is.
    pub fn shown(&self, form: Form, basis: Basis) -> Option<f64> {
        if form.is_counter() {
            self.rate(basis)
        } else {
            Some(self.used(basis) as f64)
        }
    }

    /// Works out how fast it grew since `before`, `seconds` ago. What fell did not grow: two
    /// readings of many CPUs may overtake each other by a little.
    pub fn grown_since(&mut self, before: (u64, u64), seconds: f64) {
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        self.rates = Some(Rates {
            own: rate(self.own, before.0),
            total: rate(self.total, before.1),
        });
    }

    /// Adds another one to it.
    pub fn add(&mut self, other: &Self) {
        self.own = self.own.saturating_add(other.own);
        self.total = self.total.saturating_add(other.total);
        if let Some(more) = other.rates {
            let rates = self.rates.get_or_insert_default();
            rates.own += more.own;
            rates.total += more.total;
        }
    }
}

/// One value with its labels.
#[derive(Clone, Debug)]
pub struct Series {
    /// Which column.
    pub column: u32,
    /// How true it is.
    pub kind: Truth,
    /// What it is split by.
    pub labels: Arc<Labels>,
    /// What was read.
    pub reading: Reading,
    /// What only some forms have.
    pub more: Option<Box<More>>,
}

/// What only some forms have.
#[derive(Clone, Debug)]
pub struct More {
    /// Of a gauge: the most at a time.
    pub peak: Option<u64>,
    /// Of a histogram.
    pub histogram: Option<Histogram>,
}

impl Series {
    /// Whether it is of the column at `place`.
    pub fn is_of(&self, place: usize) -> bool {
        usize::try_from(self.column) == Ok(place)
    }

    /// Of a gauge: the most at a time.
    pub fn peak(&self) -> Option<u64> {
        self.more.as_ref()?.peak
    }

    /// Of a histogram.
    pub fn histogram(&self) -> Option<&Histogram> {
        self.more.as_ref()?.histogram.as_ref()
    }
}

/// `labels` as people read them; empty if there are none.
pub fn label_text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(" ")
}
