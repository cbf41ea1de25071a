//! The one door all mapping code goes through: the [`Mapper`] trait, what it is given, and the built-in layouts.

use core::ops::Range;

use efibed_stub::memory::{MemoryDescriptor, attribute, memory_type};

use crate::error::MapError;
use crate::layout::{Allocator, Layout, is_mapped};
use crate::linux;
use crate::page_table::{AddressSpace, LeafRule, Mapping, NX, PAGE_BYTES, PCD, PWT, Tables, WRITABLE};
use crate::protocol::{CpuAbilities, KeepRange, MapRequest, RegionAtHand};

/// Mapping code: assigns virtual addresses and builds page tables.
///
/// Both phases run in the guest: `map` on the kernel's tables, before anything of its result is loaded, `finish` on the
/// finished ones. Under the walker engine they run natively.
pub trait Mapper {
    /// Before SetVirtualAddressMap: maps the regions, hands each mapped one to [`MapContext::push_mapped`] with its
    /// `virt_start`, and returns the root to load.
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError>;

    /// After SetVirtualAddressMap: drops boot services, tightens permissions, and returns the root to go on with. Most
    /// layouts have nothing to do.
    fn finish(&mut self, _context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        Ok(space)
    }
}

/// What a mapper is given: the memory map, pages for tables, the kernel's root and what must stay mapped.
pub struct MapContext<'a> {
    /// The EFI memory map, in firmware's order, `stride` bytes apart.
    pub memory_map: DescriptorList<'a>,
    /// The Memory Attributes Table's entries; empty where there is none.
    pub attributes_table: DescriptorList<'a>,
    /// The memory map is a list of Linux's own: already merged, and in the order in which Linux maps.
    pub in_mapping_order: bool,
    /// Pages for tables, and the way to reach them.
    pub tables: Tables,
    /// The kernel's own address space.
    pub kernel: AddressSpace,
    /// Virtual ranges of the kernel that must stay mapped as they are (first, last).
    pub keep: &'a [KeepRange],
    /// What the CPU can do.
    pub cpu: CpuAbilities,
    virtual_map: VirtualMap<'a>,
    region_at_hand: &'a mut RegionAtHand,
}

impl<'a> MapContext<'a> {
    /// The context that a request describes; None if the request makes no sense. `offset` is the virtual minus the
    /// physical address of the memory it names: the direct map in the guest, something else natively.
    ///
    /// # Safety
    /// All of the request's physical ranges must be memory at that offset which nothing else refers to while the context
    /// lives; the table pool must be zeroed.
    pub unsafe fn from_request(request: &'a MapRequest, offset: u64) -> Option<Self> {
        let bytes = request.memory_map_bytes as usize;
        let at = |phys: u64| core::ptr::with_exposed_provenance_mut::<u8>(phys.wrapping_add(offset) as usize);
        // SAFETY: as the caller vouches.
        let (memory_map, attributes_table, virtual_map, region_at_hand) = unsafe {
            (
                core::slice::from_raw_parts(at(request.memory_map), bytes),
                core::slice::from_raw_parts(at(request.attributes_table), request.attributes_table_bytes as usize),
                core::slice::from_raw_parts_mut(at(request.virtual_map), bytes),
                &mut *at(request.region_at_hand).cast::<RegionAtHand>(),
            )
        };
        let stride = request.stride as usize;
        let memory_map = DescriptorList::new(memory_map, stride)?;
        let attributes_table = DescriptorList::new(attributes_table, stride)?;
        let virtual_map = VirtualMap { bytes: virtual_map, phys: request.virtual_map, stride, count: 0 };
        let [reach, pool] = [request.table_reach, request.table_pool].map(|[start, end]| start..end);
        // SAFETY: as the caller vouches; no reference into it outlives a call of the mapper.
        let tables = unsafe { Tables::new(offset, reach, pool) };
        let kernel = AddressSpace::existing(request.kernel_root, request.levels as u32);
        let keep = request.keep.get(..request.keep_count as usize)?;
        let in_mapping_order = request.in_mapping_order != 0;
        let cpu = request.cpu;
        Some(Self {
            memory_map,
            attributes_table,
            in_mapping_order,
            tables,
            kernel,
            keep,
            cpu,
            virtual_map,
            region_at_hand,
        })
    }

    /// Says which region is mapped next, so that a mapper that does not end can be reported with it.
    pub fn take_up(&mut self, region: &MemoryDescriptor) {
        let MemoryDescriptor { phys_start, page_count, .. } = *region;
        // SAFETY: a reference is fit for a write. The compiler sees no reader, so it must not leave the write out.
        unsafe { core::ptr::from_mut(self.region_at_hand).write_volatile(RegionAtHand { phys_start, page_count }) };
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
    pub(crate) fn extend_mapped(&mut self, pages: u64) {
        if let Some(index) = self.virtual_map.count.checked_sub(1)
            && let Some(last) = self.virtual_map.get(index)
        {
            self.virtual_map.set(index, &MemoryDescriptor { page_count: last.page_count + pages, ..last });
        }
    }

    /// Gives a mapped region its virtual address.
    pub(crate) fn set_virtual_start(&mut self, index: usize, virt_start: u64) {
        if let Some(region) = self.virtual_map.get(index) {
            self.virtual_map.set(index, &MemoryDescriptor { virt_start, ..region });
        }
    }

    /// Reverses the mapped regions.
    pub(crate) fn reverse_mapped(&mut self) {
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

    /// A new address space that shares all of the kernel's except what lies in `arena`.
    ///
    /// Tables that lie on the border (the EFI window and the top 2 GiB share PML4\[511\] *and* one PDPT) are copied as
    /// far as needed, so the mapper writes only to its own.
    pub fn share_kernel(&mut self, arena: Range<u64>) -> Result<AddressSpace, MapError> {
        let space = AddressSpace::new(&mut self.tables, self.kernel.levels())?;
        for keep in self.keep {
            space.share(&mut self.tables, self.kernel, keep.first, keep.last, &arena)?;
        }
        Ok(space)
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

/// The built-in layouts with a rule for the size of leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayoutMapper {
    /// Where regions go.
    pub layout: Layout,
    /// Which leaves map them.
    pub leaf_rule: LeafRule,
}

impl Mapper for LayoutMapper {
    fn map(&mut self, context: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
        let Self { layout, leaf_rule } = *self;
        match layout {
            Layout::Linux | Layout::LinuxFixed => linux::map(context, layout, leaf_rule),
            Layout::Window | Layout::PackedDown | Layout::PackedUp => map_in_list_order(context, layout, leaf_rule),
        }
    }

    fn finish(&mut self, context: &mut MapContext<'_>, space: AddressSpace) -> Result<AddressSpace, MapError> {
        match self.layout {
            Layout::Linux => linux::finish(context, space),
            _ => Ok(space),
        }
    }
}

fn map_in_list_order(
    context: &mut MapContext<'_>,
    layout: Layout,
    leaf_rule: LeafRule,
) -> Result<AddressSpace, MapError> {
    let mut allocator = Allocator::new(layout, context.memory_map.iter())?;
    let space = context.share_kernel(layout.arena())?;
    for (index, descriptor) in context.memory_map.iter().enumerate().filter(|(_, region)| is_mapped(region)) {
        // Firmware adds `virt_start - phys_start` to its pointers, so an unaligned start keeps its offset.
        let Some(virt_start) = allocator.place(index, descriptor)? else { continue };
        context.take_up(descriptor);
        let [virt, phys] = [virt_start, descriptor.phys_start].map(|start| start & !(PAGE_BYTES - 1));
        let mapping =
            Mapping { flags: leaf_flags(descriptor, context.cpu), leaf_rule, gbpages: context.cpu.gbpages != 0 };
        space.map(&mut context.tables, virt, phys, descriptor.page_count * PAGE_BYTES, mapping)?;
        context.push_mapped(index, &MemoryDescriptor { virt_start, ..*descriptor })?;
    }
    Ok(space)
}

/// Read and write for all, execute for code, and the first cache type of WB, WT, UC- that the region can have;
/// UC- if it names none of them, as in Linux.
fn leaf_flags(descriptor: &MemoryDescriptor, cpu: CpuAbilities) -> u64 {
    let code = matches!(descriptor.ty, memory_type::BOOT_SERVICES_CODE | memory_type::RUNTIME_SERVICES_CODE);
    let execute = if code || cpu.nx == 0 { 0 } else { NX };
    let cache = match descriptor.attribute {
        a if a & attribute::WB != 0 => 0,
        a if a & attribute::WT != 0 && a & attribute::UC == 0 => PWT,
        _ => PCD,
    };
    WRITABLE | execute | cache
}
