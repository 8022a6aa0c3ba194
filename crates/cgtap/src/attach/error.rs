//! What is said when a rule refuses: the errno that the kernel gives, and words to act on.
//!
//! The words do not name the errno, and cgroups only by id: who prints them knows the paths.

use std::fmt;

use super::attachment::{Anchor, MAX_ATTACHMENTS, name_of};
use super::mode::Mode;
use crate::id::{AttachmentId, CgroupId, ProgramId};

/// The errors that the rules give, named as `errno(3)` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are errno's own")]
pub enum Errno {
    EPERM,
    ENOENT,
    E2BIG,
    EBADF,
    EINVAL,
    ENOSPC,
    ENOLINK,
    ESTALE,
}

impl Errno {
    /// Its name, e.g. `EPERM`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EPERM => "EPERM",
            Self::ENOENT => "ENOENT",
            Self::E2BIG => "E2BIG",
            Self::EBADF => "EBADF",
            Self::EINVAL => "EINVAL",
            Self::ENOSPC => "ENOSPC",
            Self::ENOLINK => "ENOLINK",
            Self::ESTALE => "ESTALE",
        }
    }

    /// Its number on this architecture.
    #[must_use]
    pub fn number(self) -> i32 {
        use rustix::io::Errno as Os;
        match self {
            Self::EPERM => Os::PERM,
            Self::ENOENT => Os::NOENT,
            Self::E2BIG => Os::TOOBIG,
            Self::EBADF => Os::BADF,
            Self::EINVAL => Os::INVAL,
            Self::ENOSPC => Os::NOSPC,
            Self::ENOLINK => Os::NOLINK,
            Self::ESTALE => Os::STALE,
        }
        .raw_os_error()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What something was named for that is not on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To be detached (S8).
    Detached,
    /// To be replaced (S9).
    Replaced,
    /// To be stood next to (S17).
    Relative,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detached => "to detach",
            Self::Replaced => "to replace",
            Self::Relative => "to go before or after",
        })
    }
}

/// A rule that refuses. [`Self::rule`] says which, [`Self::errno`] what the kernel would return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message beside each field says what it is")]
pub enum RuleError {
    /// S2, EINVAL.
    #[error("override and multi exclude each other; give one of them")]
    OverrideAndMulti,
    /// S2, EINVAL.
    #[error(
        "replace needs mode multi; leave it out in mode none and override, where an attach \
         replaces what is attached by itself"
    )]
    ReplaceWithoutMulti,
    /// S3, EPERM.
    #[error(
        "the list of cgroup {cgroup} has mode {has}, not {wanted}; attach with mode {has}, or \
         first detach what is attached there"
    )]
    ModeDiffers {
        cgroup: CgroupId,
        has: Mode,
        wanted: Mode,
    },
    /// S4, EPERM.
    #[error(
        "the list of its ancestor (cgroup {ancestor}) is exclusive (mode none); detach what is \
         attached there or attach there with mode multi"
    )]
    AncestorExclusive { ancestor: CgroupId },
    /// S6, EINVAL.
    #[error(
        "{} is attached to cgroup {cgroup} already, as attachment {id}; detach or replace that \
         one, or load the object again to attach it twice",
        name_of(*program)
    )]
    AttachedTwice {
        cgroup: CgroupId,
        program: ProgramId,
        id: AttachmentId,
    },
    /// S6, EINVAL.
    #[error("attachment {id} is attached to cgroup {cgroup} already; give the new one a fresh id")]
    IdTaken { id: AttachmentId, cgroup: CgroupId },
    /// S7, E2BIG.
    #[error(
        "the list of cgroup {cgroup} is full with {MAX_ATTACHMENTS} attachments; first detach \
         one, or attach to its parent or its children"
    )]
    ListFull { cgroup: CgroupId },
    /// S8, EINVAL.
    #[error("cgroup {cgroup} may have several attachments (mode multi); name the one to detach")]
    DetachUnnamed { cgroup: CgroupId },
    /// S8, ENOENT.
    #[error("nothing is attached to cgroup {cgroup} itself; what runs there is an ancestor's")]
    NothingAttached { cgroup: CgroupId },
    /// S8, S9, S17, ENOENT.
    #[error(
        "{anchor} is not on the list of cgroup {cgroup}; name one of that list {role}, not one \
         of an ancestor's"
    )]
    NotOnList {
        role: Role,
        anchor: Anchor,
        cgroup: CgroupId,
    },
    /// S17, EINVAL.
    #[error("before and after together fit only an empty list and no relative; give one of them")]
    BeforeAndAfter,
    /// S17, EINVAL.
    #[error("{anchor} is named as a relative without before or after; give one of them")]
    RelativeAlone { anchor: Anchor },
    /// S17, EINVAL.
    #[error("a replacement keeps the place of what it replaces; leave before and after out")]
    ReplaceWithPlace,
    /// S17, EINVAL.
    #[error(
        "{anchor} {}, so they never run next to each other; name a relative of the same kind",
        class(*preorder)
    )]
    OtherClass { anchor: Anchor, preorder: bool },
    /// S18, ESTALE.
    #[error(
        "the list of cgroup {cgroup} is at revision {actual}, not {expected}: it has changed \
         meanwhile; look at it again"
    )]
    Stale {
        cgroup: CgroupId,
        expected: u64,
        actual: u64,
    },
    /// S20, EPERM.
    #[error(
        "attachment {id} runs {}, not {}: it was updated meanwhile; look at it again",
        name_of(*actual),
        name_of(*expected)
    )]
    ProgramDiffers {
        id: AttachmentId,
        expected: ProgramId,
        actual: ProgramId,
    },
    /// S20, ENOLINK.
    #[error(
        "attachment {id} is on no list: its cgroup was removed, or it was detached or replaced; \
         attach anew"
    )]
    Gone { id: AttachmentId },
    /// S22, ENOSPC.
    #[error("there are {count} attachments and room for {room}; ask again with room for {count}")]
    NoRoom { room: usize, count: usize },
}

impl RuleError {
    /// The errno that the kernel gives.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::ModeDiffers { .. }
            | Self::AncestorExclusive { .. }
            | Self::ProgramDiffers { .. } => Errno::EPERM,
            Self::OverrideAndMulti
            | Self::ReplaceWithoutMulti
            | Self::AttachedTwice { .. }
            | Self::IdTaken { .. }
            | Self::DetachUnnamed { .. }
            | Self::BeforeAndAfter
            | Self::RelativeAlone { .. }
            | Self::ReplaceWithPlace
            | Self::OtherClass { .. } => Errno::EINVAL,
            Self::NothingAttached { .. } | Self::NotOnList { .. } => Errno::ENOENT,
            Self::ListFull { .. } => Errno::E2BIG,
            Self::Stale { .. } => Errno::ESTALE,
            Self::Gone { .. } => Errno::ENOLINK,
            Self::NoRoom { .. } => Errno::ENOSPC,
        }
    }

    /// The number of the rule, e.g. `S4`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::OverrideAndMulti | Self::ReplaceWithoutMulti => "S2",
            Self::ModeDiffers { .. } => "S3",
            Self::AncestorExclusive { .. } => "S4",
            Self::AttachedTwice { .. } | Self::IdTaken { .. } => "S6",
            Self::ListFull { .. } => "S7",
            Self::DetachUnnamed { .. } | Self::NothingAttached { .. } => "S8",
            Self::NotOnList { role, .. } => match role {
                Role::Detached => "S8",
                Role::Replaced => "S9",
                Role::Relative => "S17",
            },
            Self::BeforeAndAfter
            | Self::RelativeAlone { .. }
            | Self::ReplaceWithPlace
            | Self::OtherClass { .. } => "S17",
            Self::Stale { .. } => "S18",
            Self::ProgramDiffers { .. } | Self::Gone { .. } => "S20",
            Self::NoRoom { .. } => "S22",
        }
    }
}

fn class(preorder: bool) -> &'static str {
    if preorder {
        "is preorder and the new attachment is not"
    } else {
        "is not preorder and the new attachment is"
    }
}
