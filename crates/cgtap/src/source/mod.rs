//! Figures that no hook shows: read of each client of a device, and what is new in them.
//!
//! What is read ([`Reading`]) says how much each client has used so far. [`feed`] knows what was read
//! last, and says who is to be charged how much.

pub mod fdinfo;
pub mod feed;
pub mod nvml;
pub mod proc;

use std::path::Path;

use self::fdinfo::{Engine, Region};
use self::proc::{OpenFile, Scan};
use crate::id::CgroupId;
use crate::meter::shape::client::{IDENTITY, KEY_WORDS};
use crate::meter::source::Source;
use crate::meter::text::{self, TEXT_WORDS};

/// Who used what: words that tell clients apart, then those of the labels, then zeros.
pub type Key = [u64; KEY_WORDS];

/// First word of the key of a device itself: no client has it.
pub const DEVICE: u64 = u64::MAX;

/// What was read of one client, under one set of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The client and the labels.
    pub key: Key,
    /// Of several processes that have the same client, the one with the highest is charged.
    pub rank: u64,
    /// The cgroup that is charged; `CgroupId(0)` for one that is not counted.
    pub cgroup: CgroupId,
    /// One a value.
    pub samples: Vec<Sample>,
}

/// What was read of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// The source has nothing of it.
    None,
    /// So much, ever.
    Counter(u64),
    /// So many cycles ever, while the device's clock went on so far.
    Cycles {
        /// Of this client.
        used: u64,
        /// Of the device.
        whole: u64,
    },
    /// So much now.
    Held(u64),
    /// Such a share of the time since the last sample.
    Rate {
        /// Parts in ten thousand.
        share: u64,
        /// When the sample was taken, in nanoseconds by the source's clock.
        at_ns: u64,
        /// From when on it counts for a client of which there was no sample before, by that clock.
        since_ns: u64,
    },
}

/// A key of a client's words and texts for its labels.
#[must_use]
pub fn key(identity: [u64; IDENTITY], labels: &[&str]) -> Key {
    let mut key = [0; KEY_WORDS];
    key[..IDENTITY].copy_from_slice(&identity);
    for (text, words) in labels
        .iter()
        .zip(key[IDENTITY..].chunks_exact_mut(TEXT_WORDS))
    {
        words.copy_from_slice(&text::words(text));
    }
    key
}

/// What open files tell of `values`, charged to the cgroups that `cgroup` finds by their paths.
#[must_use]
pub fn fdinfo_readings(
    scan: &Scan,
    source: Source,
    values: &[&str],
    mut cgroup: impl FnMut(&Path) -> CgroupId,
) -> Vec<Reading> {
    let mut readings = Vec::new();
    for file in &scan.files {
        let cgroup = cgroup(&file.cgroup);
        let mut read = |label: &str, sample: &dyn Fn(&str) -> Sample| {
            readings.push(Reading {
                key: file_key(file, label),
                rank: file.started,
                cgroup,
                samples: values.iter().map(|value| sample(value)).collect(),
            });
        };
        match source {
            Source::FdinfoEngines => {
                for (name, engine) in &file.client.engines {
                    read(name, &|value| of_engine(engine, value));
                }
            }
            Source::FdinfoMemory => {
                for (name, region) in &file.client.regions {
                    read(name, &|value| of_region(region, value));
                }
            }
            Source::Nvml => {}
        }
    }
    readings
}

fn file_key(file: &OpenFile, label: &str) -> Key {
    let id = file.client.id.unwrap_or_default();
    key([id, file.device], &[file.client.device(), label])
}

fn of_engine(engine: &Engine, value: &str) -> Sample {
    match (value, engine) {
        (
            "busy",
            Engine {
                busy_ns: Some(ns), ..
            },
        ) => Sample::Counter(*ns),
        (
            "busy",
            Engine {
                cycles: Some(used),
                total_cycles: Some(whole),
                ..
            },
        ) => Sample::Cycles {
            used: *used,
            whole: *whole,
        },
        ("cycles", _) => engine.cycles.map_or(Sample::None, Sample::Counter),
        _ => Sample::None,
    }
}

fn of_region(region: &Region, value: &str) -> Sample {
    let number = match value {
        "allocated" => region.total_bytes,
        "shared" => region.shared_bytes,
        "resident" => region.resident_bytes.or(region.memory_bytes),
        _ => None,
    };
    number.map_or(Sample::None, Sample::Held)
}
