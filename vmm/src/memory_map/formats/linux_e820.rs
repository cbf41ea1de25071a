//! What Linux on x86 (6.2 and later) says of every MMIO region, `efi=debug` or not: a part of the map.
//!
//! ```text
//! [    0.000000] efi: Not removing mem305: MMIO range=[0xfedc2000-0xfedc8fff] (28KB) from e820 map
//! [    0.000000] efi: Remove mem310: MMIO range=[0x3ffc00000000-0x3ffc03ffffff] (64MB) from e820 map
//! ```
//!
//! `efi_remove_e820_mmio()` in arch/x86/platform/efi/efi.c prints them, before the map itself and with its numbers, for
//! the type alone: it does not look at attributes. They are taken to be RUNTIME and UC. UEFI has the type for regions that
//! firmware wants mapped for its runtime services (UEFI 2.10, section 7.2.1, "Memory Type Usage before
//! ExitBootServices()"); EDK II reports MMIO only where it has RUNTIME.

use super::super::oddity::OddityKind;
use super::super::{Format, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType};
use super::cursor::{Bad, Cursor};
use super::linux_descriptor::Addresses;
use super::log_prefix::find_message;
use super::row::{Row, RowFormat, RowKind};

/// The format.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::LinuxE820,
    lines: 1,
    start,
    read,
    sample: "efi: Remove memNN: MMIO range=[0xSTART-0xEND] (SIZEMB) from e820 map",
    headings: &[],
    is_table: false,
    shares_lines: false,
    check: Some(tell_partial),
};

const PREFIXES: [&str; 2] = ["efi: Remove mem", "efi: Not removing mem"];

fn start(line: &str) -> Option<usize> {
    PREFIXES.iter().find_map(|prefix| find_message(line, prefix))
}

fn read(mut cursor: Cursor<'_>) -> Result<Row, Bad> {
    let is_kept = cursor.rest().starts_with(PREFIXES[1]);
    cursor.literal(PREFIXES[usize::from(is_kept)])?;
    let number = cursor.decimal("the number of the row")?;
    cursor.literal(": MMIO range=")?;
    let addresses = Addresses::read_bracketed(&mut cursor)?.of_64_bits()?;
    cursor.literal(" (")?;
    let size = size(&mut cursor)?;
    cursor.literal(") from e820 map")?;
    let descriptor = MemoryDescriptor {
        ty: MemoryType::MMIO,
        phys_start: addresses.start,
        page_count: addresses.pages(false)?,
        att: MemoryAttribute::RUNTIME | MemoryAttribute::UNCACHEABLE,
        ..Default::default()
    };
    let odd = size.mismatch(descriptor.page_count);
    Ok(Row { number: Some(number), descriptor, kind: RowKind::Excerpt, odd, end: None })
}

/// A size as printed, rounded down.
struct Size {
    number: u64,
    unit: &'static str,
    pages_shift: u32,
}

impl Size {
    /// The first patches for this printed the range of the region before, with the right size.
    fn mismatch(&self, pages: u64) -> Option<(OddityKind, String)> {
        let Self { number, unit, pages_shift } = *self;
        let is_same = u128::from(number) == (u128::from(pages) << 12 >> pages_shift);
        let told =
            || format!("says {number}{unit}, but its range has {pages:#x} pages: the range may be another one's");
        (!is_same).then(|| (OddityKind::SizeMismatch, told()))
    }
}

/// `28KB`, `64MB`
fn size(cursor: &mut Cursor<'_>) -> Result<Size, Bad> {
    let (token, span) = cursor.alphanumeric("the size")?;
    let of = |unit: &'static str, pages_shift| {
        let number = token.strip_suffix(unit)?.parse().ok()?;
        Some(Size { number, unit, pages_shift })
    };
    of("KB", 10).or_else(|| of("MB", 20)).ok_or_else(|| Bad::new(span, "the size is no number of KB or MB"))
}

fn tell_partial(_: &str, map: &mut MemoryMap) {
    let why = "these are the MMIO regions only, from what Linux says about its e820 map; their attributes are not told, \
               and taken to be RUNTIME and UC";
    map.mark_partial(why.into());
}

#[cfg(test)]
mod tests {
    use super::super::super::{Region, oddities};
    use super::*;

    // From the log of a Supermicro H13, as printed.
    const ROWS: &str = "\
[    0.000000] efi: Not removing mem305: MMIO range=[0xfedc2000-0xfedc8fff] (28KB) from e820 map
[    0.000000] efi: Remove mem310: MMIO range=[0x3ffc00000000-0x3ffc03ffffff] (64MB) from e820 map
";

    fn error(text: &str) -> String {
        MemoryMap::parse_named("boot.log", text).unwrap_err().to_string()
    }

    #[test]
    fn both_kinds_of_rows_are_read() {
        let map = MemoryMap::parse(ROWS).unwrap();
        let regions: Vec<Region> = map.regions().collect();
        assert_eq!((regions[0].ty, regions[0].phys, regions[0].pages), (MemoryType::MMIO, 0xfedc_2000, 7));
        assert_eq!((regions[1].phys, regions[1].pages), (0x3ffc_0000_0000, 0x4000));
        assert!(regions.iter().all(Region::is_runtime));
        assert_eq!(map.format(), Some(Format::LinuxE820));
        // That rows 306 to 309 are none of these is no loss.
        let kinds: Vec<_> = oddities(&map).iter().map(|oddity| oddity.kind).filter(|kind| kind.is_of_text()).collect();
        assert_eq!(kinds, [OddityKind::Partial]);
    }

    #[test]
    fn a_size_that_is_not_the_ranges_is_noted() {
        let map = MemoryMap::parse(&ROWS.replace("28KB", "4KB")).unwrap();
        assert_eq!(
            oddities(&map)[0].message,
            "line 1 says 4KB, but its range has 0x7 pages: the range may be another one's"
        );
    }

    #[test]
    fn damage_is_pointed_at() {
        let with = |from: &str, to: &str| {
            assert!(ROWS.contains(from));
            error(&ROWS.replacen(from, to, 1))
        };
        assert_eq!(with(" from e820 map\n", "\n"), "boot.log:1:82: the line ends where `) from e820 map` should be");
        assert_eq!(with("28KB", "28XB"), "boot.log:1:78: the size is no number of KB or MB");
        assert_eq!(
            with("8fff]", "8ffe]"),
            "boot.log:1:67: the range to 0xfedc8ffe is not a whole number of 4 KiB pages"
        );
    }
}
