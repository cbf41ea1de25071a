//! The matrix beside what its accesses cost at the least: bare loops, in the same run. Ratios are what counts.
//!
//! The last line is the matrix's time for a combination of the set `access` over the floor: three table entries written,
//! the access, the delivery of its fault, each as often as the set has it, and half of them with a read before.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use efibed::TestBed;
use efibed::matrix::{Floor, Matrix, MatrixReport, Set};

/// Turns of each bare loop.
const TURNS: u64 = 3000;
/// Combinations for the ratio: so many that what is done once for all does not count.
const SAMPLE: u64 = 400_000;

fn matrix(c: &mut Criterion) {
    let Ok(bed) = TestBed::new() else {
        eprintln!("skipped: the matrix needs /dev/kvm");
        return;
    };
    let mut group = c.benchmark_group("matrix");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    for threads in [1, 2] {
        let sample = 60_000;
        group.throughput(Throughput::Elements(sample));
        group.bench_function(BenchmarkId::new("access, guests", threads), |b| {
            b.iter(|| black_box(run(&bed, sample, threads)));
        });
    }
    group.finish();
    tell_ratio(&bed);
}

fn run(bed: &TestBed, sample: u64, threads: usize) -> MatrixReport {
    let matrix = Matrix { sample: Some(sample), threads: NonZeroUsize::new(threads), ..Matrix::new(Set::Access) };
    matrix.run(bed, &|_| ()).expect("the matrix runs")
}

/// The floor is taken before and after, for the machine may not be the same all the time.
fn tell_ratio(bed: &TestBed) {
    let floor = || Floor::measure(bed, TURNS).expect("bare loops run");
    let before = floor();
    let start = Instant::now();
    let report = run(bed, SAMPLE, 1);
    let each = start.elapsed() / report.combinations as u32;
    let floors = [before, floor()];
    let floor = (floors[0].combination() + floors[1].combination()) / 2;
    println!("floor: {floors:#?}");
    println!("floor {floor:?}, matrix {each:?} a combination: {:.2}", each.as_secs_f64() / floor.as_secs_f64());
}

criterion_group!(benches, matrix);
criterion_main!(benches);
