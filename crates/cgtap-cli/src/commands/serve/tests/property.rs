//! No exported counter falls, and nothing is exported twice, whatever cgroups come, work and go.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::super::exporter::Exporter;
use super::super::page::Format;
use super::{report, row, shared, value};
use cgtap::meter::usage::{Form, Unit, UsageReport};

/// What happens between two readings.
#[derive(Clone, Debug)]
enum Event {
    /// The cgroup at this place of the list uses something.
    Use(usize, bool, u64),
    /// One is made below the cgroup at this place.
    Make(usize, usize),
    /// The cgroup at this place goes with all below it, and leaves what it used to its parent.
    Remove(usize),
    /// A reading.
    Scrape,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (any::<usize>(), any::<bool>(), 1..1000_u64).prop_map(|(c, l, n)| Event::Use(c, l, n)),
        3 => (any::<usize>(), 0..3_usize).prop_map(|(c, name)| Event::Make(c, name)),
        2 => any::<usize>().prop_map(Event::Remove),
        4 => Just(Event::Scrape),
    ]
}

/// A cgroup tree as the engine counts it.
#[derive(Default)]
struct Tree {
    cgroups: BTreeMap<String, (u64, [u64; 2])>,
    next: u64,
    used: u64,
}

impl Tree {
    fn new() -> Self {
        let mut tree = Self::default();
        tree.make("/".to_owned());
        tree
    }

    fn make(&mut self, path: String) {
        self.next += 1;
        self.cgroups.entry(path).or_insert((self.next, [0, 0]));
    }

    fn at(&self, place: usize) -> String {
        self.cgroups
            .keys()
            .nth(place % self.cgroups.len())
            .unwrap()
            .clone()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Use(place, label, n) => {
                let path = self.at(*place);
                self.cgroups.get_mut(&path).unwrap().1[usize::from(*label)] += n;
                self.used += n;
            }
            Event::Make(place, name) => {
                let above = self.at(*place);
                let above = above.trim_end_matches('/');
                self.make(format!("{above}/{name}"));
            }
            Event::Remove(place) => {
                let path = self.at(*place);
                if path == "/" {
                    return;
                }
                let below = format!("{path}/");
                let going = self.cgroups.keys().rev();
                let going = going.filter(|p| **p == path || p.starts_with(&below));
                for path in going.cloned().collect::<Vec<_>>() {
                    let (_, left) = self.cgroups.remove(&path).unwrap();
                    let end = path.rfind('/').unwrap();
                    let heir = if end == 0 { "/" } else { &path[..end] };
                    let heir = self.cgroups.get_mut(heir).unwrap();
                    heir.1[0] += left[0];
                    heir.1[1] += left[1];
                }
            }
            Event::Scrape => {}
        }
    }

    fn report(&self) -> UsageReport {
        let rows = self.cgroups.iter().map(|(path, (id, used))| {
            let of = |l: usize| {
                let labels = [("dev", ["8:0", "8:16"][l])];
                value("x_bytes", Unit::Bytes, Form::Sum, &labels, used[l])
            };
            row(*id, path, vec![of(0), of(1)])
        });
        report(rows.collect())
    }
}

fn counters(page: &str) -> HashMap<String, u64> {
    page.lines()
        .filter_map(|line| line.strip_prefix("cgtap_x_bytes_total"))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn counters_never_fall_and_nothing_is_exported_twice(
        events in prop::collection::vec(event(), 1..120),
        top in 1..4_usize,
    ) {
        let mut tree = Tree::new();
        let (shared, source) = shared(tree.report());
        let exporter = Exporter::new(source, top, None);
        let mut before: HashMap<String, u64> = HashMap::new();
        // What `sum(increase())` would have, had Prometheus seen each series from its beginning.
        let mut exported = 0;
        let mut highest: HashMap<String, u64> = HashMap::new();
        for event in events.iter().chain([&Event::Scrape]) {
            tree.apply(event);
            if !matches!(event, Event::Scrape) {
                continue;
            }
            *shared.lock().unwrap() = tree.report();
            let now = counters(&exporter.scrape(Format::OpenMetrics).unwrap());
            for (series, value) in &now {
                let was = before.get(series).copied().unwrap_or_default();
                prop_assert!(*value >= was, "{series} fell from {was} to {value}");
                let high = highest.entry(series.clone()).or_default();
                exported += value.saturating_sub(*high);
                *high = (*high).max(*value);
            }
            let cgroups: std::collections::HashSet<&str> = now
                .keys()
                .filter_map(|series| series.split('"').nth(1))
                .filter(|cgroup| *cgroup != "other")
                .collect();
            prop_assert!(cgroups.len() <= 2 * top);
            // Sooner or later all of it, and never more.
            prop_assert!(exported <= tree.used, "{exported} of {}", tree.used);
            before = now;
        }
    }

    /// As long as no series has ended or given way, the sum is what was used, to the last.
    #[test]
    fn all_that_is_used_is_exported(
        events in prop::collection::vec(event(), 1..80),
        top in 1..4_usize,
    ) {
        let mut tree = Tree::new();
        let (shared, source) = shared(tree.report());
        let exporter = Exporter::new(source, top, None);
        let mut ever = std::collections::HashSet::new();
        for event in events.iter().chain([&Event::Scrape]) {
            tree.apply(event);
            if !matches!(event, Event::Scrape) {
                continue;
            }
            *shared.lock().unwrap() = tree.report();
            let now = counters(&exporter.scrape(Format::OpenMetrics).unwrap());
            ever.extend(now.keys().cloned());
            if ever.iter().any(|series| !now.contains_key(series)) {
                break;
            }
            prop_assert_eq!(now.values().sum::<u64>(), tree.used);
        }
    }
}
