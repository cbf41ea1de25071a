//! The `OCMM:` rows of OpenCore's log.
//!
//! ```text
//! 00:000 00:000 OCMM: RT Code   [RUN|   |  |  |  |  |XP|  |  |   |  |  |  |  ] 0x000000004D81A000-0x000000004D838FFF -> 0x0000000000000000 (124 KB)
//! ```
//!
//! Ends are inclusive, the size is rounded down, the virtual address is cut to its low 32 bits. OpenCore prints its
//! Memory Attributes Table and maps in the same rows, under headings (`OCMM: MemoryAttributesTable:`, `OCMM:
//! MemoryMap:`) that excerpts lack. An entry tells itself: it has RUNTIME and no cacheability, because the table has
//! permissions only (UEFI 2.10, section 4.6.4); regions of a map that have RUNTIME say how they may be cached.

use std::ops::Range;

use super::super::error::quoted;
use super::super::oddity::OddityKind;
use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::{attribute_word, is_entry, pages_through, type_named, unknown_type};
use super::log_prefix::find_marker;
use super::offset::{Offset, span};
use super::row::{Row, RowFormat, RowKind};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::OpenCore,
    lines: 1,
    start,
    read,
    sample: "OCMM: RT Code   [RUN|...|UC] 0xSTART-0xEND -> 0xVIRT (124 KB)",
    headings: &["OCMM: MemoryMap:"],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// Before each of these lines.
const PREFIX: &str = "OCMM: ";

/// Names by type.
const NAMES: [&str; 16] = [
    "Reserved",
    "LDR Code",
    "LDR Data",
    "BS Code",
    "BS Data",
    "RT Code",
    "RT Data",
    "Available",
    "Unusable",
    "ACPI RECL",
    "ACPI NVS",
    "MemMapIO",
    "MemPortIO",
    "PAL Code",
    "Persist",
    "Unaccepted",
];

/// What OpenCore prints for any other type.
const NO_NAME: &str = "Invalid";

/// A row has a type's name after the prefix, or flags in brackets.
fn start(line: &str) -> Option<usize> {
    let prefix = find_marker(line, PREFIX)?;
    let row = &line[prefix.plus(PREFIX.len())..];
    let name = row.split('[').next().unwrap_or_default().trim_end();
    let is_row = NAMES.contains(&name) || name == NO_NAME || (row.contains('[') && row.contains('|'));
    is_row.then_some(prefix)
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    row.literal(PREFIX)?;
    let (name, name_span) = row.take_while(|c| c != '[');
    let name = name.trim_end();
    let ty = type_named(name, &NAMES, NO_NAME).ok_or_else(|| unknown_type(name, span(name_span.start, name.len())))?;
    let att = flags(&mut row)?;
    row.literal(" 0x")?;
    let range_at = row.at;
    let phys_start = row.padded_hex("the start address", 16)?;
    row.literal("-0x")?;
    let last = row.padded_hex("the end address", 16)?;
    let range = row.since(range_at);
    row.literal(" -> 0x")?;
    let printed_virt = row.padded_hex("the virtual address", 16)?;
    row.literal(" (")?;
    let page_count = pages_through(phys_start, last, range)?;
    size(&mut row, page_count)?;
    row.end()?;
    let virt_start = if is_cut(printed_virt) { 0 } else { printed_virt };
    let descriptor =
        MemoryDescriptor { ty: MemoryType::RESERVED, phys_start, virt_start, page_count, att, ..Default::default() };
    let kind = if is_entry(att) { RowKind::Attributes } else { RowKind::Region };
    let row = Row { kind, ..ty.row(descriptor, NO_NAME) };
    Ok(match (is_cut(printed_virt), row.odd.is_none()) {
        (true, true) => Row { odd: Some(cut_virtual_address(printed_virt)), ..row },
        _ => row,
    })
}

/// `[RUN|   |  |XP|UC]`
fn flags(row: &mut Cursor<'_>) -> Result<MemoryAttribute, Bad> {
    row.literal("[")?;
    let mut all = MemoryAttribute::empty();
    loop {
        let (flag, span) = row.up_to_bar_or_bracket("a flag")?;
        if !flag.is_empty() {
            all |= attribute_word(flag).ok_or_else(|| Bad::new(span, format!("unknown flag {}", quoted(flag))))?;
        }
        if row.rest().starts_with(']') {
            return row.literal("]").map(|()| all);
        }
        row.literal("|")?;
    }
}

/// `124 KB)`, rounded down; in MB from 1 MB on.
fn size(row: &mut Cursor<'_>, pages: u64) -> Result<(), Bad> {
    let at = row.at;
    let printed = row.free_decimal("the size")?;
    row.literal(" ")?;
    let (unit, unit_span) = row.token();
    let span: Range<usize> = row.since(at);
    row.literal(")")?;
    let shift = match unit {
        "KB" => 10,
        "MB" => 20,
        _ => return Err(Bad::new(unit_span, format!("the unit {} is neither KB nor MB", quoted(unit)))),
    };
    let size = pages.wrapping_mul(PAGE_BYTES) >> shift;
    match printed == size {
        true => Ok(()),
        false => Err(Bad::new(span, format!("the size is {printed} {unit}, but {pages:#x} pages are {size} {unit}"))),
    }
}

/// Whether only the low half of a virtual address is there.
fn is_cut(virt: u64) -> bool {
    virt != 0 && virt <= u64::from(u32::MAX)
}

fn cut_virtual_address(virt: u64) -> (OddityKind, String) {
    let message =
        format!("has the virtual address {virt:#x}, but OpenCore prints only its low 32 bits: it is not read");
    (OddityKind::LostVirtualAddress, message)
}

#[cfg(test)]
mod tests {
    use super::super::super::MemoryMap;
    use super::*;

    // As printed.
    const ENTRY: &str = "OCMM: RT Code   [RUN|   |  |  |  |  |XP|  |  |   |  |  |  |  ] 0x000000004D81A000-0x000000004D838FFF -> 0x0000000000000000 (124 KB)";

    // The same printer's row for a region of a map.
    const REGION: &str = "OCMM: Available [   |   |  |  |  |  |  |  |  |   |WB|WT|WC|UC] 0x0000000000100000-0x0000000009AFEFFF -> 0x0000000000000000 (153 MB)";

    fn row(text: &str) -> Result<Row, Bad> {
        read(Cursor { line: text, at: start(text).unwrap(), offset: 0 })
    }

    #[test]
    fn entries_are_told_from_regions() {
        let entry = row(ENTRY).ok().unwrap();
        assert_eq!((entry.kind, entry.descriptor.ty), (RowKind::Attributes, MemoryType::RUNTIME_SERVICES_CODE));
        assert_eq!(entry.descriptor.att.bits(), 0x8000_0000_0000_4000);
        assert_eq!((entry.descriptor.phys_start, entry.descriptor.page_count), (0x4d81_a000, 0x1f));
        let region = row(&format!("00:123 00:004 {REGION}")).ok().unwrap();
        assert_eq!(
            (region.kind, region.descriptor.ty, region.descriptor.page_count),
            (RowKind::Region, MemoryType::CONVENTIONAL, 0x99ff)
        );
    }

    #[test]
    fn the_table_stands_beside_its_map() {
        let map =
            MemoryMap::parse(&format!("OCMM: MemoryAttributesTable:\n{ENTRY}\nOCMM: MemoryMap:\n{REGION}\n")).unwrap();
        assert_eq!((map.attributes_table().len(), map.descriptors().len()), (1, 1));
    }

    #[test]
    fn a_table_alone_is_a_part_of_the_map_each_entry_once() {
        let map = MemoryMap::parse(&format!("{ENTRY}\n{ENTRY}\n")).unwrap();
        let regions: Vec<_> = map.regions().map(|region| (region.ty, region.phys, region.pages)).collect();
        assert_eq!(regions, [(MemoryType::RUNTIME_SERVICES_CODE, 0x4d81_a000, 0x1f)]);
        assert_eq!((map.attributes_table().len(), map.partial().is_some()), (2, true));
    }

    #[test]
    fn half_a_virtual_address_is_none() {
        let odd = row(&REGION.replace("00000000 (", "9AB00000 (")).ok().unwrap();
        assert_eq!((odd.descriptor.virt_start, odd.odd.unwrap().0), (0, OddityKind::LostVirtualAddress));
        let whole = row(&REGION.replace("-> 0x0000000000000000", "-> 0xFFFFFF809AB00000")).ok().unwrap();
        assert_eq!(whole.descriptor.virt_start, 0xffff_ff80_9ab0_0000);
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(REGION.contains(from));
            MemoryMap::parse_named("map", &REGION.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(with("Available", "Availible"), "map:1:7: unknown memory type `Availible`");
        assert_eq!(with("|WT|", "|WX|"), "map:1:54: unknown flag `WX`");
        assert_eq!(with("(153 MB)", "(154 MB)"), "map:1:125: the size is 154 MB, but 0x99ff pages are 153 MB");
        assert_eq!(with("(153 MB)", "(153 GB)"), "map:1:129: the unit `GB` is neither KB nor MB");
        assert_eq!(
            with(" -> 0x0000000000000000 (153 MB)", " -> 0x0000"),
            "map:1:107: the line ends in the middle of the virtual address"
        );
    }

    #[test]
    fn headings_are_no_rows() {
        for line in [
            "OCMM: MemoryMap:",
            "OCMM: MemoryAttributesTable:",
            "OCMM:   DescriptorSize       - 0x00000030",
            "OCMM: MemoryAttributesTable is not present!",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }
}
