//! What the classes promise, and that `odd` and `hostile` come to what brings known mutants of mapping code out.

use super::borders::{SPANS, WINDOW_BYTES};
use super::*;
use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryType, OddityKind, PAGE_BYTES, Region, oddities};

const RUNTIME: MemoryAttribute = MemoryAttribute::RUNTIME;
const LEAF_2M: u64 = SPANS[0];
const LEAF_1G: u64 = SPANS[1];
const SPAN_512G: u64 = SPANS[2];

fn maps(synthesis: Synthesis, seeds: u64) -> impl Iterator<Item = (u64, MemoryMap)> {
    (0..seeds).map(move |seed| (seed, synthesis.map(seed)))
}

/// Regions that layouts map.
fn mapped(map: &MemoryMap) -> Vec<Region> {
    map.regions().filter(Region::is_mapped).collect()
}

fn end(region: &Region) -> u64 {
    u64::try_from(region.end()).unwrap_or(u64::MAX)
}

#[test]
fn maps_keep_what_their_class_promises() {
    for class in Class::ALL {
        for (seed, map) in maps(Synthesis::new(*class), 5000) {
            assert!(class.holds_of(&map) && !map.descriptors().is_empty(), "{class}, seed {seed}");
        }
    }
    assert!(maps(Synthesis::new(Class::Valid), 1000).all(|(_, map)| Class::Odd.holds_of(&map)));
}

/// The negative controls: each part of the promise, broken in a map that kept it.
#[test]
fn a_promise_that_is_broken_is_noticed() {
    let data = MemoryType::RUNTIME_SERVICES_DATA;
    let region = |ty, phys_start, page_count, att| MemoryDescriptor {
        ty,
        phys_start,
        page_count,
        att,
        ..MemoryDescriptor::default()
    };
    let [first, next] = [0x10_0000, 0x10_2000].map(|phys| region(data, phys, 2, RUNTIME));
    let run = region(data, 0x10_1000, 1, RUNTIME | MemoryAttribute::READ_ONLY);
    let holds = |class: Class, regions: &[MemoryDescriptor], table: &[MemoryDescriptor]| {
        let map = MemoryMap::from_descriptors("", regions.to_vec()).with_attributes_table(table.to_vec());
        class.holds_of(&map)
    };
    let is_valid = |regions: &[_], table: &[_]| holds(Class::Valid, regions, table);
    assert!(is_valid(&[first, next], &[run]));
    for broken in [
        MemoryDescriptor { page_count: 0, ..next },
        MemoryDescriptor { phys_start: 0x10_1000, ..next },
        MemoryDescriptor { phys_start: 0x10_2001, ..next },
        MemoryDescriptor { page_count: 1 << 52, ..next },
        MemoryDescriptor { att: MemoryAttribute::WRITE_BACK, ..next },
        MemoryDescriptor { ty: MemoryType::ACPI_NON_VOLATILE, ..next },
    ] {
        assert!(!is_valid(&[first, broken], &[run]), "{broken:x?}");
    }
    assert!(holds(Class::Odd, &[first, MemoryDescriptor { page_count: 0, ..next }], &[run]));
    // Entries may go on into a neighbour alike, and no further.
    assert!(is_valid(&[first, next], &[MemoryDescriptor { page_count: 3, ..run }]));
    for broken in [
        MemoryDescriptor { page_count: 0, ..run },
        MemoryDescriptor { page_count: 4, ..run },
        MemoryDescriptor { phys_start: 0xf_f000, ..run },
        MemoryDescriptor { phys_start: 0x10_1001, ..run },
        MemoryDescriptor { ty: MemoryType::RUNTIME_SERVICES_CODE, ..run },
        MemoryDescriptor { ty: MemoryType::MMIO, ..run },
    ] {
        assert!(!is_valid(&[first, next], &[broken]), "{broken:x?}");
    }
    assert!(!is_valid(&[first, next], &[run, run]));
    // Firmware must be able to write to some page of its data.
    assert!(is_valid(&[first, next], &[MemoryDescriptor { page_count: 3, ..run }]));
    assert!(!is_valid(&[first, next], &[MemoryDescriptor { phys_start: 0x10_0000, page_count: 4, ..run }]));
}

#[test]
fn hostile_maps_break_every_promise() {
    let hostile = || maps(Synthesis::new(Class::Hostile), 1000);
    let broken = hostile().filter(|(_, map)| !Class::Odd.holds_of(map)).count();
    assert!(broken > 700, "{broken} of 1000");
    for kind in [
        OddityKind::Overlap,
        OddityKind::Wrap,
        OddityKind::Unaligned,
        OddityKind::ZeroPages,
        OddityKind::UnknownType,
        OddityKind::UnknownAttribute,
    ] {
        assert!(hostile().any(|(_, map)| oddities(&map).iter().any(|oddity| oddity.kind == kind)), "{kind}");
    }
}

#[test]
fn maps_keep_to_their_limits() {
    let bits = MaxPhyAddr::new(36).unwrap();
    for class in [Class::Valid, Class::Odd] {
        let small = Synthesis::new(class).max_descriptors(7).max_mapped_pages(64).maxphyaddr(bits);
        for (seed, map) in maps(small, 2000) {
            let pages: u64 = mapped(&map).iter().map(|region| region.pages).sum();
            assert!(map.descriptors().len() <= 7 && pages <= 64, "{class}, seed {seed}");
            assert!(map.regions().all(|region| region.end() <= 1 << 36), "{class}, seed {seed}");
        }
    }
    assert!(maps(Synthesis::new(Class::Hostile).max_descriptors(3), 200).all(|(_, map)| map.descriptors().len() <= 3));
}

/// A row: what a map is like, and the predicate that tells.
type Property = (&'static str, fn(&MemoryMap) -> bool);

/// Each row is named after what is wrong with some mapping code that only such a map shows.
const ODD: &[Property] = &[
    ("1. a window that starts lower or higher: the regions fill it to the page", |map| sum(map) == WINDOW_PAGES),
    ("1. the highest region ends with it", |map| highest_end(map) == WINDOW_BYTES),
    ("2. its first page is not given out: one page more does not fit", |map| sum(map) == WINDOW_PAGES + 1),
    ("2. one below it is: one page less does", |map| sum(map) == WINDOW_PAGES - 1),
    ("3. what comes after a region that does not fit is placed", |map| a_later_one_fits(&mapped(map))),
    ("3. the same of Linux's order", |map| a_later_one_fits(&mapped(map).into_iter().rev().collect::<Vec<_>>())),
    ("5. the last region's end is taken for the highest", |map| {
        mapped(map).last().is_some_and(|last| end(last) != highest_end(map))
    }),
    ("6. the end of the window is off by a page", |map| highest_end(map) == WINDOW_BYTES + PAGE_BYTES),
    ("7. a region without pages is mapped", |map| map.regions().any(|region| region.is_runtime() && region.pages == 0)),
    ("8. VirtualStart 0 is taken for an address", |map| {
        let runtime = || map.regions().filter(|region| region.is_runtime() && region.pages > 0);
        runtime().any(|region| region.virt == 0) && runtime().any(|region| region.virt != 0)
    }),
    ("9. a 1 GiB leaf where PA is only 2 MiB-aligned", |map| {
        mapped(map).iter().any(|region| {
            let is_only_2m = region.phys % LEAF_2M == 0 && region.phys % LEAF_1G != 0;
            is_only_2m && region.pages >= LEAF_1G / PAGE_BYTES
        })
    }),
    ("9. a 1 GiB leaf when only 2 MiB are left", |map| {
        let rest = |region: &Region| region.pages % (LEAF_1G / PAGE_BYTES);
        mapped(map).iter().any(|r| r.phys % LEAF_1G == 0 && r.pages >= LEAF_1G / PAGE_BYTES && rest(r) >= 512)
    }),
    ("9. the smaller large leaf first", |map| {
        mapped(map).iter().any(|region| {
            let first = region.phys.next_multiple_of(LEAF_1G);
            region.phys % LEAF_2M == 0 && region.phys < first && first + LEAF_1G <= end(region)
        })
    }),
    ("10. a length in 32 bits", |map| mapped(map).iter().any(|region| region.pages > u64::from(u32::MAX) / PAGE_BYTES)),
    ("10. a physical address in 32 bits", |map| mapped(map).iter().any(|region| region.phys >> 32 != 0)),
    ("10. one in 40 bits", |map| mapped(map).iter().any(|region| region.phys >> 40 != 0)),
    ("11. a chunk of PTEs ends one page before its table", |map| {
        mapped(map).iter().any(|r| end(r).is_multiple_of(LEAF_2M))
    }),
    ("11. or not with it", |map| {
        mapped(map)
            .iter()
            .any(|region| region.phys / LEAF_2M != (end(region) - 1) / LEAF_2M && region.phys % LEAF_2M != 0)
    }),
    ("11. the first page of the next table", |map| mapped(map).iter().any(|r| end(r) % LEAF_2M == PAGE_BYTES)),
    ("12. splitting a 2 MiB leaf", |map| runs(map).any(|(run, region)| splits(&run, &region, LEAF_2M))),
    ("12. splitting a 1 GiB leaf", |map| runs(map).any(|(run, region)| splits(&run, &region, LEAF_1G))),
    ("12. the last slot of the new table stays empty", |map| {
        runs(map).any(|(run, region)| splits(&run, &region, LEAF_2M) && end(&run).is_multiple_of(LEAF_2M))
    }),
    ("13. a large leaf that begins before the run is changed whole", |map| {
        runs(map)
            .any(|(run, region)| run.phys % LEAF_2M != 0 && covers(&region, run.phys - run.phys % LEAF_2M, LEAF_2M))
    }),
    ("13. one that reaches beyond the run", |map| {
        runs(map).any(|(run, region)| {
            !end(&run).is_multiple_of(LEAF_2M) && covers(&region, end(&run) - end(&run) % LEAF_2M, LEAF_2M)
        })
    }),
    ("13. a leaf within the run is not changed", |map| {
        runs(map).any(|(run, _)| covers(&run, run.phys.next_multiple_of(LEAF_2M), LEAF_2M))
    }),
    ("13. holes between runs of one region", |map| {
        map.attributes_table().windows(2).any(|pair| {
            let [first, next] = [0, 1].map(|at| Region::new(at, &pair[at]));
            end(&first) < next.phys && mapped(map).iter().any(|r| r.phys <= first.phys && end(&next) <= end(r))
        })
    }),
    ("14. a run ends with its region", |map| runs(map).any(|(run, region)| end(&run) == end(&region))),
    ("14. a run starts with its region", |map| runs(map).any(|(run, region)| run.phys == region.phys)),
    ("14. a run crosses into the next region", |map| {
        runs(map).any(|(run, region)| end(&run) > end(&region) && run.phys < end(&region))
    }),
    ("17. regions in tables of their own at every level", |map| {
        let slots: std::collections::BTreeSet<_> = mapped(map).iter().map(|region| region.phys / SPAN_512G).collect();
        slots.len() >= 4
    }),
    ("the last page that the CPU can address", |map| highest_end(map) == 1 << 46),
    ("page 0", |map| mapped(map).iter().any(|region| region.phys == 0)),
    ("code and data of an image, page by page", |map| {
        map.regions().zip(map.regions().skip(1)).any(|(first, next)| {
            first.is_runtime() && next.is_runtime() && first.ty != next.ty && first.end() == u128::from(next.phys)
        })
    }),
    ("no memory for the kernel", |map| map.regions().all(|region| region.ty != MemoryType::CONVENTIONAL)),
];

/// On a CPU with 52 bits of physical address.
const ODD_52: &[Property] = &[
    ("7. regions past 2^48", |map| highest_end(map) > 1 << 48),
    ("15. 1:1 up to 2^46", |map| mapped(map).iter().any(|r| r.phys >= 1 << 46 && end(r) <= 1 << 47)),
    ("15. past 2^47", |map| mapped(map).iter().any(|region| region.phys >= 1 << 47)),
    ("15. not for what ends with the low half", |map| mapped(map).iter().any(|region| end(region) == 1 << 47)),
    ("15. what crosses its end", |map| mapped(map).iter().any(|r| r.phys < 1 << 47 && end(r) > 1 << 47)),
];

const HOSTILE: &[Property] = &[
    ("4. the offset in the page is dropped, or PA is not rounded down", |map| {
        map.regions().any(|region| region.is_mapped() && !region.is_aligned())
    }),
    ("4. VirtualStart is rounded down", |map| {
        map.regions().any(|region| region.is_runtime() && region.virt % PAGE_BYTES != 0)
    }),
    ("7. regions past 2^52", |map| mapped(map).iter().any(|region| region.end() > 1 << 52)),
];

#[test]
fn what_brings_a_mutant_out_is_among_so_many_maps() {
    let wide = Synthesis::new(Class::Odd).maxphyaddr(MaxPhyAddr::MAX);
    for (synthesis, rows, seeds) in
        [(Synthesis::new(Class::Odd), ODD, 3000), (wide, ODD_52, 3000), (Synthesis::new(Class::Hostile), HOSTILE, 300)]
    {
        let all: Vec<_> = maps(synthesis, seeds).collect();
        for (row, has) in rows {
            let found = all.iter().filter(|(_, map)| has(map)).count();
            println!("{found:5} of {seeds}: {row}");
            assert!(found > 0, "no map of {seeds} shows: {row}");
        }
    }
}

/// The negative control: maps that are known to show none of it.
#[test]
fn a_tame_map_shows_no_row() {
    let region = |phys_start, page_count| MemoryDescriptor {
        ty: MemoryType::RUNTIME_SERVICES_DATA,
        att: RUNTIME | MemoryAttribute::WRITE_BACK,
        phys_start,
        page_count,
        ..MemoryDescriptor::default()
    };
    let memory = MemoryDescriptor { ty: MemoryType::CONVENTIONAL, ..region(0x100_0000, 0x100) };
    let tame = MemoryMap::from_descriptors("tame", vec![memory, region(0x7e72_9000, 0x42)]);
    for (row, has) in ODD.iter().chain(ODD_52).chain(HOSTILE) {
        assert!(!has(&tame), "{row}");
    }
}

const WINDOW_PAGES: u64 = WINDOW_BYTES / PAGE_BYTES;

fn sum(map: &MemoryMap) -> u64 {
    mapped(map).iter().map(|region| region.pages).sum()
}

fn highest_end(map: &MemoryMap) -> u64 {
    mapped(map).iter().map(end).max().unwrap_or_default()
}

/// Whether, of regions placed one after another, some does not fit and a later one would.
fn a_later_one_fits(regions: &[Region]) -> bool {
    let mut left = WINDOW_PAGES;
    for (index, region) in regions.iter().enumerate() {
        match left.checked_sub(region.pages) {
            Some(rest) => left = rest,
            None => return regions[index + 1..].iter().any(|later| later.pages <= left),
        }
    }
    false
}

/// The runs of the Memory Attributes Table, each with the region in which it starts.
fn runs(map: &MemoryMap) -> impl Iterator<Item = (Region, Region)> {
    let holder = |run: &Region| map.regions().find(|region| region.phys <= run.phys && run.phys < end(region));
    let all = map.attributes_table().iter().map(|entry| Region::new(0, entry));
    all.filter_map(move |run| Some((run, holder(&run)?)))
}

/// Whether the region has a leaf of the size of which the run is a part.
fn splits(run: &Region, region: &Region, leaf: u64) -> bool {
    let is_part = |start: u64| covers(region, start, leaf) && !covers(run, start, leaf);
    is_part(run.phys - run.phys % leaf) || is_part((end(run) - 1) - (end(run) - 1) % leaf)
}

fn covers(region: &Region, start: u64, bytes: u64) -> bool {
    region.phys <= start && start + bytes <= end(region)
}
