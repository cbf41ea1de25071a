//! A text that was edited, and where in the original each part of it was.

use super::super::offset::{Offset, lines, shifted};
use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;

/// One change: a range of the text, and what stands there instead.
#[derive(Debug)]
pub(super) struct Edit {
    pub range: Range<usize>,
    pub with: Option<char>,
}

impl Edit {
    pub(super) fn remove(range: Range<usize>) -> Self {
        Self { range, with: None }
    }

    pub(super) fn replace(range: Range<usize>, with: char) -> Self {
        Self { range, with: Some(with) }
    }

    /// The same edit of a text in which this one starts at `offset`.
    pub(super) fn at(self, offset: usize) -> Self {
        Self { range: shifted(self.range, offset), ..self }
    }
}

/// The edited text. Its parts are in the order of the original.
pub(in super::super) struct Strand<'a> {
    original: &'a str,
    text: Cow<'a, str>,
    /// By where they start in the text. None: the text is the original.
    pieces: Vec<Piece>,
    /// The place that was asked for last: most are asked for in the order of the text.
    last: Cell<Place>,
}

/// From `at` of the text up to the next piece stands what stands from `from` of the original, or one character for it.
#[derive(Clone, Copy)]
struct Piece {
    at: usize,
    from: usize,
}

/// A place in the original.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    line: usize,
    column: usize,
}

const START: Place = Place { offset: 0, line: 1, column: 1 };

impl<'a> Strand<'a> {
    pub(in super::super) fn new(original: &'a str) -> Self {
        Self { original, text: original.into(), pieces: Vec::new(), last: Cell::new(START) }
    }

    /// The text as it is now.
    pub(in super::super) fn text(&self) -> &str {
        &self.text
    }

    /// The text as it was.
    pub(in super::super) fn original(&self) -> &'a str {
        self.original
    }

    /// Makes changes, which are in the order of the text and do not overlap. Says whether there are any.
    pub(super) fn edit(&mut self, edits: Vec<Edit>) -> bool {
        if edits.is_empty() {
            return false;
        }
        let mut text = String::with_capacity(self.text.len());
        let mut pieces = Vec::with_capacity(self.pieces.len().plus(edits.len()));
        let mut at = 0;
        for Edit { range, with } in edits {
            if range.start < at {
                continue;
            }
            self.keep(at..range.start, &mut text, &mut pieces);
            if let Some(with) = with {
                pieces.push(Piece { at: text.len(), from: self.origin(range.start) });
                text.push(with);
            }
            at = range.end;
        }
        self.keep(at..self.text.len(), &mut text, &mut pieces);
        (self.text, self.pieces) = (text.into(), pieces);
        true
    }

    /// The range of the original in which a range of the text was.
    pub(in super::super) fn span(&self, span: Range<usize>) -> Range<usize> {
        let start = self.start(span.start);
        // What follows a range may have been far from it.
        let end =
            span.end.checked_sub(1).filter(|last| *last >= span.start).map_or(start, |last| self.origin(last).plus(1));
        start..end.max(start)
    }

    /// The line and the column (from 1, in characters) of the original in which a place of the text was.
    pub(in super::super) fn place(&self, offset: usize) -> (usize, usize) {
        let offset = self.start(offset).min(self.original.len());
        let mut place = self.last.get();
        if place.offset > offset {
            place = self.before(place, offset);
        }
        let between = self.original.get(place.offset..offset).unwrap_or_default();
        for character in between.chars() {
            place = match character {
                '\n' => Place { line: place.line.plus(1), column: 1, ..place },
                _ => Place { column: place.column.plus(1), ..place },
            };
        }
        self.last.set(Place { offset, ..place });
        (place.line, place.column)
    }

    /// The start of the line that holds an offset, which is before a place.
    fn before(&self, place: Place, offset: usize) -> Place {
        let start = self.original[..offset].rfind('\n').map_or(0, |newline| newline.plus(1));
        let newlines = self.original[start..place.offset].matches('\n').count();
        Place { offset: start, line: place.line.minus(newlines), column: 1 }
    }

    fn keep(&self, range: Range<usize>, text: &mut String, pieces: &mut Vec<Piece>) {
        if range.is_empty() {
            return;
        }
        pieces.push(Piece { at: text.len(), from: self.origin(range.start) });
        let within = self.pieces.partition_point(|piece| piece.at <= range.start);
        let within = self.pieces[within..].iter().take_while(|piece| piece.at < range.end);
        pieces.extend(within.map(|piece| Piece { at: text.len().plus(piece.at.minus(range.start)), ..*piece }));
        text.push_str(&self.text[range]);
    }

    fn origin(&self, at: usize) -> usize {
        let next = self.pieces.partition_point(|piece| piece.at <= at);
        let piece = next.checked_sub(1).map_or(Piece { at: 0, from: 0 }, |index| self.pieces[index]);
        piece.from.plus(at.minus(piece.at))
    }

    /// Where a range starts: at the end of a line that is behind the last character, not behind what was removed there.
    fn start(&self, at: usize) -> usize {
        let bytes = self.text.as_bytes();
        let is_end = bytes.get(at).is_none_or(|byte| *byte == b'\n');
        match at.checked_sub(1) {
            Some(before) if is_end && bytes.get(before).is_some_and(|byte| *byte != b'\n') => {
                self.origin(before).plus(1)
            }
            _ => self.origin(at),
        }
    }
}

/// The edits that each line by itself asks for.
pub(super) fn in_lines(text: &str, of_line: impl Fn(&str, &mut Vec<Edit>)) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut found = Vec::new();
    for (offset, line) in lines(text) {
        of_line(line, &mut found);
        edits.extend(found.drain(..).map(|edit| edit.at(offset)));
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_the_original_are_kept_through_edits() {
        let original = "one\n\"tw\\to\", 3\nfour";
        let mut strand = Strand::new(original);
        assert_eq!((strand.text(), strand.place(5)), (original, (2, 2)));
        assert!(!strand.edit(Vec::new()));
        assert!(strand.edit(vec![Edit::remove(4..5), Edit::replace(7..9, '\t'), Edit::remove(10..14)]));
        assert_eq!(strand.text(), "one\ntw\to\nfour");
        let find = |strand: &Strand<'_>, what: char| strand.text().find(what).map(|at| strand.place(at));
        assert_eq!((find(&strand, 't'), find(&strand, '\t')), (Some((2, 2)), Some((2, 4))));
        assert!(strand.edit(vec![Edit::remove(0..4), Edit::replace(5..6, '\n')]));
        assert_eq!(strand.text(), "t\n\to\nfour");
        assert_eq!(
            (find(&strand, '\t'), find(&strand, 'f'), find(&strand, 't')),
            (Some((2, 4)), Some((3, 1)), Some((2, 2)))
        );
        // The end of a line is behind its last character.
        assert_eq!((strand.span(3..4), strand.span(4..4), strand.place(9)), (9..10, 10..10, (3, 5)));
        assert_eq!(strand.place(5), (3, 1));
    }
}
