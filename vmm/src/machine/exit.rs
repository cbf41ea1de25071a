//! Why a run ended.

use std::time::Duration;

use super::InternalError;
use crate::mmu::Pa;

/// Why a run ended, with all that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest wrote to a port.
    Out {
        /// The port.
        port: u16,
        /// Bytes written: 1, 2 or 4.
        size: u8,
        /// What was written.
        data: u32,
    },
    /// The guest reads from a port. [`answer_in`](super::Machine::answer_in) before the next run, or it
    /// reads ones.
    In {
        /// The port.
        port: u16,
        /// Bytes of each read: 1, 2 or 4.
        size: u8,
        /// How many reads of a `rep ins` KVM has taken together; all get the one answer.
        count: u32,
    },
    /// The guest reads where there is no memory. [`answer_mmio`](super::Machine::answer_mmio) before the
    /// next run, or it reads ones.
    MmioRead {
        /// The physical address.
        pa: Pa,
        /// Bytes read: 1 to 8. What is longer, or crosses a page, comes in parts.
        len: u8,
    },
    /// The guest wrote where there is no memory, or to read-only memory.
    MmioWrite {
        /// The physical address.
        pa: Pa,
        /// Bytes written: 1 to 8. What is longer, or crosses a page, comes in parts.
        len: u8,
        /// What was written, zeros after it.
        data: [u8; 8],
    },
    /// `hlt`. RIP is after it.
    Halt,
    /// Triple fault. The registers are those of the fault on VT-x, those after INIT on SVM.
    Shutdown,
    /// KVM could not go on. RIP is at the instruction.
    InternalError(InternalError),
    /// The processor refused the guest's state.
    FailEntry {
        /// The hardware's reason; on VT-x the VM-exit reason (SDM vol. 3C, Appendix C).
        hardware_reason: u64,
        /// The host processor it happened on.
        cpu: u32,
    },
    /// The session's limit passed.
    Watchdog {
        /// The limit.
        limit: Duration,
        /// Where the guest was.
        rip: u64,
        /// The ring it was in.
        cpl: u8,
    },
    /// A single step or breakpoint.
    Debug {
        /// The exception: 1 (#DB) or 3 (#BP).
        exception: u8,
        /// Linear address of the instruction.
        pc: u64,
        /// Debug status (SDM vol. 3B, 18.2.3).
        dr6: u64,
        /// Debug control (SDM vol. 3B, 18.2.4).
        dr7: u64,
    },
    /// KVM could not use the host memory behind an address.
    MemoryFault {
        /// The physical address.
        pa: Pa,
        /// Bytes of the range it could not use.
        bytes: u64,
        /// KVM_MEMORY_EXIT_FLAG_*.
        flags: u64,
    },
    /// Anything else.
    Other {
        /// KVM's number for it.
        reason: u32,
        /// KVM's name for it.
        name: &'static str,
    },
}

/// Names of the exits that have no variant of their own (`linux/kvm.h`).
pub(super) fn name_of(reason: u32) -> &'static str {
    match reason {
        kvm_bindings::KVM_EXIT_UNKNOWN => "KVM_EXIT_UNKNOWN",
        kvm_bindings::KVM_EXIT_EXCEPTION => "KVM_EXIT_EXCEPTION",
        kvm_bindings::KVM_EXIT_IO => "KVM_EXIT_IO (several writes at once)",
        kvm_bindings::KVM_EXIT_HYPERCALL => "KVM_EXIT_HYPERCALL",
        kvm_bindings::KVM_EXIT_IRQ_WINDOW_OPEN => "KVM_EXIT_IRQ_WINDOW_OPEN",
        kvm_bindings::KVM_EXIT_INTR => "KVM_EXIT_INTR",
        kvm_bindings::KVM_EXIT_SET_TPR => "KVM_EXIT_SET_TPR",
        kvm_bindings::KVM_EXIT_TPR_ACCESS => "KVM_EXIT_TPR_ACCESS",
        kvm_bindings::KVM_EXIT_NMI => "KVM_EXIT_NMI",
        kvm_bindings::KVM_EXIT_WATCHDOG => "KVM_EXIT_WATCHDOG",
        kvm_bindings::KVM_EXIT_SYSTEM_EVENT => "KVM_EXIT_SYSTEM_EVENT",
        kvm_bindings::KVM_EXIT_IOAPIC_EOI => "KVM_EXIT_IOAPIC_EOI",
        kvm_bindings::KVM_EXIT_HYPERV => "KVM_EXIT_HYPERV",
        kvm_bindings::KVM_EXIT_X86_RDMSR => "KVM_EXIT_X86_RDMSR",
        kvm_bindings::KVM_EXIT_X86_WRMSR => "KVM_EXIT_X86_WRMSR",
        kvm_bindings::KVM_EXIT_DIRTY_RING_FULL => "KVM_EXIT_DIRTY_RING_FULL",
        kvm_bindings::KVM_EXIT_X86_BUS_LOCK => "KVM_EXIT_X86_BUS_LOCK",
        kvm_bindings::KVM_EXIT_XEN => "KVM_EXIT_XEN",
        kvm_bindings::KVM_EXIT_NOTIFY => "KVM_EXIT_NOTIFY",
        _ => "an exit unknown to this program",
    }
}
