//! The formats that memory maps are found in: one file each, told apart here by what they contain, never by name.

pub(super) mod binary;
mod cursor;
mod diff;
mod dress;
mod edk2_hob;
mod edk2_memattr;
mod esx_boot;
mod fields;
mod freebsd;
pub(super) mod grub;
mod haiku;
pub(super) mod json;
mod kernel_list;
mod linux_arm64;
mod linux_descriptor;
mod linux_e820;
mod linux_memattr;
pub(super) mod linux_x86;
mod lists;
mod loader_csv;
mod log_prefix;
mod no_map;
mod offset;
mod opencore;
mod row;
mod rows;
pub(super) mod runtime_map;
pub mod toml_format;
mod uboot;
mod uefi_lessons;
mod uefi_rs;
pub(super) mod uefi_shell;
mod xen;

use super::error::ParseError;
use super::oddity::{Oddity, OddityKind};
use super::{ListKind, MAX_DESCRIPTORS, MemoryMap, ReadOptions, file};
use dress::Strand;
use no_map::{HOW_TO_GET_A_MAP, no_map};
use row::RowFormat;

/// A format of memory maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// The rows `efi: memNN: ...` of an x86 Linux boot log.
    LinuxX86,
    /// The rows `efi:   0xSTART-0xEND [...]` of the boot log of Linux on ARM and RISC-V.
    LinuxArm64,
    /// The rows `efi: memattr:  0xSTART-0xEND [...]` of a Linux boot log: the Memory Attributes Table, which goes with
    /// a map in another format.
    LinuxMemattr,
    /// The rows `efi: Remove memNN: MMIO range=[...] ... from e820 map` of an x86 Linux boot log: a part of the map.
    LinuxE820,
    /// Linux's `/sys/firmware/efi/runtime-map`, and listings of it.
    RuntimeMap,
    /// The UEFI shell's `memmap`.
    UefiShell,
    /// The Memory Attributes Table in EDK II's debug log, six lines an entry, which goes with a map in another format.
    Edk2Memattr,
    /// The memory-allocation HOBs in EDK II's debug log: a part of the map.
    Edk2Hob,
    /// Xen's console, and `xl dmesg`.
    Xen,
    /// FreeBSD's verbose boot, and `sysctl machdep.efi_map`.
    FreeBsd,
    /// What Haiku's boot loader prints.
    Haiku,
    /// U-Boot's `efidebug memmap`.
    UBoot,
    /// GRUB's `lsefimmap`.
    Grub,
    /// The CSV that MikanLoader and its like write.
    LoaderCsv,
    /// The log of VMware's esx-boot.
    EsxBoot,
    /// OpenCore's `OCMM:` rows.
    OpenCore,
    /// `MemoryDescriptor` of the Rust crate `uefi`, as `{:?}` prints it.
    UefiRs,
    /// The two lines a descriptor of UEFI tutorials.
    UefiLessons,
    /// An array of EFI_MEMORY_DESCRIPTOR.
    Binary,
    /// An object in JSON.
    Json,
    /// `[[descriptor]]` tables in TOML.
    Toml,
}

efibed_stub::names! {
    Format, "format":
    LinuxX86 "linux-x86",
    LinuxArm64 "linux-arm64",
    LinuxMemattr "linux-memattr",
    LinuxE820 "linux-e820",
    RuntimeMap "runtime-map",
    UefiShell "uefi-shell",
    Edk2Memattr "edk2-memattr",
    Edk2Hob "edk2-hob",
    Xen "xen",
    FreeBsd "freebsd",
    Haiku "haiku",
    UBoot "u-boot",
    Grub "grub",
    LoaderCsv "loader-csv",
    EsxBoot "esx-boot",
    OpenCore "opencore",
    UefiRs "uefi-rs",
    UefiLessons "uefi-lessons",
    Binary "binary",
    Json "json",
    Toml "toml",
}

impl Format {
    /// Whether its rows go with a map in another format, and make none or only a part of one by themselves.
    fn is_companion(self) -> bool {
        matches!(self, Self::LinuxMemattr | Self::LinuxE820 | Self::Edk2Memattr | Self::Edk2Hob)
    }
}

/// Gives every line of a text, without what is around lines there (JSON, records of loggers, mail, markup), and what tells its
/// number in the text as it is.
#[cfg(feature = "cli")]
pub(crate) fn each_undressed_line(text: &str, each: &mut dyn FnMut(&dyn Fn() -> usize, &str)) {
    let strand = dress::undress(text);
    for (at, line) in offset::lines(strand.text()) {
        each(&|| strand.place(at).0, line);
    }
}

/// What a format cannot carry.
#[derive(Debug)]
pub(super) struct Unwritable {
    /// Which descriptor.
    pub index: usize,
    /// What about it.
    pub what: String,
}

/// The formats with rows, in the order in which they are offered a line.
///
/// Those with a mark of their own come first. Of the bare tables no sound row is two formats' own; a damaged one that
/// might be goes to the first.
const ROW_FORMATS: [&RowFormat; 19] = [
    &linux_x86::FORMAT,
    &linux_e820::FORMAT,
    &linux_memattr::FORMAT,
    &linux_arm64::FORMAT,
    &runtime_map::FORMAT,
    &xen::FORMAT,
    &esx_boot::FORMAT,
    &opencore::FORMAT,
    &uefi_rs::FORMAT,
    &uefi_lessons::FORMAT,
    &edk2_memattr::FORMAT,
    &edk2_hob::FORMAT,
    &edk2_hob::FORMAT_OF_LINES,
    &haiku::FORMAT,
    &uefi_shell::FORMAT,
    &grub::FORMAT,
    &uboot::FORMAT,
    &freebsd::FORMAT,
    &loader_csv::FORMAT,
];

/// Tells which format a text is in.
///
/// A table header of ours settles it, because a scenario may quote a boot log, and so do the descriptors of our JSON; then a
/// row, because a log may hold lines like `key = value`, or be in JSON itself; then whatever makes it look like TOML or JSON, so that a misspelt header is called that. Of a text with rows
/// of several formats it is the first one's, though not one's that only goes with maps.
pub fn detect(text: &str) -> Option<Format> {
    let text = without_byte_order_mark(text);
    document(text).or_else(|| undressed_format(text, dress::undress(text).text()))
}

/// Whether bytes that are not UTF-8, apart from what stands for them in a text, are a text with rows.
pub(super) fn has_rows(text: &str) -> bool {
    row_format(dress::undress(text).text()).is_some()
}

/// The format of a text that is a document of ours, whatever rows it may quote.
fn document(text: &str) -> Option<Format> {
    if text.lines().any(toml_format::is_descriptor_header) {
        return Some(Format::Toml);
    }
    (json::looks_like_json(text) && text.contains("\"descriptors\"")).then_some(Format::Json)
}

fn undressed_format(text: &str, undressed: &str) -> Option<Format> {
    let is_toml = || toml_format::looks_like_toml(text) && !no_map::begins_with_another(text);
    let toml = || is_toml().then_some(Format::Toml);
    let json = || json::looks_like_json(text).then_some(Format::Json);
    row_format(undressed).or_else(toml).or_else(json)
}

/// Reads every list of a text. There is at least one.
pub(super) fn parse_all(name: &str, text: &str, options: &ReadOptions) -> Result<Vec<MemoryMap>, ParseError> {
    let text = without_byte_order_mark(text);
    file::check_size(name, text)?;
    let of_document = |format| match format {
        Format::Toml => Some(toml_format::parse(name, text)),
        Format::Json => Some(json::parse(name, text)),
        _ => None,
    };
    if let Some(map) = options.format.or_else(|| document(text)).and_then(of_document) {
        return Ok(vec![map?]);
    }
    let strand = dress::undress(text);
    let format = options.format.or_else(|| undressed_format(text, strand.text()));
    if let Some(map) = format.and_then(of_document) {
        return Ok(vec![map?]);
    }
    let maps = parse_rows(name, strand, options)?;
    if maps.is_empty() { Err(no_map(name, text)) } else { Ok(maps) }
}

fn parse_rows(name: &str, mut strand: Strand<'_>, options: &ReadOptions) -> Result<Vec<MemoryMap>, ParseError> {
    let is_wanted = |format: Format| format.is_companion() || options.format.is_none_or(|only| only == format);
    let formats: Vec<_> = ROW_FORMATS.into_iter().filter(|format| is_wanted(format.format)).collect();
    let notes = dress::settle(name, &mut strand, &formats, options.lenient)?;
    let text = strand.text();
    let moved = |error: ParseError| error.moved(name, strand.original(), |span| strand.span(span));
    let mut maps = rows::parse_all(name, &strand, &formats, options.lenient).map_err(moved)?;
    if is_wanted(Format::RuntimeMap) && text.lines().any(runtime_map::is_field_line) {
        maps.extend(runtime_map::parse_fields(name, text, options.lenient).map_err(moved)?);
        maps.sort_by_key(|map| map.line(0));
    }
    maps.iter_mut().for_each(|map| map.notes.extend_from_slice(&notes));
    Ok(maps)
}

/// The list that is meant by someone who wants one: the first that firmware handed out, else the first. A whole one is
/// rather meant than a part, and of parts the largest.
pub(crate) fn choose(mut maps: Vec<MemoryMap>) -> MemoryMap {
    let rank = |map: &MemoryMap| {
        let size = map.partial().map_or(usize::MAX, |_| map.descriptors.len());
        (map.kind == ListKind::Firmware, size)
    };
    // Of equal ones `max_by_key` gives the last.
    let chosen = (0..maps.len()).rev().max_by_key(|index| rank(&maps[*index])).unwrap_or(0);
    let mut map = maps.swap_remove(chosen);
    // Every reader gives at least one map; an empty one stands for none.
    map.notes.extend(extra_lists(&map, &maps));
    map
}

/// What other lists there are.
fn extra_lists(map: &MemoryMap, others: &[MemoryMap]) -> Option<Oddity> {
    let told = others.iter().take(MAX_LISTS_TOLD).map(|other| {
        let kind = match (other.kind, other.partial()) {
            (ListKind::Firmware, None) => "as firmware handed it out",
            (ListKind::Firmware, Some(_)) => "a part of what firmware handed out",
            (ListKind::Runtime, _) => "Linux's own, of what it mapped",
        };
        let line = other.line(0).map_or_else(String::new, |line| format!("line {line} starts "));
        format!("{line}a list of {} descriptors ({kind})", other.descriptors.len())
    });
    let mut message = told.collect::<Vec<_>>().join(", ");
    if let Some(more) = others.len().checked_sub(MAX_LISTS_TOLD).filter(|more| *more > 0) {
        message += &format!(", and {more} more lists follow");
    }
    let message = format!(
        "only one list is read here: {message}; `--list N` on the command line takes the Nth, and `MemoryMap::parse_all` gives all"
    );
    let index = map.descriptors.len().saturating_sub(1);
    (!others.is_empty()).then_some(Oddity { kind: OddityKind::ExtraList, index, other: None, message })
}

const MAX_LISTS_TOLD: usize = 4;

fn row_format(text: &str) -> Option<Format> {
    let mut companion = None;
    for line in text.split('\n').filter(|line| line.len() >= row::MIN_ROW_BYTES) {
        if runtime_map::is_field_line(line) {
            return Some(Format::RuntimeMap);
        }
        match ROW_FORMATS.iter().find(|format| (format.start)(line).is_some()).map(|row| row.format) {
            Some(format) if format.is_companion() => companion = companion.or(Some(format)),
            Some(format) => return Some(format),
            None => {}
        }
    }
    companion
}

/// There are more descriptors than any map has; `span` is the first too many.
fn too_many(name: &str, text: &str, span: std::ops::Range<usize>) -> ParseError {
    ParseError::at(name, text, span, format!("more than {MAX_DESCRIPTORS} descriptors"))
        .label("the first one too many")
        .help("no firmware hands out so many: check that this is one map")
}

fn without_byte_order_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::oddities;
    use super::*;

    #[test]
    fn formats_are_told_apart_by_content() {
        let row = "[    0.000000] efi: mem00: [";
        for (text, format) in [
            (row.to_string(), Some(Format::LinuxX86)),
            (format!("Linux version 6\nroot = x\n{row}"), Some(Format::LinuxX86)),
            (format!("about = '''\n{row}\n'''\n[[descriptor]]\n"), Some(Format::Toml)),
            ("\u{feff}# comment\n\n[[descriptr]]".to_string(), Some(Format::Toml)),
            ("[mapper]\n".to_string(), Some(Format::Toml)),
            ("name = 'x'".to_string(), Some(Format::Toml)),
            ("[    0.000000] Linux version 6.1".to_string(), None),
            ("efi: memattr: Entry attributes invalid: RO and XP bits both cleared".to_string(), None),
            (String::new(), None),
        ] {
            assert_eq!(detect(&text), format, "{text}");
        }
    }

    /// One row of each bare table, as printed.
    const TABLES: [(Format, &str); 6] = [
        (Format::UefiShell, "reserved    0000000001B50000-0000000001D4FFFF   0000000000000200 0000000000000009"),
        (Format::UefiShell, "LoaderCode 000000007871B000-000000007882BFFF 0000000000000111 000000000000000F"),
        (Format::Grub, "reserved  0000000000000000-0000000000000fff 00000001      4KiB WB"),
        (Format::UBoot, "BOOT DATA        0000000004000000-0000000004200000 WB"),
        (Format::FreeBsd, "             LoaderCode 002f7feb4000 002f7feb4000 00000135 WB "),
        (Format::LoaderCsv, "10    1      Loader Code               0x0000003e682000 0x000000000c 0x000000000000000f"),
    ];

    /// The rows of the others.
    const MARKED: &str = "\
efi: mem00: [Conventional|   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000000000-0x0000000000086fff] (0MB)
(XEN)  000007f28d000-000007f5f2fff type=6 attr=800000000000000f
MMap[25]: 0x713d4000 - 0x71495fff len=794624, type=2, attr=0xf
OCMM: RT Code   [RUN|   |  |  |  |  |XP|  |  |   |  |  |  |  ] 0x000000004D81A000-0x000000004D838FFF -> 0x0000000000000000 (124 KB)
MemoryDescriptor { ty: CONVENTIONAL, padding: 0, phys_start: 4096, virt_start: 0, page_count: 159, att: WRITE_BACK }
[#112] Type: EfiRuntimeServicesData  Attr:  UC WC WT WB RUNTIME
      Phys: 0000000007EF4000-0000000007F77FFF
  RT_Data   :          1,290 Pages (5,283,840 Bytes)
";

    proptest! {
        #[test]
        fn mutated_rows_of_any_format_do_not_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any_character()), 0..12),
            rows in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
            lenient in any::<bool>(),
        ) {
            let known: Vec<&str> = MARKED.split_inclusive('\n').chain(TABLES.map(|(_, row)| row)).collect();
            let text: Vec<&str> = rows.iter().map(|row| *row.get(&known)).collect();
            let mut text: Vec<char> = text.join("\n").chars().collect();
            for (at, by) in edits {
                *at.get_mut(&mut text) = by;
            }
            let text: String = text.into_iter().collect();
            match MemoryMap::parse_all("map", &text, &ReadOptions { lenient, ..ReadOptions::default() }) {
                Ok(maps) => maps.iter().for_each(|map| drop(oddities(map))),
                Err(error) => drop(format!("{:?}", miette::Report::new(error))),
            }
        }
    }

    fn any_character() -> impl Strategy<Value = char> {
        prop_oneof![
            prop::char::range(' ', '~'),
            prop::sample::select(vec!['\n', '\r', '\t', '\0', 'é', '0', 'f']),
            any::<char>()
        ]
    }

    #[test]
    fn a_row_of_a_bare_table_is_one_formats_own() {
        for (format, row) in TABLES {
            let knowing = ROW_FORMATS.iter().filter(|known| (known.start)(row).is_some());
            assert_eq!(knowing.map(|known| known.format).collect::<Vec<_>>(), [format], "{row}");
        }
    }

    #[test]
    fn a_row_that_is_cut_is_still_its_tables() {
        for (format, row) in TABLES {
            // Between the two addresses, or within the one, and the last column.
            let from = row.find(['-', 'x']).or_else(|| row.rfind("002f7")).unwrap() + 2;
            let last_column = row.trim_end().rfind(' ').unwrap();
            for cut in (from..last_column).map(|to| &row[..to]) {
                let error = MemoryMap::parse(&format!("{row}\n{cut}\n{row}\n")).unwrap_err();
                assert_eq!((detect(&format!("{row}\n{cut}\n")), error.line()), (Some(format), 2), "{cut}: {error}");
            }
        }
    }

    #[test]
    fn a_log_without_a_map_tells_how_to_get_one() {
        let error = MemoryMap::parse_named("boot.log", "\n[    0.0] Linux version 6.1\nefi: EFI v2.7\n").unwrap_err();
        assert_eq!(error.to_string(), "boot.log:2:1: no EFI memory map: no line is of a known format");
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(help.contains("efi=debug") && help.contains("[[descriptor]]"), "{help}");
    }

    #[test]
    fn nothing_but_blanks_is_empty() {
        for text in ["", "\u{feff}", " \n\t\n"] {
            let error = MemoryMap::parse(text).unwrap_err();
            assert_eq!(error.message(), "no EFI memory map: there is nothing in it");
        }
    }
}
