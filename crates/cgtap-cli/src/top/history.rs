//! What a column of a cgroup was like before: as many points as there is room for.

use std::collections::VecDeque;

/// The most points of one history.
pub const POINTS: usize = 120;
/// The fewest, however many cgroups there are.
const FEWEST: usize = 16;
/// The points of all histories together.
const ALL_POINTS: usize = 640_000;
/// How many points there is room for at first: allocations of few sizes leave few holes.
const FIRST: usize = 16;

/// How many points each of `rings` histories may have.
pub fn limit(rings: usize) -> usize {
    (ALL_POINTS / rings.max(1)).clamp(FEWEST, POINTS)
}

/// The last points. Those before the first that is not 0 take no memory: most cgroups do nothing.
#[derive(Clone, Debug, Default)]
struct Ring {
    zeros: u32,
    points: VecDeque<f32>,
}

impl Ring {
    fn push(&mut self, point: f32, limit: usize) {
        if self.points.len() == self.points.capacity() && point != 0.0 {
            let room = if self.points.len() < FIRST {
                limit.min(FIRST)
            } else {
                limit
            };
            self.points
                .reserve_exact(room.saturating_sub(self.points.len()).max(1));
        }
        self.points.push_back(point);
        while self.zeros() + self.points.len() > limit {
            if self.zeros > 0 {
                self.zeros -= 1;
            } else {
                self.points.pop_front();
            }
        }
        while self.points.front() == Some(&0.0) {
            self.points.pop_front();
            self.zeros += 1;
        }
        if self.points.is_empty() {
            self.points = VecDeque::new();
        } else if self.points.capacity() > limit.max(FIRST) + 1 {
            self.points.shrink_to(limit);
        }
    }

    fn zeros(&self) -> usize {
        usize::try_from(self.zeros).unwrap_or(usize::MAX)
    }

    fn points(&self) -> impl Iterator<Item = f32> {
        std::iter::repeat_n(0.0, self.zeros()).chain(self.points.iter().copied())
    }
}

/// The history of one column of one cgroup.
#[derive(Clone, Debug, Default)]
pub struct History {
    total: Ring,
    /// Only where it ever was another: a cgroup with none below it has one history.
    own: Option<Box<Ring>>,
}

impl History {
    /// Adds what is shown now; of all, the last `limit` stay.
    pub fn push(&mut self, own: f32, total: f32, limit: usize) {
        if self.own.is_none() && own != total {
            self.own = Some(Box::new(self.total.clone()));
        }
        if let Some(ring) = &mut self.own {
            ring.push(own, limit);
        }
        self.total.push(total, limit);
    }

    /// The points from the oldest on.
    pub fn points(&self, own: bool) -> impl Iterator<Item = f32> {
        match &self.own {
            Some(ring) if own => ring.points(),
            _ => self.total.points(),
        }
    }

    /// How many lists of points it holds in memory.
    pub fn rings(&self) -> usize {
        let own = self.own.as_ref().is_some_and(|r| !r.points.is_empty());
        usize::from(own) + usize::from(!self.total.points.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(history: &History, own: bool) -> Vec<f32> {
        history.points(own).collect()
    }

    #[test]
    fn the_last_points_stay_and_zeros_before_them_take_nothing() {
        let mut history = History::default();
        for _ in 0..5 {
            history.push(0.0, 0.0, 4);
        }
        assert_eq!(shown(&history, false), [0.0; 4]);
        assert_eq!(history.rings(), 0);
        for point in [1.0, 2.0] {
            history.push(point, point, 4);
        }
        assert_eq!(shown(&history, true), [0.0, 0.0, 1.0, 2.0]);
        assert_eq!(history.rings(), 1);
        for _ in 0..4 {
            history.push(0.0, 0.0, 4);
        }
        assert_eq!(shown(&history, false), [0.0; 4]);
        assert_eq!(history.rings(), 0);
    }

    #[test]
    fn own_begins_where_it_differs() {
        let mut history = History::default();
        history.push(1.0, 1.0, 9);
        history.push(1.0, 3.0, 9);
        assert_eq!(shown(&history, true), [1.0, 1.0]);
        assert_eq!(shown(&history, false), [1.0, 3.0]);
        assert_eq!(history.rings(), 2);
    }

    #[test]
    fn a_smaller_limit_forgets_the_oldest_and_frees_their_memory() {
        let mut ring = Ring::default();
        for point in 1..=120_u16 {
            ring.push(f32::from(point), POINTS);
        }
        assert!(ring.points.capacity() <= POINTS + 1);
        ring.push(121.0, 16);
        assert_eq!(ring.points().count(), 16);
        assert_eq!(ring.points().last(), Some(121.0));
        assert!(ring.points.capacity() <= 32);
    }

    #[test]
    fn the_more_histories_the_fewer_points_each() {
        assert_eq!(limit(0), POINTS);
        assert_eq!(limit(1_000), POINTS);
        assert_eq!(limit(10_000), 64);
        assert_eq!(limit(10_000_000), FEWEST);
    }
}
