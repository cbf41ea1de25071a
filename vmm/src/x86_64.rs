//! For mapping code on the crate [`x86_64`]: its page tables on what a mapper is given.
//!
//! ```
//! use ::x86_64::structures::paging::{Mapper as _, Page, PageTableFlags, PhysFrame, Size4KiB};
//! use ::x86_64::{PhysAddr, VirtAddr};
//! use efibed::mapper::{MemoryDescriptor, attribute};
//! use efibed::{AddressSpace, MapContext, MapError, Mapper};
//!
//! /// Each runtime region at its physical address plus a constant, in pages of 4 KiB.
//! #[derive(Clone)]
//! struct Linear(u64);
//!
//! impl Mapper for Linear {
//!     fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
//!         let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
//!         for (index, region) in context.memory_map.iter().enumerate() {
//!             if region.attribute & attribute::RUNTIME == 0 {
//!                 continue;
//!             }
//!             let (mut tables, mut frames) = efibed::x86_64::page_tables(context)?;
//!             for phys in (region.phys_start..).step_by(4096).take(region.page_count as usize) {
//!                 let page = Page::<Size4KiB>::containing_address(VirtAddr::new(self.0 + phys));
//!                 let frame = PhysFrame::containing_address(PhysAddr::new(phys));
//!                 // SAFETY: nothing runs on these tables yet.
//!                 let mapped = unsafe { tables.map_to(page, frame, flags, &mut frames) };
//!                 // And so no translation is cached.
//!                 mapped.map_err(|_| MapError::OutOfTablePages)?.ignore();
//!             }
//!             context.push_mapped(index, &MemoryDescriptor { virt_start: self.0 + region.phys_start, ..*region })?;
//!         }
//!         Ok(context.space)
//!     }
//! }
//! # let bed = efibed::require_kvm!();
//! # let map = r#"
//! #     [[descriptor]]
//! #     type = "RuntimeServicesCode"
//! #     phys = 0x7e000000
//! #     pages = 0x20
//! #     attribute = "RUNTIME|WB"
//! #     "#;
//! # let scenario = efibed::Scenario::new(efibed::MemoryMap::parse(map).unwrap());
//! # bed.run(&scenario.mapper(Linear(0xffff_ff00_0000_0000))).unwrap().assert_clean();
//! ```

use ::x86_64::PhysAddr;
use ::x86_64::structures::paging::mapper::PageTableFrameMapping;
use ::x86_64::structures::paging::{FrameAllocator, MappedPageTable, PageTable, PhysFrame, Size4KiB};
use efibed_guest::mapper::page_table::TableReach;
use efibed_guest::mapper::{MapContext, MapError, Tables};

/// The tables of [`MapContext::space`], and the pages to build more.
///
/// The crate has tables of four levels only: with LA57 the mapper gives up, and its log says why.
pub fn page_tables<'c>(
    context: &'c mut MapContext<'_>,
) -> Result<(MappedPageTable<'c, TableMemory>, TablePages<'c>), MapError> {
    let levels = context.space.levels();
    if levels != 4 {
        return Err(context.fail(format_args!("the crate x86_64 builds tables of 4 levels, not {levels}")));
    }
    let memory = TableMemory { reach: context.tables.reach().clone() };
    // SAFETY: a table is 512 entries of 64 bits for either crate, and aligned to a page, as all that is in reach. The
    // context is borrowed for as long as this lives, and `TablePages` gives out pages that are not in use, but refers to none.
    let root = unsafe { &mut *memory.table(context.space.root()) };
    // SAFETY: `memory` reaches all tables, and `root` has below it what the kernel made, and what the mapper did.
    let tables = unsafe { MappedPageTable::new(root, memory) };
    Ok((tables, TablePages { tables: &mut context.tables }))
}

/// The pages that a mapper is given for tables, as frames.
pub struct TablePages<'c> {
    tables: &'c mut Tables,
}

// SAFETY: each page of the pool is given out once, here or by `Tables::allocate` itself.
unsafe impl FrameAllocator<Size4KiB> for TablePages<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.tables.allocate().ok().map(|page| PhysFrame::containing_address(PhysAddr::new(page)))
    }
}

/// How a mapper reaches its tables.
#[derive(Clone, Debug)]
pub struct TableMemory {
    reach: TableReach,
}

impl TableMemory {
    /// What is no table's place is an entry gone wrong. No pointer could be given for it that is fit for use.
    fn table(&self, phys: u64) -> *mut PageTable {
        let table = self.reach.pointer(phys).filter(|_| phys.is_multiple_of(align_of::<PageTable>() as u64));
        table.unwrap_or_else(|| panic!("{}", MapError::TableOutOfReach { table: phys })).cast()
    }
}

// SAFETY: what lies in reach is table memory, of whole pages. For what does not, there is no pointer.
unsafe impl PageTableFrameMapping for TableMemory {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        self.table(frame.start_address().as_u64())
    }
}
