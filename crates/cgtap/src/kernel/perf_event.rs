//! The perf events that have a name (include/uapi/linux/perf_event.h, `enum perf_sw_ids` and
//! `enum perf_hw_id`; the names are those of the perf tool).

use cgtap_sys::perf::Sampling;

/// `PERF_TYPE_HARDWARE`.
const HARDWARE: u32 = 0;
/// `PERF_TYPE_SOFTWARE`.
const SOFTWARE: u32 = 1;
/// `PERF_TYPE_RAW`.
const RAW: u32 = 4;

/// A counter of the processor or of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerfEvent {
    /// Its names, the common one first.
    pub names: &'static [&'static str],
    /// `perf_event_attr.type`.
    pub kind: u32,
    /// `perf_event_attr.config`.
    pub config: u64,
    /// How often it is sampled unless something else is asked for: each of what is rare, 99 times
    /// a second of what is not.
    pub usual: Sampling,
}

const EACH: Sampling = Sampling::Period(1);
const OFTEN: Sampling = Sampling::FrequencyHz(99);

const fn event(
    names: &'static [&'static str],
    kind: u32,
    config: u64,
    usual: Sampling,
) -> PerfEvent {
    PerfEvent {
        names,
        kind,
        config,
        usual,
    }
}

/// All of them.
pub const PERF_EVENTS: &[PerfEvent] = &[
    event(&["cpu-clock"], SOFTWARE, 0, OFTEN),
    event(&["task-clock"], SOFTWARE, 1, OFTEN),
    event(&["page-faults", "faults"], SOFTWARE, 2, EACH),
    event(&["context-switches", "cs"], SOFTWARE, 3, EACH),
    event(&["cpu-migrations", "migrations"], SOFTWARE, 4, EACH),
    event(&["minor-faults"], SOFTWARE, 5, EACH),
    event(&["major-faults"], SOFTWARE, 6, EACH),
    event(&["alignment-faults"], SOFTWARE, 7, EACH),
    event(&["emulation-faults"], SOFTWARE, 8, EACH),
    event(&["cycles", "cpu-cycles"], HARDWARE, 0, OFTEN),
    event(&["instructions"], HARDWARE, 1, OFTEN),
    event(&["cache-references"], HARDWARE, 2, OFTEN),
    event(&["cache-misses"], HARDWARE, 3, OFTEN),
    event(&["branches", "branch-instructions"], HARDWARE, 4, OFTEN),
    event(&["branch-misses"], HARDWARE, 5, OFTEN),
    event(&["bus-cycles"], HARDWARE, 6, OFTEN),
    event(&["stalled-cycles-frontend"], HARDWARE, 7, OFTEN),
    event(&["stalled-cycles-backend"], HARDWARE, 8, OFTEN),
    event(&["ref-cycles"], HARDWARE, 9, OFTEN),
];

impl PerfEvent {
    /// The event of this name, or `rNNN` with the processor's own number in hexadecimal.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        if let Some(known) = PERF_EVENTS.iter().find(|e| e.names.contains(&name)) {
            return Some(*known);
        }
        let config = u64::from_str_radix(name.strip_prefix('r')?, 16).ok()?;
        Some(event(&["raw"], RAW, config, OFTEN))
    }

    /// It is counted by the processor, not by the kernel.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        self.kind != SOFTWARE
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
        assert_eq!(PerfEvent::find("cykles"), None);
        assert_eq!(PerfEvent::find("refs"), None);
    }
}
