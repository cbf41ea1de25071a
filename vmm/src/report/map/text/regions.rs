//! The regions as a table in the order of addresses, for holes and overlaps are seen in no other. Layouts go by the list:
//! where that has another order the text says so, and the first column tells a descriptor's place in it.

use std::collections::HashMap;

use super::{attributes, digits, pages_range, range};
use crate::memory_map::{ListKind, PAGE_BYTES, type_name};
use crate::report::map::{Fate, MapReport, Odd, Placed, Range};
use crate::report::style::{Paint, size};
use crate::report::table::Columns;

/// Rows of regions shown; real maps have up to 300 or so.
const MAX_ROWS: usize = 400;

/// The table, and what its marks mean.
pub(super) fn lines(report: &MapReport<'_>, paint: Paint) -> Vec<String> {
    let by_address = report.by_address();
    let (shown, hidden) = by_address.split_at(by_address.len().min(MAX_ROWS));
    let lines = with_holes(shown, &report.holes);
    let marks = marks(&report.oddities);
    let mut text = table(&lines, hole_name(report), &marks, paint);
    if !hidden.is_empty() {
        let mapped = hidden.iter().filter(|placed| placed.fate.virt().is_some()).count();
        text.push(format!("  ... and {} more, {mapped} of them mapped", hidden.len()));
    }
    let legend = legend(shown, &marks, by_address.is_sorted_by_key(|placed| placed.region.index));
    text.extend(legend.into_iter().map(|line| paint.dim(line)));
    text
}

type Row = [String; COLUMNS];
const COLUMNS: usize = 7;
const TITLES: [&str; COLUMNS] = ["#", "physical", "size", "pages", "type", "attributes", "virtual"];
/// The columns whose numbers are aligned at the right.
const RIGHT: [bool; COLUMNS] = [true, false, true, true, false, false, false];
/// What stands below first where the terminal is narrow.
const BELOW: [usize; 5] = [6, 5, 4, 3, 2];

/// What a line is about.
enum Line<'a> {
    Region(&'a Placed),
    Hole(Range),
}

fn with_holes<'a>(regions: &[&'a Placed], holes: &[Range]) -> Vec<Line<'a>> {
    let mut holes = holes.iter().copied().peekable();
    let mut lines = Vec::new();
    for placed in regions {
        while let Some(hole) = holes.next_if(|hole| hole.first <= placed.region.phys) {
            lines.push(Line::Hole(hole));
        }
        lines.push(Line::Region(placed));
    }
    lines
}

/// What is not in a part of a map may well be in the map.
fn hole_name(report: &MapReport<'_>) -> &'static str {
    let is_whole = report.map.kind() == ListKind::Firmware && report.map.partial().is_none();
    if is_whole { "- hole" } else { "- not in the list" }
}

fn table(lines: &[Line<'_>], hole: &str, marks: &HashMap<usize, Mark>, paint: Paint) -> Vec<String> {
    let digits = lines.iter().map(digits_of).max().unwrap_or(0);
    let rows: Vec<Row> = lines.iter().map(|line| row(line, hole, digits)).collect();
    let columns = Columns::of(TITLES, RIGHT, &rows).within(paint.table_width(), &BELOW);
    let mut text: Vec<_> = columns.titles().iter().map(|line| paint.dim(line)).collect();
    for (line, row) in lines.iter().zip(&rows) {
        let lines = columns.lines(row);
        match line {
            Line::Hole(_) => text.extend(lines.iter().map(|line| paint.dim(line))),
            Line::Region(placed) => text.extend(painted(placed, marks.get(&placed.region.index), lines, paint)),
        }
    }
    text
}

fn digits_of(line: &Line<'_>) -> usize {
    match line {
        Line::Hole(hole) => digits(hole.first, hole.last),
        Line::Region(placed) => digits(placed.region.phys, placed.region.end().saturating_sub(1)),
    }
}

fn row(line: &Line<'_>, hole: &str, digits: usize) -> Row {
    match line {
        Line::Hole(Range { first, last }) => {
            let bytes = last - u128::from(*first) + 1;
            // A region that is not aligned leaves a part of a page.
            let pages = bytes / u128::from(PAGE_BYTES);
            let range = range(*first, *last, digits);
            [String::new(), range, size(bytes), pages.to_string(), hole.into(), String::new(), String::new()]
        }
        Line::Region(placed) => {
            let region = &placed.region;
            [
                region.index.to_string(),
                pages_range(region.phys, region.pages, digits),
                size(u128::from(region.pages) * u128::from(PAGE_BYTES)),
                region.pages.to_string(),
                type_name(region.ty).into_owned(),
                attributes(region.attribute),
                virt(placed),
            ]
        }
    }
}

fn virt(placed: &Placed) -> String {
    let plus = if placed.continues_another() { " +" } else { "" };
    match placed.fate {
        Fate::LeftOut => String::new(),
        Fate::At(virt) => format!("{virt:#x}{plus}"),
        Fate::Outside(virt) => format!("{virt:#x}{plus} outside"),
        Fate::NoAddress => "no address".into(),
        Fate::Impossible => "impossible".into(),
    }
}

/// What stands before a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Odd,
    Wrong,
}

fn marks(oddities: &[Odd]) -> HashMap<usize, Mark> {
    let mut marks = HashMap::new();
    for odd in oddities.iter().filter(|odd| !odd.is_of_map) {
        let is = if odd.is_finding { Mark::Wrong } else { Mark::Odd };
        for index in [Some(odd.index), odd.overlap.map(|(other, _)| other)].into_iter().flatten() {
            let mark = marks.entry(index).or_insert(is);
            *mark = is.max(*mark);
        }
    }
    marks
}

/// A mark takes the place of the first of the blanks that a row begins with.
fn painted(placed: &Placed, mark: Option<&Mark>, mut lines: Vec<String>, paint: Paint) -> Vec<String> {
    let sign = match mark {
        Some(Mark::Wrong) => "!",
        Some(Mark::Odd) => "?",
        None => " ",
    };
    if let Some(first) = lines.first_mut().filter(|first| first.starts_with(' ')) {
        first.replace_range(..1, sign);
    }
    let in_colour = |line: String| match mark {
        Some(Mark::Wrong) => paint.wrong(line),
        _ if placed.region.is_runtime() => paint.bold(line),
        _ => line,
    };
    lines.into_iter().map(in_colour).collect()
}

fn legend(shown: &[&Placed], marks: &HashMap<usize, Mark>, is_in_list_order: bool) -> Vec<String> {
    let is_shown = |mark| shown.iter().any(|placed| marks.get(&placed.region.index) == Some(&mark));
    let is_merged = shown.iter().any(|placed| placed.continues_another() && placed.fate.virt().is_some());
    let meanings = [
        (is_shown(Mark::Wrong), "! wrong"),
        (is_shown(Mark::Odd), "? odd"),
        (is_merged, "+ merged with the one before it in the list"),
    ];
    let meanings: Vec<&str> = meanings.into_iter().filter(|(is_used, _)| *is_used).map(|(_, text)| text).collect();
    let mut lines = Vec::new();
    if !meanings.is_empty() {
        lines.push(format!("  {}", meanings.join(", ")));
    }
    if !is_in_list_order {
        lines.push("  # is the place in the list. Layouts go by it: addresses are in another order".into());
    }
    lines
}
