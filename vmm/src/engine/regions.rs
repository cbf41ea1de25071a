//! Regions of the memory map: what became of each, and which one a mapper was at.

use efibed_guest::mapper::RegionAtHand;

use crate::check::{Alias, Expectation, Finding, LeafCounts, Phase, Role, Severity, TableVerdict};
use crate::memory_map::{MemoryMap, PAGE_BYTES, type_name};
use crate::report::{RegionReport, Verdict};

/// What became of each descriptor.
pub fn reports(
    map: &MemoryMap,
    expectation: Option<(&Expectation, &TableVerdict)>,
    findings: &[Finding],
) -> Vec<RegionReport> {
    // Where there are no tables, and nothing is wrong with the mapping either, nobody knows what it would have been.
    let is_known = expectation.is_some() || findings.iter().any(|finding| finding.phase != Phase::Input);
    let unmapped = if is_known { Verdict::Unmapped } else { Verdict::Skipped };
    let mut reports: Vec<RegionReport> = map
        .regions()
        .map(|region| {
            let verdict = if region.is_runtime() && region.pages > 0 { unmapped } else { Verdict::NotOwed };
            let (line, leaves) = (map.line(region.index), LeafCounts::default());
            RegionReport { region, line, virt: None, aliases: Vec::new(), leaves, verdict }
        })
        .collect();
    if let Some((expectation, tables)) = expectation {
        place(&mut reports, expectation, tables);
    }
    let errors = findings.iter().filter(|finding| finding.rule.severity() == Severity::Error);
    for index in errors.filter_map(|finding| finding.region) {
        // That is the worst that can be said of something not mapped.
        if let Some(report) = reports.get_mut(index).filter(|report| report.verdict != Verdict::Unmapped) {
            report.verdict = Verdict::Wrong;
        }
    }
    reports
}

/// Where regions lie, and with which leaves.
fn place(reports: &mut [RegionReport], expectation: &Expectation, tables: &TableVerdict) {
    for alias in &expectation.placed {
        let Some(report) = alias.region.and_then(|index| reports.get_mut(index)) else { continue };
        // A region that starts within a page does so at all of its addresses: that is what firmware is told.
        let virt = alias.virt.saturating_add(report.region.phys % PAGE_BYTES).0;
        if alias.role == Role::Virtual && report.virt.is_none() {
            report.verdict = if alias.past_maxphyaddr { Verdict::Skipped } else { Verdict::Ok };
            report.virt = Some(virt);
        } else {
            report.aliases.push(virt);
        }
    }
    let owed = |(alias, _): &(&Alias, &LeafCounts)| alias.role == Role::Virtual;
    for (alias, leaves) in expectation.aliases.iter().zip(&tables.leaves).filter(owed) {
        let Some(report) = alias.region.and_then(|index| reports.get_mut(index)) else { continue };
        report.leaves.of_4k += leaves.of_4k;
        report.leaves.of_2m += leaves.of_2m;
        report.leaves.of_1g += leaves.of_1g;
    }
}

/// Which region a mapper was at that did not come to an end.
pub fn at_hand(at_hand: RegionAtHand, map: &MemoryMap) -> String {
    let RegionAtHand { phys_start, page_count } = at_hand;
    let size =
        format!("{page_count:#x} pages ({:.1} GiB)", page_count as f64 * PAGE_BYTES as f64 / (1u64 << 30) as f64);
    match map.regions().find(|region| region.phys == phys_start && region.is_mapped()) {
        // Several descriptors may have been merged: the mapper's size is the one that counts.
        Some(region) => {
            format!("it was mapping region {} ({} at {phys_start:#x}), {size}", region.index, type_name(region.ty))
        }
        None => format!("it was mapping {size} at {phys_start:#x}, which is no region of the memory map"),
    }
}

#[cfg(test)]
mod tests {
    use efibed_guest::mapper::Step;
    use efibed_guest::{Layout, LayoutMapper, LeafRule, Mapper};

    use super::super::mapping::Outcome as Mapped;
    use super::super::native;
    use super::*;
    use crate::guest::{Case, Image, Placement, Strides};
    use crate::mmu::Paging;

    const MAP: &str = "
        [[descriptor]]\ntype = 6\nphys = 0x7e729000\npages = 0x242\nattribute = \"RUNTIME|WB\"
        [[descriptor]]\ntype = 5\nphys = 0x7e000000\npages = 0x20\nattribute = \"RUNTIME|WB\"
        [[descriptor]]\ntype = 7\nphys = 0x100000\npages = 0x400\nattribute = \"WB\"";

    /// The region that is at hand once a layout has mapped all natively: its last.
    fn last_at_hand(layout: Layout) -> String {
        let map = MemoryMap::parse(MAP).unwrap();
        let image = Image::built_in().unwrap();
        let sizes = Case::sizes(image, &map, Strides::default(), 0, 64, 0);
        let placement = Placement::find(&map, sizes, 1 << 36, &[]).unwrap();
        let case = Case::new(image, &map, Strides::default(), placement, &[], &Paging::default()).unwrap();
        let mut mapper: Box<dyn Mapper> = Box::new(LayoutMapper { layout, leaf_rule: LeafRule::CoAligned });
        let cpu = efibed_guest::mapper::CpuAbilities { maxphyaddr: 46, ..Default::default() };
        assert!(matches!(native::call(&mut mapper, Step::Map, &case, cpu), Mapped::Tables(_)));
        at_hand(case.result().region_at_hand, &map)
    }

    #[test]
    fn a_mapper_says_what_it_is_at() {
        let first = "it was mapping region 0 (RuntimeServicesData at 0x7e729000), 0x242 pages (0.0 GiB)";
        let second = "it was mapping region 1 (RuntimeServicesCode at 0x7e000000), 0x20 pages (0.0 GiB)";
        // Linux goes from the last region to the first; the others follow the list.
        assert_eq!(last_at_hand(Layout::Linux), first);
        assert_eq!(last_at_hand(Layout::Window), second);
        assert_eq!(last_at_hand(Layout::PackedDown), second);
    }

    #[test]
    fn what_no_descriptor_has_is_said_to_be_none_of_the_maps() {
        let map = MemoryMap::parse(MAP).unwrap();
        let strange = RegionAtHand { phys_start: 0x6, page_count: 0x4_0000 };
        assert_eq!(
            at_hand(strange, &map),
            "it was mapping 0x40000 pages (1.0 GiB) at 0x6, which is no region of the memory map"
        );
    }
}
