//! Layouts `linux` and `linux-fixed`: what x86-64 Linux does around SetVirtualAddressMap, in its order
//! (arch/x86/platform/efi/efi.c and efi_64.c, drivers/firmware/efi/memattr.c).

use efibed_stub::memory::{MemoryDescriptor, attribute, memory_type};

use super::{Allocator, Layout, WINDOW_END, WINDOW_START, is_mapped};
use crate::mapper::page_table::{AddressSpace, LeafRule, Mapping, NX, PAGE_BYTES, PCD, PRESENT, WRITABLE};
use crate::mapper::{CpuAbilities, MapContext, MapError};

/// `__efi_enter_virtual_mode` up to the call, or for `linux-fixed` `kexec_enter_virtual_mode`: each region 1:1 and at its
/// virtual address; then what firmware may look at during the call, the map itself and page 0.
pub(super) fn map(context: &mut MapContext<'_>, layout: Layout, leaf_rule: LeafRule) -> Result<AddressSpace, MapError> {
    let space = context.space;
    match layout {
        Layout::LinuxFixed => list_runtime(context)?,
        _ => list_merged(context)?,
    }
    let mut allocator = Allocator::new(layout, core::iter::empty())?;
    let gbpages = context.cpu.gbpages != 0;
    for index in 0..context.mapped_count() {
        let Some(region) = context.mapped(index) else { break };
        context.take_up(&region);
        let mapping = Mapping { flags: region_flags(&region, context.cpu), leaf_rule, gbpages };
        map_identity(context, space, region.phys_start, region.page_count, mapping)?;
        // A region for which the window has no room keeps the VirtualStart it came with, and goes to firmware so.
        if let Some(virt) = allocator.place(index, &region)? {
            let (start, phys) = (virt & PAGE_BASE, region.phys_start & PAGE_BASE);
            space.map(&mut context.tables, start, phys, region.page_count * PAGE_BYTES, mapping)?;
            context.set_virtual_start(index, virt);
        }
    }
    if layout == Layout::Linux {
        map_for_the_call(context, space, leaf_rule)?;
    }
    Ok(space)
}

/// What follows the call: boot services are no longer firmware's (`efi_free_boot_services`), and the Memory Attributes
/// Table says which runtime pages may not be written or executed (`efi_runtime_update_mappings`). The root stays the same.
pub(super) fn finish(context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
    for index in 0..context.mapped_count() {
        let Some(region) = context.mapped(index) else { break };
        if is_boot_services(&region) && region.attribute & attribute::RUNTIME == 0 {
            change_both(context, space, &region, region.phys_start, region.page_count, 0, PRESENT | WRITABLE)?;
        }
    }
    let attributes = context.attributes_table;
    if attributes.iter().count() > MOST_ENTRIES_PER_REGION * context.memory_map.iter().count() {
        return Ok(space);
    }
    for entry in attributes.iter() {
        let Some(region) = region_of(context, entry) else { continue };
        let no_execute = if entry.attribute & attribute::XP != 0 && context.cpu.nx != 0 { NX } else { 0 };
        let read_only = if entry.attribute & attribute::RO != 0 { WRITABLE } else { 0 };
        // What the entry does not forbid, it allows: the permissions are replaced, not only narrowed.
        let (set, clear) = (no_execute | (WRITABLE & !read_only), read_only | (NX & !no_execute));
        change_both(context, space, &region, entry.phys_start, entry.page_count, set, clear)?;
    }
    Ok(space)
}

/// A table with more entries than this for each descriptor of the memory map is garbage, to Linux.
const MOST_ENTRIES_PER_REGION: usize = 3;

/// The address of a page.
const PAGE_BASE: u64 = !(PAGE_BYTES - 1);

/// `efi_clean_memmap`, `efi_merge_regions` and the order of `efi_map_regions`: from the last region to the first, so that
/// addresses given out downwards rise with the list.
fn list_merged(context: &mut MapContext<'_>) -> Result<(), MapError> {
    let list = context.memory_map;
    let mut previous: Option<MemoryDescriptor> = None;
    for (index, descriptor) in list.iter().enumerate().filter(|(_, descriptor)| has_pages(descriptor)) {
        // What no entry can hold does not take down with it what is before it.
        let goes_on =
            |before: &&mut _| is_continued_by(before, descriptor) && is_mapped(before) == is_mapped(descriptor);
        if let Some(before) = previous.as_mut().filter(goes_on) {
            before.page_count += descriptor.page_count;
            if is_mapped(before) {
                context.extend_mapped(descriptor.page_count);
            }
            continue;
        }
        if is_mapped(descriptor) {
            context.push_mapped(index, descriptor)?;
        }
        previous = Some(*descriptor);
    }
    if !context.in_mapping_order {
        context.reverse_mapped();
    }
    Ok(())
}

/// The first kernel hands over what stays mapped for good.
fn list_runtime(context: &mut MapContext<'_>) -> Result<(), MapError> {
    let list = context.memory_map;
    for (index, descriptor) in list.iter().enumerate() {
        if is_mapped(descriptor) && descriptor.attribute & attribute::RUNTIME != 0 {
            context.push_mapped(index, descriptor)?;
        }
    }
    Ok(())
}

fn has_pages(descriptor: &MemoryDescriptor) -> bool {
    let last_page = u64::MAX / PAGE_BYTES;
    (1..=last_page).contains(&descriptor.page_count)
        && descriptor.phys_start / PAGE_BYTES <= last_page - descriptor.page_count
}

fn is_continued_by(before: &MemoryDescriptor, next: &MemoryDescriptor) -> bool {
    (before.ty, before.attribute) == (next.ty, next.attribute)
        && before.phys_start.wrapping_add(before.page_count * PAGE_BYTES) == next.phys_start
}

fn is_boot_services(region: &MemoryDescriptor) -> bool {
    matches!(region.ty, memory_type::BOOT_SERVICES_CODE | memory_type::BOOT_SERVICES_DATA)
}

/// `__map_region`: uncached unless the region can be written back, executable if it is code. What the memory map says
/// about reading, writing and executing is ignored: that is what the Memory Attributes Table is for.
fn region_flags(region: &MemoryDescriptor, cpu: CpuAbilities) -> u64 {
    let code = matches!(region.ty, memory_type::BOOT_SERVICES_CODE | memory_type::RUNTIME_SERVICES_CODE);
    let execute = if code || cpu.nx == 0 { 0 } else { NX };
    let cache = if region.attribute & attribute::WB != 0 { 0 } else { PCD };
    WRITABLE | execute | cache
}

/// `efi_setup_page_tables`: data that firmware reads in the call, and page 0, which some firmware writes to. Where page 0
/// is a region's, it loses the right to be executed.
fn map_for_the_call(context: &mut MapContext<'_>, space: AddressSpace, leaf_rule: LeafRule) -> Result<(), MapError> {
    let no_execute = if context.cpu.nx != 0 { NX } else { 0 };
    let data = Mapping { flags: WRITABLE | no_execute, leaf_rule, gbpages: context.cpu.gbpages != 0 };
    let map = context.virtual_map_used();
    map_identity(context, space, map.start, (map.end - map.start).div_ceil(PAGE_BYTES), data)?;
    if space.is_mapped(&mut context.tables, 0)? {
        space.change(&mut context.tables, 0, PAGE_BYTES, data.flags, 0)
    } else {
        map_identity(context, space, 0, 1, data)
    }
}

/// Maps physical pages at their own addresses, as far as the lower half reaches: what is above cannot be 1:1.
fn map_identity(
    context: &mut MapContext<'_>,
    space: AddressSpace,
    phys: u64,
    pages: u64,
    mapping: Mapping,
) -> Result<(), MapError> {
    let start = phys & PAGE_BASE;
    match is_low(space, start, pages) {
        true => space.map(&mut context.tables, start, start, pages * PAGE_BYTES, mapping),
        false => Ok(()),
    }
}

fn is_low(space: AddressSpace, start: u64, pages: u64) -> bool {
    let low_half = 1 << (space.levels() * 9 + 11);
    start + pages * PAGE_BYTES <= low_half
}

/// Changes pages of a region at both of its addresses.
fn change_both(
    context: &mut MapContext<'_>,
    space: AddressSpace,
    region: &MemoryDescriptor,
    phys: u64,
    pages: u64,
    set: u64,
    clear: u64,
) -> Result<(), MapError> {
    let (start, bytes) = (phys & PAGE_BASE, pages * PAGE_BYTES);
    if is_low(space, start, pages) {
        space.change(&mut context.tables, start, bytes, set, clear)?;
    }
    // What got no virtual address has the one it came with, where nothing of it is mapped.
    if !(WINDOW_START..WINDOW_END).contains(&region.virt_start) {
        return Ok(());
    }
    let virt = (region.virt_start & PAGE_BASE) + (start - (region.phys_start & PAGE_BASE));
    space.change(&mut context.tables, virt, bytes, set, clear)
}

/// `entry_is_valid`: the RUNTIME region that an entry of the Memory Attributes Table lies in, if it is one that Linux
/// takes: of runtime code or data, forbidding something, and wholly in one region of its own type.
fn region_of(context: &MapContext<'_>, entry: &MemoryDescriptor) -> Option<MemoryDescriptor> {
    let restricts = entry.attribute & (attribute::RO | attribute::XP) != 0;
    let is_runtime = matches!(entry.ty, memory_type::RUNTIME_SERVICES_CODE | memory_type::RUNTIME_SERVICES_DATA);
    if !restricts || !is_runtime || !is_page_run(entry) {
        return None;
    }
    let regions = (0..context.mapped_count()).filter_map(|index| context.mapped(index));
    let holds = |region: &MemoryDescriptor| {
        region.attribute & attribute::RUNTIME != 0
            && (region.phys_start..region.phys_start + region.page_count * PAGE_BYTES).contains(&entry.phys_start)
    };
    let region = regions.into_iter().find(holds)?;
    let room = region.phys_start + region.page_count * PAGE_BYTES - entry.phys_start;
    (region.ty == entry.ty && entry.page_count * PAGE_BYTES <= room).then_some(region)
}

/// Whole pages, of addresses that an entry can hold.
fn is_page_run(entry: &MemoryDescriptor) -> bool {
    let most = 1 << 40;
    entry.phys_start.is_multiple_of(PAGE_BYTES)
        && (1..=most).contains(&entry.page_count)
        && entry.phys_start / PAGE_BYTES <= most
}
