//! The memory map: EFI_MEMORY_DESCRIPTOR, its types and attributes (UEFI 2.10, 7.2.3 "GetMemoryMap").

/// One descriptor of the memory map, version [`DESCRIPTOR_VERSION`].
///
/// A map is walked with the *stride* its owner states, never with the size of this structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryDescriptor {
    /// One of [`memory_type`], or a number of an OEM's or an operating system's own.
    pub ty: u32,
    /// Zero.
    pub pad: u32,
    /// Physical address of the region's first byte.
    pub phys_start: u64,
    /// Virtual address of the region's first byte; what SetVirtualAddressMap is told.
    pub virt_start: u64,
    /// Length of the region in pages of 4 KiB.
    pub page_count: u64,
    /// Bits of [`attribute`]: capabilities of the memory, not how it is mapped.
    pub attribute: u64,
}

/// EFI_MEMORY_DESCRIPTOR_VERSION.
pub const DESCRIPTOR_VERSION: u32 = 1;

/// Bytes from one descriptor to the next in the maps efibed hands out.
///
/// Not the structure's 40: EDK II reports 48 on purpose, so that code which ignores DescriptorSize fails at once
/// (MdeModulePkg, CoreGetMemoryMap: "prevent people from having pointer math bugs").
pub const DESCRIPTOR_STRIDE: usize = 48;

/// EFI_MEMORY_TYPE (UEFI 2.10, 7.2.1 "AllocatePages", Related Definitions).
#[allow(missing_docs, reason = "the specification's names, no more and no less")]
pub mod memory_type {
    pub const RESERVED: u32 = 0;
    pub const LOADER_CODE: u32 = 1;
    pub const LOADER_DATA: u32 = 2;
    pub const BOOT_SERVICES_CODE: u32 = 3;
    pub const BOOT_SERVICES_DATA: u32 = 4;
    pub const RUNTIME_SERVICES_CODE: u32 = 5;
    pub const RUNTIME_SERVICES_DATA: u32 = 6;
    pub const CONVENTIONAL: u32 = 7;
    pub const UNUSABLE: u32 = 8;
    pub const ACPI_RECLAIM: u32 = 9;
    pub const ACPI_NVS: u32 = 10;
    pub const MEMORY_MAPPED_IO: u32 = 11;
    pub const MEMORY_MAPPED_IO_PORT_SPACE: u32 = 12;
    pub const PAL_CODE: u32 = 13;
    pub const PERSISTENT: u32 = 14;
    pub const UNACCEPTED: u32 = 15;
}

/// The `EFI_MEMORY_*` attribute bits (UEFI 2.10, 7.2.3, Related Definitions).
#[allow(missing_docs, reason = "the specification's names, no more and no less")]
pub mod attribute {
    pub const UC: u64 = 0x1;
    pub const WC: u64 = 0x2;
    pub const WT: u64 = 0x4;
    pub const WB: u64 = 0x8;
    pub const UCE: u64 = 0x10;
    pub const WP: u64 = 0x1000;
    pub const RP: u64 = 0x2000;
    pub const XP: u64 = 0x4000;
    pub const NV: u64 = 0x8000;
    pub const MORE_RELIABLE: u64 = 0x1_0000;
    pub const RO: u64 = 0x2_0000;
    pub const SP: u64 = 0x4_0000;
    pub const CPU_CRYPTO: u64 = 0x8_0000;
    pub const RUNTIME: u64 = 1 << 63;
}
