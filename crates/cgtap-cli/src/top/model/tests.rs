use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::top::arrange::{Order, arrange};
use crate::top::testing::{gauge, labelled, many, model, report, row, tenants, value};

fn rates(model: &Model, path: &str) -> (Option<f64>, Option<f64>) {
    let node = model.nodes().iter().find(|n| &*n.path == path).unwrap();
    let sum = node.sum(0).unwrap();
    (sum.rate(Basis::Own), sum.rate(Basis::Total))
}

#[test]
fn the_first_reading_of_a_cgroup_gives_no_rate() {
    let one = |n| row(1, "/a", vec![value("x", n, 2 * n)]);
    let two = |n| row(2, "/b", vec![value("x", n, n)]);
    let model = model([report(vec![one(5)]), report(vec![one(7), two(100)])]);
    assert_eq!(rates(&model, "/a"), (Some(2.0), Some(4.0)));
    assert_eq!(rates(&model, "/b"), (None, None));
    assert_eq!(model.seconds(), Some(1.0));
}

#[test]
fn what_fell_or_was_read_at_the_same_time_has_not_grown() {
    let one = |n| report(vec![row(1, "/a", vec![value("x", n, n)])]);
    let fallen = model([one(9), one(4)]);
    assert_eq!(rates(&fallen, "/a"), (Some(0.0), Some(0.0)));
    let mut same = Model::default();
    let at = Instant::now();
    same.update(one(1), at);
    same.update(one(2), at);
    assert_eq!(rates(&same, "/a"), (None, None));
    // A clock that goes back would be a bug of the machine; it gives no rate, and no panic.
    same.update(one(3), at.checked_sub(Duration::from_secs(1)).unwrap_or(at));
    assert_eq!(rates(&same, "/a"), (None, None));
}

#[test]
fn labels_are_summed_and_new_ones_begin_at_0() {
    let of = |pairs: &[(&str, u64)]| {
        let values = pairs
            .iter()
            .map(|(l, n)| labelled(value("x", *n, *n), "dev", l));
        report(vec![row(1, "/a", values.collect())])
    };
    let model = model([
        of(&[("a", 10), ("c", 1)]),
        of(&[("a", 12), ("b", 5), ("c", 2)]),
        of(&[("b", 9), ("c", 2)]),
    ]);
    assert_eq!(rates(&model, "/a"), (Some(4.0), Some(4.0)));
    assert_eq!(model.nodes()[0].sum(0).unwrap().total, 11);
}

#[test]
fn what_one_that_is_gone_used_is_no_growth_of_its_parents() {
    let of = |id, path: &str, own, total| row(id, path, vec![value("x", own, total)]);
    let before = report(vec![
        of(1, "/a", 5, 1105),
        of(2, "/a/b", 100, 1100),
        of(3, "/a/b/c", 1000, 1000),
    ]);
    // The parent of both has what both used, and 7 more.
    let after = report(vec![of(1, "/a", 1112, 1112)]);
    assert_eq!(
        rates(&model([before.clone(), after]), "/a"),
        (Some(7.0), Some(7.0))
    );
    // One of the same path is another.
    let after = report(vec![
        of(1, "/a", 5, 1113),
        of(2, "/a/b", 1104, 1108),
        of(4, "/a/b/c", 4, 4),
    ]);
    let model = model([before, after]);
    assert_eq!(rates(&model, "/a"), (Some(0.0), Some(8.0)));
    assert_eq!(rates(&model, "/a/b"), (Some(4.0), Some(8.0)));
    assert_eq!(rates(&model, "/a/b/c"), (None, None));
}

#[test]
fn a_gauge_has_no_rate_and_is_shown_as_it_is() {
    let model = model([5, 3].map(|n| report(vec![row(1, "/a", vec![gauge("m", n, 9)])])));
    assert_eq!(rates(&model, "/a"), (None, None));
    let shown = model.nodes()[0].shown(model.columns(), 0, Basis::Total);
    assert_eq!(shown, Some(3.0));
    let points: Vec<f32> = model.nodes()[0].histories[0].points(false).collect();
    assert_eq!(points, [5.0, 3.0]);
}

#[test]
fn columns_come_and_go_and_take_their_history_along() {
    let of = |meters: &[(&str, u64)]| {
        let values = meters.iter().map(|(m, n)| value(m, *n, *n));
        report(vec![row(1, "/a", values.collect())])
    };
    let mut model = model([of(&[("m", 1)]), of(&[("m", 3)])]);
    let later = Instant::now() + Duration::from_secs(100);
    model.update(of(&[("a", 7), ("m", 4), ("z", 1)]), later);
    let names: Vec<&str> = model.columns().iter().map(|c| &*c.meter).collect();
    assert_eq!(names, ["a", "m", "z"]);
    let node = &model.nodes()[0];
    assert_eq!(node.sum(0).unwrap().rate(Basis::Total), None);
    assert!(node.sum(1).unwrap().rate(Basis::Total).is_some());
    assert_eq!(node.histories[1].points(false).count(), 2);
    assert_eq!(node.histories[0].points(false).count(), 0);
    model.update(of(&[("z", 1)]), later);
    assert_eq!(model.columns().len(), 1);
    assert_eq!(model.column("m"), None);
}

#[test]
fn parents_are_the_nearest_that_are_known() {
    let rows = ["/", "/a/b/c", "/a", "/a/b/c/d", "/ab"];
    let rows = (1..).zip(rows).map(|(id, path)| row(id, path, vec![]));
    let model = model([report(rows.collect())]);
    let parents: BTreeMap<&str, Option<&str>> = model
        .nodes()
        .iter()
        .map(|n| (&*n.path, n.parent.map(|p| &*model.nodes()[p].path)))
        .collect();
    let wanted = [
        ("/", None),
        ("/a", Some("/")),
        ("/a/b/c", Some("/a")),
        ("/a/b/c/d", Some("/a/b/c")),
        ("/ab", Some("/")),
    ];
    assert_eq!(parents, wanted.into());
}

#[test]
fn only_cgroups_that_are_alive_are_remembered() {
    let model = model([tenants(1), report(vec![]), tenants(2)]);
    assert_eq!(rates(&model, "/tenants/a"), (None, None));
    let empty = super::super::testing::model([tenants(1), report(vec![])]);
    assert!(empty.nodes().is_empty() && empty.columns().is_empty());
    assert_eq!(empty.place(CgroupId(1)), None);
}

/// The fastest of a few runs.
fn fastest(mut run: impl FnMut() -> Duration) -> Duration {
    (0..7).map(|_| run()).min().unwrap()
}

#[test]
fn the_work_grows_no_faster_than_the_cgroups() {
    let work = |cgroups| {
        let mut model = model([many(cgroups, 1), many(cgroups, 2)]);
        let order = Order {
            column: Some("cpu_time".to_owned()),
            ..Order::default()
        };
        let mut second = 3;
        let work = fastest(|| {
            let report = many(cgroups, second);
            let begin = Instant::now();
            let at = begin + Duration::from_secs(second);
            model.update(report, at);
            let lines = arrange(&model, &order, "", &Default::default());
            assert_eq!(lines.len() as u64, cgroups);
            second += 1;
            begin.elapsed()
        });
        println!("{cgroups} cgroups: {work:?}");
        work
    };
    let (few, many) = (work(1_000), work(10_000));
    // Ten times as many; a tree that was walked from the top for each would cost a hundred times.
    assert!(many < few * 80, "{few:?} {many:?}");
}

#[test]
fn ten_thousand_cgroups_take_less_than_30_mb() {
    const ALONE: &str = "CGTAP_TEST_ALONE";
    const NAME: &str = "top::model::tests::ten_thousand_cgroups_take_less_than_30_mb";
    // In a process of its own, as others' memory is not what is measured.
    if std::env::var_os(ALONE).is_none() {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        let output = test
            .args(["--exact", NAME, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let mut model = Model::default();
    let begin = Instant::now();
    for second in 0..60 {
        model.update(many(10_000, second), begin + Duration::from_secs(second));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    // Without the pages of this program's file, of which the kernel maps what it likes.
    let held = status
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .unwrap();
    let kib: u64 = held.trim().trim_end_matches(" kB").parse().unwrap();
    println!("{kib} KiB held with {} cgroups", model.nodes().len());
    assert!(kib < 30_000, "{kib} KiB");
}

/// A report of a few cgroups whose values go up and down as they like.
fn any_report() -> impl Strategy<Value = UsageReport> {
    let cgroup = prop::sample::select(vec!["/", "/a", "/a/b", "/a/b/c", "/d", "/d/e"]);
    let value = (
        prop::sample::select(vec!["p", "q", "r"]),
        prop::option::of(prop::sample::select(vec!["1", "2"])),
        any::<u64>(),
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(|(meter, label, own, total, held)| {
            let value = if held {
                gauge(meter, own, total)
            } else {
                value(meter, own, total)
            };
            match label {
                Some(label) => labelled(value, "l", label),
                None => value,
            }
        });
    let values = prop::collection::vec(value, 0..6);
    prop::collection::btree_map(cgroup, (1_u64..9, values), 0..7).prop_map(|rows| {
        let row = |(path, (id, values))| row(id, path, values);
        report(rows.into_iter().map(row).collect())
    })
}

proptest! {
    #[test]
    fn rates_are_never_negative_and_trees_lose_nobody(
        reports in prop::collection::vec((any_report(), 0_u64..3), 1..8),
    ) {
        let mut model = Model::default();
        let mut at = Instant::now();
        for (report, seconds) in reports {
            at += Duration::from_secs(seconds);
            let rows = report.cgroups.len();
            model.update(report, at);
            let all = arrange(&model, &Order::default(), "", &Default::default());
            prop_assert_eq!(all.len(), rows);
            for node in model.nodes() {
                for (place, _) in model.columns().iter().enumerate() {
                    let sum = node.sum(place);
                    for rates in sum.iter().filter_map(|sum| sum.rates) {
                        prop_assert!(rates.own >= 0.0 && rates.own.is_finite());
                        prop_assert!(rates.total >= 0.0 && rates.total.is_finite());
                    }
                    // A column is the sum of its labels.
                    let of = node.series.iter().filter(|s| s.is_of(place));
                    let total = of.map(|s| s.reading.total).reduce(u64::saturating_add);
                    prop_assert_eq!(sum.map(|sum| sum.total), total);
                }
                if let Some(parent) = node.parent {
                    let parent = &model.nodes()[parent].path;
                    prop_assert!(node.path.starts_with(&**parent) && node.path != *parent);
                }
            }
        }
    }
}
