//! Measuring: short loops, interleaved over all variants, medians.
//!
//! A variant costs `x = (its loop - loop without) / (loop with an empty program - loop without)`.
//! Each is the median of differences within a block: a machine that is shared is now fast, now
//! slow, and what is compared must be measured within the same tenth of a second.

use cgtap::dispatch::word::{CONTROL_GENERATION, GENERATION_SHIFT};
use cgtap_sys::bpf::{Link, Map, Prog};
use cgtap_sys::memory::Words;
use cgtap_sys::perf;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::Result;
use crate::ground;

/// Where a program is attached.
#[derive(Clone, Copy)]
pub enum Site {
    /// Raw tracepoint sys_enter.
    Raw,
    /// Another raw tracepoint.
    At(&'static str),
    /// The typed raw tracepoint that the program was loaded for.
    Typed,
    /// Classic tracepoint raw_syscalls:sys_enter, by its tracefs id.
    Classic(u64),
}

/// Attaches a program for as long as the link lives.
fn attach(prog: &Prog, site: Site) -> Result<Link> {
    Ok(match site {
        Site::Raw => Link::raw_tracepoint(prog, Some("sys_enter"))?,
        Site::At(name) => Link::raw_tracepoint(prog, Some(name))?,
        Site::Typed => Link::raw_tracepoint(prog, None)?,
        Site::Classic(id) => Link::perf_event(prog, perf::open_tracepoint(id)?.as_fd())?,
    })
}

/// A counter that shows that the variant does what it says.
pub struct Check {
    /// An array of words.
    pub map: Map,
    /// By how much their sum grows with each call.
    pub per_call: u64,
}

impl Check {
    fn sum(&self) -> Result<u64> {
        let value = self.map.lookup(&0u32.to_ne_bytes())?.unwrap_or_default();
        let words = value.chunks_exact(8).filter_map(|w| w.try_into().ok());
        Ok(words.map(u64::from_ne_bytes).sum())
    }
}

/// Something that can be attached.
pub struct Variant {
    /// For the table.
    pub name: String,
    /// Programs, all attached at once.
    pub progs: Vec<Prog>,
    /// Where.
    pub site: Site,
    /// What it must count.
    pub check: Option<Check>,
    /// Control words whose generation is to move with each call, so that no cache word is valid.
    pub uncached: Option<Words>,
    /// What must stay open as long as it is measured.
    pub keep: Vec<Map>,
    /// The most it may cost.
    pub goal: Option<f64>,
}

impl Variant {
    /// One program at the raw tracepoint.
    pub fn new(name: impl Into<String>, prog: Prog) -> Self {
        Self::several(name, vec![prog])
    }

    /// Several.
    pub fn several(name: impl Into<String>, progs: Vec<Prog>) -> Self {
        let name = name.into();
        Self {
            name,
            progs,
            site: Site::Raw,
            check: None,
            uncached: None,
            keep: Vec::new(),
            goal: None,
        }
    }

    /// With a counter that must grow by `per_call`.
    pub fn counted(self, map: Map, per_call: u64) -> Self {
        Self {
            check: Some(Check { map, per_call }),
            ..self
        }
    }

    /// With a goal.
    pub fn goal(self, goal: f64) -> Self {
        Self {
            goal: Some(goal),
            ..self
        }
    }

    fn attach(&self) -> Result<Vec<Link>> {
        self.progs.iter().map(|p| attach(p, self.site)).collect()
    }
}

/// What is timed.
pub trait Work {
    /// Does it once; nanoseconds a call.
    fn lap(&mut self, variant: Option<&Variant>) -> Result<f64>;
    /// Does a little of it, untimed; at least how many calls that were.
    fn warm(&mut self, variant: Option<&Variant>) -> Result<u64>;
}

/// Median and quartiles, in the unit of the samples.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Spread {
    /// Lower quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub q3: f64,
}

impl Spread {
    /// Of these samples; all 0 of none.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let last = samples.len().saturating_sub(1);
            samples
                .get((last as f64 * part).round() as usize)
                .copied()
                .unwrap_or_default()
        };
        Self {
            q1: at(0.25),
            median: at(0.5),
            q3: at(0.75),
        }
    }
}

/// What was measured of a family of variants.
pub struct Measured {
    /// The loop without anything.
    pub without: Spread,
    /// With an empty program.
    pub empty: Spread,
    /// Each variant, and its cost in empty programs.
    pub variants: Vec<(Spread, f64)>,
    /// Blocks that count.
    pub blocks: usize,
    /// Blocks that were thrown away.
    pub dropped: usize,
}

/// Variants between two looks at the loop without and the empty program.
const BLOCK: usize = 5;
/// How far the floor of a block may be from the usual one.
const USUAL_FLOOR: std::ops::Range<f64> = 0.6..1.6;

/// A few variants and, right before them, what they are compared with: whatever else the machine
/// does for longer than that makes all of them dearer alike.
struct Block {
    /// Nobody else was there before or after.
    quiet: bool,
    without: f64,
    empty: f64,
    variants: Vec<(usize, f64)>,
}

impl Block {
    fn floor(&self) -> f64 {
        self.empty - self.without
    }
}

/// Tells whether somebody else has a program at system calls: then the loop without is not
/// without, and what an empty program adds is not the floor.
#[derive(Default)]
pub struct Quiet {
    best: Option<f64>,
}

impl Quiet {
    /// A call may take this many times the best one: a program adds half of it at the least.
    const SLACK: f64 = 1.3;
    /// Longest wait for others to be done.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn is_now(&mut self) -> bool {
        let time = getppid_ns(None, 4000);
        let best = self.best.map_or(time, |best| best.min(time));
        self.best = Some(best);
        time <= best * Self::SLACK
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while !self.is_now() && start.elapsed() < Self::PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Nanoseconds a call of getppid, which does next to nothing.
pub fn getppid_ns(variant: Option<&Variant>, calls: u32) -> f64 {
    best_quarter(calls, |count| getppid(variant, count))
}

/// Nanoseconds a call of what `f` does a number of times. Interrupts only ever add: the best
/// quarter is the one that met none.
pub fn best_quarter(calls: u32, f: impl Fn(u32)) -> f64 {
    let quarter = || {
        let start = ground::cpu_time();
        f(calls / 4);
        (ground::cpu_time() - start).as_nanos() as f64 / f64::from(calls / 4)
    };
    (0..4).map(|_| quarter()).fold(f64::INFINITY, f64::min)
}

/// Calls getppid, with a generation of its own for each call if the variant wants that.
pub fn getppid(variant: Option<&Variant>, count: u32) {
    let Some(words) = variant.and_then(|v| v.uncached.as_ref()) else {
        for _ in 0..count {
            std::hint::black_box(rustix::process::getppid());
        }
        return;
    };
    let mut generation = words.get(CONTROL_GENERATION);
    for _ in 0..count {
        // The next that reads the same of the two tables.
        generation += 2 << GENERATION_SHIFT;
        words.set(CONTROL_GENERATION, generation);
        std::hint::black_box(rustix::process::getppid());
    }
}

/// Measures a family.
pub fn measure(
    quiet: &mut Quiet,
    work: &mut dyn Work,
    empty: &Variant,
    variants: &[Variant],
    rounds: usize,
) -> Result<Measured> {
    for variant in variants {
        check(work, variant)?;
    }
    let mut blocks = Vec::new();
    for round in 0..rounds {
        one_round(quiet, work, empty, variants, round, &mut blocks)?;
    }
    let all = blocks.len();
    blocks.retain(|b| b.quiet);
    let usual = Spread::of(blocks.iter().map(Block::floor).collect()).median;
    blocks.retain(|b| USUAL_FLOOR.contains(&(b.floor() / usual)));
    let floor = Spread::of(blocks.iter().map(Block::floor).collect()).median;
    let of = |at: usize| {
        let samples = blocks
            .iter()
            .flat_map(|b| b.variants.iter().map(move |v| (b, v)));
        let (times, costs) = samples
            .filter(|(_, (variant, _))| *variant == at)
            .map(|(block, (_, time))| (*time, time - block.without))
            .unzip();
        (Spread::of(times), Spread::of(costs).median / floor)
    };
    Ok(Measured {
        without: Spread::of(blocks.iter().map(|b| b.without).collect()),
        empty: Spread::of(blocks.iter().map(|b| b.empty).collect()),
        variants: (0..variants.len()).map(of).collect(),
        blocks: blocks.len(),
        dropped: all - blocks.len(),
    })
}

fn sample(work: &mut dyn Work, variant: Option<&Variant>) -> Result<f64> {
    let links = variant.map(Variant::attach).transpose()?;
    work.warm(variant)?;
    let time = work.lap(variant)?;
    drop(links);
    Ok(time)
}

fn one_round(
    quiet: &mut Quiet,
    work: &mut dyn Work,
    empty: &Variant,
    variants: &[Variant],
    round: usize,
    blocks: &mut Vec<Block>,
) -> Result<()> {
    let count = variants.len();
    // Another start each round, and back and forth.
    let place = |at: usize| {
        let at = if round.is_multiple_of(2) {
            at
        } else {
            count - 1 - at
        };
        (at + round * 7) % count
    };
    let order: Vec<usize> = (0..count).map(place).collect();
    for part in order.chunks(BLOCK) {
        quiet.wait();
        // Either first, in turn.
        let (first, second) = if round.is_multiple_of(2) {
            (None, Some(empty))
        } else {
            (Some(empty), None)
        };
        let times = [sample(work, first)?, sample(work, second)?];
        let [without, with_empty] = if first.is_none() {
            times
        } else {
            [times[1], times[0]]
        };
        let mut block = Block {
            quiet: true,
            without,
            empty: with_empty,
            variants: Vec::new(),
        };
        for at in part {
            block
                .variants
                .push((*at, sample(work, Some(&variants[*at]))?));
        }
        block.quiet = quiet.is_now();
        blocks.push(block);
    }
    Ok(())
}

/// Holds a variant to what it says it counts.
fn check(work: &mut dyn Work, variant: &Variant) -> Result<()> {
    let Some(check) = &variant.check else {
        return Ok(());
    };
    let links = variant.attach()?;
    let before = check.sum()?;
    let calls = work.warm(Some(variant))?;
    let counted = check.sum()? - before;
    drop(links);
    let right = match check.per_call {
        0 => counted == 0,
        each => counted >= calls * each,
    };
    if right {
        return Ok(());
    }
    let name = &variant.name;
    Err(format!(
        "{name}: counted {counted} in {calls} calls, not {} each",
        check.per_call
    )
    .into())
}
