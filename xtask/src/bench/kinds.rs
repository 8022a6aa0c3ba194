//! Hooks of every other kind in force beside the one that is measured: a hook is not to cost more for
//! what is attached elsewhere.

use std::path::Path;

use cgtap::engine::{AttachRequest, ErrorKind, ObjectSource, ProgramChoice};

use crate::Result;
use crate::ground::{Ground, reference};

/// The programs of `kinds.bpf.c`; none is at the loop's own hook.
const PROGRAMS: [&str; 14] = [
    "raw_tracepoint",
    "tp_btf",
    "tracepoint",
    "kprobe",
    "kretprobe",
    "kprobe_multi",
    "kretprobe_multi",
    "uprobe",
    "uretprobe",
    "fentry",
    "fexit",
    "fmod_ret",
    "lsm",
    "perf_event",
];

/// Attaches one program of each kind to a cgroup, in a state of its own; which ones. A kind that this
/// kernel lacks is told of.
pub fn attach(ground: &Ground, cgroup: &Path) -> Result<Vec<&'static str>> {
    let (engine, _) = ground.engine()?;
    let object = ground.compile("kinds")?;
    let mut attached = Vec::new();
    for name in PROGRAMS {
        let source = ObjectSource::File {
            path: object.clone(),
            set: Vec::new(),
        };
        let hook = match name {
            "perf_event" => Some("perf_event:page-faults/1000".parse()?),
            _ => None,
        };
        let choice = ProgramChoice {
            name: name.to_owned(),
            hook,
        };
        match engine.attach(AttachRequest {
            programs: vec![choice],
            ..AttachRequest::new(reference(cgroup), source)
        }) {
            Ok(_) => attached.push(name),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                eprintln!("NOT MEASURED: beside {name}: {error}");
            }
            Err(error) => return Err(format!("{name}: {error}").into()),
        }
    }
    Ok(attached)
}
