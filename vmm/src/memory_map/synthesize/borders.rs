//! The dictionary of borders: addresses at which something ends.

use crate::memory_map::PAGE_BYTES;
use crate::random::Random;

/// 2 MiB, 1 GiB, 512 GiB: what one entry of a page directory and of the two tables above it governs (SDM vol. 3A, 4.5).
pub const SPANS: [u64; 3] = [2 << 20, 1 << 30, 512 << 30];

/// The room for regions in the layouts that place them below -4 GiB: as much fits, to the page.
pub const WINDOW_BYTES: u64 = 64 << 30;

/// Borders of physical memory.
pub const PHYSICAL: [u64; 17] = [
    // The first page, which some firmware writes to.
    0,
    // The end of what real mode reaches, where PCs have ROM below.
    1 << 20,
    // The first end of a large leaf.
    2 << 20,
    // The first end of a 1 GiB leaf.
    1 << 30,
    // A physical address whose bit 31 is set: it is negative in 32 bits.
    2 << 30,
    // Where PCI's memory starts on many PCs.
    0xf000_0000,
    // The local APIC, whose page KVM may claim for itself.
    0xfee0_0000,
    // The end of 32 bits: RAM on PCs goes on above.
    1 << 32,
    // The end of 36 bits, MAXPHYADDR of old CPUs, and of the window of `window`.
    WINDOW_BYTES,
    // MAXPHYADDR of many clients, and the end of what one PML4E governs.
    1 << 39,
    // The end of 40 bits: server firmware puts MMIO there, and 40 bits are what is kept in some tables.
    1 << 40,
    // 46 bits: MAXPHYADDR of many servers, and the end of Linux's direct map with four levels.
    1 << 46,
    // The end of the lower half of canonical addresses: what lies above has no 1:1 alias with four levels.
    1 << 47,
    // The end of 48 bits, where four levels end.
    1 << 48,
    // The highest bit of a physical address in an entry.
    1 << 51,
    // 52 bits: what an entry can hold at most (SDM vol. 3A, 4.1.4).
    1 << 52,
    // The end of the lower half with five levels.
    1 << 56,
];

/// Borders that only nonsense comes near.
pub const OTHER: [u64; 8] = [
    // The end of five levels.
    1 << 57,
    // The sign bit.
    1 << 63,
    // Where the upper half starts.
    (1_u64 << 47).wrapping_neg(),
    // The windows of the layouts, taken for physical addresses.
    (68_u64 << 30).wrapping_neg(),
    (4_u64 << 30).wrapping_neg(),
    // The kernel's text.
    (2_u64 << 30).wrapping_neg(),
    // The last page, beyond which sums wrap.
    0_u64.wrapping_sub(PAGE_BYTES),
    // An error, as 64 bits.
    u64::MAX,
];

/// A border that is not past `end`: a listed one, `end` itself, or the end of some entry's span.
pub fn border(end: u64, random: &mut Random) -> u64 {
    // Of the entries of three levels, those that real maps come near are the likeliest.
    let multiple = |span: u64, of: u64, random: &mut Random| span * (1 + random.below((end / span).clamp(1, of)));
    let border = match random.below(6) {
        0 => end,
        1 => *random.one_of(&PHYSICAL),
        2 | 3 => multiple(SPANS[0], 4096, random),
        4 => multiple(SPANS[1], 128, random),
        _ => multiple(SPANS[2], 128, random),
    };
    if border <= end { border } else { end }
}
