//! Texts without a memory map: what they have instead, and how to get one.

use super::super::error::ParseError;
use super::offset::{indent, lines, shifted, span};

/// There is no descriptor in a text.
pub(super) fn no_map(name: &str, text: &str) -> ParseError {
    let first = indent(text);
    if first == text.len() {
        return ParseError::at(name, text, 0..0, "no EFI memory map: there is nothing in it").help(help(WHAT_IS_READ));
    }
    if let Some((at, other)) = other(text) {
        let line = text[at..].lines().next().unwrap_or_default();
        let span = shifted(indent(line)..line.trim_end().len(), at);
        return ParseError::at(name, text, span, format!("no EFI memory map: only {}", other.what))
            .label("the first line of it")
            .help(help(other.why));
    }
    let line = text[first..].lines().next().unwrap_or_default().trim_end();
    ParseError::at(name, text, span(first, line.len()), "no EFI memory map: no line is of a known format")
        .label("neither this line nor any after it")
        .help(help(WHAT_IS_READ))
}

/// Whether the first line of a text is of another description. Some look like assignments in TOML.
pub(super) fn begins_with_another(text: &str) -> bool {
    text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| OTHERS.iter().any(|other| (other.is)(line)))
}

fn help(what: &str) -> String {
    format!("{what}. {HOW_TO_GET_A_MAP}")
}

const WHAT_IS_READ: &str = "looked for `efi: memNN: [...] range=[...]` rows of a Linux boot log, for the tables of the UEFI \
     shell's `memmap`, GRUB, U-Boot, FreeBSD, Haiku, Xen, EDK II's debug log and some loaders, and for TOML tables \
     `[[descriptor]]`";

/// What to do.
pub(super) const HOW_TO_GET_A_MAP: &str = "To get a machine's map, boot Linux on it with `efi=debug` on the kernel command \
     line and save what `dmesg` prints (as root; `journalctl -k -b` will do), or run `memmap` in the UEFI shell";

/// Another description of a machine's memory, which is easily mistaken for the map.
struct Other {
    /// Whether a line is of it.
    is: fn(&str) -> bool,
    what: &'static str,
    why: &'static str,
}

const OTHERS: [Other; 5] = [
    Other { is: is_e820, what: "an e820 map", why: E820 },
    Other { is: is_iomem, what: "Linux's /proc/iomem", why: IOMEM },
    Other { is: is_smap, what: "a BIOS's memory map, as FreeBSD or GRUB prints it", why: E820 },
    Other { is: is_resource_hob, what: "the resource descriptors of a HOB list", why: HOB },
    Other { is: is_address_space, what: "EDK II's map of the address space (GCD)", why: HOB },
];

const E820: &str = "e820 says which memory an operating system may use. The types and attributes of EFI's descriptors are \
     lost in it, and what runtime services need is not told from other reserved memory";
const IOMEM: &str = "/proc/iomem says what Linux uses addresses for. The types and attributes of EFI's descriptors are lost in \
     it, and what runtime services need is not told from other reserved memory";
const HOB: &str = "it says what memory there is, and not what firmware uses it for: EDK II makes its map of it later";

/// The first line of the first other description, and which it is.
fn other(text: &str) -> Option<(usize, &'static Other)> {
    lines(text).find_map(|(at, line)| OTHERS.iter().find(|other| (other.is)(line)).map(|other| (at, other)))
}

/// `BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable` and its like (`e820__print_table()` in
/// arch/x86/kernel/e820.c), older `BIOS-e820: 0000000000000000 - 000000000009fc00 (usable)`, and Xen's
/// `(XEN) Xen-e820 RAM map:` with rows `[0000000000000000, 000000000009efff] (usable)` (`print_e820_memory_map()`).
fn is_e820(line: &str) -> bool {
    let is_linuxs = || ["BIOS-e820:", "e820: [mem ", "e820: BIOS-provided", "BIOS-provided physical RAM map"];
    let is_xens = || ["Xen-e820 RAM map", "-e820 RAM map:"];
    is_linuxs().iter().chain(&is_xens()).any(|words| line.contains(words))
}

/// `00001000-0009fbff : System RAM`
pub(super) fn is_iomem(line: &str) -> bool {
    let is_address = |text: &str| text.len() >= 8 && text.len() <= 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
    let Some((range, name)) = line.trim().split_once(" : ") else { return false };
    !name.is_empty() && range.split_once('-').is_some_and(|(start, end)| is_address(start) && is_address(end))
}

/// `SMAP type=01 base=0000000000000000 len=000000000009fc00` (`native_parse_memmap()` in FreeBSD), and GRUB's `lsmmap`:
/// `base_addr = 0x0, length = 0x9fc00, available RAM`
fn is_smap(line: &str) -> bool {
    line.contains("SMAP type=") && line.contains(" base=")
        || line.contains("base_addr = 0x") && line.contains("length = 0x")
}

/// In the words of EDK II's HobPrintLib and MinPlatformPkg.
fn is_resource_hob(line: &str) -> bool {
    line.contains("= EFI_RESOURCE_") || line.trim_end().ends_with("Resource Descriptor HOBs")
}

fn is_address_space(line: &str) -> bool {
    line.contains("GCDMemType Range")
}

#[cfg(test)]
mod tests {
    use super::super::super::MemoryMap;

    fn error(text: &str) -> (String, String) {
        let error = MemoryMap::parse_named("log", text).unwrap_err();
        (error.to_string(), miette::Diagnostic::help(&error).unwrap().to_string())
    }

    #[test]
    fn other_descriptions_of_memory_are_called_what_they_are() {
        for (line, what) in [
            ("[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable", "an e820 map"),
            ("[    0.000000] BIOS-provided physical RAM map:", "an e820 map"),
            ("(XEN) Xen-e820 RAM map:\n(XEN)  [0000000000000000, 000000000009efff] (usable)", "an e820 map"),
            ("00001000-0009fbff : System RAM\n0009fc00-0009ffff : Reserved", "Linux's /proc/iomem"),
            ("  100000000-27fffffff : System RAM", "Linux's /proc/iomem"),
            (
                "SMAP type=01 base=0000000000000000 len=000000000009fc00",
                "a BIOS's memory map, as FreeBSD or GRUB prints it",
            ),
            ("base_addr = 0x0, length = 0x9fc00, available RAM", "a BIOS's memory map, as FreeBSD or GRUB prints it"),
            ("   ResourceType      = EFI_RESOURCE_SYSTEM_MEMORY", "the resource descriptors of a HOB list"),
            (
                "GCDMemType Range                             Capabilities     Attributes\n\
                 ========== ================================= ================ ================\n\
                 SystemMem  0000000000000000-000000000009FFFF 800000000002600F 0000000000000008\n\
                 MMIO       00000000FEE00000-00000000FEEFFFFF C000000000026001 0000000000000001 ",
                "EDK II's map of the address space (GCD)",
            ),
        ] {
            let column = 1 + line.len() - line.trim_start().len();
            for (before, number) in [("", 1), ("Linux version 6.1\n", 2)] {
                let (message, help) = error(&format!("{before}{line}\n"));
                assert_eq!(message, format!("log:{number}:{column}: no EFI memory map: only {what}"));
                assert!(help.contains("efi=debug") && !help.contains("looked for"), "{help}");
            }
        }
    }

    #[test]
    fn they_are_nothing_beside_a_map() {
        let text = "BIOS-e820: [mem 0x0-0xfff] usable\n\
                    GCDMemType Range                             Capabilities     Attributes\n\
                    MMIO       00000000FEE00000-00000000FEEFFFFF C000000000026001 0000000000000001\n\n\
                    Type       Start            End              # Pages          Attributes\n\
                    RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F\n";
        let map = MemoryMap::parse(text).unwrap();
        assert_eq!((map.descriptors().len(), map.line(0)), (1, Some(6)));
    }

    #[test]
    fn prose_is_not_called_so() {
        for line in ["see /proc/iomem : it tells", "12 : 30", "the e820 map is missing", "SMAP is a feature"] {
            assert!(error(line).0.ends_with("no line is of a known format"), "{line}");
        }
    }
}
