//! `cgtap tree`.

use cgtap::engine::TreeReport;
use serde::Serialize;

use super::Context;
use crate::cli::TreeArgs;
use crate::failure::{Failure, Status};
use crate::render;

#[derive(Serialize)]
struct Tree<'a> {
    tree: &'a TreeReport,
}

/// Draws the cgroup tree.
pub fn run(context: &Context, args: &TreeArgs) -> Result<Status, Failure> {
    let report = context.engine()?.tree(args.cgroup.as_ref())?;
    if context.json {
        context.document(Tree { tree: &report })?;
        return Ok(Status::DONE);
    }
    let (text, left_out) = render::tree(&report, &context.look);
    context.print(&text)?;
    if left_out > 0 {
        let cgroups = render::counted(left_out, "cgroup", "cgroups");
        context
            .teller
            .note(&format!("{cgroups} for which nothing runs not shown"));
    }
    Ok(Status::DONE)
}
