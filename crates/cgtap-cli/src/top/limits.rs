//! How limits stand, and which cgroups they hold back.

use cgtap::engine::LimitReport;
use cgtap::limit::record::Action;

use super::format::amount;
use super::model::{Node, above};
use crate::render::limit_value;

/// The limits of a reading, and the nodes that they hold back.
#[derive(Debug, Default)]
pub struct Limits {
    /// In the order of their cgroups' paths.
    all: Vec<LimitReport>,
    /// By node; empty if there are no limits.
    held: Vec<bool>,
}

impl Limits {
    /// Of `nodes`, which are ordered by their paths.
    pub fn of(mut all: Vec<LimitReport>, nodes: &[Node]) -> Self {
        all.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        let mut limits = Self {
            all,
            held: Vec::new(),
        };
        if limits.is_empty() {
            return limits;
        }
        limits.held.reserve_exact(nodes.len());
        for node in nodes {
            // A parent stands before it. Above the uppermost node there may be limits too.
            let parent = node.parent;
            let end = parent.and_then(|p| nodes.get(p)).map(|p| &*p.path);
            let held = parent.is_some_and(|p| limits.holds(p))
                || self_and_above(&node.path)
                    .take_while(|path| Some(*path) != end)
                    .any(|path| limits.own(path).iter().any(is_holding));
            limits.held.push(held);
        }
        limits
    }

    /// All of them.
    pub fn all(&self) -> &[LimitReport] {
        &self.all
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the node at `place` is held back, by a limit of its own or of a cgroup above it.
    pub fn holds(&self, place: usize) -> bool {
        self.held.get(place).copied().unwrap_or_default()
    }

    /// Those of the cgroup at `path`.
    fn own(&self, path: &str) -> &[LimitReport] {
        let first = self.all.partition_point(|l| l.cgroup.as_str() < path);
        let rest = self.all.get(first..).unwrap_or_default();
        let end = rest.partition_point(|l| l.cgroup == path);
        rest.get(..end).unwrap_or_default()
    }

    /// Those of the cgroup at `path` and of all above it, the nearest first.
    pub fn over<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a LimitReport> {
        self_and_above(path).flat_map(|path| self.own(path))
    }

    /// How those of a cgroup stand, in a few words: one with what is left, several with how many are
    /// reached; where it has none and is held back all the same, by whom.
    pub fn said(&self, node: &Node) -> String {
        match self.own(&node.path) {
            [] => match self.over(&node.path).find(|l| is_holding(l)) {
                Some(limit) => format!("held by {}", limit.cgroup),
                None => "-".to_owned(),
            },
            [one] => format!("{} {} left", limit_value(one), left(one)),
            several => {
                let reached = several.iter().filter(|l| l.is_reached).count();
                format!("{reached} of {} reached", several.len())
            }
        }
    }
}

fn self_and_above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::once(path).chain(above(path))
}

/// Whether it holds back what is below it now.
pub fn is_holding(limit: &LimitReport) -> bool {
    limit.is_reached && limit.action != Action::Observe
}

/// What is left; a debt has a sign.
pub fn left(limit: &LimitReport) -> String {
    let sign = if limit.left < 0 { "-" } else { "" };
    let left = amount(limit.unit, limit.left.unsigned_abs() as f64);
    format!("{sign}{left}")
}

#[cfg(test)]
mod tests;
