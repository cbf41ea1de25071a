//! What Linux's boot stub makes of an EFI memory map for the kernel: the e820 table (`setup_e820()` of
//! drivers/firmware/efi/libstub/x86-stub.c).

use std::fmt;

use super::{MemoryAttribute, MemoryType, Region};

/// A type of that table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E820Type {
    /// The kernel's to use.
    Usable,
    /// Not the kernel's.
    Reserved,
    /// ACPI's tables.
    AcpiData,
    /// ACPI's, kept over sleep.
    AcpiNvs,
    /// With errors.
    Unusable,
    /// Persistent.
    Persistent,
    /// Memory for a special purpose.
    SoftReserved,
}

impl E820Type {
    /// Of a region. None: the table leaves it out.
    pub fn of(region: &Region) -> Option<Self> {
        Some(match region.ty {
            MemoryType::RESERVED
            | MemoryType::RUNTIME_SERVICES_CODE
            | MemoryType::RUNTIME_SERVICES_DATA
            | MemoryType::MMIO
            | MemoryType::MMIO_PORT_SPACE
            | MemoryType::PAL_CODE => Self::Reserved,
            MemoryType::UNUSABLE => Self::Unusable,
            MemoryType::ACPI_RECLAIM => Self::AcpiData,
            MemoryType::LOADER_CODE
            | MemoryType::LOADER_DATA
            | MemoryType::BOOT_SERVICES_CODE
            | MemoryType::BOOT_SERVICES_DATA
            | MemoryType::CONVENTIONAL => {
                let is_special = region.attribute.contains(MemoryAttribute::SPECIAL_PURPOSE);
                if is_special { Self::SoftReserved } else { Self::Usable }
            }
            MemoryType::ACPI_NON_VOLATILE => Self::AcpiNvs,
            MemoryType::PERSISTENT_MEMORY => Self::Persistent,
            _ => return None,
        })
    }
}

/// As Linux prints it (`e820_print_type()` of arch/x86/kernel/e820.c).
impl fmt::Display for E820Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usable => "usable",
            Self::Reserved => "reserved",
            Self::AcpiData => "ACPI data",
            Self::AcpiNvs => "ACPI NVS",
            Self::Unusable => "unusable",
            Self::Persistent => "persistent",
            Self::SoftReserved => "soft reserved",
        })
    }
}
