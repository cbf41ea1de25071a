//! The levels of table entries, and their bits.

use std::fmt;

use super::address::{Pa, Va};

/// The bits of a table entry (SDM tables 4-14 to 4-20).
pub mod bits {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Read/write: writes are allowed.
    pub const W: u64 = 1 << 1;
    /// User/supervisor: user-mode accesses are allowed.
    pub const U: u64 = 1 << 2;
    /// Page-level write-through: bit 0 of the PAT index.
    pub const PWT: u64 = 1 << 3;
    /// Page-level cache disable: bit 1 of the PAT index.
    pub const PCD: u64 = 1 << 4;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty; a leaf's only.
    pub const D: u64 = 1 << 6;
    /// Page size: a PDE or PDPTE maps a page.
    pub const PS: u64 = 1 << 7;
    /// Global; a leaf's only.
    pub const G: u64 = 1 << 8;
    /// Bit 2 of the PAT index in a PTE.
    pub const PAT_OF_PTE: u64 = 1 << 7;
    /// Bit 2 of the PAT index in a leaf larger than a PTE's.
    pub const PAT_OF_LARGE: u64 = 1 << 12;
    /// The physical address, at its widest.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Protection key of a leaf.
    pub const PKEY: u64 = 0xf << 59;
    /// Execute-disable.
    pub const NX: u64 = 1 << 63;

    /// Bits 20:13, reserved in a PDE that maps a page (SDM table 4-18).
    pub const RESERVED_2M: u64 = 0x001f_e000;
    /// Bits 29:13, reserved in a PDPTE that maps a page (SDM table 4-16).
    pub const RESERVED_1G: u64 = 0x3fff_e000;
}

/// The level of a table entry, by the SDM's names; its number counts from the page up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Page-table entry: maps 4 KiB.
    Pte = 1,
    /// Page-directory entry: maps 2 MiB or refers to a page table.
    Pde = 2,
    /// Page-directory-pointer-table entry: maps 1 GiB or refers to a page directory.
    Pdpte = 3,
    /// PML4 entry.
    Pml4e = 4,
    /// PML5 entry, with CR4.LA57 only.
    Pml5e = 5,
}

impl Level {
    /// All of them, from the leaves up.
    pub const ALL: [Self; 5] = [Self::Pte, Self::Pde, Self::Pdpte, Self::Pml4e, Self::Pml5e];

    /// How many bytes one entry governs: 4 KiB, 2 MiB, 1 GiB, 512 GiB, 256 TiB.
    #[inline]
    pub const fn span_bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The index of the entry for `va` in a table of this level.
    #[inline]
    pub const fn index(self, va: Va) -> usize {
        (va.0 >> self.shift() & 511) as usize
    }

    /// Where the entry for `va` lies in the table at `table`.
    #[inline]
    pub const fn entry_addr(self, table: Pa, va: Va) -> Pa {
        Pa(table.0 | (self.index(va) as u64) << 3)
    }

    /// Whether `entry` at this level maps a page rather than refers to a table.
    #[inline]
    pub const fn maps_page(self, entry: u64) -> bool {
        match self {
            Self::Pte => true,
            Self::Pde | Self::Pdpte => entry & bits::PS != 0,
            Self::Pml4e | Self::Pml5e => false,
        }
    }

    /// The next level down.
    #[inline]
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::Pte => None,
            Self::Pde => Some(Self::Pte),
            Self::Pdpte => Some(Self::Pde),
            Self::Pml4e => Some(Self::Pdpte),
            Self::Pml5e => Some(Self::Pml4e),
        }
    }

    /// The next level up.
    #[inline]
    pub const fn above(self) -> Option<Self> {
        match self {
            Self::Pte => Some(Self::Pde),
            Self::Pde => Some(Self::Pdpte),
            Self::Pdpte => Some(Self::Pml4e),
            Self::Pml4e => Some(Self::Pml5e),
            Self::Pml5e => None,
        }
    }

    /// The lowest bit of a virtual address that selects an entry of this level.
    #[inline]
    const fn shift(self) -> u32 {
        12 + 9 * (self as u32 - 1)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pte => "PTE",
            Self::Pde => "PDE",
            Self::Pdpte => "PDPTE",
            Self::Pml4e => "PML4E",
            Self::Pml5e => "PML5E",
        })
    }
}
