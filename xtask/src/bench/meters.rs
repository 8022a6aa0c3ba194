//! What a meter costs, beside the same thing written in C and in bpftrace.

use cgtap::engine::{CgroupRef, Lifetime};
use cgtap::meter::line;

use super::Offer;
use super::load::{Plain, dispatcher};
use super::measure::Variant;
use super::today;
use crate::Result;
use crate::ground::Ground;

/// A meter for all cgroups, written as for `stat -e`.
fn meter(ground: &Ground, name: &str, written: &str) -> Result<Variant> {
    let (engine, state) = ground.engine()?;
    let mut meter = line::parse(written)?;
    "bench".clone_into(&mut meter.name);
    engine.enable_meter(&meter, &CgroupRef::Path("/".into()), Lifetime::Pinned)?;
    let (prog, _) = dispatcher(&state)?;
    Ok(Variant::new(name, prog))
}

/// The variants, which run for every cgroup.
pub fn offers(ground: &Ground) -> Vec<Offer<'_>> {
    let mut offers = Vec::new();
    for (name, written) in [
        ("meter: count by cgroup", "raw_tracepoint:sys_enter count()"),
        (
            "meter: sum by cgroup and label, with a condition",
            "raw_tracepoint:sys_enter sum(id) by id & 7 if id != 0",
        ),
        (
            "meter: histogram by cgroup",
            "raw_tracepoint:sys_enter hist(id)",
        ),
    ] {
        offers.push(Offer::new(name, move |name| meter(ground, name, written)));
    }
    for (name, program) in [
        ("meter: counted in C", 0),
        ("meter: counted in C, per CPU", 1),
    ] {
        offers.push(Offer::new(name, move |name| {
            let plain = Plain::load(&ground.compile("usage")?, &[])?;
            Ok(Variant::new(name, plain.prog(program)?))
        }));
    }
    for (name, action) in [
        (
            "meter: bpftrace @[cgroup] = count()",
            "@[cgroup] = count();",
        ),
        (
            "meter: bpftrace @[cgroup] = sum(id)",
            "@[cgroup] = sum(args->id);",
        ),
        (
            "meter: bpftrace @[cgroup] = hist(id)",
            "@[cgroup] = hist(args->id);",
        ),
    ] {
        offers.push(Offer::new(name, move |name| {
            let script = format!("tracepoint:raw_syscalls:sys_enter {{ {action} }}");
            today::script(name, &script, 1)
        }));
    }
    offers
}
