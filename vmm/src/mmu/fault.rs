//! Faults and the page-fault error code.

use std::fmt;
use std::ops::BitOr;

use super::access::{Access, Kind};
use super::paging::Paging;
use super::rules::PagingRule;

/// A fault as the handler sees it: a vector and the error code pushed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// 14 (#PF), or for a non-canonical address 13 (#GP) or 12 (#SS).
    pub vector: u8,
    /// The error code; 0 unless the vector is 14.
    pub error_code: ErrorCode,
}

/// The error code of a page fault (SDM 4.7, figure 4-12; RMP: APM 8.4.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u32);

impl Fault {
    /// #DB, debug exception (SDM 6.15).
    pub const DEBUG: u8 = 1;
    /// #BP, breakpoint (SDM 6.15).
    pub const BREAKPOINT: u8 = 3;
    /// #UD, invalid opcode (SDM 6.15).
    pub const INVALID_OPCODE: u8 = 6;
    /// #SS, stack-segment fault (SDM 6.15).
    pub const STACK: u8 = 12;
    /// #GP, general protection (SDM 6.15).
    pub const GENERAL_PROTECTION: u8 = 13;
    /// #PF, page fault (SDM 6.15).
    pub const PAGE_FAULT: u8 = 14;

    /// A page fault with this error code.
    pub const fn page(error_code: ErrorCode) -> Self {
        Self { vector: Self::PAGE_FAULT, error_code }
    }

    /// The fault of a non-canonical address (SDM volume 1, 3.3.7.1): it never reaches the tables.
    pub(super) const fn non_canonical(access: Access, paging: &Paging) -> Self {
        let stack = access.stack && paging.rules.has(PagingRule::CanonicalStack);
        let vector = if stack { Self::STACK } else { Self::GENERAL_PROTECTION };
        Self { vector, error_code: ErrorCode(0) }
    }
}

impl ErrorCode {
    /// The entry was present: a right was missing or a reserved bit set.
    pub const P: Self = Self(1 << 0);
    /// The access was a write.
    pub const W: Self = Self(1 << 1);
    /// The access was made in user mode.
    pub const U: Self = Self(1 << 2);
    /// A reserved bit was set in an entry.
    pub const RSVD: Self = Self(1 << 3);
    /// The access was a fetch.
    pub const I: Self = Self(1 << 4);
    /// A protection key forbade it.
    pub const PK: Self = Self(1 << 5);
    /// A shadow-stack access.
    pub const SS: Self = Self(1 << 6);
    /// The fault arose in HLAT paging.
    pub const HLAT: Self = Self(1 << 7);
    /// SGX forbade it.
    pub const SGX: Self = Self(1 << 15);
    /// The reverse map of SEV-SNP forbade it (AMD).
    pub const RMP: Self = Self(1 << 31);

    const NAMES: [(Self, &'static str); 10] = [
        (Self::P, "P"),
        (Self::W, "W"),
        (Self::U, "U"),
        (Self::RSVD, "RSVD"),
        (Self::I, "I"),
        (Self::PK, "PK"),
        (Self::SS, "SS"),
        (Self::HLAT, "HLAT"),
        (Self::SGX, "SGX"),
        (Self::RMP, "RMP"),
    ];

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The short names of the flags set, in the order of their bits.
    pub fn flags(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }

    /// `self` if `condition` holds, else nothing.
    #[inline]
    pub(super) const fn only_if(self, condition: bool) -> Self {
        if condition { self } else { Self(0) }
    }

    /// The flags that describe the access alone, whatever stopped it.
    pub(super) fn of_access(access: Access, paging: &Paging) -> Self {
        let rules = paging.rules;
        let reports_fetch = paging.nxe || paging.smep || !rules.has(PagingRule::FetchBitNeedsNxeOrSmep);
        let w = access.kind == Kind::Write && rules.has(PagingRule::WriteSetsW);
        let u = access.is_user_mode(paging) && rules.has(PagingRule::UserSetsU);
        let i = access.kind == Kind::Fetch && reports_fetch && rules.has(PagingRule::FetchSetsI);
        Self::W.only_if(w) | Self::U.only_if(u) | Self::I.only_if(i)
    }

    /// The error code of a reserved-bit fault.
    pub(super) fn of_reserved(access: Access, paging: &Paging) -> Self {
        Self::of_access(access, paging)
            | Self::P.only_if(paging.reserved_fault_sets_p)
            | Self::RSVD.only_if(paging.rules.has(PagingRule::ReservedSetsRsvd))
    }
}

impl BitOr for ErrorCode {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)?;
        let mut before = " (";
        for flag in self.flags() {
            write!(f, "{before}{flag}")?;
            before = " ";
        }
        f.write_str(if before == " " { ")" } else { "" })
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Exceptions that push no error code (SDM table 6-1).
const NAMES: [(u8, &str); 9] = [
    (0, "#DE"),
    (1, "#DB"),
    (3, "#BP"),
    (4, "#OF"),
    (5, "#BR"),
    (Fault::INVALID_OPCODE, "#UD"),
    (7, "#NM"),
    (16, "#MF"),
    (19, "#XM"),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vector {
            Self::PAGE_FAULT => write!(f, "#PF {}", self.error_code),
            Self::GENERAL_PROTECTION => write!(f, "#GP({})", self.error_code),
            Self::STACK => write!(f, "#SS({})", self.error_code),
            vector => match NAMES.iter().find(|(known, _)| *known == vector) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "vector {vector}, error code {}", self.error_code),
            },
        }
    }
}
