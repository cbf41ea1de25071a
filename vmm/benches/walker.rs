//! The walker engine, beside its floor: the mapping function alone, on memory that is ready for it.
//!
//! The maps are synthesized, small and odd, and always the same. Each is run whole: laid out, mapped, walked, judged, finished
//! and judged again. The last lines are the engine's maps a second and its time over the floor's. Machines are seldom quiet, so
//! there are several rounds, each with both; compare ratios.

mod rounds;

use std::hint::black_box;
use std::ptr;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use efibed::mapper::{CpuAbilities, MapRequest, MapResult, MapStatus, Step, carry_out};
use efibed::memory_map::synthesize::{Class, Synthesis};
use efibed::unstable::guest::{Case, Image, PAGE_BYTES, Placement, Strides};
use efibed::{EngineName, Layout, LayoutMapper, LeafRule, Mapper, MemoryMap, Report, Scenario, TestBed};

/// Seeds 0 to 255.
const MAPS: u64 = 256;
/// What the maps may have: descriptors, and pages to be mapped, which are leaves at each address.
const MAX_DESCRIPTORS: usize = 32;
const MAX_LEAVES: u64 = 512;
/// What they have: the most of either, and all together.
const MOST: (usize, u64) = (16, MAX_LEAVES);
const SUM: (usize, u64) = (1201, 27_277);

const LAYOUTS: [Layout; 3] = [Layout::Window, Layout::PackedDown, Layout::Linux];

/// Runs of all maps for the ratio.
const ROUNDS: usize = 31;

const OTHER_MAPS: &str = "the maps are not those of earlier runs: numbers do not compare";

fn maps() -> Vec<MemoryMap> {
    let synthesis = Synthesis::new(Class::Odd).max_descriptors(MAX_DESCRIPTORS).max_mapped_pages(MAX_LEAVES);
    let maps: Vec<_> = (0..MAPS).map(|seed| synthesis.map(seed)).collect();
    assert!(maps.iter().all(|map| Class::Odd.holds_of(map)), "a map is not odd");
    let pages = |map: &MemoryMap| map.regions().filter(|region| region.is_mapped()).map(|region| region.pages).sum();
    let pages: Vec<u64> = maps.iter().map(pages).collect();
    let descriptors: Vec<usize> = maps.iter().map(|map| map.descriptors().len()).collect();
    let most = (descriptors.iter().copied().max(), pages.iter().copied().max());
    assert_eq!(most, (Some(MOST.0), Some(MOST.1)), "{OTHER_MAPS}");
    assert_eq!((descriptors.iter().sum(), pages.iter().sum()), SUM, "{OTHER_MAPS}");
    maps
}

/// A map under a layout, both ways.
struct Subject {
    scenario: Scenario,
    floor: Floor,
}

impl Subject {
    fn all(layout: Layout) -> Vec<Self> {
        let of_map = |map: MemoryMap| Self {
            floor: Floor::new(&map, layout),
            scenario: Scenario::new(map).layout(layout).engine(EngineName::Walker),
        };
        maps().into_iter().map(of_map).collect()
    }

    fn run(&self, bed: &TestBed) -> Report {
        bed.run(&self.scenario).expect("a report")
    }
}

/// Memory as the engine lays it out, on which the mapping function is called and nothing else is done.
struct Floor {
    mapper: LayoutMapper,
    case: Case,
    /// The pool as it is before a call: the root that mappers are given, and zeros.
    pool: Vec<u8>,
}

impl Floor {
    /// More than any of the maps takes.
    const POOL_PAGES: u64 = 1024;
    const CPU: CpuAbilities = CpuAbilities { gbpages: 1, nx: 1, la57: 0, maxphyaddr: 46 };

    fn new(map: &MemoryMap, layout: Layout) -> Self {
        let image = Image::built_in().expect("an image");
        let sizes = Case::sizes(image, map, Strides::default(), 0, Self::POOL_PAGES, 0);
        let placement = Placement::find(map, sizes, 1 << 46, &[]).expect("room");
        let paging = efibed::mmu::Paging { maxphyaddr: 46, ..Default::default() };
        let case = Case::new(image, map, Strides::default(), placement, &[], &paging).expect("memory");
        let pool = case.placement.pool();
        let mut bytes = vec![0; (pool.end - pool.start) as usize];
        assert!(case.memory.read(pool.start, &mut bytes));
        Self { mapper: LayoutMapper { layout, leaf_rule: LeafRule::default() }, case, pool: bytes }
    }

    /// Both phases, as far as the mapper comes; how long they took.
    fn run(&self) -> Duration {
        let Self { case, pool, .. } = self;
        assert!(case.memory.write(case.placement.pool().start, &pool[..self.used_bytes()]));
        assert!(case.ask(Self::CPU, case.memory.host_offset()));
        let start = Instant::now();
        if self.step(Step::Map) {
            self.step(Step::Finish);
        }
        start.elapsed()
    }

    fn used_bytes(&self) -> usize {
        (self.case.result().table_pages.min(Self::POOL_PAGES) * PAGE_BYTES) as usize
    }

    fn step(&self, step: Step) -> bool {
        let at = |phys: u64| phys.wrapping_add(self.case.memory.host_offset()) as usize;
        let request: *const MapRequest = ptr::with_exposed_provenance(at(self.case.request_at()));
        let result: *mut MapResult = ptr::with_exposed_provenance_mut(at(self.case.result_at()));
        let mut mapper = self.mapper;
        let mapper: &mut dyn Mapper = &mut mapper;
        // SAFETY: both lie in memory that is laid out for them and lives for the call. What of the pool was used is zero again.
        unsafe {
            carry_out(black_box(mapper), step, &*request, &mut *result);
            (*result).status == MapStatus::Done as u64
        }
    }
}

fn walker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walker");
    group.sample_size(20).measurement_time(Duration::from_secs(4)).throughput(Throughput::Elements(MAPS));
    for layout in LAYOUTS {
        let (bed, subjects) = (TestBed::without_kvm(), Subject::all(layout));
        group.bench_function(format!("{}, floor", layout.name()), |b| {
            b.iter_custom(|runs| (0..runs).flat_map(|_| &subjects).map(|subject| subject.floor.run()).sum());
        });
        group.bench_function(format!("{}, engine", layout.name()), |b| {
            b.iter(|| subjects.iter().for_each(|subject| drop(black_box(subject.run(&bed)))));
        });
    }
    group.finish();
    LAYOUTS.into_iter().for_each(tell_ratio);
}

/// The medians of rounds of all maps, the engine's and the floor's in turn.
fn tell_ratio(layout: Layout) {
    let (bed, subjects) = (TestBed::without_kvm(), Subject::all(layout));
    let clean = subjects.iter().filter(|subject| subject.run(&bed).is_clean()).count();
    let round = || {
        let floor: Duration = subjects.iter().map(|subject| subject.floor.run()).sum();
        let start = Instant::now();
        subjects.iter().for_each(|subject| drop(black_box(subject.run(&bed))));
        [floor, start.elapsed()]
    };
    rounds::tell(layout.name(), ROUNDS, subjects.len(), round, &format!("{clean} of {MAPS} clean"));
}

criterion_group!(benches, walker);
criterion_main!(benches);
