//! U-Boot's `efidebug memmap`.
//!
//! ```text
//! Type             Start            End              Attributes
//! ================ ================ ================ ==========
//! RUNTIME DATA     000000003eac1000-000000003eac2000 WB|RT
//! ```
//!
//! Ends are half-open. Attributes are those U-Boot has a word for; it prints UC twice, and XP as `WP`, so that a
//! `WP|WP` is both. A type without a name is `(unknown)`.

use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::{pages_to, type_named, unknown_type};
use super::offset::{Offset, indent};
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::UBoot,
    lines: 1,
    start,
    read,
    sample: "RUNTIME DATA     000000003eac1000-000000003eac2000 WB|RT",
    headings: &["Type Start End Attributes"],
    is_table: true,
    shares_lines: false,
    check: None,
};

/// Names by type.
const NAMES: [&str; 16] = [
    "RESERVED",
    "LOADER CODE",
    "LOADER DATA",
    "BOOT CODE",
    "BOOT DATA",
    "RUNTIME CODE",
    "RUNTIME DATA",
    "CONVENTIONAL",
    "UNUSABLE MEM",
    "ACPI RECLAIM MEM",
    "ACPI NVS",
    "IO",
    "IO PORT",
    "PAL",
    "PERSISTENT",
    "UNACCEPTED",
];

/// What U-Boot prints for any other type.
const NO_NAME: &str = "(unknown)";

const ADDRESS_DIGITS: usize = 16;

/// A row is a type's name and a number, or anything in capital letters and a range as wide as U-Boot's with no column
/// of digits after it.
fn start(line: &str) -> Option<usize> {
    let start = indent(line);
    let row = &line[start..];
    let (name, rest) = split_name(row);
    let is_number = rest.starts_with(|c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase());
    let (range, after) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
    let is_range = range.len() > 2 * ADDRESS_DIGITS - 4 && range.contains('-');
    let is_ours = !after.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let is_capital = !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == ' ');
    let is_named = NAMES.contains(&name) || name == NO_NAME;
    let is_row = is_number
        && (is_named && (is_range || after.trim().is_empty() && range.len() >= 4) || is_capital && is_range && is_ours);
    is_row.then_some(start)
}

/// The name, which has blanks in it, ends where a number starts.
fn split_name(row: &str) -> (&str, &str) {
    let number = row
        .match_indices(' ')
        .map(|(at, _)| at.plus(1))
        .find(|at| row[*at..].starts_with(|c: char| c.is_ascii_digit()));
    let (name, rest) = row.split_at(number.unwrap_or(row.len()));
    (name.trim_end(), rest)
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let (name, _) = split_name(row.rest());
    let span = row.span(name.len());
    let ty = type_named(name, &NAMES, NO_NAME).ok_or_else(|| unknown_type(name, span))?;
    row.skip(name.len());
    row.gap("the start address")?;
    let range_at = row.at;
    let phys_start = row.padded_hex("the start address", ADDRESS_DIGITS)?;
    row.literal("-")?;
    let end = row.padded_hex("the end address", ADDRESS_DIGITS)?;
    let range = row.since(range_at);
    let att = attributes(&mut row)?;
    let page_count = pages_to(phys_start, end, range)?;
    let descriptor = MemoryDescriptor { ty: MemoryType::RESERVED, phys_start, page_count, att, ..Default::default() };
    Ok(ty.row(descriptor, NO_NAME))
}

fn attributes(row: &mut Cursor<'_>) -> Result<MemoryAttribute, Bad> {
    row.blanks();
    let is_both = row.rest().contains("WP|WP");
    let mut all = row.attribute_words('|')?;
    if is_both {
        all |= MemoryAttribute::EXECUTE_PROTECT;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryMap, oddities};
    use super::*;

    // From an arm64 board, as printed.
    const ROWS: &str = "\
Type             Start            End              Attributes
================ ================ ================ ==========
CONVENTIONAL     0000000000000000-0000000004000000 WB
RUNTIME DATA     000000003eac1000-000000003eac2000 WB|RT
RUNTIME CODE     000000003ff00000-000000003ff10000 WB|RT
";

    fn error(text: &str) -> String {
        MemoryMap::parse_named("map", text).unwrap_err().to_string()
    }

    #[test]
    fn printed_rows_are_read() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let [conventional, data, code] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!((conventional.ty, conventional.page_count), (MemoryType::CONVENTIONAL, 0x4000));
        assert_eq!((data.phys_start, data.page_count), (0x3eac_1000, 1));
        assert_eq!((code.page_count, code.att.bits()), (0x10, 0x8000_0000_0000_0008));
    }

    #[test]
    fn no_attributes_and_doubled_ones_are_read() {
        let text = "IO               00000000fe000000-00000000fe001000\nBOOT CODE        0000000000000000-0000000000001000 UC|UC|WP|WP|REL\n";
        let map = MemoryMap::parse(text).unwrap();
        let attributes: Vec<_> = map.descriptors().iter().map(|descriptor| descriptor.att.bits()).collect();
        assert_eq!(attributes, [0, 0x1_5001]);
    }

    #[test]
    fn a_type_without_a_name_is_noted() {
        let map = MemoryMap::parse(&ROWS.replace("RUNTIME DATA", "(unknown)   ")).unwrap();
        assert!(oddities(&map).iter().any(|oddity| oddity.kind.name() == "lost-type" && oddity.index == 1));
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(ROWS.contains(from));
            error(&ROWS.replacen(from, to, 1))
        };
        assert_eq!(with("RUNTIME DATA", "RUNTIME DATE"), "map:4:1: unknown memory type `RUNTIME DATE`");
        assert_eq!(
            with("3eac2000", "3eac2800"),
            "map:4:18: from 0x3eac1000 to 0x3eac2800 is not a whole number of 4 KiB pages"
        );
        assert_eq!(with("3eac2000", "3eab2000"), "map:4:18: the end 0x3eab2000 is before the start 0x3eac1000");
        assert_eq!(with("3eac2000", "3eac20"), "map:4:35: the end address has 14 digits, but is printed with 16");
        assert_eq!(with("3eac2000 WB|RT", "3ea"), "map:4:35: the line ends in the middle of the end address");
        assert_eq!(with("WB|RT", "WB|RX"), "map:4:55: unknown attribute `RX`");
    }

    #[test]
    fn other_tables_and_prose_are_no_rows() {
        for line in [
            "Type             Start            End              Attributes",
            "================ ================ ================ ==========",
            "MMIO       0000010000000000-00000100201FFFFF 0000000000020200 800000000000100D",
            "IO port 80",
            "RESERVED",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }
}
