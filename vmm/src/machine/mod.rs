//! A KVM virtual machine of one vCPU: memory, registers, exits, and nothing of what is run in it.
//!
//! One file a concept:
//!
//! | file | holds |
//! | --- | --- |
//! | `hypervisor` | `/dev/kvm`: opened once, asked what it can do, and why it cannot be used |
//! | `cpuid` | what the vCPU's CPUID is asked to say, and what it then says |
//! | `memory` | host memory shown to the guest in slots; the host's own access to it |
//! | `coalesced` | zones whose writes are collected in a ring instead of ending the run |
//! | `registers` | general, system and model-specific registers; translation by KVM |
//! | `session` | running the guest until it has something to say, under a watchdog |
//! | `watchdog` | the timer behind that |
//! | `exit`, `internal_error` | why the run ended |
//! | `reset` | a used machine made as new |
//!
//! A machine is used so: [`Hypervisor::open`], [`Machine::new`], [`Machine::add_slot`], registers
//! through [`Machine::regs_mut`] and [`Machine::sregs_mut`], then [`Machine::session`] and
//! [`Session::run`] until done, and [`Machine::reset`] before the next use.
//!
//! There is no interrupt controller in the kernel: its registers would take the page at
//! 0xFEE0_0000 from the guest-physical addresses, and nothing here interrupts the guest.

mod coalesced;
mod cpuid;
mod exit;
mod hypervisor;
mod internal_error;
mod memory;
mod registers;
mod reset;
mod session;
mod watchdog;

use std::ops::Range;

use kvm_ioctls::{SyncReg, VcpuFd, VmFd};
use vmm_sys_util::errno;

use self::coalesced::Coalesced;
use self::memory::Memory;
use self::reset::Pristine;
use self::session::Unfinished;

pub use self::coalesced::{CoalesceError, MAX_ZONES};
pub use self::cpuid::{CpuVendor, CpuidRequest, CpuidSeen, MaxPhyAddr};
pub use self::exit::Exit;
pub use self::hypervisor::{Hypervisor, NotWorking, OpenError};
pub use self::internal_error::InternalError;
pub use self::memory::{AccessError, Backing, BackingError, Slot, SlotError, pages};
pub use self::registers::{MsrError, RegistersError, msr};
pub use self::reset::ResetError;
pub use self::session::{RunError, Session};
pub use self::watchdog::{LONGEST_LIMIT, WatchdogError};

use crate::mmu::Pa;

/// The registers KVM uses, as its own structures.
pub use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// Bytes of a page, the unit of memory slots.
pub const PAGE_BYTES: u64 = 4096;

/// How often KVM_CREATE_VM is tried: a signal that happens to be pending makes it fail with EINTR.
const CREATE_VM_TRIES: u32 = 8;

/// A virtual machine with one vCPU.
///
/// It belongs to the process that made it, whose memory it shows: after a fork, KVM refuses everything about it to the child
/// (EIO). To drop it there is right, and leaves the parent's as it is.
pub struct Machine {
    // The order of these fields matters: KVM lets go of the memory (`vcpu`, `vm`) before it is unmapped.
    vcpu: VcpuFd,
    vm: VmFd,
    memory: Memory,
    coalesced: Coalesced,
    cpuid: CpuidSeen,
    internals: Internals,
    pristine: Pristine,
    unfinished: Unfinished,
    is_debugged: bool,
    /// Whether [`Self::keep_ring_0s`] was called since the last reset.
    ring_0s_is_kept: bool,
    /// The system registers that [`Self::try_registers`] has seen KVM take.
    taken: Option<kvm_sregs>,
    run_bytes: usize,
    process: u32,
}

impl Machine {
    /// Creates a machine without memory, its vCPU in the state KVM gives a new one.
    pub fn new(hypervisor: &Hypervisor, cpuid: &CpuidRequest, internals: Internals) -> Result<Self, CreateError> {
        let vm = create_vm(hypervisor)?;
        internals.place(&vm)?;
        let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        let cpuid = cpuid::set(&vcpu, hypervisor.supported_cpuid(), cpuid)?;
        vcpu.map_coalesced_mmio_ring().map_err(failed("mapping the ring of coalesced writes"))?;
        let pristine = Pristine::take(&vcpu, hypervisor.msrs())?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        pristine.show_registers(&mut vcpu);
        let memory = Memory::new(&vm, hypervisor.max_slots());
        Ok(Self {
            vcpu,
            vm,
            memory,
            coalesced: Coalesced::default(),
            cpuid,
            internals,
            pristine,
            unfinished: Unfinished::Nothing,
            is_debugged: false,
            ring_0s_is_kept: false,
            taken: None,
            run_bytes: hypervisor.run_bytes(),
            process: std::process::id(),
        })
    }

    /// Whether this process made it, and so may use it; its parent did, if it was made before a fork.
    pub fn is_of_this_process(&self) -> bool {
        self.process == std::process::id()
    }

    /// What this machine's CPUID says. KVM forces some bits on, so this may differ from the request.
    pub fn cpuid(&self) -> &CpuidSeen {
        &self.cpuid
    }

    /// Where KVM's own pages were put.
    pub fn internals(&self) -> Internals {
        self.internals
    }
}

/// The page of the local APIC at reset (SDM vol. 3A, 10.4.1). A machine has none, and yet KVM's instruction emulator takes
/// an access there for one of a device: memory behind that page is not what a guest reads.
pub const APIC_PAGE: Range<u64> = 0xfee0_0000..0xfee0_1000;

/// Where KVM keeps pages of its own in the guest-physical address space.
///
/// Only VT-x needs them (to run real mode without unrestricted guest), but then they are memory
/// that hides what should be there, so the caller moves them off every address it cares about, on
/// every host alike. Both must be page-aligned and lie below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Internals {
    /// Three pages: KVM_SET_TSS_ADDR.
    pub tss_pages_at: Pa,
    /// One page: KVM_SET_IDENTITY_MAP_ADDR.
    pub identity_map_page_at: Pa,
}

impl Internals {
    /// The guest-physical ranges that are taken.
    pub fn ranges(&self) -> [Range<u64>; 2] {
        let pages = |Pa(at): Pa, count: u64| at..at.saturating_add(count * PAGE_BYTES);
        [pages(self.tss_pages_at, 3), pages(self.identity_map_page_at, 1)]
    }

    fn check(&self) -> Result<(), CreateError> {
        let [tss, identity] = self.ranges();
        let misplaced = |range: &Range<u64>| {
            !range.start.is_multiple_of(PAGE_BYTES)
                || range.end > 1 << 32
                // To KVM, address 0 means its default instead.
                || range.start == 0
        };
        if misplaced(&tss) || misplaced(&identity) || memory::overlap(&tss, &identity) {
            return Err(CreateError::Internals { internals: *self });
        }
        Ok(())
    }

    /// Must come before the vCPU: KVM refuses the identity map's address afterwards.
    fn place(&self, vm: &VmFd) -> Result<(), CreateError> {
        self.check()?;
        vm.set_identity_map_address(self.identity_map_page_at.0).map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(self.tss_pages_at.0 as usize).map_err(failed("KVM_SET_TSS_ADDR"))
    }
}

/// Why a machine could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// KVM's own pages cannot lie there.
    #[error(
        "KVM's own pages (TSS at {}, identity map at {}) must be page-aligned, apart, not at 0, and below 4 GiB",
        internals.tss_pages_at, internals.identity_map_page_at
    )]
    Internals {
        /// The addresses asked for.
        internals: Internals,
    },
    /// KVM refused a step.
    #[error("{step} failed: {cause}")]
    Kvm {
        /// The ioctl, or what was attempted.
        step: &'static str,
        /// What KVM said.
        cause: errno::Error,
    },
}

/// For `map_err`: names the step that KVM refused.
fn failed(step: &'static str) -> impl FnOnce(errno::Error) -> CreateError {
    move |cause| CreateError::Kvm { step, cause }
}

fn create_vm(hypervisor: &Hypervisor) -> Result<VmFd, CreateError> {
    let mut result = hypervisor.kvm().create_vm();
    for _ in 1..CREATE_VM_TRIES {
        match result {
            Err(cause) if cause.errno() == libc::EINTR => result = hypervisor.kvm().create_vm(),
            _ => break,
        }
    }
    result.map_err(failed("KVM_CREATE_VM"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_may_go_to_other_threads() {
        fn is_send<T: Send>() {}
        fn is_sync<T: Sync>() {}
        is_send::<Machine>();
        is_send::<Hypervisor>();
        is_sync::<Hypervisor>();
    }
}
