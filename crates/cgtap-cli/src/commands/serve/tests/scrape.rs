//! What is on the page.

use std::time::Instant;

use cgtap::meter::usage::{Form, Histogram, Unit, UsageReport};

use super::super::exporter::Exporter;
use super::super::page::Format;
use super::prometheus::{Prometheus, get, get_open, promtool};
use super::{Fake, Serving, every_kind, report, row, shared, value};

fn page(report: UsageReport, top: usize, format: Format) -> String {
    let source = Fake::source(move || Ok(report.clone()));
    Exporter::new(source, top, None).scrape(format).unwrap()
}

fn line<'a>(page: &'a str, start: &str) -> &'a str {
    let mut lines = page.lines().filter(|line| line.starts_with(start));
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("no {start} in {page}"));
    assert_eq!(lines.next(), None, "{start}");
    line
}

#[test]
fn both_formats_have_their_form() {
    let open = page(every_kind(), 200, Format::OpenMetrics);
    let text = page(every_kind(), 200, Format::Text);
    for line in [
        "# TYPE cgtap_block_bytes counter",
        "# UNIT cgtap_block_bytes bytes",
        r#"# HELP cgtap_block_bytes Bytes of \"block\" I/O\\\nin two lines, by the cgroup itself (measured)."#,
        r#"cgtap_block_bytes_total{cgroup="/",dev="8:0"} 5"#,
        r#"cgtap_block_bytes_total{cgroup="/a\\b\"c\nd",dev="8:0"} 4096"#,
        r#"cgtap_block_bytes_total{cgroup="other",dev="8:0"} 0"#,
        r#"cgtap_block_ops_total{cgroup="/a\\b\"c\nd",dev="8:0"} 7"#,
        r#"cgtap_nbd_busy_seconds_total{cgroup="/a\\b\"c\nd",cgroup_="\""} 1.500000001"#,
        r#"cgtap_block_latency_seconds_bucket{cgroup="/a\\b\"c\nd",le="0.000001024"} 0"#,
        r#"cgtap_block_latency_seconds_bucket{cgroup="/a\\b\"c\nd",le="0.000004096"} 7"#,
        r#"cgtap_block_latency_seconds_bucket{cgroup="/a\\b\"c\nd",le="+Inf"} 7"#,
        r#"cgtap_block_latency_seconds_sum{cgroup="/a\\b\"c\nd"} 0.005"#,
        r#"cgtap_block_latency_seconds_count{cgroup="/a\\b\"c\nd"} 7"#,
        "# TYPE cgtap_gpu_memory_bytes gauge",
        r#"cgtap_gpu_memory_bytes{cgroup="/a\\b\"c\nd"} 100"#,
        r#"cgtap_gpu_memory_peak_bytes{cgroup="/a\\b\"c\nd"} 4096"#,
        "cgtap_lost_total 3",
        "cgtap_cgroups 2",
        "# TYPE cgtap_build info",
    ] {
        assert!(open.lines().any(|l| l == line), "{line} in {open}");
    }
    assert!(open.ends_with("# EOF\n"));
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    line(&text, "# TYPE cgtap_block_bytes_total counter");
    line(&text, "# TYPE cgtap_build_info gauge");
    line(&text, "cgtap_scrape_duration_seconds ");
    line(
        &text,
        r#"# HELP cgtap_block_bytes_total Bytes of "block" I/O\\\nin two lines, by"#,
    );
    let samples = |page: &str| {
        let lines = page.lines().filter(|l| !l.starts_with('#'));
        let lines = lines.filter(|l| !l.starts_with("cgtap_scrape"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(samples(&open), samples(&text));
}

#[test]
fn the_page_is_negotiated() {
    let accepted = Format::accepted;
    for accept in [
        "application/openmetrics-text",
        "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "text/plain;q=0.3, Application/OpenMetrics-Text; version=0.0.1; q=0.75",
    ] {
        assert_eq!(accepted(accept), Format::OpenMetrics, "{accept}");
    }
    for accept in [
        "",
        "*/*",
        "text/html",
        "application/openmetrics-text;q=0",
        "text/plain,application/openmetrics-text;q=0.5",
    ] {
        assert_eq!(accepted(accept), Format::Text, "{accept}");
    }
}

#[test]
fn images_of_containers_are_series_of_their_own() {
    let mut container = row(1, "/a", vec![value("x", Unit::Count, Form::Count, &[], 1)]);
    container.name = Some("container:web".to_owned());
    container.image = Some("quoted\"image:1".to_owned());
    let of = report(vec![container, row(2, "/b", Vec::new())]);
    let text = page(of.clone(), 1, Format::Text);
    line(&text, "# TYPE cgtap_container_info gauge");
    let sample =
        r#"cgtap_container_info{cgroup="/a",name="container:web",image="quoted\"image:1"} 1"#;
    line(&text, sample);
    assert_eq!(text.matches("cgtap_container_info{").count(), 1);
    assert_eq!(promtool(&text), "");
    let open = page(of, 1, Format::OpenMetrics);
    line(&open, "# TYPE cgtap_container info");
    line(&open, sample);
}

#[test]
fn names_that_meet_are_exported_once() {
    let both = vec![
        value("x", Unit::Bytes, Form::Sum, &[], 1),
        value("x_bytes", Unit::Bytes, Form::Sum, &[], 2),
        value("lost", Unit::Count, Form::Count, &[], 3),
    ];
    let page = page(report(vec![row(1, "/", both)]), 1, Format::Text);
    line(&page, "# TYPE cgtap_x_bytes_total counter");
    line(&page, "# TYPE cgtap_lost_total counter");
    line(&page, "# TYPE cgtap_meter_lost_total counter");
    assert_eq!(promtool(&page), "");
}

#[test]
fn only_so_many_are_named_and_the_rest_is_other() {
    let rows = (0..50).map(|n| {
        let used = value("x", Unit::Count, Form::Count, &[], n + 1);
        row(n + 1, &format!("/{n}"), vec![used])
    });
    let (shared, source) = shared(report(rows.collect()));
    let exporter = Exporter::new(source, 2, None);
    let scrape = || exporter.scrape(Format::Text).unwrap();
    let first = scrape();
    line(&first, r#"cgtap_x_total{cgroup="/49"} 50"#);
    line(&first, r#"cgtap_x_total{cgroup="/48"} 49"#);
    line(&first, r#"cgtap_x_total{cgroup="other"} 1176"#);
    // One that becomes one of the first later: what it used before stays where it was counted.
    shared.lock().unwrap().cgroups[0].meters[0].own = 1000;
    let second = scrape();
    line(&second, r#"cgtap_x_total{cgroup="/0"} 0"#);
    line(&second, r#"cgtap_x_total{cgroup="other"} 2175"#);
    shared.lock().unwrap().cgroups[0].meters[0].own = 1007;
    let third = scrape();
    line(&third, r#"cgtap_x_total{cgroup="/0"} 7"#);
    line(&third, r#"cgtap_x_total{cgroup="/48"} 49"#);
    line(&third, r#"cgtap_x_total{cgroup="other"} 2175"#);
}

#[test]
fn a_cgroup_that_comes_again_goes_on_and_its_parent_gains_nothing_twice() {
    let used = |n| vec![value("x", Unit::Count, Form::Count, &[], n)];
    let (shared, source) = shared(report(vec![row(1, "/", used(1)), row(2, "/a", used(100))]));
    let exporter = Exporter::new(source, 9, None);
    let scrape = |rows| {
        *shared.lock().unwrap() = report(rows);
        exporter.scrape(Format::Text).unwrap()
    };
    scrape(vec![row(1, "/", used(1)), row(2, "/a", used(100))]);
    // It used 5 more before it went; its parent has all 105.
    let page = scrape(vec![row(1, "/", used(106))]);
    line(&page, r#"cgtap_x_total{cgroup="/"} 6"#);
    assert!(!page.contains("\"/a\""));
    let page = scrape(vec![row(1, "/", used(106)), row(3, "/a", used(10))]);
    line(&page, r#"cgtap_x_total{cgroup="/a"} 110"#);
    // A meter that was made anew counts from 0, and what is exported goes on.
    let page = scrape(vec![row(1, "/", used(4)), row(3, "/a", used(2))]);
    line(&page, r#"cgtap_x_total{cgroup="/"} 10"#);
    line(&page, r#"cgtap_x_total{cgroup="/a"} 112"#);
}

#[test]
fn what_a_removed_cgroup_leaves_is_not_a_new_ones_of_its_parents_path() {
    let used = |n| vec![value("x", Unit::Count, Form::Count, &[], n)];
    let (shared, source) = shared(report(vec![
        row(1, "/", used(1)),
        row(2, "/a", used(1)),
        row(3, "/a/b", used(100)),
    ]));
    let exporter = Exporter::new(source, 9, None);
    exporter.scrape(Format::Text).unwrap();
    // Both go, to the root, and another `/a` comes.
    let rows = vec![row(1, "/", used(102)), row(4, "/a", used(50))];
    *shared.lock().unwrap() = report(rows);
    let page = exporter.scrape(Format::Text).unwrap();
    line(&page, r#"cgtap_x_total{cgroup="/"} 1"#);
    line(&page, r#"cgtap_x_total{cgroup="/a"} 51"#);
}

#[test]
fn promtool_has_nothing_to_say() {
    let serving = Serving::of(every_kind());
    let got = get(serving.address, "/metrics");
    assert!(
        got.head.contains("content-type: text/plain; version=0.0.4"),
        "{got:?}"
    );
    assert_eq!(promtool(&got.body), "");
    // The checker works: it finds fault where there is some.
    let wrong = got.body.replace("_total", "");
    assert!(promtool(&wrong).contains("_total"), "{}", promtool(&wrong));
}

#[test]
fn prometheus_scrapes_it() {
    let serving = Serving::of(every_kind());
    assert!(get_open(serving.address).body.ends_with("# EOF\n"));
    let prometheus = Prometheus::scraping(serving.address);
    assert_eq!(prometheus.value("up%20==%201"), "1");
    let bytes = prometheus.value("cgtap_block_bytes_total%7Bcgroup%3D%22/%22%7D");
    assert_eq!(bytes, "5");
    assert_eq!(prometheus.value("sum(cgtap_block_bytes_total)"), "4101");
    assert_eq!(prometheus.value("cgtap_build_info"), "1");
    let count = prometheus.value("sum(cgtap_block_latency_seconds_bucket%7Ble%3D%22%2BInf%22%7D)");
    assert_eq!(count, "7");
}

/// 10,000 cgroups, each with `values`, one in ten of them a histogram.
fn many(cgroups: u64, values: usize) -> UsageReport {
    let rows = (0..cgroups).map(|n| {
        let own = (0..values).map(|v| {
            let name = format!("meter{v}");
            if v % 10 != 0 {
                let labels = [("dev", "8:0")];
                return value(
                    &name,
                    Unit::Bytes,
                    Form::Sum,
                    &labels,
                    n * 7919 % 10_007 + 1,
                );
            }
            let mut hist = value(&name, Unit::Ns, Form::Hist, &[], n + 1);
            hist.histogram = Some(Histogram {
                own_buckets: vec![n + 1; 30],
                total_buckets: vec![n + 1; 30],
            });
            hist
        });
        row(
            n + 1,
            &format!("/tenants.slice/tenant-{n}.scope"),
            own.collect(),
        )
    });
    report(rows.collect())
}

#[test]
fn a_scrape_costs_no_more_than_the_names_that_are_told() {
    // The best of a few, since on a busy machine anything may come between; how long it took and the page's size.
    let scrape = |cgroups: u64, names: usize| {
        let reading = many(cgroups, 10);
        let mut ledger = super::super::ledger::Ledger::new(names);
        let mut size = 0;
        let times = (0..5).map(|_| {
            let begin = Instant::now();
            ledger.update(&reading);
            let page = super::super::page::Page::of(&ledger, Format::OpenMetrics);
            size = page.end(0.0).len();
            begin.elapsed()
        });
        let best = times.min().unwrap();
        println!("{cgroups} cgroups, {names} told: {best:?}, {size} bytes");
        (best, size)
    };
    let (bounded, size) = scrape(10_000, 200);
    // 200 names and `other` in ten families, one of them a histogram of 17 lines: bounded.
    assert!(size < 1_000_000, "{size}");
    // Ten times as many; looking each up in the lists of all others would cost a hundred times.
    let (few, size_of_few) = scrape(1_000, 200);
    assert!(bounded < few * 40, "{few:?} {bounded:?}");
    // What is not told is only added up: the page is no longer for it, but for the digits of the sums.
    assert!(size < size_of_few * 11 / 10, "{size_of_few} {size}");
    let (_, size_of_all) = scrape(1_000, 1_000);
    assert!(size_of_few * 4 < size_of_all, "{size_of_few} {size_of_all}");
}
