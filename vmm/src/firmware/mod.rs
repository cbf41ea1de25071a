//! The fake firmware: what a map's RuntimeServicesCode and RuntimeServicesData regions hold, and who answers when the
//! guest calls it.
//!
//! [`Firmware::lay_out`] puts the stubs of `efibed-stub` into the first page of a RuntimeServicesCode region, and the
//! system table and the runtime-services table into the first page of a RuntimeServicesData region. Where firmware is
//! *not* is the memory map's business: a map without such regions gets no firmware, and [`NoFirmware`] says why.
//! A stub traps to the host, and [`Firmware::answer`] plays the service (the protocol: [`mod@efibed_stub::image`]).
//!
//! The room knows guest memory as [`GuestMemory`] and registers as [`StubCall`]; KVM is not its concern. To add a
//! service, see `services/`: one file for each section of the UEFI specification's chapter 8.

mod abi;
mod call;
mod placement;
mod ranges;
mod services;
#[cfg(test)]
mod stub_code;
mod tables;
#[cfg(test)]
mod test_memory;
mod verify;

use efibed_stub::Service;
use efibed_stub::image::{IMAGE_PAGE_OFFSET, entry_offset, image};
use uefi_raw::table::boot::{MemoryDescriptor, MemoryType};

pub use call::{Call, ForeignTrap, GuestMemory, StubCall};
pub use placement::{NoFirmware, RegionDefect};
pub use services::Refusal;
pub use services::virtual_memory::MAX_MAP_BYTES;
pub use verify::{Table, TableDefect, verify_tables};

use placement::Place;
use services::virtual_memory::KnownMap;
use tables::DataPage;

/// Bytes of a page, as an array's length.
const PAGE_BYTES: usize = efibed_stub::PAGE_BYTES;

/// The same as an address's unit.
const PAGE_SIZE: u64 = efibed_stub::PAGE_BYTES as u64;

/// Firmware as it lies in the guest's memory, in the state the guest's calls have brought it to.
///
/// It starts at runtime: ExitBootServices has been called, SetVirtualAddressMap has not (UEFI 2.10, 7.4.6 and 8.1).
#[derive(Clone, Debug)]
pub struct Firmware {
    code: Place,
    code_page: Box<[u8; PAGE_BYTES]>,
    data: Place,
    data_page: DataPage,
    map: KnownMap,
    /// Where SetVirtualAddressMap has put the two pages, once it has succeeded.
    virtual_mode: Option<VirtualMode>,
}

impl Firmware {
    /// Lays firmware out in the first usable region of each kind: RUNTIME, of at least one page, page-aligned,
    /// not wrapping, overlapping no other descriptor, and `usable` by the machine in the page that firmware takes.
    pub fn lay_out(map: &[MemoryDescriptor], usable: impl Fn(u64) -> bool) -> Result<Self, NoFirmware> {
        let finder = placement::Finder::new(map, &usable);
        let code = finder.find(MemoryType::RUNTIME_SERVICES_CODE)?;
        let data = finder.find(MemoryType::RUNTIME_SERVICES_DATA)?;
        Ok(Self {
            code,
            code_page: code_page(),
            data,
            data_page: DataPage::new(data.phys, |service| stub_address(code.phys, service)),
            map: KnownMap::new(map),
            virtual_mode: None,
        })
    }

    /// The pages to be put into guest memory: physical address, contents, index of the region's descriptor.
    ///
    /// The contents are as firmware last left them; the stamps' bytes are zero. What a stub itself stores (GetTime's
    /// copy of the time) is in guest memory only.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u8; PAGE_BYTES], usize)> {
        [
            (self.code.phys, &*self.code_page, self.code.region),
            (self.data.phys, self.data_page.bytes(), self.data.region),
        ]
        .into_iter()
    }

    /// Physical address of a service's stub.
    pub fn entry(&self, service: Service) -> u64 {
        stub_address(self.code.phys, service)
    }

    /// Virtual address of a service's stub, as the converted runtime-services table holds it.
    ///
    /// None before SetVirtualAddressMap has succeeded, and for the two services it does not convert: itself and
    /// ConvertPointer (as EDK II does).
    pub fn virtual_entry(&self, service: Service) -> Option<u64> {
        self.virtual_mode?;
        tables::is_converted(service).then(|| self.data_page.service(service))
    }

    /// Physical address of the system table.
    pub fn system_table(&self) -> u64 {
        self.data.phys + tables::SYSTEM_TABLE as u64
    }

    /// Physical address of the runtime-services table.
    pub fn runtime_services(&self) -> u64 {
        self.data.phys + tables::RUNTIME_SERVICES as u64
    }

    /// Whether SetVirtualAddressMap has succeeded.
    pub fn is_virtual(&self) -> bool {
        self.virtual_mode.is_some()
    }

    /// Answers a stub's trap: plays the service, leaves its results in `regs` and in `memory`, and says what happened.
    ///
    /// Afterwards rax and r8 to r11 are to be written back to the vCPU, and nothing else. A trap that is not a stub's
    /// changes nothing.
    ///
    /// Whatever the registers and the memory hold, the work is bounded: SetVirtualAddressMap takes a map of at most
    /// [`MAX_MAP_BYTES`].
    pub fn answer(&mut self, regs: &mut StubCall, memory: &mut dyn GuestMemory) -> Result<Call, ForeignTrap> {
        let mut call = Call::of(regs)?;
        if let Err(refusal) = services::play(self, call.service, regs, memory) {
            call.status = refusal.status();
            call.refusal = Some(refusal);
        }
        regs.rax = call.status.0 as u64;
        Ok(call)
    }

    /// Where firmware believes its own 16 bytes of clock data to be: virtual once SetVirtualAddressMap has succeeded.
    fn clock_data(&self) -> u64 {
        let physical = self.data.phys + tables::CLOCK_DATA as u64;
        self.virtual_mode.map_or(physical, |mode| mode.clock_data)
    }
}

/// What firmware must remember of the virtual map, besides what its tables hold.
#[derive(Clone, Copy, Debug)]
struct VirtualMode {
    clock_data: u64,
}

fn code_page() -> Box<[u8; PAGE_BYTES]> {
    let mut page = Box::new([0; PAGE_BYTES]);
    page[IMAGE_PAGE_OFFSET..][..image().len()].copy_from_slice(image());
    page
}

/// `page` is page-aligned, so the sum cannot overflow.
fn stub_address(page: u64, service: Service) -> u64 {
    page + (IMAGE_PAGE_OFFSET + entry_offset(service)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uefi_raw::Status;

    use super::test_memory::{TestMemory, code_and_data, trap};
    use super::*;

    fn laid_out() -> (Firmware, TestMemory) {
        let firmware = Firmware::lay_out(&code_and_data(), |_| true).unwrap();
        let memory = TestMemory::with_firmware(&firmware);
        (firmware, memory)
    }

    #[test]
    fn firmware_lies_in_the_first_page_of_each_region_and_leaves_the_stamps_alone() {
        let (firmware, _) = laid_out();
        let map = code_and_data();
        let pages: Vec<_> = firmware.pages().collect();
        for (phys, content, region) in &pages {
            assert_eq!(*phys, map[*region].phys_start);
            assert_eq!(content[..efibed_stub::STAMP_HEAD_BYTES], [0; 16]);
            assert_eq!(content[PAGE_BYTES - efibed_stub::STAMP_TAIL_BYTES..], [0; 16]);
        }
        let types: Vec<_> = pages.iter().map(|page| map[page.2].ty).collect();
        assert_eq!(types, [MemoryType::RUNTIME_SERVICES_CODE, MemoryType::RUNTIME_SERVICES_DATA]);
    }

    #[test]
    fn the_runtime_services_table_points_at_the_stubs() {
        let (firmware, memory) = laid_out();
        for service in Service::ALL {
            let pointer = firmware.runtime_services() + service.table_offset() as u64;
            assert_eq!(memory.u64(pointer), firmware.entry(service));
            assert_eq!(firmware.virtual_entry(service), None);
        }
    }

    #[test]
    fn a_service_that_is_not_there_yet_is_unsupported_and_recorded() {
        let (mut firmware, mut memory) = laid_out();
        let mut regs = trap(firmware.entry(Service::SetVariable));
        (regs.rcx, regs.rdx, regs.r8, regs.r9) = (1, 2, 3, 4);
        regs.rax = 0xDEAD_0000_0000 | u64::from(Service::SetVariable.number());
        regs.cr3 = 0x1000;
        let before = regs;

        let call = firmware.answer(&mut regs, &mut memory).unwrap();

        assert_eq!(call.service, Service::SetVariable);
        assert_eq!(call.args, [1, 2, 3, 4]);
        assert_eq!(call.cr3, 0x1000);
        assert_eq!(call.called_at(), firmware.entry(Service::SetVariable));
        assert_eq!(call.status, Status::UNSUPPORTED);
        assert_eq!(call.refusal, Some(Refusal::NotOffered));
        let rax = Status::UNSUPPORTED.0 as u64;
        assert_eq!(regs, StubCall { rax, ..before });
    }

    proptest! {
        #[test]
        fn no_registers_panic_the_host_or_make_it_work_without_limit(
            regs in any_regs(),
            garbage in proptest::collection::vec(any::<u8>(), 0..512),
        ) {
            let (mut firmware, mut memory) = laid_out();
            memory.put(MAP_AT, &garbage);
            let mut after = regs;
            let answered = firmware.answer(&mut after, &mut memory);

            prop_assert!(memory.reads() <= MAX_MAP_BYTES as usize / 40 + 1);
            match answered {
                Err(_) => prop_assert_eq!(after, regs),
                Ok(call) => prop_assert_eq!(after.rax, call.status.0 as u64),
            }
            let StubCall { rax, r8, r9, r10, r11, .. } = after;
            prop_assert_eq!(after, StubCall { rax, r8, r9, r10, r11, ..regs });
            if !firmware.is_virtual() {
                prop_assert_eq!(verify_tables(&memory, firmware.system_table(), Some), Ok(()));
            }
        }
    }

    const MAP_AT: u64 = 0x5000;

    /// Registers that get past the first check often enough to be worth trying.
    fn any_regs() -> impl Strategy<Value = StubCall> {
        let number = prop_oneof![0u64..16, Just(4), Just(4), any::<u64>()];
        let size = || prop_oneof![Just(48u64), 0u64..600, any::<u64>()];
        let pointer = prop_oneof![Just(MAP_AT), 0u64..0x10000, any::<u64>()];
        (number, size(), size(), 0u64..3, pointer, any::<[u64; 5]>(), 0u64..4).prop_map(
            |(rax, rcx, rdx, r8, r9, [r10, r11, rsp, rflags, rip], near)| StubCall {
                rip: (rip & !0xFFF) | ((16 + (rax & 15) * 16 + 4 + near) & 0xFFF),
                rax,
                rcx,
                rdx,
                r8,
                r9,
                r10,
                r11,
                rsp,
                rflags,
                cr3: 0,
            },
        )
    }
}
