//! The mode of a list (S1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
