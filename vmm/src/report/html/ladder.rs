//! A walk that is drawn entry by entry, without the page's script: all its bits, and where it ended.

use maud::{Markup, html};

use crate::mmu::{Level, Pa, bits};
use crate::report::style::{printable, size};
use crate::report::walk;

/// A walk of one address.
pub struct Walk {
    /// Whose tables it is of.
    pub title: String,
    /// The entries, from the top down.
    pub rungs: Vec<Rung>,
    /// What there is to say of its end.
    pub end: String,
}

/// One entry.
pub struct Rung {
    /// Its level.
    pub level: Level,
    /// Its index in the table.
    pub index: usize,
    /// Where it lies; None: that is not known.
    pub at: Option<Pa>,
    /// Its value.
    pub entry: u64,
    /// Its reserved bits.
    pub reserved: u64,
    /// Whether it denies the access.
    pub denies: bool,
}

/// A section of the page.
pub fn section(walk: &Walk) -> Markup {
    html! {
        section.said.ladder {
            h2 { (printable(&walk.title)) }
            table.walk {
                thead { tr { th scope="col" { "entry" } th scope="col" { "at" } th scope="col" { "value" } th scope="col" { "bits" } } }
                tbody { @for rung in &walk.rungs { (row(rung)) } }
            }
            p { (printable(&walk.end)) }
        }
    }
}

fn row(rung: &Rung) -> Markup {
    let at = rung.at.map_or_else(|| "not told".into(), |at| format!("{at:#x}"));
    let names = walk::named_bits(rung.level, rung.level.maps_page(rung.entry)).filter(|(bit, _)| rung.entry & bit != 0);
    html! {
        tr.reserved[rung.reserved != 0].denies[rung.denies] {
            td { (rung.level) " " (rung.index) }
            td { (at) }
            td { (format!("{:#018x}", rung.entry)) }
            td {
                @for (bit, name) in names { abbr title={ "bit " (bit.trailing_zeros()) } { (name) } }
                span.leads { (leads_to(rung)) }
            }
        }
        tr.bits { td colspan="4" { (bits_of(rung)) } }
    }
}

fn leads_to(rung: &Rung) -> String {
    match () {
        () if rung.entry & bits::P == 0 => "not present".into(),
        () if rung.level.maps_page(rung.entry) => format!("maps {}", size(rung.level.span_bytes().into())),
        () => "table".into(),
    }
}

/// All 64 bits in groups of four, the reserved ones marked.
fn bits_of(rung: &Rung) -> Markup {
    html! {
        @for bit in (0..64_u32).rev() {
            @let digit = rung.entry >> bit & 1;
            @if rung.reserved >> bit & 1 == 1 { mark title={ "bit " (bit) } { (digit) } } @else { (digit) }
            @if bit == 32 { "  " } @else if bit.is_multiple_of(4) && bit > 0 { " " }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leaf of 2 MiB of the bug of 2013, in which bits 20, 18:17 and 14:13 must be 0.
    #[test]
    fn every_bit_stands_in_the_row_and_reserved_ones_are_marked() {
        let reserved = 1 << 20 | 3 << 17 | 3 << 13;
        let rung = Rung { level: Level::Pde, index: 506, at: None, entry: 0x7dd6_6083, reserved, denies: true };
        let walk = Walk { title: "a<b".into(), rungs: vec![rung], end: "\u{1b}end".into() };
        let page = section(&walk).into_string();
        assert!(page.contains("<h2>a&lt;b</h2>") && page.contains("<p>\\u{1b}end</p>"), "{page}");
        assert!(
            page.contains("<tr class=\"reserved denies\"><td>PDE 506</td><td>not told</td><td>0x000000007dd66083</td>")
        );
        assert_eq!(page.matches("<mark").count(), 5);
        let (_, row) = page.split_once("<tr class=\"bits\">").unwrap();
        let mut digits = String::new();
        for part in row.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)) {
            digits.extend(part.chars().take_while(|c| *c != '\n').filter(char::is_ascii_digit).take(64));
        }
        assert_eq!(u64::from_str_radix(&digits[..64], 2), Ok(0x7dd6_6083), "{digits}");
        assert!(page.contains("maps 2 MiB"), "{page}");
    }
}
