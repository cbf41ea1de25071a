//! The regions, as a table.

use crate::memory_map::{PAGE_BYTES, type_name};
use crate::report::style::{Paint, leaves};
use crate::report::table::Columns;
use crate::report::{RegionReport, Verdict};

/// Regions shown that are right, and that are not.
const MAX_OK: usize = 16;
const MAX_WRONG: usize = 40;
/// Aliases named.
const MAX_ALIASES: usize = 2;

/// A table of what is mapped or has to be. What is wrong comes before what is right if not all find room, yet
/// everything stays in list order.
pub(super) fn lines(regions: &[RegionReport], paint: Paint) -> Vec<String> {
    let (owed, others): (Vec<_>, Vec<_>) = regions.iter().partition(|region| region.verdict != Verdict::NotOwed);
    let mut lines = Vec::new();
    let (shown, hidden) = chosen(&owed);
    if !shown.is_empty() {
        lines.extend(table(&shown, paint));
    }
    if all_are_identity(&shown) {
        lines.push(paint.dim("  each is mapped 1:1, at its physical address, too"));
    }
    lines.extend(rest(&hidden));
    lines.extend(unowed(others.len(), !owed.is_empty()));
    lines
}

type Row = [String; COLUMNS];
const COLUMNS: usize = 7;
const TITLES: [&str; COLUMNS] = ["#", "type", "virtual", "physical", "pages", "leaves", ""];
/// The columns whose numbers are aligned at the right.
const RIGHT: [bool; COLUMNS] = [true, false, false, false, true, false, false];
const VIRTUAL: usize = 2;
const VERDICT: usize = COLUMNS - 1;

/// What is shown of the regions, and what is not.
fn chosen<'a>(owed: &[&'a RegionReport]) -> (Vec<&'a RegionReport>, Vec<&'a RegionReport>) {
    let (mut ok, mut wrong) = (0, 0);
    owed.iter().partition(|region| {
        let (count, limit) = match region.verdict {
            Verdict::Ok => (&mut ok, MAX_OK),
            _ => (&mut wrong, MAX_WRONG),
        };
        *count += 1;
        *count <= limit
    })
}

fn table(regions: &[&RegionReport], paint: Paint) -> Vec<String> {
    let rows: Vec<Row> = regions.iter().map(|region| row(region)).collect();
    let columns = Columns::of(TITLES, RIGHT, &rows);
    let all_identity = all_are_identity(regions);
    let mut lines = vec![paint.dim(columns.titles())];
    for (region, mut row) in regions.iter().zip(rows) {
        row[VERDICT] = match region.verdict {
            Verdict::Ok => paint.right(&row[VERDICT]),
            Verdict::Wrong | Verdict::Unmapped => paint.wrong(&row[VERDICT]),
            Verdict::NotOwed | Verdict::Skipped => paint.dim(&row[VERDICT]),
        };
        lines.push(columns.line(&row));
        let elsewhere: Vec<u64> =
            region.aliases.iter().copied().filter(|virt| !all_identity || *virt != page(region)).collect();
        if !elsewhere.is_empty() {
            let indent = columns.start(VIRTUAL);
            lines.push(paint.dim(format!("{:indent$}{}", "", aliases(&elsewhere))));
        }
    }
    lines
}

/// Whether all that have a virtual address are mapped at their physical ones too, several of them: that is said once.
fn all_are_identity(regions: &[&RegionReport]) -> bool {
    let mut mapped = regions.iter().filter(|region| region.virt.is_some());
    regions.len() > 1 && mapped.all(|region| region.aliases.contains(&page(region)))
}

/// The page at which a region starts.
fn page(report: &RegionReport) -> u64 {
    report.region.phys & !(PAGE_BYTES - 1)
}

fn row(report: &RegionReport) -> Row {
    let region = &report.region;
    [
        region.index.to_string(),
        type_name(region.ty).into_owned(),
        report.virt.map_or_else(|| "-".into(), |virt| range(virt, region.pages)),
        format!("{:#x}", region.phys),
        region.pages.to_string(),
        leaves(&report.leaves),
        report.verdict.name().into(),
    ]
}

/// First and last address; a range that leaves the address space has no last one.
fn range(first: u64, pages: u64) -> String {
    let bytes = pages.checked_mul(PAGE_BYTES);
    let last = bytes.and_then(|bytes| first.checked_add(bytes.checked_sub(1)?));
    last.map_or_else(|| format!("{first:#x}"), |last| format!("{first:#x}-{last:#x}"))
}

fn aliases(aliases: &[u64]) -> String {
    let named: Vec<_> = aliases.iter().take(MAX_ALIASES).map(|virt| format!("{virt:#x}")).collect();
    match aliases.len() - named.len() {
        0 => format!("also at {}", named.join(", ")),
        more => format!("also at {}, and {more} more", named.join(", ")),
    }
}

/// What became of the regions that are not shown.
fn rest(hidden: &[&RegionReport]) -> Option<String> {
    let ok = hidden.iter().filter(|region| region.verdict == Verdict::Ok).count();
    match (hidden.len(), hidden.len() - ok) {
        (0, _) => None,
        (count, 0) => Some(format!("  ... and {count} more, all ok")),
        (count, wrong) => Some(format!("  ... and {count} more, {wrong} of them not ok")),
    }
}

/// The descriptors that nobody has to map.
fn unowed(count: usize, after_some: bool) -> Option<String> {
    let other = if after_some { "other " } else { "" };
    match count {
        0 => None,
        1 => Some(format!("  1 {other}descriptor needs no mapping, and has none")),
        _ => Some(format!("  {count} {other}descriptors need no mapping, and have none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn a_range_past_the_end_of_addresses_has_no_last_one() {
        assert_eq!(range(0x1000, 2), "0x1000-0x2fff");
        assert_eq!(range(u64::MAX - 0xfff, 1), "0xfffffffffffff000-0xffffffffffffffff");
        assert_eq!((range(0x1000, 0), range(0x1000, u64::MAX)), ("0x1000".into(), "0x1000".into()));
    }

    #[test]
    fn what_is_wrong_is_shown_however_far_down_it_is() {
        let shown = lines(&samples::many_regions().regions, Paint::Plain);
        assert_eq!(shown.len(), 1 + MAX_OK + 2 + 1);
        assert!(shown[MAX_OK + 1].starts_with("  70  ") && shown[MAX_OK + 1].ends_with("  wrong"), "{shown:#?}");
        assert!(shown[MAX_OK + 2].starts_with("  90  ") && shown[MAX_OK + 2].ends_with("  unmapped"));
        assert_eq!(shown[MAX_OK + 3], "  ... and 82 more, all ok");
    }

    #[test]
    fn many_wrong_ones_are_counted() {
        let mut regions = samples::many_regions().regions;
        regions.iter_mut().for_each(|region| region.verdict = Verdict::Wrong);
        assert_eq!(lines(&regions, Paint::Plain).last().unwrap(), "  ... and 60 more, 60 of them not ok");
    }

    #[test]
    fn few_aliases_are_named() {
        assert_eq!(aliases(&[0x1000, 0x2000, 0x3000]), "also at 0x1000, 0x2000, and 1 more");
    }
}
