//! The mapping code itself: natively, and in ring 3 of the guest.
//!
//! - `map`: phase `map` alone, of layouts `window` and `linux` on real maps, the guest's beside the native one. What the guest
//!   adds is the trip into ring 3 and back, and the first touch of each page there.
//! - `walker`: layout `window` with 1, 4, 16 and 64 GiB of 4 KiB leaves, built natively and walked in full.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use efibed::unstable::guest::PAGE_BYTES;
use efibed::{EngineName, Layout, LeafRule, MemoryMap, Scenario, TestBed};

const SIZES_GIB: [u64; 4] = [1, 4, 16, 64];
const PAGES_PER_GIB: u64 = 1 << 18;
/// The guest lives below the region.
const BELOW_PAGES: u64 = 0xc000;

/// One region that ends at so many GiB.
fn large(gib: u64) -> MemoryMap {
    let text = format!(
        r#"
        [[descriptor]]
        type = "ConventionalMemory"
        phys = 0
        pages = {BELOW_PAGES}
        attribute = "WB"

        [[descriptor]]
        type = "MemoryMappedIO"
        phys = {phys}
        pages = {pages}
        attribute = "RUNTIME|UC"
        "#,
        phys = BELOW_PAGES * PAGE_BYTES,
        pages = leaves(gib),
    );
    MemoryMap::parse(&text).expect("the map is a good one")
}

fn leaves(gib: u64) -> u64 {
    gib * PAGES_PER_GIB - BELOW_PAGES
}

const MAPS: [(&str, &str); 2] = [
    ("ovmf-2013", include_str!("../../tests/maps/ovmf-2013.toml")),
    ("q35-2g", include_str!("../../tests/truth/q35-2g.memmap.txt")),
];

fn map(criterion: &mut Criterion) {
    let bed = match TestBed::new() {
        Ok(bed) => bed,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let mut group = criterion.benchmark_group("map");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(4));
    for (name, text) in MAPS {
        let map = MemoryMap::parse(text).expect("the map is a good one");
        for layout in [Layout::Window, Layout::Linux] {
            for engine in [EngineName::Walker, EngineName::Kvm] {
                // Phase `finish` counts as mapping, too, so it is left out.
                let kernel = efibed::KernelOptions::default().finish(false);
                let scenario = Scenario::new(map.clone()).layout(layout).engine(engine);
                let scenario = scenario.kernel(kernel).firmware_calls(false).sweep_limit(0);
                let what = if engine == EngineName::Walker { "native" } else { "guest" };
                group.bench_function(format!("{name}, {}, {what}", layout.name()), |b| {
                    b.iter_custom(|runs| (0..runs).map(|_| bed.run(&scenario).expect("a report").timing.map).sum());
                });
            }
        }
    }
    group.finish();
}

fn walker(criterion: &mut Criterion) {
    let bed = TestBed::without_kvm();
    let mut group = criterion.benchmark_group("walker");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(4));
    for gib in SIZES_GIB {
        let scenario = Scenario::new(large(gib)).leaf_rule(LeafRule::FourK).engine(EngineName::Walker);
        group.throughput(Throughput::Elements(leaves(gib)));
        group.bench_function(format!("{gib} GiB of 4 KiB leaves"), |b| {
            b.iter(|| black_box(bed.run(&scenario).expect("a report")))
        });
    }
    group.finish();
}

criterion_group!(benches, map, walker);
criterion_main!(benches);
