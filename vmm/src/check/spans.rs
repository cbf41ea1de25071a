//! Ranges of addresses that are taken, and what is free between them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::mmu::Va;

/// Ranges, each by its first address, none of which overlaps another.
#[derive(Debug, Default)]
pub struct Spans(BTreeMap<Va, Va>);

impl Spans {
    /// Takes a range. It may be taken already, all of it or a part.
    pub fn take(&mut self, range: &RangeInclusive<Va>) {
        let (mut first, mut last) = (*range.start(), *range.end());
        while let Some((start, end)) = self.last_up_to(last).filter(|(_, end)| *end >= first) {
            self.0.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.insert(first, last);
    }

    /// What of a range is free, by address.
    pub fn free_in(&self, range: &RangeInclusive<Va>) -> Vec<RangeInclusive<Va>> {
        let (first, last) = (*range.start(), *range.end());
        let mut free = Vec::new();
        let mut next = Some(first);
        let from = self.last_up_to(first).map_or(first, |(start, _)| start);
        for (start, end) in self.0.range(from..=last) {
            let Some(at) = next.filter(|at| at <= end) else { continue };
            free.extend((at < *start).then(|| at..=start.wrapping_sub(1)));
            next = end.checked_add(1);
        }
        free.extend(next.filter(|next| *next <= last).map(|next| next..=last));
        free
    }

    fn last_up_to(&self, address: Va) -> Option<(Va, Va)> {
        self.0.range(..=address).next_back().map(|(start, end)| (*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_address_is_an_address() {
        let mut spans = Spans::default();
        let (first, last, all) = (Va(0), Va(u64::MAX), Va(0)..=Va(u64::MAX));
        assert_eq!(spans.free_in(&all), [first..=last]);
        spans.take(&(last..=last));
        assert_eq!(spans.free_in(&all), [first..=Va(u64::MAX - 1)]);
        spans.take(&all);
        assert_eq!(spans.free_in(&all), []);
    }

    proptest! {
        #[test]
        fn what_is_free_is_what_nothing_took(
            taken in prop::collection::vec((0_u64..32, 0_u64..6), 0..8),
            (first, more) in (0_u64..32, 0_u64..32),
        ) {
            let range = |start: u64, more| start..=start.saturating_add(more);
            let of_addresses = |range: &RangeInclusive<u64>| Va(*range.start())..=Va(*range.end());
            let mut spans = Spans::default();
            taken.iter().for_each(|(start, more)| spans.take(&of_addresses(&range(*start, *more))));
            let asked = range(first, more);
            let free = spans.free_in(&of_addresses(&asked));
            let free: Vec<u64> = free.into_iter().flat_map(|range| range.start().0..=range.end().0).collect();
            let is_free = |at: &u64| taken.iter().all(|(start, more)| !range(*start, *more).contains(at));
            let expected: Vec<u64> = asked.filter(is_free).collect();
            prop_assert_eq!(free, expected);
        }
    }
}
