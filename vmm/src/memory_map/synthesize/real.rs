//! What maps of real machines look like, in numbers.
//!
//! Counted in the 16 maps in `tests/maps` that are firmware's own and whole. `tests/synthesis.rs` counts them again, and
//! compares synthesized maps with them.

use crate::memory_map::MemoryType;
use crate::random::Random;

/// The types that they have.
pub const TYPES: [MemoryType; 11] = [
    MemoryType::RESERVED,
    MemoryType::LOADER_CODE,
    MemoryType::LOADER_DATA,
    MemoryType::BOOT_SERVICES_CODE,
    MemoryType::BOOT_SERVICES_DATA,
    MemoryType::RUNTIME_SERVICES_CODE,
    MemoryType::RUNTIME_SERVICES_DATA,
    MemoryType::CONVENTIONAL,
    MemoryType::ACPI_RECLAIM,
    MemoryType::ACPI_NON_VOLATILE,
    MemoryType::MMIO,
];

/// The place of ConventionalMemory in [`TYPES`].
pub const CONVENTIONAL: usize = 7;

/// How often a descriptor of the row's type is followed by one of the column's.
const FOLLOWS: [[u64; 11]; 11] = [
    [29, 0, 1, 4, 4, 0, 1, 16, 6, 5, 10],
    [1, 0, 4, 0, 12, 0, 0, 7, 0, 0, 0],
    [2, 8, 0, 4, 20, 2, 0, 28, 1, 0, 0],
    [6, 0, 4, 0, 111, 20, 8, 9, 0, 4, 0],
    [3, 5, 10, 121, 0, 0, 9, 118, 2, 4, 0],
    [3, 0, 2, 16, 4, 0, 13, 0, 0, 0, 0],
    [8, 0, 1, 1, 9, 15, 1, 1, 0, 2, 0],
    [22, 11, 42, 10, 97, 0, 1, 4, 2, 9, 2],
    [0, 0, 2, 0, 7, 0, 0, 1, 0, 7, 0],
    [2, 0, 0, 0, 8, 1, 6, 7, 6, 3, 1],
    [5, 0, 0, 0, 0, 0, 0, 1, 0, 0, 47],
];

/// Pages of a type's descriptors: the smallest, seven octiles, the largest. Conventional memory above 4 GiB is not among
/// them: it is what a machine's memory leaves.
const PAGES: [[u64; 9]; 11] = [
    [0x1, 0x2, 0x14, 0x60, 0x100, 0x47f, 0x1400, 0x4200, 0x30_0000],
    [0x3, 0x1d, 0xce, 0x10a, 0x111, 0x133, 0x246, 0x249a, 0x6_4000],
    [0x1, 0x1, 0x3, 0xa, 0x3b, 0x304, 0x1590, 0x34c3, 0x3_56d0],
    [0x1, 0x4, 0x8, 0x10, 0x1a, 0x24, 0x3f, 0x10a, 0x1312],
    [0x1, 0x1, 0x3, 0x6, 0xa, 0x18, 0x80, 0x702, 0x85b8],
    [0x1, 0x2, 0x5, 0x6, 0xa, 0x12, 0x55, 0x180, 0x800],
    [0x1, 0x1, 0x4, 0x5, 0x24, 0x84, 0x31c, 0x8b3, 0x8000],
    [0x1, 0x1, 0x1, 0x7, 0x2a, 0xdf, 0x8f0, 0xe70a, 0xb_69a8],
    [0x1, 0x1, 0x8, 0xf, 0x10, 0x24, 0x80, 0xd0, 0x2000],
    [0x1, 0x2, 0x4, 0x12, 0x88, 0xc0, 0x16f, 0x6f0, 0x2400],
    [0x1, 0x1, 0x4, 0x11, 0x1000, 0x1_0000, 0x2_0000, 0x2_0000, 0x5_fc00],
];

/// Descriptors of a map: the fewest, three quartiles, the most.
const DESCRIPTORS: [u64; 5] = [15, 35, 49, 88, 163];

/// The place in [`TYPES`] of the type that follows one.
pub fn follower(of: usize, random: &mut Random) -> usize {
    let row = &FOLLOWS[of];
    let mut drawn = random.below(row.iter().sum());
    row.iter().position(|count| drawn.checked_sub(*count).map(|rest| drawn = rest).is_none()).unwrap_or(CONVENTIONAL)
}

/// Pages of a descriptor whose type has this place in [`TYPES`].
pub fn pages(of: usize, random: &mut Random) -> u64 {
    between(&PAGES[of], random)
}

/// How many descriptors a map has.
pub fn descriptors(random: &mut Random) -> usize {
    between(&DESCRIPTORS, random) as usize
}

/// A number whose quantiles are these: between two of them any power of two is as likely as another.
fn between(quantiles: &[u64], random: &mut Random) -> u64 {
    let at = random.index(quantiles.len() - 1);
    let (first, last) = (quantiles[at], quantiles[at + 1]);
    let power = 1 << (u64::from(first.ilog2()) + random.below(u64::from(last.ilog2() - first.ilog2()) + 1));
    (power + random.below(power)).clamp(first, last)
}
