//! What meters counted, as it is shown: one definition for the library, tables, JSON and metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{CgroupId, InstanceId};

/// Buckets of a histogram: bucket `n` counts values from 2^n up to, not including, 2^(n+1); bucket 0
/// counts 0 too.
pub const BUCKETS: usize = 64;

/// How true a value is.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Truth {
    /// What the kernel did, each event of it.
    #[default]
    Measured,
    /// Worked out from samples.
    Estimate,
    /// Something else that goes along with it.
    Proxy,
}

/// What a value is of.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Occurrences: operations, jobs, faults.
    #[default]
    Count,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Ns,
}

/// What is done with what a probe measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Events are counted.
    Count,
    /// Numbers are added up.
    Sum,
    /// Numbers are counted by their size, in powers of two, and added up.
    Hist,
    /// Time that a serial resource worked.
    Busy,
    /// What is held now, with the most that was held at a time.
    Gauge,
}

impl Form {
    /// It never falls.
    #[must_use]
    pub fn is_counter(self) -> bool {
        self != Self::Gauge
    }
}

impl Unit {
    /// The word that stands for it in JSON and tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Ns => "ns",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

macro_rules! lower_case {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&format!("{self:?}").to_lowercase())
            }
        }
    )*};
}
lower_case!(Truth, Form);

/// What was used, cgroup by cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsageReport {
    /// One row a cgroup, each before those below it.
    pub cgroups: Vec<UsageRow>,
    /// Events that were not charged: a map was full, a dispatcher was busy.
    pub lost: u64,
    /// Events that are nobody's: a NULL on the way to the cgroup, a cgroup of another hierarchy.
    pub unowned: u64,
    /// Events whose note was not there: begun before the meter was enabled, never noted, or gone to
    /// make room for newer ones.
    pub unpaired: u64,
    /// Events charged to the labels `other`, because there were too many.
    pub other_labels: u64,
    /// What could not be read of meters that read, and files that meters do not stand in, in words.
    pub unread: Vec<String>,
    /// Of [`lost`](Self::lost), what each meter and each hook lost, by what they are while they are there.
    #[serde(skip)]
    pub losses: BTreeMap<Loser, u64>,
    /// What each value tells, by its name, in a sentence.
    #[serde(skip)]
    pub help: BTreeMap<Arc<str>, String>,
}

/// Who counts losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loser {
    /// The maps of a meter.
    Meter(InstanceId),
    /// The dispatcher of a hook where meters count.
    Hook(u32),
}

/// What one cgroup used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageRow {
    /// Path of the cgroup below the cgroup root, with a leading slash.
    pub cgroup: String,
    /// What it is called, if it is a container, pod or unit: `container:web`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The image that it was made of, if it is a container whose runtime says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its id.
    pub cgroup_id: CgroupId,
    /// One entry a value and labels, in the order of the meters' names.
    pub meters: Vec<UsageValue>,
}

/// One value with its labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageValue {
    /// Meter and value, `block_bytes`.
    pub meter: Arc<str>,
    /// How true it is.
    pub kind: Truth,
    /// What it is of.
    pub unit: Unit,
    /// What is done with it.
    pub form: Form,
    /// What it is split by. Rows share them: there are many with few.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Used by the cgroup itself, and by those below it that are gone. Of a histogram, the sum of the
    /// numbers; of a gauge, what is held now.
    pub own: u64,
    /// Used by it and all below it.
    pub total: u64,
    /// Of a gauge: the most that the cgroup itself held at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// Of a histogram.
    #[serde(flatten)]
    pub histogram: Option<Histogram>,
}

/// Numbers by their size, see [`BUCKETS`]; without the empty buckets at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Histogram {
    /// Of the cgroup itself.
    pub own_buckets: Vec<u64>,
    /// Of it and all below it.
    pub total_buckets: Vec<u64>,
}
