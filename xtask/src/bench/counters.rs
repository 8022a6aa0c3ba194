//! What counting perf events for cgroups costs: two processes in different cgroups that wake each
//! other on one CPU, so that every switch is one between cgroups. Ours beside perf's, for more and
//! more cgroups; all of them but the two are idle.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::Bench;
use super::measure::Spread;
use super::report::CounterRow;
use crate::Result;
use crate::ground::{self, Ground, reference};
use cgtap::engine::{Engine, Stat, StatEvent, StatRequest};

/// What is counted: one that the kernel counts after the switch, a time, and one that never comes.
const EVENTS: &str = "context-switches,task-clock,page-faults";
/// How many cgroups are counted.
const CGROUPS: [usize; 4] = [1, 10, 100, 1000];
/// Round trips of a lap; the best quarter counts.
const TRIPS: u32 = 4000;
/// The longest wait for perf to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the process at the other end is told.
#[derive(clap::Args)]
pub struct Args {
    /// The cgroup to work in.
    dir: PathBuf,
    /// On which CPU.
    cpu: usize,
}

/// The other end: sends back each byte that it gets.
pub fn serve(args: &Args) -> Result<()> {
    ground::enter(&args.dir)?;
    ground::pin_to(args.cpu)?;
    // Not Rust's own, which keep what they are given.
    let mut input = File::open("/proc/self/fd/0")?;
    let mut output = File::options().write(true).open("/proc/self/fd/1")?;
    let mut byte = [0];
    while input.read(&mut byte)? == 1 {
        output.write_all(&byte)?;
    }
    Ok(())
}

/// The process at the other end. It ends with this value.
struct Pong {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Pong {
    fn start(dir: &Path, cpu: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("pong")
            .arg(dir)
            .arg(cpu.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            input: child.stdin.take(),
            output: child.stdout.take().ok_or("no pipe")?,
            child,
        })
    }

    fn trips(&mut self, count: u32) -> Result<()> {
        let input = self.input.as_mut().ok_or("no pipe")?;
        let mut byte = [1];
        for _ in 0..count {
            input.write_all(&byte)?;
            self.output.read_exact(&mut byte)?;
        }
        Ok(())
    }

    /// Nanoseconds a round trip. Whoever else wants the CPU only ever adds: the best quarter is
    /// the one that met nobody.
    fn lap(&mut self) -> Result<f64> {
        self.trips(TRIPS / 8)?;
        let mut best = f64::INFINITY;
        for _ in 0..4 {
            let start = Instant::now();
            self.trips(TRIPS / 4)?;
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(TRIPS / 4));
        }
        Ok(best)
    }
}

impl Drop for Pong {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}

/// Who counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Ours,
    Perf,
}

/// A counter that is at work.
enum Counting {
    Nobody,
    Ours(Box<Stat>),
    /// perf. The command it counts around ends with its input, and so with us, however we end.
    Perf(Child),
}

impl Counting {
    fn start(who: Who, cgroups: &[PathBuf], root: &Path) -> Result<Self> {
        Ok(match who {
            Who::Nobody => Self::Nobody,
            Who::Ours => Self::Ours(Box::new(ours(cgroups)?)),
            Who::Perf => Self::Perf(perf(cgroups, root)?),
        })
    }

    /// Stops it; how many switches it counted in all cgroups, if it counts.
    fn stop(self) -> Result<Option<f64>> {
        match self {
            Self::Nobody => Ok(None),
            Self::Ours(stat) => {
                let report = stat.finish()?;
                let switches = report.cgroups.iter().map(|row| row.events[0].count);
                Ok(Some(switches.sum::<u64>() as f64))
            }
            Self::Perf(mut child) => {
                drop(child.stdin.take());
                let output = child.wait_with_output()?;
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                let count = |line: &str| -> Option<f64> {
                    let mut words = line.split(',');
                    let value = words.next()?.parse().ok()?;
                    (words.nth(1)? == "context-switches").then_some(value)
                };
                Ok(Some(text.lines().filter_map(count).sum()))
            }
        }
    }
}

fn ours(cgroups: &[PathBuf]) -> Result<Stat> {
    let events = EVENTS.split(',').map(str::parse::<StatEvent>);
    let request = StatRequest {
        cgroups: cgroups.iter().map(|dir| reference(dir)).collect(),
        events: events.collect::<Result<_, _>>()?,
        per_cgroup: false,
        depth: None,
    };
    Ok(Engine::open(cgtap::engine::Options::default())?.stat(request)?)
}

/// perf, when it has begun: it starts its command after it has enabled all counters.
fn perf(cgroups: &[PathBuf], root: &Path) -> Result<Child> {
    let names: Vec<String> = cgroups
        .iter()
        .map(|dir| Ok(dir.strip_prefix(root)?.display().to_string()))
        .collect::<Result<_>>()?;
    let child = Command::new("perf")
        .args(["stat", "-a", "-x,", "-e", EVENTS, "--for-each-cgroup"])
        .arg(names.join(","))
        .args(["--", "cat"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot run perf: {e}; `./dev bench` installs it"))?;
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let pids = std::fs::read_to_string(&children).unwrap_or_default();
        let is_command = |pid: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "cat\n")
        };
        if pids.split_whitespace().any(is_command) {
            return Ok(child);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err("perf does not begin".into())
}

struct Variant {
    who: Who,
    cgroups: usize,
    loops_ns: Vec<f64>,
    /// Each loop by one without right before it: a machine that is shared is now fast, now slow.
    ratios: Vec<f64>,
    starts_ms: Vec<f64>,
}

impl Variant {
    fn new(who: Who, cgroups: usize) -> Self {
        Self {
            who,
            cgroups,
            loops_ns: Vec::new(),
            ratios: Vec::new(),
            starts_ms: Vec::new(),
        }
    }

    fn name(&self) -> String {
        let cgroups = self.cgroups;
        match self.who {
            Who::Nobody => "without".to_owned(),
            Who::Ours => format!("cgtap stat, {cgroups} cgroups"),
            Who::Perf => format!("perf stat --for-each-cgroup, {cgroups}"),
        }
    }
}

/// Measures and reports it.
pub(super) fn run(bench: &mut Bench<'_>, ground: &Ground) -> Result<()> {
    // One round is long: a third of the usual number.
    let rounds = bench.rounds().div_ceil(3);
    let cpu = bench.args.cpu;
    let root = Engine::open(cgtap::engine::Options::default())?.cgroup_root()?;
    let mut cgroups = vec![
        ground.cgroup("counters/ping")?,
        ground.cgroup("counters/pong")?,
    ];
    for idle in cgroups.len()..CGROUPS[CGROUPS.len() - 1] {
        cgroups.push(ground.cgroup(&format!("counters/idle{idle}"))?);
    }
    ground::enter(&cgroups[0])?;
    let mut pong = Pong::start(&cgroups[1], cpu)?;
    let mut variants = vec![Variant::new(Who::Nobody, 0)];
    for count in CGROUPS {
        variants.push(Variant::new(Who::Ours, count));
        variants.push(Variant::new(Who::Perf, count));
    }
    for round in 0..rounds {
        for at in 0..variants.len() {
            // Back and forth.
            let at = if round % 2 == 0 {
                at
            } else {
                variants.len() - 1 - at
            };
            let variant = &mut variants[at];
            let without = pong.lap()?;
            let start = Instant::now();
            let counting = Counting::start(variant.who, &cgroups[..variant.cgroups], &root)?;
            variant.starts_ms.push(start.elapsed().as_secs_f64() * 1e3);
            let with = pong.lap()?;
            variant.loops_ns.push(with);
            variant.ratios.push(with / without);
            // One of two processes is in the first cgroup, both are in the first two.
            let least = f64::from(TRIPS) * if variant.cgroups == 1 { 1.0 } else { 2.0 };
            if let Some(switches) = counting.stop()?
                && switches < least
            {
                return Err(format!("{}: {switches} switches, not {least}", variant.name()).into());
            }
        }
    }
    println!("\ncounters, {rounds} rounds: a round trip of two processes in two cgroups, 3 events");
    println!(
        "{:<48}{:>8}{:>9}{:>17}{:>10}",
        "", "ratio", "ns", "quartiles", "start ms"
    );
    for variant in variants {
        let row = CounterRow {
            name: variant.name(),
            ratio: Spread::of(variant.ratios).median,
            spread: Spread::of(variant.loops_ns),
            start_ms: Spread::of(variant.starts_ms).median,
        };
        bench.report.add_counters(row);
    }
    Ok(())
}
