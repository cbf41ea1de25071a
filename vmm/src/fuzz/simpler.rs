//! Maps that are a step simpler than one. What says so is their [`Weight`].

use super::weight::{USUAL, USUAL_TYPE, Weight};
use crate::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, PAGE_BYTES};

/// One of the lists of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The entries of its Memory Attributes Table.
    Attributes,
    /// Its descriptors.
    Descriptors,
}

impl List {
    /// How long it is.
    pub fn len(self, map: &MemoryMap) -> usize {
        self.of(map).len()
    }

    fn of(self, map: &MemoryMap) -> &[MemoryDescriptor] {
        match self {
            Self::Attributes => map.attributes_table(),
            Self::Descriptors => map.descriptors(),
        }
    }

    /// The map with another list in this one's place.
    fn replaced(self, map: &MemoryMap, list: Vec<MemoryDescriptor>) -> MemoryMap {
        match self {
            Self::Attributes => map.clone().with_attributes_table(list),
            Self::Descriptors => map.clone().with_descriptors(list),
        }
    }
}

/// The map without a run of a list. One descriptor is left at least: without any there is no map.
pub fn without(map: &MemoryMap, list: List, first: usize, count: usize) -> Option<MemoryMap> {
    let mut all = list.of(map).to_vec();
    let end = (first + count).min(all.len());
    all.drain(first..end);
    (list == List::Attributes || !all.is_empty()).then(|| list.replaced(map, all))
}

/// The map with one of a list's descriptors made simpler, the boldest change first.
pub fn simpler(map: &MemoryMap, list: List, at: usize) -> Vec<MemoryMap> {
    let Some(old) = list.of(map).get(at) else { return Vec::new() };
    let alone = |new: MemoryDescriptor| {
        let mut all = list.of(map).to_vec();
        all[at] = new;
        list.replaced(map, all)
    };
    // A region takes its runs along first, and then goes alone.
    let has_runs = list == List::Descriptors && !map.attributes_table().is_empty();
    let mut changes: Vec<MemoryDescriptor> = Vec::new();
    for change in fewer_pages(old).chain(rounder(old)).chain(plainer(old)) {
        if !changes.contains(&change) {
            changes.push(change);
        }
    }
    let maps = changes.into_iter().flat_map(|new| {
        let with_runs = has_runs.then(|| with_its_runs(alone(new), old, &new));
        with_runs.into_iter().chain([alone(new)])
    });
    lighter(map, maps)
}

/// The map as a whole made simpler: all of it moved down, or the same list as firmware's.
pub fn simpler_as_a_whole(map: &MemoryMap) -> Vec<MemoryMap> {
    let least = map.descriptors().iter().map(|descriptor| descriptor.phys_start).min().unwrap_or_default();
    let moves = std::iter::once(least).chain((12..64).rev().map(|bit| 1 << bit)).filter(|by| (1..=least).contains(by));
    let moved = moves.map(|by| moved_down(map, by));
    let of_firmware = map.clone().with_kind(ListKind::Firmware);
    lighter(map, moved.chain([of_firmware]))
}

fn lighter(than: &MemoryMap, maps: impl Iterator<Item = MemoryMap>) -> Vec<MemoryMap> {
    let weight = Weight::of(than);
    maps.filter(|map| Weight::of(map) < weight).collect()
}

/// One page, half as many, a quarter fewer, and so on to one page fewer. The start stays, or else the end.
fn fewer_pages(old: &MemoryDescriptor) -> impl Iterator<Item = MemoryDescriptor> {
    let pages = old.page_count;
    let halves = (1..64).map(move |shift| pages - (pages >> shift)).take_while(move |fewer| *fewer < pages);
    let counts = [0, 1].into_iter().chain(halves).filter(move |count| *count < pages);
    counts.flat_map(|page_count| {
        let cut = old.page_count.wrapping_sub(page_count).wrapping_mul(PAGE_BYTES);
        let same_end = MemoryDescriptor { page_count, phys_start: old.phys_start.wrapping_add(cut), ..*old };
        [MemoryDescriptor { page_count, ..*old }, same_end]
    })
}

/// Rounder addresses, and a rounder count.
fn rounder(old: &MemoryDescriptor) -> impl Iterator<Item = MemoryDescriptor> {
    let phys = round(old.phys_start).map(|phys_start| MemoryDescriptor { phys_start, ..*old });
    let virt = round(old.virt_start).map(|virt_start| MemoryDescriptor { virt_start, ..*old });
    let pages = round(old.page_count).map(|page_count| MemoryDescriptor { page_count, ..*old });
    phys.chain(virt).chain(pages)
}

/// 0; all but the highest bits cleared, or carried; each bit cleared; all bits a place lower.
fn round(number: u64) -> impl Iterator<Item = u64> {
    let high = (0..64).rev().flat_map(move |bit| {
        let down = number & (u64::MAX << bit);
        [Some(down), down.checked_add(1 << bit)].into_iter().flatten()
    });
    let each = (0..64).map(move |bit| number & !(1 << bit));
    let all = [0].into_iter().chain(high).chain(each).chain([number >> 1]);
    all.filter(move |rounder| *rounder != number)
}

/// The usual attributes and type; each attribute alone cleared.
fn plainer(old: &MemoryDescriptor) -> impl Iterator<Item = MemoryDescriptor> {
    let runtime = old.att & MemoryAttribute::RUNTIME;
    let attributes = [USUAL & (runtime | MemoryAttribute::WRITE_BACK), old.att | MemoryAttribute::WRITE_BACK];
    let cleared = old.att.iter().map(|bit| old.att - bit);
    let attributes = attributes.into_iter().chain(cleared).map(|att| MemoryDescriptor { att, ..*old });
    attributes.chain([MemoryDescriptor { ty: USUAL_TYPE, ..*old }])
}

/// The map with the entries of the Memory Attributes Table that lie in a region changed as the region is: moved, cut, of its
/// type.
fn with_its_runs(map: MemoryMap, old: &MemoryDescriptor, new: &MemoryDescriptor) -> MemoryMap {
    let pages_in = |phys: u64| phys.checked_sub(old.phys_start).map(|bytes| bytes / PAGE_BYTES);
    let is_inside = |entry: &MemoryDescriptor| pages_in(entry.phys_start).is_some_and(|page| page < old.page_count);
    let follow = |entry: &MemoryDescriptor| {
        if !is_inside(entry) {
            return Some(*entry);
        }
        let page = pages_in(entry.phys_start)?;
        let page_count = entry.page_count.min(new.page_count.checked_sub(page).filter(|left| *left > 0)?);
        let phys_start = new.phys_start.wrapping_add(entry.phys_start - old.phys_start);
        Some(MemoryDescriptor { phys_start, page_count, ty: new.ty, ..*entry })
    };
    let table = map.attributes_table().iter().filter_map(follow).collect();
    map.with_attributes_table(table)
}

fn moved_down(map: &MemoryMap, by: u64) -> MemoryMap {
    let moved = |list: &[MemoryDescriptor]| {
        let down = |each: &MemoryDescriptor| MemoryDescriptor { phys_start: each.phys_start.wrapping_sub(by), ..*each };
        list.iter().map(down).collect()
    };
    map.clone().with_descriptors(moved(map.descriptors())).with_attributes_table(moved(map.attributes_table()))
}
