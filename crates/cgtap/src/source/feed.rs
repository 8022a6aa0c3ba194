//! What is new in what was read: who is to be charged how much. No kernel, no clock.
//!
//! A client that is seen for the first time was opened since the last reading, and all that it used is
//! new; but at the first reading of all, when nobody can tell since when it has been there, nothing is.
//! A counter that falls is waited for until it has caught up, as the kernel's documentation asks
//! (Documentation/gpu/drm-usage-stats.rst). What a client used after it was last read and before it
//! closed is never seen. Where not everything could be looked at, one that was not seen may be there still.

use std::collections::BTreeMap;

use super::{DEVICE, Key, Reading, Sample};
use crate::id::CgroupId;
use crate::meter::shape::client::IDENTITY;
use crate::meter::usage::Form;

/// No client uses so much between two readings: 2.3 years of one engine, 72 petabytes. It is junk, and
/// totals that it was added to would wrap.
const STEP_MAX: u64 = 1 << 56;

/// A sample does not speak for longer than this.
pub const RATE_MAX_NS: u64 = 60_000_000_000;

/// What was read of a client before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The cgroup that was charged last.
    pub cgroup: CgroupId,
    /// When it was last seen.
    pub seen_ns: u64,
    /// One word a value.
    pub last: Vec<u64>,
}

/// What is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// To whom.
    pub cgroup: CgroupId,
    /// The words of the labels.
    pub labels: Vec<u64>,
    /// One a value; of what is held it may be less than nothing, in two's complement.
    pub amounts: Vec<u64>,
}

/// What comes of a reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Who is to be charged.
    pub charges: Vec<Charge>,
    /// What is known from now on, of those where that is something else.
    pub known: Vec<(Key, Known)>,
    /// What is known no more, to make room. It goes before anything new comes.
    pub forgotten: Vec<Key>,
    /// Clients that were not charged: there was no room to remember them, or they told nonsense.
    pub lost: u64,
}

/// What is the same in all of one reading.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Words of the labels.
    pub label_words: usize,
    /// What each value is.
    pub forms: &'a [Form],
    /// Clients that can be remembered.
    pub room: usize,
    /// When it was read, in nanoseconds since boot.
    pub now_ns: u64,
    /// Nothing was read before.
    pub is_first: bool,
    /// Everything could be looked at: who was not seen is not there.
    pub is_whole: bool,
}

/// What is new in `readings`, to whom `before` is known.
#[must_use]
pub fn feed(before: &BTreeMap<Key, Known>, readings: Vec<Reading>, terms: Terms<'_>) -> Fed {
    let mut fed = Fed::default();
    let seen = merge(readings);
    let clocks = clocks(before, &seen, terms);
    let gone = before.iter().filter(|(key, _)| {
        let is_clock = key[0] == DEVICE;
        !is_clock && !seen.contains_key(*key)
    });
    let mut gone: Vec<(&Key, &Known)> = gone.collect();
    let clock_keys = clocks.iter().map(|clock| &clock.key);
    let wanted = clock_keys.chain(seen.keys());
    let new = wanted.filter(|key| !before.contains_key(*key)).count();
    let missing = (before.len() + new).saturating_sub(terms.room);
    // Those first that have not been seen for the longest time. An open file may be away for a moment,
    // on its way between processes: it is not new when it is seen again.
    gone.sort_by_key(|(_, known)| known.seen_ns);
    for (at, (key, known)) in gone.into_iter().enumerate() {
        let is_forgotten = at < missing;
        if is_forgotten {
            fed.forgotten.push(*key);
        }
        if terms.is_whole || is_forgotten {
            release(key, known, terms, is_forgotten, &mut fed);
        }
    }
    let mut places = (terms.room + fed.forgotten.len()).saturating_sub(before.len());
    let mut has_place = |key: &Key| {
        if before.contains_key(key) {
            return true;
        }
        let has = places > 0;
        places -= usize::from(has);
        has
    };
    for clock in &clocks {
        if has_place(&clock.key) {
            fed.known.push((clock.key, clock.now(terms)));
        }
    }
    let lengths: BTreeMap<Key, (u64, u64)> = clocks
        .iter()
        .filter_map(|clock| Some((clock.key, clock.length?)))
        .collect();
    for (key, reading) in seen {
        if has_place(&key) {
            charge(key, &reading, before.get(&key), &lengths, terms, &mut fed);
        } else {
            fed.lost += 1;
        }
    }
    fed
}

/// Each client once: charged to one, and with the most that it was seen to have used.
fn merge(readings: Vec<Reading>) -> BTreeMap<Key, Reading> {
    let mut seen: BTreeMap<Key, Reading> = BTreeMap::new();
    for reading in readings {
        let known = seen.entry(reading.key).or_insert_with(|| reading.clone());
        if reading.rank > known.rank {
            known.rank = reading.rank;
            known.cgroup = reading.cgroup;
        }
        for (known, sample) in known.samples.iter_mut().zip(&reading.samples) {
            match (&mut *known, sample) {
                (Sample::Counter(a), Sample::Counter(b)) => *a = (*a).max(*b),
                (Sample::Held(a), Sample::Held(b)) => *a = (*a).max(*b),
                (Sample::Cycles { used, whole }, Sample::Cycles { used: u, whole: w }) => {
                    *used = (*used).max(*u);
                    *whole = (*whole).max(*w);
                }
                (Sample::None, other) => *known = *other,
                _ => {}
            }
        }
    }
    seen
}

/// The clock that an engine's cycles are counted by.
struct Clock {
    key: Key,
    whole: u64,
    /// How long its cycles last: so many nanoseconds for so many of them.
    length: Option<(u64, u64)>,
}

impl Clock {
    /// What is remembered of it.
    fn now(&self, terms: Terms<'_>) -> Known {
        let mut last = vec![0; terms.forms.len()];
        if let Some(first) = last.first_mut() {
            *first = self.whole;
        }
        Known {
            cgroup: CgroupId(0),
            seen_ns: terms.now_ns,
            last,
        }
    }
}

/// Where the clock of a client's device is remembered.
fn clock_of(key: &Key) -> Key {
    let mut clock = *key;
    clock[0] = DEVICE;
    clock
}

fn clocks(
    before: &BTreeMap<Key, Known>,
    seen: &BTreeMap<Key, Reading>,
    terms: Terms<'_>,
) -> Vec<Clock> {
    let mut wholes: BTreeMap<Key, u64> = BTreeMap::new();
    for (key, reading) in seen {
        for sample in &reading.samples {
            if let Sample::Cycles { whole, .. } = sample {
                let known = wholes.entry(clock_of(key)).or_default();
                *known = (*known).max(*whole);
            }
        }
    }
    let clock = |(key, whole): (Key, u64)| {
        let length = before.get(&key).and_then(|known| {
            let cycles = whole.checked_sub(*known.last.first()?)?;
            let ns = terms.now_ns.checked_sub(known.seen_ns)?;
            (cycles > 0 && ns > 0).then_some((ns, cycles))
        });
        Clock { key, whole, length }
    };
    wholes.into_iter().map(clock).collect()
}

/// The words of the labels in a key.
#[must_use]
pub fn labels(key: &Key, terms: Terms<'_>) -> Vec<u64> {
    let words = key[IDENTITY..].iter().take(terms.label_words);
    words.copied().collect()
}

/// A client is gone: it holds nothing any more. What it used stays known, for it may come again.
fn release(key: &Key, known: &Known, terms: Terms<'_>, is_forgotten: bool, fed: &mut Fed) {
    let words = || known.last.iter().zip(terms.forms);
    let held = words().map(|(word, form)| if form.is_counter() { 0 } else { *word });
    let back: Vec<u64> = held.map(u64::wrapping_neg).collect();
    if back.iter().all(|amount| *amount == 0) {
        return;
    }
    push(fed, known.cgroup, labels(key, terms), back);
    if !is_forgotten {
        let left = words().map(|(word, form)| if form.is_counter() { *word } else { 0 });
        let known = Known {
            last: left.collect(),
            ..known.clone()
        };
        fed.known.push((*key, known));
    }
}

fn push(fed: &mut Fed, cgroup: CgroupId, labels: Vec<u64>, amounts: Vec<u64>) {
    if cgroup != CgroupId(0) && amounts.iter().any(|amount| *amount != 0) {
        fed.charges.push(Charge {
            cgroup,
            labels,
            amounts,
        });
    }
}

fn charge(
    key: Key,
    reading: &Reading,
    known: Option<&Known>,
    lengths: &BTreeMap<Key, (u64, u64)>,
    terms: Terms<'_>,
    fed: &mut Fed,
) {
    let mut last = known.map_or_else(|| vec![0; terms.forms.len()], |k| k.last.clone());
    last.resize(terms.forms.len(), 0);
    let mut amounts = vec![0; terms.forms.len()];
    let mut left = vec![0; terms.forms.len()];
    let has_moved = known.is_some_and(|k| k.cgroup != reading.cgroup);
    let mut is_junk = false;
    // What it had used before anybody read is not charged.
    let takes = |gain: u64| if terms.is_first { 0 } else { gain };
    for ((amount, left), (last, sample)) in amounts
        .iter_mut()
        .zip(&mut left)
        .zip(last.iter_mut().zip(&reading.samples))
    {
        match *sample {
            Sample::None => {}
            Sample::Counter(now) | Sample::Cycles { used: now, .. } if now >= STEP_MAX => {
                is_junk = true;
            }
            Sample::Held(now) if now >= STEP_MAX => is_junk = true,
            Sample::Counter(now) => {
                if now > *last {
                    *amount = takes(now - *last);
                    *last = now;
                }
            }
            Sample::Cycles { used, .. } => match lengths.get(&clock_of(&key)) {
                Some((ns, cycles)) if used > *last => {
                    let gain = u128::from(used - *last) * u128::from(*ns) / u128::from(*cycles);
                    let gain = u64::try_from(gain).unwrap_or(STEP_MAX);
                    is_junk |= gain >= STEP_MAX;
                    *amount = takes(if gain < STEP_MAX { gain } else { 0 });
                    *last = used;
                }
                // How long a cycle lasts is not known yet: it is charged next time.
                None if !terms.is_first => {}
                _ => *last = used.max(*last),
            },
            Sample::Held(now) => {
                if has_moved {
                    *left = last.wrapping_neg();
                    *amount = now;
                } else {
                    *amount = now.wrapping_sub(*last);
                }
                *last = now;
            }
            Sample::Rate {
                share,
                at_ns,
                since_ns,
            } => {
                let since = if *last == 0 { since_ns } else { *last };
                let time = at_ns.saturating_sub(since).min(RATE_MAX_NS);
                let gain = u128::from(time) * u128::from(share.min(10_000)) / 10_000;
                *amount = takes(u64::try_from(gain).unwrap_or(0));
                *last = at_ns.max(*last);
            }
        }
    }
    fed.lost += u64::from(is_junk);
    if let Some(known) = known.filter(|_| has_moved) {
        push(fed, known.cgroup, labels(&key, terms), left);
    }
    push(fed, reading.cgroup, labels(&key, terms), amounts);
    let next = Known {
        cgroup: reading.cgroup,
        seen_ns: terms.now_ns,
        last,
    };
    fed.known.push((key, next));
}

#[cfg(test)]
mod tests;
