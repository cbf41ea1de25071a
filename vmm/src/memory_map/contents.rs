//! What the bytes of a file are: text in UTF-8 or UTF-16, or descriptors as firmware hands them out.

use super::error::{ReadError, line_number};
use super::file::{bytes_error, too_large};
use super::formats::{binary, has_rows};
use super::{Format, MAX_INPUT_BYTES, MemoryMap, ReadOptions};

/// What a file, or standard input, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Text.
    Text(String),
    /// An array of EFI_MEMORY_DESCRIPTOR, for [`MemoryMap::parse_binary`].
    Binary(Vec<u8>),
}

/// Tells text from binary descriptors, and decodes it. `name` is for errors.
///
/// Text is UTF-8, UTF-16 with a byte order mark, or UTF-16 in little endian without one (editors leave it off): then
/// nearly every other byte is zero, and nothing but text comes out. Anything else is binary if the options have a
/// stride, or if there is a size with which all descriptors make sense. Otherwise it is text if it has rows of a memory
/// map, with U+FFFD for each stray byte. The format in the options overrides all this.
pub fn decode(name: &str, bytes: Vec<u8>, options: &ReadOptions) -> Result<Contents, ReadError> {
    if bytes.len() > MAX_INPUT_BYTES {
        return Err(too_large(name));
    }
    if options.format == Some(Format::Binary) {
        return Ok(Contents::Binary(bytes));
    }
    match bytes.as_slice() {
        [0xff, 0xfe, text @ ..] => return utf16(name, text, u16::from_le_bytes).map(Contents::Text),
        [0xfe, 0xff, text @ ..] => return utf16(name, text, u16::from_be_bytes).map(Contents::Text),
        bytes if is_utf16_without_mark(bytes) => return utf16(name, bytes, u16::from_le_bytes).map(Contents::Text),
        _ => {}
    }
    let is_text = !bytes.contains(&0) && str::from_utf8(&bytes).is_ok();
    if !is_text && (options.stride.is_some() || binary::is_likely(&bytes)) {
        return Ok(Contents::Binary(bytes));
    }
    String::from_utf8(bytes).map(Contents::Text).or_else(|error| {
        // A stray byte is no reason to refuse a log, unless it is in a row: the reader of rows knows.
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let offset = error.utf8_error().valid_up_to();
        if has_rows(&text) { Ok(Contents::Text(text)) } else { Err(not_text(name, error.as_bytes(), offset)) }
    })
}

impl MemoryMap {
    /// Reads every list of what a file holds, in the order of the file. There is at least one.
    pub fn parse_bytes(name: &str, bytes: Vec<u8>, options: &ReadOptions) -> Result<Vec<Self>, ReadError> {
        match decode(name, bytes, options)? {
            Contents::Text(text) => Ok(Self::parse_all(name, &text, options)?),
            Contents::Binary(bytes) => Ok(vec![Self::parse_binary(name, &bytes, options.stride)?]),
        }
    }

    /// Reads an array of EFI_MEMORY_DESCRIPTOR (UEFI 2.10, section 7.2.3), little endian.
    ///
    /// `stride` is the size of one, firmware's DescriptorSize: a multiple of 8 from 40 on, which the array does not
    /// tell. Without it the array is read if there is exactly one such size up to 128 for which every descriptor makes
    /// sense: a type that is UEFI's, an OEM's or an operating system's, some pages below 2^52, a page-aligned start, no
    /// attribute that UEFI does not define, and zero in the unused bytes.
    pub fn parse_binary(name: &str, bytes: &[u8], stride: Option<usize>) -> Result<Self, ReadError> {
        binary::parse(name, bytes, stride)
    }
}

/// Whether every second byte of nearly all is zero, and what comes out is text.
fn is_utf16_without_mark(bytes: &[u8]) -> bool {
    let units = || bytes.chunks_exact(2);
    let zeros = units().filter(|unit| unit[1] == 0).count();
    let is_text = |unit: char| !unit.is_control() || unit.is_ascii_whitespace();
    zeros > 0
        && bytes.len().is_multiple_of(2)
        && zeros * 10 >= units().len() * 9
        && char::decode_utf16(units().map(|unit| u16::from_le_bytes([unit[0], unit[1]])))
            .all(|unit| unit.is_ok_and(is_text))
}

fn utf16(name: &str, bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, ReadError> {
    const HELP: &str = "copy the file again: it was cut or damaged";
    let (units, rest) = bytes.as_chunks::<2>();
    // UTF-8 takes at most three bytes for the two of a unit.
    let mut text = String::with_capacity(bytes.len() / 2);
    for decoded in char::decode_utf16(units.iter().copied().map(unit)) {
        match decoded {
            Ok(character) => text.push(character),
            Err(error) => {
                let surrogate = error.unpaired_surrogate();
                let problem = format!("has half a UTF-16 character, {surrogate:#06x}");
                return Err(bytes_error(name, Some(place_at_end(&text)), problem, HELP));
            }
        }
    }
    match rest {
        [] => Ok(text),
        _ => Err(bytes_error(name, Some(place_at_end(&text)), "has half a UTF-16 unit at its end".into(), HELP)),
    }
}

/// Where the character after a text would be.
fn place_at_end(text: &str) -> (usize, usize) {
    let last_line = text.rsplit('\n').next().unwrap_or_default();
    (line_number(text, text.len()), last_line.chars().count() + 1)
}

fn not_text(name: &str, bytes: &[u8], offset: usize) -> ReadError {
    let place = place_at_end(&String::from_utf8_lossy(&bytes[..offset]));
    let problem = format!("is not UTF-8 text: byte {:#04x} at offset {offset}", bytes[offset]);
    let help = "give a memory map as text in UTF-8 or UTF-16; for binary descriptors, give their size: \
                `efibed convert MAP --stride N --to toml`";
    bytes_error(name, Some(place), problem, help)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "RT_Data    000000008EA34000-000000008EF3DFFF 000000000000050A 800000000000000F\r\n";

    fn error(bytes: &[u8]) -> String {
        decode("map", bytes.to_vec(), &ReadOptions::default()).unwrap_err().to_string()
    }

    fn text(bytes: Vec<u8>) -> Contents {
        decode("map", bytes, &ReadOptions::default()).unwrap()
    }

    #[test]
    fn text_is_decoded() {
        let little: Vec<u8> = ROW.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = ROW.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let expected = Contents::Text(ROW.into());
        assert_eq!(text([b"\xff\xfe", little.as_slice()].concat()), expected);
        assert_eq!(text([b"\xfe\xff", big.as_slice()].concat()), expected);
        assert_eq!(text(little), expected);
        assert_eq!(text(ROW.into()), expected);
        assert_eq!(text(b"\xff\xfe\x3d\xd8\x00\xde".into()), Contents::Text("\u{1f600}".into()));
    }

    #[test]
    fn a_map_in_utf16_is_read() {
        let bytes: Vec<u8> = format!("\u{feff}{ROW}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let maps = MemoryMap::parse_bytes("map", bytes, &ReadOptions::default()).unwrap();
        assert_eq!((maps[0].descriptors()[0].page_count, maps[0].format()), (0x50a, Some(Format::UefiShell)));
    }

    #[test]
    fn half_characters_are_pointed_at() {
        assert_eq!(
            error(b"\xff\xfea\0\n\0b\0\x00\xd8c\0"),
            "map: has half a UTF-16 character, 0xd800, in line 2, column 2"
        );
        assert_eq!(error(b"\xfe\xff\0a\0\n\0b\0"), "map: has half a UTF-16 unit at its end, in line 2, column 2");
    }

    #[test]
    fn what_is_no_text_is_said_so() {
        assert_eq!(error(b"a\n\nb\x80\xff"), "map:3:2: is not UTF-8 text: byte 0x80 at offset 4");
        assert_eq!(error(&vec![b' '; MAX_INPUT_BYTES + 1]), "map: is larger than 64 MiB");
        // Every other byte is zero, but it decodes to a control character.
        assert_eq!(text(b"a\0\x01\0".into()), Contents::Text("a\0\x01\0".into()));
    }
}
