//! The server with readings that are made up.

mod http;
mod limits;
#[path = "../../../../tests/support/prometheus.rs"]
mod prometheus;
mod property;
mod scrape;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use cgtap::engine::{LimitReport, PatternReport};
use cgtap::id::CgroupId;
use cgtap::meter::usage::{Form, Histogram, Loser, Truth, Unit, UsageReport, UsageRow, UsageValue};
use tokio::sync::oneshot;

use super::exporter::{Exporter, Source};
use super::server::{self, Limits};
use crate::failure::Failure;

type Reading = Box<dyn FnMut() -> Result<UsageReport, Failure> + Send>;

/// A source whose readings a test makes.
struct Fake {
    reading: Mutex<Reading>,
    limits: Vec<LimitReport>,
    patterns: Vec<PatternReport>,
}

impl Fake {
    fn source(
        reading: impl FnMut() -> Result<UsageReport, Failure> + Send + 'static,
    ) -> Box<dyn Source> {
        Self::limited(reading, Vec::new())
    }

    fn limited(
        reading: impl FnMut() -> Result<UsageReport, Failure> + Send + 'static,
        limits: Vec<LimitReport>,
    ) -> Box<dyn Source> {
        Box::new(Self {
            limits,
            ..Self::plain(reading)
        })
    }

    fn plain(reading: impl FnMut() -> Result<UsageReport, Failure> + Send + 'static) -> Self {
        Self {
            reading: Mutex::new(Box::new(reading)),
            limits: Vec::new(),
            patterns: Vec::new(),
        }
    }
}

impl Source for Fake {
    fn usage(&self) -> Result<UsageReport, Failure> {
        (self.reading.lock().unwrap())()
    }

    fn limits(&self) -> Result<Vec<LimitReport>, Failure> {
        Ok(self.limits.clone())
    }

    fn patterns(&self) -> Result<Vec<PatternReport>, Failure> {
        Ok(self.patterns.clone())
    }
}

/// A server in this process, which ends with the value.
struct Serving {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn start(source: Box<dyn Source>, top: usize, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let exporter = Exporter::new(source, top, None);
        let thread = std::thread::spawn(move || {
            let runtime = server::runtime().unwrap();
            let _ = server::run(runtime, listener, exporter, limits, stopped).unwrap();
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn of(report: UsageReport) -> Self {
        let source = Fake::source(move || Ok(report.clone()));
        Self::start(source, 200, Limits::default())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn value(meter: &str, unit: Unit, form: Form, labels: &[(&str, &str)], own: u64) -> UsageValue {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    UsageValue {
        meter: meter.into(),
        kind: Truth::Measured,
        unit,
        form,
        labels: Arc::new(labels.collect::<BTreeMap<_, _>>()),
        own,
        total: own,
        peak: None,
        histogram: None,
    }
}

fn row(id: u64, cgroup: &str, meters: Vec<UsageValue>) -> UsageRow {
    UsageRow {
        cgroup: cgroup.to_owned(),
        name: None,
        image: None,
        cgroup_id: CgroupId(id),
        meters,
    }
}

fn report(cgroups: Vec<UsageRow>) -> UsageReport {
    let help = "Bytes of \"block\" I/O\\\nin two lines.".to_owned();
    UsageReport {
        cgroups,
        help: BTreeMap::from([("block_bytes".into(), help)]),
        ..UsageReport::default()
    }
}

/// One of everything.
fn every_kind() -> UsageReport {
    let mut latency = value("block_latency", Unit::Ns, Form::Hist, &[], 5_000_000);
    latency.histogram = Some(Histogram {
        own_buckets: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4],
        total_buckets: Vec::new(),
    });
    let mut memory = value("gpu_memory", Unit::Bytes, Form::Gauge, &[], 100);
    memory.peak = Some(4096);
    let sda = [("dev", "8:0")];
    let mut wild = report(vec![
        row(
            1,
            "/",
            vec![value("block_bytes", Unit::Bytes, Form::Sum, &sda, 5)],
        ),
        row(
            2,
            "/a\\b\"c\nd",
            vec![
                value("block_bytes", Unit::Bytes, Form::Sum, &sda, 4096),
                latency,
                value("block_ops", Unit::Count, Form::Count, &sda, 7),
                memory,
                value(
                    "nbd_busy_ns",
                    Unit::Ns,
                    Form::Busy,
                    &[("cgroup", "\"")],
                    1_500_000_001,
                ),
            ],
        ),
    ]);
    wild.lost = 3;
    wild.losses = [(Loser::Hook(1), 3)].into();
    wild
}

fn shared(report: UsageReport) -> (Arc<Mutex<UsageReport>>, Box<dyn Source>) {
    let shared = Arc::new(Mutex::new(report));
    let inner = Arc::clone(&shared);
    (
        shared,
        Fake::source(move || Ok(inner.lock().unwrap().clone())),
    )
}
