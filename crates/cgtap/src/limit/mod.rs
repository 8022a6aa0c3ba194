//! Limits: what of a meter's value a cgroup may use, and what happens then.
//!
//! | file | what |
//! |---|---|
//! | `amount` | how amounts are written |
//! | `gate` | the program at a gate: asks budgets, takes, refuses |
//! | `birth` | the programs that give cgroups budgets as they are made, by patterns |
//! | `pace` | when a cgroup is frozen, and when thawed |
//! | `controller` | limits that the kernel's own controllers hold |
//! | `record` | what is recorded of limits |
//!
//! What is taken, and what is guaranteed of it, is [`crate::budget`]'s; programs that charge after the
//! event are a meter's, with budgets for their sink.

pub mod amount;
pub mod birth;
pub mod controller;
pub mod gate;
pub mod pace;
pub mod record;
