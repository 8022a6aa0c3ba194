//! What this kernel has: layouts from its BTF, tracepoints from tracefs, functions, places in
//! binaries and events, features by trying them.

use std::rc::Rc;

use cgtap_sys::libbpf::{Btf, KeptVmlinux};

pub mod anchor;
pub mod arguments;
pub mod binary;
mod caller;
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
pub mod pid;
pub mod place;
pub mod pretend;
pub mod read;
pub mod scope;
pub mod target;
pub mod tracepoint;
mod trampoline;

/// For as long as it lives, this thread reads once at most what takes long. They may be nested.
#[derive(Debug)]
#[must_use = "what was read is kept for as long as this lives"]
pub struct Kept {
    _types: KeptVmlinux,
    _mapped: Rc<mapped::Scans>,
}

/// Lets this thread keep what it reads of the kernel's types and of what processes map: for work that asks for
/// it in several places, as each hook of a meter does.
pub fn keep() -> Kept {
    Kept {
        _types: Btf::keep_vmlinux(),
        _mapped: mapped::keep(),
    }
}
