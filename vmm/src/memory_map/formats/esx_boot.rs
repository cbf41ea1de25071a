//! The log of VMware's esx-boot.
//!
//! ```text
//! MMap[25]: 0x713d4000 - 0x71495fff len=794624, type=2, attr=0xf
//! ```
//!
//! Ends are inclusive, the length is in bytes, the type decimal.

use super::super::{MemoryAttribute, MemoryDescriptor, PAGE_BYTES};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::check_last;
use super::log_prefix::find_marker;
use super::offset::Offset;
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::EsxBoot,
    lines: 1,
    start,
    read,
    sample: "MMap[25]: 0x713d4000 - 0x71495fff len=794624, type=2, attr=0xf",
    headings: &[],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// What comes before the number of a row.
const ROW: &str = "MMap[";

fn start(line: &str) -> Option<usize> {
    let start = find_marker(line, ROW)?;
    line[start.plus(ROW.len())..].starts_with(|digit: char| digit.is_ascii_digit()).then_some(start)
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    row.literal(ROW)?;
    let number = row.decimal("the number of the row")?;
    row.literal("]: 0x")?;
    let phys_start = row.free_hex("the start address")?;
    row.literal(" - 0x")?;
    let end_at = row.at;
    let last = row.free_hex("the end address")?;
    let end_span = row.since(end_at);
    row.literal(" len=")?;
    let length_at = row.at;
    let bytes = row.free_decimal("the length")?;
    let length_span = row.since(length_at);
    row.literal(", type=")?;
    let ty = row.type_number()?;
    row.literal(", attr=0x")?;
    let att = MemoryAttribute::from_bits_retain(row.free_hex("the attribute")?);
    row.end()?;
    if !bytes.is_multiple_of(PAGE_BYTES) {
        return Err(Bad::new(length_span, format!("{bytes} bytes are not a whole number of 4 KiB pages")));
    }
    let page_count = bytes / PAGE_BYTES;
    check_last(phys_start, page_count, last, end_span)?;
    let descriptor = MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() };
    Ok(Row { number: Some(number), ..Row::region(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryMap, MemoryType};
    use super::*;

    // As printed.
    const ROWS: &str = "\
MMap[25]: 0x713d4000 - 0x71495fff len=794624, type=2, attr=0xf
MMap[26]: 0x71496000 - 0x7149ffff len=40960, type=7, attr=0xf
";

    #[test]
    fn printed_rows_are_read() {
        let map = MemoryMap::parse(&format!("Loading ESX\n{}", ROWS.replace("MMap", "2021 boot: MMap"))).unwrap();
        let [data, free] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!((data.ty, data.phys_start, data.page_count), (MemoryType::LOADER_DATA, 0x713d_4000, 0xc2));
        assert_eq!((free.ty, free.page_count, free.att.bits()), (MemoryType::CONVENTIONAL, 10, 0xf));
        assert_eq!(start("MMap[] of the machine"), None);
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(ROWS.contains(from));
            MemoryMap::parse_named("map", &ROWS.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(
            with("71495fff", "71494fff"),
            "map:1:26: the end is 0x71494fff, but 0xc2 pages from 0x713d4000 end at 0x71495fff"
        );
        assert_eq!(with("794624", "794625"), "map:1:39: 794625 bytes are not a whole number of 4 KiB pages");
        assert_eq!(with("type=2", "type=two"), "map:1:52: the type is no decimal number of 64 bits");
        assert_eq!(with(", attr=0xf", ""), "map:1:53: the line ends where `, attr=0x` should be");
        assert_eq!(with("attr=0xf", "attr=0x"), "map:1:62: the attribute is missing");
        assert_eq!(with("MMap[25]:", "MMap[25:"), "map:1:8: expected `]: 0x`");
    }
}
