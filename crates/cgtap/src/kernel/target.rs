//! From a hook as it is written to what this kernel calls it.
//!
//! Where the kernel can be asked whether a place can be probed, it is asked by opening a probe
//! there for a moment; only a refusal is looked into, to say what is wrong.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use cgtap_sys::bpf::{ProgType, module_btf};
use cgtap_sys::libbpf::{Btf, BtfKind};
use cgtap_sys::perf::{self, ProbeSource, Sampling};
use cgtap_sys::{Errno, SysError};
use serde::{Deserialize, Serialize};

use super::binary::BinaryError;
use super::cpu;
use super::function::{self, Known};
use super::lsm;
use super::perf_event::PerfEvent;
use super::place::{self, Place};
use super::pretend::{self, Pretended};
use super::tracepoint::{self, TracepointError};
use super::trampoline;
use crate::hook::kind::Returns;
use crate::hook::{HookKind, HookSpec, Period};
use crate::near::hint;

/// What this kernel knows of a hook; 0 or none where the kind has no such thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// BTF id of the typedef of a raw tracepoint, or of the function that is traced.
    pub attach_btf_id: u32,
    /// The module whose BTF that is; none for the kernel itself.
    pub module: Option<String>,
    /// Number of arguments of a raw tracepoint.
    pub arg_count: u32,
    /// tracefs id of a classic tracepoint.
    pub tracefs_id: u64,
    /// Places of a uprobe in files, each with a link of its own.
    pub places: Vec<Place>,
    /// CPUs that an event is opened on, each with a link of its own.
    pub cpus: Vec<u32>,
    /// What is known of the returns of programs here.
    pub returned: Returned,
}

/// What the kernel makes of what a program returns at a hook, where it is not the same for all of
/// the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Returned {
    /// What is usual for the kind.
    #[default]
    Usual,
    /// The function returns nothing.
    Nothing,
    /// 0 or an errno, and the verifier holds programs to it.
    Errno,
    /// Yes or no: 1 or 0.
    Flag,
}

impl TargetInfo {
    /// How returns combine at this target.
    #[must_use]
    pub fn returns(&self, kind: HookKind) -> Returns {
        match self.returned {
            Returned::Usual => kind.info().returns,
            Returned::Nothing => Returns::Ignored,
            Returned::Errno => Returns::FirstErrnoChecked,
            Returned::Flag => Returns::Any,
        }
    }
}

/// What a program is to be tried at, and a dispatcher attached to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The hook.
    pub spec: &'a HookSpec,
    /// What this kernel knows of it.
    pub info: &'a TargetInfo,
}

impl Target<'_> {
    /// BTF id that programs of the hook are loaded with: only typed ones have a target then.
    #[must_use]
    pub fn load_btf_id(&self) -> u32 {
        let kind = self.spec.kind().info();
        match kind.prog_type {
            ProgType::Tracing | ProgType::Lsm => self.info.attach_btf_id,
            _ => 0,
        }
    }

    /// The BTF that this id speaks of, if it is a module's.
    ///
    /// # Errors
    /// `ENOENT` if the module is not loaded any more.
    pub fn load_btf(&self) -> Result<Option<OwnedFd>, SysError> {
        match &self.info.module {
            Some(module) if self.load_btf_id() != 0 => module_btf(module).map(Some),
            _ => Ok(None),
        }
    }

    /// How returns combine here.
    #[must_use]
    pub fn returns(&self) -> Returns {
        self.info.returns(self.spec.kind())
    }
}

/// Why a hook cannot be had on this kernel.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A tracepoint.
    #[error(transparent)]
    Tracepoint(#[from] TracepointError),
    /// A program or library.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// There is no such function, event or security hook.
    #[error("this kernel has no {what} `{name}`{hint}")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// `; did you mean ...`, or nothing.
        hint: String,
    },
    /// It is there, but cannot be had.
    #[error("{what}: {why} ({errno})")]
    Refused {
        /// What cannot be done.
        what: String,
        /// Why, and what to do.
        why: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Its events cannot be scoped in that way.
    #[error("cannot scope {hook} by {path}: {why}")]
    Scope {
        /// The hook.
        hook: String,
        /// The path that cannot be followed.
        path: String,
        /// The type that was met, and what it has near.
        why: String,
    },
    /// The kernel lacks it.
    #[error("this kernel cannot do {what}: {why}")]
    Unsupported {
        /// What it lacks.
        what: &'static str,
        /// How we know, and what to do.
        why: String,
    },
    /// The kernel said no to something else.
    #[error(transparent)]
    Sys(#[from] SysError),
}

impl TargetError {
    /// The errno that goes with it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Scope { .. } => Errno::EINVAL,
            Self::Unsupported { .. } => Errno::EOPNOTSUPP,
            Self::Sys(e) => e.errno,
            Self::Tracepoint(_) | Self::Unknown { .. } => Errno::ENOENT,
            Self::Binary(e) => match e {
                BinaryError::Missing { .. }
                | BinaryError::Unmapped { .. }
                | BinaryError::NoSymbol { .. } => Errno::ENOENT,
                BinaryError::Read { source, .. } => source.raw_os_error().map_or(Errno::EIO, Errno),
                BinaryError::NotElf { .. }
                | BinaryError::Ambiguous { .. }
                | BinaryError::NoCode { .. } => Errno::EINVAL,
            },
        }
    }
}

/// The hook under the one name that stands for all names of its place, and what this kernel knows
/// of it.
///
/// # Errors
/// [`TargetError`].
pub fn resolve(spec: &HookSpec) -> Result<(HookSpec, TargetInfo), TargetError> {
    let info = match spec.kind() {
        HookKind::Tracepoint => TargetInfo {
            tracefs_id: tracepoint::classic_id(spec.target())?,
            ..TargetInfo::default()
        },
        HookKind::RawTracepoint | HookKind::RawTracepointWritable | HookKind::TpBtf => {
            raw_tracepoint(spec.name())?
        }
        HookKind::Kprobe | HookKind::Kretprobe => kprobe(spec)?,
        HookKind::KprobeMulti | HookKind::KretprobeMulti => {
            let found = addresses(spec.target())?;
            tracing::debug!("{spec} is {} functions", found.len());
            TargetInfo::default()
        }
        HookKind::Uprobe | HookKind::Uretprobe => return place::resolve(spec),
        HookKind::Fentry | HookKind::Fexit | HookKind::FmodRet => {
            let info = traced(spec.target(), "function", spec.target())?;
            trampoline::ask()?;
            info
        }
        HookKind::Lsm => {
            let info = lsm::resolve(spec.target())?;
            trampoline::ask()?;
            info
        }
        HookKind::PerfEvent => event(spec)?,
        HookKind::CgroupDevice if pretend::is_missing(Pretended::CgroupDevice) => {
            return Err(TargetError::Unsupported {
                what: "programs of the device controller",
                why: "it was built without CONFIG_CGROUP_BPF".to_owned(),
            });
        }
        HookKind::CgroupDevice => TargetInfo::default(),
    };
    Ok((spec.clone(), info))
}

/// What was found and the module it is in; or the kernel's BTF, to tell what there is instead.
pub type Searched<T> = Result<(T, Option<String>), Rc<Btf>>;

/// Looks in the kernel's BTF, then in that of each loaded module.
///
/// # Errors
/// [`TargetError::Unsupported`] without BTF.
pub fn search<T>(find: impl Fn(&Btf) -> Option<T>) -> Result<Searched<T>, TargetError> {
    let vmlinux = Btf::vmlinux().map_err(|e| TargetError::Unsupported {
        what: "types of its functions",
        why: format!("{e}; that takes CONFIG_DEBUG_INFO_BTF"),
    })?;
    if let Some(found) = find(&vmlinux) {
        return Ok(Ok((found, None)));
    }
    // One that cannot be read was unloaded meanwhile.
    let found = modules().into_iter().find_map(|name| {
        let module = Btf::module(&name, &vmlinux).ok()?;
        Some((find(&module)?, Some(name)))
    });
    Ok(found.ok_or(vmlinux))
}

/// Loaded modules that have BTF.
fn modules() -> Vec<String> {
    std::fs::read_dir("/sys/kernel/btf")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "vmlinux")
        .collect()
}

fn raw_tracepoint(name: &str) -> Result<TargetInfo, TargetError> {
    match search(|btf| tracepoint::find_raw(btf, name))? {
        Ok((raw, module)) => Ok(TargetInfo {
            attach_btf_id: raw.typedef_id,
            arg_count: raw.arg_count as u32,
            module,
            ..TargetInfo::default()
        }),
        Err(vmlinux) => Err(tracepoint::unknown_raw(&vmlinux, name).into()),
    }
}

/// A function that a trampoline can stand at.
pub(super) fn traced(
    function: &str,
    what: &'static str,
    asked: &str,
) -> Result<TargetInfo, TargetError> {
    let find = |btf: &Btf| {
        let id = btf.find(function, BtfKind::Func)?;
        let returned = match btf.target(btf.target(id)?)? {
            0 => Returned::Nothing,
            _ => Returned::Usual,
        };
        Some((id, returned))
    };
    match search(find)? {
        Ok(((attach_btf_id, returned), module)) => Ok(TargetInfo {
            attach_btf_id,
            returned,
            module,
            ..TargetInfo::default()
        }),
        Err(_) => Err(match function::look_up(function) {
            Known::Functions(_) => TargetError::Refused {
                what: format!("cannot trace {asked}"),
                why: "it is a function of this kernel, but its BTF has no type for it (it was \
                      changed by the compiler, or several functions have the name); a kprobe may \
                      work"
                    .to_owned(),
                errno: Errno::ENOENT,
            },
            Known::None { hint } => TargetError::Unknown {
                what,
                name: asked.to_owned(),
                hint,
            },
            Known::Unreadable(_) => TargetError::Unknown {
                what,
                name: asked.to_owned(),
                hint: String::new(),
            },
        }),
    }
}

/// A dynamic event source of perf.
pub(super) fn source(name: &'static str) -> Result<ProbeSource, TargetError> {
    let dir = PathBuf::from("/sys/bus/event_source/devices").join(name);
    let number = |file: &str, prefix: &str| {
        let text = std::fs::read_to_string(dir.join(file)).ok()?;
        text.trim().strip_prefix(prefix)?.parse::<u32>().ok()
    };
    let is_pretended = name == "kprobe" && pretend::is_missing(Pretended::Kprobes);
    match (number("type", ""), number("format/retprobe", "config:")) {
        (Some(kind), Some(return_bit)) if !is_pretended => Ok(ProbeSource { kind, return_bit }),
        _ => Err(TargetError::Unsupported {
            what: if name == "kprobe" {
                "kprobes"
            } else {
                "uprobes"
            },
            why: format!(
                "perf has no event source {name}; that takes CONFIG_{0}S and CONFIG_{0}_EVENTS. \
                 Tracepoint hooks work without",
                name.to_uppercase()
            ),
        }),
    }
}

/// Opens the probe of a hook at a function of the kernel.
///
/// # Errors
/// [`TargetError::Unsupported`] without such probes, or the kernel's answer.
pub fn open_kprobe(spec: &HookSpec) -> Result<OwnedFd, TargetError> {
    let (function, offset) = spec.function();
    let (source, is_return) = (source("kprobe")?, spec.kind().is_return());
    Ok(perf::open_probe(
        source,
        is_return,
        function.as_bytes(),
        offset,
    )?)
}

fn kprobe(spec: &HookSpec) -> Result<TargetInfo, TargetError> {
    let error = match open_kprobe(spec) {
        Ok(_) => return Ok(TargetInfo::default()),
        Err(TargetError::Sys(e)) => e,
        Err(other) => return Err(other),
    };
    let (function, offset) = spec.function();
    let refused = |why: String| TargetError::Refused {
        what: format!("cannot probe {}", spec.target()),
        why,
        errno: error.errno,
    };
    if place::is_of_caller(error.errno) {
        return Err(error.into());
    }
    Err(match function::look_up(function) {
        Known::None { hint } => TargetError::Unknown {
            what: "function",
            name: function.to_owned(),
            hint: if hint.is_empty() {
                "; it may be inlined into its callers, which no probe can see".to_owned()
            } else {
                hint
            },
        },
        Known::Functions(count) if count > 1 => refused(format!(
            "{count} functions have that name, and the kernel does not know which is meant; \
             kprobe.multi:{function} takes all of them"
        )),
        _ if function::is_blacklisted(function) => refused(
            "the kernel keeps probes away from it (/sys/kernel/debug/kprobes/blacklist); probe a \
             function that calls it, or that it calls"
                .to_owned(),
        ),
        _ if offset > 0 => refused(format!(
            "{function} has no instruction that begins at +{offset:#x}, or it cannot be probed \
             there"
        )),
        _ => refused(
            "the kernel does not let probes stand there (code of the entry, of kprobes itself, or \
             notrace)"
                .to_owned(),
        ),
    })
}

/// Addresses of all functions of a pattern.
///
/// # Errors
/// [`TargetError`]: none, or lists that cannot be read.
pub fn addresses(pattern: &str) -> Result<Vec<u64>, TargetError> {
    let found = function::traceable(pattern).map_err(|why| TargetError::Unsupported {
        what: "probes at many functions",
        why: format!("{why}; it takes CONFIG_FPROBE"),
    })?;
    if found.is_empty() {
        let hint = match function::look_up(pattern) {
            Known::None { hint } => hint,
            Known::Functions(_) => "; there is one of that name, but ftrace cannot trace it".into(),
            Known::Unreadable(_) => String::new(),
        };
        return Err(TargetError::Unknown {
            what: "function that can be traced like",
            name: pattern.to_owned(),
            hint,
        });
    }
    Ok(found.into_keys().collect())
}

/// The event of a hook, and how often it calls.
fn sampled(spec: &HookSpec) -> Result<(PerfEvent, Sampling), TargetError> {
    let (name, period) = spec.event().unwrap_or((spec.target(), None));
    let found = PerfEvent::find(name).ok_or_else(|| {
        let names = PerfEvent::all_names();
        TargetError::Unknown {
            what: "perf event",
            name: name.to_owned(),
            hint: match hint(name, &names) {
                near if near.is_empty() => {
                    format!("; there are {}, and rNNN", names.join(", "))
                }
                near => near,
            },
        }
    })?;
    let sampling = match period {
        None => found.usual,
        Some(Period::Count(count)) => Sampling::Period(count),
        Some(Period::FrequencyHz(hz)) => Sampling::FrequencyHz(hz),
    };
    Ok((found, sampling))
}

/// Opens the event of a hook on a CPU.
///
/// # Errors
/// [`TargetError::Unknown`], or the kernel's answer.
pub fn open_sampled(spec: &HookSpec, cpu: u32) -> Result<OwnedFd, TargetError> {
    let (found, sampling) = sampled(spec)?;
    let kind = found.perf_type as u32;
    Ok(perf::open_sampling(kind, found.config, sampling, cpu)?)
}

fn event(spec: &HookSpec) -> Result<TargetInfo, TargetError> {
    let (found, sampling) = sampled(spec)?;
    let cpus = cpu::online().map_err(|e| TargetError::Unsupported {
        what: "sampling on each CPU",
        why: e.to_string(),
    })?;
    let first = cpus.first().copied().unwrap_or(0);
    open_sampled(spec, first).map_err(|e| {
        let why = match (e.errno(), sampling) {
            (Errno::ENOENT | Errno::EOPNOTSUPP | Errno::ENODEV, _) if found.is_hardware() => {
                "this machine has no such hardware counter, as many virtual machines have none; \
                 events of the kernel work, such as cpu-clock and page-faults"
                    .to_owned()
            }
            (Errno::EINVAL, Sampling::FrequencyHz(hz)) => format!(
                "the kernel does not sample {hz} times a second; \
                 /proc/sys/kernel/perf_event_max_sample_rate is the limit"
            ),
            _ => "the kernel does not open it".to_owned(),
        };
        TargetError::Refused {
            what: format!("cannot sample {}", spec.target()),
            why,
            errno: e.errno(),
        }
    })?;
    Ok(TargetInfo {
        cpus,
        ..TargetInfo::default()
    })
}
