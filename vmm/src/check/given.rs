//! The map handed to SetVirtualAddressMap, entry by entry, and whose regions its entries are.

use std::collections::HashMap;

use super::closed_form::Addresses;
use crate::memory_map::{MemoryDescriptor, MemoryMap, Region, end_of_pages};
use crate::mmu::{Pa, Va};

/// What a mapper gave: entries that stand for one region each, or for several that it merged.
pub struct Given {
    /// By type and attributes; by address within.
    entries: HashMap<(u32, u64), Vec<Entry>>,
    /// By region.
    starts: HashMap<usize, Va>,
}

struct Entry {
    phys: Pa,
    pages: u64,
    virt: Va,
    /// Of its pages, those that are some region's.
    claimed: u64,
}

impl Entry {
    /// Takes a region's pages; where the entry puts them.
    fn claim(&mut self, region: &Region) -> Va {
        self.claimed = self.claimed.saturating_add(region.pages);
        self.virt.wrapping_add(Pa(region.phys).wrapping_offset_from(self.phys))
    }

    /// Whether it reaches over the region, and has as many pages that are still free.
    fn has_room_for(&self, region: &Region) -> bool {
        let end = end_of_pages(self.phys.0, self.pages);
        let free = self.pages.saturating_sub(self.claimed);
        self.phys.0 <= region.phys && region.end() <= end && (1..=free).contains(&region.pages)
    }
}

impl Given {
    /// The map's entries, of which nothing is known yet.
    pub fn new(virtual_map: &[MemoryDescriptor]) -> Self {
        let mut entries: HashMap<_, Vec<Entry>> = HashMap::new();
        for d in virtual_map {
            let (phys, virt) = (Pa(d.phys_start), Va(d.virt_start));
            let entry = Entry { phys, pages: d.page_count, virt, claimed: 0 };
            entries.entry((d.ty.0, d.att.bits())).or_default().push(entry);
        }
        entries.values_mut().for_each(|alike| alike.sort_by_key(|entry| (entry.phys, entry.pages)));
        Self { entries, starts: HashMap::new() }
    }

    /// Finds each region's entry. Where descriptors overlap several may do: the one that gives the region the address it
    /// should have, before its own, and that before one it may have been merged into.
    pub fn claim(&mut self, map: &MemoryMap, expected: &Addresses) {
        self.claim_expected(map, expected);
        for of_its_own in [true, false] {
            for region in map.regions() {
                if self.starts.contains_key(&region.index) {
                    continue;
                }
                let Some(alike) = self.entries.get_mut(&(region.ty.0, region.attribute.bits())) else { continue };
                let entry = if of_its_own { own_entry(alike, &region) } else { merged_entry(alike, &region) };
                if let Some(entry) = entry {
                    self.starts.insert(region.index, entry.claim(&region));
                }
            }
        }
    }

    fn claim_expected(&mut self, map: &MemoryMap, expected: &Addresses) {
        let mut by_distance: HashMap<_, Vec<&mut Entry>> = HashMap::new();
        for (&(ty, attribute), alike) in &mut self.entries {
            for entry in alike {
                let distance = entry.virt.0.wrapping_sub(entry.phys.0);
                by_distance.entry((ty, attribute, distance)).or_default().push(entry);
            }
        }
        for region in map.regions() {
            let Some(virt) = expected.get(&region.index).copied().flatten() else { continue };
            let key = (region.ty.0, region.attribute.bits(), virt.0.wrapping_sub(region.phys));
            let Some(alike) = by_distance.get_mut(&key) else { continue };
            let to = alike.partition_point(|entry| entry.phys.0 <= region.phys);
            if let Some(entry) = alike[..to].last_mut().filter(|entry| entry.has_room_for(&region)) {
                self.starts.insert(region.index, entry.claim(&region));
            }
        }
    }

    /// VirtualStart for a region, if there is one.
    pub fn virtual_start(&self, region: &Region) -> Option<Va> {
        self.starts.get(&region.index).copied()
    }

    /// VirtualStart of each entry that is not, page by page, some regions of the memory map.
    pub fn unclaimed(&self) -> Vec<Va> {
        let mut all: Vec<_> = self.entries.values().flatten().collect();
        all.sort_by_key(|entry| (entry.phys, entry.virt));
        all.retain(|entry| entry.claimed != entry.pages);
        all.into_iter().map(|entry| entry.virt).collect()
    }
}

/// The first entry for exactly this region that is still free: of equal ones, those before it are not.
fn own_entry<'a>(alike: &'a mut [Entry], region: &Region) -> Option<&'a mut Entry> {
    let free = (Pa(region.phys), region.pages, true);
    let key = |entry: &Entry| (entry.phys, entry.pages, entry.claimed == 0);
    let index = alike.partition_point(|entry| key(entry) < free);
    alike.get_mut(index).filter(|entry| key(entry) == free)
}

/// The entry that holds this region among others.
fn merged_entry<'a>(alike: &'a mut [Entry], region: &Region) -> Option<&'a mut Entry> {
    let from = alike.partition_point(|entry| entry.phys.0 <= region.phys);
    alike[..from].last_mut().filter(|entry| entry.has_room_for(region))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::{MemoryAttribute, MemoryType};

    fn map(ranges: &[(u64, u64, u64)]) -> MemoryMap {
        let descriptor = |&(phys_start, virt_start, page_count): &(u64, u64, u64)| MemoryDescriptor {
            ty: MemoryType::RUNTIME_SERVICES_DATA,
            att: MemoryAttribute::RUNTIME,
            phys_start,
            virt_start,
            page_count,
            ..Default::default()
        };
        MemoryMap::from_descriptors("test", ranges.iter().map(descriptor).collect())
    }

    fn starts(regions: &[(u64, u64)], virtual_map: &[(u64, u64, u64)]) -> (Vec<Option<u64>>, Vec<u64>) {
        starts_where(regions, &[], virtual_map)
    }

    fn starts_where(
        regions: &[(u64, u64)],
        expected: &[u64],
        virtual_map: &[(u64, u64, u64)],
    ) -> (Vec<Option<u64>>, Vec<u64>) {
        let regions: Vec<_> = regions.iter().map(|&(phys, pages)| (phys, 0, pages)).collect();
        let regions = map(&regions);
        let mut given = Given::new(map(virtual_map).descriptors());
        given.claim(&regions, &expected.iter().map(|virt| Some(Va(*virt))).enumerate().collect());
        let start = |region: Region| given.virtual_start(&region).map(|virt| virt.0);
        (regions.regions().map(start).collect(), given.unclaimed().iter().map(|virt| virt.0).collect())
    }

    #[test]
    fn an_entry_is_one_regions_or_several() {
        assert_eq!(starts(&[(0x1000, 1)], &[(0x1000, 0x9000, 1)]), (vec![Some(0x9000)], vec![]));
        let merged = starts(&[(0x1000, 1), (0x2000, 2)], &[(0x1000, 0x9000, 3)]);
        assert_eq!(merged, (vec![Some(0x9000), Some(0xa000)], vec![]));
    }

    #[test]
    fn entries_for_other_pages_are_left_over() {
        assert_eq!(starts(&[(0x1000, 1)], &[(0x2000, 0x9000, 1)]), (vec![None], vec![0x9000]));
        assert_eq!(starts(&[(0x1000, 1)], &[(0x1000, 0x9000, 2)]), (vec![Some(0x9000)], vec![0x9000]));
        assert_eq!(starts(&[(0x1000, 2)], &[(0x1000, 0x9000, 1)]), (vec![None], vec![0x9000]));
    }

    #[test]
    fn a_region_listed_twice_takes_two_entries() {
        let both = starts(&[(0x1000, 1), (0x1000, 1)], &[(0x1000, 0x9000, 1), (0x1000, 0x5000, 1)]);
        assert_eq!(both, (vec![Some(0x9000), Some(0x5000)], vec![]));
        let one = starts(&[(0x1000, 1), (0x1000, 1)], &[(0x1000, 0x9000, 1)]);
        assert_eq!(one, (vec![Some(0x9000), None], vec![]));
    }

    #[test]
    fn of_several_entries_the_one_at_the_expected_address_is_a_regions() {
        // From the last to the first, as Linux maps.
        let twice =
            starts_where(&[(0x1000, 1), (0x1000, 1)], &[0x5000, 0x9000], &[(0x1000, 0x9000, 1), (0x1000, 0x5000, 1)]);
        assert_eq!(twice, (vec![Some(0x5000), Some(0x9000)], vec![]));
        // Two merged, and then one that starts where the second of them does, with another: the second is no more of
        // that entry than the third, which would find no room.
        let regions = [(0x1000, 1), (0x2000, 1), (0x2000, 2), (0x4000, 1)];
        let virtual_map = [(0x2000, 0x9000, 3), (0x1000, 0x5000, 2)];
        let expected = [0x5000, 0x6000, 0x9000, 0xb000];
        let all = expected.map(Some).to_vec();
        assert_eq!(starts_where(&regions, &expected, &virtual_map), (all, vec![]));
        assert_ne!(starts(&regions, &virtual_map).1, Vec::<u64>::new());
    }

    #[test]
    fn a_region_that_is_not_at_the_expected_address_is_where_it_is() {
        let elsewhere = starts_where(&[(0x1000, 1)], &[0x5000], &[(0x1000, 0x9000, 1)]);
        assert_eq!(elsewhere, (vec![Some(0x9000)], vec![]));
        let none = starts_where(&[(0x1000, 2)], &[0x9000], &[(0x1000, 0x9000, 1)]);
        assert_eq!(none, (vec![None], vec![0x9000]));
    }
}
