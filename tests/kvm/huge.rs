//! Regions of any size come to a verdict, by bounds that are counted here; and what they leave out is said.

use std::cell::RefCell;
use std::time::Duration;

use efibed::check::{Rule, SkipKind};
use efibed::memory_map::MemoryType;
use efibed::report::{Report, RunVerdict, Verdict};
use efibed::{CpuidRequest, EngineName, Layout, LeafRule, MemoryMap, Progress, Scenario};
use efibed_tests::*;
use libtest_mimic::Trial;

/// All of them.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("what_cannot_be_mapped_is_not_probed", Need::Kvm, what_cannot_be_mapped_is_not_probed),
        trial("of_many_descriptors_a_sample_is_tried_in_every_way", Need::Kvm, many_descriptors),
        wide("more_tables_than_there_are_are_not_built", more_tables_than_there_are_are_not_built),
        wide("a_tebibyte_is_mapped_in_the_guest", a_tebibyte_is_mapped_in_the_guest),
        trial("a_run_past_its_limit_is_incomplete", Need::Kvm, a_run_past_its_limit_is_incomplete),
    ]
}

/// Every page is written to; what is left out is said.
fn many_descriptors() {
    const MANY: u64 = 8193;
    let region = |index: u64| {
        let ty = if index == 0 { MemoryType::RUNTIME_SERVICES_CODE } else { MemoryType::RUNTIME_SERVICES_DATA };
        runtime(ty, 0x1000_0000 + 0x2000 * index, 1)
    };
    let scenario = |count| {
        let map = MemoryMap::from_descriptors("many", (0..count).map(region).collect());
        Scenario::new(map).layout(Layout::Window)
    };
    let (report, _) = told(&scenario(MANY));
    report.assert_clean();
    assert_eq!(report.probes.pages_verified, MANY);
    let sampled =
        report.skipped.iter().find(|skipped| skipped.what == "addresses of regions to be tried in every way").unwrap();
    assert_eq!((sampled.kind, sampled.count > MANY / 4), (SkipKind::Sample, true));
    // Of the usual number nothing is left to a sample.
    let (report, _) = told(&scenario(64));
    report.assert_clean();
    assert!(report.skipped.is_empty(), "{:?}", report.skipped);
}

/// A test whose regions lie past the physical addresses that some machines' guests have.
fn wide(name: &str, run: fn()) -> Trial {
    let is_wide = || bed().abilities(&CpuidRequest::default()).is_ok_and(|found| found.told.maxphyaddr >= 46);
    trial_where(name, "kvm with 46 bits of physical address", is_wide, run)
}

/// A run's report, and what was told meanwhile.
fn told(scenario: &Scenario) -> (Report, Vec<Progress>) {
    let told = RefCell::new(Vec::new());
    let report = bed().run_telling(scenario, &|progress| told.borrow_mut().push(progress));
    (report.unwrap_or_else(|error| panic!("{error}")), told.into_inner())
}

fn not_done(report: &Report) -> Vec<&str> {
    let rows = report.skipped.iter().filter(|skipped| skipped.kind == SkipKind::NotDone);
    rows.map(|skipped| skipped.what.as_str()).collect()
}

fn rules(report: &Report) -> Vec<Rule> {
    report.findings.iter().map(|finding| finding.rule).collect()
}

/// So many pages of MMIO at 4 GiB, and room for the guest.
fn mmio(pages: u64) -> Scenario {
    let text = format!(
        r#"
        [[descriptor]]
        type = "ConventionalMemory"
        phys = 0x100000
        pages = 0x10000
        attribute = "WB"
        [[descriptor]]
        type = "EfiMemoryMappedIO"
        phys = 0x100000000
        pages = {pages}
        attribute = "RUNTIME|UC"
        "#
    );
    let small_leaves = CpuidRequest::default().gbpages(false);
    Scenario::parse("mmio", &text).unwrap().cpu(small_leaves)
}

const TIB_PAGES: u64 = 1 << 28;

fn what_cannot_be_mapped_is_not_probed() {
    for map in [scenario(OVER_64G), mmio(TIB_PAGES / 8).layout(Layout::Window)] {
        let (report, told) = told(&map);
        assert_eq!(rules(&report), [Rule::WindowOverflow]);
        assert_eq!((report.probes.total, report.calls.len()), (0, 0));
        assert_eq!(told, [Progress::Mapping { tables: 0 }]);
    }
    let (report, told) = told(&scenario(OVER_64G).layout(Layout::PackedDown));
    report.assert_clean();
    assert!(!told.is_empty() && report.probes.total > 0);
}

/// 4 KiB leaves for 16 TiB take 2^23 tables; the bed has 81,920. That the addresses are wrong is known without any.
fn more_tables_than_there_are_are_not_built() {
    for engine in [EngineName::Kvm, EngineName::Walker] {
        for (layout, rule) in [(Layout::Linux, Rule::WindowOverflow), (Layout::PackedDown, Rule::OutsideArena)] {
            let scenario = mmio(16 * TIB_PAGES).layout(layout).leaf_rule(LeafRule::FourK);
            let (report, _) = told(&scenario.engine(engine));
            assert_eq!((rules(&report), not_done(&report)), (vec![rule], vec!["the mapping"]));
            assert_eq!((report.regions[1].verdict, report.probes.total), (Verdict::Unmapped, 0));
            assert!(report.skipped[0].reason.contains("81920 pages"), "{}", report.skipped[0].reason);
        }
    }
}

/// 1 TiB of 2 MiB leaves, 1:1: 1024 PDs in three PDPTs, and few more. It has no room in the window.
fn a_tebibyte_is_mapped_in_the_guest() {
    let (report, told) = told(&mmio(TIB_PAGES));
    assert_eq!((rules(&report), not_done(&report)), (vec![Rule::WindowOverflow], vec![]));
    assert_eq!(told[0], Progress::Mapping { tables: 0 });
    // In either phase 2^16 pages and a sample of 1024 are swept, and some single addresses are tried.
    assert!((1 << 16..2 * (1 << 16) + 4096).contains(&report.probes.total), "{}", report.probes.total);
    let sampled = report.skipped.iter().filter(|skipped| skipped.kind == SkipKind::Sample);
    assert!(sampled.map(|skipped| skipped.count).sum::<u64>() > TIB_PAGES - (1 << 17));
}

fn a_run_past_its_limit_is_incomplete() {
    let (report, _) = told(&scenario(Q35_2G).limit(Duration::ZERO));
    assert_eq!((report.verdict(), rules(&report)), (RunVerdict::Incomplete, vec![]));
    let stages = not_done(&report);
    assert_eq!((stages.len(), stages[0]), (6, "the mapping code"));
    assert!(report.skipped[0].reason.contains("limit of 0 s"), "{}", report.skipped[0].reason);
    assert!(report.regions.iter().all(|region| region.verdict != Verdict::Ok));

    let (report, _) = told(&scenario(Q35_2G).limit(Duration::ZERO).engine(EngineName::Walker));
    assert_eq!((report.verdict(), not_done(&report).len()), (RunVerdict::Incomplete, 2));
    // With no limit to speak of there is none.
    told(&scenario(Q35_2G).limit(Duration::MAX)).0.assert_clean();
}
