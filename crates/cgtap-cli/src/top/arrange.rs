//! Which cgroups are seen, and in which order.

use std::collections::HashSet;

use cgtap::id::CgroupId;

use super::model::{Model, Node};
use super::series::Basis;

/// How cgroups that stand beside each other are ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The largest of this column first; by name if none, or if there is no such column.
    pub column: Option<String>,
    /// The other way round.
    pub reverse: bool,
    /// By whose use.
    pub basis: Basis,
}

/// A line of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which cgroup, by its place in the model.
    pub node: usize,
    /// How many of the lines above it are cgroups above it.
    pub depth: usize,
    /// There are cgroups below it.
    pub has_children: bool,
    /// And they are not shown.
    pub folded: bool,
}

/// The lines of the tree. With a `filter`: those whose path contains it, and those above them,
/// whatever is folded.
pub fn arrange(
    model: &Model,
    order: &Order,
    filter: &str,
    folded: &HashSet<CgroupId>,
) -> Vec<Line> {
    let nodes = model.nodes();
    let kept = kept(model, filter);
    let mut sorted: Vec<usize> = (0..nodes.len()).filter(|i| kept[*i]).collect();
    sort(model, order, &mut sorted);

    // Each list of children is in the order of `sorted`, and is read from its end.
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for &i in sorted.iter().rev() {
        match nodes[i].parent {
            Some(parent) => children[parent].push(i),
            None => stack.push((i, 0)),
        }
    }
    let mut lines = Vec::with_capacity(sorted.len());
    while let Some((node, depth)) = stack.pop() {
        let below = &children[node];
        let folded = filter.is_empty() && !below.is_empty() && folded.contains(&nodes[node].id);
        lines.push(Line {
            node,
            depth,
            has_children: !below.is_empty(),
            folded,
        });
        if !folded {
            stack.extend(below.iter().map(|child| (*child, depth + 1)));
        }
    }
    lines
}

fn kept(model: &Model, filter: &str) -> Vec<bool> {
    let nodes = model.nodes();
    let mut kept = vec![filter.is_empty(); nodes.len()];
    if filter.is_empty() {
        return kept;
    }
    for (i, node) in nodes.iter().enumerate() {
        let is_called = node.called.as_ref().is_some_and(|c| c.contains(filter));
        if !node.path.contains(filter) && !is_called {
            continue;
        }
        let mut next = Some(i);
        while let Some(i) = next.filter(|i| !kept[*i]) {
            kept[i] = true;
            next = nodes[i].parent;
        }
    }
    kept
}

/// Sorts places of nodes. Equal ones stand in the order of their names, and those without a number
/// behind all that have one.
fn sort(model: &Model, order: &Order, places: &mut [usize]) {
    let column = order.column.as_deref().and_then(|c| model.column(c));
    let Some(column) = column else {
        if order.reverse {
            places.reverse();
        }
        return;
    };
    let sign = if order.reverse { 1.0 } else { -1.0 };
    let key = |node: &Node| {
        let shown = node.shown(model.columns(), column, order.basis);
        shown.map_or(f64::INFINITY, |shown| sign * shown)
    };
    let keys: Vec<f64> = model.nodes().iter().map(key).collect();
    places.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]));
}

#[cfg(test)]
mod tests;
