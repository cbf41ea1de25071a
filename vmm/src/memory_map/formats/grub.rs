//! GRUB's `lsefimmap`.
//!
//! ```text
//! Type      Physical start  - end             #Pages        Size Attributes
//! RT-data   0000000007ef6000-0000000007f09fff 00000014     80KiB RT WB
//! ```
//!
//! Ends are inclusive, pages hexadecimal. The size is exact: its unit is the largest that leaves no rest. A type
//! without a name is `Unk`, with its number in hexadecimal; attributes without a word are not printed.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use super::super::error::quoted;
use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES};
use super::cursor::{Bad, Cursor};
use super::fields::{check_last, last_byte, unknown_type};
use super::offset::indent;
use super::row::{Row, RowFormat};
use super::{Format, Unwritable};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::Grub,
    lines: 1,
    start,
    read,
    sample: "RT-data   0000000007ef6000-0000000007f09fff 00000014     80KiB RT WB",
    headings: &["Type Physical start - end #Pages Size Attributes"],
    is_table: true,
    shares_lines: false,
    check: None,
};

/// Writes a map as GRUB would. It has no word for some attributes.
pub(in super::super) fn write(descriptors: &[MemoryDescriptor]) -> Result<String, Unwritable> {
    let mut text = String::from("Type      Physical start  - end             #Pages        Size Attributes\n");
    for (index, descriptor) in descriptors.iter().enumerate() {
        write_row(&mut text, descriptor).map_err(|what| Unwritable { index, what })?;
    }
    Ok(text)
}

/// Names by type.
const NAMES: [&str; 15] = [
    "reserved", "ldr-code", "ldr-data", "BS-code", "BS-data", "RT-code", "RT-data", "conv-mem", "unusable", "ACPI-rec",
    "ACPI-nvs", "MMIO", "IO-ports", "PAL-code", "persist",
];

/// What GRUB prints before the number of any other type.
const NO_NAME: &str = "Unk";

/// Words by attribute, in GRUB's order.
const WORDS: [(MemoryAttribute, &str); 12] = [
    (MemoryAttribute::RUNTIME, "RT"),
    (MemoryAttribute::UNCACHEABLE, "UC"),
    (MemoryAttribute::WRITE_COMBINE, "WC"),
    (MemoryAttribute::WRITE_THROUGH, "WT"),
    (MemoryAttribute::WRITE_BACK, "WB"),
    (MemoryAttribute::UNCACHABLE_EXPORTED, "UCE"),
    (MemoryAttribute::WRITE_PROTECT, "WP"),
    (MemoryAttribute::READ_PROTECT, "RP"),
    (MemoryAttribute::EXECUTE_PROTECT, "XP"),
    (MemoryAttribute::NON_VOLATILE, "NV"),
    (MemoryAttribute::MORE_RELIABLE, "MR"),
    (MemoryAttribute::READ_ONLY, "RO"),
];

/// Units of the size, by the power of two.
const UNITS: [(u32, &str); 6] = [(10, "KiB"), (20, "MiB"), (30, "GiB"), (40, "TiB"), (50, "PiB"), (60, "EiB")];

/// A row is a type's name and a number, or any word, a range and a size with a unit.
fn start(line: &str) -> Option<usize> {
    let start = indent(line);
    let row = &line[start..];
    let mut words = row.split_whitespace();
    let name = words.next()?;
    if name == NO_NAME {
        words.next()?;
    }
    let (range, pages, size) = (words.next()?, words.next(), words.next());
    let is_number = range.starts_with(|c: char| c.is_ascii_hexdigit());
    let has_size = size.is_some_and(|size| UNITS.iter().any(|(_, unit)| size.ends_with(unit)));
    // The shell has `reserved` and `MMIO` too, with wider numbers of pages and no size.
    let is_narrow = pages.is_none_or(|pages| pages.len() < 12 && pages.starts_with(|c: char| c.is_ascii_hexdigit()));
    let is_row = match NAMES.contains(&name) || name == NO_NAME {
        true => is_number && (has_size || is_narrow) && (range.contains('-') || pages.is_none()),
        false => is_number && range.contains('-') && has_size,
    };
    is_row.then_some(start)
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let ty = memory_type(&mut row)?;
    row.gap("the start address")?;
    let phys_start = row.padded_hex("the start address", 16)?;
    row.literal("-")?;
    let end_at = row.at;
    let last = row.padded_hex("the end address", 16)?;
    let end_span = row.since(end_at);
    row.gap("the number of pages")?;
    let page_count = row.padded_hex("the number of pages", 8)?;
    row.gap("the size")?;
    let (printed, size_span) = row.token();
    let att = row.attribute_words(' ')?;
    check_last(phys_start, page_count, last, end_span)?;
    check_size(printed, page_count, size_span)?;
    Ok(Row::region(MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() }))
}

fn memory_type(row: &mut Cursor<'_>) -> Result<MemoryType, Bad> {
    let (name, span) = row.word();
    if name == NO_NAME {
        row.gap("the number of the type")?;
        let at = row.at;
        let number = row.free_hex("the number of the type")?;
        let span = row.since(at);
        return u32::try_from(number).map(MemoryType).map_err(|_| Bad::new(span, "the type is no number of 32 bits"));
    }
    let index = NAMES.iter().position(|known| *known == name).and_then(|index| u32::try_from(index).ok());
    index.map(MemoryType).ok_or_else(|| unknown_type(name, span))
}

/// Compares bytes modulo 2^64, as GRUB counts them.
fn check_size(printed: &str, pages: u64, span: Range<usize>) -> Result<(), Bad> {
    let digits = printed.find(|c: char| !c.is_ascii_digit()).unwrap_or(printed.len());
    let shift = UNITS.iter().find(|(_, unit)| *unit == &printed[digits..]).map(|(shift, _)| *shift);
    let (Ok(count), Some(shift)) = (printed[..digits].parse::<u64>(), shift) else {
        return Err(Bad::new(span, format!("the size {} is no number with KiB, MiB, ...", quoted(printed))));
    };
    if count.checked_mul(1 << shift) == Some(pages.wrapping_mul(PAGE_BYTES)) {
        return Ok(());
    }
    Err(Bad::new(span, format!("the size is {printed}, but {pages:#x} pages are {}", size(pages))))
}

fn write_row(text: &mut String, descriptor: &MemoryDescriptor) -> Result<(), String> {
    let start = descriptor.phys_start;
    let last = last_byte(start, descriptor.page_count);
    let pages = descriptor.page_count;
    // Writing to a string does not fail.
    let _ = write!(text, "{:9} {start:016x}-{last:016x} {pages:08x} {:>9}", name(descriptor.ty), size(pages));
    let mut rest = descriptor.att;
    for (bit, word) in WORDS {
        if rest.contains(bit) {
            let _ = write!(text, " {word}");
            rest.remove(bit);
        }
    }
    text.push('\n');
    match rest.is_empty() {
        true => Ok(()),
        false => Err(format!("GRUB has no word for the attributes {}", super::super::attribute_names(rest).join("|"))),
    }
}

fn name(ty: MemoryType) -> Cow<'static, str> {
    let name = usize::try_from(ty.0).ok().and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("{NO_NAME} {:02x}", ty.0).into(), |name| Cow::Borrowed(*name))
}

/// So many pages in the largest unit that leaves no rest.
fn size(pages: u64) -> String {
    let bytes = pages.wrapping_mul(PAGE_BYTES);
    let whole = |(shift, _): &&(u32, &str)| bytes.trailing_zeros() >= *shift;
    let (shift, unit) = UNITS.iter().rev().find(whole).unwrap_or(&UNITS[0]);
    format!("{}{unit}", bytes >> shift)
}

#[cfg(test)]
mod tests {
    use super::super::super::MemoryMap;
    use super::*;

    // As printed.
    const ROWS: &str = "\
Type      Physical start  - end             #Pages        Size Attributes
reserved  0000000000000000-0000000000000fff 00000001      4KiB WB
RT-data   0000000007ef6000-0000000007f09fff 00000014     80KiB RT WB
";

    fn error(text: &str) -> String {
        MemoryMap::parse_named("map", text).unwrap_err().to_string()
    }

    #[test]
    fn printed_rows_are_read() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let [reserved, data] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!((reserved.ty, reserved.page_count), (MemoryType::RESERVED, 1));
        assert_eq!((data.ty, data.phys_start, data.page_count), (MemoryType::RUNTIME_SERVICES_DATA, 0x7ef_6000, 0x14));
        assert_eq!((data.att.bits(), map.format()), (0x8000_0000_0000_0008, Some(Format::Grub)));
    }

    #[test]
    fn printed_rows_are_written() {
        assert_eq!(write(MemoryMap::parse(ROWS).unwrap().descriptors()).unwrap(), ROWS);
    }

    #[test]
    fn a_type_without_a_name_is_its_number() {
        let text = "Unk 70000000    0000000000000000-0000000000000fff 00000001      4KiB WB\n";
        assert_eq!(MemoryMap::parse(text).unwrap().descriptors()[0].ty, MemoryType(0x7000_0000));
        let text = "Unk 0f    0000000000000000-0000000000000fff 00000001      4KiB UC\n";
        assert_eq!(MemoryMap::parse(text).unwrap().descriptors()[0].ty, MemoryType::UNACCEPTED);
    }

    #[test]
    fn sizes_have_the_largest_unit_that_leaves_no_rest() {
        for (pages, text) in [
            (0, "0EiB"),
            (1, "4KiB"),
            (0x100, "1MiB"),
            (0x101, "1028KiB"),
            (0x300_0000, "192GiB"),
            (1 << 28, "1TiB"),
            ((1 << 28) + 1, "1073741828KiB"),
            (1 << 38, "1PiB"),
            (1 << 48, "1EiB"),
        ] {
            assert_eq!(size(pages), text);
            assert!(check_size(text, pages, 0..0).is_ok(), "{text}");
            assert!(check_size(text, pages + 1, 0..0).is_err(), "{text}");
        }
    }

    #[test]
    fn attributes_without_a_word_cannot_be_written() {
        let att = MemoryAttribute::WRITE_BACK | MemoryAttribute::SPECIAL_PURPOSE;
        let refused =
            write(&[MemoryDescriptor::default(), MemoryDescriptor { att, ..Default::default() }]).unwrap_err();
        assert_eq!((refused.index, refused.what.as_str()), (1, "GRUB has no word for the attributes SP"));
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(ROWS.contains(from));
            error(&ROWS.replacen(from, to, 1))
        };
        assert_eq!(with("RT-data", "RT-date"), "map:3:1: unknown memory type `RT-date`");
        assert_eq!(
            with("7f09fff", "7f08fff"),
            "map:3:28: the end is 0x7f08fff, but 0x14 pages from 0x7ef6000 end at 0x7f09fff"
        );
        assert_eq!(with("80KiB", "84KiB"), "map:3:58: the size is 84KiB, but 0x14 pages are 80KiB");
        assert_eq!(with("80KiB", "80Kib"), "map:3:58: the size `80Kib` is no number with KiB, MiB, ...");
        assert_eq!(with("RT WB", "RT WX"), "map:3:67: unknown attribute `WX`");
        assert_eq!(
            with("00000014     80KiB RT WB", "0000"),
            "map:3:45: the line ends in the middle of the number of pages"
        );
    }

    #[test]
    fn other_tables_and_prose_are_no_rows() {
        for line in [
            "Type      Physical start  - end             #Pages        Size Attributes",
            "MMIO       0000010000000000-00000100201FFFFF 0000000000020200 800000000000100D",
            "reserved    0000000001B50000-0000000001D4FFFF   0000000000000200 0000000000000009",
            "reserved for later",
            "total 5 - 6 MiB",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }
}
