//! The services as the host plays them: one file for each section of UEFI 2.10, chapter 8.
//!
//! | section | file |
//! | --- | --- |
//! | 8.2 Variable Services | to come: `variables.rs` |
//! | 8.3 Time Services | `time.rs` |
//! | 8.4 Virtual Memory Services | `virtual_memory.rs` |
//! | 8.5 Miscellaneous Runtime Services | to come: `miscellaneous.rs` |
//!
//! A service that is not there yet says EFI_UNSUPPORTED, as 8.1 asks of what is not supported after ExitBootServices; it
//! never pretends to have worked. (ResetSystem too, though a real one does not return.)

mod time;
pub(super) mod virtual_memory;

use efibed_stub::Service;
use efibed_stub::memory::DESCRIPTOR_VERSION;
use uefi_raw::Status;

use super::{Firmware, GuestMemory, StubCall};

/// Plays a service: reads its arguments from `regs`, and leaves there what its stub needs to go on.
pub(super) fn play(
    firmware: &mut Firmware,
    service: Service,
    regs: &mut StubCall,
    memory: &mut dyn GuestMemory,
) -> Result<(), Refusal> {
    match service {
        Service::GetTime => time::get_time(firmware, regs),
        Service::SetVirtualAddressMap => virtual_memory::set_virtual_address_map(firmware, regs, memory),
        Service::SetTime
        | Service::GetWakeupTime
        | Service::SetWakeupTime
        | Service::ConvertPointer
        | Service::GetVariable
        | Service::GetNextVariableName
        | Service::SetVariable
        | Service::GetNextHighMonotonicCount
        | Service::ResetSystem
        | Service::UpdateCapsule
        | Service::QueryCapsuleCapabilities
        | Service::QueryVariableInfo => Err(Refusal::NotOffered),
    }
}

/// Why a service did not do what it was asked to; more than its EFI_STATUS can say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The service is not there yet.
    #[error("this firmware does not offer the service")]
    NotOffered,

    /// GetTime without a place for the time.
    #[error("Time is null")]
    NullTime,
    /// The host's clock is before 1970 or after 9999.
    #[error("the host's clock shows no time that EFI_TIME can hold")]
    NoTime,

    /// SetVirtualAddressMap may succeed once.
    #[error("SetVirtualAddressMap has already succeeded; it may be called once")]
    AlreadyVirtual,
    /// Not the version this firmware knows.
    #[error("DescriptorVersion is {version}; expected {DESCRIPTOR_VERSION}")]
    DescriptorVersion {
        /// The argument's lower half.
        version: u32,
    },
    /// Smaller than a descriptor, or would leave descriptors unaligned.
    #[error("DescriptorSize is {bytes}; expected a multiple of 8, and at least 40")]
    DescriptorSize {
        /// The argument.
        bytes: u64,
    },
    /// Not a whole number of descriptors, or beyond the limit.
    #[error(
        "MemoryMapSize is {bytes}; expected a multiple of the DescriptorSize {stride}, and at most {limit}",
        limit = virtual_memory::MAX_MAP_BYTES
    )]
    MapSize {
        /// The argument.
        bytes: u64,
        /// DescriptorSize.
        stride: u64,
    },
    /// The map is not in memory, or not all of it.
    #[error("entry {entry} of VirtualMap, at physical address {phys:#x}, is not in memory")]
    MapUnreadable {
        /// Its number in VirtualMap.
        entry: u64,
        /// Where it would be.
        phys: u64,
    },
    /// A virtual address for physical addresses that are not in the memory map.
    #[error(
        "entry {entry} of VirtualMap gives a virtual address to {pages:#x} pages at {phys:#x}, which are not all in \
         the memory map"
    )]
    NotFound {
        /// Its number in VirtualMap.
        entry: u64,
        /// Its PhysicalStart.
        phys: u64,
        /// Its NumberOfPages.
        pages: u64,
    },
    /// No virtual address for a region that needs one.
    #[error("VirtualMap gives no virtual address to all of the RUNTIME region of descriptor {region}, at {phys:#x}")]
    NoMapping {
        /// The index of its descriptor in the memory map.
        region: usize,
        /// Its PhysicalStart.
        phys: u64,
    },
    /// Firmware cannot write its own tables: nobody has put its pages into guest memory.
    #[error("firmware's tables, at physical address {phys:#x}, are not in memory")]
    TablesUnwritable {
        /// Where they would be.
        phys: u64,
    },
}

impl Refusal {
    /// What the service returns (UEFI 2.10: 8.3.1 and 8.4.1, Status Codes Returned).
    pub fn status(&self) -> Status {
        match self {
            Self::NotOffered | Self::AlreadyVirtual => Status::UNSUPPORTED,
            Self::NullTime
            | Self::DescriptorVersion { .. }
            | Self::DescriptorSize { .. }
            | Self::MapSize { .. }
            | Self::MapUnreadable { .. } => Status::INVALID_PARAMETER,
            Self::NotFound { .. } => Status::NOT_FOUND,
            Self::NoMapping { .. } => Status::NO_MAPPING,
            // 8.4.1 has no status for broken firmware; Appendix D's general one.
            Self::NoTime | Self::TablesUnwritable { .. } => Status::DEVICE_ERROR,
        }
    }
}
