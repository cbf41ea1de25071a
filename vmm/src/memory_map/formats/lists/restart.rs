//! Where another list begins among rows that have no numbers, if no line says so.
//!
//! Firmware's map need not be sorted, so addresses that fall say little: EDK II appends what is not memory to what is.
//! What tells is that memory is listed *again*. That alone is an overlap, and may be firmware's own doing; it is another
//! list where the order tells, too:
//!
//! - the list was sorted so far, and a row lies at its very start again, or below and over it;
//! - two rows after another begin or end where rows of the list do, and the addresses fell before them. A part of a map
//!   and then all of it falls once, to where all of it begins. A map that is not sorted, twice, falls within each, and
//!   what it fell to comes again: then it begins where its first row does.
//!
//! Under a heading another list would have one, too, unless someone took it away: there only the same first rows
//! tell.

use std::collections::HashSet;

use super::super::super::Region;
use super::super::offset::Offset;
use super::Placed;

/// The first row of another list, if there is one.
pub(super) fn restart(rows: &[Placed], is_headed: bool) -> Option<usize> {
    if rows.iter().any(|row| row.number.is_some()) {
        return None;
    }
    if is_headed {
        let same = |pair: &[Placed]| pair.iter().zip(rows).all(|(row, first)| row.descriptor == first.descriptor);
        return rows.windows(2).skip(2).position(same).map(|index| index.plus(2));
    }
    let first = rows.first().map(region)?;
    let mut known = Known::default();
    let mut fell = None;
    for (index, row) in rows.iter().map(region).enumerate() {
        let is_lower = index > 0 && row.phys < region(&rows[index.minus(1)]).phys;
        let is_over_first = row.pages > 0 && first.pages > 0 && row.phys <= first.phys && row.end() > first.phys.into();
        if index >= 2 && fell.is_none() && is_lower && is_over_first {
            return Some(index);
        }
        if is_lower {
            fell = Some(index);
        }
        let is_run = || rows.get(index.plus(1)).is_some_and(|next| known.has(&region(next)));
        if let Some(fell) = fell.filter(|_| known.has(&row) && is_run()) {
            let comes_again = || rows[index..].iter().any(|row| is_alike(&region(row), &region(&rows[fell])));
            return Some(if row.phys == first.phys && comes_again() { index } else { fell });
        }
        known.add(&row);
    }
    None
}

/// Where regions begin and end.
#[derive(Default)]
struct Known {
    starts: HashSet<u64>,
    ends: HashSet<u128>,
}

impl Known {
    fn add(&mut self, region: &Region) {
        if region.pages > 0 {
            self.starts.insert(region.phys);
            self.ends.insert(region.end());
        }
    }

    fn has(&self, region: &Region) -> bool {
        region.pages > 0 && (self.starts.contains(&region.phys) || self.ends.contains(&region.end()))
    }
}

fn is_alike(one: &Region, other: &Region) -> bool {
    one.pages > 0 && other.pages > 0 && (one.phys == other.phys || one.end() == other.end())
}

fn region(row: &Placed) -> Region {
    Region::new(0, &row.descriptor)
}

#[cfg(test)]
mod tests {
    use super::super::super::super::{MemoryDescriptor, MemoryType};
    use super::*;

    /// Rows by first and last page.
    fn rows(pages: &[(u64, u64)]) -> Vec<Placed> {
        let row = |&(first, last): &(u64, u64)| Placed {
            number: None,
            descriptor: MemoryDescriptor {
                ty: MemoryType::CONVENTIONAL,
                phys_start: first << 12,
                page_count: last + 1 - first,
                ..Default::default()
            },
            odd: None,
            line: 1,
            span: 0..1,
        };
        pages.iter().map(row).collect()
    }

    #[test]
    fn a_list_that_begins_again_is_another() {
        for (pages, expected) in [
            // The same list, sorted or not; the same with a difference.
            (&[(0, 3), (4, 9), (0, 3), (4, 9)][..], 2),
            (&[(5, 9), (0, 4), (5, 9), (0, 4)], 2),
            (&[(0, 3), (4, 9), (0, 4), (5, 9)], 2),
            (&[(1, 3), (4, 9), (0, 3), (4, 9)], 2),
            // One row of the second is left.
            (&[(0, 3), (4, 9), (0, 3)], 2),
            // A part, then all.
            (&[(4, 5), (6, 7), (0, 3), (4, 5), (6, 7), (8, 9)], 2),
            (&[(4, 5), (6, 7), (0, 3), (4, 6), (7, 7), (8, 9)], 2),
            // All, then a part.
            (&[(0, 3), (4, 5), (6, 7), (8, 9), (4, 5), (6, 7)], 4),
        ] {
            assert_eq!(restart(&rows(pages), false), Some(expected), "{pages:?}");
        }
    }

    #[test]
    fn under_a_heading_only_the_same_rows_tell() {
        assert_eq!(restart(&rows(&[(0, 3), (4, 9), (0, 3), (4, 9)]), true), Some(2));
        assert_eq!(restart(&rows(&[(0, 3), (4, 9), (10, 11), (0, 3), (4, 9)]), true), Some(3));
        assert_eq!(restart(&rows(&[(0, 3), (4, 9), (0, 3), (4, 8)]), true), None);
    }

    #[test]
    fn a_map_that_is_not_sorted_or_overlaps_is_one() {
        for pages in [
            // Not sorted, as EDK II's: what is no memory comes last. Falling throughout.
            &[(0, 3), (8, 9), (4, 7), (20, 30), (10, 11)][..],
            &[(8, 9), (6, 7), (4, 5), (0, 3)],
            // Overlaps: sorted; one that is appended; the same row twice.
            &[(0, 3), (2, 5), (6, 9)],
            &[(0, 3), (4, 9), (5, 6), (20, 30)],
            &[(0, 3), (4, 9), (10, 11), (4, 9)],
            &[(0, 3), (0, 3)],
            // The second lies in the first and begins where it does.
            &[(0, 9), (0, 3), (4, 9)],
            &[],
        ] {
            assert_eq!(restart(&rows(pages), false), None, "{pages:?}");
        }
        let mut numbered = rows(&[(0, 3), (4, 9), (0, 3), (4, 9)]);
        numbered[0].number = Some(0);
        assert_eq!(restart(&numbered, false), None);
    }
}
