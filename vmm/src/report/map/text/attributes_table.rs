//! The Memory Attributes Table, and which of its entries Linux does not take.

use super::{attributes, digits, pages_range};
use crate::check::EntryRefusal;
use crate::memory_map::{MemoryDescriptor, PAGE_BYTES, type_name};
use crate::report::map::MapReport;
use crate::report::style::Paint;
use crate::report::table::Columns;

/// Entries shown; real tables have some tens.
const MAX_ENTRIES: usize = 100;

/// The table, in its own order. Nothing if there is none.
pub(super) fn lines(report: &MapReport<'_>, paint: Paint) -> Vec<String> {
    let entries: Vec<_> = report.map.attributes_table().iter().zip(report.refusals.iter().copied()).collect();
    if entries.is_empty() {
        return Vec::new();
    }
    let refused =
        |entries: &[(&MemoryDescriptor, Option<EntryRefusal>)]| entries.iter().filter(|(_, why)| why.is_some()).count();
    let taken = entries.len() - refused(&entries);
    let (shown, hidden) = entries.split_at(entries.len().min(MAX_ENTRIES));
    let digits = shown.iter().map(|(entry, _)| digits(entry.phys_start, last_byte(entry))).max().unwrap_or(0);
    let rows: Vec<_> = shown.iter().enumerate().map(|(index, entry)| row(index, entry, digits, paint)).collect();
    let columns = Columns::of(TITLES, RIGHT, &rows).within(paint.table_width(), &BELOW);

    let mut lines = vec![paint.bold(format!("Memory Attributes Table: Linux takes {taken} of {}", entries.len()))];
    lines.extend(columns.titles().iter().map(|line| paint.dim(line)));
    lines.extend(rows.iter().flat_map(|row| columns.lines(row)));
    if !hidden.is_empty() {
        lines.push(format!("  ... and {} more, {} of them refused", hidden.len(), refused(hidden)));
    }
    lines
}

const COLUMNS: usize = 6;
const TITLES: [&str; COLUMNS] = ["#", "physical", "pages", "type", "attributes", ""];
const RIGHT: [bool; COLUMNS] = [true, false, true, false, false, false];
/// What stands below first where the terminal is narrow.
const BELOW: [usize; 4] = [5, 4, 3, 2];

fn row(
    index: usize,
    entry: &(&MemoryDescriptor, Option<EntryRefusal>),
    digits: usize,
    paint: Paint,
) -> [String; COLUMNS] {
    let (entry, why) = entry;
    [
        index.to_string(),
        pages_range(entry.phys_start, entry.page_count, digits),
        entry.page_count.to_string(),
        type_name(entry.ty).into_owned(),
        attributes(entry.att),
        why.map_or_else(String::new, |why| paint.wrong(format!("refused: {why}"))),
    ]
}

fn last_byte(entry: &MemoryDescriptor) -> u128 {
    (u128::from(entry.phys_start) + u128::from(entry.page_count) * u128::from(PAGE_BYTES)).saturating_sub(1)
}
