//! Two memory maps, physical address by physical address.

use std::collections::BTreeMap;

use super::{E820Type, MemoryAttribute, MemoryMap, MemoryType, Region};

/// What a memory map says of some memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The Type.
    pub ty: MemoryType,
    /// The Attribute.
    pub attribute: MemoryAttribute,
}

impl Said {
    fn of(region: &Region) -> Self {
        Self { ty: region.ty, attribute: region.attribute }
    }

    /// Whether firmware has it for its runtime services.
    pub fn is_runtime(self) -> bool {
        self.attribute.contains(MemoryAttribute::RUNTIME)
    }
}

/// A range of which two maps say different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The first address.
    pub start: u128,
    /// The end, exclusive; at most 2^77, as maps may be wrong.
    pub end: u128,
    /// What the first map says; None: nothing.
    pub before: Option<Said>,
    /// What the second map says.
    pub after: Option<Said>,
}

impl Change {
    /// Its size in bytes.
    pub fn bytes(&self) -> u128 {
        self.end.saturating_sub(self.start)
    }
}

/// Where two maps differ, by address. How they are cut into descriptors is no difference. Of descriptors that overlap the first
/// in the list counts.
pub fn compare(before: &MemoryMap, after: &MemoryMap) -> Vec<Change> {
    let pieces = [before, after].map(|map| pieces(map, |region| Some(Said::of(region))));
    differences(&pieces[0], &pieces[1], |start, end, before, after| Change { start, end, before, after })
}

/// A range of which two kernels' e820 tables say different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Change {
    /// The first address.
    pub start: u128,
    /// The end, exclusive.
    pub end: u128,
    /// The type by the first map; None: the table lacks it.
    pub before: Option<E820Type>,
    /// The type by the second map.
    pub after: Option<E820Type>,
}

/// Where the e820 tables that Linux makes of two maps differ.
pub fn compare_e820(before: &MemoryMap, after: &MemoryMap) -> Vec<E820Change> {
    let pieces = [before, after].map(|map| pieces(map, E820Type::of));
    differences(&pieces[0], &pieces[1], |start, end, before, after| E820Change { start, end, before, after })
}

/// What holds from an address on, up to the next key.
pub(super) type Pieces<T> = BTreeMap<u128, Option<T>>;

/// A range of which two things are said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joint<A, B> {
    pub start: u128,
    /// Exclusive.
    pub end: u128,
    pub one: Option<A>,
    pub other: Option<B>,
}

/// What holds from each address on, by the regions of a map.
pub(super) fn pieces<T: Copy>(map: &MemoryMap, said: impl Fn(&Region) -> Option<T>) -> Pieces<T> {
    let regions: Vec<Region> = map.regions().filter(|region| region.pages > 0).collect();
    // In reverse: what comes first in the list counts.
    laid(regions.iter().rev().map(|region| (u128::from(region.phys), region.end(), said(region))))
}

/// What holds from each address on, by ranges (start, end) of which a later one counts before those that it overlaps.
pub(super) fn laid<T: Copy>(ranges: impl Iterator<Item = (u128, u128, Option<T>)>) -> Pieces<T> {
    let mut pieces = Pieces::from([(0, None)]);
    for (start, end, said) in ranges {
        let behind = pieces.range(..=end).next_back().and_then(|(_, said)| *said);
        let inside: Vec<u128> = pieces.range(start..end).map(|(at, _)| *at).collect();
        inside.iter().for_each(|at| _ = pieces.remove(at));
        pieces.insert(start, said);
        pieces.insert(end, behind);
    }
    pieces
}

/// All ranges from the first address to the last border. Neighbours that say the same are one, except at the addresses of
/// `cuts`.
pub(super) fn joined<A: Copy + PartialEq, B: Copy + PartialEq>(
    one: &Pieces<A>,
    other: &Pieces<B>,
    cuts: &[u128],
) -> Vec<Joint<A, B>> {
    let mut borders: Vec<u128> = one.keys().chain(other.keys()).chain(cuts).copied().collect();
    borders.sort_unstable();
    borders.dedup();
    let mut all: Vec<Joint<A, B>> = Vec::new();
    for pair in borders.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let (said, said_otherwise) = (at(one, start), at(other, start));
        match all.last_mut() {
            Some(last) if !cuts.contains(&start) && (last.one, last.other) == (said, said_otherwise) => last.end = end,
            _ => all.push(Joint { start, end, one: said, other: said_otherwise }),
        }
    }
    all
}

fn at<T: Copy>(pieces: &Pieces<T>, address: u128) -> Option<T> {
    pieces.range(..=address).next_back().and_then(|(_, said)| *said)
}

fn differences<T: Copy + PartialEq, C>(
    before: &Pieces<T>,
    after: &Pieces<T>,
    change: impl Fn(u128, u128, Option<T>, Option<T>) -> C,
) -> Vec<C> {
    let changed = joined(before, after, &[]).into_iter().filter(|joint| joint.one != joint.other);
    changed.map(|joint| change(joint.start, joint.end, joint.one, joint.other)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::MemoryDescriptor;
    use super::*;

    fn map(rows: &[(MemoryType, u64, u64)]) -> MemoryMap {
        let descriptor = |&(ty, phys_start, page_count): &_| MemoryDescriptor {
            ty,
            phys_start,
            page_count,
            att: MemoryAttribute::WRITE_BACK,
            ..MemoryDescriptor::default()
        };
        MemoryMap::from_descriptors("", rows.iter().map(descriptor).collect())
    }

    const RAM: MemoryType = MemoryType::CONVENTIONAL;
    const DATA: MemoryType = MemoryType::RUNTIME_SERVICES_DATA;

    fn changes(before: &[(MemoryType, u64, u64)], after: &[(MemoryType, u64, u64)]) -> Vec<(u128, u128)> {
        compare(&map(before), &map(after)).iter().map(|change| (change.start, change.end)).collect()
    }

    #[test]
    fn how_a_map_is_cut_is_no_difference_and_neither_is_its_order() {
        assert_eq!(changes(&[(RAM, 0, 4)], &[(RAM, 0x2000, 2), (RAM, 0, 2)]), []);
        assert_eq!(changes(&[(RAM, 0, 4), (DATA, 0, 0)], &[(RAM, 0, 4)]), []);
    }

    #[test]
    fn what_is_new_gone_or_other_is_a_range_each() {
        let before = [(RAM, 0, 4), (DATA, 0x4000, 2)];
        assert_eq!(changes(&before, &[(RAM, 0, 4), (DATA, 0x5000, 2)]), [(0x4000, 0x5000), (0x6000, 0x7000)]);
        assert_eq!(changes(&before, &[(RAM, 0, 5), (DATA, 0x5000, 1)]), [(0x4000, 0x5000)]);
        assert_eq!(changes(&before, &[]), [(0, 0x4000), (0x4000, 0x6000)]);
        assert_eq!(changes(&[], &[(RAM, u64::MAX << 12, 1)]), [(u128::from(u64::MAX << 12), 1 << 64)]);
    }

    #[test]
    fn of_overlaps_the_first_counts() {
        assert_eq!(changes(&[(DATA, 0x1000, 1), (RAM, 0, 4)], &[(RAM, 0, 4)]), [(0x1000, 0x2000)]);
        assert_eq!(changes(&[(RAM, 0, 4), (DATA, 0x1000, 1)], &[(RAM, 0, 4)]), []);
        assert_eq!(changes(&[(RAM, 0x1000, 4), (DATA, 0, 2)], &[(DATA, 0, 1), (RAM, 0x1000, 4)]), []);
    }

    #[test]
    fn in_e820_what_a_kernel_has_for_itself_is_one() {
        let before = [(RAM, 0, 4), (MemoryType::BOOT_SERVICES_CODE, 0x4000, 4), (DATA, 0x8000, 1)];
        let after = [(MemoryType::LOADER_DATA, 0, 8), (MemoryType::RESERVED, 0x8000, 1)];
        assert_eq!(compare_e820(&map(&before), &map(&after)), []);
        assert_eq!(changes(&before, &after).len(), 3);
        let lost = compare_e820(&map(&before), &map(&[(RAM, 0, 7), (DATA, 0x7000, 2)]));
        let [E820Change { start: 0x7000, end: 0x8000, before: Some(E820Type::Usable), after }] = lost[..] else {
            panic!("{lost:?}")
        };
        assert_eq!(after, Some(E820Type::Reserved));
    }
}
