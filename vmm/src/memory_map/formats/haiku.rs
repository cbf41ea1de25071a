//! The map that Haiku's boot loader prints, on its serial console and in the syslog.
//!
//! ```text
//! System provided memory map:
//!   0x0-0x1000  0x0 0x3 0xf
//!   phys: 0x00000000-0x00001000, virt: 0x00000000-0x00001000, type: EfiBootServicesCode (0x3), attr: 0xf
//!   phys: 0x40000000-0x40001000, virt: 0x00000000-0x00001000, size = 0x00001000, type: EfiLoaderData (0x2), attr: 0x8
//! ```
//!
//! `arch_start_kernel()` in src/system/boot/platform/efi/arch prints them: the first kind on x86-64, the second on
//! riscv64 and 32-bit ARM (where the names have no `Efi`), the third on arm64. Ends are half-open, and computed from the
//! pages as the size is: they must agree. A type that Haiku has no name for is `unknown`, with its number as any.

use super::super::error::quoted;
use super::super::names::parse_type;
use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::{pages_to, unknown_type};
use super::offset::suffix_at;
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::Haiku,
    lines: 1,
    start,
    read,
    sample: "0xSTART-0xEND  0xVIRT 0xTYPE 0xATTRIBUTE` or `phys: 0xSTART-0xEND, virt: ..., type: NAME (0xN), attr: 0xN",
    headings: &["System provided memory map:"],
    is_table: true,
    shares_lines: false,
    check: None,
};

/// What the syslog has before each line of kernel and boot loader.
const SYSLOG: &str = "KERN:";

/// What a row with names starts with.
const NAMED: &str = "phys: ";

/// What Haiku prints for a type it has no name for.
const NO_NAME: &str = "unknown";

fn start(line: &str) -> Option<usize> {
    let row = line.strip_prefix(SYSLOG).unwrap_or(line);
    let start = suffix_at(line, row.trim_start());
    let row = &line[start..];
    (is_named(row) || is_bare(row, start)).then_some(start)
}

fn is_named(row: &str) -> bool {
    let has_fields = || [", virt: ", ", type: ", ", attr: "].iter().filter(|field| row.contains(*field)).count();
    row.starts_with("phys: 0x") || has_fields() >= 2
}

/// Five numbers, of which one may be damaged or run together with another, or less if the row was cut.
fn is_bare(row: &str, indent: usize) -> bool {
    let is_number = |word: &str| word.starts_with("0x") || word == "0";
    // Two more than a row has: the line is another.
    let words = row.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).take(7);
    let (numbers, others): (Vec<&str>, Vec<&str>) = words.partition(|word| is_number(word));
    let range = row.split_ascii_whitespace().next().unwrap_or_default();
    let is_range = range.split_once('-').is_some_and(|(start, end)| is_number(start) && is_number(end));
    match numbers.len() {
        5 | 6 => others.len() <= 1,
        4 => others.len() <= 1 && (row.contains('-') || indent == 2),
        3 => others.len() <= 1 && is_range,
        2 => others.is_empty() && is_range && indent == 2,
        _ => false,
    }
}

fn read(row: Cursor<'_>) -> Result<Row, Bad> {
    if is_named(row.rest()) { named(row) } else { bare(row) }
}

fn bare(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let range = range(&mut row)?;
    row.gap("the virtual address")?;
    let virt_start = number(&mut row, "the virtual address")?;
    row.gap("the type")?;
    let ty = memory_type(&mut row)?;
    row.gap("the attribute")?;
    let att = attribute(&mut row)?;
    row.end()?;
    let descriptor = MemoryDescriptor {
        ty,
        phys_start: range.start,
        virt_start,
        page_count: range.pages,
        att,
        ..Default::default()
    };
    Ok(Row::region(descriptor))
}

fn named(mut row: Cursor<'_>) -> Result<Row, Bad> {
    row.literal(NAMED)?;
    let phys = range(&mut row)?;
    row.literal(", virt: ")?;
    let at = row.at;
    let virt = range(&mut row)?;
    let virt_span = row.since(at);
    if virt.pages != phys.pages {
        let message = format!("the virtual range has {:#x} pages, the physical one {:#x}", virt.pages, phys.pages);
        return Err(Bad::new(virt_span, message));
    }
    row.literal(", ")?;
    if row.rest().starts_with("size") {
        size(&mut row, phys.pages)?;
    }
    row.literal("type: ")?;
    let (name, name_span) = row.token();
    row.literal(" (")?;
    let ty = memory_type(&mut row)?;
    row.literal("), attr: ")?;
    let att = attribute(&mut row)?;
    row.end()?;
    let told = type_of_name(name).ok_or_else(|| unknown_type(name, name_span.clone()))?;
    if told.is_some_and(|told| told != ty) {
        return Err(Bad::new(name_span, format!("the type is {:#x}, but its name {}", ty.0, quoted(name))));
    }
    let (phys_start, virt_start) = (phys.start, virt.start);
    let descriptor = MemoryDescriptor { ty, phys_start, virt_start, page_count: phys.pages, att, ..Default::default() };
    Ok(Row::region(descriptor))
}

/// The type of a name, if it is a type's name.
fn type_of_name(name: &str) -> Option<Option<MemoryType>> {
    match name {
        NO_NAME => Some(None),
        "MMIO" => Some(Some(MemoryType::MMIO)),
        "MMIOPortSpace" => Some(Some(MemoryType::MMIO_PORT_SPACE)),
        // The number is what follows.
        _ if name.starts_with(|c: char| c.is_ascii_digit()) => None,
        _ => parse_type(name).map(Some),
    }
}

/// Pages from an address on.
struct Pages {
    start: u64,
    pages: u64,
}

fn range(row: &mut Cursor<'_>) -> Result<Pages, Bad> {
    let at = row.at;
    let start = number(row, "the start address")?;
    row.literal("-")?;
    let end = number(row, "the end address")?;
    let pages = pages_to(start, end, row.since(at))?;
    Ok(Pages { start, pages })
}

fn size(row: &mut Cursor<'_>, pages: u64) -> Result<(), Bad> {
    row.literal("size = ")?;
    let at = row.at;
    let bytes = number(row, "the size")?;
    let span = row.since(at);
    row.literal(", ")?;
    if bytes == pages.wrapping_mul(PAGE_BYTES) {
        return Ok(());
    }
    Err(Bad::new(span, format!("the size is {bytes:#x}, but the range has {pages:#x} pages")))
}

fn memory_type(row: &mut Cursor<'_>) -> Result<MemoryType, Bad> {
    let at = row.at;
    let ty = number(row, "the type")?;
    let span = row.since(at);
    u32::try_from(ty).map(MemoryType).map_err(|_| Bad::new(span, "the type has more than 32 bits"))
}

fn attribute(row: &mut Cursor<'_>) -> Result<MemoryAttribute, Bad> {
    number(row, "the attribute").map(MemoryAttribute::from_bits_retain)
}

/// `0x1f`; 0 is printed as `0` by some.
fn number(row: &mut Cursor<'_>, what: &str) -> Result<u64, Bad> {
    if row.rest().strip_prefix('0').is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric())) {
        return row.literal("0").map(|()| 0);
    }
    row.literal("0x")?;
    row.free_hex(what)
}

#[cfg(test)]
mod tests {
    use super::super::super::MemoryMap;
    use super::*;

    // In the words of the three printers.
    const BARE: &str = "\
System provided memory map:
  0x0-0x1000  0x0 0x3 0xf
  0x7f8ef000-0x7fb6f000  0x0 0x5 0x800000000000000f
Final PML4 at 0x7e5b3000
";
    const NAMED: &str = "\
KERN: System provided memory map:
KERN:   phys: 0x00000000-0x00001000, virt: 0x00000000-0x00001000, type: EfiBootServicesCode (0x3), attr: 0xf
KERN:   phys: 0x7f8ef000-0x7fb6f000, virt: 0x00000000-0x00280000, size = 0x00280000, type: RuntimeServicesCode (0x5), attr: 0x800000000000000f
";

    fn error(text: &str, from: &str, to: &str) -> String {
        assert!(text.contains(from), "{from}");
        MemoryMap::parse_named("map", &text.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn printed_rows_are_read() {
        for text in [BARE, NAMED] {
            let map = MemoryMap::parse(text).unwrap();
            let read: Vec<_> =
                map.regions().map(|region| (region.ty, region.phys, region.pages, region.attribute.bits())).collect();
            let code = (MemoryType::RUNTIME_SERVICES_CODE, 0x7f8e_f000, 0x280, 0x8000_0000_0000_000f);
            assert_eq!(read, [(MemoryType::BOOT_SERVICES_CODE, 0, 1, 0xf), code], "{text}");
            assert_eq!(map.format(), Some(Format::Haiku));
        }
    }

    #[test]
    fn types_without_a_name_and_zeros_are_read() {
        let map = MemoryMap::parse(&NAMED.replace("RuntimeServicesCode (0x5)", "unknown (0x70000000)")).unwrap();
        assert_eq!(map.descriptors()[1].ty, MemoryType(0x7000_0000));
        let map = MemoryMap::parse(&BARE.replace("0x0-0x1000  0x0", "0-0x1000  0")).unwrap();
        assert_eq!(map.descriptors()[0].page_count, 1);
    }

    #[test]
    fn damage_is_pointed_at() {
        assert_eq!(error(BARE, "0x0 0x3", "0x0 Ox3"), "map:2:19: expected `0x`");
        assert_eq!(error(BARE, "0x3 0xf", "0x3 0x"), "map:2:25: the attribute is missing");
        assert_eq!(error(BARE, " 0x3 0xf", ""), "map:2:18: the line ends where the type should be");
        assert_eq!(error(BARE, "0xf\n", "0xf 1\n"), "map:2:27: the row is followed by `1`");
        assert_eq!(error(BARE, "0x1000", "0x1008"), "map:2:3: from 0x0 to 0x1008 is not a whole number of 4 KiB pages");
        assert_eq!(error(NAMED, "(0x3)", "(0x4)"), "map:2:73: the type is 0x4, but its name `EfiBootServicesCode`");
        assert_eq!(
            error(NAMED, "virt: 0x00000000-0x00001000", "virt: 0x00000000-0x00002000"),
            "map:2:44: the virtual range has 0x2 pages, the physical one 0x1"
        );
        assert_eq!(
            error(NAMED, "size = 0x00280000", "size = 0x00180000"),
            "map:3:74: the size is 0x180000, but the range has 0x280 pages"
        );
        assert_eq!(error(NAMED, "phys: 0x0", "phis: 0x0"), "map:2:9: expected `phys: `");
    }

    #[test]
    fn other_lines_are_no_rows() {
        for line in [
            "System provided memory map:",
            "Final PML4 at 0x7e5b3000",
            "0x1000-0x2000",
            "0x1000-0x2000 is free",
            "00001000-0009fbff : System RAM",
            "phys: none",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }
}
