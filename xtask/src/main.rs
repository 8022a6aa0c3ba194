//! What developers run beside the tests: `bench` and `soak`, which need root, clang and a kernel
//! with BTF, `gpu-check`, which needs a GPU too, `vm`, which needs QEMU, `docs` and
//! `picture`.
#![forbid(unsafe_code)]

mod bench;
mod docs;
mod gpu;
mod ground;
mod helper;
mod picture;
mod soak;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Whatever went wrong, in words.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures dispatch and attach against an empty program and against today's ways.
    Bench(bench::Args),
    /// Attaches, replaces and detaches at random under load, and checks every count.
    Soak(soak::Args),
    /// Makes the documentation that is made of the program's own tables.
    Docs(docs::Args),
    /// Draws the screen of `cgtap top` from a real run.
    Picture(picture::Args),
    /// Holds the meters of NVIDIA's GPUs to work whose amount is known.
    GpuCheck(gpu::Args),
    /// Runs commands and tests in guests with other kernels.
    Vm(vm::Args),
    /// Works in a cgroup as it is told.
    #[command(hide = true)]
    Worker(helper::Args),
    /// Many threads, each in a cgroup of its own, that work in turn on one CPU.
    #[command(hide = true)]
    Pool(bench::pool::Args),
    /// Sends back each byte that it gets, in a cgroup.
    #[command(hide = true)]
    Pong(bench::counters::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Docs(args) => docs::run(&args),
        Command::Picture(args) => picture::run(&args),
        Command::GpuCheck(args) => gpu::run(&args),
        Command::Vm(args) => return ended(vm::run(&args)),
        Command::Worker(args) => helper::serve(&args),
        Command::Pool(args) => bench::pool::serve(&args),
        Command::Pong(args) => bench::counters::serve(&args),
    };
    ended(done.map(|()| ExitCode::SUCCESS))
}

fn ended(done: Result<ExitCode>) -> ExitCode {
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
