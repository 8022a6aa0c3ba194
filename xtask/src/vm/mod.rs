//! `xtask vm`: commands and tests in guests with other kernels than this machine's, under QEMU
//! without KVM. Kernels are Debian's packages, fetched and unpacked, never installed, or of your own build.

mod apt;
mod cache;
mod display;
mod environment;
mod features;
mod guest;
mod initramfs;
mod kernels;
mod modules;
mod simgpu;
mod test;
mod tool;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cache::Cache;
use guest::{End, Guest, Out};

use crate::Result;

/// Options of `xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Fetches and unpacks kernels, and says where they are.
    Fetch {
        /// The kernel's name, the directory in which you built one, or `all`.
        #[arg(default_value = "all")]
        kernel: String,
    },
    /// Runs a command in a guest: same files, same directory, root, and its exit status is ours.
    Run(Run),
    /// Runs every test of the workspace in a guest for each kernel.
    Test(test::Args),
    /// Has `cgtap doctor` look at each kernel, and writes docs/features.md.
    Features(features::Args),
    /// Runs tests, in the guest.
    #[command(hide = true)]
    TestAgent(test::AgentArgs),
}

#[derive(clap::Args)]
struct Run {
    /// The kernel's name, such as 6.12, or the directory in which you built one.
    #[arg(long)]
    kernel: String,
    /// A directory that the guest may write; CGTAP_GUEST_OUT tells the command where it is. All else
    /// that it writes is gone with it.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What a guest is given.
#[derive(Clone, clap::Args)]
pub struct Options {
    /// Seconds until the guest is killed [default: 1800; for tests as long as all their binaries may
    /// take].
    #[arg(long = "timeout", value_name = "SECONDS")]
    timeout_s: Option<u64>,
    /// Memory in MiB. The files that the guest writes are in it.
    #[arg(long = "memory", value_name = "MIB", default_value_t = 2048)]
    memory_mib: u32,
    /// CPUs.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// A kernel module to load first, with what it needs: NAME or "NAME PARAMETER=VALUE...".
    #[arg(long = "module", value_name = "MODULE")]
    modules: Vec<String>,
    /// More for the kernel's command line.
    #[arg(long, allow_hyphen_values = true)]
    append: Vec<String>,
    /// More for QEMU's command line, one word each.
    #[arg(long = "qemu-arg", value_name = "WORD", allow_hyphen_values = true)]
    qemu_args: Vec<String>,
    /// A GPU that renders 3D for the guest, by virgl, instead of one that only shows pictures.
    #[arg(long)]
    virgl: bool,
    /// A variable for the command: NAME (the value it has here) or NAME=VALUE.
    #[arg(long)]
    env: Vec<String>,
}

impl Options {
    /// Seconds until the guest is killed.
    fn timeout_s(&self) -> u64 {
        self.timeout_s.unwrap_or(1800)
    }
}

/// Does it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let cache = Cache::open()?;
    match &args.verb {
        Verb::Fetch { kernel } => {
            for kernel in kernels::named(kernel)? {
                let unpacked = kernel.unpack(&cache)?;
                println!(
                    "{}\t{}\t{}",
                    unpacked.name,
                    unpacked.release,
                    unpacked.image.display()
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run(run) => run_command(&cache, run),
        Verb::Test(args) => test::run(&cache, args),
        Verb::Features(args) => features::run(&cache, args),
        Verb::TestAgent(args) => test::run_agent(args).map(|()| ExitCode::SUCCESS),
    }
}

fn run_command(cache: &Cache, run: &Run) -> Result<ExitCode> {
    let [kernel] = &kernels::named(&run.kernel)?[..] else {
        return Err("a command runs in one guest: name one kernel".into());
    };
    let kernel = kernel.unpack(cache)?;
    let out = Out::new(cache, run.out.as_deref())?;
    let guest = Guest {
        label: None,
        kernel: &kernel,
        options: &run.options,
        out: out.dir(),
    };
    match guest.run(cache, &run.command)? {
        End::Exited(code) => Ok(ExitCode::from(code)),
        End::TimedOut => {
            eprintln!(
                "vm: killed after {} s; --timeout gives it more",
                run.options.timeout_s()
            );
            // As timeout(1) has it.
            Ok(ExitCode::from(124))
        }
        End::Interrupted => Ok(ExitCode::from(130)),
        End::Died(words) => Err(words.into()),
    }
}

/// The root of the tree.
fn tree() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
