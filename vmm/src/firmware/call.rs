//! A stub's call as the host sees it: the record that goes into the report.

use efibed_stub::Service;
use efibed_stub::image::{IMAGE_PAGE_OFFSET, RESUME, RESUME_OFFSET, TRAP_BYTES, TRAP_OFFSET, entry_offset};
use uefi_raw::Status;
use uefi_raw::table::runtime::ResetType;

use super::breach::Breach;
use super::guest::StubCall;
use super::misbehaviour::Misdeed;
use super::refusal::Refusal;
use crate::mmu::{Pa, Va};

/// One call of a runtime service, answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The service that was called.
    pub service: Service,
    /// Address of the stub's trap instruction, as the guest ran it; see [`Call::called_at`].
    pub rip: Va,
    /// CR3 during the call.
    pub cr3: u64,
    /// The first four arguments: rcx, rdx, r8, r9.
    pub args: [u64; 4],
    /// What the service returned.
    pub status: Status,
    /// Why, if it was not EFI_SUCCESS.
    pub refusal: Option<Refusal>,
    /// What was wrong with the way it was called.
    pub breaches: Vec<Breach>,
    /// What the service does that it must not.
    pub misdeeds: Vec<Misdeed>,
    /// Firmware's code had not found, or not written, its data when it ran before.
    pub lost_state: Option<LostState>,
}

/// What the stubs counted in their data is not what they were asked to do: they had other data, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("firmware's data counts {found} scripts that its stubs have begun; there were {expected}")]
pub struct LostState {
    /// Scripts in all.
    pub expected: u64,
    /// What firmware's data says.
    pub found: u64,
}

/// What a stub's trap came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A service was called; its stub goes on.
    Called(Call),
    /// A stub asked for the rest of its script, and got it.
    Resumed,
    /// ResetSystem: the guest is not to run any more.
    Reset(Call, ResetType),
}

impl Answer {
    /// The call, if the trap was one.
    pub fn call(self) -> Option<Call> {
        match self {
            Self::Called(call) | Self::Reset(call, _) => Some(call),
            Self::Resumed => None,
        }
    }
}

impl Call {
    /// The address the guest called the service at.
    pub fn called_at(&self) -> Va {
        self.rip.wrapping_sub(TRAP_OFFSET as u64)
    }

    /// The call that these registers make, its status not yet known.
    pub(super) fn of(regs: &StubCall) -> Result<Self, ForeignTrap> {
        let number = regs.rax as u32; // `out` sends eax
        let rip = Va(regs.rip);
        let service = Service::from_number(number).ok_or(ForeignTrap::NoService { number, rip })?;
        Ok(Self {
            service,
            rip: trap_address(entry_offset(service), rip).ok_or(ForeignTrap::NotItsStub { service, rip })?,
            cr3: regs.cr3,
            args: [regs.rcx, regs.rdx, regs.r8, regs.r9],
            status: Status::SUCCESS,
            refusal: None,
            breaches: Vec::new(),
            misdeeds: Vec::new(),
            lost_state: None,
        })
    }
}

/// Whether a stub asks for the rest of its script.
pub(super) fn is_resumption(regs: &StubCall) -> bool {
    regs.rax as u32 == RESUME && trap_address(RESUME_OFFSET, Va(regs.rip)).is_some()
}

/// Where the image is of the stub that trapped at this RIP.
pub(super) fn image_at(rip: Va) -> Va {
    rip.page().wrapping_add(IMAGE_PAGE_OFFSET as u64)
}

/// An `out` to the stubs' port that no stub made: the guest has run something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignTrap {
    /// eax is not the number of a service.
    #[error("the guest wrote {number:#x} to the stubs' port at RIP {rip:#x}; no runtime service has that number")]
    NoService {
        /// eax.
        number: u32,
        /// RIP as KVM reported it.
        rip: Va,
    },
    /// The offset of RIP in its page is not that of the service's trap.
    #[error("the guest wrote {service}'s number to the stubs' port at RIP {rip:#x}, which is not {service}'s stub")]
    NotItsStub {
        /// The service whose number eax holds.
        service: Service,
        /// RIP as KVM reported it.
        rip: Va,
    },
    /// A stub asked for the rest of a script that has none.
    #[error("a stub asked at RIP {rip:#x} for the rest of its script; there is none")]
    NothingToResume {
        /// RIP as KVM reported it.
        rip: Va,
    },
    /// There is no memory where firmware keeps its data.
    #[error("firmware's data, at physical address {phys:#x}, is not in memory")]
    NoData {
        /// Where it would be.
        phys: Pa,
    },
}

/// Where the `out` of the entry at this offset is, if this is the RIP of an exit from it: KVM reports the `out` itself, or, where its
/// emulator ran it, the instruction behind it. Paging keeps the offset in the page, so that is what tells.
fn trap_address(entry: usize, rip: Va) -> Option<Va> {
    const OF_FIRST_ENTRY: usize = IMAGE_PAGE_OFFSET + TRAP_OFFSET;
    let trap = entry.checked_add(OF_FIRST_ENTRY)? as u64;
    match rip.page_offset().checked_sub(trap)? {
        0 => Some(rip),
        behind if behind == TRAP_BYTES as u64 => Some(rip.wrapping_sub(behind)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_memory::trap;
    use super::*;

    const PAGE: u64 = 0xffff_fffe_8080_0000;

    fn stub(service: Service) -> u64 {
        PAGE + (IMAGE_PAGE_OFFSET + entry_offset(service)) as u64
    }

    #[test]
    fn rip_may_be_at_the_trap_or_behind_it() {
        for service in Service::ALL {
            let mut regs = trap(stub(service));
            let at = Call::of(&regs).unwrap();
            regs.rip += TRAP_BYTES as u64;
            let behind = Call::of(&regs).unwrap();
            assert_eq!(at, behind);
            assert_eq!(at.service, service);
            assert_eq!(at.called_at(), Va(stub(service)));
        }
    }

    #[test]
    fn an_out_elsewhere_is_foreign() {
        let mut regs = trap(stub(Service::GetTime));
        regs.rip += 1;
        let rip = Va(regs.rip);
        assert_eq!(Call::of(&regs), Err(ForeignTrap::NotItsStub { service: Service::GetTime, rip }));
        regs.rip = 0;
        assert!(Call::of(&regs).is_err());
    }

    #[test]
    fn a_number_beyond_the_table_is_foreign() {
        let mut regs = trap(stub(Service::GetTime));
        regs.rax = 14;
        let rip = Va(regs.rip);
        assert_eq!(Call::of(&regs), Err(ForeignTrap::NoService { number: 14, rip }));
        assert!(!is_resumption(&regs));
        regs.rip = PAGE + (IMAGE_PAGE_OFFSET + RESUME_OFFSET + TRAP_OFFSET) as u64;
        assert!(is_resumption(&regs));
    }
}
