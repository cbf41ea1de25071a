//! The fake firmware: what a map's RuntimeServicesCode and RuntimeServicesData regions hold, and who answers when the
//! guest calls it.
//!
//! [`Firmware::lay_out`] puts the stubs of `efibed-stub` into a page of a RuntimeServicesCode region, and the system table
//! and the runtime-services table into a page of a RuntimeServicesData region: the first pages that firmware's own Memory
//! Attributes Table leaves executable, and writable. Where firmware is *not* is the memory map's business: a map without such regions gets no firmware, and [`NoFirmware`] says why.
//! A stub traps to the host, and [`Firmware::answer`] plays the service (the protocol: [`mod@efibed_stub::image`]). The
//! service sees its arguments and the caller's memory through the caller's own tables (`caller.rs`); what it touches there
//! becomes a script, and the stub touches it again in the guest (`script.rs`). How the call was made, apart from what was
//! asked, is looked at in `conduct.rs`.
//!
//! The room knows guest memory as [`GuestMemory`] and registers as [`StubCall`]; KVM is not its concern. To add a
//! service, see `services/`: one file for each section of the UEFI specification's chapter 8.

mod abi;
mod breach;
mod call;
mod caller;
mod conduct;
mod configuration;
#[cfg(test)]
mod fuzz;
mod guest;
mod misbehaviour;
mod placement;
mod ranges;
mod refusal;
mod script;
mod services;
#[cfg(test)]
mod stub_code;
mod tables;
#[cfg(test)]
mod test_memory;
mod verify;

use core::mem::offset_of;

use efibed_stub::image::{IMAGE_PAGE_OFFSET, POINTER_OFFSET, entry_offset, image};
use efibed_stub::script::State;
use efibed_stub::{DESCRIPTOR_STRIDE, Service};
use uefi_raw::table::boot::{MemoryDescriptor, MemoryType};

pub use breach::{Breach, BreachKind};
pub use call::{Answer, Call, ForeignTrap, LostState};
pub(crate) use configuration::CAPSULE_CLASS;
pub use guest::{GuestMemory, StubCall};
pub use misbehaviour::{
    Deed, Misbehaviour, Misdeed, ServiceMisbehaviour, ServiceMisbehaviourError, WildAccess, lying_attributes_table,
};
pub use placement::{NoFirmware, RegionDefect};
pub use refusal::{MAX_MAP_BYTES, Refusal};
pub(crate) use services::variable_store::VENDOR;
pub use verify::{Table, TableDefect, verify_tables};

use crate::mmu::{Pa, Va};

use caller::Caller;
use misbehaviour::Haunts;
use placement::Place;
use script::Pending;
use services::variable_store::VariableStore;
use services::virtual_memory::KnownMap;
use services::{Clock, Counters};
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
    /// Bytes from one descriptor of the map to the next.
    stride: usize,
    /// What SetVirtualAddressMap has left, once it has succeeded.
    virtual_mode: Option<VirtualMode>,
    variables: VariableStore,
    clock: Clock,
    counters: Counters,
    /// What the stub that was called last has yet to do.
    pending: Option<Pending>,
    /// The tables that calls are to be made on.
    expected_root: Option<Pa>,
    /// Scripts that its stubs have been given.
    scripts: u64,
    /// Where the stubs' pointer is to lead once SetVirtualAddressMap, which is being played, returns.
    moved: Option<Va>,
    /// What it does that it must not.
    misbehaviours: Vec<ServiceMisbehaviour>,
    haunts: Haunts,
}

impl Firmware {
    /// Lays firmware out in the first usable region of each kind: RUNTIME, of at least one page, page-aligned,
    /// not wrapping, overlapping no other descriptor, and `usable` by the machine in the page that firmware takes.
    ///
    /// `attributes` are the entries of the Memory Attributes Table that a kernel takes. The page is the first one that they
    /// leave executable, or writable; if there is none, the first one of all, and callers of firmware find out.
    pub fn lay_out(
        map: &[MemoryDescriptor],
        attributes: &[MemoryDescriptor],
        usable: impl Fn(Pa) -> bool,
    ) -> Result<Self, NoFirmware> {
        let finder = placement::Finder::new(map, attributes, &usable);
        let code = finder.find(MemoryType::RUNTIME_SERVICES_CODE)?;
        let data = finder.find(MemoryType::RUNTIME_SERVICES_DATA)?;
        Ok(Self {
            code,
            code_page: code_page(data.at(tables::STATE)),
            data,
            data_page: DataPage::new(data.phys, |service| stub_address(code, service)),
            map: KnownMap::new(map),
            stride: DESCRIPTOR_STRIDE,
            virtual_mode: None,
            variables: VariableStore::default(),
            clock: Clock::default(),
            counters: Counters::default(),
            pending: None,
            expected_root: None,
            scripts: 0,
            moved: None,
            misbehaviours: Vec::new(),
            haunts: Haunts::find(map, data, &usable),
        })
    }

    /// Has firmware report its memory map with this DescriptorSize.
    pub fn report_stride(&mut self, bytes: usize) {
        self.stride = bytes;
    }

    /// Has the configuration tables name a Memory Attributes Table at this physical address. Before the pages are put into
    /// guest memory.
    pub fn name_attributes_table(&mut self, phys: Pa) {
        self.data_page.add_attributes_table(phys);
    }

    /// Says on which tables the next calls are to be made: others are a [`Breach`].
    pub fn expect_root(&mut self, root: Pa) {
        self.expected_root = Some(root);
    }

    /// Has firmware do what it must not.
    pub fn misbehave(&mut self, misbehaviours: &[ServiceMisbehaviour]) {
        self.misbehaviours = misbehaviours.to_vec();
    }

    /// Whether the scenario has its Memory Attributes Table lie.
    pub fn has_lying_table(&self) -> bool {
        self.misbehaviours.iter().any(|misbehaviour| misbehaviour.what == Misbehaviour::AttributesTable)
    }

    /// Why firmware cannot do this here, for any caller.
    pub fn obstacle(&self, misbehaviour: ServiceMisbehaviour) -> Option<&'static str> {
        misbehaviour::misdeed(self, misbehaviour, &StubCall::default()).err()
    }

    /// What firmware, as it is now, does that it must not when this service is called.
    pub fn misbehaviours_of(&self, service: Service) -> impl Iterator<Item = ServiceMisbehaviour> {
        let of_it = self.misbehaviours.iter().filter(move |misbehaviour| misbehaviour.service == service);
        of_it.filter(|misbehaviour| misbehaviour::is_due(misbehaviour.service, self.is_virtual())).copied()
    }

    /// The pages to be put into guest memory: physical address, contents, index of the region's descriptor.
    ///
    /// The contents are as firmware last left them; the stamps' bytes are zero. The stubs' scripts are in guest memory
    /// only.
    pub fn pages(&self) -> impl Iterator<Item = (Pa, &[u8; PAGE_BYTES], usize)> {
        [
            (self.code.phys, &*self.code_page, self.code.region),
            (self.data.phys, self.data_page.bytes(), self.data.region),
        ]
        .into_iter()
    }

    /// Physical address of a service's stub.
    pub fn entry(&self, service: Service) -> Pa {
        stub_address(self.code, service)
    }

    /// Virtual address of a service's stub, as the converted runtime-services table holds it.
    ///
    /// None before SetVirtualAddressMap has succeeded, and for the two services it does not convert: itself and
    /// ConvertPointer (as EDK II does).
    pub fn virtual_entry(&self, service: Service) -> Option<Va> {
        self.virtual_mode?;
        tables::is_converted(service).then(|| Va(self.data_page.service(service)))
    }

    /// Physical address of the system table.
    pub fn system_table(&self) -> Pa {
        self.data.at(tables::SYSTEM_TABLE)
    }

    /// Physical address of the runtime-services table.
    pub fn runtime_services(&self) -> Pa {
        self.data.at(tables::RUNTIME_SERVICES)
    }

    /// Whether SetVirtualAddressMap has succeeded.
    pub fn is_virtual(&self) -> bool {
        self.virtual_mode.is_some()
    }

    /// Answers a stub's trap: plays the service, gives the stub its script, and says what happened. A trap that is not a
    /// stub's changes nothing.
    ///
    /// Whatever the registers and the memory hold, the work is bounded: names, data, capsules and scripts have limits, and
    /// SetVirtualAddressMap takes a map of at most [`MAX_MAP_BYTES`].
    pub fn answer(&mut self, regs: &StubCall, memory: &mut dyn GuestMemory) -> Result<Answer, ForeignTrap> {
        if call::is_resumption(regs) {
            self.hand_over_script(Va(regs.rip), memory)?;
            return Ok(Answer::Resumed);
        }
        let mut call = Call::of(regs)?;
        call.breaches = conduct::breaches(self, &call, regs);
        call.lost_state = self.lost_state(memory);
        let guilt: Vec<_> = self.misbehaviours_of(call.service).collect();
        // Before the service runs: new addresses are not for use until SetVirtualAddressMap has returned.
        let script_at = self.script();
        let mut accesses = Vec::new();
        if !guilt.iter().any(|guilt| guilt.what == Misbehaviour::Errors) {
            let mut caller = Caller::new(regs, memory);
            let played = services::play(self, call.service, &mut caller);
            accesses = caller.into_accesses();
            match played {
                Ok(None) => {}
                Ok(Some(reset)) => {
                    self.pending = None;
                    return Ok(Answer::Reset(call, reset));
                }
                Err(refusal) => {
                    if matches!(refusal, Refusal::Unreachable { .. }) {
                        accesses.clear(); // The stub would fault, half-way through.
                    }
                    call.status = refusal.status();
                    call.refusal = Some(refusal);
                }
            }
        }
        // What cannot be done is left out; the report says that it was not done.
        for mut misdeed in guilt.into_iter().filter_map(|asked| misbehaviour::misdeed(self, asked, regs).ok()) {
            if let Deed::Answer(status) = misdeed.deed {
                call.status = status;
            }
            misdeed.look(memory, regs.cr3);
            misdeed.join(&mut accesses, call.status);
            call.misdeeds.push(misdeed);
        }
        self.pending = Some(Pending::new(accesses, call.status, script_at, self.moved.take()));
        self.hand_over_script(Va(regs.rip), memory)?;
        Ok(Answer::Called(call))
    }

    /// Gives the stub that trapped the next part of what it has to do.
    fn hand_over_script(&mut self, rip: Va, memory: &mut dyn GuestMemory) -> Result<(), ForeignTrap> {
        let pending = self.pending.as_mut().ok_or(ForeignTrap::NothingToResume { rip })?;
        let (script, is_last) = pending.next_script(call::image_at(rip));
        if is_last {
            self.pending = None;
        }
        let phys = self.data.at(tables::SCRIPT);
        if !memory.write(phys, &script) {
            return Err(ForeignTrap::NoData { phys });
        }
        self.scripts = self.scripts.wrapping_add(1);
        Ok(())
    }

    /// Whether the stubs' count, which is in their data, is that of the scripts so far.
    fn lost_state(&self, memory: &dyn GuestMemory) -> Option<LostState> {
        const SCRIPTS: usize = tables::STATE + offset_of!(State, scripts);
        let mut count = [0; 8];
        // What is not in memory counts nothing.
        let _ = memory.read(self.data.at(SCRIPTS), &mut count);
        let (expected, found) = (self.scripts, u64::from_le_bytes(count));
        (found != expected).then_some(LostState { expected, found })
    }

    /// Where firmware's code believes its scripts to be: virtual once SetVirtualAddressMap has succeeded.
    fn script(&self) -> Va {
        let data = self.virtual_mode.map_or(self.data.phys.one_to_one(), |mode| mode.data);
        data.wrapping_add(tables::SCRIPT as u64)
    }
}

/// What firmware's code must remember of the virtual map; the rest is in its tables.
#[derive(Clone, Copy, Debug)]
struct VirtualMode {
    /// Its page of data.
    data: Va,
}

/// The stubs, with a pointer to their data.
fn code_page(pointer: Pa) -> Box<[u8; PAGE_BYTES]> {
    let mut page = Box::new([0; PAGE_BYTES]);
    page[IMAGE_PAGE_OFFSET..][..image().len()].copy_from_slice(image());
    page[IMAGE_PAGE_OFFSET + POINTER_OFFSET..][..8].copy_from_slice(&pointer.0.to_le_bytes());
    page
}

fn stub_address(code: Place, service: Service) -> Pa {
    code.at(IMAGE_PAGE_OFFSET.saturating_add(entry_offset(service)))
}

#[cfg(test)]
mod tests {
    use efibed_stub::image::{RESUME, RESUME_OFFSET};
    use uefi_raw::Status;

    use super::test_memory::{Bed, TestMemory, code_and_data, trap};
    use super::*;

    fn laid_out() -> (Firmware, TestMemory) {
        let firmware = Firmware::lay_out(&code_and_data(), &[], |_| true).unwrap();
        let memory = TestMemory::with_firmware(&firmware);
        (firmware, memory)
    }

    #[test]
    fn firmware_lies_in_the_first_page_of_each_region_and_leaves_the_stamps_alone() {
        let (firmware, _) = laid_out();
        let map = code_and_data();
        let pages: Vec<_> = firmware.pages().collect();
        for (phys, content, region) in &pages {
            assert_eq!(phys.0, map[*region].phys_start);
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
            let pointer = firmware.runtime_services().wrapping_add(service.table_offset() as u64);
            assert_eq!(memory.u64(pointer.0), firmware.entry(service).0);
            assert_eq!(firmware.virtual_entry(service), None);
        }
    }

    #[test]
    fn a_call_is_recorded_as_it_was_made() {
        let (mut firmware, mut memory) = laid_out();
        let mut regs = trap(firmware.entry(Service::ConvertPointer).0);
        (regs.rcx, regs.rdx, regs.r8, regs.r9) = (1, 2, 3, 4);
        regs.rax = 0xDEAD_0000_0000 | u64::from(Service::ConvertPointer.number());
        regs.cr3 = 0x1000;

        let call = firmware.answer(&regs, &mut memory).unwrap().call().unwrap();

        assert_eq!(call.service, Service::ConvertPointer);
        assert_eq!(call.args, [1, 2, 3, 4]);
        assert_eq!(call.cr3, 0x1000);
        assert_eq!(call.called_at(), firmware.entry(Service::ConvertPointer).one_to_one());
        assert_eq!(call.status, Status::UNSUPPORTED);
        assert_eq!(call.refusal, Some(Refusal::NotNow));
        assert_eq!(call.lost_state, None);
    }

    #[test]
    fn a_script_that_is_done_cannot_be_resumed() {
        let mut bed = Bed::new();
        assert_eq!(bed.call(Service::GetTime, &[0x1000, 0]), Status::ABORTED);
        let rip = bed.firmware.entry(Service::GetTime).0 - entry_offset(Service::GetTime) as u64 + RESUME_OFFSET as u64;
        let regs = StubCall { rax: RESUME.into(), ..trap(rip) };
        let rip = Va(regs.rip);
        let answer = bed.firmware.answer(&regs, &mut bed.memory);
        assert_eq!(answer, Err(ForeignTrap::NothingToResume { rip }));
    }
}
