//! What this kernel has: layouts from its BTF, tracepoints from tracefs, features by trying them.

pub mod cpu;
pub mod current;
pub mod feature;
pub mod layout;
pub mod tracepoint;
