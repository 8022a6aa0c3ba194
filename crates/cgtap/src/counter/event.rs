//! The perf events that can be counted: one table, with the names that perf has for them.

use std::fmt;
use std::str::FromStr;

use crate::kernel::perf_event::{PERF_EVENTS, PerfEvent, PerfType};
use crate::near::hint;

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

impl AtSwitch {
    /// Of the event with this common name.
    fn of(name: &str) -> Self {
        match name {
            "context-switches" => Self::OneMore,
            "cgroup-switches" => Self::Itself,
            // cpu-migrations are counted when the next task is in (`perf_event_task_sched_in`), so
            // at its own next switch they are among what it has done.
            _ => Self::Counted,
        }
    }
}

/// An event to count. Displays as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterEvent {
    written: String,
    event: PerfEvent,
}

impl CounterEvent {
    /// `perf_event_attr.type`.
    #[must_use]
    pub fn perf_type(&self) -> PerfType {
        self.event.perf_type
    }

    /// `perf_event_attr.config`.
    #[must_use]
    pub fn config(&self) -> u64 {
        self.event.config
    }

    /// What its count is of.
    #[must_use]
    pub fn unit(&self) -> Unit {
        match self.event.names {
            ["task-clock" | "cpu-clock", ..] => Unit::Ns,
            _ => Unit::Count,
        }
    }

    /// How it stands to the switch at which it is read.
    #[must_use]
    pub fn at_switch(&self) -> AtSwitch {
        AtSwitch::of(self.event.names.first().unwrap_or(&""))
    }

    /// Whether it takes one of the few counters of the CPU, which the kernel shares by turns.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        self.event.is_hardware()
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
    let names = PerfEvent::all_names();
    let near = hint(text, &names);
    if near.is_empty() {
        let names: Vec<&str> =
            (PERF_EVENTS.iter().filter_map(|e| e.names.first().copied())).collect();
        format!(
            "; write a hook such as tracepoint:sched/sched_switch, rNNN for a raw event, or one of {}",
            names.join(", ")
        )
    } else {
        near
    }
}

fn look_up(text: &str) -> Option<CounterEvent> {
    PerfEvent::find(text).map(|event| CounterEvent {
        written: text.to_owned(),
        event,
    })
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
        let key = (event.perf_type(), event.config());
        if let Some(first) = events[..at]
            .iter()
            .find(|e| (e.perf_type(), e.config()) == key)
        {
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
    fn the_whole_table_can_be_counted_times_in_nanoseconds() {
        let events: Vec<CounterEvent> = PERF_EVENTS[..].iter().map(|e| event(e.names[0])).collect();
        assert_eq!(check(&events), Ok(()));
        for event in events {
            let is_time = event.to_string().ends_with("-clock");
            assert_eq!(event.unit() == Unit::Ns, is_time, "{event}");
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
