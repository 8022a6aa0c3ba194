//! The text that is scraped, OpenMetrics 1.0 or Prometheus text 0.0.4.
//!
//! Written here and not by `prometheus-client`: that writes OpenMetrics alone, and takes times as
//! floating point, where nanoseconds as decimal seconds stay what the kernel counted to the last.

mod limits;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use cgtap::meter::usage::{Form, Unit};

use super::account::LabelsId;
use super::ledger::{Family, Ledger};
use super::names;
use super::numbers::{Numbers, bounds};
use super::policy::Standing;

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// The `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What an `Accept` header asks for: OpenMetrics if it is named and nothing is liked better.
    pub fn accepted(accept: &str) -> Self {
        let liked = |wanted: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let kind = parts.next()?;
                let q = parts.find_map(|part| part.strip_prefix("q="));
                kind.eq_ignore_ascii_case(wanted)
                    .then(|| q.and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0))
            });
            ranges.fold(0.0, f32::max)
        };
        let open = liked("application/openmetrics-text");
        if open > 0.0 && open >= liked("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

/// A text in the making.
#[derive(Debug)]
pub struct Page {
    format: Format,
    text: String,
    names: HashSet<String>,
    called: HashMap<Arc<str>, String>,
}

impl Page {
    /// All of `ledger`.
    pub fn of(ledger: &Ledger, format: Format) -> Self {
        let mut page = Self {
            format,
            text: String::new(),
            names: HashSet::new(),
            called: ledger.called().clone(),
        };
        for family in ledger.families() {
            page.family(family);
        }
        page.limits(ledger.limits());
        let lost =
            "Events that were not charged to a cgroup: a map was full, a dispatcher was busy.";
        if page.head("cgtap_lost", "counter", None, lost) {
            page.plain("cgtap_lost_total", ledger.lost());
        }
        let unread = "Reasons for which something could not be read, or a file not be probed; `cgtap usage` has them in words.";
        if page.head("cgtap_unread", "gauge", None, unread) {
            page.plain("cgtap_unread", ledger.unread());
        }
        if page.head("cgtap_cgroups", "gauge", None, "Cgroups with usage.") {
            page.plain("cgtap_cgroups", ledger.cgroups());
        }
        page.containers(ledger.images());
        page.build_info();
        page
    }

    /// Adds how a policy stands.
    pub fn policy(&mut self, standing: &Standing) {
        let help = "Whether the policy file, as it is now, is in force.";
        if self.head("cgtap_policy_ok", "gauge", None, help) {
            self.plain("cgtap_policy_ok", u8::from(standing.wrong.is_none()));
        }
        let name = "cgtap_policy_applied_timestamp_seconds";
        let help = "When the policy that is in force was applied last.";
        if self.head(name, "gauge", Some("seconds"), help) {
            let since = standing.applied.duration_since(SystemTime::UNIX_EPOCH);
            self.plain(name, since.unwrap_or_default().as_secs_f64());
        }
    }

    /// Ends the text with the time that it took to read and write it.
    pub fn end(mut self, seconds: f64) -> String {
        let name = "cgtap_scrape_duration_seconds";
        let help = "Time that reading the counters and writing this page took.";
        if self.head(name, "gauge", Some("seconds"), help) {
            self.plain(name, seconds);
        }
        if self.format == Format::OpenMetrics {
            self.text += "# EOF\n";
        }
        self.text
    }

    fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name} {value}");
    }

    /// What containers were made of: one series each, to be joined with, and not a label of all.
    fn containers(&mut self, images: &BTreeMap<Arc<str>, String>) {
        let help = "The image that a container was made of.";
        if images.is_empty() || !self.info("cgtap_container", help) {
            return;
        }
        for (cgroup, image) in images {
            let mut more = ",image=\"".to_owned();
            escape(&mut more, image, true);
            more.push('"');
            self.text += "cgtap_container_info";
            self.open_labels(cgroup, &more);
            self.text += "} 1\n";
        }
    }

    fn build_info(&mut self) {
        if self.info("cgtap_build", "The cgtap that serves this.") {
            let version = env!("CARGO_PKG_VERSION");
            self.plain(&format!("cgtap_build_info{{version=\"{version}\"}}"), 1);
        }
    }

    /// The head of a family whose labels are what it tells.
    fn info(&mut self, name: &str, help: &str) -> bool {
        match self.format {
            Format::OpenMetrics => self.head(name, "info", None, help),
            Format::Text => self.head(&format!("{name}_info"), "gauge", None, help),
        }
    }

    /// HELP, TYPE and UNIT of a family; false if there is one of this name.
    fn head(&mut self, name: &str, kind: &str, unit: Option<&str>, help: &str) -> bool {
        if !self.names.insert(name.to_owned()) {
            return false;
        }
        let open = self.format == Format::OpenMetrics;
        // Here a counter's family is called as its samples are.
        let total = if !open && kind == "counter" {
            "_total"
        } else {
            ""
        };
        let _ = write!(self.text, "# HELP {name}{total} ");
        escape(&mut self.text, help, open);
        let _ = writeln!(self.text, "\n# TYPE {name}{total} {kind}");
        if let (true, Some(unit)) = (open, unit) {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        true
    }

    fn family(&mut self, family: &Family) {
        let name = names::family(&family.meter, family.unit, family.form);
        let peak = names::peak(&family.meter, family.unit);
        let unit = names::unit(family.unit);
        let help = family.help.clone();
        let help = help.unwrap_or_else(|| format!("What the meter {} counts", family.meter));
        let help = help.trim().trim_end_matches('.').to_owned();
        let tail = format!("by the cgroup itself ({})", family.kind);
        let labels = Labels::of(family);
        let mut seen = true;
        match family.form {
            Form::Gauge => {
                if self.head(&name, "gauge", unit, &format!("{help}, now, {tail}.")) {
                    for (cgroup, id, value) in family.held() {
                        self.sample(&name, "", cgroup, labels.get(id), value, family.unit);
                    }
                } else {
                    seen = false;
                }
                let help = format!("{help}, the most at a time, {tail}.");
                if family.peaks().next().is_some() && self.head(&peak, "gauge", unit, &help) {
                    for (cgroup, id, value) in family.peaks() {
                        self.sample(&peak, "", cgroup, labels.get(id), value, family.unit);
                    }
                }
            }
            Form::Hist => {
                seen = self.head(&name, "histogram", unit, &format!("{help}, {tail}."));
                for (cgroup, id, numbers) in family.counted().filter(|_| seen) {
                    self.histogram(&name, cgroup, labels.get(id), numbers, family.unit);
                }
            }
            Form::Count | Form::Sum | Form::Busy => {
                seen = self.head(&name, "counter", unit, &format!("{help}, {tail}."));
                for (cgroup, id, numbers) in family.counted().filter(|_| seen) {
                    let value = numbers.sum();
                    self.sample(&name, "_total", cgroup, labels.get(id), value, family.unit);
                }
            }
        }
        if !seen {
            tracing::warn!(
                "meter {} is left out: another is called {name} too",
                family.meter
            );
        }
    }

    fn histogram(&mut self, name: &str, cgroup: &str, more: &str, numbers: &Numbers, unit: Unit) {
        let mut count = 0_u64;
        let buckets = numbers.parts().get(1..).unwrap_or_default();
        let ends = bounds(unit).iter().map(Some).chain([None]);
        for (bucket, end) in buckets.iter().zip(ends) {
            count = count.saturating_add(*bucket);
            self.text += name;
            self.text += "_bucket";
            self.open_labels(cgroup, more);
            self.text += ",le=\"";
            match end {
                Some(end) => self.bound(*end, unit),
                None => self.text += "+Inf",
            }
            let _ = writeln!(self.text, "\"}} {count}");
        }
        self.sample(name, "_sum", cgroup, more, numbers.sum(), unit);
        self.sample(name, "_count", cgroup, more, count, Unit::Count);
    }

    /// The largest number of the bucket that ends at a power of two. That power itself is in the
    /// next: many a request has exactly 4096 bytes, and none of them has less. Of nanoseconds the
    /// one more or less is nothing, and the power is written.
    fn bound(&mut self, end: usize, unit: Unit) {
        let power = 1_u64 << end;
        self.value(if unit == Unit::Ns { power } else { power - 1 }, unit);
    }

    fn sample(&mut self, name: &str, end: &str, cgroup: &str, more: &str, value: u64, unit: Unit) {
        self.text += name;
        self.text += end;
        self.open_labels(cgroup, more);
        self.text += "} ";
        self.value(value, unit);
        self.text.push('\n');
    }

    fn open_labels(&mut self, cgroup: &str, more: &str) {
        self.text += "{cgroup=\"";
        escape(&mut self.text, cgroup, true);
        self.text.push('"');
        if let Some(name) = self.called.get(cgroup) {
            self.text += ",name=\"";
            escape(&mut self.text, name, true);
            self.text.push('"');
        }
        self.text += more;
    }

    fn value(&mut self, value: u64, unit: Unit) {
        if unit != Unit::Ns {
            let _ = write!(self.text, "{value}");
            return;
        }
        let (whole, ns) = (value / 1_000_000_000, value % 1_000_000_000);
        let _ = write!(self.text, "{whole}");
        if ns > 0 {
            let _ = write!(self.text, ".{ns:09}");
            let end = self.text.trim_end_matches('0').len();
            self.text.truncate(end);
        }
    }
}

/// The labels of a family beside the cgroup, as they are written.
struct Labels(Vec<String>);

impl Labels {
    fn of(family: &Family) -> Self {
        let write = |labels: &Arc<super::ledger::Labels>| {
            let mut text = String::new();
            for (name, value) in names::labels(labels.keys()).iter().zip(labels.values()) {
                let _ = write!(text, ",{name}=\"");
                escape(&mut text, value, true);
                text.push('"');
            }
            text
        };
        Self(family.labels().iter().map(write).collect())
    }

    fn get(&self, id: LabelsId) -> &str {
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        self.0.get(id).map(String::as_str).unwrap_or_default()
    }
}

fn escape(text: &mut String, plain: &str, quotes: bool) {
    for c in plain.chars() {
        match c {
            '\\' => *text += "\\\\",
            '\n' => *text += "\\n",
            '"' if quotes => *text += "\\\"",
            // Neither format can say it.
            '\0' => text.push('\u{fffd}'),
            c => text.push(c),
        }
    }
}
