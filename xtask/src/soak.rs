//! `xtask soak`: attaches, replaces and detaches at random while every cgroup is busy, and checks
//! every count after every step.
//!
//! A step has each worker do a known number of calls and does one change meanwhile. What was
//! attached before and after must have counted every call below its cgroup, what came or went no
//! more than those, what is detached none, and of what was replaced old and new together all.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cgtap::attach::Mode;
use cgtap::engine::{
    AttachReport, AttachRequest, Detach, Engine, ListRequest, ObjectSource, ReplaceRequest,
};
use cgtap::id::AttachmentId;
use cgtap_sys::bpf::Map;

use crate::Result;
use crate::bench::load::bss;
use crate::ground::{Ground, reference};
use crate::helper::Helper;

/// Options of the soak.
#[derive(clap::Args)]
pub struct Args {
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Calls of each worker in a step.
    #[arg(long, default_value_t = 20_000)]
    calls: u64,
    /// Where the random choices start; the same seed makes the same changes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The cgroups, parents first.
const CGROUPS: [&str; 5] = ["soak", "soak/a", "soak/a/b", "soak/a/b/c", "soak/d"];
/// Attachments at a time.
const MOST: usize = 24;

/// An attachment, and what it has counted.
struct Live {
    id: AttachmentId,
    cgroup: usize,
    count: Map,
    seen: u64,
}

impl Live {
    fn new(engine: &Engine, report: &AttachReport, cgroup: usize) -> Result<Self> {
        let id = report.attachments.first().ok_or("nothing was attached")?.id;
        Ok(Self {
            id,
            cgroup,
            count: bss(engine, report.instance)?,
            seen: 0,
        })
    }

    /// What it has counted since the last time.
    fn counted(&mut self) -> Result<u64> {
        let value = self.count.lookup(&0u32.to_ne_bytes())?.unwrap_or_default();
        let now = value
            .get(..8)
            .and_then(|w| w.try_into().ok())
            .map_or(0, u64::from_ne_bytes);
        Ok(now - std::mem::replace(&mut self.seen, now))
    }
}

/// What a step changed.
enum Change {
    /// This one is new.
    Attached(Live),
    /// This one is gone.
    Detached(Live),
    /// This one went on under another program: its place, and the old count.
    Replaced(usize, Live),
}

struct Soak {
    engine: Engine,
    object: PathBuf,
    cgroups: Vec<PathBuf>,
    live: Vec<Live>,
    /// The last ones that were detached: they must stay silent.
    gone: Vec<Live>,
    random: u64,
}

impl Soak {
    /// A number below `limit` (xorshift).
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % limit as u64) as usize
    }

    fn source(&self) -> ObjectSource {
        ObjectSource::File {
            path: self.object.clone(),
            set: Vec::new(),
        }
    }

    fn change(&mut self) -> Result<Change> {
        let (choice, count) = (self.below(10), self.live.len());
        if count == 0 || (choice < 4 && count < MOST) {
            let cgroup = self.below(CGROUPS.len());
            let request = AttachRequest {
                mode: Mode::Multi,
                ..AttachRequest::new(reference(&self.cgroups[cgroup]), self.source())
            };
            let report = self.engine.attach(request)?;
            return Ok(Change::Attached(Live::new(&self.engine, &report, cgroup)?));
        }
        let at = self.below(count);
        if choice < 7 {
            let request = ReplaceRequest {
                id: self.live[at].id,
                source: self.source(),
                program: None,
                expect: None,
            };
            let report = self.engine.replace(request)?;
            let new = Live::new(&self.engine, &report, self.live[at].cgroup)?;
            let old = std::mem::replace(&mut self.live[at], new);
            return Ok(Change::Replaced(at, old));
        }
        self.engine.detach(&Detach::Ids(vec![self.live[at].id]))?;
        Ok(Change::Detached(self.live.swap_remove(at)))
    }

    /// Workers at and below a cgroup.
    fn below_cgroup(cgroup: usize) -> u64 {
        let top = CGROUPS[cgroup];
        let is_below = |c: &&&str| {
            **c == top
                || c.strip_prefix(top)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        CGROUPS.iter().filter(is_below).count() as u64
    }

    fn step(&mut self, workers: &mut [Helper], calls: u64) -> Result<()> {
        for worker in workers.iter_mut() {
            worker.say(&calls.to_string())?;
        }
        let change = self.change()?;
        for worker in workers.iter_mut() {
            worker.hear()?;
        }
        let all = |live: &Live| calls * Self::below_cgroup(live.cgroup);
        let mut fresh = None;
        let mut replaced = None;
        match change {
            Change::Attached(mut new) => {
                let (counted, most) = (new.counted()?, all(&new));
                expect(counted <= most, "a new attachment", &new, counted, most)?;
                fresh = Some(new);
            }
            Change::Detached(mut old) => {
                let (counted, most) = (old.counted()?, all(&old));
                expect(
                    counted <= most,
                    "a detached attachment",
                    &old,
                    counted,
                    most,
                )?;
                self.gone.push(old);
            }
            Change::Replaced(at, mut old) => {
                let counted = old.counted()? + self.live[at].counted()?;
                expect(
                    counted == all(&old),
                    "old and new",
                    &old,
                    counted,
                    all(&old),
                )?;
                replaced = Some(at);
                self.gone.push(old);
            }
        }
        for (at, live) in self
            .live
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| Some(*at) != replaced)
        {
            let counted = live.counted()?;
            expect(
                counted == all(live),
                &format!("attachment {at}"),
                live,
                counted,
                all(live),
            )?;
        }
        self.live.extend(fresh);
        Ok(())
    }

    /// What was detached counts nothing any more.
    fn check_gone(&mut self) -> Result<()> {
        for old in &mut self.gone {
            let counted = old.counted()?;
            expect(counted == 0, "what was detached", old, counted, 0)?;
        }
        let spare = self.gone.len().saturating_sub(8);
        self.gone.drain(..spare);
        Ok(())
    }
}

fn expect(right: bool, what: &str, live: &Live, counted: u64, want: u64) -> Result<()> {
    if right {
        return Ok(());
    }
    let (id, cgroup) = (live.id, CGROUPS[live.cgroup]);
    Err(format!("{what} ({id} at {cgroup}) counted {counted}, not {want}").into())
}

/// Runs the soak.
pub fn run(args: &Args) -> Result<()> {
    let ground = Ground::new()?;
    let object = ground.compile("soak")?;
    let cgroups = CGROUPS
        .iter()
        .map(|c| ground.cgroup(c))
        .collect::<Result<Vec<_>>>()?;
    let mut workers = cgroups
        .iter()
        .map(|dir| Helper::start("worker", dir, &[]))
        .collect::<Result<Vec<_>>>()?;
    let (engine, state) = ground.engine()?;
    let mut soak = Soak {
        engine,
        object,
        cgroups,
        live: Vec::new(),
        gone: Vec::new(),
        random: args.seed | 1,
    };
    let (start, mut said) = (Instant::now(), Instant::now());
    let mut steps = 0u64;
    while start.elapsed() < Duration::from_secs(args.seconds) {
        soak.step(&mut workers, args.calls)
            .map_err(|e| format!("step {steps}: {e}"))?;
        soak.check_gone()
            .map_err(|e| format!("step {steps}: {e}"))?;
        steps += 1;
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            println!("{steps} changes, {} attached", soak.live.len());
        }
    }
    let lists = soak.engine.list(&ListRequest::default())?;
    let lost = lists
        .iter()
        .map(|l| l.lost + l.recursion_misses)
        .max()
        .unwrap_or(0);
    soak.engine.detach(&Detach::All)?;
    if lost > 0 || state.exists() {
        let left = state.exists();
        return Err(format!("{lost} events lost; state left behind: {left}").into());
    }
    let events = steps * args.calls * CGROUPS.len() as u64;
    println!("{steps} changes under {events} calls: every count exact, none lost, nothing left");
    Ok(())
}
