//! The tables in firmware's data page: built, and converted to virtual addresses.

use core::mem::offset_of;

use efibed_stub::script::{MAGIC, State};
use efibed_stub::{RuntimeServices, STAMP_HEAD_BYTES, STAMP_TAIL_BYTES, Service, SystemTable};
use efibed_stub::{TableHeader, table};
use uefi_raw::Guid;
use uefi_raw::table::configuration::ConfigurationTable;

use super::PAGE_BYTES;
use super::configuration::{self, ESRT_BYTES, RSDP_BYTES, RT_PROPERTIES_BYTES};
use super::configuration::{SMBIOS_ENTRY_BYTES, SMBIOS_STRUCTURES_BYTES, XSDT_BYTES};
use super::script::SCRIPT_BYTES;
use crate::mmu::{Pa, Va};

/// Where in the data page the system table is: behind the stamp.
pub(super) const SYSTEM_TABLE: usize = STAMP_HEAD_BYTES;

/// The runtime-services table.
pub(super) const RUNTIME_SERVICES: usize = SYSTEM_TABLE + size_of::<SystemTable>();

/// FirmwareVendor.
const VENDOR: usize = RUNTIME_SERVICES + size_of::<RuntimeServices>();

/// The configuration tables (UEFI 2.10, 4.6): an array of EFI_CONFIGURATION_TABLE.
const CONFIGURATION_TABLES: usize = (VENDOR + VENDOR_NAME.len() * 2).next_multiple_of(8);

const ENTRY_BYTES: usize = size_of::<ConfigurationTable>();

/// Those that are always there. A fifth, the Memory Attributes Table, comes last.
const FIXED_TABLES: usize = 4;

/// The entry of the fifth.
const ATTRIBUTES_ENTRY: usize = CONFIGURATION_TABLES + FIXED_TABLES * ENTRY_BYTES;

const RSDP: usize = (ATTRIBUTES_ENTRY + ENTRY_BYTES).next_multiple_of(16);
const XSDT: usize = (RSDP + RSDP_BYTES).next_multiple_of(8);
const SMBIOS_ENTRY: usize = (XSDT + XSDT_BYTES).next_multiple_of(16);
const SMBIOS_STRUCTURES: usize = SMBIOS_ENTRY + SMBIOS_ENTRY_BYTES;
const RT_PROPERTIES_TABLE: usize = (SMBIOS_STRUCTURES + SMBIOS_STRUCTURES_BYTES).next_multiple_of(8);
const ESRT_TABLE: usize = RT_PROPERTIES_TABLE + RT_PROPERTIES_BYTES;

/// The stubs' own.
pub(super) const STATE: usize = (ESRT_TABLE + ESRT_BYTES).next_multiple_of(size_of::<State>());

/// What they are to do. It is in guest memory only.
pub(super) const SCRIPT: usize = STATE + size_of::<State>();

const _: () = assert!(SCRIPT + SCRIPT_BYTES <= PAGE_BYTES - STAMP_TAIL_BYTES);

/// In UTF-16, and null-terminated.
const VENDOR_NAME: [u16; 7] = [b'e' as u16, b'f' as u16, b'i' as u16, b'b' as u16, b'e' as u16, b'd' as u16, 0];

/// FirmwareRevision: the vendor's own business (UEFI 2.10, 4.3.1); 1.0, as EDK II writes it.
const FIRMWARE_REVISION: u32 = 1 << 16;

/// Whether SetVirtualAddressMap converts the service's pointer. The two it leaves are of no use any more, and EDK II
/// (MdeModulePkg/Core/RuntimeDxe/Runtime.c, RuntimeDriverSetVirtualAddressMap) leaves them.
pub(super) fn is_converted(service: Service) -> bool {
    !matches!(service, Service::SetVirtualAddressMap | Service::ConvertPointer)
}

/// Firmware's own view of its data page.
#[derive(Clone, Debug)]
pub(super) struct DataPage(Box<[u8; PAGE_BYTES]>);

impl DataPage {
    /// The page at this physical address, with tables that point at these stubs.
    pub fn new(phys: Pa, stub: impl Fn(Service) -> Pa) -> Self {
        let mut page = Self(Box::new([0; PAGE_BYTES]));
        page.put(VENDOR, 0, &VENDOR_NAME.map(u16::to_le_bytes).concat());
        page.put_u64(STATE, offset_of!(State, magic), MAGIC);
        page.put_runtime_services(stub);
        page.put_configuration(phys);
        page.put_system_table(phys);
        page
    }

    /// Adds the Memory Attributes Table at this physical address to the configuration tables.
    pub fn add_attributes_table(&mut self, phys: Pa) {
        const COUNT: u64 = FIXED_TABLES as u64 + 1;
        self.put_configuration_entry(ATTRIBUTES_ENTRY, configuration::MEMORY_ATTRIBUTES, phys);
        self.put_u64(SYSTEM_TABLE, offset_of!(SystemTable, number_of_table_entries), COUNT);
        self.seal(SYSTEM_TABLE, size_of::<SystemTable>());
    }

    pub fn bytes(&self) -> &[u8; PAGE_BYTES] {
        &self.0
    }

    /// The service's pointer.
    pub fn service(&self, service: Service) -> u64 {
        self.u64(RUNTIME_SERVICES, service.table_offset())
    }

    /// The runtime-services table.
    pub fn runtime_services(&self) -> &[u8] {
        &self.0[RUNTIME_SERVICES..][..size_of::<RuntimeServices>()]
    }

    /// The system table.
    pub fn system_table(&self) -> &[u8] {
        &self.0[SYSTEM_TABLE..][..size_of::<SystemTable>()]
    }

    /// This page with its pointers converted, or the first address that could not be.
    ///
    /// What is converted, and in which order, is EDK II's (see [`is_converted`]).
    pub fn converted(&self, convert: impl Fn(Pa) -> Option<Va>) -> Result<Self, Pa> {
        let convert = |address| convert(Pa(address)).map(|virt| virt.0).ok_or(Pa(address));
        let mut page = self.clone();
        for service in Service::ALL.into_iter().filter(|&it| is_converted(it)) {
            let field = service.table_offset();
            page.put_u64(RUNTIME_SERVICES, field, convert(page.u64(RUNTIME_SERVICES, field))?);
        }
        page.seal(RUNTIME_SERVICES, size_of::<RuntimeServices>());
        for field in [
            offset_of!(SystemTable, firmware_vendor),
            offset_of!(SystemTable, configuration_table),
            offset_of!(SystemTable, runtime_services),
        ] {
            page.put_u64(SYSTEM_TABLE, field, convert(page.u64(SYSTEM_TABLE, field))?);
        }
        page.seal(SYSTEM_TABLE, size_of::<SystemTable>());
        Ok(page)
    }

    fn put_runtime_services(&mut self, stub: impl Fn(Service) -> Pa) {
        for service in Service::ALL {
            self.put_u64(RUNTIME_SERVICES, service.table_offset(), stub(service).0);
        }
        let size = size_of::<RuntimeServices>();
        self.put_header(RUNTIME_SERVICES, RuntimeServices::SIGNATURE, size);
    }

    fn put_configuration(&mut self, phys: Pa) {
        let at = |offset: usize| phys.wrapping_add(offset as u64);
        self.put(RSDP, 0, &configuration::rsdp(at(XSDT)));
        self.put(XSDT, 0, &configuration::xsdt());
        self.put(SMBIOS_ENTRY, 0, &configuration::smbios_entry(at(SMBIOS_STRUCTURES)));
        self.put(SMBIOS_STRUCTURES, 0, &configuration::smbios_structures());
        self.put(RT_PROPERTIES_TABLE, 0, &configuration::rt_properties());
        self.put(ESRT_TABLE, 0, &configuration::esrt());
        let tables: [(Guid, usize); FIXED_TABLES] = [
            (configuration::ACPI_20, RSDP),
            (configuration::SMBIOS_3, SMBIOS_ENTRY),
            (configuration::RT_PROPERTIES, RT_PROPERTIES_TABLE),
            (configuration::ESRT, ESRT_TABLE),
        ];
        for (entry, (guid, offset)) in (CONFIGURATION_TABLES..).step_by(ENTRY_BYTES).zip(tables) {
            self.put_configuration_entry(entry, guid, at(offset));
        }
    }

    fn put_configuration_entry(&mut self, entry: usize, guid: Guid, phys: Pa) {
        self.put(entry, offset_of!(ConfigurationTable, vendor_guid), &guid.to_bytes());
        self.put_u64(entry, offset_of!(ConfigurationTable, vendor_table), phys.0);
    }

    /// The consoles and the boot services stay null: boot services have been exited (UEFI 2.10, 7.4.6).
    fn put_system_table(&mut self, phys: Pa) {
        let at = |offset: usize| phys.wrapping_add(offset as u64);
        self.put(SYSTEM_TABLE, offset_of!(SystemTable, firmware_revision), &FIRMWARE_REVISION.to_le_bytes());
        for (field, value) in [
            (offset_of!(SystemTable, firmware_vendor), at(VENDOR).0),
            (offset_of!(SystemTable, runtime_services), at(RUNTIME_SERVICES).0),
            (offset_of!(SystemTable, number_of_table_entries), FIXED_TABLES as u64),
            (offset_of!(SystemTable, configuration_table), at(CONFIGURATION_TABLES).0),
        ] {
            self.put_u64(SYSTEM_TABLE, field, value);
        }
        self.put_header(SYSTEM_TABLE, SystemTable::SIGNATURE, size_of::<SystemTable>());
    }

    /// The header of a table whose fields are all there.
    fn put_header(&mut self, table: usize, signature: u64, size: usize) {
        self.put_u64(table, offset_of!(TableHeader, signature), signature);
        self.put(table, offset_of!(TableHeader, revision), &table::REVISION.to_le_bytes());
        self.put(table, offset_of!(TableHeader, header_size), &(size as u32).to_le_bytes());
        self.seal(table, size);
    }

    /// Computes the CRC of a table anew, with the field itself zero (UEFI 2.10, 4.2.1).
    fn seal(&mut self, table: usize, size: usize) {
        let field = offset_of!(TableHeader, crc32);
        self.put(table, field, &[0; 4]);
        let crc = crc32fast::hash(&self.0[table..][..size]);
        self.put(table, field, &crc.to_le_bytes());
    }

    fn u64(&self, table: usize, field: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[table..][field..][..8]);
        u64::from_le_bytes(bytes)
    }

    fn put_u64(&mut self, table: usize, field: usize, value: u64) {
        self.put(table, field, &value.to_le_bytes());
    }

    fn put(&mut self, table: usize, field: usize, bytes: &[u8]) {
        self.0[table..][field..][..bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_is_efibed_in_utf_16() {
        let page = DataPage::new(Pa(0x1000), |_| Pa(0));
        let vendor = page.u64(SYSTEM_TABLE, offset_of!(SystemTable, firmware_vendor));
        let units: Vec<u16> = page.0[(vendor - 0x1000) as usize..]
            .chunks(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .take_while(|&unit| unit != 0)
            .collect();
        assert_eq!(String::from_utf16(&units).unwrap(), "efibed");
    }

    #[test]
    fn an_address_that_cannot_be_converted_is_named() {
        let page = DataPage::new(Pa(0x1000), |service| Pa(u64::from(service.number()) << 16));
        let no_variables = |phys: Pa| (phys != Pa(0x6_0000)).then_some(Va(phys.0));
        assert_eq!(page.converted(no_variables).unwrap_err(), Pa(0x6_0000));
    }
}
