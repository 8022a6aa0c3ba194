//! What meters counted, read.
//!
//! Entries are read first, then the cgroups that there are, then which are gone: so each entry's
//! cgroup is in the second or in the third. While entries are read nothing is moved between cgroups:
//! the programs that do are asked to wait a moment, and a counter tells if one could not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cgtap_sys::SysError;
use cgtap_sys::bpf::{Map, MapEntry, get_map};
use cgtap_sys::memory::Words;

use super::error::{Error, Result};
use super::feed;
use super::follow;
use super::query::lost_by_hook;
use super::report::{Histogram, UsageReport, UsageRow, UsageValue};
use super::request::UsageRequest;
use super::session::{Session, words};
use super::{CgroupRef, Engine, Lock};
use crate::cgroup::Branch;
use crate::cgroup::name;
use crate::id::{CgroupId, InstanceId};
use crate::meter::record::{MeterRecord, ValueRecord};
use crate::meter::shape::{control, words_of_form, words_that_move};
use crate::meter::usage::{BUCKETS, Form, Loser};
use crate::store::config::InstanceRecord;
use crate::store::pins;

/// Cgroups above one that is gone that are gone too.
const CLIMB_MAX: usize = 64;
/// How long the programs that move usage wait for a reader at the most.
const HOLD: Duration = Duration::from_millis(200);
/// How often entries are read again because some were moved meanwhile.
const READS_MAX: usize = 50;

/// The values of one cgroup and labels.
type Entry = Vec<u64>;
/// What stands in a key behind the cgroup.
type LabelWords = Vec<u64>;

/// What a meter counted: by cgroup, by labels.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Cgroups are those that there are.
    pub(super) own: HashMap<CgroupId, BTreeMap<LabelWords, Entry>>,
    /// Events that were not charged.
    pub(super) lost: u64,
    unowned: u64,
    unpaired: u64,
    other_labels: u64,
}

/// The maps of a meter, opened.
struct Maps {
    usage: Map,
    gone: Map,
    words: Words,
}

impl Maps {
    fn open(session: &Session, id: InstanceId, record: &InstanceRecord) -> Result<Self> {
        let open = |name: &str| {
            let pin = record
                .maps
                .iter()
                .find(|m| m.name == name)
                .and_then(|m| m.pin.as_deref());
            let path = session.path(&pins::map(id, pin.unwrap_or(name)));
            get_map(&path).map_err(|e| Error::sys(format!("open {}", path.display()), &e))
        };
        let control = open("control")?;
        Ok(Self {
            usage: open("usage")?,
            gone: open("gone")?,
            words: Words::map(&control)
                .map_err(|e| Error::sys("map the control words of a meter", &e))?,
        })
    }

    /// Every entry, none of them moved from one cgroup to another meanwhile.
    fn entries(&self, name: &str) -> Result<Vec<MapEntry>> {
        let sys = |e: SysError| Error::sys(format!("read what the meter {name} counted"), &e);
        for _ in 0..READS_MAX {
            let until = now() + HOLD;
            self.words
                .set(control::HOLD_UNTIL_NS, until.as_nanos() as u64);
            let before = self.words.get(control::MOVES);
            let entries = self.usage.entries().map_err(sys)?;
            if before.is_multiple_of(2) && self.words.get(control::MOVES) == before {
                self.words.set(control::HOLD_UNTIL_NS, 0);
                return Ok(entries);
            }
        }
        self.words.set(control::HOLD_UNTIL_NS, 0);
        Err(Error::new(
            super::ErrorKind::Full,
            format!(
                "cannot read what the meter {name} counted: cgroups are removed faster than it is \
                 read; try again"
            ),
        )
        .with_errno(cgtap_sys::Errno::EAGAIN))
    }

    fn lost(&self) -> u64 {
        self.words.get(control::LOST) + self.words.get(control::NOTES_LOST)
    }
}

/// The clock of `bpf_ktime_get_ns()`.
pub(super) fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// A meter's entries, and how to tell what became of a cgroup.
pub(super) struct Raw<'a> {
    pub(super) record: &'a MeterRecord,
    entries: Vec<(CgroupId, LabelWords, Entry)>,
    maps: Maps,
}

impl<'a> Raw<'a> {
    /// Reads the entries of a meter.
    pub(super) fn read(
        session: &Session,
        id: InstanceId,
        record: &'a InstanceRecord,
    ) -> Result<Option<Self>> {
        let Some(meter) = &record.meter else {
            return Ok(None);
        };
        let maps = Maps::open(session, id, record)?;
        let entries = maps.entries(&meter.name)?;
        let entries = entries
            .into_iter()
            .map(|(key, value)| {
                let mut key = words(&key);
                let cgroup = CgroupId(key.next().unwrap_or_default());
                (cgroup, key.collect(), words(&value).collect())
            })
            .collect();
        Ok(Some(Self {
            record: meter,
            entries,
            maps,
        }))
    }

    /// What each cgroup of `listing` used: what those that are gone used is that of the nearest one
    /// above them that is there.
    pub(super) fn settle(self, listing: &Listing) -> Result<Reading> {
        let sys = |e: SysError| Error::sys("read which cgroups are gone", &e);
        let mut reading = Reading {
            lost: self.maps.lost(),
            unowned: self.maps.words.get(control::UNOWNED),
            unpaired: self.maps.words.get(control::UNPAIRED),
            other_labels: self.maps.words.get(control::OTHER),
            ..Reading::default()
        };
        let mut homes: HashMap<CgroupId, Option<CgroupId>> = HashMap::new();
        for (cgroup, labels, entry) in self.entries {
            let home = match homes.get(&cgroup) {
                Some(home) => *home,
                None => {
                    let mut at = cgroup;
                    let mut climbed = 0;
                    while !listing.has(at) && climbed < CLIMB_MAX {
                        let above = self.maps.gone.lookup(&at.0.to_ne_bytes()).map_err(sys)?;
                        let Some(above) = above.and_then(|a| words(&a).next()) else {
                            break;
                        };
                        at = CgroupId(above);
                        climbed += 1;
                    }
                    // Gone so long that nobody knows what was above: it is the root's.
                    let home = if listing.has(at) {
                        Some(at)
                    } else {
                        listing.root()
                    };
                    homes.insert(cgroup, home);
                    home
                }
            };
            let Some(home) = home else { continue };
            let at = reading.own.entry(home).or_default().entry(labels);
            let to = at.or_insert_with(|| vec![0; entry.len()]);
            add_entry(self.record, to, &entry, home == cgroup);
        }
        Ok(reading)
    }
}

/// Adds an entry to another. The peaks of one that is gone are not those of what is above.
fn add_entry(record: &MeterRecord, to: &mut [u64], entry: &[u64], is_own: bool) {
    for value in &record.values {
        let at = value.offset as usize / 8;
        let width = if is_own {
            words_of_form(value.form)
        } else {
            words_that_move(value.form)
        };
        for word in at..at + width {
            to[word] = to[word].wrapping_add(entry[word]);
        }
    }
}

/// The cgroups that there are.
pub(super) struct Listing {
    pub(super) branches: Vec<Branch>,
    places: HashMap<CgroupId, usize>,
}

impl Listing {
    /// `top` and all below it.
    pub(super) fn read(session: &Session) -> Result<Self> {
        let top = super::find_cgroup(&session.hierarchy, &CgroupRef::Path("/".into()))?;
        let branches = session.hierarchy.listing(&top);
        let places = branches.iter().enumerate().map(|(at, b)| (b.id, at));
        Ok(Self {
            places: places.collect(),
            branches,
        })
    }

    fn has(&self, id: CgroupId) -> bool {
        self.places.contains_key(&id)
    }

    fn root(&self) -> Option<CgroupId> {
        self.branches.first().map(|b| b.id)
    }

    /// Where a cgroup is in the listing.
    pub(super) fn place(&self, id: CgroupId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// What each cgroup and those below it come to, by place.
    pub(super) fn totals(
        &self,
        record: &MeterRecord,
        reading: &Reading,
    ) -> Vec<BTreeMap<LabelWords, Entry>> {
        let mut totals: Vec<BTreeMap<LabelWords, Entry>> = self
            .branches
            .iter()
            .map(|b| reading.own.get(&b.id).cloned().unwrap_or_default())
            .collect();
        // In reverse order each cgroup comes after all below it.
        for at in (1..self.branches.len()).rev() {
            let (before, from) = totals.split_at_mut(at);
            let Some(to) = before.get_mut(self.branches[at].parent) else {
                continue;
            };
            for (labels, entry) in &from[0] {
                let sum = to
                    .entry(labels.clone())
                    .or_insert_with(|| vec![0; entry.len()]);
                add_entry(record, sum, entry, false);
            }
        }
        totals
    }
}

impl Engine {
    /// What cgroups used, by all meters that count.
    ///
    /// # Errors
    /// [`Error`]: a cgroup that is not there, a state that cannot be read; EAGAIN if cgroups are
    /// removed faster than usage can be read.
    pub fn usage(&self, request: &UsageRequest) -> Result<UsageReport> {
        let hierarchy = self.hierarchy()?;
        let root = CgroupRef::Path("/".into());
        let asked = super::find_cgroup(&hierarchy, request.cgroup.as_ref().unwrap_or(&root))?;
        let Some(mut session) = Session::open(self.state(), Lock::Shared, hierarchy)? else {
            return Ok(UsageReport::default());
        };
        let mut unread = Vec::new();
        if follow::is_wanted(&session) {
            drop(session);
            unread = self.follow();
            let opened = Session::open(self.state(), Lock::Shared, self.hierarchy()?)?;
            match opened {
                Some(opened) => session = opened,
                None => return Ok(UsageReport::default()),
            }
        }
        if feed::is_wanted(&session) {
            drop(session);
            match self.feed()? {
                Some((fed, words)) => {
                    session = fed;
                    unread.extend(words);
                }
                None => return Ok(UsageReport::default()),
            }
        }
        let mut raws = Vec::new();
        for (id, record) in &session.config.instances {
            let counts = |m: &MeterRecord| !m.is_private();
            if record.meter.as_ref().is_some_and(counts) {
                let raw = Raw::read(&session, *id, record)?;
                raws.extend(raw.map(|raw| (*id, raw)));
            }
        }
        raws.sort_by(|(_, a), (_, b)| a.record.name.cmp(&b.record.name));
        let listing = Listing::read(&session)?;
        let mut report = UsageReport {
            unread,
            ..UsageReport::default()
        };
        let Some(first) = listing.place(asked.id) else {
            return Ok(report);
        };
        let level = listing.branches[first].level;
        // Those below it come right behind it.
        let below = listing.branches[first + 1..]
            .iter()
            .take_while(|b| b.level > level)
            .count();
        let last = if request.recursive {
            first + below
        } else {
            first
        };
        let shown: Vec<usize> = (first..=last)
            .filter(|at| {
                let depth = listing.branches[*at].level - level;
                request.depth.is_none_or(|most| depth <= most)
            })
            .collect();
        let branches = shown.iter().map(|at| &listing.branches[*at]);
        let names = name::of_paths(branches.clone().map(|b| b.path.as_str()));
        report.cgroups = branches
            .zip(names)
            .map(|(branch, name)| UsageRow {
                name: name.as_ref().map(ToString::to_string),
                image: name.and_then(|name| name.image),
                cgroup: branch.path.clone(),
                cgroup_id: branch.id,
                meters: Vec::new(),
            })
            .collect();
        report.losses = lost_at_hooks(&session)?;
        for (instance, raw) in raws {
            let record = raw.record;
            let reading = raw.settle(&listing)?;
            report.losses.insert(Loser::Meter(instance), reading.lost);
            report.unowned += reading.unowned;
            report.unpaired += reading.unpaired;
            report.other_labels += reading.other_labels;
            let totals = listing.totals(record, &reading);
            let mut shower = Shower::new(record);
            report.help.extend(shower.help());
            for (row, at) in report.cgroups.iter_mut().zip(&shown) {
                let own = reading.own.get(&row.cgroup_id);
                for (labels, total) in &totals[*at] {
                    let own = own.and_then(|o| o.get(labels));
                    row.meters.extend(shower.values(labels, own, total));
                }
            }
        }
        report.lost = report.losses.values().sum();
        Ok(report)
    }
}

/// Events that ran no program, at each hook where meters count.
fn lost_at_hooks(session: &Session) -> Result<BTreeMap<Loser, u64>> {
    let is_meter = |id: InstanceId| {
        let record = session.config.instances.get(&id);
        record.is_some_and(|r| r.meter.as_ref().is_some_and(|m| !m.is_private()))
    };
    let lost = lost_by_hook(session, |hook| {
        let mut all = hook.lists.attachments();
        all.any(|(_, a)| is_meter(a.program.instance))
    })?;
    let lost = lost.into_iter().map(|(id, lost)| (Loser::Hook(id.0), lost));
    Ok(lost.collect())
}

/// Makes values to be shown of entries; those of one meter share names and labels.
pub(super) struct Shower<'a> {
    record: &'a MeterRecord,
    names: Vec<Arc<str>>,
    labels: BTreeMap<LabelWords, Arc<BTreeMap<String, String>>>,
}

impl<'a> Shower<'a> {
    pub(super) fn new(record: &'a MeterRecord) -> Self {
        let names = record.values.iter().map(|v| record.value_name(v).into());
        Self {
            record,
            names: names.collect(),
            labels: BTreeMap::new(),
        }
    }

    /// What each value tells, by its name.
    fn help(&self) -> Vec<(Arc<str>, String)> {
        let help = self.record.values.iter().map(|v| v.help.clone());
        self.names.iter().cloned().zip(help).collect()
    }

    /// The values of an entry.
    pub(super) fn values(
        &mut self,
        words: &[u64],
        own: Option<&Entry>,
        total: &Entry,
    ) -> Vec<UsageValue> {
        let record = self.record;
        let labels = match self.labels.get(words) {
            Some(labels) => Arc::clone(labels),
            None => {
                let names = record.labels.iter().map(|l| l.name.clone());
                // Of nothing there are no labels.
                let texts = record.label_texts(words);
                let labels = names.zip(texts).filter(|_| !words.is_empty());
                let labels = Arc::new(labels.collect::<BTreeMap<_, _>>());
                self.labels.insert(words.to_vec(), Arc::clone(&labels));
                labels
            }
        };
        let named = record.values.iter().zip(&self.names);
        named
            .map(|(value, name)| shown(value, name, &labels, own, total))
            .collect()
    }
}

fn shown(
    value: &ValueRecord,
    name: &Arc<str>,
    labels: &Arc<BTreeMap<String, String>>,
    own: Option<&Entry>,
    total: &Entry,
) -> UsageValue {
    let at = value.offset as usize / 8;
    let number = |entry: &Entry, word: usize| {
        let number = entry.get(word).copied().unwrap_or(0);
        match value.form {
            // More may have been given back than was taken since the meter counts.
            Form::Gauge => number.cast_signed().max(0).cast_unsigned(),
            _ => number,
        }
    };
    let buckets = |entry: &Entry| {
        let all = entry.get(at + 1..=at + BUCKETS).unwrap_or_default();
        let used = all.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        all[..used].to_vec()
    };
    UsageValue {
        meter: Arc::clone(name),
        kind: value.truth,
        unit: value.unit,
        form: value.form,
        labels: Arc::clone(labels),
        own: own.map_or(0, |e| number(e, at)),
        total: number(total, at),
        peak: (value.form == Form::Gauge).then(|| own.map_or(0, |e| number(e, at + 1))),
        histogram: (value.form == Form::Hist).then(|| Histogram {
            own_buckets: own.map(buckets).unwrap_or_default(),
            total_buckets: buckets(total),
        }),
    }
}
