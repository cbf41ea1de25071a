//! The picture of two runs: where regions were, and where they are now.

use std::collections::BTreeMap;

use super::markup::{Headline, Item};
use super::of_report;
use super::picture::{Block, Kind, Picture, Place, PlacedRegion, View, number_of};
use crate::memory_map::{MemoryAttribute, MemoryType, attribute_names, parse_type};
use crate::report::json::Hex;
use crate::report::run_diff::{Change, FindingChange, RegionChange, RunDiff, ToldRegion, ToldReport};

/// The picture, and the list of changes.
pub fn picture(diff: &RunDiff<'_>) -> (Picture, Vec<Item>) {
    let mut picture = of_report::blank();
    let [before, after] = diff.sides().map(|(_, report)| report);
    picture.maps = [before, after].map(|report| placed_regions(report, &mut picture.kinds)).into();
    let view = View {
        name: "virtual addresses".into(),
        columns: ["virtual, first run", "virtual, second run"],
        map: 0,
        right_map: Some(1),
        left: blocks(diff, 0),
        right: blocks(diff, 1),
        tables: None,
    };
    picture.views.push(view);
    let (mut items, sides) = (Vec::new(), [before, after]);
    for change in &diff.regions {
        picture.places.push(place_of_region(change, sides));
        items.push(region_item(change));
    }
    for finding in &diff.findings {
        let column = usize::from(finding.change == Change::New);
        let at = finding.virt.map(|virt| Hex(virt.0));
        picture.places.push(Place { view: Some(0), column, at, pages: Some(Hex(1)) });
        items.push(finding_item(finding));
    }
    (picture, items)
}

fn placed_regions(report: &ToldReport, kinds: &mut Vec<Kind>) -> Vec<PlacedRegion> {
    let placed = |region: &ToldRegion| PlacedRegion {
        kind: number_of(kinds, Kind::of(parse_type(&region.r#type).unwrap_or(MemoryType(u32::MAX)))),
        attribute: attribute_names(MemoryAttribute::from_bits_retain(region.attribute.0)).join("|"),
        phys: Hex(region.phys.0),
        pages: Hex(region.pages),
        virt: region.virt.map(|virt| Hex(virt.0)),
        aliases: Vec::new(),
        verdict: region.verdict.clone(),
        line: None,
    };
    report.regions.iter().map(placed).collect()
}

/// The regions of one run that have a virtual address; those of the first lead to where the second one has them.
fn blocks(diff: &RunDiff<'_>, side: usize) -> Vec<Block> {
    let sides = diff.sides().map(|(_, report)| report);
    let virt = |side: usize, index: Option<usize>| {
        let region = sides.get(side)?.regions.get(index?)?;
        region.virt.filter(|_| region.pages > 0).map(|virt| virt.0)
    };
    let changes: BTreeMap<[Option<usize>; 2], Change> =
        diff.regions.iter().map(|change| (change.index, change.change)).collect();
    let block = |pair: &[Option<usize>; 2]| {
        let index = pair.get(side).copied().flatten()?;
        Some(Block {
            at: Some(Hex(virt(side, Some(index))?)),
            region: Some(index),
            to: virt(1, pair[1]).filter(|_| side == 0).map(Hex),
            change: changes.get(pair).map(|change| change.name()),
            ..Block::default()
        })
    };
    diff.pairs.iter().filter_map(block).collect()
}

/// Where it is now, or else where it was.
fn place_of_region(change: &RegionChange<'_>, sides: [&ToldReport; 2]) -> Place {
    let virt = |side: usize| {
        let region = sides.get(side)?.regions.get(change.index.get(side).copied().flatten()?)?;
        region.virt.map(|virt| Place {
            view: Some(0),
            column: side,
            at: Some(Hex(virt.0)),
            pages: Some(Hex(region.pages.max(1))),
        })
    };
    virt(1).or_else(|| virt(0)).unwrap_or_default()
}

fn region_item(change: &RegionChange<'_>) -> Item {
    let lines = change.differences.iter();
    let lines =
        lines.map(|difference| format!("{:<10} {} -> {}", difference.what, difference.before, difference.after));
    let title = format!("{} {} at {}", change.change.name(), change.r#type, change.phys);
    Item { is_doubt: change.change == Change::Changed, ..Item::said(title, lines.collect()) }
}

fn finding_item(finding: &FindingChange<'_>) -> Item {
    let title = format!("{} finding {} (phase {})", finding.change.name(), finding.rule, finding.phase);
    Item { is_doubt: finding.change == Change::Gone, ..Item::said(title, vec![finding.message.to_owned()]) }
}

/// How much changed.
pub fn headline(diff: &RunDiff<'_>) -> Headline {
    let (regions, findings) = (diff.regions.len(), diff.findings.len());
    let line = match diff.is_empty() {
        true => "the same, as far as both files tell".into(),
        false => format!("{regions} regions differ, and {findings} findings are gone or new"),
    };
    Headline { line, verdict: if diff.is_empty() { "same" } else { "changed" }, is_good: diff.is_empty() }
}

/// The runs.
pub fn facts(diff: &RunDiff<'_>) -> Vec<(String, String)> {
    let fact = |(name, (file, report)): (&str, (&str, &ToldReport))| {
        (name.to_owned(), format!("{file}: {}, {}, {}", report.map.source, report.mapper_name(), report.verdict))
    };
    let [first, second] = diff.sides();
    [("first", first), ("second", second)].map(fact).into()
}
