//! Numbers that have a range. It is checked once: when one is made.

use std::fmt;

/// A number, or a text, that is not among the numbers that are allowed. It says which are.
#[derive(Clone, PartialEq, Eq)]
pub struct OutOfRange {
    found: String,
    allowed: Allowed,
}

/// What is allowed of some number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// What the number is.
    pub what: &'static str,
    pub first: u64,
    pub last: u64,
    pub step: u64,
    pub unit: &'static str,
    /// The manual and section that says so, if one does.
    pub source: Option<&'static str>,
}

impl OutOfRange {
    /// What is allowed, as in `a multiple of 8 from 40 to 4096`.
    pub fn expected(&self) -> String {
        let Allowed { first, last, step, unit, .. } = self.allowed;
        match step {
            1 => format!("{first} to {last} {unit}"),
            _ => format!("a multiple of {step} from {first} to {last}"),
        }
    }

    pub(crate) fn number(found: impl fmt::Display, allowed: Allowed) -> Self {
        Self { found: found.to_string(), allowed }
    }

    /// Of a text, which anybody may have written: short, and without control characters.
    pub(crate) fn text(found: &str, allowed: Allowed) -> Self {
        const MAX_CHARS: usize = 40;
        let found: String = found.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
        Self { found: format!("`{found}`"), allowed }
    }
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no {}: expected {}", self.found, self.allowed.what, self.expected())?;
        self.allowed.source.map_or(Ok(()), |source| write!(f, " ({source})"))
    }
}

/// What a test prints that ends with this error.
impl fmt::Debug for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for OutOfRange {}

/// Declares a type for numbers that have a range.
macro_rules! bounded {
    (
        $(#[$doc:meta])*
        $name:ident($integer:ident): $first:literal to $last:literal by $step:literal, $unit:literal,
        $what:literal, $source:expr
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($integer);

        impl $name {
            /// The least one.
            pub const MIN: Self = Self($first);
            /// The greatest one.
            pub const MAX: Self = Self($last);

            const ALLOWED: $crate::bounded::Allowed = $crate::bounded::Allowed {
                what: $what,
                first: $first,
                last: $last,
                step: $step,
                unit: $unit,
                source: $source,
            };

            /// That number, if it is allowed.
            pub const fn new(number: $integer) -> Option<Self> {
                let is_allowed = $first <= number && number <= $last && number.is_multiple_of($step);
                if is_allowed { Some(Self(number)) } else { None }
            }

            /// The number.
            pub const fn get(self) -> $integer {
                self.0
            }
        }

        $crate::bounded::bounded!(@from $name($integer): u8 u16 u32 u64 usize i32 i64);

        impl std::str::FromStr for $name {
            type Err = $crate::OutOfRange;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let number = text.parse().ok().and_then(Self::new);
                number.ok_or_else(|| $crate::OutOfRange::text(text, Self::ALLOWED))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                u64::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "cli")]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::bounded::schema(Self::ALLOWED)
            }
        }
    };
    (@from $name:ident($integer:ident): $($from:ident)*) => {
        $(
            impl TryFrom<$from> for $name {
                type Error = $crate::OutOfRange;

                fn try_from(number: $from) -> Result<Self, Self::Error> {
                    let allowed = $integer::try_from(number).ok().and_then(Self::new);
                    allowed.ok_or_else(|| $crate::OutOfRange::number(number, Self::ALLOWED))
                }
            }
        )*
    };
}

pub(crate) use bounded;

/// The range as a JSON schema.
#[cfg(feature = "cli")]
pub(crate) fn schema(allowed: Allowed) -> schemars::Schema {
    let Allowed { first, last, step, .. } = allowed;
    let mut schema = schemars::json_schema!({ "type": "integer", "minimum": first, "maximum": last });
    if step > 1 {
        schema.insert("multipleOf".into(), step.into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use crate::{DescriptorSize, MaxPhyAddr, VariableBytes};

    #[test]
    fn what_is_allowed_is_made_and_nothing_else() {
        let sizes: Vec<usize> = (0..10_000).filter(|bytes| DescriptorSize::try_from(*bytes).is_ok()).collect();
        assert_eq!(sizes, (40..=4096).step_by(8).collect::<Vec<_>>());
        let widths: Vec<i32> = (-300..300).filter(|bits| MaxPhyAddr::try_from(*bits).is_ok()).collect();
        assert_eq!(widths, (32..=52).collect::<Vec<_>>());
        for (bytes, is_allowed) in [(0, false), (1, true), (65_536, true), (65_537, false), (u64::MAX, false)] {
            assert_eq!(VariableBytes::try_from(bytes).is_ok(), is_allowed, "{bytes}");
        }
        // A number that is not cut to the right size first.
        assert!(MaxPhyAddr::try_from(0x100_u64 + 40).is_err());
    }

    #[test]
    fn an_error_says_what_was_found_and_what_is_allowed() {
        let of_number = DescriptorSize::try_from(44_u64).unwrap_err();
        let says = "44 is no DescriptorSize: expected a multiple of 8 from 40 to 4096 (UEFI 2.10, 7.2.3)";
        assert_eq!((of_number.to_string(), format!("{of_number:?}")), (says.into(), says.into()));
        let of_text = "4\u{1b}x".parse::<MaxPhyAddr>().unwrap_err().to_string();
        assert_eq!(of_text, r"`4\u{1b}x` is no MAXPHYADDR: expected 32 to 52 bits (SDM vol. 3A, 4.1.4)");
        let of_variable = "0".parse::<VariableBytes>().unwrap_err().to_string();
        assert_eq!(of_variable, "`0` is no size of a variable: expected 1 to 65536 bytes");
    }

    #[test]
    fn a_text_is_read_as_it_is_shown() {
        assert_eq!("48".parse(), Ok(DescriptorSize::EDK2));
        assert_eq!(DescriptorSize::EDK2.to_string(), "48");
        assert_eq!(MaxPhyAddr::MAX.to_string().parse(), Ok(MaxPhyAddr::MAX));
    }
}
