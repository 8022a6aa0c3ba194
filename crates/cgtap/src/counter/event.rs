//! The perf events that can be counted: one table, with the names that perf has for them.

use std::fmt;
use std::str::FromStr;

use crate::kernel::tracepoint::hint;

/// Events that one call counts at the most: the program reads all of them at a switch, with
/// interrupts off.
pub const EVENTS_MAX: usize = 32;

/// What a count is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Occurrences.
    Count,
    /// Nanoseconds.
    Ns,
}

/// `perf_event_attr.type` (include/uapi/linux/perf_event.h), the ones counted here.
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

/// How a counter stands to the `sched_switch` tracepoint at which it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtSwitch {
    /// What it says there is what the task that leaves has done.
    Counted,
    /// The kernel counts this very switch only after the tracepoint, for the task that leaves
    /// (include/linux/perf_event.h, `perf_event_task_sched_out`): one more is its due.
    OneMore,
    /// The switch between cgroups is the event: the program counts it itself, without a perf event.
    Itself,
}

/// A row of the table.
#[derive(Debug)]
struct Known {
    name: &'static str,
    alias: Option<&'static str>,
    perf_type: PerfType,
    config: u64,
    unit: Unit,
    at_switch: AtSwitch,
}

const fn known(name: &'static str, alias: &'static str, perf_type: PerfType, config: u64) -> Known {
    Known {
        name,
        alias: if alias.is_empty() { None } else { Some(alias) },
        perf_type,
        config,
        unit: Unit::Count,
        at_switch: AtSwitch::Counted,
    }
}

const fn hardware(name: &'static str, alias: &'static str, config: u64) -> Known {
    known(name, alias, PerfType::Hardware, config)
}

const fn software(name: &'static str, alias: &'static str, config: u64) -> Known {
    known(name, alias, PerfType::Software, config)
}

/// `enum perf_sw_ids` and `enum perf_hw_id`, under perf's names.
const TABLE: &[Known] = &[
    Known {
        at_switch: AtSwitch::OneMore,
        ..software("context-switches", "cs", 3)
    },
    software("page-faults", "faults", 2),
    software("minor-faults", "", 5),
    software("major-faults", "", 6),
    // Counted when the next task is in (`perf_event_task_sched_in`), so at its own next switch it
    // is among what it has done.
    software("cpu-migrations", "migrations", 4),
    Known {
        unit: Unit::Ns,
        ..software("task-clock", "", 1)
    },
    Known {
        unit: Unit::Ns,
        ..software("cpu-clock", "", 0)
    },
    software("alignment-faults", "", 7),
    software("emulation-faults", "", 8),
    Known {
        at_switch: AtSwitch::Itself,
        ..software("cgroup-switches", "", 11)
    },
    hardware("cycles", "cpu-cycles", 0),
    hardware("instructions", "", 1),
    hardware("cache-references", "", 2),
    hardware("cache-misses", "", 3),
    hardware("branches", "branch-instructions", 4),
    hardware("branch-misses", "", 5),
    hardware("bus-cycles", "", 6),
    hardware("stalled-cycles-frontend", "idle-cycles-frontend", 7),
    hardware("stalled-cycles-backend", "idle-cycles-backend", 8),
    hardware("ref-cycles", "", 9),
];

/// An event to count. Displays as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterEvent {
    written: String,
    perf_type: PerfType,
    config: u64,
    unit: Unit,
    at_switch: AtSwitch,
}

impl CounterEvent {
    /// `perf_event_attr.type`.
    #[must_use]
    pub fn perf_type(&self) -> PerfType {
        self.perf_type
    }

    /// `perf_event_attr.config`.
    #[must_use]
    pub fn config(&self) -> u64 {
        self.config
    }

    /// What its count is of.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// How it stands to the switch at which it is read.
    #[must_use]
    pub fn at_switch(&self) -> AtSwitch {
        self.at_switch
    }

    /// Whether it takes one of the few counters of the CPU, which the kernel shares by turns.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        self.perf_type != PerfType::Software
    }
}

impl fmt::Display for CounterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Why a word, or a list of them, cannot be counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Nothing between two commas, or nothing at all.
    #[error("an event has a name; write for example context-switches,task-clock")]
    Empty,
    /// No event of this name.
    #[error("`{text}` is no event{hint}")]
    Unknown {
        /// What was given.
        text: String,
        /// `; did you mean ...`, or what there is.
        hint: String,
    },
    /// `cycles:u` and the like.
    #[error(
        "`{text}` has a modifier; events are counted in user space and kernel alike, write `{name}`"
    )]
    Modifier {
        /// What was given.
        text: String,
        /// The event alone.
        name: String,
    },
    /// One event under two names, or twice.
    #[error("`{first}` and `{second}` are the same event; name it once")]
    Twice {
        /// Its first name.
        first: String,
        /// Its second one.
        second: String,
    },
    /// More than the program reads.
    #[error("{count} perf events are too many: at the most {EVENTS_MAX} are counted in one call")]
    TooMany {
        /// How many were asked for.
        count: usize,
    },
}

/// What to write instead of a word that is no event.
fn instead(text: &str) -> String {
    let names: Vec<String> = TABLE
        .iter()
        .flat_map(|k| std::iter::once(k.name).chain(k.alias))
        .map(str::to_owned)
        .collect();
    let near = hint(text, &names);
    if near.is_empty() {
        let names: Vec<&str> = TABLE.iter().map(|k| k.name).collect();
        format!(
            "; write a hook such as tracepoint:sched/sched_switch, rNNN for a raw event, or one of {}",
            names.join(", ")
        )
    } else {
        near
    }
}

/// The number of perf's `rNNN`: hexadecimal, as the CPU's manual has it.
fn raw(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('r')?;
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

fn look_up(text: &str) -> Option<CounterEvent> {
    let known = TABLE
        .iter()
        .find(|k| k.name == text || k.alias == Some(text));
    let written = text.to_owned();
    match known {
        Some(known) => Some(CounterEvent {
            written,
            perf_type: known.perf_type,
            config: known.config,
            unit: known.unit,
            at_switch: known.at_switch,
        }),
        None => raw(text).map(|config| CounterEvent {
            written,
            perf_type: PerfType::Raw,
            config,
            unit: Unit::Count,
            at_switch: AtSwitch::Counted,
        }),
    }
}

impl FromStr for CounterEvent {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        if text.is_empty() {
            return Err(EventError::Empty);
        }
        if let Some(event) = look_up(text) {
            return Ok(event);
        }
        if let Some((name, _)) = text.split_once(':')
            && look_up(name).is_some()
        {
            return Err(EventError::Modifier {
                text: text.to_owned(),
                name: name.to_owned(),
            });
        }
        Err(EventError::Unknown {
            text: text.to_owned(),
            hint: instead(text),
        })
    }
}

/// Whether these can be counted together.
///
/// # Errors
/// [`EventError::Twice`], [`EventError::TooMany`].
pub fn check<'a>(events: impl IntoIterator<Item = &'a CounterEvent>) -> Result<(), EventError> {
    let events: Vec<_> = events.into_iter().collect();
    for (at, event) in events.iter().enumerate() {
        let key = (event.perf_type, event.config);
        if let Some(first) = events[..at].iter().find(|e| (e.perf_type, e.config) == key) {
            return Err(EventError::Twice {
                first: first.written.clone(),
                second: event.written.clone(),
            });
        }
    }
    if events.len() > EVENTS_MAX {
        return Err(EventError::TooMany {
            count: events.len(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> CounterEvent {
        text.parse().unwrap()
    }

    fn message(text: &str) -> String {
        text.parse::<CounterEvent>().unwrap_err().to_string()
    }

    #[test]
    fn both_names_mean_one_event_and_are_shown_as_written() {
        for (name, alias) in [
            ("context-switches", "cs"),
            ("page-faults", "faults"),
            ("cpu-migrations", "migrations"),
            ("cycles", "cpu-cycles"),
            ("branches", "branch-instructions"),
        ] {
            let (long, short) = (event(name), event(alias));
            assert_eq!(
                (long.perf_type(), long.config()),
                (short.perf_type(), short.config())
            );
            assert_eq!(
                (long.to_string(), short.to_string()),
                (name.into(), alias.into())
            );
        }
    }

    #[test]
    fn the_table_has_each_event_and_each_name_once() {
        let names: Vec<&str> = TABLE
            .iter()
            .flat_map(|k| std::iter::once(k.name).chain(k.alias))
            .collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        let events: Vec<CounterEvent> = TABLE.iter().map(|k| event(k.name)).collect();
        assert_eq!(check(&events), Ok(()));
    }

    #[test]
    fn times_are_in_nanoseconds_and_the_rest_are_counts() {
        for known in TABLE {
            let is_time = known.name.ends_with("-clock");
            assert_eq!(known.unit == Unit::Ns, is_time, "{}", known.name);
        }
    }

    #[test]
    fn raw_events_are_hexadecimal() {
        let raw = event("r1a8");
        assert_eq!((raw.perf_type(), raw.config()), (PerfType::Raw, 0x1a8));
        assert!(raw.is_hardware());
        // A name wins over a number.
        assert_eq!(event("ref-cycles").perf_type(), PerfType::Hardware);
        for text in ["r", "rxyz", "r+1", "r11112222333344445"] {
            assert!(text.parse::<CounterEvent>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_event_is_said_with_near_names() {
        assert_eq!(
            message("contxt-switches"),
            "`contxt-switches` is no event; did you mean context-switches?"
        );
        assert!(message("page-fault").contains("page-faults"));
        assert!(message("zzz").contains("write a hook"));
        assert!(message("").starts_with("an event has a name"));
        assert!(message("cycles:u").contains("write `cycles`"));
    }

    #[test]
    fn a_list_names_each_event_once_and_not_too_many() {
        let list = |names: &[&str]| check(&names.iter().map(|n| event(n)).collect::<Vec<_>>());
        assert_eq!(list(&["cs", "faults"]), Ok(()));
        assert_eq!(
            list(&["cs", "faults", "context-switches"])
                .unwrap_err()
                .to_string(),
            "`cs` and `context-switches` are the same event; name it once"
        );
        let many: Vec<CounterEvent> = (0..=EVENTS_MAX)
            .map(|n| event(&format!("r{n:x}")))
            .collect();
        assert_eq!(check(&many[1..]), Ok(()));
        assert_eq!(
            check(&many).unwrap_err().to_string(),
            "33 perf events are too many: at the most 32 are counted in one call"
        );
    }
}
