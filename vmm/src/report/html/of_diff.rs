//! The picture of two runs: where regions were, and where they are now; and of each run its own, physical beside virtual.

use std::collections::BTreeMap;

use super::markup::{Headline, Item};
use super::of_report::{self, planned_block};
use super::owners::{Owners, Piece};
use super::picture::{Block, Kind, Picture, Place, PlacedRegion, View, number_of};
use crate::check::memory_type;
use crate::memory_map::{MemoryAttribute, MemoryType, PAGE_BYTES, Region, attribute_names, parse_type};
use crate::mmu::Level;
use crate::report::json::Hex;
use crate::report::run_diff::{
    Change, FindingChange, RegionChange, RunDiff, ToldRegion, ToldReport, ToldRun, ToldTables,
};
use crate::report::text::tables::letters;

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
    for side in [0, 1] {
        add_run(diff, side, &mut picture);
    }
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
        kind: number_of(kinds, Kind::of(type_of(region))),
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

/// The views of one run by itself: what the tables of each phase translate, or else where regions are to go.
fn add_run(diff: &RunDiff<'_>, side: usize, picture: &mut Picture) {
    let (Some((_, report)), Some(title)) = (diff.sides().get(side).copied(), ["first run", "second run"].get(side))
    else {
        return;
    };
    let regions: Vec<Region> = report.regions.iter().enumerate().map(region).collect();
    let changes: BTreeMap<usize, Change> =
        diff.regions.iter().filter_map(|change| Some(((*change.index.get(side)?)?, change.change))).collect();
    let changed = |block: Block| {
        let change = block.region.and_then(|index| changes.get(&index)).map(|change| change.name());
        Block { change, ..block }
    };
    let right = || {
        regions
            .iter()
            .filter(|region| region.pages > 0)
            .map(|region| Block { region: Some(region.index), ..Block::default() })
    };
    let mut push = |name: String, left: Vec<Block>| {
        picture.views.push(View {
            name,
            columns: ["virtual", "physical"],
            map: side,
            right_map: None,
            left: left.into_iter().map(changed).collect(),
            right: right().map(changed).collect(),
            tables: None,
        });
    };
    let planned = |region: &Region| {
        planned_block(region.index, region, report.regions.get(region.index)?.virt.map(|virt| virt.0))
    };
    if report.tables.is_empty() {
        push(format!("{title}: where regions are to go"), regions.iter().filter_map(planned).collect());
    }
    let owners = Owners::of(&regions);
    for tables in &report.tables {
        let blocks = tables.runs.iter().flat_map(|run| run_blocks(run, tables, &owners, &mut picture.kinds));
        let mut left: Vec<Block> = blocks.take(MAX_BLOCKS.saturating_add(1)).collect();
        let is_cut = tables.cut || left.len() > MAX_BLOCKS;
        left.truncate(MAX_BLOCKS);
        push(format!("{title}: phase {}{}", tables.phase, if is_cut { " (cut)" } else { "" }), left);
    }
}

/// Blocks drawn of one phase. Real tables have some hundreds; a file may say anything.
const MAX_BLOCKS: usize = 1 << 16;

fn region((index, told): (usize, &ToldRegion)) -> Region {
    Region {
        index,
        ty: type_of(told),
        attribute: MemoryAttribute::from_bits_retain(told.attribute.0),
        phys: told.phys.0,
        pages: told.pages,
        virt: told.virt.map_or(0, |virt| virt.0),
    }
}

fn type_of(told: &ToldRegion) -> MemoryType {
    parse_type(&told.r#type).unwrap_or(MemoryType(u32::MAX))
}

/// A run of leaves, cut so that each block has one owner.
fn run_blocks(run: &ToldRun, tables: &ToldTables, owners: &Owners, kinds: &mut Vec<Kind>) -> Vec<Block> {
    let block = |offset: u64, bytes: u64| Block {
        at: Some(Hex(run.virt.0.saturating_add(offset))),
        pages: Some(Hex(bytes.div_ceil(PAGE_BYTES))),
        leaf: LEAVES.iter().find(|(level, _)| level.to_string() == run.leaf).map(|(_, size)| *size),
        ..Block::default()
    };
    let Some(phys) = run.phys.map(|phys| phys.0) else {
        let kind = Some(number_of(kinds, Kind::ownerless()));
        return vec![Block { defect: Some("nothing translates".into()), kind, ..block(0, run.bytes) }];
    };
    let is_kernels = tables.kernel.iter().any(|[first, last]| (first.0..=last.0).contains(&run.virt.0));
    let pieces = match is_kernels {
        true => vec![Piece { offset: 0, bytes: run.bytes, region: None }],
        false => owners.cut(phys, run.bytes),
    };
    let of_piece = |piece: Piece| Block {
        region: piece.region,
        kind: match piece.region {
            Some(_) => None,
            None if is_kernels => Some(number_of(kinds, Kind::kernel())),
            None => Some(number_of(kinds, Kind::ownerless())),
        },
        to: Some(Hex(phys.saturating_add(piece.offset))),
        rights: Some(letters(run.writable, run.executable, run.user)),
        cache: Some(memory_type(run.pat_index)),
        ..block(piece.offset, piece.bytes)
    };
    pieces.into_iter().map(of_piece).collect()
}

/// The leaves of each level, by size.
const LEAVES: [(Level, &str); 3] = [(Level::Pte, "4K"), (Level::Pde, "2M"), (Level::Pdpte, "1G")];

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    fn told(report: &crate::report::Report) -> ToldReport {
        ToldReport::read("run.json", &report.to_json()).unwrap().unwrap()
    }

    fn at(place: &Place) -> (usize, Option<u64>) {
        (place.column, place.at.as_ref().map(|at| at.0))
    }

    #[test]
    fn a_change_is_where_it_is_now_and_a_finding_in_the_run_that_has_it() {
        let (first, mut second) = (samples::clean(), samples::reserved_bit());
        second.regions[1] = samples::clean().regions[1].clone();
        second.regions[1].virt = Some(0xffff_fffe_fd00_0000);
        let (first, second) = (told(&first), told(&second));
        let places = |first, second| picture(&RunDiff::new(("a", first), ("b", second))).0.places;
        let there = places(&first, &second);
        assert_eq!(at(&there[0]), (1, Some(0xffff_fffe_fd00_0000)));
        assert_eq!(at(there.last().unwrap()), (1, Some(0xffff_ffff_0000_0000)));
        let back = places(&second, &first);
        assert_eq!(at(&back[0]), (1, Some(0xffff_fffe_fe00_0000)));
        assert_eq!(at(back.last().unwrap()), (0, Some(0xffff_ffff_0000_0000)));
    }

    /// A leaf of 2 MiB over the ends of two regions; and the kernel's own.
    #[test]
    fn a_leaf_is_cut_where_its_memory_changes_hands() {
        let told = r#"{"schema":1,"verdict":"clean","map":{"source":"m"},"mapper":{"elf":"a.elf"},"findings":[],"tables":[
            {"phase":"map","cut":false,"kernel":[["0xffffffff80000000","0xffffffff80000fff"]],"runs":[
            {"virt":"0xffff000000200000","bytes":2097152,"leaf":"PDE","writable":true,"executable":false,"user":false,"pat_index":0,"phys":"0x200000"},
            {"virt":"0xffffffff80000000","bytes":4096,"leaf":"PTE","writable":true,"executable":true,"user":false,"pat_index":0,"phys":"0x200000"}]}],
            "regions":[
            {"type":"RuntimeServicesCode","attribute":"0xf","phys":"0x200000","pages":256,"virt":null,"leaves":{"4k":0,"2m":0,"1g":0},"verdict":"ok"},
            {"type":"RuntimeServicesData","attribute":"0xf","phys":"0x300000","pages":128,"virt":null,"leaves":{"4k":0,"2m":0,"1g":0},"verdict":"ok"}]}"#;
        let report = ToldReport::read("a", told).unwrap().unwrap();
        let (picture, _) = picture(&RunDiff::new(("a", &report), ("b", &report)));
        let names: Vec<&str> = picture.views.iter().map(|view| view.name.as_str()).collect();
        assert_eq!(names, ["virtual addresses", "first run: phase map", "second run: phase map"]);
        let blocks = picture.views[1].left.iter().map(|block| {
            let kind = block.kind.map(|kind| picture.kinds[kind].class.as_str());
            (block.at.as_ref().unwrap().0, block.pages.as_ref().unwrap().0, block.region, kind, block.leaf.unwrap())
        });
        assert_eq!(
            blocks.collect::<Vec<_>>(),
            [
                (0xffff_0000_0020_0000, 256, Some(0), None, "2M"),
                (0xffff_0000_0030_0000, 128, Some(1), None, "2M"),
                (0xffff_0000_0038_0000, 128, None, Some("ownerless"), "2M"),
                (0xffff_ffff_8000_0000, 1, None, Some("kernel"), "4K"),
            ]
        );
        assert_eq!(picture.views[1].right.len(), 2);
    }
}
