//! Reports for tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cgtap::engine::{LimitReport, show_action};
use cgtap::id::{CgroupId, LimitId};
use cgtap::limit::record::Action;
use cgtap::meter::usage::{Form, Histogram, Truth, Unit, UsageReport, UsageRow, UsageValue};

use super::model::Model;

/// A value of a counter of bytes, with no labels.
pub fn value(meter: &str, own: u64, total: u64) -> UsageValue {
    UsageValue {
        meter: meter.into(),
        kind: Truth::Measured,
        unit: Unit::Bytes,
        form: Form::Sum,
        labels: Arc::default(),
        own,
        total,
        peak: None,
        histogram: None,
    }
}

/// The value of a gauge.
pub fn gauge(meter: &str, now: u64, peak: u64) -> UsageValue {
    UsageValue {
        form: Form::Gauge,
        peak: Some(peak),
        ..value(meter, now, now)
    }
}

/// The value with a label.
pub fn labelled(value: UsageValue, name: &str, label: &str) -> UsageValue {
    let labels = [(name.to_owned(), label.to_owned())];
    UsageValue {
        labels: Arc::new(labels.into()),
        ..value
    }
}

/// A cgroup.
pub fn row(id: u64, cgroup: &str, meters: Vec<UsageValue>) -> UsageRow {
    UsageRow {
        cgroup: cgroup.to_owned(),
        name: None,
        image: None,
        cgroup_id: CgroupId(id),
        meters,
    }
}

/// A report that lost nothing.
pub fn report(cgroups: Vec<UsageRow>) -> UsageReport {
    UsageReport {
        cgroups,
        ..UsageReport::default()
    }
}

/// A limit of 3 of which 5 were used.
pub fn limit(id: u32, cgroup: &str, meter: &str, action: Action) -> LimitReport {
    LimitReport {
        id: LimitId(id),
        cgroup: cgroup.to_owned(),
        cgroup_id: CgroupId(1),
        meter: meter.to_owned(),
        labels: [].into(),
        unit: Unit::Count,
        amount: 3,
        period_ns: None,
        burst: 3,
        on: show_action(action),
        action,
        borrow: false,
        policy: false,
        charged: "before",
        read_ago_ns: None,
        gates: Vec::new(),
        used: 5,
        left: -2,
        is_reached: true,
        free_in_ns: None,
        lost: 0,
        missed: 0,
        denied: 2,
        denied_amount: 2,
        denies_since_ns: None,
        denied_ago_ns: None,
    }
}

/// A model of reports that were read a second apart.
pub fn model(reports: impl IntoIterator<Item = UsageReport>) -> Model {
    let mut model = Model::default();
    let begin = Instant::now();
    for (second, report) in (0..).zip(reports) {
        model.update(report, begin + Duration::from_secs(second));
    }
    model
}

/// What two tenants do on a machine, after so many seconds.
pub fn tenants(second: u64) -> UsageReport {
    let block = |own: u64, total: u64| {
        let own = [own * 3, own];
        let total = [total * 3, total];
        ["read", "write"].map(|op| {
            let i = usize::from(op == "write");
            let value = value("block_bytes", own[i] << 20, total[i] << 20);
            labelled(value, "op", op)
        })
    };
    let latency = UsageValue {
        unit: Unit::Ns,
        form: Form::Hist,
        histogram: Some(Histogram {
            own_buckets: vec![],
            total_buckets: [vec![0; 14], vec![10 * second, 30 * second, 5 * second]].concat(),
        }),
        ..value("block_latency", 0, second * 900_000_000)
    };
    let cpu = |own: u64, total: u64| UsageValue {
        unit: Unit::Ns,
        kind: Truth::Estimate,
        ..value("cpu_time", own * 1_000_000, total * 1_000_000)
    };
    let jobs = |jobs: u64| UsageValue {
        unit: Unit::Count,
        form: Form::Count,
        kind: Truth::Proxy,
        ..value("gpu_jobs", jobs, jobs)
    };
    let s = second;
    let rows = [
        row(
            1,
            "/",
            [&block(0, 12 * s)[..], &[cpu(20 * s, 3170 * s)]].concat(),
        ),
        row(
            2,
            "/tenants",
            [&block(0, 11 * s)[..], &[cpu(0, 3000 * s)]].concat(),
        ),
        row(
            3,
            "/tenants/a",
            [
                &block(s, 8 * s)[..],
                &[
                    latency,
                    cpu(0, 2500 * s),
                    gauge("gpu_memory", 3 << 30, 5 << 30),
                ],
            ]
            .concat(),
        ),
        row(
            4,
            "/tenants/a/job",
            [
                &block(7 * s, 7 * s)[..],
                &[cpu(2500 * s, 2500 * s), jobs(1200 * s)],
            ]
            .concat(),
        ),
        row(
            5,
            "/tenants/b",
            [&block(3 * s, 3 * s)[..], &[cpu(500 * s, 500 * s)]].concat(),
        ),
        row(
            6,
            "/user.slice",
            [&block(s, s)[..], &[cpu(150 * s, 150 * s)]].concat(),
        ),
    ];
    UsageReport {
        cgroups: rows.into(),
        ..UsageReport::default()
    }
}

/// As many cgroups as asked for, ten below each that has any, with four values each that all grow.
pub fn many(cgroups: u64, second: u64) -> UsageReport {
    let mut paths: Vec<String> = vec![String::new()];
    // As the engine has it: what is the same for all is there once.
    let mut values = ["block_bytes", "block_ops", "cpu_time", "net_bytes"].map(|m| value(m, 0, 0));
    let labels = Arc::default();
    for value in &mut values {
        value.labels = Arc::clone(&labels);
    }
    let rows = (0..cgroups).map(|n| {
        let path = match n {
            0 => "/".to_owned(),
            n => {
                let parent = usize::try_from((n - 1) / 10).unwrap();
                let path = format!("{}/group-{n}.slice", paths[parent]);
                paths.push(path.clone());
                path
            }
        };
        let grown = second * (1000 + n * 7919 % 1000);
        let meters = values.each_ref().map(|value| UsageValue {
            own: grown,
            total: grown,
            ..value.clone()
        });
        row(n + 1, &path, meters.into())
    });
    report(rows.collect())
}
