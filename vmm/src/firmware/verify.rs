//! A reader of the tables as an operating system is one: it follows the specification, not `tables.rs` and
//! `configuration.rs`.

mod configuration;

use core::fmt;
use core::mem::offset_of;

use efibed_stub::Service;
use uefi_raw::table::configuration::ConfigurationTable;
use uefi_raw::table::runtime::RuntimeServices;
use uefi_raw::table::system::SystemTable;
use uefi_raw::table::{Header, Revision};

use super::GuestMemory;
use super::ranges::left_in_page;
use crate::mmu::{Pa, Va};

/// Verifies the system table at this physical address, and all it points to: the runtime-services table and the
/// configuration tables that this room knows, as UEFI 2.10, 4.2.1 and 4.6 tell operating systems to. `translate` says
/// which physical address is behind an address that a table holds; before SetVirtualAddressMap that is the address itself.
/// What the configuration tables point to is physical before and after.
pub fn verify_tables(
    memory: &dyn GuestMemory,
    system_table: Pa,
    translate: impl Fn(Va) -> Option<Pa>,
) -> Result<(), TableDefect> {
    let system_table: [u8; size_of::<SystemTable>()] = read_physical(memory, Table::System, system_table)?;
    verify_header(&system_table, Table::System, SystemTable::SIGNATURE)?;

    let address = va_at(&system_table, offset_of!(SystemTable, runtime_services));
    let runtime_services: [u8; size_of::<RuntimeServices>()] =
        read(memory, Table::RuntimeServices, address, &translate)?;
    verify_header(&runtime_services, Table::RuntimeServices, RUNTIME_SERVICES_SIGNATURE)?;
    verify_services(&runtime_services)?;

    verify_vendor(memory, va_at(&system_table, offset_of!(SystemTable, firmware_vendor)), &translate)?;
    let count = u64_at(&system_table, offset_of!(SystemTable, number_of_configuration_table_entries));
    let address = va_at(&system_table, offset_of!(SystemTable, configuration_table));
    let entries = configuration_entries(memory, count, address, translate)?;
    configuration::verify(memory, &entries)
}

/// Which table a defect is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// EFI_SYSTEM_TABLE.
    System,
    /// EFI_RUNTIME_SERVICES.
    RuntimeServices,
    /// FirmwareVendor.
    Vendor,
    /// The array of EFI_CONFIGURATION_TABLE.
    Configuration,
    /// ACPI's RSDP.
    Rsdp,
    /// ACPI's XSDT.
    Xsdt,
    /// The SMBIOS 3 entry point.
    Smbios,
    /// The SMBIOS structures.
    SmbiosStructures,
    /// EFI_RT_PROPERTIES_TABLE.
    RtProperties,
    /// EFI_SYSTEM_RESOURCE_TABLE.
    Esrt,
    /// EFI_MEMORY_ATTRIBUTES_TABLE.
    MemoryAttributes,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "the system table",
            Self::RuntimeServices => "the runtime-services table",
            Self::Vendor => "the firmware vendor's name",
            Self::Configuration => "the array of configuration tables",
            Self::Rsdp => "ACPI's RSDP",
            Self::Xsdt => "ACPI's XSDT",
            Self::Smbios => "the SMBIOS entry point",
            Self::SmbiosStructures => "the table of SMBIOS structures",
            Self::RtProperties => "the RT properties table",
            Self::Esrt => "the ESRT",
            Self::MemoryAttributes => "the Memory Attributes Table",
        })
    }
}

/// What is wrong with firmware's tables: the first thing found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are in the messages")]
pub enum TableDefect {
    /// The table's address translates to nothing.
    #[error("{table} is at {address:#x}, which is not mapped")]
    Unmapped { table: Table, address: Va },
    /// The table's physical address has no memory behind it.
    #[error("{table} is at physical address {phys:#x}, which is not in memory")]
    Unreadable { table: Table, phys: Pa },
    /// Not the table's signature.
    #[error("{table} has signature {found:#018x}; expected {expected:#018x}")]
    Signature { table: Table, expected: u64, found: u64 },
    /// Not the revision firmware was built with.
    #[error("{table} has revision {found:#x}; expected {expected:#x}")]
    Revision { table: Table, expected: u32, found: u32 },
    /// HeaderSize is not that of the table.
    #[error("{table} has HeaderSize {found}; expected {expected}")]
    HeaderSize { table: Table, expected: u32, found: u32 },
    /// Reserved is not zero.
    #[error("{table} has {found:#x} in Reserved; expected 0")]
    Reserved { table: Table, found: u32 },
    /// The table's bytes are not those its CRC was computed from.
    #[error("{table} has CRC32 {found:#010x}; its bytes give {expected:#010x}")]
    Crc32 { table: Table, expected: u32, found: u32 },
    /// A service without a stub.
    #[error("the runtime-services table has a null pointer for {service}")]
    NullService { service: Service },
    /// The firmware vendor's name has no end.
    #[error("the firmware vendor's name has no null in its first {MAX_VENDOR_UNITS} units")]
    EndlessVendor,
    /// More tables than anyone has.
    #[error("the system table counts {count} configuration tables; expected {MAX_CONFIGURATION_TABLES} at most")]
    ConfigurationCount { count: u64 },
    /// A configuration table that this firmware always has.
    #[error("{table} is not among the configuration tables")]
    Missing { table: Table },
    /// A configuration table twice.
    #[error("{table} is twice among the configuration tables")]
    Twice { table: Table },
    /// The bytes do not add up to zero.
    #[error("{table} has a checksum that is off by {sum:#04x}")]
    Checksum { table: Table, sum: u8 },
    /// A field that is not what the specification says.
    #[error("{table} has {found:#x} in {field}; expected {expected}")]
    Field { table: Table, field: &'static str, expected: &'static str, found: u64 },
}

/// Units of a vendor's name, its null included: a limit, since the name is only as long as its memory is right.
const MAX_VENDOR_UNITS: u64 = 128;

/// Configuration tables: some machines have thirty.
const MAX_CONFIGURATION_TABLES: u64 = 256;

/// UEFI 2.10, 4.5.1: EFI_RUNTIME_SERVICES_SIGNATURE.
const RUNTIME_SERVICES_SIGNATURE: u64 = 0x5652_4553_544e_5552;

fn verify_header(bytes: &[u8], table: Table, signature: u64) -> Result<(), TableDefect> {
    let found = u64_at(bytes, offset_of!(Header, signature));
    if found != signature {
        return Err(TableDefect::Signature { table, expected: signature, found });
    }
    let (expected, found) = (Revision::EFI_2_100.0, u32_at(bytes, offset_of!(Header, revision)));
    if found != expected {
        return Err(TableDefect::Revision { table, expected, found });
    }
    let (expected, found) = (bytes.len() as u32, u32_at(bytes, offset_of!(Header, size)));
    if found != expected {
        return Err(TableDefect::HeaderSize { table, expected, found });
    }
    let found = u32_at(bytes, offset_of!(Header, reserved));
    if found != 0 {
        return Err(TableDefect::Reserved { table, found });
    }
    let (expected, found) = (crc32(bytes), u32_at(bytes, offset_of!(Header, crc)));
    if found != expected {
        return Err(TableDefect::Crc32 { table, expected, found });
    }
    Ok(())
}

fn verify_services(bytes: &[u8]) -> Result<(), TableDefect> {
    match Service::ALL.into_iter().find(|service| u64_at(bytes, service.table_offset()) == 0) {
        None => Ok(()),
        Some(service) => Err(TableDefect::NullService { service }),
    }
}

fn verify_vendor(
    memory: &dyn GuestMemory,
    address: Va,
    translate: impl Fn(Va) -> Option<Pa>,
) -> Result<(), TableDefect> {
    for index in 0..MAX_VENDOR_UNITS {
        let at = address.wrapping_add(index.wrapping_mul(2));
        if read::<2>(memory, Table::Vendor, at, &translate)? == [0, 0] {
            return Ok(());
        }
    }
    Err(TableDefect::EndlessVendor)
}

/// Each entry's GUID and pointer.
fn configuration_entries(
    memory: &dyn GuestMemory,
    count: u64,
    address: Va,
    translate: impl Fn(Va) -> Option<Pa>,
) -> Result<Vec<([u8; 16], Pa)>, TableDefect> {
    if count > MAX_CONFIGURATION_TABLES {
        return Err(TableDefect::ConfigurationCount { count });
    }
    const ENTRY_BYTES: u64 = size_of::<ConfigurationTable>() as u64;
    let entry = |index| {
        let at = address.wrapping_add(ENTRY_BYTES.wrapping_mul(index));
        let bytes: [u8; size_of::<ConfigurationTable>()] = read(memory, Table::Configuration, at, &translate)?;
        let mut guid = [0; 16];
        guid.copy_from_slice(&bytes[..16]);
        Ok((guid, Pa(u64_at(&bytes, offset_of!(ConfigurationTable, vendor_table)))))
    };
    (0..count).map(entry).collect()
}

/// Of the whole table, the field itself taken as zero (UEFI 2.10, 4.2.1).
fn crc32(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(offset_of!(Header, crc));
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(before);
    hasher.update(&[0; 4]);
    hasher.update(&rest[4..]);
    hasher.finalize()
}

/// Reads a table by its physical address.
fn read_physical<const BYTES: usize>(
    memory: &dyn GuestMemory,
    table: Table,
    phys: Pa,
) -> Result<[u8; BYTES], TableDefect> {
    read(memory, table, phys.one_to_one(), |virt| Some(virt.one_to_one()))
}

/// Reads a table page by page: neighbours in the virtual address space need not be neighbours in memory.
fn read<const BYTES: usize>(
    memory: &dyn GuestMemory,
    table: Table,
    address: Va,
    translate: impl Fn(Va) -> Option<Pa>,
) -> Result<[u8; BYTES], TableDefect> {
    let mut bytes = [0; BYTES];
    let mut done = 0;
    while done < BYTES {
        let unmapped = TableDefect::Unmapped { table, address };
        let at = address.checked_add(done as u64).ok_or(unmapped.clone())?;
        let part = left_in_page(at).min(BYTES.saturating_sub(done));
        let phys = translate(at).ok_or(unmapped)?;
        if !memory.read(phys, &mut bytes[done..][..part]) {
            return Err(TableDefect::Unreadable { table, phys });
        }
        done = done.saturating_add(part);
    }
    Ok(bytes)
}

fn va_at(bytes: &[u8], offset: usize) -> Va {
    Va(u64_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..][..8]);
    u64::from_le_bytes(field)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..][..4]);
    u32::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Firmware;
    use super::super::test_memory::{TestMemory, code_and_data, one_to_one};
    use super::*;

    fn laid_out() -> (Firmware, TestMemory) {
        let firmware = Firmware::lay_out(&code_and_data(), &[], |_| true).unwrap();
        let memory = TestMemory::with_firmware(&firmware);
        (firmware, memory)
    }

    #[test]
    fn firmwares_tables_verify() {
        let (firmware, memory) = laid_out();
        assert_eq!(verify_tables(&memory, firmware.system_table(), one_to_one), Ok(()));
    }

    #[test]
    fn every_flipped_bit_of_either_table_is_a_defect() {
        let (firmware, mut memory) = laid_out();
        for (table, bytes) in [
            (firmware.system_table(), size_of::<SystemTable>()),
            (firmware.runtime_services(), size_of::<RuntimeServices>()),
        ] {
            for phys in (table.0..).take(bytes) {
                for bit in 0..8 {
                    memory.flip(phys, 1 << bit);
                    assert!(
                        verify_tables(&memory, firmware.system_table(), one_to_one).is_err(),
                        "bit {bit} of {phys:#x}"
                    );
                    memory.flip(phys, 1 << bit);
                }
            }
        }
        assert_eq!(verify_tables(&memory, firmware.system_table(), one_to_one), Ok(()));
    }

    #[test]
    fn each_field_of_the_header_has_a_defect_of_its_own() {
        // UEFI 2.10, 4.2.1: Signature, Revision, HeaderSize, CRC32, Reserved.
        let table = Table::RuntimeServices;
        for (offset, is_named) in [
            (0, (|it| matches!(it, TableDefect::Signature { .. })) as fn(&TableDefect) -> bool),
            (8, |it| matches!(it, TableDefect::Revision { .. })),
            (12, |it| matches!(it, TableDefect::HeaderSize { expected: 136, found: 137, .. })),
            (16, |it| matches!(it, TableDefect::Crc32 { .. })),
            (20, |it| matches!(it, TableDefect::Reserved { found: 1, .. })),
        ] {
            let (firmware, mut memory) = laid_out();
            memory.flip(firmware.runtime_services().0 + offset, 1);
            let defect = verify_tables(&memory, firmware.system_table(), one_to_one).unwrap_err();
            assert!(is_named(&defect), "{offset}: {defect}");
            assert!(defect.to_string().starts_with(&table.to_string()), "{defect}");
        }
    }

    #[test]
    fn a_null_service_is_a_defect_even_under_a_right_crc() {
        let mut table = [0x5A; size_of::<RuntimeServices>()];
        table[64..72].fill(0);
        let service = Service::ConvertPointer;
        assert_eq!(verify_services(&table), Err(TableDefect::NullService { service }));
    }

    #[test]
    fn a_table_that_is_not_there_is_a_defect() {
        let (firmware, memory) = laid_out();
        let system_table = firmware.system_table();
        let address = firmware.runtime_services().one_to_one();
        let table = Table::RuntimeServices;
        assert_eq!(verify_tables(&memory, system_table, |_| None), Err(TableDefect::Unmapped { table, address }));
        assert_eq!(
            verify_tables(&memory, system_table, |_| Some(Pa(0))),
            Err(TableDefect::Unreadable { table, phys: Pa(0) })
        );
        let table = Table::System;
        assert!(verify_tables(&memory, Pa(u64::MAX), one_to_one).is_err());
        assert_eq!(verify_tables(&memory, Pa(0), one_to_one), Err(TableDefect::Unreadable { table, phys: Pa(0) }));
    }

    #[test]
    fn a_table_across_pages_is_read_by_its_virtual_addresses() {
        let (firmware, mut memory) = laid_out();
        let mut bytes = [0; size_of::<RuntimeServices>()];
        assert!(memory.read(firmware.runtime_services(), &mut bytes));
        let (head, tail) = bytes.split_at(8);
        memory.put(0x1FF8, head);
        memory.put(0x9000, tail);
        let translate = |Va(virt)| Some(Pa(if virt < 0x2000 { virt } else { virt - 0x2000 + 0x9000 }));
        assert_eq!(read(&memory, Table::RuntimeServices, Va(0x1FF8), translate), Ok(bytes));
    }

    proptest! {
        #[test]
        fn no_memory_panics_the_reader(
            at in 0u64..0x3000,
            garbage in proptest::collection::vec(any::<u8>(), 0..512),
            behind in proptest::option::of(any::<u64>()),
        ) {
            let mut memory = TestMemory::default();
            memory.put(0x1000, &garbage);
            prop_assert!(verify_tables(&memory, Pa(at), |_| behind.map(Pa)).is_err());
        }
    }
}
