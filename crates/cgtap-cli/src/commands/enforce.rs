//! `cgtap enforce`: freezes and thaws cgroups by their limits, for as long as it runs, and reads what some
//! of them are on.
//!
//! Beside it runs a guard, a process of its own session that does nothing but wait for its end: when
//! that comes, however it comes, the guard thaws what is still frozen. A guard that dies is replaced.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use cgtap::engine::Paced;
use serde::Serialize;

use super::Context;
use super::reading::Reading;
use crate::cli::EnforceArgs;
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;

#[derive(Serialize)]
struct Step<'a> {
    cgroup: &'a str,
    limit: cgtap::id::LimitId,
    state: &'static str,
}

/// Freezes and thaws until a signal ends it.
pub fn run(context: &Context, args: &EnforceArgs) -> Result<Status, Failure> {
    if args.guard {
        return guard();
    }
    let interrupt = Interrupt::noted()?;
    let engine = context.engine()?;
    let mut pacer = engine.pacer()?;
    let mut guard = Guard::start()?;
    let _reading = Reading::start(&engine, args.read_every, context.teller)?;
    let mut is_told = false;
    while !interrupt.requested() {
        if !guard.is_alive() {
            // What it knew is lost: nothing may be frozen without one.
            pacer.thaw();
            guard = Guard::start()?;
        }
        let mut told = Ok(());
        let done = pacer.step(|paced| {
            if told.is_ok() {
                told = guard.tell(paced);
            }
        })?;
        told?;
        for paced in done {
            tell(context, &paced)?;
        }
        if !std::mem::replace(&mut is_told, true) {
            context.teller.note(&match pacer.count() {
                0 => "no limit freezes anything yet: waiting for one".to_owned(),
                count => format!(
                    "enforcing {} by freezing",
                    crate::render::counted(count, "limit", "limits")
                ),
            });
        }
        std::thread::sleep(args.tick);
    }
    for paced in pacer.thaw() {
        guard.tell(&paced)?;
        tell(context, &paced)?;
    }
    match interrupt.signal() {
        Some(signal_hook::consts::SIGTERM) => Ok(Status::DONE),
        _ => Err(Failure::Interrupted),
    }
}

fn tell(context: &Context, paced: &Paced) -> Result<(), Failure> {
    let state = if paced.is_frozen { "frozen" } else { "thawed" };
    if context.json {
        context.document(Step {
            cgroup: &paced.cgroup,
            limit: paced.limit,
            state,
        })?;
    } else if context.teller.log {
        context.print(&format!("{state} {}\n", paced.cgroup))?;
    }
    Ok(())
}

/// The process that thaws what is left frozen.
struct Guard {
    child: Child,
}

impl Guard {
    fn start() -> Result<Self, Failure> {
        let failed = |e| Failure::system("cannot start the guard", e);
        let own = std::env::current_exe().map_err(failed)?;
        let child = Command::new(own)
            .args(["enforce", "--guard"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        Ok(Self { child })
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Tells it that a cgroup is going to be frozen, or was thawed. That it has died is seen at the next step.
    fn tell(&mut self, paced: &Paced) -> Result<(), Failure> {
        let word = if paced.is_frozen { "F" } else { "T" };
        let line = format!("{word}{}\n", paced.file.display());
        match self
            .child
            .stdin
            .as_mut()
            .map(|i| i.write_all(line.as_bytes()))
        {
            Some(Err(e)) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::system("cannot reach the guard", e))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself when nobody writes to it.
        let _ = self.child.wait();
    }
}

/// Waits for the end of who started it, and thaws what is frozen then.
fn guard() -> Result<Status, Failure> {
    // Ctrl-C and the end of a session are not for it.
    let _ = rustix::process::setsid();
    let _ = Interrupt::noted()?;
    let mut frozen: BTreeSet<PathBuf> = BTreeSet::new();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let (word, file) = line.split_at(line.len().min(1));
        match word {
            "F" => frozen.insert(PathBuf::from(file)),
            _ => frozen.remove(&PathBuf::from(file)),
        };
    }
    for file in frozen {
        // A cgroup that is gone needs no thawing.
        let _ = std::fs::write(file, "0");
    }
    Ok(Status::DONE)
}
