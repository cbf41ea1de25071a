//! Offsets of bytes in a text, and counts of what is in it.
//!
//! A text has at most [`MAX_INPUT_BYTES`](super::super::MAX_INPUT_BYTES), so neither comes near the end of a `usize`.
//! Sums saturate there, and less than nothing is 0: a wrong place in a message is better than a panic.

use std::ops::Range;

/// An offset, or a count.
pub(super) trait Offset {
    /// So many more.
    fn plus(self, more: usize) -> usize;

    /// So many less, and never less than nothing.
    fn minus(self, less: usize) -> usize;
}

impl Offset for usize {
    fn plus(self, more: usize) -> usize {
        self.saturating_add(more)
    }

    fn minus(self, less: usize) -> usize {
        self.saturating_sub(less)
    }
}

/// So many bytes from an offset on.
pub(super) fn span(start: usize, bytes: usize) -> Range<usize> {
    start..start.plus(bytes)
}

/// A range of a part of a text, in the text: the part starts at `start`.
pub(super) fn shifted(range: Range<usize>, start: usize) -> Range<usize> {
    start.plus(range.start)..start.plus(range.end)
}

/// Where a text goes on that starts with blanks.
pub(super) fn indent(text: &str) -> usize {
    suffix_at(text, text.trim_start())
}

/// Where in a text its last part starts.
pub(super) fn suffix_at(text: &str, suffix: &str) -> usize {
    text.len().minus(suffix.len())
}

/// The lines of a text without their line feeds, and where each starts.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split('\n').scan(0, |next: &mut usize, line| {
        let start = *next;
        *next = start.plus(line.len()).plus(1);
        Some((start, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_where_it_starts() {
        let text = "one\n\n  two\n";
        assert_eq!(lines(text).collect::<Vec<_>>(), [(0, "one"), (4, ""), (5, "  two"), (11, "")]);
        assert!(lines(text).all(|(start, line)| text[start..].starts_with(line)));
        assert_eq!((indent("  two"), indent(" "), indent("")), (2, 1, 0));
    }

    #[test]
    fn no_offset_is_outside_of_what_can_be_counted() {
        assert_eq!((usize::MAX.plus(1), 1.minus(2)), (usize::MAX, 0));
        assert_eq!(span(usize::MAX, 1), usize::MAX..usize::MAX);
        assert_eq!(shifted(1..3, 4), 5..7);
    }
}
