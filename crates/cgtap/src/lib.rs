//! BPF tracing programs inside a cgroup, with the kernel's own bpf-cgroup semantics, on a stock
//! kernel; and what is made of them: meters of what each cgroup uses, and limits on it.
//!
//! [`engine::Engine`] is where to begin. It attaches objects as clang compiles them ([`engine::AttachRequest`]),
//! enables meters ([`meter::library::Library`]) and reads them ([`engine::UsageRequest`]), sets limits
//! ([`engine::LimitRequest`]) and tells whom they hold back. All of it is pinned and goes on when the
//! process ends, but what [`engine::Engine::link`] and [`engine::Lifetime::Process`] make. Two
//! programs that use it are `examples/hold.rs` and `examples/usage.rs`.
//!
//! Everything else is what the engine is made of, each of use by itself:
//!
//! | | |
//! |---|---|
//! | [`attach`], [`budget`] | the rules and the arithmetic, without a kernel |
//! | [`hook`], [`cgroup`], [`kernel`] | what there is to attach to, and what this kernel has |
//! | [`object`], [`asm`], [`dispatch`] | from an object to the program that runs |
//! | [`meter`], [`source`], [`counter`], [`limit`], [`policy`] | what is counted and read, and what may be used |
//! | [`store`] | what is pinned |
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
