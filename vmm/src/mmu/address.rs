//! Physical and virtual addresses, kept apart by type.

use std::fmt;

/// A physical address: in a guest, what the manuals of the host call a guest-physical address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pa(pub u64);

/// A virtual address; the SDM's *linear* address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Va(pub u64);

/// Of an address, its offset in a page of 4 KiB (SDM vol. 3A, 4.2).
const OFFSET: u64 = 0xfff;

macro_rules! address {
    ($address:ident) => {
        impl $address {
            /// The first byte of its page of 4 KiB.
            pub const fn page(self) -> Self {
                Self(self.0 & !OFFSET)
            }

            /// Its offset in that page.
            pub const fn page_offset(self) -> u64 {
                self.0 & OFFSET
            }

            /// So many bytes further; None past 2^64.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// So many bytes further, at most the last address.
            pub const fn saturating_add(self, bytes: u64) -> Self {
                Self(self.0.saturating_add(bytes))
            }

            /// So many bytes further, around 2^64.
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// So many bytes back, around 2^64.
            pub const fn wrapping_sub(self, bytes: u64) -> Self {
                Self(self.0.wrapping_sub(bytes))
            }

            /// The bytes from `start` to here; None if it is below.
            pub const fn checked_offset_from(self, start: Self) -> Option<u64> {
                self.0.checked_sub(start.0)
            }

            /// The bytes from `start` to here, around 2^64.
            pub const fn wrapping_offset_from(self, start: Self) -> u64 {
                self.0.wrapping_sub(start.0)
            }
        }

        impl fmt::Display for $address {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $address {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl fmt::LowerHex for $address {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(Pa);
address!(Va);

impl Pa {
    /// The virtual address that leads here where memory is mapped 1:1.
    pub const fn one_to_one(self) -> Va {
        Va(self.0)
    }
}

impl Va {
    /// Where this leads where memory is mapped 1:1.
    pub const fn one_to_one(self) -> Pa {
        Pa(self.0)
    }
}
