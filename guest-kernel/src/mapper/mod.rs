//! The one door all mapping code goes through: the [`Mapper`] trait, and what it is given.

mod c;
mod error;
pub mod page_table;
mod request;

use core::fmt::{self, Write};
use core::ops::Range;

pub use c::{CFunction, CMapper, Elsewhere};
pub use efibed_stub::memory::{MemoryDescriptor, attribute, memory_type};
pub use error::{MapError, MapStatus};
pub use page_table::{AddressSpace, LeafRule, Tables};
pub use request::{ABI_VERSION, CpuAbilities, KeepRange, Log, MAX_KEEP, MapRequest, MapResult, RegionAtHand};

/// Mapping code: assigns virtual addresses and builds page tables.
///
/// Both phases run in ring 3 of the guest: `map` before anything of its result is loaded, `finish` after firmware was told.
/// They may use what any function of this process may, except for the system: no calls of it, and no other threads. What
/// they change in the process's memory stays in the guest. Under the walker engine they run natively.
pub trait Mapper {
    /// Before SetVirtualAddressMap: maps the regions, hands each mapped one to [`MapContext::push_mapped`] with its
    /// `virt_start`, and returns the tables to load: [`MapContext::space`] with what was added, or others.
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError>;

    /// After SetVirtualAddressMap: drops boot services, tightens permissions, and returns the tables to go on with. Most
    /// mappers have nothing to do.
    fn finish(&mut self, _context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        Ok(space)
    }
}

/// A mapper's two calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// [`Mapper::map`].
    Map,
    /// [`Mapper::finish`].
    Finish,
}

/// Carries out one of a mapper's calls.
///
/// # Safety
/// All of the request's physical ranges must be memory at its `direct_map` which nothing else refers to meanwhile; the
/// pages of the table pool that are not in use yet must be zero.
pub unsafe fn carry_out(mapper: &mut dyn Mapper, step: Step, request: &MapRequest, result: &mut MapResult) {
    let found = *result;
    // SAFETY: as the caller vouches.
    let Some(mut context) = (unsafe { MapContext::new(request, result) }) else {
        (result.status, result.detail) = (MapStatus::BadRequest as u64, 0);
        return;
    };
    let outcome = match step {
        Step::Map => mapper.map(&mut context),
        Step::Finish => {
            let space = AddressSpace::existing(found.root, request.levels);
            mapper.finish(&mut context, space)
        }
    };
    let (mapped, table_pages) = (context.virtual_map.count as u64, context.tables.used_pages());
    (result.mapped, result.table_pages) = (mapped, table_pages);
    result.conclude(outcome.map(AddressSpace::root));
}

/// What a mapper is given: the memory map, pages for tables, and a root that has the kernel's ranges.
pub struct MapContext<'a> {
    /// The EFI memory map, in firmware's order, its stride apart.
    pub memory_map: DescriptorList<'a>,
    /// The Memory Attributes Table's entries; empty where there is none.
    pub attributes_table: DescriptorList<'a>,
    /// The memory map is a list of Linux's own: already merged, and in the order in which Linux maps.
    pub in_mapping_order: bool,
    /// Pages for tables, and the way to reach them.
    pub tables: Tables,
    /// An address space in which the kernel's ranges are mapped already: a mapper has but to add to it.
    pub space: AddressSpace,
    /// The kernel's own address space, to be read.
    pub kernel: AddressSpace,
    /// Virtual ranges of the kernel that must stay mapped as they are.
    pub keep: &'a [KeepRange],
    /// What the CPU can do.
    pub cpu: CpuAbilities,
    virtual_map: VirtualMap<'a>,
    log: Log<'a>,
    request: &'a MapRequest,
    region_at_hand: &'a mut RegionAtHand,
}

impl<'a> MapContext<'a> {
    /// The context that a request describes; None if the request makes no sense.
    ///
    /// # Safety
    /// As [`carry_out`].
    unsafe fn new(request: &'a MapRequest, result: &'a mut MapResult) -> Option<Self> {
        let at =
            |phys: u64| core::ptr::with_exposed_provenance_mut::<u8>(phys.wrapping_add(request.direct_map) as usize);
        let list = |phys: u64, bytes: u64| {
            // SAFETY: as the caller vouches.
            DescriptorList::new(
                unsafe { core::slice::from_raw_parts(at(phys), bytes as usize) },
                request.stride as usize,
            )
        };
        // SAFETY: as the caller vouches.
        let room = |phys: u64, bytes: u64| unsafe { core::slice::from_raw_parts_mut(at(phys), bytes as usize) };
        let virtual_map = VirtualMap {
            bytes: room(request.virtual_map, request.virtual_map_bytes),
            phys: request.virtual_map,
            stride: request.stride as usize,
            count: result.mapped as usize,
        };
        let [reach, pool] = [request.table_reach, request.table_pool].map(|[start, end]| start..end);
        // SAFETY: as the caller vouches; no reference into it outlives a call of the mapper.
        let tables = unsafe { Tables::new(request.direct_map, reach, pool, result.table_pages) };
        let space = |root| AddressSpace::existing(root, request.levels);
        Some(Self {
            memory_map: list(request.memory_map, request.memory_map_bytes)?,
            attributes_table: list(request.attributes_table, request.attributes_table_bytes)?,
            in_mapping_order: request.in_mapping_order != 0,
            tables,
            space: space(request.root),
            kernel: space(request.kernel_root),
            keep: request.keep.get(..request.keep_count as usize)?,
            cpu: request.cpu,
            virtual_map,
            // SAFETY: as the caller vouches.
            log: unsafe { Log::of(request, &mut result.log_used) },
            request,
            region_at_hand: &mut result.region_at_hand,
        })
    }

    /// Adds a line to the log, which the report shows. What finds no room is left out.
    pub fn log(&mut self, line: impl fmt::Display) {
        // The log takes what it can.
        let _ = writeln!(self.log, "{line}");
    }

    /// Logs why the mapper gives up, and gives the error to return.
    pub fn fail(&mut self, why: impl fmt::Display) -> MapError {
        self.log(why);
        MapError::Failed
    }

    /// Says which region is mapped next, so that a mapper that does not end can be reported with it.
    pub fn take_up(&mut self, region: &MemoryDescriptor) {
        // SAFETY: a reference is fit for a write. The compiler sees no reader, so it must not leave the write out.
        unsafe { core::ptr::from_mut(self.region_at_hand).write_volatile(region.into()) };
    }

    /// Adds a mapped region, with its `virt_start`, to the map that SetVirtualAddressMap will be given.
    pub fn push_mapped(&mut self, index: usize, descriptor: &MemoryDescriptor) -> Result<(), MapError> {
        self.virtual_map.push(descriptor).ok_or(MapError::TooManyRegions { index })
    }

    /// How many regions [`Self::push_mapped`] took.
    pub fn mapped_count(&self) -> usize {
        self.virtual_map.count
    }

    /// The mapped region at a place in that map.
    pub fn mapped(&self, index: usize) -> Option<MemoryDescriptor> {
        self.virtual_map.get(index)
    }

    /// Lengthens the mapped region that was added last.
    pub fn extend_mapped(&mut self, pages: u64) {
        if let Some(index) = self.virtual_map.count.checked_sub(1)
            && let Some(last) = self.virtual_map.get(index)
        {
            self.virtual_map.set(index, &MemoryDescriptor { page_count: last.page_count + pages, ..last });
        }
    }

    /// Gives a mapped region its virtual address.
    pub fn set_virtual_start(&mut self, index: usize, virt_start: u64) {
        if let Some(region) = self.virtual_map.get(index) {
            self.virtual_map.set(index, &MemoryDescriptor { virt_start, ..region });
        }
    }

    /// Reverses the mapped regions.
    pub fn reverse_mapped(&mut self) {
        let count = self.virtual_map.count;
        for (low, high) in (0..count / 2).map(|low| (low, count - 1 - low)) {
            if let (Some(first), Some(last)) = (self.virtual_map.get(low), self.virtual_map.get(high)) {
                self.virtual_map.set(low, &last);
                self.virtual_map.set(high, &first);
            }
        }
    }

    /// The physical addresses of the map that SetVirtualAddressMap will be given.
    pub fn virtual_map_used(&self) -> Range<u64> {
        let VirtualMap { phys, stride, count, .. } = self.virtual_map;
        phys..phys + (count * stride) as u64
    }
}

/// Descriptors with firmware's stride, which is larger than the structure (UEFI 2.10, 7.2.3).
#[derive(Clone, Copy)]
pub struct DescriptorList<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> DescriptorList<'a> {
    /// None if the stride is too small, or the memory is not aligned for descriptors.
    pub fn new(bytes: &'a [u8], stride: usize) -> Option<Self> {
        let fits = stride >= size_of::<MemoryDescriptor>() && stride.is_multiple_of(align_of::<MemoryDescriptor>());
        (fits && bytes.as_ptr().addr().is_multiple_of(align_of::<MemoryDescriptor>())).then_some(Self { bytes, stride })
    }

    /// The descriptors in list order.
    pub fn iter(self) -> impl Iterator<Item = &'a MemoryDescriptor> {
        self.bytes.chunks_exact(self.stride).map(|chunk| {
            // SAFETY: `new` checked that the chunk is aligned and at least as large as a descriptor, for which every
            // bit pattern is valid.
            unsafe { &*chunk.as_ptr().cast::<MemoryDescriptor>() }
        })
    }
}

struct VirtualMap<'a> {
    bytes: &'a mut [u8],
    /// Physical address of `bytes`.
    phys: u64,
    stride: usize,
    count: usize,
}

impl VirtualMap<'_> {
    fn push(&mut self, descriptor: &MemoryDescriptor) -> Option<()> {
        self.set(self.count, descriptor)?;
        self.count += 1;
        Some(())
    }

    fn get(&self, index: usize) -> Option<MemoryDescriptor> {
        let start = Some(index).filter(|index| *index < self.count)?.checked_mul(self.stride)?;
        let slot = self.bytes.get(start..start.checked_add(self.stride)?)?;
        // SAFETY: the slot is at least as large as a descriptor (`DescriptorList::new` checked the stride), for which
        // every bit pattern is valid; the read is unaligned, so it asks nothing more of the memory.
        Some(unsafe { slot.as_ptr().cast::<MemoryDescriptor>().read_unaligned() })
    }

    fn set(&mut self, index: usize, descriptor: &MemoryDescriptor) -> Option<()> {
        let start = index.checked_mul(self.stride)?;
        let slot = self.bytes.get_mut(start..start.checked_add(self.stride)?)?;
        // SAFETY: the slot is at least as large as a descriptor (`DescriptorList::new` checked the stride); the write
        // is unaligned, so it asks nothing more of the memory.
        unsafe { slot.as_mut_ptr().cast::<MemoryDescriptor>().write_unaligned(*descriptor) };
        Some(())
    }
}
