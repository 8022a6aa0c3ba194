//! The table and the JSON.

use serde::Serialize;

use super::measure::{Measured, Spread, Variant};
use crate::Result;

/// The whole result, as `--json` writes it.
#[derive(Serialize)]
pub struct Report {
    /// Format of this file.
    pub schema: &'static str,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// What the kernel does about the CPU's faults, where it changes what calls and jumps cost.
    pub mitigations: Vec<(String, String)>,
    /// Links of others that were at system calls all the time; figures are good only without.
    pub others: usize,
    /// What dispatch costs.
    pub rows: Vec<Row>,
    /// What attaching costs.
    pub attach: Vec<AttachRow>,
    /// What counting perf events costs.
    pub counters: Vec<CounterRow>,
    /// What meters cost whole loads.
    pub loads: Vec<LoadRow>,
}

/// A variant.
#[derive(Serialize)]
pub struct Row {
    /// What ran: the family of variants that share their loop.
    pub family: String,
    /// The variant.
    pub name: String,
    /// Its cost in empty programs.
    pub x: f64,
    /// A call with it.
    pub median_ns: f64,
    /// Lower quartile.
    pub q1: f64,
    /// Upper quartile.
    pub q3: f64,
    /// The most it may cost.
    pub goal: Option<f64>,
}

/// An operation.
#[derive(Serialize)]
pub struct AttachRow {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub median_us: f64,
    /// Lower quartile.
    pub q1: f64,
    /// Upper quartile.
    pub q3: f64,
    /// What it is compared with, and how many times as long as that it took.
    pub against: Option<(String, f64)>,
}

/// Who counts perf events, and for how many cgroups.
#[derive(Serialize)]
pub struct CounterRow {
    /// Who.
    pub name: String,
    /// The loop with it by the loop without.
    pub ratio: f64,
    /// The loop with it, in nanoseconds a round trip.
    pub spread: Spread,
    /// How long it took to begin.
    pub start_ms: f64,
}

/// What is there while a load runs.
#[derive(Serialize)]
pub struct LoadRow {
    /// The load.
    pub load: String,
    /// What is there.
    pub name: String,
    /// CPU time with it by CPU time without.
    pub ratio: Spread,
    /// CPU time without it, in milliseconds.
    pub without_ms: f64,
}

/// The files below /sys/devices/system/cpu/vulnerabilities that say what a call costs.
const MITIGATIONS: [&str; 3] = ["spectre_v2", "retbleed", "spec_rstack_overflow"];

impl Report {
    /// Of this machine, nothing measured yet.
    pub fn new() -> Self {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .map(|s| s.trim().to_owned())
                .unwrap_or_default()
        };
        let mitigation = |name: &&str| {
            (
                (*name).to_owned(),
                read(&format!("/sys/devices/system/cpu/vulnerabilities/{name}")),
            )
        };
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name"));
        Self {
            schema: "cgtap-bench/1",
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: model
                .unwrap_or_default()
                .trim_start_matches(['\t', ' ', ':'])
                .to_owned(),
            mitigations: MITIGATIONS.iter().map(mitigation).collect(),
            others: 0,
            rows: Vec::new(),
            attach: Vec::new(),
            counters: Vec::new(),
            loads: Vec::new(),
        }
    }

    /// Takes and prints what was measured of a family.
    pub fn add(&mut self, family: &str, variants: &[Variant], measured: &Measured) {
        let row = |name: &str, spread: Spread, x: f64, goal: Option<f64>| Row {
            family: family.to_owned(),
            name: name.to_owned(),
            x,
            median_ns: spread.median,
            q1: spread.q1,
            q3: spread.q3,
            goal,
        };
        let mut rows = vec![
            row("without", measured.without, 0.0, None),
            row("an empty program, the floor", measured.empty, 1.0, None),
        ];
        for (variant, (spread, x)) in variants.iter().zip(&measured.variants) {
            rows.push(row(&variant.name, *spread, *x, variant.goal));
        }
        println!(
            "\n{family}: {} blocks, {} thrown away",
            measured.blocks, measured.dropped
        );
        println!("{:<48}{:>8}{:>9}{:>17}  goal", "", "x", "ns", "quartiles");
        for row in &rows {
            let quartiles = format!("{:.1}-{:.1}", row.q1, row.q3);
            let goal = row.goal.map_or_else(String::new, |goal| {
                let met = if row.x <= goal { "met" } else { "MISSED" };
                format!("  {goal:.2} {met}")
            });
            println!(
                "{:<48}{:>8.2}{:>9.1}{quartiles:>17}{goal}",
                row.name, row.x, row.median_ns
            );
        }
        self.rows.extend(rows);
    }

    /// Takes and prints how long an operation took.
    pub fn add_attach(&mut self, row: AttachRow) {
        let against = row
            .against
            .as_ref()
            .map_or_else(String::new, |(what, times)| {
                format!("  {times:.3} x {what}")
            });
        let quartiles = format!("{:.0}-{:.0}", row.q1, row.q3);
        println!(
            "{:<48}{:>12.1}{quartiles:>18}{against}",
            row.name, row.median_us
        );
        self.attach.push(row);
    }

    /// Takes and prints what counting costs.
    pub fn add_counters(&mut self, row: CounterRow) {
        let Spread { q1, median, q3 } = row.spread;
        println!(
            "{:<48}{:>8.3}{median:>9.0}{:>17}{:>10.1}",
            row.name,
            row.ratio,
            format!("{q1:.0}-{q3:.0}"),
            row.start_ms
        );
        self.counters.push(row);
    }

    /// Takes and prints what a load costs.
    pub fn add_load(&mut self, row: LoadRow) {
        let Spread { q1, median, q3 } = row.ratio;
        println!(
            "  {:<46}{median:>8.3}{:>17}{:>10.0}",
            row.name,
            format!("{q1:.3}-{q3:.3}"),
            row.without_ms
        );
        self.loads.push(row);
    }

    /// Writes the JSON.
    pub fn write(&self, path: &std::path::Path) -> Result<()> {
        Ok(std::fs::write(
            path,
            serde_json::to_string_pretty(self)? + "\n",
        )?)
    }
}
