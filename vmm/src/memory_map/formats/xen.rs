//! Xen's `EFI memory map`, from its console or `xl dmesg`.
//!
//! ```text
//! (XEN) EFI memory map:
//! (XEN)  000007f28d000-000007f5f2fff type=6 attr=800000000000000f
//! ```
//!
//! Ends are inclusive, types decimal, attributes whole. Between `(XEN)` and a row may be a time in brackets, before it
//! what a serial console's logger writes.

use super::super::{MemoryAttribute, MemoryDescriptor};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::pages_through;
use super::log_prefix::find_marker;
use super::offset::{Offset, indent, suffix_at};
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::Xen,
    lines: 1,
    start,
    read,
    sample: "(XEN)  000007f28d000-000007f5f2fff type=6 attr=800000000000000f",
    headings: &["EFI memory map:"],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// Before each of Xen's lines.
const PREFIX: &str = "(XEN)";

/// Digits that addresses are padded to.
const ADDRESS_DIGITS: usize = 13;

/// A row is a range without blanks after Xen's prefix, even if it is cut; its E820 map has blanks or brackets in ranges. Rows
/// whose prefix is gone are known by their types.
fn start(line: &str) -> Option<usize> {
    let start = match find_marker(line, PREFIX) {
        Some(prefix) => {
            let after = &line[prefix.plus(PREFIX.len())..];
            let row = without_time(after.trim_start()).trim_start();
            suffix_at(line, row)
        }
        None => indent(line),
    };
    let row = &line[start..];
    let digits = row.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(row.len());
    let rest = &row[digits..];
    let is_address = digits >= 8 && row.starts_with(|digit: char| digit.is_ascii_digit());
    let has_prefix = start > 0 && line.contains(PREFIX);
    let is_row = match has_prefix {
        true => is_address && (rest.trim_end().is_empty() || rest.starts_with('-')),
        false => is_address && rest.starts_with('-') && rest.contains(" type=") && rest.contains(" attr="),
    };
    is_row.then_some(start)
}

/// Xen's `console_timestamps` are in brackets; its E820 rows are too, but hold a comma.
fn without_time(row: &str) -> &str {
    match row.strip_prefix('[').and_then(|row| row.split_once(']')) {
        Some((time, rest)) if !time.contains(',') => rest,
        _ => row,
    }
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let range_at = row.at;
    let phys_start = row.padded_hex("the start address", ADDRESS_DIGITS)?;
    row.literal("-")?;
    let last = row.padded_hex("the end address", ADDRESS_DIGITS)?;
    let range = row.since(range_at);
    row.literal(" type=")?;
    let ty = row.type_number()?;
    row.literal(" attr=")?;
    let att = MemoryAttribute::from_bits_retain(row.padded_hex("the attribute", 16)?);
    row.end()?;
    let page_count = pages_through(phys_start, last, range)?;
    Ok(Row::region(MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() }))
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryMap, MemoryType};
    use super::*;

    // As printed.
    const ROWS: &str = "\
(XEN) EFI memory map:
(XEN)  000007f28d000-000007f5f2fff type=6 attr=800000000000000f
(XEN)  000007ad00000-000007adfffff type=0 attr=070000000000000f
";

    fn error(text: &str) -> String {
        MemoryMap::parse_named("map", text).unwrap_err().to_string()
    }

    #[test]
    fn printed_rows_are_read() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let [data, reserved] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!(
            (data.ty, data.phys_start, data.page_count),
            (MemoryType::RUNTIME_SERVICES_DATA, 0x7f28_d000, 0x366)
        );
        assert_eq!((reserved.ty, reserved.att.bits()), (MemoryType::RESERVED, 0x0700_0000_0000_000f));
    }

    #[test]
    fn prefixes_of_logs_are_ignored() {
        let row = "000007f28d000-000007f5f2fff type=6 attr=800000000000000f";
        for prefix in
            ["(XEN)  ", "(XEN) [2021-03-04 05:06:07]  ", "(XEN) [    1.2345]  ", "[12:00:00] (XEN)  ", " ", ""]
        {
            assert_eq!(MemoryMap::parse(&format!("{prefix}{row}")).unwrap().descriptors().len(), 1, "{prefix}");
        }
    }

    #[test]
    fn other_lines_of_xen_are_no_rows() {
        for line in [
            "(XEN) EFI memory map:",
            "(XEN)  0000000000000000 - 000000000009fc00 (usable)",
            "(XEN)  [0000000000000000, 000000000009ffff] (usable)",
            "(XEN) 2 CPUs",
            "(XEN) Xen version 4.17",
            "(XEN)",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| error(&ROWS.replacen(from, to, 1));
        assert_eq!(
            with("f2fff", "f2ffe"),
            "map:2:8: from 0x7f28d000 to 0x7f5f2ffe is not a whole number of 4 KiB pages"
        );
        assert_eq!(
            with("000007f28d000", "000007f2-d000"),
            "map:2:8: the start address has 8 digits, but is printed with 13"
        );
        assert_eq!(with("type=6", "type=six"), "map:2:41: the type is no decimal number of 64 bits");
        assert_eq!(with("type=6", "type=4294967296"), "map:2:41: the type is no number of 32 bits");
        assert_eq!(
            with(" attr=800000000000000f", " attr=8000"),
            "map:2:48: the line ends in the middle of the attribute"
        );
        assert_eq!(with(" type=6 attr=800000000000000f", ""), "map:2:35: the line ends where ` type=` should be");
        assert_eq!(
            with("00-000007f5f2fff type=6 attr=800000000000000f", ""),
            "map:2:8: the line ends in the middle of the start address"
        );
    }
}
