//! Why an object could not be loaded.

use serde::{Deserialize, Serialize};

use super::elf::ElfProblem;
use super::name::list;
use super::validate::Invalid;
use crate::hook::kind::KINDS;
use crate::near::hint;

/// An object that could not be loaded: which, and why. Displays as one line; what libbpf wrote
/// is whole in [`ObjectError::log`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("cannot load {object}: {problem}")]
pub struct ObjectError {
    /// The object as it was named.
    pub object: String,
    /// What is wrong.
    pub problem: Box<Problem>,
}

/// What is wrong with an object, or with what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file cannot be read.
    #[error("{reason}")]
    Unreadable {
        /// The system's words.
        reason: String,
        /// The system's number, if it has one.
        errno: Option<i32>,
    },
    /// It is no object for this machine's BPF.
    #[error(transparent)]
    Elf(#[from] ElfProblem),
    /// It lacks BTF and needs it.
    #[error("{needs} needs BTF, and the object has none; compile it with `clang -g`")]
    NoBtf {
        /// What needs it.
        needs: String,
        /// libbpf's warnings.
        log: String,
    },
    /// The kernel lacks BTF and the object needs it.
    #[error(
        "it has to be fitted to this kernel's types, and the kernel has no BTF \
         (/sys/kernel/btf/vmlinux); that takes a kernel with CONFIG_DEBUG_INFO_BTF"
    )]
    KernelWithoutBtf {
        /// libbpf's warnings.
        log: String,
    },
    /// The kernel refuses this user.
    #[error("no permission for bpf(2): {missing} missing; run it as root, or grant that")]
    Permission {
        /// The capabilities that are not there.
        missing: String,
        /// The kernel's number.
        errno: i32,
        /// libbpf's warnings.
        log: String,
    },
    /// No program in it at all.
    #[error(
        "it has no programs; a program is a function in a section, e.g. \
         `SEC(\"tp_btf/sched_switch\")`"
    )]
    NoPrograms,
    /// Programs, but none that cgtap attaches.
    #[error(
        "none of its programs can be scoped: {found}; the kinds that can are {kinds}",
        kinds = kinds()
    )]
    NothingToScope {
        /// How many there are of which kinds.
        found: String,
    },
    /// Programs that can be scoped, each marked as loaded only when named.
    #[error(
        "all its programs are optional (`SEC(\"?...\")`); name those to load: {have}",
        have = list(programs)
    )]
    AllOptional {
        /// Their names.
        programs: Vec<String>,
    },
    /// A name that was asked for is no program.
    #[error(
        "it has no program {program}; it has {have}{hint}",
        have = list(programs),
        hint = hint(program, programs)
    )]
    UnknownProgram {
        /// The name.
        program: String,
        /// All names.
        programs: Vec<String>,
    },
    /// A program that was asked for is of another kind.
    #[error("program {program} cannot be scoped: {reason}")]
    UnsupportedKind {
        /// Its name.
        program: String,
        /// Its section.
        section: String,
        /// What is wrong with the section.
        reason: String,
    },
    /// The object uses something that cannot be scoped.
    #[error("{what}, which cannot be scoped{remedy}")]
    Unsupported {
        /// Who uses what.
        what: String,
        /// What to do, from a semicolon on; may be empty.
        remedy: String,
    },
    /// A cgroup storage map that the kernel would not take either.
    #[error("cgroup storage map {map}: {why}")]
    StorageMap {
        /// Its name.
        map: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A map without a size; the object counts on its own loader to give it one.
    #[error(
        "map {map} has no {attribute}: it is left to whoever loads the object; give it one with \
         `--set {map}.{attribute}=N`"
    )]
    UnsizedMap {
        /// Its name.
        map: String,
        /// What is 0.
        attribute: String,
        /// The kernel's number.
        errno: i32,
        /// libbpf's warnings.
        log: String,
    },
    /// A map of a kind that this kernel has not.
    #[error("map {map} is of the kind {kind}, which this kernel does not have; {remedy}")]
    UnknownMapKind {
        /// Its name.
        map: String,
        /// The kind, as bpftool calls it.
        kind: String,
        /// What to do.
        remedy: String,
        /// The kernel's number.
        errno: i32,
        /// libbpf's warnings.
        log: String,
    },
    /// A variable to set is not there.
    #[error(
        "there is no {variable} to set; {have}{hint}",
        have = settable(variables),
        hint = hint(variable, variables)
    )]
    UnknownVariable {
        /// The name.
        variable: String,
        /// All names.
        variables: Vec<String>,
    },
    /// A value does not fit its variable.
    #[error("`{value}` is no value for {variable}, which is {want}")]
    BadValue {
        /// The variable.
        variable: String,
        /// What was given.
        value: String,
        /// What it takes.
        want: String,
    },
    /// libbpf, or the kernel through it, refused.
    #[error("libbpf could not {doing}: {summary}")]
    Libbpf {
        /// What it was doing.
        doing: String,
        /// Its last warning.
        summary: String,
        /// The kernel's number, or one of libbpf's own from 4000 on.
        errno: i32,
        /// All its warnings.
        log: String,
    },
    /// libbpf crashed.
    #[error("libbpf died of {signal} while reading the object; the file is damaged or hostile")]
    Crashed {
        /// The signal's name.
        signal: String,
    },
    /// libbpf did not come to an end.
    #[error(
        "reading the object took more than {seconds} s and was stopped; the file is damaged or \
         hostile, or the machine is overloaded"
    )]
    TimedOut {
        /// The limit.
        seconds: u64,
    },
    /// The child process could not be run, or broke.
    #[error("{reason}")]
    Child {
        /// What happened.
        reason: String,
        /// The kernel's number, if it was the kernel.
        errno: Option<i32>,
    },
    /// What came out makes no sense.
    #[error("what libbpf made of it is not usable: {0}")]
    Invalid(Invalid),
}

fn kinds() -> String {
    KINDS
        .iter()
        .map(|kind| kind.prefix)
        .collect::<Vec<_>>()
        .join(", ")
}

fn settable(variables: &[String]) -> String {
    if variables.is_empty() {
        "there is nothing to set".to_owned()
    } else {
        format!("there are {}", list(variables))
    }
}

impl Problem {
    pub(super) fn of(self, object: &str) -> ObjectError {
        ObjectError {
            object: object.to_owned(),
            problem: Box::new(self),
        }
    }
}

impl ObjectError {
    /// One word for programs that read errors, stable between versions.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &*self.problem {
            Problem::Unreadable { .. } => "unreadable",
            Problem::Elf(ElfProblem::Machine { .. }) => "wrong-machine",
            Problem::Elf(ElfProblem::ByteOrder { .. }) => "wrong-byte-order",
            Problem::Elf(ElfProblem::Truncated { .. }) => "truncated",
            Problem::Elf(_) => "not-an-object",
            Problem::NoBtf { .. } => "object-without-btf",
            Problem::KernelWithoutBtf { .. } => "kernel-without-btf",
            Problem::Permission { .. } => "permission",
            Problem::NoPrograms => "no-programs",
            Problem::NothingToScope { .. } => "nothing-to-scope",
            Problem::AllOptional { .. } => "all-optional",
            Problem::UnknownProgram { .. } => "unknown-program",
            Problem::UnsupportedKind { .. } => "unsupported-kind",
            Problem::Unsupported { .. } | Problem::StorageMap { .. } => "unsupported",
            Problem::UnsizedMap { .. } => "unsized-map",
            Problem::UnknownMapKind { .. } => "unknown-map-kind",
            Problem::UnknownVariable { .. } => "unknown-variable",
            Problem::BadValue { .. } => "bad-value",
            Problem::Libbpf { .. } => "libbpf",
            Problem::Crashed { .. } => "crashed",
            Problem::TimedOut { .. } => "timed-out",
            Problem::Child { .. } => "child",
            Problem::Invalid(_) => "invalid-image",
        }
    }

    /// The kernel's error number, where the kernel said no.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match &*self.problem {
            Problem::Unreadable { errno, .. } | Problem::Child { errno, .. } => *errno,
            Problem::Permission { errno, .. }
            | Problem::UnsizedMap { errno, .. }
            | Problem::UnknownMapKind { errno, .. } => Some(*errno),
            // From 4000 on the numbers are libbpf's own.
            Problem::Libbpf { errno, .. } => (*errno < 4000).then_some(*errno),
            _ => None,
        }
    }

    /// All that libbpf wrote, one warning a line; often empty.
    #[must_use]
    pub fn log(&self) -> &str {
        match &*self.problem {
            Problem::NoBtf { log, .. }
            | Problem::KernelWithoutBtf { log }
            | Problem::Permission { log, .. }
            | Problem::UnsizedMap { log, .. }
            | Problem::UnknownMapKind { log, .. }
            | Problem::Libbpf { log, .. } => log,
            _ => "",
        }
    }

    /// The words of the call were wrong (a name, a value), not the object or the kernel.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            &*self.problem,
            Problem::UnknownProgram { .. }
                | Problem::UnknownVariable { .. }
                | Problem::BadValue { .. }
        )
    }
}
