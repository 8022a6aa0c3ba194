//! Limits on the page: how much, how often, what is used and left, what was denied.

use std::collections::BTreeMap;

use cgtap::engine::{LimitReport, PatternReport};
use cgtap::meter::usage::Unit;

use super::super::names;
use super::{Page, escape};

/// A limit with its labels beside the cgroup, as they are written.
type Labelled<'a> = (&'a LimitReport, String);

impl Page {
    /// All that is told of `limits`.
    pub(super) fn limits(&mut self, limits: &[LimitReport]) {
        let limits = labelled(limits);
        let help = "What a limit allows, in all or in each period";
        self.by_unit(&limits, "amount", help, |l| l.amount.into());
        let help = "Period of the amount of a limit; none of what is allowed in all.";
        let period = |l: &LimitReport| Some(l.period_ns?.into());
        self.limit(&limits, ("period", "gauge"), Unit::Ns, help, period);
        // No counter: what is being tried is in it and is given back if it is denied, and so is what
        // is held and let go.
        let help = "What is charged to a limit since it was set";
        self.by_unit(&limits, "used", help, |l| l.used.into());
        let help = "What is left of a limit now, below 0 for debt";
        self.by_unit(&limits, "left", help, |l| l.left.into());
        let help = "1 where nothing is left of a limit.";
        let reached = |l: &LimitReport| Some(l.is_reached.into());
        self.limit(&limits, ("reached", "gauge"), Unit::Count, help, reached);
        let help = "Time since what a limit is on was read last; none of limits that nobody has to read for.";
        let read = |l: &LimitReport| l.read_ago_ns.map(i128::from);
        self.limit(&limits, ("read_age", "gauge"), Unit::Ns, help, read);
        let help = "Events that a limit denied, or would have but for its action observe.";
        let denied = |l: &LimitReport| Some(l.denied.into());
        self.limit(&limits, ("denied", "counter"), Unit::Count, help, denied);
        let help = "Events of any cgroup at a limit's hooks for which the kernel ran no program.";
        let missed = |l: &LimitReport| Some(l.missed.into());
        self.limit(&limits, ("missed", "counter"), Unit::Count, help, missed);
    }

    /// The places that cgroups are given that patterns match when they are made; of all patterns together.
    pub fn places(&mut self, patterns: &[PatternReport]) {
        let Some(all) = patterns.first() else {
            return;
        };
        for (what, kind, help, value) in [
            (
                "free",
                "gauge",
                "Budgets that cgroups can still be given as they are made, by patterns.",
                all.places_free,
            ),
            (
                "used",
                "gauge",
                "Budgets that cgroups were given as they were made, and have.",
                all.places_used,
            ),
            (
                "overflow",
                "counter",
                "Cgroups that found no budget left and share one with others of their pattern.",
                all.places_short,
            ),
            (
                "lost",
                "counter",
                "Cgroups that could not be noted and are held by what is above them alone.",
                all.lost,
            ),
        ] {
            let name = format!("{}places_{what}", names::LIMIT);
            if self.head(&name, kind, None, help) {
                let end = if kind == "counter" { "_total" } else { "" };
                self.plain(&format!("{name}{end}"), value);
            }
        }
    }

    /// A gauge for each unit: a family has no more than one.
    fn by_unit(
        &mut self,
        limits: &[Labelled<'_>],
        what: &str,
        help: &str,
        value: impl Fn(&LimitReport) -> i128,
    ) {
        for (unit, of) in [
            (Unit::Count, "events"),
            (Unit::Bytes, "bytes"),
            (Unit::Ns, "time"),
        ] {
            let help = format!("{help}; limits of {of}.");
            let value = |l: &LimitReport| (l.unit == unit).then(|| value(l));
            self.limit(limits, (what, "gauge"), unit, &help, value);
        }
    }

    /// A family, called `what` and of a kind, with a sample of each limit that has a value.
    fn limit(
        &mut self,
        limits: &[Labelled<'_>],
        (what, kind): (&str, &str),
        unit: Unit,
        help: &str,
        value: impl Fn(&LimitReport) -> Option<i128>,
    ) {
        let samples = limits.iter().filter_map(|l| Some((l, value(l.0)?)));
        let mut samples = samples.peekable();
        let base = names::unit(unit);
        let end = base.map(|base| format!("_{base}")).unwrap_or_default();
        let name = format!("{}{what}{end}", names::LIMIT);
        if samples.peek().is_none() || !self.head(&name, kind, base, help) {
            return;
        }
        let end = if kind == "counter" { "_total" } else { "" };
        for ((limit, labels), value) in samples {
            self.text += &name;
            self.text += end;
            self.open_labels(&limit.cgroup, labels);
            self.text += if value < 0 { "} -" } else { "} " };
            let value = u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX);
            self.value(value, unit);
            self.text.push('\n');
        }
    }
}

/// Each with its labels. Of two with the same ones the newer: the cgroup of the other is gone, and one
/// page cannot have both.
fn labelled(limits: &[LimitReport]) -> Vec<Labelled<'_>> {
    let mut all: BTreeMap<(&str, String), &LimitReport> = BTreeMap::new();
    for limit in limits {
        let of: Vec<String> = limit
            .labels
            .iter()
            .map(|(name, text)| format!("{name}={text}"))
            .collect();
        let mut text = String::new();
        for (name, value) in [
            ("meter", &limit.meter),
            ("of", &of.join(",")),
            ("action", &limit.on),
        ] {
            if !value.is_empty() {
                text += &format!(",{name}=\"");
                escape(&mut text, value, true);
                text.push('"');
            }
        }
        let kept = all.entry((&limit.cgroup, text)).or_insert(limit);
        if kept.id < limit.id {
            *kept = limit;
        }
    }
    all.into_iter()
        .map(|((_, labels), limit)| (limit, labels))
        .collect()
}
