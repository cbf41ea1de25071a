//! The formats that memory maps are found in: one file each, told apart here by what they contain, never by name.

mod linux_x86;
pub mod toml_format;

use super::error::ParseError;
use super::{MAX_DESCRIPTORS, MemoryMap, file};

/// A format of memory maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// The rows `efi: memNN: [...] range=[...]` of an x86 Linux boot log (5.8 and later).
    LinuxX86,
    /// `[[descriptor]]` tables in TOML.
    Toml,
}

/// Tells which format a text is in.
///
/// A table header of ours settles it, for a scenario may quote a boot log; then a row of a log, for a log may hold
/// lines like `key = value`; then whatever makes it look like TOML, so that a misspelt header is called that.
pub fn detect(text: &str) -> Option<Format> {
    let text = without_byte_order_mark(text);
    if text.lines().any(toml_format::is_descriptor_header) {
        Some(Format::Toml)
    } else if text.lines().any(linux_x86::is_row) {
        Some(Format::LinuxX86)
    } else if toml_format::looks_like_toml(text) {
        Some(Format::Toml)
    } else {
        None
    }
}

/// Reads a text in whatever format it is in.
pub(super) fn parse(name: &str, text: &str) -> Result<MemoryMap, ParseError> {
    let text = without_byte_order_mark(text);
    file::check_size(name, text)?;
    match detect(text) {
        Some(Format::LinuxX86) => linux_x86::parse(name, text),
        Some(Format::Toml) => toml_format::parse(name, text),
        None => Err(no_map(name, text)),
    }
}

/// There is no descriptor in a text.
fn no_map(name: &str, text: &str) -> ParseError {
    let first = text.len() - text.trim_start().len();
    if first == text.len() {
        return ParseError::at(name, text, 0..0, "no EFI memory map: there is nothing in it").help(HOW_TO_GET_A_MAP);
    }
    let line = text[first..].lines().next().unwrap_or_default().trim_end();
    ParseError::at(name, text, first..first + line.len(), "no EFI memory map: no line is of a known format")
        .label("neither this line nor any after it")
        .help(HOW_TO_GET_A_MAP)
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

const HOW_TO_GET_A_MAP: &str = "looked for `efi: memNN: [...] range=[...]` rows of a Linux boot log and for TOML \
     tables `[[descriptor]]`. To get a machine's map, boot Linux on it with `efi=debug` on the kernel command line and \
     save what `dmesg` prints (as root; `journalctl -k -b` will do)";

#[cfg(test)]
mod tests {
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
            ("efi: memattr: 0x1000-0x2fff".to_string(), None),
            (String::new(), None),
        ] {
            assert_eq!(detect(&text), format, "{text}");
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
