//! The tables through which a guest finds the services (UEFI 2.10, chapter 4), with guest addresses as plain numbers.

/// EFI_TABLE_HEADER (UEFI 2.10, 4.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TableHeader {
    /// Which table this is: [`SystemTable::SIGNATURE`] or [`RuntimeServices::SIGNATURE`].
    pub signature: u64,
    /// [`REVISION`].
    pub revision: u32,
    /// Bytes of the whole table, this header included.
    pub header_size: u32,
    /// CRC-32 over `header_size` bytes, computed with this field zero.
    pub crc32: u32,
    /// Zero.
    pub reserved: u32,
}

/// EFI_2_100_SYSTEM_TABLE_REVISION: the tables follow UEFI 2.10 (4.3.1).
pub const REVISION: u32 = (2 << 16) | 100;

/// EFI_SYSTEM_TABLE (UEFI 2.10, 4.3.1).
///
/// The consoles and the boot services are null: ExitBootServices has been called (7.4.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "the specification's fields; the three that matter here are documented")]
pub struct SystemTable {
    pub header: TableHeader,
    /// Address of a null-terminated UCS-2 string; SetVirtualAddressMap makes it virtual.
    pub firmware_vendor: u64,
    pub firmware_revision: u32,
    pub pad: u32,
    pub console_in_handle: u64,
    pub con_in: u64,
    pub console_out_handle: u64,
    pub con_out: u64,
    pub standard_error_handle: u64,
    pub std_err: u64,
    /// Address of the [`RuntimeServices`]; SetVirtualAddressMap makes it virtual.
    pub runtime_services: u64,
    pub boot_services: u64,
    pub number_of_table_entries: u64,
    /// Address of the configuration tables; SetVirtualAddressMap makes it virtual.
    pub configuration_table: u64,
}

impl SystemTable {
    /// "IBI SYST", little-endian (UEFI 2.10, 4.3.1).
    pub const SIGNATURE: u64 = u64::from_le_bytes(*b"IBI SYST");
}

/// EFI_RUNTIME_SERVICES (UEFI 2.10, 4.5.1): the address of each service.
///
/// SetVirtualAddressMap makes all of them virtual except its own and ConvertPointer's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "the services' own names")]
pub struct RuntimeServices {
    pub header: TableHeader,
    pub get_time: u64,
    pub set_time: u64,
    pub get_wakeup_time: u64,
    pub set_wakeup_time: u64,
    pub set_virtual_address_map: u64,
    pub convert_pointer: u64,
    pub get_variable: u64,
    pub get_next_variable_name: u64,
    pub set_variable: u64,
    pub get_next_high_monotonic_count: u64,
    pub reset_system: u64,
    pub update_capsule: u64,
    pub query_capsule_capabilities: u64,
    pub query_variable_info: u64,
}

impl RuntimeServices {
    /// "RUNTSERV", little-endian (UEFI 2.10, 4.5.1).
    pub const SIGNATURE: u64 = u64::from_le_bytes(*b"RUNTSERV");
}
