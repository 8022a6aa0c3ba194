//! The perf events that have a name (include/uapi/linux/perf_event.h, `enum perf_sw_ids` and
//! `enum perf_hw_id`; the names are those of the perf tool).

use cgtap_sys::perf::Sampling;

/// `perf_event_attr.type` (include/uapi/linux/perf_event.h), those that have names here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PerfType {
    /// `PERF_TYPE_HARDWARE`.
    Hardware = 0,
    /// `PERF_TYPE_SOFTWARE`.
    Software = 1,
    /// `PERF_TYPE_RAW`.
    Raw = 4,
}

/// A counter of the processor or of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerfEvent {
    /// Its names, the common one first.
    pub names: &'static [&'static str],
    /// `perf_event_attr.type`.
    pub perf_type: PerfType,
    /// `perf_event_attr.config`.
    pub config: u64,
    /// How often it is sampled unless something else is asked for: each of what is rare, 99 times
    /// a second of what is not.
    pub usual: Sampling,
}

const EACH: Sampling = Sampling::Period(1);
const OFTEN: Sampling = Sampling::FrequencyHz(99);

const fn software(names: &'static [&'static str], config: u64, usual: Sampling) -> PerfEvent {
    PerfEvent {
        names,
        perf_type: PerfType::Software,
        config,
        usual,
    }
}

const fn hardware(names: &'static [&'static str], config: u64) -> PerfEvent {
    PerfEvent {
        names,
        perf_type: PerfType::Hardware,
        config,
        usual: OFTEN,
    }
}

/// All of them.
pub const PERF_EVENTS: &[PerfEvent] = &[
    software(&["context-switches", "cs"], 3, EACH),
    software(&["page-faults", "faults"], 2, EACH),
    software(&["minor-faults"], 5, EACH),
    software(&["major-faults"], 6, EACH),
    software(&["cpu-migrations", "migrations"], 4, EACH),
    software(&["task-clock"], 1, OFTEN),
    software(&["cpu-clock"], 0, OFTEN),
    software(&["alignment-faults"], 7, EACH),
    software(&["emulation-faults"], 8, EACH),
    software(&["cgroup-switches"], 11, EACH),
    hardware(&["cycles", "cpu-cycles"], 0),
    hardware(&["instructions"], 1),
    hardware(&["cache-references"], 2),
    hardware(&["cache-misses"], 3),
    hardware(&["branches", "branch-instructions"], 4),
    hardware(&["branch-misses"], 5),
    hardware(&["bus-cycles"], 6),
    hardware(&["stalled-cycles-frontend", "idle-cycles-frontend"], 7),
    hardware(&["stalled-cycles-backend", "idle-cycles-backend"], 8),
    hardware(&["ref-cycles"], 9),
];

impl PerfEvent {
    /// The event of this name, or `rNNN` with the processor's own number in hexadecimal.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        if let Some(known) = PERF_EVENTS.iter().find(|e| e.names.contains(&name)) {
            return Some(*known);
        }
        let digits = name.strip_prefix('r').filter(|d| !d.starts_with('+'))?;
        Some(Self {
            names: &["raw"],
            perf_type: PerfType::Raw,
            config: u64::from_str_radix(digits, 16).ok()?,
            usual: OFTEN,
        })
    }

    /// Every name there is.
    #[must_use]
    pub fn all_names() -> Vec<String> {
        let names = PERF_EVENTS.iter().flat_map(|e| e.names);
        names.map(|name| (*name).to_owned()).collect()
    }

    /// It is counted by the processor, not by the kernel.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        self.perf_type != PerfType::Software
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_by_any_of_their_names() {
        assert_eq!(PerfEvent::find("cs"), PerfEvent::find("context-switches"));
        assert_eq!(PerfEvent::find("cycles").unwrap().config, 0);
        assert!(PerfEvent::find("cycles").unwrap().is_hardware());
        assert_eq!(PerfEvent::find("r1a8").unwrap().config, 0x1a8);
        // A name wins over a number.
        let cycles = PerfEvent::find("ref-cycles").unwrap();
        assert_eq!(cycles.perf_type, PerfType::Hardware);
        for text in ["cykles", "refs", "r", "r+1", "r11112222333344445"] {
            assert_eq!(PerfEvent::find(text), None, "{text}");
        }
    }

    #[test]
    fn the_table_has_each_event_and_each_name_once() {
        let names = PerfEvent::all_names();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        for (at, event) in PERF_EVENTS.iter().enumerate() {
            let key = (event.perf_type, event.config);
            let mut before = PERF_EVENTS[..at].iter().map(|e| (e.perf_type, e.config));
            assert!(before.all(|k| k != key), "{event:?}");
        }
    }
}
