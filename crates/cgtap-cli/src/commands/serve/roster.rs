//! Which cgroups have series of their own.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cgtap::id::CgroupId;

/// The cgroups that have a series of their own in one family: those that used most, and those that
/// once did. At most twice as many as are asked for.
#[derive(Debug)]
pub struct Roster {
    top: usize,
    named: BTreeMap<CgroupId, Arc<str>>,
}

impl Roster {
    /// For the `top` that used most.
    pub fn new(top: usize) -> Self {
        Self {
            top: top.max(1),
            named: BTreeMap::new(),
        }
    }

    /// How many can be named at most.
    pub fn most(&self) -> usize {
        self.top.saturating_mul(2)
    }

    /// Whether it has a series of its own.
    pub fn has(&self, cgroup: CgroupId) -> bool {
        self.named.contains_key(&cgroup)
    }

    /// Those that have one, with their paths.
    pub fn iter(&self) -> impl Iterator<Item = (CgroupId, &Arc<str>)> {
        self.named.iter().map(|(id, path)| (*id, path))
    }

    /// Strikes a cgroup that is gone.
    pub fn strike(&mut self, cgroup: CgroupId) {
        self.named.remove(&cgroup);
    }

    /// Names those of the first `top` by use that have no name yet, and returns them. Where the
    /// roster is full the one that used least gives way, never one of the first.
    pub fn choose(
        &mut self,
        mut uses: Vec<(u64, CgroupId)>,
        path: impl Fn(CgroupId) -> Option<Arc<str>>,
    ) -> HashSet<CgroupId> {
        uses.retain(|(used, _)| *used > 0);
        let by_use = |(used, id): &(u64, CgroupId)| (std::cmp::Reverse(*used), *id);
        let top = self.top.min(uses.len());
        if top < uses.len() {
            uses.select_nth_unstable_by_key(top, by_use);
        }
        let (first, rest) = uses.split_at_mut(top);
        // In a fixed order: which of two with one path is named must not hang on chance.
        first.sort_unstable_by_key(by_use);
        let mut added = HashSet::new();
        let mut leavers: Option<Vec<CgroupId>> = None;
        for (_, cgroup) in first.iter() {
            let Some(path) = path(*cgroup) else { continue };
            // Two series of one name would spoil the whole page.
            if self.has(*cgroup) || self.named.values().any(|named| **named == *path) {
                continue;
            }
            if self.named.len() >= self.most() {
                let leavers = leavers.get_or_insert_with(|| self.leavers(first, rest));
                if let Some(leaver) = leavers.pop() {
                    self.named.remove(&leaver);
                }
            }
            if self.named.len() < self.most() {
                self.named.insert(*cgroup, path);
                added.insert(*cgroup);
            }
        }
        added
    }

    /// The named ones that are not among the first, those that used least at the end.
    fn leavers(&self, first: &[(u64, CgroupId)], rest: &[(u64, CgroupId)]) -> Vec<CgroupId> {
        let first: HashSet<CgroupId> = first.iter().map(|(_, id)| *id).collect();
        let mut used: BTreeMap<CgroupId, u64> = self
            .named
            .keys()
            .filter(|id| !first.contains(id))
            .map(|id| (*id, 0))
            .collect();
        for (use_, cgroup) in rest {
            used.entry(*cgroup).and_modify(|used| *used = *use_);
        }
        let mut order: Vec<_> = used.into_iter().map(|(id, used)| (used, id)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        order.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(roster: &mut Roster, uses: &[(u64, u64)]) -> Vec<u64> {
        let uses = uses.iter().map(|(used, id)| (*used, CgroupId(*id)));
        let path = |id: CgroupId| Some(Arc::from(format!("/{id}")));
        let added = roster.choose(uses.collect(), path);
        let mut added: Vec<u64> = added.into_iter().map(|id| id.0).collect();
        added.sort_unstable();
        added
    }

    #[test]
    fn the_first_are_named_and_stay_named() {
        let mut roster = Roster::new(2);
        assert_eq!(
            choose(&mut roster, &[(5, 1), (9, 2), (7, 3), (0, 4)]),
            [2, 3]
        );
        assert_eq!(choose(&mut roster, &[(50, 1), (9, 2), (7, 3), (0, 4)]), [1]);
        assert!(choose(&mut roster, &[(50, 1), (9, 2), (7, 3), (8, 4)]).is_empty());
        assert!([1, 2, 3].iter().all(|id| roster.has(CgroupId(*id))));
    }

    #[test]
    fn where_it_is_full_the_least_gives_way() {
        let mut roster = Roster::new(1);
        choose(&mut roster, &[(1, 1)]);
        choose(&mut roster, &[(1, 1), (2, 2)]);
        assert_eq!(choose(&mut roster, &[(1, 1), (2, 2), (3, 3)]), [3]);
        assert_eq!(
            roster.iter().map(|(id, _)| id.0).collect::<Vec<_>>(),
            [2, 3]
        );
        roster.strike(CgroupId(3));
        assert_eq!(choose(&mut roster, &[(4, 1), (2, 2)]), [1]);
    }

    #[test]
    fn what_used_nothing_is_not_named_and_neither_is_a_path_twice() {
        let mut roster = Roster::new(3);
        assert!(choose(&mut roster, &[(0, 1)]).is_empty());
        let same = |_| Some(Arc::from("/same"));
        let added = roster.choose(vec![(1, CgroupId(1)), (2, CgroupId(2))], same);
        assert_eq!(added.into_iter().map(|id| id.0).collect::<Vec<_>>(), [2]);
    }
}
