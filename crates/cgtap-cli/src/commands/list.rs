//! `cgtap list`.

use cgtap::engine::{ListReport, ListRequest};
use serde::Serialize;

use super::Context;
use crate::cli::ListArgs;
use crate::failure::{Failure, Status};
use crate::render;

#[derive(Serialize)]
struct Lists<'a> {
    lists: &'a [ListReport],
}

/// Shows lists or effective arrays.
pub fn run(context: &Context, args: ListArgs) -> Result<Status, Failure> {
    let request = ListRequest {
        cgroup: args.cgroup,
        hook: args.hook,
        effective: args.effective,
        recursive: args.recursive,
    };
    let lists = context.engine()?.list(&request)?;
    context.result(Lists { lists: &lists }, |look| {
        render::list(&lists, args.effective, look)
    })?;
    if lists.iter().all(|list| list.attachments.is_empty()) {
        context.teller.note("nothing is attached");
    }
    for files in render::files(&lists) {
        context.teller.note(&files);
    }
    for loss in render::losses(&lists) {
        context.teller.note(&loss);
    }
    Ok(Status::DONE)
}
