//! Tracepoints of this kernel.

use std::fs;
use std::path::{Path, PathBuf};

use cgtap_sys::libbpf::{Btf, BtfKind};

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
/// [`TracepointError::NoTracefs`].
pub fn tracefs() -> Result<&'static Path, TracepointError> {
    TRACEFS
        .iter()
        .map(Path::new)
        .find(|p| p.join("events").is_dir())
        .ok_or(TracepointError::NoTracefs)
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
            hint: hint(target, &classic_names(&events)),
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

/// `; did you mean A, B or C?` with the nearest names, or nothing.
#[must_use]
pub fn hint(asked: &str, names: &[String]) -> String {
    let last = |s: &str| s.rsplit('/').next().unwrap_or(s).to_owned();
    // Lists are long (200,000 functions), and names of another length are not alike.
    let is_close = |n: &str| n.len().abs_diff(asked.len()) <= 3 + asked.len() / 4;
    let mut near: Vec<(f64, &String)> = names
        .iter()
        .filter_map(|n| {
            // The right name in the wrong category is the commonest mistake.
            if n.contains('/') && last(asked) == last(n) {
                return Some((1.0, n));
            }
            let score = is_close(n).then(|| strsim::jaro_winkler(asked, n))?;
            let score = if is_slip(asked, n) {
                score.max(0.9)
            } else {
                score
            };
            (score > 0.85).then_some((score, n))
        })
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    near.dedup();
    let near: Vec<&str> = near.iter().take(3).map(|(_, n)| n.as_str()).collect();
    match near.as_slice() {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        [rest @ .., last] => format!("; did you mean {} or {last}?", rest.join(", ")),
    }
}

/// What is said of something without a `what` called `asked`: the nearest names, or all there are.
/// `none` is said if there are no names at all.
#[must_use]
pub fn lacking(what: &str, asked: &str, names: &[String], none: &str) -> String {
    let near = hint(asked, names);
    match (names.is_empty(), near.is_empty()) {
        (true, _) => none.to_owned(),
        (false, true) => format!("it has no {what} {asked}; there are {}", names.join(", ")),
        (false, false) => format!("it has no {what} {asked}{near}"),
    }
}

/// One letter too many, too few or another, or two exchanged, in a short name: of those, what is
/// alike is little even so.
fn is_slip(asked: &str, name: &str) -> bool {
    const SHORT: usize = 6;
    (3..=SHORT).contains(&asked.len())
        && asked.len().abs_diff(name.len()) <= 1
        && strsim::osa_distance(asked, name) == 1
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn a_slip_in_a_short_name_is_seen() {
        let names = ["bio", "biotail", "tag", "q"].map(str::to_owned);
        assert_eq!(hint("boi", &names), "; did you mean bio?");
        assert_eq!(hint("tab", &names), "; did you mean tag?");
        assert_eq!(hint("p", &names), "");
    }

    #[test]
    fn near_names_are_offered_and_far_ones_not() {
        let names = ["sched/sched_switch", "block/block_rq_issue"].map(str::to_owned);
        assert_eq!(
            hint("sched/sched_swich", &names),
            "; did you mean sched/sched_switch?"
        );
        assert_eq!(
            hint("irq/sched_switch", &names),
            "; did you mean sched/sched_switch?"
        );
        assert_eq!(hint("zzz/yyy", &names), "");
    }
}
