//! `MemoryDescriptor` of the crates `uefi` and `uefi-raw`, as `{:?}` and `{:#?}` print it.
//!
//! ```text
//! INFO: MemoryDescriptor { ty: CONVENTIONAL, padding: 0, phys_start: 4096, virt_start: 0, page_count: 159, att: UNCACHEABLE | WRITE_BACK }
//! MemoryDescriptor { ty: MemoryType(2147483649), padding: 0, phys_start: 0, virt_start: 0, page_count: 1, att: MemoryAttribute(WRITE_BACK | 0x10000000000) }
//! MemoryDescriptor {
//!     ty: CONVENTIONAL,
//!     padding: 0,
//!     phys_start: 4096,
//!     virt_start: 0,
//!     page_count: 159,
//!     att: MemoryAttribute(
//!         UNCACHEABLE | WRITE_BACK,
//!     ),
//! }
//! ```
//!
//! A slice or `Vec` of them is in brackets, in one line or with each descriptor indented.
//! Numbers are decimal. Attributes are bare where the crate has bitflags 1 (`(empty)` for none), and in
//! `MemoryAttribute(...)` with bitflags 2 (`0x0`); bits without a name come last, as one hexadecimal number.

use super::super::error::quoted;
use super::super::names::parse_number;
use super::super::oddity::OddityKind;
use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::unknown_type;
use super::log_prefix::find_marker;
use super::offset::Offset;
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::UefiRs,
    lines: 16,
    start,
    read,
    sample: "MemoryDescriptor { ty: TYPE, phys_start: N, virt_start: N, page_count: N, att: NAMES }",
    headings: &[],
    is_table: false,
    shares_lines: true,
    check: None,
};

/// What a row starts with.
const ROW: &str = "MemoryDescriptor {";

/// A field that every row has.
const FIELD: &str = "phys_start: ";

/// Constants of `uefi_raw::table::boot::MemoryType`, by number.
const TYPES: [&str; 17] = [
    "RESERVED",
    "LOADER_CODE",
    "LOADER_DATA",
    "BOOT_SERVICES_CODE",
    "BOOT_SERVICES_DATA",
    "RUNTIME_SERVICES_CODE",
    "RUNTIME_SERVICES_DATA",
    "CONVENTIONAL",
    "UNUSABLE",
    "ACPI_RECLAIM",
    "ACPI_NON_VOLATILE",
    "MMIO",
    "MMIO_PORT_SPACE",
    "PAL_CODE",
    "PERSISTENT_MEMORY",
    "UNACCEPTED",
    "MAX",
];

fn start(line: &str) -> Option<usize> {
    let row = find_marker(line, ROW).filter(|at| is_row(&line[..*at], &line[at.plus(ROW.len())..]));
    // What is left of a row whose start is damaged.
    let field = || find_marker(&line[..row.unwrap_or(line.len())], FIELD).filter(|at| is_field(&line[*at..]));
    field().or(row)
}

/// Code that makes one has more than a number or a constant's name behind the colon; code that declares one says so.
fn is_row(before: &str, after: &str) -> bool {
    let first = after.split('}').next().unwrap_or_default();
    match first.trim() {
        "" => !["struct ", "impl ", " for ", "->", "let "].iter().any(|word| before.contains(word)),
        first => first.starts_with("ty: ") && !first.contains("::"),
    }
}

fn is_field(field: &str) -> bool {
    field[FIELD.len()..].starts_with(|c: char| c.is_ascii_digit())
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    row.literal(ROW)?;
    row.blanks();
    let mut fields = Fields::default();
    while !row.rest().starts_with('}') {
        fields.read(&mut row)?;
        let (separator, _) = row.take_while(|c| c == ',' || c.is_whitespace());
        if !separator.starts_with([',', ' ', '\n', '\r']) {
            return Err(Bad::new(row.to_end(), "expected `,` or ` }` after the field"));
        }
    }
    let end = row.at;
    row.literal("}")?;
    let missing = |what| Bad::new(row.since(end), format!("the field `{what}` is missing"));
    let descriptor = MemoryDescriptor {
        ty: fields.ty.ok_or_else(|| missing("ty"))?,
        padding: 0,
        phys_start: fields.phys_start.ok_or_else(|| missing("phys_start"))?,
        virt_start: fields.virt_start.ok_or_else(|| missing("virt_start"))?,
        page_count: fields.page_count.ok_or_else(|| missing("page_count"))?,
        att: fields.att.ok_or_else(|| missing("att"))?,
    };
    let end = Some(row.offset.plus(row.at));
    Ok(Row { end, odd: after(&mut row), ..Row::region(descriptor) })
}

/// What is odd behind a row: another may follow in the line, or the end of a slice.
fn after(row: &mut Cursor<'_>) -> Option<(OddityKind, String)> {
    row.take_while(|c| c != '\n' && (c.is_whitespace() || ",;)".contains(c)));
    // A line may have thousands of rows: what tells is near.
    let rest = row.rest();
    let near = rest.char_indices().nth(ROW.len().plus(FIELD.len())).map_or(rest.len(), |(at, _)| at);
    let rest = rest[..near].split('\n').next().unwrap_or_default();
    let is_known = rest.is_empty() || rest.starts_with(']') || start(rest).is_some();
    (!is_known)
        .then(|| (OddityKind::SkippedLine, format!("goes on with {} behind the row: it is skipped", quoted(rest))))
}

/// What was read so far.
#[derive(Default)]
struct Fields {
    ty: Option<MemoryType>,
    phys_start: Option<u64>,
    virt_start: Option<u64>,
    page_count: Option<u64>,
    att: Option<MemoryAttribute>,
}

impl Fields {
    fn read(&mut self, row: &mut Cursor<'_>) -> Result<(), Bad> {
        let (field, span) = row.take_while(|c| c.is_ascii_lowercase() || c == '_');
        row.literal(": ")?;
        match field {
            "ty" => self.ty = Some(memory_type(row)?),
            "padding" => drop(row.free_decimal("the padding")?),
            "phys_start" => self.phys_start = Some(row.free_decimal("the physical address")?),
            "virt_start" => self.virt_start = Some(row.free_decimal("the virtual address")?),
            "page_count" => self.page_count = Some(row.free_decimal("the number of pages")?),
            "att" => self.att = Some(attributes(row)?),
            _ => return Err(Bad::new(span, format!("unknown field {}", quoted(field)))),
        }
        Ok(())
    }
}

fn memory_type(row: &mut Cursor<'_>) -> Result<MemoryType, Bad> {
    const WRAPPER: &str = "MemoryType(";
    if row.rest().starts_with(WRAPPER) {
        row.literal(WRAPPER)?;
        row.blanks();
        let ty = row.type_number()?;
        end_of_wrapper(row)?;
        return Ok(ty);
    }
    let (name, span) = row.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
    let index = TYPES.iter().position(|known| *known == name).and_then(|index| u32::try_from(index).ok());
    index.map(MemoryType).ok_or_else(|| unknown_type(name, span))
}

fn attributes(row: &mut Cursor<'_>) -> Result<MemoryAttribute, Bad> {
    const EMPTY: &str = "(empty)";
    const WRAPPER: &str = "MemoryAttribute(";
    if row.rest().starts_with(EMPTY) {
        return row.literal(EMPTY).map(|()| MemoryAttribute::empty());
    }
    let is_wrapped = row.rest().starts_with(WRAPPER);
    if is_wrapped {
        row.literal(WRAPPER)?;
        row.blanks();
    }
    let mut all = MemoryAttribute::empty();
    loop {
        let (name, span) = row.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        let bits = || parse_number(name).map(MemoryAttribute::from_bits_retain);
        let known = MemoryAttribute::from_name(name).or_else(bits);
        all |= known.ok_or_else(|| Bad::new(span, format!("unknown attribute {}", quoted(name))))?;
        if !row.rest().starts_with(" |") {
            break;
        }
        row.literal(" | ")?;
    }
    if is_wrapped {
        end_of_wrapper(row)?;
    }
    Ok(all)
}

/// `)`, with a comma before it if it has a line of its own.
fn end_of_wrapper(row: &mut Cursor<'_>) -> Result<(), Bad> {
    if row.rest().starts_with(',') {
        row.literal(",")?;
        row.blanks();
    }
    row.literal(")")
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryMap, oddities};
    use super::*;

    // As printed.
    const ROWS: &str = "\
INFO: MemoryDescriptor { ty: BOOT_SERVICES_CODE, padding: 0, phys_start: 0, virt_start: 0, page_count: 1, att: UNCACHEABLE | WRITE_COMBINE | WRITE_THROUGH | WRITE_BACK }
INFO: MemoryDescriptor { ty: CONVENTIONAL, padding: 0, phys_start: 4096, virt_start: 0, page_count: 159, att: UNCACHEABLE | WRITE_COMBINE | WRITE_THROUGH | WRITE_BACK }
";

    #[test]
    fn printed_rows_are_read() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let [code, free] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!((code.ty, code.phys_start, code.page_count), (MemoryType::BOOT_SERVICES_CODE, 0, 1));
        assert_eq!((free.ty, free.phys_start, free.page_count), (MemoryType::CONVENTIONAL, 4096, 159));
        assert_eq!(free.att.bits(), 0xf);
    }

    #[test]
    fn what_the_crate_prints_is_read() {
        for (ty, att) in
            [(0, 0), (7, 0xf), (14, 1 << 63 | 1 << 14), (0x8000_0001, 1 << 63 | 0x0300_0000_0000), (16, u64::MAX)]
        {
            let descriptor = MemoryDescriptor {
                ty: MemoryType(ty),
                padding: 0,
                phys_start: u64::MAX,
                virt_start: 1 << 63,
                page_count: 3,
                att: MemoryAttribute::from_bits_retain(att),
            };
            let other = MemoryDescriptor { phys_start: 0x2000, ..descriptor };
            for text in [format!("[1] {descriptor:?},\n[2] {other:?}"), format!("map: {:?}, 1", [descriptor, other])] {
                assert_eq!(MemoryMap::parse(&text).unwrap().descriptors(), [descriptor, other], "{text}");
            }
            for text in [format!("INFO: {descriptor:#?}\n{other:#?}"), format!("{:#?}", vec![descriptor, other])] {
                for text in [text.replace('\n', "\r\n"), text] {
                    let map = MemoryMap::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
                    assert_eq!(map.descriptors(), [descriptor, other], "{text}");
                    let headers = text.lines().enumerate().filter(|(_, line)| line.contains(ROW));
                    let headers: Vec<_> = headers.map(|(index, _)| Some(index + 1)).collect();
                    assert_eq!([map.line(0), map.line(1)].as_slice(), headers);
                }
            }
        }
        assert_eq!(
            MemoryMap::parse(&ROWS.replace("UNCACHEABLE | WRITE_COMBINE | WRITE_THROUGH | WRITE_BACK", "(empty)"))
                .unwrap()
                .descriptors()[0]
                .att
                .bits(),
            0
        );
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(ROWS.contains(from));
            MemoryMap::parse_named("map", &ROWS.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(
            with("BOOT_SERVICES_CODE", "BOOT_SERVICE_CODE"),
            "map:1:30: unknown memory type `BOOT_SERVICE_CODE`"
        );
        assert_eq!(with("UNCACHEABLE |", "UNCACHABLE |"), "map:1:112: unknown attribute `UNCACHABLE`");
        assert_eq!(with("page_count", "pagecount"), "map:1:92: unknown field `pagecount`");
        assert_eq!(with("virt_start: 0, ", ""), "map:1:154: the field `virt_start` is missing");
        assert_eq!(with(" | WRITE_BACK }", " | WRITE_BA"), "map:1:158: unknown attribute `WRITE_BA`");
        assert_eq!(
            with("BACK }", "BACK }, MemoryDescriptor { ty: MMIO }"),
            "map:1:200: the field `phys_start` is missing"
        );
    }

    #[test]
    fn many_rows_in_one_line_take_no_longer_than_in_many() {
        let row = |page: u64| MemoryDescriptor { phys_start: page << 12, page_count: 1, ..Default::default() };
        let rows: Vec<_> = (0..60_000).map(row).collect();
        let began = std::time::Instant::now();
        assert_eq!(MemoryMap::parse(&format!("{rows:?}")).unwrap().descriptors(), rows);
        // If each row looked at the rest of the line, it would be half an hour.
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }

    #[test]
    fn what_stands_behind_a_row_is_noted() {
        let map = MemoryMap::parse(&ROWS.replacen("BACK }", "BACK }, MemoryDescri", 1)).unwrap();
        let messages: Vec<_> = oddities(&map).into_iter().map(|odd| odd.message).collect();
        assert_eq!(messages, ["line 1 goes on with `MemoryDescri` behind the row: it is skipped"]);
    }

    #[test]
    fn damage_over_many_lines_is_pointed_at() {
        let text = format!("{:#?}", [MemoryDescriptor { phys_start: 4096, ..Default::default() }]);
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}\n{text}");
            MemoryMap::parse_named("map", &text.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(
            with("phys_start: 4096", "phys_start: 4o96"),
            "map:5:21: the physical address is no decimal number of 64 bits"
        );
        assert_eq!(with("RESERVED", "RESERVE"), "map:3:13: unknown memory type `RESERVE`");
        assert_eq!(with("MemoryDescriptor {", "MemoryDescripto {"), "map:5:9: expected `MemoryDescriptor {`");
    }

    #[test]
    fn code_is_no_row() {
        for line in [
            "impl Default for MemoryDescriptor {",
            "    let d = MemoryDescriptor {",
            "    phys_start: u64,",
            "pub struct MemoryDescriptor {",
            "MemoryDescriptor { ty, ..Default::default() }",
            "let d = MemoryDescriptor { ty: MemoryType::MMIO, page_count: 1 };",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }
}
