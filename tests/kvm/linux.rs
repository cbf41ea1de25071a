//! Layout `linux` in the guest: what a real Linux did, phase `finish`, and kexec.

use efibed::check::{Phase, Rule, Witness};
use efibed::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryType};
use efibed::mmu::Level;
use efibed::report::{RegionReport, Report, Verdict};
use efibed::{CpuidRequest, Layout, LeafRule, MemoryMap, Moment, Scenario, Tamper};
use efibed_tests::*;
use libtest_mimic::Trial;

/// All of them.
pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("a_runtime_map_gives_its_own_addresses", Need::Kvm, a_runtime_map_gives_its_own_addresses),
        trial("finish_is_right_with_any_attributes_table", Need::Kvm, finish_is_right_with_any_attributes_table),
        trial("what_finish_left_behind_is_found", Need::Kvm, what_finish_left_behind_is_found),
        trial("the_switch_is_made_on_linuxs_tables", Need::Kvm, the_switch_is_made_on_linuxs_tables),
        trial("kexec_finds_given_addresses", Need::Kvm, kexec_finds_given_addresses),
        trial("kexec_moves_a_window_of_a_shorter_map", Need::Kvm, kexec_moves_a_window_of_a_shorter_map),
        trial("kexec_tells_of_a_region_that_is_lost", Need::Kvm, kexec_tells_of_a_region_that_is_lost),
        trial("linux_addresses_with_five_levels", Need::La57, linux_addresses_with_five_levels),
        trial("the_boot_tables_are_not_mapped_with_five_levels", Need::La57, the_boot_tables_are_not_mapped),
        trial(
            "the_large_region_of_hackpc_03_has_its_1g_leaf",
            Need::GbPages,
            the_large_region_of_hackpc_03_has_its_1g_leaf,
        ),
        trial("linux_addresses_with_1g_leaves", Need::GbPages, linux_addresses_with_1g_leaves),
    ];
    for (map, text) in TRUTH.into_iter().zip(RUNTIME_MAPS) {
        let whole = move || gives_the_list_that_linux_made(map, text);
        trials.push(trial(format!("{}_as_linux_did_it", map.0), Need::Kvm, whole));
    }
    for map in X86_MAPS {
        trials.push(trial(format!("{}_is_clean_under_linux", map.0), Need::Kvm, move || is_clean_under_linux(map)));
    }
    trials
}

fn run(scenario: &Scenario) -> Report {
    bed().run(scenario).unwrap_or_else(|error| panic!("{error}"))
}

/// Clean, and every page that is mapped was reached by the guest's MMU.
fn assert_verified(report: &Report) {
    report.assert_clean();
    let mapped = report.regions.iter().filter(|region| region.virt.is_some());
    assert_eq!(report.probes.pages_verified, mapped.map(|region| region.region.pages).sum::<u64>());
}

fn a_runtime_map_gives_its_own_addresses() {
    let entries = runtime_map(RUNTIME_MAPS[0]);
    let without = entries.iter().map(|entry| MemoryDescriptor { virt_start: 0, ..*entry }).collect();
    let map = MemoryMap::from_descriptors("runtime map", without).with_kind(ListKind::Runtime);
    let report = run(&Scenario::new(map));
    assert_verified(&report);
    assert_eq!(report.virtual_map, entries);
}

fn gives_the_list_that_linux_made(map: (&str, &str), text: &str) {
    let report = run(&scenario(map).layout(Layout::Linux));
    assert_verified(&report);
    assert_eq!(report.virtual_map, without_the_tagged_page(runtime_map(text)));
}

fn of_image(table: Vec<MemoryDescriptor>) -> Scenario {
    Scenario::new(MemoryMap::from_descriptors("image", image()).with_attributes_table(table))
}

const RO: MemoryAttribute = MemoryAttribute::READ_ONLY;
const XP: MemoryAttribute = MemoryAttribute::EXECUTE_PROTECT;

fn finish_is_right_with_any_attributes_table() {
    let tables = [
        vec![],
        vec![attributes(CODE, 0x7e00_0000, 2, RO), attributes(CODE, 0x7e20_0000, 0x200, XP)],
        vec![attributes(CODE, 0x7e00_0000, 0x400, RO), attributes(DATA, 0x7e40_0000, 0x20, XP)],
        vec![attributes(CODE, 0x7e3f_f000, 2, RO), attributes(DATA, 0x7e00_0000, 1, RO)],
    ];
    for leaf_rule in [LeafRule::CoAligned, LeafRule::FourK] {
        for table in &tables {
            let report = run(&of_image(table.clone()).leaf_rule(leaf_rule));
            assert_verified(&report);
            assert_called_after(&report, true);
        }
    }
}

fn what_finish_left_behind_is_found() {
    let (present, writable, no_execute) = (1, 1 << 1, 1 << 63);
    let (boot, code) = (0xffff_fffe_ff60_0000, 0xffff_fffe_ffa0_1000);
    let table = |att| vec![attributes(CODE, 0x7e00_1000, 1, att)];
    for (table, virt, level, flip, rule) in [
        (vec![], boot, Level::Pde, present, Rule::StrayMapping),
        (vec![], 0x40_0000, Level::Pde, present, Rule::StrayMapping),
        (table(RO), code, Level::Pte, writable, Rule::NotReadOnly),
        (table(RO), 0x7e00_1000, Level::Pte, writable, Rule::NotReadOnly),
        (table(XP), code, Level::Pte, writable, Rule::NotWritable),
    ] {
        let tamper = Tamper { virt, level, flip, moment: Moment::AfterFinish };
        let report = run(&of_image(table).tamper(tamper));
        let found: Vec<_> = report.findings.iter().map(|finding| (finding.rule, finding.phase)).collect();
        assert!(found.iter().all(|found| *found == (rule, Phase::Finish)) && !found.is_empty(), "{found:?}");
        let witnesses: Vec<_> = report.findings.iter().flat_map(|finding| &finding.witnesses).collect();
        assert!(witnesses.contains(&&Witness::Mmu) && witnesses.contains(&&Witness::Walk), "{rule}: {witnesses:?}");
    }
    let flip = Tamper { virt: code, level: Level::Pte, flip: no_execute, moment: Moment::AfterFinish };
    let report = run(&of_image(table(XP)).tamper(flip));
    assert_eq!(report.findings.iter().map(|finding| finding.rule).collect::<Vec<_>>(), [Rule::ExecutableData]);
}

fn the_switch_is_made_on_linuxs_tables() {
    let report = run(&scenario(OVMF_2013).layout(Layout::Linux));
    assert_verified(&report);
    assert_all_called(&report, "mapper", true);
    let aliases: Vec<_> = report.regions.iter().map(|region| region.aliases.clone()).collect();
    assert_eq!(aliases, report.regions.iter().map(|region| vec![region.region.phys]).collect::<Vec<_>>());
}

/// What a kexec'ed kernel sees of a map: boot services are gone.
fn after_kexec(map: (&str, &str)) -> MemoryMap {
    let map = self::map(map);
    let stays = |d: &&MemoryDescriptor| {
        !matches!(d.ty, MemoryType::BOOT_SERVICES_CODE | MemoryType::BOOT_SERVICES_DATA)
            || d.att.contains(MemoryAttribute::RUNTIME)
    };
    MemoryMap::from_descriptors("second", map.descriptors().iter().filter(stays).copied().collect())
}

fn kexec_finds_given_addresses() {
    for map in [OVMF_2013, Q35_2G] {
        let [first, second] = bed().kexec(&scenario(map).layout(Layout::LinuxFixed), after_kexec(map)).unwrap();
        assert_verified(&first);
        assert_verified(&second);
        // The first kernel's calls, and the second's.
        assert_all_called(&second, "boot", true);
        let virt = |report: &Report, phys| {
            report.regions.iter().find(|region| region.region.phys == phys).and_then(|region| region.virt)
        };
        for region in second.regions.iter().filter(|region| region.virt.is_some()) {
            assert_eq!(region.virt, virt(&first, region.region.phys));
        }
    }
    // The same map leaves everything where it was.
    for layout in [Layout::Window, Layout::Linux] {
        let [_, second] = bed().kexec(&scenario(OVMF_2013).layout(layout), map(OVMF_2013)).unwrap();
        assert_verified(&second);
    }
}

fn kexec_moves_a_window_of_a_shorter_map() {
    // There the highest end was that of boot services, 0x80000000; now it is 0x7ffe0000. Here boot services lay
    // between runtime regions.
    for (map, layout) in [(OVMF_2013, Layout::Window), (Q35_2G, Layout::Linux)] {
        let [first, second] = bed().kexec(&scenario(map).layout(layout), after_kexec(map)).unwrap();
        first.assert_clean();
        assert!(!second.is_clean() && second.findings.iter().all(|finding| finding.rule == Rule::KexecMoved));
        let code = second.regions.iter().find(|region| region.region.ty == CODE).unwrap();
        assert_eq!(code.verdict, Verdict::Wrong);
        for call in second.calls.iter().filter(|call| call.phase == Phase::Finish) {
            assert_eq!((call.rip, call.status), (None, None), "firmware's pointers lead nowhere: {call:?}");
        }
    }
}

fn kexec_tells_of_a_region_that_is_lost() {
    let mut regions = map(OVMF_2013).descriptors().to_vec();
    let lost = regions.iter().rposition(|d| d.att.contains(MemoryAttribute::RUNTIME)).unwrap();
    regions.remove(lost);
    let second = MemoryMap::from_descriptors("second", regions);
    let [_, second] = bed().kexec(&scenario(OVMF_2013).layout(Layout::LinuxFixed), second).unwrap();
    let moved: Vec<_> = second.findings.iter().map(|finding| (finding.rule, finding.region)).collect();
    assert_eq!(moved, [(Rule::KexecMoved, None)]);
}

fn linux_addresses_with_five_levels() {
    let five = CpuidRequest::default().la57(true);
    for (map, text) in [(TRUTH[0], RUNTIME_MAPS[0]), (TRUTH[1], RUNTIME_MAPS[1])] {
        let report = run(&scenario(map).layout(Layout::Linux).cpu(five));
        assert_verified(&report);
        assert_eq!(report.virtual_map, without_the_tagged_page(runtime_map(text)));
    }
}

/// One entry of the fifth level is all of the lower half. What was mapped 1:1 there for the calls before the switch was the
/// mapper's too: of these maps' two pages for the virtual map, the one that Linux has no use for showed.
fn the_boot_tables_are_not_mapped() {
    let five = CpuidRequest::default().la57(true);
    for map in [ASUS_01, LENOVO_07] {
        run(&scenario(map).layout(Layout::Linux).cpu(five).sweep_limit(0x400)).assert_clean();
    }
}

fn linux_addresses_with_1g_leaves() {
    // 3 GiB of MMIO: VA and PA agree modulo 2 MiB only, but 1:1 there is room for 1 GiB leaves.
    let mmio =
        MemoryDescriptor { att: MemoryAttribute::RUNTIME, ..runtime(MemoryType::MMIO, 0x10_8020_0000, 0xc_0000) };
    let map = MemoryMap::from_descriptors("3 GiB", vec![mmio]);
    // Its 4 KiB leaves take 3,084 pages of tables.
    let scenario = Scenario::new(map).sweep_limit(0x1_0000);
    for leaf_rule in [LeafRule::CoAligned, LeafRule::FourK] {
        let report = run(&scenario.clone().leaf_rule(leaf_rule));
        report.assert_clean();
        assert_eq!(report.regions[0].virt, Some(0xffff_fffe_4000_0000));
        assert!(report.probes.pages_verified > 0x1_0000);
    }
    // What Linux does today: the low bits of the physical address are dropped.
    let wrong = run(&scenario.leaf_rule(LeafRule::VaOnlyMasked));
    assert!(wrong.findings.iter().any(|finding| finding.rule == Rule::WrongFrame));
}

/// Clean, except for what lies past the CPU's physical-address width. A sweep of large regions in full is for the command
/// line's tests, since it takes long on some machines.
fn is_clean_under_linux(map: (&str, &str)) {
    let report = run(&scenario(map).layout(Layout::Linux).sweep_limit(0x400));
    let end = |region: &RegionReport| region.region.phys + region.region.pages * 4096;
    let is_past = |region: &&RegionReport| region.virt.is_some() && end(region) > 1 << report.cpu.told.maxphyaddr;
    if report.regions.iter().filter(is_past).count() == 0 {
        report.assert_clean();
    }
    for finding in &report.findings {
        assert!(matches!(finding.rule, Rule::PastMaxphyaddr | Rule::ReservedBit), "{}", finding.message);
        assert!(report.regions.iter().filter(is_past).any(|region| finding.region == Some(region.region.index)));
    }
    assert!(report.regions.iter().filter(is_past).all(|region| region.verdict == Verdict::Wrong));
    let mapped = report.regions.iter().filter(|region| region.virt.is_some());
    let pages: u64 = mapped.map(|region| region.region.pages).sum();
    let skipped: u64 = report.skipped.iter().filter(|skipped| skipped.what.starts_with("pages")).map(|s| s.count).sum();
    assert!(report.probes.pages_verified + skipped >= pages);
}

fn the_large_region_of_hackpc_03_has_its_1g_leaf() {
    // 0x70400000 to 0xcfffffff: one GiB of it is aligned, where VA and PA agree modulo 1 GiB.
    let scenario = scenario(HACKPC_03).sweep_limit(0x1000);
    let leaves = |report: &Report| {
        let region = report.regions.iter().find(|region| region.region.phys == 0x7040_0000).unwrap();
        assert_eq!((region.region.pages, region.verdict), (1532 * 256, Verdict::Ok));
        region.leaves
    };
    let window = run(&scenario);
    window.assert_clean();
    assert_eq!(leaves(&window).of_1g, 1);
    let linux = run(&scenario.clone().layout(Layout::Linux));
    linux.assert_clean();
    assert_eq!(leaves(&linux).of_1g, 0, "Linux keeps VA and PA equal modulo 2 MiB only");
    // 1:1 they are equal, and 0x80000000 to 0xbfffffff is all the region's.
    assert_eq!(large_runs(&linux), [(0x8000_0000, 0x8000_0000, 1 << 30)]);
    let off = CpuidRequest::default().gbpages(false);
    let without = run(&scenario.layout(Layout::Linux).cpu(off));
    without.assert_clean();
    assert_eq!(large_runs(&without), []);
    assert_eq!(without.virtual_map, linux.virtual_map);
}

/// What leaves of 1 GiB map: from where, to where, how many bytes.
fn large_runs(report: &Report) -> Vec<(u64, u64, u64)> {
    let large = report.runs.iter().filter(|run| run.leaf == Level::Pdpte && run.defect.is_none());
    large.map(|run| (run.va.0, run.pa.0, run.bytes)).collect()
}
