//! Rows in strings: of JSON documents, of `journalctl -o json`, of source code.
//!
//! The strings of a line become lines of their own, without their escapes, and keys are left out. Of an object with a
//! `MESSAGE` (journald's) that is all that counts; journald writes one that is no plain text as an array of bytes.

use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

use super::super::offset::{Offset, span};
use super::super::row::MIN_ROW_BYTES;
use super::strand::Edit;

/// The edits that leave only the strings of a line, if it is made of strings.
pub(super) fn undress(line: &str, edits: &mut Vec<Edit>) {
    if !line.contains(['"', '\'']) || !line.trim_start().starts_with(['{', '}', '[', ']', ',', '"', '\'']) {
        return;
    }
    let Some(mut parts) = parts(line) else { return };
    let is_message = |part: &Part| part.key.clone().is_some_and(|key| line.get(key) == Some("MESSAGE"));
    if parts.iter().any(is_message) {
        parts.retain(|part| is_message(part) || part.kind == Kind::Other);
    }
    let mut at = 0;
    for part in &parts {
        let Range { start, end } = part.content;
        edits.push(if at == 0 { Edit::remove(at..start) } else { Edit::replace(at..start, '\n') });
        match part.kind {
            Kind::Text => unescape(line, start..end, edits),
            Kind::Bytes => bytes(line, start..end, edits),
            Kind::Other => {}
        }
        at = end;
    }
    edits.push(Edit::remove(at..line.len()));
}

/// A part of a line that is to be a line.
struct Part {
    content: Range<usize>,
    /// The key before it.
    key: Option<Range<usize>>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What is between quotes.
    Text,
    /// What is between brackets: the bytes of a message.
    Bytes,
    /// What should not be there. It may be what is left of a string whose quotes are damaged.
    Other,
}

/// The strings that are no keys, and what stands between strings and is not JSON. `None` if the line is something else.
fn parts(line: &str) -> Option<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    let mut key = None;
    let mut has_string = false;
    let mut rest = line.char_indices().peekable();
    while let Some((at, character)) = rest.next() {
        match character {
            '"' | '\'' => {
                has_string = true;
                let content = at.plus(1)..string_end(character, &mut rest, line.len());
                match is_key(&line[content.end.plus(1).min(line.len())..]) {
                    true => key = Some(content),
                    false => parts.push(Part { content, key: key.take(), kind: Kind::Text }),
                }
            }
            '[' if is_bytes(&line[at.plus(1)..], key.clone().and_then(|key| line.get(key))) => {
                let array = &line[at.plus(1)..];
                let content = span(at.plus(1), array.find([']', '}', '"']).unwrap_or(array.len()));
                while rest.next_if(|(next, _)| *next < content.end).is_some() {}
                parts.push(Part { content, key: key.take(), kind: Kind::Bytes });
            }
            _ if character.is_whitespace() || "{}[],:;()".contains(character) => {}
            _ => {
                let is_other = |c: char| !"{}[],:;()\"'".contains(c) && !c.is_whitespace();
                let word_end = line[at..].find(|c| !is_other(c)).map_or(line.len(), |length| at.plus(length));
                let word = &line[at..word_end];
                if word.parse::<f64>().is_ok() || ["true", "false", "null"].contains(&word) {
                    while rest.next_if(|(next, _)| *next < word_end).is_some() {}
                    key = None;
                    continue;
                }
                if !has_string {
                    return None;
                }
                let end = line[at..].find(['"', '\'']).map_or(line.len(), |length| at.plus(length));
                while rest.next_if(|(next, _)| *next < end).is_some() {}
                parts.push(Part { content: at..end, key: None, kind: Kind::Other });
            }
        }
    }
    has_string.then_some(parts)
}

/// Whether an array is of bytes: under the key that has them, or because there are many numbers and nothing else.
fn is_bytes(array: &str, key: Option<&str>) -> bool {
    let numbers = array.split(',').take(MIN_ROW_BYTES);
    let starts_with_number = array.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let is_number = |number: &str| number.trim().parse::<u8>().is_ok();
    starts_with_number
        && (key == Some("MESSAGE") || numbers.filter(|number| is_number(number)).count() == MIN_ROW_BYTES)
}

/// Where a string ends; a line that ends before its quote ends it too.
fn string_end(quote: char, rest: &mut Peekable<CharIndices<'_>>, line_end: usize) -> usize {
    while let Some((at, character)) = rest.next() {
        match character {
            '\\' => drop(rest.next()),
            _ if character == quote => return at,
            _ => {}
        }
    }
    line_end
}

fn is_key(after: &str) -> bool {
    after.trim_start().starts_with(':')
}

fn unescape(line: &str, content: Range<usize>, edits: &mut Vec<Edit>) {
    let mut at = content.start;
    while let Some(found) = line[at..content.end].find('\\') {
        let start = at.plus(found);
        let escape = &line[start.plus(1)..content.end];
        let (with, length) = match escape.chars().next() {
            Some('n') => (Some('\n'), 1),
            Some('t') => (Some('\t'), 1),
            Some('r' | 'b' | 'f') => (None, 1),
            Some('u') => number(&escape[1..], 4),
            Some('x') => number(&escape[1..], 2),
            Some(character) => (Some(character), character.len_utf8()),
            None => return,
        };
        at = start.plus(1).plus(length);
        edits.push(Edit { range: start..at, with });
    }
}

/// The character of an escape with a hexadecimal number, and its length; half a character, or none, is replaced.
fn number(digits: &str, count: usize) -> (Option<char>, usize) {
    let number = digits.get(..count).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let Some(number) = number.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
        return (Some(char::REPLACEMENT_CHARACTER), 1);
    };
    (Some(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)), count.plus(1))
}

fn bytes(line: &str, content: Range<usize>, edits: &mut Vec<Edit>) {
    let mut at = content.start;
    for number in line[content.clone()].split(',') {
        // Rows are ASCII; what else there is need not be read.
        let byte = number.trim().parse::<u8>().ok().filter(u8::is_ascii);
        let end = at.plus(number.len()).plus(1).min(content.end);
        edits.push(Edit::replace(at..end, byte.map_or(char::REPLACEMENT_CHARACTER, char::from)));
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::super::strand::{Strand, in_lines};
    use super::*;

    fn undressed(text: &str) -> String {
        let mut strand = Strand::new(text);
        let edits = in_lines(strand.text(), undress);
        strand.edit(edits);
        strand.text().into()
    }

    #[test]
    fn strings_become_lines() {
        for (dressed, plain) in [
            (r#"  "a b","#, "a b"),
            (r#"["a", "b"]"#, "a\nb"),
            (r#"{ "key": "a\"\tb\u0041\/\\", "n": 1.5e3, "t": true }"#, "a\"\tbA/\\"),
            (r#"'it', "x\n","#, "it\nx\n"),
            (r#"{"log":"a\nb\n","stream":"stderr"}"#, "a\nb\n\nstderr"),
            (r#"{ "_PID" : "1", "MESSAGE" : "a", "X" : null }"#, "a"),
            (r#"{"MESSAGE":[97, 27,98,200],"X":"y"}"#, "a\u{1b}b\u{fffd}"),
            // Damaged: what might be a row stays visible.
            (r#""a b,"#, "a b,"),
            (r#""a"b c","#, "a\nb c\n,"),
            (r#""\ud800\uzz","#, "\u{fffd}\u{fffd}zz"),
        ] {
            assert_eq!(undressed(dressed), plain, "{dressed}");
        }
    }

    #[test]
    fn other_lines_stay() {
        for line in ["[    0.000000] usb: \"x\"", "[Runtime Data|RUN] \"", "about = \"x\"", "{ x: 1 }", "", "it's"] {
            assert_eq!(undressed(line), line);
        }
    }
}
