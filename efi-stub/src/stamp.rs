//! The bytes of a firmware page that are the test bed's, not firmware's.
//!
//! Every page of a region may be executed and read to learn which frame is behind it. So each begins with a routine
//! that returns the page's own number, and ends with that number:
//!
//! ```text
//!     offset 0      movabs rax, NUMBER; ret
//!     offset 16     firmware's own bytes, if any
//!     offset 4088   NUMBER
//! ```
//!
//! Firmware leaves both ends alone; whoever stamps the pages fills them in.

/// Bytes in a page (Intel SDM vol. 3A, 4.5: 4-KByte page; UEFI 2.10, 2.3.4).
pub const PAGE_BYTES: usize = 4096;

/// Bytes at a page's start that are reserved for the stamp's routine.
pub const STAMP_HEAD_BYTES: usize = 16;

/// Bytes at a page's end that are reserved for the stamp's number.
pub const STAMP_TAIL_BYTES: usize = 8;
