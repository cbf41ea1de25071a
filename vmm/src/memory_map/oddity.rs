//! What is odd about a map that reads well.

use super::{MemoryAttribute, MemoryMap, Region, type_name};

/// Lists what is odd about a map, in list order.
///
/// At most one overlap is listed for each region, with one region listed or lying before it: 65,536 regions on one
/// another make 65,535 oddities, not two thousand million. Whether the processor can address a region is not judged
/// here: that depends on the processor.
pub fn oddities(map: &MemoryMap) -> Vec<Oddity> {
    let mut oddities = map.notes.clone();
    oddities.extend(overlaps(map));
    for region in map.regions() {
        oddities.extend(of_region(&region));
    }
    oddities.sort_by_key(|oddity| (oddity.index, oddity.kind));
    oddities
}

/// One odd thing about a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oddity {
    /// What kind of thing.
    pub kind: OddityKind,
    /// The descriptor it is about, by its place in the list.
    pub index: usize,
    /// The other descriptor of an overlap, earlier in the list.
    pub other: Option<usize>,
    /// One sentence for people.
    pub message: String,
}

/// The kinds of oddities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OddityKind {
    /// Two descriptors share pages.
    Overlap,
    /// A region reaches past 2^64.
    Wrap,
    /// A region does not start at a page boundary.
    Unaligned,
    /// A region has no pages.
    ZeroPages,
    /// A region that layouts map has no cacheability attribute. Others often have none: they are nobody's to map.
    NoCacheability,
    /// The row numbers of a Linux log have a hole: the log lost lines, or is an excerpt.
    MissingRows,
    /// A Linux log holds a second list, which is not read.
    ExtraList,
    /// The size that a Linux log prints is not that of the range it prints.
    SizeMismatch,
}

impl OddityKind {
    /// A name that stays the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlap => "overlap",
            Self::Wrap => "wrap",
            Self::Unaligned => "unaligned",
            Self::ZeroPages => "zero-pages",
            Self::NoCacheability => "no-cacheability",
            Self::MissingRows => "missing-rows",
            Self::ExtraList => "extra-list",
            Self::SizeMismatch => "size-mismatch",
        }
    }

    /// Whether it makes the map wrong (a finding). Anything else is worth a note only.
    pub fn is_finding(self) -> bool {
        matches!(self, Self::Overlap | Self::Wrap | Self::Unaligned)
    }
}

fn of_region(region: &Region) -> impl Iterator<Item = Oddity> {
    let checks = [
        (OddityKind::Wrap, region.wraps()),
        (OddityKind::Unaligned, !region.is_aligned()),
        (OddityKind::ZeroPages, region.pages == 0),
        (OddityKind::NoCacheability, region.is_mapped() && !has_cacheability(region)),
    ];
    let region = *region;
    checks.into_iter().filter(|(_, odd)| *odd).map(move |(kind, _)| Oddity {
        kind,
        index: region.index,
        other: None,
        message: describe(kind, &region),
    })
}

fn describe(kind: OddityKind, region: &Region) -> String {
    let (ty, phys, pages) = (type_name(region.ty), region.phys, region.pages);
    let what = match kind {
        OddityKind::Wrap => format!("reaches past 2^64: {pages:#x} pages from {phys:#x}"),
        OddityKind::Unaligned => format!("starts at {phys:#x}, which is not page aligned"),
        OddityKind::ZeroPages => format!("has no pages, at {phys:#x}"),
        _ => format!("at {phys:#x} has none of the attributes that say how it may be cached"),
    };
    format!("descriptor {} ({ty}) {what}", region.index)
}

/// Whether any cacheability attribute is set (UEFI 2.10, section 7.2.3); ISA_VALID says that the instruction set's own
/// bits hold it.
fn has_cacheability(region: &Region) -> bool {
    region.attribute.intersects(
        MemoryAttribute::UNCACHEABLE
            | MemoryAttribute::WRITE_COMBINE
            | MemoryAttribute::WRITE_THROUGH
            | MemoryAttribute::WRITE_BACK
            | MemoryAttribute::UNCACHABLE_EXPORTED
            | MemoryAttribute::WRITE_PROTECT
            | MemoryAttribute::ISA_VALID,
    )
}

/// Sweeps the regions by address. Of all regions already begun it suffices to remember the one that reaches furthest:
/// if that one does not reach the next region, none does.
fn overlaps(map: &MemoryMap) -> Vec<Oddity> {
    let mut regions: Vec<Region> = map.regions().filter(|region| region.pages > 0).collect();
    regions.sort_by_key(|region| (region.phys, region.index));
    let mut overlaps = Vec::new();
    let mut furthest: Option<Region> = None;
    for region in regions {
        match furthest {
            Some(reaching) if reaching.overlaps(&region) => overlaps.push(overlap(&reaching, &region)),
            _ => {}
        }
        if furthest.is_none_or(|reaching| region.end() > reaching.end()) {
            furthest = Some(region);
        }
    }
    overlaps
}

fn overlap(one: &Region, other: &Region) -> Oddity {
    let (earlier, later) = if one.index < other.index { (one, other) } else { (other, one) };
    let start = one.phys.max(other.phys);
    let last = u128::from(start) + one.shared_bytes(other) - 1;
    Oddity {
        kind: OddityKind::Overlap,
        index: later.index,
        other: Some(earlier.index),
        message: format!(
            "descriptors {} ({}) and {} ({}) share {start:#x}-{last:#x}",
            earlier.index,
            type_name(earlier.ty),
            later.index,
            type_name(later.ty),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_DESCRIPTORS, MemoryDescriptor, MemoryType};
    use super::*;

    fn map(ranges: &[(u64, u64)]) -> MemoryMap {
        let descriptors = ranges.iter().map(|&(phys_start, page_count)| MemoryDescriptor {
            ty: MemoryType::BOOT_SERVICES_DATA,
            phys_start,
            page_count,
            att: MemoryAttribute::WRITE_BACK,
            ..Default::default()
        });
        MemoryMap::from_descriptors("test", descriptors.collect())
    }

    fn found(map: &MemoryMap) -> Vec<(&'static str, usize, Option<usize>)> {
        oddities(map).iter().map(|oddity| (oddity.kind.name(), oddity.index, oddity.other)).collect()
    }

    #[test]
    fn a_sound_map_has_none() {
        assert_eq!(found(&map(&[(0x1000, 1), (0, 1), (0xffff_ffff_ffff_f000, 1)])), []);
    }

    #[test]
    fn an_overlap_names_both_and_what_they_share() {
        let map = map(&[(0x2000, 2), (0x8000, 1), (0x1000, 2)]);
        let oddities = oddities(&map);
        assert_eq!(found(&map), [("overlap", 2, Some(0))]);
        assert_eq!(
            oddities[0].message,
            "descriptors 0 (BootServicesData) and 2 (BootServicesData) share 0x2000-0x2fff"
        );
        assert!(oddities[0].kind.is_finding());
    }

    #[test]
    fn an_overlap_behind_a_shorter_region_is_seen() {
        // The second ends before the third begins; the first still reaches it.
        assert_eq!(
            found(&map(&[(0, 16), (0x1000, 1), (0x8000, 1)])),
            [("overlap", 1, Some(0)), ("overlap", 2, Some(0))]
        );
    }

    #[test]
    fn regions_all_on_one_another_make_one_overlap_each() {
        let map = map(&vec![(0, u64::MAX); MAX_DESCRIPTORS]);
        let overlaps = oddities(&map).iter().filter(|oddity| oddity.kind == OddityKind::Overlap).count();
        assert_eq!(overlaps, MAX_DESCRIPTORS - 1);
    }

    #[test]
    fn wrap_unaligned_and_zero_pages_are_told() {
        let map = map(&[(0xffff_ffff_ffff_f000, 2), (0x1234, 1), (0x10_0000, 0)]);
        assert_eq!(found(&map), [("wrap", 0, None), ("unaligned", 1, None), ("zero-pages", 2, None)]);
        assert_eq!(
            oddities(&map)[1].message,
            "descriptor 1 (BootServicesData) starts at 0x1234, which is not page aligned"
        );
    }

    #[test]
    fn missing_cacheability_is_noted_only_where_someone_maps() {
        let reserved = |att, phys_start| MemoryDescriptor { att, phys_start, page_count: 1, ..Default::default() };
        let map = MemoryMap::from_descriptors(
            "test",
            vec![reserved(MemoryAttribute::empty(), 0), reserved(MemoryAttribute::RUNTIME, 0x1000)],
        );
        assert_eq!(found(&map), [("no-cacheability", 1, None)]);
        assert!(!OddityKind::NoCacheability.is_finding());
    }
}
