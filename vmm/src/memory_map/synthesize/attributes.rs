//! Memory Attributes Tables as UEFI 2.10, 4.6.4 wants them: sorted runs of runtime code and data, each within one region.

use super::borders::SPANS;
use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES};
use crate::random::Random;

/// A table for a map whose regions do not overlap.
pub fn table(descriptors: &[MemoryDescriptor], random: &mut Random) -> Vec<MemoryDescriptor> {
    let mut regions: Vec<_> = descriptors.iter().filter(|each| may_have_entries(each)).collect();
    regions.sort_by_key(|region| region.phys_start);
    // Linux takes no table with more than three entries for each descriptor (`efi_memattr_init`).
    let most = 3 * descriptors.len();
    let mut entries = Vec::new();
    for region in regions {
        if entries.len() + MAX_RUNS > most {
            break;
        }
        runs_of(region, &mut entries, random);
    }
    entries
}

/// Runs of one region at most. Headers, code and data of an image are three.
const MAX_RUNS: usize = 5;

fn may_have_entries(region: &MemoryDescriptor) -> bool {
    let has_type = [MemoryType::RUNTIME_SERVICES_CODE, MemoryType::RUNTIME_SERVICES_DATA].contains(&region.ty);
    has_type && region.att.contains(MemoryAttribute::RUNTIME) && region.page_count > 0
}

/// Runs of a region, from its first page to its last. Some are left out: the table has no word on their pages.
fn runs_of(region: &MemoryDescriptor, entries: &mut Vec<MemoryDescriptor>, random: &mut Random) {
    let is_data = region.ty == MemoryType::RUNTIME_SERVICES_DATA;
    let cuts = if is_data && !random.once_in(4) { 0 } else { random.below(MAX_RUNS as u64) };
    let mut ends: Vec<u64> = (0..cuts).map(|_| cut(region, random)).chain([region.page_count]).collect();
    ends.sort_unstable();
    let mut first = 0;
    for end in ends {
        let is_run = end > first && (cuts == 0 || !random.once_in(5));
        if is_run {
            entries.push(MemoryDescriptor {
                phys_start: region.phys_start + first * PAGE_BYTES,
                page_count: end - first,
                att: MemoryAttribute::RUNTIME | permissions(is_data, end == region.page_count, random),
                ..*region
            });
        }
        first = end;
    }
}

/// A page of a region at which one run ends and the next begins: anywhere, or near the border of a large leaf.
fn cut(region: &MemoryDescriptor, random: &mut Random) -> u64 {
    let pages = region.page_count;
    let anywhere = 1 + random.below(pages);
    let span = SPANS[random.index(2)];
    let border = (region.phys_start + anywhere * PAGE_BYTES).next_multiple_of(span);
    let near = (border - region.phys_start) / PAGE_BYTES + random.below(3);
    if random.once_in(2) { anywhere } else { near.saturating_sub(1).clamp(1, pages) }
}

/// Firmware must be able to execute some page of its code, and to write to some page of its data: the last run allows it.
fn permissions(is_data: bool, is_last: bool, random: &mut Random) -> MemoryAttribute {
    let (read_only, no_execute) = (MemoryAttribute::READ_ONLY, MemoryAttribute::EXECUTE_PROTECT);
    match random.below(8) {
        _ if is_last => {
            if is_data {
                no_execute
            } else {
                read_only
            }
        }
        0 => read_only | no_execute,
        1..=3 if !is_data => read_only,
        _ => no_execute,
    }
}
