//! Formats with one row a descriptor, and the walk that finds their rows in a text where anything else may stand
//! between them.
//!
//! The walk is one pass, in time linear in the text. Each line is offered to the format of the row before, then to
//! the others in the order of their table; the first that knows it reads it. What the rows make up is for `lists`.

use super::super::MemoryDescriptor;
use super::super::error::ParseError;
use super::super::oddity::OddityKind;
use super::super::{Format, MemoryMap};
use super::cursor::{Bad, Cursor};
use super::dress::Strand;
use super::lists::{Lists, Refused, Skipped, heading};

/// A text format with one row a descriptor, among which anything else may stand.
pub(super) struct RowFormat {
    /// Which format it is.
    pub format: Format,
    /// Lines that one row takes.
    pub lines: usize,
    /// Where in a line a row starts, sound or damaged; `None` where the line is something else.
    pub start: fn(&str) -> Option<usize>,
    /// Reads a row; the cursor stands at its start. Its line has no blanks at its end, and has line feeds in it where
    /// a row takes several lines.
    pub read: fn(Cursor<'_>) -> Result<Row, Bad>,
    /// How a row looks, for errors.
    pub sample: &'static str,
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

/// Reads every list of a text; none is not an error. Places in errors are those of the undressed text.
pub(super) fn parse_all(
    name: &str,
    strand: &Strand<'_>,
    formats: &[&'static RowFormat],
    lenient: bool,
) -> Result<Vec<MemoryMap>, ParseError> {
    let text = strand.text();
    let mut walk = Walk {
        text,
        strand,
        formats,
        lenient,
        lists: Lists::default(),
        last: None,
        sound: vec![false; formats.len()],
        damage: formats.iter().map(|_| None).collect(),
    };
    walk.run().map_err(|(format, bad)| bad.in_text(name, text, format.sample))?;
    let lists = walk.finish().map_err(|(format, bad)| bad.in_text(name, text, format.sample))?;
    lists.into_maps(name, text)
}

struct Walk<'a> {
    text: &'a str,
    strand: &'a Strand<'a>,
    formats: &'a [&'static RowFormat],
    lenient: bool,
    lists: Lists,
    /// The format of the last sound row.
    last: Option<usize>,
    /// By format, whether a sound row of it was read.
    sound: Vec<bool>,
    /// By format, the first damaged row. As long as it has no sound one, the line may be something else altogether.
    damage: Vec<Option<(Line, Bad)>>,
}

/// A line of the text.
#[derive(Clone, Copy)]
struct Line {
    /// Where it starts and, without its line feed, ends.
    start: usize,
    end: usize,
}

type Failure = (&'static RowFormat, Bad);

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let mut line = Line { start: 0, end: line_end(self.text, 0) };
        loop {
            let lines = self.line(line)?;
            for _ in 0..lines {
                let start = line.end + 1;
                if start > self.text.len() {
                    return Ok(());
                }
                line = Line { start, end: line_end(self.text, start) };
            }
        }
    }

    /// Reads what stands in a line and gives the number of lines that it took.
    fn line(&mut self, line: Line) -> Result<usize, Failure> {
        let content = &self.text[line.start..line.end];
        if content.len() < MIN_ROW_BYTES {
            return Ok(1);
        }
        let found = self.last.into_iter().chain(0..self.formats.len()).find_map(|index| {
            let format = *self.formats.get(index)?;
            let at = (format.start)(content)?;
            Some((index, format, at))
        });
        let Some((index, format, at)) = found else {
            if let Some(heading) = heading(content) {
                self.lists.head(heading);
            }
            return Ok(1);
        };
        let end = (1..format.lines).fold(line.end, |end, _| line_end(self.text, (end + 1).min(self.text.len())));
        let row_text = self.text[line.start..end].trim_end();
        let span = line.start + at..(line.start + row_text.len()).max(line.start + at);
        let read = if at <= row_text.len() {
            (format.read)(Cursor { line: row_text, at, offset: line.start })
        } else {
            Err(Bad::new(span.clone(), "the row is empty"))
        };
        match read
            .map_err(Refused::Row)
            .and_then(|row| self.lists.take(format, row, self.strand.place(line.start).0, span))
        {
            Ok(()) => self.sound(index).map(|()| format.lines),
            Err(Refused::Text(bad)) => Err((format, bad)),
            Err(Refused::Row(bad)) => self.damaged(index, line, bad).map(|()| 1),
        }
    }

    fn sound(&mut self, index: usize) -> Result<(), Failure> {
        self.sound[index] = true;
        self.last = Some(index);
        match self.damage[index].take() {
            Some((_, bad)) if !self.lenient => Err((self.formats[index], bad)),
            _ => Ok(()),
        }
    }

    fn damaged(&mut self, index: usize, line: Line, bad: Bad) -> Result<(), Failure> {
        if self.lenient {
            self.lists.skip(|| skipped(self.strand, &bad));
        } else if self.sound[index] {
            return Err((self.formats[index], bad));
        }
        if self.damage[index].is_none() {
            self.damage[index] = Some((line, bad));
        }
        Ok(())
    }

    /// Lines that look like damaged rows of a format that has no sound row are an error if there is nothing else in
    /// the text, and noted if there is.
    fn finish(mut self) -> Result<Lists, Failure> {
        let mut damage: Vec<_> =
            self.damage.iter_mut().enumerate().filter_map(|(i, bad)| Some((i, bad.take()?))).collect();
        damage.sort_by_key(|(_, (line, _))| line.start);
        if self.lists.is_empty() {
            return match damage.into_iter().next() {
                Some((index, (_, bad))) => Err((self.formats[index], bad)),
                None => Ok(self.lists),
            };
        }
        if !self.lenient {
            for (_, (_, bad)) in damage {
                self.lists.skip(|| skipped(self.strand, &bad));
            }
        }
        Ok(self.lists)
    }
}

fn skipped(strand: &Strand<'_>, bad: &Bad) -> Skipped {
    let (line, column) = strand.place(bad.start());
    let message = format!("line {line}, column {column} is skipped: {}", bad.message());
    Skipped { message }
}

fn line_end(text: &str, start: usize) -> usize {
    text[start..].find('\n').map_or(text.len(), |length| start + length)
}
