//! One row of a format, and the formats that have rows.

use super::super::MemoryDescriptor;
use super::super::oddity::OddityKind;
use super::super::{Format, MemoryMap};
use super::cursor::{Bad, Cursor};

/// A text format with one row a descriptor, among which anything else may stand.
pub(super) struct RowFormat {
    /// Which format it is.
    pub format: Format,
    /// Lines that one row takes, at most if it tells where it ends.
    pub lines: usize,
    /// Where in a line a row starts, sound or damaged; `None` where the line is something else.
    pub start: fn(&str) -> Option<usize>,
    /// Reads a row; the cursor stands at its start. Its line has no blanks at its end, and has line feeds in it where
    /// a row takes several lines.
    pub read: fn(Cursor<'_>) -> Result<Row, Bad>,
    /// How a row looks, for errors.
    pub sample: &'static str,
    /// The words at the end of a line that heads a list.
    pub headings: &'static [&'static str],
    /// Whether rows stand one right below another: a line with numbers between them is what is left of one.
    pub is_table: bool,
    /// Whether several rows may stand in one line.
    pub shares_lines: bool,
    /// Checks a list against what else the text says (page totals, ...): a mismatch is noted. The text is that from
    /// the line of the list's first row up to the next list.
    pub check: Option<fn(text: &str, map: &mut MemoryMap)>,
}

/// One row.
pub(super) struct Row {
    /// The number that the row has in its list, if rows have one. A number that falls starts another list.
    pub number: Option<u64>,
    /// What the row says.
    pub descriptor: MemoryDescriptor,
    /// What the row is of.
    pub kind: RowKind,
    /// What is odd about the row, as a sentence that goes on after `line 7`.
    pub odd: Option<(OddityKind, String)>,
    /// Where in the text it ends, if another may follow in the same line, or if it takes fewer lines than others.
    pub end: Option<usize>,
}

/// What a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKind {
    /// A descriptor of the map.
    Region,
    /// A descriptor that Linux dropped from the map before it printed it.
    Dropped,
    /// An entry of the Memory Attributes Table.
    Attributes,
    /// A descriptor of the map, by a text that tells some of them only. It says nothing new where the map is.
    Excerpt,
}

/// No row of any format, nor what is left of one that tells its format, is shorter. A text may be nothing but line feeds.
pub(super) const MIN_ROW_BYTES: usize = 8;
