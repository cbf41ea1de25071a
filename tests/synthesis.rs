//! Synthesized memory maps: valid ones are like those of real machines, and the layouts are right on valid and odd ones.
//!
//! `EFIBED_FUZZ_MAPS` runs so many of each, `EFIBED_FUZZ_SEED` others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use efibed::check::Rule;
use efibed::memory_map::synthesize::{Class, Synthesis};
use efibed::memory_map::{ListKind, Region};
use efibed::report::Report;
use efibed::{EngineName, Layout, MemoryMap, Scenario, TestBed};
use efibed_tests::from_environment;

const MAPS: u64 = 1000;
/// As many as the tests have time for at their usual size: a fill of 64 GiB with 4 KiB leaves takes a second.
const LARGE_MAPS: u64 = 60;
/// 4 GiB.
const SMALL_PAGES: u64 = 1 << 20;

#[test]
fn the_layouts_are_right_on_valid_and_odd_maps() {
    let (seed, maps) = (from_environment("EFIBED_FUZZ_SEED", 0), from_environment("EFIBED_FUZZ_MAPS", MAPS));
    for class in [Class::Valid, Class::Odd] {
        let usual = Synthesis::new(class);
        let small = usual.max_mapped_pages(SMALL_PAGES);
        let counts = [judged(small, seed..seed + maps), judged(usual, seed..seed + LARGE_MAPS.min(maps))];
        for [inside, outside, _] in counts {
            assert!(inside > 0 && outside > 0, "{class}: {counts:?}");
        }
        println!("{class}: {counts:?} runs inside a layout's domain, outside of it, and at its border");
    }
}

/// Runs the maps of these seeds under each layout: how many runs were inside its domain, outside, and neither surely.
fn judged(synthesis: Synthesis, seeds: std::ops::Range<u64>) -> [u64; 3] {
    let next = AtomicU64::new(seeds.start);
    let counts: [AtomicU64; 3] = Default::default();
    let work = || {
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| seeds.contains(seed)) {
            let map = synthesis.map(seed);
            for layout in Layout::ALL {
                let domain =
                    judge(&map, *layout).unwrap_or_else(|problem| panic!("{synthesis:?}, seed {seed}: {problem}"));
                counts[domain as usize].fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    counts.map(AtomicU64::into_inner)
}

/// Whether a layout can map a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    Inside,
    Outside,
    /// It depends on how much is lost to alignment.
    Border,
}

fn judge(map: &MemoryMap, layout: Layout) -> Result<Domain, String> {
    let report = run(map, layout);
    let domain = domain(map, layout);
    let is_as_it_must_be = match domain {
        Domain::Inside => report.is_clean(),
        Domain::Outside => !report.findings.is_empty() && report.findings.iter().all(|each| lacks_room(each.rule)),
        Domain::Border => report.findings.iter().all(|each| lacks_room(each.rule)),
    };
    if is_as_it_must_be { Ok(domain) } else { Err(format!("{domain:?} {layout}:\n{report}\n{}", map.to_toml())) }
}

fn run(map: &MemoryMap, layout: Layout) -> Report {
    let scenario = Scenario::new(map.clone()).layout(layout).engine(EngineName::Walker).firmware_calls(false);
    TestBed::without_kvm().run(&scenario).expect("the walker runs layouts")
}

/// What is found of a map that a layout has no room for. What was not mapped is then missing, `packed-up` runs into the kernel,
/// and VirtualStart 0 is no address of the window.
fn lacks_room(rule: Rule) -> bool {
    use Rule::{KernelOverlap, NoVirtualStart, NotMapped, OutsideArena, WindowOverflow};
    [WindowOverflow, NoVirtualStart, NotMapped, KernelOverlap, OutsideArena].contains(&rule)
}

/// By sums alone, as the layouts are defined.
fn domain(map: &MemoryMap, layout: Layout) -> Domain {
    let inside = |is_inside| if is_inside { Domain::Inside } else { Domain::Outside };
    let mapped: Vec<Region> = map.regions().filter(Region::is_mapped).collect();
    let pages: u64 = mapped.iter().map(|region| region.pages).sum();
    let gib = 1 << 18;
    match layout {
        Layout::Window => inside(mapped.iter().all(|region| region.end() <= 64 << 30)),
        Layout::PackedDown => inside(pages <= 64 * gib),
        Layout::PackedUp => inside(pages <= 2 * gib),
        Layout::LinuxFixed => inside(mapped.iter().all(|region| !region.is_runtime() || region.virt != 0)),
        // Each region may lose up to 2 MiB.
        Layout::Linux if pages + 511 * mapped.len() as u64 <= 64 * gib => Domain::Inside,
        Layout::Linux => {
            if pages > 64 * gib {
                Domain::Outside
            } else {
                Domain::Border
            }
        }
    }
}

/// The numbers in `synthesize/real.rs`, counted again and compared.
#[test]
fn valid_maps_are_like_those_of_real_machines() {
    let real = Statistics::of(real_maps());
    assert_eq!((real.maps, real.descriptors), (16, 995), "the maps in tests/maps have changed: count again");
    let synthesis = Synthesis::new(Class::Valid);
    let synthesized = Statistics::of((0..2000).map(|seed| synthesis.map(seed)));
    assert_eq!(real.differs_from(&synthesized), None);
    // The negative control: odd maps are not like them.
    let odd = Statistics::of((0..2000).map(|seed| Synthesis::new(Class::Odd).map(seed)));
    assert!(real.differs_from(&odd).is_some());
}

/// Whole lists of firmware's.
fn real_maps() -> impl Iterator<Item = MemoryMap> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/maps");
    let texts = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let maps =
        texts.filter(|path| path.extension().is_some_and(|is| is == "txt")).map(|path| MemoryMap::read(&path).unwrap());
    maps.filter(|map| map.kind() == ListKind::Firmware && map.partial().is_none())
}

/// What maps are compared by.
#[derive(Debug, Default)]
struct Statistics {
    maps: usize,
    descriptors: usize,
    unsorted: usize,
    /// Descriptors that start where the one before ends.
    adjacent: usize,
    pairs: BTreeMap<(u32, u32), usize>,
    /// By type.
    pages: BTreeMap<u32, Vec<u64>>,
}

impl Statistics {
    fn of(maps: impl Iterator<Item = MemoryMap>) -> Self {
        let mut counts = Self::default();
        for map in maps {
            counts.add(&map);
        }
        counts.pages.values_mut().for_each(|pages| pages.sort_unstable());
        counts
    }

    fn add(&mut self, map: &MemoryMap) {
        let regions: Vec<Region> = map.regions().collect();
        self.maps += 1;
        self.descriptors += regions.len();
        self.unsorted += usize::from(!regions.is_sorted_by_key(|region| region.phys));
        for pair in regions.windows(2) {
            self.adjacent += usize::from(pair[0].end() == u128::from(pair[1].phys));
            *self.pairs.entry((pair[0].ty.0, pair[1].ty.0)).or_default() += 1;
        }
        for region in regions {
            self.pages.entry(region.ty.0).or_default().push(region.pages);
        }
    }

    /// What is not alike, if something is not.
    fn differs_from(&self, other: &Self) -> Option<String> {
        let share = |part: usize, all: usize| part as f64 / all as f64;
        let shares = |counts: &Self| {
            [
                ("unsorted lists", share(counts.unsorted, counts.maps)),
                ("neighbours in memory", share(counts.adjacent, counts.descriptors)),
                ("descriptors of a map, in hundreds", share(counts.descriptors, 100 * counts.maps)),
            ]
        };
        for ((what, here), (_, there)) in shares(self).into_iter().zip(shares(other)) {
            if (here - there).abs() > 0.15 {
                return Some(format!("{what}: {here:.2} and {there:.2}"));
            }
        }
        for (pair, count) in &self.pairs {
            let here = share(*count, self.descriptors);
            let there = share(other.pairs.get(pair).copied().unwrap_or_default(), other.descriptors);
            if (here - there).abs() > 0.05 {
                return Some(format!("type {} before type {}: {here:.3} and {there:.3}", pair.0, pair.1));
            }
        }
        self.pages.iter().find_map(|(ty, pages)| {
            let there = other.pages.get(ty).map_or(&[][..], Vec::as_slice);
            let [here, there] =
                [pages.as_slice(), there].map(|sorted| sorted.get(sorted.len() / 2).copied().unwrap_or(0));
            let is_alike = here <= 4 * there.max(1) && there <= 4 * here.max(1);
            (!is_alike).then(|| format!("the median of type {ty}: {here} and {there} pages"))
        })
    }
}

/// What seed 2013 gives was written down once. A change of a class changes this, too.
#[test]
fn a_seed_gives_the_same_map_on_every_machine() {
    // FNV-1a, 64 bits.
    let hash = |text: String| {
        text.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    };
    let hashes: Vec<_> = Class::ALL.iter().map(|class| hash(Synthesis::new(*class).map(2013).to_toml())).collect();
    assert_eq!(hashes, [0x81b9_0fa3_c812_4ca2, 0x2bdd_0c23_4231_21ec, 0x22aa_0d24_0440_01a4], "{hashes:#x?}");
}

/// What a map costs; not asserted, since machines differ.
#[test]
fn a_map_costs_microseconds() {
    for class in Class::ALL {
        let (synthesis, maps) = (Synthesis::new(*class), 20_000);
        let started = Instant::now();
        let descriptors: usize = (0..maps).map(|seed| synthesis.map(seed).descriptors().len()).sum();
        let each = started.elapsed() / maps as u32;
        println!("{class}: {each:?} a map of {} descriptors", descriptors as u64 / maps);
    }
}
