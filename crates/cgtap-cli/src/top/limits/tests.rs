use cgtap::limit::record::Action;

use super::*;
use crate::top::model::Model;
use crate::top::testing::{limit, model, report, row, tenants};

fn limited(limits: Vec<LimitReport>) -> Model {
    let mut model = model([tenants(1), tenants(2)]);
    model.limit_by(limits);
    model
}

/// The cgroups that are held back.
fn held(model: &Model) -> Vec<&str> {
    let nodes = model.nodes().iter().enumerate();
    nodes
        .filter(|(place, _)| model.limits().holds(*place))
        .map(|(_, node)| &*node.path)
        .collect()
}

#[test]
fn a_limit_that_is_reached_holds_its_cgroup_and_those_below() {
    assert_eq!(held(&limited(vec![])), [""; 0]);
    let deny = limit(1, "/tenants/a", "tasks_born", Action::Deny(11));
    let model = limited(vec![deny.clone()]);
    assert_eq!(held(&model), ["/tenants/a", "/tenants/a/job"]);
    let free = LimitReport {
        is_reached: false,
        ..deny
    };
    let observe = limit(2, "/tenants", "tasks_born", Action::Observe);
    assert_eq!(held(&limited(vec![observe, free])), [""; 0]);
}

#[test]
fn limits_of_cgroups_that_are_not_shown_hold_too() {
    let mut model = model([report(vec![
        row(4, "/tenants/a/job", vec![]),
        row(5, "/tenants/b", vec![]),
        row(8, "/tenants/b/deep/er", vec![]),
    ])]);
    model.limit_by(vec![
        limit(1, "/tenants/b/deep", "x", Action::Freeze),
        limit(2, "/tenants/a", "x", Action::Signal(15)),
        limit(3, "/tenants/a/jo", "x", Action::Freeze),
    ]);
    assert_eq!(held(&model), ["/tenants/a/job", "/tenants/b/deep/er"]);
    // The next reading has its own.
    model.update(tenants(1), std::time::Instant::now());
    assert!(model.limits().is_empty());
    assert_eq!(held(&model), [""; 0]);
}

#[test]
fn those_over_a_cgroup_come_the_nearest_first_and_are_said_in_short() {
    let debt = limit(1, "/tenants", "tasks_born", Action::Observe);
    let free = LimitReport {
        left: 3,
        is_reached: false,
        ..limit(3, "/tenants/a", "block_ops", Action::Deny(122))
    };
    let model = limited(vec![
        debt.clone(),
        free,
        limit(2, "/tenants/a", "tasks_born", Action::Deny(11)),
        limit(4, "/user.slice", "tasks_born", Action::Deny(11)),
    ]);
    let over = model.limits().over("/tenants/a/job").map(|l| l.id.0);
    assert_eq!(over.collect::<Vec<_>>(), [3, 2, 1]);
    let said: Vec<String> = model
        .nodes()
        .iter()
        .map(|node| model.limits().said(node))
        .collect();
    assert_eq!(
        said,
        [
            "-",
            "tasks_born -2 left",
            "1 of 2 reached",
            "held by /tenants/a",
            "-",
            "tasks_born -2 left"
        ]
    );
}
