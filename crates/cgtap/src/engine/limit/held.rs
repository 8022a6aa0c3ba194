//! Limits on what is held, of figures that are read: what they have taken is what is known to be held.

use std::collections::BTreeMap;

use cgtap_sys::SysError;
use cgtap_sys::bpf::Map;

use super::super::error::{Error, Result};
use super::super::session::{Session, words};
use super::words::{BudgetWords, map_of};
use crate::budget::emit::LEVELS_MAX;
use crate::budget::words::word;
use crate::id::CgroupId;
use crate::meter::shape::CLIMB_MAX;

impl Session {
    /// Lets each budget of a group have taken what is held by the cgroups that are charged to it. Only readers
    /// charge those, under the state's exclusive lock: so no charge is lost by it. Where readers charged all
    /// that changed, this changes nothing; a limit that was set later has what was held before.
    pub(in crate::engine) fn hold(
        &self,
        number: u32,
        held: &BTreeMap<CgroupId, u64>,
    ) -> Result<()> {
        let limits = &self.config.limits;
        let Some(charger) = limits.groups.get(&number).and_then(|g| g.charger.as_ref()) else {
            return Ok(());
        };
        let map = |name: &str| map_of(self, &self.config, charger.instance, name);
        let (chains, gone) = (map("chains")?, map("gone")?);
        let sys = |e: SysError| Error::sys("find the budgets of what is held", &e);
        let (all, places) = (self.budget_words()?, self.places()?);
        let own = self.own(&self.config)?;
        let own = own.iter().filter(|((group, _), _)| *group == number);
        let shared = limits.patterns.iter().filter(|p| p.group == number);
        let shared: Vec<u32> = shared.map(|p| p.shared).collect();
        let own = own.filter(|((_, cgroup), slot)| {
            shared.contains(slot) || self.is_of(places.as_ref(), **slot, *cgroup)
        });
        let slots = own.map(|(_, slot)| *slot).chain(shared.iter().copied());
        let mut taken: BTreeMap<u32, u64> = slots.map(|slot| (slot, 0)).collect();
        for (cgroup, bytes) in held.iter().filter(|(_, bytes)| **bytes > 0) {
            let mut at = *cgroup;
            let mut first = None;
            for _ in 0..=CLIMB_MAX {
                let look = |map: &Map| map.lookup(&at.0.to_ne_bytes());
                first = look(&chains).map_err(sys)?.and_then(|v| words(&v).next());
                let above = look(&gone).map_err(sys)?.and_then(|v| words(&v).next());
                match (first, above) {
                    (None, Some(above)) => at = CgroupId(above),
                    _ => break,
                }
            }
            let mut next = first.and_then(|slot| u32::try_from(slot).ok());
            for _ in 0..LEVELS_MAX {
                let Some(slot) = next else { break };
                if let Some(sum) = taken.get_mut(&slot) {
                    *sum = sum.saturating_add(*bytes);
                }
                let up = BudgetWords::of(&all, slot).read()[word::UP];
                next = up.checked_sub(1).and_then(|slot| u32::try_from(slot).ok());
            }
        }
        for (slot, bytes) in taken {
            BudgetWords::of(&all, slot).hold(bytes);
        }
        Ok(())
    }
}
