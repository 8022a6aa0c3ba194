//! Counts what a cgroup uses of CPUs, and watches it by a limit: `usage STATE CGROUP`.
//!
//! For each line on its standard input it prints what was used until then and what is left; at the
//! end of it, it takes both away. Killed, it leaves both there, and they go on.

use std::error::Error;
use std::time::Duration;

use cgtap::engine::{
    CgroupRef, Engine, Lifetime, LimitChange, LimitRequest, Options, UsageRequest,
};
use cgtap::limit::record::Action;
use cgtap::meter::library::Library;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(state), Some(cgroup)) = (args.next(), args.next()) else {
        eprintln!("usage: usage STATE CGROUP");
        std::process::exit(2);
    };
    let engine = Engine::open(Options {
        state: state.into(),
        cgroup_root: None,
    })?;
    let cgroup = CgroupRef::Path(cgroup.into());

    let library = Library::builtin();
    let cpu = library.find("cpu").ok_or("no meter comes by that name")?;
    engine.enable_meter(&cpu.meter, &cgroup, Lifetime::Pinned)?;

    // 300 ms of CPUs in each second. What goes beyond is noted, nothing else.
    let limit = LimitRequest {
        period: Some(Duration::from_secs(1)),
        action: Some(Action::Observe),
        ..LimitRequest::new(cgroup.clone(), cpu.clone(), "time", 300_000_000)
    };
    let limits = engine.change_limits(&LimitChange {
        set: vec![limit],
        ..LimitChange::default()
    })?;

    for line in std::io::stdin().lines() {
        line?;
        let usage = engine.usage(&UsageRequest {
            cgroup: Some(cgroup.clone()),
            ..UsageRequest::default()
        })?;
        for value in usage.cgroups.iter().flat_map(|row| &row.meters) {
            println!("used {} {} {}", value.meter, value.total, value.unit);
        }
        for limit in engine.explain(&cgroup)?.limits {
            println!("left {} {} {}", limit.meter, limit.left, limit.unit);
        }
    }

    engine.change_limits(&LimitChange {
        clear: limits.iter().map(|l| l.id).collect(),
        ..LimitChange::default()
    })?;
    engine.disable_meter("cpu")?;
    Ok(())
}
