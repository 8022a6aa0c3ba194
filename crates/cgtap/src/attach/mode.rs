//! The mode of a list, and the flags from which it is read (S1, S2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::RuleError;

/// How a list shares its cgroup with others (S1). All attachments of a list have the same mode;
/// the first one sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Exclusive: one attachment, and none on any cgroup below.
    None,
    /// One attachment, which yields to a list further down.
    Override,
    /// Any number, and they run for the cgroups below too (`BPF_F_ALLOW_MULTI`).
    #[default]
    Multi,
}

impl Mode {
    /// Every mode, in the order in which help and errors name them.
    pub const ALL: [Self; 3] = [Self::None, Self::Override, Self::Multi];

    /// The mode as it is written on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Override => "override",
            Self::Multi => "multi",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no mode; write none, override or multi")]
pub struct UnknownMode {
    /// What was given.
    pub text: String,
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| UnknownMode {
                text: text.to_owned(),
            })
    }
}

/// The flags of an attach as `bpf(2)` has them, where every combination can be said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `BPF_F_ALLOW_OVERRIDE`.
    pub override_: bool,
    /// `BPF_F_ALLOW_MULTI`.
    pub multi: bool,
    /// `BPF_F_REPLACE`.
    pub replace: bool,
}

impl Flags {
    /// The mode that these flags ask for.
    ///
    /// # Errors
    /// S2, EINVAL: `override` with `multi`, or `replace` without `multi`.
    pub fn mode(self) -> Result<Mode, RuleError> {
        match self {
            Self {
                override_: true,
                multi: true,
                ..
            } => Err(RuleError::OverrideAndMulti),
            Self {
                multi: false,
                replace: true,
                ..
            } => Err(RuleError::ReplaceWithoutMulti),
            Self { multi: true, .. } => Ok(Mode::Multi),
            Self {
                override_: true, ..
            } => Ok(Mode::Override),
            _ => Ok(Mode::None),
        }
    }

    /// The flags that ask for `mode`.
    #[must_use]
    pub fn for_mode(mode: Mode, replace: bool) -> Self {
        Self {
            override_: mode == Mode::Override,
            multi: mode == Mode::Multi,
            replace,
        }
    }
}
