//! `xtask vm test`: every test of the workspace in guests, one boot a kernel. Tests are built once,
//! on the host; the guest runs them by way of this same program.

mod agent;
mod libtest;
mod plan;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use super::cache::Cache;
use super::guest::{End, Guest, Out};
use super::{Options, kernels, simgpu};
use crate::Result;

pub use agent::Args as AgentArgs;
pub use agent::run as run_agent;

/// The file with the plan, in the directory for results.
const PLAN_FILE: &str = "plan.json";
/// The file with the results, there too.
const RESULTS_FILE: &str = "results.json";

/// Options of `xtask vm test`.
#[derive(clap::Args)]
pub struct Args {
    /// The kernel's name, or `all`.
    #[arg(long, default_value = "all")]
    kernel: String,
    /// Only these test binaries, by name.
    #[arg(long = "test", value_name = "BINARY")]
    only: Vec<String>,
    /// Seconds for one test binary; then it is killed and its tests that have not ended failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    binary_timeout_s: u64,
    /// Runs them on this machine's own kernel, to compare.
    #[arg(long, conflicts_with = "kernel")]
    here: bool,
    #[command(flatten)]
    options: Options,
    /// Goes to every test binary.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the tests of each kernel in turn.
pub fn run(cache: &Cache, args: &Args) -> Result<ExitCode> {
    let plan = plan::make(args)?;
    // Tests of gates want a GPU with a driver.
    let mut options = args.options.clone();
    options
        .qemu_args
        .extend(["-device", "virtio-gpu-pci"].map(str::to_owned));
    let mut runs = Vec::new();
    if args.here {
        let out = Out::new(cache, None)?;
        plan.write(out.dir())?;
        agent::run(&AgentArgs {
            dir: out.dir().to_owned(),
        })?;
        runs.push(report::Run::read("here", out.dir(), &plan, None));
    } else {
        for kernel in kernels::named(&args.kernel)? {
            let kernel = kernel.unpack(cache)?;
            eprintln!(
                "vm: {} test binaries on {}",
                plan.binaries.len(),
                kernel.release
            );
            let out = Out::new(cache, None)?;
            plan.write(out.dir())?;
            let mut options = options.clone();
            if ["guest_gpu", "guest_limit"]
                .iter()
                .any(|name| plan.has(name))
            {
                let module = simgpu::build(cache, &kernel)?;
                let path = module.map_or_else(String::new, |m| m.display().to_string());
                options.env.push(format!("{}={path}", simgpu::VARIABLE));
            }
            let guest = Guest {
                kernel: &kernel,
                options: &options,
                out: out.dir(),
            };
            let end = guest.run(cache, &agent_command()?)?;
            if end == End::Interrupted {
                return Ok(ExitCode::from(130));
            }
            let fault = fault(&end, &args.options);
            runs.push(report::Run::read(kernel.name, out.dir(), &plan, fault));
        }
    }
    Ok(report::print(&runs))
}

/// This program, as it is called in the guest.
fn agent_command() -> Result<Vec<String>> {
    let own: PathBuf = std::env::current_exe()?;
    let own = own.to_str().ok_or("this program's path is not UTF-8")?;
    Ok([own, "vm", "test-agent", cgtap_guest_init::OUT_DIR]
        .map(str::to_owned)
        .into())
}

/// What kept a guest from running all tests.
fn fault(end: &End, options: &Options) -> Option<String> {
    match end {
        End::Exited(0) => None,
        End::Exited(code) => Some(format!("the test agent ended with status {code}")),
        End::TimedOut => Some(format!(
            "the guest was killed after {} s; --timeout gives it more",
            options.timeout_s
        )),
        End::Died(words) => Some(words.clone()),
        End::Interrupted => Some("interrupted".to_owned()),
    }
}
