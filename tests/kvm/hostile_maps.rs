//! Random hostile maps in the guest: none stops the test bed, runs past its limit, or is wrongly clean.

use std::time::{Duration, Instant};

use efibed::Random;
use efibed::memory_map::synthesize::{Class, synthesize};
use efibed::{EngineError, EngineName};
use efibed_tests::hostile;
use efibed_tests::*;
use libtest_mimic::Trial;

/// `EFIBED_FUZZ_MAPS` runs so many.
const MAPS: u64 = 60;
const DEFAULT_SEED: u64 = 1024;
/// What a run may take past its limit: the guest is stopped at once, but tables are walked to their end.
const GRACE: Duration = Duration::from_secs(20);

/// All of them.
pub fn trials() -> Vec<Trial> {
    vec![trial("hostile_maps_come_to_a_verdict_in_the_guest", Need::Kvm, hostile_maps)]
}

fn hostile_maps() {
    let seed = from_environment("EFIBED_FUZZ_SEED", DEFAULT_SEED);
    let (mut verdicts, mut refused) = ([0; 3], 0);
    for run in 0..from_environment("EFIBED_FUZZ_MAPS", MAPS) {
        let mut random = Random::of_run(seed, run);
        let map = synthesize(random.number(), Class::Hostile);
        let scenario = hostile::scenario(map.clone(), &mut random).engine(EngineName::Kvm);
        let what = || format!("EFIBED_FUZZ_SEED={seed}, run {run}: {scenario:x?}");
        let started = Instant::now();
        let report = match bed().run(&scenario) {
            // A CPU that this machine does not have: refused by name.
            Err(EngineError::Unable { .. }) => {
                refused += 1;
                continue;
            }
            outcome => outcome.unwrap_or_else(|error| panic!("{error}: {}", what())),
        };
        let took = started.elapsed();
        assert!(took < hostile::LIMIT + GRACE, "{took:?}: {}", what());
        let wrong = hostile::wrongly_clean(&map, &report);
        assert_eq!(wrong, None, "{}", what());
        verdicts[report.verdict() as usize] += 1;
    }
    let [clean, findings, incomplete] = verdicts;
    efibed_tests::tell!(
        "seed {seed}: {clean} clean, {findings} with findings, {incomplete} incomplete, {refused} CPUs refused"
    );
    assert!(clean + findings > refused);
}
