//! The `cgtap` command: words in, one call of the engine, tables or JSON out.
#![forbid(unsafe_code)]

mod app;
mod cli;
mod commands;
mod failure;
mod interrupt;
mod json;
mod render;
mod tell;
mod top;

use std::process::ExitCode;

fn main() -> ExitCode {
    app::run(&std::env::args_os().collect::<Vec<_>>())
}
