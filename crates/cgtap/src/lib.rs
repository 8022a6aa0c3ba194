//! Attach unmodified BPF tracing programs to a hook inside a cgroup, with the kernel's own
//! bpf-cgroup semantics, on a stock kernel.
#![forbid(unsafe_code)]

pub mod asm;
pub mod attach;
pub mod budget;
pub mod cgroup;
pub mod counter;
pub mod dispatch;
pub mod engine;
pub mod hook;
pub mod id;
pub mod kernel;
pub mod limit;
pub mod meter;
pub mod near;
pub mod object;
pub mod policy;
pub mod source;
pub mod store;
