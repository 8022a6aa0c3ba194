//! Readings of made-up clients, against what they truly used.

use proptest::prelude::*;

use super::*;
use crate::source::key;

const FORMS: [Form; 2] = [Form::Sum, Form::Gauge];

fn terms(now_ns: u64, is_first: bool) -> Terms<'static> {
    Terms {
        label_words: 4,
        forms: &FORMS,
        room: 8,
        now_ns,
        is_first,
        is_whole: true,
    }
}

fn reading(id: u64, cgroup: u64, samples: [Sample; 2]) -> Reading {
    Reading {
        key: key([id, 7], &["dev", "gfx"]),
        rank: 0,
        cgroup: CgroupId(cgroup),
        samples: samples.to_vec(),
    }
}

fn used(id: u64, cgroup: u64, ns: u64, bytes: u64) -> Reading {
    reading(id, cgroup, [Sample::Counter(ns), Sample::Held(bytes)])
}

/// What is remembered from reading to reading, and what each cgroup comes to.
#[derive(Default)]
struct Machine {
    known: BTreeMap<Key, Known>,
    totals: BTreeMap<u64, [i128; 2]>,
    lost: u64,
    readings: u64,
}

impl Machine {
    fn read(&mut self, readings: Vec<Reading>) -> Fed {
        self.read_of(readings, true)
    }

    fn read_of(&mut self, readings: Vec<Reading>, is_whole: bool) -> Fed {
        self.readings += 1;
        let terms = Terms {
            is_whole,
            ..terms(self.readings * 1_000, self.readings == 1)
        };
        let fed = feed(&self.known, readings, terms);
        for key in &fed.forgotten {
            assert!(self.known.remove(key).is_some());
        }
        for (key, known) in &fed.known {
            self.known.insert(*key, known.clone());
        }
        assert!(self.known.len() <= terms.room);
        for charge in &fed.charges {
            assert_ne!(charge.cgroup, CgroupId(0));
            assert_eq!(charge.labels, key([0; 2], &["dev", "gfx"])[2..6]);
            let totals = self.totals.entry(charge.cgroup.0).or_default();
            assert!(charge.amounts[0] < STEP_MAX, "{charge:?}");
            totals[0] += i128::from(charge.amounts[0]);
            totals[1] += i128::from(charge.amounts[1].cast_signed());
        }
        self.lost += fed.lost;
        fed
    }

    fn of(&self, cgroup: u64) -> [i128; 2] {
        self.totals.get(&cgroup).copied().unwrap_or_default()
    }
}

#[test]
fn who_was_not_seen_is_gone_only_where_all_could_be_seen() {
    let mut machine = Machine::default();
    machine.read(vec![used(1, 5, 0, 4_096), used(2, 5, 0, 512)]);
    machine.read_of(vec![used(2, 5, 0, 256)], false);
    assert_eq!(machine.of(5), [0, 4_352]);
    machine.read(vec![used(2, 5, 0, 256)]);
    assert_eq!(machine.of(5), [0, 256]);
    machine.read_of(vec![used(1, 5, 0, 64)], false);
    assert_eq!(machine.of(5), [0, 320]);
}

#[test]
fn what_was_used_before_the_first_reading_is_nobodys() {
    let mut machine = Machine::default();
    machine.read(vec![used(1, 5, 1_000, 4_096)]);
    // But what is held is held.
    assert_eq!(machine.of(5), [0, 4_096]);
    machine.read(vec![used(1, 5, 1_250, 4_096), used(2, 6, 70, 10)]);
    assert_eq!((machine.of(5), machine.of(6)), ([250, 4_096], [70, 10]));
}

#[test]
fn a_client_that_several_processes_have_counts_once_for_the_last_of_them() {
    let mut machine = Machine::default();
    machine.read(vec![]);
    let twice = vec![
        Reading {
            rank: 10,
            ..used(1, 5, 100, 64)
        },
        Reading {
            rank: 20,
            ..used(1, 6, 90, 64)
        },
        Reading {
            rank: 15,
            ..used(1, 7, 101, 64)
        },
    ];
    machine.read(twice);
    assert_eq!(machine.totals, BTreeMap::from([(6, [101, 64])]));
}

#[test]
fn a_client_that_moves_takes_along_what_it_holds_and_leaves_what_it_used() {
    let mut machine = Machine::default();
    machine.read(vec![]);
    machine.read(vec![used(1, 5, 100, 64)]);
    machine.read(vec![used(1, 6, 130, 60)]);
    assert_eq!((machine.of(5), machine.of(6)), ([100, 0], [30, 60]));
    // To where nothing is counted, and back.
    machine.read(vec![used(1, 0, 150, 61)]);
    machine.read(vec![used(1, 6, 155, 62)]);
    assert_eq!(machine.of(6), [35, 62]);
}

#[test]
fn a_counter_that_falls_is_waited_for() {
    let mut machine = Machine::default();
    machine.read(vec![]);
    for ns in [100, 40, 99, 100] {
        machine.read(vec![used(1, 5, ns, 0)]);
        assert_eq!(machine.of(5)[0], 100);
    }
    machine.read(vec![used(1, 5, 103, 0)]);
    assert_eq!(machine.of(5)[0], 103);
}

#[test]
fn a_client_that_was_away_is_not_new() {
    let mut machine = Machine::default();
    machine.read(vec![]);
    machine.read(vec![used(1, 5, 100, 64)]);
    machine.read(vec![]);
    assert_eq!(machine.of(5), [100, 0]);
    machine.read(vec![]);
    machine.read(vec![used(1, 5, 110, 32)]);
    assert_eq!(machine.of(5), [110, 32]);
}

#[test]
fn where_there_is_no_room_clients_are_lost_and_not_charged_twice() {
    let mut machine = Machine::default();
    machine.read(vec![]);
    let all = |ns: u64| (1..=10).map(|id| used(id, 5, ns, 0)).collect::<Vec<_>>();
    machine.read(all(10));
    assert_eq!((machine.of(5)[0], machine.lost), (80, 2));
    machine.read(all(11));
    assert_eq!((machine.of(5)[0], machine.lost), (88, 4));
    // Those that closed make room, and what they hold goes with them.
    machine.read(vec![used(9, 5, 20, 3), used(10, 5, 20, 4)]);
    assert_eq!((machine.of(5), machine.lost), ([128, 7], 4));
}

#[test]
fn junk_is_lost_and_nothing_else_suffers() {
    let mut machine = Machine::default();
    machine.read(vec![]);
    machine.read(vec![used(1, 5, 100, 64)]);
    machine.read(vec![used(1, 5, u64::MAX, 65)]);
    assert_eq!((machine.of(5), machine.lost), ([100, 65], 1));
    machine.read(vec![used(1, 5, 105, u64::MAX)]);
    assert_eq!((machine.of(5), machine.lost), ([105, 65], 2));
}

#[test]
fn cycles_are_as_long_as_the_devices_clock_says() {
    let cycles = |id, cgroup, used, whole| {
        reading(id, cgroup, [Sample::Cycles { used, whole }, Sample::None])
    };
    let mut machine = Machine::default();
    machine.read(vec![cycles(1, 5, 500, 10_000)]);
    // 1,000 ns later the clock has gone on by 2,000 cycles: each lasts half a nanosecond.
    machine.read(vec![cycles(1, 5, 900, 12_000), cycles(2, 6, 300, 11_990)]);
    assert_eq!((machine.of(5)[0], machine.of(6)[0]), (200, 150));
    // The first to be seen of a device: there is no clock yet, and they are charged the next time.
    let mut machine = Machine::default();
    machine.read(vec![]);
    machine.read(vec![cycles(1, 5, 500, 10_000)]);
    assert_eq!(machine.of(5)[0], 0);
    machine.read(vec![cycles(1, 5, 900, 11_000)]);
    assert_eq!(machine.of(5)[0], 900);
    // A clock that began anew tells nothing for once.
    machine.read(vec![cycles(1, 5, 1_000, 50)]);
    machine.read(vec![cycles(1, 5, 1_100, 1_050)]);
    assert_eq!(machine.of(5)[0], 1_100);
    // Nor is a clock a client that closes.
    assert_eq!(machine.lost, 0);
    machine.read(vec![]);
    assert_eq!(machine.known.len(), 2);
}

#[test]
fn rates_speak_for_the_time_since_the_last_sample_but_not_for_ever() {
    let rate = |share, at_ns, since_ns| {
        let sample = Sample::Rate {
            share,
            at_ns,
            since_ns,
        };
        vec![reading(1, 5, [sample, Sample::None])]
    };
    let second = 1_000_000_000;
    let seconds = |machine: &Machine| machine.of(5)[0] as f64 / 1e9;
    let mut machine = Machine::default();
    machine.read(rate(5_000, 100 * second, 0));
    assert_eq!(machine.of(5)[0], 0);
    machine.read(rate(5_000, 104 * second, 0));
    assert_eq!(seconds(&machine), 2.0);
    // The same sample again.
    machine.read(rate(5_000, 104 * second, 0));
    assert_eq!(seconds(&machine), 2.0);
    machine.read(rate(10_000, 10_000 * second, 0));
    assert_eq!(seconds(&machine), 62.0);
    // A new one, from when it began.
    let mut machine = Machine::default();
    machine.read(vec![]);
    machine.read(rate(3_000, 104 * second, 94 * second));
    assert_eq!(seconds(&machine), 3.0);
}

/// What happens to a made-up client between two readings.
#[derive(Clone, Debug)]
enum Step {
    Uses(usize, u64),
    Holds(usize, u64),
    Moves(usize, u64),
    IsAway(usize, bool),
    Falls(usize, u64),
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        (0..6_usize, 0..1_000_u64).prop_map(|(c, n)| Step::Uses(c, n)),
        (0..6_usize, 0..1_000_u64).prop_map(|(c, n)| Step::Holds(c, n)),
        (0..6_usize, 0..4_u64).prop_map(|(c, n)| Step::Moves(c, n)),
        (0..6_usize, any::<bool>()).prop_map(|(c, b)| Step::IsAway(c, b)),
        (0..6_usize, 0..50_u64).prop_map(|(c, n)| Step::Falls(c, n)),
        Just(Step::Read),
    ];
    proptest::collection::vec(one, 1..80)
}

#[derive(Clone, Copy, Default)]
struct Client {
    used: u64,
    held: u64,
    cgroup: u64,
    is_away: bool,
    /// What it tells is so much too low.
    fallen: u64,
    seen: Option<u64>,
}

proptest! {
    /// Whatever happens, in whatever order: what was charged is what clients were seen to have used since
    /// the first reading, each once; it never falls; and what is held is what those hold that are there.
    #[test]
    fn charges_come_to_what_was_used(steps in steps()) {
        let mut machine = Machine::default();
        let mut clients = [Client { cgroup: 1, ..Client::default() }; 6];
        let mut truth = 0_i128;
        for step in steps.into_iter().chain([Step::Read]) {
            match step {
                Step::Uses(c, n) => clients[c].used += n,
                Step::Holds(c, n) => clients[c].held = n,
                Step::Moves(c, n) => clients[c].cgroup = n,
                Step::IsAway(c, b) => clients[c].is_away = b,
                Step::Falls(c, n) => clients[c].fallen = n.min(clients[c].used),
                Step::Read => {
                    let before: BTreeMap<u64, i128> =
                        machine.totals.iter().map(|(c, t)| (*c, t[0])).collect();
                    let mut readings = Vec::new();
                    let mut held: BTreeMap<u64, i128> = BTreeMap::new();
                    for (id, client) in clients.iter_mut().enumerate() {
                        if client.is_away {
                            continue;
                        }
                        let told = client.used - client.fallen;
                        let is_known = client.seen.is_some();
                        let seen = client.seen.unwrap_or(0);
                        // Nobody is charged for those of cgroup 0.
                        if client.cgroup != 0 && (is_known || machine.readings > 0) {
                            truth += i128::from(told.saturating_sub(seen));
                        }
                        client.seen = Some(told.max(seen));
                        *held.entry(client.cgroup).or_default() += i128::from(client.held);
                        readings.push(used(id as u64 + 1, client.cgroup, told, client.held));
                        readings.push(used(id as u64 + 1, client.cgroup, told, client.held));
                    }
                    machine.read(readings);
                    prop_assert_eq!(machine.lost, 0);
                    for (cgroup, total) in before {
                        prop_assert!(machine.of(cgroup)[0] >= total);
                    }
                    let all: i128 = machine.totals.values().map(|t| t[0]).sum();
                    prop_assert_eq!(all, truth);
                    for cgroup in 1..4 {
                        let holds = held.get(&cgroup).copied().unwrap_or(0);
                        prop_assert_eq!(machine.of(cgroup)[1], holds);
                    }
                }
            }
        }
    }
}
