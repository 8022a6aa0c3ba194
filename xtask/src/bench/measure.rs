//! Measuring: short loops, interleaved over all variants, medians.
//!
//! A variant costs `x = (its loop - loop without) / (loop with an empty program - loop without)`.
//! The machine is shared, so every round measures everything once, in another order, and a round
//! in which somebody else's program was attached too (the loop without was slow) is thrown away.

use cgtap_sys::bpf::{Link, Map, Prog};
use cgtap_sys::memory::Words;
use cgtap_sys::perf;
use std::os::fd::AsFd;

use crate::Result;

/// Where a program is attached.
#[derive(Clone, Copy)]
pub enum Site {
    /// Raw tracepoint sys_enter.
    Raw,
    /// Classic tracepoint raw_syscalls:sys_enter, by its tracefs id.
    Classic(u64),
}

/// Attaches a program for as long as the link lives.
fn attach(prog: &Prog, site: Site) -> Result<Link> {
    Ok(match site {
        Site::Raw => Link::raw_tracepoint(prog, Some("sys_enter"))?,
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

/// Median and quartiles, in nanoseconds a call.
#[derive(Clone, Copy, Debug)]
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
    /// Each variant.
    pub variants: Vec<Spread>,
    /// Rounds that count.
    pub rounds: usize,
    /// Rounds that were thrown away.
    pub dropped: usize,
}

impl Measured {
    /// What a spread costs in empty programs.
    pub fn x(&self, spread: Spread) -> f64 {
        (spread.median - self.without.median) / (self.empty.median - self.without.median)
    }
}

/// Variants between two looks at the loop without and the empty program.
const BLOCK: usize = 5;

/// One round: what each place of the schedule took.
struct Round {
    without: Vec<f64>,
    empty: Vec<f64>,
    variants: Vec<f64>,
}

/// Measures a family.
pub fn measure(
    work: &mut dyn Work,
    empty: &Variant,
    variants: &[Variant],
    rounds: usize,
) -> Result<Measured> {
    for variant in variants {
        check(work, variant)?;
    }
    let mut done = Vec::with_capacity(rounds);
    for round in 0..rounds {
        done.push(one_round(work, empty, variants, round)?);
    }
    let all = done.len();
    let base = |round: &Round| Spread::of(round.without.clone()).median;
    let mut bases: Vec<f64> = done.iter().map(base).collect();
    bases.sort_by(f64::total_cmp);
    let usual = bases.get(all / 10).copied().unwrap_or_default();
    done.retain(|round| base(round) < usual * 1.25);
    let collect =
        |pick: &dyn Fn(&Round) -> Vec<f64>| Spread::of(done.iter().flat_map(pick).collect());
    Ok(Measured {
        without: collect(&|r| r.without.clone()),
        empty: collect(&|r| r.empty.clone()),
        variants: (0..variants.len())
            .map(|i| collect(&|r| vec![r.variants[i]]))
            .collect(),
        rounds: done.len(),
        dropped: all - done.len(),
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
    work: &mut dyn Work,
    empty: &Variant,
    variants: &[Variant],
    round: usize,
) -> Result<Round> {
    let count = variants.len();
    let mut times = Round {
        without: Vec::new(),
        empty: Vec::new(),
        variants: vec![0.0; count],
    };
    for place in 0..count {
        if place % BLOCK == 0 {
            // Either first, in turn.
            if round.is_multiple_of(2) {
                times.without.push(sample(work, None)?);
                times.empty.push(sample(work, Some(empty))?);
            } else {
                times.empty.push(sample(work, Some(empty))?);
                times.without.push(sample(work, None)?);
            }
        }
        // Another start each round, and back and forth.
        let at = if round.is_multiple_of(2) {
            place
        } else {
            count - 1 - place
        };
        let at = (at + round * 7) % count;
        times.variants[at] = sample(work, Some(&variants[at]))?;
    }
    Ok(times)
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
