//! Bits of RFLAGS (Intel SDM vol. 1, 3.4.3), of which the callers of services, the guest's kernel and the host speak.

/// Bit 1, which is always 1. Nothing else is set: interrupts are off, and strings go upwards.
pub const FIXED: u64 = 1 << 1;
/// IF: interrupts are on.
pub const INTERRUPTS: u64 = 1 << 9;
/// DF: strings go downwards.
pub const DIRECTION: u64 = 1 << 10;
/// RF: breakpoints of the next instruction do not count.
pub const RESUME: u64 = 1 << 16;
/// AC: SMAP does not hold explicit accesses.
pub const AC: u64 = 1 << 18;
/// The status flags, which any arithmetic changes: CF, PF, AF, ZF, SF and OF.
pub const STATUS: u64 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11;
