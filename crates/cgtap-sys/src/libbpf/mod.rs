//! libbpf: ELF objects, BTF and CO-RE as the kernel's own tools do them.
//!
//! Bytes from strangers go to libbpf in a child process only ([`run_in_child`]): a malformed ELF
//! can crash it.

pub mod btf;
mod btf_read;
pub mod child;
mod error;
mod log;
mod object;

pub use btf::{Btf, BtfError, Linkage, TypeShift};
pub use btf_read::{BtfKind, IntInfo, Member, SectionVar};
pub use child::{ChildError, ChildLimits, Reply, run_in_child, signal_name};
pub use error::{LibbpfError, words};
pub use object::{MapDefinition, MapShape, Object, Prepared, ProgramInfo};
