//! What a finding says was to be, or was: a value, with the words for it.

use std::borrow::Cow;
use std::fmt;

use efibed_stub::Service;
use uefi_raw::Status;

use super::cache::PatIndices;
use crate::mmu::{Access, ErrorCode, Fault, Pa, Va};

/// What was to be, or was. [`Display`](fmt::Display) gives the words that reports have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Statement {
    /// This physical address is reached.
    Physical(Pa),
    /// It is at this virtual address.
    Virtual(Va),
    /// It is at virtual addresses from the first to the last.
    Between(Va, Va),
    /// It faults.
    Faulted {
        /// The exception and its error code.
        fault: Fault,
        /// The faulting address: of every page fault.
        cr2: Option<Va>,
        /// The faulting instruction, if CR2 or RIP is not what it should be. The words name both then.
        rip: Option<Va>,
    },
    /// The access goes through, wherever it leads.
    Succeeds(Access),
    /// The access is not made at this address.
    NoAccess(Access, Va),
    /// Firmware is called at this address.
    CalledAt(Va),
    /// The service returns.
    Returns(Service),
    /// A service answers so.
    Answers(Status),
    /// It is mapped.
    Mapped,
    /// It is not mapped.
    LeftOut,
    /// The leaf has one of these PAT indices.
    Cache(PatIndices),
    /// A table has this entry.
    Entry {
        /// The entry's physical address.
        at: Pa,
        /// Its value.
        entry: u64,
    },
    /// A register has this value.
    Register {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: u64,
    },
    /// The memory map's descriptors are so many bytes apart.
    DescriptorSize(usize),
    /// What none of the others says.
    Text(Cow<'static, str>),
}

impl Statement {
    /// An access at `virt` faults, with CR2 as it must be.
    pub(crate) fn faulted(fault: Fault, virt: Va) -> Self {
        Self::Faulted { fault, cr2: (fault.vector == Fault::PAGE_FAULT).then_some(virt), rip: None }
    }

    pub(crate) const fn text(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// Of a page fault, its error code.
    pub fn error_code(&self) -> Option<ErrorCode> {
        match self {
            Self::Faulted { fault, .. } if fault.vector == Fault::PAGE_FAULT => Some(fault.error_code),
            _ => None,
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Physical(pa) => write!(f, "PA {pa}"),
            Self::Virtual(virt) => write!(f, "VA {virt}"),
            Self::Between(first, last) => write!(f, "VA {first} to {last}"),
            Self::Faulted { fault, cr2: Some(cr2), rip: Some(rip) } => write!(f, "{fault}, CR2 {cr2}, RIP {rip}"),
            Self::Faulted { fault, .. } => write!(f, "{fault}"),
            Self::Succeeds(access) => write!(f, "a {access} that goes through"),
            Self::NoAccess(access, at) => write!(f, "no {access} at {at}"),
            Self::CalledAt(entry) => write!(f, "a call at {entry}, which firmware's table has"),
            Self::Returns(service) => write!(f, "{service} returns"),
            Self::Answers(status) => write!(f, "EFI_{status:?}"),
            Self::Mapped => f.write_str("mapped"),
            Self::LeftOut => f.write_str("left out"),
            Self::Cache(indices) => write!(f, "{indices}"),
            Self::Entry { at, entry } => write!(f, "{entry:#x} at PA {at}"),
            Self::Register { name, value } => write!(f, "{name} {value:#x}"),
            Self::DescriptorSize(bytes) => write!(f, "DescriptorSize {bytes}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts read these words from the JSON.
    #[test]
    fn each_has_its_words() {
        let fault = Fault::page(ErrorCode(0xb));
        let astray = Statement::Faulted { fault, cr2: Some(Va(0x5000)), rip: Some(Va(0x1234)) };
        for (statement, words) in [
            (Statement::Physical(Pa(0x7e42_0003)), "PA 0x7e420003"),
            (Statement::Virtual(Va(0xffff_fffe_fffc_0000)), "VA 0xfffffffefffc0000"),
            (Statement::Between(Va(0x1000), Va(0x1fff)), "VA 0x1000 to 0x1fff"),
            (Statement::faulted(fault, Va(0x5000)), "#PF 0xb (P W RSVD)"),
            (astray, "#PF 0xb (P W RSVD), CR2 0x5000, RIP 0x1234"),
            (Statement::Succeeds(Access::write()), "a supervisor write that goes through"),
            (Statement::NoAccess(Access::fetch(), Va(0x5000)), "no supervisor fetch at 0x5000"),
            (Statement::CalledAt(Va(0x5000)), "a call at 0x5000, which firmware's table has"),
            (Statement::Returns(Service::GetTime), "GetTime returns"),
            (Statement::Answers(Status::DEVICE_ERROR), "EFI_DEVICE_ERROR"),
            (Statement::Mapped, "mapped"),
            (Statement::LeftOut, "left out"),
            (Statement::Cache(PatIndices::only(4)), "PAT index 4 (WB)"),
            (Statement::Entry { at: Pa(0x12_5000), entry: 0x7e10_70e3 }, "0x7e1070e3 at PA 0x125000"),
            (Statement::Register { name: "CR3", value: 0x12_3000 }, "CR3 0x123000"),
            (Statement::DescriptorSize(48), "DescriptorSize 48"),
            (Statement::text("it was executed"), "it was executed"),
        ] {
            assert_eq!(statement.to_string(), words);
        }
    }

    #[test]
    fn only_a_page_fault_has_an_error_code_and_cr2() {
        let fault = Fault { vector: Fault::GENERAL_PROTECTION, error_code: ErrorCode(0) };
        let statement = Statement::faulted(fault, Va(0x8000_0000_0000));
        assert_eq!(statement, Statement::Faulted { fault, cr2: None, rip: None });
        assert_eq!(statement.error_code(), None);
        assert_eq!(Statement::faulted(Fault::page(ErrorCode(2)), Va(0)).error_code(), Some(ErrorCode(2)));
    }
}
