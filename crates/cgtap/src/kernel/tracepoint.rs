//! Tracepoints of this kernel.

use std::fs;
use std::path::{Path, PathBuf};

use cgtap_sys::libbpf::{Btf, BtfKind};

use crate::near::hint;

/// Where tracefs is looked for, in this order.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Why a tracepoint cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TracepointError {
    /// tracefs is not mounted, so classic tracepoints cannot be found.
    #[error("tracefs is not mounted; mount it with `mount -t tracefs tracefs /sys/kernel/tracing`")]
    NoTracefs,
    /// The kernel has none of this name.
    #[error("this kernel has no tracepoint `{name}`{hint}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// `; did you mean ...`, or nothing.
        hint: String,
    },
    /// The tracefs entry cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A raw tracepoint as BTF describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTracepoint {
    /// BTF id of the typedef `btf_trace_NAME`.
    pub typedef_id: u32,
    /// Number of arguments that a program sees.
    pub arg_count: usize,
}

/// Where tracefs is mounted.
///
/// # Errors
/// [`TracepointError::NoTracefs`], or [`TracepointError::Read`] where the caller may not look.
pub fn tracefs() -> Result<&'static Path, TracepointError> {
    let mut found = TracepointError::NoTracefs;
    for place in TRACEFS.map(Path::new) {
        let path = place.join("events");
        match fs::metadata(&path) {
            Ok(entry) if entry.is_dir() => return Ok(place),
            Err(source)
                if source.kind() == std::io::ErrorKind::PermissionDenied
                    && matches!(found, TracepointError::NoTracefs) =>
            {
                found = TracepointError::Read { path, source };
            }
            _ => (),
        }
    }
    Err(found)
}

/// The tracefs id of `CATEGORY/NAME`.
///
/// # Errors
/// [`TracepointError::Unknown`] with near names, or what reading said.
pub fn classic_id(target: &str) -> Result<u64, TracepointError> {
    let events = tracefs()?.join("events");
    let path = events.join(target).join("id");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| TracepointError::Read {
            path,
            source: std::io::Error::from(std::io::ErrorKind::InvalidData),
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(TracepointError::Unknown {
            name: target.to_owned(),
            hint: hint(target, classic_names(&events)),
        }),
        Err(source) => Err(TracepointError::Read { path, source }),
    }
}

fn classic_names(events: &Path) -> Vec<String> {
    let list = |dir: &Path| -> Vec<String> {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect()
    };
    list(events)
        .into_iter()
        .flat_map(|category| {
            list(&events.join(&category))
                .into_iter()
                .map(move |name| format!("{category}/{name}"))
        })
        .collect()
}

/// How the typedef begins that the kernel keeps for a raw tracepoint (include/trace/bpf_probe.h).
const TYPEDEF: &str = "btf_trace_";

/// The raw tracepoint `name`, from its typedef; `None` if there is none in this BTF. Its prototype
/// has a leading `void *` that programs do not see.
#[must_use]
pub fn find_raw(btf: &Btf, name: &str) -> Option<RawTracepoint> {
    let typedef_id = btf.find(&format!("{TYPEDEF}{name}"), BtfKind::Typedef)?;
    let proto = btf.resolve(btf.pointee(btf.resolve(typedef_id))?);
    let arg_count = btf.func_proto_param_count(proto)?.checked_sub(1)?;
    Some(RawTracepoint {
        typedef_id,
        arg_count,
    })
}

/// That there is no raw tracepoint `name`, with near names.
#[must_use]
pub fn unknown_raw(btf: &Btf, name: &str) -> TracepointError {
    let names: Vec<String> = (1..btf.type_count())
        .filter(|id| btf.kind(*id) == Some(BtfKind::Typedef))
        .filter_map(|id| btf.type_name(id)?.strip_prefix(TYPEDEF).map(str::to_owned))
        .collect();
    TracepointError::Unknown {
        name: name.to_owned(),
        hint: hint(name, &names),
    }
}

/// The raw tracepoint `name`.
///
/// # Errors
/// [`TracepointError::Unknown`] with near names.
pub fn raw(btf: &Btf, name: &str) -> Result<RawTracepoint, TracepointError> {
    find_raw(btf, name).ok_or_else(|| unknown_raw(btf, name))
}
