//! How a hook is written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::kind::{HookKind, KINDS, KindInfo};

/// A hook as a user names it: kind and target. Displays as it is written on the command line,
/// e.g. `tracepoint:syscalls/sys_enter_openat`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HookSpec {
    kind: HookKind,
    target: String,
}

/// Why a text is not a hook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No `KIND:` or `KIND/` prefix that is known.
    #[error("`{text}` names no hook kind; write one of {kinds}", kinds = kinds())]
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
}

fn kinds() -> String {
    KINDS
        .iter()
        .map(|k| format!("{}:{}", k.prefix, form(k)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn form(info: &KindInfo) -> &'static str {
    if info.has_category {
        "CATEGORY/NAME"
    } else {
        "NAME"
    }
}

impl HookSpec {
    /// A hook of `kind` at `target`, which must have the form the kind wants.
    ///
    /// # Errors
    /// [`SpecError::Target`] if the form is wrong: empty, not `CATEGORY/NAME`, or with characters
    /// that no kernel name has.
    pub fn new(kind: HookKind, target: &str) -> Result<Self, SpecError> {
        let info = kind.info();
        let word = |s: &str| {
            !s.is_empty()
                && s.len() <= 128
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
                && !s.starts_with('.')
        };
        let good = match target.split_once('/') {
            Some((category, name)) => info.has_category && word(category) && word(name),
            None => !info.has_category && word(target),
        };
        if good {
            Ok(Self {
                kind,
                target: target.to_owned(),
            })
        } else {
            Err(SpecError::Target {
                text: target.to_owned(),
                kind: info.prefix,
                want: form(info),
            })
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> HookKind {
        self.kind
    }

    /// The target: `CATEGORY/NAME` or `NAME`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The tracepoint's own name, without its category.
    #[must_use]
    pub fn name(&self) -> &str {
        self.target
            .split_once('/')
            .map_or(self.target.as_str(), |(_, name)| name)
    }

    /// Reads a libbpf section name (`SEC("tp/sched/sched_switch")`, `SEC("raw_tp.w/x")`, ...).
    /// `Ok(None)` where the section names a kind without a target (`SEC("raw_tp")`), which the
    /// user then has to name.
    ///
    /// # Errors
    /// [`SpecError`] for a section of a kind that cgtap does not scope, or a malformed target.
    pub fn from_section(section: &str) -> Result<Option<Self>, SpecError> {
        let (kind, target) = split(section)?;
        target.map(|t| Self::new(kind, t)).transpose()
    }

    /// The kind of hook that a libbpf section name is for, whether or not it names a target.
    ///
    /// # Errors
    /// [`SpecError::UnknownKind`] for a section of a kind that cgtap does not scope.
    pub fn kind_of_section(section: &str) -> Result<HookKind, SpecError> {
        split(section).map(|(kind, _)| kind)
    }
}

/// Kind and target of a libbpf section name.
fn split(section: &str) -> Result<(HookKind, Option<&str>), SpecError> {
    // libbpf takes a leading `?` as "do not load by default".
    let section = section.strip_prefix('?').unwrap_or(section);
    let (prefix, target) = match section.split_once('/') {
        Some((prefix, target)) => (prefix, Some(target)),
        None => (section, None),
    };
    let info = KINDS
        .iter()
        .find(|k| k.sections.contains(&prefix))
        .ok_or_else(|| SpecError::UnknownKind {
            text: section.to_owned(),
        })?;
    Ok((info.kind, target))
}

impl fmt::Display for HookSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.info().prefix, self.target)
    }
}

impl FromStr for HookSpec {
    type Err = SpecError;

    /// `KIND:TARGET` with the kind's prefix or any of libbpf's section prefixes; libbpf's slash
    /// is taken for the colon too.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let unknown = || SpecError::UnknownKind {
            text: text.to_owned(),
        };
        let cut = text.find([':', '/']).ok_or_else(unknown)?;
        let (prefix, target) = (&text[..cut], &text[cut + 1..]);
        let info = KINDS
            .iter()
            .find(|k| k.prefix == prefix || k.sections.contains(&prefix))
            .ok_or_else(unknown)?;
        Self::new(info.kind, target)
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
        ] {
            assert!(text.parse::<HookSpec>().is_err(), "{text}");
        }
        assert!(HookSpec::from_section("xdp").is_err());
    }

    #[test]
    fn the_table_has_a_row_for_each_kind() {
        for info in KINDS {
            assert_eq!(info.kind.info().prefix, info.prefix);
        }
    }
}
