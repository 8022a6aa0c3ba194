//! `cgtap replace`.

use cgtap::engine::{ObjectSource, ReplaceRequest};

use super::Context;
use crate::cli::ReplaceArgs;
use crate::failure::{Failure, Status};
use crate::render;

/// Replaces the program of an attachment, and says by what.
pub fn run(context: &Context, args: ReplaceArgs) -> Result<Status, Failure> {
    let request = ReplaceRequest {
        id: args.id,
        source: ObjectSource::File {
            path: args.object,
            set: args.set,
        },
        program: args.program,
        expect: args.expect_program,
    };
    let report = context.engine()?.replace(request)?;
    context.result(&report, |_| render::replaced(&report))?;
    Ok(Status::DONE)
}
