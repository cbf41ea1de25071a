//! Whose a physical page is: the map's regions, cut where they overlap so that each page has one owner.

use std::collections::BTreeSet;

use crate::memory_map::Region;

/// Ranges of physical addresses, disjoint and ascending, each with the region that it belongs to.
#[derive(Debug, Default)]
pub struct Owners(Vec<Owned>);

/// A part of a region; of several that overlap the first in the list has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owned {
    first: u128,
    end: u128,
    region: usize,
}

/// A piece of a range, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The offset of its first byte in the range.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// The region, by its place in the list; None: no region has it.
    pub region: Option<usize>,
}

impl Owners {
    /// Of the regions of a map.
    pub fn of<'a>(regions: impl IntoIterator<Item = &'a Region>) -> Self {
        let mut borders: Vec<(u128, bool, usize)> = Vec::new();
        for region in regions.into_iter().filter(|region| region.pages > 0) {
            borders.push((region.phys.into(), true, region.index));
            borders.push((region.end(), false, region.index));
        }
        borders.sort_unstable();
        let (mut owned, mut open, mut since): (Vec<Owned>, _, _) = (Vec::new(), BTreeSet::new(), 0);
        for (at, begins, region) in borders {
            if let Some(owner) = open.first().filter(|_| since < at) {
                match owned.last_mut().filter(|last| last.region == *owner && last.end == since) {
                    Some(last) => last.end = at,
                    None => owned.push(Owned { first: since, end: at, region: *owner }),
                }
            }
            since = at;
            match begins {
                true => open.insert(region),
                false => open.remove(&region),
            };
        }
        Self(owned)
    }

    /// A range of physical addresses, cut at the borders of regions.
    pub fn cut(&self, first: u64, bytes: u64) -> Vec<Piece> {
        let (first, end) = (u128::from(first), u128::from(first).saturating_add(bytes.into()));
        let mut pieces = Vec::new();
        let mut at = first;
        let mut push = |from: u128, to: u128, region| {
            let [offset, bytes] = [from.saturating_sub(first), to.saturating_sub(from)].map(u64::try_from);
            if let (Ok(offset), Ok(bytes)) = (offset, bytes)
                && bytes > 0
            {
                pieces.push(Piece { offset, bytes, region });
            }
        };
        let from = self.0.partition_point(|owned| owned.end <= first);
        for owned in self.0.iter().skip(from).take_while(|owned| owned.first < end) {
            let (inside, last) = (owned.first.max(first), owned.end.min(end));
            push(at, inside, None);
            push(inside, last, Some(owned.region));
            at = last;
        }
        push(at, end, None);
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::{MemoryAttribute, MemoryType};

    fn region(index: usize, phys: u64, pages: u64) -> Region {
        let (ty, attribute) = (MemoryType::CONVENTIONAL, MemoryAttribute::empty());
        Region { index, ty, phys, virt: 0, pages, attribute }
    }

    fn cut(regions: &[Region], first: u64, bytes: u64) -> Vec<(u64, u64, Option<usize>)> {
        let pieces = Owners::of(regions).cut(first, bytes);
        pieces.into_iter().map(|piece| (piece.offset, piece.bytes, piece.region)).collect()
    }

    #[test]
    fn a_range_is_cut_at_the_borders_of_regions_and_of_holes() {
        let regions = [region(0, 0x5000, 1), region(1, 0x1000, 2), region(2, 0x6000, 0)];
        let expected = [(0, 0x1000, None), (0x1000, 0x2000, Some(1)), (0x3000, 0x2000, None), (0x5000, 0x800, Some(0))];
        assert_eq!(cut(&regions, 0, 0x5800), expected);
        assert_eq!(cut(&[], 0x1000, 0x1000), [(0, 0x1000, None)]);
    }

    #[test]
    fn of_regions_that_overlap_the_first_in_the_list_has_what_both_have() {
        let regions = [region(0, 0x2000, 2), region(1, 0x1000, 4)];
        assert_eq!(
            cut(&regions, 0x1000, 0x4000),
            [(0, 0x1000, Some(1)), (0x1000, 0x2000, Some(0)), (0x3000, 0x1000, Some(1))]
        );
    }

    #[test]
    fn a_region_that_wraps_owns_up_to_the_end() {
        let regions = [region(0, u64::MAX - 0xfff, u64::MAX)];
        assert_eq!(cut(&regions, u64::MAX - 0x1fff, 0x2000), [(0, 0x1000, None), (0x1000, 0x1000, Some(0))]);
    }
}
