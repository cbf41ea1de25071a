//! What the rows of several printers have in common: padded hexadecimal columns, types by name, attribute words, and
//! ends that must agree with page counts.

use std::ops::Range;

use super::super::error::quoted;
use super::super::names::ATTRIBUTES;
use super::super::oddity::OddityKind;
use super::super::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES};
use super::cursor::{Bad, Cursor, check_digits};
use super::offset::Offset;
use super::row::{Row, RowKind};

impl<'a> Cursor<'a> {
    /// A hexadecimal number that its printer pads to `digits` digits. Fewer mean that it was cut, more that the number
    /// has more.
    pub(super) fn padded_hex(&mut self, what: &str, digits: usize) -> Result<u64, Bad> {
        let (token, span) = self.token();
        if token.len() < digits {
            return Err(match self.rest().is_empty() {
                true => Bad::new(span, format!("the line ends in the middle of {what}")),
                false => {
                    Bad::new(span, format!("{what} has {} digits, but is printed with {digits}", token.chars().count()))
                }
            });
        }
        hex_digits(token, span, what)
    }

    /// A hexadecimal number of any length.
    pub(super) fn free_hex(&mut self, what: &str) -> Result<u64, Bad> {
        let (token, span) = self.token();
        if token.is_empty() {
            return Err(Bad::new(self.to_end(), format!("{what} is missing")));
        }
        hex_digits(token, span, what)
    }

    /// A decimal number of any length.
    pub(super) fn free_decimal(&mut self, what: &str) -> Result<u64, Bad> {
        let (token, span) = self.token();
        if token.is_empty() {
            return Err(Bad::new(self.to_end(), format!("{what} is missing")));
        }
        let is_decimal = token.bytes().all(|digit| digit.is_ascii_digit());
        let number = token.parse().ok().filter(|_| is_decimal);
        number.ok_or_else(|| Bad::new(span, format!("{what} is no decimal number of 64 bits")))
    }

    /// A type as a decimal number.
    pub(super) fn type_number(&mut self) -> Result<MemoryType, Bad> {
        let at = self.at;
        let number = self.free_decimal("the type")?;
        let span = self.since(at);
        u32::try_from(number).map(MemoryType).map_err(|_| Bad::new(span, "the type is no number of 32 bits"))
    }

    /// Letters and digits, perhaps none.
    pub(super) fn token(&mut self) -> (&'a str, Range<usize>) {
        self.take_while(char::is_alphanumeric)
    }

    /// What comes before the next blank, perhaps nothing.
    pub(super) fn word(&mut self) -> (&'a str, Range<usize>) {
        self.take_while(|c| !c.is_whitespace())
    }

    /// The characters that `belongs` holds of, perhaps none.
    pub(super) fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> (&'a str, Range<usize>) {
        let rest = self.rest();
        let token = &rest[..rest.find(|c| !belongs(c)).unwrap_or(rest.len())];
        let span = self.span(token.len());
        self.skip(token.len());
        (token, span)
    }

    /// One blank at least: columns that touch have run together.
    pub(super) fn gap(&mut self, before: &str) -> Result<(), Bad> {
        match self.rest().chars().next() {
            None => Err(Bad::new(self.to_end(), format!("the line ends where {before} should be"))),
            Some(c) if c.is_whitespace() => {
                self.blanks();
                Ok(())
            }
            Some(_) => Err(Bad::new(self.to_end(), format!("expected a blank and {before}"))),
        }
    }

    /// The rest of the line is blank.
    pub(super) fn end(&mut self) -> Result<(), Bad> {
        self.blanks();
        if self.rest().is_empty() {
            return Ok(());
        }
        Err(Bad::new(self.to_end(), format!("the row is followed by {}", quoted(self.rest()))))
    }

    /// Attribute words up to the end of the line, with blanks or `separator` between them.
    pub(super) fn attribute_words(&mut self, separator: char) -> Result<MemoryAttribute, Bad> {
        let mut all = MemoryAttribute::empty();
        loop {
            self.take_while(|c| c.is_whitespace() || c == separator);
            let (word, span) = self.take_while(|c| !c.is_whitespace() && c != separator);
            if word.is_empty() {
                return Ok(all);
            }
            let unknown = || Bad::new(span, format!("unknown attribute {}", quoted(word)));
            all |= attribute_word(word).ok_or_else(unknown)?;
        }
    }
}

/// What a printer has for a type of which it knows no name and does not print the number.
pub(super) enum Named {
    /// The type.
    Type(MemoryType),
    /// The number is lost.
    Lost,
}

/// Finds a type by its name among a printer's names in the order of the types.
pub(super) fn type_named(name: &str, names: &[&str], lost: &str) -> Option<Named> {
    if name == lost {
        return Some(Named::Lost);
    }
    let index = names.iter().position(|known| *known == name)?;
    u32::try_from(index).ok().map(|number| Named::Type(MemoryType(number)))
}

impl Named {
    /// The row of a descriptor, whose type is this.
    ///
    /// A type whose number is lost reads as ReservedMemoryType, with a note: whether a region is mapped and how is the
    /// matter of its attributes, which are there.
    pub(super) fn row(self, descriptor: MemoryDescriptor, printed: &str) -> Row {
        match self {
            Self::Type(ty) => Row { descriptor: MemoryDescriptor { ty, ..descriptor }, ..Row::region(descriptor) },
            Self::Lost => {
                let message =
                    format!("has the type {}: its number is lost, it is read as ReservedMemoryType", quoted(printed));
                Row { odd: Some((OddityKind::LostType, message)), ..Row::region(descriptor) }
            }
        }
    }
}

impl Row {
    /// A row that gives a descriptor and nothing else.
    pub(super) fn region(descriptor: MemoryDescriptor) -> Self {
        Self { number: None, descriptor, kind: RowKind::Region, odd: None, end: None }
    }
}

/// Whether attributes are those of an entry of the Memory Attributes Table: it has permissions only (UEFI 2.10, section
/// 4.6.4), while regions of a map that have RUNTIME say how they may be cached.
pub(super) fn is_entry(att: MemoryAttribute) -> bool {
    const CACHEABILITY: MemoryAttribute = MemoryAttribute::UNCACHEABLE
        .union(MemoryAttribute::WRITE_COMBINE)
        .union(MemoryAttribute::WRITE_THROUGH)
        .union(MemoryAttribute::WRITE_BACK)
        .union(MemoryAttribute::UNCACHABLE_EXPORTED)
        .union(MemoryAttribute::WRITE_PROTECT);
    att.contains(MemoryAttribute::RUNTIME) && !att.intersects(CACHEABILITY)
}

/// An unknown type, as an error.
pub(super) fn unknown_type(name: &str, span: Range<usize>) -> Bad {
    Bad::new(span, format!("unknown memory type {}", quoted(name)))
}

/// Reads one attribute: UEFI's name without `EFI_MEMORY_`, or what printers abbreviate it to.
pub(super) fn attribute_word(word: &str) -> Option<MemoryAttribute> {
    const SHORT: [(MemoryAttribute, &str); 5] = [
        (MemoryAttribute::RUNTIME, "RT"),
        (MemoryAttribute::RUNTIME, "RUN"),
        (MemoryAttribute::MORE_RELIABLE, "MR"),
        (MemoryAttribute::MORE_RELIABLE, "REL"),
        (MemoryAttribute::CPU_CRYPTO, "CRY"),
    ];
    let mut known = ATTRIBUTES.iter().chain(&SHORT);
    known.find(|(_, name)| *name == word).map(|(bit, _)| *bit)
}

/// The pages from `start` to the last byte at `last`.
pub(super) fn pages_through(start: u64, last: u64, span: Range<usize>) -> Result<u64, Bad> {
    pages(start, last.wrapping_add(1), last, span)
}

/// The pages from `start` to `end`, the first byte after them.
pub(super) fn pages_to(start: u64, end: u64, span: Range<usize>) -> Result<u64, Bad> {
    pages(start, end, end, span)
}

/// Checks an end against the number of pages, in the arithmetic modulo 2^64 that printers use: a region that wraps is
/// a map to judge, not a damaged row.
pub(super) fn check_last(start: u64, pages: u64, last: u64, span: Range<usize>) -> Result<(), Bad> {
    let computed = last_byte(start, pages);
    if last == computed {
        return Ok(());
    }
    Err(Bad::new(span, format!("the end is {last:#x}, but {pages:#x} pages from {start:#x} end at {computed:#x}")))
}

/// The last byte of so many pages, modulo 2^64: one before the start for none.
pub(super) fn last_byte(start: u64, pages: u64) -> u64 {
    start.wrapping_add(pages.wrapping_mul(PAGE_BYTES)).wrapping_sub(1)
}

/// `end` may be 0 for 2^64.
fn pages(start: u64, end: u64, printed: u64, span: Range<usize>) -> Result<u64, Bad> {
    let is_top = end == 0 && start != 0;
    if end < start && !is_top {
        return Err(Bad::new(span, format!("the end {printed:#x} is before the start {start:#x}")));
    }
    let bytes = end.wrapping_sub(start);
    if !bytes.is_multiple_of(PAGE_BYTES) {
        let message = format!("from {start:#x} to {printed:#x} is not a whole number of 4 KiB pages");
        return Err(Bad::new(span, message));
    }
    Ok(bytes / PAGE_BYTES)
}

fn hex_digits(token: &str, span: Range<usize>, what: &str) -> Result<u64, Bad> {
    if let Some(wrong) = token.find(|digit: char| !digit.is_ascii_hexdigit()) {
        let message = format!("{what} has {} among its hexadecimal digits", quoted(&token[wrong..]));
        return Err(Bad::new(span.start.plus(wrong)..span.end, message));
    }
    check_digits(span.clone(), what)?;
    u64::from_str_radix(token, 16).map_err(|_| Bad::new(span, format!("{what} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_to_either_kind_of_end() {
        assert_eq!(pages_through(0x1000, 0x2fff, 0..0).ok(), Some(2));
        assert_eq!(pages_to(0x1000, 0x3000, 0..0).ok(), Some(2));
        assert_eq!(pages_through(0x1000, 0xfff, 0..0).ok(), Some(0));
        assert_eq!(pages_through(0xffff_ffff_ffff_f000, u64::MAX, 0..0).ok(), Some(1));
        assert_eq!(pages_to(0xffff_ffff_ffff_f000, 0, 0..0).ok(), Some(1));
        assert_eq!(pages_to(0, 0, 0..0).ok(), Some(0));
        assert_eq!(pages_through(0x1234, 0x2233, 0..0).ok(), Some(1));
    }

    #[test]
    fn ends_that_cannot_be_are_refused() {
        let message = |result: Result<u64, Bad>| result.map_err(|bad| bad.message().to_string()).unwrap_err();
        assert_eq!(
            message(pages_through(0x1000, 0x2ffe, 0..0)),
            "from 0x1000 to 0x2ffe is not a whole number of 4 KiB pages"
        );
        assert_eq!(message(pages_to(0x2000, 0x1000, 0..0)), "the end 0x1000 is before the start 0x2000");
        assert_eq!(
            check_last(0x1000, 2, 0x3fff, 0..0).map_err(|bad| bad.message().to_string()),
            Err("the end is 0x3fff, but 0x2 pages from 0x1000 end at 0x2fff".into())
        );
    }

    #[test]
    fn a_wrapping_end_that_agrees_with_its_pages_is_no_damage() {
        assert!(check_last(0xffff_ffff_ffff_f000, 2, 0xfff, 0..0).is_ok());
        assert!(check_last(0, 0, u64::MAX, 0..0).is_ok());
    }
}
