//! What stands on a list, and how it is named.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{AttachmentId, ProgramId};

/// How many attachments one list takes (S7). `BPF_CGROUP_MAX_PROGS` in the kernel.
pub const MAX_ATTACHMENTS: usize = 64;

/// A program on the list of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its own identity: it stays when the program is updated (S20).
    pub id: AttachmentId,
    /// What runs.
    pub program: ProgramId,
    /// Runs before everything that is not preorder, ancestors first (S12).
    pub preorder: bool,
    /// What `bpf_get_attach_cookie()` returns (S28).
    pub cookie: u64,
}

/// Names something on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// That very attachment.
    Id(AttachmentId),
    /// The first attachment that runs this program.
    Program(ProgramId),
}

impl Anchor {
    /// Is this what the anchor names?
    #[must_use]
    pub fn names(self, attachment: &Attachment) -> bool {
        match self {
            Self::Id(id) => attachment.id == id,
            Self::Program(program) => attachment.program == program,
        }
    }

    /// Where on `attachments` the first one stands that the anchor names.
    pub(super) fn position(self, attachments: &[Attachment]) -> Option<usize> {
        attachments.iter().position(|a| self.names(a))
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "attachment {id}"),
            Self::Program(program) => f.write_str(&name_of(*program)),
        }
    }
}

/// A program in words. Its name is in the object, which the rules do not know.
pub(super) fn name_of(program: ProgramId) -> String {
    format!("program {} of instance {}", program.index, program.instance)
}
