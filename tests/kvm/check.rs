//! The main job on real and made-up maps: what is right is clean, and what is wrong is found for what it is.

use efibed::check::{Finding, Phase, Rule, Witness};
use efibed::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryType};
use efibed::mmu::{ErrorCode, Kind, Level, Privilege, Va};
use efibed::report::{Report, RunVerdict, Verdict};
use efibed::{CpuidRequest, Layout, LeafRule, MemoryMap, Pa, Progress, Scenario};
use efibed_tests::*;
use libtest_mimic::Trial;

/// All of them.
pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("window_gives_the_table_of_2013", Need::Kvm, window_gives_the_table_of_2013),
        trial("va_only_faults_with_reserved_bits", Need::Kvm, va_only_faults_with_reserved_bits),
        trial("va_only_masked_reaches_other_frames", Need::Kvm, va_only_masked_reaches_other_frames),
        trial("off_by_a_page_is_silent", Need::Kvm, off_by_a_page_is_silent),
        trial("co_aligned_is_clean_under_every_layout", Need::Kvm, co_aligned_is_clean_under_every_layout),
        trial("packed_up_past_2g_overlaps_the_kernel", Need::Kvm, packed_up_past_2g_overlaps_the_kernel),
        trial("unaligned_window_needs_small_leaves", Need::Kvm, unaligned_window_needs_small_leaves),
        trial("bad_maps_give_their_findings", Need::Kvm, bad_maps_give_their_findings),
        trial("a_map_without_room_is_a_finding", Need::Kvm, a_map_without_room_is_a_finding),
        trial("a_region_that_wraps_is_found_where_the_guest_lies", Need::Kvm, a_region_that_wraps),
        trial("a_map_without_runtime_code_gets_no_calls", Need::Kvm, a_map_without_runtime_code_gets_no_calls),
        trial("the_local_apics_page_is_like_any_other", Need::Kvm, the_local_apics_page_is_like_any_other),
        trial(
            "a_virtual_start_that_is_not_canonical_is_one_finding",
            Need::Kvm,
            a_virtual_start_that_is_not_canonical_is_one_finding,
        ),
        trial("protection_off_is_checked_as_such", Need::Kvm, protection_off_is_checked_as_such),
        trial("many_threads_share_a_bed", Need::Kvm, many_threads_share_a_bed),
        trial("runs_repeat_exactly", Need::Kvm, runs_repeat_exactly),
        trial("progress_is_told_of_each_phase", Need::Kvm, progress_is_told_of_each_phase),
        trial("1g_leaves_are_used_and_verified", Need::GbPages, gigabyte_leaves_are_used_and_verified),
        trial("1g_leaves_by_va_alone_fault", Need::GbPages, gigabyte_leaves_by_va_alone_fault),
        trial("five_levels_give_the_same_verdicts", Need::La57, five_levels_give_the_same_verdicts),
    ];
    for map in TRUTH {
        let run = move || {
            let report = run(&scenario(map));
            report.assert_clean();
            assert_all_verified(&report);
        };
        trials.push(trial(format!("{}_is_clean_under_window", map.0), Need::Kvm, run));
    }
    trials
}

/// The layouts that compute addresses, where `linux-fixed` takes those it is given.
const COMPUTED: [Layout; 4] = [Layout::Linux, Layout::Window, Layout::PackedDown, Layout::PackedUp];

fn run(scenario: &Scenario) -> Report {
    bed().run(scenario).unwrap_or_else(|error| panic!("{error}"))
}

/// KVM's emulator takes 0xfee00000 for a device. Firmware and the guest keep off it, and regions there are checked.
fn the_local_apics_page_is_like_any_other() {
    let code = |phys: u64, pages: u64| runtime(MemoryType::RUNTIME_SERVICES_CODE, phys, pages);
    let data = runtime(MemoryType::RUNTIME_SERVICES_DATA, 0xfee0_8000, 4);
    let free =
        MemoryDescriptor { att: MemoryAttribute::WRITE_BACK, ..runtime(MemoryType::CONVENTIONAL, 0xfed0_0000, 0x100) };
    for (code, free_pages) in [(code(0xfee0_0000, 8), 0x100), (code(0xfedf_f000, 9), 0xff)] {
        let free = MemoryDescriptor { page_count: free_pages, ..free };
        for layout in [Layout::Linux, Layout::Window] {
            let map = MemoryMap::from_descriptors("apic", vec![free, code, data]);
            let report = run(&Scenario::new(map).layout(layout));
            report.assert_clean();
            assert_all_verified(&report);
            assert!(report.calls.iter().any(|call| call.phase == Phase::Finish && call.status == Some(0)));
        }
    }
}

/// KVM_TRANSLATE goes by an address's low bits, and firmware's table behind it is a consequence.
fn a_virtual_start_that_is_not_canonical_is_one_finding() {
    for virt_start in [0x9000_0000_0000, 0xfff7_ffff_0000_0000, 0x7fff_a000_0000_0000] {
        let data = runtime(MemoryType::RUNTIME_SERVICES_DATA, 0x7e72_9000, 0x42);
        let code = MemoryDescriptor {
            virt_start: 0xffff_fffe_7e80_0000,
            ..runtime(MemoryType::RUNTIME_SERVICES_CODE, 0x7e80_0000, 0x42)
        };
        let map = MemoryMap::from_descriptors("far", vec![MemoryDescriptor { virt_start, ..data }, code]);
        let report = run(&Scenario::new(map).layout(Layout::LinuxFixed));
        let found: Vec<_> = report.findings.iter().map(|finding| (finding.rule, finding.region)).collect();
        assert_eq!(found, [(Rule::NotCanonical, Some(0))], "{virt_start:#x}");
    }
}

/// Every page that is mapped was reached by the guest's MMU.
fn assert_all_verified(report: &Report) {
    let mapped = report.regions.iter().filter(|region| region.virt.is_some());
    let pages: u64 = mapped.map(|region| region.region.pages).sum();
    assert_eq!(report.probes.pages_verified, pages);
}

fn of_rule(report: &Report, rule: Rule) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.rule == rule).collect()
}

/// From the mail of 2 October 2013: the first and last byte of each range, and where it leads.
const TABLE_OF_2013: [(u64, u64, u64); 5] = [
    (0xffff_fffe_8080_0000, 0xffff_fffe_80ff_ffff, 0x80_0000),
    (0xffff_fffe_fc00_0000, 0xffff_fffe_fc01_ffff, 0x7c00_0000),
    (0xffff_fffe_fdc5_b000, 0xffff_fffe_fe14_5fff, 0x7dc5_b000),
    (0xffff_fffe_ffa6_5000, 0xffff_fffe_fffd_ffff, 0x7fa6_5000),
    (0xffff_fffe_fffe_0000, 0xffff_fffe_ffff_ffff, 0x7ffe_0000),
];

fn window_gives_the_table_of_2013() {
    let report = run(&scenario(OVMF_2013).layout(Layout::Window));
    report.assert_clean();
    assert_eq!(report.probes.pages_verified, 4774);
    for (region, (first, last, phys)) in report.regions.iter().zip(TABLE_OF_2013) {
        assert_eq!((region.virt, region.verdict), (Some(first), Verdict::Ok));
        for virt in (first..last).step_by(4096) {
            assert_eq!(report.translate(virt), Some(Pa(phys + (virt - first))));
        }
        assert_eq!(report.translate(last), Some(Pa(phys + (last - first))));
    }
    assert_all_called(&report, "boot", false);
}

/// The README leaves something out at "...".
fn assert_as_the_readme_shows(report: &Report) {
    const COMMAND: &str = "$ efibed check tests/maps/ovmf-2013.toml --layout packed-down --leaf-rule va-only\n";
    let (_, shown) = include_str!("../../README.md").split_once(COMMAND).expect("README has an example");
    let (shown, _) = shown.split_once("```").unwrap();
    if !report.cpu.checks.reserved_fault_sets_p {
        return eprintln!("skipped: what the README shows, for this machine answers reserved bits without P");
    }
    let printed = report.to_string();
    assert!(shown.split("...\n").all(|part| printed.contains(part)), "README shows something else:\n{printed}");
}

fn va_only_faults_with_reserved_bits() {
    let report = run(&scenario(OVMF_2013).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly));
    assert_as_the_readme_shows(&report);
    assert_eq!(rules(&report), [Rule::ReservedBit]);
    // A machine may answer reserved bits without P; `doctor` finds it out.
    let p = u32::from(report.cpu.checks.reserved_fault_sets_p);
    for finding in &report.findings {
        let pde = finding.walk.last().unwrap();
        assert_eq!(pde.level, Level::Pde);
        assert!(pde.reserved != 0 && pde.reserved & !0x1f_e000 == 0, "{:#x}", pde.reserved);
        assert_eq!(pde.reserved, pde.entry & 0x1f_e000);
        assert_eq!(finding.error_code(), Some(ErrorCode(0x8 | p)));
        assert_eq!(finding.witnesses, [Witness::Mmu, Witness::Walk]);
    }
    let codes = |kind| {
        let of_kind = report.faults.iter().filter(move |fault| fault.record.access.kind == kind);
        of_kind.map(|fault| fault.record.fault.error_code.0).collect::<Vec<_>>()
    };
    for (kind, code) in [(Kind::Read, 0x8 | p), (Kind::Write, 0xa | p), (Kind::Fetch, 0x18 | p)] {
        let codes = codes(kind);
        assert!(!codes.is_empty() && codes.iter().all(|c| *c == code), "{kind:?}: {codes:x?}");
    }
    for fault in &report.faults {
        assert_eq!(fault.record.fault.vector, 14);
        assert_eq!(fault.record.cr2, fault.record.virt);
        assert_eq!(fault.record.access.privilege, Privilege::Supervisor);
    }
    assert!(report.faults_omitted > 0, "1536 pages were written");
}

fn va_only_masked_reaches_other_frames() {
    let report = run(&scenario(OVMF_2013).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnlyMasked));
    assert_eq!(rules(&report), [Rule::WrongFrame]);
    assert!(report.faults.is_empty());
    assert_eq!(report.findings.iter().map(|finding| finding.pages).sum::<u64>(), 3 * 512);
    for finding in &report.findings {
        assert_eq!(finding.witnesses, [Witness::Mmu, Witness::Walk, Witness::KvmTranslate]);
        let says = ": the low 21 bits of the frame were dropped; expected PA 0x";
        assert!(finding.message.contains(says), "{}", finding.message);
    }
}

fn off_by_a_page_is_silent() {
    let report = run(&scenario(OFF_BY_PAGE).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly));
    assert_eq!(rules(&report), [Rule::WrongFrame, Rule::CacheType]);
    assert!(report.faults.is_empty());
    let cache = of_rule(&report, Rule::CacheType);
    assert_eq!(cache.len(), 1);
    // Bit 12 of a large leaf is PAT, bit 2 of the index. Only the walk can see it.
    assert_eq!(
        (cache[0].observed.as_ref().unwrap().to_string().as_str(), cache[0].witnesses.as_slice()),
        ("PAT index 4 (WB)", &[Witness::Walk][..])
    );
    let right = scenario(OFF_BY_PAGE).layout(Layout::PackedDown).leaf_rule(LeafRule::CoAligned);
    run(&right).assert_clean();
}

fn co_aligned_is_clean_under_every_layout() {
    for layout in COMPUTED {
        for leaf_rule in [LeafRule::CoAligned, LeafRule::FourK] {
            let report = run(&scenario(OVMF_2013).layout(layout).leaf_rule(leaf_rule));
            report.assert_clean();
            assert_all_verified(&report);
        }
    }
}

fn packed_up_past_2g_overlaps_the_kernel() {
    let report = run(&scenario(OVER_2G).layout(Layout::PackedUp));
    assert_eq!(rules(&report), [Rule::KernelOverlap]);
    assert!(report.findings[0].witnesses.contains(&Witness::Walk));
    assert_eq!(report.findings[0].virt, Some(Va(0xffff_ffff_8000_0000)));
    assert_eq!(report.probes.total, 0, "CR3 must not be loaded with such tables");
}

fn unaligned_window_needs_small_leaves() {
    let wrong = run(&scenario(Q35_SMM_2G).leaf_rule(LeafRule::VaOnly));
    assert!(rules(&wrong).contains(&Rule::ReservedBit), "{:?}", rules(&wrong));
    let right = run(&scenario(Q35_SMM_2G));
    right.assert_clean();
    assert_all_verified(&right);
    let large: u64 = right.regions.iter().map(|region| region.leaves.of_2m + region.leaves.of_1g).sum();
    assert_eq!(large, 0, "the highest mapped end is 0x7ef78000: nothing is aligned in both VA and PA");
}

fn bad_maps_give_their_findings() {
    for (map, layout, expected) in [
        (OVERLAP, Layout::Window, vec![Rule::MapOverlap]),
        (WRAP, Layout::Window, vec![Rule::MapWrap]),
        (UNALIGNED, Layout::Window, vec![Rule::MapUnaligned, Rule::NotPresent]),
        (PAST_MAXPHYADDR, Layout::Window, vec![Rule::PastMaxphyaddr, Rule::WindowOverflow]),
        (PAST_MAXPHYADDR, Layout::PackedDown, vec![Rule::PastMaxphyaddr, Rule::ReservedBit]),
        (OVER_64G, Layout::Window, vec![Rule::WindowOverflow]),
        (ZERO_PAGES, Layout::Window, vec![]),
    ] {
        let report = run(&scenario(map).layout(layout));
        assert_eq!(rules(&report), expected, "{} under {}:\n{}", map.0, layout.name(), describe(&report));
    }
    let report = run(&scenario(PAST_MAXPHYADDR).layout(Layout::PackedDown));
    assert!(report.regions.iter().any(|region| region.verdict == Verdict::Wrong));
    assert_rows_agree(&report);
    assert!(report.skipped.iter().any(|skipped| skipped.what.contains("physical-address width")));
    assert!(!run(&scenario(ZERO_PAGES)).notes.is_empty());
}

fn a_map_without_room_is_a_finding() {
    let text = r#"
        [[descriptor]]
        type = "ReservedMemoryType"
        phys = 0
        pages = "0xffffffffffff0"
        attribute = ""
    "#;
    let report = run(&Scenario::parse("full", text).unwrap());
    assert_eq!(rules(&report), [Rule::NoRoom]);
}

fn a_map_without_runtime_code_gets_no_calls() {
    let text = r#"
        [[descriptor]]
        type = "RuntimeServicesData"
        phys = 0x7e729000
        pages = 0x242
        attribute = "RUNTIME|WB"
    "#;
    let report = run(&Scenario::parse("data only", text).unwrap());
    report.assert_clean();
    assert!(report.calls.is_empty());
    assert_eq!(
        report.uncalled.as_deref(),
        Some("the map has no RuntimeServicesCode region, so there is no firmware to call")
    );
}

fn protection_off_is_checked_as_such() {
    let off = CpuidRequest::default().nx(false).smep(false).smap(false);
    let report = run(&scenario(OVMF_2013).cpu(off));
    report.assert_clean();
    assert!(!report.cpu.told.nxe && !report.cpu.told.smep && !report.cpu.told.smap);
}

fn many_threads_share_a_bed() {
    std::thread::scope(|scope| {
        for (layout, clean) in [(Layout::Window, true), (Layout::PackedDown, false), (Layout::PackedUp, false)] {
            for _ in 0..2 {
                scope.spawn(move || {
                    for _ in 0..3 {
                        let report = run(&scenario(OVMF_2013).layout(layout).leaf_rule(LeafRule::VaOnlyMasked));
                        assert_eq!(report.is_clean(), clean, "{}", describe(&report));
                    }
                });
            }
        }
    });
}

fn runs_repeat_exactly() {
    let scenario = scenario(Q35_2G).leaf_rule(LeafRule::VaOnlyMasked).layout(Layout::PackedDown);
    let (first, second) = (run(&scenario), run(&scenario));
    assert!(!first.is_clean());
    assert_eq!(first.probes, second.probes);
    assert_eq!(first.findings, second.findings);
}

/// 1 GiB of MMIO, aligned as a 1 GiB leaf wants it.
const ONE_GIB: &str = r#"
    [[descriptor]]
    type = "ConventionalMemory"
    phys = 0x100000
    pages = 0x10000
    attribute = "WB"
    [[descriptor]]
    type = "EfiMemoryMappedIO"
    phys = 0x140000000
    pages = 0x40000
    attribute = "RUNTIME|UC"
"#;

fn gigabyte_leaves_are_used_and_verified() {
    let report = run(&Scenario::parse("1 GiB", ONE_GIB).unwrap());
    report.assert_clean();
    assert_eq!((report.regions[1].leaves.of_1g, report.probes.pages_verified), (1, 0x4_0000));
}

fn gigabyte_leaves_by_va_alone_fault() {
    // 2 MiB up, so that VA (packed below -4 GiB) is a multiple of 1 GiB and PA is not.
    let text = ONE_GIB.replace("0x140000000", "0x140200000");
    let scenario = Scenario::parse("1 GiB", &text).unwrap().layout(Layout::PackedDown);
    let report = run(&scenario.clone().leaf_rule(LeafRule::VaOnly));
    assert_eq!(rules(&report), [Rule::ReservedBit]);
    let pdpte = report.findings[0].walk.last().unwrap();
    assert_eq!((pdpte.level, pdpte.reserved), (Level::Pdpte, 0x20_0000));
    run(&scenario).assert_clean();
}

fn five_levels_give_the_same_verdicts() {
    let five = CpuidRequest::default().la57(true);
    for layout in COMPUTED {
        for leaf_rule in LeafRule::ALL.iter().copied() {
            let scenario = scenario(OVMF_2013).layout(layout).leaf_rule(leaf_rule);
            let (four, five) = (run(&scenario), run(&scenario.clone().cpu(five)));
            assert_eq!(rules(&four), rules(&five));
            assert_eq!(four.probes, five.probes);
        }
    }
}

fn describe(report: &Report) -> String {
    efibed::report::text::Text::plain(report).to_string()
}

fn progress_is_told_of_each_phase() {
    let told = std::cell::RefCell::new(Vec::new());
    let scenario = scenario(OVMF_2013);
    let report = bed().run_telling(&scenario, &|progress| told.borrow_mut().push(progress)).unwrap();
    report.assert_clean();
    let pages: u64 = scenario.map().regions().map(|region| region.pages).sum();
    let told = told.into_inner();
    assert_eq!(told[0], Progress::Mapping { tables: 0 });
    assert_eq!(told[1], Progress::Walking);
    assert!(matches!(told[2], Progress::Sweeping { done: 0, all } if (1..=pages).contains(&all)), "{told:?}");
    assert_eq!(told.last(), Some(&Progress::Finishing));
}

/// Such a region is never mapped, so the guest may lie where it starts: it must not get a page of memory there too.
fn a_region_that_wraps() {
    for pages in [1 << 52, u64::MAX] {
        let map = MemoryMap::from_descriptors("made", vec![runtime(CODE, 0x1_0000, pages)]);
        let report = bed().run(&Scenario::new(map)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(report.verdict(), RunVerdict::Findings);
        assert!(report.findings.iter().any(|finding| finding.rule == Rule::MapWrap), "{:?}", report.findings);
    }
}
