//! Maps that no firmware should hand out.

use super::borders::{OTHER, PHYSICAL};
use super::draft::Limits;
use crate::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use crate::random::Random;

/// A map of random descriptors, each with a look at those before it.
pub fn map(limits: Limits, random: &mut Random) -> MemoryMap {
    let mut descriptors: Vec<MemoryDescriptor> = Vec::new();
    if !random.once_in(8) {
        // Room for the kernel: a map without any has only that finding.
        descriptors.push(MemoryDescriptor {
            ty: MemoryType::CONVENTIONAL,
            phys_start: 1 << 30,
            page_count: 1 << 18,
            ..MemoryDescriptor::default()
        });
    }
    for _ in 0..1 + random.below(10) {
        let next = descriptor(&descriptors, random);
        descriptors.insert(random.index(descriptors.len() + 1), next);
    }
    descriptors.truncate(limits.descriptors);
    let table = (0..random.below(5)).map(|_| attributes_entry(&descriptors, random)).collect();
    let kind = if random.once_in(4) { ListKind::Runtime } else { ListKind::Firmware };
    MemoryMap::from_descriptors("", descriptors).with_kind(kind).with_attributes_table(table)
}

/// A descriptor, which may have to do with one of those before it.
pub fn descriptor(before: &[MemoryDescriptor], random: &mut Random) -> MemoryDescriptor {
    let neighbour = (!before.is_empty() && random.once_in(3)).then(|| *random.one_of(before));
    let page_count = pages(random);
    let phys_start = match neighbour {
        Some(d) => match random.below(3) {
            // It goes on where another ends, overlaps its start, or ends where it starts.
            0 => d.phys_start.wrapping_add(d.page_count.wrapping_mul(PAGE_BYTES)),
            1 => d.phys_start.wrapping_add(PAGE_BYTES * random.below(4)),
            _ => d.phys_start.wrapping_sub(page_count.wrapping_mul(PAGE_BYTES)),
        },
        None => address(random),
    };
    MemoryDescriptor {
        ty: ty(neighbour, random),
        padding: 0,
        phys_start,
        virt_start: if random.once_in(3) { 0 } else { address(random) },
        page_count,
        att: attribute(neighbour, random),
    }
}

/// Page-aligned most of the time, and near a border as often as not.
pub fn address(random: &mut Random) -> u64 {
    let pages = random.below(8);
    let border = |random: &mut Random| match random.once_in(3) {
        true => *random.one_of(&OTHER),
        false => *random.one_of(&PHYSICAL),
    };
    let page = match random.below(6) {
        0 => random.number() & !(PAGE_BYTES - 1),
        1 | 2 => border(random).wrapping_sub(PAGE_BYTES * pages),
        3 => border(random).wrapping_add(PAGE_BYTES * pages),
        _ => random.below(1 << 20) * PAGE_BYTES,
    };
    if random.once_in(16) { page ^ random.below(PAGE_BYTES) } else { page }
}

/// Few pages, many, none, or so many that sums wrap.
pub fn pages(random: &mut Random) -> u64 {
    let few = random.below(4);
    match random.below(64) {
        0 => 0,
        1 => random.number(),
        2 => (1_u64 << random.below(64)).wrapping_sub(few),
        3 => (1_u64 << random.below(64)).wrapping_add(few),
        4 => u64::MAX - few,
        5 => random.one_of(&PHYSICAL) / PAGE_BYTES + few,
        6..=10 => random.below(1 << 18),
        11..=20 => 512 * few + few,
        21..=40 => 1 + random.below(4096),
        _ => 1 + few,
    }
}

fn ty(neighbour: Option<MemoryDescriptor>, random: &mut Random) -> MemoryType {
    let usual = [MemoryType::RUNTIME_SERVICES_CODE, MemoryType::RUNTIME_SERVICES_DATA, MemoryType::BOOT_SERVICES_DATA];
    match random.below(8) {
        0 => MemoryType(random.below(18) as u32),
        1 => MemoryType(random.number() as u32),
        2 => neighbour.map_or(MemoryType::MMIO, |d| d.ty),
        _ => *random.one_of(&usual),
    }
}

fn attribute(neighbour: Option<MemoryDescriptor>, random: &mut Random) -> MemoryAttribute {
    let usual = MemoryAttribute::WRITE_BACK | MemoryAttribute::RUNTIME;
    match random.below(8) {
        0 => MemoryAttribute::from_bits_retain(random.number()),
        1 => MemoryAttribute::WRITE_BACK,
        2 => MemoryAttribute::RUNTIME,
        3 => neighbour.map_or(usual, |d| d.att),
        _ => usual,
    }
}

/// An entry for a region of the map, or for none, of as many pages or of others.
fn attributes_entry(map: &[MemoryDescriptor], random: &mut Random) -> MemoryDescriptor {
    let like = if random.once_in(4) { descriptor(map, random) } else { *random.one_of(map) };
    let kinds = [MemoryAttribute::EXECUTE_PROTECT, MemoryAttribute::READ_ONLY, MemoryAttribute::empty()];
    let page_count = if random.once_in(2) { like.page_count } else { pages(random) };
    let phys_start = like.phys_start.wrapping_add(PAGE_BYTES * random.below(3));
    MemoryDescriptor { phys_start, page_count, att: MemoryAttribute::RUNTIME | *random.one_of(&kinds), ..like }
}
