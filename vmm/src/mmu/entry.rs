//! The judgement of one table entry.

use super::address::Pa;
use super::level::{Level, bits};
use super::paging::{Paging, Vendor};
use super::rules::{PagingRule, PagingRules};

/// Why bits of `entry` at `level` fault: each rule's guilty bits, with the rule in words. Empty if
/// the entry is in order, or not present.
///
/// ```
/// use efibed::mmu::{Level, Paging, reserved_reasons};
/// let mut reasons = reserved_reasons(Level::Pde, 0x0010_0083, &Paging::default());
/// let (guilty, why) = reasons.next().unwrap();
/// assert_eq!(guilty, 0x0010_0000);
/// assert!(why.starts_with("bits 20:13 of a PDE that maps a 2 MiB page must be 0"));
/// ```
pub fn reserved_reasons(
    level: Level,
    entry: u64,
    paging: &Paging,
) -> impl Iterator<Item = (u64, &'static str)> + use<> {
    guilt(level, entry, paging).map(move |(rule, guilty)| (guilty, reason(rule, level, entry)))
}

/// What one entry says, before any question of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// P = 0: nothing here.
    NotPresent,
    /// These reserved bits are set.
    Reserved(u64),
    /// The walk goes on in the table at `at`, with entries of `level`.
    Table { at: Pa, level: Level },
    /// The entry maps a page.
    Leaf,
}

impl Judgement {
    /// The reserved bits set, if that is the judgement.
    #[inline]
    pub(super) const fn reserved(self) -> u64 {
        match self {
            Self::Reserved(guilty) => guilty,
            _ => 0,
        }
    }
}

/// Judges one entry. Walks, runs and surveys all rest on this function and no other. Inlined, since of a PTE, which is what most
/// entries are, little is left to ask.
#[inline(always)]
pub(crate) fn judge(level: Level, entry: u64, paging: &Paging) -> Judgement {
    let present = entry & bits::P != 0;
    if !present && paging.rules.has(PagingRule::NotPresentFirst) {
        return Judgement::NotPresent;
    }
    match entry & reserved_mask(level, entry, paging) {
        0 if !present => Judgement::NotPresent,
        0 => next(level, entry, paging),
        guilty => Judgement::Reserved(guilty),
    }
}

/// Where an entry with no fault of its own leads.
#[inline]
pub(super) fn next(level: Level, entry: u64, paging: &Paging) -> Judgement {
    match level.below() {
        Some(below) if !level.maps_page(entry) => Judgement::Table { at: table_address(entry, paging), level: below },
        _ => Judgement::Leaf,
    }
}

/// The table that CR3 or an entry refers to. Bits from MAXPHYADDR up are flags in CR3 and reserved
/// in entries; only where that rule is broken do they name memory.
#[inline]
pub(crate) fn table_address(reference: u64, paging: &Paging) -> Pa {
    let beyond = if paging.rules.has(PagingRule::ReservedPhys) { paging.above_maxphyaddr() } else { 0 };
    Pa(reference & bits::ADDRESS & !beyond)
}

/// The page a leaf maps. Bits below its size are PAT or reserved, never address.
#[inline]
pub(crate) const fn frame(level: Level, entry: u64) -> Pa {
    Pa(entry & bits::ADDRESS & !(level.span_bytes() - 1))
}

/// The leaf's index into IA32_PAT (SDM 4.9.2).
#[inline]
pub(super) const fn pat_index(level: Level, entry: u64) -> u8 {
    let pat = match level {
        Level::Pte => bits::PAT_OF_PTE,
        _ => bits::PAT_OF_LARGE,
    };
    let low = (entry & (bits::PWT | bits::PCD)) >> 3;
    low as u8 | ((entry & pat != 0) as u8) << 2
}

/// The rules an entry offends against by its reserved bits.
pub(super) fn offended_rules(level: Level, entry: u64, paging: &Paging) -> PagingRules {
    guilt(level, entry, paging).fold(PagingRules::none(), |rules, (rule, _)| rules.with(rule))
}

/// Declares the rules by which a bit can be reserved, and the mask of them all as one expression: the
/// rules are constants in it, and what is left of them are a few tests of the entry's kind.
macro_rules! reserving {
    ($($rule:ident,)*) => {
        const RESERVING: [PagingRule; [$(PagingRule::$rule),*].len()] = [$(PagingRule::$rule),*];

        #[inline(always)]
        fn reserved_mask(level: Level, entry: u64, paging: &Paging) -> u64 {
            0 $(| reserved_by(PagingRule::$rule, level, entry, paging))*
        }
    };
}

reserving! {
    ReservedPhys,
    ReservedNx,
    ReservedPde2m,
    ReservedPdpte1g,
    PsInPdpteWithout1g,
    PsInUpper,
    GInUpperAmd,
    PatInLargeLeaf,
}

/// The bits that `rule` reserves in an entry of this level and kind.
#[inline(always)]
fn reserved_by(rule: PagingRule, level: Level, entry: u64, paging: &Paging) -> u64 {
    let in_force = paging.rules.has(rule);
    let ps = entry & bits::PS != 0;
    let upper = level >= Level::Pml4e;
    match rule {
        PagingRule::ReservedPhys if in_force => paging.above_maxphyaddr(),
        PagingRule::ReservedNx if in_force && !paging.nxe => bits::NX,
        PagingRule::ReservedPde2m if in_force && ps && level == Level::Pde => bits::RESERVED_2M,
        PagingRule::ReservedPdpte1g if in_force && ps && level == Level::Pdpte => bits::RESERVED_1G,
        PagingRule::PsInPdpteWithout1g if in_force && level == Level::Pdpte && !paging.gbpages => bits::PS,
        PagingRule::PsInUpper if in_force && upper => bits::PS,
        PagingRule::GInUpperAmd if in_force && upper && paging.vendor == Vendor::Amd => bits::G,
        // The one rule that frees a bit instead of reserving it.
        PagingRule::PatInLargeLeaf if !in_force && level != Level::Pte && level.maps_page(entry) => bits::PAT_OF_LARGE,
        _ => 0,
    }
}

/// Each rule with the bits of `entry` that offend against it.
fn guilt(level: Level, entry: u64, paging: &Paging) -> impl Iterator<Item = (PagingRule, u64)> + use<> {
    let counts = matches!(judge(level, entry, paging), Judgement::Reserved(_));
    let paging = *paging;
    RESERVING
        .into_iter()
        .map(move |rule| (rule, entry & reserved_by(rule, level, entry, &paging)))
        .filter(move |&(_, guilty)| counts && guilty != 0)
}

/// A rule of [`RESERVING`] in words, with the table of the SDM for this kind of entry.
fn reason(rule: PagingRule, level: Level, entry: u64) -> &'static str {
    /// The same words for each kind of entry, in the order of the SDM's tables.
    macro_rules! for_each_table {
        ($text:literal) => {
            match (level, level.maps_page(entry)) {
                (Level::Pml5e, _) => concat!($text, " (SDM 3A 4.5.4, table 4-14)"),
                (Level::Pml4e, _) => concat!($text, " (SDM 3A 4.5.4, table 4-15)"),
                (Level::Pdpte, true) => concat!($text, " (SDM 3A 4.5.4, table 4-16)"),
                (Level::Pdpte, false) => concat!($text, " (SDM 3A 4.5.4, table 4-17)"),
                (Level::Pde, true) => concat!($text, " (SDM 3A 4.5.4, table 4-18)"),
                (Level::Pde, false) => concat!($text, " (SDM 3A 4.5.4, table 4-19)"),
                (Level::Pte, _) => concat!($text, " (SDM 3A 4.5.4, table 4-20)"),
            }
        };
    }
    match rule {
        PagingRule::ReservedPhys => for_each_table!("address bits 51:MAXPHYADDR must be 0"),
        PagingRule::ReservedNx => for_each_table!("bit 63 must be 0 while EFER.NXE = 0"),
        PagingRule::ReservedPde2m => "bits 20:13 of a PDE that maps a 2 MiB page must be 0 (SDM 3A 4.5.4, table 4-18)",
        PagingRule::ReservedPdpte1g => {
            "bits 29:13 of a PDPTE that maps a 1 GiB page must be 0 (SDM 3A 4.5.4, table 4-16)"
        }
        PagingRule::PsInPdpteWithout1g => {
            "bit 7 (PS) of a PDPTE must be 0 without 1 GiB pages (SDM 3A 4.5.4, table 4-17)"
        }
        PagingRule::PsInUpper => for_each_table!("bit 7 (PS) above the PDPTE must be 0"),
        PagingRule::GInUpperAmd => "bit 8 of a PML4E or PML5E must be 0 on AMD (APM vol. 2, 5.3)",
        _ => "bit 12 of a large leaf taken for reserved: the PAT rule is broken on purpose",
    }
}
