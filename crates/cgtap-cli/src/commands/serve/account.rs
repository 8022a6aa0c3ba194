//! Under which name each use is exported: once, and never taken back.
//!
//! Counters of cgroups are not counters of series as they are. A cgroup that is removed leaves what
//! it used to its parent, which would jump by what was exported under another name before; one that
//! is named late would take what it used out of `other`, which would fall. So what is exported is
//! not what the engine counted but what came to it since the last reading, added to the series that
//! the cgroup has at that moment: its own, or `other`. What a removed cgroup leaves is taken off
//! what its parent gained, as far as it was exported before.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use cgtap::id::CgroupId;

use super::numbers::Numbers;
use super::roster::Roster;

/// Which labels of a family, by their place in its list.
pub type LabelsId = u32;

/// What the engine counted for one cgroup under one set of labels.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The cgroup.
    pub cgroup: CgroupId,
    /// The labels.
    pub labels: LabelsId,
    /// How much.
    pub numbers: Numbers,
}

impl Counted {
    pub(super) fn key(&self) -> (CgroupId, LabelsId) {
        (self.cgroup, self.labels)
    }
}

/// A cgroup that was there at the last reading and is no more.
#[derive(Clone, Debug)]
pub struct Gone {
    /// Its path.
    pub path: Arc<str>,
    /// To whom it leaves what it used: its nearest ancestor that is still there.
    pub heir: Option<CgroupId>,
}

type Series = BTreeMap<LabelsId, Numbers>;

/// The series of one counter or histogram.
#[derive(Debug, Default)]
pub struct Account {
    /// The last reading, in the order of cgroups and labels.
    last: Vec<Counted>,
    /// What heirs will gain, or have gained, that was exported already.
    debts: BTreeMap<(CgroupId, LabelsId), Numbers>,
    /// What was exported under the names of cgroups that are there, named at present or not.
    named: HashMap<CgroupId, Series>,
    /// The same of cgroups that are gone, the oldest first: one of the same path goes on from there.
    ended: VecDeque<(Arc<str>, Series)>,
    other: Series,
}

impl Account {
    /// Takes a reading: names cgroups, and adds what came since the last one.
    pub fn update(
        &mut self,
        mut now: Vec<Counted>,
        gone: &HashMap<CgroupId, Gone>,
        roster: &mut Roster,
        path: impl Fn(CgroupId) -> Option<Arc<str>>,
    ) {
        now.sort_unstable_by_key(Counted::key);
        now.dedup_by(|next, kept| {
            let same = next.key() == kept.key();
            if same {
                kept.numbers.add(&next.numbers);
            }
            same
        });
        self.bury(gone, roster);
        let added = roster.choose(uses(&now), &path);
        // What a newcomer used is nobody else's yet; of one that was there it is in `other`, up to
        // this reading.
        let late: HashSet<CgroupId> = added.iter().copied().filter(|c| self.knows(*c)).collect();
        for cgroup in added {
            if !self.named.contains_key(&cgroup) {
                let ended = path(cgroup).and_then(|path| self.take_up(&path));
                let series = ended.unwrap_or_default();
                self.named.insert(cgroup, series);
            }
        }
        let mut before = std::mem::take(&mut self.last).into_iter().peekable();
        for counted in &now {
            while before.next_if(|b| b.key() < counted.key()).is_some() {}
            let before = before.next_if(|b| b.key() == counted.key());
            let gain = self.gain(counted, before.as_ref());
            let zero = || counted.numbers.zero();
            let other = self.other.entry(counted.labels).or_insert_with(zero);
            let own = roster.has(counted.cgroup).then(|| {
                let series = self.named.entry(counted.cgroup).or_default();
                series.entry(counted.labels).or_insert_with(zero)
            });
            match own {
                Some(own) if !late.contains(&counted.cgroup) => own.add(&gain),
                _ => other.add(&gain),
            }
        }
        self.last = now;
    }

    /// What came since `before`, without what was exported under the name of a cgroup that is gone.
    fn gain(&mut self, now: &Counted, before: Option<&Counted>) -> Numbers {
        let mut gain = now.numbers.clone();
        if let Some(before) = before {
            // Its meter began anew: all of it is new, and debts of the old one are void.
            if now.numbers.is_behind(&before.numbers) {
                self.debts.remove(&now.key());
                return gain;
            }
            gain.take(&before.numbers);
        }
        if let Some(debt) = self.debts.get_mut(&now.key()) {
            let whole = gain.clone();
            gain.take(debt);
            debt.take(&whole);
            if debt.is_zero() {
                self.debts.remove(&now.key());
            }
        }
        gain
    }

    /// Ends the series of those that are gone, and notes what they leave to whom.
    fn bury(&mut self, gone: &HashMap<CgroupId, Gone>, roster: &mut Roster) {
        if gone.is_empty() {
            return;
        }
        let left: Vec<Counted> = self
            .last
            .extract_if(.., |counted| gone.contains_key(&counted.cgroup))
            .collect();
        let owed = self
            .debts
            .extract_if(.., |(cgroup, _), _| gone.contains_key(cgroup));
        let owed: Vec<_> = owed.collect();
        let left = left.into_iter().map(|c| (c.key(), c.numbers));
        for ((cgroup, labels), numbers) in left.chain(owed) {
            let Some(heir) = gone.get(&cgroup).and_then(|gone| gone.heir) else {
                continue;
            };
            self.debts
                .entry((heir, labels))
                .and_modify(|debt| debt.add(&numbers))
                .or_insert(numbers);
        }
        for (cgroup, gone) in gone {
            roster.strike(*cgroup);
            if let Some(series) = self.named.remove(cgroup) {
                self.ended.push_back((Arc::clone(&gone.path), series));
            }
        }
        while self.ended.len() > roster.most() {
            self.ended.pop_front();
        }
    }

    /// What was exported under `path` when it was the name of a cgroup that is gone.
    fn take_up(&mut self, path: &str) -> Option<Series> {
        let place = self.ended.iter().rposition(|(ended, _)| **ended == *path)?;
        self.ended.remove(place).map(|(_, series)| series)
    }

    fn knows(&self, cgroup: CgroupId) -> bool {
        let place = self.last.partition_point(|c| c.cgroup < cgroup);
        self.last.get(place).is_some_and(|c| c.cgroup == cgroup)
    }

    /// Every series of the cgroups in `roster`, then `other`: its cgroup's name, labels and numbers.
    pub fn series<'a>(
        &'a self,
        roster: &'a Roster,
    ) -> impl Iterator<Item = (&'a str, LabelsId, &'a Numbers)> {
        let named = roster.iter().flat_map(|(cgroup, path)| {
            let series = self.named.get(&cgroup).into_iter().flatten();
            series.map(move |(labels, numbers)| (&**path, *labels, numbers))
        });
        let other = self.other.iter();
        named.chain(other.map(|(labels, numbers)| ("other", *labels, numbers)))
    }
}

/// What each cgroup used, all labels together. `now` is in the order of cgroups.
fn uses(now: &[Counted]) -> Vec<(u64, CgroupId)> {
    now.chunk_by(|a, b| a.cgroup == b.cgroup)
        .filter_map(|of_one| {
            let used = of_one
                .iter()
                .fold(0_u64, |sum, c| sum.saturating_add(c.numbers.sum()));
            of_one.first().map(|c| (used, c.cgroup))
        })
        .collect()
}
