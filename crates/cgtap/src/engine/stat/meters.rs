//! Counting by meters: hooks with values, labels and conditions.

use std::collections::{BTreeMap, BTreeSet};

use super::super::meter::Compiled;
use super::super::query::lost_at;
use super::super::report::UsageValue;
use super::super::session::Session;
use super::super::usage::{Listing, Raw, Reading, Shower};
use super::super::{CgroupRef, Detach, Engine, ErrorKind, Lifetime, Lock, Result};
use crate::id::{CgroupId, InstanceId};
use crate::meter::record::MeterRecord;
use crate::meter::written::Meter;

/// Meters that count for this process: for each cgroup that was asked for one instance a meter. They
/// go with this value, or with the process.
#[derive(Debug)]
pub(super) struct Meters {
    engine: Engine,
    /// In the order of the cgroups that were asked for.
    cgroups: Vec<Vec<InstanceId>>,
    lost_before: u64,
    is_finished: bool,
}

/// What a meter counted for a cgroup that was asked for.
pub(super) struct MeterCounts {
    record: MeterRecord,
    reading: Reading,
    /// By place in the listing.
    totals: Vec<BTreeMap<Vec<u64>, Vec<u64>>>,
}

/// What the meters of each cgroup counted.
pub(super) struct MeterTable {
    listing: Listing,
    /// By cgroup that was asked for, then by meter; none of one that somebody detached.
    counts: Vec<Vec<Option<MeterCounts>>>,
}

impl Meters {
    /// Starts counting. Nothing is touched if there are no meters.
    pub fn start(engine: &Engine, cgroups: &[CgroupRef], meters: &[&Meter]) -> Result<Self> {
        let mut started = Self {
            engine: engine.clone(),
            cgroups: Vec::new(),
            lost_before: 0,
            is_finished: false,
        };
        if meters.is_empty() {
            return Ok(started);
        }
        // What is wrong with one is told before any is loaded.
        let compiled: Vec<Compiled<'_>> = meters
            .iter()
            .map(|meter| Compiled::new(meter).map(Compiled::for_loading))
            .collect::<Result<_>>()?;
        for cgroup in cgroups {
            // What was started goes again with `started` if a later one fails.
            started.cgroups.push(Vec::new());
            for meter in &compiled {
                let enabled = engine.enable_compiled(meter, cgroup, Lifetime::Process)?;
                if let Some(last) = started.cgroups.last_mut() {
                    last.push(enabled.instance);
                }
            }
        }
        if let Some(session) = started.session()? {
            started.lost_before = started.lost(&session)?;
        }
        Ok(started)
    }

    fn session(&self) -> Result<Option<Session>> {
        if self.cgroups.is_empty() {
            return Ok(None);
        }
        Session::open(self.engine.state(), Lock::Shared, self.engine.hierarchy()?)
    }

    /// Events lost at the hooks of these meters.
    fn lost(&self, session: &Session) -> Result<u64> {
        let own: BTreeSet<InstanceId> = self.cgroups.iter().flatten().copied().collect();
        lost_at(session, |hook| {
            let mut all = hook.lists.attachments();
            all.any(|(_, a)| own.contains(&a.program.instance))
        })
    }

    /// What was counted, and how many events were lost.
    pub fn read(&self) -> Result<Option<(MeterTable, u64)>> {
        let Some(session) = self.session()? else {
            return Ok(None);
        };
        let mut gone = 0;
        let mut raws: Vec<Vec<Option<Raw<'_>>>> = Vec::new();
        for instances in &self.cgroups {
            let mut own = Vec::new();
            for id in instances {
                let record = session.config.instances.get(id);
                let raw = record.map(|record| Raw::read(&session, *id, record));
                let raw = raw.transpose()?.flatten();
                if raw.is_none() {
                    tracing::warn!("what instance {id} counted is not known: somebody detached it");
                    gone += 1;
                }
                own.push(raw);
            }
            raws.push(own);
        }
        let listing = Listing::read(&session)?;
        let mut lost = gone + self.lost(&session)?.saturating_sub(self.lost_before);
        let mut counts = Vec::new();
        for own in raws {
            let mut of_cgroup = Vec::new();
            for raw in own {
                let Some(raw) = raw else {
                    of_cgroup.push(None);
                    continue;
                };
                let record = raw.record.clone();
                let reading = raw.settle(&listing)?;
                lost += reading.lost;
                of_cgroup.push(Some(MeterCounts {
                    totals: listing.totals(&record, &reading),
                    record,
                    reading,
                }));
            }
            counts.push(of_cgroup);
        }
        Ok(Some((MeterTable { listing, counts }, lost)))
    }

    /// Stops counting.
    pub fn stop(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_finished, true) {
            return Ok(());
        }
        for id in self.cgroups.iter().flatten() {
            match self.engine.detach(&Detach::Instance(*id)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Meters {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            tracing::warn!("the meters are still attached: {e}");
        }
    }
}

impl MeterTable {
    /// What meter `meter` of the `at`th cgroup that was asked for counted for a cgroup and those
    /// below it; all zeros, without labels, if that is nothing; empty if it is not known. Of one that
    /// `is_asked` for itself it is all that was counted, also when it is gone and that is its parent's.
    pub fn values(
        &self,
        at: usize,
        meter: usize,
        cgroup: CgroupId,
        is_asked: bool,
    ) -> Vec<UsageValue> {
        let counts = self.counts.get(at).and_then(|c| c.get(meter));
        let Some(Some(counts)) = counts else {
            return Vec::new();
        };
        let record = &counts.record;
        let own = counts.reading.own.get(&cgroup);
        let nothing = BTreeMap::new();
        let root = is_asked.then_some(0);
        let place = self.listing.place(cgroup).or(root);
        let totals = place.and_then(|place| counts.totals.get(place));
        let totals = totals.unwrap_or(&nothing);
        let mut shower = Shower::new(record);
        let mut values = Vec::new();
        for (labels, total) in totals {
            let own = own.and_then(|o| o.get(labels));
            values.extend(shower.values(labels, own, total));
        }
        if values.is_empty() {
            values = shower.values(&[], None, &Vec::new());
        }
        values
    }
}
