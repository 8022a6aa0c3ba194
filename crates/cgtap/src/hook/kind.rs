//! The one table of hook kinds. A new kind is a new row here and, where it attaches in a new way,
//! an arm in `dispatch::anchor` and one in `kernel::target`.

use cgtap_sys::bpf::{AttachType, ProgType};
use serde::{Deserialize, Serialize};

/// A kind of hook: which program type runs there and how its dispatcher is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HookKind {
    /// A classic tracepoint: `tracepoint:CATEGORY/NAME`, context is the tracefs record.
    Tracepoint,
    /// A raw tracepoint: `raw_tracepoint:NAME`, context is the array of arguments.
    RawTracepoint,
    /// A raw tracepoint that may write its buffer: `raw_tracepoint.w:NAME`.
    RawTracepointWritable,
    /// A raw tracepoint whose arguments are typed by BTF: `tp_btf:NAME`.
    TpBtf,
    /// The entry of a kernel function, or an instruction in it: `kprobe:FUNC[+OFF]`, context is
    /// the registers.
    Kprobe,
    /// The return of a kernel function: `kretprobe:FUNC`.
    Kretprobe,
    /// The entries of all kernel functions of a pattern, behind one dispatcher:
    /// `kprobe.multi:PATTERN`.
    KprobeMulti,
    /// Their returns: `kretprobe.multi:PATTERN`.
    KretprobeMulti,
    /// A place in a program or library, in every process: `uprobe:BINARY:SYMBOL[+OFF]`.
    Uprobe,
    /// The return of a function there: `uretprobe:BINARY:SYMBOL`.
    Uretprobe,
    /// The entry of a kernel function, arguments typed by BTF: `fentry:FUNC`.
    Fentry,
    /// Its return, with arguments and result: `fexit:FUNC`.
    Fexit,
    /// A kernel function whose result may be set instead of calling it: `fmod_ret:FUNC`.
    FmodRet,
    /// A security hook: `lsm:HOOK`.
    Lsm,
    /// An overflow of a counter on any CPU: `perf_event:NAME[/PERIOD]`.
    PerfEvent,
    /// The device controller of cgroup2, asked whenever a device file is opened or made: `cgroup:dev`.
    CgroupDevice,
}

/// How the returns of the members of a set become the return of the set (S30).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// The kernel ignores the value: the set returns 0.
    Ignored,
    /// 0 from any member filters the record; nothing effective returns 1.
    And,
    /// The first negative errno wins; a number that is none (above 0) decides nothing, and one
    /// below -4095 is -4095. All members run.
    FirstErrno,
    /// The same where the kernel has checked that each member returns 0 or an errno.
    FirstErrnoChecked,
    /// The answer is yes (1) if any member says so. All members run.
    Any,
    /// The first number that is not 0 wins. All members run.
    FirstNonZero,
}

impl Returns {
    /// What a program returns that is to change nothing.
    #[must_use]
    pub fn neutral(self) -> i32 {
        i32::from(self == Self::And)
    }

    /// The verdict is one of many numbers, so it cannot travel from one BPF program to the next in
    /// the choice of the next: all members have to stand in one.
    #[must_use]
    pub fn wants_one_program(self) -> bool {
        !matches!(self, Self::Ignored | Self::And)
    }

    /// What one member returns can be what the set returns, whatever it is.
    #[must_use]
    pub fn passes_on(self) -> bool {
        self != Self::FirstErrno
    }
}

/// The form of what stands behind the colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// `CATEGORY/NAME`.
    CategoryName,
    /// One name.
    Name,
    /// `FUNC`, or `FUNC+OFF` with an offset in bytes.
    FunctionOffset,
    /// A name with `*` and `?`.
    Pattern,
    /// `BINARY:SYMBOL[+OFF]` or `BINARY:OFFSET`.
    BinarySymbol,
    /// `BINARY:SYMBOL` or `BINARY:OFFSET`: at the beginning of a function only, where the word on top of the
    /// stack is what it returns to. A uretprobe writes there (kernel/events/uprobes.c, `prepare_uretprobe`).
    BinaryFunction,
    /// `NAME` or `NAME/PERIOD`.
    EventPeriod,
    /// There is one hook of the kind, and this is its name.
    Only(&'static str),
}

/// How hooks of each kind are written, in words: `tracepoint:CATEGORY/NAME, ...`.
#[must_use]
pub fn forms() -> String {
    let form = |k: &KindInfo| format!("{}:{}", k.prefix, k.target.words());
    KINDS.iter().map(form).collect::<Vec<_>>().join(", ")
}

impl TargetForm {
    /// The form in words, as it stands in messages.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::CategoryName => "CATEGORY/NAME",
            Self::Name => "NAME",
            Self::FunctionOffset => "FUNC[+OFF]",
            Self::Pattern => "PATTERN",
            Self::BinarySymbol => "BINARY:SYMBOL[+OFF]",
            Self::BinaryFunction => "BINARY:SYMBOL",
            Self::EventPeriod => "NAME[/PERIOD]",
            Self::Only(name) => name,
        }
    }
}

/// The type by which the kernel knows the context of a program type where a global function takes
/// it without a tag (kernel/bpf/btf.c, `btf_is_prog_ctx_type`); on kernels before 6.8 it is the
/// only way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextType {
    /// `struct NAME *`.
    Struct(&'static str),
    /// The kernel knows no such type.
    None,
}

/// What is fixed for every hook of a kind.
#[derive(Clone, Copy, Debug)]
pub struct KindInfo {
    /// The kind this row describes.
    pub kind: HookKind,
    /// The prefix on the command line, without the colon.
    pub prefix: &'static str,
    /// libbpf's section prefixes for it (libbpf.c, `section_defs`), without the slash.
    pub sections: &'static [&'static str],
    /// Program type that runs here.
    pub prog_type: ProgType,
    /// Expected attach type of the program.
    pub attach_type: AttachType,
    /// Form of the target.
    pub target: TargetForm,
    /// How returns combine, unless the target returns nothing.
    pub returns: Returns,
    /// A CPU may enter the hook while a program of it runs there: neither `prog->active` nor
    /// `bpf_prog_active` keeps it out, and tasks are preempted in it. Per-CPU counters have to be
    /// atomic then.
    pub nests: bool,
    /// Programs may ask for the address of the traced function, which the kernel puts on the stack
    /// only if the attached program asks too (`bpf_get_func_ip`, since 5.15).
    pub has_func_ip: bool,
    /// How a global function takes the context without a tag.
    pub context: ContextType,
}

/// Every kind that cgtap knows.
pub const KINDS: &[KindInfo] = &[
    KindInfo {
        kind: HookKind::Tracepoint,
        prefix: "tracepoint",
        sections: &["tracepoint", "tp"],
        prog_type: ProgType::Tracepoint,
        target: TargetForm::CategoryName,
        returns: Returns::And,
        ..BASE
    },
    KindInfo {
        kind: HookKind::RawTracepoint,
        prefix: "raw_tracepoint",
        sections: &["raw_tracepoint", "raw_tp"],
        prog_type: ProgType::RawTracepoint,
        context: ContextType::Struct("bpf_raw_tracepoint_args"),
        ..BASE
    },
    KindInfo {
        kind: HookKind::RawTracepointWritable,
        prefix: "raw_tracepoint.w",
        sections: &["raw_tracepoint.w", "raw_tp.w"],
        prog_type: ProgType::RawTracepointWritable,
        context: ContextType::Struct("bpf_raw_tracepoint_args"),
        ..BASE
    },
    KindInfo {
        kind: HookKind::TpBtf,
        prefix: "tp_btf",
        sections: &["tp_btf"],
        prog_type: ProgType::Tracing,
        attach_type: AttachType::TraceRawTp,
        ..BASE
    },
    KindInfo {
        kind: HookKind::Kprobe,
        prefix: "kprobe",
        sections: &["kprobe", "ksyscall"],
        target: TargetForm::FunctionOffset,
        ..PROBE
    },
    KindInfo {
        kind: HookKind::Kretprobe,
        prefix: "kretprobe",
        sections: &["kretprobe", "kretsyscall"],
        ..PROBE
    },
    KindInfo {
        kind: HookKind::KprobeMulti,
        prefix: "kprobe.multi",
        sections: &["kprobe.multi"],
        attach_type: AttachType::TraceKprobeMulti,
        target: TargetForm::Pattern,
        ..PROBE
    },
    KindInfo {
        kind: HookKind::KretprobeMulti,
        prefix: "kretprobe.multi",
        sections: &["kretprobe.multi"],
        attach_type: AttachType::TraceKprobeMulti,
        target: TargetForm::Pattern,
        ..PROBE
    },
    KindInfo {
        kind: HookKind::Uprobe,
        prefix: "uprobe",
        sections: &["uprobe", "uprobe.s"],
        target: TargetForm::BinarySymbol,
        nests: true,
        ..PROBE
    },
    KindInfo {
        kind: HookKind::Uretprobe,
        prefix: "uretprobe",
        sections: &["uretprobe", "uretprobe.s"],
        target: TargetForm::BinaryFunction,
        nests: true,
        ..PROBE
    },
    KindInfo {
        kind: HookKind::Fentry,
        prefix: "fentry",
        sections: &["fentry", "fentry.s"],
        attach_type: AttachType::TraceFentry,
        ..TRAMPOLINE
    },
    KindInfo {
        kind: HookKind::Fexit,
        prefix: "fexit",
        sections: &["fexit", "fexit.s"],
        attach_type: AttachType::TraceFexit,
        ..TRAMPOLINE
    },
    KindInfo {
        kind: HookKind::FmodRet,
        prefix: "fmod_ret",
        sections: &["fmod_ret", "fmod_ret.s"],
        attach_type: AttachType::ModifyReturn,
        returns: Returns::FirstNonZero,
        ..TRAMPOLINE
    },
    KindInfo {
        kind: HookKind::Lsm,
        prefix: "lsm",
        sections: &["lsm", "lsm.s"],
        prog_type: ProgType::Lsm,
        attach_type: AttachType::LsmMac,
        returns: Returns::FirstErrno,
        nests: true,
        ..BASE
    },
    KindInfo {
        kind: HookKind::PerfEvent,
        prefix: "perf_event",
        sections: &["perf_event"],
        prog_type: ProgType::PerfEvent,
        target: TargetForm::EventPeriod,
        returns: Returns::And,
        context: ContextType::Struct("bpf_perf_event_data"),
        ..BASE
    },
    KindInfo {
        kind: HookKind::CgroupDevice,
        prefix: "cgroup",
        sections: &["cgroup"],
        prog_type: ProgType::CgroupDevice,
        attach_type: AttachType::CgroupDevice,
        target: TargetForm::Only("dev"),
        // 1 allows and 0 refuses: the kernel's own AND (`bpf_prog_run_array_cg`).
        returns: Returns::And,
        nests: true,
        context: ContextType::Struct("bpf_cgroup_dev_ctx"),
        ..BASE
    },
];

const BASE: KindInfo = KindInfo {
    kind: HookKind::Tracepoint,
    prefix: "",
    sections: &[],
    prog_type: ProgType::Tracepoint,
    attach_type: AttachType::None,
    target: TargetForm::Name,
    returns: Returns::Ignored,
    nests: false,
    has_func_ip: false,
    context: ContextType::None,
};

/// Registers as context.
const PROBE: KindInfo = KindInfo {
    prog_type: ProgType::Kprobe,
    returns: Returns::And,
    context: ContextType::Struct("pt_regs"),
    ..BASE
};

/// Called from a trampoline in the traced function.
const TRAMPOLINE: KindInfo = KindInfo {
    prog_type: ProgType::Tracing,
    has_func_ip: true,
    ..BASE
};

impl HookKind {
    /// The row of the table for this kind.
    #[must_use]
    pub fn info(self) -> &'static KindInfo {
        // The table holds a row for every variant; a test below counts them.
        KINDS.iter().find(|k| k.kind == self).unwrap_or(&KINDS[0])
    }

    /// It stands at a return, not at an entry.
    #[must_use]
    pub fn is_return(self) -> bool {
        matches!(
            self,
            Self::Kretprobe | Self::KretprobeMulti | Self::Uretprobe
        )
    }
}
