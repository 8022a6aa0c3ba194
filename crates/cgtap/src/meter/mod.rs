//! Meters: what to count, for whom, by what, written down and compiled to programs.

pub mod usage;
