//! What people read: everything that goes to a terminal leaves here, without control characters that are not our own, and
//! of bounded length.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write as _};

use super::Failure;

/// Writes a text to standard output. A reader that has had enough (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(shown(text, LONGEST_LINE).as_bytes())
}

/// Writes a result to standard output, as it is: it is for programs.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Output(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Says something on standard error. If that is full or closed, nobody hears it, and nothing else comes of it.
pub fn tell(message: &str) {
    let message = clipped(message, LONGEST_MESSAGE);
    let _ = writeln!(io::stderr(), "{}", shown(&message, LONGEST_LINE));
}

/// Whether standard output takes colour: it is a terminal, and NO_COLOR is not set (<https://no-color.org>).
pub fn takes_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How many columns the terminal has; None if standard output is not a terminal.
pub fn columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(width.0.into())
}

/// Of one message, and of one line, in characters.
const LONGEST_MESSAGE: usize = 16 << 10;
const LONGEST_LINE: usize = 4096;

/// A text without what might drive a terminal, but for SGR sequences (ECMA-48, 8.3.117), which are for colour. Those of an
/// input are made harmless where it is read.
fn shown(text: &str, longest_line: usize) -> Cow<'_, str> {
    let is_fit = |line: &str| line.len() <= longest_line && !line.contains(drives);
    if text.split('\n').all(is_fit) {
        return text.into();
    }
    let lines = text.split('\n').map(|line| match is_fit(line) {
        true => line.to_owned(),
        false => clipped(&escaped(line), longest_line).into_owned(),
    });
    lines.collect::<Vec<_>>().join("\n").into()
}

/// Control characters, and those that turn the direction of what follows them.
fn drives(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let length = if c == '\u{1b}' { sgr_bytes(rest) } else { 0 };
        let taken = length.max(c.len_utf8());
        match drives(c) && length == 0 {
            true => shown.extend(c.escape_default()),
            false => shown.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    shown
}

/// How long the SGR sequence is that a text starts with; 0: it starts with none.
fn sgr_bytes(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else { return 0 };
    let length = parameters.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
    if parameters[length..].starts_with('m') { 2 + length + 1 } else { 0 }
}

fn clipped(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        None => text.into(),
        Some((end, _)) => format!("{}... ({} more bytes)", &text[..end], text.len() - end).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_colour_drives_a_terminal() {
        let shows = |text: &str| shown(text, 40).into_owned();
        assert_eq!(shows("a\tb\n\u{1b}[1;31mred\u{1b}[0m\n"), "a\tb\n\u{1b}[1;31mred\u{1b}[0m\n");
        assert_eq!(shows("\u{1b}]0;title\u{7} \u{1b}[2J"), "\\u{1b}]0;title\\u{7} \\u{1b}[2J");
        assert_eq!(shows("\u{1b}[1;31"), "\\u{1b}[1;31");
        assert_eq!(shows("\u{9b}31m\u{202e}x\r"), "\\u{9b}31m\\u{202e}x\\r");
        assert_eq!(shows(&"x".repeat(50)), format!("{}... (10 more bytes)", "x".repeat(40)));
    }

    #[test]
    fn a_long_message_is_clipped() {
        let message = "\u{e9}".repeat(1 << 20);
        let clipped = clipped(&message, LONGEST_MESSAGE);
        assert!(clipped.len() < 3 * LONGEST_MESSAGE && clipped.ends_with(" more bytes)"));
    }
}
