//! Errors of reading a map: where, what was expected, what was found, what to do.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;

use miette::{Diagnostic, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// A text is no memory map. Its `Display` is `file:line:column: message`; `Debug` shows the place too, and what to do, and as a
/// [`Diagnostic`] it draws them.
#[derive(thiserror::Error, Diagnostic)]
#[error(transparent)]
#[diagnostic(transparent)]
pub struct ParseError(Box<Inner>);

/// A file could not be read as a memory map. Its `Debug` says what to do, too.
#[derive(thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum ReadError {
    /// Its bytes could not be read, or are not text.
    #[error("{path}: {problem}")]
    #[diagnostic(help("{help}"))]
    File {
        /// The file, with `:line:column` if its bytes are what is wrong.
        path: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        help: &'static str,
        /// What the operating system said.
        #[source]
        cause: Option<io::Error>,
    },
    /// Its text is no memory map.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Parse(#[from] ParseError),
}

impl fmt::Debug for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.0.write_place(f)?;
        write_help(self, f)
    }
}

impl fmt::Debug for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { .. } => {
                write!(f, "{self}")?;
                write_help(self, f)
            }
            Self::Parse(error) => fmt::Debug::fmt(error, f),
        }
    }
}

/// What to do about an error, if that is known, in a line of its own.
pub(super) fn write_help(error: &dyn Diagnostic, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    error.help().map_or(Ok(()), |help| write!(f, "\n  help: {help}"))
}

impl ParseError {
    /// The line of the error, from 1.
    pub fn line(&self) -> usize {
        self.0.line
    }

    /// The column of the error, in characters from 1.
    pub fn column(&self) -> usize {
        self.0.column
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// An error of the TOML reader, with the place it tells.
    pub fn from_toml(name: &str, text: &str, error: &toml::de::Error) -> Self {
        let message = error.message().replace('\n', "; ");
        Self::at(name, text, error.span().unwrap_or(0..0), message)
    }

    /// An error about `span` (byte offsets) of `text`.
    pub(crate) fn at(name: &str, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = floor_char_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let name = clip(&printable(name), MAX_NAME_CHARS);
        let (excerpt, label) = Excerpt::around(&name, text, start..span.end);
        Self(Box::new(Inner {
            place: span.clone(),
            line: line_number(text, start),
            column: text[line_start..start].chars().count() + 1,
            message: clip(&printable(&message.into()), MAX_MESSAGE_CHARS),
            label: "here".into(),
            span: (!text.is_empty()).then_some(label),
            help: None,
            excerpt,
            name,
        }))
    }

    /// The same error of another text, in which its place is what `span` says.
    pub(super) fn moved(self, name: &str, text: &str, span: impl FnOnce(Range<usize>) -> Range<usize>) -> Self {
        let Inner { place, message, label, help, .. } = *self.0;
        let moved = Self::at(name, text, span(place), message).label(label);
        match help {
            Some(help) => moved.help(help),
            None => moved,
        }
    }

    /// What is written under the place in the text.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.0.label = clip(&printable(&label.into()), MAX_MESSAGE_CHARS);
        self
    }

    /// What to do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }
}

/// The number of the line that holds a byte offset, from 1.
pub(super) fn line_number(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Someone else's text between backquotes, short and without control characters.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", clip(&printable(text), MAX_QUOTED_CHARS))
}

/// Whether a character does something other than stand there: controls; marks and overrides of direction; Unicode's own
/// line ends; a byte-order mark.
pub fn drives_terminal(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    turns || c.is_control()
}

/// Someone else's text without control characters, which might drive the reader's terminal. Byte offsets stay.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| drives_terminal(c) && c != '\t';
    if !text.contains(hidden) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match hidden(c) {
            true => (0..c.len_utf8()).for_each(|_| shown.push('?')),
            false => shown.push(c),
        }
    }
    shown.into()
}

const MAX_QUOTED_CHARS: usize = 40;

/// The longest path that Linux has.
const MAX_NAME_CHARS: usize = 4096;

const MAX_MESSAGE_CHARS: usize = 400;

/// How much of a line is kept on each side of where an error starts: more than a Linux row with its timestamp.
const MAX_SIDE_BYTES: usize = 200;

#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{name}:{line}:{column}: {message}")]
struct Inner {
    /// The byte offsets that it is about.
    place: Range<usize>,
    name: String,
    line: usize,
    column: usize,
    message: String,
    label: String,
    #[label("{label}")]
    span: Option<SourceSpan>,
    #[help]
    help: Option<String>,
    #[source_code]
    excerpt: Excerpt,
}

impl Inner {
    /// The line in plain text, and under it what the error is about.
    fn write_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(span) = self.span else { return Ok(()) };
        let line = line_around(&self.excerpt.text, span.offset());
        let (before, marked) = (line.start..span.offset(), span.offset()..span.offset() + span.len());
        let text = |range: Range<usize>| self.excerpt.text.get(range).unwrap_or_default();
        // Tabs stay, so that the mark stands under its place.
        let blank: String = text(before).chars().map(|c| if c == '\t' { c } else { ' ' }).collect();
        let mark = "^".repeat(text(marked).chars().count().max(1));
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        write!(f, "\n  {number} | {}\n  {margin} | {blank}{mark} {}", text(line.clone()), self.label)
    }
}

/// The line of an error and its neighbours, clipped. The whole text may have 64 MiB, even in one line, and an error
/// should neither hold nor print that.
#[derive(Debug)]
struct Excerpt {
    name: String,
    text: String,
    /// How many lines of the whole text come before.
    lines_before: usize,
    /// The line of `text` that the error is in, and how many characters are cut off at its left.
    line: usize,
    cut: usize,
}

impl Excerpt {
    /// The excerpt, and where `span` is in it.
    fn around(name: &str, text: &str, span: Range<usize>) -> (Self, SourceSpan) {
        let line = line_around(text, span.start);
        let from = floor_char_boundary(text, span.start.saturating_sub(MAX_SIDE_BYTES)).max(line.start);
        let to = floor_char_boundary(text, span.start + MAX_SIDE_BYTES).min(line.end);
        let mut shown = String::new();
        let mut lines_before = line_number(text, line.start) - 1;
        let has_before = line.start > 0;
        if has_before {
            shown.push_str(&head_of_line(text, line.start - 1));
            shown.push('\n');
            lines_before -= 1;
        }
        // A label lies within its line: it points at a place, and a table's span would underline the file.
        let label =
            shown.len() + span.start - from..shown.len() + span.end.clamp(span.start, to.max(span.start)) - from;
        shown.push_str(&printable(&text[from..to]));
        if line.end < text.len() {
            shown.push('\n');
            shown.push_str(&head_of_line(text, line.end + 1));
        }
        let cut = text[line.start..from].chars().count();
        let excerpt = Self { name: name.into(), text: shown, lines_before, line: has_before.into(), cut };
        (excerpt, label.into())
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        context_lines_before: usize,
        context_lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let contents = self.text.read_span(span, context_lines_before, context_lines_after)?;
        let cut = if contents.line() == self.line { self.cut } else { 0 };
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            contents.data(),
            *contents.span(),
            contents.line() + self.lines_before,
            contents.column() + cut,
            contents.line_count(),
        )))
    }
}

/// The line that holds `offset` (or ends there), without its line feed.
fn line_around(text: &str, offset: usize) -> Range<usize> {
    let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
    // A carriage return before the line feed is no part of the line either.
    let end = if end > offset && text[offset..end].ends_with('\r') { end - 1 } else { end };
    start..end
}

fn head_of_line(text: &str, offset: usize) -> Cow<'_, str> {
    let line = line_around(text, offset);
    let to = floor_char_boundary(text, line.start + MAX_SIDE_BYTES).min(line.end);
    printable(text[line.start..to].trim_end_matches('\r'))
}

fn floor_char_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn clip(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(error: ParseError) -> String {
        let mut text = String::new();
        miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::none())
            .render_report(&mut text, &error)
            .unwrap();
        text
    }

    #[test]
    fn the_place_is_in_the_text_and_in_the_picture() {
        let text = "one\ntwo three\nfour";
        let error = ParseError::at("map", text, 8..13, "bad").label("this").help("mend it");
        assert_eq!(error.to_string(), "map:2:5: bad");
        let shown = rendered(error);
        for part in ["map:2:5", "1 | one", "2 | two three", "this", "3 | four", "help: mend it"] {
            assert!(shown.contains(part), "{part} not in {shown}");
        }
    }

    #[test]
    fn debug_is_plain_text_with_the_place_and_the_help() {
        let text = "one\n\ttwo thrée\nfour";
        let error = ParseError::at("map", text, 9..15, "bad").label("this").help("mend it");
        let plain = "map:2:6: bad\n  2 | \ttwo thrée\n    | \t    ^^^^^ this\n  help: mend it";
        assert_eq!(format!("{error:?}"), plain);
        assert_eq!(format!("{:?}", ReadError::Parse(error)), plain);
        let file = ReadError::File { path: "map".into(), problem: "is none".into(), help: "mend it", cause: None };
        assert_eq!(format!("{file:?}"), "map: is none\n  help: mend it");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}WRONG{}", "a".repeat(1 << 20), "b".repeat(1 << 20));
        let error = ParseError::at("map", &text, (1 << 20)..(1 << 20) + 5, "bad");
        assert_eq!(error.column(), (1 << 20) + 1);
        let shown = rendered(error);
        assert!(shown.contains("WRONG") && shown.contains("map:1:1048577"), "{shown}");
        assert!(shown.len() < 4096);
    }

    #[test]
    fn control_characters_are_not_shown() {
        let text = "x \u{1b}[31m\u{9b} y";
        let shown = rendered(ParseError::at("\u{1b}map", text, 2..3, format!("found {}", quoted(text))));
        assert!(!shown.contains(['\u{1b}', '\u{9b}']), "{shown:?}");
    }

    #[test]
    fn any_span_will_do() {
        for text in ["", "é", "\n", "\r\n", "a\r\n\r\nb", "é\né\n"] {
            for start in 0..8 {
                for end in 0..8 {
                    rendered(ParseError::at("map", text, start..end, "bad"));
                }
            }
        }
    }
}
