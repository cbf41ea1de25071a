//! General, system and model-specific registers; translation by KVM.
//!
//! General and system registers live in the page shared with KVM (KVM_CAP_SYNC_REGS): each exit brings
//! them, and those that were changed go back with the next run, without a call of their own.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, Msrs, kvm_guest_debug, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::SyncReg;
use vmm_sys_util::errno;

use super::Machine;
use crate::mmu::{Pa, Va};

/// DR7: the bit that enables breakpoint 0 globally; each further breakpoint's is two higher
/// (SDM vol. 3B, 18.2.4). Its type and length bits are zero: execution.
const DR7_G0: u64 = 1 << 1;
/// DR7 bit 10 is always one (same section).
const DR7_FIXED: u64 = 1 << 10;

/// Numbers of model-specific registers (SDM vol. 4, table 2-2).
pub mod msr {
    /// Where a cache type's index leads.
    pub const IA32_PAT: u32 = 0x277;
    /// Long mode, execute-disable and SYSCALL.
    pub const IA32_EFER: u32 = 0xc000_0080;
    /// Where SYSCALL goes.
    pub const IA32_LSTAR: u32 = 0xc000_0082;
}

/// XCR0 (SDM vol. 1, 13.3): x87 and SSE; AVX with them; the tiles of AMX, which a process must ask the system for.
const XCR0_SSE: u64 = 0b011;
const XCR0_AVX: u64 = 0b111;
const XCR0_AMX: u64 = 0b11 << 17;

#[target_feature(enable = "xsave")]
unsafe fn xgetbv() -> u64 {
    // SAFETY: as the caller vouches.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

impl Machine {
    /// The general registers, RIP and RFLAGS.
    pub fn regs(&self) -> kvm_regs {
        self.vcpu.sync_regs().regs
    }

    /// The same, to be changed before the next run. After [`Exit::In`](super::Exit::In) and
    /// [`Exit::MmioRead`](super::Exit::MmioRead) the instruction is not over yet: see
    /// [`finish_io`](Self::finish_io).
    pub fn regs_mut(&mut self) -> &mut kvm_regs {
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        &mut self.vcpu.sync_regs_mut().regs
    }

    /// Segments, descriptor tables, control registers, EFER.
    pub fn sregs(&self) -> kvm_sregs {
        self.vcpu.sync_regs().sregs
    }

    /// The same, to be changed before the next run, which fails with
    /// [`RunError::SystemRegisters`](super::RunError::SystemRegisters) if KVM refuses them.
    pub fn sregs_mut(&mut self) -> &mut kvm_sregs {
        self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        &mut self.vcpu.sync_regs_mut().sregs
    }

    /// Gives the guest the parts of the extended state that this process has (XCR0), so that code which the C library has
    /// chosen for this CPU runs there too; where KVM has not all of them, as many as it has. The result is the parts that are
    /// missing, as bits of XCR0. For a machine that is new or was reset; a reset leaves it so.
    pub fn take_over_xcr0(&mut self) -> u64 {
        if !std::is_x86_feature_detected!("xsave") {
            return 0;
        }
        // SAFETY: the CPU has XSAVE, and the system has switched it on.
        let own = unsafe { xgetbv() } & !XCR0_AMX;
        for value in [own, own & XCR0_AVX, own & XCR0_SSE].into_iter().filter(|_| self.cpuid.xsave) {
            if self.pristine.keep_xcr0(&self.vcpu, value).is_ok() {
                return own & !value;
            }
        }
        own & !XCR0_SSE
    }

    /// Gives KVM the changed registers at once instead of with the next run, to learn whether it takes
    /// them. Those it refuses are dropped, and KVM's own are shown again: right after a reset they are those of before it.
    pub fn commit_registers(&mut self) -> Result<(), RegistersError> {
        let dirty = self.vcpu.get_kvm_run().kvm_dirty_regs;
        let sync = self.vcpu.sync_regs();
        let mut result = Ok(());
        if dirty & SyncReg::SystemRegister as u64 != 0 {
            result = self.vcpu.set_sregs(&sync.sregs);
        }
        if dirty & SyncReg::Register as u64 != 0 {
            result = result.and_then(|()| self.vcpu.set_regs(&sync.regs));
        }
        self.vcpu.get_kvm_run().kvm_dirty_regs = 0;
        result.map_err(|cause| self.refused(&sync.sregs, cause))
    }

    /// The same where there are system registers that this machine's KVM has not yet been seen to take. Others are given to it
    /// with the next run, and the general registers with them.
    pub fn try_registers(&mut self) -> Result<(), RegistersError> {
        let asked = self.sregs();
        if self.taken != Some(asked) {
            self.commit_registers()?;
            self.taken = Some(asked);
        }
        Ok(())
    }

    /// The system registers that the next run gives KVM; None: KVM has them.
    pub(super) fn changed_system_registers(&mut self) -> Option<kvm_sregs> {
        let dirty = self.vcpu.get_kvm_run().kvm_dirty_regs;
        (dirty & SyncReg::SystemRegister as u64 != 0).then(|| self.sregs())
    }

    /// The account of a run that failed because KVM refuses the system registers that were asked for; None: it failed for another
    /// reason. KVM shows its own by then, and those that were asked for are dropped.
    pub(super) fn refusal(&mut self, asked: &kvm_sregs, cause: errno::Error) -> Option<RegistersError> {
        let is_refused = cause.errno() == libc::EINVAL && self.changed_system_registers().is_some();
        is_refused.then(|| {
            self.vcpu.get_kvm_run().kvm_dirty_regs = 0;
            RegistersError::new(asked, cause)
        })
    }

    fn refused(&mut self, sregs: &kvm_sregs, cause: errno::Error) -> RegistersError {
        if let (Ok(regs), Ok(sregs)) = (self.vcpu.get_regs(), self.vcpu.get_sregs()) {
            let shown = self.vcpu.sync_regs_mut();
            shown.regs = regs;
            shown.sregs = sregs;
        }
        RegistersError::new(sregs, cause)
    }

    /// Reads a model-specific register.
    pub fn get_msr(&self, index: u32) -> Result<u64, MsrError> {
        let entry = kvm_msr_entry { index, ..Default::default() };
        let failed = |cause| MsrError { index, value: None, cause };
        let mut msrs = Msrs::from_entries(&[entry]).map_err(|_| failed(None))?;
        match self.vcpu.get_msrs(&mut msrs) {
            Ok(1) => Ok(msrs.as_slice()[0].data),
            Ok(_) => Err(failed(None)),
            Err(cause) => Err(failed(Some(cause))),
        }
    }

    /// Writes a model-specific register.
    pub fn set_msr(&mut self, index: u32, value: u64) -> Result<(), MsrError> {
        let entry = kvm_msr_entry { index, data: value, ..Default::default() };
        let failed = |cause| MsrError { index, value: Some(value), cause };
        let msrs = Msrs::from_entries(&[entry]).map_err(|_| failed(None))?;
        match self.vcpu.set_msrs(&msrs) {
            Ok(1) => Ok(()),
            Ok(_) => Err(failed(None)),
            Err(cause) => Err(failed(Some(cause))),
        }
    }

    /// The same for good: a reset sets it so, and a machine that is new or was reset has it then.
    pub fn keep_msr(&mut self, index: u32, value: u64) -> Result<(), MsrError> {
        if self.kept_msr(index) != Some(value) {
            self.set_msr(index, value)?;
            self.pristine.keep_msr(index, value);
        }
        Ok(())
    }

    /// What a reset sets a model-specific register to; None: it is no state of the CPU's, or cannot be read.
    pub fn kept_msr(&self, index: u32) -> Option<u64> {
        self.pristine.msr(index)
    }

    /// Writes PKRU, by way of the XSAVE area: a guest in ring 0 under an instruction emulator may have no WRPKRU. An
    /// error means that this machine has no protection keys.
    pub fn set_pkru(&mut self, pkru: u32) -> Result<(), errno::Error> {
        // Offset and size (8 bytes, of which 4 are PKRU) of component 9 (SDM vol. 1, 13.5.7; vol. 2A, CPUID leaf 0DH).
        let component = std::arch::x86_64::__cpuid_count(0xd, 9);
        let (word, bytes) = (component.ebx as usize / 4, component.eax);
        let mut xsave = self.vcpu.get_xsave()?;
        let unsupported = || errno::Error::new(libc::ENODEV);
        let slot = xsave.region.get_mut(word).filter(|_| bytes >= 4).ok_or_else(unsupported)?;
        *slot = pkru;
        // XSTATE_BV, at byte 512 (SDM vol. 1, 13.4.2), says which components are there.
        xsave.region[128] |= 1 << 9;
        // SAFETY: the structure was filled by KVM for this vCPU and is of the size KVM takes: no feature that needs a
        // larger one has been enabled for this process.
        unsafe { self.vcpu.set_xsave(&xsave) }
    }

    /// The legacy region of the extended state (SDM vol. 1, 13.4.1); None: KVM does not say.
    pub fn fxsave(&self) -> Option<[u8; 512]> {
        let xsave = self.vcpu.get_xsave().ok()?;
        let mut region = [0; 512];
        for (bytes, word) in region.chunks_exact_mut(4).zip(xsave.region) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Some(region)
    }

    /// Pending exceptions, interrupts and the like.
    pub fn events(&self) -> Result<kvm_vcpu_events, errno::Error> {
        self.vcpu.get_vcpu_events()
    }

    /// Sets the same: an exception to be delivered with the next run, for instance.
    pub fn set_events(&mut self, events: &kvm_vcpu_events) -> Result<(), errno::Error> {
        self.vcpu.set_vcpu_events(events)
    }

    /// Where KVM says a linear address leads, under the present registers and page tables, supervisor
    /// access. `None`: nowhere.
    ///
    /// KVM's quirks: it sets accessed bits on its way; it says nothing true about permissions (not
    /// shown here for that reason); reserved bits count; it is an ioctl (about 8 us).
    pub fn translate(&mut self, linear: Va) -> Result<Option<Pa>, RegistersError> {
        self.commit_registers()?;
        let translated = self.vcpu.translate_gva(linear.0);
        Ok(match translated {
            Ok(translation) if translation.valid != 0 => Some(Pa(translation.physical_address)),
            // KVM_TRANSLATE itself can only fail for a bad pointer.
            _ => None,
        })
    }

    /// Ends the run with [`Exit::Debug`](super::Exit::Debug) after each instruction, or before those at
    /// the given linear addresses (four at most, the rest is ignored). No step and no addresses: never.
    /// Not every KVM does either in ring 3.
    pub fn debug(&mut self, single_step: bool, breakpoints: &[u64]) -> Result<(), errno::Error> {
        self.is_debugged = single_step || !breakpoints.is_empty();
        let mut debug = kvm_guest_debug::default();
        if single_step {
            debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        }
        if !breakpoints.is_empty() {
            debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
            debug.arch.debugreg[7] = DR7_FIXED;
        }
        for (index, &address) in breakpoints.iter().take(4).enumerate() {
            debug.arch.debugreg[index] = address;
            debug.arch.debugreg[7] |= DR7_G0 << (2 * index);
        }
        self.vcpu.set_guest_debug(&debug)
    }

    /// The ring the guest is in: the DPL of SS (SDM vol. 3A, 5.5), as KVM keeps it.
    pub fn cpl(&self) -> u8 {
        self.sregs().ss.dpl
    }
}

/// KVM refused the registers.
#[derive(Clone, Debug, thiserror::Error)]
#[error("KVM refuses the system registers (CR0 {cr0:#x}, CR3 {cr3:#x}, CR4 {cr4:#x}, EFER {efer:#x}): {cause}")]
pub struct RegistersError {
    /// CR0 as it was to be.
    pub cr0: u64,
    /// CR3 as it was to be.
    pub cr3: u64,
    /// CR4 as it was to be.
    pub cr4: u64,
    /// EFER as it was to be.
    pub efer: u64,
    /// What KVM said.
    pub cause: errno::Error,
}

impl RegistersError {
    fn new(sregs: &kvm_sregs, cause: errno::Error) -> Self {
        Self { cr0: sregs.cr0, cr3: sregs.cr3, cr4: sregs.cr4, efer: sregs.efer, cause }
    }
}

/// KVM refused to read or write a model-specific register.
#[derive(Clone, Debug, thiserror::Error)]
#[error("KVM refuses to {} MSR {index:#x}{}{}",
    if value.is_some() { "write" } else { "read" },
    value.map(|value| format!(" with {value:#x}")).unwrap_or_default(),
    cause.map(|cause| format!(": {cause}")).unwrap_or_default())]
pub struct MsrError {
    /// Which.
    pub index: u32,
    /// What was to be written.
    pub value: Option<u64>,
    /// What KVM said, if it said why.
    pub cause: Option<errno::Error>,
}
