//! Bugs in how a range is written into page tables: those of `populate_pud` and its like in Linux's
//! arch/x86/mm/pat/set_memory.c.
//!
//! All have the addresses of layout `window`, or are 1:1, and differ in the function that writes a range.

use efibed_guest::mapper::page_table::{NX, PAGE_BYTES, PCD, PRESENT, Tables, WRITABLE};
use efibed_guest::mapper::{attribute, memory_type};

use super::Code;
use crate::mapper::MemoryDescriptor;
use crate::{AddressSpace, MapContext, MapError};

/// Bug 3.
pub static ONE_PMD_TABLE: Code = Code::new(
    "a writer with one page directory for all that follows a 1 GiB boundary",
    "Linux's populate_pud without 1 GiB leaves",
    |_, context| in_window(context, one_pmd_table),
);

/// Bug 5.
pub static PAST_THE_PUD_TABLE: Code = Code::new(
    "a 1:1 writer that does not stop at the end of its table of PDPTEs",
    "Linux's populate_pud at a 512 GiB boundary",
    |_, context| one_to_one(context, past_the_pud_table, |_| false),
)
.of_anybody();

/// Bug 6, as it was met.
pub static PAGES_SHIFTED_IN_32_BITS: Code = Code::new(
    "a writer that shifts the count of pages in 32 bits, and calls itself until all are done",
    "Linux's __change_page_attr_set_clr and populate_pud",
    |_, context| in_window(context, until_done),
);

/// Bug 6, with a caller that does not count.
pub static LENGTH_IN_32_BITS: Code = Code::new(
    "a writer that takes the length of a range as 32 bits",
    "Linux's kernel_map_pages_in_pgd",
    |_, context| in_window(context, |writer, virt, phys, bytes| writer.range(virt, phys, u64::from(bytes as u32))),
);

/// Bug 7.
pub static ADDRESS_FOR_PAGE_NUMBER: Code = Code::new(
    "a writer that takes a physical address for a page number",
    "Linux's populate_pte, given an address in cpa->pfn",
    |_, context| in_window(context, address_for_page_number),
);

/// Bug 8.
pub static STALE_PAGE_NUMBER: Code = Code::new(
    "a writer that goes on from the page number of what was mapped already",
    "Linux's __change_page_attr, then populate_pgd",
    |_, context| in_window(context, stale_page_number),
);

/// Bug 9.
pub static DATA_FOR_A_TABLE: Code = Code::new(
    "a writer that takes the page of a 2 MiB leaf for a page table",
    "Linux's populate_pmd, at the tail of a range",
    |_, context| in_window(context, data_for_a_table),
);

/// Bug 31.
pub static ZERO_IS_UNMAPPED: Code = Code::new(
    "a 1:1 mapper that takes virtual address 0 for `not mapped`",
    "Linux's efi_virtmap_init on arm64",
    |_, context| {
        one_to_one(
            context,
            |writer, virt, phys, bytes| writer.range(virt, phys, bytes),
            |region| region.phys_start == 0,
        )
    },
)
.of_anybody();

/// What maps the regions that `linux` has no room for, as the twin of bug 39: each RUNTIME region at a constant plus its physical
/// address, in a half of its own. Nothing is wrong with it.
pub static WITH_ROOM: Code =
    Code::new("a linear mapping with room for 32 TiB", "no function: it is right", |_, context| {
        let place = |region: &MemoryDescriptor| {
            (region.attribute & attribute::RUNTIME != 0).then(|| 0xffff_a000_0000_0000 + region.phys_start)
        };
        each_region(context, place, |writer, virt, phys, bytes| writer.range(virt, phys, bytes))
    })
    .of_anybody();

/// PS: the entry is a leaf (SDM vol. 3A, tables 4-16 and 4-18).
const LARGE: u64 = 1 << 7;
/// The address in an entry, bits 51:12.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PMD_BYTES: u64 = 2 << 20;
const PUD_BYTES: u64 = 1 << 30;
const ENTRIES: u64 = 512;

type WriteRange = fn(&mut Writer<'_>, u64, u64, u64) -> Result<(), MapError>;

/// `efi_va = -4G - highest end`, and each region at efi_va + PA.
fn in_window(context: &mut MapContext<'_>, write: WriteRange) -> Result<AddressSpace, MapError> {
    let end = |region: &MemoryDescriptor| region.phys_start + region.page_count * PAGE_BYTES;
    let highest = context.memory_map.iter().filter(|region| is_mapped(region)).map(end).max().unwrap_or(0);
    let efi_va = (4u64 << 30).wrapping_neg().wrapping_sub(highest);
    each_region(context, |region| Some(efi_va.wrapping_add(region.phys_start)), write)
}

/// Each region at its physical address. One that is skipped is handed to SetVirtualAddressMap all the while.
fn one_to_one(
    context: &mut MapContext<'_>,
    write: WriteRange,
    is_skipped: fn(&MemoryDescriptor) -> bool,
) -> Result<AddressSpace, MapError> {
    let list = context.memory_map;
    for (index, region) in list.iter().enumerate().filter(|(_, region)| is_mapped(region)) {
        if !is_skipped(region) {
            write_region(context, region, region.phys_start, write)?;
        }
        context.push_mapped(index, &MemoryDescriptor { virt_start: region.phys_start, ..*region })?;
    }
    Ok(context.space)
}

fn each_region(
    context: &mut MapContext<'_>,
    place: impl Fn(&MemoryDescriptor) -> Option<u64>,
    write: WriteRange,
) -> Result<AddressSpace, MapError> {
    let list = context.memory_map;
    for (index, region) in list.iter().enumerate().filter(|(_, region)| is_mapped(region)) {
        let Some(virt_start) = place(region) else { continue };
        write_region(context, region, virt_start, write)?;
        context.push_mapped(index, &MemoryDescriptor { virt_start, ..*region })?;
    }
    Ok(context.space)
}

fn write_region(
    context: &mut MapContext<'_>,
    region: &MemoryDescriptor,
    virt: u64,
    write: WriteRange,
) -> Result<(), MapError> {
    context.take_up(region);
    let flags = flags(region, context.cpu.nx != 0);
    let gbpages = context.cpu.gbpages != 0;
    let mut writer = Writer { tables: &mut context.tables, space: context.space, flags, gbpages };
    write(&mut writer, virt, region.phys_start, region.page_count * PAGE_BYTES)
}

/// RUNTIME, or of boot services, with pages.
fn is_mapped(region: &MemoryDescriptor) -> bool {
    let is_boot_services = matches!(region.ty, memory_type::BOOT_SERVICES_CODE | memory_type::BOOT_SERVICES_DATA);
    region.page_count > 0 && (region.attribute & attribute::RUNTIME != 0 || is_boot_services)
}

/// As the layouts have them: code is executable, and what cannot be written back is uncached.
fn flags(region: &MemoryDescriptor, has_nx: bool) -> u64 {
    let is_code = matches!(region.ty, memory_type::BOOT_SERVICES_CODE | memory_type::RUNTIME_SERVICES_CODE);
    let no_execute = if is_code || !has_nx { 0 } else { NX };
    let cache = if region.attribute & attribute::WB != 0 { 0 } else { PCD };
    PRESENT | WRITABLE | no_execute | cache
}

/// Writes entries, level by level, as Linux's functions do: where a table is missing it is made.
struct Writer<'a> {
    tables: &'a mut Tables,
    space: AddressSpace,
    flags: u64,
    gbpages: bool,
}

impl Writer<'_> {
    /// A range, rightly.
    fn range(&mut self, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
        let mut done = 0;
        while done < bytes {
            let at = virt.wrapping_add(done);
            let part = (bytes - done).min(PUD_BYTES - at % PUD_BYTES);
            self.pmd_range(at, phys + done, part)?;
            done += part;
        }
        Ok(())
    }

    /// What one page directory maps: PTEs up to a 2 MiB boundary, large leaves, PTEs. The directory is that of the first
    /// address, whatever the length: the index wraps.
    fn pmd_range(&mut self, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
        let directory = self.table(virt, 2)?;
        let mut done = 0;
        while done < bytes {
            let (at, from) = (virt.wrapping_add(done), phys + done);
            let (whole, rest) = (PMD_BYTES - at % PMD_BYTES, bytes - done);
            if whole == PMD_BYTES && rest >= PMD_BYTES && from.is_multiple_of(PMD_BYTES) {
                self.tables.table(directory)?[index(at, 2)] = from | self.flags | LARGE;
                done += PMD_BYTES;
                continue;
            }
            let part = rest.min(whole);
            self.pte_range(at, from, part)?;
            done += part;
        }
        Ok(())
    }

    /// PTEs within one page table.
    fn pte_range(&mut self, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
        let table = self.table(virt, 1)?;
        for done in (0..bytes).step_by(PAGE_BYTES as usize) {
            self.tables.table(table)?[index(virt.wrapping_add(done), 1)] = (phys + done) | self.flags;
        }
        Ok(())
    }

    /// The table whose entries for an address are of this level. That the entry above may be a leaf is not thought of.
    fn table(&mut self, virt: u64, level: u32) -> Result<u64, MapError> {
        let mut table = self.space.root();
        for above in (level + 1..=self.space.levels()).rev() {
            let slot = index(virt, above);
            let entry = self.tables.table(table)?[slot];
            table = if entry & PRESENT != 0 { entry & ADDRESS } else { self.add_table(table, slot)? };
        }
        Ok(table)
    }

    fn add_table(&mut self, above: u64, slot: usize) -> Result<u64, MapError> {
        let new = self.tables.allocate()?;
        self.tables.table(above)?[slot] = new | PRESENT | WRITABLE;
        Ok(new)
    }

    /// The PTE of an address, if there is a table for it.
    fn pte(&mut self, virt: u64) -> Result<u64, MapError> {
        let table = self.table(virt, 1)?;
        Ok(self.tables.table(table)?[index(virt, 1)])
    }
}

/// The index of an address at a level: 9 bits each, from bit 12 up.
pub(super) fn index(virt: u64, level: u32) -> usize {
    ((virt >> (12 + 9 * (level - 1))) % ENTRIES) as usize
}

/// Up to the first 1 GiB boundary, and then all the rest as if it were one GiB.
fn one_pmd_table(writer: &mut Writer<'_>, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
    let head = bytes.min((PUD_BYTES - virt % PUD_BYTES) % PUD_BYTES);
    writer.pmd_range(virt, phys, head)?;
    if writer.gbpages {
        return writer.range(virt.wrapping_add(head), phys + head, bytes - head);
    }
    writer.pmd_range(virt.wrapping_add(head), phys + head, bytes - head)
}

/// 1 GiB leaves from the first entry on, one after another. The 513th of a table is the first of the page behind it.
fn past_the_pud_table(writer: &mut Writer<'_>, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
    if !writer.gbpages || !(virt | phys | bytes).is_multiple_of(PUD_BYTES) {
        return writer.range(virt, phys, bytes);
    }
    let table = writer.table(virt, 3)?;
    for number in 0..bytes / PUD_BYTES {
        let entry = (phys + number * PUD_BYTES) | writer.flags | LARGE;
        let slot = index(virt, 3) as u64 + number;
        let page = table + slot / ENTRIES * PAGE_BYTES;
        writer.tables.table(page)?[(slot % ENTRIES) as usize] = entry;
    }
    Ok(())
}

/// What is left is tried again until nothing is; of 2^20 pages, a shift in 32 bits leaves nothing to do.
fn until_done(writer: &mut Writer<'_>, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
    let mut done = 0;
    while done < bytes {
        let pages = ((bytes - done) / PAGE_BYTES) as u32;
        let part = u64::from(pages << 12);
        writer.range(virt.wrapping_add(done), phys + done, part)?;
        // Nothing may be done for ever; the compiler must not take that for what cannot be.
        done = std::hint::black_box(done + part);
    }
    Ok(())
}

/// The address, shifted as if it were a page number.
fn address_for_page_number(writer: &mut Writer<'_>, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
    for done in (0..bytes).step_by(PAGE_BYTES as usize) {
        writer.pte_range(virt.wrapping_add(done), (phys + done) << 12, PAGE_BYTES)?;
    }
    Ok(())
}

/// A page that is mapped already is left alone, and its page number kept: for the next one, which is its neighbour's.
fn stale_page_number(writer: &mut Writer<'_>, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
    let mut frame = phys;
    for done in (0..bytes).step_by(PAGE_BYTES as usize) {
        let at = virt.wrapping_add(done);
        let old = writer.pte(at)?;
        if old & PRESENT != 0 {
            frame = old & ADDRESS;
            continue;
        }
        writer.pte_range(at, frame, PAGE_BYTES)?;
        frame += PAGE_BYTES;
    }
    Ok(())
}

/// A range whose tail meets a large leaf: its PTEs go into the page that the leaf maps.
fn data_for_a_table(writer: &mut Writer<'_>, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
    let mut done = 0;
    while done < bytes {
        let at = virt.wrapping_add(done);
        let part = (bytes - done).min(PMD_BYTES - at % PMD_BYTES);
        if part == PMD_BYTES {
            writer.pmd_range(at, phys + done, part)?;
        } else {
            writer.pte_range_anywhere(at, phys + done, part)?;
        }
        done += part;
    }
    Ok(())
}

impl Writer<'_> {
    /// As [`Self::pte_range`], with a table that is written to wherever it lies.
    fn pte_range_anywhere(&mut self, virt: u64, phys: u64, bytes: u64) -> Result<(), MapError> {
        let table = self.table(virt, 1)?;
        let root = self.space.root();
        // Physical memory is reached at a fixed distance: that of the root.
        let Some(reached) = self.tables.reach().pointer(root) else {
            return Err(MapError::TableOutOfReach { table: root });
        };
        let entries = (reached as u64).wrapping_sub(root).wrapping_add(table) as *mut u64;
        for done in (0..bytes).step_by(PAGE_BYTES as usize) {
            let slot = index(virt.wrapping_add(done), 1);
            // SAFETY: none is needed and none is there: that is the bug. The exhibit runs in ring 3 of a guest alone, where a
            // table of the mapper's is its own memory, and all else of the guest's memory is out of its reach and faults.
            unsafe { entries.wrapping_add(slot).write_volatile((phys + done) | self.flags) };
        }
        Ok(())
    }
}
