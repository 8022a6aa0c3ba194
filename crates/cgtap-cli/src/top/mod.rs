//! What cgroups use, as it goes on: a screen that can be walked through, or frames for pipes.
//!
//! [`model`] takes in reports and works out rates, [`arrange`] makes a tree of them, [`view`] is
//! what of it is looked at; none of these knows a terminal. [`draw`] draws them, [`live`] runs the
//! screen in a [`terminal`], and [`plain`] prints.

mod arrange;
mod column;
mod draw;
mod format;
mod history;
mod keys;
mod limits;
mod live;
mod model;
mod plain;
mod series;
mod terminal;
#[cfg(test)]
pub mod testing;
mod view;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use cgtap::engine::LimitReport;
use cgtap::meter::usage::UsageReport;

use self::arrange::Order;
use self::model::Model;
use self::terminal::Screen;
use self::view::View;
use crate::commands::Context;
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;

/// The name under which the order by name goes.
const BY_NAME: &str = "name";

/// How it is to be shown.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long between two readings.
    pub interval: Duration,
    /// After how many readings to end, the first not counted; 0 for never. If not given, printing
    /// ends after one, and the screen never.
    pub iterations: Option<u64>,
    /// Print, also to a terminal.
    pub once: bool,
    /// By which meter to sort.
    pub sort: Option<String>,
}

/// What is read at a time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What was used, cgroup by cgroup.
    pub usage: UsageReport,
    /// How limits stand.
    pub limits: Vec<LimitReport>,
}

impl From<UsageReport> for Snapshot {
    fn from(usage: UsageReport) -> Self {
        Self {
            usage,
            limits: Vec::new(),
        }
    }
}

/// Shows what `read` says, again and again.
///
/// # Errors
/// What `read` says; [`Failure::Usage`] where there is nothing of the name to sort by;
/// [`Failure::System`] where the terminal cannot be used.
pub fn run(
    context: &Context,
    options: &Options,
    read: impl FnMut() -> Result<Snapshot, Failure>,
    interrupt: &Interrupt,
) -> Result<Status, Failure> {
    let mut watch = Watch {
        model: Model::default(),
        read,
    };
    {
        let teller = context.teller;
        let _beginning = interrupt.begin(move |failure| teller.failure(failure))?;
        watch.take()?;
        interrupt.check()?;
    }
    let order = Order {
        column: options.sort.clone().filter(|sort| sort != BY_NAME),
        ..Order::default()
    };
    check(&order, &watch.model)?;
    if options.once || context.json || !can_be_drawn_on() {
        return plain::run(context, options, &order, &mut watch, interrupt);
    }
    let mut view = View::new(order, options.interval);
    let mut screen = Screen::open(context.look)?;
    let iterations = options.iterations.unwrap_or(0);
    live::run(&mut screen, &mut view, &mut watch, iterations, interrupt)
}

/// Whether standard output is a terminal that knows more than to print.
fn can_be_drawn_on() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The model, and where its reports come from.
struct Watch<R> {
    model: Model,
    read: R,
}

impl<R: FnMut() -> Result<Snapshot, Failure>> Watch<R> {
    /// Reads once.
    fn take(&mut self) -> Result<(), Failure> {
        let Snapshot { usage, limits } = (self.read)()?;
        self.model.update(usage, Instant::now());
        self.model.limit_by(limits);
        Ok(())
    }
}

/// Whether there is what to sort by. Where nothing was counted yet, nobody knows.
fn check(order: &Order, model: &Model) -> Result<(), Failure> {
    let Some(wanted) = &order.column else {
        return Ok(());
    };
    if model.columns().is_empty() || model.column(wanted).is_some() {
        return Ok(());
    }
    let there: Vec<&str> = model.columns().iter().map(|c| &*c.meter).collect();
    Err(Failure::Usage(format!(
        "nothing called `{wanted}` is counted here; sort by {BY_NAME}, {}",
        there.join(", ")
    )))
}

#[cfg(test)]
mod tests;
