//! Maps as real firmware makes them.
//!
//! A list goes up through memory, one type after another as in real lists, with a hole now and then. Memory above 4 GiB
//! comes last. In most real lists one piece stands elsewhere than where its addresses put it.

use super::attributes;
use super::draft::{Draft, Kind, Limits};
use super::real::{self, CONVENTIONAL, TYPES};
use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use crate::random::Random;

/// A valid map.
pub fn map(limits: Limits, random: &mut Random) -> MemoryMap {
    let mut draft = Draft::new(limits);
    let end = go_up(&mut draft, random);
    if random.once_in(LARGE_RUNTIME) {
        add_large_runtime(&mut draft, end, random);
    }
    let mut descriptors = draft.into_descriptors();
    let table = if random.once_in(2) { attributes::table(&descriptors, random) } else { Vec::new() };
    if !random.once_in(3) {
        displace_a_piece(&mut descriptors, random);
    }
    MemoryMap::from_descriptors("", descriptors).with_attributes_table(table)
}

/// A Memory Attributes Table over large leaves is allowed, though no known machine has one: one map in so many.
const LARGE_RUNTIME: u64 = 16;
/// One hole in so many descriptors: 101 of 979 do not start where the one before ends, and 12 of 979 start below it.
const HOLE: u64 = 10;
/// One RUNTIME region of type Reserved in so many: 1 in 81.
const RESERVED_RUNTIME: u64 = 81;
/// Up to 2^19 pages: few holes below 4 GiB are larger.
const HOLE_BITS: u64 = 19;

/// From address 0 up to the last descriptor; where that ends is the result.
fn go_up(draft: &mut Draft, random: &mut Random) -> u64 {
    let count = real::descriptors(random);
    let (mut at, mut phys) = (CONVENTIONAL, 0);
    for index in 0..count {
        if random.once_in(HOLE) && index > 0 {
            phys += PAGE_BYTES * (1 << random.below(HOLE_BITS));
        }
        let is_last = index + 1 == count;
        let (kind, wanted) = match is_last && random.once_in(2) {
            true => {
                phys = phys.max(1 << 32);
                // From half a GiB to a TiB.
                (Kind::memory(MemoryType::CONVENTIONAL), (1 << (17 + random.below(11))) + random.below(1 << 17))
            }
            false => (kind_of(TYPES[at], random), real::pages(at, random)),
        };
        let pages = wanted.min(draft.pages_left(kind));
        if pages > 0 && draft.append(kind, phys, pages) {
            phys += pages * PAGE_BYTES;
        }
        at = real::follower(at, random);
    }
    phys
}

fn kind_of(ty: MemoryType, random: &mut Random) -> Kind {
    match ty {
        MemoryType::RUNTIME_SERVICES_CODE => Kind::CODE,
        MemoryType::RUNTIME_SERVICES_DATA => Kind::DATA,
        MemoryType::MMIO if random.once_in(6) => Kind { ty, att: PREFETCHABLE | MemoryAttribute::RUNTIME },
        MemoryType::MMIO => Kind::MMIO,
        MemoryType::RESERVED if random.once_in(RESERVED_RUNTIME) => Kind { ty, att: MemoryAttribute::RUNTIME },
        // Nobody may use it, and some firmware does not say how.
        MemoryType::RESERVED if random.once_in(3) => Kind { ty, att: MemoryAttribute::empty() },
        _ => Kind::memory(ty),
    }
}

/// What 10 of 61 regions of MMIO are capable of.
const PREFETCHABLE: MemoryAttribute = MemoryAttribute::UNCACHEABLE
    .union(MemoryAttribute::WRITE_THROUGH)
    .union(MemoryAttribute::WRITE_BACK)
    .union(MemoryAttribute::WRITE_PROTECT);

/// Runtime code or data at the next GiB: from 2 MiB to 2 GiB, in whole large leaves.
fn add_large_runtime(draft: &mut Draft, end: u64, random: &mut Random) {
    let kind = *random.one_of(&[Kind::CODE, Kind::DATA]);
    let large = 512 * (1 + random.below(4));
    let pages = if random.once_in(2) { large } else { large.max(512 * 512 + large - 512) };
    draft.append(kind, end.next_multiple_of(1 << 30), pages);
}

/// Moves a piece of the list to its end, as most firmware has it: MMIO below 4 GiB after memory above.
fn displace_a_piece(descriptors: &mut [MemoryDescriptor], random: &mut Random) {
    let from = random.index(descriptors.len());
    let pieces = &mut descriptors[from..];
    let length = random.index(pieces.len());
    pieces.rotate_left(length);
}
