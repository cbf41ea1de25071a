//! The UEFI shell's `memmap` command, of EDK II and of the EFI shell before it.
//!
//! ```text
//! Type       Start            End              # Pages          Attributes
//! RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F
//! 80000001   000000008EF3E000-000000008EF3EFFF 0000000000000001 000000000000000F
//!
//!   RT_Data   :          1,290 Pages (5,283,840 Bytes)
//! ```
//!
//! Ends are inclusive. Types of OEMs and operating systems are printed as hexadecimal numbers. The older shell writes
//! some names in lower case (`available`, `RT_data`), two blanks before the pages, and no `Bytes` in the totals.
//! Redirected to a file, all of it is UTF-16.
//!
//! The totals are a checksum: a region lost or edited shows there. `Unusable` has no total, and before EDK II had one
//! for `Persistent` it counted such pages as `Available`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::oddity::{Oddity, OddityKind};
use super::super::{MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES, type_name};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::{check_last, last_byte, unknown_type};
use super::offset::{Offset, indent};
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::UefiShell,
    lines: 1,
    start,
    read,
    sample: "RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F",
    headings: &["Type Start End # Pages Attributes", "MemoryMap:"],
    is_table: true,
    shares_lines: false,
    check: Some(check),
};

/// Writes a map as the shell would, with the totals.
pub(in super::super) fn write(descriptors: &[MemoryDescriptor]) -> String {
    let mut text = String::from("Type       Start            End              # Pages          Attributes\n");
    for descriptor in descriptors {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:10} {:016X}-{:016X} {:016X} {:016X}",
            name(descriptor.ty),
            descriptor.phys_start,
            last_byte(descriptor.phys_start, descriptor.page_count),
            descriptor.page_count,
            descriptor.att.bits(),
        );
    }
    text.push('\n');
    write_totals(&mut text, descriptors);
    text
}

/// Short names by type, as EDK II prints them.
const NAMES: [&str; 16] = [
    "Reserved",
    "LoaderCode",
    "LoaderData",
    "BS_Code",
    "BS_Data",
    "RT_Code",
    "RT_Data",
    "Available",
    "Unusable",
    "ACPI_Recl",
    "ACPI_NVS",
    "MMIO",
    "MMIO_Port",
    "PalCode",
    "Persistent",
    "Unaccepted",
];

/// Names that the older shell has and EDK II lacks, apart from upper and lower case.
const OLD_NAMES: [(&str, MemoryType); 3] =
    [("MemMapIO", MemoryType::MMIO), ("MemPortIO", MemoryType::MMIO_PORT_SPACE), ("PAL_code", MemoryType::PAL_CODE)];

/// The types in the order of EDK II's totals: `Unusable` has none.
const TOTALS: [MemoryType; 15] = [
    MemoryType::RESERVED,
    MemoryType::LOADER_CODE,
    MemoryType::LOADER_DATA,
    MemoryType::BOOT_SERVICES_CODE,
    MemoryType::BOOT_SERVICES_DATA,
    MemoryType::RUNTIME_SERVICES_CODE,
    MemoryType::RUNTIME_SERVICES_DATA,
    MemoryType::ACPI_RECLAIM,
    MemoryType::ACPI_NON_VOLATILE,
    MemoryType::MMIO,
    MemoryType::MMIO_PORT_SPACE,
    MemoryType::PAL_CODE,
    MemoryType::UNACCEPTED,
    MemoryType::CONVENTIONAL,
    MemoryType::PERSISTENT_MEMORY,
];

/// A row is a type of the shell's and an address range, or any word and columns as wide as the shell's. GRUB has
/// `reserved` too, but a narrower third column and a size; FreeBSD has `LoaderCode`, but no range.
fn start(line: &str) -> Option<usize> {
    let start = indent(line);
    let mut words = line[start..].split_whitespace();
    let (name, range, pages, attribute) = (words.next()?, words.next()?, words.next(), words.next());
    let is_number = |column: &str| column.starts_with(|c: char| c.is_ascii_hexdigit());
    let has_range = is_number(range) && (range.contains('-') || pages.is_none());
    let is_size = attribute.is_some_and(|attribute| attribute.ends_with("iB"));
    let is_wide = pages.is_some_and(|pages| is_number(pages) && pages.len() >= 12) && !is_size;
    let is_cut = pages.is_none_or(|pages| is_number(pages) && attribute.is_none());
    let is_row = match parse_name(name) {
        Some(_) => has_range && (is_wide || is_cut),
        None => range.contains('-') && has_range && is_wide,
    };
    is_row.then_some(start)
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let (name, span) = row.word();
    let ty = parse_name(name).ok_or_else(|| unknown_type(name, span))?;
    row.gap("the start address")?;
    let phys_start = row.padded_hex("the start address", 16)?;
    row.literal("-")?;
    let end_at = row.at;
    let last = row.padded_hex("the end address", 16)?;
    let end_span = row.since(end_at);
    row.gap("the number of pages")?;
    let page_count = row.padded_hex("the number of pages", 16)?;
    row.gap("the attribute")?;
    let att = MemoryAttribute::from_bits_retain(row.padded_hex("the attribute", 16)?);
    row.end()?;
    check_last(phys_start, page_count, last, end_span)?;
    Ok(Row::region(MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() }))
}

/// What the shell calls a type; others by their number.
fn name(ty: MemoryType) -> Cow<'static, str> {
    let name = usize::try_from(ty.0).ok().and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("{:08X}", ty.0).into(), |name| Cow::Borrowed(*name))
}

/// The type of a name, or of a number where the shell has none.
pub(super) fn parse_name(text: &str) -> Option<MemoryType> {
    if let Some(index) = NAMES.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return u32::try_from(index).ok().map(MemoryType);
    }
    if let Some((_, ty)) = OLD_NAMES.iter().find(|(name, _)| *name == text) {
        return Some(*ty);
    }
    let is_number = text.len() == 8 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_number { u32::from_str_radix(text, 16).ok().map(MemoryType) } else { None }
}

fn write_totals(text: &mut String, descriptors: &[MemoryDescriptor]) {
    let totals = totals(descriptors);
    let others = totals.keys().filter(|ty| usize::try_from(ty.0).is_ok_and(|index| index >= NAMES.len()));
    let mut all = 0_u64;
    for ty in TOTALS.iter().chain(others) {
        let pages = totals.get(ty).copied().unwrap_or_default();
        let bytes = pages.wrapping_mul(PAGE_BYTES);
        let _ = writeln!(text, "  {:10}:{:>15} Pages ({} Bytes)", name(*ty), grouped(pages), grouped(bytes));
        // As the help of the command has it; Unusable, which does not count either, is not among these.
        if !matches!(*ty, MemoryType::RESERVED | MemoryType::MMIO | MemoryType::MMIO_PORT_SPACE) {
            all = all.wrapping_add(bytes);
        }
    }
    let _ = writeln!(text, "              --------------");
    let _ = writeln!(text, "Total Memory:{:>15} MB ({} Bytes)", grouped(all >> 20), grouped(all));
}

/// The pages of each type, modulo 2^64 as the shell counts them.
fn totals(descriptors: &[MemoryDescriptor]) -> BTreeMap<MemoryType, u64> {
    let mut totals = BTreeMap::new();
    for descriptor in descriptors {
        let total: &mut u64 = totals.entry(descriptor.ty).or_default();
        *total = total.wrapping_add(descriptor.page_count);
    }
    totals
}

/// Compares the totals that the text gives with those of the rows. Types without a total are not compared: the text
/// may be an excerpt.
fn check(text: &str, map: &mut MemoryMap) {
    let first = map.line(0).unwrap_or(1);
    let printed: Vec<Total> = text.lines().zip(first..).filter_map(total).collect();
    let mut counted = totals(map.descriptors());
    if !printed.iter().any(|total| total.ty == MemoryType::PERSISTENT_MEMORY) {
        let persistent = counted.remove(&MemoryType::PERSISTENT_MEMORY).unwrap_or_default();
        let available = counted.entry(MemoryType::CONVENTIONAL).or_default();
        *available = available.wrapping_add(persistent);
    }
    let last = map.descriptors().len().saturating_sub(1);
    for total in printed {
        let pages = counted.get(&total.ty).copied().unwrap_or_default();
        if pages != total.pages {
            map.notes.push(total.mismatch(pages, last));
        }
    }
}

/// Whether a line is a total, below a list.
pub(super) fn is_total(line: &str) -> bool {
    line.contains(" Pages (") && total((line, 0)).is_some()
}

/// `  RT_Data   :          1,290 Pages (5,283,840 Bytes)`
struct Total {
    line: usize,
    ty: MemoryType,
    pages: u64,
}

fn total((text, line): (&str, usize)) -> Option<Total> {
    let (name, rest) = text.split_once(':')?;
    let ty = parse_name(name.trim())?;
    let (pages, _) = rest.split_once(" Pages")?;
    let pages = pages.trim().replace(',', "").parse().ok()?;
    Some(Total { line, ty, pages })
}

impl Total {
    fn mismatch(&self, counted: u64, index: usize) -> Oddity {
        let Self { line, ty, pages } = self;
        let message = format!(
            "line {line} counts {pages} pages of {}, the rows {counted}: rows are missing, or were edited",
            type_name(*ty),
        );
        Oddity { kind: OddityKind::SizeMismatch, index, other: None, message }
    }
}

/// A number with commas between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len().plus(digits.len() / 3));
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && digits.len().minus(index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::super::super::oddities;
    use super::*;

    // From an ASRock board, as printed; its totals are those of these rows.
    const ROWS: &str = "\
Type       Start            End              # Pages          Attributes
RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F
MMIO       0000010000000000-00000100201FFFFF 0000000000020200 800000000000100D

  RT_Data   :          1,290 Pages (5,283,840 Bytes)
  MMIO      :        131,584 Pages (538,968,064 Bytes)
              --------------
Total Memory:              5 MB (5,283,840 Bytes)
";

    fn error(text: &str) -> String {
        MemoryMap::parse_named("map", text).unwrap_err().to_string()
    }

    fn notes(text: &str) -> Vec<String> {
        let map = MemoryMap::parse(text).unwrap();
        oddities(&map).into_iter().filter(|oddity| oddity.kind.is_of_text()).map(|oddity| oddity.message).collect()
    }

    #[test]
    fn printed_rows_are_read() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let [data, mmio] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!(
            (data.ty, data.phys_start, data.page_count),
            (MemoryType::RUNTIME_SERVICES_DATA, 0x8ea3_4000, 0x50a)
        );
        assert_eq!((mmio.ty, mmio.att.bits()), (MemoryType::MMIO, 0x8000_0000_0000_100d));
        assert_eq!((map.format(), map.line(1)), (Some(Format::UefiShell), Some(3)));
        assert_eq!(notes(ROWS), [""; 0]);
    }

    #[test]
    fn the_older_shells_rows_are_read() {
        // From public logs, as printed.
        let text = "\
Type       Start            End               # Pages          Attributes
available  000000007EE6F000-000000007EE7EFFF  0000000000000010 000000000000000F
RT_data    000000007EE7F000-000000007EEAAFFF  000000000000002C 800000000000000F
reserved    0000000001B50000-0000000001D4FFFF   0000000000000200 0000000000000009

  reserved  :     512 Pages (2,097,152)
  RT_data   :      44 Pages (180,224)
  available :      16 Pages (65,536)
";
        let map = MemoryMap::parse(text).unwrap();
        let types: Vec<_> = map.descriptors().iter().map(|descriptor| descriptor.ty).collect();
        assert_eq!(types, [MemoryType::CONVENTIONAL, MemoryType::RUNTIME_SERVICES_DATA, MemoryType::RESERVED]);
        assert_eq!(notes(text), [""; 0]);
    }

    #[test]
    fn types_without_a_name_are_numbers() {
        let text = "80000001   000000008EF3E000-000000008EF3EFFF 0000000000000001 000000000000000F\n";
        assert_eq!(MemoryMap::parse(text).unwrap().descriptors()[0].ty, MemoryType(0x8000_0001));
    }

    #[test]
    fn totals_that_are_not_the_rows_are_noted_with_both_numbers() {
        let lost = ROWS.replacen("MMIO       0", "# MMIO     0", 1);
        assert_eq!(
            notes(&lost),
            ["line 6 counts 131584 pages of MemoryMappedIO, the rows 0: rows are missing, or were edited"]
        );
        assert_eq!(
            notes(&ROWS.replace("1,290", "1,291")),
            ["line 5 counts 1291 pages of RuntimeServicesData, the rows 1290: rows are missing, or were edited"]
        );
    }

    #[test]
    fn persistent_memory_without_a_total_counts_as_available() {
        let row = "Persistent 0000000100000000-0000000100001FFF 0000000000000002 000000000000800F\n";
        assert_eq!(notes(&format!("{row}  Available :              2 Pages (8,192)\n")), [""; 0]);
        let own = "  Available :              0 Pages (0)\n  Persistent:              2 Pages (8,192)\n";
        assert_eq!(notes(&format!("{row}{own}")), [""; 0]);
        assert_eq!(notes(&format!("{row}  Available :              0 Pages (0)\n")).len(), 1);
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(ROWS.contains(from));
            error(&ROWS.replacen(from, to, 1))
        };
        assert_eq!(with("RT_Data ", "RT_Date "), "map:2:1: unknown memory type `RT_Date`");
        assert_eq!(
            with("8EF3DFFF", "8EF3CFFF"),
            "map:2:29: the end is 0x8ef3cfff, but 0x50a pages from 0x8ea34000 end at 0x8ef3dfff"
        );
        assert_eq!(with("8EA34000-", "8EA3400-"), "map:2:12: the start address has 15 digits, but is printed with 16");
        assert_eq!(with("050A ", "05OA "), "map:2:60: the number of pages has `OA` among its hexadecimal digits");
        assert_eq!(with("800000000000000F\n", "80000000\n"), "map:2:63: the line ends in the middle of the attribute");
        assert_eq!(with(" 800000000000000F\n", "\n"), "map:2:62: the line ends where the attribute should be");
        assert_eq!(with("000F\n", "000F WB\n"), "map:2:80: the row is followed by `WB`");
    }

    #[test]
    fn other_tables_and_prose_are_no_rows() {
        for line in [
            "Type       Start            End              # Pages          Attributes",
            "  RT_Data   :          1,290 Pages (5,283,840 Bytes)",
            "              --------------",
            "reserved  0000000000000000-0000000000000fff 00000001      4KiB WB",
            "             LoaderData 0000f6b28000 0000f6b28000 00005208 WB ",
            "BOOT DATA        0000000004000000-0000000004200000 WB",
            "Available memory is 5 - 6 MB",
            "MMIO and MMIO_Port",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
        assert_eq!(start("RT_Data    000000008EA3"), Some(0));
    }

    #[test]
    fn totals_are_written_as_they_are_printed() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let text = write(map.descriptors());
        for line in ROWS.lines().filter(|line| !line.is_empty()) {
            assert!(text.lines().any(|written| written == line), "{line} not in\n{text}");
        }
    }
}
