//! What Linux maps: descriptors merged, in its order.

use crate::memory_map::{ListKind, MemoryAttribute, MemoryMap, MemoryType, PAGE_BYTES, Region, end_of_pages};

/// 52 bits of physical address are the most a page-table entry can hold (SDM vol. 3A, 4.1.4).
pub fn fits_an_entry(region: &Region) -> bool {
    (region.phys / PAGE_BYTES).checked_add(region.pages).is_some_and(|end| end <= 1 << 40)
}

/// Descriptors that Linux makes one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Their common type.
    pub ty: MemoryType,
    /// Their common attributes.
    pub attribute: MemoryAttribute,
    /// Where they start.
    pub phys: u64,
    /// Pages of all.
    pub pages: u64,
    /// The descriptors.
    pub parts: Vec<Region>,
}

impl Merged {
    fn of(region: Region) -> Self {
        let Region { ty, attribute, phys, pages, .. } = region;
        Self { ty, attribute, phys, pages, parts: vec![region] }
    }

    fn is_continued_by(&self, next: &Region) -> bool {
        (self.ty, self.attribute) == (next.ty, next.attribute)
            && u128::from(next.phys) == end_of_pages(self.phys, self.pages)
    }
}

/// What Linux maps, in the order in which it does: the last region of firmware's list first.
pub fn in_mapping_order(map: &MemoryMap) -> Vec<Merged> {
    let mut all: Vec<Merged> = Vec::new();
    for region in map.regions().filter(is_valid) {
        match all.last_mut().filter(|before| before.is_continued_by(&region) && fits_an_entry(&region)) {
            Some(before) => {
                before.pages = before.pages.saturating_add(region.pages);
                before.parts.push(region);
            }
            None => all.push(Merged::of(region)),
        }
    }
    all.retain(|merged| merged.parts.iter().all(|part| part.is_mapped() && fits_an_entry(part)));
    if map.kind() == ListKind::Firmware {
        all.reverse();
    }
    all
}

/// Whether Linux leaves a descriptor in the list (`efi_memmap_entry_valid`): it has pages, and ends below 2^64, not there.
fn is_valid(region: &Region) -> bool {
    region.pages > 0 && region.end() < 1 << 64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::memory_map::MemoryDescriptor;

    const RUNTIME: MemoryAttribute = MemoryAttribute::RUNTIME;

    /// A map of regions: type, attribute, start and pages.
    pub(in crate::check) fn map(regions: &[(MemoryType, MemoryAttribute, u64, u64)]) -> MemoryMap {
        let descriptor = |&(ty, att, phys_start, page_count): &(_, _, _, _)| MemoryDescriptor {
            ty,
            att,
            phys_start,
            page_count,
            ..Default::default()
        };
        MemoryMap::from_descriptors("test", regions.iter().map(descriptor).collect())
    }

    #[test]
    fn linux_merges_what_is_adjacent_in_the_list_and_in_memory_and_alike() {
        let data = MemoryType::RUNTIME_SERVICES_DATA;
        let none = MemoryAttribute::empty();
        let merged = |regions: &[_]| in_mapping_order(&map(regions)).iter().map(|m| m.parts.len()).collect::<Vec<_>>();
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), (data, RUNTIME, 0x2000, 1)]), [2]);
        assert_eq!(merged(&[(data, RUNTIME, 0x2000, 1), (data, RUNTIME, 0x1000, 1)]), [1, 1]);
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), (data, RUNTIME, 0x3000, 1)]), [1, 1]);
        let other = RUNTIME | MemoryAttribute::WRITE_BACK;
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), (data, other, 0x2000, 1)]), [1, 1]);
        // A descriptor without pages, or one that reaches 2^64, is dropped first; any other stands between.
        let conventional = |phys, pages| (MemoryType::CONVENTIONAL, none, phys, pages);
        for dropped in [conventional(0, 0), conventional(!0xfff, 1), conventional(!0xfff, 2)] {
            assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), dropped, (data, RUNTIME, 0x2000, 1)]), [2]);
        }
        let last = conventional(!0x1fff, 1);
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), last, (data, RUNTIME, 0x2000, 1)]), [1, 1]);
        let between = (MemoryType::CONVENTIONAL, none, 0x8000, 1);
        assert_eq!(merged(&[(data, RUNTIME, 0x1000, 1), between, (data, RUNTIME, 0x2000, 1)]), [1, 1]);
    }
}
