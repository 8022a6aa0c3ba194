use proptest::prelude::*;

use super::*;
use crate::top::testing::{model, report, row, tenants, value};

fn paths(model: &Model, lines: &[Line]) -> Vec<String> {
    let text = |line: &Line| {
        let mark = match (line.has_children, line.folded) {
            (true, true) => "+",
            (true, false) => "-",
            _ => "",
        };
        format!(
            "{}{mark}{}",
            " ".repeat(line.depth),
            model.nodes()[line.node].path
        )
    };
    lines.iter().map(text).collect()
}

fn arranged(order: &Order, filter: &str, folded: &[u64]) -> Vec<String> {
    let model = model([tenants(1), tenants(2)]);
    let folded = folded.iter().map(|id| CgroupId(*id)).collect();
    paths(&model, &arrange(&model, order, filter, &folded))
}

fn by(column: &str) -> Order {
    Order {
        column: Some(column.to_owned()),
        ..Order::default()
    }
}

#[test]
fn by_name_and_folded() {
    assert_eq!(
        arranged(&Order::default(), "", &[]),
        [
            "-/",
            " -/tenants",
            "  -/tenants/a",
            "   /tenants/a/job",
            "  /tenants/b",
            " /user.slice"
        ]
    );
    assert_eq!(
        arranged(&Order::default(), "", &[3, 4]),
        [
            "-/",
            " -/tenants",
            "  +/tenants/a",
            "  /tenants/b",
            " /user.slice"
        ]
    );
    assert_eq!(arranged(&Order::default(), "", &[1]), ["+/"]);
    let reverse = Order {
        reverse: true,
        ..Order::default()
    };
    assert_eq!(
        arranged(&reverse, "", &[2]),
        ["-/", " /user.slice", " +/tenants"]
    );
}

#[test]
fn by_a_column_of_what_it_used_itself_or_with_all_below() {
    let own = Order {
        basis: Basis::Own,
        ..by("block_bytes")
    };
    assert_eq!(
        arranged(&own, "", &[]),
        [
            "-/",
            " /user.slice",
            " -/tenants",
            "  /tenants/b",
            "  -/tenants/a",
            "   /tenants/a/job"
        ]
    );
    assert_eq!(
        arranged(&by("block_bytes"), "", &[3])[1..3],
        [" -/tenants", "  +/tenants/a"]
    );
    // Nothing is called so: by name.
    assert_eq!(
        arranged(&by("gone"), "", &[]),
        arranged(&Order::default(), "", &[])
    );
}

#[test]
fn those_without_a_number_stand_last() {
    let rows = vec![
        row(1, "/a", vec![]),
        row(2, "/b", vec![value("x", 0, 0)]),
        row(3, "/c", vec![value("x", 0, 0)]),
    ];
    let model = model([report(rows.clone()), report(rows)]);
    for reverse in [false, true] {
        let order = Order { reverse, ..by("x") };
        let lines = arrange(&model, &order, "", &HashSet::new());
        assert_eq!(paths(&model, &lines), ["/b", "/c", "/a"], "{reverse}");
    }
}

#[test]
fn a_filter_keeps_those_above_and_unfolds_them() {
    assert_eq!(
        arranged(&Order::default(), "job", &[1, 2, 3]),
        ["-/", " -/tenants", "  -/tenants/a", "   /tenants/a/job"]
    );
    assert_eq!(
        arranged(&Order::default(), "nants/b", &[]),
        ["-/", " -/tenants", "  /tenants/b"]
    );
    assert!(arranged(&Order::default(), "nobody", &[]).is_empty());
}

proptest! {
    #[test]
    fn sorting_is_stable_and_filters_keep_ancestors(
        values in prop::collection::vec((0_usize..8, 0_u64..4), 1..40),
        filter in "[0-9/]{0,2}",
        reverse in any::<bool>(),
    ) {
        // Each below one before it, so that trees of every form come about.
        let mut paths: Vec<String> = Vec::new();
        let mut rows = Vec::new();
        for (n, (up, grown)) in values.iter().enumerate() {
            let above = n.checked_sub(up + 1).map_or("", |parent| &paths[parent]);
            let path = format!("{above}/{n:02}");
            rows.push(row(n as u64 + 1, &path, vec![value("x", *grown, *grown)]));
            paths.push(path);
        }
        let zero = |row: &cgtap::meter::usage::UsageRow| cgtap::meter::usage::UsageRow {
            meters: vec![value("x", 0, 0)],
            ..row.clone()
        };
        let before = report(rows.iter().map(zero).collect());
        let model = model([before, report(rows)]);
        let order = Order { reverse, ..by("x") };
        let lines = arrange(&model, &order, &filter, &HashSet::new());
        let shown = |line: &Line| model.nodes()[line.node].shown(model.columns(), 0, Basis::Total);
        let mut above: Vec<&Line> = Vec::new();
        let mut last: Vec<Option<&Line>> = vec![None; 50];
        for line in &lines {
            above.truncate(line.depth);
            // Those above it stand above it.
            let parent = above.last().map(|line| line.node);
            prop_assert_eq!(model.nodes()[line.node].parent, parent);
            above.push(line);
            last[line.depth + 1..].fill(None);
            if let Some(before) = last[line.depth].replace(line) {
                let (a, b) = if reverse { (line, before) } else { (before, line) };
                prop_assert!(shown(a) >= shown(b));
                prop_assert!(shown(a) > shown(b) || before.node < line.node);
            }
        }
        let seen: HashSet<usize> = lines.iter().map(|line| line.node).collect();
        for (i, node) in model.nodes().iter().enumerate() {
            let wanted = node.path.contains(&filter);
            prop_assert!(seen.contains(&i) || !wanted);
        }
    }
}
