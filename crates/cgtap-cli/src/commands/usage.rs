//! `cgtap usage`.

use cgtap::engine::{Engine, UsageReport, UsageRequest};

use super::Context;
use crate::cli::UsageArgs;
use crate::failure::{Failure, Status};
use crate::render;

/// Shows what cgroups used.
pub fn run(context: &Context, args: UsageArgs) -> Result<Status, Failure> {
    let engine = context.engine()?;
    let report = engine.usage(&UsageRequest {
        cgroup: args.cgroup,
        recursive: args.recursive,
        depth: args.depth,
    })?;
    context.result(&report, |look| render::usage(&report, look))?;
    tell(context, &engine, &report)?;
    Ok(Status::DONE)
}

/// What the numbers alone do not say.
fn tell(context: &Context, engine: &Engine, report: &UsageReport) -> Result<(), Failure> {
    if engine.meters()?.is_empty() {
        context
            .teller
            .note("no meter is enabled; `cgtap meter list` shows which there are");
    }
    for unread in &report.unread {
        context.teller.note(unread);
    }
    if report.lost > 0 {
        let lost = usize::try_from(report.lost).unwrap_or(usize::MAX);
        let events = render::counted(lost, "event", "events");
        context
            .teller
            .note(&format!("{events} could not be charged to anybody"));
    }
    if report.other_labels > 0 {
        let number = usize::try_from(report.other_labels).unwrap_or(usize::MAX);
        let events = render::counted(number, "event", "events");
        let words =
            "had labels beyond the 63 sets that a meter tells apart; they are under `other`";
        context.teller.note(&format!("{events} {words}"));
    }
    Ok(())
}
