//! Why services refuse.

use efibed_stub::memory::DESCRIPTOR_VERSION;
use uefi_raw::Status;

use crate::mmu::{Pa, Va};

/// Why a service did not do what it was asked to; more than its EFI_STATUS can say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An argument points to where the caller's tables lead nowhere, or not to memory.
    #[error("{argument} is at {at:#x}, which {}", unreachable(*.phys))]
    Unreachable {
        /// The specification's name for it.
        argument: &'static str,
        /// The first address that cannot be used.
        at: Va,
        /// Where it leads, if anywhere: there is no memory there.
        phys: Option<Pa>,
    },
    /// A pointer that must not be null.
    #[error("{argument} is null")]
    Null {
        /// The specification's name for it.
        argument: &'static str,
    },

    /// No such variable, or not one for runtime.
    #[error("there is no such variable")]
    NoVariable,
    /// All variables have been named.
    #[error("there is no further variable")]
    NoNextVariable,
    /// GetNextVariableName goes on from a variable that exists.
    #[error("VariableName and VendorGuid are not those of a variable")]
    UnknownName,
    /// A buffer has no room for the result.
    #[error("{argument} is {found}; {needed} bytes are needed")]
    BufferTooSmall {
        /// The size's name.
        argument: &'static str,
        /// The size.
        found: u64,
        /// What it is now.
        needed: u64,
    },
    /// SetVariable without a name.
    #[error("VariableName is an empty string")]
    EmptyName,
    /// The name does not end where it must.
    #[error("VariableName has no null in its first {bytes} bytes")]
    EndlessName {
        /// How far was looked.
        bytes: u64,
    },
    /// Bits that may not be set, or not together.
    #[error("Attributes are {attributes:#x}: {why}")]
    Attributes {
        /// The argument.
        attributes: u32,
        /// What is wrong with them.
        why: &'static str,
    },
    /// Bits that the specification knows and this firmware does not do.
    #[error("Attributes are {attributes:#x}: this firmware does not do {what}")]
    UnsupportedAttributes {
        /// The argument.
        attributes: u32,
        /// What it does not do.
        what: &'static str,
    },
    /// A variable keeps the attributes it was made with.
    #[error("Attributes are {found:#x}; the variable has {expected:#x}, and must be deleted to change them")]
    OtherAttributes {
        /// The argument.
        found: u32,
        /// The variable's.
        expected: u32,
    },
    /// Volatile variables cannot be changed at runtime.
    #[error("the variable is read-only at runtime")]
    ReadOnly,
    /// More than one variable may have.
    #[error("the variable would be of {bytes} bytes with its name; it may have {limit}")]
    VariableTooLarge {
        /// Its size.
        bytes: u64,
        /// QueryVariableInfo's MaximumVariableSize.
        limit: u64,
    },
    /// More than is left.
    #[error("the variable needs {needed} bytes; {left} are left")]
    StoreFull {
        /// Its size.
        needed: u64,
        /// QueryVariableInfo's RemainingVariableStorageSize.
        left: u64,
    },

    /// A field of EFI_TIME is out of range.
    #[error("{field} of Time is out of range: {value}")]
    TimeField {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// The host's clock shows what EFI_TIME cannot hold.
    #[error("the host's clock shows no time that EFI_TIME can hold")]
    NoTime,

    /// SetVirtualAddressMap may succeed once.
    #[error("SetVirtualAddressMap has already succeeded; it may be called once")]
    AlreadyVirtual,
    /// ConvertPointer outside SetVirtualAddressMap.
    #[error("ConvertPointer is for firmware's own handlers, while SetVirtualAddressMap runs")]
    NotNow,
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
        limit = MAX_MAP_BYTES
    )]
    MapSize {
        /// The argument.
        bytes: u64,
        /// DescriptorSize.
        stride: u64,
    },
    /// The map is not in memory, or not all of it.
    #[error("entry {entry} of VirtualMap, at {at:#x}, is not in memory")]
    MapUnreadable {
        /// Its number in VirtualMap.
        entry: u64,
        /// Where it would be.
        at: Va,
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
        phys: Pa,
        /// Its NumberOfPages.
        pages: u64,
    },
    /// No virtual address for a region that needs one.
    #[error("VirtualMap gives no virtual address to all of the RUNTIME region of descriptor {region}, at {phys:#x}")]
    NoMapping {
        /// The index of its descriptor in the memory map.
        region: usize,
        /// Its PhysicalStart.
        phys: Pa,
    },

    /// ResetSystem with a type that does not exist.
    #[error("ResetType is {ty}; there are 0 to 3")]
    ResetType {
        /// The argument.
        ty: u32,
    },
    /// No capsules, or more than anyone has.
    #[error("CapsuleCount is {count}; expected 1 to {limit}")]
    CapsuleCount {
        /// The argument.
        count: u64,
        /// The most this firmware takes.
        limit: u64,
    },
    /// Flags that must not stand together, or sizes that cannot be.
    #[error("capsule {index}: {why}")]
    CapsuleHeader {
        /// Its number.
        index: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A capsule for other firmware.
    #[error("capsule {index} is of a type that this firmware does not know")]
    UnknownCapsule {
        /// Its number.
        index: u64,
    },
    /// A capsule larger than this firmware takes.
    #[error("capsule {index} has {bytes} bytes; this firmware takes {limit}")]
    CapsuleTooLarge {
        /// Its number.
        index: u64,
        /// CapsuleImageSize.
        bytes: u64,
        /// MaximumCapsuleSize.
        limit: u64,
    },
}

/// SetVirtualAddressMap refuses larger maps: no machine has them, and the guest must not keep the host busy.
pub const MAX_MAP_BYTES: u64 = 16 << 20;

impl Refusal {
    /// What the service returns (UEFI 2.10, "Status Codes Returned" in each section of chapter 8).
    pub fn status(&self) -> Status {
        match self {
            Self::AlreadyVirtual | Self::NotNow | Self::UnsupportedAttributes { .. } | Self::UnknownCapsule { .. } => {
                Status::UNSUPPORTED
            }
            Self::Null { .. }
            | Self::EmptyName
            | Self::UnknownName
            | Self::EndlessName { .. }
            | Self::Attributes { .. }
            | Self::OtherAttributes { .. }
            | Self::VariableTooLarge { .. }
            | Self::TimeField { .. }
            | Self::DescriptorVersion { .. }
            | Self::DescriptorSize { .. }
            | Self::MapSize { .. }
            | Self::MapUnreadable { .. }
            | Self::ResetType { .. }
            | Self::CapsuleCount { .. }
            | Self::CapsuleHeader { .. } => Status::INVALID_PARAMETER,
            Self::NoVariable | Self::NoNextVariable | Self::NotFound { .. } => Status::NOT_FOUND,
            Self::BufferTooSmall { .. } => Status::BUFFER_TOO_SMALL,
            Self::ReadOnly => Status::WRITE_PROTECTED,
            Self::StoreFull { .. } | Self::CapsuleTooLarge { .. } => Status::OUT_OF_RESOURCES,
            Self::NoMapping { .. } => Status::NO_MAPPING,
            // Real firmware faults there; Linux abandons the service then, with this status
            // (arch/x86/platform/efi/quirks.c, efi_crash_gracefully_on_page_fault).
            Self::Unreachable { .. } => Status::ABORTED,
            // 8.3.1 has no other status for it than that of broken hardware.
            Self::NoTime => Status::DEVICE_ERROR,
        }
    }
}

fn unreachable(phys: Option<Pa>) -> String {
    match phys {
        None => "the caller's tables do not map, or not as needed".into(),
        Some(phys) => format!("leads to physical address {phys:#x}, where no memory is"),
    }
}
