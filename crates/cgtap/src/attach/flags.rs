//! The flags from which a mode is read, and which of them go together (S2).

use super::error::RuleError;
use super::mode::Mode;

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
