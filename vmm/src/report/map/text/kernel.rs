//! Where a kernel's list of its memory disagrees with the map.

use super::{LABEL, attributes, digits, range};
use crate::memory_map::{
    Agreement, Disagreement, E820Type, KernelListKind, KernelUse, MapSays, OtherList, Weight, type_name,
};
use crate::report::map::MapReport;
use crate::report::style::{Paint, counted, printable, size};
use crate::report::table::Columns;

/// Ranges shown, the dangerous ones first; real logs have none or some tens.
const MAX_RANGES: usize = 100;

/// The ranges by weight, then by address. Nothing if there is no list.
pub(in crate::report) fn lines(report: &MapReport<'_>, paint: Paint) -> Vec<String> {
    let Some(agreement) = &report.kernel else { return Vec::new() };
    let mut lines = vec![title(agreement, paint)];
    let mut say = |label: &str, text: &str| lines.extend(paint.labelled(&format!("  {label}"), text, LABEL));
    say("list", &which(agreement));
    if !agreement.list.has_beginning {
        say("cut", "the line that heads the list is missing: rows before its first may be missing, too");
    }
    if !agreement.list.others.is_empty() {
        say("not read", &others(&agreement.list.others));
    }
    if !agreement.own_cuts.is_empty() {
        say("own", &own_cuts(agreement));
    }
    lines.extend(table(agreement, paint));
    lines
}

fn title(agreement: &Agreement, paint: Paint) -> String {
    let name = paint.bold("what the kernel takes memory for");
    let all = agreement.disagreements.len() as u64;
    let dangerous = dangerous(agreement);
    match (all, dangerous) {
        (0, _) => format!("{name}: {} what the map says", paint.right("it is")),
        (_, 0) => {
            format!("{name}: it disagrees with the map in {}, {}", counted(all, "range"), paint.right("none dangerous"))
        }
        _ => {
            let dangerous = paint.wrong(format!("{dangerous} dangerous"));
            format!("{name}: it disagrees with the map in {}, {dangerous}", counted(all, "range"))
        }
    }
}

fn dangerous(agreement: &Agreement) -> usize {
    agreement.disagreements.iter().filter(|range| range.weight == Weight::Dangerous).count()
}

fn which(agreement: &Agreement) -> String {
    let list = &agreement.list;
    let rows = counted(list.rows.len() as u64, "row");
    format!("{}, {rows} from line {} of {} on", kind(list.kind), list.line, printable(&list.source))
}

fn kind(kind: KernelListKind) -> &'static str {
    match kind {
        KernelListKind::Bios => "the e820 table that the kernel was given (BIOS-e820)",
        KernelListKind::SetupData => "the e820 table, cut where the boot loader left data (reserve setup_data)",
        KernelListKind::User => "the e820 table after mem= and memmap= (user)",
        KernelListKind::Modified => "the e820 table after the kernel's own changes (modified)",
        KernelListKind::Iomem => "/proc/iomem",
    }
}

fn others(others: &[OtherList]) -> String {
    const MAX_TOLD: usize = 4;
    let told = others.iter().take(MAX_TOLD);
    let told = told
        .map(|other| format!("{} of {} from line {} on", other.kind, counted(other.rows as u64, "row"), other.line));
    let mut text = told.collect::<Vec<_>>().join(", ");
    if others.len() > MAX_TOLD {
        text += &format!(", and {} more", others.len() - MAX_TOLD);
    }
    text
}

fn own_cuts(agreement: &Agreement) -> String {
    let bytes =
        agreement.own_cuts.iter().fold(0_u128, |sum, (start, end)| sum.saturating_add(end.saturating_sub(*start)));
    format!(
        "{}, {} in all, that every kernel keeps to itself: the first 64 KiB, what is below 1 MiB for old devices, parts of pages",
        counted(agreement.own_cuts.len() as u64, "range"),
        size(bytes)
    )
}

const COLUMNS: usize = 5;
const TITLES: [&str; COLUMNS] = ["physical", "size", "the map", "the kernel", "what that breaks"];
const RIGHT: [bool; COLUMNS] = [false, true, false, false, false];
/// What stands below first where the terminal is narrow.
const BELOW: [usize; 2] = [4, 2];

fn table(agreement: &Agreement, paint: Paint) -> Vec<String> {
    let mut ranges: Vec<&Disagreement> = agreement.disagreements.iter().collect();
    ranges.sort_by_key(|range| (std::cmp::Reverse(range.weight), range.start));
    let (shown, hidden) = ranges.split_at(ranges.len().min(MAX_RANGES));
    let Some(digits) = shown.iter().map(|range| digits_of(range)).max() else { return Vec::new() };
    let rows: Vec<_> = shown.iter().map(|range| row(range, digits)).collect();
    let columns = Columns::of(TITLES, RIGHT, &rows).within(paint.table_width(), &BELOW);
    let mut lines: Vec<String> = columns.titles().iter().map(|line| paint.dim(line)).collect();
    for (row, range) in rows.iter().zip(shown) {
        let is_dangerous = range.weight == Weight::Dangerous;
        let of_row = columns.lines(row).into_iter();
        lines.extend(of_row.map(|line| if is_dangerous { paint.wrong(line) } else { line }));
    }
    if !hidden.is_empty() {
        lines.push(format!("  ... and {} more", hidden.len()));
    }
    lines
}

fn digits_of(range: &Disagreement) -> usize {
    digits(first(range), range.end.saturating_sub(1))
}

/// A range starts where a region or a row does, or at the end of one before another: below 2^64.
fn first(range: &Disagreement) -> u64 {
    u64::try_from(range.start).unwrap_or(u64::MAX)
}

fn row(disagreement: &Disagreement, digits: usize) -> [String; COLUMNS] {
    [
        range(first(disagreement), disagreement.end.saturating_sub(1), digits),
        size(disagreement.bytes()),
        map_says(disagreement.map),
        kernel_says(disagreement.kernel),
        disagreement.breaks.into(),
    ]
}

fn map_says(said: Option<MapSays>) -> String {
    match said {
        None => "nothing".into(),
        Some(MapSays::Usable) => "usable memory".into(),
        Some(MapSays::Other(said)) => format!("{} {}", type_name(said.ty), attributes(said.attribute)),
    }
}

fn kernel_says(takes: Option<KernelUse>) -> String {
    match takes {
        None => "nothing".into(),
        Some(KernelUse::Device) => "a device's".into(),
        Some(KernelUse::E820(ty)) => E820Type::to_string(&ty),
    }
}
