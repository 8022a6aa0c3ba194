//! One file a command: words to a request, the engine's answer to standard output.

pub mod apply;
mod attach;
mod completions;
pub mod demo;
mod detach;
mod doctor;
pub mod enforce;
pub mod limit;
mod list;
mod man;
mod maps;
pub mod meter;
mod reading;
mod replace;
mod serve;
mod stat;
mod storage;
mod top;
mod tree;
mod usage;

use std::io::Write;

use cgtap::engine::{Engine, Options};
use serde::Serialize;

use crate::cli::{Command, Global};
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;
use crate::json::Document;
use crate::render::Look;
use crate::tell::Teller;

/// What every command needs to know.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where the state and the cgroups are.
    pub options: Options,
    /// The state was named, and is not merely where it always is.
    pub state_named: bool,
    /// Results are JSON.
    pub json: bool,
    /// What standard output can show.
    pub look: Look,
    /// Where notes go.
    pub teller: Teller,
}

impl Context {
    /// From the options of every command.
    pub fn new(global: Global, teller: Teller) -> Self {
        let mut options = Options::default();
        let state_named = global.state.is_some();
        if let Some(state) = global.state {
            options.state = state;
        }
        options.cgroup_root = global.cgroup_root;
        Self {
            options,
            state_named,
            json: global.json,
            look: Look::of_stdout(global.color.unwrap_or_default()),
            teller,
        }
    }

    /// Opens the state.
    pub fn engine(&self) -> Result<Engine, Failure> {
        Ok(Engine::open(self.options.clone())?)
    }

    /// Prints a result: `body` as a document if JSON is wanted, else `text`.
    pub fn result<T: Serialize>(
        &self,
        body: T,
        text: impl FnOnce(&Look) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            self.document(body)
        } else {
            self.print(&text(&self.look))
        }
    }

    /// Prints `body` as a document on a line of its own.
    pub fn document<T: Serialize>(&self, body: T) -> Result<(), Failure> {
        self.print(&document_line(body)?)
    }

    /// Prints a value as JSON for people to read.
    pub fn pretty(&self, value: &serde_json::Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Failure::system("cannot write JSON", e))?;
        self.print(&(text + "\n"))
    }

    /// Prints `text` as it is, at once.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Failure::output)
    }
}

/// `body` as a document on a line.
pub fn document_line<T: Serialize>(body: T) -> Result<String, Failure> {
    let text = serde_json::to_string(&Document::new(body))
        .map_err(|e| Failure::system("cannot write JSON", e))?;
    Ok(text + "\n")
}

/// Runs `command`.
pub fn run(context: &Context, command: Command) -> Result<Status, Failure> {
    if changes_or_reads_state(&command) {
        let teller = context.teller;
        Interrupt::with_grace(move |failure| teller.failure(failure))?;
    }
    match command {
        Command::Attach(args) => attach::run(context, args),
        Command::Detach(args) => detach::run(context, args),
        Command::Replace(args) => replace::run(context, args),
        Command::List(args) => list::run(context, args),
        Command::Tree(args) => tree::run(context, &args),
        Command::Maps(args) => maps::run(context, &args),
        Command::Storage(args) => storage::run(context, &args),
        Command::Stat(args) => stat::run(context, args),
        Command::Meter(args) => meter::run(context, &args),
        Command::Usage(args) => usage::run(context, args),
        Command::Limit(args) => limit::run(context, &args),
        Command::Apply(args) => apply::run(context, &args),
        Command::Enforce(args) => enforce::run(context, &args),
        Command::Explain(args) => limit::explain(context, &args),
        Command::Top(args) => top::run(context, args),
        Command::Serve(args) => serve::run(context, &args),
        Command::Doctor(args) => doctor::run(context, &args),
        Command::Demo => demo::run(context),
        Command::Completions(args) => completions::run(context, &args),
        Command::Man(args) => man::run(context, &args),
    }
}

/// Whether `command` is one call of the engine. The others wait and clean up, and look for
/// signals themselves, or only print.
fn changes_or_reads_state(command: &Command) -> bool {
    !matches!(
        command,
        Command::Stat(_)
            | Command::Top(_)
            | Command::Serve(_)
            | Command::Enforce(_)
            | Command::Demo
            | Command::Completions(_)
            | Command::Man(_)
    )
}
