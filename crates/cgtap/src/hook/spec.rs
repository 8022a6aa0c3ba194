//! How a hook is written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::kind::{HookKind, KINDS, TargetForm, forms};
use super::scope::{Scope, ScopeError};

/// What stands between a hook and its scope.
const SCOPE: &str = " scope=";

/// A hook as a user names it: kind and target, and whose its events are. Displays as it is written
/// on the command line, e.g. `tracepoint:syscalls/sys_enter_openat` or `tp_btf:sched_switch
/// scope=next`. With another scope it is another hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HookSpec {
    kind: HookKind,
    target: String,
    scope: Scope,
}

/// Which hooks are meant: one of a place, or all of it whatever their scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookFilter {
    spec: HookSpec,
    any_scope: bool,
}

/// Why a text is not a hook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No `KIND:` or `KIND/` prefix that is known.
    #[error("`{text}` names no hook kind; write one of {kinds}", kinds = forms())]
    UnknownKind {
        /// What was given.
        text: String,
    },
    /// The part behind the prefix does not have the form this kind wants.
    #[error("`{text}` does not name a hook: {kind} wants {want}")]
    Target {
        /// What was given.
        text: String,
        /// The kind's prefix.
        kind: &'static str,
        /// The form it wants.
        want: &'static str,
    },
    /// The part behind `scope=` is no scope.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

/// A name of the kernel's: of a function, a tracepoint, an event.
fn word(s: &str) -> bool {
    (1..=NAME_MAX).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.$".contains(&b))
        && !s.starts_with('.')
}

/// What stands before a file's name that is meant wherever processes map one.
const MAPPED: &str = "*/";
/// Longest name of a function that kallsyms knows (`KSYM_NAME_LEN`).
const NAME_MAX: usize = 512;
/// Longest path (`PATH_MAX`) with a symbol of a C++ or Rust program.
const BINARY_MAX: usize = 8192;

fn number(s: &str) -> Option<u64> {
    match s.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => s.parse().ok(),
    }
}

/// `NAME` or `NAME+OFF`.
fn with_offset(s: &str) -> Option<(&str, u64)> {
    match s.rsplit_once('+') {
        Some((name, offset)) => Some((name, number(offset)?)),
        None => Some((s, 0)),
    }
}

fn has_form(form: TargetForm, target: &str) -> bool {
    match form {
        TargetForm::CategoryName => target
            .split_once('/')
            .is_some_and(|(category, name)| word(category) && word(name)),
        TargetForm::Name => word(target),
        TargetForm::FunctionOffset => with_offset(target).is_some_and(|(name, _)| word(name)),
        TargetForm::Pattern => word(&target.replace(['*', '?'], "x")),
        TargetForm::BinaryFunction => {
            let symbol = target.rsplit_once(':').map_or("", |(_, symbol)| symbol);
            has_form(TargetForm::BinarySymbol, target)
                && with_offset(symbol).is_none_or(|(_, offset)| offset == 0)
        }
        TargetForm::BinarySymbol => {
            target.len() <= BINARY_MAX
                && !target.contains(|c: char| c.is_control())
                && !target.contains(SCOPE)
                && target.rsplit_once(':').is_some_and(|(binary, symbol)| {
                    let mapped = binary.strip_prefix(MAPPED);
                    let is_named = mapped.is_none_or(|name| !name.contains('/'));
                    !mapped.unwrap_or(binary).is_empty() && is_named && !symbol.is_empty()
                })
        }
        TargetForm::EventPeriod => match target.split_once('/') {
            Some((name, period)) => word(name) && sampling(period).is_some(),
            None => word(target),
        },
        TargetForm::Only(name) => target == name,
    }
}

/// How often an event of a `perf_event` hook calls its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// After so many.
    Count(u64),
    /// So many times a second.
    FrequencyHz(u64),
}

/// `1000`, or `99hz`.
fn sampling(period: &str) -> Option<Period> {
    let positive = |s: &str| s.parse().ok().filter(|n| *n > 0);
    match period
        .strip_suffix("hz")
        .or_else(|| period.strip_suffix("Hz"))
    {
        Some(hz) => positive(hz).map(Period::FrequencyHz),
        None => positive(period).map(Period::Count),
    }
}

/// A place in a program or library, as a `uprobe` hook names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryPlace<'a> {
    /// A symbol, and bytes behind its beginning.
    Symbol(&'a str, u64),
    /// Bytes from the beginning of the file.
    Offset(u64),
}

impl HookSpec {
    /// A hook of `kind` at `target`, which must have the form the kind wants.
    ///
    /// # Errors
    /// [`SpecError::Target`] if the form is wrong: empty, not `CATEGORY/NAME`, or with characters
    /// that no kernel name has.
    pub fn new(kind: HookKind, target: &str) -> Result<Self, SpecError> {
        let info = kind.info();
        if has_form(info.target, target) {
            Ok(Self {
                kind,
                target: target.to_owned(),
                scope: Scope::Current,
            })
        } else {
            Err(SpecError::Target {
                text: target.to_owned(),
                kind: info.prefix,
                want: info.target.words(),
            })
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> HookKind {
        self.kind
    }

    /// Whose its events are.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The hook at the same place whose events belong to `scope`.
    #[must_use]
    pub fn with_scope(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// The hook at the same place whose events belong to `current`: what is the same for all
    /// scopes is said of this one.
    #[must_use]
    pub fn without_scope(&self) -> Self {
        self.clone().with_scope(Scope::Current)
    }

    /// The target: `CATEGORY/NAME` or `NAME`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The tracepoint's own name, without its category; the target itself where it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.kind.info().target {
            TargetForm::CategoryName => self.target.split_once('/').map_or("", |(_, name)| name),
            _ => &self.target,
        }
    }

    /// The function and the offset in it, in bytes, of a hook at a function.
    #[must_use]
    pub fn function(&self) -> (&str, u64) {
        match self.kind.info().target {
            TargetForm::FunctionOffset => with_offset(&self.target).unwrap_or((&self.target, 0)),
            _ => (&self.target, 0),
        }
    }

    /// Its events are opens of files: it says nothing about what is done with one that is open.
    #[must_use]
    pub fn is_at_open(&self) -> bool {
        match self.kind {
            HookKind::CgroupDevice => true,
            HookKind::Lsm => self.target == "file_open",
            HookKind::FmodRet => self.target == "security_file_open",
            _ => false,
        }
    }

    /// File and place of a hook in a binary; `None` for any other hook.
    #[must_use]
    pub fn binary(&self) -> Option<(&str, BinaryPlace<'_>)> {
        if !matches!(
            self.kind.info().target,
            TargetForm::BinarySymbol | TargetForm::BinaryFunction
        ) {
            return None;
        }
        let (path, place) = self.target.rsplit_once(':')?;
        let place = match number(place) {
            Some(offset) => BinaryPlace::Offset(offset),
            // A `+` without a number behind it belongs to the symbol.
            None => {
                let (symbol, offset) = with_offset(place).unwrap_or((place, 0));
                BinaryPlace::Symbol(symbol, offset)
            }
        };
        Some((path, place))
    }

    /// The name of a hook's files, where these are all of the name that processes map, and this
    /// machine's own: `*/NAME`. `None` for any other hook.
    #[must_use]
    pub fn mapped(&self) -> Option<&str> {
        self.binary()?.0.strip_prefix(MAPPED)
    }

    /// Event and period of a hook at an overflow; `None` for any other hook. No period: what is
    /// usual for the event.
    #[must_use]
    pub fn event(&self) -> Option<(&str, Option<Period>)> {
        if self.kind.info().target != TargetForm::EventPeriod {
            return None;
        }
        Some(match self.target.split_once('/') {
            Some((name, period)) => (name, sampling(period)),
            None => (&self.target, None),
        })
    }

    /// Reads a libbpf section name (`SEC("tp/sched/sched_switch")`, `SEC("raw_tp.w/x")`, ...).
    /// `Ok(None)` where the section names a kind without a target (`SEC("raw_tp")`), which the
    /// user then has to name.
    ///
    /// # Errors
    /// [`SpecError`] for a section of a kind that cgtap does not scope, or a malformed target.
    pub fn from_section(section: &str) -> Result<Option<Self>, SpecError> {
        let (kind, prefix, target) = split(section)?;
        target
            .map(|target| Self::new(kind, &function_of(prefix, target)))
            .transpose()
    }

    /// The kind of hook that a libbpf section name is for, whether or not it names a target.
    ///
    /// # Errors
    /// [`SpecError::UnknownKind`] for a section of a kind that cgtap does not scope.
    pub fn kind_of_section(section: &str) -> Result<HookKind, SpecError> {
        split(section).map(|(kind, ..)| kind)
    }
}

/// Kind, prefix and target of a libbpf section name.
fn split(section: &str) -> Result<(HookKind, &str, Option<&str>), SpecError> {
    // libbpf takes a leading `?` as "do not load by default".
    let section = section.strip_prefix('?').unwrap_or(section);
    let (prefix, target) = match section.split_once('/') {
        Some((prefix, target)) => (prefix, Some(target)),
        None => (section, None),
    };
    let info = KINDS
        .iter()
        .find(|k| k.sections.contains(&prefix) && is_section_of(k.target, target))
        .ok_or_else(|| SpecError::UnknownKind {
            text: section.to_owned(),
        })?;
    Ok((info.kind, prefix, target))
}

/// A section with this target may be of a kind whose targets have this form: `cgroup/connect4` is none of
/// `cgroup/dev`'s.
fn is_section_of(form: TargetForm, target: Option<&str>) -> bool {
    match form {
        TargetForm::Only(name) => target == Some(name),
        _ => true,
    }
}

/// The function behind a target: `ksyscall/NAME` is the kernel's wrapper of a system call
/// (arch/x86/include/asm/syscall_wrapper.h, since 4.17).
fn function_of(prefix: &str, target: &str) -> String {
    let wrapper = if cfg!(target_arch = "x86_64") {
        "__x64_sys_"
    } else if cfg!(target_arch = "aarch64") {
        "__arm64_sys_"
    } else {
        "sys_"
    };
    match prefix {
        "ksyscall" | "kretsyscall" => format!("{wrapper}{target}"),
        _ => target.to_owned(),
    }
}

impl fmt::Display for HookSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.info().prefix, self.target)?;
        match &self.scope {
            Scope::Current => Ok(()),
            scope => write!(f, "{SCOPE}{scope}"),
        }
    }
}

impl FromStr for HookSpec {
    type Err = SpecError;

    /// `KIND:TARGET` with the kind's prefix or any of libbpf's section prefixes; libbpf's slash
    /// is taken for the colon too. A scope may stand behind it: `KIND:TARGET scope=SCOPE`.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (text, scope) = match text.split_once(SCOPE) {
            Some((text, scope)) => (text, scope.parse()?),
            None => (text, Scope::Current),
        };
        let unknown = || SpecError::UnknownKind {
            text: text.to_owned(),
        };
        let cut = text.find([':', '/']).ok_or_else(unknown)?;
        let (prefix, target) = (&text[..cut], &text[cut + 1..]);
        let info = KINDS
            .iter()
            .find(|k| k.prefix == prefix || k.sections.contains(&prefix))
            .ok_or_else(unknown)?;
        Self::new(info.kind, &function_of(prefix, target)).map(|spec| spec.with_scope(scope))
    }
}

impl HookFilter {
    /// This hook is meant.
    #[must_use]
    pub fn matches(&self, spec: &HookSpec) -> bool {
        self.spec.kind == spec.kind
            && self.spec.target == spec.target
            && (self.any_scope || self.spec.scope == spec.scope)
    }

    /// The same filter of another hook's name, which keeps the scope.
    #[must_use]
    pub fn map(self, name: impl FnOnce(&HookSpec) -> HookSpec) -> Self {
        Self {
            spec: name(&self.spec),
            ..self
        }
    }
}

impl From<HookSpec> for HookFilter {
    /// This hook, and none with another scope.
    fn from(spec: HookSpec) -> Self {
        Self {
            spec,
            any_scope: false,
        }
    }
}

impl FromStr for HookFilter {
    type Err = SpecError;

    /// As a hook is written; without a scope behind it, whatever its scope.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        Ok(Self {
            spec: text.parse()?,
            any_scope: !text.contains(SCOPE),
        })
    }
}

impl From<HookSpec> for String {
    fn from(spec: HookSpec) -> Self {
        spec.to_string()
    }
}

impl TryFrom<String> for HookSpec {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_libbpf_is_understood() {
        for (section, want) in [
            (
                "tracepoint/sched/sched_switch",
                "tracepoint:sched/sched_switch",
            ),
            (
                "tp/syscalls/sys_enter_openat",
                "tracepoint:syscalls/sys_enter_openat",
            ),
            (
                "?tp/block/block_rq_issue",
                "tracepoint:block/block_rq_issue",
            ),
            ("raw_tracepoint/sys_enter", "raw_tracepoint:sys_enter"),
            ("raw_tp/sys_enter", "raw_tracepoint:sys_enter"),
            (
                "raw_tracepoint.w/nbd_send_request",
                "raw_tracepoint.w:nbd_send_request",
            ),
            (
                "raw_tp.w/nbd_send_request",
                "raw_tracepoint.w:nbd_send_request",
            ),
            ("tp_btf/sched_switch", "tp_btf:sched_switch"),
            ("kprobe/vfs_read", "kprobe:vfs_read"),
            ("kprobe/vfs_read+0x10", "kprobe:vfs_read+0x10"),
            ("kretprobe/vfs_read", "kretprobe:vfs_read"),
            ("kprobe.multi/vfs_*", "kprobe.multi:vfs_*"),
            ("kretprobe.multi/vfs_?ead", "kretprobe.multi:vfs_?ead"),
            ("uprobe//bin/bash:readline", "uprobe:/bin/bash:readline"),
            ("uprobe.s/libc.so.6:malloc+4", "uprobe:libc.so.6:malloc+4"),
            (
                "uretprobe//bin/bash:readline",
                "uretprobe:/bin/bash:readline",
            ),
            ("fentry/do_unlinkat", "fentry:do_unlinkat"),
            ("fentry.s/do_unlinkat", "fentry:do_unlinkat"),
            ("fexit/do_unlinkat", "fexit:do_unlinkat"),
            ("fmod_ret/security_file_open", "fmod_ret:security_file_open"),
            ("lsm/file_open", "lsm:file_open"),
            ("lsm.s/file_open", "lsm:file_open"),
            ("cgroup/dev", "cgroup:dev"),
        ] {
            let spec = HookSpec::from_section(section).unwrap().unwrap();
            assert_eq!(spec.to_string(), want);
            assert_eq!(want.parse::<HookSpec>().unwrap(), spec);
        }
        assert_eq!(HookSpec::from_section("raw_tp").unwrap(), None);
        for section in ["raw_tp", "?raw_tp", "raw_tracepoint/sys_enter"] {
            let kind = HookSpec::kind_of_section(section).unwrap();
            assert_eq!(kind, HookKind::RawTracepoint);
        }
    }

    #[test]
    fn what_is_no_hook_is_refused() {
        for text in [
            "",
            "x",
            "kprobe",
            "sched_switch",
            "tracepoint:x",
            "tp_btf:a/b",
            "raw_tp:",
            "tp:/a",
            "tp:a/..",
            "raw_tp:a b",
            "kprobe:f+g",
            "kprobe:",
            "kprobe.multi:/x",
            "uprobe:/bin/bash",
            "uprobe:/bin/bash:",
            "perf_event:cpu-clock/0",
            "perf_event:cpu-clock/often",
            "lsm:a/b",
            "cgroup:connect4",
        ] {
            assert!(text.parse::<HookSpec>().is_err(), "{text}");
        }
        for section in ["xdp", "cgroup", "cgroup/connect4", "cgroup_skb/ingress"] {
            assert!(HookSpec::from_section(section).is_err(), "{section}");
            assert!(HookSpec::kind_of_section(section).is_err(), "{section}");
        }
    }

    #[test]
    fn targets_are_taken_apart() {
        let spec = |text: &str| text.parse::<HookSpec>().unwrap();
        assert_eq!(spec("kprobe:f.isra.0+0x1f").function(), ("f.isra.0", 31));
        assert_eq!(spec("fentry:f").function(), ("f", 0));
        for (text, want) in [
            ("uprobe:/a:b+8", ("/a", BinaryPlace::Symbol("b", 8))),
            ("uprobe:/a:0x10", ("/a", BinaryPlace::Offset(16))),
            (
                "uprobe:/a:operator+",
                ("/a", BinaryPlace::Symbol("operator+", 0)),
            ),
            (
                "uretprobe:/a b/c:n.(*T).f",
                ("/a b/c", BinaryPlace::Symbol("n.(*T).f", 0)),
            ),
        ] {
            assert_eq!(spec(text).binary(), Some(want), "{text}");
        }
        for (text, want) in [
            ("perf_event:cpu-clock", ("cpu-clock", None)),
            (
                "perf_event:page-faults/1",
                ("page-faults", Some(Period::Count(1))),
            ),
            (
                "perf_event:cycles/99hz",
                ("cycles", Some(Period::FrequencyHz(99))),
            ),
        ] {
            assert_eq!(spec(text).event(), Some(want), "{text}");
        }
        assert_eq!(spec("raw_tp:x").binary(), None);
        assert_eq!(spec("uprobe:*/a.so.1:f").mapped(), Some("a.so.1"));
        assert_eq!(spec("uprobe:/a.so.1:f").mapped(), None);
        for wrong in ["uprobe:*/:f", "uprobe:*/a/b:f", "uprobe:*/a:"] {
            assert!(wrong.parse::<HookSpec>().is_err(), "{wrong}");
        }
        assert_eq!(spec("raw_tp:x").event(), None);
        if cfg!(target_arch = "x86_64") {
            let spec = HookSpec::from_section("ksyscall/openat").unwrap().unwrap();
            assert_eq!(spec.to_string(), "kprobe:__x64_sys_openat");
        }
    }

    #[test]
    fn a_scope_is_part_of_a_hook() {
        for text in [
            "tp_btf:sched_switch scope=next",
            "raw_tracepoint:block_rq_complete scope=owner(rq) noted at tp_btf:block_rq_issue by rq",
        ] {
            let spec: HookSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), text);
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<HookSpec>(&json).unwrap(), spec);
            assert_ne!(spec, spec.without_scope());
        }
        let plain: HookSpec = "tp_btf:sched_switch scope=current".parse().unwrap();
        assert_eq!(plain.to_string(), "tp_btf:sched_switch");
        assert!("tp_btf:sched_switch scope=".parse::<HookSpec>().is_err());
    }

    #[test]
    fn a_filter_without_a_scope_takes_every_scope() {
        let scoped: HookSpec = "tp_btf:sched_switch scope=next".parse().unwrap();
        let plain = scoped.without_scope();
        let takes = |text: &str| {
            let filter: HookFilter = text.parse().unwrap();
            (filter.matches(&plain), filter.matches(&scoped))
        };
        assert_eq!(takes("tp_btf:sched_switch"), (true, true));
        assert_eq!(takes("tp_btf:sched_switch scope=next"), (false, true));
        assert_eq!(takes("tp_btf:sched_switch scope=current"), (true, false));
        assert_eq!(takes("raw_tp:sched_switch"), (false, false));
        assert!(!HookFilter::from(plain).matches(&scoped));
    }

    /// Elsewhere the word that the kernel takes for a return address is something else.
    #[test]
    fn a_return_is_that_of_a_function() {
        for (text, is_one) in [
            ("uretprobe:/lib/x.so:work", true),
            ("uretprobe:*/x.so:work", true),
            ("uretprobe:/lib/x.so:0x1000", true),
            ("uretprobe:/lib/x.so:work+0", true),
            ("uretprobe:/lib/x.so:work+0x10", false),
            ("uretprobe/*/x.so:work+16", false),
            ("uprobe:/lib/x.so:work+0x10", true),
        ] {
            let parsed = text.parse::<HookSpec>();
            assert_eq!(parsed.is_ok(), is_one, "{text} {parsed:?}");
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_kind() {
        for info in KINDS {
            assert_eq!(info.kind.info().prefix, info.prefix);
        }
    }
}
