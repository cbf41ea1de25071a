//! Random hostile maps in the guest: none stops the test bed, runs past its limit, or is wrongly clean.

use std::time::{Duration, Instant};

use efibed::Random;
use efibed::check::{Phase, Rule};
use efibed::memory_map::synthesize::{Class, Synthesis, synthesize};
use efibed::{CpuidRequest, EngineError, EngineName, Layout, LeafRule, MaxPhyAddr, Report, Scenario};
use efibed_tests::*;
use efibed_tests::{forger, hostile};
use libtest_mimic::Trial;

/// `EFIBED_FUZZ_MAPS` runs so many.
const MAPS: u64 = 60;
const DEFAULT_SEED: u64 = 1024;
/// What a run may take past its limit: the guest is stopped at once, but tables are walked to their end.
const GRACE: Duration = Duration::from_secs(20);

/// All of them.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("hostile_maps_come_to_a_verdict_in_the_guest", Need::Kvm, hostile_maps),
        trial("engines_say_the_same_of_a_map_itself", Need::Kvm, engines_say_the_same_of_a_map_itself),
        trial("whatever_mapping_code_answers_comes_to_a_verdict_in_the_guest", Need::Kvm, any_answers),
    ]
}

/// What is wrong with the map itself comes first and is of phase `input`, whatever is found after it.
fn engines_say_the_same_of_a_map_itself() {
    const MAPS: u64 = 24;
    // Where the guest and its process have no room, the map may still do for the walker, which needs less.
    let of_map = |report: &Report| -> Vec<_> {
        let phases: Vec<_> = report.findings.iter().map(|finding| finding.phase).collect();
        assert!(phases.is_sorted_by_key(|phase| *phase != Phase::Input), "{phases:?}");
        let findings = report.findings.iter();
        let findings = findings.filter(|finding| finding.phase == Phase::Input && finding.rule != Rule::NoRoom);
        findings.map(|finding| (finding.rule, finding.region, finding.message.clone())).collect()
    };
    let (mut wrong, mut beside) = (0, 0);
    for seed in 0..MAPS {
        let map = Synthesis::new(Class::Hostile).max_mapped_pages(512).map(seed);
        let cpu = CpuidRequest::default().maxphyaddr(MaxPhyAddr::new(36).unwrap());
        let scenario = Scenario::new(map).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly).cpu(cpu);
        let [walker, kvm] =
            [EngineName::Walker, EngineName::Kvm].map(|engine| bed().run(&scenario.clone().engine(engine)).unwrap());
        let found = of_map(&walker);
        assert_eq!(found, of_map(&kvm), "seed {seed}");
        wrong += u64::from(!found.is_empty());
        beside += u64::from(!found.is_empty() && walker.findings.len() > found.len());
    }
    assert!(wrong > MAPS / 4 && beside > 4, "{wrong} maps are wrong, {beside} of them with other findings");
}

fn any_answers() {
    let seed = from_environment("EFIBED_FUZZ_SEED", DEFAULT_SEED);
    let mut verdicts = [0; 3];
    for run in 0..from_environment("EFIBED_FUZZ_MAPS", MAPS) {
        let mut random = Random::of_run(seed, run);
        let bytes: Vec<u8> = (0..random.below(64)).map(|_| random.number() as u8).collect();
        let verdict = forger::try_bytes(bed(), EngineName::Kvm, &bytes);
        let what = |problem| panic!("EFIBED_FUZZ_SEED={seed}, run {run}: {problem}: {bytes:?}");
        verdicts[verdict.unwrap_or_else(what) as usize] += 1;
    }
    let [clean, findings, incomplete] = verdicts;
    efibed_tests::tell!("seed {seed}: {clean} clean, {findings} with findings, {incomplete} incomplete");
    assert!(clean > 0 && findings > 0);
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
