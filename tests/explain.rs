//! What is said of addresses, over whole maps: never a wrong thing of a right run.

use std::collections::BTreeSet;

use efibed::check::{Address, Phase, Rule, Standing, Statement};
use efibed::mmu::{ErrorCode, Fault, Level, Va};
use efibed::report::Report;
use efibed::report::explain::{Ground, explain_address};
use efibed::report::map::MapReport;
use efibed::{Layout, LeafRule, MemoryMap, Moment, Pa, Scenario, Tamper};
use efibed_tests::*;

/// All that `explain MAP VA` says of some addresses, and the report of that run.
fn explained(scenario: &Scenario, layout: Layout, addresses: &[u64]) -> (Report, Vec<(Address, String)>) {
    let (report, all) = scenario.explain(addresses).unwrap();
    let map = MapReport::new(scenario.map(), layout, None);
    let ground = Ground { map: &map, report: &report, finishes: true, columns: None };
    let said = all.iter().map(|address| (address.clone(), explain_address(&[address], ground))).collect();
    (report, said)
}

/// The first and the last byte of the first, the second and the last page of every descriptor: at its physical addresses,
/// and where SetVirtualAddressMap is told that it is.
fn boundaries(map: &MemoryMap, report: &Report) -> BTreeSet<u64> {
    let starts = map.regions().map(|region| (region.phys, region.pages));
    let told = report.regions.iter().filter_map(|region| Some((region.virt?, region.region.pages)));
    let pages = starts.chain(told).filter(|(_, pages)| *pages > 0).flat_map(|(start, pages)| {
        [0, 1, pages - 1].map(|page| start.wrapping_add(page.min(pages - 1).wrapping_mul(4096)))
    });
    pages.flat_map(|page| [page, page.wrapping_add(4095)]).collect()
}

#[test]
fn every_descriptors_address_is_somebodys_and_right_on_a_clean_run() {
    let mut asked = 0;
    let maps = TRUTH.into_iter().chain(X86_MAPS).chain([OVMF_2013, APPLE_02_ARM64, UBOOT_01]);
    for map in maps {
        for layout in [Layout::Linux, Layout::Window, Layout::PackedDown] {
            let scenario = scenario(map).layout(layout);
            let (report, _) = scenario.explain(&[]).unwrap();
            let addresses: Vec<u64> = boundaries(scenario.map(), &report).into_iter().collect();
            let (report, said) = explained(&scenario, layout, &addresses);
            for (address, text) in &said {
                assert!(!text.contains("belongs to no region"), "{} {}: {text}", map.0, layout.name());
                if report.findings.is_empty() {
                    assert!(address.is_right() && !text.contains("WRONG"), "{} {}: {text}", map.0, layout.name());
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 10_000, "{asked}");
}

/// The negative control: what the check finds in a page, its addresses are told, and nobody else's.
#[test]
fn wrong_pages_are_called_wrong_and_no_others() {
    for leaf_rule in [LeafRule::VaOnly, LeafRule::VaOnlyMasked] {
        let scenario = scenario(OVMF_2013).layout(Layout::PackedDown).leaf_rule(leaf_rule);
        let (report, _) = scenario.explain(&[]).unwrap();
        // And about both ends of what is found.
        let found = report.findings.iter().filter_map(|finding| Some((finding.virt?.0, finding.pages * 4096)));
        let ends = found.flat_map(|(start, bytes)| [start - 1, start, start + bytes - 1, start + bytes]);
        let addresses: BTreeSet<u64> = boundaries(scenario.map(), &report).into_iter().chain(ends).collect();
        let addresses: Vec<u64> = addresses.into_iter().collect();
        let (report, said) = explained(&scenario, Layout::PackedDown, &addresses);
        let is_found = |virt: u64| {
            report.findings.iter().any(|finding| {
                let start = finding.virt.unwrap().0;
                (start..start + finding.pages * 4096).contains(&virt)
            })
        };
        for (address, text) in &said {
            let found = is_found(address.virt.0);
            assert_eq!((text.contains("WRONG"), address.is_right()), (found, !found), "{text}");
        }
        assert!(said.iter().any(|(address, _)| is_found(address.virt.0)), "{}", leaf_rule.name());
    }
}

/// One bit of the leaf of runtime code, which `linux` puts at 0xfffffffeff45b000: W (SDM 3A, table 4-20: bit 1), U (2) or
/// PCD (4).
#[test]
fn each_phase_has_a_verdict_of_its_own() {
    let virt = 0xffff_fffe_ff45_b000;
    let verdicts = |bit: u32, moment| {
        let tamper = Tamper { virt, level: Level::Pte, flip: 1 << bit, moment };
        let scenario = scenario(OVMF_2013).layout(Layout::Linux).tamper(tamper);
        let (_, said) = explained(&scenario, Layout::Linux, &[virt]);
        let heads = said.iter().map(|(address, text)| {
            let wrong = text.split("WRONG because of `").nth(1).map(|rest| rest.split('`').next().unwrap().to_owned());
            (address.phase, wrong, address.is_right())
        });
        heads.collect::<Vec<_>>()
    };
    let wrong = |phase, rule: &str, accesses| (phase, Some(rule.to_owned()), accesses);
    let right = |phase| (phase, None, true);
    assert_eq!(
        verdicts(1, Moment::AfterFinish),
        [right(Phase::Map), wrong(Phase::Finish, "not-writable", false)],
        "the tables of phase `map` were right"
    );
    assert_eq!(
        verdicts(1, Moment::BeforeWalk),
        [wrong(Phase::Map, "not-writable", false), wrong(Phase::Finish, "not-writable", false)]
    );
    let user = verdicts(2, Moment::AfterFinish);
    assert_eq!(user[0], right(Phase::Map));
    assert_eq!(user[1], right(Phase::Finish), "U counts only where every level has it");
    assert_eq!(
        verdicts(4, Moment::AfterFinish),
        [right(Phase::Map), wrong(Phase::Finish, "cache-type", true)],
        "no access shows a cache type"
    );
}

/// Where Linux itself put its regions, of the same map.
#[test]
fn linuxs_own_addresses_are_its_regions() {
    for (map, text) in TRUTH.into_iter().zip(RUNTIME_MAPS) {
        let scenario = scenario(map).layout(Layout::Linux);
        let entries = runtime_map(text);
        let addresses: Vec<u64> = entries.iter().map(|entry| entry.virt_start).collect();
        let (_, all) = scenario.explain(&addresses).unwrap();
        for (entry, address) in entries.iter().zip(&all) {
            assert!(matches!(address.standing, Standing::Mapped(_)) && address.is_right(), "{} {address:x?}", map.0);
            assert_eq!(address.translation().unwrap().pa, Pa(entry.phys_start), "{}", map.0);
            assert_eq!(address.phase, Phase::Map);
            let virtual_ones = scenario.virtual_addresses(entry.phys_start).unwrap();
            assert!(virtual_ones.contains(&entry.virt_start) && virtual_ones.contains(&entry.phys_start), "{}", map.0);
        }
    }
}

fn unaligned(phys: &[u64]) -> Scenario {
    let descriptors = phys.iter().map(|phys| runtime(DATA, *phys, 1)).collect();
    Scenario::new(MemoryMap::from_descriptors("unaligned", descriptors))
}

fn tail_findings(scenario: &Scenario) -> Vec<(Rule, Option<Va>, Option<Statement>)> {
    let (report, _) = scenario.explain(&[]).unwrap();
    let of_pages = report.findings.into_iter().filter(|finding| finding.phase == Phase::Map);
    of_pages.map(|finding| (finding.rule, finding.virt, finding.observed)).collect()
}

/// Regions of one page that start in the middle of one end in the next.
#[test]
fn the_tail_of_an_unaligned_region_is_owed() {
    // From -4 GiB down; after its page the kernel's part begins, where nothing is.
    let alone = unaligned(&[0x7e00_0800]).layout(Layout::PackedDown);
    let virt = Va(0xffff_ffff_0000_0000);
    let fault = Statement::Faulted { fault: Fault::page(ErrorCode(0)), cr2: Some(virt), rip: None };
    assert_eq!(tail_findings(&alone), [(Rule::NotPresent, Some(virt), Some(fault))]);
    // From -4 GiB up, one after another: the first one's tail is where the second one's page is.
    let packed = unaligned(&[0x7e00_0800, 0x7f00_0000]).layout(Layout::PackedUp);
    let reached = Some(Statement::Physical(Pa(0x7f00_0000)));
    assert_eq!(tail_findings(&packed), [(Rule::WrongFrame, Some(Va(0xffff_ffff_0000_1000)), reached)]);
    // At a distance from their physical addresses that all share: the first one's tail is the second one's page.
    let shared = unaligned(&[0x7e00_0800, 0x7e00_1000]).layout(Layout::Window);
    assert_eq!(tail_findings(&shared), []);
}
