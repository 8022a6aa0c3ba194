//! The attach rules of one hook, without a kernel: which programs are attached where, in which
//! order, and what runs for an event of a cgroup.
//!
//! These are the rules of `kernel/bpf/cgroup.c` (6.17 and later, where attachments have an order
//! and lists have a revision), numbered as in SPECIFICATION.md. Each stands once:
//!
//! | file | rules |
//! |---|---|
//! | `flags` | S2: which flags go together |
//! | `request` | S19: what is asked of an attach |
//! | `list` | S1, S3, S5-S9, S18: the list of one cgroup |
//! | `order` | S16, S17: where on a list a new attachment goes |
//! | `lists` | S4, S10, S15, S20: all lists of the hook, and every change of them |
//! | `effective` | S11, S12: what runs for a cgroup, and in which order |
//! | `query` | S22: reading it |
//! | `error` | what is said when a rule refuses |
//!
//! Two hooks never influence each other: each has a [`Lists`] of its own. Nothing here knows
//! whether a cgroup exists or a program is loaded; who calls has seen to that.

mod attachment;
mod effective;
mod error;
mod flags;
mod hierarchy;
mod list;
mod lists;
mod mode;
mod order;
mod query;
mod request;

pub use attachment::{Anchor, Attachment, MAX_ATTACHMENTS};
pub use effective::EffectiveEntry;
pub use error::{Errno, Role, RuleError};
pub use flags::Flags;
pub use hierarchy::{Hierarchy, path_to_root};
pub use list::List;
pub use lists::{Attached, Lists, Updated};
pub use mode::{Mode, UnknownMode};
pub use query::{Answer, Array};
pub use request::{AttachRequest, Place};

#[cfg(test)]
mod tests;
