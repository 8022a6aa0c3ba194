//! The kind of hook that the tests of the rules run at: `CGTAP_TEST_HOOK` names it, and
//! `rules_kinds.rs` runs them once for each. What an event is there stands in `event.c`, what a
//! fixture is told of it in `fixtures/engine/events.h`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cgtap::hook::HookSpec;

/// The variable that names the kind.
pub const VARIABLE: &str = "CGTAP_TEST_HOOK";

/// How a program tells an event (`EVENT_FORM` in `events.h`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// By the number of the system call, the second argument of the tracepoint.
    Number = 0,
    /// The hook sees nothing else.
    Every = 1,
    /// By the address of the fault.
    Address = 2,
}

/// What the kernel lets programs of a kind return (`EVENT_RETURNS` in `events.h`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Returns {
    Any = 0,
    Zero = 1,
    ZeroOrErrno = 2,
    ZeroOrOne = 3,
}

/// A kind of hook, as the tests use it.
pub struct Event {
    /// Its prefix.
    pub kind: &'static str,
    /// The hook that sees each event once.
    pub hook: String,
    /// The section of a program for it; without a target where libbpf knows none.
    pub section: String,
    form: Form,
    returns: Returns,
}

/// Every kind, in the order of the library's table.
pub const KINDS: [&str; 16] = [
    "tracepoint",
    "raw_tracepoint",
    "raw_tracepoint.w",
    "tp_btf",
    "kprobe",
    "kretprobe",
    "kprobe.multi",
    "kretprobe.multi",
    "uprobe",
    "uretprobe",
    "fentry",
    "fexit",
    "fmod_ret",
    "lsm",
    "perf_event",
    "cgroup",
];

impl Event {
    /// What an event is at a kind of hook.
    pub fn of(kind: &str) -> Self {
        let kind = KINDS.iter().find(|k| **k == kind);
        let kind = *kind.unwrap_or_else(|| panic!("{VARIABLE}: one of {KINDS:?}"));
        let binary = |s: &str| format!("{s}{}:event", library().display());
        let (getppid, getsid) = ("__x64_sys_getppid", "security_task_getsid");
        let (target, form, returns) = match kind {
            "tracepoint" => (
                "syscalls/sys_enter_getppid".to_owned(),
                Form::Every,
                Returns::Any,
            ),
            "raw_tracepoint" | "raw_tracepoint.w" | "tp_btf" => {
                ("sys_enter".to_owned(), Form::Number, Returns::Any)
            }
            "kprobe" | "kretprobe" => (getppid.to_owned(), Form::Every, Returns::Any),
            "kprobe.multi" | "kretprobe.multi" => {
                ("__x64_sys_getppi?".to_owned(), Form::Every, Returns::Any)
            }
            "uprobe" | "uretprobe" => (binary(""), Form::Every, Returns::Any),
            // getppid has no type in BTF: it takes no arguments.
            "fentry" | "fexit" => (getsid.to_owned(), Form::Every, Returns::Zero),
            "fmod_ret" => (getsid.to_owned(), Form::Every, Returns::Any),
            "lsm" => ("task_getsid".to_owned(), Form::Every, Returns::ZeroOrErrno),
            "cgroup" => ("dev".to_owned(), Form::Every, Returns::ZeroOrOne),
            _ => ("page-faults/1".to_owned(), Form::Address, Returns::Any),
        };
        Self {
            kind,
            hook: format!("{kind}:{target}"),
            section: match kind {
                "perf_event" => kind.to_owned(),
                _ => format!("{kind}/{target}"),
            },
            form,
            returns,
        }
    }

    /// The hook as the library has it.
    pub fn spec(&self) -> HookSpec {
        self.hook.parse().unwrap()
    }

    /// Another hook that sees each event once.
    pub fn other(&self) -> &'static str {
        match self.kind {
            "tp_btf" => "raw_tracepoint:sys_enter",
            _ => "tp_btf:sys_enter",
        }
    }

    /// A third one.
    pub fn third(&self) -> &'static str {
        match self.kind {
            "tracepoint" => "raw_tracepoint:sys_enter",
            _ => "tracepoint:syscalls/sys_enter_getppid",
        }
    }

    /// What clang is told; nothing for the kind that fixtures are for by themselves.
    pub fn flags(&self) -> Vec<String> {
        if self.kind == "raw_tracepoint" {
            return Vec::new();
        }
        let section = |hook: &str| hook.replacen(':', "/", 1);
        let third = i32::from(self.kind == "tracepoint");
        vec![
            format!("-DEVENT_SECTION=\"{}\"", self.section),
            format!("-DEVENT_FORM={}", self.form as i32),
            format!("-DEVENT_RETURNS={}", self.returns as i32),
            format!("-DOTHER_SECTION=\"{}\"", section(self.other())),
            format!("-DTHIRD_SECTION=\"{}\"", section(self.third())),
            format!("-DTHIRD_FORM={}", 1 - third),
        ]
    }

    /// The name of an object that was compiled with these flags, and tells with which.
    pub fn object(&self, name: &str) -> String {
        match self.kind {
            "raw_tracepoint" => name.to_owned(),
            kind => format!("{name}-{kind}-{:016x}", hash_of(&self.flags())),
        }
    }

    /// A program whose section names no hook has to be told where it is to run.
    pub fn wants_hook(&self) -> bool {
        !self.section.contains('/')
    }
}

/// The kind that is tested.
pub fn event() -> &'static Event {
    static EVENT: LazyLock<Event> = LazyLock::new(|| {
        let kind = std::env::var(VARIABLE);
        Event::of(kind.as_deref().unwrap_or("raw_tracepoint"))
    });
    &EVENT
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The library that makes events. A uprobe stands in a file, not at a path: it is never written
/// anew, and its name says what it was made of.
pub fn library() -> &'static Path {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/event.c");
        let made_of = hash_of(&std::fs::read(&source).unwrap());
        let name = format!("libcgtap-event-{made_of:016x}.so");
        let path = super::scratch().canonicalize().unwrap().join(name);
        if !path.exists() {
            let beside = path.with_extension(format!("tmp{}", std::process::id()));
            let mut cc = Command::new("cc");
            cc.args(["-O2", "-g", "-shared", "-fPIC", "-o"])
                .arg(&beside);
            super::run(cc.arg(&source));
            // Whoever is first wins, and the others use the same file.
            let linked = std::fs::hard_link(&beside, &path);
            std::fs::remove_file(&beside).unwrap();
            assert!(linked.is_ok() || path.exists(), "{linked:?}");
        }
        path
    });
    &LIBRARY
}
