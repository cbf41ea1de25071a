//! Which of many ranges holds an address. A hostile map has 65,536 of each: one scan for each would take minutes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::memory_map::{MemoryAttribute, MemoryDescriptor, end_of_pages};
use crate::mmu::{Pa, Va};

/// Physical addresses from a first one to an end, which may be past 2^64.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    first: Pa,
    end: u128,
}

impl Extent {
    /// So many pages.
    pub fn of_pages(first: Pa, pages: u64) -> Self {
        Self { first, end: end_of_pages(first.0, pages) }
    }
}

/// For each address, the first of the ranges, in their list, that holds it.
///
/// Both are swept by address. Of the ranges begun, the first in the list is on top of the heap; one that has ended is
/// dropped when it gets there, because no later address lies in it.
pub fn holders(addresses: &[Pa], ranges: &[Extent]) -> Vec<Option<usize>> {
    let mut coming: Vec<usize> = (0..ranges.len()).collect();
    coming.sort_by_key(|&index| Reverse(ranges[index].first));
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_by_key(|&index| addresses[index]);
    let mut begun = BinaryHeap::new();
    let mut holders = vec![None; addresses.len()];
    for index in order {
        let address = addresses[index];
        while let Some(next) = coming.pop_if(|next| ranges[*next].first <= address) {
            begun.push(Reverse(next));
        }
        while begun.peek().is_some_and(|&Reverse(range)| ranges[range].end <= u128::from(address.0)) {
            begun.pop();
        }
        holders[index] = begun.peek().map(|&Reverse(range)| range);
    }
    holders
}

/// The virtual address that a map handed to SetVirtualAddressMap gives to each physical one: the first RUNTIME descriptor
/// that holds it decides (UEFI 2.10, 8.4.2).
pub fn virtual_addresses(virtual_map: &[MemoryDescriptor], physical: &[Pa]) -> Vec<Option<Va>> {
    let runtime: Vec<_> = virtual_map.iter().filter(|d| d.att.contains(MemoryAttribute::RUNTIME)).collect();
    let ranges: Vec<_> = runtime.iter().map(|d| Extent::of_pages(Pa(d.phys_start), d.page_count)).collect();
    let virtual_in = |(phys, holder): (&Pa, Option<usize>)| {
        let d = runtime[holder?];
        Some(Va(d.virt_start).wrapping_add(phys.wrapping_offset_from(Pa(d.phys_start))))
    };
    physical.iter().zip(holders(physical, &ranges)).map(virtual_in).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_range_in_the_list_decides() {
        let ranges =
            [(0x3000, 2), (0x1000, 4), (0x1000, 0), (!0xfff, 1)].map(|(at, pages)| Extent::of_pages(Pa(at), pages));
        let found = holders(&[0, 0x1000, 0x3000, 0x4fff, 0x5000, u64::MAX].map(Pa), &ranges);
        assert_eq!(found, [None, Some(1), Some(0), Some(0), None, Some(3)]);
    }

    proptest! {
        #[test]
        fn a_scan_of_the_list_finds_the_same(
            ranges in prop::collection::vec((0_u64..16, 0_u64..8), 0..8),
            addresses in prop::collection::vec(0_u64..24, 0..8),
        ) {
            let ranges: Vec<_> = ranges.iter().map(|(page, pages)| Extent::of_pages(Pa(page << 12), *pages)).collect();
            let addresses: Vec<Pa> = addresses.iter().map(|page| Pa(page << 12)).collect();
            let holds = |range: &Extent, at: Pa| range.first <= at && u128::from(at.0) < range.end;
            let scanned: Vec<_> = addresses.iter().map(|at| ranges.iter().position(|range| holds(range, *at))).collect();
            prop_assert_eq!(holders(&addresses, &ranges), scanned);
        }
    }
}
