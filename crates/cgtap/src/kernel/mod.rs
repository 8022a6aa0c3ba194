//! What this kernel has: layouts from its BTF, tracepoints from tracefs, functions, places in
//! binaries and events, features by trying them.

pub mod anchor;
pub mod arguments;
pub mod binary;
pub mod cpu;
pub mod current;
pub mod emit;
pub mod feature;
pub mod format;
pub mod function;
pub mod layout;
mod lsm;
pub mod mapped;
pub mod path;
pub mod perf_event;
pub mod place;
pub mod pretend;
pub mod read;
pub mod scope;
pub mod target;
pub mod tracepoint;
mod trampoline;
