//! The bytes of a firmware page that are the test bed's, not firmware's.
//!
//! Every page of a region may be executed and read to learn which frame is behind it. So each begins with a routine
//! that returns the page's own number, and ends with that number:
//!
//! ```text
//!     offset 0      movabs rax, NUMBER; ret
//!     offset 16     firmware's own bytes, if any
//!     offset 4080   eight bytes that probes may write
//!     offset 4088   NUMBER
//! ```
//!
//! Firmware leaves both ends alone; [`stamp_page`] fills them in. A page with no memory behind it is read through the
//! host, which answers with the same number. Either way a read says which physical address it reached.

/// Bytes in a page (Intel SDM vol. 3A, 4.5: 4-KByte page; UEFI 2.10, 2.3.4).
pub const PAGE_BYTES: usize = 4096;

/// Bytes at a page's start that are reserved for the stamp's routine.
pub const STAMP_HEAD_BYTES: usize = 16;

/// Bytes at a page's end that are reserved for the word to be written and the stamp's number.
pub const STAMP_TAIL_BYTES: usize = 16;

/// Where in a page the word that may be written is.
pub const SCRATCH_OFFSET: usize = PAGE_BYTES - STAMP_TAIL_BYTES;

/// Where in a page its number is.
pub const NUMBER_OFFSET: usize = PAGE_BYTES - 8;

/// Bits 63:52, which no physical address has: table entries and code do not show it by chance.
const KEY: u64 = 0xa5c << 52;
const KEY_MASK: u64 = 0xfff << 52;

/// The number that stands for physical address `pa`.
pub const fn stamp(pa: u64) -> u64 {
    KEY | (pa & !KEY_MASK)
}

/// The physical address that a number stands for, if it is one of these numbers.
pub const fn stamped(number: u64) -> Option<u64> {
    if number & KEY_MASK == KEY { Some(number & !KEY_MASK) } else { None }
}

/// Stamps a page that will lie at physical `page`: the routine at its start returns the number of the page, the last
/// eight bytes hold the number of their own address.
pub fn stamp_page(page: u64, content: &mut [u8; PAGE_BYTES]) {
    content[..2].copy_from_slice(&[0x48, 0xb8]);
    content[2..10].copy_from_slice(&stamp(page).to_le_bytes());
    content[10] = 0xc3;
    content[NUMBER_OFFSET..].copy_from_slice(&stamp(page + NUMBER_OFFSET as u64).to_le_bytes());
}
