//! Formats with one row a descriptor, and the walk that finds their rows in a text where anything else may stand
//! between them.
//!
//! The walk is one pass, in time linear in the text. Each line is offered to the format of the row before, then to
//! the others in the order of their table; the first that knows it reads it. What the rows make up is for `lists`.

use super::super::MemoryMap;
use super::super::error::ParseError;
use super::cursor::{Bad, Cursor};
use super::diff::Diff;
use super::dress::Strand;
use super::lists::{Lists, Refused, Skipped, heading};
use super::offset::Offset;
use super::row::{MIN_ROW_BYTES, RowFormat};

/// The most that the lines after the first of a row take: no row has more, and a text may be one line of 64 MiB.
const MAX_ROW_BYTES: usize = 4096;

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
        diff: Diff::default(),
        removed: None,
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
    diff: Diff,
    /// The first row that a diff removes, and its format.
    removed: Option<(usize, Bad)>,
}

/// A line of the text.
#[derive(Clone, Copy)]
struct Line {
    /// Where it starts and, without its line feed, ends.
    start: usize,
    end: usize,
    /// Where reading goes on in it.
    from: usize,
}

type Failure = (&'static RowFormat, Bad);

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let mut next = Some(Line { start: 0, end: line_end(self.text, 0), from: 0 });
        while let Some(line) = next {
            let from = self.line(line)?;
            next = self.line_at(line, from);
        }
        Ok(())
    }

    /// The line, this or one after it, in which reading goes on.
    fn line_at(&self, mut line: Line, from: usize) -> Option<Line> {
        while from > line.end {
            let start = line.end.plus(1);
            if start > self.text.len() {
                return None;
            }
            line = Line { start, end: line_end(self.text, start), from: start };
        }
        Some(Line { from: from.max(line.start), ..line })
    }

    /// Reads what stands in a line and gives where in the text to go on.
    fn line(&mut self, mut line: Line) -> Result<usize, Failure> {
        let next_line = line.end.plus(1);
        if line.from == line.start {
            line.from = line.from.plus(self.diff_prefix(line));
        }
        if line.end.minus(line.from) < MIN_ROW_BYTES {
            return Ok(next_line);
        }
        let Some((index, format, at)) = self.row_start(&self.text[line.from..line.end]) else {
            if let Some(heading) = heading(&self.text[line.from..line.end]) {
                self.lists.head(heading);
            } else {
                self.lists.pass(|| self.strand.place(line.start).0, &self.text[line.from..line.end]);
            }
            return Ok(next_line);
        };
        if self.lists.is_elsewhere(format.format) {
            return Ok(next_line);
        }
        if self.diff.is_removed() {
            self.removed(index, line, at);
            return Ok(next_line);
        }
        let start = line.from.plus(at);
        let end = row_end(self.text, line, start, format);
        let row_text = self.text[line.from..end].trim_end();
        let span = start..line.from.plus(row_text.len()).max(start);
        let read = if at <= row_text.len() {
            (format.read)(Cursor { line: row_text, at, offset: line.from })
        } else {
            Err(Bad::new(span.clone(), "the row is empty"))
        };
        let row_ends = read.as_ref().ok().and_then(|row| row.end);
        let number = self.number(line);
        match read.map_err(Refused::Row).and_then(|row| self.lists.take(format, row, number, span)) {
            Ok(()) => self.sound(index).map(|()| match row_ends {
                Some(at) => self.after_row(format, line, at),
                None => end.plus(1),
            }),
            Err(Refused::Text(bad)) => Err((format, bad)),
            Err(Refused::Row(bad)) => self.damaged(index, line, bad).map(|()| {
                let behind = format.shares_lines.then(|| self.next_in_line(format, line, at)).flatten();
                behind.unwrap_or(next_line)
            }),
        }
    }

    /// Where to go on behind a row: in the same line if it has another row.
    fn after_row(&self, format: &RowFormat, line: Line, at: usize) -> usize {
        let end = if at <= line.end { line.end } else { line_end(self.text, at) };
        if (format.start)(&self.text[at..end]).is_some() { at } else { end.plus(1) }
    }

    /// Where the next row starts in a line, behind one that is damaged.
    fn next_in_line(&self, format: &RowFormat, line: Line, at: usize) -> Option<usize> {
        let row = &self.text[line.from.plus(at)..line.end];
        let (behind, _) = row.char_indices().nth(1)?;
        let start = (format.start)(&row[behind..])?;
        Some(line.from.plus(at).plus(behind).plus(start))
    }

    /// The format that knows a line, and where in it a row starts.
    fn row_start(&self, content: &str) -> Option<(usize, &'static RowFormat, usize)> {
        self.last.into_iter().chain(0..self.formats.len()).find_map(|index| {
            let format = *self.formats.get(index)?;
            let at = (format.start)(content)?;
            Some((index, format, at))
        })
    }

    /// Which line of the original text it is, from 1.
    fn number(&self, line: Line) -> usize {
        self.strand.place(line.start).0
    }

    /// What a diff puts before a line; a list ends where a hunk does.
    fn diff_prefix(&mut self, line: Line) -> usize {
        let content = &self.text[line.start..line.end];
        let part = self.diff.part();
        let prefix = self.diff.take(content, |rest| self.formats.iter().any(|format| (format.start)(rest).is_some()));
        if self.diff.part() != part {
            self.lists.begin_another(self.diff.why_partial());
        }
        prefix
    }

    /// Takes note of a row that a diff removes.
    fn removed(&mut self, index: usize, line: Line, at: usize) {
        let number = self.number(line);
        self.lists.skip(|| Skipped { message: format!("line {number} is skipped: a diff removes it") });
        let message = "no EFI memory map: the diff removes this row, and adds or keeps none";
        self.removed.get_or_insert_with(|| (index, Bad::new(line.from.plus(at)..line.end, message)));
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
                None => match self.removed {
                    Some((index, bad)) => Err((self.formats[index], bad)),
                    None => Ok(self.lists),
                },
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

/// Where the lines end that a row may take. Where a line may have many rows, it need not be looked at to its end for each.
fn row_end(text: &str, line: Line, start: usize, format: &RowFormat) -> usize {
    let first_end = if format.shares_lines { line.end.min(start.plus(MAX_ROW_BYTES)) } else { line.end };
    let limit = first_end.plus(MAX_ROW_BYTES).min(text.len());
    let limit = (limit..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    if limit < line.end {
        return limit;
    }
    (1..format.lines).fold(line.end, |end, _| line_end(&text[..limit], end.plus(1).min(limit)))
}

fn line_end(text: &str, start: usize) -> usize {
    text[start..].find('\n').map_or(text.len(), |length| start.plus(length))
}
