//! How lines are made: colour, width, wrapping, and keeping other people's text from driving the terminal.
//!
//! From 80 columns up text keeps to the terminal's width, prose to 100 columns at most. Where there is no terminal
//! prose takes 100, and a row of a table stays one line. A word longer than a line is left whole.

use std::borrow::Cow;
use std::fmt::{self, Write};

use crate::check::LeafCounts;
use crate::memory_map::drives_terminal;

/// The width of prose where there is no terminal, and the most that it takes of a wide one: longer lines are hard to read.
pub(crate) const WIDTH: usize = 100;
/// The narrowest terminal that is asked for its width; on a narrower one lines are broken by the terminal.
const NARROWEST: usize = 80;

/// How a report is painted: in colour or not, and on how many columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paint {
    is_coloured: bool,
    /// The terminal's; None: no terminal, but a file or a pipe.
    columns: Option<usize>,
}

impl Paint {
    /// Without colour, for no terminal.
    pub const PLAIN: Self = Self { is_coloured: false, columns: None };
    /// With colour.
    pub const COLOURED: Self = Self { is_coloured: true, columns: None };

    /// The same on a terminal of so many columns.
    pub fn on(self, columns: Option<usize>) -> Self {
        Self { columns: columns.map(|columns| columns.max(NARROWEST)), ..self }
    }

    /// The width that prose keeps to, where its words let it.
    pub fn width(self) -> usize {
        self.columns.map_or(WIDTH, |columns| columns.min(WIDTH))
    }

    /// The width that tables keep to. Where there is no terminal a row stays one line, for `grep` and its like.
    pub fn table_width(self) -> usize {
        self.columns.unwrap_or(usize::MAX)
    }

    /// Words on lines of the page's width, each but the first indented.
    pub fn wrapped(self, text: &str, indent: usize) -> Vec<String> {
        wrapped(text, self.width(), indent)
    }

    /// A label in a column of `column` characters, and a text beside it, wrapped.
    pub fn labelled(self, label: &str, text: &str, column: usize) -> Vec<String> {
        beside(label, text, column, self.width())
    }

    /// The same of a text that is no prose: where there is no terminal it stays one line.
    pub fn row(self, label: &str, text: &str, column: usize) -> Vec<String> {
        beside(label, text, column, self.table_width())
    }

    /// What is wrong.
    pub fn wrong(self, text: impl fmt::Display) -> String {
        self.wrap("1;31", text)
    }

    /// What is right.
    pub fn right(self, text: impl fmt::Display) -> String {
        self.wrap("32", text)
    }

    /// What is not looked at first.
    pub fn dim(self, text: impl fmt::Display) -> String {
        self.wrap("2", text)
    }

    /// Titles.
    pub fn bold(self, text: impl fmt::Display) -> String {
        self.wrap("1", text)
    }

    /// SGR sequences (ECMA-48, 8.3.117).
    fn wrap(self, code: &str, text: impl fmt::Display) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Somebody else's text on one line: what would drive the terminal, or turn the direction of what follows, is shown
/// as an escape.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(drives_terminal) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match drives_terminal(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown.into()
}

/// A label in a column of `column` characters, and a text beside it, on lines of `width` at most.
pub(crate) fn beside(label: &str, text: &str, column: usize, width: usize) -> Vec<String> {
    let mut lines = wrapped(text, width.saturating_sub(column), 0);
    for (index, line) in lines.iter_mut().enumerate() {
        *line = format!("{:column$}{line}", if index == 0 { label } else { "" });
    }
    lines
}

/// Words on lines of `width` at most, each line but the first indented. A word longer than a line is left whole.
pub(crate) fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let taken = visible(&line);
        let starts = taken == 0 || line.trim().is_empty();
        if !starts && taken + 1 + visible(word) > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
        } else if !starts {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// How many columns a text takes: colour takes none.
pub(crate) fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => _ = rest.find(|c| *c == 'm'),
            _ => count += 1,
        }
    }
    count
}

/// `1 page`, `2 pages`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// `4x2M 32x4K`: the largest first.
pub(crate) fn leaves(counts: &LeafCounts) -> String {
    let sizes = [(counts.of_1g, "1G"), (counts.of_2m, "2M"), (counts.of_4k, "4K")];
    let some = sizes.into_iter().filter(|(count, _)| *count > 0).map(|(count, size)| format!("{count}x{size}"));
    match some.collect::<Vec<_>>() {
        none if none.is_empty() => "-".into(),
        some => some.join(" "),
    }
}

/// `832 KiB`, `1532 MiB`, `15.7 GiB`: exact where a unit does it with four digits, else to a tenth of the largest unit.
pub(crate) fn size(bytes: u128) -> String {
    const UNITS: [(&str, u32); 8] =
        [("YiB", 80), ("ZiB", 70), ("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let mut at_least_one = UNITS.into_iter().filter(|(_, shift)| bytes >> shift > 0);
    let is_exact = |(_, shift): &(&str, u32)| bytes.trailing_zeros() >= *shift && bytes >> shift < 10_000;
    if let Some((unit, shift)) = at_least_one.clone().find(is_exact) {
        return format!("{} {unit}", bytes >> shift);
    }
    let Some((unit, shift)) = at_least_one.next() else {
        return format!("{bytes} bytes");
    };
    let tenths = ((bytes >> (shift - 10)) * 10) >> 10;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// `reserved-bit (2), wrong-frame (1)`: what there is, in order, and how many of it.
pub(crate) fn tally<T: Ord + fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let mut counts = std::collections::BTreeMap::<T, u64>::new();
    items.for_each(|item| *counts.entry(item).or_default() += 1);
    let mut text = String::new();
    for (item, count) in counts {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{item} ({count})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_the_terminal() {
        assert_eq!(printable("a\x1b[2J\nb\u{202e}c\u{9b}"), "a\\u{1b}[2J\\nb\\u{202e}c\\u{9b}");
        assert!(matches!(printable("Grüße, 世界"), Cow::Borrowed(_)));
    }

    #[test]
    fn lines_break_between_words_only() {
        assert_eq!(wrapped("one two  three", 8, 2), ["one two", "  three"]);
        assert_eq!(wrapped("unbreakable is one", 5, 0), ["unbreakable", "is", "one"]);
        assert_eq!(wrapped("", 5, 0), [""]);
        assert_eq!(Paint::PLAIN.labelled("found", "a b", 7), ["found  a b"]);
    }

    #[test]
    fn a_page_is_as_wide_as_the_terminal_within_limits() {
        let widths = |columns| {
            let paint = Paint::PLAIN.on(columns);
            (paint.width(), paint.table_width())
        };
        assert_eq!(widths(None), (100, usize::MAX));
        assert_eq!([40, 80, 90, 200].map(|columns| widths(Some(columns))), [(80, 80), (80, 80), (90, 90), (100, 200)]);
    }

    #[test]
    fn colour_takes_no_room() {
        let red = Paint::COLOURED.wrong("wrong");
        assert_eq!((visible(&red), visible("wrong"), red.len()), (5, 5, 16));
        assert_eq!(wrapped(&format!("{red} is it"), 8, 0), [format!("{red} is"), "it".into()]);
    }

    #[test]
    fn leaves_are_told_by_size() {
        assert_eq!(leaves(&LeafCounts { of_4k: 3, of_2m: 0, of_1g: 1 }), "1x1G 3x4K");
        assert_eq!(leaves(&LeafCounts::default()), "-");
    }

    #[test]
    fn sizes_are_exact_or_to_a_tenth() {
        let told = [0, 1023, 1024, 0x1800, 0x24_2000, 1532 << 20, 0x3_efff_f000, (1 << 30) - 1, 1 << 64, 1 << 76];
        let expected = [
            "0 bytes",
            "1023 bytes",
            "1 KiB",
            "6 KiB",
            "2312 KiB",
            "1532 MiB",
            "15.7 GiB",
            "1023.9 MiB",
            "16 EiB",
            "64 ZiB",
        ];
        assert_eq!(told.map(size), expected);
        assert!(size(u128::MAX).ends_with(" YiB"));
    }

    #[test]
    fn a_tally_is_in_order() {
        assert_eq!(tally([2, 1, 2].into_iter()), "1 (1), 2 (2)");
        assert_eq!((counted(1, "page"), counted(0, "page")), ("1 page".into(), "0 pages".into()));
    }
}
