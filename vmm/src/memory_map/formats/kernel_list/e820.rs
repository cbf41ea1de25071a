//! The e820 table in a log of Linux, as `e820__print_table()` of arch/x86/kernel/e820.c prints it.
//!
//! ```text
//! [    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
//!  BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)
//! BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff]  System RAM
//! BIOS-e820: [gap 0x00000000000a0000-0x00000000000effff]
//! ```
//!
//! The second is that of kernels up to 3.4, whose ends are exclusive. The last two are those of 7.x; a gap is no row.

use super::super::super::error::{ParseError, quoted};
use super::super::super::{E820Type, KernelList, KernelListKind, KernelRow, KernelUse, MAX_DESCRIPTORS, OtherList};
use super::super::cursor::{Bad, Cursor};
use super::super::log_prefix::find_message;
use super::super::offset::lines;
use super::super::too_many;
use super::{in_order, inclusive};

/// What stands before the rows of each list, and the end of the line that heads it.
const LISTS: [(KernelListKind, &str, &str); 4] = [
    (KernelListKind::Bios, "BIOS-e820:", "BIOS-provided physical RAM map:"),
    (KernelListKind::User, "user:", "user-defined physical RAM map:"),
    (KernelListKind::Modified, "modified:", "modified physical RAM map:"),
    (KernelListKind::SetupData, "reserve setup_data:", "extended physical RAM map:"),
];

/// What `e820_print_type()` prints, before 7.x and since.
const TYPES: [(&str, E820Type); 10] = [
    ("usable", E820Type::Usable),
    ("System RAM", E820Type::Usable),
    ("reserved", E820Type::Reserved),
    ("device reserved", E820Type::Reserved),
    ("ACPI data", E820Type::AcpiData),
    ("ACPI NVS", E820Type::AcpiNvs),
    ("unusable", E820Type::Unusable),
    ("persistent", E820Type::Persistent),
    ("soft reserved", E820Type::SoftReserved),
    // A number that Linux has no name for, and takes for reserved. 20 is GRUB's for code of runtime services.
    ("type", E820Type::Reserved),
];

const SAMPLE: &str = "BIOS-e820: [mem 0xSTART-0xEND] TYPE";

/// The last table of the first boot. None: the text has none.
pub(super) fn parse(
    name: &str,
    text: &str,
    line_of: &dyn Fn(usize) -> usize,
) -> Result<Option<KernelList>, ParseError> {
    let mut tables: Vec<Table> = Vec::new();
    let mut headed = None;
    let mut count = 0_usize;
    for (offset, line) in lines(text) {
        headed = heading(line).or(headed);
        let Some((kind, at)) = start(line) else { continue };
        let line = line.trim_end();
        let row = read(Cursor { line, at, offset }).map_err(|bad| bad.in_text(name, text, SAMPLE))?;
        let Some(row) = row else { continue };
        count = count.saturating_add(1);
        if count > MAX_DESCRIPTORS {
            return Err(too_many(name, text, offset..offset.saturating_add(line.len())));
        }
        match tables.last_mut() {
            Some(table) if table.is_printed_twice(kind, row) => {}
            Some(table) if table.goes_on(kind, row) => table.rows.push(row),
            _ => tables.push(Table {
                kind,
                rows: vec![row],
                line: line_of(offset),
                has_beginning: headed.take() == Some(kind),
            }),
        }
    }
    Ok(chosen(tables).map(|(table, others)| KernelList {
        source: name.to_owned(),
        kind: table.kind,
        line: table.line,
        rows: table.rows,
        has_beginning: table.has_beginning,
        others,
    }))
}

/// Rows of one kind that follow one another.
struct Table {
    kind: KernelListKind,
    rows: Vec<KernelRow>,
    line: usize,
    has_beginning: bool,
}

impl Table {
    /// Two consoles print each row twice.
    fn is_printed_twice(&self, kind: KernelListKind, row: KernelRow) -> bool {
        self.kind == kind && self.rows.last() == Some(&row)
    }

    /// Linux sorts a table before it prints it: a row that falls back starts another.
    fn goes_on(&self, kind: KernelListKind, row: KernelRow) -> bool {
        self.kind == kind && self.rows.last().is_some_and(|last| last.last < row.first)
    }

    fn told(&self) -> OtherList {
        OtherList { kind: self.kind, line: self.line, rows: self.rows.len() }
    }
}

/// The first boot ends where firmware's table comes a second time.
fn chosen(mut tables: Vec<Table>) -> Option<(Table, Vec<OtherList>)> {
    let boots = tables.iter().enumerate().filter(|(_, table)| table.kind == KernelListKind::Bios);
    let first_boot = boots.map(|(index, _)| index).find(|index| *index > 0).unwrap_or(tables.len());
    // Of equal ones `max_by_key` gives the last.
    let index = (0..first_boot).max_by_key(|index| tables[*index].kind)?;
    let table = tables.remove(index);
    Some((table, tables.iter().map(Table::told).collect()))
}

fn heading(line: &str) -> Option<KernelListKind> {
    let line = line.trim_end();
    LISTS.iter().find(|(_, _, heading)| line.ends_with(heading)).map(|(kind, _, _)| *kind)
}

/// Which list a line is a row of, and where the row starts. `user:` is a word of many logs, so it needs an address behind it.
fn start(line: &str) -> Option<(KernelListKind, usize)> {
    LISTS.iter().find_map(|(kind, marker, _)| {
        let at = find_message(line, marker)?;
        let rest = line[at..].strip_prefix(marker)?.trim_start();
        let has_address = rest.starts_with("[mem ") || rest.get(..16).is_some_and(is_hexadecimal);
        (*kind == KernelListKind::Bios || has_address).then_some((*kind, at))
    })
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Reads a row. None: a gap.
fn read(mut cursor: Cursor<'_>) -> Result<Option<KernelRow>, Bad> {
    cursor.skip(cursor.rest().find(':').unwrap_or(0));
    cursor.literal(":")?;
    cursor.blanks();
    if cursor.rest().starts_with("[gap ") {
        cursor.literal("[gap ")?;
        inclusive(&mut cursor, "0x")?;
        cursor.literal("]")?;
        return Ok(None);
    }
    let (first, last) = if cursor.rest().starts_with('[') { bracketed(&mut cursor)? } else { bare(&mut cursor)? };
    cursor.blanks();
    size(&mut cursor);
    let is_bare = cursor.rest().starts_with('(');
    cursor.skip(usize::from(is_bare));
    Ok(Some(KernelRow { first, last, takes: KernelUse::E820(e820_type(&cursor)?) }))
}

/// `[mem 0x0000000000000000-0x000000000009fbff]`
fn bracketed(cursor: &mut Cursor<'_>) -> Result<(u64, u64), Bad> {
    cursor.literal("[mem ")?;
    let range = inclusive(cursor, "0x")?;
    cursor.literal("]")?;
    Ok(range)
}

/// `0000000000000000 - 000000000009fc00`, of which the end is exclusive.
fn bare(cursor: &mut Cursor<'_>) -> Result<(u64, u64), Bad> {
    let start = cursor.at;
    let first = cursor.hex_u64("the start address")?;
    cursor.blanks();
    cursor.literal("-")?;
    cursor.blanks();
    let end = cursor.hex_u64("the end address")?;
    let empty = || Bad::new(cursor.since(start), "the range is empty");
    let last = end.checked_sub(1).filter(|last| first != last.wrapping_add(1)).ok_or_else(empty)?;
    in_order(first, last, cursor.since(start))
}

/// `1.9 GB`, which one release prints before the type.
fn size(cursor: &mut Cursor<'_>) {
    if !cursor.rest().starts_with(|digit: char| digit.is_ascii_digit()) {
        return;
    }
    for _ in ["number", "unit"] {
        cursor.skip(cursor.rest().find(' ').unwrap_or(cursor.rest().len()));
        cursor.blanks();
    }
}

fn e820_type(cursor: &Cursor<'_>) -> Result<E820Type, Bad> {
    let rest = cursor.rest();
    let is_whole = |rest: &str| !rest.starts_with(char::is_alphanumeric);
    let known = TYPES.iter().find(|(word, _)| rest.strip_prefix(word).is_some_and(is_whole));
    known.map(|(_, ty)| *ty).ok_or_else(|| match rest.trim() {
        "" => Bad::new(cursor.to_end(), "the line ends before the type"),
        other => Bad::new(cursor.span(other.len()), format!("{} is no type of an e820 table", quoted(other))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> KernelList {
        KernelList::parse("boot.log", text).unwrap()
    }

    fn rows(text: &str) -> Vec<(u64, u64, E820Type)> {
        let told = |row: KernelRow| match row.takes {
            KernelUse::E820(ty) => (row.first, row.last, ty),
            KernelUse::Device => panic!("{row:?}"),
        };
        list(text).rows.into_iter().map(told).collect()
    }

    /// The same table in the words of each release.
    #[test]
    fn every_spelling_is_read() {
        let expected = [
            (0, 0x9_fbff, E820Type::Usable),
            (0x9_fc00, 0x9_ffff, E820Type::Reserved),
            (0x10_0000, 0x10_0fff, E820Type::AcpiNvs),
        ];
        for text in [
            "[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable\n\
             [    0.000000] BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved\n\
             [    0.000000] BIOS-e820: [mem 0x0000000000100000-0x0000000000100fff] ACPI NVS\n",
            "[    0.000000]  BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)\n\
             [    0.000000]  BIOS-e820: 000000000009fc00 - 00000000000a0000 (reserved)\n\
             [    0.000000]  BIOS-e820: 0000000000100000 - 0000000000101000 (ACPI NVS)\n",
            "BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff]  System RAM\n\
             BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff]  device reserved\n\
             BIOS-e820: [gap 0x00000000000a0000-0x00000000000fffff]\n\
             BIOS-e820: [mem 0x0000000000100000-0x0000000000100fff]  ACPI NVS\n",
            "Nov 09 03:24:52 pve kernel: BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff]   639 KB usable\n\
             Nov 09 03:24:52 pve kernel: BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff]     1 KB type 20\n\
             Nov 09 03:24:52 pve kernel: BIOS-e820: [mem 0x0000000000100000-0x0000000000100fff]     4 KB ACPI NVS\n",
        ] {
            assert_eq!(rows(text), expected, "{text}");
        }
        let others = "BIOS-e820: [mem 0x0000000000000000-0x0000000000000fff] persistent (type 7)\n\
                      BIOS-e820: [mem 0x0000000000001000-0x0000000000001fff] persistent RAM (type 12)\n\
                      BIOS-e820: [mem 0x0000000000002000-0x0000000000002fff] soft reserved\n\
                      BIOS-e820: [mem 0x0000000000003000-0xffffffffffffffff] unusable\n";
        let types: Vec<E820Type> = rows(others).iter().map(|row| row.2).collect();
        let persistent = E820Type::Persistent;
        assert_eq!(types, [persistent, persistent, E820Type::SoftReserved, E820Type::Unusable]);
    }

    const BIOS: &str = "BIOS-provided physical RAM map:\n\
                        BIOS-e820: [mem 0x0000000000000000-0x0000000000ffffff] usable\n";
    const SETUP: &str = "extended physical RAM map:\n\
                         reserve setup_data: [mem 0x0000000000000000-0x000000000000800f] usable\n\
                         reserve setup_data: [mem 0x0000000000008010-0x0000000000ffffff] usable\n";
    const USER: &str =
        "e820: user-defined physical RAM map:\nuser: [mem 0x0000000000000000-0x00000000007fffff] usable\n";

    #[test]
    fn the_last_table_of_the_first_boot_is_taken() {
        let kind = |text: &str| (list(text).kind, list(text).line, list(text).others.len());
        assert_eq!(kind(BIOS), (KernelListKind::Bios, 2, 0));
        assert_eq!(kind(&format!("{BIOS}{SETUP}")), (KernelListKind::Bios, 2, 1));
        assert_eq!(kind(SETUP), (KernelListKind::SetupData, 2, 0));
        assert_eq!(
            kind(&format!("{BIOS}e820: update [mem 0x1-0x2] usable ==> usable\n{SETUP}{USER}")),
            (KernelListKind::User, 8, 2)
        );
        let modified = "modified: [mem 0x0000000000000000-0x0000000000000fff] usable\n";
        assert_eq!(kind(&format!("{BIOS}{USER}{modified}{BIOS}{USER}")).0, KernelListKind::Modified);
        let [first, second] = [USER, &USER.replace("7f", "5f")].map(|user| format!("{BIOS}{user}"));
        assert_eq!(list(&format!("{first}{second}")).rows[0].last, 0x7f_ffff);
    }

    #[test]
    fn a_table_that_lost_its_beginning_says_so() {
        assert!(list(BIOS).has_beginning);
        let (_, cut) = BIOS.split_once('\n').unwrap();
        assert!(!list(cut).has_beginning);
        assert!(!list(&format!("{USER}{cut}")).others.is_empty());
    }

    #[test]
    fn rows_that_two_consoles_print_are_read_once() {
        let twice: String = BIOS.lines().flat_map(|line| [line, "\n", line, "\n"]).collect();
        assert_eq!(list(&twice).rows, list(BIOS).rows);
    }

    #[test]
    fn damage_is_pointed_at() {
        let error = |text: &str| KernelList::parse("boot.log", text).unwrap_err().to_string();
        let row = "[    0.000000] BIOS-e820: [mem 0x0000000000001000-0x0000000000001fff] usable\n";
        let with = |from: &str, to: &str| {
            assert!(row.contains(from));
            error(&format!("{BIOS}{}", row.replacen(from, to, 1)))
        };
        assert_eq!(with("usable", "reser"), "boot.log:3:71: `reser` is no type of an e820 table");
        assert_eq!(with(" usable", ""), "boot.log:3:70: the line ends before the type");
        assert_eq!(
            with("00001fff", "0000x1fff"),
            "boot.log:3:65: the end address has `x1fff` among its hexadecimal digits"
        );
        assert_eq!(with("0x0000000000001fff", "0x10"), "boot.log:3:32: the range ends at 0x10, before its start");
        assert_eq!(with("1fff] usable", ""), "boot.log:3:53: the line ends in the middle of the end address");
        assert_eq!(with("[mem", "[mxm"), "boot.log:3:27: expected `[mem `");
        let bare = " BIOS-e820: 0000000000001000 - 0000000000001000 (usable)\n";
        assert_eq!(error(bare), "boot.log:1:13: the range is empty");
        let none = error("Linux version 6.1\nuser: root\nmodified: 12\n");
        assert_eq!(none, "boot.log:1:1: no e820 table and no /proc/iomem: no line is of either");
    }
}
