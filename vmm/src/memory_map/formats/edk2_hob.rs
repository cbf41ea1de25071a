//! Memory-allocation HOBs in the debug log of EDK II: what firmware allocated before DXE.
//!
//! ```text
//! Memory Allocation 0x00000006 0x7F8EF000 - 0x7FB6EFFF
//!   BA=000000007F8EF000  L=0000000000280000  RT_Data  {...}
//!    MemoryBaseAddress = 0x7F8EF000
//!    MemoryLength      = 0x280000
//!    MemoryType        = EfiRuntimeServicesData
//! ```
//!
//! Of the cores of PEI and DXE (`PeiDispatcher()`, `DxeMain()`), of MinPlatformPkg's `DumpMemoryAllocationHob()`, and of
//! `PrintMemoryAllocationHob()` in MdeModulePkg's HobPrintLib, which FSP's and payloads' logs have. Each is a descriptor of
//! the map to come, by range and type; its attributes are not told.
//!
//! Resource descriptors (`EFI_RESOURCE_SYSTEM_MEMORY ...`) are not read: they say what memory there is, and nothing of
//! what it is used for. EDK II makes its map of both, and of all that is allocated later.

use super::super::names::parse_type;
use super::super::{Format, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use super::cursor::{Bad, Cursor};
use super::fields::{pages_through, unknown_type};
use super::log_prefix::find_marker;
use super::offset::suffix_at;
use super::row::{Row, RowFormat, RowKind};
use super::uefi_shell;

/// How the rows of EDK II's cores and of MinPlatformPkg are read.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::Edk2Hob,
    lines: 1,
    start,
    read,
    sample: "Memory Allocation 0x00000006 0x7F8EF000 - 0x7FB6EFFF",
    headings: &["Memory Allocation HOBs"],
    is_table: true,
    shares_lines: false,
    check: Some(tell_partial),
};

/// How HOBs over several lines are read.
pub(super) const FORMAT_OF_LINES: RowFormat = RowFormat {
    lines: 3,
    start: start_of_lines,
    read: |mut row| printed(&mut row).map(row_of),
    sample: "MemoryBaseAddress = 0x7F8EF000` and a line each for MemoryLength and MemoryType, such as `MemoryType = \
             EfiRuntimeServicesData",
    headings: &[],
    is_table: false,
    ..FORMAT
};

/// What rows start with.
const CORE: &str = "Memory Allocation ";
const PLATFORM: &str = "BA=";
const PRINTED: &str = "MemoryBaseAddress";
const LENGTH: &str = "MemoryLength";

fn start(line: &str) -> Option<usize> {
    start_of_core(line).or_else(|| start_of_platform(line))
}

/// The words and a number, or one of the words and three numbers.
fn start_of_core(line: &str) -> Option<usize> {
    if let Some(at) = find_marker(line, CORE) {
        return line[at..].contains("0x").then_some(at);
    }
    let at = ["Memory ", "Allocation "].iter().find_map(|word| find_marker(line, word))?;
    (line[at..].matches("0x").count() >= 3).then_some(at)
}

/// Resources and firmware volumes are printed alike: they have attributes, names, or nothing behind the length.
fn start_of_platform(line: &str) -> Option<usize> {
    let start = find_marker(line, PLATFORM).or_else(|| find_marker(line, "=").filter(|_| line.contains("  L=")))?;
    let name = line[start..].split_ascii_whitespace().nth(2)?;
    (!name.starts_with("Attr=") && !name.starts_with("Fv=")).then_some(start)
}

/// The first line, or the second if the first is damaged.
fn start_of_lines(line: &str) -> Option<usize> {
    [PRINTED, LENGTH].iter().find_map(|name| find_marker(line, name)).filter(|at| line[*at..].contains("= "))
}

fn read(mut row: Cursor<'_>) -> Result<Row, Bad> {
    let allocation = if row.rest().starts_with(PLATFORM) { platform(&mut row)? } else { core(&mut row)? };
    Ok(row_of(allocation))
}

fn row_of((ty, phys_start, page_count): Allocation) -> Row {
    let descriptor = MemoryDescriptor { ty, phys_start, page_count, att: attribute(ty), ..Default::default() };
    Row { kind: RowKind::Excerpt, ..Row::region(descriptor) }
}

/// What EDK II's core makes of a type: `mMemoryTypeStatistics` in MdeModulePkg/Core/Dxe/Mem/Page.c says which have
/// RUNTIME.
fn attribute(ty: MemoryType) -> MemoryAttribute {
    let is_runtime =
        matches!(ty, MemoryType::RUNTIME_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_DATA | MemoryType::PAL_CODE);
    MemoryAttribute::WRITE_BACK | if is_runtime { MemoryAttribute::RUNTIME } else { MemoryAttribute::empty() }
}

type Allocation = (MemoryType, u64, u64);

/// `Memory Allocation 0x00000006 0x7F8EF000 - 0x7FB6EFFF`
fn core(row: &mut Cursor<'_>) -> Result<Allocation, Bad> {
    row.literal(CORE)?;
    row.literal("0x")?;
    let at = row.at;
    let ty = row.padded_hex("the type", 8)?;
    let span = row.since(at);
    let ty = u32::try_from(ty).map(MemoryType).map_err(|_| Bad::new(span, "the type has more than 32 bits"))?;
    row.literal(" 0x")?;
    let at = row.at;
    let start = row.free_hex("the start address")?;
    row.literal(" - 0x")?;
    let last = row.free_hex("the end address")?;
    let range = row.since(at);
    end_of_line(row)?;
    Ok((ty, start, pages_through(start, last, range)?))
}

/// `BA=000000007F8EF000  L=0000000000280000  RT_Data  {4ED4BF27-...}`
fn platform(row: &mut Cursor<'_>) -> Result<Allocation, Bad> {
    row.literal(PLATFORM)?;
    let start = row.padded_hex("the base address", 16)?;
    row.literal("  L=")?;
    let at = row.at;
    let bytes = row.padded_hex("the length", 16)?;
    let pages = pages(bytes, row.since(at))?;
    row.literal("  ")?;
    let (name, span) = row.word();
    let ty = uefi_shell::parse_name(name).ok_or_else(|| unknown_type(name, span))?;
    row.take_while(|c| c.is_whitespace() && c != '\n');
    if row.rest().starts_with('{') {
        row.take_while(|c| c != '\n' && c != '}');
        row.literal("}")?;
    }
    end_of_line(row)?;
    Ok((ty, start, pages))
}

/// A line each for `MemoryBaseAddress = 0x`, `MemoryLength = 0x` and `MemoryType = Efi`.
fn printed(row: &mut Cursor<'_>) -> Result<Allocation, Bad> {
    field(row, PRINTED)?;
    row.literal("0x")?;
    let start = row.free_hex("the base address")?;
    end_of_line(row)?;
    next_line(row);
    field(row, LENGTH)?;
    row.literal("0x")?;
    let at = row.at;
    let bytes = row.free_hex("the length")?;
    let pages = pages(bytes, row.since(at))?;
    end_of_line(row)?;
    next_line(row);
    field(row, "MemoryType")?;
    let (name, span) = row.token();
    // EDK II has no name for 15 yet.
    let ty = match name {
        "EfiMaxMemoryType" => Some(MemoryType::UNACCEPTED),
        _ => Some(name).filter(|name| name.starts_with("Efi")).and_then(parse_type),
    };
    let ty = ty.ok_or_else(|| unknown_type(name, span))?;
    end_of_line(row)?;
    Ok((ty, start, pages))
}

/// Goes to the value of a field in this line.
fn field(row: &mut Cursor<'_>, name: &str) -> Result<(), Bad> {
    let line = row.rest().split('\n').next().unwrap_or_default();
    let value = line.split_once(name).and_then(|(_, rest)| rest.trim_start().strip_prefix("= "));
    let value =
        value.ok_or_else(|| Bad::new(row.span(line.len()), format!("expected the line `{name} = ...` of the HOB")))?;
    row.skip(suffix_at(line, value));
    Ok(())
}

fn next_line(row: &mut Cursor<'_>) {
    row.take_while(|c| c == '\n');
}

/// The rest of the line is blank.
fn end_of_line(row: &mut Cursor<'_>) -> Result<(), Bad> {
    row.take_while(|c| c.is_whitespace() && c != '\n');
    let (rest, span) = row.take_while(|c| c != '\n');
    if rest.is_empty() { Ok(()) } else { Err(Bad::new(span, "the row goes on after its end")) }
}

fn pages(bytes: u64, span: std::ops::Range<usize>) -> Result<u64, Bad> {
    match bytes.is_multiple_of(PAGE_BYTES) {
        true => Ok(bytes / PAGE_BYTES),
        false => Err(Bad::new(span, format!("{bytes:#x} bytes are not a whole number of 4 KiB pages"))),
    }
}

fn tell_partial(_: &str, map: &mut MemoryMap) {
    map.mark_partial(
        "these are the memory-allocation HOBs only, what firmware allocated before DXE; their attributes are not told, and \
         taken to be WB, and RUNTIME where the type is runtime services'"
            .into(),
    );
}

#[cfg(test)]
mod tests {
    use super::super::super::{ReadOptions, oddities};
    use super::*;

    // In the words of each printer, with the lines around them.
    const CORES: &str = "\
Total temporary memory:    65536 bytes.
Memory Allocation 0x00000004 0x7F56000 - 0x7F75FFF
PDB = MdeModulePkg/Core/Dxe/DxeMain/DEBUG/DxeCore.dll
HOBLIST address in DXE = 0x7EEA018
Memory Allocation 0x00000000 0x7F78000 - 0x7FFFFFF
Memory Allocation 0x00000006 0x7ED4000 - 0x7EF3FFF
Memory Allocation 0x00000004 0x7F56000 - 0x7F75FFF
FV Hob            0x900000 - 0x14FFFFF
";
    const PLATFORM: &str = "\
Resource Descriptor HOBs
  BA=0000000000000000  L=00000000000A0000  Attr=00003C07  Mem (Tested)
FV HOBs
  BA=00000000FFC00000  L=0000000000400000
FV2 HOBs
  BA=00000000FFC00000  L=0000000000400000  Fv={8C8CE578-8A3D-4F1C-9935-896185C32DD3}  File={00000000-0000-0000-0000-000000000000}
Memory Allocation HOBs
  BA=0000000007F78000  L=0000000000088000  Reserved
  BA=0000000007ED4000  L=0000000000020000  RT_Data  {4ED4BF27-4092-42E9-807D-527B1D00C9BD}
  BA=0000000007F56000  L=0000000000020000  BS_Data  {Module=D6A2CB7F-6A18-4E2F-B43B-9920A733700A,Entry=0x7F58E1C}
GUID HOBs
";
    const PRINTED: &str = "\
Print all Hob information from Hob 0x7EEA018
HOB[1]: Type = EFI_HOB_TYPE_RESOURCE_DESCRIPTOR, Offset = 0x38, Length = 0x30
   ResourceType      = EFI_RESOURCE_SYSTEM_MEMORY
   PhysicalStart     = 0x0
   ResourceLength    = 0xA0000
HOB[2]: Type = EFI_HOB_TYPE_MEMORY_ALLOCATION, Offset = 0x68, Length = 0x30
   Type              = EFI_HOB_TYPE_MEMORY_ALLOCATION
   Name              = 00000000-0000-0000-0000-000000000000
   MemoryBaseAddress = 0x7F78000
   MemoryLength      = 0x88000
   MemoryType        = EfiReservedMemoryType
HOB[3]: Type = EFI_HOB_TYPE_MEMORY_ALLOCATION, Offset = 0x98, Length = 0x30
   MemoryBaseAddress = 0x7ED4000
   MemoryLength      = 0x20000
   MemoryType        = EfiRuntimeServicesData
HOB[4]: Type = EFI_HOB_TYPE_MEMORY_ALLOCATION, Offset = 0xC8, Length = 0x30
   MemoryBaseAddress = 0x7F56000
   MemoryLength      = 0x20000
   MemoryType        = EfiBootServicesData
";

    #[test]
    fn allocations_of_every_printer_are_read() {
        for text in [CORES, PLATFORM, PRINTED, &PRINTED.replace('\n', "\r\n")] {
            let map = MemoryMap::parse(text).unwrap();
            let read: Vec<_> =
                map.regions().map(|region| (region.ty.0, region.phys, region.pages, region.attribute.bits())).collect();
            let (reserved, data) = ((0, 0x7f7_8000, 0x88, 8), (6, 0x7ed_4000, 0x20, 1 << 63 | 8));
            assert_eq!(read, [reserved, data, (4, 0x7f5_6000, 0x20, 8)], "{text}");
            assert!(map.partial().is_some_and(|why| why.contains("memory-allocation HOBs only")));
            assert_eq!(map.format(), Some(Format::Edk2Hob));
        }
        let lists = MemoryMap::parse_all("log", CORES, &ReadOptions::default()).unwrap();
        assert_eq!(lists.iter().map(|map| map.descriptors().len()).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn they_say_nothing_new_where_the_map_is() {
        let map = "RT_Data    0000000007ED4000-0000000007EF3FFF 0000000000000020 800000000000000F\n";
        let map = MemoryMap::parse_all("log", &format!("{CORES}{map}"), &ReadOptions::default()).unwrap();
        assert_eq!((map.len(), map[0].format()), (1, Some(Format::UefiShell)));
    }

    #[test]
    fn damage_is_pointed_at() {
        let error = |text: &str, from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            MemoryMap::parse_named("log", &text.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(error(CORES, "0x7FFFFFF", "0x7FFFFF"), "log:5:32: the end 0x7fffff is before the start 0x7f78000");
        assert_eq!(error(CORES, "0x00000006", "0x0000006"), "log:6:21: the type has 7 digits, but is printed with 8");
        assert_eq!(error(PLATFORM, "RT_Data ", "RT_Date "), "log:9:44: unknown memory type `RT_Date`");
        assert_eq!(error(PLATFORM, "C9BD}", "C9BD"), "log:9:90: the line ends where `}` should be");
        assert_eq!(
            error(PRINTED, "MemoryLength ", "MemoryLengt "),
            "log:10:1: expected the line `MemoryLength = ...` of the HOB"
        );
        assert_eq!(
            error(PRINTED, "EfiRuntimeServicesData", "EfiRuntimeServiceData"),
            "log:15:24: unknown memory type `EfiRuntimeServiceData`"
        );
    }

    #[test]
    fn a_damaged_row_is_skipped_leniently() {
        let options = ReadOptions { lenient: true, ..ReadOptions::default() };
        let text = PRINTED.replace("EfiReservedMemoryType", "Efi");
        let map = MemoryMap::parse_all("log", &text, &options).unwrap().remove(0);
        assert_eq!(map.descriptors().len(), 2);
        let messages: Vec<_> = oddities(&map).into_iter().map(|odd| odd.message).collect();
        assert!(
            messages.iter().any(|message| message.starts_with("line 11, column 24 is skipped: unknown")),
            "{messages:?}"
        );
    }
}
