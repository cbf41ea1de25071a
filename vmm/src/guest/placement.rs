//! Where in physical memory the guest lives.
//!
//! It must not lie where a region under test is: in Conventional memory, else LoaderData, else a hole of the map.

use std::ops::Range;

use super::PAGE_BYTES;
use super::layout::{DIRECT_MAP_BYTES, LOWEST, USUAL_INTERNALS};
use super::stretch::{bytes_of, stretch, sum};
use crate::machine::{APIC_PAGE, Internals};
use crate::memory_map::{MemoryMap, MemoryType, Region};
use crate::mmu::Pa;

/// Bytes of the parts a guest's memory has, each a multiple of the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The read-only part of the image.
    pub read_only: u64,
    /// The whole image.
    pub image: u64,
    /// The memory map, and as much again for the virtual map.
    pub memory_map: u64,
    /// The Memory Attributes Table.
    pub attributes: u64,
    /// What mapping code is asked, answers and logs.
    pub desk: u64,
    /// The tables the guest starts on.
    pub boot_tables: u64,
    /// Pages for the mapper's tables.
    pub pool: u64,
}

/// Physical addresses of everything a guest owns, one part after another from `base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The first byte.
    pub base: u64,
    /// How large the parts are.
    pub sizes: Sizes,
}

/// No place is large enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{who} needs {bytes:#x} bytes of Conventional or LoaderData memory, or of addresses that no descriptor names, below \
     {limit:#x}"
)]
pub struct NoRoom {
    /// For whom there is none.
    pub who: &'static str,
    /// What it needs.
    pub bytes: u64,
    /// Where the addresses end that it could use.
    pub limit: u64,
}

impl Sizes {
    /// All of it.
    pub fn total(&self) -> u64 {
        sum(self.parts())
    }

    /// The parts in their order. Behind the memory map there is as much room for the virtual map.
    fn parts(&self) -> [u64; 7] {
        [self.image, self.memory_map, self.memory_map, self.attributes, self.desk, self.boot_tables, self.pool]
    }
}

impl Placement {
    /// Finds room below physical address `limit`, off what is `taken`.
    pub fn find(map: &MemoryMap, sizes: Sizes, limit: u64, taken: &[Range<u64>]) -> Result<Self, NoRoom> {
        Self::find_at(None, map, sizes, limit, taken)
    }

    /// The same, at `wish` if there is room.
    pub fn find_at(
        wish: Option<u64>,
        map: &MemoryMap,
        sizes: Sizes,
        limit: u64,
        taken: &[Range<u64>],
    ) -> Result<Self, NoRoom> {
        let (bytes, limit) = (sizes.total(), limit.min(DIRECT_MAP_BYTES));
        let base = room(wish, map, bytes, limit, taken).ok_or(NoRoom { who: "the guest", bytes, limit })?;
        Ok(Self { base, sizes })
    }

    /// Finds room for so many bytes more, off the guest's memory and off what is `taken`: at `wish`, if there is some.
    pub fn more_at(
        &self,
        wish: Option<u64>,
        map: &MemoryMap,
        bytes: u64,
        limit: u64,
        taken: &[Range<u64>],
    ) -> Result<u64, NoRoom> {
        let taken: Vec<_> = taken.iter().cloned().chain([self.all()]).collect();
        room(wish, map, bytes, limit, &taken).ok_or(NoRoom { who: "the mapping code", bytes, limit })
    }

    /// Finds room for KVM's own pages, off the guest's and off what it has `more`.
    pub fn internals(&self, map: &MemoryMap, more: Range<u64>) -> Result<Internals, NoRoom> {
        let own = [self.all(), more];
        let usual = Self::usual_internals();
        let free = |range: &Range<u64>| own.iter().all(|own| own.end <= range.start || range.end <= own.start);
        if Self::tolerates(map, &usual) && usual.ranges().iter().all(free) {
            return Ok(usual);
        }
        let (bytes, limit) = (4 * PAGE_BYTES, 1 << 32);
        let pages = room(None, map, bytes, limit, &own).ok_or(NoRoom { who: "KVM", bytes, limit })?;
        let tss_pages_at = Pa(pages);
        Ok(Internals { tss_pages_at, identity_map_page_at: tss_pages_at.wrapping_add(3 * PAGE_BYTES) })
    }

    /// Where KVM's own pages go if nothing is in the way: out of the way of most maps, and always the same.
    pub const fn usual_internals() -> Internals {
        USUAL_INTERNALS
    }

    /// Whether a machine's own pages lie off everything the map names and wants for itself.
    pub fn tolerates(map: &MemoryMap, internals: &Internals) -> bool {
        let meets = |region: &Region, range: &Range<u64>| {
            extent(region).is_some_and(|extent| extent.start < range.end && range.start < extent.end)
        };
        internals.ranges().iter().all(|range| !map.regions().any(|region| !is_free(&region) && meets(&region, range)))
    }

    /// All of it.
    pub fn all(&self) -> Range<u64> {
        stretch(self.base, self.sizes.total())
    }

    /// The image.
    pub fn image(&self) -> Range<u64> {
        let [image, ..] = self.parts();
        image
    }

    /// What follows the read-only part of the image.
    pub fn writable(&self) -> Range<u64> {
        let all = self.all();
        all.start.saturating_add(self.sizes.read_only)..all.end
    }

    /// The memory map that firmware hands over.
    pub fn memory_map(&self) -> Range<u64> {
        let [_, memory_map, ..] = self.parts();
        memory_map
    }

    /// The map that SetVirtualAddressMap is given.
    pub fn virtual_map(&self) -> Range<u64> {
        let [_, _, virtual_map, ..] = self.parts();
        virtual_map
    }

    /// The Memory Attributes Table's entries.
    pub fn attributes(&self) -> Range<u64> {
        let [_, _, _, attributes, ..] = self.parts();
        attributes
    }

    /// The request to the mapping code, its result and its log.
    pub fn desk(&self) -> Range<u64> {
        let [.., desk, _, _] = self.parts();
        desk
    }

    /// The tables the guest starts on.
    pub fn boot_tables(&self) -> Range<u64> {
        let [.., boot_tables, _] = self.parts();
        boot_tables
    }

    /// The mapper's pages.
    pub fn pool(&self) -> Range<u64> {
        let [.., pool] = self.parts();
        pool
    }

    /// Where tables may lie: those the guest starts on, and the mapper's, which has taken so many pages of the pool.
    pub fn tables(&self, taken: u64) -> Range<u64> {
        let pool = self.pool();
        self.boot_tables().start..stretch(pool.start, bytes_of(taken)).end.min(pool.end)
    }

    fn parts(&self) -> [Range<u64>; 7] {
        let mut end = self.base;
        self.sizes.parts().map(|bytes| {
            let part = stretch(end, bytes);
            end = part.end;
            part
        })
    }
}

/// Memory that nobody maps. A descriptor of any type may have RUNTIME.
fn is_free(region: &Region) -> bool {
    is_of(region, MemoryType::CONVENTIONAL) || is_of(region, MemoryType::LOADER_DATA)
}

fn is_of(region: &Region, ty: MemoryType) -> bool {
    region.ty == ty && !region.is_mapped()
}

/// Whether nothing is in the way of a range.
fn is_room(map: &MemoryMap, range: Range<u64>, limit: u64, taken: &[Range<u64>]) -> bool {
    let mut obstacles = occupied(map, taken, is_free).into_iter();
    let is_usable = LOWEST <= range.start && range.start < range.end && range.end <= limit;
    is_usable && obstacles.all(|obstacle| obstacle.end <= range.start || range.end <= obstacle.start)
}

/// Room of `bytes` at `wish`, or else the lowest in the first kind of place that has any.
fn room(wish: Option<u64>, map: &MemoryMap, bytes: u64, limit: u64, taken: &[Range<u64>]) -> Option<u64> {
    if let Some(at) = wish.filter(|at| is_room(map, stretch(*at, bytes), limit, taken)) {
        return Some(at);
    }
    let of_type = |ty| {
        let places = map.regions().filter(|region| is_of(region, ty)).filter_map(|r| extent(&r)).collect();
        first_fit(places, occupied(map, taken, |region| is_of(region, ty)), bytes, limit)
    };
    of_type(MemoryType::CONVENTIONAL).or_else(|| of_type(MemoryType::LOADER_DATA)).or_else(|| {
        let anywhere = std::iter::once(0..limit).collect();
        first_fit(anywhere, occupied(map, taken, |_| false), bytes, limit)
    })
}

/// Everything that is in the way, by address: all regions but those of the kind looked for, and what is not memory to KVM.
fn occupied(map: &MemoryMap, taken: &[Range<u64>], free: impl Fn(&Region) -> bool) -> Vec<Range<u64>> {
    let regions = map.regions().filter(|region| !free(region)).filter_map(|region| extent(&region));
    let mut all: Vec<_> = regions.chain(taken.iter().cloned()).chain([APIC_PAGE]).collect();
    all.sort_unstable_by_key(|range| range.start);
    all
}

fn first_fit(mut places: Vec<Range<u64>>, occupied: Vec<Range<u64>>, bytes: u64, limit: u64) -> Option<u64> {
    places.sort_unstable_by_key(|range| range.start);
    let mut obstacles = occupied.iter().peekable();
    let mut free_from = LOWEST;
    for place in places {
        free_from = free_from.max(place.start);
        let end = place.end.min(limit);
        loop {
            // Obstacles come by start address, so what lies below the place so far is behind us for good.
            while obstacles.peek().is_some_and(|o| o.end <= free_from) {
                obstacles.next();
            }
            let gap_end = obstacles.peek().map_or(end, |o| o.start.min(end));
            if gap_end.checked_sub(free_from).is_some_and(|gap| gap >= bytes) {
                return Some(free_from);
            }
            match obstacles.peek() {
                Some(obstacle) if obstacle.start < end => free_from = free_from.max(obstacle.end),
                _ => break,
            }
        }
    }
    None
}

/// Whole pages that a region touches; None if it has none. One that wraps is left out: it cannot be mapped, and may seem
/// to hold everything there is.
fn extent(region: &Region) -> Option<Range<u64>> {
    let start = region.phys & !(PAGE_BYTES - 1);
    let end = u64::try_from(region.end()).unwrap_or(u64::MAX);
    let end = end.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
    (region.pages > 0 && !region.wraps()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::{MemoryAttribute, MemoryDescriptor};

    const SIZES: Sizes = Sizes {
        read_only: 0x4000,
        image: 0x10000,
        memory_map: 0x1000,
        attributes: 0x1000,
        desk: 0x4000,
        boot_tables: 0x4000,
        pool: 0x10000,
    };

    fn map(regions: &[(MemoryType, u64, u64)]) -> MemoryMap {
        let descriptors = regions.iter().map(|&(ty, phys_start, page_count)| MemoryDescriptor {
            ty,
            phys_start,
            page_count,
            virt_start: 0,
            padding: 0,
            att: MemoryAttribute::WRITE_BACK,
        });
        MemoryMap::from_descriptors("test", descriptors.collect())
    }

    #[test]
    fn conventional_memory_comes_first_and_overlaps_are_avoided() {
        let map = map(&[
            (MemoryType::LOADER_DATA, 0x10_0000, 0x100),
            (MemoryType::CONVENTIONAL, 0x100_0000, 0x200),
            (MemoryType::RUNTIME_SERVICES_DATA, 0x100_0000, 0x10),
        ]);
        let placement = Placement::find(&map, SIZES, 1 << 36, &[]).unwrap();
        assert_eq!(placement.base, 0x101_0000);
        assert_eq!(placement.pool().end, placement.base + SIZES.total());
    }

    #[test]
    fn memory_that_is_to_be_mapped_is_not_free() {
        let mut descriptors =
            map(&[(MemoryType::CONVENTIONAL, 0x10_0000, 0x100), (MemoryType::CONVENTIONAL, 0x40_0000, 0x100)])
                .descriptors()
                .to_vec();
        descriptors[0].att |= MemoryAttribute::RUNTIME;
        let map = MemoryMap::from_descriptors("test", descriptors);
        assert_eq!(Placement::find(&map, SIZES, 1 << 36, &[]).unwrap().base, 0x40_0000);
    }

    #[test]
    fn the_local_apics_page_is_not_memory() {
        let map = map(&[(MemoryType::CONVENTIONAL, 0xfedf_0000, 0x100), (MemoryType::RESERVED, 0, 0xf_0000)]);
        assert_eq!(Placement::find(&map, SIZES, 1 << 36, &[]).unwrap().base, 0xfee0_1000);
    }

    #[test]
    fn loader_data_comes_second_and_holes_last() {
        let data = map(&[(MemoryType::LOADER_DATA, 0x10_0000, 0x100), (MemoryType::RESERVED, 0, 0x100)]);
        assert_eq!(Placement::find(&data, SIZES, 1 << 36, &[]).unwrap().base, 0x10_0000);
        let none = map(&[(MemoryType::RESERVED, 0, 0x200)]);
        assert_eq!(Placement::find(&none, SIZES, 1 << 36, &[]).unwrap().base, 0x20_0000);
    }

    #[test]
    fn a_guest_lies_where_it_is_wished_unless_something_is_there() {
        let map = map(&[
            (MemoryType::CONVENTIONAL, 0x10_0000, 0x1f00),
            (MemoryType::RUNTIME_SERVICES_DATA, 0x200_0000, 0x10),
            (MemoryType::LOADER_DATA, 0x300_0000, 0x1000),
        ]);
        let taken = 0x380_0000..0x380_1000;
        let at =
            |wish| Placement::find_at(Some(wish), &map, SIZES, 1 << 36, std::slice::from_ref(&taken)).unwrap().base;
        let usual = Placement::find(&map, SIZES, 1 << 36, &[]).unwrap().base;
        assert_eq!(at(0x100_0000), 0x100_0000);
        // LoaderData, and a hole.
        assert_eq!([at(0x300_0000), at(0x1_0000_0000)], [0x300_0000, 0x1_0000_0000]);
        // Runtime data, what is taken, the local APIC's page, past the limit, page 0, addresses that wrap.
        let too_high = (1 << 36) - SIZES.total() + PAGE_BYTES;
        for wish in [0x200_0000, taken.start - PAGE_BYTES, 0xfee0_0000, too_high, 0, !0xfff] {
            assert_eq!(at(wish), usual, "{wish:#x}");
        }
    }

    #[test]
    fn a_full_map_has_no_room() {
        let full = map(&[(MemoryType::RUNTIME_SERVICES_DATA, 0, 1 << 24)]);
        let refusal = Placement::find(&full, SIZES, 1 << 36, &[]).unwrap_err();
        assert_eq!(refusal, NoRoom { who: "the guest", bytes: SIZES.total(), limit: 1 << 36 });
    }

    #[test]
    fn a_region_that_wraps_is_in_nobodys_way() {
        let found = |pages| {
            let map = map(&[(MemoryType::RESERVED, 0x1000, pages), (MemoryType::CONVENTIONAL, 0x10_0000, 0x100)]);
            Placement::find(&map, SIZES, 1 << 36, &[]).ok().map(|found| found.base)
        };
        assert_eq!(found(1 << 52), Some(0x10_0000));
        assert_eq!(found(1 << 40), None);
    }

    #[test]
    fn a_machines_own_pages_are_avoided() {
        let map = map(&[(MemoryType::CONVENTIONAL, 0x10_0000, 0x1000)]);
        let internals = Internals { tss_pages_at: Pa(0x10_0000), identity_map_page_at: Pa(0x10_3000) };
        let placement = Placement::find(&map, SIZES, 1 << 36, &internals.ranges()).unwrap();
        assert_eq!(placement.base, 0x10_4000);
    }
}
