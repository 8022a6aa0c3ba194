//! Limits on the page.

use cgtap::engine::{LimitReport, PatternReport};
use cgtap::limit::record::Action;
use cgtap::meter::usage::{Form, Unit};

use super::super::exporter::Exporter;
use super::super::page::Format;
use super::prometheus::promtool;
use super::{Fake, every_kind, report, row, value};
use crate::top::testing::limit;

/// One of each unit, and one that is over.
fn limits() -> Vec<LimitReport> {
    let pairs = [("op", "\"wr\\ite\""), ("dev", "8:0")];
    let labels = pairs.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let debt = LimitReport {
        unit: Unit::Ns,
        amount: 300_000_000,
        period_ns: Some(1_000_000_000),
        used: 1_500_000_001,
        left: -250_000_000,
        read_ago_ns: Some(250_000_000),
        ..limit(7, "/a\\b\"c\nd", "nbd_busy", Action::Freeze)
    };
    let bytes = LimitReport {
        unit: Unit::Bytes,
        amount: 10 << 30,
        used: 4096,
        left: (10 << 30) - 4096,
        is_reached: false,
        denied: 0,
        labels: labels.into(),
        ..limit(8, "/a", "block_bytes", Action::Deny(122))
    };
    vec![limit(1, "/a", "tasks_born", Action::Observe), bytes, debt]
}

fn page(limits: Vec<LimitReport>, format: Format) -> String {
    let source = Fake::limited(|| Ok(every_kind()), limits);
    Exporter::new(source, 9, None).scrape(format).unwrap()
}

#[test]
fn each_is_told_with_its_labels_in_a_family_of_its_unit() {
    let page = page(limits(), Format::OpenMetrics);
    for line in [
        "# TYPE cgtap_limit_amount gauge",
        r#"cgtap_limit_amount{cgroup="/a",meter="tasks_born",action="observe"} 3"#,
        "# UNIT cgtap_limit_amount_bytes bytes",
        r#"cgtap_limit_amount_bytes{cgroup="/a",meter="block_bytes",of="dev=8:0,op=\"wr\\ite\"",action="deny:EDQUOT"} 10737418240"#,
        r#"cgtap_limit_amount_seconds{cgroup="/a\\b\"c\nd",meter="nbd_busy",action="freeze"} 0.3"#,
        r#"cgtap_limit_period_seconds{cgroup="/a\\b\"c\nd",meter="nbd_busy",action="freeze"} 1"#,
        r#"cgtap_limit_used{cgroup="/a",meter="tasks_born",action="observe"} 5"#,
        r#"cgtap_limit_used_seconds{cgroup="/a\\b\"c\nd",meter="nbd_busy",action="freeze"} 1.500000001"#,
        r#"cgtap_limit_left{cgroup="/a",meter="tasks_born",action="observe"} -2"#,
        r#"cgtap_limit_left_seconds{cgroup="/a\\b\"c\nd",meter="nbd_busy",action="freeze"} -0.25"#,
        r#"cgtap_limit_reached{cgroup="/a",meter="tasks_born",action="observe"} 1"#,
        r#"cgtap_limit_read_age_seconds{cgroup="/a\\b\"c\nd",meter="nbd_busy",action="freeze"} 0.25"#,
        "# TYPE cgtap_limit_denied counter",
        r#"cgtap_limit_denied_total{cgroup="/a",meter="tasks_born",action="observe"} 2"#,
        r#"cgtap_limit_missed_total{cgroup="/a",meter="tasks_born",action="observe"} 0"#,
    ] {
        assert!(page.lines().any(|l| l == line), "{line} in {page}");
    }
    let periods = page
        .lines()
        .filter(|l| l.starts_with("cgtap_limit_period_seconds{"));
    assert_eq!(periods.count(), 1, "{page}");
}

#[test]
fn promtool_takes_them_and_where_there_are_none_nothing_is_told() {
    let text = page(limits(), Format::Text);
    assert!(text.contains("# TYPE cgtap_limit_denied_total counter"));
    assert_eq!(promtool(&text), "");
    assert!(!page(Vec::new(), Format::Text).contains("cgtap_limit"));
}

#[test]
fn no_sample_is_told_twice_and_no_meter_takes_their_names() {
    let old = LimitReport {
        used: 9,
        ..limit(1, "/a", "tasks_born", Action::Observe)
    };
    let new = limit(2, "/a", "tasks_born", Action::Observe);
    let used = vec![value("limit_used", Unit::Count, Form::Gauge, &[], 8)];
    let usage = report(vec![row(1, "/", used)]);
    let source = Fake::limited(move || Ok(usage.clone()), vec![new, old]);
    let page = Exporter::new(source, 9, None).scrape(Format::Text).unwrap();
    let samples = page
        .lines()
        .filter(|l| l.starts_with("cgtap_limit_used{"))
        .collect::<Vec<_>>();
    assert_eq!(
        samples,
        [r#"cgtap_limit_used{cgroup="/a",meter="tasks_born",action="observe"} 5"#]
    );
    assert!(
        page.contains(r#"cgtap_meter_limit_used{cgroup="/"} 8"#),
        "{page}"
    );
    assert_eq!(promtool(&page), "");
}

#[test]
fn places_are_told_where_there_are_patterns() {
    let pattern = PatternReport {
        pattern: "/t/*".to_owned(),
        meter: "tasks_born".to_owned(),
        labels: [].into(),
        unit: Unit::Count,
        amount: 3,
        period_ns: None,
        burst: 3,
        on: "observe".to_owned(),
        borrow: false,
        places_free: 0,
        places_used: 4096,
        places_short: 7,
        lost: 1,
        shared_used: 2,
        shared_left: 1,
    };
    let scrape = |patterns: Vec<PatternReport>, format| {
        let source = Box::new(Fake {
            patterns,
            ..Fake::plain(|| Ok(every_kind()))
        });
        Exporter::new(source, 9, None).scrape(format).unwrap()
    };
    // Of all patterns together: once.
    let two = vec![pattern.clone(), pattern];
    let text = scrape(two.clone(), Format::Text);
    for line in [
        "cgtap_limit_places_free 0",
        "cgtap_limit_places_used 4096",
        "# TYPE cgtap_limit_places_overflow_total counter",
        "cgtap_limit_places_overflow_total 7",
        "cgtap_limit_places_lost_total 1",
    ] {
        assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{text}");
    }
    assert_eq!(promtool(&text), "");
    let open = scrape(two, Format::OpenMetrics);
    assert!(open.contains("# TYPE cgtap_limit_places_overflow counter\n"));
    assert!(!scrape(Vec::new(), Format::Text).contains("places"));
}
