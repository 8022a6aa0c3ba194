//! What it costs everybody's system calls that something is reserved for some calls until it is made: the
//! program at their end that gives it back if nothing was.

use cgtap::engine::{LimitChange, LimitRequest};
use cgtap::limit::record::Action;
use cgtap::meter::file;
use cgtap::meter::library::{Known, Source};
use cgtap_sys::Errno;

use super::Offer;
use super::load::dispatcher_at;
use super::measure::{Site, Variant};
use crate::Result;
use crate::ground::{Ground, reference};

/// Where system calls end.
pub const SITE: Site = Site::At(HOOK);

const HOOK: &str = "sys_exit";

/// What is held of it is expected by a gate that every kernel has.
const METER: &str = r#"
name = "bench"
help = "Nothing that the loop does"
values.held = { help = "Held", unit = "bytes" }
values.kept = { help = "Held besides", unit = "bytes" }
[[probes]]
hook = "raw_tracepoint:bpf_test_finish"
do.held = "add(1)"
do.kept = "add(1)"
[[gates]]
hook = "raw_tracepoint.w:bpf_test_finish"
expect.held = "1"
expect.kept = "1"
deny = "ENOMEM"
write.err = "0xfffffff4"
"#;

/// The end of a system call where nothing is reserved, with so many values limited.
fn settler(ground: &Ground, name: &str, values: &[&str]) -> Result<Variant> {
    let (engine, state) = ground.engine()?;
    let meter = Known {
        meter: file::parse("bench.toml", METER)?,
        source: Source::Builtin,
        text: METER.to_owned(),
    };
    let cgroup = ground.cgroup("limited")?;
    let request = |value: &&str| LimitRequest {
        action: Some(Action::Deny(Errno::ENOMEM.0)),
        ..LimitRequest::new(reference(&cgroup), meter.clone(), value, 1)
    };
    engine.change_limits(&LimitChange {
        set: values.iter().map(request).collect(),
        ..LimitChange::default()
    })?;
    let mut variant = Variant::new(name, dispatcher_at(&state, HOOK)?);
    variant.site = SITE;
    Ok(variant)
}

/// The variants.
pub fn offers(ground: &Ground) -> Vec<Offer<'_>> {
    let rows: [(&str, &[&str]); 2] = [
        ("limit: the end of a call, 1 value reserved", &["held"]),
        (
            "limit: the end of a call, 2 values reserved",
            &["held", "kept"],
        ),
    ];
    let offer = |(name, values)| Offer::new(name, move |name| settler(ground, name, values));
    rows.into_iter().map(offer).collect()
}
