//! ELF to image: an object as clang compiles it, relocated by libbpf for this kernel, with maps in
//! place of descriptors.
//!
//! ```text
//! file ─► elf (is it one, is it whole?) ─► child process: libbpf opens, relocates, creates maps
//!                                              │ select, variables, prog_array, translate
//!      LoadedObject ◄─ validate ◄── image + descriptors of the maps
//! ```
//!
//! The child is not trusted: what it sends is checked before anything is made of it.

pub mod image;

mod elf;
mod error;
mod load;
mod name;
mod prog_array;
mod relocate;
mod select;
mod storage;
mod translate;
mod validate;
mod variables;
mod verdict;

pub use elf::ElfProblem;
pub use error::{ObjectError, Problem};
pub use load::{LoadOptions, LoadedObject, load, load_file};
pub use select::Skipped;
pub use validate::{Invalid, validate};
