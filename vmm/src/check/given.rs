//! The map handed to SetVirtualAddressMap, entry by entry, and whose regions its entries are.

use super::closed_form::Addresses;
use crate::memory_map::{MemoryDescriptor, MemoryMap, Region, end_of_pages};
use crate::mmu::{Pa, Va};

/// What a mapper gave: entries that stand for one region each, or for several that it merged.
pub struct Given {
    entries: Vec<Entry>,
    /// By region.
    starts: Vec<Option<Va>>,
}

struct Entry {
    kind: Kind,
    phys: Pa,
    pages: u64,
    virt: Va,
    /// Of its pages, those that are some region's.
    claimed: u64,
    /// Which of the map's it is.
    index: usize,
}

/// Type and attributes: an entry is for regions that have the same.
type Kind = (u32, u64);

impl Entry {
    fn new(index: usize, d: &MemoryDescriptor) -> Self {
        let (phys, virt) = (Pa(d.phys_start), Va(d.virt_start));
        Self { kind: (d.ty.0, d.att.bits()), phys, pages: d.page_count, virt, claimed: 0, index }
    }

    fn is_free(&self) -> bool {
        self.claimed == 0
    }

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
        let entries = virtual_map.iter().enumerate().map(|(index, d)| Entry::new(index, d)).collect();
        Self { entries, starts: Vec::new() }
    }

    /// Finds each region's entry. Where descriptors overlap several may do: those that give the region the address it should
    /// have, before others; and of either its own, before that which it may have been merged into.
    pub fn claim(&mut self, map: &MemoryMap, expected: &Addresses) {
        self.starts = vec![None; map.descriptors().len()];
        let expected = |region: &Region| {
            let virt = expected.get(&region.index).copied().flatten()?;
            Some((kind(region), distance(virt, Pa(region.phys))))
        };
        self.claim_among(map, |entry| (entry.kind, distance(entry.virt, entry.phys)), expected);
        self.claim_among(map, |entry| entry.kind, |region| Some(kind(region)));
    }

    /// Finds the entries of regions that have none, each among those of its group; None: it is in no group.
    fn claim_among<G: Ord>(
        &mut self,
        map: &MemoryMap,
        group_of: impl Fn(&Entry) -> G,
        groups: impl Fn(&Region) -> Option<G>,
    ) {
        // Of equal entries the free ones come last, and stay so while the first of them is taken.
        let key = |entry: &Entry| (group_of(entry), entry.phys, entry.pages, entry.is_free());
        let Self { entries, starts } = self;
        entries.sort_by_key(|entry| (key(entry), entry.index));
        for is_own in [true, false] {
            for region in map.regions() {
                let Some(group) = groups(&region).filter(|_| starts[region.index].is_none()) else { continue };
                let entry = if is_own {
                    let wanted = (group, Pa(region.phys), region.pages, true);
                    let at = entries.partition_point(|entry| key(entry) < wanted);
                    entries.get_mut(at).filter(|entry| key(entry) == wanted)
                } else {
                    let wanted = (group, Pa(region.phys));
                    let to = entries.partition_point(|entry| (group_of(entry), entry.phys) <= wanted);
                    entries[..to].last_mut().filter(|entry| group_of(entry) == wanted.0 && entry.has_room_for(&region))
                };
                starts[region.index] = entry.map(|entry| entry.claim(&region));
            }
        }
    }

    /// VirtualStart for a region, if there is one.
    pub fn virtual_start(&self, region: &Region) -> Option<Va> {
        self.starts.get(region.index).copied().flatten()
    }

    /// VirtualStart of each entry that is not, page by page, some regions of the memory map.
    pub fn unclaimed(&self) -> Vec<Va> {
        let mut all: Vec<_> = self.entries.iter().filter(|entry| entry.claimed != entry.pages).collect();
        all.sort_by_key(|entry| (entry.phys, entry.virt));
        all.into_iter().map(|entry| entry.virt).collect()
    }
}

fn kind(region: &Region) -> Kind {
    (region.ty.0, region.attribute.bits())
}

/// How far virtual addresses are from the physical ones they stand for.
fn distance(virt: Va, phys: Pa) -> u64 {
    virt.0.wrapping_sub(phys.0)
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
    fn a_region_listed_several_times_takes_as_many_entries_wherever_it_is_expected() {
        for count in 1..=9 {
            let all =
                |virt| starts_where(&vec![(0x1000, 1); count], &vec![virt; count], &vec![(0x1000, 0x9000, 1); count]);
            for expected in [0x9000, 0x5000] {
                assert_eq!(all(expected), (vec![Some(0x9000); count], vec![]), "{count} at {expected:#x}");
            }
        }
    }

    #[test]
    fn an_entry_of_its_own_is_a_regions_before_a_longer_one_at_the_same_address() {
        for regions in [[(0x1000, 2), (0x1000, 5)], [(0x1000, 5), (0x1000, 2)]] {
            let virtual_map = regions.map(|(phys, pages)| (phys, 0x9000, pages));
            for expected in [0x9000, 0x5000] {
                let found = starts_where(&regions, &[expected; 2], &virtual_map);
                assert_eq!(found, (vec![Some(0x9000); 2], vec![]), "{regions:?} at {expected:#x}");
            }
        }
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
