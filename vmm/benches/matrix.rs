//! The matrix beside what its accesses cost at the least: bare loops, in the same run. Ratios are what counts.
//!
//! The last lines are the matrix's time for a combination of the set `access` over the floor: three table entries written,
//! the access, the delivery of its fault, each as often as the set has it, and half of them with a read before. Machines
//! are seldom quiet, so there are several rounds, each between two floors of its own.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use efibed::TestBed;
use efibed::unstable::matrix::{Floor, Matrix, MatrixReport, Set};

/// Combinations of a round: so many that what is done once for all does not count.
const SAMPLE: u64 = 200_000;
const ROUNDS: usize = 7;

fn matrix(c: &mut Criterion) {
    let Ok(bed) = TestBed::new() else {
        eprintln!("skipped: the matrix needs /dev/kvm");
        return;
    };
    let mut group = c.benchmark_group("matrix");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    for threads in [1, processors()] {
        let sample = 60_000;
        group.throughput(Throughput::Elements(sample));
        group.bench_function(BenchmarkId::new("access, guests", threads), |b| {
            b.iter(|| black_box(run(&bed, sample, threads, false)));
        });
    }
    group.finish();
    for threads in [1, processors()] {
        tell_ratio(&bed, threads);
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn run(bed: &TestBed, sample: u64, threads: usize, floor: bool) -> MatrixReport {
    let threads = NonZeroUsize::new(threads);
    Matrix { sample: Some(sample), threads, floor, ..Matrix::new(Set::Access) }
        .run(bed, &|_| ())
        .expect("the matrix runs")
}

fn tell_ratio(bed: &TestBed, threads: usize) {
    println!("\n{threads} guests");
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| run(bed, SAMPLE, threads, true)).collect();
    for report in &rounds {
        report.floors.iter().for_each(tell_floor);
        tell(report, "");
    }
    rounds.sort_by(|a, b| a.over_floor().partial_cmp(&b.over_floor()).expect("ratios are numbers"));
    tell(&rounds[ROUNDS / 2], ", the median");
    let fastest = rounds.iter().max_by(|a, b| a.per_second().total_cmp(&b.per_second()));
    tell(fastest.expect("there are rounds"), ", the fastest");
}

fn tell(report: &MatrixReport, which: &str) {
    let (floor, over) = (report.floor_per_second().unwrap_or(0.0), report.over_floor().unwrap_or(0.0));
    println!("matrix {:.0}/s, floor {floor:.0}/s: {over:.2} of the floor's time{which}", report.per_second());
}

fn tell_floor(floor: &Floor) {
    let Floor { entries, ring_0, ring_3 } = floor;
    println!("  floor {:?}: entries {entries:?}, ring 0 {ring_0:?}, ring 3 {ring_3:?}", floor.combination());
}

criterion_group!(benches, matrix);
criterion_main!(benches);
