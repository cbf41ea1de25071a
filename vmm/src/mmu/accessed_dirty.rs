//! The accessed and dirty bits an access leaves behind (SDM 4.8).

use super::Kind;
use super::address::Pa;
use super::level::bits::{A, D, P};
use super::rules::PagingRule;
use super::walk::{Outcome, Step, Walk};

/// An entry as it must be after the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryAfter {
    /// Where the entry lies.
    pub addr: Pa,
    /// Its value, except for the bits of `may`.
    pub entry: u64,
    /// Clear bits of `entry` that may have become set.
    pub may: u64,
}

impl EntryAfter {
    /// Whether this is what was to be found at `addr`.
    pub const fn accepts(&self, found: u64) -> bool {
        found & !self.may == self.entry
    }
}

impl Walk {
    /// Each entry the walk used, as it must be after the access: success sets A at every level and,
    /// on a write, D at the leaf; a fault leaves the leaf alone and may set A above it.
    ///
    /// An entry that the walk passed twice (tables may refer to themselves) appears twice, with
    /// what both passes do to it.
    pub fn entries_after(&self) -> impl Iterator<Item = EntryAfter> {
        self.steps().iter().map(|step| {
            let passes = self.steps().iter().filter(|other| other.entry_addr == step.entry_addr);
            let marks = passes.map(|pass| self.marks(pass)).fold(Marks::NONE, Marks::or);
            let entry = step.entry | marks.must;
            EntryAfter { addr: step.entry_addr, entry, may: marks.may & !entry }
        })
    }

    /// What one pass through an entry sets in it.
    fn marks(&self, step: &Step) -> Marks {
        let has = |rule| self.rules.has(rule);
        let leaf = step.level.maps_page(step.entry);
        let translated = matches!(self.outcome, Outcome::Translated(_));
        let present = step.entry & P != 0;
        if !translated && !leaf {
            // Processors differ in when they write the upper A bits, but never mark what is absent.
            let may = if present && has(PagingRule::UpperAccessedMaySet) { A } else { 0 };
            return Marks { must: 0, may };
        }
        if !translated && (!present || has(PagingRule::FaultSparesLeaf)) {
            return Marks::NONE;
        }
        let accessed = if has(PagingRule::AccessedOnSuccess) { A } else { 0 };
        let writes = self.access.kind == Kind::Write && has(PagingRule::DirtyOnWrite);
        let dirties = writes || !has(PagingRule::DirtyOnWriteOnly);
        let takes_d = leaf || !has(PagingRule::DirtyNeverUpper);
        Marks { must: accessed | if dirties && takes_d { D } else { 0 }, may: 0 }
    }
}

/// Bits that an access sets in an entry, and bits that it may set.
#[derive(Clone, Copy)]
struct Marks {
    must: u64,
    may: u64,
}

impl Marks {
    const NONE: Self = Self { must: 0, may: 0 };

    fn or(self, other: Self) -> Self {
        Self { must: self.must | other.must, may: self.may | other.may }
    }
}
