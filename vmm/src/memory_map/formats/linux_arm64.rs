//! The boot log of Linux on ARM and RISC-V with `efi=debug` on its command line (`uefi_debug` in old releases).
//!
//! ```text
//! [    0.000000] efi: Processing EFI memory map:
//! [    0.000000] efi:   0x000801f0c000-0x000803f7ffff [Conventional|   |  |  |  |  |  |  |  |  |   |WB|  |  |  ]
//! [    0.000000] efi:   0x010ff9e98000-0x010ff9f20fff [Runtime Data       |RUN|  |  |  |  |  |  |   |WB|WT|WC|UC]*
//! ```
//!
//! `reserve_regions()` in drivers/firmware/efi/efi-init.c prints them, without numbers. In old releases an asterisk says
//! that Linux reserved the region, and 3.18 lost the `efi:`.

use super::super::{Format, MemoryDescriptor};
use super::cursor::{Bad, Cursor};
use super::linux_descriptor::{Addresses, type_and_attribute};
use super::log_prefix::find_message;
use super::offset::suffix_at;
use super::row::{Row, RowFormat, RowKind};

/// The format.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::LinuxArm64,
    lines: 1,
    start,
    read,
    sample: "efi:   0xSTART-0xEND [TYPE|FLAGS]",
    headings: &[],
    is_table: false,
    shares_lines: false,
    check: None,
};

fn start(line: &str) -> Option<usize> {
    match find_message(line, "efi: ") {
        Some(message) => {
            let rest = line[message..].strip_prefix("efi:")?.trim_start();
            rest.starts_with("0x").then_some(suffix_at(line, rest))
        }
        None => find_message(line, "0x").filter(|at| is_bare_row(&line[*at..])),
    }
}

/// Without a prefix only a whole row tells that it is one.
fn is_bare_row(text: &str) -> bool {
    let is_address = |text: &str| {
        text.strip_prefix("0x")
            .is_some_and(|digits| digits.len() >= 12 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    let range = text.split(' ').next().and_then(|range| range.split_once('-'));
    range.is_some_and(|(start, end)| is_address(start) && is_address(end)) && text.contains(" [") && text.contains('|')
}

fn read(mut cursor: Cursor<'_>) -> Result<Row, Bad> {
    let addresses = Addresses::read(&mut cursor)?.of_64_bits()?;
    cursor.blanks();
    let (ty, att) = type_and_attribute(&mut cursor)?;
    if !matches!(cursor.rest(), "" | "*") {
        return Err(Bad::new(cursor.to_end(), "the row goes on after its attributes"));
    }
    let (phys_start, page_count) = (addresses.start, addresses.pages(true)?);
    let descriptor = MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() };
    Ok(Row { number: None, descriptor, kind: RowKind::Region, odd: None, end: None })
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryMap, MemoryType};
    use super::*;

    // From the logs of an Apple M2, a ThunderX2 and a HiKey (3.18), as printed.
    const ROWS: &str = "\
[    0.000000] efi:   0x000801f0c000-0x000803f7ffff [Conventional|   |  |  |  |  |  |  |  |  |   |WB|  |  |  ]
[    0.000000] efi:   0x010ff9e98000-0x010ff9f20fff [Runtime Data       |RUN|  |  |  |  |  |  |   |WB|WT|WC|UC]*
[    0.000000]   0x000000000000-0x000000000fff [Conventional Memory|   |  |  |  |   |WB|WT|WC|UC]
";

    #[test]
    fn rows_of_every_era_are_read() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let read: Vec<_> = map.regions().map(|region| (region.ty, region.phys, region.pages)).collect();
        assert_eq!(
            read,
            [
                (MemoryType::CONVENTIONAL, 0x8_01f0_c000, 0x2074),
                (MemoryType::RUNTIME_SERVICES_DATA, 0x10f_f9e9_8000, 0x89),
                (MemoryType::CONVENTIONAL, 0, 1),
            ]
        );
        assert_eq!(map.descriptors()[1].att.bits(), 0x8000_0000_0000_000f);
        assert_eq!(map.format(), Some(Format::LinuxArm64));
    }

    #[test]
    fn other_lines_of_the_log_are_none() {
        for line in [
            "[    0.000000] efi:   System Table: 0x000000003df757c0",
            "[    0.000000] memblock_add: [0x00000000000000-0x0000000007ffff] flags 0x0 [x|y]",
            "[    0.000000]   node   0: [mem 0x0000000080000000-0x00000000ffffffff]",
            "[    0.000000] 0x0000000080000000-0x00000000ffffffff : \"kernel\"",
            "efi: memattr:  0x0000bfbc5000-0x0000bfbc8fff [Runtime Code|RUN|  ]",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }

    #[test]
    fn damage_is_pointed_at() {
        let error = |row: &str| MemoryMap::parse_named("boot.log", row).unwrap_err().to_string();
        assert_eq!(
            error("efi:   0x000801f0c000-0x000803f7ffff [Conventional|   |  |WB"),
            "boot.log:1:59: the line ends in the middle of a flag"
        );
        assert_eq!(
            error("efi:   0x000801f0c000-0x000803f7ffff [Conventional|   |WB]**"),
            "boot.log:1:59: the row goes on after its attributes"
        );
        assert_eq!(
            error("efi:   0x000801f0c000-0x000803f7ffff [Conventional Memory]"),
            "boot.log:1:58: no attributes follow the type"
        );
    }
}
