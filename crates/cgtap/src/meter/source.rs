//! What meters read instead of counting: figures that drivers and libraries keep for each process, which
//! no hook shows. Which values and labels each source has, once, for files, records and readers.

use serde::{Deserialize, Serialize};

use super::usage::{Form, Unit};

/// Where a meter without probes has its figures from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Engines of GPUs, as drivers tell of each open file (`/proc/PID/fdinfo`, `drm-engine-*` and
    /// `drm-cycles-*`).
    FdinfoEngines,
    /// Memory of GPUs, as drivers tell of each open file (`/proc/PID/fdinfo`, `drm-resident-*`,
    /// `drm-total-*`, `drm-shared-*`, `drm-memory-*`).
    FdinfoMemory,
    /// Processes on NVIDIA's GPUs, as the library NVML tells of them.
    Nvml,
}

/// A value that a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceValue {
    /// What files call it.
    pub name: &'static str,
    /// What is done with what is read: added to the sum, or held now.
    pub form: Form,
    /// What it is of.
    pub unit: Unit,
}

const fn value(name: &'static str, form: Form, unit: Unit) -> SourceValue {
    SourceValue { name, form, unit }
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::FdinfoEngines, Self::FdinfoMemory, Self::Nvml];

    /// The values that it has; readings have them in this order.
    #[must_use]
    pub const fn values(self) -> &'static [SourceValue] {
        const ENGINES: &[SourceValue] = &[
            value("busy", Form::Sum, Unit::Ns),
            value("cycles", Form::Sum, Unit::Count),
        ];
        const MEMORY: &[SourceValue] = &[
            value("allocated", Form::Gauge, Unit::Bytes),
            value("resident", Form::Gauge, Unit::Bytes),
            value("shared", Form::Gauge, Unit::Bytes),
        ];
        const NVML: &[SourceValue] = &[
            value("busy", Form::Sum, Unit::Ns),
            value("memory", Form::Gauge, Unit::Bytes),
        ];
        match self {
            Self::FdinfoEngines => ENGINES,
            Self::FdinfoMemory => MEMORY,
            Self::Nvml => NVML,
        }
    }

    /// The labels that it has, all of them texts, in the order of their names, which is that of keys.
    #[must_use]
    pub const fn labels(self) -> &'static [&'static str] {
        match self {
            Self::FdinfoEngines => &["dev", "engine"],
            Self::FdinfoMemory => &["dev", "region"],
            Self::Nvml => &["dev"],
        }
    }

    /// What is read, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::FdinfoEngines => {
                "what drivers tell of each open file of a GPU: `drm-engine-*` and `drm-cycles-*` in \
                 `/proc/PID/fdinfo`"
            }
            Self::FdinfoMemory => {
                "what drivers tell of each open file of a GPU: `drm-resident-*`, `drm-total-*`, \
                 `drm-shared-*` and `drm-memory-*` in `/proc/PID/fdinfo`"
            }
            Self::Nvml => "what NVIDIA's library NVML (`libnvidia-ml.so.1`) tells of each process",
        }
    }

    /// The word that files have for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::FdinfoEngines => "fdinfo_engines",
            Self::FdinfoMemory => "fdinfo_memory",
            Self::Nvml => "nvml",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_labels_are_in_the_order_of_their_names() {
        for source in Source::ALL {
            assert!(source.labels().is_sorted(), "{source:?}");
            assert!(source.values().is_sorted_by_key(|v| v.name), "{source:?}");
            let word = serde_json::to_value(source).unwrap();
            assert_eq!(word, source.word());
        }
    }
}
