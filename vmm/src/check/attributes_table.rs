//! The Memory Attributes Table (UEFI 2.10, 4.6.4): which of its entries Linux takes, and what they then forbid.
//!
//! What Linux does is in drivers/firmware/efi/memattr.c: `entry_is_valid()`, `efi_memattr_init()`.

use std::fmt;
use std::ops::Range;

use super::alias::Alias;
use super::contract::Term;
use super::holders::{Extent, holders};
use super::merged::{Merged, in_mapping_order};
use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES, end_of_pages};
use crate::mmu::Pa;

/// For each entry of a map's Memory Attributes Table, why Linux does not take it; None: it does.
pub fn refusals(map: &MemoryMap) -> Vec<Option<EntryRefusal>> {
    let entries = map.attributes_table();
    if entries.is_empty() {
        // Most maps have none, and what Linux maps need not be known.
        return Vec::new();
    }
    if entries.len() > MAX_ENTRIES_PER_DESCRIPTOR.saturating_mul(map.descriptors().len()) {
        return vec![Some(EntryRefusal::TooManyEntries); entries.len()];
    }
    let mut runtime = in_mapping_order(map);
    runtime.retain(|merged| merged.attribute.contains(MemoryAttribute::RUNTIME));
    let holders = holders_of(entries, &runtime);
    entries.iter().zip(holders).map(|(entry, holder)| refusal(entry, holder.map(|index| &runtime[index]))).collect()
}

/// Why Linux does not take an entry of the Memory Attributes Table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EntryRefusal {
    /// The table has more than three entries for each descriptor of the map: none is taken.
    TooManyEntries,
    /// Its type is neither RuntimeServicesCode nor RuntimeServicesData.
    Type,
    /// It has neither RO nor XP.
    ForbidsNothing,
    /// It does not start at a page boundary.
    Unaligned,
    /// It has no pages.
    NoPages,
    /// It starts in no RUNTIME region.
    NoRegion,
    /// It starts in a RUNTIME region of another type.
    OtherType,
    /// It reaches past the end of the RUNTIME region it starts in.
    PastRegion,
}

impl EntryRefusal {
    /// A name that stays the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooManyEntries => "too-many-entries",
            Self::Type => "type",
            Self::ForbidsNothing => "forbids-nothing",
            Self::Unaligned => "unaligned",
            Self::NoPages => "no-pages",
            Self::NoRegion => "no-region",
            Self::OtherType => "other-type",
            Self::PastRegion => "past-region",
        }
    }
}

impl fmt::Display for EntryRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyEntries => "the table has more than three entries for each descriptor",
            Self::Type => "neither runtime code nor runtime data",
            Self::ForbidsNothing => "neither RO nor XP",
            Self::Unaligned => "no page boundary",
            Self::NoPages => "no pages",
            Self::NoRegion => "in no RUNTIME region",
            Self::OtherType => "in a RUNTIME region of another type",
            Self::PastRegion => "past the end of its RUNTIME region",
        })
    }
}

/// What an entry that Linux takes says of its pages.
pub struct Attributes {
    phys: Range<Pa>,
    writable: bool,
    executable: bool,
}

/// The entries of a map's Memory Attributes Table that Linux takes.
pub fn entries_in_force(map: &MemoryMap) -> impl Iterator<Item = &MemoryDescriptor> {
    let entries = map.attributes_table().iter().zip(refusals(map));
    entries.filter(|(_, refusal)| refusal.is_none()).map(|(entry, _)| entry)
}

/// What they say.
pub fn in_force(map: &MemoryMap) -> Vec<Attributes> {
    entries_in_force(map)
        .map(|entry| Attributes {
            // It lies in a region that a layout maps, and such a region ends below 2^52.
            phys: Pa(entry.phys_start)
                ..Pa(entry.phys_start.saturating_add(entry.page_count.saturating_mul(PAGE_BYTES))),
            writable: !entry.att.contains(MemoryAttribute::READ_ONLY),
            executable: !entry.att.contains(MemoryAttribute::EXECUTE_PROTECT),
        })
        .collect()
}

impl Attributes {
    /// Whether it says something of an alias.
    pub fn concerns(&self, alias: &Alias) -> bool {
        alias.region.is_some() && self.phys.start < alias.physical_end() && alias.phys < self.phys.end
    }

    /// The alias in up to three parts, of which the entry's is changed.
    pub fn split(&self, alias: Alias, change: impl FnOnce(Alias) -> Alias) -> [Option<Alias>; 3] {
        if !self.concerns(&alias) {
            return [Some(alias), None, None];
        }
        let end = alias.physical_end();
        let (first, last) = (self.phys.start.max(alias.phys), self.phys.end.min(end));
        [
            alias.part(alias.phys, first, |part| part),
            alias.part(first, last, change),
            alias.part(last, end, |part| part),
        ]
    }

    /// Pages of the entry's under its permissions, which replace those that they had: what the entry does not forbid, it
    /// grants.
    pub fn applied_to(&self, alias: Alias, nx: bool) -> Alias {
        let replaced = |is_granted, term| match (is_granted, term) {
            (false, _) => Term::Forbidden,
            (true, Term::Forbidden) => Term::Owed,
            (true, term) => term,
        };
        let writable = replaced(self.writable, alias.writable);
        let executable = replaced(self.executable || !nx, alias.executable);
        let changed = Alias { writable, executable, ..alias };
        if alias.is_owed { changed } else { changed.allowed() }
    }

    /// Pages of the entry's that may be as strict as it is.
    pub fn may_apply_to(&self, alias: Alias, nx: bool) -> Alias {
        let writable = if self.writable { alias.writable } else { alias.writable.relaxed() };
        let executable = if self.executable || !nx { alias.executable } else { alias.executable.relaxed() };
        Alias { writable, executable, ..alias }
    }
}

/// A table with more is garbage to Linux.
const MAX_ENTRIES_PER_DESCRIPTOR: usize = 3;

/// `holder` is the region that the entry starts in.
fn refusal(entry: &MemoryDescriptor, holder: Option<&Merged>) -> Option<EntryRefusal> {
    if !matches!(entry.ty, MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA) {
        return Some(EntryRefusal::Type);
    }
    if !entry.att.intersects(MemoryAttribute::READ_ONLY | MemoryAttribute::EXECUTE_PROTECT) {
        return Some(EntryRefusal::ForbidsNothing);
    }
    if !entry.phys_start.is_multiple_of(PAGE_BYTES) {
        return Some(EntryRefusal::Unaligned);
    }
    if entry.page_count == 0 {
        return Some(EntryRefusal::NoPages);
    }
    match holder {
        None => Some(EntryRefusal::NoRegion),
        Some(region) if region.ty != entry.ty => Some(EntryRefusal::OtherType),
        Some(region) if end_of_pages(entry.phys_start, entry.page_count) > end_of_pages(region.phys, region.pages) => {
            Some(EntryRefusal::PastRegion)
        }
        Some(_) => None,
    }
}

/// For each entry, the first region in the list that it starts in.
fn holders_of(entries: &[MemoryDescriptor], regions: &[Merged]) -> Vec<Option<usize>> {
    let starts: Vec<Pa> = entries.iter().map(|entry| Pa(entry.phys_start)).collect();
    let extents: Vec<_> = regions.iter().map(|region| Extent::of_pages(Pa(region.phys), region.pages)).collect();
    holders(&starts, &extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: MemoryType = MemoryType::RUNTIME_SERVICES_CODE;
    const DATA: MemoryType = MemoryType::RUNTIME_SERVICES_DATA;
    const RO: MemoryAttribute = MemoryAttribute::READ_ONLY;

    fn descriptor(ty: MemoryType, att: MemoryAttribute, phys_start: u64, page_count: u64) -> MemoryDescriptor {
        MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() }
    }

    fn runtime(ty: MemoryType, phys_start: u64, page_count: u64) -> MemoryDescriptor {
        descriptor(ty, MemoryAttribute::RUNTIME, phys_start, page_count)
    }

    fn refused(regions: &[MemoryDescriptor], entries: &[MemoryDescriptor]) -> Vec<Option<EntryRefusal>> {
        let map = MemoryMap::from_descriptors("test", regions.to_vec());
        refusals(&map.with_attributes_table(entries.to_vec()))
    }

    #[test]
    fn an_entry_lies_wholly_in_a_region_of_its_type_and_forbids_something() {
        let regions = [
            runtime(CODE, 0x10000, 16),
            runtime(DATA, 0x20000, 16),
            descriptor(DATA, MemoryAttribute::WRITE_BACK, 0x40000, 16),
        ];
        let refusal = |ty, att, phys, pages| refused(&regions, &[descriptor(ty, att, phys, pages)])[0];
        assert_eq!(refusal(CODE, RO, 0x10000, 16), None);
        assert_eq!(refusal(DATA, MemoryAttribute::EXECUTE_PROTECT, 0x2f000, 1), None);
        assert_eq!(refusal(MemoryType::BOOT_SERVICES_CODE, RO, 0x10000, 16), Some(EntryRefusal::Type));
        assert_eq!(refusal(CODE, MemoryAttribute::RUNTIME, 0x10000, 16), Some(EntryRefusal::ForbidsNothing));
        assert_eq!(refusal(CODE, RO, 0x10800, 1), Some(EntryRefusal::Unaligned));
        assert_eq!(refusal(CODE, RO, 0x10000, 0), Some(EntryRefusal::NoPages));
        assert_eq!(refusal(CODE, RO, 0xf000, 2), Some(EntryRefusal::NoRegion));
        assert_eq!(refusal(DATA, RO, 0x40000, 1), Some(EntryRefusal::NoRegion), "not RUNTIME");
        assert_eq!(refusal(DATA, RO, 0x10000, 16), Some(EntryRefusal::OtherType));
        assert_eq!(refusal(CODE, RO, 0x1f000, 2), Some(EntryRefusal::PastRegion));
        assert_eq!(refusal(CODE, RO, 0x1f000, u64::MAX), Some(EntryRefusal::PastRegion));
    }

    #[test]
    fn an_entry_may_span_descriptors_that_linux_merges() {
        let regions = [runtime(CODE, 0x10000, 1), runtime(CODE, 0x11000, 1)];
        assert_eq!(refused(&regions, &[descriptor(CODE, RO, 0x10000, 2)]), [None]);
    }

    #[test]
    fn of_regions_on_one_another_the_last_of_firmwares_list_decides() {
        let entry = [descriptor(CODE, RO, 0x18000, 1)];
        let (code, data) = (runtime(CODE, 0x10000, 16), runtime(DATA, 0x18000, 4));
        assert_eq!(refused(&[data, code], &entry), [None]);
        assert_eq!(refused(&[code, data], &entry), [Some(EntryRefusal::OtherType)]);
        // One that ended before the entry does not decide.
        assert_eq!(refused(&[code, runtime(DATA, 0x14000, 4)], &entry), [None]);
    }

    #[test]
    fn a_table_of_more_than_three_entries_a_descriptor_is_garbage() {
        let entry = descriptor(CODE, RO, 0x10000, 1);
        let region = [runtime(CODE, 0x10000, 16)];
        assert_eq!(refused(&region, &[entry; 3]), [None; 3]);
        assert_eq!(refused(&region, &[entry; 4]), [Some(EntryRefusal::TooManyEntries); 4]);
    }

    #[test]
    fn as_many_entries_as_are_read_are_judged_in_one_sweep() {
        let regions: Vec<_> = (0..65_536).map(|index| runtime(DATA, index << 13, 1)).collect();
        let entries: Vec<_> = (0..65_536).map(|index| descriptor(DATA, RO, index << 13, 1)).collect();
        assert_eq!(refused(&regions, &entries), vec![None; 65_536]);
    }
}
