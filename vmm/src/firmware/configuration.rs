//! The tables that the configuration table names (UEFI 2.10, 4.6), in the smallest form that is valid.
//!
//! They lie in firmware's one page of RuntimeServicesData, except for the Memory Attributes Table, which is the one the
//! mapper is given. What the entries point to stays physical: SetVirtualAddressMap converts the pointer to the array and
//! none in it (EDK II; 4.6 leaves it to each GUID, and these are physical).

use efibed_stub::Service;
use uefi_raw::{Guid, guid};

use crate::mmu::Pa;

/// EFI_ACPI_20_TABLE_GUID (4.6.1.1).
pub(super) const ACPI_20: Guid = guid!("8868e871-e4f1-11d3-bc22-0080c73c8881");

/// SMBIOS3_TABLE_GUID (4.6.1.1).
pub(super) const SMBIOS_3: Guid = guid!("f2fd1544-9794-4a2c-992e-e5bbcf20e394");

/// EFI_RT_PROPERTIES_TABLE_GUID (4.6.2).
pub(super) const RT_PROPERTIES: Guid = guid!("eb66918a-7eef-402a-842e-931d21c38ae9");

/// EFI_SYSTEM_RESOURCE_TABLE_GUID (23.4).
pub(super) const ESRT: Guid = guid!("b122a263-3661-4f68-9929-78f8b0d62180");

/// EFI_MEMORY_ATTRIBUTES_TABLE_GUID (4.6.4).
pub(super) const MEMORY_ATTRIBUTES: Guid = guid!("dcfa911d-26eb-469f-a220-38b7dc461220");

/// The one class of capsules that this firmware takes: the FwClass of its ESRT's entry.
pub(crate) const CAPSULE_CLASS: Guid = guid!("e1fbed01-5c8e-4d0b-8f6b-0f5d2c7e9a31");

/// Bytes of each of the tables below.
pub(super) const RSDP_BYTES: usize = 36;
pub(super) const XSDT_BYTES: usize = 36;
pub(super) const SMBIOS_ENTRY_BYTES: usize = 24;
pub(super) const SMBIOS_STRUCTURES_BYTES: usize = 6;
pub(super) const RT_PROPERTIES_BYTES: usize = 8;
pub(super) const ESRT_BYTES: usize = 16 + 40;

/// Root System Description Pointer of revision 2 (ACPI 6.5, 5.2.5.3).
pub(super) fn rsdp(xsdt: Pa) -> [u8; RSDP_BYTES] {
    let mut table = [0; RSDP_BYTES];
    put(&mut table, 0, b"RSD PTR ");
    put(&mut table, 9, b"EFIBED");
    put(&mut table, 15, &[2]);
    put(&mut table, 20, &(RSDP_BYTES as u32).to_le_bytes());
    put(&mut table, 24, &xsdt.0.to_le_bytes());
    table[8] = to_zero(&table[..20]);
    table[32] = to_zero(&table);
    table
}

/// Extended System Description Table (ACPI 6.5, 5.2.8) that names no others.
pub(super) fn xsdt() -> [u8; XSDT_BYTES] {
    let mut table = [0; XSDT_BYTES];
    put(&mut table, 0, b"XSDT");
    put(&mut table, 4, &(XSDT_BYTES as u32).to_le_bytes());
    put(&mut table, 8, &[1]);
    put(&mut table, 10, b"EFIBED");
    put(&mut table, 16, b"EFIBED  ");
    put(&mut table, 24, &1u32.to_le_bytes());
    put(&mut table, 28, b"EFIB");
    put(&mut table, 32, &1u32.to_le_bytes());
    table[9] = to_zero(&table);
    table
}

/// SMBIOS 3.0 entry point (DSP0134 3.6, 5.2.2).
pub(super) fn smbios_entry(structures: Pa) -> [u8; SMBIOS_ENTRY_BYTES] {
    let mut table = [0; SMBIOS_ENTRY_BYTES];
    put(&mut table, 0, b"_SM3_");
    // Length, version 3.6.0, revision of the entry point.
    put(&mut table, 6, &[SMBIOS_ENTRY_BYTES as u8, 3, 6, 0, 1]);
    put(&mut table, 12, &(SMBIOS_STRUCTURES_BYTES as u32).to_le_bytes());
    put(&mut table, 16, &structures.0.to_le_bytes());
    table[5] = to_zero(&table);
    table
}

/// The end of the structure table and nothing before it: type 127 of four bytes, and no strings (DSP0134 3.6, 7.45).
pub(super) fn smbios_structures() -> [u8; SMBIOS_STRUCTURES_BYTES] {
    [127, 4, 0, 0, 0, 0]
}

/// EFI_RT_PROPERTIES_TABLE (4.6.2): all services but ConvertPointer, which is not the operating system's.
pub(super) fn rt_properties() -> [u8; RT_PROPERTIES_BYTES] {
    let supported = RT_SUPPORTED_ALL & !rt_supported(Service::ConvertPointer);
    let mut table = [0; RT_PROPERTIES_BYTES];
    put(&mut table, 0, &1u16.to_le_bytes());
    put(&mut table, 2, &(RT_PROPERTIES_BYTES as u16).to_le_bytes());
    put(&mut table, 4, &supported.to_le_bytes());
    table
}

/// All bits of RuntimeServicesSupported (4.6.2).
pub(super) const RT_SUPPORTED_ALL: u32 = 0x3FFF;

/// The service's bit of RuntimeServicesSupported (4.6.2): not the order of the table.
pub(super) const fn rt_supported(service: Service) -> u32 {
    match service {
        Service::GetTime => 0x1,
        Service::SetTime => 0x2,
        Service::GetWakeupTime => 0x4,
        Service::SetWakeupTime => 0x8,
        Service::GetVariable => 0x10,
        Service::GetNextVariableName => 0x20,
        Service::SetVariable => 0x40,
        Service::SetVirtualAddressMap => 0x80,
        Service::ConvertPointer => 0x100,
        Service::GetNextHighMonotonicCount => 0x200,
        Service::ResetSystem => 0x400,
        Service::UpdateCapsule => 0x800,
        Service::QueryCapsuleCapabilities => 0x1000,
        Service::QueryVariableInfo => 0x2000,
    }
}

/// EFI_SYSTEM_RESOURCE_TABLE (23.4) with one entry: the system's firmware, of the class that UpdateCapsule takes.
pub(super) fn esrt() -> [u8; ESRT_BYTES] {
    let mut table = [0; ESRT_BYTES];
    put(&mut table, 0, &1u32.to_le_bytes()); // FwResourceCount
    put(&mut table, 4, &1u32.to_le_bytes()); // FwResourceCountMax
    put(&mut table, 8, &1u64.to_le_bytes()); // FwResourceVersion
    put(&mut table, 16, &CAPSULE_CLASS.to_bytes());
    // FwType (system firmware), FwVersion, LowestSupportedFwVersion; the rest is zero.
    for (at, field) in [(32, 1u32), (36, 1), (40, 1)] {
        put(&mut table, at, &field.to_le_bytes());
    }
    table
}

fn put(table: &mut [u8], at: usize, bytes: &[u8]) {
    table[at..][..bytes.len()].copy_from_slice(bytes);
}

/// The byte that makes the sum of all zero.
fn to_zero(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}
