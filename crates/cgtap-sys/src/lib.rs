//! The unsafe edge of cgtap: everything that talks to the kernel or to libbpf in a way no safe
//! crate offers. What is exported is safe to call.

pub mod bpf;
pub mod errno;
pub mod handle;
pub mod libbpf;
pub mod memory;
pub mod perf;
pub mod spawn;

pub use errno::{Errno, SysError};
