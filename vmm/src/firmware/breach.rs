//! What a caller of a service did wrong.

use core::fmt;

use crate::mmu::{Pa, Va};

/// What a caller did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// Not at the address that the runtime-services table holds.
    #[error("it was called at {called:#x}{}; the runtime-services table says {table:#x}", physical(*.is_physical))]
    Address {
        /// Where it was called.
        called: Va,
        /// Where it is.
        table: Va,
        /// The address is its physical one, which has not been its address since SetVirtualAddressMap.
        is_physical: bool,
    },
    /// Other tables than the caller said were loaded.
    #[error("it was called with CR3 {found:#x}; expected {expected:#x}")]
    Tables {
        /// CR3's address bits.
        found: Pa,
        /// What they should be.
        expected: Pa,
    },
    /// RSP was no multiple of 16 before the call (UEFI 2.10, 2.3.4.2).
    #[error("its stack was misaligned: RSP was {rsp:#x} before the call, and must be a multiple of 16")]
    Stack {
        /// RSP before the return address was pushed.
        rsp: Va,
    },
    /// The direction flag was set (UEFI 2.10, 2.3.4).
    #[error("it was called with RFLAGS.DF set")]
    Direction,
    /// SetVirtualAddressMap with interrupts on (UEFI 2.10, 8.4.1: nothing else may run).
    #[error("it was called with interrupts on (RFLAGS.IF)")]
    Interrupts,
    /// VirtualMap is not aligned for descriptors.
    #[error("VirtualMap, at {at:#x}, is not a multiple of 8")]
    MapAlignment {
        /// Where it is.
        at: Va,
    },
    /// DescriptorSize is not the one that firmware reported with its map.
    #[error("DescriptorSize is {found}; firmware's own map has {expected}")]
    Stride {
        /// The argument.
        found: u64,
        /// What GetMemoryMap said.
        expected: u64,
    },
}

impl Breach {
    /// What it is about.
    pub const fn kind(&self) -> BreachKind {
        match self {
            Self::Address { .. } => BreachKind::Address,
            Self::Tables { .. } => BreachKind::Tables,
            Self::Stack { .. } | Self::Direction => BreachKind::Stack,
            Self::Interrupts | Self::MapAlignment { .. } | Self::Stride { .. } => BreachKind::Switch,
        }
    }
}

/// What breaches are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreachKind {
    /// Where the service was called.
    Address,
    /// The tables that were loaded.
    Tables,
    /// The calling convention.
    Stack,
    /// What SetVirtualAddressMap alone asks for.
    Switch,
}

fn physical(is_physical: bool) -> impl fmt::Display {
    if is_physical { ", its physical address, after SetVirtualAddressMap" } else { "" }
}
