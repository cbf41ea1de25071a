//! Ranges of physical addresses, and unions of them.

use super::PAGE_SIZE;
use crate::mmu::{Pa, Va};

/// The addresses `first..=last`. Never empty, and never wraps; it may end at the top of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub first: Pa,
    pub last: Pa,
}

impl Range {
    /// None if it has no pages, or runs past the top of the address space.
    pub fn of_pages(first: Pa, pages: u64) -> Option<Self> {
        let last_offset = pages.checked_mul(PAGE_SIZE)?.checked_sub(1)?;
        let last = first.checked_add(last_offset)?;
        Some(Self { first, last })
    }

    /// The same, but one that wraps is cut at the top of the address space.
    pub fn of_pages_clamped(first: Pa, pages: u64) -> Option<Self> {
        let last_offset = pages.saturating_mul(PAGE_SIZE).checked_sub(1)?;
        let last = first.saturating_add(last_offset);
        Some(Self { first, last })
    }

    pub fn contains(self, address: Pa) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

/// The bytes from an address to the end of its page.
pub(super) fn left_in_page(address: Va) -> usize {
    PAGE_SIZE.wrapping_sub(address.page_offset()) as usize
}

/// The union of ranges.
#[derive(Clone, Debug)]
pub(super) struct Union(Vec<Range>);

impl Union {
    /// Sorted and merged: those that are left are disjoint and do not touch.
    pub fn new(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let joins = next.first <= kept.last.saturating_add(1);
            if joins {
                kept.last = kept.last.max(next.last);
            }
            joins
        });
        Self(ranges)
    }

    /// Whether all of the range is in the union.
    pub fn contains(&self, range: Range) -> bool {
        let behind = self.0.partition_point(|part| part.first <= range.first);
        self.0[..behind].last().is_some_and(|part| range.last <= part.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(first: u64, pages: u64) -> Range {
        Range::of_pages(Pa(first), pages).unwrap()
    }

    #[test]
    fn a_range_is_not_empty_and_does_not_wrap() {
        assert_eq!(Range::of_pages(Pa(0x1000), 0), None);
        assert_eq!(Range::of_pages(Pa(0).wrapping_sub(0x1000), 2), None);
        assert_eq!(Range::of_pages(Pa(0), u64::MAX), None);
        assert_eq!(pages(0u64.wrapping_sub(0x1000), 1).last, Pa(u64::MAX));
        assert_eq!(Range::of_pages_clamped(Pa(0x1000), u64::MAX).unwrap().last, Pa(u64::MAX));
        assert_eq!(Range::of_pages_clamped(Pa(0x1000), 0), None);
    }

    #[test]
    fn a_union_contains_what_its_parts_hold_together() {
        let top = 0u64.wrapping_sub(0x1000);
        let union =
            Union::new(vec![pages(0x5000, 1), pages(top, 1), pages(0x1000, 2), pages(0x3000, 1), pages(0x1000, 1)]);
        assert!(union.contains(pages(0x1000, 3)));
        assert!(union.contains(pages(0x2000, 2)));
        assert!(union.contains(pages(top, 1)));
        assert!(!union.contains(pages(0x1000, 4)));
        assert!(!union.contains(pages(0x0, 2)));
        assert!(!union.contains(pages(0x4000, 1)));
        assert!(!Union::new(vec![]).contains(pages(0, 1)));
    }
}
