//! The boot log of Linux on x86 with `efi=debug` on its command line.
//!
//! ```text
//! [    0.000000] efi: mem00: type=3, attr=0xf, range=[0x0000000000000000-0x0000000000001000) (0MB)
//! [    0.000000] efi: mem28: [Runtime Code       |RUN|  |  |  |   |WB|WT|WC|UC] range=[0x00000000c9d48000-0x00000000c9d4b000) (0MB)
//! [    0.000000] efi: mem147: [Runtime Code|RUN|  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x000000008db6f000-0x000000008dc3efff] (0MB)
//! [    0.000000] efi: mem148: [Reserved    |attr=0x070000000000000f] range=[0x000000008dc3f000-0x000000008dc3ffff] (0MB)
//! [    0.000000] efi: mem149: [type=1879048192|   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x000000008dc40000-0x000000008dc40fff] (0MB)
//! ```
//!
//! `efi_print_memmap()` in arch/x86/platform/efi prints a row; until 3.16 with numbers for type and attribute, the oldest
//! after `EFI:`. Ranges were half-open at first and have inclusive ends since: what closes the range tells. A descriptor
//! without pages ends where it starts or, with an inclusive end, one before.
//!
//! Three things about whole logs:
//! - Linux drops descriptors that have no pages or wrap before it prints the map, and prints those as
//!   `(invalid)` rows with the numbers they had. They are put back: what firmware handed out is what a mapper may meet.
//! - After the map Linux prints its own runtime map, numbered from 0 again. A number that falls starts another list.
//!   (The same number twice is an error: nothing Linux prints looks so, and a list written by hand must not end
//!   unnoticed.)
//! - Numbers that jump are noted, not refused. Lines may be lost, and then regions go unchecked, so it must be told;
//!   but the jump may as well be someone's `grep RUN`, and all that was given can be checked.

use std::fmt::Write as _;

use super::super::oddity::OddityKind;
use super::super::{Format, ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES, Region};
use super::cursor::{Bad, Cursor};
use super::linux_descriptor::{Addresses, type_and_attribute, write_type_and_attribute};
use super::log_prefix::find_message;
use super::offset::Offset;
use super::row::{Row, RowFormat, RowKind};
use super::{Unwritable, linux_memattr};

/// The format.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::LinuxX86,
    lines: 1,
    start,
    read,
    sample: "efi: memNN: [TYPE|FLAGS] range=[0xSTART-0xEND] (SIZEMB)",
    headings: &[],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// Writes a map as Linux 6.14 and later print one: first what Linux drops from it, then the map, then the Memory
/// Attributes Table. Reading it back gives the same descriptors.
pub(in super::super) fn write(out: &mut String, map: &MemoryMap) -> Result<(), Unwritable> {
    check_writable(map)?;
    let regions = || map.regions().map(|region| (region.index, region));
    let (dropped, kept): (Vec<_>, Vec<_>) = regions().partition(|(_, region)| is_dropped(region));
    if !dropped.is_empty() {
        *out += "efi: [Firmware Bug]: Invalid EFI memory map entries:\n";
    }
    for (number, region) in dropped {
        let last = if region.pages == 0 { 0 } else { region.end().saturating_sub(1) };
        write_row(out, number, &region, last, "invalid");
    }
    if map.kind() == ListKind::Runtime {
        *out += "efi: EFI runtime memory map:\n";
    }
    for (number, (_, region)) in kept.into_iter().enumerate() {
        write_row(out, number, &region, region.end().saturating_sub(1), &format!("{}MB", region.pages >> 8));
    }
    linux_memattr::write(out, map.attributes_table());
    Ok(())
}

/// What comes before the number of a row, now and in old releases.
const PREFIXES: [&str; 2] = ["efi: mem", "EFI: mem"];

fn start(line: &str) -> Option<usize> {
    let start = PREFIXES.iter().find_map(|prefix| find_message(line, prefix))?;
    let after = line[start.plus(PREFIXES[0].len())..].trim_end();
    let is_numbered = after.is_empty() || after.starts_with(|digit: char| digit.is_ascii_digit());
    is_numbered.then_some(start)
}

fn read(mut cursor: Cursor<'_>) -> Result<Row, Bad> {
    let is_old = cursor.rest().starts_with(PREFIXES[1]);
    cursor.literal(PREFIXES[usize::from(is_old)])?;
    let number = cursor.decimal("the number of the row")?;
    cursor.literal(":")?;
    cursor.blanks();
    let (ty, att) =
        if cursor.rest().starts_with("type=") { numbers(&mut cursor)? } else { type_and_attribute(&mut cursor)? };
    cursor.blanks();
    cursor.literal("range=")?;
    let addresses = Addresses::read_bracketed(&mut cursor)?;
    let tail = Tail::read(&mut cursor)?;
    let (phys_start, page_count) = (addresses.start, tail.pages(addresses)?);
    Ok(Row {
        number: Some(number),
        descriptor: MemoryDescriptor { ty, phys_start, page_count, att, ..Default::default() },
        kind: if tail == Tail::Invalid { RowKind::Dropped } else { RowKind::Region },
        odd: tail.mismatch(page_count),
        end: None,
    })
}

/// `type=3, attr=0xf,`
fn numbers(cursor: &mut Cursor<'_>) -> Result<(MemoryType, MemoryAttribute), Bad> {
    cursor.literal("type=")?;
    let span = cursor.to_end();
    let ty = cursor.decimal("the type")?;
    let ty = u32::try_from(ty).map_err(|_| Bad::new(span, "the type is no number of 32 bits"))?;
    cursor.literal(", attr=0x")?;
    let attribute = cursor.hex_u64("the attribute")?;
    cursor.literal(",")?;
    Ok((MemoryType(ty), MemoryAttribute::from_bits_retain(attribute)))
}

/// Whether Linux drops a region: without pages, or up to 2^64 or past it (`efi_memmap_entry_valid()`).
fn is_dropped(region: &Region) -> bool {
    const PAGES_MAX: u64 = u64::MAX / PAGE_BYTES;
    region.pages == 0 || PAGES_MAX.checked_sub(region.pages).is_none_or(|rest| rest < region.phys / PAGE_BYTES)
}

fn check_writable(map: &MemoryMap) -> Result<(), Unwritable> {
    let unwritable = |index, what: &str| Unwritable { index, what: what.into() };
    if let Some(region) = map.regions().find(|region| region.virt != 0) {
        return Err(unwritable(region.index, "has a virtual address, and there is no column for it"));
    }
    if map.regions().all(|region| is_dropped(&region)) {
        return Err(unwritable(0, "is no region that Linux keeps, nor is any other: it would print no map"));
    }
    match map.attributes_table().iter().all(linux_memattr::is_writable) {
        true => Ok(()),
        false => Err(unwritable(0, "has a Memory Attributes Table with a range that 64 bits do not hold")),
    }
}

fn write_row(out: &mut String, number: usize, region: &Region, last: u128, size: &str) {
    // Writing to a string does not fail.
    let _ = write!(out, "efi: mem{number:02}: ");
    write_type_and_attribute(out, region.ty, region.attribute);
    let _ = writeln!(out, " range=[{:#018x}-{last:#018x}] ({size})", region.phys);
}

/// What follows the range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nothing: the copy of the row stopped there.
    None,
    /// `(7MB)`, rounded down.
    MiB(u64),
    /// `(invalid)`: Linux dropped the descriptor.
    Invalid,
}

impl Tail {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Bad> {
        cursor.blanks();
        let tail = match cursor.rest() {
            "" => return Ok(Self::None),
            "(invalid)" => return Ok(Self::Invalid),
            tail => tail,
        };
        let digits = tail.strip_prefix('(').and_then(|tail| tail.strip_suffix("MB)"));
        let size = digits.and_then(|digits| digits.parse().ok()).map(Self::MiB);
        size.ok_or_else(|| {
            let message = "the range is followed by neither `(SIZEMB)` nor the end of the line";
            Bad::new(cursor.to_end(), message)
        })
    }

    fn pages(self, addresses: Addresses) -> Result<u64, Bad> {
        match self {
            // In a dropped row the end of no pages is 0, and an end past 2^64 is printed in full.
            Self::Invalid if addresses.end == 0 => Ok(0),
            Self::Invalid => addresses.pages(false),
            Self::None | Self::MiB(0) => addresses.of_64_bits()?.pages(true),
            Self::MiB(_) => addresses.of_64_bits()?.pages(false),
        }
    }

    /// The size is `num_pages >> 8` in every release.
    fn mismatch(self, pages: u64) -> Option<(OddityKind, String)> {
        let Self::MiB(printed) = self else {
            return None;
        };
        let told = || format!("says {printed}MB, but its range has {pages:#x} pages, {}MB: was it edited?", pages >> 8);
        (printed != pages >> 8).then(|| (OddityKind::SizeMismatch, told()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::tests::any_descriptor;
    use super::super::super::{MAX_DESCRIPTORS, ReadOptions, oddities};
    use super::*;

    fn is_row(line: &str) -> bool {
        start(line).is_some()
    }

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
        let odd = [("zero-pages", 1), ("wrap", 3), ("unaligned", 3), ("unknown-attribute", 3), ("unknown-type", 3)];
        assert_eq!(notes(&map), odd);
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
        assert_eq!(error(&format!("{MMIO}\n{MMIO}")), "boot.log:2:1: row 118 is there twice in a row");
    }

    #[test]
    fn a_hole_in_the_numbers_is_noted() {
        let map = MemoryMap::parse(&format!("{ROWS}{MMIO}")).unwrap();
        assert_eq!(notes(&map), [("missing-rows", 3)]);
        assert_eq!(
            oddities(&map)[0].message,
            "rows 3 to 117 are missing before line 4: nothing is checked about their regions"
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
        assert_eq!(cut(50), "boot.log:3:87: the line ends where `range=` should be");
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
        assert_eq!(with("9dfff] ", "9dfff} "), "boot.log:3:131: expected `]`");
        assert_eq!(
            with("9dfff] ", "9dfff) "),
            "boot.log:3:115: the range to 0x9dfff is not a whole number of 4 KiB pages"
        );
    }

    #[test]
    fn rows_of_every_era_are_read() {
        let rows = "\
EFI: mem00: type=3, attr=0xf, range=[0x0000000000000000-0x0000000000001000) (0MB)
efi: mem01: type=7, attr=0x800000000000000f, range=[0x0000000000048000-0x0000000000097000) (0MB)
efi: mem02: [Memory Mapped I/O  |RUN|  |  |  |   |  |  |  |UC] range=[0x00000000cbc00000-0x00000000cfe00000) (66MB)
efi: mem03: [Conventional Memory|attr=0x080000000000000f] range=[0xfffffffffffff000-0x0000000000000000) (0MB)
efi: mem04: [MMIO Port Space    |   |  |  |  |  |WP|  |   |WB|WT|  |UC] range=[0x00000000f0000000-0x00000000f7ffffff] (128MB)
efi: mem05: [ACPI Memory NVS    |   |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000806000-0x0000000000807fff] (0MB)
";
        let map = MemoryMap::parse(rows).unwrap();
        let read: Vec<_> =
            map.regions().map(|region| (region.ty.0, region.attribute.bits(), region.phys, region.pages)).collect();
        assert_eq!(
            read,
            [
                (3, 0xf, 0, 1),
                (7, 0x8000_0000_0000_000f, 0x4_8000, 0x4f),
                (11, 0x8000_0000_0000_0001, 0xcbc0_0000, 0x4200),
                (7, 0x0800_0000_0000_000f, 0xffff_ffff_ffff_f000, 1),
                (12, 0x100d, 0xf000_0000, 0x8000),
                (10, 0xf, 0x80_6000, 2),
            ]
        );
        assert_eq!(notes(&map), [("unknown-attribute", 3)]);
        assert_eq!(error("efi: mem00: type=3, attr=0xf, ra..."), "boot.log:1:31: expected `range=`");
        assert_eq!(
            error("efi: mem00: type=4294967296, attr=0xf, range=[0x0-0x1000) (0MB)"),
            "boot.log:1:18: the type is no number of 32 bits"
        );
        assert_eq!(error("efi: mem00: [MMIO] range=[0x0-0xfff] (0MB)"), "boot.log:1:18: no attributes follow the type");
    }

    #[test]
    fn half_open_and_inclusive_ends_are_no_pages_each_in_its_way() {
        let half_open = |range: &str| only(&format!("efi: mem00: type=0, attr=0xf, range=[{range}) (0MB)")).page_count;
        assert_eq!(half_open("0x1000-0x1000"), 0);
        assert_eq!(half_open("0x0-0x0"), 0);
        assert_eq!(
            error("efi: mem00: type=0, attr=0xf, range=[0x1000-0xfff) (0MB)"),
            "boot.log:1:38: the range ends at 0xfff, before it starts at 0x1000"
        );
    }

    #[test]
    fn lenience_skips_a_row_and_says_so() {
        let text = ROWS.replacen("Boot Data", "Boot Date", 1);
        assert_eq!(error(&text), "boot.log:2:29: unknown memory type `Boot Date`");
        let lenient = ReadOptions { lenient: true, ..ReadOptions::default() };
        let maps = MemoryMap::parse_all("boot.log", &text, &lenient).unwrap();
        assert_eq!(maps[0].descriptors().len(), 2);
        assert_eq!(notes(&maps[0]), [("missing-rows", 1), ("skipped-line", 1)]);
        assert_eq!(oddities(&maps[0])[1].message, "line 2, column 29 is skipped: unknown memory type `Boot Date`");
        // Nothing is left: then there is no map, and the first damage is the reason.
        let error = MemoryMap::parse_all("boot.log", "efi: mem00: [\nefi: mem01: [\n", &lenient).unwrap_err();
        assert_eq!(error.to_string(), "boot.log:1:14: the line ends in the middle of the type");
    }

    #[test]
    fn notes_are_few_whatever_is_damaged() {
        let text = ROWS.to_owned() + &"efi: mem03: [\n".repeat(10_000);
        let lenient = ReadOptions { lenient: true, ..ReadOptions::default() };
        let map = MemoryMap::parse_all("boot.log", &text, &lenient).unwrap().remove(0);
        let oddities = oddities(&map);
        assert_eq!(oddities.len(), 33);
        assert_eq!(oddities[32].message, "9968 more notes of this kind (skipped-line)");
    }

    #[test]
    fn what_linux_printed_is_written_back_as_it_was() {
        // From a virtual machine with Linux 6.1.192, whose columns are those of today.
        let log = format!("{MMIO}\n").replace("mem118", "mem00");
        let mut written = String::new();
        assert!(write(&mut written, &MemoryMap::parse(&log).unwrap()).is_ok());
        assert_eq!(written, log);
    }

    #[test]
    fn what_linux_drops_is_written_as_dropped() {
        let descriptor = |phys_start, page_count, attribute| MemoryDescriptor {
            ty: MemoryType(0x7000_0000),
            phys_start,
            page_count,
            att: MemoryAttribute::from_bits_retain(attribute),
            ..Default::default()
        };
        let list = vec![descriptor(0x1000, 0, 0), descriptor(0, 1, 0x0700_0000_0000_000f), descriptor(!0xfff, 1, 8)];
        let mut written = String::new();
        assert!(write(&mut written, &MemoryMap::from_descriptors("test", list)).is_ok());
        let expected = "\
efi: [Firmware Bug]: Invalid EFI memory map entries:
efi: mem00: [type=1879048192|   |  |  |  |  |  |  |  |  |  |   |  |  |  |  ] range=[0x0000000000001000-0x0000000000000000] (invalid)
efi: mem02: [type=1879048192|   |  |  |  |  |  |  |  |  |  |   |WB|  |  |  ] range=[0xfffffffffffff000-0xffffffffffffffff] (invalid)
efi: mem00: [type=1879048192|attr=0x070000000000000f] range=[0x0000000000000000-0x0000000000000fff] (0MB)
";
        assert_eq!(written, expected);
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let told = |descriptor| {
            let map = MemoryMap::from_descriptors("test", vec![MemoryDescriptor::default(), descriptor]);
            write(&mut String::new(), &map).err().map(|unwritable| (unwritable.index, unwritable.what))
        };
        let page = MemoryDescriptor { page_count: 1, ..Default::default() };
        assert_eq!(told(page), None);
        let (index, what) = told(MemoryDescriptor { virt_start: 0x1000, ..page }).unwrap();
        assert_eq!((index, what.as_str()), (1, "has a virtual address, and there is no column for it"));
        assert_eq!(told(MemoryDescriptor::default()).map(|(index, _)| index), Some(0));
    }

    #[test]
    fn one_row_too_many_is_refused() {
        let text: String =
            (0..=MAX_DESCRIPTORS).map(|number| format!("efi: mem{number:02}: [MMIO|] range=[0x0-0xfff]\n")).collect();
        assert_eq!(error(&text), "boot.log:65537:1: more than 65536 descriptors");
    }

    proptest! {
        #[test]
        fn rows_read_back_give_the_same_descriptors(
            descriptors in prop::collection::vec(any_descriptor(), 0..20),
            table in prop::collection::vec(any_descriptor(), 0..4),
        ) {
            let plain = |descriptor| MemoryDescriptor { virt_start: 0, ..descriptor };
            let page = MemoryDescriptor { page_count: 1, ..Default::default() };
            let descriptors = descriptors.into_iter().map(plain).chain([page]).collect();
            let mut map = MemoryMap::from_descriptors("test", descriptors);
            let of_table = |descriptor| MemoryDescriptor { page_count: 2, phys_start: 0x1000, ..plain(descriptor) };
            map.attributes_table = table.into_iter().map(of_table).collect::<Vec<_>>().into();
            let mut written = String::new();
            prop_assert!(write(&mut written, &map).is_ok());
            let again = MemoryMap::parse(&written).unwrap();
            prop_assert_eq!(map.descriptors(), again.descriptors());
            prop_assert_eq!(map.attributes_table(), again.attributes_table());
        }

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
