//! A memory map as a person reads it: what it holds, the regions by address, what is odd, and what would be mapped.

mod attributes_table;
mod kernel;
mod regions;

use std::collections::BTreeMap;
use std::fmt;

#[cfg(feature = "cli")]
pub(in crate::report) use kernel::lines as kernel_lines;

use super::{Fate, Given, MapReport, Odd, PhysWidth, Sum, is_memory};
use crate::memory_map::{ListKind, MemoryAttribute, PAGE_BYTES, Region, attribute_names, type_name};
use crate::mmu::USUAL_MAXPHYADDR;
use crate::report::style::{Paint, counted, leaves, printable, size, tally};

/// A memory map to be displayed. No newline at the end.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    report: &'a MapReport<'a>,
    paint: Paint,
}

impl<'a> Text<'a> {
    /// Without colour.
    pub fn plain(report: &'a MapReport<'a>) -> Self {
        Self { report, paint: Paint::PLAIN }
    }

    /// With colour, for a terminal.
    pub fn coloured(report: &'a MapReport<'a>) -> Self {
        Self { report, paint: Paint::COLOURED }
    }

    /// The same for a terminal of so many columns; None: for a file or a pipe.
    #[must_use]
    pub fn columns(self, columns: Option<usize>) -> Self {
        Self { paint: self.paint.on(columns), ..self }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, paint } = *self;
        let sections = [
            title(report, paint),
            what_it_is(report, paint),
            regions::lines(report, paint),
            odd(report, true, paint),
            odd(report, false, paint),
            mapped(report, paint),
            attributes_table::lines(report, paint),
            kernel::lines(report, paint),
        ];
        let mut between = "";
        for section in sections.iter().filter(|section| !section.is_empty()) {
            write!(f, "{between}{}", section.join("\n"))?;
            between = "\n\n";
        }
        Ok(())
    }
}

/// Oddities shown of one kind.
const MAX_OF_KIND: usize = 8;
/// Types, and descriptors, named in one sentence.
const MAX_TYPES: usize = 20;
const MAX_NAMED: usize = 8;
/// Where the text beside a label begins.
const LABEL: usize = 11;
/// Hexadecimal digits of an address, at the least: enough for what is below 4 GiB.
const MIN_DIGITS: usize = 8;

/// Where the lower half of the addresses of 4-level paging ends (SDM vol. 1, 3.3.7.1).
const LOWER_HALF: u128 = 1 << 47;

fn title(report: &MapReport<'_>, paint: Paint) -> Vec<String> {
    let descriptors = counted(report.regions.len() as u64, "descriptor");
    let runtime = report.sum(Region::is_runtime).descriptors;
    let kinds = |is_finding| {
        let odd = report.oddities.iter().filter(move |odd| odd.is_finding == is_finding);
        tally(odd.map(|odd| odd.kind))
    };
    let verdict = match [kinds(true), kinds(false)].each_ref().map(String::as_str) {
        ["", ""] => paint.right("nothing is odd"),
        ["", odd] => format!("nothing is wrong with the map itself, odd is {odd}"),
        [wrong, ""] => format!("{} is {wrong}", paint.wrong("wrong")),
        [wrong, odd] => format!("{} is {wrong}; odd is {odd}", paint.wrong("wrong")),
    };
    paint.wrapped(&format!("{descriptors}, {runtime} RUNTIME: {verdict}"), 2)
}

fn what_it_is(report: &MapReport<'_>, paint: Paint) -> Vec<String> {
    let map = report.map;
    let amount = |is_meant: fn(&Region) -> bool| amount(report.sum(is_meant));
    let mut rows = vec![("map", printable(map.source()).into_owned()), ("list", list(report))];
    rows.extend(map.partial().map(|why| ("partial", printable(why).into_owned())));
    rows.push(("cpu", cpu(report)));
    let memory = amount(|region| is_memory(region.ty));
    rows.push(("memory", format!("{memory}; reserved, persistent and I/O are not counted")));
    rows.push(("RUNTIME", amount(Region::is_runtime)));
    rows.push(("boot", amount(Region::is_boot_services)));
    let highest = report.highest_mapped();
    rows.extend(highest.map(|last| ("up to", format!("{last:#x}, the last byte of RUNTIME and boot services"))));
    rows.push(("types", types(report)));
    rows.iter().flat_map(|(label, text)| row(label, text, paint)).collect()
}

/// A label, and a text beside it.
fn row(label: &str, text: &str, paint: Paint) -> Vec<String> {
    paint.labelled(&format!("  {label}"), text, LABEL)
}

fn list(report: &MapReport<'_>) -> String {
    let whose = match report.map.kind() {
        ListKind::Firmware => "as firmware handed it out",
        ListKind::Runtime => "Linux's own, of what it mapped, in the order in which it did",
    };
    let format = report.map.format().map_or_else(String::new, |format| format!(", read as {}", format.name()));
    format!("{whose}{format}")
}

fn cpu(report: &MapReport<'_>) -> String {
    match report.maxphyaddr {
        PhysWidth::Asked(bits) => format!("MAXPHYADDR {bits}, as asked for"),
        PhysWidth::Machine(bits) => format!("MAXPHYADDR {bits}, as guests of this machine have"),
        PhysWidth::Assumed => format!("MAXPHYADDR {USUAL_MAXPHYADDR} is assumed, as no KVM was asked"),
    }
}

fn amount(sum: Sum) -> String {
    match sum.descriptors {
        0 => "none".into(),
        count => format!("{}, {} ({} pages)", counted(count as u64, "descriptor"), size(sum.bytes()), sum.pages),
    }
}

/// `ConventionalMemory 20 (15.4 GiB), ...`, by number of the type.
fn types(report: &MapReport<'_>) -> String {
    let types = report.types();
    let named = types.iter().take(MAX_TYPES);
    let named = named.map(|(ty, sum)| format!("{} {} ({})", type_name(*ty), sum.descriptors, size(sum.bytes())));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if types.len() > MAX_TYPES {
        text += &format!(", and {} more types", types.len() - MAX_TYPES);
    }
    text
}

/// What is wrong, or what is odd but not wrong, by kind.
fn odd(report: &MapReport<'_>, is_finding: bool, paint: Paint) -> Vec<String> {
    let mut kinds = BTreeMap::<&str, Vec<&Odd>>::new();
    for odd in report.oddities.iter().filter(|odd| odd.is_finding == is_finding) {
        kinds.entry(odd.kind).or_default().push(odd);
    }
    if kinds.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![if is_finding { paint.wrong("wrong") } else { paint.bold("odd, but not wrong") }];
    for (kind, of_kind) in kinds {
        lines.push(format!("  {kind} ({})", of_kind.len()));
        for odd in of_kind.iter().take(MAX_OF_KIND) {
            lines.extend(paint.labelled("    -", &printable(&odd.message), 6));
        }
        if of_kind.len() > MAX_OF_KIND {
            lines.push(format!("    ... and {} more", of_kind.len() - MAX_OF_KIND));
        }
    }
    lines
}

/// What the layout makes of the map.
fn mapped(report: &MapReport<'_>, paint: Paint) -> Vec<String> {
    let mut lines = vec![paint.bold(format!("what layout {} maps", report.layout.name()))];
    let totals = report.totals();
    lines.extend(row("mapped", &what_is_mapped(report, totals.mapped), paint));
    if let Some((first, last)) = totals.virt {
        let leaves = format!("{}, if large wherever both addresses are aligned", leaves(&totals.leaves));
        lines.extend(row("virtual", &virtual_range(report, first, last), paint));
        lines.extend(row("leaves", &leaves, paint));
    }
    lines.extend(given(report, paint));
    if let Some(index) = report.gives_up_at {
        let text = format!("{}; nothing is mapped", report.contract.no_room(report.map, index));
        lines.extend(row("gives up", &text, paint).into_iter().map(|line| paint.wrong(line)));
        return lines;
    }
    lines.extend(without(report, "no room", "without an address", |fate| fate == Fate::NoAddress, paint));
    lines.extend(without(report, "outside", "outside of the window", |fate| matches!(fate, Fate::Outside(_)), paint));
    lines.extend(without(report, "cannot", "that no table can hold", |fate| fate == Fate::Impossible, paint));
    lines
}

fn what_is_mapped(report: &MapReport<'_>, sum: Sum) -> String {
    if sum.descriptors == 0 {
        return "nothing".into();
    }
    let mut text = amount(sum);
    let placed = report.regions.iter().filter(|placed| matches!(placed.fate, Fate::At(_)));
    let continuing = placed.filter(|placed| placed.continues_another()).count();
    if continuing > 0 {
        text += &format!(", merged to {}", sum.descriptors - continuing);
    }
    if report.contract.has_identity() {
        let mapped = report.regions.iter().filter(|placed| placed.fate.virt().is_some());
        let reaches = mapped.map(|placed| placed.region.end()).max().unwrap_or(0);
        text += if reaches > LOWER_HALF { "; and 1:1, as far as the lower half reaches" } else { "; and 1:1" };
    }
    text
}

fn virtual_range(report: &MapReport<'_>, first: u64, last: u64) -> String {
    let window = report.contract.window();
    let whole = u128::from(window.end().wrapping_offset_from(*window.start())) + 1;
    let used = u128::from(last - first) + 1;
    let share = match used * 1000 / whole {
        0 => "less than 0.1".into(),
        permille => format!("{}.{}", permille / 10, permille % 10),
    };
    format!("{first:#x}-{last:#x}: {}, {share} % of the window's {}", size(used), size(whole))
}

/// The virtual addresses that the map bears, if it does, against the layout's.
fn given(report: &MapReport<'_>, paint: Paint) -> Vec<String> {
    let Given { count, physical, others } = report.given();
    let text = match others.as_slice() {
        _ if count == 0 => return Vec::new(),
        [] => "the virtual addresses in the map are the layout's".into(),
        _ if physical == count => "the virtual addresses in the map are its physical ones".into(),
        others => {
            let named = named(report, others);
            format!("{} of {count} virtual addresses in the map are not the layout's: {named}", others.len())
        }
    };
    row("given", &text, paint)
}

/// The regions that the layout wants to map, and does not as it should.
fn without(
    report: &MapReport<'_>,
    label: &str,
    what: &str,
    is_meant: impl Fn(Fate) -> bool,
    paint: Paint,
) -> Vec<String> {
    let some = report.regions.iter().filter(|placed| is_meant(placed.fate));
    let some: Vec<usize> = some.map(|placed| placed.region.index).collect();
    if some.is_empty() {
        return Vec::new();
    }
    let text = format!("{} {what}: {}", counted(some.len() as u64, "descriptor"), named(report, &some));
    row(label, &text, paint).into_iter().map(|line| paint.wrong(line)).collect()
}

/// `0 (RuntimeServicesCode at 0x100000), 3 (...), and 2 more`.
fn named(report: &MapReport<'_>, indices: &[usize]) -> String {
    let regions = indices.iter().filter_map(|index| report.regions.get(*index)).take(MAX_NAMED);
    let name = |region: &Region| format!("{} ({} at {:#x})", region.index, type_name(region.ty), region.phys);
    let mut text = regions.map(|placed| name(&placed.region)).collect::<Vec<_>>().join(", ");
    if indices.len() > MAX_NAMED {
        text += &format!(", and {} more", indices.len() - MAX_NAMED);
    }
    text
}

/// First and last byte. Where there are none, that is where they would be.
fn pages_range(phys: u64, pages: u64, digits: usize) -> String {
    match u128::from(pages) * u128::from(PAGE_BYTES) {
        0 => format!("{phys:#0width$x}", width = digits + 2),
        bytes => range(phys, u128::from(phys) + bytes - 1, digits),
    }
}

fn range(first: u64, last: u128, digits: usize) -> String {
    let width = digits + 2;
    match u64::try_from(last) {
        Ok(last) => format!("{first:#0width$x}-{last:#0width$x}"),
        Err(_) => format!("{first:#0width$x}-past 2^64"),
    }
}

/// How many hexadecimal digits the addresses of a range have.
fn digits(first: u64, last: u128) -> usize {
    let last = u64::try_from(last).unwrap_or(first).max(first);
    format!("{last:x}").len().max(MIN_DIGITS)
}

/// RUNTIME, which decides, comes first.
fn attributes(attribute: MemoryAttribute) -> String {
    let mut names = attribute_names(attribute);
    names.sort_by_key(|name| name != "RUNTIME");
    names.join(" ")
}
