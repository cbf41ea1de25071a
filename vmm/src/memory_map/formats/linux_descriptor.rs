//! How Linux writes a descriptor: a type and attributes in brackets, and a range of addresses.
//!
//! `efi_md_typeattr_format()` in drivers/firmware/efi/efi.c prints the brackets, since 3.17. Flags are read by name, not
//! by column, for columns came with the years: SP with 5.5, CC with 5.8, HP with 6.14.

use std::ops::Range;

use super::super::error::quoted;
use super::super::{MemoryAttribute, MemoryType, PAGE_BYTES};
use super::cursor::{Bad, Cursor, check_digits};

/// Reads `[Runtime Code|RUN|  |WB]`, `[Reserved|attr=0x070000000000000f]` or `[type=1879048192|  |WB]`.
pub(super) fn type_and_attribute(cursor: &mut Cursor<'_>) -> Result<(MemoryType, MemoryAttribute), Bad> {
    cursor.literal("[")?;
    let ty = memory_type(cursor)?;
    // Linux 3.16 on ARM printed the type alone. What is needed at run time cannot be told then.
    if cursor.rest().starts_with(']') {
        return Err(Bad::new(cursor.span(1), "no attributes follow the type")
            .help("without them nobody can tell what runtime services need; take a log of Linux 3.17 or later"));
    }
    Ok((ty, attribute(cursor)?))
}

/// Writes what [`type_and_attribute`] reads, in the columns of Linux 6.14 and later.
pub(super) fn write_type_and_attribute(out: &mut String, ty: MemoryType, attribute: MemoryAttribute) {
    let name = usize::try_from(ty.0).ok().and_then(|index| TYPES.get(index));
    let name = name.map_or_else(|| format!("type={}", ty.0), |(name, _)| format!("{name:<12}"));
    let named = FLAGS.iter().fold(MemoryAttribute::empty(), |all, (_, bit)| all | *bit);
    *out += &format!("[{name}");
    if !attribute.difference(named).is_empty() {
        *out += &format!("|attr={:#018x}]", attribute.bits());
        return;
    }
    for (flag, bit) in FLAGS {
        let width = if matches!(flag, "RUN" | "UCE") { 3 } else { 2 };
        let shown = if attribute.contains(bit) { flag } else { "" };
        *out += &format!("|{shown:>width$}");
    }
    out.push(']');
}

/// A range of addresses as it stands in a row.
pub(super) struct Addresses {
    pub start: u64,
    /// The end as printed: the address of the last byte or, if the range is half-open, the one after it. It may have
    /// more than 64 bits.
    pub end: u128,
    pub is_half_open: bool,
    /// Where in the text the range is, and its end.
    span: Range<usize>,
    end_span: Range<usize>,
}

impl Addresses {
    /// Reads `0x000000008db6f000-0x000000008dc3efff`.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Bad> {
        let begin = cursor.span(0).start;
        cursor.literal("0x")?;
        let start = cursor.hex_u64("the start address")?;
        cursor.literal("-0x")?;
        let (end, end_span) = cursor.hex("the end address")?;
        Ok(Self { start, end, is_half_open: false, span: begin..end_span.end, end_span })
    }

    /// Reads the same in brackets: `[0x1000-0x1fff]` up to the last byte, `[0x1000-0x2000)` up to the byte after it.
    pub(super) fn read_bracketed(cursor: &mut Cursor<'_>) -> Result<Self, Bad> {
        cursor.literal("[")?;
        let mut addresses = Self::read(cursor)?;
        addresses.is_half_open = cursor.rest().starts_with(')');
        cursor.literal(if addresses.is_half_open { ")" } else { "]" })?;
        Ok(addresses)
    }

    /// Refuses an end of more digits than an address has.
    pub(super) fn of_64_bits(self) -> Result<Self, Bad> {
        check_digits(self.end_span.clone(), "the end address")?;
        Ok(self)
    }

    /// The number of pages; `is_empty_possible` says whether nothing in the row contradicts that there are none.
    ///
    /// Linux computes ends in 64 bits: a half-open end of 0 is 2^64, and the last byte of no pages at 0 is that of the
    /// whole address space.
    pub(super) fn pages(&self, is_empty_possible: bool) -> Result<u64, Bad> {
        let is_empty_at_0 = !self.is_half_open && self.start == 0 && self.end == u128::from(u64::MAX);
        if is_empty_at_0 && is_empty_possible {
            return Ok(0);
        }
        let past = match (self.is_half_open, self.end) {
            (true, 0) if self.start > 0 => Some(1 << 64),
            (true, end) => Some(end),
            (false, end) => end.checked_add(1),
        };
        let bytes = past
            .ok_or(Problem::TooManyPages)
            .and_then(|past| past.checked_sub(self.start.into()).ok_or(Problem::Reversed));
        bytes.and_then(whole_pages).map_err(|problem| self.bad(problem))
    }

    /// The number of pages of a range that is no better than random bits: what 64-bit arithmetic made of it.
    pub(super) fn pages_wrapping(&self) -> Result<u64, Bad> {
        let end = u64::try_from(self.end).unwrap_or(u64::MAX);
        let bytes = end.wrapping_add(1).wrapping_sub(self.start);
        whole_pages(bytes.into()).map_err(|problem| self.bad(problem))
    }

    fn bad(&self, problem: Problem) -> Bad {
        let Self { start, end, .. } = self;
        let end_span = self.end_span.clone();
        match problem {
            Problem::Reversed => {
                let message = format!("the range ends at {end:#x}, before it starts at {start:#x}");
                Bad::new(self.span.clone(), message)
                    .help("an end one before the start means no pages; a region past 2^64 can be written in TOML")
            }
            Problem::TooManyPages => Bad::new(end_span, format!("the range to {end:#x} has more than 2^64 pages")),
            Problem::NotWholePages => {
                Bad::new(end_span, format!("the range to {end:#x} is not a whole number of 4 KiB pages")).help(
                    match self.is_half_open {
                        true => "the end is the address after the last byte: 0x2000 for two pages from 0",
                        false => "the end is the address of the last byte: 0x1fff for two pages from 0",
                    },
                )
            }
        }
    }
}

/// What can be wrong with a range of two sound numbers.
enum Problem {
    Reversed,
    NotWholePages,
    TooManyPages,
}

fn whole_pages(bytes: u128) -> Result<u64, Problem> {
    if !bytes.is_multiple_of(u128::from(PAGE_BYTES)) {
        return Err(Problem::NotWholePages);
    }
    u64::try_from(bytes >> PAGE_BYTES.trailing_zeros()).map_err(|_| Problem::TooManyPages)
}

/// Linux's `memory_type_name`, by type: since 5.8, and before where it was another.
const TYPES: [(&str, &str); 16] = [
    ("Reserved", ""),
    ("Loader Code", ""),
    ("Loader Data", ""),
    ("Boot Code", ""),
    ("Boot Data", ""),
    ("Runtime Code", ""),
    ("Runtime Data", ""),
    ("Conventional", "Conventional Memory"),
    ("Unusable", "Unusable Memory"),
    ("ACPI Reclaim", "ACPI Reclaim Memory"),
    ("ACPI Mem NVS", "ACPI Memory NVS"),
    ("MMIO", "Memory Mapped I/O"),
    ("MMIO Port", "MMIO Port Space"),
    ("PAL Code", ""),
    ("Persistent", "Persistent Memory"),
    ("Unaccepted", ""),
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

/// `Runtime Code`, or `type=1879048192`, up to the bar.
fn memory_type(cursor: &mut Cursor<'_>) -> Result<MemoryType, Bad> {
    let (name, span) = cursor.up_to_bar_or_bracket("the type")?;
    if let Some(number) = name.strip_prefix("type=") {
        let number = number.parse().map_err(|_| Bad::new(span, "the type is no number of 32 bits"))?;
        return Ok(MemoryType(number));
    }
    let is_named = |(short, long): &(&str, &str)| *short == name || !long.is_empty() && *long == name;
    let index = TYPES.iter().position(is_named).and_then(|index| u32::try_from(index).ok());
    index.map(MemoryType).ok_or_else(|| {
        Bad::new(span, format!("unknown memory type {}", quoted(name)))
            .help("the types are those of Linux: Reserved, Runtime Code, MMIO, ..., or type=N")
    })
}

/// `|RUN|  |WB]`, or `|attr=0x070000000000000f]` when bits are set that Linux has no flag for.
fn attribute(cursor: &mut Cursor<'_>) -> Result<MemoryAttribute, Bad> {
    let mut all = MemoryAttribute::empty();
    while !cursor.rest().starts_with(']') {
        cursor.literal("|")?;
        if cursor.rest().starts_with("attr=") {
            cursor.literal("attr=0x")?;
            all = MemoryAttribute::from_bits_retain(cursor.hex_u64("the attribute")?);
            break;
        }
        let (name, span) = cursor.up_to_bar_or_bracket("a flag")?;
        all |= flag(name).ok_or_else(|| Bad::new(span, format!("unknown flag {}", quoted(name))))?;
    }
    cursor.literal("]")?;
    Ok(all)
}

fn flag(name: &str) -> Option<MemoryAttribute> {
    if name.is_empty() {
        return Some(MemoryAttribute::empty());
    }
    FLAGS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(u32, u64)> {
        let mut cursor = Cursor { line: text, at: 0, offset: 0 };
        type_and_attribute(&mut cursor).ok().map(|(ty, attribute)| (ty.0, attribute.bits()))
    }

    /// The names in the order of UEFI's numbers, as Linux 3.17 to 5.7 had them.
    const LONG: [&str; 15] = [
        "Reserved           ",
        "Loader Code        ",
        "Loader Data        ",
        "Boot Code          ",
        "Boot Data          ",
        "Runtime Code       ",
        "Runtime Data       ",
        "Conventional Memory",
        "Unusable Memory    ",
        "ACPI Reclaim Memory",
        "ACPI Memory NVS    ",
        "Memory Mapped I/O  ",
        "MMIO Port Space    ",
        "PAL Code           ",
        "Persistent Memory  ",
    ];

    #[test]
    fn types_are_known_by_the_names_of_every_era() {
        for (number, name) in (0..).zip(LONG) {
            assert_eq!(read(&format!("[{name}|   |  |WB]")), Some((number, 8)), "{name}");
        }
        for number in (0..20).chain([0x7000_0000, u32::MAX]) {
            let mut written = String::new();
            write_type_and_attribute(&mut written, MemoryType(number), MemoryAttribute::WRITE_BACK);
            assert_eq!(read(&written), Some((number, 8)), "{written}");
        }
        assert_eq!(read("[|   |WB]"), None);
        assert_eq!(read("[Conventional Mem|   |WB]"), None);
    }

    #[test]
    fn every_attribute_is_read_as_it_was_written() {
        for bit in 0..64 {
            let attribute = MemoryAttribute::from_bits_retain(1 << bit);
            let mut written = String::new();
            write_type_and_attribute(&mut written, MemoryType::RESERVED, attribute);
            assert_eq!(read(&written), Some((0, 1 << bit)), "{written}");
        }
    }
}
