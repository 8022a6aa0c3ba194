//! The state: what is pinned in bpffs, and the record of it, pinned too.
//!
//! [`dir`] is the directory with its lock, [`blob`] a record in a pinned map, [`config`] what is
//! recorded, [`pins`] where everything lies.

pub mod blob;
pub mod config;
pub mod dir;
pub mod pins;
