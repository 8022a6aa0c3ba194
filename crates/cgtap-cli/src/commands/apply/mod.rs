//! `cgtap apply`: makes meters and limits what a policy file says.

mod difference;
mod read;

use std::path::Path;

use cgtap::engine::ErrorKind;
use cgtap::kernel;
use cgtap::policy;
use serde::Serialize;

pub use self::difference::{Act, Change, Difference, Reach, Stand};
pub use self::read::{Absent, Policy};
use super::Context;
use crate::cli::ApplyArgs;
use crate::failure::{Failure, Status};
use crate::render;

/// A cgroup that goes between looking and changing is no reason to fail: what is left is looked at
/// anew, so often.
const TRIES: usize = 3;

#[derive(Serialize)]
struct Applied<'a> {
    changes: &'a [Change],
    kept: usize,
    applied: bool,
}

/// Applies a policy, or says what that would change.
pub fn run(context: &Context, args: &ApplyArgs) -> Result<Status, Failure> {
    let Some(file) = args.file.as_deref().filter(|_| !args.schema) else {
        context.pretty(&policy::schema())?;
        return Ok(Status::DONE);
    };
    let _kept = kernel::keep();
    let engine = context.engine()?;
    let policy = Policy::read(&engine, &args.meters, file)?;
    for wrong in policy.wrong() {
        context.teller.note(wrong);
    }
    let difference = if args.dry_run {
        policy.difference(&engine, Absent::Refused)?
    } else {
        apply(&engine, &policy, Absent::Refused)?
    };
    let body = Applied {
        changes: &difference.changes,
        kept: difference.kept,
        applied: !args.dry_run,
    };
    context.result(body, |look| {
        let mut text = render::policy_changes(&difference, look);
        if args.dry_run {
            text += &render::policy_reach(&difference.reach);
        }
        text
    })?;
    let freeze = |c: &&Change| c.stand.as_ref().is_some_and(|s| s.on == "freeze");
    let freezing = difference.changes.iter().filter(|c| c.is_to_be());
    let freezing = freezing.filter(freeze).count();
    if freezing > 0 {
        context.teller.note(&format!(
            "{} by freezing: `cgtap enforce` has to run",
            render::counted(freezing, "limit holds", "limits hold")
        ));
    }
    Ok(Status::DONE)
}

/// Applies a policy whole, or not at all; what that changed.
///
/// # Errors
/// [`Failure`]: nothing has changed then.
pub fn apply(
    engine: &cgtap::engine::Engine,
    policy: &Policy,
    absent: Absent,
) -> Result<Difference, Failure> {
    let _kept = kernel::keep();
    let mut tries = 0;
    let mut done: Option<Difference> = None;
    loop {
        tries += 1;
        let difference = policy.difference(engine, absent)?;
        if let Some(done) = done.take_if(|_| difference.is_empty()) {
            return Ok(done);
        }
        match difference.apply(engine) {
            Ok(()) => {
                let all = match done.take() {
                    None => difference,
                    Some(mut all) => {
                        all.and(difference);
                        all
                    }
                };
                // What came between looking and following a pattern is found by looking once more.
                if tries >= TRIES || !policy.follows() || all.is_empty() {
                    return Ok(all);
                }
                done = Some(all);
            }
            Err(Failure::Engine(e))
                if tries < TRIES && matches!(e.kind(), ErrorKind::Cgroup | ErrorKind::NotFound) => {
            }
            Err(failure) => return Err(policy.at(0, failure)),
        }
    }
}

/// A failure, with the file and line that it is about.
fn at(path: &Path, line: usize, failure: Failure) -> Failure {
    let place = policy::place(&path.display().to_string(), line);
    match failure {
        Failure::Engine(e) => {
            let words = format!("{place}: {e}");
            e.with_message(words).into()
        }
        Failure::Usage(why) => Failure::Usage(format!("{place}: {why}")),
        other => other,
    }
}
