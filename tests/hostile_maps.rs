//! Random hostile maps under every layout and leaf rule, on the walker engine: none panics, none runs past its limit, and
//! none is called clean that cannot be.
//!
//! All is seeded: a failure names seed and run. `EFIBED_FUZZ_SEED` runs another sequence, `EFIBED_FUZZ_MAPS` so many maps:
//! 40,000 take eight minutes of a debug build on two cores.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use efibed::Random;
use efibed::memory_map::synthesize::{Class, synthesize};
use efibed::report::text::Text;
use efibed::report::{Report, RunVerdict, json};
use efibed::{EngineError, EngineName, MemoryMap, TestBed};
use efibed_tests::from_environment;
use efibed_tests::hostile;

const MAPS: u64 = 2000;
const DEFAULT_SEED: u64 = 2013;
/// What a run may take past its limit: walks end at it, but the mapping code runs natively, and fills up to 320 MiB of tables
/// before this engine looks at the clock again. On a busy machine that was seen to take 20 s.
const GRACE: Duration = Duration::from_secs(60);

#[test]
fn no_map_panics_hangs_or_is_wrongly_clean() {
    let seed = from_environment("EFIBED_FUZZ_SEED", DEFAULT_SEED);
    let maps = from_environment("EFIBED_FUZZ_MAPS", MAPS);
    let next = AtomicU64::new(0);
    let counts: [AtomicU64; 3] = Default::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let bed = TestBed::without_kvm();
                while let Some(run) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|run| *run < maps) {
                    let verdict = try_map(&bed, seed, run).unwrap_or_else(|problem| {
                        panic!("EFIBED_FUZZ_SEED={seed}, run {run}: {problem}");
                    });
                    counts[verdict as usize].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let [clean, findings, incomplete] = counts.map(AtomicU64::into_inner);
    println!("{maps} maps, seed {seed}: {clean} clean, {findings} with findings, {incomplete} incomplete");
    assert!(clean > 0 && findings > 0, "maps of one kind only: {clean} clean, {findings} with findings");
}

/// One map, run; the error says what is wrong with how it went.
fn try_map(bed: &TestBed, seed: u64, run: u64) -> Result<RunVerdict, String> {
    let mut random = Random::of_run(seed, run);
    let map = synthesize(random.number(), Class::Hostile);
    let second = random.once_in(8).then(|| hostile::changed(&map, &mut random));
    let scenario = hostile::scenario(map.clone(), &mut random).engine(EngineName::Walker);
    let what = format!("{scenario:x?}");
    let started = Instant::now();
    let kernels = catch_unwind(AssertUnwindSafe(|| -> Result<Vec<(MemoryMap, Report)>, EngineError> {
        let Some(second) = second else { return Ok(vec![(map, bed.run(&scenario)?)]) };
        let [first, after] = bed.kexec(&scenario, second.clone())?;
        Ok(vec![(map, first), (second, after)])
    }));
    let took = started.elapsed();
    let kernels = kernels.map_err(|_| format!("it panicked: {what}"))?.map_err(|error| format!("{error}: {what}"))?;
    if took > hostile::LIMIT + GRACE {
        return Err(format!("it took {took:?}: {what}"));
    }
    for (map, report) in &kernels {
        if let Some(why) = hostile::wrongly_clean(map, report) {
            return Err(format!("clean, and {why}: {what}"));
        }
        let shown = catch_unwind(AssertUnwindSafe(|| (Text::plain(report).to_string(), json::to_json(report))));
        shown.map_err(|_| format!("its report panicked: {what}"))?;
    }
    let (_, last) = kernels.last().ok_or("no report")?;
    Ok(last.verdict())
}
