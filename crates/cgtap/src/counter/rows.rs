//! Rows of counts, one a cgroup: where the words of an event lie in them, and how they add up.

use super::event::{AtSwitch, CounterEvent, Unit};
use crate::id::CgroupId;

/// The row of what runs in no counted cgroup. It is written like any other and never shown.
pub const OUTSIDE: usize = 0;

/// Where an event's words lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First word of the event in a row: its count, and for a hardware event behind it the time
    /// enabled and the time running.
    pub word: usize,
    /// Whether the times are kept too: only what takes turns on the CPU's counters has any.
    pub has_times: bool,
    /// How it stands to a switch.
    pub at_switch: AtSwitch,
    /// The unit of its count.
    pub unit: Unit,
}

/// The layout of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Each event, in the order asked for.
    pub places: Vec<Place>,
    /// Words of a row.
    pub words: usize,
}

impl Plan {
    /// The layout for these events.
    #[must_use]
    pub fn of(events: &[CounterEvent]) -> Self {
        let mut words = 0;
        let place = |event: &CounterEvent| {
            let has_times = event.is_hardware();
            let place = Place {
                word: words,
                has_times,
                at_switch: event.at_switch(),
                unit: event.unit(),
            };
            words += if has_times { 3 } else { 1 };
            place
        };
        let places = events.iter().map(place).collect();
        Self { places, words }
    }
}

/// What an event came to, in one cgroup or in several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// As counted.
    pub count: u64,
    /// For how long it was asked for, in nanoseconds; 0 for a software event.
    pub enabled_ns: u64,
    /// For how much of that it had a counter of the CPU.
    pub running_ns: u64,
}

impl Value {
    /// What the count would have come to with a counter all the time, and whether that is an
    /// estimate; as perf has it.
    #[must_use]
    pub fn scaled(self) -> (u64, bool) {
        if self.running_ns >= self.enabled_ns {
            return (self.count, false);
        }
        if self.running_ns == 0 {
            return (0, true);
        }
        let whole =
            u128::from(self.count) * u128::from(self.enabled_ns) / u128::from(self.running_ns);
        (u64::try_from(whole).unwrap_or(u64::MAX), true)
    }

    fn add(&mut self, other: Self) {
        // A counter of the kernel wraps too; nothing here may end the count.
        self.count = self.count.wrapping_add(other.count);
        self.enabled_ns = self.enabled_ns.wrapping_add(other.enabled_ns);
        self.running_ns = self.running_ns.wrapping_add(other.running_ns);
    }
}

/// A cgroup's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The cgroup; 0 for a row that was taken and not used.
    pub id: CgroupId,
    /// The row of the nearest counted cgroup above it.
    pub parent: usize,
    /// What each event came to in this row alone.
    pub own: Vec<Value>,
}

/// The values of a row, from the words of each CPU one after the other.
#[must_use]
pub fn decode(plan: &Plan, bytes: &[u8]) -> Vec<Value> {
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|word| word.try_into().map(u64::from_ne_bytes).unwrap_or_default())
        .collect();
    let mut values = vec![Value::default(); plan.places.len()];
    for cpu in words.chunks_exact(plan.words.max(1)) {
        for (value, place) in values.iter_mut().zip(&plan.places) {
            let time = |at: usize| {
                if place.has_times {
                    cpu[place.word + at]
                } else {
                    0
                }
            };
            value.add(Value {
                count: cpu[place.word],
                enabled_ns: time(1),
                running_ns: time(2),
            });
        }
    }
    for value in &mut values {
        // Of a CPU that went, a switch counts one more than its counter ever will.
        value.count = value.count.cast_signed().max(0).cast_unsigned();
    }
    values
}

/// What each row comes to with all below it. A cgroup that is gone is still in the totals of those
/// above it: its row says where it stood.
#[must_use]
pub fn totals(rows: &[Row]) -> Vec<Vec<Value>> {
    let mut totals: Vec<Vec<Value>> = rows.iter().map(|row| row.own.clone()).collect();
    // A cgroup gets its row after the one above it, so from the last to the first each is complete
    // when it is added.
    for (at, row) in rows.iter().enumerate().rev() {
        if at == OUTSIDE || row.parent >= at {
            continue;
        }
        let (above, below) = totals.split_at_mut(at);
        for (sum, more) in above[row.parent].iter_mut().zip(&below[0]) {
            sum.add(*more);
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(names: &[&str]) -> Plan {
        let events: Vec<CounterEvent> = names.iter().map(|n| n.parse().unwrap()).collect();
        Plan::of(&events)
    }

    fn count(count: u64) -> Value {
        Value {
            count,
            ..Value::default()
        }
    }

    #[test]
    fn hardware_events_keep_their_times_and_software_ones_do_not() {
        let plan = plan(&["cs", "cycles", "faults"]);
        let words: Vec<usize> = plan.places.iter().map(|p| p.word).collect();
        assert_eq!((words, plan.words), (vec![0, 1, 4], 5));
    }

    #[test]
    fn the_cpus_of_a_row_add_up() {
        let plan = plan(&["cs", "cycles"]);
        let words = [1u64, 10, 100, 50, 2, 20, 100, 50];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let cycles = Value {
            count: 30,
            enabled_ns: 200,
            running_ns: 100,
        };
        assert_eq!(decode(&plan, &bytes), [count(3), cycles]);
        assert_eq!(cycles.scaled(), (60, true));
    }

    #[test]
    fn a_count_is_scaled_only_where_the_counter_was_shared() {
        let value = |enabled_ns, running_ns| Value {
            count: 1000,
            enabled_ns,
            running_ns,
        };
        assert_eq!(value(0, 0).scaled(), (1000, false));
        assert_eq!(value(7, 7).scaled(), (1000, false));
        assert_eq!(value(3, 2).scaled(), (1500, true));
        assert_eq!(value(3, 0).scaled(), (0, true));
    }

    #[test]
    fn totals_are_own_and_all_below_also_of_those_that_are_gone() {
        // outside; a; a/x; b; a/x/gone; a row that was taken and not used.
        let row = |id, parent, own| Row {
            id: CgroupId(id),
            parent,
            own: vec![count(own)],
        };
        let rows = [
            row(0, 0, 1000),
            row(10, OUTSIDE, 1),
            row(11, 1, 2),
            row(12, OUTSIDE, 4),
            row(13, 2, 8),
            row(0, 0, 0),
        ];
        let totals: Vec<u64> = totals(&rows).iter().map(|t| t[0].count).collect();
        assert_eq!(totals[1..], [11, 10, 4, 8, 0]);
    }
}
