//! The `efibed` command.
fn main() {}
