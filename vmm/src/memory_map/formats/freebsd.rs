//! FreeBSD's map: a verbose boot, `sysctl machdep.efi_map`, and its loader's `memmap`.
//!
//! ```text
//!                    Type     Physical      Virtual   #Pages Attr
//!     RuntimeServicesData 0000f6b27000 0000f6b27000 00000001 WB RUNTIME
//! ```
//!
//! Pages are hexadecimal. The virtual address is `%p`: with `0x` and blanks in place of zeros on most versions. A type
//! that FreeBSD has no name for is `<INVALID>`; bits without a word (SP, CPU_CRYPTO, those of OEMs) are not printed.

use super::super::{MemoryDescriptor, MemoryType};
use super::Format;
use super::cursor::{Bad, Cursor};
use super::fields::{type_named, unknown_type};
use super::offset::indent;
use super::row::{Row, RowFormat};

/// How the format is read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::FreeBsd,
    lines: 1,
    start,
    read,
    sample: "RuntimeServicesData 0000f6b27000 0000f6b27000 00000001 WB RUNTIME",
    headings: &["Type Physical Virtual #Pages Attr"],
    is_table: true,
    shares_lines: false,
    check: None,
};

/// Names by type.
const NAMES: [&str; 16] = [
    "Reserved",
    "LoaderCode",
    "LoaderData",
    "BootServicesCode",
    "BootServicesData",
    "RuntimeServicesCode",
    "RuntimeServicesData",
    "ConventionalMemory",
    "UnusableMemory",
    "ACPIReclaimMemory",
    "ACPIMemoryNVS",
    "MemoryMappedIO",
    "MemoryMappedIOPortSpace",
    "PalCode",
    "PersistentMemory",
    "UnacceptedMemory",
];

/// What FreeBSD prints for any other type.
const NO_NAME: &str = "<INVALID>";

/// Digits that addresses and page counts are padded to.
const ADDRESS_DIGITS: usize = 12;
const PAGES_DIGITS: usize = 8;

/// A row is a type and a number without the `-` of the shell's ranges, or any word and three numbers as wide as
/// FreeBSD's.
fn start(line: &str) -> Option<usize> {
    let start = indent(line);
    let mut words = line[start..].split_whitespace();
    let (name, phys) = (words.next()?, words.next()?);
    let is_number =
        |word: &str| word.starts_with(|c: char| c.is_ascii_digit()) && word.bytes().all(|c| c.is_ascii_alphanumeric());
    let is_named = NAMES.contains(&name) || name == NO_NAME;
    let is_row = match is_named {
        // Cut within the first address, the shell's rows look the same, but they are not indented.
        true => is_number(phys) && (phys.len() >= ADDRESS_DIGITS && words.next().is_some() || start > 0),
        false => {
            let is_wide = is_number(phys) && phys.len() >= ADDRESS_DIGITS;
            let is_virt = words
                .next()
                .is_some_and(|virt| is_number(virt) && (virt.len() >= ADDRESS_DIGITS || virt.starts_with("0x")));
            is_wide && is_virt && words.next().is_some_and(|pages| is_number(pages) && pages.len() == PAGES_DIGITS)
        }
    };
    is_row.then_some(start)
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let (name, span) = row.word();
    let ty = type_named(name, &NAMES, NO_NAME).ok_or_else(|| unknown_type(name, span))?;
    row.gap("the physical address")?;
    let phys_start = row.padded_hex("the physical address", ADDRESS_DIGITS)?;
    row.gap("the virtual address")?;
    let virt_start = virtual_address(&mut row)?;
    row.gap("the number of pages")?;
    let page_count = row.padded_hex("the number of pages", PAGES_DIGITS)?;
    let att = row.attribute_words(' ')?;
    let descriptor =
        MemoryDescriptor { ty: MemoryType::RESERVED, phys_start, virt_start, page_count, att, ..Default::default() };
    Ok(ty.row(descriptor, NO_NAME))
}

fn virtual_address(row: &mut Cursor<'_>) -> Result<u64, Bad> {
    const WHAT: &str = "the virtual address";
    match row.rest().starts_with("0x") {
        true => {
            row.literal("0x")?;
            row.free_hex(WHAT)
        }
        false => row.padded_hex(WHAT, ADDRESS_DIGITS),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{MemoryAttribute, MemoryMap, oddities};
    use super::*;

    // From an NXP board, as printed.
    const ROWS: &str = "                   Type     Physical      Virtual   #Pages Attr
         MemoryMappedIO 000001e88180 000001e88180 00000001 RUNTIME
    RuntimeServicesCode 0000fbd30000 0000fbd30000 00000010 WB RUNTIME
             LoaderCode 002f7feb4000 002f7feb4000 00000135 WB 
";

    fn error(text: &str) -> String {
        MemoryMap::parse_named("map", text).unwrap_err().to_string()
    }

    #[test]
    fn printed_rows_are_read() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let [mmio, code, loader] = map.descriptors() else { panic!("{map:?}") };
        assert_eq!((mmio.ty, mmio.phys_start, mmio.virt_start), (MemoryType::MMIO, 0x1e8_8180, 0x1e8_8180));
        assert_eq!((code.page_count, code.att.bits()), (0x10, 0x8000_0000_0000_0008));
        assert_eq!((loader.ty, loader.att), (MemoryType::LOADER_CODE, MemoryAttribute::WRITE_BACK));
        assert_eq!(map.format(), Some(Format::FreeBsd));
    }

    #[test]
    fn virtual_addresses_are_pointers_on_most_versions() {
        let text = "       RuntimeServicesData 0000f6b27000          0x0 00000001 UC WC WT WB UCE WP RP XP NV MORE_RELIABLE RO RUNTIME\n";
        let map = MemoryMap::parse(text).unwrap();
        assert_eq!((map.descriptors()[0].virt_start, map.descriptors()[0].att.bits()), (0, 0x8000_0000_0003_f01f));
        let map = MemoryMap::parse(&text.replace("         0x0", " 0xfffffffefdc5b000")).unwrap();
        assert_eq!(map.descriptors()[0].virt_start, 0xffff_fffe_fdc5_b000);
    }

    #[test]
    fn a_type_without_a_name_is_noted() {
        let map = MemoryMap::parse(&ROWS.replace("         MemoryMappedIO", "              <INVALID>")).unwrap();
        assert_eq!(
            (map.descriptors()[0].ty, map.descriptors()[0].att),
            (MemoryType::RESERVED, MemoryAttribute::RUNTIME)
        );
        let notes: Vec<_> = oddities(&map).into_iter().map(|oddity| (oddity.kind.name(), oddity.message)).collect();
        assert!(
            notes.contains(&(
                "lost-type",
                "line 2 has the type `<INVALID>`: its number is lost, it is read as ReservedMemoryType".into()
            )),
            "{notes:?}"
        );
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(ROWS.contains(from));
            error(&ROWS.replacen(from, to, 1))
        };
        assert_eq!(
            with("RuntimeServicesCode", "RuntimeServicesCod "),
            "map:3:5: unknown memory type `RuntimeServicesCod`"
        );
        assert_eq!(
            with("0000fbd30000 0000f", "0000fbd3000 0000f"),
            "map:3:25: the physical address has 11 digits, but is printed with 12"
        );
        assert_eq!(
            with(" 00000010 WB RUNTIME", " 0000001"),
            "map:3:51: the line ends in the middle of the number of pages"
        );
        assert_eq!(
            with("00000010 WB", "0000OO10 WB"),
            "map:3:55: the number of pages has `OO10` among its hexadecimal digits"
        );
        assert_eq!(with("WB RUNTIME", "WB RUNTIM"), "map:3:63: unknown attribute `RUNTIM`");
    }

    #[test]
    fn other_tables_and_prose_are_no_rows() {
        for line in [
            "                   Type     Physical      Virtual   #Pages Attr",
            "LoaderCode 000000007871B000-000000007882BFFF 0000000000000111 000000000000000F",
            "reserved  0000000000000000-0000000000000fff 00000001      4KiB WB",
            "LoaderData: 5 pages",
            "Reserved is 5",
        ] {
            assert_eq!(start(line), None, "{line}");
        }
    }
}
