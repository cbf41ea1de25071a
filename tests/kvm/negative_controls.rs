//! Break the thing, see the test fail: each bit of an entry, each rule of the walker that matters to a run.

use std::time::Duration;

use efibed::check::{Finding, Phase, Rule, Witness};
use efibed::mmu::{Level, PagingRule};
use efibed::report::{Report, RunVerdict};
use efibed::unstable::guest::Image;
use efibed::{Layout, LeafRule, Moment, Tamper};
use efibed_guest::protocol::{ImageHeader, Mailbox};
use efibed_tests::*;
use libtest_mimic::Trial;

/// All of them.
pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("a_broken_walker_disagrees_with_the_mmu", Need::Kvm, a_broken_walker_disagrees_with_the_mmu),
        trial("a_broken_walker_does_not_change_what_is_verified", Need::Kvm, a_broken_walker_does_not_verify_less),
    ];
    for (name, run) in [
        ("a_fault_outside_a_probe_ends_the_run_with_an_account", a_fault_outside_a_probe as fn()),
        ("without_its_idt_the_guest_shuts_down", without_its_idt_the_guest_shuts_down),
        ("a_guest_past_its_limit_is_stopped", a_guest_past_its_limit_is_stopped),
        ("limits_at_either_end_make_no_finding", limits_at_either_end_make_no_finding),
    ] {
        trials.push(trial(name, Need::Kvm, run));
    }
    for entry in ENTRIES {
        for moment in [Moment::BeforeWalk, Moment::AfterWalk] {
            let name = format!("each_bit_of_{}_{moment:?}", entry.name);
            trials.push(trial(name, Need::Kvm, move || flip_each_bit(&entry, moment)));
        }
    }
    trials
}

/// A 4K leaf of code, a 2M leaf of data, and no more, because there are hundreds of runs; addresses as in `ovmf-2013`.
const SMALL: (&str, &str) = (
    "small",
    r#"
    [[descriptor]]
    type = "BootServicesData"
    phys = 0x800000
    pages = 0x200
    attribute = "UC|WC|WT|WB"
    [[descriptor]]
    type = "RuntimeServicesCode"
    phys = 0x7dc5b000
    pages = 0x10
    attribute = "RUNTIME|UC|WC|WT|WB"
    [[descriptor]]
    type = "RuntimeServicesData"
    phys = 0x7ffe0000
    pages = 0x20
    attribute = "RUNTIME|UC|WC|WT|WB"
    "#,
);
const SMALL_PAGES: u64 = 0x200 + 0x10 + 0x20;

/// An entry of the finished tables of the small map under `window`.
#[derive(Clone, Copy)]
struct Entry {
    name: &'static str,
    virt: u64,
    level: Level,
    /// Whether code is mapped through it.
    code: bool,
}

/// The first page of RuntimeServicesCode, the first 2 MiB of boot-services data, and the PDPTE above both.
const ENTRIES: [Entry; 3] = [
    Entry { name: "a_4k_leaf", virt: 0xffff_fffe_fdc5_b000, level: Level::Pte, code: true },
    Entry { name: "a_2m_leaf", virt: 0xffff_fffe_8080_0000, level: Level::Pde, code: false },
    Entry { name: "an_upper_entry", virt: 0xffff_fffe_fdc5_b000, level: Level::Pdpte, code: true },
];

impl Entry {
    /// What flipping a bit of it changes, by SDM vol. 3A, 4.5 (tables 4-16 to 4-20) and 4.6, for a supervisor mapping whose
    /// entries above have U clear.
    fn effect(&self, bit: u32) -> Effect {
        let leaf = self.level != Level::Pdpte;
        match bit {
            // P and R/W; the address, up to bit 51, of a page or of a table.
            0 | 1 => Effect::Seen,
            // U/S: the AND over all levels, and the others have it clear.
            2 => Effect::None,
            // PWT and PCD of a leaf are its PAT index; above, the cache type of the table.
            3 | 4 => Effect::OnlyWalked,
            // A; D of a leaf, ignored above.
            5 | 6 => Effect::None,
            // PAT of a PTE; PS of a PDE (without it, 1 GiB leaves and tables are taken for each other).
            7 if self.level == Level::Pte => Effect::OnlyWalked,
            7 => Effect::Seen,
            // G of a leaf, which outlives a load of CR3; ignored above.
            8 if leaf => Effect::OnlyWalked,
            // What software may use.
            8..=11 => Effect::None,
            // PAT of a large leaf.
            12 if self.level == Level::Pde => Effect::OnlyWalked,
            12..=51 => Effect::Seen,
            // A leaf's protection key, which counts for user pages only on this guest; ignored above.
            59..=62 if leaf => Effect::OnlyWalked,
            // Software's.
            52..=62 => Effect::None,
            // XD: code that cannot be executed, or data that can.
            _ => Effect::Seen,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    /// Accesses notice.
    Seen,
    /// The PAT index and other flags, which no access can tell.
    OnlyWalked,
    None,
}

fn flip_each_bit(entry: &Entry, moment: Moment) {
    let mut wrong = Vec::new();
    for bit in 0..64 {
        let tamper = Tamper { virt: entry.virt, level: entry.level, flip: 1 << bit, moment };
        let report = bed().run(&scenario(SMALL).tamper(tamper)).unwrap_or_else(|error| panic!("bit {bit}: {error}"));
        let effect = entry.effect(bit);
        let expected = match (effect, moment) {
            (Effect::Seen, _) | (Effect::OnlyWalked, Moment::BeforeWalk) => true,
            (Effect::OnlyWalked, _) | (Effect::None, _) => false,
        };
        let found = !report.is_clean();
        let by_mmu = moment == Moment::BeforeWalk || !expected || seen_by_the_mmu(&report);
        if found != expected || !by_mmu {
            wrong.push(format!("bit {bit} ({effect:?}, code {}): {}", entry.code, brief(&report)));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", entry.name, wrong.join("\n"));
}

/// After the walk, a witness that notices must have asked the machine: its MMU, KVM, or a guest that died of it.
fn seen_by_the_mmu(report: &Report) -> bool {
    report.findings.iter().any(|finding| {
        let witness = |w: &Witness| matches!(w, Witness::Mmu | Witness::KvmTranslate);
        let ended = matches!(
            finding.rule,
            Rule::GuestFault | Rule::TripleFault | Rule::EmulationFailure | Rule::MachineStopped | Rule::Watchdog
        );
        finding.phase != Phase::Input && (ended || finding.witnesses.iter().any(witness))
    })
}

fn a_broken_walker_disagrees_with_the_mmu() {
    let scenario = scenario(OVMF_2013).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly);
    for rule in [PagingRule::ReservedPde2m, PagingRule::ReservedBeforePermission, PagingRule::ReservedSetsRsvd] {
        let report = bed().run(&scenario.clone().break_walker(rule)).unwrap();
        let doubts = report
            .findings
            .iter()
            .filter(|finding| matches!(finding.rule, Rule::WitnessDisagreement | Rule::WrongErrorCode));
        assert!(doubts.count() > 0, "{rule:?}: {}", brief(&report));
    }
}

fn a_broken_walker_does_not_verify_less() {
    for rule in PagingRule::ALL {
        let report = bed().run(&scenario(SMALL).break_walker(*rule)).unwrap();
        assert_eq!(report.probes.pages_verified, SMALL_PAGES, "{rule:?}: {}", brief(&report));
    }
}

/// Runs with a page of the guest's own taken away behind the walk's back, and again without, on the same machine.
fn without_page(virt: u64) -> Report {
    let tamper = Tamper { virt, level: Level::Pte, flip: 1, moment: Moment::AfterWalk };
    let report = bed().run(&scenario(SMALL).tamper(tamper)).unwrap();
    bed().run(&scenario(SMALL)).unwrap().assert_clean();
    report
}

fn header() -> &'static ImageHeader {
    Image::built_in().unwrap().header()
}

fn a_fault_outside_a_probe() {
    let records = header().mailbox + std::mem::offset_of!(Mailbox, probes) as u64;
    let report = without_page(records);
    let fault = report.findings.iter().find(|finding| finding.rule == Rule::GuestFault).unwrap();
    let page = format!("CR2 {:#x}", records & !0xfff);
    let says = |text: &str| assert!(fault.message.contains(text), "{text}: {}", fault.message);
    ["#PF 0x", " outside a probe", page.trim_end_matches("000"), "RIP 0xffffffff80", "CR3 0x", "RDI 0x", ", at `mov"]
        .into_iter()
        .for_each(says);
}

fn without_its_idt_the_guest_shuts_down() {
    let report = without_page(header().descriptor_tables);
    assert!(report.findings.iter().any(|finding| finding.rule == Rule::TripleFault), "{}", brief(&report));
}

fn limits_at_either_end_make_no_finding() {
    let scenario = scenario(OVMF_2013);
    bed().run(&scenario.clone().limit(Duration::MAX).stretch_limit(Duration::MAX)).unwrap().assert_clean();
    bed().run(&scenario.clone().sweep_limit(u64::MAX)).unwrap().assert_clean();
    bed().run(&scenario.clone().sweep_limit(0)).unwrap().assert_clean();
    let without_time = bed().run(&scenario.limit(Duration::ZERO)).unwrap();
    assert_eq!((without_time.verdict(), without_time.findings.len()), (RunVerdict::Incomplete, 0));
}

fn a_guest_past_its_limit_is_stopped() {
    let report = bed().run(&scenario(Q35_2G).stretch_limit(Duration::from_millis(1))).unwrap();
    let stopped = report.findings.iter().find(|finding| finding.rule == Rule::Watchdog);
    // It may be found in ring 3, in a sweep or in a service: then the finding is about the service, and says where under
    // what was observed.
    let says_where = |finding: &Finding| {
        let observed = finding.observed.as_ref().map_or_else(String::new, ToString::to_string);
        let text = format!("{} {observed}", finding.message);
        text.contains("in ring ") && text.contains(" at RIP 0x")
    };
    assert!(stopped.is_some_and(says_where), "{}", report.findings[0].message);
    assert!(stopped.is_some_and(|finding| finding.witnesses == [Witness::Run]), "{}", brief(&report));
    bed().run(&scenario(SMALL)).unwrap().assert_clean();
}

fn brief(report: &Report) -> String {
    let findings = report.findings.iter().map(|f| format!("{} {:?} {:?}", f.rule, f.witnesses, f.virt));
    format!("{} findings: {}", report.findings.len(), findings.take(4).collect::<Vec<_>>().join("; "))
}
