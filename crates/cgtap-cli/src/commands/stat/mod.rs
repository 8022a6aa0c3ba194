//! `cgtap stat`.

mod home;
mod workload;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cgtap::counter::event;
use cgtap::engine::{CgroupRef, Engine, Stat, StatEvent, StatReport, StatRequest};
use serde::Serialize;

use self::home::Home;
use self::workload::{Ended, Workload};
use super::{Context, document_line};
use crate::cli::StatArgs;
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;
use crate::render;

#[derive(Serialize)]
struct Counts<'a> {
    #[serde(flatten)]
    report: &'a StatReport,
    /// The command's exit status, if there was a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
}

/// Counts events around a command or for a time.
pub fn run(context: &Context, args: StatArgs) -> Result<Status, Failure> {
    check(&args)?;
    let interrupt = Interrupt::noted()?;
    let engine = context.engine()?;
    if args.command.is_empty() {
        count_for_a_time(context, args, &engine, &interrupt)
    } else {
        count_around_a_command(context, args, &engine, &interrupt)
    }
}

/// Whether the events go together, which no single word tells.
fn check(args: &StatArgs) -> Result<(), Failure> {
    let events = args.events.iter().flat_map(|e| &e.0);
    let counters = events.filter_map(|event| match event {
        StatEvent::Counter(event) => Some(event),
        StatEvent::Hook(_) | StatEvent::Meter(_) => None,
    });
    event::check(counters).map_err(|e| Failure::Usage(e.to_string()))
}

fn count_for_a_time(
    context: &Context,
    args: StatArgs,
    engine: &Engine,
    interrupt: &Interrupt,
) -> Result<Status, Failure> {
    let everything = CgroupRef::Path("/".into());
    check_output(&args)?;
    let stat = begin(context, interrupt, None, || {
        engine.stat(request(&args, everything))
    })?;
    let end = args.duration.and_then(|d| Instant::now().checked_add(d));
    let over = interrupt.wait_until(end);
    let report = stat.finish()?;
    print(context, &args, &report, None)?;
    Ok(if over {
        Status::DONE
    } else {
        Status(Failure::INTERRUPTED_STATUS)
    })
}

fn count_around_a_command(
    context: &Context,
    args: StatArgs,
    engine: &Engine,
    interrupt: &Interrupt,
) -> Result<Status, Failure> {
    let workload = Workload::find(&args.command)?;
    check_output(&args)?;
    // Dropped last: what counts in it has to be gone first.
    let home = if args.cgroups.is_empty() {
        Some(Home::make(engine)?)
    } else {
        None
    };
    let own = home.as_ref().map_or_else(
        || CgroupRef::Path("/".into()),
        |home| CgroupRef::Path(home.path().to_owned()),
    );
    let at_home = home.as_ref().map(|home| home.path().to_owned());
    let stat = begin(context, interrupt, at_home, || {
        engine.stat(request(&args, own))
    })?;
    let mut running = match &home {
        Some(home) => workload.start_in(home)?,
        None => workload.start()?,
    };
    let ended = running.wait(interrupt)?;
    let report = stat.finish()?;
    if let Some(home) = home
        && let Some(left) = home.remove()
    {
        context.teller.note(&left);
    }
    let status = match ended {
        Ended::Status(status) => status,
        Ended::Interrupted => Failure::INTERRUPTED_STATUS,
    };
    match print(context, &args, &report, Some(status)) {
        Ok(()) | Err(Failure::BrokenPipe) => Ok(Status(status)),
        Err(failure) => Err(failure),
    }
}

/// Begins to count, unless a signal comes before: then nothing is started, and what was made for it is gone.
fn begin(
    context: &Context,
    interrupt: &Interrupt,
    home: Option<PathBuf>,
    stat: impl FnOnce() -> cgtap::engine::Result<Stat>,
) -> Result<Stat, Failure> {
    let teller = context.teller;
    let _beginning = interrupt.begin(move |failure| {
        if let Some(home) = home {
            let _ = std::fs::remove_dir(home);
        }
        teller.failure(failure);
    })?;
    let stat = stat()?;
    interrupt.check()?;
    Ok(stat)
}

/// Whether the file that the counts are to go to can be written: hours of counts are not to be lost to a wrong path.
/// A pipe of a name is opened when there is something to write: whoever reads there may be the command.
fn check_output(args: &StatArgs) -> Result<(), Failure> {
    let is_pipe = |path: &Path| path.metadata().is_ok_and(|m| m.file_type().is_fifo());
    let Some(path) = args.output.as_deref().filter(|path| !is_pipe(path)) else {
        return Ok(());
    };
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map(drop).map_err(|e| unwritten(path, e))
}

fn unwritten(path: &Path, error: io::Error) -> Failure {
    Failure::system(format!("cannot write {}", path.display()), error)
}

/// What to count, in the cgroups that were named or else in `otherwise`.
fn request(args: &StatArgs, otherwise: CgroupRef) -> StatRequest {
    let cgroups = if args.cgroups.is_empty() {
        vec![otherwise]
    } else {
        args.cgroups.clone()
    };
    StatRequest {
        cgroups,
        events: args.events.iter().flat_map(|e| e.0.clone()).collect(),
        per_cgroup: args.per_cgroup,
        depth: args.depth,
    }
}

fn print(
    context: &Context,
    args: &StatArgs,
    report: &StatReport,
    status: Option<u8>,
) -> Result<(), Failure> {
    let counts = Counts { report, status };
    match &args.output {
        None => context.result(counts, |look| render::stat(report, look))?,
        Some(path) => {
            let text = if context.json {
                document_line(counts)?
            } else {
                render::stat(report, &render::Look::of_file())
            };
            std::fs::write(path, &text).or_else(|e| {
                // They are not to be had again.
                context.print(&text)?;
                Err(unwritten(path, e))
            })?;
        }
    }
    for note in render::stat_notes(report) {
        context.teller.note(&note);
    }
    Ok(())
}
