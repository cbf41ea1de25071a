//! The regions, as a table.

use crate::check::Contract;
use crate::memory_map::{PAGE_BYTES, type_name};
use crate::report::style::{Paint, leaves};
use crate::report::table::Columns;
use crate::report::{MapperName, RegionReport, Report, Verdict};

/// Regions shown that are right, and that are not.
const MAX_OK: usize = 16;
const MAX_WRONG: usize = 40;
/// Aliases named.
const MAX_ALIASES: usize = 2;

/// A table of what is mapped or has to be. What is wrong comes before what is right if not all find room, yet
/// everything stays in list order.
pub(crate) fn lines(report: &Report, paint: Paint) -> Vec<String> {
    let (owed, others): (Vec<_>, Vec<_>) = report.regions.iter().partition(|region| region.verdict != Verdict::NotOwed);
    let identity = Identity::of(&owed);
    let mut lines = Vec::new();
    let (shown, hidden) = chosen(&owed);
    if !shown.is_empty() {
        lines.extend(table(&shown, identity, paint));
    }
    let after = [identity.says().map(|text| paint.dim(text)), rest(&hidden)];
    lines.extend(after.into_iter().flatten());
    let sentences = unowed(&others, contract_of(&report.mapper), !owed.is_empty());
    lines.extend(sentences.iter().flat_map(|text| paint.labelled("", text, 2)));
    lines
}

type Row = [String; COLUMNS];
const COLUMNS: usize = 7;
const TITLES: [&str; COLUMNS] = ["#", "type", "virtual", "physical", "pages", "leaves", ""];
/// The columns whose numbers are aligned at the right.
const RIGHT: [bool; COLUMNS] = [true, false, false, false, true, false, false];
const VIRTUAL: usize = 2;
const LEAVES: usize = 5;
const VERDICT: usize = COLUMNS - 1;
/// What stands below first where the terminal is narrow.
const BELOW: [usize; 2] = [LEAVES, VIRTUAL];

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

fn table(regions: &[&RegionReport], identity: Identity, paint: Paint) -> Vec<String> {
    let rows: Vec<Row> = regions.iter().map(|region| row(region)).collect();
    let columns = Columns::of(TITLES, RIGHT, &rows).within(paint.table_width(), &BELOW);
    let mut lines: Vec<String> = columns.titles().iter().map(|line| paint.dim(line)).collect();
    for (region, mut row) in regions.iter().zip(rows) {
        row[VERDICT] = match region.verdict {
            Verdict::Ok => paint.right(&row[VERDICT]),
            Verdict::Wrong | Verdict::Unmapped => paint.wrong(&row[VERDICT]),
            Verdict::NotOwed | Verdict::Skipped => paint.dim(&row[VERDICT]),
        };
        lines.extend(columns.lines(&row));
        let is_unsaid = |virt: &u64| !identity.tells_of(region) || *virt != page(region);
        let elsewhere: Vec<u64> = region.aliases.iter().copied().filter(is_unsaid).collect();
        if !elsewhere.is_empty() {
            let indent = columns.start(VIRTUAL);
            lines.push(paint.dim(format!("{:indent$}{}", "", aliases(&elsewhere, region.virt.is_some()))));
        }
    }
    lines
}

/// What all regions have in common of mappings at their physical addresses: that is said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    /// Each has a virtual address, and is mapped at its physical one too.
    Each,
    /// Each that has a virtual address; others have none.
    EachWithVirtual,
    /// Each is mapped at its physical address, and none has a virtual one.
    Only,
    /// Nothing, or nothing of several regions.
    Nothing,
}

impl Identity {
    fn of(regions: &[&RegionReport]) -> Self {
        let (placed, others): (Vec<&RegionReport>, Vec<_>) = regions.iter().partition(|region| region.virt.is_some());
        let all = |some: &[&RegionReport]| some.len() > 1 && some.iter().all(|region| is_identity(region));
        match (all(&placed), others.is_empty()) {
            (true, true) => Self::Each,
            (true, false) => Self::EachWithVirtual,
            (false, _) if placed.is_empty() && all(&others) => Self::Only,
            (false, _) => Self::Nothing,
        }
    }

    fn says(self) -> Option<&'static str> {
        match self {
            Self::Each => Some("  each is also mapped 1:1, at its physical address"),
            Self::EachWithVirtual => Some("  each with a virtual address is also mapped 1:1, at its physical address"),
            Self::Only => Some("  each is mapped only 1:1, at its physical address"),
            Self::Nothing => None,
        }
    }

    /// Whether what it says is said of this region.
    fn tells_of(self, region: &RegionReport) -> bool {
        match self {
            Self::Each | Self::Only => true,
            Self::EachWithVirtual => region.virt.is_some(),
            Self::Nothing => false,
        }
    }
}

fn is_identity(report: &RegionReport) -> bool {
    report.aliases.contains(&page(report))
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

/// Where a region is mapped besides its virtual address, or where it has none.
fn aliases(aliases: &[u64], has_virtual: bool) -> String {
    let word = if has_virtual { "also" } else { "only" };
    let named: Vec<_> = aliases.iter().take(MAX_ALIASES).map(|virt| format!("{virt:#x}")).collect();
    match aliases.len() - named.len() {
        0 => format!("{word} at {}", named.join(", ")),
        more => format!("{word} at {}, and {more} more", named.join(", ")),
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

/// A built-in layout's; of another mapper it is not told.
fn contract_of(mapper: &MapperName) -> Option<Contract> {
    match mapper {
        MapperName::Layout { layout, .. } => Some(Contract::of(*layout)),
        _ => None,
    }
}

/// The descriptors that nobody has to map, and nobody did: those that the layout does map, and the others.
fn unowed(regions: &[&RegionReport], contract: Option<Contract>, after_some: bool) -> Vec<String> {
    let is_of_layout = |region: &&&RegionReport| {
        region.region.is_boot_services() && contract.as_ref().is_some_and(|contract| contract.maps(&region.region))
    };
    let of_layout = regions.iter().filter(is_of_layout).count();
    let other = if after_some { "other " } else { "" };
    let others = match regions.len() - of_layout {
        0 => None,
        1 => Some(format!("1 {other}descriptor needs no mapping, and has none")),
        count => Some(format!("{count} {other}descriptors need no mapping, and have none")),
    };
    let of_layout = match of_layout {
        0 => None,
        1 => Some("1 descriptor of boot services, which the layout maps too, has no virtual address".into()),
        count => {
            Some(format!("{count} descriptors of boot services, which the layout maps too, have no virtual address"))
        }
    };
    [of_layout, others].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use efibed_guest::{Layout, LayoutMapper};

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
        let shown = lines(&samples::many_regions(), Paint::PLAIN);
        assert_eq!(shown.len(), 1 + MAX_OK + 2 + 1);
        assert!(shown[MAX_OK + 1].starts_with("  70  ") && shown[MAX_OK + 1].ends_with("  wrong"), "{shown:#?}");
        assert!(shown[MAX_OK + 2].starts_with("  90  ") && shown[MAX_OK + 2].ends_with("  unmapped"));
        assert_eq!(shown[MAX_OK + 3], "  ... and 82 more, all ok");
    }

    #[test]
    fn many_wrong_ones_are_counted() {
        let mut report = samples::many_regions();
        report.regions.iter_mut().for_each(|region| region.verdict = Verdict::Wrong);
        assert_eq!(lines(&report, Paint::PLAIN).last().unwrap(), "  ... and 60 more, 60 of them not ok");
    }

    #[test]
    fn few_aliases_are_named() {
        assert_eq!(aliases(&[0x1000, 0x2000, 0x3000], true), "also at 0x1000, 0x2000, and 1 more");
        assert_eq!(aliases(&[0x1000], false), "only at 0x1000");
    }

    /// The last lines of a table of regions: of each the virtual address, if any, and whether it is mapped 1:1.
    fn said_of(regions: &[(Option<u64>, bool)]) -> Vec<String> {
        let mut report = samples::many_regions();
        report.regions.truncate(regions.len());
        for (region, (virt, is_identity)) in report.regions.iter_mut().zip(regions) {
            region.virt = *virt;
            region.verdict = if virt.is_some() { Verdict::Ok } else { Verdict::Unmapped };
            region.aliases = if *is_identity { vec![region.region.phys] } else { Vec::new() };
        }
        let shown = lines(&report, Paint::PLAIN);
        shown.into_iter().filter(|line| line.contains("each") || line.contains(" at 0x")).collect()
    }

    #[test]
    fn of_regions_that_are_all_unmapped_nothing_is_said_of_mappings() {
        assert_eq!(said_of(&[(None, false), (None, false)]), [""; 0]);
    }

    #[test]
    fn what_is_said_once_of_each_holds_for_each() {
        let (placed, unplaced) = ((Some(0xffff_fffe_0000_0000), true), (None, true));
        assert_eq!(said_of(&[placed, placed]), ["  each is also mapped 1:1, at its physical address"]);
        assert_eq!(
            said_of(&[placed, placed, (None, false)]),
            ["  each with a virtual address is also mapped 1:1, at its physical address"]
        );
        assert_eq!(said_of(&[unplaced, unplaced]), ["  each is mapped only 1:1, at its physical address"]);
        // Not of each, or of one only: said where it holds.
        let shown = said_of(&[placed, (Some(0x1000), false)]);
        assert!(shown.len() == 1 && shown[0].ends_with("  also at 0x0"), "{shown:?}");
        let shown = said_of(&[(Some(0x1000), false), unplaced]);
        assert!(shown.len() == 1 && shown[0].ends_with("  only at 0x100000"), "{shown:?}");
    }

    #[test]
    fn what_is_said_of_each_holds_for_those_not_shown_too() {
        let mut all = vec![(Some(0xffff_fffe_0000_0000), true); MAX_OK + 1];
        assert_eq!(said_of(&all).len(), 1);
        all[MAX_OK].1 = false;
        assert_eq!(said_of(&all).len(), MAX_OK, "each of those shown for itself");
    }

    #[test]
    fn boot_services_that_a_layout_maps_are_not_counted_as_needing_none() {
        use crate::memory_map::{MemoryAttribute, MemoryType};
        let mut report = samples::many_regions();
        report.regions.truncate(4);
        for region in &mut report.regions {
            region.verdict = Verdict::NotOwed;
            region.region.ty = MemoryType::CONVENTIONAL;
            region.region.attribute = MemoryAttribute::WRITE_BACK;
        }
        report.regions[1].region.ty = MemoryType::BOOT_SERVICES_DATA;
        // One without pages is no layout's to map.
        report.regions[2].region.ty = MemoryType::BOOT_SERVICES_CODE;
        report.regions[2].region.pages = 0;
        let says = |report: &Report| lines(report, Paint::PLAIN);
        report.mapper = LayoutMapper { layout: Layout::Window, ..Default::default() }.into();
        assert_eq!(
            says(&report),
            [
                "  1 descriptor of boot services, which the layout maps too, has no virtual address",
                "  3 descriptors need no mapping, and have none",
            ]
        );
        report.mapper = LayoutMapper { layout: Layout::LinuxFixed, ..Default::default() }.into();
        assert_eq!(says(&report), ["  4 descriptors need no mapping, and have none"]);
    }
}
