//! The `cgtap` command.
fn main() {}
