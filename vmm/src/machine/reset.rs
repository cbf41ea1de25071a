//! A used machine made as new: cheaper than another one, and as clean.
//!
//! What a vCPU is made of is read once when the machine is new, and put back: general and system registers by the next
//! run or [`Machine::commit_registers`], all else at once. Memory slots and coalesced zones are removed, by the next run
//! at the latest; what memory holds belongs to its [`Backing`](super::Backing). CPUID stays, for KVM would refuse
//! another, and so does what was set for good ([`Machine::take_over_xcr0`], [`Machine::keep_msr`]) and what is vouched for
//! ([`Machine::keep_ring_0s`]); the time-stamp counter goes on counting.

use std::mem;

use kvm_bindings::{Msrs, kvm_debugregs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave};
use kvm_ioctls::{SyncReg, VcpuFd};
use vmm_sys_util::errno;

use super::{CreateError, Machine, RunError, failed};

impl Machine {
    /// Makes the machine as it was when new, except for what is vouched for ([`Self::keep_ring_0s`]). On error it must not be used
    /// again.
    pub fn reset(&mut self) -> Result<(), ResetError> {
        // A `rep` ends with its next repetition, however often it was to be done.
        self.regs_mut().rcx = 0;
        if !self.finish_io()? {
            return Err(ResetError::Unfinished);
        }
        self.coalesced.reset(&mut self.vcpu);
        self.set_slots_aside();
        if self.is_debugged {
            self.debug(false, &[]).map_err(refused("KVM_SET_GUEST_DEBUG"))?;
        }
        self.pristine.restore(&self.vcpu, mem::take(&mut self.ring_0s_is_kept))?;
        self.pristine.show_registers(&mut self.vcpu);
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        Ok(())
    }

    /// Vouches for what ring 0 alone can change, until the next reset, which takes it for as it was: the debug registers, XCR0 and
    /// the model-specific registers. To set or read each kind is a call of the vCPU, of which a short run has few otherwise.
    /// Ring 3 changes DR6, too, but not without a debug exception (SDM vol. 3B, 18.2.3).
    pub fn keep_ring_0s(&mut self) {
        self.ring_0s_is_kept = true;
    }
}

/// Why a machine could not be made as new.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// An instruction's accesses went on and on.
    #[error("the instruction that ended the last run would not finish")]
    Unfinished,
    /// KVM would not finish the last instruction.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A model-specific register has changed and cannot be changed back.
    #[error("MSR {index:#x} cannot be set back to {value:#x}")]
    Msr {
        /// Which.
        index: u32,
        /// Its first value.
        value: u64,
    },
    /// KVM refused a part of the state.
    #[error("{step} failed: {cause}")]
    Kvm {
        /// The ioctl.
        step: &'static str,
        /// What KVM said.
        cause: errno::Error,
    },
}

fn refused(step: &'static str) -> impl FnOnce(errno::Error) -> ResetError {
    move |cause| ResetError::Kvm { step, cause }
}

/// The state of a new vCPU.
pub(super) struct Pristine {
    regs: kvm_regs,
    sregs: kvm_sregs,
    events: kvm_vcpu_events,
    debugregs: kvm_debugregs,
    xcrs: kvm_xcrs,
    xsave: kvm_xsave,
    msrs: Vec<kvm_msr_entry>,
}

impl Pristine {
    pub(super) fn take(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, CreateError> {
        Ok(Self {
            regs: vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?,
            events: vcpu.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?,
            debugregs: vcpu.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?,
            xcrs: vcpu.get_xcrs().map_err(failed("KVM_GET_XCRS"))?,
            xsave: vcpu.get_xsave().map_err(failed("KVM_GET_XSAVE"))?,
            msrs: read_msrs(vcpu, msrs).map_err(failed("KVM_GET_MSRS"))?,
        })
    }

    /// Shows the registers in the page shared with KVM, as if it had them already.
    pub(super) fn show_registers(&self, vcpu: &mut VcpuFd) {
        let shown = vcpu.sync_regs_mut();
        shown.regs = self.regs;
        shown.sregs = self.sregs;
        vcpu.get_kvm_run().kvm_dirty_regs = 0;
    }

    pub(super) fn keep_xcr0(&mut self, vcpu: &VcpuFd, value: u64) -> Result<(), errno::Error> {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = value;
        if self.xcrs != xcrs {
            vcpu.set_xcrs(&xcrs)?;
            self.xcrs = xcrs;
        }
        Ok(())
    }

    pub(super) fn msr(&self, index: u32) -> Option<u64> {
        self.msrs.iter().find(|msr| msr.index == index).map(|msr| msr.data)
    }

    pub(super) fn keep_msr(&mut self, index: u32, value: u64) {
        if let Some(msr) = self.msrs.iter_mut().find(|msr| msr.index == index) {
            msr.data = value;
        }
    }

    fn restore(&self, vcpu: &VcpuFd, ring_0s_is_kept: bool) -> Result<(), ResetError> {
        if !ring_0s_is_kept {
            // XCR0 says which state components exist, so it comes before them.
            vcpu.set_xcrs(&self.xcrs).map_err(refused("KVM_SET_XCRS"))?;
            vcpu.set_debug_regs(&self.debugregs).map_err(refused("KVM_SET_DEBUGREGS"))?;
            self.restore_msrs(vcpu)?;
        }
        // SAFETY: KVM_GET_XSAVE fails where a vCPU's state is larger than this structure, which depends on
        // the CPUID alone; it did not fail on this vCPU, whose CPUID was set before and stays.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(refused("KVM_SET_XSAVE"))?;
        // Last: what is set before may leave events of its own.
        vcpu.set_vcpu_events(&self.events).map_err(refused("KVM_SET_VCPU_EVENTS"))
    }

    /// Reading all and writing the few that changed is cheaper than writing all, and some refuse their own value.
    fn restore_msrs(&self, vcpu: &VcpuFd) -> Result<(), ResetError> {
        let indices: Vec<u32> = self.msrs.iter().map(|msr| msr.index).collect();
        let now = read_msrs(vcpu, &indices).map_err(refused("KVM_GET_MSRS"))?;
        // Both are sorted by index, as `msrs_of_state` made the list.
        let is_now = |msr: &&kvm_msr_entry| {
            let at = now.binary_search_by_key(&msr.index, |now| now.index);
            at.is_ok_and(|at| now[at].data == msr.data)
        };
        let changed = self.msrs.iter().filter(|msr| !is_now(msr));
        for &msr in changed {
            let one = Msrs::from_entries(&[msr]).ok();
            let set = one.and_then(|one| vcpu.set_msrs(&one).ok());
            if set != Some(1) {
                return Err(ResetError::Msr { index: msr.index, value: msr.data });
            }
        }
        Ok(())
    }
}

/// MSRs read at once; KVM allows 255.
const MSR_BATCH: usize = 128;

/// Reads those of the MSRs that can be read. KVM stops at one that cannot: it is left out.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, errno::Error> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let batch: Vec<kvm_msr_entry> =
            rest.iter().take(MSR_BATCH).map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&batch).map_err(|_| errno::Error::new(libc::E2BIG))?;
        let read = vcpu.get_msrs(&mut msrs)?.min(batch.len());
        values.extend_from_slice(&msrs.as_slice()[..read]);
        let unreadable = usize::from(read < batch.len());
        rest = &rest[read + unreadable..];
    }
    Ok(values)
}

/// Those that change by themselves, and those that are among the system registers (SDM vol. 4, table 2-2; Hyper-V TLFS,
/// appendix F).
const NOT_STATE: [u32; 10] = [
    0x10,        // IA32_TIME_STAMP_COUNTER
    0xe7,        // IA32_MPERF
    0xe8,        // IA32_APERF
    0x6e0,       // IA32_TSC_DEADLINE
    0x4000_0010, // HV_X64_MSR_VP_RUNTIME
    0x4000_0020, // HV_X64_MSR_TIME_REF_COUNT
    0x1b,        // IA32_APIC_BASE
    0xc000_0080, // IA32_EFER
    0xc000_0100, // IA32_FS_BASE
    0xc000_0101, // IA32_GS_BASE
];

/// The MTRRs (SDM vol. 3A, 13.11.2), which KVM keeps but does not list.
const MTRRS: [u32; 28] = [
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff,
];

/// Of the MSRs that KVM lists, those that are a vCPU's state, and those it does not list.
pub(super) fn msrs_of_state(listed: &[u32]) -> Vec<u32> {
    let mut msrs: Vec<u32> = listed.iter().chain(&MTRRS).copied().collect();
    msrs.retain(|index| !NOT_STATE.contains(index));
    msrs.sort_unstable();
    msrs.dedup();
    msrs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_no_state_and_mtrrs_are() {
        let msrs = msrs_of_state(&[0x10, 0x277, 0x2ff]);
        assert!(msrs.contains(&0x277));
        assert!(!msrs.contains(&0x10));
        assert_eq!(msrs.iter().filter(|&&index| index == 0x2ff).count(), 1);
    }
}
