//! From effective arrays to running code.
//!
//! [`specialise`] builds the constants of an attachment into a copy of its program, [`fuse`] makes
//! one program of several, [`segment`] cuts what is too large for one, [`set`] loads the result,
//! [`dispatcher`] generates the program that finds the event's set, [`noter`] the program that notes
//! cgroups for a hook that has only a key, [`bounds`] asks the kernel what a program may read,
//! [`switch`] is a hook's state in the kernel, where sets are published.

pub mod bounds;
pub mod dispatcher;
pub mod fuse;
mod main_code;
pub mod noter;
pub mod plan;
pub mod pool;
pub mod reaper;
mod records;
pub mod segment;
pub mod set;
pub mod specialise;
pub mod switch;
pub mod turn;
pub mod word;
