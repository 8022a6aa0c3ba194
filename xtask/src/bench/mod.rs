//! `xtask bench`.

mod attach;
pub mod counters;
mod kinds;
mod limits;
pub mod load;
mod loads;
mod measure;
mod meters;
mod ours;
mod parts;
pub mod pool;
mod report;
mod scope;
mod today;

use std::path::PathBuf;

use measure::{Quiet, Site, Variant, Work, getppid, getppid_ns, measure};
use report::Report;

use crate::Result;
use crate::ground::{self, Ground};

/// Options of the benches.
#[derive(clap::Args)]
pub struct Args {
    /// Fewer rounds: a first look, not figures to keep.
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds; 101, or 21 with --quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// The CPU to measure on.
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Only what has this in its name.
    filter: Option<String>,
}

/// A variant that is set up only if it is wanted.
pub struct Offer<'a> {
    name: String,
    make: Make<'a>,
}

/// Sets a variant up, by its name.
type Make<'a> = Box<dyn FnOnce(&str) -> Result<Variant> + 'a>;

impl<'a> Offer<'a> {
    fn new(name: &str, make: impl FnOnce(&str) -> Result<Variant> + 'a) -> Self {
        Self {
            name: name.to_owned(),
            make: Box::new(make),
        }
    }
}

/// A loop of a call that does next to nothing.
struct Loop {
    calls: u32,
}

impl Work for Loop {
    fn lap(&mut self, variant: Option<&Variant>) -> Result<f64> {
        Ok(getppid_ns(variant, self.calls))
    }

    fn warm(&mut self, variant: Option<&Variant>) -> Result<u64> {
        getppid(variant, 500);
        Ok(500)
    }
}

/// What all families need.
struct Bench<'a> {
    args: &'a Args,
    report: Report,
    quiet: Quiet,
}

impl Bench<'_> {
    fn wants(&self, family: &str, name: &str) -> bool {
        self.args
            .filter
            .as_ref()
            .is_none_or(|f| family.contains(f) || name.contains(f))
    }

    fn rounds(&self) -> usize {
        self.args
            .rounds
            .unwrap_or(if self.args.quick { 21 } else { 101 })
    }

    /// Sets up what is wanted of the offers, and measures it.
    fn family(
        &mut self,
        family: &str,
        offers: Vec<Offer<'_>>,
        start: impl FnOnce() -> Result<Box<dyn Work>>,
    ) -> Result<()> {
        self.family_at(Site::Raw, family, offers, start)
    }

    /// The same with the empty program somewhere else.
    fn family_at(
        &mut self,
        site: Site,
        family: &str,
        offers: Vec<Offer<'_>>,
        start: impl FnOnce() -> Result<Box<dyn Work>>,
    ) -> Result<()> {
        let mut variants = Vec::new();
        for offer in offers.into_iter().filter(|o| self.wants(family, &o.name)) {
            match (offer.make)(&offer.name) {
                Ok(variant) => variants.push(variant),
                // Only what others have to bring may be missing.
                Err(error) if offer.name.contains("bpftrace") => {
                    eprintln!("NOT MEASURED: {}: {error}", offer.name);
                }
                Err(error) => return Err(format!("{}: {error}", offer.name).into()),
            }
        }
        if variants.is_empty() {
            return Ok(());
        }
        let rounds = self.rounds();
        let mut empty = Variant::new("empty", load::empty()?);
        empty.site = site;
        let measured = measure(
            &mut self.quiet,
            start()?.as_mut(),
            &empty,
            &variants,
            rounds,
        )?;
        self.report.add(family, &variants, &measured);
        Ok(())
    }
}

/// Runs what `args` ask for.
pub fn run(args: &Args) -> Result<()> {
    let ground = Ground::new()?;
    let mut bench = Bench {
        args,
        report: Report::new(),
        quiet: Quiet::default(),
    };
    let report = &bench.report;
    println!("kernel {}, {}", report.kernel, report.cpu);
    for (name, what) in &report.mitigations {
        println!("  {name}: {what}");
    }
    ground::pin_to(args.cpu)?;
    ground::go_first()?;
    bench.report.others = others();
    if bench.report.others > 0 {
        eprintln!(
            "NOT CLEAN: {} links of others are at system calls (`bpftool link show`): all that \
             follows is measured on top of them",
            bench.report.others
        );
    }
    dispatch(&mut bench, &ground)?;
    beside_kinds(&mut bench, &ground)?;
    pressure(&mut bench, &ground)?;
    if bench.wants("attach", "attach") {
        let rounds = bench.rounds();
        attach::run(&ground, &mut bench.report, rounds)?;
    }
    if bench.wants("counters", "counters") {
        counters::run(&mut bench, &ground)?;
    }
    loads::run(&mut bench, &ground)?;
    if let Some(path) = &args.json {
        bench.report.write(path)?;
    }
    Ok(())
}

/// Raw tracepoint links at system calls that are there before we attach anything; 0 where bpftool
/// cannot tell.
fn others() -> usize {
    let output = std::process::Command::new("bpftool")
        .args(["-j", "link", "show"])
        .output();
    let links: Option<serde_json::Value> = output
        .ok()
        .and_then(|o| serde_json::from_slice(&o.stdout).ok());
    let is_at_calls = |link: &&serde_json::Value| {
        link["tp_name"]
            .as_str()
            .is_some_and(|name| ["sys_enter", "sys_exit"].contains(&name))
    };
    links
        .as_ref()
        .and_then(|l| l.as_array())
        .map_or(0, |l| l.iter().filter(is_at_calls).count())
}

fn dispatch(bench: &mut Bench<'_>, ground: &Ground) -> Result<()> {
    let (hot, other) = (ground.cgroup("hot")?, ground.cgroup("other")?);
    let mut offers = ours::offers(ground, &hot, &other);
    offers.extend(today::offers(ground, &hot));
    offers.extend(parts::offers(ground, &hot));
    offers.extend(meters::offers(ground));
    let in_hot = || -> Result<Box<dyn Work>> {
        ground::enter(&hot)?;
        Ok(Box::new(Loop { calls: 8000 }))
    };
    bench.family("one cgroup", offers, in_hot)?;

    let mut path = vec![ground.cgroup("deep")?];
    for level in 1..=8 {
        let next = path[level - 1].join(level.to_string());
        std::fs::create_dir(&next)?;
        path.push(next);
    }
    let in_deep = || -> Result<Box<dyn Work>> {
        ground::enter(&path[8])?;
        Ok(Box::new(Loop { calls: 8000 }))
    };
    bench.family("nothing cached", ours::uncached(ground, &path), in_deep)?;
    ground.clear_states();

    let renaming = || -> Result<Box<dyn Work>> {
        ground::enter(&hot)?;
        Ok(Box::new(scope::Rename { calls: 8000 }))
    };
    bench.family_at(scope::SITE, "scope", scope::offers(), renaming)?;
    bench.family_at(
        limits::SITE,
        "end of a call",
        limits::offers(ground),
        in_hot,
    )?;
    ground.clear_states();
    Ok(())
}

/// The same hook alone, and with hooks of every other kind in force: two runs, each with its own floor.
fn beside_kinds(bench: &mut Bench<'_>, ground: &Ground) -> Result<()> {
    const FAMILY: &str = "beside other kinds";
    if !bench.wants(FAMILY, FAMILY) {
        return Ok(());
    }
    let (hot, other) = (ground.cgroup("hot")?, ground.cgroup("other")?);
    let mut run = |family: &str| {
        let offers = vec![
            Offer::new(&format!("miss, {family}"), |name| {
                ours::single(ground, name, &other, "count", 0, 0)
            }),
            Offer::new(&format!("hit, 1 program, {family}"), |name| {
                ours::single(ground, name, &hot, "count", 0, 1)
            }),
        ];
        let in_hot = || -> Result<Box<dyn Work>> {
            ground::enter(&hot)?;
            Ok(Box::new(Loop { calls: 8000 }))
        };
        bench.family(&format!("{FAMILY}: {family}"), offers, in_hot)
    };
    run("none")?;
    let attached = kinds::attach(ground, &hot)?;
    println!("in force beside: {}", attached.join(", "));
    run("all that this kernel has")?;
    ground.clear_states();
    Ok(())
}

fn pressure(bench: &mut Bench<'_>, ground: &Ground) -> Result<()> {
    for count in [1000, 10_000] {
        let (pool, other) = (
            ground.cgroup(&format!("pool{count}"))?,
            ground.cgroup("other")?,
        );
        let offers = vec![
            Offer::new("miss", |name| {
                ours::single(ground, name, &other, "count", 0, 0)
            }),
            Offer::new("hit, 1 program", |name| {
                ours::single(ground, name, &pool, "count", 0, 1)
            }),
            Offer::new("today: 1 x under_cgroup", |name| {
                today::separate(ground, &pool, name, "under_cgroup", 1)
            }),
        ];
        let start = || -> Result<Box<dyn Work>> {
            Ok(Box::new(pool::Pool::start(&pool, count, bench.args.cpu)?))
        };
        let family = format!("{count} active cgroups");
        bench.family(&family, offers, start)?;
        ground.clear_states();
    }
    Ok(())
}
