//! The picture of a run: for each phase the virtual addresses that its tables translate, and the physical ones behind them.

use super::markup::{Headline, Item, List};
use super::owners::Owners;
use super::picture::{Block, EntryRun, Kind, Picture, Place, PlacedRegion, Table, Tables, View, number_of};
use crate::check::{Finding, Severity, WalkStep, memory_type};
use crate::memory_map::{PAGE_BYTES, Region};
use crate::mmu::{self, Defect, Level, ListedTable, Pa, Run};
use crate::report::json::Hex;
use crate::report::style::{Paint, counted};
use crate::report::{EngineName, RegionReport, Report, TableDump, text, walk};

/// The picture of runs, each with its title, and the list of their findings.
pub fn picture(reports: &[(&str, &Report)]) -> (Picture, Vec<Item>) {
    let mut picture = blank();
    let mut items = Vec::new();
    for (title, report) in reports {
        let before = picture.views.len();
        add(title, report, &mut picture);
        for (finding, lines) in report.findings.iter().zip(text::findings::each(report)) {
            picture.places.push(place(finding, report, before, &picture.views));
            items.push(item(title, finding, lines));
        }
    }
    (picture, items)
}

/// One without views, which knows the names of levels and bits.
pub fn blank() -> Picture {
    let named = |level: Level, is_leaf| {
        walk::named_bits(level, is_leaf).map(|(bit, name)| (bit.trailing_zeros(), name)).collect()
    };
    let none = [Vec::new(), Vec::new()];
    Picture {
        bits: [none].into_iter().chain(Level::ALL.map(|level| [named(level, true), named(level, false)])).collect(),
        levels: [String::new()].into_iter().chain(Level::ALL.map(|level| level.to_string())).collect(),
        ..Picture::default()
    }
}

/// Adds a run: its map, and a view for each phase of which there are tables, or the one of where regions are to go.
fn add(title: &str, report: &Report, picture: &mut Picture) {
    let regions = report.regions.iter().map(|region| placed_region(region, &mut picture.kinds)).collect();
    picture.maps.push(regions);
    let map = picture.maps.len().saturating_sub(1);
    let name = |name: &str| if title.is_empty() { name.to_owned() } else { format!("{title}: {name}") };
    let (columns, right) = (["virtual", "physical"], physical(report));
    if report.tables.is_empty() {
        let name = name("where regions are to go");
        picture.views.push(View { name, columns, map, right_map: None, left: planned(report), right, tables: None });
        return;
    }
    let owners = Owners::of(report.regions.iter().map(|report| &report.region));
    for dump in &report.tables {
        let left = dump_blocks(dump, report, &owners, &mut picture.kinds);
        let tables = Some(tables(dump, report));
        let name = name(&format!("phase {}", dump.phase));
        picture.views.push(View { name, columns, map, right_map: None, left, right: physical(report), tables });
    }
}

fn placed_region(report: &RegionReport, kinds: &mut Vec<Kind>) -> PlacedRegion {
    let RegionReport { region, line, virt, aliases, verdict, .. } = report;
    PlacedRegion {
        virt: virt.map(Hex),
        aliases: aliases.iter().copied().map(Hex).collect(),
        verdict: verdict.name().into(),
        line: *line,
        ..PlacedRegion::of(region, kinds)
    }
}

/// The regions themselves. Those without pages are nowhere.
fn physical(report: &Report) -> Vec<Block> {
    let with_pages = report.regions.iter().enumerate().filter(|(_, report)| report.region.pages > 0);
    with_pages.map(|(index, _)| Block { region: Some(index), ..Block::default() }).collect()
}

/// Where regions are to go, where no tables say where they went.
fn planned(report: &Report) -> Vec<Block> {
    let of_region = |(index, report): (usize, &RegionReport)| planned_block(index, &report.region, report.virt);
    report.regions.iter().enumerate().filter_map(of_region).collect()
}

/// A region at the address that it was given.
pub fn planned_block(index: usize, region: &Region, virt: Option<u64>) -> Option<Block> {
    let virt = virt.filter(|_| region.pages > 0)?;
    Some(Block {
        at: Some(Hex(virt)),
        region: Some(index),
        to: Some(Hex(region.phys)),
        planned: true,
        ..Block::default()
    })
}

/// What the tables of a phase translate, cut so that each block has one owner; and the regions of which, at their address, the
/// tables have nothing.
fn dump_blocks(dump: &TableDump, report: &Report, owners: &Owners, kinds: &mut Vec<Kind>) -> Vec<Block> {
    let mut blocks: Vec<Block> = dump.runs.iter().flat_map(|run| run_blocks(run, dump, owners, kinds)).collect();
    let is_there = |virt: u64| {
        let after = dump.runs.partition_point(|run| run.va.0 <= virt);
        after.checked_sub(1).and_then(|index| dump.runs.get(index)).is_some_and(|run| run.last().0 >= virt)
    };
    let missing =
        report.regions.iter().enumerate().filter(|(_, report)| report.virt.is_some_and(|virt| !is_there(virt)));
    blocks.extend(missing.filter_map(|(index, report)| planned_block(index, &report.region, report.virt)));
    blocks
}

fn run_blocks(run: &Run, dump: &TableDump, owners: &Owners, kinds: &mut Vec<Kind>) -> Vec<Block> {
    let block = |offset: u64, bytes: u64| Block {
        at: Some(Hex(run.va.0.saturating_add(offset))),
        pages: Some(Hex(bytes.div_ceil(PAGE_BYTES))),
        leaf: Some(match run.leaf {
            Level::Pte => "4K",
            Level::Pde => "2M",
            _ => "1G",
        }),
        ..Block::default()
    };
    if let Some(defect) = run.defect {
        let why = match defect {
            Defect::Reserved { bits, .. } => format!("nothing translates: reserved bits {bits:#x} are set"),
            Defect::Stranded { table } => format!("nothing translates: no memory is at the table {table:#x}"),
        };
        let kind = Some(number_of(kinds, Kind::ownerless()));
        return vec![Block { defect: Some(why), kind, ..block(0, run.bytes) }];
    }
    let is_kernels = dump.kernel.iter().any(|range| range.contains(&run.va));
    let kind_of = |region: Option<usize>, kinds: &mut Vec<Kind>| match region {
        _ if is_kernels => Some(number_of(kinds, Kind::kernel())),
        None => Some(number_of(kinds, Kind::ownerless())),
        Some(_) => None,
    };
    let pieces = if is_kernels { vec![whole(run)] } else { owners.cut(run.pa.0, run.bytes) };
    let of_piece = |piece: super::owners::Piece| Block {
        region: piece.region,
        kind: kind_of(piece.region, kinds),
        to: Some(Hex(run.pa.0.saturating_add(piece.offset))),
        rights: Some(text::tables::rights(run)),
        cache: Some(memory_type(run.pat_index)),
        ..block(piece.offset, piece.bytes)
    };
    pieces.into_iter().map(of_piece).collect()
}

/// The kernel's pages are its own, whatever memory it took them from.
fn whole(run: &Run) -> super::owners::Piece {
    super::owners::Piece { offset: 0, bytes: run.bytes, region: None }
}

fn tables(dump: &TableDump, report: &Report) -> Tables {
    let mut reasons = Vec::new();
    let list = dump.listing.tables.iter().map(|listed| table(listed, report, &mut reasons)).collect();
    let top = report.cpu.told.top_level() as u8;
    Tables { root: Hex(dump.root.0), top, cut: dump.listing.is_cut, list, reasons }
}

fn table(listed: &ListedTable, report: &Report, reasons: &mut Vec<String>) -> Table {
    let entry_run = |run: &mmu::EntryRun| match run.reserved {
        0 => EntryRun::Right(run.index, run.count, Hex(run.entry)),
        reserved => {
            let step = WalkStep { level: listed.level, entry_addr: Pa(0), entry: run.entry, reserved };
            let why = walk::why_reserved(&step, &report.cpu.told).join("; ");
            EntryRun::Reserved(run.index, run.count, Hex(run.entry), Hex(reserved), number_of(reasons, why))
        }
    };
    let runs = listed.entries.as_ref().map(|runs| runs.iter().map(entry_run).collect());
    Table { at: Hex(listed.at.0), level: listed.level as u8, runs }
}

/// Where a finding is: at its virtual address in the view of its phase, or else at its region.
fn place(finding: &Finding, report: &Report, before: usize, views: &[View]) -> Place {
    let phase = report.tables.iter().position(|dump| dump.phase == finding.phase).unwrap_or(0);
    let view = before.checked_add(phase).filter(|view| *view < views.len());
    let pages = Some(Hex(finding.pages.max(1)));
    let region = finding.region.and_then(|index| report.regions.get(index));
    match (finding.virt, region) {
        (Some(virt), _) => Place { view, column: 0, at: Some(Hex(virt.0)), pages },
        (None, Some(report)) => {
            let Region { phys, pages, .. } = report.region;
            Place { view, column: 1, at: Some(Hex(phys)), pages: Some(Hex(pages.max(1))) }
        }
        (None, None) => Place { view, ..Place::default() },
    }
}

fn item(title: &str, finding: &Finding, lines: Vec<String>) -> Item {
    let run = if title.is_empty() { String::new() } else { format!("{title}: ") };
    let mut lines = lines.into_iter();
    // The text's title has a number before it, and the page's list numbers its items itself.
    let first = lines.next().unwrap_or_default();
    let name = first.split_once(". ").map_or(first.as_str(), |(_, name)| name);
    let doubt = finding.rule.severity() == Severity::Doubt;
    Item { title: format!("{run}{name}"), lines: lines.collect(), is_doubt: doubt }
}

/// The verdict, and how much it stands for.
pub fn headline(title: &str, report: &Report) -> Headline {
    let line = report.headline();
    let line = if title.is_empty() { line } else { format!("{title}: {line}") };
    Headline { line, verdict: report.verdict().name(), is_good: report.passes() }
}

/// How many runs each show something new.
pub fn new_findings(count: usize) -> Headline {
    let line = match count {
        0 => "nothing new was found".into(),
        _ => format!("{}; each map was run once more", counted(count as u64, "new finding")),
    };
    Headline { line, verdict: if count == 0 { "clean" } else { "findings" }, is_good: count == 0 }
}

/// What was run. What all runs have in common is said once.
pub fn facts(reports: &[(&str, &Report)]) -> Vec<(String, String)> {
    let of_runs: Vec<_> = reports.iter().map(|(title, report)| (*title, facts_of(report))).collect();
    let Some((_, first)) = of_runs.first() else { return Vec::new() };
    let mut all = Vec::new();
    for (nth, (name, value)) in first.iter().enumerate() {
        let values = of_runs.iter().filter_map(|(title, facts)| Some((*title, &facts.get(nth)?.1)));
        match values.clone().all(|(_, other)| other == value) {
            true => all.push(((*name).to_owned(), value.clone())),
            // More than two have their names in the choice of views.
            false if of_runs.len() > 2 => {}
            false => all.extend(values.map(|(title, value)| (format!("{title}, {name}"), value.clone()))),
        }
    }
    all
}

fn facts_of(report: &Report) -> [(&'static str, String); 4] {
    let descriptors = counted(report.regions.len() as u64, "descriptor");
    let engine = match report.engine {
        EngineName::Kvm => "kvm: the guest's MMU was asked",
        EngineName::Walker => "walker: the mapping code ran natively, and no MMU was asked",
    };
    [
        ("map", format!("{}, {descriptors}", report.source)),
        ("mapper", report.mapper.to_string()),
        ("engine", engine.into()),
        ("cpu", text::told(&report.cpu.told)),
    ]
}

/// What else the report says that has no place in the drawing.
pub fn lists(title: &str, report: &Report) -> Vec<List> {
    let paint = Paint::PLAIN;
    let sections = [
        ("Faults", text::faults::lines(report, paint)),
        ("Calls", text::calls(&report.calls, paint)),
        ("Not asked", text::skipped(&report.skipped, paint)),
        ("Odd, but not wrong", text::notes(&report.notes, paint)),
    ];
    let named = |name: &str| if title.is_empty() { name.to_owned() } else { format!("{name}: {title}") };
    let some = sections.into_iter().filter(|(_, lines)| !lines.is_empty());
    // The first line of a section is its title.
    some.map(|(name, lines)| List { title: named(name), lines: lines.into_iter().skip(1).collect() }).collect()
}

/// What stands in place of findings where there are none. That nothing was found says nothing of what was not done.
pub fn no_findings(reports: &[(&str, &Report)]) -> String {
    match reports.iter().all(|(_, report)| report.is_clean()) {
        true => "None: the verdict is clean.".into(),
        false => "None. See above for what was not done, or was expected and is missing.".into(),
    }
}
