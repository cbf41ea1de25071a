//! /proc/iomem, as `r_show()` of kernel/resource.c prints it, with the names of `e820_type_to_string()`.
//!
//! ```text
//! 00001000-0009ffff : System RAM
//! 000a0000-000fffff : Reserved
//!   000f0000-000fffff : System ROM
//! ```
//!
//! A row with more blanks before it than another is nested in that one.

use super::super::super::error::ParseError;
use super::super::super::{E820Type, KernelList, KernelListKind, KernelRow, KernelUse, MAX_DESCRIPTORS};
use super::super::cursor::{Bad, Cursor};
use super::super::no_map::is_iomem;
use super::super::offset::{indent, lines};
use super::super::too_many;
use super::inclusive;

/// The names that stand for types of the e820 table. Case differs between releases.
const NAMES: [(&str, E820Type); 9] = [
    ("system ram", E820Type::Usable),
    ("reserved", E820Type::Reserved),
    ("device reserved", E820Type::Reserved),
    ("unknown e820 type", E820Type::Reserved),
    ("acpi tables", E820Type::AcpiData),
    ("acpi non-volatile storage", E820Type::AcpiNvs),
    ("unusable memory", E820Type::Unusable),
    ("persistent memory", E820Type::Persistent),
    ("soft reserved", E820Type::SoftReserved),
];

/// Memory that a driver brought after boot: `System RAM (virtio_mem)`. That of `dax/kmem` is firmware's.
const ADDED: &str = "(virtio_mem)";

const SAMPLE: &str = "START-END : NAME";

const AS_ROOT: &str = "Linux shows the addresses to root only: save what `sudo cat /proc/iomem` prints";

/// None: the text has no such rows.
pub(super) fn parse(
    name: &str,
    text: &str,
    line_of: &dyn Fn(usize) -> usize,
) -> Result<Option<KernelList>, ParseError> {
    let of_iomem = || lines(text).filter(|(_, line)| is_iomem(line));
    let Some((start, first)) = of_iomem().next() else { return Ok(None) };
    if of_iomem().nth(MAX_DESCRIPTORS).is_some() {
        return Err(too_many(name, text, start..start.saturating_add(first.len())));
    }
    let outermost = of_iomem().map(|(_, line)| indent(line)).min().unwrap_or(0);
    let mut rows = Vec::new();
    let mut has_address = false;
    for (offset, line) in of_iomem() {
        let at = indent(line);
        let cursor = Cursor { line: line.trim_end(), at, offset };
        let ((first, last), told) = read(cursor).map_err(|bad| bad.in_text(name, text, SAMPLE))?;
        has_address |= last > 0;
        rows.extend(taken_for(told, at > outermost).map(|takes| KernelRow { first, last, takes }));
    }
    if !has_address {
        let span = start..start.saturating_add(first.trim_end().len());
        return Err(ParseError::at(name, text, span, "every address is 0").help(AS_ROOT));
    }
    let line = line_of(start);
    let (source, kind, others) = (name.to_owned(), KernelListKind::Iomem, Vec::new());
    Ok(Some(KernelList { source, kind, line, rows, has_beginning: true, others }))
}

fn read(mut cursor: Cursor<'_>) -> Result<((u64, u64), &str), Bad> {
    let range = inclusive(&mut cursor, "")?;
    cursor.literal(" : ")?;
    Ok((range, cursor.rest().trim()))
}

/// None: a part of what the row is nested in, such as the kernel's code in memory.
fn taken_for(told: &str, is_nested: bool) -> Option<KernelUse> {
    let told = told.to_ascii_lowercase();
    let is_called = |name: &str| told.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("));
    let known = NAMES.iter().find(|(name, _)| is_called(name) && !told.ends_with(ADDED));
    known.map(|(_, ty)| KernelUse::E820(*ty)).or((!is_nested).then_some(KernelUse::Device))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the words of a desktop PC.
    const ROWS: &str = "\
00000000-00000fff : Reserved
00001000-0009ffff : System RAM
000a0000-000fffff : Reserved
  000f0000-000fffff : System ROM
00100000-c74a9017 : System RAM
  01000000-01ffffff : Kernel code
  02000000-02000fff : reserved
cc7a2000-cc7eafff : ACPI Tables
cc7eb000-cc99dfff : ACPI Non-volatile Storage
d0000000-febfffff : PCI Bus 0000:00
  e0000000-e01fffff : Soft Reserved
100000000-1ffffffff : System RAM (virtio_mem)
200000000-2ffffffff : Persistent Memory (legacy)
";

    fn error(text: &str) -> ParseError {
        KernelList::parse("iomem", text).unwrap_err()
    }

    #[test]
    fn nested_rows_count_where_they_have_a_type() {
        let list = KernelList::parse("iomem", ROWS).unwrap();
        let e820 = KernelUse::E820;
        assert_eq!((list.kind, list.line), (KernelListKind::Iomem, 1));
        assert_eq!(
            list.rows.iter().map(|row| (row.first, row.takes)).collect::<Vec<_>>(),
            [
                (0, e820(E820Type::Reserved)),
                (0x1000, e820(E820Type::Usable)),
                (0xa_0000, e820(E820Type::Reserved)),
                (0x10_0000, e820(E820Type::Usable)),
                (0x200_0000, e820(E820Type::Reserved)),
                (0xcc7a_2000, e820(E820Type::AcpiData)),
                (0xcc7e_b000, e820(E820Type::AcpiNvs)),
                (0xd000_0000, KernelUse::Device),
                (0xe000_0000, e820(E820Type::SoftReserved)),
                (0x1_0000_0000, KernelUse::Device),
                (0x2_0000_0000, e820(E820Type::Persistent)),
            ]
        );
    }

    #[test]
    fn what_an_unprivileged_reader_gets_is_refused() {
        let hidden =
            "00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n";
        let error = error(hidden);
        assert_eq!(error.to_string(), "iomem:1:1: every address is 0");
        assert!(format!("{error:?}").contains("sudo cat /proc/iomem"), "{error:?}");
        assert!(KernelList::parse("iomem", "00000000-00000000 : Reserved\n00001000-0009ffff : System RAM\n").is_ok());
    }

    #[test]
    fn damage_is_pointed_at() {
        let wrong = ROWS.replace("00100000-c74a9017", "00100000-000a9017");
        assert_eq!(error(&wrong).to_string(), "iomem:5:1: the range ends at 0xa9017, before its start");
    }
}
