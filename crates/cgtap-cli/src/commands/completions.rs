//! `cgtap completions`.

use clap::CommandFactory;

use super::Context;
use crate::cli::{Cli, CompletionsArgs};
use crate::failure::{Failure, Status};

/// Prints the completions for a shell.
pub fn run(context: &Context, args: &CompletionsArgs) -> Result<Status, Failure> {
    // Into memory first: the generator cannot say that the reader has gone.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cgtap", &mut text);
    context.print(&String::from_utf8_lossy(&text))?;
    Ok(Status::DONE)
}
