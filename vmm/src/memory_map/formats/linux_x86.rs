//! The boot log of Linux on x86, 5.8 and later, with `efi=debug` on its command line.
//!
//! ```text
//! [    0.000000] efi: mem147: [Runtime Code|RUN|  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x000000008db6f000-0x000000008dc3efff] (0MB)
//! [    0.000000] efi: mem148: [Reserved    |attr=0x070000000000000f] range=[0x000000008dc3f000-0x000000008dc3ffff] (0MB)
//! [    0.000000] efi: mem149: [type=1879048192|   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x000000008dc40000-0x000000008dc40fff] (0MB)
//! ```
//!
//! `efi_md_typeattr_format()` in drivers/firmware/efi/efi.c prints what is between the first brackets,
//! `efi_print_memmap()` in arch/x86/platform/efi the rest. Flags are read by name, not by column: Linux gained a
//! column with CPU_CRYPTO (5.8) and, years later, another with HOT_PLUGGABLE. Ends are inclusive; a descriptor without pages
//! ends one before it starts.
//!
//! Three things about whole logs:
//! - Linux drops descriptors that have no pages or wrap before it prints the map, and prints those as `(invalid)` rows
//!   with the numbers they had. They are put back: what firmware handed out is what a mapper may meet.
//! - After the map Linux prints its own runtime map, numbered from 0 again. Only the first list is read; a number
//!   that falls ends it, with a note. (The same number twice is an error: nothing Linux prints looks so, and a list
//!   written by hand must not end unnoticed.)
//! - Numbers that jump are noted, not refused. Lines may be lost, and then regions go unchecked, so it must be told;
//!   but the jump may as well be someone's `grep RUN`, and all that was given can be checked.

use std::ops::Range;

use super::super::error::{ParseError, quoted};
use super::super::oddity::{Oddity, OddityKind};
use super::super::{MAX_DESCRIPTORS, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};

/// Whether a line is a row of the map, sound or damaged.
pub(super) fn is_row(line: &str) -> bool {
    row_start(line).is_some()
}

/// Reads the map of a log.
pub(super) fn parse(name: &str, text: &str) -> Result<MemoryMap, ParseError> {
    let list = read_list(text).map_err(|bad| bad.in_text(name, text))?;
    if list.rows.is_empty() {
        return Err(only_dropped(name, text, &list));
    }
    Ok(list.into_map(name))
}

/// What comes before the number of a row.
const ROW: &str = "efi: mem";

/// Linux's `memory_type_name`, by type.
const TYPES: [&str; 16] = [
    "Reserved",
    "Loader Code",
    "Loader Data",
    "Boot Code",
    "Boot Data",
    "Runtime Code",
    "Runtime Data",
    "Conventional",
    "Unusable",
    "ACPI Reclaim",
    "ACPI Mem NVS",
    "MMIO",
    "MMIO Port",
    "PAL Code",
    "Persistent",
    "Unaccepted",
];

/// Linux's flags, in its order.
const FLAGS: [(&str, MemoryAttribute); 15] = [
    ("RUN", MemoryAttribute::RUNTIME),
    ("HP", MemoryAttribute::HOT_PLUGGABLE),
    ("MR", MemoryAttribute::MORE_RELIABLE),
    ("CC", MemoryAttribute::CPU_CRYPTO),
    ("SP", MemoryAttribute::SPECIAL_PURPOSE),
    ("NV", MemoryAttribute::NON_VOLATILE),
    ("XP", MemoryAttribute::EXECUTE_PROTECT),
    ("RP", MemoryAttribute::READ_PROTECT),
    ("WP", MemoryAttribute::WRITE_PROTECT),
    ("RO", MemoryAttribute::READ_ONLY),
    ("UCE", MemoryAttribute::UNCACHABLE_EXPORTED),
    ("WB", MemoryAttribute::WRITE_BACK),
    ("WT", MemoryAttribute::WRITE_THROUGH),
    ("WC", MemoryAttribute::WRITE_COMBINE),
    ("UC", MemoryAttribute::UNCACHEABLE),
];

/// The rows of a log's first list.
#[derive(Default)]
struct List {
    rows: Vec<Row>,
    /// The rows that Linux dropped, in log order.
    dropped: Vec<Row>,
    /// The row that starts a second list.
    second: Option<Row>,
}

/// One row.
struct Row {
    /// The NN of memNN.
    number: u64,
    descriptor: MemoryDescriptor,
    line: usize,
    span: Range<usize>,
    tail: Tail,
}

/// What follows the range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nothing: whoever copied the row stopped there.
    None,
    /// `(7MB)`, rounded down.
    MiB(u64),
    /// `(invalid)`: Linux dropped the descriptor.
    Invalid,
}

fn read_list(text: &str) -> Result<List, Bad> {
    let mut list = List::default();
    let mut offset = 0;
    for (index, line) in text.split('\n').enumerate() {
        if let Some(start) = row_start(line) {
            let row = Cursor { line: line.trim_end(), at: start, offset }.row(index + 1)?;
            if !list.take(row)? {
                break;
            }
        }
        offset += line.len() + 1;
    }
    Ok(list)
}

/// Where the row in a line starts. Before it may be what loggers write: a level, a time, `host kernel:`; and the `>` of
/// a quoted mail. Text that only mentions a row is none.
fn row_start(line: &str) -> Option<usize> {
    let start = line.find(ROW)?;
    let before = line[..start].trim_end();
    let is_log_prefix = before.is_empty() || before.ends_with([']', '>']) || before.ends_with("kernel:");
    let after = line[start + ROW.len()..].trim_end();
    let is_numbered = after.is_empty() || after.starts_with(|digit: char| digit.is_ascii_digit());
    (is_log_prefix && is_numbered).then_some(start)
}

impl List {
    /// Takes the next row; `false` if that row starts another list.
    fn take(&mut self, row: Row) -> Result<bool, Bad> {
        if self.rows.len() + self.dropped.len() == MAX_DESCRIPTORS {
            return Err(Bad::new(row.span, format!("more than {MAX_DESCRIPTORS} descriptors"))
                .help("no firmware hands out so many: check that this is one map"));
        }
        if row.tail == Tail::Invalid {
            self.dropped.push(row);
            return Ok(true);
        }
        let last = self.rows.last().map(|last| last.number);
        if last.is_some_and(|last| row.number < last) {
            self.second = Some(row);
            return Ok(false);
        }
        if last == Some(row.number) {
            let message = format!("mem{:02} is there twice in a row", row.number);
            return Err(Bad::new(row.span, message).help("number the rows, or remove the one that is doubled"));
        }
        self.rows.push(row);
        Ok(true)
    }

    fn into_map(self, name: &str) -> MemoryMap {
        let mut map = MemoryMap::from_descriptors(name, Vec::new());
        let mut dropped = self.dropped;
        dropped.sort_by_key(|row| row.number);
        let mut dropped = dropped.into_iter().peekable();
        let mut next_number = 0;
        for row in self.rows {
            while let Some(row) = dropped.next_if(|row| row.number <= map.descriptors.len() as u64) {
                push(&mut map, &row);
            }
            map.notes.extend(missing_rows(next_number, &row, map.descriptors.len()));
            map.notes.extend(size_mismatch(&row, map.descriptors.len()));
            next_number = row.number.saturating_add(1);
            push(&mut map, &row);
        }
        dropped.for_each(|row| push(&mut map, &row));
        map.notes.extend(self.second.map(|row| extra_list(&row, map.descriptors.len() - 1)));
        map
    }
}

fn push(map: &mut MemoryMap, row: &Row) {
    map.descriptors.push(row.descriptor);
    map.lines.push(row.line);
}

fn missing_rows(expected: u64, row: &Row, index: usize) -> Option<Oddity> {
    let last = row.number.checked_sub(1).filter(|last| *last >= expected)?;
    let rows = if last == expected { "row".into() } else { format!("rows mem{expected:02} to") };
    Some(note(
        OddityKind::MissingRows,
        index,
        format!("{rows} mem{last:02} are missing before line {}: nothing is checked about their regions", row.line),
    ))
}

fn size_mismatch(row: &Row, index: usize) -> Option<Oddity> {
    let pages = row.descriptor.page_count;
    let Tail::MiB(printed) = row.tail else {
        return None;
    };
    (printed != pages >> 8).then(|| {
        let message = format!(
            "line {} says {printed}MB, but its range has {pages:#x} pages, {}MB: was it edited?",
            row.line,
            pages >> 8
        );
        note(OddityKind::SizeMismatch, index, message)
    })
}

fn extra_list(row: &Row, last_index: usize) -> Oddity {
    let message = format!(
        "line {} (mem{:02}) starts another list, which is not read; Linux prints its own runtime map after firmware's",
        row.line, row.number
    );
    note(OddityKind::ExtraList, last_index, message)
}

fn note(kind: OddityKind, index: usize, message: String) -> Oddity {
    Oddity { kind, index, other: None, message }
}

/// Without `efi=debug` Linux prints no rows but those it dropped.
fn only_dropped(name: &str, text: &str, list: &List) -> ParseError {
    let span = list.dropped.first().map_or(0..0, |row| row.span.clone());
    ParseError::at(name, text, span, "no EFI memory map: only the rows that Linux dropped from it")
        .label("dropped")
        .help(super::HOW_TO_GET_A_MAP)
}

/// What is wrong with a row, and where.
struct Bad {
    span: Range<usize>,
    message: String,
    help: Option<&'static str>,
}

impl Bad {
    fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None }
    }

    fn help(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }

    fn in_text(self, name: &str, text: &str) -> ParseError {
        ParseError::at(name, text, self.span, self.message).help(self.help.unwrap_or(
            "a row is `efi: memNN: [TYPE|FLAGS] range=[0xSTART-0xEND] (SIZEMB)`; copy it again from the log, or remove \
             the line",
        ))
    }
}

/// A place in a line.
struct Cursor<'a> {
    line: &'a str,
    at: usize,
    /// Where the line starts in the text.
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn row(mut self, line: usize) -> Result<Row, Bad> {
        let row_start = self.at;
        self.literal(ROW)?;
        let number = self.decimal("the number of the row")?;
        self.literal(":")?;
        self.blanks();
        self.literal("[")?;
        let ty = self.memory_type()?;
        let att = self.attribute()?;
        self.blanks();
        let (phys_start, page_count, tail) = self.range()?;
        Ok(Row {
            number,
            descriptor: MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() },
            line,
            span: self.offset + row_start..self.offset + self.line.len(),
            tail,
        })
    }

    /// `Runtime Code|`, or `type=1879048192|`.
    fn memory_type(&mut self) -> Result<MemoryType, Bad> {
        let (name, span) = self.up_to_bar_or_bracket("the type")?;
        if let Some(number) = name.strip_prefix("type=") {
            let number = number.parse().map_err(|_| Bad::new(span, "the type is no number of 32 bits"))?;
            return Ok(MemoryType(number));
        }
        let index = TYPES.iter().position(|known| *known == name).and_then(|index| u32::try_from(index).ok());
        index.map(MemoryType).ok_or_else(|| {
            Bad::new(span, format!("unknown memory type {}", quoted(name)))
                .help("the types are those of Linux 5.8 and later: Reserved, Runtime Code, MMIO, ..., or type=N")
        })
    }

    /// `|RUN|  |WB]`, or `|attr=0x070000000000000f]` when bits are set that Linux has no flag for.
    fn attribute(&mut self) -> Result<MemoryAttribute, Bad> {
        let mut all = MemoryAttribute::empty();
        while !self.rest().starts_with(']') {
            self.literal("|")?;
            if self.rest().starts_with("attr=") {
                self.literal("attr=0x")?;
                all = MemoryAttribute::from_bits_retain(self.hex_u64("the attribute")?);
                break;
            }
            let (name, span) = self.up_to_bar_or_bracket("a flag")?;
            all |= flag(name).ok_or_else(|| Bad::new(span, format!("unknown flag {}", quoted(name))))?;
        }
        self.literal("]")?;
        Ok(all)
    }

    /// `range=[0x000000008db6f000-0x000000008dc3efff] (0MB)`: the start, the number of pages, and what follows.
    fn range(&mut self) -> Result<(u64, u64, Tail), Bad> {
        self.literal("range=[")?;
        let range_start = self.at;
        self.literal("0x")?;
        let start = self.hex_u64("the start address")?;
        self.literal("-0x")?;
        let (end, end_span) = self.hex("the end address")?;
        let range = self.offset + range_start..self.offset + self.at;
        self.literal("]")?;
        let tail = self.tail()?;
        // Only in a dropped row an end has more than 64 bits: Linux prints what the sum would be.
        if tail != Tail::Invalid {
            check_digits(end_span.clone(), "the end address")?;
        }
        let pages = page_count(start, end, tail).map_err(|problem| problem.at(range, end_span, start, end))?;
        Ok((start, pages, tail))
    }

    fn tail(&mut self) -> Result<Tail, Bad> {
        self.blanks();
        let tail = match self.rest() {
            "" => return Ok(Tail::None),
            "(invalid)" => return Ok(Tail::Invalid),
            tail => tail,
        };
        let digits = tail.strip_prefix('(').and_then(|tail| tail.strip_suffix("MB)"));
        let size = digits.and_then(|digits| digits.parse().ok()).map(Tail::MiB);
        size.ok_or_else(|| {
            Bad::new(self.to_end(), "the range is followed by neither `(SIZEMB)` nor the end of the line")
        })
    }

    fn decimal(&mut self, what: &str) -> Result<u64, Bad> {
        let (digits, span) = self.alphanumeric(what)?;
        digits.parse().map_err(|_| Bad::new(span, format!("{what} is no decimal number of 64 bits")))
    }

    fn hex_u64(&mut self, what: &str) -> Result<u64, Bad> {
        let (number, span) = self.hex(what)?;
        check_digits(span.clone(), what)?;
        u64::try_from(number).map_err(|_| too_long(span, what))
    }

    fn hex(&mut self, what: &str) -> Result<(u128, Range<usize>), Bad> {
        let (digits, span) = self.alphanumeric(what)?;
        if let Some(wrong) = digits.find(|digit: char| !digit.is_ascii_hexdigit()) {
            let wrong_span = span.start + wrong..span.end;
            return Err(Bad::new(
                wrong_span,
                format!("{what} has {} among its hexadecimal digits", quoted(&digits[wrong..])),
            ));
        }
        let number = u128::from_str_radix(digits, 16).map_err(|_| too_long(span.clone(), what))?;
        Ok((number, span))
    }

    /// A token of letters and digits. Nothing follows it if the line was cut, so that is no token either.
    fn alphanumeric(&mut self, what: &str) -> Result<(&'a str, Range<usize>), Bad> {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let span = self.span(length);
        if length == rest.len() {
            return Err(Bad::new(span, format!("the line ends in the middle of {what}")));
        }
        if length == 0 {
            return Err(Bad::new(self.to_end(), format!("{what} is missing")));
        }
        self.at += length;
        Ok((&rest[..length], span))
    }

    fn up_to_bar_or_bracket(&mut self, what: &str) -> Result<(&'a str, Range<usize>), Bad> {
        let rest = self.rest();
        let Some(length) = rest.find(['|', ']']) else {
            return Err(Bad::new(self.to_end(), format!("the line ends in the middle of {what}")));
        };
        let token = &rest[..length];
        let span = self.span(token.trim_end().len().max(1));
        self.at += length;
        Ok((token.trim(), span))
    }

    fn literal(&mut self, literal: &str) -> Result<(), Bad> {
        let rest = self.rest();
        if rest.starts_with(literal) {
            self.at += literal.len();
            return Ok(());
        }
        let message = match literal.starts_with(rest) {
            true => format!("the line ends where `{literal}` should be"),
            false => format!("expected `{literal}`"),
        };
        Err(Bad::new(self.to_end(), message))
    }

    fn blanks(&mut self) {
        self.at = self.line.len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &'a str {
        &self.line[self.at..]
    }

    fn span(&self, length: usize) -> Range<usize> {
        self.offset + self.at..self.offset + self.at + length
    }

    fn to_end(&self) -> Range<usize> {
        self.span(self.rest().len())
    }
}

fn flag(name: &str) -> Option<MemoryAttribute> {
    if name.is_empty() {
        return Some(MemoryAttribute::empty());
    }
    FLAGS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

/// An address has 16 hexadecimal digits; with more, two numbers have run together, even if the first are zeros.
fn check_digits(span: Range<usize>, what: &str) -> Result<(), Bad> {
    if span.len() > 16 { Err(too_long(span, what)) } else { Ok(()) }
}

fn too_long(span: Range<usize>, what: &str) -> Bad {
    Bad::new(span, format!("{what} has more than 16 hexadecimal digits"))
}

/// What can be wrong with a range of two sound numbers.
enum BadRange {
    EndBeforeStart,
    NotWholePages,
    TooManyPages,
}

impl BadRange {
    fn at(self, range: Range<usize>, end_span: Range<usize>, start: u64, end: u128) -> Bad {
        match self {
            Self::EndBeforeStart => {
                Bad::new(range, format!("the range ends at {end:#x}, before it starts at {start:#x}"))
                    .help("an end one before the start means no pages; a region past 2^64 can be written in TOML")
            }
            Self::NotWholePages => {
                Bad::new(end_span, format!("the range to {end:#x} is not a whole number of 4 KiB pages"))
                    .help("the end is the address of the last byte: 0x1fff for two pages from 0")
            }
            Self::TooManyPages => Bad::new(end_span, format!("the range to {end:#x} has more than 2^64 pages")),
        }
    }
}

/// The pages from `start` to the inclusive `end`.
fn page_count(start: u64, end: u128, tail: Tail) -> Result<u64, BadRange> {
    // 64-bit arithmetic makes the end of no pages at 0 the end of the address space; the size tells which it is.
    let is_empty_at_0 = start == 0 && end == u128::from(u64::MAX) && matches!(tail, Tail::None | Tail::MiB(0));
    // In a dropped row the end of no pages is always 0.
    let is_empty_dropped = tail == Tail::Invalid && end == 0;
    if is_empty_at_0 || is_empty_dropped {
        return Ok(0);
    }
    let past = end.checked_add(1).ok_or(BadRange::TooManyPages)?;
    let bytes = past.checked_sub(start.into()).ok_or(BadRange::EndBeforeStart)?;
    if bytes % u128::from(PAGE_BYTES) != 0 {
        return Err(BadRange::NotWholePages);
    }
    u64::try_from(bytes / u128::from(PAGE_BYTES)).map_err(|_| BadRange::TooManyPages)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::oddities;
    use super::*;

    // From the log of a ThinkPad T14 Gen 3 with Linux 6.0, as printed.
    const ROWS: &str = "\
[    0.000000] efi: mem00: [Conventional|   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000000000-0x0000000000086fff] (0MB)
[    0.000000] efi: mem01: [Boot Data   |   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000087000-0x0000000000087fff] (0MB)
[    0.000000] efi: mem02: [Conventional|   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000088000-0x000000000009dfff] (0MB)
";

    // From a virtual machine with a newer Linux, which has a flag more.
    const MMIO: &str = "efi: mem118: [MMIO        |RUN|  |  |  |  |  |  |  |  |  |   |  |  |  |UC] range=[0x00000000ffe00000-0x00000000ffffffff] (2MB)";

    fn row(bracket: &str, range: &str) -> String {
        format!("efi: mem00: [{bracket}] range=[{range}] (0MB)")
    }

    fn only(text: &str) -> MemoryDescriptor {
        let map = MemoryMap::parse(text).unwrap();
        assert_eq!(map.descriptors().len(), 1);
        map.descriptors()[0]
    }

    fn error(text: &str) -> String {
        MemoryMap::parse_named("boot.log", text).unwrap_err().to_string()
    }

    fn notes(map: &MemoryMap) -> Vec<(&'static str, usize)> {
        oddities(map).iter().map(|oddity| (oddity.kind.name(), oddity.index)).collect()
    }

    #[test]
    fn real_rows_are_read() {
        let log = format!(
            "[    0.000000] Linux version 6.0\r\n{}[    0.000000] efi: memattr: x\n",
            ROWS.replace('\n', "\r\n")
        );
        let map = MemoryMap::parse(&log).unwrap();
        let read: Vec<_> = map.regions().map(|region| (region.ty, region.phys, region.pages)).collect();
        assert_eq!(
            read,
            [
                (MemoryType::CONVENTIONAL, 0, 0x87),
                (MemoryType::BOOT_SERVICES_DATA, 0x87000, 1),
                (MemoryType::CONVENTIONAL, 0x88000, 0x16),
            ]
        );
        assert_eq!(map.descriptors()[0].att.bits(), 0xf);
        assert_eq!((map.line(0), map.line(2)), (Some(2), Some(4)));
        assert_eq!(notes(&map), []);
    }

    #[test]
    fn flags_are_read_by_name() {
        let mmio = only(MMIO);
        assert_eq!((mmio.ty, mmio.att.bits()), (MemoryType::MMIO, 0x8000_0000_0000_0001));
        assert_eq!((mmio.phys_start, mmio.page_count), (0xffe0_0000, 0x200));
        let all = only(&row("Persistent  |RUN|HP|MR|CC|SP|NV|XP|RP|WP|RO|UCE|WB|WT|WC|UC", "0x0-0xfff"));
        assert_eq!(all.att.bits(), 0x8000_0000_001f_f01f);
    }

    #[test]
    fn what_linux_has_no_name_for_is_read_as_a_number() {
        let odd = only(&row("type=1879048192|attr=0x070000000000000f", "0x1000-0x1fff"));
        assert_eq!((odd.ty, odd.att.bits()), (MemoryType(0x7000_0000), 0x0700_0000_0000_000f));
    }

    #[test]
    fn log_prefixes_are_ignored_and_prose_is_no_row() {
        for prefix in ["<6>", "<6>[    0.000000] ", "Nov 22 13:51:00 host kernel: ", "> > [    0.000000] ", "  "] {
            only(&format!("{prefix}{MMIO}"));
        }
        assert!(!is_row("the row efi: mem12: is odd"));
        assert!(!is_row("efi: memattr: Entry"));
        assert!(!is_row("efi: Not removing mem305: MMIO range=[0xfedc2000-0xfedc8fff] (28KB) from e820 map"));
        assert!(is_row("efi: mem"));
    }

    #[test]
    fn an_end_before_the_start_by_one_is_no_pages() {
        assert_eq!(only(&row("Reserved    |   |UC", "0x0000000000001000-0x0000000000000fff")).page_count, 0);
        assert_eq!(only(&row("Reserved    |   |UC", "0x0000000000000000-0xffffffffffffffff")).page_count, 0);
        let all =
            row("Reserved    |   |UC", "0x0000000000000000-0xffffffffffffffff").replace("(0MB", "(17592186044416MB");
        assert_eq!(only(&all).page_count, 1 << 52);
    }

    #[test]
    fn an_unaligned_start_is_a_map_to_judge_not_a_syntax_error() {
        assert_eq!(only(&row("MMIO        |RUN", "0x0000000001e88180-0x0000000001e8917f")).page_count, 1);
    }

    #[test]
    fn dropped_rows_are_put_back() {
        let dropped = "\
efi: [Firmware Bug]: Invalid EFI memory map entries:
efi: mem01: [Reserved    |   |  |  |  |  |  |  |  |  |   |  |  |  |  ] range=[0x0000000000000000-0x0000000000000000] (invalid)
efi: mem03: [type=12336|attr=0x0e410686300e4105] range=[0x100e420000000176-0x8c290f26248d200e175] (invalid)
efi: Removing 2 invalid memory map entries.
";
        let map = MemoryMap::parse(&format!("{dropped}{ROWS}")).unwrap();
        let starts: Vec<_> = map.regions().map(|region| (region.phys, region.pages)).collect();
        let wrapping = (0x100e_4200_0000_0176, ((0x8c2_90f2_6248_d200_e176_u128 - 0x100e_4200_0000_0176) >> 12) as u64);
        assert_eq!(starts, [(0, 0x87), (0, 0), (0x87000, 1), wrapping, (0x88000, 0x16)]);
        assert_eq!(notes(&map), [("zero-pages", 1), ("wrap", 3), ("unaligned", 3)]);
        assert_eq!(error(dropped), "boot.log:2:1: no EFI memory map: only the rows that Linux dropped from it");
    }

    #[test]
    fn a_second_list_is_noted_and_not_read() {
        let map = MemoryMap::parse(&format!("{ROWS}efi: EFI runtime memory map:\n{ROWS}")).unwrap();
        assert_eq!(map.descriptors().len(), 3);
        assert_eq!(notes(&map), [("extra-list", 2)]);
    }

    #[test]
    fn a_number_twice_in_a_row_is_an_error() {
        assert_eq!(error(&format!("{MMIO}\n{MMIO}")), "boot.log:2:1: mem118 is there twice in a row");
    }

    #[test]
    fn a_hole_in_the_numbers_is_noted() {
        let map = MemoryMap::parse(&format!("{ROWS}{MMIO}")).unwrap();
        assert_eq!(notes(&map), [("missing-rows", 3)]);
        assert_eq!(
            oddities(&map)[0].message,
            "rows mem03 to mem117 are missing before line 4: nothing is checked about their regions"
        );
    }

    #[test]
    fn a_size_that_is_not_the_ranges_is_noted() {
        let map = MemoryMap::parse(&ROWS.replace("fff] (0MB)", "fff] (7MB)")).unwrap();
        assert_eq!(oddities(&map)[0].message, "line 1 says 7MB, but its range has 0x87 pages, 0MB: was it edited?");
    }

    #[test]
    fn damage_is_pointed_at() {
        let rows = ROWS.trim_end();
        let cut = |by: usize| error(&rows[..rows.len() - by]);
        assert_eq!(cut(3), "boot.log:3:133: the range is followed by neither `(SIZEMB)` nor the end of the line");
        assert_eq!(cut(7), "boot.log:3:115: the line ends in the middle of the end address");
        assert_eq!(cut(25), "boot.log:3:112: the line ends where `-0x` should be");
        assert_eq!(cut(50), "boot.log:3:87: the line ends where `range=[` should be");
        let with = |from: &str, to: &str| {
            assert!(rows.contains(from));
            error(&rows.replacen(from, to, 1))
        };
        assert_eq!(
            with("087fff]", "08zfff]"),
            "boot.log:2:127: the end address has `zfff` among its hexadecimal digits"
        );
        assert_eq!(
            with("087fff]", "087ffe]"),
            "boot.log:2:115: the range to 0x87ffe is not a whole number of 4 KiB pages"
        );
        assert_eq!(with("087fff]", "067fff]"), "boot.log:2:94: the range ends at 0x67fff, before it starts at 0x87000");
        assert_eq!(with("087fff]", "0087fff]"), "boot.log:2:115: the end address has more than 16 hexadecimal digits");
        assert_eq!(with("Boot Data", "Boot Date"), "boot.log:2:29: unknown memory type `Boot Date`");
        assert_eq!(with("|WB|", "|WX|"), "boot.log:1:74: unknown flag `WX`");
        assert_eq!(with("mem01:", "mem01"), "boot.log:2:26: expected `:`");
        assert_eq!(with("mem01:", "mem0x1:"), "boot.log:2:24: the number of the row is no decimal number of 64 bits");
        assert_eq!(with("[0x0000000000087000", "[0x"), "boot.log:2:96: the start address is missing");
        assert_eq!(with("9dfff] ", "9dfff) "), "boot.log:3:131: expected `]`");
    }

    #[test]
    fn one_row_too_many_is_refused() {
        let text: String =
            (0..=MAX_DESCRIPTORS).map(|number| format!("efi: mem{number:02}: [MMIO|] range=[0x0-0xfff]\n")).collect();
        assert_eq!(error(&text), "boot.log:65537:1: more than 65536 descriptors");
    }

    proptest! {
        #[test]
        fn mutated_rows_do_not_panic(
            edits in prop::collection::vec((0..ROWS.len(), prop_oneof![Just('\n'), Just('é'), any::<char>(), prop::char::range(' ', '~')]), 1..6),
            cut in 0..ROWS.len(),
        ) {
            let mut text: Vec<char> = ROWS.chars().collect();
            for (at, by) in edits {
                text[at] = by;
            }
            text.truncate(cut);
            let text: String = text.into_iter().collect();
            match MemoryMap::parse(&text) {
                Ok(map) => drop(oddities(&map)),
                Err(error) => drop(format!("{:?}", miette::Report::new(error))),
            }
        }
    }
}
