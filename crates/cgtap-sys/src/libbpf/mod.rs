//! libbpf: ELF objects, BTF and CO-RE as the kernel's own tools do them.
//!
//! Bytes from strangers go to libbpf in a child process only ([`run_in_child`]): a malformed ELF
//! can crash it.

mod btf;
mod btf_layout;
mod btf_read;
mod child;
mod error;
mod log;
mod object;
mod prepared;
mod wire;

#[cfg(test)]
mod btf_tests;
#[cfg(test)]
mod child_tests;

pub use btf::{Btf, BtfError, KeptVmlinux, Linkage, ModuleBtf, TypeShift};
pub use btf_layout::{Member, SectionVar};
pub use btf_read::{BtfKind, IntInfo};
pub use child::{ChildError, ChildLimits, Reply, run_in_child, signal_name};
pub use error::{LibbpfError, words};
pub use object::{MapDefinition, MapShape, Object, ProgramInfo};
pub use prepared::Prepared;
