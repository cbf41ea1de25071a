//! Reading along a line, and what is wrong with it where it cannot be read.

use std::ops::Range;

use super::super::error::{ParseError, quoted};
use super::offset::{Offset, indent, shifted, span};

/// A place in a line.
pub(super) struct Cursor<'a> {
    pub(super) line: &'a str,
    pub(super) at: usize,
    /// Where the line starts in the text.
    pub(super) offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn decimal(&mut self, what: &str) -> Result<u64, Bad> {
        let (digits, span) = self.alphanumeric(what)?;
        digits.parse().map_err(|_| Bad::new(span, format!("{what} is no decimal number of 64 bits")))
    }

    pub(super) fn hex_u64(&mut self, what: &str) -> Result<u64, Bad> {
        let (number, span) = self.hex(what)?;
        check_digits(span.clone(), what)?;
        u64::try_from(number).map_err(|_| too_long(span, what))
    }

    pub(super) fn hex(&mut self, what: &str) -> Result<(u128, Range<usize>), Bad> {
        let (digits, span) = self.alphanumeric(what)?;
        Ok((hex_digits(digits, span.clone(), what)?, span))
    }

    /// `0x1f`, up to a blank or the end of the line.
    pub(super) fn hex_word(&mut self, what: &str) -> Result<u64, Bad> {
        self.literal("0x")?;
        let rest = self.rest();
        let length = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let span = self.span(length);
        let number = hex_digits(&rest[..length], span.clone(), what)?;
        self.skip(length);
        check_digits(span.clone(), what)?;
        u64::try_from(number).map_err(|_| too_long(span, what))
    }

    /// A token of letters and digits. Nothing follows it if the line was cut, so that is no token either.
    pub(super) fn alphanumeric(&mut self, what: &str) -> Result<(&'a str, Range<usize>), Bad> {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let span = self.span(length);
        if length == rest.len() {
            return Err(Bad::new(span, format!("the line ends in the middle of {what}")));
        }
        if length == 0 {
            return Err(Bad::new(self.to_end(), format!("{what} is missing")));
        }
        self.skip(length);
        Ok((&rest[..length], span))
    }

    pub(super) fn up_to_bar_or_bracket(&mut self, what: &str) -> Result<(&'a str, Range<usize>), Bad> {
        let rest = self.rest();
        let Some(length) = rest.find(['|', ']']) else {
            return Err(Bad::new(self.to_end(), format!("the line ends in the middle of {what}")));
        };
        let token = &rest[..length];
        let span = self.span(token.trim_end().len().max(1));
        self.skip(length);
        Ok((token.trim(), span))
    }

    pub(super) fn literal(&mut self, literal: &str) -> Result<(), Bad> {
        let rest = self.rest();
        if rest.starts_with(literal) {
            self.skip(literal.len());
            return Ok(());
        }
        let message = match literal.starts_with(rest) {
            true => format!("the line ends where `{literal}` should be"),
            false => format!("expected `{literal}`"),
        };
        Err(Bad::new(self.to_end(), message))
    }

    pub(super) fn blanks(&mut self) {
        self.skip(indent(self.rest()));
    }

    /// Goes on so many bytes.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.at = self.at.plus(bytes);
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.line[self.at..]
    }

    pub(super) fn span(&self, length: usize) -> Range<usize> {
        span(self.offset.plus(self.at), length)
    }

    /// What was read since the cursor was at a place of the line.
    pub(super) fn since(&self, at: usize) -> Range<usize> {
        shifted(at..self.at, self.offset)
    }

    pub(super) fn to_end(&self) -> Range<usize> {
        self.span(self.rest().len())
    }
}

/// What is wrong with a row, and where.
pub(super) struct Bad {
    span: Range<usize>,
    message: String,
    help: Option<&'static str>,
}

impl Bad {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None }
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Where in the text it is.
    pub(super) fn start(&self) -> usize {
        self.span.start
    }

    pub(super) fn help(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }

    /// `row`: how a sound row looks.
    pub(super) fn in_text(self, name: &str, text: &str, row: &str) -> ParseError {
        let error = ParseError::at(name, text, self.span, self.message);
        match self.help {
            Some(help) => error.help(help),
            None => error.help(format!("a row is `{row}`; copy it again, or remove the line")),
        }
    }
}

fn hex_digits(digits: &str, span: Range<usize>, what: &str) -> Result<u128, Bad> {
    if digits.is_empty() {
        return Err(Bad::new(span, format!("{what} is missing")));
    }
    if let Some(wrong) = digits.find(|digit: char| !digit.is_ascii_hexdigit()) {
        let message = format!("{what} has {} among its hexadecimal digits", quoted(&digits[wrong..]));
        return Err(Bad::new(span.start.plus(wrong)..span.end, message));
    }
    u128::from_str_radix(digits, 16).map_err(|_| too_long(span, what))
}

/// An address has 16 hexadecimal digits; with more, two numbers have run together, even if the first are zeros.
pub(super) fn check_digits(span: Range<usize>, what: &str) -> Result<(), Bad> {
    if span.len() > 16 { Err(too_long(span, what)) } else { Ok(()) }
}

pub(super) fn too_long(span: Range<usize>, what: &str) -> Bad {
    Bad::new(span, format!("{what} has more than 16 hexadecimal digits"))
}
