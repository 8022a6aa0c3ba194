//! Hooks: the places in the kernel where programs of one kind run.
//!
//! [`kind`] is the one table of what differs between kinds; [`spec`] is how a hook is written,
//! on the command line and in an object's section names; [`scope`] is whose event an event is.

pub mod kind;
pub mod scope;
pub mod spec;

pub use kind::HookKind;
pub use scope::{Scope, ScopeError};
pub use spec::{BinaryPlace, HookFilter, HookSpec, Period, SpecError};
