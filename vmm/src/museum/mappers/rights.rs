//! Bugs in the rights of what is mapped, and in entries above the leaves. The built-in layout maps; the mistake is made before,
//! after, or in its place in phase `finish`.

use efibed_guest::mapper::page_table::{NX, PAGE_BYTES, WRITABLE};
use efibed_guest::mapper::{DescriptorList, attribute};

use super::populate::{ADDRESS, index};
use super::{Code, clear};
use crate::mapper::MemoryDescriptor;
use crate::{MapContext, Mapper};

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
        let above = context.tables.table(space.root())?[index(keep.first, space.levels())] & ADDRESS;
        context.tables.table(above)?[index(keep.first, space.levels() - 1)] = 0;
        Ok(space)
    },
);

/// Bug 33, in Xen's words `prot &= _PAGE_RW`.
pub static ALL_BUT_WRITABLE_CLEARED: Code = Code::new(
    "all flags but R/W cleared where R/W alone was meant to be",
    "Xen's efi_init_memory, of regions that are read-only or write-protected",
    |mut inner, context| {
        let space = inner.map(context)?;
        let is_meant = |mapped: &MemoryDescriptor| mapped.attribute & (attribute::RO | attribute::WP) != 0;
        clear(context, space, !(ADDRESS | WRITABLE), is_meant)?;
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
                space.change(&mut context.tables, virt, entry.page_count * PAGE_BYTES, set, clear)?;
            }
        }
        Ok(space)
    },
);

fn nothing<'a>(context: &MapContext<'a>) -> DescriptorList<'a> {
    // An empty list is aligned and its stride is that of descriptors, so there is one.
    DescriptorList::new(&[], size_of::<MemoryDescriptor>()).unwrap_or(context.memory_map)
}

/// Where the pages of an entry of the table are: 1:1, and at the virtual address of the region that it begins in.
fn both_addresses(context: &MapContext<'_>, entry: &MemoryDescriptor) -> Vec<u64> {
    let regions = (0..context.mapped_count()).filter_map(|index| context.mapped(index));
    let region = regions.into_iter().find(|region| {
        let pages = entry.phys_start.wrapping_sub(region.phys_start) / PAGE_BYTES;
        pages < region.page_count
    });
    let virt = region.map(|region| entry.phys_start - region.phys_start + region.virt_start);
    [Some(entry.phys_start), virt].into_iter().flatten().collect()
}
