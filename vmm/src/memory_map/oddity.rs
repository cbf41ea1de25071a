//! What is odd about a map that reads well.

use super::names::{ATTRIBUTES, TYPES};
use super::{MemoryAttribute, MemoryMap, MemoryType, Region, type_name};

/// Lists what is odd about a map, in list order.
///
/// At most one overlap is listed for each region, with one region listed or lying before it: 65,536 regions on one
/// another make 65,535 oddities, not two thousand million. Whether the processor can address a region is not judged
/// here: that depends on the processor.
pub fn oddities(map: &MemoryMap) -> Vec<Oddity> {
    oddities_but(map, None)
}

/// The same without one kind of those that are about one region each. To word what nobody reads takes its time.
pub(crate) fn oddities_but(map: &MemoryMap, left_out: Option<OddityKind>) -> Vec<Oddity> {
    let mut oddities = map.notes.clone();
    oddities.extend(overlaps(map));
    for region in map.regions() {
        oddities.extend(of_region(&region, left_out));
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
    /// A region that layouts map has no cacheability attribute. Other regions often have none, and nothing maps them.
    NoCacheability,
    /// A region that layouts map ends above 64 GiB: one at a fixed distance from physical addresses has no room for it.
    AboveWindow,
    /// There are attribute bits that UEFI does not define, or the instruction set's own bits without ISA_VALID.
    UnknownAttribute,
    /// The type is a number that UEFI reserves and has not defined yet.
    UnknownType,
    /// A region of runtime code or data has no RUNTIME attribute: layouts do not map it.
    UnmarkedRuntime,
    /// The row numbers of a Linux log have a hole: the log lost lines, or is an excerpt.
    MissingRows,
    /// The text holds another list, which is not read.
    ExtraList,
    /// A size or a total in the text does not match the ranges in it.
    SizeMismatch,
    /// A row that could not be read was skipped.
    SkippedLine,
    /// The text was mended before it was read: rows that were wrapped, or printed twice; a stray byte outside of rows.
    Repaired,
    /// The text has only a part of the map.
    Partial,
    /// The printer of a row had no name for its type, and did not print the number.
    LostType,
    /// The printer of a row cut its attributes, and RUNTIME with them.
    LostRuntime,
    /// The printer of a row cut its virtual address.
    LostVirtualAddress,
}

efibed_stub::names! {
    OddityKind, "oddity":
    Overlap "overlap",
    Wrap "wrap",
    Unaligned "unaligned",
    ZeroPages "zero-pages",
    NoCacheability "no-cacheability",
    AboveWindow "above-64g",
    UnknownAttribute "unknown-attribute",
    UnknownType "unknown-type",
    UnmarkedRuntime "unmarked-runtime",
    MissingRows "missing-rows",
    ExtraList "extra-list",
    SizeMismatch "size-mismatch",
    SkippedLine "skipped-line",
    Repaired "repaired",
    Partial "partial",
    LostType "lost-type",
    LostRuntime "lost-runtime",
    LostVirtualAddress "lost-virtual-address",
}

impl OddityKind {
    /// Whether it is about the text that a map was read from, and not about the memory that the map describes.
    pub fn is_of_text(self) -> bool {
        self.is_of_map() || matches!(self, Self::LostType | Self::LostRuntime | Self::LostVirtualAddress)
    }

    /// Whether it makes the map wrong (a finding). Anything else is worth a note only.
    pub fn is_finding(self) -> bool {
        matches!(self, Self::Overlap | Self::Wrap | Self::Unaligned)
    }

    /// Whether it is about the map as a whole, or the text it was read from: the descriptor it names is a place only.
    pub fn is_of_map(self) -> bool {
        matches!(
            self,
            Self::MissingRows
                | Self::ExtraList
                | Self::SizeMismatch
                | Self::SkippedLine
                | Self::Repaired
                | Self::Partial
        )
    }
}

fn of_region(region: &Region, left_out: Option<OddityKind>) -> impl Iterator<Item = Oddity> {
    let checks = [
        (OddityKind::Wrap, region.wraps()),
        (OddityKind::Unaligned, !region.is_aligned()),
        (OddityKind::ZeroPages, region.pages == 0),
        (OddityKind::NoCacheability, region.is_mapped() && !has_cacheability(region)),
        (OddityKind::AboveWindow, region.is_mapped() && !region.wraps() && region.end() > WINDOW_BYTES),
        (OddityKind::UnknownAttribute, !unknown_attributes(region).is_empty()),
        (OddityKind::UnknownType, is_unknown(region.ty)),
        (OddityKind::UnmarkedRuntime, is_runtime_type(region.ty) && !region.is_runtime() && region.pages > 0),
    ];
    let region = *region;
    checks.into_iter().filter(move |(kind, odd)| *odd && left_out != Some(*kind)).map(move |(kind, _)| Oddity {
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
        OddityKind::AboveWindow => format!("ends at {:#x}, above 64 GiB", region.end().saturating_sub(1)),
        OddityKind::UnknownAttribute => {
            let bits = unknown_attributes(region);
            let why = match MemoryAttribute::ISA_MASK.contains(bits) {
                true => "bits that belong to the instruction set, but not ISA_VALID",
                false => "attributes that UEFI does not define",
            };
            format!("has {why}: {:#x}", bits.bits())
        }
        OddityKind::UnknownType => "is of a type that UEFI does not define".into(),
        OddityKind::UnmarkedRuntime => format!("at {phys:#x} has a runtime-services type, but is not marked RUNTIME"),
        _ => format!("at {phys:#x} has no attribute that says how it may be cached"),
    };
    format!("descriptor {} ({ty}) {what}", region.index)
}

/// The size of the virtual addresses that Linux has for firmware: EFI_VA_START to EFI_VA_END in
/// arch/x86/include/asm/efi.h.
const WINDOW_BYTES: u128 = 64 << 30;

/// The bits that mean nothing (UEFI 2.10, section 7.2.3): those under ISA_MASK mean something with ISA_VALID.
fn unknown_attributes(region: &Region) -> MemoryAttribute {
    let known = ATTRIBUTES.iter().fold(MemoryAttribute::empty(), |known, (bit, _)| known | *bit);
    match region.attribute.contains(MemoryAttribute::ISA_VALID) {
        true => region.attribute.difference(known | MemoryAttribute::ISA_MASK),
        false => region.attribute.difference(known),
    }
}

/// Whether UEFI keeps a type for itself: OEMs' begin at 0x70000000, operating systems' at 0x80000000 (UEFI 2.10,
/// section 7.2.1, "EFI_MEMORY_TYPE").
fn is_unknown(ty: MemoryType) -> bool {
    usize::try_from(ty.0).is_ok_and(|ty| ty >= TYPES.len()) && ty.0 < 0x7000_0000
}

fn is_runtime_type(ty: MemoryType) -> bool {
    matches!(ty, MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA)
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
    let last = u128::from(start).saturating_add(one.shared_bytes(other)).saturating_sub(1);
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
        assert_eq!(found(&map(&[(0x1000, 1), (0, 1), (0xf_ffff_f000, 1)])), []);
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

    fn of_one(ty: MemoryType, attribute: u64, phys_start: u64, page_count: u64) -> Vec<Oddity> {
        let att = MemoryAttribute::from_bits_retain(attribute);
        let descriptor = MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() };
        oddities(&MemoryMap::from_descriptors("test", vec![descriptor]))
    }

    const RUNTIME_WB: u64 = 1 << 63 | 8;

    #[test]
    fn what_is_mapped_and_ends_above_64_gib_is_noted() {
        let found = of_one(MemoryType::MMIO, RUNTIME_WB, 0xf_ffff_f000, 2);
        assert_eq!((found[0].kind.name(), found[0].kind.is_finding()), ("above-64g", false));
        assert_eq!(found[0].message, "descriptor 0 (MemoryMappedIO) ends at 0x1000000fff, above 64 GiB");
        assert_eq!(of_one(MemoryType::MMIO, RUNTIME_WB, 0xf_ffff_f000, 1), []);
        // Layouts do not map it.
        assert_eq!(of_one(MemoryType::CONVENTIONAL, 8, 0xf_ffff_f000, 2), []);
    }

    #[test]
    fn attributes_that_mean_nothing_are_noted() {
        let message = |attribute| {
            let found = of_one(MemoryType::CONVENTIONAL, attribute, 0, 1);
            found.first().map(|oddity| oddity.message.clone())
        };
        let undefined = "descriptor 0 (ConventionalMemory) has attributes that UEFI does not define: ";
        assert_eq!(message(0x0000_0000_0020_000f), Some(format!("{undefined}0x200000")));
        assert_eq!(message(0x4000_0000_0020_000f), Some(format!("{undefined}0x200000")));
        // As Xen printed it of an Avoton.
        let own = "descriptor 0 (ConventionalMemory) has bits that belong to the instruction set, but not ISA_VALID: ";
        assert_eq!(message(0x0700_0000_0000_000f), Some(format!("{own}0x700000000000000")));
        assert_eq!(message(0x4700_0000_0000_000f), None);
        assert_eq!(message(0x0000_0000_001f_f01f), None, "UEFI 2.11 defines bits 0 to 4 and 12 to 20");
    }

    #[test]
    fn types_that_uefi_keeps_for_itself_are_noted() {
        let is_noted = |ty| of_one(MemoryType(ty), 8, 0, 1).iter().any(|oddity| oddity.kind.name() == "unknown-type");
        assert!(is_noted(16) && is_noted(0x6fff_ffff));
        assert!(!is_noted(15) && !is_noted(0x7000_0000) && !is_noted(0x8000_0000) && !is_noted(u32::MAX));
    }

    #[test]
    fn runtime_services_memory_without_runtime_is_noted() {
        let found = of_one(MemoryType::RUNTIME_SERVICES_DATA, 8, 0x1000, 1);
        assert_eq!(
            found[0].message,
            "descriptor 0 (RuntimeServicesData) at 0x1000 has a runtime-services type, but is not marked RUNTIME"
        );
        assert_eq!(of_one(MemoryType::RUNTIME_SERVICES_DATA, RUNTIME_WB, 0x1000, 1), []);
        assert_eq!(of_one(MemoryType::BOOT_SERVICES_DATA, 8, 0x1000, 1), []);
    }
}
