//! Hooks of every other kind in force beside the one that is measured: a hook is not to cost more for
//! what is attached elsewhere.

use std::path::Path;

use cgtap::engine::{AttachRequest, ErrorKind, ObjectSource, ProgramChoice};
use cgtap::hook::HookKind;
use cgtap::hook::kind::KINDS;

use crate::Result;
use crate::ground::{Ground, reference};

/// Attaches one program of each kind to a cgroup, in a state of its own; which ones. A kind that this
/// kernel lacks is told of.
pub fn attach(ground: &Ground, cgroup: &Path) -> Result<Vec<String>> {
    let (engine, _) = ground.engine()?;
    let object = ground.compile("kinds")?;
    let mut attached = Vec::new();
    // The object has no program for writable tracepoints: which of them there are hangs on modules.
    let kinds = KINDS.iter().map(|k| k.kind);
    for kind in kinds.filter(|k| *k != HookKind::RawTracepointWritable) {
        let name = kind.info().prefix.replace('.', "_");
        let source = ObjectSource::File {
            path: object.clone(),
            set: Vec::new(),
        };
        let hook = match kind {
            HookKind::PerfEvent => Some("perf_event:page-faults/1000".parse()?),
            _ => None,
        };
        let choice = ProgramChoice {
            name: name.clone(),
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
