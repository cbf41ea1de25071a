//! Legal maps that are hard to map: each is made of a few oddities, or fills the window of the layouts.

use super::attributes;
use super::borders::{SPANS, WINDOW_BYTES, border};
use super::draft::{Draft, Kind, Limits};
use crate::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use crate::random::Random;

/// An odd map.
pub fn map(limits: Limits, random: &mut Random) -> MemoryMap {
    let mut draft = Draft::new(limits);
    // These are what they are as a whole: another region would spoil the sum.
    let whole = match random.below(12) {
        0 => fill_the_window(&mut draft, random),
        1 => reach_the_end_of_the_window(&mut draft, random),
        _ => false,
    };
    if !whole {
        add_oddities(&mut draft, random);
    }
    let mut descriptors = draft.into_descriptors();
    let mut table = if random.once_in(2) { attributes::table(&descriptors, random) } else { Vec::new() };
    if random.once_in(4) {
        cross_into_the_next_region(&descriptors, &mut table);
    }
    if !whole {
        arrange(&mut descriptors, random);
    }
    let map = MemoryMap::from_descriptors("", descriptors).with_attributes_table(table);
    if random.once_in(6) { of_a_second_kernel(map, random) } else { map }
}

type Oddity = fn(&mut Draft, &mut Random);

/// What odd maps are made of. What stands here twice is twice as likely.
const ODDITIES: [Oddity; 12] = [
    at_a_border,
    at_a_border,
    off_by_a_page,
    interleaved,
    interleaved,
    touching,
    large,
    over_large_leaves,
    pages_far_apart,
    last_page,
    empty,
    page_zero,
];

fn add_oddities(draft: &mut Draft, random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        random.one_of(&ODDITIES)(draft, random);
    }
    // Room for the kernel, where it is free: a map without any is odd too.
    let memory = Kind::memory(MemoryType::CONVENTIONAL);
    if !random.once_in(8) {
        let _ = (1..8).any(|index| draft.add(memory, index * (5 << 28), 1 << 14));
    }
    if draft.is_empty() {
        draft.add(memory, 1 << 30, 1 << 14);
    }
}

/// What firmware needs at runtime, or in SetVirtualAddressMap.
fn mapped(random: &mut Random) -> Kind {
    let boot = [MemoryType::BOOT_SERVICES_CODE, MemoryType::BOOT_SERVICES_DATA];
    match random.below(8) {
        0..3 => Kind::DATA,
        3 | 4 => Kind::CODE,
        5 => Kind::MMIO,
        _ => Kind::memory(*random.one_of(&boot)),
    }
}

/// It ends at a border, starts there, or crosses it, by a page or by many.
fn at_a_border(draft: &mut Draft, random: &mut Random) {
    let border = border(draft.limits.end, random);
    let side = |random: &mut Random| match random.below(4) {
        0 => 0,
        1 => 1,
        2 => random.below(8),
        _ => random.below(1100),
    };
    let before = side(random).min(border / PAGE_BYTES);
    let after = side(random).min((draft.limits.end - border) / PAGE_BYTES);
    draft.add(mapped(random), border - before * PAGE_BYTES, (before + after).max(u64::from(before > 0)));
}

/// It is as long as large leaves, and starts a page, or a few, from where one could.
fn off_by_a_page(draft: &mut Draft, random: &mut Random) {
    let start = border(draft.limits.end, random).saturating_sub(random.below(2) * SPANS[0]);
    let off = PAGE_BYTES * (1 + random.below(3));
    let phys = if random.once_in(2) { start.saturating_sub(off) } else { start.saturating_add(off) };
    draft.add(mapped(random), phys, 512 * (1 + random.below(4)) + random.below(3));
}

/// Code and data of images, one page after another.
fn interleaved(draft: &mut Draft, random: &mut Random) {
    let mut phys = anywhere(draft, random);
    let kinds = [Kind::CODE, Kind::DATA];
    let first = random.index(2);
    for index in 0..2 + random.index(5) {
        let pages = 1 + random.below(6);
        if !draft.add(kinds[(first + index) % 2], phys, pages) {
            return;
        }
        phys += pages * PAGE_BYTES;
    }
}

/// Neighbours alike, which Linux makes one of, and others with a hole of a page.
fn touching(draft: &mut Draft, random: &mut Random) {
    let (kind, mut phys) = (mapped(random), anywhere(draft, random));
    for _ in 0..2 + random.below(3) {
        let pages = *random.one_of(&[1, 2, 511, 512, 513]);
        draft.add(kind, phys, pages);
        phys += (pages + random.below(2)) * PAGE_BYTES;
    }
}

/// Longer than a GiB, or than 4 GiB, from where a 2 MiB leaf or a 1 GiB leaf can start. It ends with such a leaf, or with
/// smaller ones.
fn large(draft: &mut Draft, random: &mut Random) {
    let span = SPANS[random.index(2)];
    let phys = border(draft.limits.end / 2, random).next_multiple_of(span);
    let gib = 1 << 18;
    let pages = *random.one_of(&[1, 1, 2, 4, 5]) * gib + 512 * random.below(3) + random.below(2) * random.below(512);
    draft.add(mapped(random), phys, pages);
}

/// Runtime code or data that takes large leaves, for a Memory Attributes Table to split.
fn over_large_leaves(draft: &mut Draft, random: &mut Random) {
    let span = if random.once_in(3) { SPANS[1] } else { SPANS[0] };
    let phys = anywhere(draft, random).next_multiple_of(span);
    let pages = span / PAGE_BYTES * (1 + random.below(2)) + random.below(2) * random.below(4);
    draft.add(*random.one_of(&[Kind::CODE, Kind::DATA]), phys, pages);
}

/// Single pages of MMIO, in tables of their own at every level.
fn pages_far_apart(draft: &mut Draft, random: &mut Random) {
    let span = *random.one_of(&SPANS);
    let slots = (draft.limits.end / span).clamp(1, 1 << 14);
    for _ in 0..1 + random.below(5) {
        draft.add(Kind::MMIO, span * random.below(slots) + PAGE_BYTES * random.below(2) * random.below(512), 1);
    }
}

/// The last that the CPU can address.
fn last_page(draft: &mut Draft, random: &mut Random) {
    let pages = *random.one_of(&[1, 1, 2, 512, 513]);
    draft.add(mapped(random), draft.limits.end - pages * PAGE_BYTES, pages);
}

/// No pages: at a border, or wherever the next region may come to lie.
fn empty(draft: &mut Draft, random: &mut Random) {
    let phys = if random.once_in(2) { border(draft.limits.end, random) } else { anywhere(draft, random) };
    draft.add(mapped(random), phys, 0);
}

/// The page that a null pointer leads to.
fn page_zero(draft: &mut Draft, random: &mut Random) {
    draft.add(mapped(random), 0, 1 + random.below(16));
}

/// An address below 4 GiB, or anywhere.
fn anywhere(draft: &Draft, random: &mut Random) -> u64 {
    let end = if random.once_in(4) { draft.limits.end } else { 1 << 32 };
    random.below(end / PAGE_BYTES) * PAGE_BYTES
}

const WINDOW_PAGES: u64 = WINDOW_BYTES / PAGE_BYTES;

/// Regions of 64 GiB together, to the page, or a page less or more; then a small one. False: the limits are too tight.
fn fill_the_window(draft: &mut Draft, random: &mut Random) -> bool {
    let gib = 1 << 18;
    let part = *random.one_of(&[1, 2, 512, 1024, 512 * 511]);
    let pages = match random.below(4) {
        0 => [WINDOW_PAGES - gib, gib - part, part + 1],
        1 => [WINDOW_PAGES - gib, gib - part, part - 1],
        // The order matters: what comes after a region that does not fit must not be placed either.
        2 => [part, WINDOW_PAGES, part],
        _ => [WINDOW_PAGES - gib, gib - part, part],
    };
    let base = WINDOW_BYTES * (1 + random.below(4));
    let fits = draft.limits.end >= base + 4 * WINDOW_BYTES
        && draft.limits.descriptors > pages.len()
        && draft.limits.mapped_pages > WINDOW_PAGES + gib;
    if fits {
        for (index, pages) in (0..).zip(pages).filter(|(_, pages)| *pages > 0) {
            draft.append(*random.one_of(&[Kind::DATA, Kind::MMIO]), base + index * WINDOW_BYTES, pages);
        }
    }
    fits
}

/// The highest region ends with the 64 GiB that `window` has room for, or a page before or after. Others lie below.
fn reach_the_end_of_the_window(draft: &mut Draft, random: &mut Random) -> bool {
    let pages = *random.one_of(&[1, 2, 512, 513]);
    let end = WINDOW_BYTES + PAGE_BYTES * *random.one_of(&[0, 0, 1, 2]) - PAGE_BYTES;
    let highest = mapped(random);
    let fits = draft.add(highest, end + PAGE_BYTES - pages * PAGE_BYTES, pages);
    for _ in 0..random.below(4) {
        // The list is not sorted: what is last in it need not be the highest.
        draft.add(mapped(random), random.below(1 << 24) * PAGE_BYTES / 2, 1 + random.below(600));
    }
    fits
}

/// Entries of the Memory Attributes Table that go on into the next region, where that is alike. Linux takes them if it has
/// made one region of the two.
fn cross_into_the_next_region(descriptors: &[MemoryDescriptor], table: &mut Vec<MemoryDescriptor>) {
    for pair in descriptors.windows(2) {
        let [first, next] = pair else { continue };
        if are_one(first, next) && next.page_count > 1 {
            for entry in table.iter_mut().filter(|entry| end(entry) == next.phys_start) {
                entry.page_count += 1;
            }
            table.retain(|entry| entry.phys_start != next.phys_start);
        }
    }
}

/// In the order of addresses, the reverse, as they were made, or in none.
fn arrange(descriptors: &mut [MemoryDescriptor], random: &mut Random) {
    let order = random.below(6);
    match order {
        0..3 => descriptors.sort_by_key(|descriptor| descriptor.phys_start),
        3 => descriptors.sort_by_key(|descriptor| std::cmp::Reverse(descriptor.phys_start)),
        4 => {}
        _ => (1..descriptors.len()).rev().for_each(|last| descriptors.swap(last, random.index(last + 1))),
    }
}

/// The map as a kernel sees it that was started by kexec: RUNTIME regions have the addresses that the first kernel gave
/// them, in both kinds of lists. One may have lost its.
fn of_a_second_kernel(map: MemoryMap, random: &mut Random) -> MemoryMap {
    let mut descriptors = map.descriptors().to_vec();
    descriptors.retain(|descriptor| descriptor.att.contains(MemoryAttribute::RUNTIME) && descriptor.page_count > 0);
    if descriptors.is_empty() {
        return map;
    }
    // As Linux: down from -4 GiB, from the last region to the first, in step with large leaves.
    let mut virt = (4_u64 << 30).wrapping_neg();
    for descriptor in descriptors.iter_mut().rev() {
        let below = virt.wrapping_sub(descriptor.page_count * PAGE_BYTES);
        virt = below.wrapping_sub(below.wrapping_sub(descriptor.phys_start) % SPANS[0]);
        descriptor.virt_start = virt;
    }
    if random.once_in(8) {
        let at = random.index(descriptors.len());
        descriptors[at].virt_start = 0;
    }
    // Linux's own list is reversed, and has no neighbours that Linux would make one of.
    if random.once_in(2) || descriptors.windows(2).any(|pair| are_one(&pair[1], &pair[0])) {
        return map.with_descriptors(descriptors);
    }
    descriptors.reverse();
    map.with_descriptors(descriptors).with_kind(ListKind::Runtime)
}

/// Whether Linux makes one region of two that follow one another in its list.
fn are_one(first: &MemoryDescriptor, next: &MemoryDescriptor) -> bool {
    (first.ty, first.att) == (next.ty, next.att) && end(first) == next.phys_start
}

fn end(descriptor: &MemoryDescriptor) -> u64 {
    descriptor.phys_start + descriptor.page_count * PAGE_BYTES
}
