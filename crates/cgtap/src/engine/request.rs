//! What is asked of the engine.

use std::path::PathBuf;

use crate::attach::{Mode, Place};
pub use crate::cgroup::name::NameKind;
use crate::counter::{CounterEvent, EventError};
use crate::hook::{HookFilter, HookSpec, Scope, SpecError};
use crate::id::{AttachmentId, CgroupId, InstanceId, ProgramId};
use crate::meter::expr::ExprError;
use crate::meter::line;
use crate::meter::written::Meter;

/// Where the state and the cgroups are.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the pinned state, in a bpffs.
    pub state: PathBuf,
    /// Mount point of cgroup2; found by itself if not given.
    pub cgroup_root: Option<PathBuf>,
}

impl Options {
    /// Where the state is unless told otherwise.
    pub const DEFAULT_STATE: &'static str = "/sys/fs/bpf/cgtap";
}

impl Default for Options {
    fn default() -> Self {
        Self {
            state: PathBuf::from(Self::DEFAULT_STATE),
            cgroup_root: None,
        }
    }
}

/// A cgroup as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupRef {
    /// A directory: absolute, or relative to the cgroup root. `/` alone is the root itself.
    Path(PathBuf),
    /// The kernel's id (`id:N`).
    Id(CgroupId),
    /// A container, pod or unit (`container:NAME`, `pod:NAME`, `unit:NAME`).
    Named(NameKind, String),
    /// That of a process (`pid:N`).
    Pid(u32),
}

impl std::str::FromStr for CgroupRef {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("id:") {
            Some(id) => Ok(Self::Id(CgroupId(id.parse()?))),
            None => Ok(Self::Path(PathBuf::from(text))),
        }
    }
}

/// Which program of an object, and where it is to run if not where its section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramChoice {
    /// Name of the function.
    pub name: String,
    /// The hook; the section's if not given.
    pub hook: Option<HookSpec>,
}

/// Where the programs come from.
#[derive(Clone, Debug)]
pub enum ObjectSource {
    /// An object file; `set` are values for its global variables.
    File {
        /// The file.
        path: PathBuf,
        /// Names and values.
        set: Vec<(String, String)>,
    },
    /// An object file's content, under a name to be shown.
    Bytes {
        /// The name.
        name: String,
        /// The content.
        elf: Vec<u8>,
        /// Names and values.
        set: Vec<(String, String)>,
    },
    /// An instance that is loaded.
    Instance(InstanceId),
}

/// How long an attachment lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is detached or its cgroup goes.
    #[default]
    Pinned,
    /// As well, until this process ends.
    Process,
}

/// An attach.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// To which cgroup.
    pub cgroup: CgroupRef,
    /// What.
    pub source: ObjectSource,
    /// Which programs; all that have a hook if empty.
    pub programs: Vec<ProgramChoice>,
    /// Whose events they see, at all their hooks; a hook's own scope where this is `current`.
    pub scope: Scope,
    /// Mode.
    pub mode: Mode,
    /// Run before all others.
    pub preorder: bool,
    /// Where on the list.
    pub place: Place,
    /// Take the place of this attachment.
    pub replace: Option<AttachmentId>,
    /// What `bpf_get_attach_cookie()` returns.
    pub cookie: u64,
    /// Refuse if the list has another revision.
    pub expect_revision: Option<u64>,
    /// How long.
    pub lifetime: Lifetime,
}

impl AttachRequest {
    /// Everything of `source` to `cgroup`, in mode multi, at the end of the lists, to stay.
    #[must_use]
    pub fn new(cgroup: CgroupRef, source: ObjectSource) -> Self {
        Self {
            cgroup,
            source,
            programs: Vec::new(),
            scope: Scope::Current,
            mode: Mode::Multi,
            preorder: false,
            place: Place::Append,
            replace: None,
            cookie: 0,
            expect_revision: None,
            lifetime: Lifetime::Pinned,
        }
    }
}

/// What to detach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detach {
    /// These attachments.
    Ids(Vec<AttachmentId>),
    /// Everything on the lists of a cgroup, or on those of the hooks that are meant.
    Cgroup(CgroupRef, Option<HookFilter>),
    /// Everything of an instance.
    Instance(InstanceId),
    /// Everything in the state.
    All,
}

/// An update in place.
#[derive(Clone, Debug)]
pub struct ReplaceRequest {
    /// Which attachment.
    pub id: AttachmentId,
    /// The new object.
    pub source: ObjectSource,
    /// Which of its programs; the one that fits the hook if not given.
    pub program: Option<String>,
    /// Refuse if another program is there.
    pub expect: Option<ProgramId>,
}

/// Which lists to show.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Of this cgroup; of all configured ones if not given.
    pub cgroup: Option<CgroupRef>,
    /// Of the hooks that are meant.
    pub hook: Option<HookFilter>,
    /// Effective arrays instead of own lists.
    pub effective: bool,
    /// Of the cgroup's descendants too.
    pub recursive: bool,
}

/// An event to count. Displays as it is written.
#[derive(Clone, Debug, PartialEq)]
pub enum StatEvent {
    /// How often a hook fires.
    Hook(HookSpec),
    /// A perf event.
    Counter(CounterEvent),
    /// Values of a hook's events, see [`crate::meter::line`].
    Meter(Box<MeterEvent>),
}

/// A meter on the command line. Displays as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct MeterEvent {
    written: String,
    meter: Meter,
}

impl MeterEvent {
    /// The meter.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }
}

/// Why a word is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatEventError {
    /// It has a hook's form and is none.
    #[error(transparent)]
    Hook(#[from] SpecError),
    /// It has no hook's form, and no perf event is called so.
    #[error(transparent)]
    Counter(#[from] EventError),
    /// It is a hook with something behind it that is not understood.
    #[error(transparent)]
    Meter(#[from] ExprError),
}

impl std::str::FromStr for StatEvent {
    type Err = StatEventError;

    fn from_str(text: &str) -> Result<Self, StatEventError> {
        let text = text.trim();
        if text.contains(char::is_whitespace) {
            return Ok(Self::Meter(Box::new(MeterEvent {
                written: text.to_owned(),
                meter: line::parse(text)?,
            })));
        }
        // Only hooks have a kind in front; `cycles:u` is told what is wrong with it.
        let is_hook = text
            .split_once([':', '/'])
            .is_some_and(|(head, _)| head.parse::<CounterEvent>().is_err());
        if is_hook {
            Ok(Self::Hook(text.parse()?))
        } else {
            Ok(Self::Counter(text.parse()?))
        }
    }
}

impl std::fmt::Display for StatEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hook(spec) => spec.fmt(f),
            Self::Counter(event) => event.fmt(f),
            Self::Meter(event) => f.write_str(&event.written),
        }
    }
}

impl From<HookSpec> for StatEvent {
    fn from(spec: HookSpec) -> Self {
        Self::Hook(spec)
    }
}

/// What to count.
#[derive(Clone, Debug)]
pub struct StatRequest {
    /// In which cgroups, descendants included.
    pub cgroups: Vec<CgroupRef>,
    /// Which events, hooks and perf events in any order.
    pub events: Vec<StatEvent>,
    /// A row for each cgroup below them.
    pub per_cgroup: bool,
    /// With `per_cgroup`, how many levels below them get a row of their own.
    pub depth: Option<usize>,
}

/// Whose usage is asked for.
#[derive(Clone, Debug, Default)]
pub struct UsageRequest {
    /// This cgroup; the root if not given.
    pub cgroup: Option<CgroupRef>,
    /// Also all below it.
    pub recursive: bool,
    /// With `recursive`, how many levels below it get a row of their own.
    pub depth: Option<usize>,
}
