//! What is known of the cgroups: the last reading of each, how fast it grew, and how that was
//! before. It knows no terminal.

use std::collections::HashMap;
use std::time::Instant;

use cgtap::engine::LimitReport;
use cgtap::id::CgroupId;
use cgtap::meter::usage::{UsageReport, UsageRow, UsageValue};

use super::column::{self, Column};
use super::history::{self, History};
use super::limits::Limits;
use super::series::{Basis, More, Reading, Series};

/// One cgroup.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: CgroupId,
    /// Its path, with a leading slash.
    pub path: Box<str>,
    /// What it is called, if it is a container, pod or unit.
    pub called: Option<Box<str>>,
    /// The image that it was made of, if it is a container whose runtime says so.
    pub image: Option<Box<str>>,
    /// The nearest one above it that is known, by its place.
    pub parent: Option<usize>,
    /// Each value with its labels, in the report's order.
    pub series: Vec<Series>,
    /// By column.
    pub histories: Vec<History>,
}

impl Node {
    /// The sum over the labels of a column; none if it has no value there.
    pub fn sum(&self, place: usize) -> Option<Reading> {
        sum(&self.series, place)
    }

    /// Its path, and behind it what it is called.
    pub fn title(&self) -> String {
        match &self.called {
            Some(called) => format!("{} ({called})", self.path),
            None => self.path.to_string(),
        }
    }

    /// What the column is at, as it is shown.
    pub fn shown(&self, columns: &[Column], place: usize, basis: Basis) -> Option<f64> {
        self.sum(place)?.shown(columns.get(place)?.form, basis)
    }
}

/// The cgroups, by the last report.
#[derive(Debug, Default)]
pub struct Model {
    columns: Vec<Column>,
    nodes: Vec<Node>,
    places: HashMap<CgroupId, usize>,
    limits: Limits,
    at: Option<Instant>,
    seconds: Option<f64>,
    lost: u64,
    unread: Vec<String>,
}

/// A report that is being taken in.
struct Taking<'a> {
    columns: &'a [Column],
    /// By column: where it was before.
    was: Vec<Option<usize>>,
    seconds: Option<f64>,
    limit: usize,
    /// Those that are gone, by whose what they used is now.
    gone: HashMap<CgroupId, Vec<Node>>,
    /// The values of the cgroup that is worked on.
    made: Vec<Series>,
}

impl Model {
    /// The columns, ordered by their names.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The cgroups, ordered by their paths.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where the cgroup is among the nodes.
    pub fn place(&self, id: CgroupId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// How long the last two readings were apart; none after the first.
    pub fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    /// Events that were not charged.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// What could not be read, in words.
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// Where the column `meter` is.
    pub fn column(&self, meter: &str) -> Option<usize> {
        column::find(&self.columns, 0, meter).ok()
    }

    /// How limits stand.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes in how limits stand, behind the report of the same reading.
    pub fn limit_by(&mut self, all: Vec<LimitReport>) {
        self.limits = Limits::of(all, &self.nodes);
    }

    /// Takes in what was read at `at`. Cgroups that it does not name are forgotten.
    pub fn update(&mut self, mut report: UsageReport, at: Instant) {
        let columns = column::columns(&report);
        let since = |before: Instant| at.saturating_duration_since(before).as_secs_f64();
        let rings = self.nodes.iter().flat_map(|node| &node.histories);
        let limit = history::limit(rings.map(History::rings).sum());
        let was = columns.iter().map(|c| self.column(&c.meter)).collect();
        let seconds = self.at.map(since).filter(|s| *s > 0.0);
        // Readers that want names in order then need no sorting.
        report.cgroups.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        let heirs = heirs(&self.nodes, &report.cgroups);
        let mut old: Vec<Option<Node>> = std::mem::take(&mut self.nodes)
            .into_iter()
            .map(Some)
            .collect();
        let mut gone: HashMap<CgroupId, Vec<Node>> = HashMap::new();
        for (place, heir) in heirs {
            let node = old.get_mut(place).and_then(Option::take);
            gone.entry(heir).or_default().extend(node);
        }
        self.columns = columns;
        let mut taking = Taking {
            columns: &self.columns,
            was,
            seconds,
            limit,
            gone,
            made: Vec::new(),
        };
        // Most often nothing has come or gone, and each is where it was.
        let mut same = old.len() == report.cgroups.len();
        let rows = report.cgroups.into_iter().enumerate();
        self.nodes = rows
            .map(|(at, row)| {
                let is = |node: &Option<Node>| node.as_ref().is_some_and(|n| n.id == row.cgroup_id);
                let place = match old.get(at).is_some_and(is) {
                    true => Some(at),
                    false => self.places.get(&row.cgroup_id).copied(),
                };
                let known = place.and_then(|place| old.get_mut(place)?.take());
                same &= place == Some(at) && known.as_ref().is_some_and(|n| *n.path == *row.cgroup);
                taking.node(row, known)
            })
            .collect();
        drop(old);
        if !same {
            let ids = self.nodes.iter().map(|node| node.id);
            self.places = ids.zip(0..).collect();
            self.find_parents();
        }
        self.limits = Limits::default();
        self.at = Some(at);
        self.seconds = seconds;
        self.lost = report.lost;
        self.unread = report.unread;
    }

    fn find_parents(&mut self) {
        let places: HashMap<&str, usize> =
            self.nodes.iter().map(|node| &*node.path).zip(0..).collect();
        let parents: Vec<Option<usize>> = self
            .nodes
            .iter()
            .map(|node| above(&node.path).find_map(|path| places.get(path).copied()))
            .collect();
        for (node, parent) in self.nodes.iter_mut().zip(parents) {
            node.parent = parent;
        }
    }
}

/// The paths above `path`, the nearest first.
pub fn above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        let end = path.rfind('/')?;
        match (end, path.len()) {
            (0, 1) => None,
            (0, _) => Some("/"),
            _ => Some(&path[..end]),
        }
    })
    .skip(1)
}

impl Taking<'_> {
    /// The cgroup of `row`, with what is known of it from before. Its memory is used again: so many
    /// small pieces, freed and taken each second, would leave holes as large as all of them.
    fn node(&mut self, row: UsageRow, known: Option<Node>) -> Node {
        let mut node = known.unwrap_or_else(|| Node {
            id: row.cgroup_id,
            path: Box::default(),
            called: None,
            image: None,
            parent: None,
            series: Vec::new(),
            histories: Vec::new(),
        });
        if *node.path != *row.cgroup {
            node.path = row.cgroup.into_boxed_str();
        }
        if node.called.as_deref() != row.name.as_deref() {
            node.called = row.name.map(String::into_boxed_str);
        }
        if node.image.as_deref() != row.image.as_deref() {
            node.image = row.image.map(String::into_boxed_str);
        }
        let gone = self.gone.remove(&row.cgroup_id).unwrap_or_default();
        let (mut guess, mut cursor) = (0, 0);
        for value in row.meters {
            // Every value of the report has made a column.
            if let Ok(place) = column::find(self.columns, guess, &value.meter) {
                guess = place;
                let series = self.series(value, place, &node.series, &mut cursor, &gone);
                self.made.push(series);
            }
        }
        node.series.clear();
        node.series.reserve_exact(self.made.len());
        node.series.append(&mut self.made);
        self.remember(&mut node);
        node
    }

    /// The `value` of the column at `place`; `known` are the cgroup's before, and it has what `gone` used.
    fn series(
        &mut self,
        value: UsageValue,
        place: usize,
        known: &[Series],
        cursor: &mut usize,
        gone: &[Node],
    ) -> Series {
        let was = self.was.get(place).copied().flatten();
        let old = was.and_then(|was| {
            let found = find_series(known, *cursor, was, &value.labels)?;
            *cursor = found + 1;
            known.get(found)
        });
        let mut reading = Reading {
            own: value.own,
            total: value.total,
            ..Reading::default()
        };
        // Labels that are new in a column began at 0; a column that is new began nobody knows when.
        let begun = || known.iter().any(|s| was.is_some_and(|was| s.is_of(was)));
        if let Some(seconds) = self.seconds
            && value.form.is_counter()
            && (old.is_some() || begun())
        {
            let (own, total) = old.map_or((0, 0), |old| (old.reading.own, old.reading.total));
            // What was used before by those that are gone now was not used just now.
            let theirs = gone.iter().filter_map(|node| {
                let found = find_series(&node.series, 0, was?, &value.labels)?;
                Some(node.series.get(found)?.reading.own)
            });
            reading.grown_since((theirs.fold(own, u64::saturating_add), total), seconds);
        }
        Series {
            column: u32::try_from(place).unwrap_or(u32::MAX),
            kind: value.kind,
            labels: value.labels,
            reading,
            more: match (value.peak, value.histogram) {
                (None, None) => None,
                (peak, histogram) => Some(Box::new(More { peak, histogram })),
            },
        }
    }

    /// Adds to the histories of `node` what is shown of it now.
    fn remember(&self, node: &mut Node) {
        let in_place = self
            .was
            .iter()
            .copied()
            .eq((0..node.histories.len()).map(Some));
        if !in_place {
            let mut old = std::mem::take(&mut node.histories);
            let moved = self.was.iter().map(|was| {
                let old = was.and_then(|was| old.get_mut(was));
                old.map(std::mem::take).unwrap_or_default()
            });
            node.histories = moved.collect();
        }
        for (place, (column, history)) in self.columns.iter().zip(&mut node.histories).enumerate() {
            let sum = sum(&node.series, place);
            let shown = |basis| sum.and_then(|sum| sum.shown(column.form, basis));
            if let (Some(own), Some(total)) = (shown(Basis::Own), shown(Basis::Total)) {
                history.push(own as f32, total as f32, self.limit);
            }
        }
    }
}

/// Those of `nodes` that `rows` have no more, by their places, and who has what they used: the nearest above
/// that is older than they, since ids rise. Both are in the order of their paths.
fn heirs(nodes: &[Node], rows: &[UsageRow]) -> Vec<(usize, CgroupId)> {
    let mut at = 0;
    let mut all = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        while rows.get(at).is_some_and(|row| *row.cgroup < *node.path) {
            at += 1;
        }
        let is = |row: &UsageRow| *row.cgroup == *node.path && row.cgroup_id == node.id;
        if rows.get(at).is_some_and(is) {
            continue;
        }
        let older = |path: &str| {
            let found = rows.binary_search_by(|row| row.cgroup.as_str().cmp(path));
            let id = rows.get(found.ok()?)?.cgroup_id;
            (id < node.id).then_some(id)
        };
        all.extend(above(&node.path).find_map(older).map(|heir| (place, heir)));
    }
    all
}

fn sum(series: &[Series], place: usize) -> Option<Reading> {
    let mut of = series.iter().filter(|series| series.is_of(place));
    let mut sum = of.next()?.reading;
    of.for_each(|series| sum.add(&series.reading));
    Some(sum)
}

/// Where in `series` the one of the column and labels is. Looked for from `cursor` on, and round:
/// reports have them in one order, and few come or go.
fn find_series(
    series: &[Series],
    cursor: usize,
    column: usize,
    labels: &super::series::Labels,
) -> Option<usize> {
    let (first, rest) = series.split_at(cursor.min(series.len()));
    let is = |s: &Series| s.is_of(column) && *s.labels == *labels;
    let behind = rest.iter().position(is).map(|at| at + first.len());
    behind.or_else(|| first.iter().position(is))
}

#[cfg(test)]
mod tests;
