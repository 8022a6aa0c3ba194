//! What it takes to make meters and limits what a policy says, and doing it.

use std::collections::BTreeMap;

use cgtap::engine::{
    CgroupRef, Engine, Lifetime, LimitChange, LimitReport, LimitRequest, PatternReport,
    PatternRequest,
};
use cgtap::id::CgroupId;
use cgtap::meter::usage::Unit;
use cgtap::meter::written::Meter;
use serde::Serialize;

use super::read::Key;
use crate::failure::Failure;
use crate::render;

/// How a limit stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stand {
    /// What it is of.
    pub unit: Unit,
    /// How much.
    pub amount: u64,
    /// Each so many nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_ns: Option<u64>,
    /// How much may gather.
    pub burst: u64,
    /// What happens then.
    pub on: String,
    /// Only while others want their share.
    pub borrow: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// A meter counts from now on.
    Enable,
    /// A limit is set.
    Set,
    /// A limit becomes another.
    Change,
    /// A limit goes.
    Clear,
    /// What a pattern matches later is limited by itself from now on.
    Follow,
    /// What a pattern matches later is limited by itself no more.
    Unfollow,
}

/// A difference between what is and what is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What is done.
    pub change: Act,
    /// Path of the cgroup.
    pub cgroup: String,
    /// The meter, or what is limited.
    pub meter: String,
    /// How the limit is to stand; how it stood if it goes.
    #[serde(flatten)]
    pub stand: Option<Stand>,
    /// How it stood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<Stand>,
    /// Cgroups that come later and that the policy means are held too, with no process alive.
    pub covers_later: bool,
}

/// Whom a limit of the file reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// File and line.
    pub place: String,
    /// The cgroup or pattern, as written.
    pub written: String,
    /// For a pattern, the cgroups that it matches now.
    pub matches: Option<usize>,
    /// Why what a pattern matches later is not limited by itself; none if it is.
    pub obstacle: Option<String>,
    /// The line.
    pub line: usize,
}

/// A limit that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its cgroup.
    pub id: CgroupId,
    /// Path of that.
    pub path: String,
    /// Which limit of the file says so.
    pub entry: usize,
    /// It names the cgroup itself.
    pub is_exact: bool,
    /// All that the file means by it, and that comes later, is held by itself.
    pub covers_later: bool,
    /// How it is to stand.
    pub stand: Stand,
}

/// A meter that is to count.
#[derive(Clone, Debug)]
pub struct WantedMeter {
    /// The meter.
    pub meter: Meter,
    /// Its cgroup.
    pub id: CgroupId,
    /// Path of that.
    pub path: String,
}

/// All differences.
#[derive(Debug, Default)]
pub struct Difference {
    /// As they are told.
    pub changes: Vec<Change>,
    /// Meters and limits that are as they are to be.
    pub kept: usize,
    /// Limit by limit of the file, whom it reaches.
    pub reach: Vec<Reach>,
    meters: Vec<WantedMeter>,
    limits: LimitChange,
}

impl Change {
    /// It says how something is from now on.
    pub fn is_to_be(&self) -> bool {
        !matches!(self.change, Act::Clear | Act::Unfollow)
    }
}

impl Stand {
    fn of(limit: &LimitReport) -> Self {
        Self {
            unit: limit.unit,
            amount: limit.amount,
            period_ns: limit.period_ns,
            burst: limit.burst,
            on: limit.on.clone(),
            borrow: limit.borrow,
        }
    }

    fn later(report: &PatternReport) -> Self {
        Self {
            unit: report.unit,
            amount: report.amount,
            period_ns: report.period_ns,
            burst: report.burst,
            on: report.on.clone(),
            borrow: report.borrow,
        }
    }
}

/// A pattern, what it limits, and how.
type Followed<'a> = (String, String, &'a BTreeMap<String, String>, Stand);

impl Difference {
    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Notes a meter that is to be enabled.
    pub fn enable(&mut self, wanted: WantedMeter) {
        self.changes.push(Change {
            change: Act::Enable,
            cgroup: wanted.path.clone(),
            meter: wanted.meter.name.clone(),
            stand: None,
            was: None,
            covers_later: true,
        });
        self.meters.push(wanted);
    }

    /// Notes what makes the limits `in_force` those that are `wanted`: a limit that stands as it is to
    /// is left alone, whoever set it, and only what a policy set goes.
    pub fn compare(
        &mut self,
        wanted: &BTreeMap<Key, Wanted>,
        in_force: &[LimitReport],
        make: impl Fn(&Wanted) -> LimitRequest,
    ) {
        let key = |l: &LimitReport| (l.cgroup_id, l.meter.clone(), l.labels.clone());
        let there: BTreeMap<Key, &LimitReport> = in_force.iter().map(|l| (key(l), l)).collect();
        let mut changes = Vec::new();
        for (key, wanted) in wanted {
            let was = there.get(key).map(|l| Stand::of(l));
            if was.as_ref() == Some(&wanted.stand) {
                self.kept += 1;
                continue;
            }
            self.limits.set.push(make(wanted));
            changes.push(Change {
                change: if was.is_some() { Act::Change } else { Act::Set },
                cgroup: wanted.path.clone(),
                meter: render::limited(&key.1, &key.2),
                stand: Some(wanted.stand.clone()),
                was,
                covers_later: wanted.covers_later,
            });
        }
        for (key, limit) in &there {
            if limit.policy && !wanted.contains_key(key) {
                self.limits.clear.push(limit.id);
                changes.push(Change {
                    change: Act::Clear,
                    cgroup: limit.cgroup.clone(),
                    meter: render::limited(&key.1, &key.2),
                    stand: Some(Stand::of(limit)),
                    was: None,
                    covers_later: false,
                });
            }
        }
        changes
            .sort_by(|a, b| (&a.cgroup, a.change, &a.meter).cmp(&(&b.cgroup, b.change, &b.meter)));
        self.changes.extend(changes);
    }

    /// Notes what makes the patterns that are followed those that are `wanted`, in their order.
    pub fn follow(&mut self, wanted: Vec<(PatternRequest, Stand)>, in_force: &[PatternReport]) {
        let new: Vec<Followed<'_>> = (wanted.iter())
            .map(|(request, stand)| {
                let limit = &request.limit;
                let pattern = request.pattern.to_string();
                (pattern, limit.value_name(), &limit.labels, stand.clone())
            })
            .collect();
        let old: Vec<Followed<'_>> = (in_force.iter())
            .map(|r| {
                let (pattern, meter) = (r.pattern.clone(), r.meter.clone());
                (pattern, meter, &r.labels, Stand::later(r))
            })
            .collect();
        if new == old {
            self.kept += new.len();
            return;
        }
        let told = |change: Act, one: &Followed<'_>| Change {
            change,
            cgroup: one.0.clone(),
            meter: render::limited(&one.1, one.2),
            stand: Some(one.3.clone()),
            was: None,
            covers_later: change == Act::Follow,
        };
        // Another order is another policy too.
        let is_sorted_only = new.len() == old.len() && new.iter().all(|n| old.contains(n));
        let come = new.iter().filter(|n| is_sorted_only || !old.contains(n));
        let gone = old.iter().filter(|o| !new.contains(o));
        let mut changes: Vec<Change> = come.map(|n| told(Act::Follow, n)).collect();
        self.kept += new.len() - changes.len();
        changes.extend(gone.map(|o| told(Act::Unfollow, o)));
        self.changes.extend(changes);
        self.limits.patterns = Some(wanted.into_iter().map(|(request, _)| request).collect());
    }

    /// Takes over what was done after it.
    pub fn and(&mut self, later: Self) {
        self.changes.extend(later.changes);
        self.reach = later.reach;
    }

    /// Does all of it, or nothing.
    ///
    /// # Errors
    /// [`Failure`]: nothing has changed then.
    pub fn apply(&self, engine: &Engine) -> Result<(), Failure> {
        let mut enabled: Vec<String> = Vec::new();
        let mut all = || {
            for wanted in &self.meters {
                let cgroup = CgroupRef::Id(wanted.id);
                let made = engine.enable_meter(&wanted.meter, &cgroup, Lifetime::Pinned)?;
                enabled.push(made.name);
            }
            let LimitChange {
                set,
                clear,
                patterns,
            } = &self.limits;
            if !set.is_empty() || !clear.is_empty() || patterns.is_some() {
                engine.change_limits(&self.limits)?;
            }
            Ok::<(), cgtap::engine::Error>(())
        };
        let Err(e) = all() else {
            return Ok(());
        };
        for name in &enabled {
            // What it failed of is what is to be told.
            if let Err(left) = engine.disable_meter(name) {
                tracing::warn!("the meter {name} counts still: {left}");
            }
        }
        Err(e.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::id::LimitId;
    use cgtap::limit::record::Action;
    use cgtap::meter::library::Library;

    fn stand(amount: u64) -> Stand {
        Stand {
            unit: Unit::Count,
            amount,
            period_ns: None,
            burst: amount,
            on: "observe".to_owned(),
            borrow: false,
        }
    }

    fn key(id: u64) -> Key {
        (CgroupId(id), "tasks_born".to_owned(), BTreeMap::new())
    }

    fn limit(id: u64, amount: u64, policy: bool) -> LimitReport {
        LimitReport {
            id: LimitId(id as u32),
            cgroup: format!("/{id}"),
            cgroup_id: CgroupId(id),
            meter: "tasks_born".to_owned(),
            labels: BTreeMap::new(),
            unit: Unit::Count,
            amount,
            period_ns: None,
            burst: amount,
            on: "observe".to_owned(),
            action: Action::Observe,
            borrow: false,
            policy,
            charged: "after",
            read_ago_ns: None,
            gates: Vec::new(),
            used: 0,
            left: 0,
            is_reached: false,
            free_in_ns: None,
            lost: 0,
            missed: 0,
            denied: 0,
            denied_amount: 0,
            denies_since_ns: None,
            denied_ago_ns: None,
        }
    }

    #[test]
    fn what_is_right_stays_and_what_is_not_a_policys_is_never_cleared() {
        let library = Library::builtin();
        let make = |wanted: &Wanted| LimitRequest {
            cgroup: CgroupRef::Id(wanted.id),
            meter: library.meters[0].clone(),
            value: String::new(),
            labels: BTreeMap::new(),
            amount: wanted.stand.amount,
            period: None,
            burst: None,
            action: None,
            force: false,
            borrow: false,
            policy: true,
        };
        let wanted: BTreeMap<Key, Wanted> = [(1, 10), (2, 20), (3, 30)]
            .map(|(id, amount)| {
                let wanted = Wanted {
                    id: CgroupId(id),
                    path: format!("/{id}"),
                    entry: 0,
                    is_exact: id == 3,
                    covers_later: id == 3,
                    stand: stand(amount),
                };
                (key(id), wanted)
            })
            .into();
        let in_force = [
            limit(1, 10, true),
            limit(2, 21, false),
            limit(4, 4, true),
            limit(5, 5, false),
        ];
        let mut difference = Difference::default();
        difference.compare(&wanted, &in_force, make);
        let told: Vec<_> = difference
            .changes
            .iter()
            .map(|c| (c.change, c.cgroup.as_str(), c.covers_later))
            .collect();
        assert_eq!(
            told,
            [
                (Act::Change, "/2", false),
                (Act::Set, "/3", true),
                (Act::Clear, "/4", false)
            ]
        );
        assert_eq!(difference.changes[0].was, Some(stand(21)));
        assert_eq!(difference.kept, 1);
        assert_eq!(difference.limits.clear, [LimitId(4)]);
        assert_eq!(difference.limits.set.len(), 2);
    }
}
