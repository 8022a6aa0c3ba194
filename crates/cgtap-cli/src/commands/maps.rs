//! `cgtap maps`.

use cgtap::engine::InstanceReport;
use serde::Serialize;

use super::Context;
use crate::cli::MapsArgs;
use crate::failure::{Failure, Status};
use crate::render;

#[derive(Serialize)]
struct Instances<'a> {
    instances: &'a [InstanceReport],
}

/// Shows where the maps of instances are pinned.
pub fn run(context: &Context, args: &MapsArgs) -> Result<Status, Failure> {
    let instances = context.engine()?.maps(args.instance)?;
    let body = Instances {
        instances: &instances,
    };
    context.result(body, |look| render::maps(&instances, look))?;
    if instances.is_empty() {
        context.teller.note("no object is loaded");
    }
    Ok(Status::DONE)
}
