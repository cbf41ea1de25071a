//! The registers with which ring 3 is entered.

/// The registers with which ring 3 is entered; all others are 0.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The first instruction.
    pub rip: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// RDI, RSI, RDX and RCX: the arguments.
    pub arguments: [u64; 4],
    /// The bases of FS and GS.
    pub bases: [u64; 2],
}
