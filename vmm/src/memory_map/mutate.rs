//! Maps made of other maps: by small changes, or by crossing two.
//!
//! ```
//! use efibed::memory_map::mutate::{Mutation, cross, mutate};
//! use efibed::memory_map::synthesize::{Class, synthesize};
//!
//! let [first, second] = [1, 2].map(|seed| synthesize(seed, Class::Valid));
//! let moved = Mutation::Move.apply(&first, 2013);
//! assert_eq!(moved.descriptors().len(), first.descriptors().len());
//! let child = mutate(&cross(&first, &second, 2013), 2013);
//! # let _ = child;
//! ```
//!
//! A map and a seed give the same map on every machine. Nothing is promised of it: regions may overlap, or wrap. A map that
//! has descriptors keeps one at least, and no map gets more than can be read ([`MAX_DESCRIPTORS`]).

use super::synthesize::borders::{SPANS, border};
use super::synthesize::hostile;
use super::{MAX_DESCRIPTORS, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use crate::random::Random;

/// A small change: of a descriptor or an entry of the Memory Attributes Table, if nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mutation {
    /// One starts elsewhere: at a border, ending at one, where another one ends, or a page further on.
    Move,
    /// One grows or shrinks: by a page, to the next border of a large leaf, or to any length.
    Resize,
    /// Two change places in the list.
    Swap,
    /// One becomes two.
    Split,
    /// One swallows the next of the list.
    Merge,
    /// One is there twice.
    Duplicate,
    /// One is gone.
    Drop,
    /// One gets another type.
    Retype,
    /// One gets an attribute, or loses it.
    FlipAttribute,
    /// One gets another virtual address, or none.
    Readdress,
    /// A run of some region's pages gets permissions of its own, in the Memory Attributes Table.
    AddRun,
    /// All regions lie so much higher, or lower.
    ShiftAll,
}

efibed_stub::names! {
    Mutation, "mutation":
    Move "move",
    Resize "resize",
    Swap "swap",
    Split "split",
    Merge "merge",
    Duplicate "duplicate",
    Drop "drop",
    Retype "retype",
    FlipAttribute "flip-attribute",
    Readdress "readdress",
    AddRun "add-run",
    ShiftAll "shift-all",
}

/// A map with one small change, whichever the seed gives.
pub fn mutate(map: &MemoryMap, seed: u64) -> MemoryMap {
    Random::new(seed).one_of(Mutation::ALL).apply(map, seed)
}

/// Some of the one map and the rest of the other: the lists are cut anywhere, and so are their Memory Attributes Tables.
pub fn cross(first: &MemoryMap, second: &MemoryMap, seed: u64) -> MemoryMap {
    let random = &mut Random::new(seed);
    let descriptors = crossed(first.descriptors(), second.descriptors(), random);
    let table = crossed(first.attributes_table(), second.attributes_table(), random);
    first.clone().with_descriptors(descriptors).with_attributes_table(table)
}

impl Mutation {
    /// The map with this change. A map on which there is nothing to change so stays as it is.
    pub fn apply(self, map: &MemoryMap, seed: u64) -> MemoryMap {
        let random = &mut Random::new(seed ^ self as u64);
        let mut descriptors = map.descriptors().to_vec();
        let mut table = map.attributes_table().to_vec();
        if descriptors.is_empty() {
            return map.clone();
        }
        match self {
            Self::ShiftAll => shift(&mut [&mut descriptors, &mut table], random),
            Self::AddRun => add_run(&descriptors, &mut table, random),
            _ if !table.is_empty() && random.once_in(4) => self.change(&mut table, random),
            _ => self.change(&mut descriptors, random),
        }
        map.clone().with_descriptors(descriptors).with_attributes_table(table)
    }

    /// Changes a list that is not empty.
    fn change(self, list: &mut Vec<MemoryDescriptor>, random: &mut Random) {
        let at = random.index(list.len());
        let has_room = list.len() < MAX_DESCRIPTORS;
        match self {
            Self::Move => list[at].phys_start = start(list, at, random),
            Self::Resize => list[at].page_count = length(&list[at], random),
            Self::Swap => {
                let other = random.index(list.len());
                list.swap(at, other);
            }
            Self::Split if has_room => split(list, at, random),
            Self::Merge if at + 1 < list.len() => merge(list, at),
            Self::Duplicate if has_room => list.insert(random.index(list.len() + 1), list[at]),
            Self::Drop if list.len() > 1 => drop(list.remove(at)),
            Self::Retype => list[at].ty = ty(random),
            Self::FlipAttribute => list[at].att ^= attribute(random),
            Self::Readdress => list[at].virt_start = if random.once_in(3) { 0 } else { hostile::address(random) },
            _ => {}
        }
    }
}

/// The address past a descriptor, which may have wrapped.
fn end(descriptor: &MemoryDescriptor) -> u64 {
    descriptor.phys_start.wrapping_add(descriptor.page_count.wrapping_mul(PAGE_BYTES))
}

fn start(list: &[MemoryDescriptor], at: usize, random: &mut Random) -> u64 {
    let bytes = list[at].page_count.wrapping_mul(PAGE_BYTES);
    match random.below(6) {
        0 => list[at].phys_start.wrapping_add(PAGE_BYTES),
        1 => list[at].phys_start.wrapping_sub(PAGE_BYTES),
        2 => border(1 << 52, random),
        3 => border(1 << 52, random).wrapping_sub(bytes),
        4 => end(random.one_of(list)),
        _ => hostile::address(random),
    }
}

fn length(descriptor: &MemoryDescriptor, random: &mut Random) -> u64 {
    let pages = descriptor.page_count;
    let span = SPANS[random.index(2)];
    match random.below(6) {
        0 | 1 => pages.wrapping_add(1),
        2 | 3 => pages.saturating_sub(1),
        4 => (end(descriptor).checked_next_multiple_of(span))
            .map_or(pages, |border| border.wrapping_sub(descriptor.phys_start) / PAGE_BYTES),
        _ => hostile::pages(random),
    }
}

fn split(list: &mut Vec<MemoryDescriptor>, at: usize, random: &mut Random) {
    let MemoryDescriptor { page_count, phys_start, .. } = list[at];
    if page_count < 2 {
        return;
    }
    let first = 1 + random.below(page_count - 1);
    let rest = MemoryDescriptor {
        phys_start: phys_start.wrapping_add(first.wrapping_mul(PAGE_BYTES)),
        page_count: page_count - first,
        ..list[at]
    };
    list[at].page_count = first;
    list.insert(at + 1, rest);
}

/// From the start of the one to the end of the next, as far as that makes sense; else of both lengths.
fn merge(list: &mut Vec<MemoryDescriptor>, at: usize) {
    let next = list.remove(at + 1);
    let first = &mut list[at];
    let both = first.page_count.wrapping_add(next.page_count);
    let spanned = end(&next).checked_sub(first.phys_start).map(|bytes| bytes / PAGE_BYTES);
    first.page_count = spanned.unwrap_or(both);
}

fn ty(random: &mut Random) -> MemoryType {
    // Those that layouts look at: boot and runtime services, memory, MMIO. Then any.
    let known = [3, 4, 5, 6, 7, 11];
    match random.below(8) {
        0 => MemoryType(random.number() as u32),
        1 => MemoryType(random.below(16) as u32),
        _ => MemoryType(*random.one_of(&known)),
    }
}

fn attribute(random: &mut Random) -> MemoryAttribute {
    let known = [
        MemoryAttribute::RUNTIME,
        MemoryAttribute::WRITE_BACK,
        MemoryAttribute::UNCACHEABLE,
        MemoryAttribute::WRITE_COMBINE,
        MemoryAttribute::WRITE_THROUGH,
        MemoryAttribute::READ_ONLY,
        MemoryAttribute::EXECUTE_PROTECT,
    ];
    match random.once_in(8) {
        true => MemoryAttribute::from_bits_retain(1 << random.below(64)),
        false => *random.one_of(&known),
    }
}

fn add_run(descriptors: &[MemoryDescriptor], table: &mut Vec<MemoryDescriptor>, random: &mut Random) {
    let is_runtime = |d: &&MemoryDescriptor| d.att.contains(MemoryAttribute::RUNTIME) && d.page_count > 0;
    let regions: Vec<_> = descriptors.iter().filter(is_runtime).collect();
    if regions.is_empty() || table.len() >= MAX_DESCRIPTORS {
        return;
    }
    let region = **random.one_of(&regions);
    let first = random.below(region.page_count);
    let rest = region.page_count - first;
    let permissions = [MemoryAttribute::READ_ONLY, MemoryAttribute::EXECUTE_PROTECT];
    let run = MemoryDescriptor {
        phys_start: region.phys_start.wrapping_add(first.wrapping_mul(PAGE_BYTES)),
        page_count: if random.once_in(2) { rest } else { 1 + random.below(rest) },
        att: MemoryAttribute::RUNTIME | *random.one_of(&permissions),
        ..region
    };
    // Sorted, as firmware has it, if the table is.
    let at = table.partition_point(|entry| entry.phys_start < run.phys_start);
    table.insert(at, run);
}

fn shift(lists: &mut [&mut Vec<MemoryDescriptor>], random: &mut Random) {
    let by = match random.below(4) {
        0 => PAGE_BYTES,
        1 => PAGE_BYTES * random.below(1024),
        2 => border(1 << 40, random),
        _ => *random.one_of(&SPANS),
    };
    let by = if random.once_in(2) { by } else { by.wrapping_neg() };
    for descriptor in lists.iter_mut().flat_map(|list| list.iter_mut()) {
        descriptor.phys_start = descriptor.phys_start.wrapping_add(by);
    }
}

fn crossed(first: &[MemoryDescriptor], second: &[MemoryDescriptor], random: &mut Random) -> Vec<MemoryDescriptor> {
    let (head, tail) = (random.index(first.len() + 1), random.index(second.len() + 1));
    let mut both = [&first[..head], &second[tail..]].concat();
    if both.is_empty() {
        both.extend_from_slice(first);
    }
    both.truncate(MAX_DESCRIPTORS);
    both
}

#[cfg(test)]
mod tests {
    use super::super::synthesize::{Class, synthesize};
    use super::*;

    fn of_seed(seed: u64) -> MemoryMap {
        synthesize(seed, *Class::ALL.get(seed as usize % Class::ALL.len()).unwrap())
    }

    /// What two maps are compared by.
    fn lists(map: &MemoryMap) -> [&[MemoryDescriptor]; 2] {
        [map.descriptors(), map.attributes_table()]
    }

    #[test]
    fn every_mutation_changes_most_maps_and_always_in_the_same_way() {
        for mutation in Mutation::ALL {
            let mut changed = 0;
            for seed in 0..300 {
                let map = of_seed(seed);
                let mutated = mutation.apply(&map, seed);
                assert_eq!(lists(&mutated), lists(&mutation.apply(&map, seed)), "{mutation}, seed {seed}");
                assert!(!mutated.descriptors().is_empty(), "{mutation}, seed {seed}");
                changed += u32::from(lists(&mutated) != lists(&map));
            }
            assert!(changed > 100, "{mutation} changed {changed} of 300 maps");
        }
    }

    #[test]
    fn long_chains_of_mutations_keep_to_the_limits() {
        let mut map = of_seed(1);
        for seed in 0..20_000 {
            map = if seed % 50 == 0 { cross(&map, &of_seed(seed), seed) } else { mutate(&map, seed) };
            assert!((1..=MAX_DESCRIPTORS).contains(&map.descriptors().len()), "seed {seed}");
        }
    }

    #[test]
    fn a_cross_has_a_piece_of_each() {
        let whole = (0..200).filter(|seed| {
            let [first, second] = [of_seed(3 * seed), of_seed(3 * seed + 1)];
            let child = cross(&first, &second, *seed);
            let has = |map: &MemoryMap| child.descriptors().iter().any(|each| map.descriptors().contains(each));
            assert!(has(&first) || has(&second));
            has(&first) && has(&second)
        });
        assert!(whole.count() > 100);
    }

    #[test]
    fn a_full_list_grows_no_further_and_an_empty_one_stays_so() {
        let full = MemoryMap::from_descriptors("full", vec![Default::default(); MAX_DESCRIPTORS]);
        for mutation in [Mutation::Split, Mutation::Duplicate] {
            assert_eq!(mutation.apply(&full, 1).descriptors().len(), MAX_DESCRIPTORS);
        }
        let empty = MemoryMap::from_descriptors("empty", Vec::new());
        for mutation in Mutation::ALL {
            assert!(mutation.apply(&empty, 1).descriptors().is_empty());
        }
    }
}
