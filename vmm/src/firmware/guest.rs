//! The guest as firmware's host side sees it: its memory, and the registers at a stub's trap.

use crate::mmu::{Access, Pa, Va};

/// Guest-physical memory, and the tables that lead to it. `false` means that not all of the range is backed; then
/// nothing counts as transferred.
pub trait GuestMemory {
    /// The physical address that a ring-0 access to a virtual one reaches on these tables; None: it faults.
    fn translate(&self, cr3: Pa, virt: Va, access: Access) -> Option<Pa>;
    /// Reads `buf.len()` bytes at the physical address.
    fn read(&self, phys: Pa, buf: &mut [u8]) -> bool;
    /// Writes `data` at the physical address.
    fn write(&mut self, phys: Pa, data: &[u8]) -> bool;
}

/// The vCPU's registers at a stub's trap, as far as the protocol speaks of them ([`mod@efibed_stub::image`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the processor's own names")]
pub struct StubCall {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub rsp: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr3: u64,
}
