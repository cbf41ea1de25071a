//! Random hostile maps under every layout and leaf rule, on the walker engine: none panics, none runs past its limit, and
//! none is called clean that cannot be.
//!
//! All is seeded: a failure names seed and run. `EFIBED_FUZZ_SEED` runs another sequence, `EFIBED_FUZZ_MAPS` so many maps:
//! a release build runs some hundred a second on one core. `tests/fuzz` has the same for libFuzzer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use efibed::report::RunVerdict;
use efibed::{EngineName, Random, TestBed};
use efibed_tests::{forger, from_environment, hostile};

const MAPS: u64 = 2000;
const DEFAULT_SEED: u64 = 2013;

#[test]
fn no_map_panics_hangs_or_is_wrongly_clean() {
    run_all("maps", |bed, random| hostile::try_map(bed, random, hostile::LIMIT));
}

/// What a fuzzer would run.
#[test]
fn no_bytes_make_a_map_that_panics_hangs_or_is_wrongly_clean() {
    run_all("inputs", |bed, random| {
        let bytes: Vec<u8> = (0..random.below(512)).map(|_| random.number() as u8).collect();
        hostile::try_bytes(bed, &bytes).map_err(|problem| format!("{problem}: {bytes:?}"))
    });
}

#[test]
fn no_answer_of_mapping_code_makes_the_host_panic_hang_or_say_that_wrong_is_clean() {
    run_all("answers", |bed, random| {
        let bytes: Vec<u8> = (0..random.below(64)).map(|_| random.number() as u8).collect();
        forger::try_bytes(bed, EngineName::Walker, &bytes).map_err(|problem| format!("{problem}: {bytes:?}"))
    });
}

/// As many runs as are asked for, on all cores, and what they came to.
fn run_all(what: &str, one: impl Fn(&TestBed, &mut Random) -> Result<RunVerdict, String> + Sync) {
    let seed = from_environment("EFIBED_FUZZ_SEED", DEFAULT_SEED);
    let runs = from_environment("EFIBED_FUZZ_MAPS", MAPS);
    let next = AtomicU64::new(0);
    let all = Mutex::new(Counts::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let bed = TestBed::without_kvm();
                while let Some(run) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|run| *run < runs) {
                    let started = Instant::now();
                    let verdict = one(&bed, &mut Random::of_run(seed, run));
                    let verdict = verdict.unwrap_or_else(|problem| {
                        panic!("EFIBED_FUZZ_SEED={seed}, run {run}: {problem}");
                    });
                    all.lock().unwrap().add(verdict, run, started.elapsed());
                }
            });
        }
    });
    let Counts { verdicts: [clean, findings, incomplete], slowest: (took, run) } = all.into_inner().unwrap();
    println!("{runs} {what}, seed {seed}: {clean} clean, {findings} with findings, {incomplete} incomplete");
    println!("the slowest, run {run}, took {took:?}");
    assert!(clean > 0 && findings > 0, "maps of one kind only: {clean} clean, {findings} with findings");
}

#[derive(Default)]
struct Counts {
    verdicts: [u64; 3],
    /// How long it took, and which it was.
    slowest: (Duration, u64),
}

impl Counts {
    fn add(&mut self, verdict: RunVerdict, run: u64, took: Duration) {
        self.verdicts[verdict as usize] += 1;
        self.slowest = self.slowest.max((took, run));
    }
}
