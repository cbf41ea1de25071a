//! The two lines a descriptor of UEFI tutorials (UEFI-Lessons; before it, fpmurphy's).
//!
//! ```text
//! [#112] Type: EfiRuntimeServicesData  Attr:  UC WC WT WB RUNTIME
//!       Phys: 0000000007EF4000-0000000007F77FFF
//! ```
//!
//! The older one prints attributes as a number, ends half-open, and a third line `Virt:`, which is not read: it comes
//! before SetVirtualAddressMap. Which kind of end it is, the low bits tell: regions are whole pages. The type is
//! `EfiMaxMemoryType` for 15, which was the last when they were written, and `Unknown` beyond.

use super::super::error::quoted;
use super::super::names::parse_type;
use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::{Named, attribute_word, pages_through, pages_to, unknown_type};
use super::log_prefix::find_marker;
use super::offset::Offset;
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::UefiLessons,
    lines: 2,
    start,
    read,
    sample: "[#112] Type: EfiRuntimeServicesData  Attr:  UC WB RUNTIME` and `Phys: 0000000007EF4000-0000000007F77FFF",
    headings: &[],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// What comes before the number of a row.
const ROW: &str = "[#";

/// What is printed for a type beyond the known.
const NO_NAME: &str = "Unknown";

fn start(line: &str) -> Option<usize> {
    let start = find_marker(line, ROW)?;
    let number = &line[start.plus(ROW.len())..];
    let rest = number.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let is_numbered = rest.len() < number.len();
    (is_numbered && (rest.contains("Type") || rest.contains("Attr:") || rest.trim_end() == "]")).then_some(start)
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    row.literal(ROW)?;
    let number = row.decimal("the number of the row")?;
    row.literal("] Type: ")?;
    let (name, span) = row.word();
    let ty = memory_type(name).ok_or_else(|| unknown_type(name, span))?;
    row.gap("`Attr:`")?;
    row.literal("Attr:")?;
    let att = attributes(&mut row)?;
    row.blanks();
    row.literal("Phys: ")?;
    let range_at = row.at;
    let phys_start = row.padded_hex("the start address", 16)?;
    row.literal("-")?;
    let end = row.padded_hex("the end address", 16)?;
    let range = row.since(range_at);
    row.end()?;
    let is_half_open = end.wrapping_sub(phys_start).is_multiple_of(PAGE_BYTES);
    let pages = if is_half_open { pages_to } else { pages_through };
    let page_count = pages(phys_start, end, range)?;
    let descriptor = MemoryDescriptor { ty: MemoryType::RESERVED, phys_start, page_count, att, ..Default::default() };
    Ok(Row { number: Some(number), ..ty.row(descriptor, NO_NAME) })
}

fn memory_type(name: &str) -> Option<Named> {
    match name {
        NO_NAME => Some(Named::Lost),
        "EfiMaxMemoryType" => Some(Named::Type(MemoryType::UNACCEPTED)),
        _ => parse_type(name).map(Named::Type),
    }
}

/// Words, or one number, up to the end of the line.
fn attributes(row: &mut Cursor<'_>) -> Result<MemoryAttribute, Bad> {
    let mut all = MemoryAttribute::empty();
    loop {
        row.take_while(|c| c.is_whitespace() && c != '\n');
        if row.rest().starts_with('\n') || row.rest().is_empty() {
            return Ok(all);
        }
        if row.rest().starts_with("0x") {
            row.literal("0x")?;
            all |= MemoryAttribute::from_bits_retain(row.free_hex("the attribute")?);
            continue;
        }
        let (word, span) = row.word();
        all |= attribute_word(word).ok_or_else(|| Bad::new(span, format!("unknown attribute {}", quoted(word))))?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::MemoryMap;
    // From the tutorial, as printed.
    const ROWS: &str = "\
[#00] Type: EfiBootServicesCode  Attr:  UC WC WT WB
      Phys: 0000000000000000-0000000000000FFF
[#01] Type: EfiConventionalMemory  Attr:  UC WC WT WB
      Phys: 0000000000001000-000000000009FFFF
[#112] Type: EfiRuntimeServicesData  Attr:  UC WC WT WB RUNTIME
      Phys: 0000000007EF4000-0000000007F77FFF
";

    fn read_as(text: &str) -> Vec<(u32, u64, u64, u64)> {
        let map = MemoryMap::parse(text).unwrap();
        map.descriptors().iter().map(|d| (d.ty.0, d.phys_start, d.page_count, d.att.bits())).collect()
    }

    #[test]
    fn printed_rows_are_read() {
        let read = [(3, 0, 1, 0xf), (7, 0x1000, 0x9f, 0xf), (6, 0x7ef_4000, 0x84, 0x8000_0000_0000_000f)];
        assert_eq!(read_as(ROWS), read);
        assert_eq!(read_as(&ROWS.replace('\n', "\r\n")), read);
    }

    #[test]
    fn the_older_rows_are_read() {
        let text = "\
[#05] Type: EfiRuntimeServicesData  Attr: 0x800000000000000F
      Phys: 0000000007EF4000-0000000007F78000
      Virt: 0000000000000000-0000000000084000

";
        assert_eq!(read_as(text), [(6, 0x7ef_4000, 0x84, 0x8000_0000_0000_000f)]);
    }

    #[test]
    fn damage_is_pointed_at_in_either_line() {
        let with = |from: &str, to: &str| {
            assert!(ROWS.contains(from));
            MemoryMap::parse_named("map", &ROWS.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(
            with("EfiBootServicesCode", "EfiBootServiceCode"),
            "map:1:13: unknown memory type `EfiBootServiceCode`"
        );
        assert_eq!(with("WT WB\n", "WT WX\n"), "map:1:50: unknown attribute `WX`");
        assert_eq!(with("9FFFF", "9FFF"), "map:4:30: the line ends in the middle of the end address");
        assert_eq!(with("09FFFF", "09FFFE"), "map:4:13: from 0x1000 to 0x9fffe is not a whole number of 4 KiB pages");
        assert_eq!(with("      Phys: 0000000000001000-000000000009FFFF\n", ""), "map:4:1: expected `Phys: `");
    }
}
