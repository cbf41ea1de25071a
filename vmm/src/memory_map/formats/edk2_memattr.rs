//! The Memory Attributes Table in the debug log of EDK II and of OpenCore, six lines an entry.
//!
//! ```text
//! MemoryAttributesTable:
//!   Version              - 0x00000001
//!   NumberOfEntries      - 0x0000001B
//!   DescriptorSize       - 0x00000030
//! Entry (0x7EC5A018)
//!   Type              - 0x5
//!   PhysicalStart     - 0x000000007F8EF000
//!   VirtualStart      - 0x0000000000000000
//!   NumberOfPages     - 0x0000000000000001
//!   Attribute         - 0x8000000000004000
//! ```
//!
//! `InstallMemoryAttributesTable()` in MdeModulePkg/Core/Dxe/Misc/MemoryAttributesTable.c prints it, each time it makes
//! the table anew; OpenCore's `OcPrintMemoryAttributesTable()` has `OCMM:` before each line. The table of SMM is printed
//! in the same words. What prints the table in rows like those of the shell's `memmap` is read as those: see `lists`.

use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::log_prefix::find_marker;
use super::offset::suffix_at;
use super::row::{Row, RowFormat, RowKind};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::Edk2Memattr,
    lines: 6,
    start,
    read,
    sample: "Entry (0x7EC5A018)` and a line each for Type, PhysicalStart, VirtualStart, NumberOfPages and Attribute, such \
             as `Attribute - 0x8000000000004000",
    headings: &[],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// What the first line of an entry has before its address.
const ENTRY: &str = "Entry (0x";

/// Digits of all numbers but the type.
const DIGITS: usize = 16;

fn start(line: &str) -> Option<usize> {
    find_marker(line, ENTRY).filter(|_| line.trim_end().ends_with(')'))
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let span = find(&mut row, "Type")?;
    let ty = row.free_hex("the type")?;
    let ty = u32::try_from(ty).map(MemoryType).map_err(|_| Bad::new(span, "the type has more than 32 bits"))?;
    let mut number = |field, what| find(&mut row, field).and_then(|_| row.padded_hex(what, DIGITS));
    let phys_start = number("PhysicalStart", "the physical address")?;
    let virt_start = number("VirtualStart", "the virtual address")?;
    let page_count = number("NumberOfPages", "the number of pages")?;
    let att = MemoryAttribute::from_bits_retain(number("Attribute", "the attribute")?);
    row.end()?;
    let descriptor = MemoryDescriptor { ty, padding: 0, phys_start, virt_start, page_count, att };
    Ok(Row { kind: RowKind::Attributes, ..Row::region(descriptor) })
}

/// Goes to the number of a field, in the next line.
fn find(row: &mut Cursor<'_>, field: &str) -> Result<std::ops::Range<usize>, Bad> {
    row.take_while(|c| c != '\n');
    row.take_while(|c| c == '\n');
    let line = row.rest().split('\n').next().unwrap_or_default();
    let missing = || Bad::new(row.span(line.len()), format!("expected the line `{field} - 0x...` of the entry"));
    let (before, after) = line.split_once(field).ok_or_else(missing)?;
    let number = after.trim_start().strip_prefix('-').and_then(|rest| rest.trim_start().strip_prefix("0x"));
    let number = number.filter(|_| !before.ends_with(char::is_alphanumeric)).ok_or_else(missing)?;
    row.skip(suffix_at(line, number));
    Ok(row.span(number.len()))
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryMap, ReadOptions, oddities};

    /// In EDK II's words.
    const TABLE: &str = "\
MemoryAttributesTable:
  Version              - 0x00000001
  NumberOfEntries      - 0x00000002
  DescriptorSize       - 0x00000030
Entry (0x7EC5A018)
  Type              - 0x5
  PhysicalStart     - 0x000000007F8EF000
  VirtualStart      - 0x0000000000000000
  NumberOfPages     - 0x0000000000000001
  Attribute         - 0x8000000000004000
Entry (0x7EC5A048)
  Type              - 0x5
  PhysicalStart     - 0x000000007F8F0000
  VirtualStart      - 0x0000000000000000
  NumberOfPages     - 0x0000000000000005
  Attribute         - 0x8000000000020000
";
    const MAP: &str = "RT_Code    000000007F8EF000-000000007F8F4FFF 0000000000000006 800000000000000F\n";

    fn kinds(map: &MemoryMap) -> Vec<&'static str> {
        oddities(map).iter().map(|odd| odd.kind.name()).collect()
    }

    #[test]
    fn the_table_goes_with_the_map_or_is_a_part_of_it() {
        let opencore = TABLE.lines().map(|line| format!("12:345 00:001 OCMM: {line}\n")).collect::<String>();
        for table in [TABLE, &TABLE.replace('\n', "\r\n"), &opencore] {
            for text in [format!("{MAP}{table}"), format!("{table}{MAP}")] {
                let map = MemoryMap::parse(&text).unwrap();
                assert_eq!((map.descriptors().len(), map.partial()), (1, None), "{text}");
                let read: Vec<_> =
                    map.attributes_table().iter().map(|d| (d.phys_start, d.page_count, d.att.bits())).collect();
                let (xp, ro) = (0x8000_0000_0000_4000, 0x8000_0000_0002_0000);
                assert_eq!(read, [(0x7f8e_f000, 1, xp), (0x7f8f_0000, 5, ro)]);
                assert_eq!(kinds(&map), [""; 0]);
            }
            let alone = MemoryMap::parse(table).unwrap();
            assert!(alone.partial().is_some_and(|why| why.contains("Memory Attributes Table only")));
            assert_eq!((alone.descriptors().len(), alone.attributes_table().len()), (2, 2));
        }
    }

    #[test]
    fn the_last_table_before_linux_is_linuxs() {
        let linux = "Linux version 6.1\nefi: mem00: [Runtime Code|RUN|WB] range=[0x7f8ef000-0x7f8f4fff] (0MB)\n";
        let later = TABLE.replacen("0x2", "0x1", 1).replace("0x8000000000020000", "0x8000000000000000");
        let of_next_boot = TABLE;
        let maps =
            MemoryMap::parse_all("log", &[TABLE, &later, linux, of_next_boot, linux].concat(), &ReadOptions::default());
        let last: Vec<_> = maps.unwrap().iter().map(|map| map.attributes_table()[1].att.bits()).collect();
        assert_eq!(last, [0x8000_0000_0000_0000, 0x8000_0000_0002_0000]);
    }

    #[test]
    fn smms_table_is_not_the_systems() {
        let smm = TABLE.replace("0x8", "0x0");
        assert_eq!(MemoryMap::parse(&format!("{smm}{MAP}")).unwrap().attributes_table().len(), 0);
        let error = MemoryMap::parse_named("log", &smm).unwrap_err();
        assert_eq!(error.to_string(), "log:5:1: no EFI memory map: only a Memory Attributes Table");
    }

    #[test]
    fn an_entry_that_is_missing_is_noted() {
        let cut = &TABLE[..TABLE.find("Entry (0x7EC5A048)").unwrap()];
        let map = MemoryMap::parse(&format!("{cut}{MAP}")).unwrap();
        assert_eq!(
            oddities(&map)[0].message,
            "the Memory Attributes Table from line 5 on has 2 entries by its heading, and 1 are here: the permissions \
             of the others are not known"
        );
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(TABLE.contains(from));
            MemoryMap::parse_named("log", &TABLE.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(
            with("VirtualStart", "VirtualStar"),
            "log:8:1: expected the line `VirtualStart - 0x...` of the entry"
        );
        assert_eq!(
            with("0x0000000000000001", "0x000000000000001"),
            "log:9:25: the number of pages has 15 digits, but is printed with 16"
        );
        assert_eq!(
            with("Type              - 0x5", "Type              - 0x500000000"),
            "log:6:25: the type has more than 32 bits"
        );
    }
}
