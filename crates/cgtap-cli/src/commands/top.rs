//! `cgtap top`.

use cgtap::engine::UsageRequest;

use super::Context;
use crate::cli::TopArgs;
use crate::failure::{Failure, Status};
use crate::interrupt::Interrupt;
use crate::top;

/// Shows what cgroups use, as it goes on.
pub fn run(context: &Context, args: TopArgs) -> Result<Status, Failure> {
    let interrupt = Interrupt::noted()?;
    let engine = context.engine()?;
    let request = UsageRequest {
        cgroup: args.cgroup,
        recursive: true,
        depth: args.depth,
    };
    let options = top::Options {
        interval: args.delay,
        iterations: args.iterations,
        once: args.once,
        sort: args.sort,
    };
    let read = || {
        Ok(top::Snapshot {
            // It mends the state where a limited cgroup has gone.
            usage: engine.usage(&request)?,
            limits: engine.limits(None)?,
        })
    };
    top::run(context, &options, read, &interrupt)
}
