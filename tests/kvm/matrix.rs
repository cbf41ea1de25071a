//! The paging matrix: the machine against the software MMU, and the software MMU, broken rule by rule, against it.

use efibed::mmu::{PagingRule, Vendor};
use efibed::unstable::matrix::{Matrix, MatrixReport, Set, text};
use efibed::{CpuidRequest, MaxPhyAddr};
use efibed_tests::*;
use libtest_mimic::Trial;

/// All of them.
pub fn trials() -> Vec<Trial> {
    let all: [(&str, fn()); 7] = [
        ("matrix_access_is_as_the_sdm_says", access_is_as_the_sdm_says),
        ("matrix_full_is_as_the_sdm_says_but_for_known_deviations", full_is_as_the_sdm_says),
        ("matrix_finds_the_deviations_that_single_accesses_show", deviations_are_found),
        ("matrix_misses_every_rule_of_the_walker_that_is_broken", every_broken_rule_is_missed),
        ("matrix_fails_without_handlers", it_fails_without_handlers),
        ("matrix_shards_are_the_whole", shards_are_the_whole),
        ("matrix_runs_a_single_combination", a_single_combination),
    ];
    all.into_iter().map(|(name, run)| trial(name, Need::Kvm, run)).collect()
}

/// Of each run: a second or two where ring 0 is emulated, ten where all is.
const SAMPLE: u64 = 20_000;

fn run(matrix: Matrix) -> MatrixReport {
    let report = matrix.run(bed(), &|_| ()).unwrap();
    assert!(report.is_clean(), "{}", text::Text::plain(&report));
    report
}

fn sample(set: Set, sample: u64, seed: u64) -> Matrix {
    Matrix { sample: Some(sample), seed, ..Matrix::new(set) }
}

fn access_is_as_the_sdm_says() {
    let report = run(sample(Set::Access, SAMPLE, 1));
    assert_eq!(report.combinations, SAMPLE);
    // In all of the set 91.2 % of combinations fault, and 92.0 % with keys.
    let faults = report.faults * 1000 / report.combinations;
    assert!((900..935).contains(&faults), "{faults}");
    let codes: &[u32] = &[0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x10, 0x11, 0x14, 0x15];
    assert!(codes.iter().all(|code| report.error_codes.contains(code)), "{:x?}", report.error_codes);
}

fn full_is_as_the_sdm_says() {
    let report = run(sample(Set::Full, SAMPLE, 2));
    assert_eq!(report.combinations, SAMPLE);
    assert_eq!(report.parts.iter().map(|(_, count)| count).sum::<u64>(), SAMPLE);
}

/// By what trials of single accesses, made by other code, say of this machine.
fn deviations_are_found() {
    let report = run(sample(Set::Full, SAMPLE, 3));
    let found = |name: &str| report.deviations.iter().any(|deviation| deviation.name == name);
    let abilities = |request: CpuidRequest| bed().abilities(&request).unwrap();
    let all = abilities(CpuidRequest::default().pku(true));
    let large = abilities(CpuidRequest::default().gbpages(true));
    let small = abilities(CpuidRequest::default().gbpages(false));
    let narrow = abilities(CpuidRequest::default().maxphyaddr(MaxPhyAddr::new(36).unwrap()));
    assert_eq!(found("1g-reserved"), large.told.gbpages && !large.checks.gbpages);
    assert_eq!(found("1g-not-hidden"), !small.told.gbpages && small.checks.gbpages);
    assert_eq!(found("maxphyaddr-of-host"), narrow.checks.maxphyaddr != 36);
    assert_eq!(found("reserved-without-p"), !all.checks.reserved_fault_sets_p);
    assert_eq!(found("pke-ignored"), all.taken.pke && !all.checks.pke);
    assert_eq!(found("pml4-256-unusable"), !all.high_half_start);
}

/// Some rules show in few combinations, fewer than one in a sample: so there are several, until all have shown that can.
fn every_broken_rule_is_missed() {
    const SAMPLES: u64 = 8;
    let mut unseen = PagingRule::ALL.to_vec();
    let mut combinations = 0;
    for seed in 4..4 + SAMPLES {
        let report = run(Matrix { controls: true, ..sample(Set::Full, SAMPLE, seed) });
        combinations += report.combinations;
        let missed = |rule: &PagingRule| report.controls.iter().any(|(each, count)| each == rule && *count > 0);
        unseen.retain(|rule| !missed(rule));
        let reasons: Option<Vec<_>> = unseen.iter().map(|rule| Some((rule, cannot_show(*rule, &report)?))).collect();
        let Some(reasons) = reasons else { continue };
        for (rule, why) in &reasons {
            efibed_tests::tell!("skipped: {rule:?} broken shows nothing here, for {why}");
        }
        let caught = PagingRule::ALL.len() - reasons.len();
        efibed_tests::tell!("{caught} of {} rules, broken one by one, are missed", PagingRule::ALL.len());
        return assert!(caught >= 30, "{caught}");
    }
    panic!("{unseen:?} were broken, and no combination of {combinations} shows it");
}

/// Why a rule may be broken without anything to be seen of it on this machine.
fn cannot_show(rule: PagingRule, report: &MatrixReport) -> Option<&'static str> {
    let abilities = bed().abilities(&CpuidRequest::default().pku(true).la57(true)).unwrap();
    let deviates = |name: &str| report.deviations.iter().any(|deviation| deviation.name == name);
    match rule {
        PagingRule::PkeyNeedsPke
        | PagingRule::PkeyAccessDisable
        | PagingRule::PkeyWriteDisable
        | PagingRule::PkeyWriteFreeWithoutWp
        | PagingRule::PkeyUserPagesOnly
        | PagingRule::PkeyDataOnly
        | PagingRule::PkReportedAlways => (!abilities.checks.pke).then_some("this machine has no protection keys"),
        PagingRule::CanonicalLa57 => (!abilities.taken.la57).then_some("KVM refuses five levels"),
        PagingRule::ReservedPdpte1g => (!abilities.checks.gbpages).then_some("this machine has no 1 GiB pages"),
        PagingRule::PsInPdpteWithout1g => {
            abilities.checks.gbpages.then_some("this machine does not hide its 1 GiB pages")
        }
        PagingRule::GInUpperAmd if abilities.told.vendor != Vendor::Amd => Some("this is no AMD"),
        PagingRule::GInUpperAmd => deviates("g-in-pml4e-ignored").then_some("this machine ignores that bit"),
        PagingRule::CanonicalStack => deviates("stack-gp").then_some("this machine raises #GP"),
        PagingRule::AcNeverForImplicit => {
            deviates("ac-lifts-implicit").then_some("this machine lifts SMAP for those too")
        }
        PagingRule::UpperAccessedMaySet => Some("a machine may do without"),
        _ => None,
    }
}

/// A fault that nobody handles, and an access that is made anyway, must not pass for one that was as expected.
fn it_fails_without_handlers() {
    let matrix = Matrix { handlers: false, ..sample(Set::Access, 500, 5) };
    let error = matrix.run(bed(), &|_| ()).unwrap_err().to_string();
    assert!(error.contains("the matrix's guest was lost"), "{error}");
}

fn shards_are_the_whole() {
    let shards = ["1/3", "2/3", "3/3"].map(|shard| shard.parse().unwrap());
    let counts = shards.map(|shard| run(Matrix { shard, ..sample(Set::Access, SAMPLE, 6) }).combinations);
    assert_eq!(counts.iter().sum::<u64>(), SAMPLE);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

fn a_single_combination() {
    let path = "pml4e.p pml4e.w pml4e.u pdpte.p pdpte.w pdpte.u pde.p pde.w pde.u pte.p pte.u efer.nx cr0.wp";
    let case = |access: &str| {
        let combination = format!("{path} {access}").parse().unwrap();
        Matrix::case(bed(), combination, &CpuidRequest::default()).unwrap()
    };
    let read = case("user");
    assert!(!read.differs, "{}", text::SingleText::plain(&read));
    assert!(read.outcome.observed.starts_with("reached PA 0x"), "{}", read.outcome.observed);
    let write = case("user write");
    assert!(!write.differs, "{}", text::SingleText::plain(&write));
    assert!(write.outcome.observed.starts_with("#PF 0x7 (P W U), CR2 0x"), "{}", write.outcome.observed);
}
