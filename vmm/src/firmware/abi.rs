//! The guest's structures are written by hand (`efibed-stub` has no dependencies); here the compiler compares every
//! size, offset and number of them with `uefi-raw`'s.

use core::mem::offset_of;

use efibed_stub::memory::{attribute, memory_type};
use efibed_stub::{Service, table};
use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor, MemoryType};
use uefi_raw::table::runtime::RuntimeServices;
use uefi_raw::table::system::SystemTable;
use uefi_raw::table::{Header, Revision};

macro_rules! same_layout {
    ($ours:ty, $theirs:ty { $($our_field:ident: $their_field:ident),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$ours>() == size_of::<$theirs>());
            assert!(align_of::<$ours>() == align_of::<$theirs>());
            $(assert!(offset_of!($ours, $our_field) == offset_of!($theirs, $their_field));)+
        };
    };
}

same_layout!(
    efibed_stub::MemoryDescriptor,
    MemoryDescriptor {
        ty: ty,
        pad: padding,
        phys_start: phys_start,
        virt_start: virt_start,
        page_count: page_count,
        attribute: att,
    }
);

same_layout!(
    table::TableHeader,
    Header { signature: signature, revision: revision, header_size: size, crc32: crc, reserved: reserved }
);

same_layout!(
    table::SystemTable,
    SystemTable {
        header: header,
        firmware_vendor: firmware_vendor,
        firmware_revision: firmware_revision,
        console_in_handle: stdin_handle,
        con_in: stdin,
        console_out_handle: stdout_handle,
        con_out: stdout,
        standard_error_handle: stderr_handle,
        std_err: stderr,
        runtime_services: runtime_services,
        boot_services: boot_services,
        number_of_table_entries: number_of_configuration_table_entries,
        configuration_table: configuration_table,
    }
);

/// The table's fields, and the service's place in it by [`Service::table_offset`].
macro_rules! same_services {
    ($($field:ident: $service:ident),+ $(,)?) => {
        same_layout!(table::RuntimeServices, RuntimeServices { header: header, $($field: $field),+ });
        const _: () = {
            $(assert!(Service::$service.table_offset() == offset_of!(RuntimeServices, $field));)+
        };
    };
}

same_services! {
    get_time: GetTime,
    set_time: SetTime,
    get_wakeup_time: GetWakeupTime,
    set_wakeup_time: SetWakeupTime,
    set_virtual_address_map: SetVirtualAddressMap,
    convert_pointer: ConvertPointer,
    get_variable: GetVariable,
    get_next_variable_name: GetNextVariableName,
    set_variable: SetVariable,
    get_next_high_monotonic_count: GetNextHighMonotonicCount,
    reset_system: ResetSystem,
    update_capsule: UpdateCapsule,
    query_capsule_capabilities: QueryCapsuleCapabilities,
    query_variable_info: QueryVariableInfo,
}

const _: () = {
    assert!(efibed_stub::DESCRIPTOR_VERSION == MemoryDescriptor::VERSION);
    assert!(table::SystemTable::SIGNATURE == SystemTable::SIGNATURE);
    // uefi-raw does not have this one (UEFI 2.10, 4.5.1: EFI_RUNTIME_SERVICES_SIGNATURE).
    assert!(table::RuntimeServices::SIGNATURE == 0x5652_4553_544e_5552);
    assert!(table::REVISION == Revision::EFI_2_100.0);
};

macro_rules! same_numbers {
    ($($ours:expr => $theirs:expr),+ $(,)?) => { const _: () = { $(assert!($ours == $theirs);)+ }; };
}

same_numbers! {
    memory_type::RESERVED => MemoryType::RESERVED.0,
    memory_type::LOADER_CODE => MemoryType::LOADER_CODE.0,
    memory_type::LOADER_DATA => MemoryType::LOADER_DATA.0,
    memory_type::BOOT_SERVICES_CODE => MemoryType::BOOT_SERVICES_CODE.0,
    memory_type::BOOT_SERVICES_DATA => MemoryType::BOOT_SERVICES_DATA.0,
    memory_type::RUNTIME_SERVICES_CODE => MemoryType::RUNTIME_SERVICES_CODE.0,
    memory_type::RUNTIME_SERVICES_DATA => MemoryType::RUNTIME_SERVICES_DATA.0,
    memory_type::CONVENTIONAL => MemoryType::CONVENTIONAL.0,
    memory_type::UNUSABLE => MemoryType::UNUSABLE.0,
    memory_type::ACPI_RECLAIM => MemoryType::ACPI_RECLAIM.0,
    memory_type::ACPI_NVS => MemoryType::ACPI_NON_VOLATILE.0,
    memory_type::MEMORY_MAPPED_IO => MemoryType::MMIO.0,
    memory_type::MEMORY_MAPPED_IO_PORT_SPACE => MemoryType::MMIO_PORT_SPACE.0,
    memory_type::PAL_CODE => MemoryType::PAL_CODE.0,
    memory_type::PERSISTENT => MemoryType::PERSISTENT_MEMORY.0,
    memory_type::UNACCEPTED => MemoryType::UNACCEPTED.0,
    attribute::UC => MemoryAttribute::UNCACHEABLE.bits(),
    attribute::WC => MemoryAttribute::WRITE_COMBINE.bits(),
    attribute::WT => MemoryAttribute::WRITE_THROUGH.bits(),
    attribute::WB => MemoryAttribute::WRITE_BACK.bits(),
    attribute::UCE => MemoryAttribute::UNCACHABLE_EXPORTED.bits(),
    attribute::WP => MemoryAttribute::WRITE_PROTECT.bits(),
    attribute::RP => MemoryAttribute::READ_PROTECT.bits(),
    attribute::XP => MemoryAttribute::EXECUTE_PROTECT.bits(),
    attribute::NV => MemoryAttribute::NON_VOLATILE.bits(),
    attribute::MORE_RELIABLE => MemoryAttribute::MORE_RELIABLE.bits(),
    attribute::RO => MemoryAttribute::READ_ONLY.bits(),
    attribute::SP => MemoryAttribute::SPECIAL_PURPOSE.bits(),
    attribute::CPU_CRYPTO => MemoryAttribute::CPU_CRYPTO.bits(),
    attribute::RUNTIME => MemoryAttribute::RUNTIME.bits(),
}
