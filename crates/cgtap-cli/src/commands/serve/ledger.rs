//! What is exported, from one reading to the next.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cgtap::engine::LimitReport;
use cgtap::id::CgroupId;
use cgtap::meter::usage::{Form, Loser, Truth, Unit, UsageReport, UsageRow, UsageValue};

use super::account::{Account, Counted, Gone, LabelsId};
use super::numbers::Numbers;
use super::roster::Roster;

/// Sets of labels that one family can have. What comes beyond them has `other` for each label.
pub const MOST_LABELS: usize = 1000;

/// Label names with their values.
pub type Labels = BTreeMap<String, String>;

/// All families, and the cgroups that were there at the last reading.
#[derive(Debug)]
pub struct Ledger {
    top: usize,
    paths: HashMap<CgroupId, Arc<str>>,
    families: BTreeMap<Arc<str>, Family>,
    called: HashMap<Arc<str>, String>,
    images: BTreeMap<Arc<str>, String>,
    /// What each that counts losses had lost at the last reading, and all that was lost.
    lost: (BTreeMap<Loser, u64>, u64),
    unread: usize,
    limits: Vec<LimitReport>,
}

/// The series of one meter.
#[derive(Debug)]
pub struct Family {
    /// The meter's name, as the engine has it.
    pub meter: Arc<str>,
    /// What it tells, in a sentence.
    pub help: Option<String>,
    /// How true its values are.
    pub kind: Truth,
    /// What they are of.
    pub unit: Unit,
    /// What is done with them.
    pub form: Form,
    labels: Vec<Arc<Labels>>,
    ids: HashMap<Arc<Labels>, LabelsId>,
    roster: Roster,
    account: Account,
    held: Held,
}

/// What a gauge shows.
#[derive(Debug, Default)]
struct Held {
    named: Vec<(Arc<str>, LabelsId, u64, Option<u64>)>,
    other: BTreeMap<LabelsId, u64>,
}

/// One value of a reading.
#[derive(Debug)]
struct Reading {
    counted: Counted,
    peak: Option<u64>,
}

impl Ledger {
    /// An empty one, with series for the `top` cgroups of each family.
    pub fn new(top: usize) -> Self {
        Self {
            top,
            paths: HashMap::new(),
            families: BTreeMap::new(),
            called: HashMap::new(),
            images: BTreeMap::new(),
            lost: (BTreeMap::new(), 0),
            unread: 0,
            limits: Vec::new(),
        }
    }

    /// Takes a reading.
    pub fn update(&mut self, report: &UsageReport) {
        let gone = self.note_cgroups(report);
        let mut readings: HashMap<&str, Vec<Reading>> = HashMap::new();
        for row in &report.cgroups {
            for value in &row.meters {
                if !self.families.contains_key(&value.meter) {
                    let mut family = Family::new(value, self.top);
                    family.help = report.help.get(&value.meter).cloned();
                    self.families.insert(value.meter.clone(), family);
                }
                let Some(family) = self.families.get_mut(&value.meter) else {
                    continue;
                };
                let values = readings.entry(&value.meter).or_default();
                values.extend(family.reading(row.cgroup_id, value));
            }
        }
        // Of a meter that is gone nothing is kept: what it counted is gone too.
        self.families
            .retain(|meter, _| readings.contains_key(&**meter));
        for (meter, values) in readings {
            if let Some(family) = self.families.get_mut(meter) {
                family.update(values, &gone, &self.paths);
            }
        }
        let (seen, all) = &mut self.lost;
        for (loser, lost) in &report.losses {
            let seen = seen.get(loser).copied().unwrap_or(0);
            // Less than before: it began anew.
            let more = lost.checked_sub(seen).unwrap_or(*lost);
            *all = all.saturating_add(more);
        }
        seen.clone_from(&report.losses);
        self.unread = report.unread.len();
    }

    /// Takes how limits stand.
    pub fn limit_by(&mut self, limits: Vec<LimitReport>) {
        self.limits = limits;
    }

    /// How limits stand.
    pub fn limits(&self) -> &[LimitReport] {
        &self.limits
    }

    /// Notes who is there, and returns who was there and is not.
    fn note_cgroups(&mut self, report: &UsageReport) -> HashMap<CgroupId, Gone> {
        let named = |row: &UsageRow| Some((row.cgroup.as_str().into(), row.name.clone()?));
        self.called = report.cgroups.iter().filter_map(named).collect();
        let made = |row: &UsageRow| Some((row.cgroup.as_str().into(), row.image.clone()?));
        self.images = report.cgroups.iter().filter_map(made).collect();
        let mut before = std::mem::take(&mut self.paths);
        for row in &report.cgroups {
            let path = before
                .remove(&row.cgroup_id)
                .filter(|path| **path == *row.cgroup)
                .unwrap_or_else(|| Arc::from(row.cgroup.as_str()));
            self.paths.insert(row.cgroup_id, path);
        }
        if before.is_empty() {
            return HashMap::new();
        }
        let there: HashMap<&str, CgroupId> =
            self.paths.iter().map(|(id, path)| (&**path, *id)).collect();
        before
            .into_iter()
            .map(|(id, path)| {
                // Ids rise: an older one stood above it, a newer one is another of the same path.
                let older = |above| there.get(above).copied().filter(|above| *above < id);
                let heir = above(&path).find_map(older);
                (id, Gone { path, heir })
            })
            .collect()
    }

    /// The families, in the order of their names.
    pub fn families(&self) -> impl Iterator<Item = &Family> {
        self.families.values()
    }

    /// What cgroups are called that are containers, pods or units, by their paths.
    pub fn called(&self) -> &HashMap<Arc<str>, String> {
        &self.called
    }

    /// The images of those that are containers, where they are known, by their paths.
    pub fn images(&self) -> &BTreeMap<Arc<str>, String> {
        &self.images
    }

    /// How many cgroups there are.
    pub fn cgroups(&self) -> usize {
        self.paths.len()
    }

    /// Events that were not charged.
    pub fn lost(&self) -> u64 {
        self.lost.1
    }

    /// For how many reasons something could not be read at the last reading.
    pub fn unread(&self) -> usize {
        self.unread
    }
}

/// The paths above `path`, the nearest first, up to `/`.
fn above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rfind('/') {
        _ if *path == "/" => None,
        Some(0) | None => Some("/"),
        Some(end) => Some(&path[..end]),
    })
    .skip(1)
}

impl Family {
    fn new(first: &UsageValue, top: usize) -> Self {
        Self {
            meter: Arc::clone(&first.meter),
            help: None,
            kind: first.kind,
            unit: first.unit,
            form: first.form,
            labels: Vec::new(),
            ids: HashMap::new(),
            roster: Roster::new(top),
            account: Account::default(),
            held: Held::default(),
        }
    }

    /// `value` as a reading of this family, unless it is empty.
    fn reading(&mut self, cgroup: CgroupId, value: &UsageValue) -> Option<Reading> {
        // A meter that was made anew with another unit: its old values cannot be gone on with.
        if (self.unit, self.form) != (value.unit, value.form) {
            let help = self.help.take();
            *self = Self {
                help,
                ..Self::new(value, self.roster.most() / 2)
            };
        }
        let numbers = Numbers::own(value);
        if numbers.is_zero() && value.peak.unwrap_or_default() == 0 {
            return None;
        }
        Some(Reading {
            counted: Counted {
                cgroup,
                labels: self.labels_id(&value.labels),
                numbers,
            },
            peak: value.peak,
        })
    }

    fn labels_id(&mut self, labels: &Arc<Labels>) -> LabelsId {
        if let Some(id) = self.ids.get(labels) {
            return *id;
        }
        let labels = if self.ids.len() < MOST_LABELS {
            Arc::clone(labels)
        } else {
            let other = labels.keys().map(|k| (k.clone(), "other".to_owned()));
            Arc::new(other.collect())
        };
        let next = LabelsId::try_from(self.labels.len()).unwrap_or(LabelsId::MAX);
        let id = *self.ids.entry(Arc::clone(&labels)).or_insert(next);
        if id == next {
            self.labels.push(labels);
        }
        id
    }

    fn update(
        &mut self,
        values: Vec<Reading>,
        gone: &HashMap<CgroupId, Gone>,
        paths: &HashMap<CgroupId, Arc<str>>,
    ) {
        let path = |cgroup| paths.get(&cgroup).map(Arc::clone);
        if self.form.is_counter() {
            let now = values.into_iter().map(|v| v.counted).collect();
            self.account.update(now, gone, &mut self.roster, path);
            return;
        }
        for cgroup in gone.keys() {
            self.roster.strike(*cgroup);
        }
        let mut held: BTreeMap<(CgroupId, LabelsId), (u64, Option<u64>)> = BTreeMap::new();
        for Reading { counted, peak } in values {
            // Labels that read the same, though they are of several keys, are one series.
            let (own, most) = held.entry(counted.key()).or_default();
            *own = own.saturating_add(counted.numbers.sum());
            *most = (*most).max(peak);
        }
        let mut uses: HashMap<CgroupId, u64> = HashMap::new();
        for ((cgroup, _), (own, peak)) in &held {
            let most = (*own).max(peak.unwrap_or_default());
            let used = uses.entry(*cgroup).or_default();
            *used = used.saturating_add(most);
        }
        let uses = uses.into_iter().map(|(cgroup, used)| (used, cgroup));
        self.roster.choose(uses.collect(), path);
        self.held = Held::default();
        for ((cgroup, labels), (own, peak)) in held {
            let other = self.held.other.entry(labels).or_default();
            match path(cgroup).filter(|_| self.roster.has(cgroup)) {
                Some(path) => self.held.named.push((path, labels, own, peak)),
                None => *other = other.saturating_add(own),
            }
        }
    }

    /// Each set of labels, by its id.
    pub fn labels(&self) -> &[Arc<Labels>] {
        &self.labels
    }

    /// The series of a counter or histogram: cgroup, labels, numbers.
    pub fn counted(&self) -> impl Iterator<Item = (&str, LabelsId, &Numbers)> {
        self.account.series(&self.roster)
    }

    /// The series of a gauge: cgroup, labels, what is held now.
    pub fn held(&self) -> impl Iterator<Item = (&str, LabelsId, u64)> {
        let named = self.held.named.iter();
        let other = self.held.other.iter();
        named
            .map(|(path, labels, own, _)| (&**path, *labels, *own))
            .chain(other.map(|(labels, own)| ("other", *labels, *own)))
    }

    /// The most that was held. Not of `other`: peaks of several were at several times, and their sum
    /// was never held.
    pub fn peaks(&self) -> impl Iterator<Item = (&str, LabelsId, u64)> {
        let named = self.held.named.iter();
        named.filter_map(|(path, labels, _, peak)| Some((&**path, *labels, (*peak)?)))
    }
}

#[cfg(test)]
mod tests {
    use cgtap::id::InstanceId;

    use super::*;

    #[test]
    fn what_is_lost_is_added_up_though_who_lost_it_goes() {
        let mut ledger = Ledger::new(10);
        let mut lost = |all: &[(Loser, u64)]| {
            ledger.update(&UsageReport {
                losses: all.iter().copied().collect(),
                ..UsageReport::default()
            });
            ledger.lost()
        };
        let [a, b] = [1, 2].map(|id| Loser::Meter(InstanceId(id)));
        let hook = Loser::Hook(1);
        assert_eq!(lost(&[(a, 100), (b, 50)]), 150);
        assert_eq!(lost(&[(a, 100), (b, 50), (hook, 0)]), 150);
        // One goes while another loses more.
        assert_eq!(lost(&[(a, 110), (hook, 3)]), 163);
        assert_eq!(lost(&[(a, 110), (hook, 3)]), 163);
        // One that begins anew under its number.
        assert_eq!(lost(&[(a, 4), (hook, 3)]), 167);
        assert_eq!(lost(&[]), 167);
    }

    #[test]
    fn what_stands_above_is_named_from_the_nearest() {
        assert_eq!(above("/a/b/c").collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(above("/a").collect::<Vec<_>>(), ["/"]);
        assert_eq!(above("/").count(), 0);
    }
}
