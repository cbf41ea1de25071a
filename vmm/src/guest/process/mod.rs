//! What runs in ring 3 of the guest: mapping code from an ELF file, or of the test process itself.
//!
//! | file | holds |
//! | --- | --- |
//! | `program` | an ELF file as it lies in memory, and where its mapping code is |
//! | `symbols` | from an instruction's address to a function, a file and a line |

#[deny(clippy::arithmetic_side_effects)]
pub mod program;
#[deny(clippy::arithmetic_side_effects)]
pub mod symbols;

#[cfg(test)]
mod compiled;

pub use program::{Program, ProgramError, Segment};
pub use symbols::{Place, Symbols};
