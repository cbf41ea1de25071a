//! Bugs in the rights of what is mapped, and in entries above the leaves. The built-in layout maps; the mistake is made before,
//! after, or in its place in phase `finish`.

use efibed_guest::LeafRule;
use efibed_guest::mapper::page_table::{Mapping, NX, PCD, WRITABLE};
use efibed_guest::mapper::{DescriptorList, attribute};

use super::Code;
use crate::mapper::MemoryDescriptor;
use crate::{AddressSpace, MapContext, MapError, Mapper};

/// Bug 2.
pub static LARGE_LEAVES_UNASKED: Code = Code::new(
    "1 GiB leaves whether or not the CPU has them",
    "Linux's populate_pud, before it asked for pdpe1gb",
    |mut inner, context| {
        context.cpu.gbpages = 1;
        inner.map(context)
    },
);

/// Bug 22.
pub static ARGUMENTS_READ_ONLY: Code = Code::new(
    "the kernel's memory made read-only in firmware's tables",
    "Linux's efi_setup_page_tables in mixed mode",
    |mut inner, context| {
        let space = inner.map(context)?;
        for keep in context.keep {
            let bytes = (keep.last - keep.first).wrapping_add(1);
            space.change(&mut context.tables, keep.first, bytes, 0, WRITABLE)?;
        }
        Ok(space)
    },
);

/// Bug 23, in what is mapped.
pub static NO_EXECUTE_FORGOTTEN: Code = Code::new(
    "data mapped without NX",
    "Linux's efi_setup_page_tables, which left rodata executable",
    |mut inner, context| {
        context.cpu.nx = 0;
        inner.map(context)
    },
);

/// Bug 23, in what is tightened.
pub static ATTRIBUTES_FORGOTTEN: Code = Code::late(
    "the Memory Attributes Table ignored after the switch",
    "Linux's efi_runtime_update_mappings, left out",
    |mut inner, context, space| {
        context.attributes_table = nothing(context);
        inner.finish(context, space)
    },
);

/// Bug 24.
pub static NO_EXECUTE_ABOVE: Code = Code::new(
    "NX in the top entry of the lower half",
    "Linux's page-table isolation, which set it in the user's PGD entries",
    |mut inner, context| {
        let space = inner.map(context)?;
        context.tables.table(space.root())?[0] |= NX;
        Ok(space)
    },
);

/// Bug 25.
pub static FIFTH_LEVEL_FORGOTTEN: Code = Code::new(
    "an entry of the kernel's missing one level below the top",
    "Linux's efi_sync_low_kernel_mappings with five levels",
    |mut inner, context| {
        let space = inner.map(context)?;
        let Some(keep) = context.keep.first() else { return Ok(space) };
        let slot = |level: u32| (keep.first >> (12 + 9 * (level - 1))) as usize % 512;
        let above = context.tables.table(space.root())?[slot(space.levels())] & ADDRESS;
        context.tables.table(above)?[slot(space.levels() - 1)] = 0;
        Ok(space)
    },
);

/// Bug 33, in Xen's words `prot &= _PAGE_RW`.
pub static ALL_BUT_WRITABLE_CLEARED: Code = Code::new(
    "all flags but R/W cleared where R/W alone was meant to be",
    "Xen's efi_init_memory, of regions that are read-only or write-protected",
    |mut inner, context| {
        let space = inner.map(context)?;
        let list = context.memory_map;
        let is_meant = |region: &MemoryDescriptor| region.attribute & (attribute::RO | attribute::WP) != 0;
        for index in 0..context.mapped_count() {
            let Some(mapped) = context.mapped(index) else { break };
            if list.iter().any(|region| region.phys_start == mapped.phys_start && is_meant(region)) {
                space.change(&mut context.tables, mapped.virt_start, mapped.page_count * 4096, 0, !WRITABLE & FLAGS)?;
            }
        }
        Ok(space)
    },
);

/// Bug 21.
pub static GARBAGE_BELIEVED: Code = Code::late(
    "a Memory Attributes Table applied whatever its size",
    "Linux's efi_memattr_init, before it compared sizes",
    |mut inner, context, space| {
        let garbage = context.attributes_table;
        context.attributes_table = nothing(context);
        let space = inner.finish(context, space)?;
        for entry in garbage.iter() {
            let clear = if entry.attribute & attribute::RO != 0 { WRITABLE } else { 0 };
            let set = if entry.attribute & attribute::XP != 0 && context.cpu.nx != 0 { NX } else { 0 };
            for virt in both_addresses(context, entry) {
                space.change(&mut context.tables, virt, entry.page_count * 4096, set, clear)?;
            }
        }
        Ok(space)
    },
);

/// The layout that maps what `linux` has no room for, as the twin of bug 39: each region at a constant plus its physical address,
/// in a half of its own. Nothing is wrong with it.
pub static WITH_ROOM: Code =
    Code::new("a linear mapping with room for 32 TiB", "no function: it is right", |_, context| {
        let mut right = Linear(0xffff_a000_0000_0000);
        right.map(context)
    })
    .of_anybody();

/// The address in an entry, bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Everything in an entry that is no address.
const FLAGS: u64 = !ADDRESS;

fn nothing<'a>(context: &MapContext<'a>) -> DescriptorList<'a> {
    // An empty list is aligned and its stride is that of descriptors, so there is one.
    DescriptorList::new(&[], size_of::<MemoryDescriptor>()).unwrap_or(context.memory_map)
}

/// Where the pages of an entry of the table are: 1:1, and at the virtual address of the region that it begins in.
fn both_addresses(context: &MapContext<'_>, entry: &MemoryDescriptor) -> Vec<u64> {
    let regions = (0..context.mapped_count()).filter_map(|index| context.mapped(index));
    let region = regions.into_iter().find(|region| {
        let pages = entry.phys_start.wrapping_sub(region.phys_start) / 4096;
        pages < region.page_count
    });
    let virt = region.map(|region| entry.phys_start - region.phys_start + region.virt_start);
    [Some(entry.phys_start), virt].into_iter().flatten().collect()
}

#[derive(Clone, Copy)]
struct Linear(u64);

impl Mapper for Linear {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let list = context.memory_map;
        for (index, region) in list.iter().enumerate().filter(|(_, region)| region.attribute & attribute::RUNTIME != 0)
        {
            let virt_start = self.0 + region.phys_start;
            let cache = if region.attribute & attribute::WB != 0 { 0 } else { PCD };
            let mapping =
                Mapping { flags: WRITABLE | cache, leaf_rule: LeafRule::CoAligned, gbpages: context.cpu.gbpages != 0 };
            let bytes = region.page_count * 4096;
            context.space.map(&mut context.tables, virt_start, region.phys_start, bytes, mapping)?;
            context.push_mapped(index, &MemoryDescriptor { virt_start, ..*region })?;
        }
        Ok(context.space)
    }
}
