//! What the classes promise, said of a finished map.

use super::Class;
use crate::memory_map::{MemoryAttribute, MemoryMap, MemoryType, Region, oddities};

impl Class {
    /// Whether a map keeps what the class promises of memory and of the Memory Attributes Table. How a map looks is no part
    /// of it: any map that conforms to UEFI keeps the promise of [`Class::Valid`].
    pub fn holds_of(self, map: &MemoryMap) -> bool {
        match self {
            Self::Valid => map.regions().all(|region| region.pages > 0) && conforms(map),
            Self::Odd => conforms(map),
            Self::Hostile => true,
        }
    }
}

fn conforms(map: &MemoryMap) -> bool {
    let is_map_right = !oddities(map).iter().any(|oddity| oddity.kind.is_finding());
    is_map_right
        && map.regions().all(|region| is_runtime_right(&region))
        && is_table_right(map)
        && allows(map, MemoryType::RUNTIME_SERVICES_CODE, MemoryAttribute::EXECUTE_PROTECT)
        && allows(map, MemoryType::RUNTIME_SERVICES_DATA, MemoryAttribute::READ_ONLY)
}

/// Runtime code and data have RUNTIME (UEFI 2.10, 7.2.3). ACPI's memory does not (2.3.4), nor does what an operating system
/// gets. Reserved may: real firmware has devices so.
fn is_runtime_right(region: &Region) -> bool {
    match region.ty {
        MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA => region.is_runtime(),
        MemoryType::MMIO | MemoryType::MMIO_PORT_SPACE | MemoryType::PAL_CODE | MemoryType::RESERVED => true,
        _ => !region.is_runtime(),
    }
}

/// Sorted, without overlap, of runtime code and data (UEFI 2.10, 4.6.4). Each entry lies in one region, or in two alike that
/// follow one another in memory.
fn is_table_right(map: &MemoryMap) -> bool {
    let entries: Vec<Region> = map.attributes_table().iter().map(|entry| Region::new(0, entry)).collect();
    let is_sorted = entries.windows(2).all(|pair| pair[0].end() <= u128::from(pair[1].phys));
    is_sorted && entries.iter().all(|entry| entry.pages > 0 && entry.is_aligned() && has_a_region(entry, map))
}

fn has_a_region(entry: &Region, map: &MemoryMap) -> bool {
    let follows = |next: &Region, first: &Region| {
        (next.ty, next.attribute) == (first.ty, first.attribute) && u128::from(next.phys) == first.end()
    };
    let is_code_or_data = [MemoryType::RUNTIME_SERVICES_CODE, MemoryType::RUNTIME_SERVICES_DATA].contains(&entry.ty);
    is_code_or_data
        && map.regions().filter(|region| region.ty == entry.ty && region.phys <= entry.phys).any(|region| {
            let next = map.regions().find(|next| follows(next, &region));
            entry.end() <= next.map_or(region.end(), |next| next.end()) && u128::from(entry.phys) < region.end()
        })
}

/// Whether the table leaves some page of a type without an attribute: of code that may be executed, of data that may be
/// written to. Entries do not overlap.
fn allows(map: &MemoryMap, ty: MemoryType, attribute: MemoryAttribute) -> bool {
    let pages: u64 = map.regions().filter(|region| region.ty == ty).map(|region| region.pages).sum();
    let denying = map.attributes_table().iter().filter(|entry| entry.ty == ty && entry.att.contains(attribute));
    pages == 0 || denying.map(|entry| entry.page_count).sum::<u64>() < pages
}
