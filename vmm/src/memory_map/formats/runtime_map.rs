//! What Linux mapped for runtime services, and where: /sys/firmware/efi/runtime-map (x86, kernels with kexec).
//!
//! The folder has one folder an entry, numbered from 0, with five files: `attribute`, `num_pages`, `phys_addr`, `type`,
//! `virt_addr` (Documentation/ABI/testing/sysfs-firmware-efi-runtime-map). It is read in four ways: itself; as
//! `grep . /sys/firmware/efi/runtime-map/*/*` or `grep -r .` prints it, in whatever order; as `head` and `tail` do; and
//! as a list with one line an entry:
//!
//! ```text
//! /sys/firmware/efi/runtime-map/0/type:0xb
//!
//! ==> /sys/firmware/efi/runtime-map/0/type <==
//! 0xb
//!
//! # index phys_addr virt_addr num_pages type attribute
//! 0 0xffe00000 0xfffffffeffe00000 0x200 0xb 0x8000000000000001
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;

use super::super::error::{ParseError, ReadError, line_number, quoted};
use super::super::file::file_error;
use super::super::oddity::{Oddity, OddityKind};
use super::super::{Format, ListKind, MAX_DESCRIPTORS, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType};
use super::cursor::{Bad, Cursor};
use super::offset::{Offset, indent, lines, shifted, span};
use super::row::{Row, RowFormat, RowKind};

/// The list with one line an entry.
pub(super) const FORMAT: RowFormat = RowFormat {
    format: Format::RuntimeMap,
    lines: 1,
    start,
    read,
    sample: "INDEX 0xPHYS_ADDR 0xVIRT_ADDR 0xNUM_PAGES 0xTYPE 0xATTRIBUTE",
    headings: &["# index phys_addr virt_addr num_pages type attribute"],
    is_table: false,
    shares_lines: false,
    check: None,
};

/// Whether a line is one file's, as grep prints it (`.../runtime-map/0/type:0xb`), or the name of one as head does.
pub(super) fn is_field_line(line: &str) -> bool {
    field_line(line).is_some() || headed_file(line).and_then(file).is_some()
}

/// Reads what grep, head and tail print; nothing if every entry was skipped.
pub(super) fn parse_fields(name: &str, text: &str, lenient: bool) -> Result<Vec<MemoryMap>, ParseError> {
    let place = Place { name, text, lenient };
    let mut maps = Vec::new();
    let mut fields = Fields::default();
    // The file that head or tail named last, and where.
    let mut named: Option<((u64, usize), Range<usize>)> = None;
    for (index, (offset, line)) in lines(text).enumerate() {
        let whole = span(offset, line.trim_end().len());
        let value = match (headed_file(line), named.take()) {
            (Some(path), before) => {
                if let Some((_, span)) = before {
                    fields.refuse(&place, span, "no value follows the name of the file".into())?;
                }
                named = file(path).map(|file| (file, whole.clone()));
                if named.is_none() && path.contains("runtime-map") {
                    fields.refuse(&place, whole, format!("{} is no file of an entry", quoted(path)))?;
                }
                None
            }
            (None, Some(before)) if line.trim().is_empty() => {
                named = Some(before);
                None
            }
            (None, Some(((number, field), _))) => Some((number, field, whole)),
            (None, None) => field_line(line).map(|(number, field, at)| (number, field, shifted(at, offset))),
        };
        if let Some((number, field, span)) = value {
            if fields.begin_again(number, field) {
                maps.extend(std::mem::take(&mut fields).into_map(&place)?);
            }
            if let Err(message) = fields.take(text, (number, field, span.clone(), index.plus(1))) {
                fields.refuse(&place, span, message)?;
            }
        }
    }
    if let Some((_, span)) = named {
        fields.refuse(&place, span, "no value follows the name of the file".into())?;
    }
    maps.extend(fields.into_map(&place)?);
    Ok(maps)
}

/// Reads the folder itself.
pub(in super::super) fn read_folder(path: &Path) -> Result<MemoryMap, ReadError> {
    let numbers = numbers(path)?;
    let mut map = MemoryMap::from_descriptors(path.display().to_string(), Vec::new());
    (map.kind, map.format) = (ListKind::Runtime, Some(Format::RuntimeMap));
    for number in numbers {
        let entry = path.join(number.to_string());
        let mut values = [0; FIELDS.len()];
        for (field, value) in FIELDS.iter().zip(&mut values) {
            *value = read_field(&entry.join(field))?;
        }
        let descriptor =
            descriptor(values).map_err(|bad| file_error(&entry.join(FIELDS[TYPE]), bad.into(), NOT_LINUXS, None))?;
        map.notes.extend(missing(map.descriptors.len(), number));
        map.descriptors.push(descriptor);
    }
    Ok(map)
}

/// The files of an entry.
const FIELDS: [&str; 5] = ["phys_addr", "virt_addr", "num_pages", "type", "attribute"];

/// Which of them is the type.
const TYPE: usize = 3;

/// The most that a file of one number may have: Linux prints 18 digits and a line feed.
const MAX_FIELD_BYTES: u64 = 64;

fn start(line: &str) -> Option<usize> {
    let mut words = line.split_ascii_whitespace();
    let is_index = words.next()?.bytes().all(|digit| digit.is_ascii_digit());
    let has_addresses = words.next()?.starts_with("0x") && words.next()?.starts_with("0x");
    (is_index && has_addresses).then(|| indent(line))
}

fn read(mut cursor: Cursor<'_>) -> Result<Row, Bad> {
    let number = cursor.decimal("the index")?;
    let mut values = [0; FIELDS.len()];
    let mut type_span = cursor.span(0);
    for (index, (field, value)) in FIELDS.iter().zip(&mut values).enumerate() {
        cursor.blanks();
        if index == TYPE {
            type_span = cursor.to_end();
        }
        *value = cursor.hex_word(field)?;
    }
    cursor.blanks();
    if !cursor.rest().is_empty() {
        return Err(Bad::new(cursor.to_end(), "the row goes on after the attribute"));
    }
    let descriptor = descriptor(values).map_err(|message| Bad::new(type_span, message))?;
    Ok(Row { number: Some(number), descriptor, kind: RowKind::Region, odd: None, end: None })
}

fn descriptor([phys_start, virt_start, page_count, ty, attribute]: [u64; 5]) -> Result<MemoryDescriptor, &'static str> {
    let ty = u32::try_from(ty).map_err(|_| "the type has more than 32 bits")?;
    let att = MemoryAttribute::from_bits_retain(attribute);
    Ok(MemoryDescriptor { ty: MemoryType(ty), padding: 0, phys_start, virt_start, page_count, att })
}

/// What grep printed, by entry.
#[derive(Default)]
struct Fields {
    entries: BTreeMap<u64, Entry>,
    notes: Vec<Oddity>,
}

struct Entry {
    values: [Option<u64>; FIELDS.len()],
    /// Its first line, and the value there.
    line: usize,
    span: Range<usize>,
}

/// One line: the entry's number, the field, where the value stands in the text, and the line's number.
type FieldLine = (u64, usize, Range<usize>, usize);

impl Fields {
    /// Whether a field is of another listing: all that this one has is complete, and has it already.
    fn begin_again(&self, number: u64, field: usize) -> bool {
        let is_set = self.entries.get(&number).is_some_and(|entry| entry.values[field].is_some());
        is_set && self.entries.values().all(|entry| entry.values.iter().all(Option::is_some))
    }

    fn take(&mut self, text: &str, (number, field, span, line): FieldLine) -> Result<(), String> {
        let shown = text.get(span.clone()).unwrap_or_default().trim();
        let value = hex_value(shown)
            .ok_or_else(|| format!("{} is {}, not a number such as 0x1f", FIELDS[field], quoted(shown)))?;
        let is_full = self.entries.len() == MAX_DESCRIPTORS && !self.entries.contains_key(&number);
        if is_full {
            return Err(format!("more than {MAX_DESCRIPTORS} entries"));
        }
        let entry = self.entries.entry(number).or_insert(Entry { values: [None; FIELDS.len()], line, span });
        match entry.values[field].replace(value) {
            Some(before) if before != value => {
                Err(format!("{} of entry {number} was {before:#x} before: are these two machines'?", FIELDS[field]))
            }
            _ => Ok(()),
        }
    }

    /// Notes a line or entry that is skipped, or makes it an error.
    fn refuse(&mut self, place: &Place<'_>, span: Range<usize>, message: String) -> Result<(), ParseError> {
        if !place.lenient {
            return Err(ParseError::at(place.name, place.text, span, message).help(HOW_TO_LIST));
        }
        if self.notes.len() < MAX_NOTES {
            let message = format!("line {} is skipped: {message}", line_number(place.text, span.start));
            self.notes.push(Oddity { kind: OddityKind::SkippedLine, index: 0, other: None, message });
        }
        Ok(())
    }

    fn into_map(mut self, place: &Place<'_>) -> Result<Option<MemoryMap>, ParseError> {
        let mut map = MemoryMap::from_descriptors(place.name, Vec::new());
        (map.kind, map.format) = (ListKind::Runtime, Some(Format::RuntimeMap));
        for (number, entry) in std::mem::take(&mut self.entries) {
            match entry.descriptor() {
                Ok(descriptor) => {
                    map.notes.extend(missing(map.descriptors.len(), number));
                    map.descriptors.push(descriptor);
                    map.lines.push(entry.line);
                }
                Err(message) => self.refuse(place, entry.span, format!("entry {number}: {message}"))?,
            }
        }
        map.notes.append(&mut self.notes);
        Ok((!map.descriptors.is_empty()).then_some(map))
    }
}

/// What is read, and how.
struct Place<'a> {
    name: &'a str,
    text: &'a str,
    lenient: bool,
}

impl Entry {
    fn descriptor(&self) -> Result<MemoryDescriptor, String> {
        let mut values = [0; FIELDS.len()];
        for ((field, value), read) in FIELDS.iter().zip(&mut values).zip(self.values) {
            *value = read.ok_or_else(|| format!("{field} is missing"))?;
        }
        Ok(descriptor(values)?)
    }
}

const MAX_NOTES: usize = 32;

const HOW_TO_LIST: &str = "`grep . /sys/firmware/efi/runtime-map/*/*` (as root) prints five lines an entry";

/// The parts of a line of grep's: the entry's number, the field, and where the value is.
fn field_line(line: &str) -> Option<(u64, usize, Range<usize>)> {
    let colon = line.find(':')?;
    let (number, field) = file(&line[..colon])?;
    // The number of the line, of `grep -n`.
    let value = colon.plus(1);
    let start = if line[value..].starts_with("1:") { value.plus(2) } else { value };
    Some((number, field, start..line.trim_end().len().max(start)))
}

/// What stands between the arrows of `==> 0/type <==`.
fn headed_file(line: &str) -> Option<&str> {
    line.trim().strip_prefix("==> ")?.strip_suffix(" <==")
}

/// The entry and the field of a path.
fn file(path: &str) -> Option<(u64, usize)> {
    let (folder, field) = path.rsplit_once('/')?;
    let field = FIELDS.iter().position(|known| *known == field)?;
    let number = entry_number(folder.trim_start().rsplit('/').next()?)?;
    Some((number, field))
}

/// The number that the name of an entry's folder is, as Linux writes it.
fn entry_number(name: &str) -> Option<u64> {
    let number: u64 = name.parse().ok()?;
    (number.to_string() == name).then_some(number)
}

fn hex_value(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    let is_plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_plain.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Entries before this one are missing; the copy of the folder lost them.
fn missing(index: usize, number: u64) -> Option<Oddity> {
    let message = || format!("entry {number} stands at place {index}: entries before it are missing");
    (number != index as u64).then(|| Oddity { kind: OddityKind::MissingRows, index, other: None, message: message() })
}

/// The entries of the folder, in order.
fn numbers(path: &Path) -> Result<Vec<u64>, ReadError> {
    let mut numbers = Vec::new();
    let folder = fs::read_dir(path).map_err(|error| unreadable(path, error))?;
    for entry in folder {
        let entry = entry.map_err(|error| unreadable(path, error))?;
        numbers.extend(entry.file_name().to_str().and_then(entry_number));
        if numbers.len() > MAX_DESCRIPTORS {
            let problem = format!("has more than {MAX_DESCRIPTORS} entries");
            return Err(file_error(path, problem, "no firmware hands out so many: check the path", None));
        }
    }
    if numbers.is_empty() {
        let help = "name one of the files in it, or the folder /sys/firmware/efi/runtime-map";
        return Err(file_error(path, "is a directory, not a memory map".into(), help, None));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn read_field(path: &Path) -> Result<u64, ReadError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FIELD_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, error))?;
    if bytes.len() as u64 > MAX_FIELD_BYTES {
        let problem = format!("is larger than {MAX_FIELD_BYTES} bytes, which no file of a runtime-map is");
        return Err(file_error(path, problem, NOT_LINUXS, None));
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    hex_value(text).ok_or_else(|| {
        let problem = format!("holds {}, not a number such as 0x1f", quoted(text));
        file_error(path, problem, NOT_LINUXS, None)
    })
}

fn unreadable(path: &Path, error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::NotFound => {
            let problem = "no such file: each entry of a runtime-map has five".into();
            file_error(path, problem, NOT_LINUXS, Some(error))
        }
        io::ErrorKind::PermissionDenied => {
            file_error(path, "may not be read".into(), "be root, or copy it", Some(error))
        }
        _ => file_error(path, "cannot be read".into(), NOT_LINUXS, Some(error)),
    }
}

const NOT_LINUXS: &str = "the folder should be Linux's /sys/firmware/efi/runtime-map, or a copy of all of it";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::super::{ReadOptions, detect, oddities};
    use super::*;

    // The first entries that Linux 6.1 gave on OVMF (`../truth` of the integration tests).
    const LIST: &str = "\
# index phys_addr virt_addr num_pages type attribute
0 0xffc00000 0xfffffffeffc00000 0x400 0xb 0x8000000000000001
1 0x7fef4000 0xfffffffeffaf4000 0x84 0x6 0x800000000000000f
2 0x7fee0000 0xfffffffeffae0000 0x14 0x3 0xf
";

    /// The same as files: (path below the folder, contents).
    fn files() -> Vec<(String, String)> {
        let rows = LIST.lines().skip(1).map(|line| line.split(' ').collect::<Vec<_>>());
        rows.flat_map(|row| {
            let file =
                |(index, field): (usize, &&str)| (format!("{}/{field}", row[0]), format!("{}\n", row[index + 1]));
            FIELDS.iter().enumerate().map(file).collect::<Vec<_>>()
        })
        .collect()
    }

    fn grepped() -> String {
        files().iter().map(|(path, value)| format!("/sys/firmware/efi/runtime-map/{path}:{value}")).collect()
    }

    fn headed() -> String {
        let file =
            |(path, value): &(String, String)| format!("==> /sys/firmware/efi/runtime-map/{path} <==\n{value}\n");
        files().iter().map(file).collect()
    }

    fn check_first(map: &MemoryMap) {
        assert_eq!((map.kind(), map.format()), (ListKind::Runtime, Some(Format::RuntimeMap)));
        assert_eq!(map.descriptors().len(), 3);
        let first = map.descriptors()[0];
        assert_eq!((first.ty, first.phys_start, first.page_count), (MemoryType::MMIO, 0xffc0_0000, 0x400));
        assert_eq!((first.virt_start, first.att.bits()), (0xffff_fffe_ffc0_0000, 0x8000_0000_0000_0001));
        assert_eq!(map.descriptors()[2].virt_start, 0xffff_fffe_ffae_0000);
    }

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("efibed-{}-{name}", std::process::id()));
            for (file, contents) in files() {
                let file = path.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, contents).unwrap();
            }
            Self(path)
        }

        fn error(&self) -> String {
            MemoryMap::read(&self.0).unwrap_err().to_string().replace(&self.0.display().to_string(), "MAP")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_three_ways_give_the_same_map() {
        let list = MemoryMap::parse(LIST).unwrap();
        check_first(&list);
        assert_eq!(list.line(0), Some(2));
        let mut lines: Vec<_> = grepped().lines().map(String::from).collect();
        assert_eq!(MemoryMap::parse(&lines.join("\n")).unwrap().descriptors(), list.descriptors());
        lines.reverse();
        let reversed = MemoryMap::parse(&lines.join("\n")).unwrap();
        check_first(&reversed);
        assert_eq!(reversed.descriptors(), list.descriptors());
        for other in [
            headed(),
            headed().replace("/sys/firmware/efi/runtime-map/", ""),
            headed().replace('\n', "\r\n"),
            headed().replace("\n\n", "\n"),
            grepped().replace(':', ":1:"),
            grepped().replace(':', ": "),
        ] {
            assert_eq!(detect(&other), Some(Format::RuntimeMap));
            assert_eq!(MemoryMap::parse(&other).unwrap().descriptors(), list.descriptors(), "{other}");
        }
        let folder = Folder::new("sound");
        fs::write(folder.0.join("README"), "not an entry").unwrap();
        let read = MemoryMap::read(&folder.0).unwrap();
        check_first(&read);
        assert_eq!(read.descriptors(), list.descriptors());
        assert_eq!(oddities(&read), []);
    }

    #[test]
    fn two_listings_are_two_lists() {
        let other = grepped().replace("0x400\n", "0x200\n");
        for text in [grepped() + &other, headed() + &other, other.clone() + &headed()] {
            let maps = MemoryMap::parse_all("map", &text, &ReadOptions::default()).unwrap();
            let mut pages: Vec<_> = maps.iter().map(|map| map.descriptors()[0].page_count).collect();
            pages.sort_unstable();
            assert_eq!(pages, [0x200, 0x400], "{text}");
        }
    }

    #[test]
    fn damage_of_what_head_prints_is_pointed_at() {
        let error = |from: &str, to: &str| {
            assert!(headed().contains(from), "{from}");
            MemoryMap::parse_named("map", &headed().replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(
            error("0/type <==", "0/typ <=="),
            "map:10:1: `/sys/firmware/efi/runtime-map/0/typ` is no file of an entry"
        );
        assert_eq!(error("0/type <==\n0xb\n", "0/type <==\n"), "map:10:1: no value follows the name of the file");
        assert_eq!(error("0xb\n", "xb\n"), "map:11:1: type is `xb`, not a number such as 0x1f");
        assert_eq!(error("0/type <==", "0/type <="), "map:2:1: entry 0: type is missing");
    }

    #[test]
    fn a_folder_that_is_none_is_told() {
        let folder = Folder::new("damaged");
        fs::write(folder.0.join("1/type"), "0x100000000\n").unwrap();
        assert_eq!(folder.error(), "MAP/1/type: the type has more than 32 bits");
        fs::write(folder.0.join("1/type"), "6\n").unwrap();
        assert_eq!(folder.error(), "MAP/1/type: holds `6`, not a number such as 0x1f");
        fs::write(folder.0.join("1/type"), [b'0'; 65]).unwrap();
        assert_eq!(folder.error(), "MAP/1/type: is larger than 64 bytes, which no file of a runtime-map is");
        fs::remove_file(folder.0.join("1/type")).unwrap();
        assert_eq!(folder.error(), "MAP/1/type: no such file: each entry of a runtime-map has five");
        fs::remove_dir_all(folder.0.join("1")).unwrap();
        let map = MemoryMap::read(&folder.0).unwrap();
        assert_eq!(oddities(&map)[0].kind, OddityKind::MissingRows);
        assert_eq!(
            MemoryMap::read(&folder.0.join("2")).unwrap_err().to_string().split(": ").last(),
            Some("is a directory, not a memory map")
        );
    }

    #[test]
    fn a_damaged_list_is_pointed_at() {
        let error = |from: &str, to: &str| {
            assert!(LIST.contains(from));
            MemoryMap::parse_named("map", &LIST.replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(error(" 0x6 ", " 0x6g "), "map:3:41: type has `g` among its hexadecimal digits");
        assert_eq!(error(" 0x6 ", " 0x100000006 "), "map:3:38: the type has more than 32 bits");
        assert_eq!(error(" 0xf\n", "\n"), "map:4:41: the line ends where `0x` should be");
        assert_eq!(error(" 0xf\n", " 0xf 1\n"), "map:4:46: the row goes on after the attribute");
    }

    #[test]
    fn damaged_fields_are_pointed_at() {
        let error = |from: &str, to: &str| {
            assert!(grepped().contains(from));
            MemoryMap::parse_named("map", &grepped().replacen(from, to, 1)).unwrap_err().to_string()
        };
        assert_eq!(error("1/type:0x6", "1/type:six"), "map:9:38: type is `six`, not a number such as 0x1f");
        assert_eq!(error("1/type:0x6", "x:0x6"), "map:6:43: entry 1: type is missing");
        assert_eq!(
            error("2/type:0x3", "1/type:0x3"),
            "map:14:38: type of entry 1 was 0x6 before: are these two machines'?"
        );
        let options = ReadOptions { lenient: true, ..ReadOptions::default() };
        let maps = MemoryMap::parse_all("map", &grepped().replace("1/type:0x6", "1/type:six"), &options).unwrap();
        assert_eq!(maps[0].descriptors().len(), 2);
        let messages: Vec<_> = oddities(&maps[0]).into_iter().map(|oddity| oddity.message).collect();
        assert!(messages.iter().any(|message| message.contains("line 9 is skipped: type is `six`")), "{messages:?}");
    }
}
