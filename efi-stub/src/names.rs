//! Closed lists whose rows have names: one list says the names, their order, and how they are read and shown.

use core::fmt;

/// Gives an enum without fields its names: `ALL`, `NAMES`, `name`, `Display` and `FromStr`, from one list.
#[macro_export]
#[doc(hidden)]
macro_rules! names {
    ($type:ident, $what:literal: $($variant:ident $name:literal),* $(,)?) => {
        impl $type {
            /// All of them, in the order in which they are listed.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// Its name, as scenarios, options and reports have it. It stays the same.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }

        impl ::core::fmt::Display for $type {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.pad(self.name())
            }
        }

        impl ::core::str::FromStr for $type {
            type Err = $crate::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                let known = Self::ALL.iter().copied().find(|each| each.name() == name);
                known.ok_or_else(|| $crate::UnknownName::new($what, name, Self::NAMES))
            }
        }
    };
}

/// A name that is not in a list. It says which are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UnknownName {
    what: &'static str,
    names: &'static [&'static str],
    found: [u8; MAX_FOUND_BYTES],
    /// Bytes of `found`: all, or as many as fit.
    length: usize,
    is_cut: bool,
}

/// How much of a name is kept, which anybody may have written: more than any real name has.
const MAX_FOUND_BYTES: usize = 40;

impl UnknownName {
    /// Of `what`, a noun as in `layout`.
    #[doc(hidden)]
    pub fn new(what: &'static str, found: &str, names: &'static [&'static str]) -> Self {
        let length = (0..=found.len().min(MAX_FOUND_BYTES)).rev().find(|at| found.is_char_boundary(*at)).unwrap_or(0);
        let mut kept = [0; MAX_FOUND_BYTES];
        kept[..length].copy_from_slice(&found.as_bytes()[..length]);
        Self { what, names, found: kept, length, is_cut: length < found.len() }
    }

    /// The names that there are.
    pub const fn names(&self) -> &'static [&'static str] {
        self.names
    }
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = str::from_utf8(&self.found[..self.length]).unwrap_or_default();
        let more = if self.is_cut { "..." } else { "" };
        write!(f, "no {} `{}{more}`; there are ", self.what, found.escape_debug())?;
        for (index, name) in self.names.iter().enumerate() {
            write!(f, "{}{name}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What a test prints that ends with this error.
impl fmt::Debug for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for UnknownName {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;
    use crate::Service;

    #[test]
    fn an_error_says_what_was_found_and_what_there_is() {
        let error = "GetTim\u{1b}".parse::<Service>().unwrap_err().to_string();
        assert!(error.starts_with(r"no runtime service `GetTim\u{1b}`; there are GetTime, SetTime, "), "{error}");
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let name = "é".repeat(1 << 20) + "x";
        for from in [0, 2] {
            let error = UnknownName::new("name", &name[from..], &["a"]).to_string();
            assert_eq!(error, std::format!("no name `{}...`; there are a", "é".repeat(20)));
        }
        let odd = UnknownName::new("name", &name[name.len() - 41..], &["a"]).to_string();
        assert_eq!(odd, std::format!("no name `{}...`; there are a", "é".repeat(20)));
    }
}
