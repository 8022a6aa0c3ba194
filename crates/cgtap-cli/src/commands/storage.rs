//! `cgtap storage`.

use super::Context;
use crate::cli::StorageArgs;
use crate::failure::{Failure, Status};
use crate::render;

/// Shows the cgroup storage of an attachment.
pub fn run(context: &Context, args: &StorageArgs) -> Result<Status, Failure> {
    let report = context.engine()?.storage(args.id)?;
    if report.maps.is_empty() && !context.json {
        context
            .teller
            .note(&format!("attachment {} has no cgroup storage", args.id));
        return Ok(Status::DONE);
    }
    context.result(&report, |look| render::storage(&report, look))?;
    Ok(Status::DONE)
}
