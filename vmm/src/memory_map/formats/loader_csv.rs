//! The CSV that MikanLoader writes, and the many loaders made after it.
//!
//! ```text
//! Index, Type, Type(name), PhysicalStart, NumberOfPages, Attribute
//! 3, A, EfiACPIMemoryNVS, 00800000, 8, F
//! 0     3      Boot Services Code        0x00000000000000 0x0000000001 0x000000000000000f
//! ```
//!
//! All numbers but the index are hexadecimal in the original, with commas; others use blanks or tabs, and some write
//! the type in decimal. The name tells which: number and name must agree.
//!
//! The original cuts attributes to 20 bits, and so loses RUNTIME: what it calls runtime services without that bit is
//! noted.

use std::ops::Range;

use super::super::error::quoted;
use super::super::names::parse_type;
use super::super::oddity::OddityKind;
use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType, type_name};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::unknown_type;
use super::offset::{Offset, indent};
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::LoaderCsv,
    lines: 1,
    start,
    read,
    sample: "0, 3, EfiBootServicesCode, 00000000, 1, F",
    headings: &["Index, Type, Type(name), PhysicalStart, NumberOfPages, Attribute"],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// What the original prints for a type it has no name for, which may be any.
const NO_NAME: &str = "InvalidMemoryType";

/// A row is two numbers and a name, of a type or before three more numbers.
fn start(line: &str) -> Option<usize> {
    let start = indent(line);
    let mut columns = Columns { row: &line[start..], at: 0 };
    let (index, ty) = (columns.number()?, columns.number()?);
    let is_number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()) && !text.is_empty();
    let is_type = ty.len() <= 10 && without_prefix(ty).bytes().all(|c| c.is_ascii_hexdigit());
    let name = columns.name();
    let is_named = parse_name(name).is_some() || name == NO_NAME;
    let columns_left =
        columns.row[columns.at..].split([',', ' ', '\t', '\r']).filter(|column| !column.is_empty()).count();
    let has_name = name.starts_with(|c: char| c.is_ascii_alphabetic());
    (is_number(index) && is_type && has_name && (is_named || columns_left == 3)).then_some(start)
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let number = row.decimal("the index")?;
    separator(&mut row, "the type")?;
    let (number_text, number_span) = row.token();
    separator(&mut row, "the name of the type")?;
    let ty = memory_type(&mut row, number_text, number_span)?;
    let phys_start = column(&mut row, "the start address")?;
    let page_count = column(&mut row, "the number of pages")?;
    let att = MemoryAttribute::from_bits_retain(column(&mut row, "the attribute")?);
    row.end()?;
    let odd = lost_runtime(ty, att);
    let descriptor = MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() };
    Ok(Row { number: Some(number), odd, ..Row::region(descriptor) })
}

fn memory_type(row: &mut Cursor<'_>, number: &str, number_span: Range<usize>) -> Result<MemoryType, Bad> {
    let mut columns = Columns { row: row.rest(), at: 0 };
    let name = columns.name();
    let span = row.span(name.len());
    row.skip(columns.at);
    let numbers = numbers(number);
    let ty = match parse_name(name) {
        Some(ty) => ty,
        // The number in the original is hexadecimal.
        None if name == NO_NAME => MemoryType(numbers[0].ok_or_else(|| no_number(number_span.clone(), number))?),
        None => return Err(unknown_type(name, span)),
    };
    if numbers.contains(&Some(ty.0)) {
        return Ok(ty);
    }
    Err(match numbers[0] {
        Some(_) => Bad::new(number_span, format!("the type is {number}, but its name {}", quoted(name))),
        None => no_number(number_span, number),
    })
}

fn no_number(span: Range<usize>, text: &str) -> Bad {
    Bad::new(span, format!("the type {} is no number of 32 bits", quoted(text)))
}

/// What a number may mean: hexadecimal, decimal.
fn numbers(text: &str) -> [Option<u32>; 2] {
    let is_number = |text: &str| text.bytes().all(|c| c.is_ascii_hexdigit());
    let hex =
        Some(without_prefix(text)).filter(|text| is_number(text)).and_then(|text| u32::from_str_radix(text, 16).ok());
    [hex, Some(text).filter(|text| is_number(text)).and_then(|text| text.parse().ok())]
}

fn column(row: &mut Cursor<'_>, what: &str) -> Result<u64, Bad> {
    separator(row, what)?;
    if row.rest().starts_with("0x") {
        row.literal("0x")?;
    }
    row.free_hex(what)
}

/// A comma, blanks, or both.
fn separator(row: &mut Cursor<'_>, before: &str) -> Result<(), Bad> {
    let (separator, _) = row.take_while(|c| c == ',' || c.is_whitespace());
    if !separator.is_empty() {
        return Ok(());
    }
    let message = match row.rest().is_empty() {
        true => format!("the line ends where {before} should be"),
        false => format!("expected a comma or a blank and {before}"),
    };
    Err(Bad::new(row.to_end(), message))
}

/// The names of UEFI, with blanks between their words or not. `EfiMaxMemoryType` was 15 when the original was written.
fn parse_name(text: &str) -> Option<MemoryType> {
    let name: String = text.split_whitespace().collect();
    match name.as_str() {
        "EfiMaxMemoryType" => Some(MemoryType::UNACCEPTED),
        name if name.starts_with(|c: char| c.is_ascii_alphabetic()) => parse_type(name),
        _ => None,
    }
}

fn lost_runtime(ty: MemoryType, att: MemoryAttribute) -> Option<(OddityKind, String)> {
    let is_runtime = matches!(ty, MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA);
    if !is_runtime || att.contains(MemoryAttribute::RUNTIME) || att.bits() >> 20 != 0 {
        return None;
    }
    let message =
        format!("has {} without the attribute RUNTIME: many a loader cuts attributes to 20 bits", type_name(ty));
    Some((OddityKind::LostRuntime, message))
}

fn without_prefix(text: &str) -> &str {
    text.strip_prefix("0x").unwrap_or(text)
}

/// The columns of a row, by what they may hold.
struct Columns<'a> {
    row: &'a str,
    at: usize,
}

impl<'a> Columns<'a> {
    /// Letters and digits, and the separator after them.
    fn number(&mut self) -> Option<&'a str> {
        let rest = &self.row[self.at..];
        let length = rest.find(|c: char| c == ',' || c.is_whitespace())?;
        let after = rest[length..].find(|c: char| c != ',' && !c.is_whitespace())?;
        self.at = self.at.plus(length).plus(after);
        Some(&rest[..length])
    }

    /// A name of words, up to a comma or a number.
    fn name(&mut self) -> &'a str {
        let rest = &self.row[self.at..];
        let number = rest.match_indices(char::is_whitespace).map(|(at, blank)| at.plus(blank.len()));
        let number = number.filter(|at| rest[*at..].starts_with(|c: char| c.is_ascii_digit())).min();
        let end = [rest.find(','), number].into_iter().flatten().min().unwrap_or(rest.len());
        let name = rest[..end].trim_end();
        self.at = self.at.plus(name.len());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryMap, oddities};
    use super::*;

    // From a loader's output under OVMF, as printed.
    const BLANKS: &str = "\
Index,\t\tType,\tType(name),\tPhysicalStart,\tNumberOfPages,\tAttribute
0     3      Boot Services Code        0x00000000000000 0x0000000001 0x000000000000000f
3     10     ACPI Memory NVS           0x00000000800000 0x0000000008 0x000000000000000f
46    6      Runtime Services Data     0x0000003fef4000 0x0000000084 0x800000000000000f
";

    // From a public diary of someone following the book, as printed.
    const COMMAS: &str = "\
Index, Type, Type(name), PhysicalStart, NumberOfPages, Attribute
0, 3, EfiBootServicesCode, 00000000, 1, F
1, 7, EfiConventionalMemory, 00001000, 9F, F
2, 7, EfiConventionalMemory, 00100000, 700, F
3, A, EfiACPIMemoryNVS, 00800000, 8, F
";

    fn error(text: &str) -> String {
        MemoryMap::parse_named("map", text).unwrap_err().to_string()
    }

    fn read_as(text: &str) -> Vec<(u32, u64, u64, u64)> {
        let map = MemoryMap::parse(text).unwrap();
        assert_eq!(map.format(), Some(Format::LoaderCsv));
        map.descriptors().iter().map(|d| (d.ty.0, d.phys_start, d.page_count, d.att.bits())).collect()
    }

    #[test]
    fn blanks_and_decimal_types_are_read() {
        assert_eq!(
            read_as(BLANKS),
            [(3, 0, 1, 0xf), (10, 0x80_0000, 8, 0xf), (6, 0x3fef_4000, 0x84, 0x8000_0000_0000_000f)]
        );
        assert_eq!(read_as(&BLANKS.replace("      ", "\t")), read_as(BLANKS));
    }

    #[test]
    fn commas_and_hexadecimal_types_are_read() {
        assert_eq!(
            read_as(COMMAS),
            [(3, 0, 1, 0xf), (7, 0x1000, 0x9f, 0xf), (7, 0x10_0000, 0x700, 0xf), (10, 0x80_0000, 8, 0xf)]
        );
        assert_eq!(read_as("0, 70000001, InvalidMemoryType, 00000000, 1, F\n"), [(0x7000_0001, 0, 1, 0xf)]);
    }

    #[test]
    fn runtime_that_was_cut_off_is_noted() {
        let notes = |text: &str| -> Vec<_> {
            let notes = oddities(&MemoryMap::parse(text).unwrap());
            notes.into_iter().filter(|note| note.kind == OddityKind::LostRuntime).map(|note| note.message).collect()
        };
        assert_eq!(
            notes(&COMMAS.replace("3, EfiBootServicesCode", "6, EfiRuntimeServicesData")),
            ["line 2 has RuntimeServicesData without the attribute RUNTIME: many a loader cuts attributes to 20 bits"]
        );
        assert_eq!(notes(BLANKS), [""; 0]);
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(BLANKS.contains(from));
            error(&BLANKS.replacen(from, to, 1))
        };
        assert_eq!(with("Boot Services", "Boot Survices"), "map:2:14: unknown memory type `Boot Survices Code`");
        assert_eq!(with("3     10 ", "3     11 "), "map:3:7: the type is 11, but its name `ACPI Memory NVS`");
        assert_eq!(
            with("0x0000000008 0x000000000000000f", "0x0000000008"),
            "map:3:69: the line ends where the attribute should be"
        );
        assert_eq!(
            with("0x00000000800000", "0x0000000O800000"),
            "map:3:49: the start address has `O800000` among its hexadecimal digits"
        );
        assert_eq!(with("0x0000000008 0", "0x 0"), "map:3:59: the number of pages is missing");
    }

    #[test]
    fn headings_and_prose_are_no_rows() {
        for line in [
            "Index, Type, Type(name), PhysicalStart, NumberOfPages, Attribute",
            "1, 2, many",
            "0 3 LoaderCodeAndMore",
            "2 CPUs",
            "12, 13",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }
}
