//! Mail in quoted-printable (RFC 2045, section 6.7): `=3D` for `=`, and lines that end in `=` go on in the next.

use super::super::offset::{Offset, lines, shifted, span};
use super::strand::Edit;

/// The most characters that a line has, and the fewest that one has which was broken.
const LONGEST: usize = 76;
const SHORTEST: usize = 60;

/// The edits that decode a text, if it was encoded. Rows as they are printed have `=` too, but not before two digits
/// everywhere.
pub(super) fn decode(text: &str) -> Vec<Edit> {
    if !text.contains('=') {
        return Vec::new();
    }
    let is_encoded = text.split('\n').any(tells_encoding);
    let mut edits = Vec::new();
    for (offset, line) in lines(text) {
        let soft = soft_break(line, is_encoded);
        let content = soft.unwrap_or(line.len());
        if is_encoded && is_decodable(&line[..content]) {
            escapes(line, content, offset, &mut edits);
        }
        let next = offset.plus(line.len()).plus(1);
        if soft.is_some() && next <= text.len() {
            edits.push(Edit::remove(offset.plus(content)..next));
        }
    }
    edits
}

/// The header that says so, or a line that has `=3D`.
fn tells_encoding(line: &str) -> bool {
    const HEADER: &str = "content-transfer-encoding:";
    let header = line.get(..HEADER.len()).filter(|start| start.eq_ignore_ascii_case(HEADER));
    if header.is_some() {
        return line[HEADER.len()..].trim().eq_ignore_ascii_case("quoted-printable");
    }
    let content = soft_break(line, true).map_or(line, |end| &line[..end]);
    (line.contains("=3D") || line.contains("=3d")) && is_decodable(content)
}

/// Where the `=` is that breaks a line.
fn soft_break(line: &str, is_encoded: bool) -> Option<usize> {
    let content = line.trim_end().strip_suffix('=').filter(|content| !content.ends_with('='))?;
    let is_broken = is_encoded || (SHORTEST..LONGEST).contains(&content.len());
    is_broken.then_some(content.len())
}

fn is_decodable(line: &str) -> bool {
    line.match_indices('=').all(|(at, _)| escape(line, at).is_some())
}

fn escape(line: &str, at: usize) -> Option<u8> {
    let digits =
        line.get(span(at.plus(1), 2)).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

fn escapes(line: &str, end: usize, offset: usize, edits: &mut Vec<Edit>) {
    let mut at = 0;
    while let Some(found) = line[at..end].find('=') {
        let start = at.plus(found);
        let mut bytes = Vec::new();
        at = start;
        while let Some(byte) = line[..end].get(at..).filter(|rest| rest.starts_with('=')).and_then(|_| escape(line, at))
        {
            bytes.push(byte);
            at = at.plus(3);
        }
        let decoded = String::from_utf8_lossy(&bytes);
        let mut places = (start..at).step_by(3);
        for character in decoded.chars() {
            let length = if character == char::REPLACEMENT_CHARACTER { 1 } else { character.len_utf8() };
            let mut taken = places.by_ref().take(length);
            let place = taken.next().unwrap_or(at);
            let end = taken.last().unwrap_or(place).plus(3).min(at);
            edits.push(Edit { range: shifted(place..end, offset), with: Some(character) });
        }
        edits.extend(places.map(|place| Edit::remove(span(offset.plus(place), 3))));
    }
}

#[cfg(test)]
mod tests {
    use super::super::strand::Strand;
    use super::*;

    fn decoded(text: &str) -> String {
        let mut strand = Strand::new(text);
        strand.edit(decode(text));
        strand.text().into()
    }

    #[test]
    fn escapes_and_soft_breaks_are_decoded() {
        assert_eq!(decoded("a=3D=\r\nb=20\r\n=C3=A9 =C3"), "a=b \r\né \u{fffd}");
        assert_eq!(
            decoded("Content-Transfer-Encoding: Quoted-Printable\nx=\n y=20"),
            "Content-Transfer-Encoding: Quoted-Printable\nx y "
        );
        let long = "x".repeat(75);
        assert_eq!(decoded(&format!("{long}=\ny")), format!("{long}y"));
    }

    #[test]
    fn what_is_not_encoded_stays() {
        for text in [
            "(XEN)  000007f28d000-000007f5f2fff type=6 attr=800000000000000f",
            "root=3D00 type=6\nx=",
            "====\nx =\ny",
            "attr=80",
        ] {
            assert_eq!(decoded(text), text);
        }
    }
}
