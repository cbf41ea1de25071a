//! Lists of a kernel's memory: the e820 table in a log of Linux, in all spellings since 2.6, and /proc/iomem.
//!
//! | file | holds |
//! | --- | --- |
//! | `e820` | the rows of a log |
//! | `iomem` | those of /proc/iomem |

mod e820;
mod iomem;

use std::ops::Range;

use super::super::KernelList;
use super::super::error::ParseError;
use super::super::file;
use super::cursor::{Bad, Cursor};
use super::dress;

impl KernelList {
    /// Reads a log of Linux, or /proc/iomem. Of the tables of a log's first boot the last one is taken: with it the kernel went
    /// on. `name` is for errors.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        parse(name, text)
    }
}

fn parse(name: &str, text: &str) -> Result<KernelList, ParseError> {
    let text = super::without_byte_order_mark(text);
    file::check_size(name, text)?;
    let strand = dress::undress(text);
    let moved = |error: ParseError| error.moved(name, strand.original(), |span| strand.span(span));
    let line = |offset| strand.place(offset).0;
    let e820 = e820::parse(name, strand.text(), &line).map_err(moved)?;
    let iomem = || iomem::parse(name, strand.text(), &line).map_err(moved);
    match e820.map_or_else(iomem, |list| Ok(Some(list)))? {
        Some(list) => Ok(list),
        None => Err(ParseError::at(name, text, 0..0, "no e820 table and no /proc/iomem: no line is of either")
            .label("neither this line nor any after it")
            .help(HOW_TO_GET_ONE)),
    }
}

const HOW_TO_GET_ONE: &str = "looked for `BIOS-e820: [mem 0xSTART-0xEND] usable` rows of a boot log of Linux on x86, and for \
     `START-END : System RAM` rows of /proc/iomem. Save what `dmesg` or `journalctl -k -b` prints from the first line on, or \
     what `cat /proc/iomem` prints; both as root";

/// `0x1000-0x1fff` or, without marks, `1000-1fff`: the first and the last byte.
fn inclusive(cursor: &mut Cursor<'_>, mark: &str) -> Result<(u64, u64), Bad> {
    let start = cursor.at;
    cursor.literal(mark)?;
    let first = cursor.hex_u64("the start address")?;
    cursor.literal("-")?;
    cursor.literal(mark)?;
    let last = cursor.hex_u64("the end address")?;
    in_order(first, last, cursor.since(start))
}

fn in_order(first: u64, last: u64, span: Range<usize>) -> Result<(u64, u64), Bad> {
    if last < first {
        return Err(Bad::new(span, format!("the range ends at {last:#x}, before its start")));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::{Agreement, MemoryMap};
    use super::*;

    /// Rows of every spelling.
    const ROWS: &str = "\
BIOS-provided physical RAM map:
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
 BIOS-e820: 0000000000100000 - ffffffffffffffff (reserved)
BIOS-e820: [gap 0x00000000000a0000-0x00000000000effff]
user: [mem 0xfffffffffffff000-0xffffffffffffffff]  1.9 GB System RAM
00001000-ffffffffffffffff : System RAM
  00002000-00002fff : Reserved
";

    proptest! {
        #[test]
        fn no_text_panics_and_neither_does_a_comparison(
            edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"0f x-[]():\n".to_vec())), 0..8),
            lines in prop::collection::vec(any::<prop::sample::Index>(), 1..8),
        ) {
            let known: Vec<&str> = ROWS.split_inclusive('\n').collect();
            let mut text: Vec<u8> = lines.iter().flat_map(|line| line.get(&known).bytes()).collect();
            for (at, by) in edits {
                *at.get_mut(&mut text) = by;
            }
            let text = String::from_utf8(text).unwrap();
            let map = "RT_Data    FFFFFFFFFFFF0000-FFFFFFFFFFFFFFFF 0000000000000010 800000000000000F";
            match KernelList::parse("log", &text) {
                Ok(list) => drop(Agreement::new(&MemoryMap::parse(map).unwrap(), list)),
                Err(error) => prop_assert!(error.line() >= 1 && error.column() >= 1),
            }
        }
    }
}
