//! Bugs in how descriptors are taken: which are mapped, in which order, and how long they are.

use efibed_guest::mapper::attribute;
use efibed_guest::mapper::page_table::{LeafRule, Mapping, PAGE_BYTES, WRITABLE};

use super::{Code, clear};
use crate::mapper::MemoryDescriptor;
use crate::{AddressSpace, MapContext, MapError, Mapper};

/// Bug 10.
pub static LAST_BYTE_WRAPS: Code = Code::new(
    "a loop to the last byte of each region, also of one without pages",
    "Linux's efi_map_region, with the map as firmware gave it",
    |mut inner, context| {
        let list = context.memory_map;
        let space = inner.map(context)?;
        for region in list.iter().filter(|region| region.page_count == 0) {
            let last = region.phys_start.wrapping_add(region.page_count * PAGE_BYTES).wrapping_sub(1);
            context.take_up(region);
            fill_to(context, space, region.phys_start, last)?;
        }
        Ok(space)
    },
);

/// Bug 11.
pub static SIZE_BEFORE_SET: Code = Code::new(
    "a cleaned map whose size is computed before the size of a descriptor is known",
    "Linux's efi_clean_memmap and efi_memmap_install",
    |mut inner, context| {
        let list = context.memory_map;
        // Nothing to clean: the map stays firmware's, with the right size.
        if list.iter().all(|region| region.page_count > 0) {
            return inner.map(context);
        }
        let (descriptor_bytes, kept) = (0, list.iter().filter(|region| region.page_count > 0).count());
        let installed = kept * descriptor_bytes / size_of::<MemoryDescriptor>();
        for (index, region) in list.iter().enumerate().take(installed) {
            context.push_mapped(index, region)?;
        }
        Ok(context.space)
    },
);

/// Bug 13.
pub static LIST_FORWARDS: Code = Code::new(
    "the list mapped from its first region to its last, with addresses that go down",
    "Linux's efi_map_regions, before it went backwards",
    |mut inner, context| {
        // The layout takes this for a list that is in the order of mapping already, and does not reverse it.
        context.in_mapping_order = true;
        inner.map(context)
    },
);

/// Bug 33.
pub static NO_CACHEABILITY_LEFT_OUT: Code = Code::new(
    "regions without a cache type left unmapped",
    "Xen's efi_init_memory, at `Unknown cachability`",
    |mut inner, context| {
        let space = inner.map(context)?;
        clear(context, space, ALL, |mapped| mapped.attribute & CACHE_TYPES == 0)?;
        Ok(space)
    },
);

/// Bug 34.
pub static HOLES_LEFT_OUT: Code = Code::new(
    "MMIO left unmapped whose page numbers have bits that no memory has",
    "Xen's efi_init_memory with compressed page numbers (PDX)",
    |mut inner, context| {
        let list = context.memory_map;
        let space = inner.map(context)?;
        let last = |it: &MemoryDescriptor| it.phys_start + it.page_count * PAGE_BYTES - 1;
        let memory = list.iter().filter(|it| it.attribute & attribute::WB != 0 && it.page_count > 0);
        let used = memory.fold(LOW, |bits, it| bits | it.phys_start | last(it));
        clear(context, space, ALL, |mapped| mapped.phys_start & !used != 0)?;
        Ok(space)
    },
);

/// What compression leaves alone: the low bits, which differ within a bank of memory.
const LOW: u64 = (1 << 30) - 1;

const CACHE_TYPES: u64 = attribute::UC | attribute::WC | attribute::WT | attribute::WB;

/// A region is taken out of the tables so, though not out of the map for SetVirtualAddressMap.
const ALL: u64 = u64::MAX;

/// Pages 1:1, from the first byte to the last.
fn fill_to(context: &mut MapContext<'_>, space: AddressSpace, first: u64, last: u64) -> Result<(), MapError> {
    let mapping = Mapping { flags: WRITABLE, leaf_rule: LeafRule::FourK, gbpages: false };
    let mut page = first;
    while page < last {
        space.map(&mut context.tables, page, page, PAGE_BYTES, mapping)?;
        page += PAGE_BYTES;
    }
    Ok(())
}
