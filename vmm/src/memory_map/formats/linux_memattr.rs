//! The Memory Attributes Table in the boot log of Linux with `efi=debug` on its command line.
//!
//! ```text
//! [    0.348137] efi: memattr: Processing EFI Memory Attributes table:
//! [    0.348138] efi: memattr:  0x0000bfbc5000-0x0000bfbc8fff [Runtime Code       |RUN|  |  |  |  |  |  |RO|   |  |  |  |  ]
//! [    0.348660] efi: memattr: ! 0x000000090000-0x000000090fff [Runtime Code|RUN|  |  |  |  |  |  |  |  |   |  |  |  |  ]
//! ```
//!
//! `efi_memattr_apply_permissions()` in drivers/firmware/efi/memattr.c prints them. With `!` Linux refuses the entry, and
//! prints it without `efi=debug` too. It is still an entry: what was wrong with it is for a mapper to see. Some are
//! no more than random bits, with ends that wrapped.

use std::fmt::Write as _;

use super::super::{Format, MemoryDescriptor, PAGE_BYTES};
use super::cursor::{Bad, Cursor};
use super::linux_descriptor::{Addresses, type_and_attribute, write_type_and_attribute};
use super::log_prefix::find_message;
use super::offset::{Offset, suffix_at};
use super::row::{Row, RowFormat, RowKind};

/// The format.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::LinuxMemattr,
    lines: 1,
    start,
    read,
    sample: "efi: memattr:  0xSTART-0xEND [TYPE|FLAGS]",
    headings: &[],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// Writes a table.
pub(super) fn write(out: &mut String, table: &[MemoryDescriptor]) {
    if !table.is_empty() {
        *out += "efi: memattr: Processing EFI Memory Attributes table:\n";
    }
    for entry in table {
        // As Linux does, in 64 bits.
        let last = entry.phys_start.wrapping_add(entry.page_count.wrapping_mul(PAGE_BYTES)).wrapping_sub(1);
        // Writing to a string does not fail.
        let _ = write!(out, "efi: memattr:  {:#014x}-{last:#014x} ", entry.phys_start);
        write_type_and_attribute(out, entry.ty, entry.att);
        out.push('\n');
    }
}

/// Whether an entry reads back as it was written.
pub(super) fn is_writable(entry: &MemoryDescriptor) -> bool {
    entry.virt_start == 0 && entry.page_count <= u64::MAX / PAGE_BYTES
}

const PREFIX: &str = "efi: memattr: ";

/// Linux says more than entries behind the prefix.
fn start(line: &str) -> Option<usize> {
    let message = find_message(line, PREFIX)?;
    let rest = line[message.plus(PREFIX.len())..].trim_start();
    let rest = rest.strip_prefix('!').unwrap_or(rest).trim_start();
    rest.starts_with("0x").then_some(suffix_at(line, rest))
}

fn read(mut cursor: Cursor<'_>) -> Result<Row, Bad> {
    let addresses = Addresses::read(&mut cursor)?.of_64_bits()?;
    cursor.blanks();
    let (ty, att) = type_and_attribute(&mut cursor)?;
    if !cursor.rest().is_empty() {
        return Err(Bad::new(cursor.to_end(), "the row goes on after its attributes"));
    }
    let (phys_start, page_count) = (addresses.start, addresses.pages_wrapping()?);
    let descriptor = MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() };
    Ok(Row { number: None, descriptor, kind: RowKind::Attributes, odd: None, end: None })
}

#[cfg(test)]
mod tests {
    use super::super::super::MemoryMap;

    const MAP: &str = "efi: mem00: [Runtime Code|RUN|  |WB] range=[0xbfbc5000-0xbfbcafff] (0MB)\n";

    // The first two from the log of an OVMF, the third of a laptop, the last of one whose table was overwritten.
    const ROWS: &str = "\
[    0.348138] efi: memattr:  0x0000bfbc5000-0x0000bfbc8fff [Runtime Code       |RUN|  |  |  |  |  |  |RO|   |  |  |  |  ]
[    0.348660] efi: memattr:  0x0000bfbc9000-0x0000bfbcafff [Runtime Code       |RUN|  |  |  |XP|  |  |  |   |  |  |  |  ]
efi: memattr: Entry attributes invalid: RO and XP bits both cleared
efi: memattr: ! 0x000000090000-0x000000090fff [Runtime Code|RUN|  |  |  |  |  |  |  |  |   |  |  |  |  ]
[    2.393731] efi: memattr: ! 0x214c42f01f1162a-0xee70ac7bd1a9c629 [type=2028324321|attr=0x6590648fa4209879]
";

    #[test]
    fn the_table_goes_with_the_map() {
        let map = MemoryMap::parse(&format!("{MAP}{ROWS}")).unwrap();
        assert_eq!(map.descriptors().len(), 1);
        let read: Vec<_> =
            map.attributes_table().iter().map(|entry| (entry.phys_start, entry.page_count, entry.att.bits())).collect();
        // 0xee70ac7bd1a9c62a - 0x0214c42f01f1162a = 0xec5be84ccfb8b000
        assert_eq!(
            read,
            [
                (0xbfbc_5000, 4, 0x8000_0000_0002_0000),
                (0xbfbc_9000, 2, 0x8000_0000_0000_4000),
                (0x9_0000, 1, 0x8000_0000_0000_0000),
                (0x0214_c42f_01f1_162a, 0xe_c5be_84cc_fb8b, 0x6590_648f_a420_9879),
            ]
        );
    }

    #[test]
    fn a_table_alone_is_a_part_of_the_map() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let regions: Vec<_> =
            map.regions().map(|region| (region.phys, region.pages, region.attribute.bits())).collect();
        let runtime_wb = 0x8000_0000_0000_0008;
        assert_eq!(regions, [(0xbfbc_5000, 4, runtime_wb), (0xbfbc_9000, 2, runtime_wb), (0x9_0000, 1, runtime_wb)]);
        assert_eq!(map.attributes_table().len(), 4);
        assert!(map.partial().is_some_and(|why| why.contains("Memory Attributes Table only")));
    }

    #[test]
    fn a_table_of_garbage_is_no_map() {
        let garbage = ROWS.lines().last().unwrap();
        let error = MemoryMap::parse_named("boot.log", garbage).unwrap_err();
        assert_eq!(error.to_string(), "boot.log:1:32: no EFI memory map: only a Memory Attributes Table");
    }

    #[test]
    fn a_damaged_entry_is_pointed_at() {
        let cut = &ROWS[..100];
        let error = MemoryMap::parse_named("boot.log", &format!("{MAP}{ROWS}{cut}")).unwrap_err();
        assert_eq!(error.to_string(), "boot.log:7:101: the line ends in the middle of a flag");
    }
}
