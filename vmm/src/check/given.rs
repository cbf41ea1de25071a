//! The map handed to SetVirtualAddressMap, entry by entry, and whose regions its entries are.

use std::collections::HashMap;

use crate::memory_map::{MemoryDescriptor, MemoryMap, PAGE_BYTES, Region};

/// What a mapper gave: entries that stand for one region each, or for several that it merged.
pub struct Given {
    /// By type and attributes; by address within.
    entries: HashMap<(u32, u64), Vec<Entry>>,
    /// By region.
    starts: HashMap<usize, u64>,
}

struct Entry {
    phys: u64,
    pages: u64,
    virt: u64,
    /// Of its pages, those that are some region's.
    claimed: u64,
}

impl Given {
    /// The map's entries, of which nothing is known yet.
    pub fn new(virtual_map: &[MemoryDescriptor]) -> Self {
        let mut entries: HashMap<_, Vec<Entry>> = HashMap::new();
        for d in virtual_map {
            let entry = Entry { phys: d.phys_start, pages: d.page_count, virt: d.virt_start, claimed: 0 };
            entries.entry((d.ty.0, d.att.bits())).or_default().push(entry);
        }
        entries.values_mut().for_each(|alike| alike.sort_by_key(|entry| (entry.phys, entry.pages)));
        Self { entries, starts: HashMap::new() }
    }

    /// Finds each region's entry: its own, or the one it was merged into.
    pub fn claim(&mut self, map: &MemoryMap) {
        for of_its_own in [true, false] {
            for region in map.regions() {
                if self.starts.contains_key(&region.index) {
                    continue;
                }
                let Some(alike) = self.entries.get_mut(&(region.ty.0, region.attribute.bits())) else { continue };
                let entry = if of_its_own { own_entry(alike, &region) } else { merged_entry(alike, &region) };
                if let Some(entry) = entry {
                    entry.claimed = entry.claimed.saturating_add(region.pages);
                    let virt = entry.virt.wrapping_add(region.phys - entry.phys);
                    self.starts.insert(region.index, virt);
                }
            }
        }
    }

    /// VirtualStart for a region, if there is one.
    pub fn virtual_start(&self, region: &Region) -> Option<u64> {
        self.starts.get(&region.index).copied()
    }

    /// VirtualStart of each entry that is not, page by page, some regions of the memory map.
    pub fn unclaimed(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.entries.values().flatten().collect();
        all.sort_by_key(|entry| (entry.phys, entry.virt));
        all.retain(|entry| entry.claimed != entry.pages);
        all.into_iter().map(|entry| entry.virt).collect()
    }
}

/// The first entry for exactly this region that is still free: of equal ones, those before it are not.
fn own_entry<'a>(alike: &'a mut [Entry], region: &Region) -> Option<&'a mut Entry> {
    let free = (region.phys, region.pages, true);
    let key = |entry: &Entry| (entry.phys, entry.pages, entry.claimed == 0);
    let index = alike.partition_point(|entry| key(entry) < free);
    alike.get_mut(index).filter(|entry| key(entry) == free)
}

/// The entry that holds this region among others.
fn merged_entry<'a>(alike: &'a mut [Entry], region: &Region) -> Option<&'a mut Entry> {
    let from = alike.partition_point(|entry| entry.phys <= region.phys);
    let entry = alike[..from].last_mut()?;
    let end = |phys: u64, pages: u64| u128::from(phys) + u128::from(pages) * u128::from(PAGE_BYTES);
    let room = entry.pages.checked_sub(entry.claimed)?;
    let fits = end(region.phys, region.pages) <= end(entry.phys, entry.pages) && region.pages <= room;
    (fits && region.pages > 0).then_some(entry)
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
        let regions: Vec<_> = regions.iter().map(|&(phys, pages)| (phys, 0, pages)).collect();
        let regions = map(&regions);
        let mut given = Given::new(map(virtual_map).descriptors());
        given.claim(&regions);
        (regions.regions().map(|region| given.virtual_start(&region)).collect(), given.unclaimed())
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
}
