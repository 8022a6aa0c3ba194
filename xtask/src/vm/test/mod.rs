//! `xtask vm test`: every test of the workspace in guests, a boot or two a kernel, as many at a time as
//! the host has CPUs and memory for. Tests are built once, on the host; the guest runs them by way of
//! this same program.

mod agent;
mod jobs;
mod libtest;
mod plan;
mod report;

use std::num::NonZero;
use std::process::ExitCode;

use super::cache::Cache;
use super::guest::Out;
use super::{Options, kernels};
use crate::Result;
use jobs::Job;
use plan::Chosen;

pub use agent::Args as AgentArgs;
pub use agent::run as run_agent;

/// The file with the plan, in the directory for results.
const PLAN_FILE: &str = "plan.json";
/// The file with the results, there too.
const RESULTS_FILE: &str = "results.json";

/// Options of `xtask vm test`.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel's name, several with commas between them, or `all`. One with a slash is the directory in
    /// which you built it.
    #[arg(long, default_value = "all")]
    kernel: String,
    /// Only these test binaries, by name; with a kernel's name before it, on that kernel only, in a guest
    /// of its own.
    #[arg(long = "test", value_name = "[KERNEL:]BINARY")]
    only: Vec<Chosen>,
    /// What no `--test` names runs too, each binary on one of these kernels, in turn.
    #[arg(long, value_name = "KERNELS", conflicts_with = "here")]
    spread: Option<String>,
    /// Seconds for one test binary; then it is killed and its tests that have not ended failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    binary_timeout_s: u64,
    /// Runs them on this machine's own kernel, to compare.
    #[arg(long, conflicts_with = "kernel")]
    here: bool,
    /// Guests that run at once [default: one a CPU, as far as memory goes]
    #[arg(long, value_name = "NUMBER")]
    at_once: Option<NonZero<usize>>,
    #[command(flatten)]
    options: Options,
    /// Goes to every test binary.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the tests of each kernel in turn.
pub fn run(cache: &Cache, args: &Args) -> Result<ExitCode> {
    let (plan, only) = plan::make(args)?;
    if args.here {
        let out = Out::new(cache, None)?;
        plan.write(out.dir())?;
        agent::run(&AgentArgs {
            dir: out.dir().to_owned(),
        })?;
        let run = report::Run::read("here", out.dir(), &plan, None);
        return Ok(report::print(&[run]));
    }
    let (mut all, mut gone) = (Vec::new(), Vec::new());
    for kernel in kernels::named(&args.kernel)? {
        let boots = plan.boots(&only, &kernel.name);
        let Some(unpacked) = kernel.find(cache)? else {
            let binaries = boots.iter().map(|boot| boot.plan.binaries.len()).sum();
            gone.push(report::Run::skipped(&kernel.name, kernel.gone(), binaries));
            continue;
        };
        for boot in boots {
            all.push((unpacked.clone(), boot));
        }
    }
    // The others are worth a run without it; alone it is a failure.
    if all.is_empty()
        && let Some(why) = gone.iter().find_map(report::Run::why_skipped)
    {
        return Err(why.into());
    }
    // What takes longest is chosen for one kernel alone: begun first, nothing has to wait for it at the end.
    all.sort_by_key(|(_, boot)| !boot.is_named);
    let jobs = all.into_iter();
    let jobs = jobs.map(|(kernel, boot)| Job::prepare(cache, args, kernel, boot));
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    match jobs::run(cache, args.at_once, &jobs)? {
        Some(mut runs) => {
            runs.append(&mut gone);
            Ok(report::print(&runs))
        }
        None => Ok(ExitCode::from(130)),
    }
}
