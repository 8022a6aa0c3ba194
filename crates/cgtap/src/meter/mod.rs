//! Meters: what to count, for whom, by what, written down and compiled to programs; or what to read.

mod bury;
pub mod chain;
pub mod code;
mod entry;
pub mod expr;
pub mod feeder;
pub mod file;
pub mod image;
pub mod library;
pub mod line;
mod names;
mod program;
pub mod record;
pub mod resolve;
pub mod resolved;
pub mod shape;
pub mod source;
pub mod text;
pub mod usage;
pub mod written;

pub use program::CodeError;

#[cfg(test)]
mod tests;
