//! Where everything goes: the guest, its process, firmware, and KVM's own pages.

use std::collections::BTreeSet;
use std::ops::Range;

use efibed_stub::stamp::stamp_page;

use super::super::machines::Lodging;
use super::super::{Job, pool};
use crate::check::{self, Depth};
use crate::firmware::Firmware;
use crate::guest::layout::{FIRMWARE_BYTES, PROCESS_BYTES};
use crate::guest::process::{Code, Process, ProcessError};
use crate::guest::{BackedPage, Case, Image, Kernel, LoadError, NoRoom, OwnMemory, PAGE_BYTES, Placement, Sizes};
use crate::machine::{APIC_PAGE, Backing, Internals, Machine};
use crate::memory_map::MemoryMap;
use crate::mmu::{Cpu, Pa};

/// What is known before there is a machine.
pub(super) struct Site {
    image: &'static Image,
    placement: Placement,
    /// Firmware's pages, which are also mapped at their physical addresses before the switch.
    identity: Vec<u64>,
    pub process_at: u64,
    /// For a machine that does not exist yet.
    pub internals: Internals,
    /// None: no runtime service is called.
    pub firmware: Option<Firmware>,
    /// Pages that have memory, by address.
    pub pages: Vec<BackedPage>,
}

impl Site {
    /// Finds room off all that the map names, and off the pages of a machine that exists.
    pub fn find(
        job: &Job<'_>,
        cpu: &Cpu,
        image: &'static Image,
        mut firmware: Option<Firmware>,
        machine: Option<&Machine>,
        lodging: &Lodging,
    ) -> Result<Self, NoRoom> {
        let identity: Vec<u64> = firmware.iter().flat_map(Firmware::pages).map(|(phys, ..)| phys.0).collect();
        let pool = pool::pool_pages(job.map, job.contract);
        let earlier_descriptors = job.earlier.map_or(0, |earlier| earlier.virtual_map.len());
        let sizes = Case::sizes(image, job.map, job.strides(), earlier_descriptors, pool, identity.len() as u64);
        let limit = 1 << cpu.checks.maxphyaddr.min(cpu.told.maxphyaddr);
        let taken: Vec<_> = identity.iter().map(|page| *page..page + PAGE_BYTES).collect();
        // Among thousands of runs it does not matter where the guest lies. A report names addresses of its tables, and does not
        // depend on the runs before it.
        let last = if job.depth == Depth::Pages { Some(lodging) } else { None };
        let (placement, process_at, internals) = place(job.map, sizes, limit, &taken, machine, last)?;
        // The table that the mapper is given is firmware's own.
        if let Some(firmware) = firmware.as_mut().filter(|_| !job.map.attributes_table().is_empty()) {
            firmware.name_attributes_table(Pa(placement.attributes().start));
        }
        let pages = match (&firmware, job.depth) {
            // No service is called, and nothing is fetched.
            (None, Depth::Pages) => Vec::new(),
            _ => backed_pages(job.map, firmware.as_ref(), cpu.checks.maxphyaddr),
        };
        Ok(Self { image, placement, identity, process_at, internals, firmware, pages })
    }

    /// The kernel: that of a machine's last guest, or a new one.
    pub fn kernel(&self, last: Option<Kernel>) -> Result<Kernel, LoadError> {
        if let Some(kernel) = last.and_then(|kernel| kernel.again(self.placement)) {
            return Ok(kernel);
        }
        let memory = match self.placement.sizes.total() {
            // Of two sizes, so that the next map's fits.
            bytes @ ..=MOST_KEPT => Backing::that_tells_touched(bytes.next_power_of_two().max(MOST_KEPT / 2))?,
            bytes => Backing::new(bytes)?,
        };
        Ok(Kernel::new(self.image, memory, self.placement))
    }

    /// What this run has beside it.
    pub fn case(&self, job: &Job<'_>, cpu: &Cpu, kernel: &Kernel) -> Result<Case, LoadError> {
        Ok(Case::beside(kernel, job.map, job.strides(), &self.identity, &cpu.told)?)
    }

    /// The memory of the process that runs the mapping code: where a machine's last one was, if there was one.
    pub fn process_memory(&self, code: &Code<'_>, last: Option<OwnMemory>) -> Result<OwnMemory, ProcessError> {
        let last = last.map(OwnMemory::into_backing);
        match last.filter(|memory| memory.bytes() == PROCESS_BYTES && Process::clear(memory, code).is_ok()) {
            Some(memory) => Ok(OwnMemory::on(memory, self.process_at, PROCESS_BYTES)),
            None => Ok(OwnMemory::new(self.process_at, PROCESS_BYTES)?),
        }
    }
}

/// Bytes of a guest's memory that is kept, at most: enough for most maps, at two addresses for each region, too. The system is
/// to tell what was touched of it, and lets every process lock 8 MiB, half of which engine walker may have.
const MOST_KEPT: u64 = 4 << 20;

/// Firmware as the job wants it; or why no runtime service is called.
pub(super) fn firmware(job: &Job<'_>, cpu: &Cpu) -> (Option<Firmware>, Option<String>) {
    if !job.firmware.calls {
        return (None, Some("the scenario asks for none".into()));
    }
    // It goes by the map that it gave to the caller of SetVirtualAddressMap.
    let firmwares_map = job.earlier.map_or(job.map, |earlier| earlier.map);
    let attributes: Vec<_> = [firmwares_map, job.map].into_iter().flat_map(check::entries_in_force).copied().collect();
    let laid_out = Firmware::lay_out(firmwares_map.descriptors(), &attributes, |Pa(phys)| {
        phys < FIRMWARE_BYTES.min(1 << cpu.checks.maxphyaddr) && !APIC_PAGE.contains(&phys)
    });
    match laid_out {
        Ok(mut firmware) => {
            firmware.report_stride(job.firmware.descriptor_size.get());
            firmware.misbehave(&job.firmware.misbehaves);
            (Some(firmware), None)
        }
        Err(reason) => (None, Some(reason.to_string())),
    }
}

/// Pages with memory behind them: each takes one of KVM's slots.
const MAX_BACKED_PAGES: usize = 1024;

/// Where the guest goes, its process, and KVM's own pages: where a machine that exists has them, else off everything.
fn place(
    map: &MemoryMap,
    sizes: Sizes,
    limit: u64,
    taken: &[Range<u64>],
    machine: Option<&Machine>,
    last: Option<&Lodging>,
) -> Result<(Placement, u64, Internals), NoRoom> {
    let internals = machine.map(Machine::internals);
    let taken: Vec<_> = taken.iter().cloned().chain(internals.iter().flat_map(Internals::ranges)).collect();
    let guest_at = last.and_then(|last| Some(last.kernel.as_ref()?.placement().base));
    let process_at = last.and_then(|last| Some(last.process.as_ref()?.base()));
    let placement = Placement::find_at(guest_at, map, sizes, limit, &taken)?;
    let process_at = placement.more_at(process_at, map, PROCESS_BYTES, limit, &taken)?;
    let internals = match internals {
        Some(internals) => internals,
        None => placement.internals(map, process_at..process_at + PROCESS_BYTES)?,
    };
    Ok((placement, process_at, internals))
}

/// Firmware's pages, and the first page of every other region of code: what is fetched from must have memory. A region
/// that no table entry can hold is never mapped, and the guest may lie where it starts.
fn backed_pages(map: &MemoryMap, firmware: Option<&Firmware>, maxphyaddr: u8) -> Vec<BackedPage> {
    let mut taken = BTreeSet::new();
    let mut pages = Vec::new();
    let mut add = |phys: u64, content: [u8; PAGE_BYTES as usize]| {
        if phys >> maxphyaddr == 0 && !APIC_PAGE.contains(&phys) && pages.len() < MAX_BACKED_PAGES && taken.insert(phys)
        {
            let mut page = BackedPage { phys, content };
            stamp_page(phys, &mut page.content);
            pages.push(page);
        }
    };
    for (phys, content, _) in firmware.into_iter().flat_map(Firmware::pages) {
        add(phys.0, *content);
    }
    for region in map.regions().filter(|region| region.is_mapped() && region.is_code() && check::fits_an_entry(region))
    {
        add(region.phys & !(PAGE_BYTES - 1), [0; PAGE_BYTES as usize]);
    }
    pages.sort_unstable_by_key(|page| page.phys);
    pages
}
