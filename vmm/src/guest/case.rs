//! What one run lays beside the kernel: the memory map, what mapping code is asked, the tables that the guest starts on, and the
//! pool. All of it is written anew for each run.
//!
//! The boot tables are among it, since they differ from map to map: they map all of this memory, and firmware's pages.
//!
//! There is no machine yet. Engine walker runs the mapping code on this memory as it is, and boots no kernel: that is left out.

use std::ops::Range;

use efibed_guest::mapper::{ABI_VERSION, CpuAbilities, KeepRange, MAX_KEEP, MapRequest, MapResult, MapStatus};
use efibed_stub::{DESCRIPTOR_STRIDE, DESCRIPTOR_VERSION};

use super::boot_tables::{BootTables, OutOfPages, flags};
use super::image::offset_of;
use super::layout::{DESK_PAGES, DIRECT_MAP, IMAGE_BASE, LOG_AT, RESULT_AT, USER_BASE, USER_BYTES};
use super::stretch::{bytes_of, length, sum};
use super::{Image, Kernel, OwnMemory, PAGE_BYTES, Placement, Sizes};
use crate::machine::{Backing, BackingError};
use crate::memory_map::{ListKind, MemoryDescriptor, MemoryMap};
use crate::mmu::Paging;

/// A guest's memory for one run, laid out.
#[derive(Debug)]
pub struct Case {
    /// The memory itself.
    pub memory: OwnMemory,
    /// What lies where.
    pub placement: Placement,
    /// The image of the kernel that it is laid beside, or would be.
    pub image: &'static Image,
    /// The kernel's own address space.
    pub kernel_root: u64,
    /// The kernel's, and what firmware needs at its physical addresses.
    pub boot_root: u64,
    /// Where the boot tables' pages end that are in use.
    boot_tables_end: u64,
    /// In the pool: the root that the mapper is given, and the pages that it takes.
    given_root: u64,
    given_pages: u64,
    /// Virtual ranges that are the kernel's.
    pub keep: Vec<KeepRange>,
    /// The descriptors' strides.
    pub strides: Strides,
    map_bytes: u64,
    attributes_bytes: u64,
    in_mapping_order: bool,
}

/// Bytes from one descriptor of the memory map to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// In firmware's map, which is its DescriptorSize.
    pub firmware: usize,
    /// What the kernel takes that for: it has the virtual map so.
    pub kernel: usize,
}

impl Default for Strides {
    fn default() -> Self {
        Self { firmware: DESCRIPTOR_STRIDE, kernel: DESCRIPTOR_STRIDE }
    }
}

/// Why a guest's memory cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The host has not enough.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// The sizes that were asked for do not suffice.
    #[error(transparent)]
    BootTables(#[from] OutOfPages),
}

impl Case {
    /// The sizes a guest for `map` needs: `pool_pages` for the mapper, `identity` pages at their physical addresses, and
    /// room for a virtual map of so many `descriptors`, if that is more than the map has.
    pub fn sizes(
        image: &Image,
        map: &MemoryMap,
        strides: Strides,
        descriptors: usize,
        pool_pages: u64,
        identity_pages: u64,
    ) -> Sizes {
        let Strides { firmware, kernel } = strides;
        let map_bytes = descriptors.max(map.descriptors().len()).saturating_mul(firmware.max(kernel));
        let map_pages = (map_bytes as u64).div_ceil(PAGE_BYTES).max(1);
        let attributes = map.attributes_table().len().saturating_mul(kernel);
        let attributes_pages = sum([ATTRIBUTES_HEADER_BYTES, attributes as u64]).div_ceil(PAGE_BYTES);
        let direct = sum([image.pages(), map_pages, map_pages, attributes_pages, DESK_PAGES, pool_pages]);
        // The direct map covers the boot tables too; a page of them maps 511 others at the least.
        let ranges = [image.pages(), sum([direct, direct / 256, 32]), 1, 1, map_pages];
        let identity = std::iter::repeat_n(1, identity_pages as usize);
        let tables = BootTables::pages_for(ranges.into_iter().chain(identity));
        Sizes {
            read_only: bytes_of(image.read_only_pages()),
            image: bytes_of(image.pages()),
            memory_map: bytes_of(map_pages),
            attributes: bytes_of(attributes_pages),
            desk: bytes_of(DESK_PAGES),
            boot_tables: bytes_of(tables),
            pool: bytes_of(pool_pages),
        }
    }

    /// A new kernel's memory, with a case beside it. `identity` are the pages that firmware runs in and on before the switch.
    pub fn new(
        image: &'static Image,
        map: &MemoryMap,
        strides: Strides,
        placement: Placement,
        identity: &[u64],
        paging: &Paging,
    ) -> Result<Self, LoadError> {
        let kernel = Kernel::new(image, Backing::new(placement.sizes.total())?, placement);
        Ok(Self::beside(&kernel, map, strides, identity, paging)?)
    }

    /// Lays a case beside a kernel, in the room that it has for one: all zeros.
    pub fn beside(
        kernel: &Kernel,
        map: &MemoryMap,
        strides: Strides,
        identity: &[u64],
        paging: &Paging,
    ) -> Result<Self, OutOfPages> {
        let (image, memory, placement) = (kernel.image(), kernel.memory().clone(), kernel.placement());
        let map_bytes = descriptor_bytes(map.descriptors(), strides.firmware);
        let attributes = attributes_table(map.attributes_table(), strides.kernel);
        let written = memory.write(placement.memory_map().start, &map_bytes)
            && memory.write(placement.attributes().start, &attributes);
        if !written {
            return Err(OutOfPages);
        }
        let mut case = Self {
            keep: keep(image, &placement),
            memory,
            placement,
            image,
            kernel_root: 0,
            boot_root: 0,
            boot_tables_end: 0,
            given_root: 0,
            given_pages: 0,
            strides,
            map_bytes: map_bytes.len() as u64,
            attributes_bytes: attributes.len() as u64,
            in_mapping_order: map.kind() == ListKind::Runtime,
        };
        case.build_tables(identity, paging)?;
        Ok(case)
    }

    /// What was written to by this, and by mapping code that ran natively, as far as its result says so; by address, none in
    /// another.
    pub fn written(&self) -> [Range<u64>; Self::PARTS] {
        let MapResult { mapped, table_pages, log_used, .. } = self.result();
        let first = |range: Range<u64>, bytes: u64| range.start..range.start.saturating_add(bytes).min(range.end);
        let placement = &self.placement;
        [
            first(placement.memory_map(), self.map_bytes),
            self.virtual_map_at(mapped),
            first(placement.attributes(), self.attributes_bytes),
            first(placement.desk(), PAGE_BYTES),
            first(self.log(), log_used),
            placement.boot_tables().start..self.boot_tables_end,
            first(placement.pool(), bytes_of(table_pages)),
        ]
    }

    /// Where the kernel's tables end. What is left of their room was never written to.
    pub fn boot_tables_end(&self) -> u64 {
        self.boot_tables_end
    }

    /// How many parts [`Self::written`] has.
    pub const PARTS: usize = 7;

    /// Gives the kernel's initialised data the values that it was built with, before a guest is booted. One that was booted here
    /// before may have left others.
    pub fn restore_data(&self) {
        // The image is inside.
        let _ = self.memory.write(self.placement.writable().start, self.image.initialised());
    }

    /// Puts on the desk what the mapper is asked to do, and a result that says that nothing is done yet. `direct_map` is the
    /// virtual minus the physical address of this memory where the mapper runs.
    pub fn ask(&self, cpu: CpuAbilities, direct_map: u64) -> bool {
        let mut keep = [KeepRange::default(); MAX_KEEP];
        for (slot, range) in keep.iter_mut().zip(&self.keep) {
            *slot = *range;
        }
        let pair = |range: Range<u64>| [range.start, range.end];
        let (room, log) = (self.placement.virtual_map(), self.log());
        let request = MapRequest {
            version: ABI_VERSION,
            levels: if cpu.la57 != 0 { 5 } else { 4 },
            direct_map,
            memory_map: self.placement.memory_map().start,
            memory_map_bytes: self.map_bytes,
            stride: self.strides.kernel as u64,
            descriptor_version: DESCRIPTOR_VERSION,
            in_mapping_order: self.in_mapping_order.into(),
            attributes_table: self.placement.attributes().start.wrapping_add(ATTRIBUTES_HEADER_BYTES),
            attributes_table_bytes: self.attributes_bytes.saturating_sub(ATTRIBUTES_HEADER_BYTES),
            virtual_map: room.start,
            virtual_map_bytes: length(&room),
            root: self.given_root,
            kernel_root: self.kernel_root,
            table_reach: [self.placement.boot_tables().start, self.placement.pool().end],
            table_pool: pair(self.placement.pool()),
            log: log.start,
            log_bytes: length(&log),
            cpu,
            keep_count: self.keep.len() as u64,
            keep,
        };
        let result = MapResult { root: self.given_root, table_pages: self.given_pages, ..MapResult::default() };
        self.memory.write_object(self.placement.desk().start, &request)
            && self.memory.write_object(self.result_at(), &result)
    }

    /// Where the request is, for code of this process.
    pub fn request_at(&self) -> u64 {
        self.placement.desk().start
    }

    /// Where the result is.
    pub fn result_at(&self) -> u64 {
        self.placement.desk().start.wrapping_add(RESULT_AT)
    }

    /// What the mapper has answered.
    pub fn result(&self) -> MapResult {
        self.memory.read_object(self.result_at()).unwrap_or_default()
    }

    /// Puts how a program's step ended, by the value of its function: 0 for success.
    pub fn conclude(&self, value: i32) {
        let status = if value == 0 { MapStatus::Done } else { MapStatus::Failed };
        let result = MapResult { status: status as u64, ..self.result() };
        // It lies on the desk.
        let _ = self.memory.write_object(self.result_at(), &result);
    }

    /// What it has logged: whatever is no text is replaced.
    pub fn logged(&self) -> String {
        self.logged_from(0)
    }

    /// The same from a byte on, without white space around it.
    pub fn logged_from(&self, offset: u64) -> String {
        let used = self.result().log_used.min(self.room_for_log());
        let mut bytes = vec![0; used.saturating_sub(offset) as usize];
        // All of it is inside.
        let _ = self.memory.read(self.log().start.saturating_add(offset), &mut bytes);
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Bytes that the log has room for.
    pub fn room_for_log(&self) -> u64 {
        length(&self.log())
    }

    fn log(&self) -> Range<u64> {
        let desk = self.placement.desk();
        desk.start.saturating_add(LOG_AT)..desk.end
    }

    /// Puts descriptors where the virtual map goes; false if there is no room.
    pub fn write_virtual_map(&self, descriptors: &[MemoryDescriptor]) -> bool {
        let (range, mut bytes) = (self.placement.virtual_map(), descriptor_bytes(descriptors, self.strides.kernel));
        let room = length(&range) as usize;
        let fits = bytes.len() <= room;
        bytes.resize(room, 0);
        fits && self.memory.write(range.start, &bytes)
    }

    /// The physical addresses of the virtual map's first `count` descriptors: as many as there is room for.
    pub fn virtual_map_at(&self, count: u64) -> Range<u64> {
        let room = self.placement.virtual_map();
        let bytes = count.saturating_mul(self.strides.kernel as u64);
        room.start..room.start.saturating_add(bytes).min(room.end)
    }

    /// The first `count` descriptors of the virtual map, as the mapper left them.
    pub fn virtual_map(&self, count: u64) -> Vec<MemoryDescriptor> {
        let range = self.placement.virtual_map();
        (range.start..range.end)
            .step_by(self.strides.kernel)
            .take(usize::try_from(count).unwrap_or(usize::MAX))
            .map_while(|at| self.descriptor(at))
            .collect()
    }

    /// The physical address of an address in the image.
    pub fn physical(&self, image_address: u64) -> u64 {
        self.placement.base.wrapping_add(offset_of(image_address))
    }

    /// Whether the guest lives at this physical address.
    pub fn owns(&self, pa: u64) -> bool {
        (self.memory.base()..self.memory.end()).contains(&pa)
    }

    fn descriptor(&self, at: u64) -> Option<MemoryDescriptor> {
        let word = |offset: u64| self.memory.read_u64(at.saturating_add(offset));
        Some(MemoryDescriptor {
            ty: crate::memory_map::MemoryType(word(0)? as u32),
            phys_start: word(8)?,
            virt_start: word(16)?,
            padding: 0,
            page_count: word(24)?,
            att: crate::memory_map::MemoryAttribute::from_bits_retain(word(32)?),
        })
    }

    fn build_tables(&mut self, identity: &[u64], paging: &Paging) -> Result<(), OutOfPages> {
        let nx = if paging.nxe { flags::NX } else { 0 };
        let (text, data) = (flags::P, flags::P | flags::W | nx);
        let header = self.image.header();
        let range = self.placement.boot_tables();
        let levels = if paging.la57 { 5 } else { 4 };
        let mut tables = BootTables::new(&self.memory, range.start, range.end, levels);

        let kernel = tables.root()?;
        let fixed = self.image.read_only_pages();
        let base = self.placement.base;
        tables.map(kernel, IMAGE_BASE, base, fixed, text)?;
        let (writable, writable_pages) = (self.placement.writable().start, self.image.pages().saturating_sub(fixed));
        tables.map(kernel, IMAGE_BASE.wrapping_add(bytes_of(fixed)), writable, writable_pages, data)?;
        let all = self.placement.sizes.total() / PAGE_BYTES;
        tables.map(kernel, DIRECT_MAP.wrapping_add(base), base, all, data)?;
        tables.map(kernel, USER_BASE, self.physical(header.user_text), 1, text | flags::U)?;
        let stack = self.physical(header.user_stack);
        tables.map(kernel, USER_BASE + PAGE_BYTES, stack, 1, data | flags::U)?;

        let boot = if identity.is_empty() { kernel } else { tables.copy_root(kernel)? };
        let map = self.placement.virtual_map();
        for page in identity.iter().copied().chain(map.step_by(PAGE_BYTES as usize)).filter(|_| boot != kernel) {
            tables.map(boot, page, page, 1, flags::P | flags::W)?;
        }
        (self.kernel_root, self.boot_root, self.boot_tables_end) = (kernel, boot, tables.next());
        let pool = self.placement.pool();
        if !pool.is_empty() {
            let mut tables = BootTables::new(&self.memory, pool.start, pool.end, levels);
            let root = tables.root()?;
            for KeepRange { first, last } in &self.keep {
                tables.share(root, kernel, *first, *last)?;
            }
            (self.given_root, self.given_pages) = (root, length(&(pool.start..tables.next())) / PAGE_BYTES);
        }
        Ok(())
    }
}

/// The virtual ranges that a mapper must leave alone.
fn keep(image: &Image, placement: &Placement) -> Vec<KeepRange> {
    let range = |first: u64, bytes: u64| KeepRange { first, last: first.wrapping_add(bytes).wrapping_sub(1) };
    vec![
        range(IMAGE_BASE, bytes_of(image.pages())),
        range(DIRECT_MAP.wrapping_add(placement.base), placement.sizes.total()),
        range(USER_BASE, USER_BYTES),
    ]
}

/// Bytes of EFI_MEMORY_ATTRIBUTES_TABLE before its entries (UEFI 2.10, 4.6.4).
const ATTRIBUTES_HEADER_BYTES: u64 = 16;

/// EFI_MEMORY_ATTRIBUTES_TABLE of version 1: Version, NumberOfEntries, DescriptorSize, Reserved, and the entries.
fn attributes_table(entries: &[MemoryDescriptor], stride: usize) -> Vec<u8> {
    let header = [1, entries.len() as u32, stride as u32, 0];
    header.into_iter().flat_map(u32::to_le_bytes).chain(descriptor_bytes(entries, stride)).collect()
}

fn descriptor_bytes(descriptors: &[MemoryDescriptor], stride: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(descriptors.len().saturating_mul(stride));
    for d in descriptors {
        let end = bytes.len().saturating_add(stride);
        for word in [u64::from(d.ty.0), d.phys_start, d.virt_start, d.page_count, d.att.bits()] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.resize(end, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mapper in the guest may claim to have mapped any number of regions.
    #[test]
    fn a_mappers_count_is_held_to_the_room_there_is() {
        let map = MemoryMap::from_descriptors("test", vec![MemoryDescriptor::default()]);
        let image = Image::built_in().unwrap();
        let sizes = Case::sizes(image, &map, Strides::default(), 0, 64, 0);
        let placement = Placement::find(&map, sizes, 1 << 36, &[]).unwrap();
        let case = Case::new(image, &map, Strides::default(), placement, &[], &Paging::default()).unwrap();
        let most = PAGE_BYTES / DESCRIPTOR_STRIDE as u64;
        for count in [most + 1, 1 << 60, 1 << 63, u64::MAX / 48 + 1, u64::MAX] {
            assert_eq!(case.virtual_map_at(count), placement.virtual_map(), "{count:#x}");
            assert!(case.virtual_map(count).len() as u64 <= most + 1, "{count:#x}");
        }
    }
}
