//! Where everything goes: the guest, its process, firmware, and KVM's own pages.

use std::collections::BTreeSet;
use std::ops::Range;

use efibed_stub::stamp::stamp_page;

use super::super::{Job, course};
use crate::check;
use crate::firmware::Firmware;
use crate::guest::process::PROCESS_BYTES;
use crate::guest::{BackedPage, Image, LoadError, Loaded, NoRoom, PAGE_BYTES, Placement, Sizes};
use crate::machine::{APIC_PAGE, Internals, Machine};
use crate::memory_map::MemoryMap;
use crate::mmu::Cpu;

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
    ) -> Result<Self, NoRoom> {
        let identity: Vec<u64> = firmware.iter().flat_map(Firmware::pages).map(|(phys, ..)| phys).collect();
        let pool = course::pool_pages(job.map, job.contract);
        let earlier_descriptors = job.earlier.map_or(0, |earlier| earlier.virtual_map.len());
        let sizes = Loaded::sizes(image, job.map, job.strides(), earlier_descriptors, pool, identity.len() as u64);
        let limit = 1 << cpu.checks.maxphyaddr.min(cpu.told.maxphyaddr);
        let taken: Vec<_> = identity.iter().map(|page| *page..page + PAGE_BYTES).collect();
        let (placement, process_at, internals) = place(job.map, sizes, limit, &taken, machine)?;
        // The table that the mapper is given is firmware's own.
        if let Some(firmware) = firmware.as_mut().filter(|_| !job.map.attributes_table().is_empty()) {
            firmware.name_attributes_table(placement.attributes().start);
        }
        let pages = backed_pages(job.map, firmware.as_ref(), cpu.checks.maxphyaddr);
        Ok(Self { image, placement, identity, process_at, internals, firmware, pages })
    }

    /// The guest's memory, with all in it that it starts with.
    pub fn load(&self, job: &Job<'_>, cpu: &Cpu) -> Result<Loaded, LoadError> {
        Loaded::new(self.image, job.map, job.strides(), self.placement, &self.identity, &cpu.told)
    }
}

/// Firmware as the job wants it; or why no runtime service is called.
pub(super) fn firmware(job: &Job<'_>, cpu: &Cpu) -> (Option<Firmware>, Option<String>) {
    if !job.firmware.calls {
        return (None, Some("the scenario asks for none".into()));
    }
    // It goes by the map that it gave to the caller of SetVirtualAddressMap.
    let firmwares_map = job.earlier.map_or(job.map, |earlier| earlier.map);
    let attributes: Vec<_> = [firmwares_map, job.map].into_iter().flat_map(check::entries_in_force).copied().collect();
    let laid_out = Firmware::lay_out(firmwares_map.descriptors(), &attributes, |phys| {
        phys < FIRMWARE_BELOW.min(1 << cpu.checks.maxphyaddr) && !APIC_PAGE.contains(&phys)
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

/// Firmware runs at its physical addresses before the switch: in the low half, and off the guest's own part of it.
const FIRMWARE_BELOW: u64 = 1 << 46;

/// Pages with memory behind them: each takes one of KVM's slots.
const MAX_BACKED_PAGES: usize = 1024;

/// Where the guest goes, its process, and KVM's own pages: where a machine that exists has them, else off everything.
fn place(
    map: &MemoryMap,
    sizes: Sizes,
    limit: u64,
    taken: &[Range<u64>],
    machine: Option<&Machine>,
) -> Result<(Placement, u64, Internals), NoRoom> {
    let internals = machine.map(Machine::internals);
    let taken: Vec<_> = taken.iter().cloned().chain(internals.iter().flat_map(Internals::ranges)).collect();
    let placement = Placement::find(map, sizes, limit, &taken)?;
    let process_at = placement.more(map, PROCESS_BYTES, limit, &taken)?;
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
        add(phys, *content);
    }
    for region in map.regions().filter(|region| region.is_mapped() && region.is_code() && check::fits_an_entry(region))
    {
        add(region.phys & !(PAGE_BYTES - 1), [0; PAGE_BYTES as usize]);
    }
    pages.sort_unstable_by_key(|page| page.phys);
    pages
}
