//! What terminals, web pages, forums and people put around rows.

use std::ops::Range;

use super::super::offset::{Offset, span, suffix_at};
use super::strand::Edit;

/// The prefix of a record of `/dev/kmsg`, and of netconsole's extended format: `6,123,0,-;efi: ...`, the kernel's release
/// before it (`netconsole_prepend_release`) and what the receiver wrote. Its escapes are `\x1b`.
pub(super) fn kmsg(line: &str, edits: &mut Vec<Edit>) {
    let Some(end) = line.find(';') else { return };
    let record = line[..end].rsplit(' ').next().unwrap_or_default();
    let is_number = |field: &str| !field.is_empty() && field.bytes().all(|digit| digit.is_ascii_digit());
    let fields: Vec<&str> = record.splitn(6, ',').collect();
    let is_record = |fields: &[&str]| fields.len() >= 4 && fields[..3].iter().all(|field| is_number(field));
    if !is_record(&fields) && !fields.get(1..).is_some_and(is_record) {
        return;
    }
    let mut at = end.plus(1);
    edits.push(Edit::remove(0..at));
    while let Some(found) = line[at..].find("\\x") {
        let start = at.plus(found);
        let byte = line.get(span(start.plus(2), 2)).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        at = start.plus(if byte.is_some() { 4 } else { 2 });
        edits.extend(byte.map(|byte| Edit::replace(start..at, char::from(byte))));
    }
}

/// The field of `journalctl -o export` and `-o verbose`.
pub(super) fn journal_field(line: &str, edits: &mut Vec<Edit>) {
    const FIELD: &str = "MESSAGE=";
    let rest = line.trim_start();
    if rest.starts_with(FIELD) {
        edits.push(Edit::remove(0..suffix_at(line, rest).plus(FIELD.len())));
    }
}

/// The marks of a quoted mail: `> > efi: ...`. One blank belongs to each.
pub(super) fn quoting(line: &str, edits: &mut Vec<Edit>) {
    let mut rest = line;
    while let Some(quoted) = rest.trim_start().strip_prefix('>') {
        rest = quoted.strip_prefix(' ').unwrap_or(quoted);
    }
    if rest.len() < line.len() {
        edits.push(Edit::remove(0..suffix_at(line, rest)));
    }
}

/// The escape sequences of terminals (ECMA-48), in the notations of `cat -v` and rsyslog too; and colours whose escape
/// character got lost on the way through a web page. Where the cursor was moved, another line or column begins.
pub(super) fn escapes(line: &str, edits: &mut Vec<Edit>) {
    let mut at = 0;
    while let Some(found) = line[at..].find(['\u{1b}', '^', '#', '[']) {
        let start = at.plus(found);
        let rest = &line[start..];
        let introducer = ["\u{1b}", "^[", "#033"].into_iter().find(|introducer| rest.starts_with(introducer));
        let after = introducer.map(|introducer| &rest[introducer.len()..]);
        let sequence = match after {
            Some(after) => {
                after.strip_prefix('[').map(control).or_else(|| rest.starts_with('\u{1b}').then(|| other(after)))
            }
            None => rest.strip_prefix('[').map(control).filter(|(rest, end)| is_colour(line, start, rest, *end)),
        };
        match sequence {
            Some((rest, last)) => {
                at = suffix_at(line, rest);
                let with = match last {
                    Some('H' | 'f' | 'E') => Some('\n'),
                    Some('C' | 'G') => Some(' '),
                    _ => None,
                };
                edits.push(Edit { range: start..at, with });
            }
            None => at = start.plus(1),
        }
    }
}

/// What follows a control sequence, and its last character.
fn control(text: &str) -> (&str, Option<char>) {
    let rest = text.trim_start_matches(|c: char| matches!(c, '0'..='?' | ' '..='/'));
    let last = rest.chars().next().filter(|last| matches!(last, '@'..='~'));
    (&rest[last.map_or(0, char::len_utf8)..], last)
}

/// What follows an escape sequence of another kind: a title up to its end, or a few characters.
fn other(text: &str) -> (&str, Option<char>) {
    if let Some(title) = text.strip_prefix(']') {
        let end = title.find(['\u{7}', '\u{1b}']).map_or(title, |end| &title[end..]);
        return (end.strip_prefix('\u{7}').or(end.strip_prefix("\u{1b}\\")).unwrap_or(end), None);
    }
    let rest = text.trim_start_matches(|c: char| matches!(c, ' '..='/'));
    (rest.strip_prefix(|c: char| matches!(c, '0'..='~')).unwrap_or(rest), None)
}

/// `[0m`, `[1;32m`
fn is_colour(line: &str, start: usize, rest: &str, last: Option<char>) -> bool {
    let numbers = &line[start.plus(1)..suffix_at(line, rest)];
    let numbers = numbers.strip_suffix('m').unwrap_or_default();
    last == Some('m') && !numbers.is_empty() && numbers.bytes().all(|byte| byte.is_ascii_digit() || byte == b';')
}

/// Tags and entities of HTML. A tag that begins a block begins a line.
pub(super) fn html(line: &str, edits: &mut Vec<Edit>) {
    let mut at = 0;
    while let Some(found) = line[at..].find(['<', '&']) {
        let start = at.plus(found);
        let edit = if line[start..].starts_with('<') { tag(line, start) } else { entity(line, start) };
        at = edit.as_ref().map_or(start.plus(1), |edit| edit.range.end);
        edits.extend(edit);
    }
}

const TAGS: [&str; 29] = [
    "a", "abbr", "b", "big", "body", "code", "del", "em", "font", "head", "html", "i", "ins", "kbd", "mark", "meta",
    "pre", "q", "s", "samp", "small", "span", "strong", "table", "tbody", "thead", "tt", "u", "var",
];
const BLOCKS: [&str; 15] =
    ["blockquote", "br", "dd", "div", "dl", "dt", "h1", "h2", "h3", "hr", "li", "ol", "p", "tr", "ul"];
const CELLS: [&str; 2] = ["td", "th"];

fn tag(line: &str, start: usize) -> Option<Edit> {
    let inner = &line[start.plus(1)..];
    let name = inner.strip_prefix('/').unwrap_or(inner);
    let length = name.find(|c: char| !c.is_ascii_alphanumeric())?;
    let (name, after) = name.split_at(length);
    if !after.starts_with(['>', '/', ' ', '\t']) {
        return None;
    }
    let last = inner.find(['<', '>']).filter(|last| inner[*last..].starts_with('>'))?;
    let is_one_of = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    let with = match () {
        () if is_one_of(&TAGS) => None,
        () if is_one_of(&BLOCKS) => Some('\n'),
        () if is_one_of(&CELLS) => Some(' '),
        () => return None,
    };
    Some(Edit { range: span(start, last.plus(2)), with })
}

fn entity(line: &str, start: usize) -> Option<Edit> {
    /// The longest that is read: `&#x10ffff;`.
    const LONGEST: usize = 10;
    let name = &line[start.plus(1)..];
    let length = name.bytes().take(LONGEST).position(|byte| byte == b';')?;
    let name = &name[..length];
    let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    let character = match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => match name.strip_prefix("#x").or(name.strip_prefix("#X")) {
            Some(digits) => number(digits, 16)?,
            None => number(name.strip_prefix('#')?, 10)?,
        },
    };
    let character = if character == '\u{a0}' { ' ' } else { character };
    Some(Edit::replace(span(start, length.plus(2)), character))
}

const BBCODES: [&str; 20] = [
    "b", "center", "code", "codebox", "color", "font", "hide", "i", "icode", "indent", "left", "noparse", "plain",
    "pre", "quote", "s", "size", "spoiler", "tt", "u",
];

/// The tags of forums: `[code]`, `[/b]`, `[color=#ff0000]`.
pub(super) fn bbcode(line: &str, edits: &mut Vec<Edit>) {
    let mut at = 0;
    while let Some(found) = line[at..].find('[') {
        let start = at.plus(found);
        at = start.plus(1);
        let inner = line[at..].strip_prefix('/').unwrap_or(&line[at..]);
        let length = inner.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(inner.len());
        let (name, after) = inner.split_at(length);
        let value = if after.starts_with(['=', ' ']) { after.find([']', '[', '|']).unwrap_or(0) } else { 0 };
        let is_tag = after[value..].starts_with(']') && BBCODES.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_tag {
            at = suffix_at(line, &after[value..]).plus(1);
            edits.push(Edit::remove(start..at));
        }
    }
}

/// What someone wrote behind a row with an arrow to it. `head` puts one on either side of a file's name.
pub(super) fn arrow(line: &str, edits: &mut Vec<Edit>) {
    if line.trim_start().starts_with("==> ") {
        return;
    }
    const ARROWS: [&str; 8] = ["<-", "<=", "<<", "<~", "←", "⇐", "⟵", "◄"];
    let is_arrow = |at: &usize| {
        let before = &line[..*at];
        before.ends_with(char::is_whitespace)
            && ARROWS.iter().any(|arrow| line[*at..].starts_with(arrow))
            && !before.trim_start().is_empty()
    };
    let found = line.match_indices(['<', '←', '⇐', '⟵', '◄']).map(|(at, _)| at).find(is_arrow);
    edits.extend(found.map(|at| Edit::remove(line[..at].trim_end().len()..line.len())));
}

/// Markdown's code and bold text: what is between back-ticks at the start of a line is a line.
pub(super) fn markdown(line: &str, edits: &mut Vec<Edit>) {
    let content = line.trim_start().trim_start_matches(['-', '*', '+', ' ']);
    if content.starts_with('`') {
        let start = suffix_at(line, content);
        let runs = runs_of_ticks(line, start);
        edits.extend(runs.into_iter().map(|run| match run.start == start {
            true => Edit::remove(0..run.end),
            false if line[run.end..].trim().is_empty() => Edit::remove(run.start..line.len()),
            false => Edit::replace(run, '\n'),
        }));
        return;
    }
    let end = line.trim_end();
    let (bold, is_bold) = (line.trim_start(), end.trim_start().starts_with("**") && end.len() > 4);
    if is_bold && end.ends_with("**") {
        let start = suffix_at(line, bold);
        edits.extend([Edit::remove(span(start, 2)), Edit::remove(end.len().minus(2)..end.len())]);
    } else if end.ends_with('`') {
        edits.push(Edit::remove(end.trim_end_matches('`').len()..line.len()));
    }
}

fn runs_of_ticks(line: &str, from: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (at, _) in line[from..].match_indices('`') {
        let at = from.plus(at);
        match runs.last_mut().filter(|run| run.end == at) {
            Some(run) => run.end = at.plus(1),
            None => runs.push(span(at, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::strand::{Strand, in_lines};
    use super::*;

    fn edited(text: &str, dress: impl Fn(&str, &mut Vec<Edit>)) -> String {
        let mut strand = Strand::new(text);
        let edits = in_lines(strand.text(), dress);
        strand.edit(edits);
        strand.text().into()
    }

    #[test]
    fn prefixes_of_records_go() {
        for (line, plain) in [
            ("6,123,0,-;efi: x", "efi: x"),
            ("6,123,0,-,caller=T0;efi: x\\x0a\\xzz", "efi: x\n\\xzz"),
            ("6.9.0-1,6,123,0,-;efi: x", "efi: x"),
            ("Nov 22 13:51:00 10.0.0.1 6,123,0,c;efi: x", "efi: x"),
            (" SUBSYSTEM=acpi", " SUBSYSTEM=acpi"),
            ("3, A, EfiACPIMemoryNVS, 00800000, 8, F;", "3, A, EfiACPIMemoryNVS, 00800000, 8, F;"),
        ] {
            assert_eq!(edited(line, kmsg), plain, "{line}");
        }
        assert_eq!(edited("    MESSAGE=efi: x", journal_field), "efi: x");
        assert_eq!(edited(">> >  efi: x", quoting), " efi: x");
    }

    #[test]
    fn escape_sequences_go() {
        for (line, plain) in [
            ("\u{1b}[1;32mefi:\u{1b}[0m \u{1b}[Kmem", "efi: mem"),
            ("^[[32mefi#033[0m", "efi"),
            ("[32mefi[0m", "efi"),
            ("\u{1b}]0;title\u{7}efi\u{1b}(B", "efi"),
            ("a\u{1b}[2;1Hb\u{1b}[3Cc", "a\nb c"),
            (
                "[    0.000000] MMap[25]: [#112] [Runtime Data|RUN] ^ #",
                "[    0.000000] MMap[25]: [#112] [Runtime Data|RUN] ^ #",
            ),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
        ] {
            assert_eq!(edited(line, escapes), plain, "{line:?}");
        }
    }

    #[test]
    fn tags_go() {
        for (line, plain) in [
            ("<pre class=\"x\"><code>a<br/>b</code></pre>", "a\nb"),
            ("<tr><td>RT_Data</td><td>0</td></tr>", "\n RT_Data  0 \n"),
            ("&lt;6&gt;a&nbsp;b &amp;amp; &#x5b;&#93;&quot;&bad;&", "<6>a b &amp; []\"&bad;&"),
            ("<6>a <INVALID> <b", "<6>a <INVALID> <b"),
        ] {
            assert_eq!(edited(line, html), plain, "{line}");
        }
        assert_eq!(edited("[code][color=#f00]a [b]b[/b][/color][/CODE]", bbcode), "a b");
        let row = "[    0.0] efi: mem00: [type=3|  |WB] [Reserved|UC] [b";
        assert_eq!(edited(row, bbcode), row);
    }

    #[test]
    fn what_people_write_goes() {
        assert_eq!(edited("efi: x]   <-- this one", arrow), "efi: x]");
        assert_eq!(edited("efi: x] ← hier\nb", arrow), "efi: x]\nb");
        for line in ["<-- efi", "OCMM: 0x1 -> 0x0", "a<-b", "  <INVALID> 0"] {
            assert_eq!(edited(line, arrow), line);
        }
        for (line, plain) in [
            ("`efi: x`", "efi: x"),
            ("- ``efi: x`` is it", "efi: x\n is it"),
            ("```", ""),
            ("efi: x`", "efi: x"),
            ("**efi: x**", "efi: x"),
            ("efi: x]*", "efi: x]*"),
            ("the `efi` is", "the `efi` is"),
        ] {
            assert_eq!(edited(line, markdown), plain, "{line}");
        }
    }
}
