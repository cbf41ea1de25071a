//! How many pages a mapper is given for its tables.

use crate::check::{self, Contract};
use crate::memory_map::{MemoryMap, PAGE_BYTES};

/// Pages for tables that a mapper is given at most: a 64 GiB window of 4 KiB leaves takes 32,836, and as many again
/// where it is mapped 1:1 too. That is 320 MiB; and a walk of as many tables takes a second.
pub const MAX_POOL_PAGES: u64 = 81_920;

const _: () = {
    let entries = MAX_POOL_PAGES * PAGE_BYTES / 8;
    assert!(check::MAX_ENTRIES > 6 * entries, "right tables fit the budget: three walks in each of two phases");
};

/// Enough pages for 4 KiB leaves of everything that is mapped, up to a limit.
pub fn pool_pages(map: &MemoryMap, contract: &Contract) -> u64 {
    pages_wanted(map, contract).min(MAX_POOL_PAGES)
}

/// The same without a limit.
pub fn pages_wanted(map: &MemoryMap, contract: &Contract) -> u64 {
    let needs = map.regions().filter(|region| contract.maps(region)).map(|region| {
        let tables = |span: u64| region.pages / span + 2;
        let once = tables(512) + tables(512 * 512);
        // 1:1 the regions may lie anywhere, so each takes tables of every level.
        if contract.may_scatter() { 2 * once + tables(512 << 18) + 4 } else { once }
    });
    // The root, the tables on the arena's border, their copies, and those for page 0 and the virtual map.
    let own = 32 + map.descriptors().len() as u64 / 4096;
    // Each entry of the Memory Attributes Table may split a leaf at both of its ends, at both addresses.
    let splits = 8 * map.attributes_table().len() as u64;
    needs.fold(own + splits, u64::saturating_add)
}
