//! Ranges of addresses that are taken, and what is free between them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Ranges, each by its first address, none of which overlaps another.
#[derive(Debug, Default)]
pub struct Spans(BTreeMap<u64, u64>);

impl Spans {
    /// Takes a range. It may be taken already, all of it or a part.
    pub fn take(&mut self, range: &RangeInclusive<u64>) {
        let (mut first, mut last) = (*range.start(), *range.end());
        while let Some((start, end)) = self.last_up_to(last).filter(|(_, end)| *end >= first) {
            self.0.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.insert(first, last);
    }

    /// What of a range is free, by address.
    pub fn free_in(&self, range: &RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
        let (first, last) = (*range.start(), *range.end());
        let mut free = Vec::new();
        let mut next = Some(first);
        let from = self.last_up_to(first).map_or(first, |(start, _)| start);
        for (start, end) in self.0.range(from..=last) {
            let Some(at) = next.filter(|at| at <= end) else { continue };
            free.extend((at < *start).then(|| at..=start.saturating_sub(1)));
            next = end.checked_add(1);
        }
        free.extend(next.filter(|next| *next <= last).map(|next| next..=last));
        free
    }

    fn last_up_to(&self, address: u64) -> Option<(u64, u64)> {
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
        assert_eq!(spans.free_in(&(0..=u64::MAX)), [0..=u64::MAX]);
        spans.take(&(u64::MAX..=u64::MAX));
        assert_eq!(spans.free_in(&(0..=u64::MAX)), [0..=u64::MAX - 1]);
        spans.take(&(0..=u64::MAX));
        assert_eq!(spans.free_in(&(0..=u64::MAX)), []);
    }

    proptest! {
        #[test]
        fn what_is_free_is_what_nothing_took(
            taken in prop::collection::vec((0_u64..32, 0_u64..6), 0..8),
            (first, more) in (0_u64..32, 0_u64..32),
        ) {
            let range = |start: u64, more| start..=start.saturating_add(more);
            let mut spans = Spans::default();
            taken.iter().for_each(|(start, more)| spans.take(&range(*start, *more)));
            let asked = range(first, more);
            let free: Vec<u64> = spans.free_in(&asked).into_iter().flatten().collect();
            let is_free = |at: &u64| taken.iter().all(|(start, more)| !range(*start, *more).contains(at));
            let expected: Vec<u64> = asked.filter(is_free).collect();
            prop_assert_eq!(free, expected);
        }
    }
}
