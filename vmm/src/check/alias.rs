//! What must be mapped, stretch by stretch.

use std::ops::RangeInclusive;

use super::cache::PatIndices;
use super::contract::Term;
use super::marks::Mark;
use super::spans::Spans;
use super::{Rule, Witness};
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{Access, Kind, Pa, Privilege, Va};

/// One stretch of virtual addresses that stands for one stretch of physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// What it is for.
    pub role: Role,
    /// The descriptor's index in the memory map, if it is a region's.
    pub region: Option<usize>,
    /// The first address.
    pub virt: Va,
    /// What it must reach.
    pub phys: Pa,
    /// How many pages.
    pub pages: u64,
    /// Whether it can be written to.
    pub writable: Term,
    /// Whether it can be executed.
    pub executable: Term,
    /// The PAT indices that its leaves may have.
    pub cache: PatIndices,
    /// Whether it is mapped after phase `finish`, too: boot services may have gone.
    pub stays: Term,
    /// Past the CPU's physical-address width: it cannot be probed.
    pub past_maxphyaddr: bool,
    /// It must be mapped. One that need not be is expected where the tables have it.
    pub is_owed: bool,
}

/// What an alias is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A region where SetVirtualAddressMap is told that it is.
    Virtual,
    /// A region at its physical addresses.
    Physical,
    /// Page 0, which some firmware writes to in SetVirtualAddressMap.
    PageZero,
    /// The map handed to SetVirtualAddressMap, at its physical address.
    VirtualMap,
}

impl Alias {
    /// How many bytes it has. What is looked at lies in one half of the canonical addresses, so they fit.
    pub fn bytes(&self) -> u64 {
        self.pages.saturating_mul(PAGE_BYTES)
    }

    /// The last byte.
    pub fn last(&self) -> Va {
        self.virt.saturating_add(self.bytes().saturating_sub(1))
    }

    /// The physical address past its last byte.
    pub fn physical_end(&self) -> Pa {
        self.phys.saturating_add(self.bytes())
    }

    /// The physical address that `virt` in it must reach.
    pub fn target(&self, virt: Va) -> Pa {
        self.phys.wrapping_add(virt.wrapping_offset_from(self.virt))
    }

    /// The frame that its page with this number must reach.
    pub(super) fn nth_frame(&self, page: u64) -> Pa {
        self.phys.wrapping_add(page.wrapping_mul(PAGE_BYTES))
    }

    /// Whether an access gets through: none of ring 3, no write of what is read-only, no fetch of what is not code.
    pub fn access(&self, access: Access) -> Term {
        match (access.privilege, access.kind) {
            (Privilege::User, _) => Term::Forbidden,
            (_, Kind::Read) => Term::Owed,
            (_, Kind::Write) => self.writable,
            (_, Kind::Fetch) => self.executable,
        }
    }

    /// The same where nobody has to map it.
    #[must_use]
    pub(super) fn allowed(self) -> Self {
        let [writable, executable] = [self.writable, self.executable].map(Term::relaxed);
        Self { is_owed: false, writable, executable, ..self }
    }

    /// Its addresses.
    pub(super) fn range(&self) -> RangeInclusive<Va> {
        self.virt..=self.last()
    }

    /// What of it lies in a range of whole pages, all of which are its own.
    #[must_use]
    pub(super) fn within(self, range: &RangeInclusive<Va>) -> Self {
        let virt = *range.start();
        let pages = range.end().wrapping_offset_from(virt) / PAGE_BYTES;
        Self { virt, phys: self.target(virt), pages: pages.saturating_add(1), ..self }
    }

    /// What of it is free, piece by piece.
    pub(super) fn free_of(self, taken: &Spans) -> impl Iterator<Item = Self> + use<> {
        taken.free_in(&self.range()).into_iter().map(move |range| self.within(&range))
    }

    pub(super) fn mark(&self, rule: Rule, witness: Witness) -> Mark {
        Mark { region: self.region, virt: Some(self.virt), pages: self.pages, ..Mark::new(rule, witness) }
    }

    /// The page after its last, in which a region ends that starts within a page.
    pub(super) fn tail(&self) -> Option<Self> {
        let (virt, phys) = (self.virt.checked_add(self.bytes())?, self.phys.checked_add(self.bytes())?);
        Some(Self { virt, phys, pages: 1, ..*self })
    }

    /// The pages from `from` to `end`, physical addresses, with `change` made to them; None where there are none.
    pub(super) fn part(&self, from: Pa, end: Pa, change: impl FnOnce(Self) -> Self) -> Option<Self> {
        let skipped = from.checked_offset_from(self.phys)?;
        let pages = end.checked_offset_from(from)? / PAGE_BYTES;
        (pages > 0).then(|| change(Self { virt: self.virt.wrapping_add(skipped), phys: from, pages, ..*self }))
    }
}

#[cfg(test)]
impl Alias {
    /// Somebody's data at the virtual address that firmware is told, for tests.
    pub(super) fn of_data(virt: Va, phys: Pa, pages: u64) -> Self {
        Self {
            role: Role::Virtual,
            region: None,
            virt,
            phys,
            pages,
            writable: Term::Owed,
            executable: Term::Forbidden,
            cache: PatIndices::only(0),
            stays: Term::Owed,
            past_maxphyaddr: false,
            is_owed: true,
        }
    }
}
