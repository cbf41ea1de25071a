//! What a translation depends on besides the tables.

use super::address::Va;
use super::level::{Level, bits};
use super::rules::{PagingRule, PagingRules};

/// Everything a walk depends on besides CR3 and the tables: the paging mode, what the processor
/// can do, and the control bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// CR4.LA57: 5-level paging.
    pub la57: bool,
    /// Width of a physical address in bits, MAXPHYADDR (SDM 4.1.4). More than 52 counts as 52.
    pub maxphyaddr: u8,
    /// 1 GiB pages (CPUID 80000001H:EDX.Page1GB).
    pub gbpages: bool,
    /// EFER.NXE: bit 63 forbids fetches; otherwise it is reserved.
    pub nxe: bool,
    /// CR0.WP: R/W holds supervisor writes too.
    pub wp: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// CR4.PKE: protection keys for user pages.
    pub pke: bool,
    /// PKRU: AD of key *i* is bit 2*i*, WD is bit 2*i* + 1.
    pub pkru: u32,
    /// Whose reserved bits apply.
    pub vendor: Vendor,
    /// A reserved-bit fault sets P, as the manuals say (SDM 4.7). False models machines that answer
    /// 0x8 where 0x9 is due. It is part of what a CPU *checks*, never of what it was told.
    pub reserved_fault_sets_p: bool,
    /// The rules in force: all, except in negative controls.
    pub rules: PagingRules,
}

/// Bits of physical address of the CPU that is modelled where none is asked for: what most servers have.
pub const USUAL_MAXPHYADDR: u8 = 46;

/// Whose manual says which bits are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel: bit 8 of a PML4E or PML5E is ignored.
    Intel,
    /// AMD: bit 8 of a PML4E or PML5E must be zero.
    Amd,
}

/// What a virtual CPU was told it is, and what really checks its accesses.
///
/// The two differ under two-dimensional paging (EPT, NPT): the host may hide 1 GiB pages or shrink
/// MAXPHYADDR in CPUID, but the guest's tables are walked by the hardware, which heeds neither. So
/// mapping code is judged by `told`, because that is all it can know, and an access in the guest is
/// expected to behave by `checks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// What CPUID and the control registers say.
    pub told: Paging,
    /// What the walker in charge enforces.
    pub checks: Paging,
}

impl Cpu {
    /// A CPU that checks exactly what it was told: bare metal, and shadow paging.
    pub const fn honest(paging: Paging) -> Self {
        Self { told: paging, checks: paging }
    }
}

impl Default for Paging {
    /// 4-level paging on an Intel processor with 48 physical address bits and 1 GiB pages; NXE and
    /// WP on, SMEP, SMAP and protection keys off; every rule in force.
    fn default() -> Self {
        Self {
            la57: false,
            maxphyaddr: 48,
            gbpages: true,
            nxe: true,
            wp: true,
            smep: false,
            smap: false,
            pke: false,
            pkru: 0,
            vendor: Vendor::Intel,
            reserved_fault_sets_p: true,
            rules: PagingRules::all(),
        }
    }
}

impl Paging {
    /// The level of the entries CR3 points to.
    #[inline]
    pub const fn top_level(&self) -> Level {
        if self.la57 { Level::Pml5e } else { Level::Pml4e }
    }

    /// Whether `va` is canonical (SDM volume 1, 3.3.7.1): all bits above the width equal its top bit.
    #[inline]
    pub const fn is_canonical(&self, va: Va) -> bool {
        va.0 <= self.low_half_last() || va.0 >= self.high_half_first()
    }

    /// The last address of the low canonical half.
    #[inline]
    pub(super) const fn low_half_last(&self) -> u64 {
        if !self.rules.has(PagingRule::Canonical) {
            return u64::MAX;
        }
        let wide = self.la57 && self.rules.has(PagingRule::CanonicalLa57);
        (1 << if wide { 56 } else { 47 }) - 1
    }

    /// The first address of the high canonical half: the low half's mirror.
    #[inline]
    pub(super) const fn high_half_first(&self) -> u64 {
        !self.low_half_last()
    }

    /// Bits 51:MAXPHYADDR, which no physical address can have (SDM 4.1.4).
    #[inline]
    pub(super) const fn above_maxphyaddr(&self) -> u64 {
        bits::ADDRESS & u64::MAX.unbounded_shl(self.maxphyaddr as u32)
    }
}
