//! Pretending that a kernel lacks what it has, so that what is done instead can be tried on any.
//!
//! `CGTAP_PRETEND_MISSING=rdonly_cast,current_table` in the environment is read here and nowhere
//! else. What is taken for missing stays so for a state that is made meanwhile.
//!
//! `CGTAP_PRETEND_ROOT=DIR` lets the open files of processes be looked for in `DIR/proc`, and devices in
//! `DIR/sys/dev/char`: GPUs that are not there.

use std::path::PathBuf;

/// The variable.
pub const VARIABLE: &str = "CGTAP_PRETEND_MISSING";
/// The other one.
pub const ROOT: &str = "CGTAP_PRETEND_ROOT";

/// What can be taken for missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pretended {
    /// `bpf_rdonly_cast()`, since 6.2.
    RdonlyCast,
    /// The tag `arg:ctx` of global functions, since 6.8.
    ArgCtxTag,
    /// Where `current` lies on each CPU.
    CurrentTable,
    /// BPF among the active security modules.
    BpfLsm,
    /// Tail calls at writable tracepoints.
    WritableJumps,
    /// Programs at functions, by trampolines.
    Trampolines,
    /// Probes at functions.
    Kprobes,
    /// Programs of the device controller.
    CgroupDevice,
}

impl Pretended {
    const ALL: [Self; 8] = [
        Self::RdonlyCast,
        Self::ArgCtxTag,
        Self::CurrentTable,
        Self::BpfLsm,
        Self::WritableJumps,
        Self::Trampolines,
        Self::Kprobes,
        Self::CgroupDevice,
    ];

    /// Its name in the variable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RdonlyCast => "rdonly_cast",
            Self::ArgCtxTag => "arg_ctx_tag",
            Self::CurrentTable => "current_table",
            Self::BpfLsm => "bpf_lsm",
            Self::WritableJumps => "writable_jumps",
            Self::Trampolines => "trampolines",
            Self::Kprobes => "kprobes",
            Self::CgroupDevice => "cgroup_device",
        }
    }
}

fn asked() -> Vec<String> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    text.split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Whether it is to be taken for missing.
#[must_use]
pub fn is_missing(what: Pretended) -> bool {
    asked().iter().any(|name| name == what.name())
}

/// Where processes and their open files are looked at.
#[must_use]
pub fn root() -> PathBuf {
    std::env::var_os(ROOT).map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// What is set, in words; `None` where nothing is.
#[must_use]
pub fn words() -> Option<String> {
    let asked = asked();
    let root = std::env::var(ROOT)
        .ok()
        .map(|root| format!("{ROOT} is set: open files are those of {root}"));
    if asked.is_empty() {
        return root;
    }
    let known = |name: &&String| Pretended::ALL.iter().any(|p| p.name() == **name);
    let (taken, unknown): (Vec<_>, Vec<_>) = asked.iter().partition(known);
    let list = |names: &[&String]| {
        let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
        names.join(", ")
    };
    let mut words = format!("{VARIABLE} is set");
    if !taken.is_empty() {
        words += &format!("; taken for missing: {}", list(&taken));
    }
    if !unknown.is_empty() {
        let all: Vec<&str> = Pretended::ALL.iter().map(|p| p.name()).collect();
        words += &format!(
            "; not known: {} (there are {})",
            list(&unknown),
            all.join(", ")
        );
    }
    if let Some(root) = root {
        words += &format!("; {root}");
    }
    Some(words)
}
