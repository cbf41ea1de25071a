//! What is left of a text's dress when lines are known to be rows, or not to be.

use std::collections::VecDeque;
use std::ops::Range;

use super::super::super::MemoryDescriptor;
use super::super::super::error::ParseError;
use super::super::super::oddity::{Oddity, OddityKind};
use super::super::cursor::Cursor;
use super::super::offset::{Offset, indent, shifted, span};
use super::super::row::{MIN_ROW_BYTES, RowFormat};
use super::strand::{Edit, Strand};

/// Joins rows that were wrapped, drops second copies, and finds rows that no reader would. What it cannot make out is an
/// error or, leniently, left out; what it did is told in notes.
pub(in super::super) fn settle(
    name: &str,
    strand: &mut Strand<'_>,
    formats: &[&'static RowFormat],
    lenient: bool,
) -> Result<Vec<Oddity>, ParseError> {
    let mut notes = Notes::default();
    for step in [wrapped, repeated] {
        let Changes { mut edits, mended, unread, problems } = step(strand, &mut Reader { formats, last: None });
        if let Some(problem) = problems.first().filter(|_| !lenient) {
            let error = ParseError::at(name, strand.original(), strand.span(problem.span.clone()), problem.message);
            return Err(error.help(problem.help));
        }
        for problem in problems {
            let (line, column) = strand.place(problem.span.start);
            notes.skipped(format!("line {line}, column {column} is skipped: {}", problem.message));
            edits.push(Edit::remove(problem.line));
        }
        for (at, message) in unread {
            let (line, column) = strand.place(at);
            notes.skipped(format!("line {line}, column {column} is skipped: {message}"));
        }
        for Mended { at, message, more } in mended {
            let (line, column) = strand.place(at);
            let more = if more > 0 { format!(", and {more} more times") } else { String::new() };
            notes.push(OddityKind::Repaired, format!("line {line}, column {column}: {message}{more}"));
        }
        edits.sort_by_key(|edit| edit.range.start);
        strand.edit(edits);
    }
    Ok(notes.all())
}

/// What a step does and finds.
#[derive(Default)]
struct Changes {
    edits: Vec<Edit>,
    mended: Vec<Mended>,
    /// Where something is that reads as a row but is not taken for one, and why.
    unread: Vec<(usize, &'static str)>,
    problems: Vec<Problem>,
}

/// What was done to a text: where first, and how often more.
struct Mended {
    at: usize,
    message: &'static str,
    more: usize,
}

/// A row that cannot be made out.
struct Problem {
    span: Range<usize>,
    line: Range<usize>,
    message: &'static str,
    help: &'static str,
}

/// The most notes of one kind; there may be as many as lines.
const MAX_NOTES: usize = 32;

#[derive(Default)]
struct Notes {
    all: Vec<Oddity>,
    more: usize,
}

impl Notes {
    fn push(&mut self, kind: OddityKind, message: String) {
        if self.all.len() < MAX_NOTES {
            self.all.push(Oddity { kind, index: 0, other: None, message });
        } else {
            self.more = self.more.plus(1);
        }
    }

    fn skipped(&mut self, message: String) {
        self.push(OddityKind::SkippedLine, message);
    }

    fn all(mut self) -> Vec<Oddity> {
        if self.more > 0 {
            let message = format!("{} more lines like these", self.more);
            self.all.push(Oddity { kind: OddityKind::SkippedLine, index: 0, other: None, message });
        }
        self.all
    }
}

/// The readers of rows.
struct Reader<'f> {
    formats: &'f [&'static RowFormat],
    last: Option<usize>,
}

/// What a line is as a row.
struct Found {
    format: usize,
    /// Where in the line the row starts.
    start: usize,
    /// Whether it takes one line.
    is_single: bool,
    /// What it says, if it is sound.
    sound: Option<MemoryDescriptor>,
}

impl Reader<'_> {
    /// The row that a line is, by the reader of the row before or the first that knows it.
    fn find(&mut self, line: &str) -> Option<Found> {
        if line.len() < MIN_ROW_BYTES {
            return None;
        }
        let order = self.last.into_iter().chain(0..self.formats.len());
        let (format, start) =
            order.filter_map(|index| Some((index, (self.formats.get(index)?.start)(line)?))).next()?;
        let is_single = self.formats[format].lines == 1;
        let sound = if is_single { self.read(format, start, line) } else { None };
        if sound.is_some() {
            self.last = Some(format);
        }
        Some(Found { format, start, is_single, sound })
    }

    fn read(&self, format: usize, start: usize, line: &str) -> Option<MemoryDescriptor> {
        let line = line.trim_end();
        let row = (start <= line.len()).then(|| (self.formats[format].read)(Cursor { line, at: start, offset: 0 }))?;
        row.ok().map(|row| row.descriptor)
    }

    /// Whether a line is a row behind what a diff puts before it: that is for the reader of all rows.
    fn is_row_of_a_diff(&self, line: &str) -> bool {
        let row = line.strip_prefix(['+', '-']).or_else(|| line.strip_prefix("< ").or_else(|| line.strip_prefix("> ")));
        row.is_some_and(|row| self.formats.iter().any(|format| (format.start)(row).is_some()))
    }

    /// What a line says that should be the whole of a row. What is left of a damaged one may look like another format's.
    fn read_whole(&mut self, part: &Found, line: &str) -> Option<MemoryDescriptor> {
        match part.sound {
            Some(_) => self.read(part.format, (self.formats[part.format].start)(line)?, line),
            None => self.find(line)?.sound,
        }
    }
}

/// The most lines that a mail program makes of a row, and the longest of these except for the first.
const MAX_LINES: usize = 4;
const LONGEST_REST: usize = 100;

/// Whether a line is about as long as mail programs make them: to 80 columns, less what quoting and a long word took.
fn may_be_wrapped(length: usize) -> bool {
    (55..=80).contains(&length)
}

/// How many lines after a row one is looked at which may be damaged.
const NEAR: usize = 4;

/// How many lines with addresses are looked at that stand above the first row.
const FAR: usize = 64;

/// Rows that go on in the next line, rows with a comment behind them, and lines that are no rows but should be.
fn wrapped(strand: &Strand<'_>, reader: &mut Reader<'_>) -> Changes {
    let text = strand.text();
    let mut changes = Changes::default();
    let mut next_offset = 0;
    let mut line = next_line(text, &mut next_offset);
    let mut sound: Option<Range<usize>> = None;
    let mut lines_since = 0;
    let mut above: VecDeque<Range<usize>> = VecDeque::new();
    while let Some(range) = line {
        let content = &text[range.clone()];
        line = next_line(text, &mut next_offset);
        let Some(found) = reader.find(content) else {
            lines_since = lines_since.plus(usize::from(!content.trim().is_empty()));
            let sound = sound.clone().filter(|_| lines_since <= NEAR);
            let is_row_like = sound.clone().is_some_and(|sound| resembles(content, &text[sound]));
            let is_told = changes.no_row(text, range.clone(), is_row_like, reader);
            if sound.is_none() && !is_told && has_address(content) {
                above.truncate(FAR - 1);
                above.push_front(range);
            }
            continue;
        };
        if found.sound.is_some() {
            // Now that the format is known, what stands above may turn out to be what is left of a row.
            for (index, above) in above.drain(..).enumerate() {
                let line = &text[above.clone()];
                let is_beside = index == 0 && resembles(line, content);
                if is_beside || started_row(line, found.format, reader).is_some() {
                    changes.no_row(text, above, true, reader);
                }
            }
            (sound, lines_since) = (Some(range.clone()), 0);
        }
        if !found.is_single {
            continue;
        }
        // What follows, as long as it may be the rest of this row.
        let mut rest = Vec::new();
        let mut after = line.clone();
        let mut after_offset = next_offset;
        while let Some(next) = after.take_if(|next| rest.len() < MAX_LINES - 1 && is_rest(&text[next.clone()], reader))
        {
            rest.push(next);
            after = next_line(text, &mut after_offset);
        }
        // A reader that does not look at what follows its rows would take anything for the rest of one.
        let takes_anything =
            |reader: &mut Reader<'_>| reader.read_whole(&found, &format!("{content} \u{fffd}")).is_some();
        if found.sound.is_some() && !rest.is_empty() && takes_anything(reader) {
            rest.clear();
        }
        let taken = changes.row(text, range, &found, &rest, reader);
        for _ in 0..taken {
            line = next_line(text, &mut next_offset);
        }
    }
    changes
}

impl Changes {
    /// A row and the lines after it that are none. Says how many of these belong to it.
    fn row(
        &mut self,
        text: &str,
        line: Range<usize>,
        found: &Found,
        rest: &[Range<usize>],
        reader: &mut Reader<'_>,
    ) -> usize {
        let content = text[line.clone()].trim_end();
        let end = line.start.plus(content.len());
        if self.stray(content, &line, Some(found.start)) {
            return 0;
        }
        match join(text, &(line.start..end), found, rest, reader) {
            Joined::Not => {}
            Joined::Rows(lines, with) => {
                self.mend(line.start.plus(found.start), "the row was wrapped; its lines are joined");
                let mut at = end;
                for rest in &rest[..lines] {
                    let start = rest.start.plus(indent(&text[rest.clone()]));
                    self.edits.push(Edit { range: at..start, with });
                    at = rest.start.plus(text[rest.clone()].trim_end().len());
                }
                return lines;
            }
            Joined::Ambiguous => {
                self.wrapped(line.start.plus(found.start)..end, line);
                return 0;
            }
        }
        let comment = comment(content, found, reader);
        if let Some(words) = comment.map(|at| content[at..].trim_start_matches([' ', '#', '/', '-', ';']))
            && let Some(row) = started_row(words, found.format, reader)
        {
            self.unread.push((end.minus(words.len()).plus(row), "another row is in the comment behind a row"));
        }
        if found.sound.is_some() {
            return 0;
        }
        if let Some(at) = comment {
            self.edits.push(Edit::remove(line.start.plus(at)..end));
        } else if !rest.is_empty() && may_be_wrapped(content.len()) && ends_early(content, found, reader) {
            self.wrapped(line.start.plus(found.start)..end, line);
        }
        0
    }

    fn wrapped(&mut self, span: Range<usize>, line: Range<usize>) {
        self.problems.push(Problem {
            span,
            line,
            message: "this text was wrapped by a mail program: how the row goes on in the next line cannot be told",
            help: "put the row into one line, or take the text from an attachment",
        });
    }

    /// A line that is no row: is it one behind something else, or with a stray byte in it, or damaged? Says whether it
    /// is told.
    fn no_row(&mut self, text: &str, line: Range<usize>, is_row_like: bool, reader: &Reader<'_>) -> bool {
        let content = &text[line.clone()];
        if reader.is_row_of_a_diff(content) {
            return false;
        }
        let range = address_range(content);
        if self.stray(content, &line, range.clone().map(|_| 0)) {
            return true;
        }
        let hidden = range.and_then(|range| hidden_row(content, range, reader));
        let hidden = hidden.or_else(|| started_row(content, reader.last?, reader));
        let message = match hidden {
            Some(_) => "it reads as a row, but something unknown is before it",
            None => "it is no row, but looks like the row beside it",
        };
        let at = line.start.plus(hidden.unwrap_or(0));
        if hidden.is_some() || is_row_like {
            self.unread.push((at, message));
        }
        hidden.is_some() || is_row_like
    }

    /// A stray byte in a line, of which what starts at `row` is a row or may be one. Elsewhere it does no harm.
    fn stray(&mut self, content: &str, line: &Range<usize>, row: Option<usize>) -> bool {
        let of_row = row.and_then(|row| Some(row.plus(content.get(row..)?.find(char::REPLACEMENT_CHARACTER)?)));
        if let Some(at) = of_row {
            self.problems.push(Problem {
                span: span(line.start.plus(at), char::REPLACEMENT_CHARACTER.len_utf8()),
                line: line.clone(),
                message: "a byte that is not UTF-8 is in what is, or may be, a row",
                help: "copy the row again, or remove the line",
            });
        } else if let Some(at) = content.find(char::REPLACEMENT_CHARACTER) {
            self.mend(line.start.plus(at), "a byte that is not UTF-8 is here, outside of every row");
        }
        of_row.is_some()
    }

    fn mend(&mut self, at: usize, message: &'static str) {
        match self.mended.iter_mut().find(|mended| mended.message == message) {
            Some(mended) => mended.more = mended.more.plus(1),
            None => self.mended.push(Mended { at, message, more: 0 }),
        }
    }
}

/// How a row goes on.
enum Joined {
    Not,
    /// In so many lines, with this between them.
    Rows(usize, Option<char>),
    Ambiguous,
}

/// Lines that make a sound row with those after them are joined; where two ways give different rows, nobody can tell.
fn join(text: &str, line: &Range<usize>, found: &Found, rest: &[Range<usize>], reader: &mut Reader<'_>) -> Joined {
    let mut joined = [text[line.clone()].to_owned(), text[line.clone()].to_owned()];
    for (index, range) in rest.iter().enumerate() {
        let content = text[range.clone()].trim();
        joined[0] = format!("{} {content}", joined[0]);
        joined[1] += content;
        let [with_blank, without] = joined.each_ref().map(|joined| reader.read_whole(found, joined));
        let are_same =
            |one: &MemoryDescriptor, other: Option<&MemoryDescriptor>| other.is_none_or(|other| one == other);
        return match (found.sound, with_blank, without) {
            (_, Some(blank), without) if are_same(&blank, without.as_ref()) => Joined::Rows(index.plus(1), Some(' ')),
            (None, None, Some(_)) => Joined::Rows(index.plus(1), None),
            (Some(sound), None, Some(whole)) if sound == whole => Joined::Rows(index.plus(1), None),
            (_, None, None) if found.sound.is_none() => continue,
            (_, None, None) => Joined::Not,
            _ => Joined::Ambiguous,
        };
    }
    Joined::Not
}

/// Whether a line may be the rest of a row.
fn is_rest(line: &str, reader: &mut Reader<'_>) -> bool {
    !line.trim().is_empty() && line.len() <= LONGEST_REST && reader.find(line).is_none()
}

/// Whether nothing is wrong with a damaged row but that it ends: what is wrong is at its end.
fn ends_early(line: &str, found: &Found, reader: &Reader<'_>) -> bool {
    let read = (reader.formats[found.format].read)(Cursor { line, at: found.start.min(line.len()), offset: 0 });
    read.is_err_and(|bad| bad.message().contains("the line ends"))
}

/// Where a comment behind a row starts: without it the row is sound.
fn comment(line: &str, found: &Found, reader: &Reader<'_>) -> Option<usize> {
    const MARKS: [&str; 4] = [" #", " //", " --", " ;"];
    let at = MARKS.iter().filter_map(|mark| line[found.start..].find(mark)).min()?.plus(found.start);
    reader.read(found.format, found.start, &line[..at]).map(|_| at)
}

/// Whether most of a line looks like a row: it has the same signs and numbers in the same order, except in one place.
fn resembles(line: &str, row: &str) -> bool {
    const LONGEST: usize = 1024;
    if line.len() > LONGEST || is_comment(line) {
        return false;
    }
    let (line, row) = (signs(line), signs(row));
    let before = line.iter().zip(&row).take_while(|(one, other)| one == other).count();
    let after =
        line[before..].iter().rev().zip(row[before..].iter().rev()).take_while(|(one, other)| one == other).count();
    line.contains(&None) && before.plus(after) > line.len().max(row.len()) / 2
}

fn has_address(line: &str) -> bool {
    signs(line).contains(&None)
}

/// What is neither blank nor a word in a line; None stands for a number as long as addresses are.
fn signs(line: &str) -> Vec<Option<char>> {
    const DIGITS: usize = 8;
    let is_number = |word: &str| {
        word.len() >= DIGITS && word.trim_start_matches("0x").bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let mut signs = Vec::new();
    for part in line.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let sign = part.chars().next_back().filter(|last| !last.is_ascii_alphanumeric());
        let word = &part[..part.len().minus(sign.map_or(0, char::len_utf8))];
        signs.extend(is_number(word).then_some(None));
        // There are as many bars as flags.
        signs.extend(sign.filter(|sign| !sign.is_whitespace() && *sign != '|').map(Some));
    }
    signs
}

/// Whether a line is someone's comment, and meant to be none of the rows.
fn is_comment(line: &str) -> bool {
    ["#", ";", "//"].iter().any(|comment| line.trim_start().starts_with(comment))
}

/// Where two addresses with a `-` between them are: in nearly every row, and in few other lines.
fn address_range(line: &str) -> Option<Range<usize>> {
    const DIGITS: usize = 8;
    let is_digit = |byte: &u8| byte.is_ascii_hexdigit();
    line.match_indices('-').find_map(|(at, _)| {
        let before = line.as_bytes()[..at].iter().rev().take(DIGITS).filter(|byte| is_digit(byte)).count();
        let after = &line[at.plus(1)..];
        let after = after.strip_prefix("0x").unwrap_or(after);
        let after = after.bytes().take(DIGITS).filter(is_digit).count();
        (before == DIGITS && after == DIGITS).then(|| span(at, 1))
    })
}

/// Where a row starts that stands behind something else.
fn hidden_row(line: &str, range: Range<usize>, reader: &Reader<'_>) -> Option<usize> {
    /// How far before its range a row starts: Linux's flags, and the names of types.
    const BEFORE: usize = 128;
    const LONGEST: usize = 1024;
    if is_comment(line) {
        return None;
    }
    let words = line[..range.start].match_indices(|c: char| c.is_whitespace() || ":>]);\"'|".contains(c));
    let words = words.map(|(at, separator)| at.plus(separator.len())).filter(|at| at.plus(BEFORE) > range.start);
    let mut words = words.filter(|_| line.len() <= LONGEST);
    words.find(|at| {
        let rest = &line[*at..];
        let mut formats = reader.formats.iter().enumerate();
        !rest.starts_with(char::is_whitespace)
            && formats.any(|(index, format)| {
                format.lines == 1 && (format.start)(rest) == Some(0) && reader.read(index, 0, rest).is_some()
            })
    })
}

/// Where a row of the text's own format starts, sound or not, behind something else: of a row in a damaged dress the end is
/// as strange as what stands before it.
fn started_row(line: &str, format: usize, reader: &Reader<'_>) -> Option<usize> {
    const LONGEST: usize = 1024;
    const MOST_WORDS: usize = 32;
    let is_fit = line.len() <= LONGEST && !is_comment(line) && has_address(line);
    let format = reader.formats.get(format).filter(|_| is_fit)?;
    let ends = line.match_indices(|c: char| !c.is_ascii_alphanumeric());
    let words = ends.map(|(at, end)| at.plus(end.len())).filter(|at| !line[*at..].starts_with(char::is_whitespace));
    let mut words = words.take(MOST_WORDS);
    words.find(|at| (format.start)(&line[*at..]).is_some())
}

/// Rows that stand there twice in succession, each of them: a serial console and a log, say. One such row may be
/// firmware's own doing.
fn repeated(strand: &Strand<'_>, reader: &mut Reader<'_>) -> Changes {
    let text = strand.text();
    let mut offset = 0;
    let mut groups: Vec<Group> = Vec::new();
    while let Some(line) = next_line(text, &mut offset) {
        let content = text[line.clone()].trim_end();
        let Some(found) = reader.find(content).filter(|found| found.is_single) else { continue };
        let row = shifted(found.start.min(content.len())..content.len(), line.start);
        match groups
            .last_mut()
            .filter(|group| group.format == found.format && text[group.row.clone()] == text[row.clone()])
        {
            Some(group) => group.copies.push(row),
            None => groups.push(Group { format: found.format, row, line, copies: Vec::new() }),
        }
    }
    let mut changes = Changes::default();
    for format in 0..reader.formats.len() {
        let of_format: Vec<&Group> = groups.iter().filter(|group| group.format == format).collect();
        let doubled = of_format.iter().filter(|group| !group.copies.is_empty()).count();
        if doubled >= 2 && doubled >= of_format.len().div_ceil(2) {
            changes.take_once(&of_format);
        }
    }
    changes
}

/// A row, and its copies right after it.
struct Group {
    format: usize,
    row: Range<usize>,
    line: Range<usize>,
    copies: Vec<Range<usize>>,
}

impl Changes {
    fn take_once(&mut self, groups: &[&Group]) {
        let message = "each row is there twice in succession from here on, as where two consoles log: it is read once";
        groups.first().into_iter().for_each(|group| self.mend(group.row.start, message));
        for group in groups {
            self.edits.extend(group.copies.iter().map(|copy| Edit::remove(copy.clone())));
        }
        let mut before: Option<&Group> = None;
        for group in groups {
            // Two different rows in succession without copies may be each other's.
            if let Some(other) = before.filter(|_| group.copies.is_empty()) {
                for group in [other, group] {
                    self.problems.push(Problem {
                        span: group.row.clone(),
                        line: group.line.clone(),
                        message: "each row is there twice, but not this one, nor the one beside it: if they are one, it is damaged",
                        help: "remove the damaged copies",
                    });
                }
            }
            before = Some(*group).filter(|group| group.copies.is_empty());
        }
    }
}

/// The next line, without its line feed.
fn next_line(text: &str, offset: &mut usize) -> Option<Range<usize>> {
    let start = *offset;
    let rest = text.get(start..)?;
    let end = rest.find('\n').map_or(text.len(), |length| start.plus(length));
    *offset = end.plus(1);
    Some(start..end)
}
