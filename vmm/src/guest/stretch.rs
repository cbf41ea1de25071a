//! Sizes, and stretches of addresses that are so long.
//!
//! Sizes come from memory maps and from what mapping code says. Those that cannot be saturate: no host has so much memory,
//! and no placement has room for it.

use std::ops::Range;

use super::PAGE_BYTES;

/// So many bytes from an address on.
pub(super) fn stretch(start: u64, bytes: u64) -> Range<u64> {
    start..start.saturating_add(bytes)
}

/// How long a stretch is.
pub(super) fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The bytes of so many pages.
pub(super) const fn bytes_of(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_BYTES)
}

/// All of these sizes.
pub(super) fn sum(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_stays_too_large() {
        assert_eq!((sum([u64::MAX, 2]), sum([1, 2])), (u64::MAX, 3));
        assert_eq!((bytes_of(u64::MAX), bytes_of(2)), (u64::MAX, 0x2000));
        assert_eq!((stretch(u64::MAX, 1), stretch(1, 2)), (u64::MAX..u64::MAX, 1..3));
        let reversed = Range { start: 2, end: 1 };
        assert_eq!((length(&reversed), length(&(1..3))), (0, 2));
    }
}
