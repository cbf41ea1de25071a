//! The rules of paging, each of which can be broken on purpose.

use std::fmt;

/// Declares [`PagingRule`] and [`PagingRule::ALL`] from one list, so that neither can forget a rule.
macro_rules! declare_rules {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One rule of paging.
        ///
        /// The rules exist by name for the sake of *negative controls*: a test breaks one of them
        /// ([`PagingRules::without`]), and the other witnesses must then disagree with the software MMU.
        /// A rule whose breaking nobody notices is a rule nobody checks. Each says what the MMU does
        /// when it is broken; nothing else changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PagingRule { $($(#[$doc])* $name,)* }

        impl PagingRule {
            /// Every rule.
            pub const ALL: &[PagingRule] = &[$(PagingRule::$name,)*];
        }
    };
}

declare_rules! {
    // Reserved bits: SDM 4.5.4, tables 4-14 to 4-20.
    /// Bits 51:MAXPHYADDR of every entry are reserved. *Broken:* they are part of the address.
    ReservedPhys,
    /// Bit 63 is reserved while EFER.NXE = 0. *Broken:* it is ignored then.
    ReservedNx,
    /// Bits 20:13 of a PDE that maps a page are reserved. *Broken:* they are ignored.
    ReservedPde2m,
    /// Bits 29:13 of a PDPTE that maps a page are reserved. *Broken:* they are ignored.
    ReservedPdpte1g,
    /// PS is reserved in a PDPTE if there are no 1 GiB pages. *Broken:* it maps one anyway.
    PsInPdpteWithout1g,
    /// PS is reserved in a PML4E and a PML5E. *Broken:* it is ignored.
    PsInUpper,
    /// Bit 8 is reserved in a PML4E and a PML5E on AMD. *Broken:* it is ignored, as on Intel.
    GInUpperAmd,
    /// Bit 12 of a large leaf is its PAT bit. *Broken:* it is reserved like its neighbours.
    PatInLargeLeaf,

    // The order of the walk: SDM 4.5.4 and 4.7.
    /// No other bit of an entry with P = 0 counts. *Broken:* its reserved bits do.
    NotPresentFirst,
    /// The fault of a higher level hides all below it. *Broken:* the walk goes on through a table
    /// entry with reserved bits, and a fault it finds below is reported instead.
    HigherLevelHidesLower,
    /// Reserved bits are reported before missing rights. *Broken:* after.
    ReservedBeforePermission,

    // The error code: SDM 4.7.
    /// A reserved bit sets RSVD. *Broken:* it does not.
    ReservedSetsRsvd,
    /// A fault for want of a right sets P. *Broken:* it does not.
    ProtectionSetsP,
    /// A write sets W. *Broken:* it does not.
    WriteSetsW,
    /// A user-mode access sets U. *Broken:* it does not.
    UserSetsU,
    /// A fetch sets I. *Broken:* it does not.
    FetchSetsI,
    /// I needs EFER.NXE or CR4.SMEP. *Broken:* every fetch sets it.
    FetchBitNeedsNxeOrSmep,

    // Rights: SDM 4.6.1.
    /// W is granted by all levels together. *Broken:* by the leaf alone.
    WOfEveryLevel,
    /// U is granted by all levels together. *Broken:* by the leaf alone.
    UOfEveryLevel,
    /// NX at any level forbids. *Broken:* at the leaf alone.
    NxOfAnyLevel,
    /// A user-mode access needs U. *Broken:* it does not.
    UserNeedsU,
    /// A write needs W, of user mode always. *Broken:* no write does.
    WriteNeedsW,
    /// CR0.WP holds supervisor writes to W too. *Broken:* it holds nobody.
    WpForSupervisor,
    /// NX forbids fetches. *Broken:* it does not.
    NxForbidsFetch,
    /// CR4.SMEP forbids supervisor fetches from U pages. *Broken:* it does not.
    Smep,
    /// CR4.SMAP forbids supervisor data accesses to U pages. *Broken:* it does not.
    Smap,
    /// EFLAGS.AC lifts SMAP. *Broken:* it does not.
    AcExempts,
    /// EFLAGS.AC lifts nothing for implicit accesses. *Broken:* it does.
    AcNeverForImplicit,
    /// An implicit access is a supervisor's, whatever the CPL. *Broken:* it is the user's.
    ImplicitIsSupervisor,

    // Protection keys: SDM 4.6.2.
    /// PKRU counts only with CR4.PKE. *Broken:* always.
    PkeyNeedsPke,
    /// AD forbids data accesses. *Broken:* it does not.
    PkeyAccessDisable,
    /// WD forbids writes. *Broken:* it does not.
    PkeyWriteDisable,
    /// WD leaves supervisor writes alone while CR0.WP = 0. *Broken:* it forbids them.
    PkeyWriteFreeWithoutWp,
    /// Keys guard U pages only. *Broken:* all pages.
    PkeyUserPagesOnly,
    /// Keys guard data accesses only. *Broken:* fetches too.
    PkeyDataOnly,
    /// PK is reported even if another right is missing too. *Broken:* only if none is.
    PkReportedAlways,

    // Accessed and dirty: SDM 4.8.
    /// Success sets A at every level used. *Broken:* nowhere.
    AccessedOnSuccess,
    /// A write sets D at the leaf. *Broken:* it does not.
    DirtyOnWrite,
    /// Only a write sets D. *Broken:* reads and fetches do too.
    DirtyOnWriteOnly,
    /// D is set at the leaf only. *Broken:* at every level.
    DirtyNeverUpper,
    /// A fault leaves the leaf's A and D alone. *Broken:* it sets them like a success.
    FaultSparesLeaf,
    /// A fault may set A above the leaf. *Broken:* it must not.
    UpperAccessedMaySet,

    // Canonical addresses: SDM volume 1, 3.3.7.1.
    /// A non-canonical address faults before any walk. *Broken:* its upper bits are ignored.
    Canonical,
    /// CR4.LA57 makes 57 bits canonical. *Broken:* 48 it stays.
    CanonicalLa57,
    /// A non-canonical stack access is #SS. *Broken:* #GP.
    CanonicalStack,

    // Accesses that cross into a second page.
    /// Both pages are looked at. *Broken:* the first alone.
    CrossingSecondPage,
    /// The first bad byte's page faults. *Broken:* if both are bad, the second does.
    CrossingFirstBadPage,
    /// CR2 is the first byte that faults. *Broken:* the first byte accessed.
    CrossingCr2,
}

/// A set of rules: those in force.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PagingRules(u64);

const _: () = assert!(PagingRule::ALL.len() <= u64::BITS as usize);

impl PagingRules {
    /// Every rule: what a machine must do.
    pub const fn all() -> Self {
        Self(u64::MAX >> (u64::BITS as usize - PagingRule::ALL.len()))
    }

    /// No rule at all.
    pub const fn none() -> Self {
        Self(0)
    }

    /// These rules and `rule`.
    #[must_use]
    pub const fn with(self, rule: PagingRule) -> Self {
        Self(self.0 | 1 << rule as u32)
    }

    /// These rules with `rule` broken.
    #[must_use]
    pub const fn without(self, rule: PagingRule) -> Self {
        Self(self.0 & !(1 << rule as u32))
    }

    /// Whether `rule` is among them.
    #[inline]
    pub const fn has(self, rule: PagingRule) -> bool {
        self.0 & (1 << rule as u32) != 0
    }

    /// The rules of the set, in the order of [`PagingRule::ALL`].
    pub fn iter(self) -> impl Iterator<Item = PagingRule> {
        PagingRule::ALL.iter().copied().filter(move |&rule| self.has(rule))
    }
}

impl Default for PagingRules {
    fn default() -> Self {
        Self::all()
    }
}

impl fmt::Debug for PagingRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("all rules");
        }
        f.debug_set().entries(self.iter()).finish()
    }
}
