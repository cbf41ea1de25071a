//! The one point where words leave for a person: standard error, and the text on standard output.
//!
//! Much of what is told was written by others: file names, keys, arguments, rows of a log. Here what might drive a terminal
//! is escaped, and what is too long is clipped, so no caller need think of it. Results for programs (JSON, JUnit, a
//! converted map) do not come through here.

use std::borrow::Cow;
use std::io::{self, Write as _};

use crate::memory_map::drives_terminal;

/// Tells something on standard error. That it is full or closed is no reason to end: the exit status still tells.
pub fn tell(text: &str) {
    tell_styled(text, Colours::None);
}

/// The same for a text with colours of this program's.
pub fn tell_styled(text: &str, colours: Colours) {
    let text = shown(text, colours);
    let mut end = text.len().min(MAX_TOLD_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < text.len() { CLIPPED } else { "" };
    let _ = writeln!(io::stderr().lock(), "{}{more}", &text[..end]);
}

/// Whether a text may have escape sequences that set colours. No other sequence ever passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    None,
    Some,
}

impl Colours {
    /// Some, if so.
    pub fn if_so(is_on: bool) -> Self {
        if is_on { Self::Some } else { Self::None }
    }
}

/// A text as it may be shown: controls as `\u{1b}`, and each line clipped.
pub fn shown(text: &str, colours: Colours) -> Cow<'_, str> {
    if !text.contains(is_hidden) && text.lines().all(|line| line.len() <= MAX_LINE_CHARS) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len().min(MAX_TOLD_BYTES));
    let mut in_line = 0;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = if colours == Colours::Some { colour_length(rest) } else { None };
        let length = colour.unwrap_or(c.len_utf8());
        let (this, after) = rest.split_at(length);
        rest = after;
        match () {
            () if c == '\n' => {
                out.push('\n');
                in_line = 0;
                continue;
            }
            // A colour takes no room, and one that ends must end even past the clip.
            () if colour.is_some() => {
                out.push_str(this);
                continue;
            }
            () if in_line > MAX_LINE_CHARS => continue,
            () if in_line == MAX_LINE_CHARS => out.push_str(CLIPPED),
            () if is_hidden(c) => out.extend(c.escape_unicode()),
            () => out.push(c),
        }
        in_line += 1;
    }
    out.into()
}

/// Far more than any line of a report has.
const MAX_LINE_CHARS: usize = 4096;

/// Far more than any message has.
const MAX_TOLD_BYTES: usize = 64 << 10;

const CLIPPED: &str = "... (clipped)";

/// Not what makes lines and columns.
fn is_hidden(c: char) -> bool {
    drives_terminal(c) && !matches!(c, '\n' | '\t')
}

/// The bytes of the colour sequence (`ESC [ numbers m`) that a text starts with.
fn colour_length(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\u{1b}[")?;
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    numbers[end..].starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_shown_and_not_obeyed() {
        for (text, expected) in [
            ("plain\ttext\né", "plain\ttext\né"),
            ("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}"),
            ("\u{9b}2J\r\u{7f}\0", r"\u{9b}2J\u{d}\u{7f}\u{0}"),
            ("a\u{202e}b\u{2066}", r"a\u{202e}b\u{2066}"),
            ("\u{1b}[31mred", r"\u{1b}[31mred"),
        ] {
            assert_eq!(shown(text, Colours::None), expected);
        }
    }

    #[test]
    fn of_sequences_only_colours_pass_and_only_where_there_are_any() {
        assert_eq!(shown("\u{1b}[1;31mred\u{1b}[0m", Colours::Some), "\u{1b}[1;31mred\u{1b}[0m");
        assert_eq!(shown("\u{1b}[2J\u{1b}[1", Colours::Some), r"\u{1b}[2J\u{1b}[1");
    }

    #[test]
    fn a_long_line_is_clipped_and_the_next_one_is_not() {
        let text = format!("{}\u{1b}[0m\nnext", "é".repeat(1 << 20));
        let shown = shown(&text, Colours::Some);
        assert!(shown.len() < 3 * MAX_LINE_CHARS, "{}", shown.len());
        assert!(shown.ends_with("... (clipped)\u{1b}[0m\nnext"), "{}", &shown[2 * MAX_LINE_CHARS..]);
    }
}
