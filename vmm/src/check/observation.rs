//! What came of the guest's accesses, as the engines tell it.

use crate::mmu::{Fault, Pa, Va};

/// What came of an access in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It reached this physical address. A fetch tells the page alone.
    Reached(Pa),
    /// It went through, to memory that no page is known by.
    ReachedUnknown,
    /// It went through: a write, of which is told apart where it arrived.
    Written,
    /// It faulted.
    Faulted(Exception),
    /// It was not made.
    NotMade,
}

/// A fault, as the guest's CPU delivered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector and the error code.
    pub fault: Fault,
    /// CR2. It says something for page faults only.
    pub cr2: Va,
    /// The faulting instruction.
    pub rip: Va,
}
