//! Layout `linux` against what a real Linux did (`truth/`), by the walker engine. Those that ask the MMU are in
//! `kvm/linux.rs`.

use efibed::check::{Phase, Rule};
use efibed::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryType};
use efibed::mmu::Level;
use efibed::report::{Report, Verdict};
use efibed::{EngineName, Layout, LeafRule, MemoryMap, Moment, Scenario, Tamper};
use efibed_tests::*;

fn run(map: MemoryMap) -> Report {
    run_scenario(&Scenario::new(map))
}

fn run_scenario(scenario: &Scenario) -> Report {
    bed().run(&scenario.clone().engine(EngineName::Walker)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_runtime_maps_own_entries_give_every_address() {
    for (name, text) in TRUTH.map(|(name, _)| name).into_iter().zip(RUNTIME_MAPS) {
        let entries = runtime_map(text);
        let without = entries.iter().map(|entry| MemoryDescriptor { virt_start: 0, ..*entry }).collect();
        let report = run(MemoryMap::from_descriptors(name, without).with_kind(ListKind::Runtime));
        report.assert_clean();
        assert_eq!(report.virtual_map, entries, "{name}");
        for (region, entry) in report.regions.iter().zip(&entries) {
            assert_eq!((region.virt, region.verdict), (Some(entry.virt_start), Verdict::Ok));
        }
    }
}

#[test]
fn a_memory_map_gives_the_list_that_linux_made_of_it() {
    for (map, text) in TRUTH.into_iter().zip(RUNTIME_MAPS) {
        let report = run(self::map(map));
        report.assert_clean();
        assert_eq!(report.virtual_map, without_the_tagged_page(runtime_map(text)), "{}", map.0);
    }
}

#[test]
fn linux_fixed_takes_the_addresses_it_is_given() {
    for text in RUNTIME_MAPS {
        let entries = runtime_map(text);
        let runtime: Vec<_> = entries.iter().filter(|e| e.att.contains(MemoryAttribute::RUNTIME)).copied().collect();
        let map = MemoryMap::from_descriptors("fixed", entries).with_kind(ListKind::Runtime);
        let report = run_scenario(&Scenario::new(map).layout(Layout::LinuxFixed));
        report.assert_clean();
        assert_eq!(report.virtual_map, runtime);
    }
}

#[test]
fn given_addresses_that_linux_would_not_give_are_findings() {
    let at = |virt_start, descriptor| MemoryDescriptor { virt_start, ..descriptor };
    let fixed = |first, second, third| {
        let regions = vec![
            at(first, runtime(CODE, 0x10_0000, 4)),
            at(second, runtime(DATA, 0x10_4000, 4)),
            at(third, runtime(DATA, 0x20_0000, 4)),
        ];
        rules(&run_scenario(&Scenario::new(MemoryMap::from_descriptors("fixed", regions)).layout(Layout::LinuxFixed)))
    };
    let base = 0xffff_fffe_8000_0000;
    assert_eq!(fixed(base, base + 0x4000, base + 0x8000), []);
    assert_eq!(fixed(base, base + 0x4000, base - 0x8000), [Rule::WindowOrder]);
    assert_eq!(fixed(base, base + 0x5000, base + 0x9000), [Rule::NotContiguous]);
    assert_eq!(fixed(base + 0x8000, base, base + 0xc000), [Rule::WindowOrder, Rule::NotContiguous]);
    assert_eq!(fixed(base, base + 0x4000, 0), [Rule::NoVirtualStart]);
    assert_eq!(fixed(0, 0, 0), [Rule::NoVirtualStart]);
}

#[test]
fn past_the_window_linux_goes_on_without_an_address() {
    let gib = 1 << 18;
    let regions = vec![
        runtime(CODE, 0x10_0000, 16),
        runtime(MemoryType::MMIO, 64 << 30, 63 * gib),
        runtime(MemoryType::MMIO, 256 << 30, 2 * gib),
    ];
    let report = run(MemoryMap::from_descriptors("large", regions));
    assert_eq!(rules(&report), [Rule::WindowOverflow]);
    let lost: Vec<_> = report.findings.iter().map(|finding| finding.region).collect();
    assert_eq!(lost, [Some(0), Some(1)]);
    let fate: Vec<_> = report.regions.iter().map(|region| (region.virt, region.verdict)).collect();
    let placed = Some(0xffff_ffff_0000_0000 - (2 << 30));
    assert_eq!(fate, [(None, Verdict::Unmapped), (None, Verdict::Unmapped), (placed, Verdict::Ok)]);
}

#[test]
fn descriptors_without_pages_and_wrapping_ones_are_dropped() {
    let regions = vec![
        runtime(DATA, 0, 0),
        runtime(CODE, 0x10_0000, 16),
        runtime(DATA, 0xffff_ffff_ffff_f000, 0x0200_0000_0000_0001),
        runtime(DATA, 0x11_0000, 16),
    ];
    let report = run(MemoryMap::from_descriptors("bug 10", regions.clone()));
    assert_eq!(rules(&report), [Rule::MapWrap]);
    let handed_over: Vec<_> = report.virtual_map.iter().map(|d| d.phys_start).collect();
    assert_eq!(handed_over, [0x11_0000, 0x10_0000]);
    assert_eq!(report.regions[3].virt, report.regions[1].virt.map(|virt| virt + 0x1_0000));
}

/// Which entry of the map that Linux hands over is whose must not be mistaken: here two descriptors are the same, and a
/// third starts where the second of two that are merged does.
#[test]
fn descriptors_that_overlap_have_their_own_addresses() {
    let twice = vec![runtime(DATA, 0x10_0000, 2), runtime(CODE, 0x20_0000, 1), runtime(DATA, 0x10_0000, 2)];
    let report = run(MemoryMap::from_descriptors("twice", twice));
    assert_eq!(rules(&report), [Rule::MapOverlap]);
    // Downwards from -4 GiB, each at the highest address that is its physical one modulo 2 MiB.
    let virt = |report: &Report| report.regions.iter().map(|region| region.virt).collect::<Vec<_>>();
    assert_eq!(virt(&report), [below(0x30_0000), below(0x20_0000), below(0x10_0000)]);

    let merged = vec![runtime(DATA, 0x10_0000, 1), runtime(DATA, 0x10_1000, 1), runtime(DATA, 0x10_1000, 8)];
    let report = run(MemoryMap::from_descriptors("merged", merged));
    assert_eq!(rules(&report), [Rule::MapOverlap]);
    assert_eq!(virt(&report), [below(0x30_0000), below(0x2f_f000), below(0xf_f000)]);
}

#[test]
fn what_no_entry_can_hold_leaves_the_rest_as_it_is() {
    let end = 1 << 52;
    let regions = vec![runtime(DATA, end - 0x2000, 1), runtime(DATA, end - 0x1000, 2), runtime(CODE, 0x10_0000, 1)];
    let report = run(MemoryMap::from_descriptors("past 52 bits", regions));
    assert_eq!(rules(&report), [Rule::PastMaxphyaddr, Rule::ReservedBit]);
    assert_eq!(virt(&report), [below(0x20_2000), None, below(0x10_0000)]);
}

fn virt(report: &Report) -> Vec<Option<u64>> {
    report.regions.iter().map(|region| region.virt).collect()
}

fn below(bytes: u64) -> Option<u64> {
    Some(0xffff_ffff_0000_0000 - bytes)
}

#[test]
fn a_region_without_write_back_is_uncached_whatever_else_it_can() {
    let mut descriptor = runtime(MemoryType::MMIO, 0xf000_0000, 16);
    for att in [MemoryAttribute::WRITE_THROUGH, MemoryAttribute::UNCACHEABLE, MemoryAttribute::empty()] {
        descriptor.att = MemoryAttribute::RUNTIME | att;
        let report = run(MemoryMap::from_descriptors("uncached", vec![descriptor]));
        report.assert_clean();
        assert_eq!(report.runs.iter().find(|run| run.pa.0 == 0xf000_0000).unwrap().pat_index, 2);
    }
}

#[test]
fn finish_unmaps_boot_services_and_applies_the_attributes_table() {
    let (ro, xp) = (MemoryAttribute::READ_ONLY, MemoryAttribute::EXECUTE_PROTECT);
    let tables = [
        vec![],
        // Within a 2 MiB leaf, which is split; and all of one.
        vec![attributes(CODE, 0x7e00_1000, 2, ro), attributes(CODE, 0x7e20_0000, 0x200, xp)],
        // One page of the data is left to be written to: else firmware could not run.
        vec![attributes(DATA, 0x7e40_0000, 0x1f, xp | ro)],
        // Not Linux's to take: of a type that is not the region's, past its end, of no region, forbidding nothing.
        vec![
            attributes(DATA, 0x7e00_0000, 1, ro),
            attributes(CODE, 0x7e3f_f000, 2, ro),
            attributes(CODE, 0x1000_0000, 1, ro),
            attributes(CODE, 0x7e00_0000, 1, MemoryAttribute::empty()),
        ],
        // More than three for each descriptor: garbage.
        vec![attributes(CODE, 0x7e00_0000, 1, ro); 13],
    ];
    for leaf_rule in [LeafRule::CoAligned, LeafRule::FourK] {
        for table in &tables {
            let map = MemoryMap::from_descriptors("image", image()).with_attributes_table(table.clone());
            run_scenario(&Scenario::new(map).leaf_rule(leaf_rule)).assert_clean();
        }
    }
}

/// What is found where phase `finish` leaves an entry as it must not be.
fn found_in_finish(table: Vec<MemoryDescriptor>, virt: u64, level: Level, flip: u64) -> Vec<(Rule, Option<usize>)> {
    let map = MemoryMap::from_descriptors("image", image()).with_attributes_table(table);
    let tamper = Tamper { virt, level, flip, moment: Moment::AfterFinish };
    let report = run_scenario(&Scenario::new(map).tamper(tamper));
    assert!(report.findings.iter().all(|finding| finding.phase == Phase::Finish));
    report.findings.iter().map(|finding| (finding.rule, finding.region)).collect()
}

#[test]
fn what_finish_should_have_done_and_did_not_is_found() {
    let (present, writable, no_execute) = (1, 1 << 1, 1 << 63);
    // Boot services at both of their addresses; -4 GiB less 0x20 and 0x400 pages, less the distance to PA modulo 2 MiB.
    for virt in [0x40_0000, 0xffff_fffe_ff60_0000] {
        let stray = found_in_finish(vec![], virt, Level::Pde, present);
        assert_eq!(stray, [(Rule::StrayMapping, Some(1))], "{virt:#x}");
    }
    assert_eq!(found_in_finish(vec![], 0, Level::Pte, present), [(Rule::StrayMapping, Some(0))]);
    let table = |att| vec![attributes(CODE, 0x7e00_1000, 1, att)];
    let (ro, xp) = (MemoryAttribute::READ_ONLY, MemoryAttribute::EXECUTE_PROTECT);
    for virt in [0x7e00_1000, 0xffff_fffe_ffa0_1000] {
        assert_eq!(found_in_finish(table(ro), virt, Level::Pte, writable), [(Rule::NotReadOnly, Some(2))]);
        assert_eq!(found_in_finish(table(ro), virt, Level::Pte, no_execute), [(Rule::NotExecutable, Some(2))]);
        assert_eq!(found_in_finish(table(xp), virt, Level::Pte, no_execute), [(Rule::ExecutableData, Some(2))]);
        assert_eq!(found_in_finish(table(xp), virt, Level::Pte, writable), [(Rule::NotWritable, Some(2))]);
    }
}
