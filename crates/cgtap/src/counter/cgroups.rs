//! Which cgroup is counted in which row: those there are at the start. The program at
//! `cgroup_mkdir` does the same for those that come.

use std::collections::BTreeSet;

use super::Request;
use super::error::CounterError;
use super::maps::Maps;
use super::rows::OUTSIDE;
use crate::cgroup::{Cgroup, Hierarchy};
use crate::id::CgroupId;

/// Rows at the most.
const ROWS_MAX: u32 = 16_384;
/// Rows for cgroups that are yet to come: so many, and as many again as there are.
const ROWS_TO_COME: u32 = 1_024;

/// How many rows to make room for: each takes memory on every CPU.
pub(super) fn rows_wanted(hierarchy: &Hierarchy, request: &Request<'_>) -> u32 {
    let named = request.cgroups.len() as u32 + 1;
    if !request.per_cgroup {
        return named;
    }
    let there: usize = request
        .cgroups
        .iter()
        .map(|cgroup| hierarchy.listing(cgroup).len())
        .sum();
    u32::try_from(there)
        .unwrap_or(ROWS_MAX)
        .saturating_mul(2)
        .saturating_add(ROWS_TO_COME)
        .min(ROWS_MAX)
        .max(named)
}

/// Gives each cgroup there is its row: one of its own if it is named, or if each has one; else that of the one
/// above.
pub(super) fn place(
    hierarchy: &Hierarchy,
    request: &Request<'_>,
    maps: &Maps,
) -> Result<(), CounterError> {
    let names: BTreeSet<CgroupId> = request.cgroups.iter().map(|c| c.id).collect();
    // From the root down, so that the row above is there first.
    let mut named: Vec<&Cgroup> = request.cgroups.iter().collect();
    named.sort_by_key(|c| c.ancestors.len());
    for cgroup in named {
        // One that is named twice or is below another, with all that is below it.
        if maps.row_of(cgroup.id)?.is_some() {
            continue;
        }
        let mut parent = OUTSIDE;
        for ancestor in &cgroup.ancestors {
            if let Some(row) = maps.row_of(*ancestor)? {
                parent = row;
                break;
            }
        }
        let row = maps.new_row(cgroup.id, parent);
        maps.place(cgroup.id, row)?;
        let mut open = vec![(cgroup.clone(), row)];
        while let Some((above, row)) = open.pop() {
            for child in hierarchy.children(&above.path) {
                let row = match maps.row_of(child.id)? {
                    Some(known) => known,
                    None => {
                        let has_own = request.per_cgroup || names.contains(&child.id);
                        let own = || maps.new_row(child.id, row);
                        let row = if has_own { own() } else { row };
                        maps.place(child.id, row)?;
                        row
                    }
                };
                open.push((child, row));
            }
        }
    }
    Ok(())
}
