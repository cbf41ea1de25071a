//! Lines that tell what comes next.

use super::super::super::Format;
use super::super::log_prefix::find_message;
use super::super::offset::Offset;
use super::super::{ROW_FORMATS, uefi_shell};

/// A line by which a text tells what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Heading {
    /// The log of another boot.
    Boot,
    /// Linux announces firmware's map (on ARM and RISC-V).
    Firmware,
    /// Linux announces its own list.
    Runtime,
    /// Linux announces the Memory Attributes Table.
    Attributes,
    /// The heading of another list in a format.
    Of(Format),
    /// The totals below a list in a format.
    Totals(Format),
    /// EDK II announces the Memory Attributes Table, of so many entries if it says it in the same line.
    Edk2Attributes(Option<u64>),
    /// How many entries the announced table has.
    Count(u64),
    /// EDK II announces what exists at which addresses, in rows that look like the shell's and tell something else.
    AddressSpace,
}

/// The heading that a line is, if any.
pub(in super::super) fn heading(line: &str) -> Option<Heading> {
    of_linux(line).or_else(|| of_edk2(line)).or_else(|| of_table(line))
}

/// `reserve_regions()` in drivers/firmware/efi/efi-init.c, `__efi_enter_virtual_mode()` in
/// arch/x86/platform/efi/efi.c, `efi_memattr_apply_permissions()` in drivers/firmware/efi/memattr.c.
fn of_linux(line: &str) -> Option<Heading> {
    let is = |message| find_message(line, message).is_some();
    if !line.trim_end().ends_with(':') {
        is("Linux version ").then_some(Heading::Boot)
    } else if is("efi: EFI runtime memory map:") {
        Some(Heading::Runtime)
    } else if is("efi: Processing EFI memory map:") {
        Some(Heading::Firmware)
    } else if is("efi: memattr: Processing EFI Memory Attributes table:") {
        Some(Heading::Attributes)
    } else {
        None
    }
}

/// Three programs print the table: `InstallMemoryAttributesTable()` in MdeModulePkg/Core/Dxe/Misc and the application
/// MemoryAttributesDump over several lines (`NumberOfEntries - 0x0000001b`), `DumpMemoryAttributesTable()` in
/// MinPlatformPkg's TestPointCheckLib in one (`Version=0x1 Count=0x1b DescriptorSize=0x30`). `GCDMemType` is from
/// `CoreDumpGcdMemorySpaceMap()` in MdeModulePkg/Core/Dxe/Gcd.
fn of_edk2(line: &str) -> Option<Heading> {
    const TABLE: &str = "MemoryAttributesTable:";
    if let Some(at) = line.find(TABLE) {
        let rest = line[at.plus(TABLE.len())..].trim();
        let is_announced = rest.is_empty() || rest.starts_with("Version");
        return is_announced.then(|| Heading::Edk2Attributes(count(rest)));
    }
    // PEI's list comes before DXE's, in the same rows.
    if line.contains("HOBLIST address in DXE =") || line.contains("Print all Hob information from Hob ") {
        return Some(Heading::Of(Format::Edk2Hob));
    }
    if is_end_of(line, "GCDMemType Range Capabilities Attributes") {
        return Some(Heading::AddressSpace);
    }
    count(line).map(Heading::Count)
}

/// `Count=0x1b`, `NumberOfEntries - 0x0000001b`.
fn count(text: &str) -> Option<u64> {
    let after = ["Count", "NumberOfEntries"].iter().find_map(|name| text.split_once(name))?.1;
    let number = after.trim_start().strip_prefix(['=', '-', ':'])?.trim_start().strip_prefix("0x")?;
    let digits = number.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

fn of_table(line: &str) -> Option<Heading> {
    if uefi_shell::is_total(line) {
        return Some(Heading::Totals(Format::UefiShell));
    }
    let has = |heading: &&str| is_end_of(line, heading);
    let format = ROW_FORMATS.iter().find(|format| format.headings.iter().any(has))?;
    Some(Heading::Of(format.format))
}

/// Whether a line ends with these words. What a logger wrote may stand before them.
fn is_end_of(line: &str, words: &str) -> bool {
    let mut line = line.split_ascii_whitespace().rev();
    words.split(' ').rev().all(|word| line.next() == Some(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_known_behind_what_loggers_write() {
        for (line, expected) in [
            ("[    0.000000] Linux version 6.1", Some(Heading::Boot)),
            (
                "Type       Start            End               # Pages          Attributes\r",
                Some(Heading::Of(Format::UefiShell)),
            ),
            (
                "log: Type       Start            End              # Pages          Attributes",
                Some(Heading::Of(Format::UefiShell)),
            ),
            ("Type             Start            End              Attributes", Some(Heading::Of(Format::UBoot))),
            (
                "Type      Physical start  - end             #Pages        Size Attributes",
                Some(Heading::Of(Format::Grub)),
            ),
            ("                   Type     Physical      Virtual   #Pages Attr", Some(Heading::Of(Format::FreeBsd))),
            ("(XEN) [2023-11-22 13:51:00] EFI memory map:", Some(Heading::Of(Format::Xen))),
            ("KERN: System provided memory map:", Some(Heading::Of(Format::Haiku))),
            ("  RT_Data   :          1,290 Pages (5,283,840 Bytes)", Some(Heading::Totals(Format::UefiShell))),
            ("MemoryAttributesTable:", Some(Heading::Edk2Attributes(None))),
            (
                "MemoryAttributesTable: Version=0x1 Count=0x1B DescriptorSize=0x30",
                Some(Heading::Edk2Attributes(Some(27))),
            ),
            ("  NumberOfEntries      - 0x0000001B", Some(Heading::Count(27))),
            (
                "GCDMemType Range                             Capabilities     Attributes      ",
                Some(Heading::AddressSpace),
            ),
            ("MemoryAttributesTable: not found", None),
            ("The Type, the Start and the End", None),
            ("Attributes", None),
            ("", None),
        ] {
            assert_eq!(heading(line), expected, "{line}");
        }
    }
}
