//! Virtual Memory Services (UEFI 2.10, 8.4).
//!
//! EDK II (MdeModulePkg/Core/RuntimeDxe/Runtime.c) is followed in what is converted and in which order. It never
//! returns EFI_NO_MAPPING and EFI_NOT_FOUND, but asserts, or goes wrong later; here the specification is followed.

use core::mem::offset_of;

use efibed_stub::memory::DESCRIPTOR_VERSION;
use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor};

use super::super::VirtualMode;
use super::super::ranges::{Range, Union};
use super::super::refusal::MAX_MAP_BYTES;
use super::super::tables::{RUNTIME_SERVICES, STATE, SYSTEM_TABLE};
use super::{Caller, Firmware, Refusal};
use crate::mmu::{Pa, Va};

/// The memory map firmware was laid out with, as far as SetVirtualAddressMap asks.
#[derive(Clone, Debug)]
pub(in super::super) struct KnownMap {
    /// All addresses the map speaks of, up to the top where a descriptor wraps: its defects are not for this service.
    described: Union,
    /// Its RUNTIME regions, with their descriptors' indices. Those that are empty or wrap cannot be owed a mapping.
    owed: Vec<(usize, Range)>,
}

impl KnownMap {
    pub fn new(map: &[MemoryDescriptor]) -> Self {
        let described = map.iter().filter_map(|it| Range::of_pages_clamped(Pa(it.phys_start), it.page_count));
        let runtime = map.iter().enumerate().filter(|(_, it)| it.att.contains(MemoryAttribute::RUNTIME));
        let owed =
            runtime.filter_map(|(region, it)| Some((region, Range::of_pages(Pa(it.phys_start), it.page_count)?)));
        Self { described: Union::new(described.collect()), owed: owed.collect() }
    }
}

/// SetVirtualAddressMap(MemoryMapSize, DescriptorSize, DescriptorVersion, *VirtualMap) (8.4.1).
///
/// After a refusal everything is as it was, and the guest may call again.
pub(super) fn set_virtual_address_map(firmware: &mut Firmware, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    if firmware.is_virtual() {
        return Err(Refusal::AlreadyVirtual);
    }
    let arguments = Arguments::check(caller.args())?;
    let map = VirtualMap::read(&arguments, caller, &firmware.map.described)?;
    map.check_owed(&firmware.map.owed)?;
    convert(firmware, &map, caller)
}

/// ConvertPointer(DebugDisposition, **Address) (8.4.2): for the handlers of EVT_SIGNAL_VIRTUAL_ADDRESS_CHANGE, which run
/// while SetVirtualAddressMap does. To an operating system it is not supported, and the RT properties table says so.
pub(super) fn convert_pointer() -> Result<(), Refusal> {
    Err(Refusal::NotNow)
}

/// The arguments, found to make sense.
struct Arguments {
    entries: u64,
    stride: u64,
    map: Va,
}

impl Arguments {
    fn check([bytes, stride, version, map]: [u64; 4]) -> Result<Self, Refusal> {
        let version = version as u32;
        if version != DESCRIPTOR_VERSION {
            return Err(Refusal::DescriptorVersion { version });
        }
        // 48 is what this firmware would report, but the guest may have made the map itself; U-Boot has 40.
        if stride < size_of::<MemoryDescriptor>() as u64 || !stride.is_multiple_of(8) {
            return Err(Refusal::DescriptorSize { bytes: stride });
        }
        // EDK II ignores a remainder. Here it is an error: one of the two sizes must be wrong.
        let entries = bytes.checked_div(stride).filter(|_| bytes <= MAX_MAP_BYTES && bytes.is_multiple_of(stride));
        Ok(Self { entries: entries.ok_or(Refusal::MapSize { bytes, stride })?, stride, map: Va(map) })
    }
}

/// What the guest's map says about RUNTIME memory, in its order.
struct VirtualMap(Vec<Mapped>);

/// A range of RUNTIME memory, and the virtual address of its first byte.
#[derive(Clone, Copy)]
struct Mapped {
    range: Range,
    virt: Va,
}

impl VirtualMap {
    /// Reads all entries; each that gives a virtual address must speak of described memory only.
    fn read(arguments: &Arguments, caller: &mut Caller<'_>, described: &Union) -> Result<Self, Refusal> {
        let mut map = Self(Vec::new());
        for entry in 0..arguments.entries {
            // At most MAX_MAP_BYTES, so only the addition can overflow.
            let at = arguments.map.wrapping_add(entry.wrapping_mul(arguments.stride));
            let descriptor = (at >= arguments.map)
                .then(|| read_descriptor(caller, at))
                .flatten()
                .ok_or(Refusal::MapUnreadable { entry, at })?;
            let (phys, pages) = (Pa(descriptor.phys_start), descriptor.page_count);
            let Some(range) = Range::of_pages_clamped(phys, pages) else {
                continue; // no pages
            };
            if !gives_address(&descriptor) {
                continue;
            }
            if !described.contains(range) {
                return Err(Refusal::NotFound { entry, phys, pages });
            }
            if descriptor.att.contains(MemoryAttribute::RUNTIME) {
                map.0.push(Mapped { range, virt: Va(descriptor.virt_start) });
            }
        }
        Ok(map)
    }

    /// All of each region that is owed must have a virtual address; adjacent entries may share a region.
    fn check_owed(&self, owed: &[(usize, Range)]) -> Result<(), Refusal> {
        let mapped = Union::new(self.0.iter().map(|mapped| mapped.range).collect());
        match owed.iter().find(|(_, range)| !mapped.contains(*range)) {
            None => Ok(()),
            Some(&(region, range)) => Err(Refusal::NoMapping { region, phys: range.first }),
        }
    }

    /// ConvertPointer's rule (8.4.2, and EDK II's): the first entry that has the address converts it.
    fn convert(&self, phys: Pa) -> Option<Va> {
        let mapped = self.0.iter().find(|mapped| mapped.range.contains(phys))?;
        Some(mapped.virt.wrapping_add(phys.wrapping_offset_from(mapped.range.first)))
    }
}

/// Whether the entry supplies a virtual address. VirtualStart zero means none, as all of a map's entries have it
/// before someone sets it, except for the region at physical zero, which an identity layout leaves there.
fn gives_address(descriptor: &MemoryDescriptor) -> bool {
    let is_identity_of_zero = descriptor.phys_start == 0 && descriptor.att.contains(MemoryAttribute::RUNTIME);
    descriptor.virt_start != 0 || is_identity_of_zero
}

fn read_descriptor(caller: &mut Caller<'_>, at: Va) -> Option<MemoryDescriptor> {
    let bytes: [u8; size_of::<MemoryDescriptor>()] = caller.array("VirtualMap", at).ok()?;
    let field = |offset: usize| {
        let mut field = [0; 8];
        field.copy_from_slice(&bytes[offset..][..8]);
        u64::from_le_bytes(field)
    };
    Some(MemoryDescriptor {
        phys_start: field(offset_of!(MemoryDescriptor, phys_start)),
        virt_start: field(offset_of!(MemoryDescriptor, virt_start)),
        page_count: field(offset_of!(MemoryDescriptor, page_count)),
        att: MemoryAttribute::from_bits_retain(field(offset_of!(MemoryDescriptor, att))),
        ..MemoryDescriptor::default() // the type does not matter here
    })
}

/// Converts firmware's pointers, in EDK II's order: the runtime-services table, the system table. Images come before them
/// there, except for the one that runs: that is the only one here, and its pointer to its data is converted when it returns.
/// It is the stub that writes all this, by physical addresses.
fn convert(firmware: &mut Firmware, map: &VirtualMap, caller: &mut Caller<'_>) -> Result<(), Refusal> {
    // Firmware's own two regions are owed, so this cannot fail; but a fake must not panic where a real one hangs.
    let lost = |phys| Refusal::NoMapping { region: firmware.data.region, phys };
    let data = firmware.data;
    let virtual_data = map.convert(data.phys).ok_or_else(|| lost(data.phys))?;
    let page = firmware.data_page.converted(|phys| map.convert(phys)).map_err(lost)?;

    caller.write_own(data.at(RUNTIME_SERVICES).one_to_one(), page.runtime_services());
    caller.write_own(data.at(SYSTEM_TABLE).one_to_one(), page.system_table());
    firmware.data_page = page;
    firmware.virtual_mode = Some(VirtualMode { data: virtual_data });
    firmware.moved = Some(virtual_data.wrapping_add(STATE as u64));
    Ok(())
}

#[cfg(test)]
mod tests {
    use efibed_stub::image::{IMAGE_PAGE_OFFSET, POINTER_OFFSET};
    use efibed_stub::{DESCRIPTOR_STRIDE, Service};
    use proptest::prelude::*;
    use uefi_raw::Status;
    use uefi_raw::table::boot::MemoryType;

    use super::super::super::test_memory::{Bed, Played, WINDOW, by_window, code_and_data, descriptor, one_to_one};
    use super::super::super::test_memory::{run_script, trap};
    use super::super::super::{Call, ForeignTrap, LostState, StubCall, verify_tables};
    use super::*;

    const MAP_AT: u64 = 0x5_0000;
    const STRIDE: u64 = DESCRIPTOR_STRIDE as u64;

    impl Bed {
        fn call_with(&mut self, map: &[MemoryDescriptor], stride: u64) -> Call {
            let bytes = encode(map, stride);
            self.memory.put(MAP_AT, &bytes);
            self.call_raw(bytes.len() as u64, stride, 1, MAP_AT)
        }

        fn call_raw(&mut self, bytes: u64, stride: u64, version: u64, at: u64) -> Call {
            let status = self.call(Service::SetVirtualAddressMap, &[bytes, stride, version, at]);
            if status != Status::SUCCESS && !self.firmware.is_virtual() {
                let tables = self.firmware.system_table();
                assert_eq!(verify_tables(&self.memory, tables, one_to_one), Ok(()));
            }
            self.last().clone()
        }
    }

    fn encode(map: &[MemoryDescriptor], stride: u64) -> Vec<u8> {
        let mut bytes = vec![0xA5; map.len() * stride as usize];
        for (descriptor, entry) in map.iter().zip(bytes.chunks_mut(stride as usize)) {
            entry[0..4].copy_from_slice(&descriptor.ty.0.to_le_bytes());
            entry[8..16].copy_from_slice(&descriptor.phys_start.to_le_bytes());
            entry[16..24].copy_from_slice(&descriptor.virt_start.to_le_bytes());
            entry[24..32].copy_from_slice(&descriptor.page_count.to_le_bytes());
            entry[32..40].copy_from_slice(&descriptor.att.bits().to_le_bytes());
        }
        bytes
    }

    fn in_window(mut map: Vec<MemoryDescriptor>) -> Vec<MemoryDescriptor> {
        for descriptor in &mut map {
            if descriptor.att.contains(MemoryAttribute::RUNTIME) {
                descriptor.virt_start = WINDOW.wrapping_add(descriptor.phys_start);
            }
        }
        map
    }

    #[test]
    fn success_makes_all_pointers_virtual_but_two_and_the_tables_verify() {
        let mut bed = Bed::over(&code_and_data());
        let call = bed.call_with(&in_window(code_and_data()), STRIDE);
        assert_eq!((call.status, call.refusal), (Status::SUCCESS, None));

        let Bed { firmware, memory, .. } = &bed;
        for service in Service::ALL {
            let physical = firmware.entry(service);
            let is_kept = matches!(service, Service::SetVirtualAddressMap | Service::ConvertPointer);
            let expected = (!is_kept).then_some(Va(WINDOW + physical.0));
            let pointer = firmware.runtime_services().wrapping_add(service.table_offset() as u64);
            assert_eq!(firmware.virtual_entry(service), expected);
            assert_eq!(memory.u64(pointer.0), expected.unwrap_or(physical.one_to_one()).0);
        }
        let tables = firmware.system_table();
        // FirmwareVendor, RuntimeServices, ConfigurationTable: UEFI 2.10, 4.3.1
        for offset in [24, 88, 112] {
            let pointer = memory.u64(tables.0 + offset);
            assert_eq!(pointer & !0xFFF, WINDOW + 0x7C00_0000, "{offset}");
        }
        assert_eq!(verify_tables(memory, tables, by_window), Ok(()));
        assert!(verify_tables(memory, tables, one_to_one).is_err());
    }

    /// The stub's own pointer, by which it finds its script and its state, is the last that is converted.
    #[test]
    fn the_calls_own_script_is_physical_and_the_next_ones_is_virtual() {
        let mut bed = Bed::over(&code_and_data());
        let bytes = encode(&in_window(code_and_data()), STRIDE);
        bed.memory.put(MAP_AT, &bytes);
        let [rcx, rdx, r8, r9] = [bytes.len() as u64, STRIDE, 1, MAP_AT];
        let regs = StubCall { rcx, rdx, r8, r9, ..trap(bed.firmware.entry(Service::SetVirtualAddressMap).0) };
        bed.firmware.answer(&regs, &mut bed.memory).unwrap();
        let pointer_at = 0x80_0000 + (IMAGE_PAGE_OFFSET + POINTER_OFFSET) as u64;
        assert_eq!(bed.memory.u64(pointer_at) & !0xFFF, 0x7C00_0000);
        assert_eq!(run_script(&mut bed.memory, regs.rip), Played::Returned(Status::SUCCESS));
        assert_eq!(bed.memory.u64(pointer_at) & !0xFFF, WINDOW + 0x7C00_0000);

        let entry = bed.firmware.virtual_entry(Service::GetTime).unwrap();
        let regs = StubCall { rcx: MAP_AT, ..trap(entry.0) };
        bed.memory.map(WINDOW + 0x7C00_0000, None);
        let call = bed.firmware.answer(&regs, &mut bed.memory).unwrap().call().unwrap();
        assert_eq!((call.status, call.called_at()), (Status::SUCCESS, entry));
        assert_eq!(run_script(&mut bed.memory, regs.rip), Played::Faulted(bed.memory.u64(pointer_at)));
        bed.memory.map(WINDOW + 0x7C00_0000, Some(0x7C00_0000));
        assert_eq!(run_script(&mut bed.memory, regs.rip), Played::Returned(Status::SUCCESS));
    }

    /// A page with the same contents answers, but what is written to it is not firmware's state.
    #[test]
    fn a_wrong_frame_for_firmwares_data_is_noticed_by_the_call_after_it() {
        let mut bed = Bed::over(&code_and_data());
        let map = in_window(code_and_data());
        assert_eq!(bed.call_with(&map, STRIDE).status, Status::SUCCESS);
        assert_eq!(bed.call(Service::ConvertPointer, &[0, MAP_AT]), Status::UNSUPPORTED);
        let page: [u8; 4096] = bed.array(0x7C00_0000);
        bed.memory.put(0x9_0000, &page);
        bed.memory.map(WINDOW + 0x7C00_0000, Some(0x9_0000));
        assert_eq!(bed.call(Service::ConvertPointer, &[0, MAP_AT]), Status::UNSUPPORTED);
        assert_eq!(bed.last().lost_state, None);
        bed.memory.map(WINDOW + 0x7C00_0000, Some(0x7C00_0000));
        assert_eq!(bed.call(Service::ConvertPointer, &[0, MAP_AT]), Status::UNSUPPORTED);
        assert_eq!(bed.last().lost_state, Some(LostState { expected: 3, found: 2 }));
    }

    #[test]
    fn convert_pointer_is_not_for_operating_systems() {
        let mut bed = Bed::over(&code_and_data());
        for _ in 0..2 {
            assert_eq!(bed.call(Service::ConvertPointer, &[0, MAP_AT]), Status::UNSUPPORTED);
            assert_eq!(bed.refusal(), Some(Refusal::NotNow));
            bed.call_with(&in_window(code_and_data()), STRIDE);
        }
    }

    #[test]
    fn any_stride_that_holds_a_descriptor_is_followed() {
        for stride in [40, 48, 56, 4096] {
            let mut bed = Bed::over(&code_and_data());
            let call = bed.call_with(&in_window(code_and_data()), stride);
            assert_eq!(call.status, Status::SUCCESS, "{stride}");
        }
    }

    #[test]
    fn a_second_call_is_unsupported_and_changes_nothing() {
        let mut bed = Bed::over(&code_and_data());
        let map = in_window(code_and_data());
        assert_eq!(bed.call_with(&map, STRIDE).status, Status::SUCCESS);
        let entry = bed.firmware.virtual_entry(Service::GetTime);
        let call = bed.call_with(&map, STRIDE);
        assert_eq!(call.status, Status::UNSUPPORTED);
        assert_eq!(call.refusal, Some(Refusal::AlreadyVirtual));
        assert_eq!(bed.firmware.virtual_entry(Service::GetTime), entry);
    }

    #[test]
    fn a_wrong_version_or_size_is_an_invalid_parameter() {
        let mut bed = Bed::over(&code_and_data());
        bed.memory.put(MAP_AT, &encode(&in_window(code_and_data()), STRIDE));
        let over = MAX_MAP_BYTES + STRIDE - MAX_MAP_BYTES % STRIDE;
        for (bytes, stride, version, at) in [
            (4 * STRIDE, STRIDE, 0, MAP_AT),
            (4 * STRIDE, STRIDE, 2, MAP_AT),
            (0, 0, 1, MAP_AT),
            (0, 8, 1, MAP_AT),
            (4 * 39, 39, 1, MAP_AT),
            (4 * 44, 44, 1, MAP_AT),
            (4 * STRIDE + 1, STRIDE, 1, MAP_AT),
            (4 * STRIDE, u64::MAX - 7, 1, MAP_AT),
            (over, STRIDE, 1, MAP_AT),
            (u64::MAX, STRIDE, 1, MAP_AT),
            (4 * STRIDE, STRIDE, 1, 0),
            (4 * STRIDE, STRIDE, 1, u64::MAX - 47),
            (4 * STRIDE, STRIDE, 1, u64::MAX),
        ] {
            let status = bed.call_raw(bytes, stride, version, at).status;
            assert_eq!(status, Status::INVALID_PARAMETER, "{bytes:#x} {stride:#x} {version} {at:#x}");
        }
        // A UINT32: what is above has no meaning (UEFI 2.10, 2.3.4.2 refers to Microsoft's x64 convention).
        let version = 0xDEAD_0000_0001;
        let status = bed.call_raw(4 * STRIDE, STRIDE, version, MAP_AT).status;
        assert_eq!(status, Status::SUCCESS);
    }

    #[test]
    fn a_runtime_region_without_an_address_is_no_mapping() {
        let good = in_window(code_and_data());
        for region in 1..good.len() {
            let mut missing = good.clone();
            missing.remove(region);
            let mut zero = good.clone();
            zero[region].virt_start = 0;
            let mut short = good.clone();
            short[region].page_count -= 1;
            let mut not_runtime = good.clone();
            not_runtime[region].att = MemoryAttribute::WRITE_BACK;
            for map in [missing, zero, short, not_runtime] {
                let call = Bed::over(&code_and_data()).call_with(&map, STRIDE);
                let phys = Pa(good[region].phys_start);
                assert_eq!(call.status, Status::NO_MAPPING);
                assert_eq!(call.refusal, Some(Refusal::NoMapping { region, phys }));
            }
        }
        let status = Bed::over(&code_and_data()).call_with(&[], STRIDE).status;
        assert_eq!(status, Status::NO_MAPPING);
    }

    #[test]
    fn an_address_for_memory_outside_the_map_is_not_found() {
        let good = in_window(code_and_data());
        let outside = MemoryDescriptor { virt_start: WINDOW, ..descriptor(MemoryType::MMIO, 0x2_0000_0000, 1) };
        let mut not_runtime = outside;
        not_runtime.att = MemoryAttribute::empty();
        let mut wraps = good[1];
        wraps.page_count = u64::MAX;
        let mut long = good[1];
        long.page_count += 1;
        for bad in [outside, not_runtime, wraps, long] {
            let map = [&good[..], &[bad]].concat();
            let call = Bed::over(&code_and_data()).call_with(&map, STRIDE);
            assert_eq!(call.status, Status::NOT_FOUND);
            assert!(matches!(call.refusal, Some(Refusal::NotFound { entry: 4, .. })));
        }
        let mut unset = outside;
        unset.virt_start = 0;
        let map = [&good[..], &[unset]].concat();
        let status = Bed::over(&code_and_data()).call_with(&map, STRIDE).status;
        assert_eq!(status, Status::SUCCESS);
    }

    #[test]
    fn a_descriptor_that_wraps_is_in_the_map_and_is_not_owed() {
        let mut map = code_and_data();
        map.push(descriptor(MemoryType::MMIO, 0u64.wrapping_sub(0x1000), 2));
        for given in [in_window(map.clone()), in_window(code_and_data())] {
            let status = Bed::over(&map).call_with(&given, STRIDE).status;
            assert_eq!(status, Status::SUCCESS);
        }
    }

    #[test]
    fn after_a_refusal_the_guest_may_call_again() {
        let mut bed = Bed::over(&code_and_data());
        assert_eq!(bed.call_with(&[], STRIDE).status, Status::NO_MAPPING);
        assert!(!bed.firmware.is_virtual());
        assert_eq!(bed.call_with(&in_window(code_and_data()), STRIDE).status, Status::SUCCESS);
    }

    #[test]
    fn entries_may_be_merged_or_split_and_the_first_converts() {
        let mut map = code_and_data();
        let next = map[1].phys_start + map[1].page_count * 4096;
        map.push(descriptor(MemoryType::RUNTIME_SERVICES_CODE, next, 2));
        let mut given = in_window(map.clone());
        given[1].page_count += given.pop().unwrap().page_count; // as Linux merges neighbours
        let mut tail = given[2]; // and a split one
        tail.phys_start += 4096;
        tail.virt_start += 0x100_0000;
        tail.page_count = 1;
        given[2].page_count = 1;
        given.push(tail);
        given.push(MemoryDescriptor { virt_start: 0x1000, ..given[2] }); // an alias, too late
        let mut bed = Bed::over(&map);
        assert_eq!(bed.call_with(&given, STRIDE).status, Status::SUCCESS);
        let tables = bed.firmware.system_table();
        assert_eq!(verify_tables(&bed.memory, tables, by_window), Ok(()));
    }

    #[test]
    fn identity_works_for_a_region_at_zero() {
        let mut map = vec![
            descriptor(MemoryType::RUNTIME_SERVICES_CODE, 0, 1),
            descriptor(MemoryType::RUNTIME_SERVICES_DATA, 0x1000, 1),
        ];
        let mut bed = Bed::over(&map);
        for descriptor in &mut map {
            descriptor.virt_start = descriptor.phys_start;
        }
        assert_eq!(bed.call_with(&map, STRIDE).status, Status::SUCCESS);
        let entry = bed.firmware.virtual_entry(Service::GetTime);
        assert_eq!(entry, Some(bed.firmware.entry(Service::GetTime).one_to_one()));
    }

    #[test]
    fn firmware_whose_pages_are_not_in_memory_says_so() {
        let mut bed = Bed::over(&code_and_data());
        let bytes = encode(&in_window(code_and_data()), STRIDE);
        bed.memory.put(MAP_AT, &bytes);
        bed.memory.take(0x7C00_0000);
        let [rcx, rdx, r8, r9] = [bytes.len() as u64, STRIDE, 1, MAP_AT];
        let regs = StubCall { rcx, rdx, r8, r9, ..trap(bed.firmware.entry(Service::SetVirtualAddressMap).0) };
        let answer = bed.firmware.answer(&regs, &mut bed.memory);
        assert!(matches!(answer, Err(ForeignTrap::NoData { .. })), "{answer:?}");
    }

    proptest! {
        #[test]
        fn no_map_panics_the_host(
            entries in proptest::collection::vec(any_descriptor(), 0..12),
            offset in 0u64..5000,
        ) {
            let mut map = in_window(code_and_data());
            map.extend(entries);
            let mut bed = Bed::over(&code_and_data());
            let bytes = encode(&map, STRIDE);
            bed.memory.put(MAP_AT + offset, &bytes);
            let call = bed.call_raw(bytes.len() as u64, STRIDE, 1, MAP_AT + offset);
            prop_assert_eq!(call.status == Status::SUCCESS, call.refusal.is_none());
            prop_assert_eq!(call.status == Status::SUCCESS, bed.firmware.is_virtual());
        }

        #[test]
        fn no_memory_map_panics_lay_out(
            map in proptest::collection::vec(any_descriptor(), 0..12),
            limit in any::<u64>(),
        ) {
            if let Ok(firmware) = Firmware::lay_out(&map, &[], |phys| phys < Pa(limit)) {
                for (phys, _, region) in firmware.pages() {
                    prop_assert_eq!(Pa(map[region].phys_start), phys);
                }
                let memory = super::super::super::test_memory::TestMemory::with_firmware(&firmware);
                prop_assert_eq!(verify_tables(&memory, firmware.system_table(), one_to_one), Ok(()));
            }
        }
    }

    fn any_descriptor() -> impl Strategy<Value = MemoryDescriptor> {
        let address =
            || prop_oneof![(0u64..0x1000).prop_map(|page| page << 12), Just(0u64.wrapping_sub(0x1000)), any::<u64>()];
        let pages = prop_oneof![0u64..4, any::<u64>()];
        (4u32..8, address(), address(), pages, any::<bool>()).prop_map(
            |(ty, phys_start, virt_start, page_count, is_runtime)| MemoryDescriptor {
                ty: MemoryType(ty),
                padding: 0,
                phys_start,
                virt_start,
                page_count,
                att: if is_runtime { MemoryAttribute::RUNTIME } else { MemoryAttribute::empty() },
            },
        )
    }
}
