//! The picture of one access on a map: a page fault of a log, for instance.

use super::ladder::Walk;
use super::markup::{Headline, Item};
use super::of_report::{self, planned_block};
use super::picture::{Block, Kind, Picture, Place, PlacedRegion, View, number_of};
use crate::memory_map::{MemoryMap, PAGE_BYTES, Region};
use crate::report::json::Hex;

/// An access, and what is said of it.
pub struct Access<'a> {
    /// What it was, in a few words.
    pub title: String,
    /// Who is to blame, or the like.
    pub headline: String,
    /// What there is to say, on lines.
    pub lines: Vec<String>,
    /// Where it is, the first mark first in the list.
    pub marks: Vec<Mark>,
    /// The walks of the access.
    pub walks: Vec<Walk>,
    /// The map, and for each of its regions the virtual address, as far as it is known.
    pub map: Option<(&'a MemoryMap, Vec<Option<u64>>)>,
}

/// A place to be marked.
pub struct Mark {
    /// What it is.
    pub name: String,
    /// Where.
    pub address: u64,
    /// Whether the address is a physical one.
    pub is_physical: bool,
}

/// The picture, and the list of the marks.
pub fn picture(access: &Access<'_>) -> (Picture, Vec<Item>) {
    let mut picture = of_report::blank();
    let outside = Kind { name: "in no region, as far as is known".into(), ..Kind::ownerless() };
    let outside = number_of(&mut picture.kinds, outside);
    let regions: Vec<(Region, Option<u64>)> = match &access.map {
        Some((map, virtuals)) => {
            map.regions().map(|region| (region, virtuals.get(region.index).copied().flatten())).collect()
        }
        None => Vec::new(),
    };
    let placed = regions
        .iter()
        .map(|(region, virt)| PlacedRegion { virt: virt.map(Hex), ..PlacedRegion::of(region, &mut picture.kinds) });
    let placed = placed.collect();
    picture.maps.push(placed);
    let with_pages = regions.iter().filter(|(region, _)| region.pages > 0);
    let right = with_pages.map(|(region, _)| Block { region: Some(region.index), ..Block::default() });
    let mut view = View {
        name: "the access".into(),
        columns: ["virtual", "physical"],
        map: 0,
        right_map: None,
        left: regions.iter().filter_map(|(region, virt)| planned_block(region.index, region, *virt)).collect(),
        right: right.collect(),
        tables: None,
    };
    for mark in access.marks.iter().filter(|mark| !is_in_a_block(mark, &regions)) {
        // Else no part of the drawing would have it.
        let at = Some(Hex(mark.address & !(PAGE_BYTES - 1)));
        let column = if mark.is_physical { &mut view.right } else { &mut view.left };
        if column.iter().any(|block| block.at == at) {
            continue;
        }
        let block = Block { at, pages: Some(Hex(1)), kind: Some(outside), ..Block::default() };
        column.push(block);
    }
    picture.views.push(view);
    let items = access.marks.iter().enumerate().map(|(index, mark)| {
        let (column, at) = (usize::from(mark.is_physical), Some(Hex(mark.address)));
        picture.places.push(Place { view: Some(0), column, at, pages: Some(Hex(1)) });
        Item::said(mark.name.clone(), if index == 0 { access.lines.clone() } else { Vec::new() })
    });
    let items = items.collect();
    (picture, items)
}

/// Whether a region has the address.
fn is_in_a_block(mark: &Mark, regions: &[(Region, Option<u64>)]) -> bool {
    regions.iter().any(|(region, virt)| {
        let first = if mark.is_physical { Some(region.phys) } else { *virt };
        let offset = first.and_then(|first| mark.address.checked_sub(first));
        offset.is_some_and(|offset| u128::from(offset) < u128::from(region.pages).saturating_mul(PAGE_BYTES.into()))
    })
}

/// What it came to.
pub fn headline(access: &Access<'_>) -> Headline {
    Headline { line: access.headline.clone(), verdict: "explained", is_good: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::{MemoryDescriptor, MemoryType};

    /// What no region has gets a block of its own, and what one has gets none.
    #[test]
    fn a_mark_outside_of_all_regions_is_drawn_by_itself() {
        let ty = MemoryType::RUNTIME_SERVICES_DATA;
        let region = MemoryDescriptor { ty, phys_start: 0x10_0000, page_count: 4, ..Default::default() };
        let map = MemoryMap::from_descriptors("", vec![region]);
        let mark = |address, is_physical| Mark { name: String::new(), address, is_physical };
        let access = Access {
            title: String::new(),
            headline: String::new(),
            lines: Vec::new(),
            marks: vec![mark(0xffff_8000_0010_3fff, false), mark(0x10_4008, true), mark(0x10_4ff8, true)],
            walks: Vec::new(),
            map: Some((&map, vec![Some(0xffff_8000_0010_0000)])),
        };
        let (picture, items) = picture(&access);
        let view = &picture.views[0];
        assert_eq!((view.left.len(), view.right.len(), items.len()), (1, 2, 3));
        assert_eq!(view.right[1].at.as_ref().map(|at| at.0), Some(0x10_4000));
    }
}
