//! The bpf(2) system call, one module a kind of object.

mod types;

pub use types::{AttachType, MapType, ProgType, map_type_name};
