//! Which cache type a page may have.

use std::fmt;

use crate::memory_map::MemoryAttribute;

/// How the cache type of a region's pages is chosen. The bits of a descriptor are capabilities (UEFI 2.10, 7.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheRule {
    /// Any type that the descriptor names. WC allows UC- too: MTRRs can make WC of it (SDM vol. 3A, table 11-7). A
    /// descriptor that names no type the guest's PAT has forbids none.
    #[default]
    AnyCapable,
    /// As x86 Linux does: WB where the descriptor names it, else UC-.
    WriteBackOrUncached,
    /// The first that the descriptor names of WB, WT (where it does not name UC) and UC-; else UC-.
    FirstCapable,
}

impl CacheRule {
    /// The PAT indices that a leaf for a region with these attributes may have.
    pub(crate) fn indices(self, attribute: MemoryAttribute) -> PatIndices {
        let can = |types| attribute.intersects(types);
        let (uncached, through) = (MemoryAttribute::UNCACHEABLE, MemoryAttribute::WRITE_THROUGH);
        match self {
            Self::AnyCapable => any_capable(attribute),
            _ if can(MemoryAttribute::WRITE_BACK) => PatIndices::only(WB),
            Self::FirstCapable if can(through) && !can(uncached) => PatIndices::only(WT),
            Self::FirstCapable | Self::WriteBackOrUncached => PatIndices::only(UC_MINUS),
        }
    }
}

/// PAT indices, which are bits 0 to 7: `PAT << 2 | PCD << 1 | PWT` of a leaf (SDM vol. 3A, 4.9.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PatIndices(u8);

impl PatIndices {
    /// All that there are.
    pub(crate) const ANY: Self = Self(u8::MAX);

    /// This one.
    pub(crate) const fn only(index: u8) -> Self {
        Self(1 << (index & 7))
    }

    /// Whether an index is one of them.
    pub fn contains(self, index: u8) -> bool {
        self.iter().any(|other| other == index)
    }

    /// Each, in rising order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |index| self.0 >> index & 1 == 1)
    }
}

impl fmt::Debug for PatIndices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// `PAT index 0 (WB)`, or `PAT index 0 (WB), 4 (WB)` where several are right.
impl fmt::Display for PatIndices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> = self.iter().map(|index| format!("{index} ({})", memory_type(index))).collect();
        write!(f, "PAT index {}", named.join(", "))
    }
}

/// Of the PAT at reset, the first index of each type that is chosen by name.
const WB: u8 = 0;
const WT: u8 = 1;
const UC_MINUS: u8 = 2;

/// What the indices mean under the guest's IA32_PAT, which is that of reset (SDM vol. 3A, table 11-12).
const PAT_AT_RESET: [&str; 8] = ["WB", "WT", "UC-", "UC", "WB", "WT", "UC-", "UC"];

/// The memory type of a PAT index.
pub fn memory_type(pat_index: u8) -> &'static str {
    PAT_AT_RESET.get(usize::from(pat_index)).unwrap_or(&"?")
}

fn any_capable(attribute: MemoryAttribute) -> PatIndices {
    let uncached = MemoryAttribute::UNCACHEABLE.union(MemoryAttribute::UNCACHABLE_EXPORTED);
    let granted = [
        (MemoryAttribute::WRITE_BACK, &["WB"][..]),
        (MemoryAttribute::WRITE_THROUGH, &["WT"]),
        (MemoryAttribute::WRITE_COMBINE, &["UC-"]),
        (uncached, &["UC-", "UC"]),
    ];
    let is_granted = |index: &u8| {
        granted.iter().any(|(bit, types)| attribute.intersects(*bit) && types.contains(&memory_type(*index)))
    };
    match PatIndices::ANY.iter().filter(is_granted).fold(0, |all, index| all | PatIndices::only(index).0) {
        0 => PatIndices::ANY,
        some => PatIndices(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: MemoryAttribute = MemoryAttribute::empty();
    const UC: MemoryAttribute = MemoryAttribute::UNCACHEABLE;
    const WC: MemoryAttribute = MemoryAttribute::WRITE_COMBINE;
    const WT: MemoryAttribute = MemoryAttribute::WRITE_THROUGH;
    const WB: MemoryAttribute = MemoryAttribute::WRITE_BACK;

    #[test]
    fn each_rule_reads_the_mask_as_it_says() {
        use CacheRule::{AnyCapable, FirstCapable, WriteBackOrUncached};
        let rows: [(MemoryAttribute, &[u8], u8, u8); 8] = [
            (NONE, &[0, 1, 2, 3, 4, 5, 6, 7], 2, 2),
            (WB, &[0, 4], 0, 0),
            (WT, &[1, 5], 2, 1),
            (WC, &[2, 6], 2, 2),
            (UC, &[2, 3, 6, 7], 2, 2),
            (UC.union(WT), &[1, 2, 3, 5, 6, 7], 2, 2),
            (UC.union(WB), &[0, 2, 3, 4, 6, 7], 0, 0),
            // The PAT at reset has no WP.
            (MemoryAttribute::WRITE_PROTECT, &[0, 1, 2, 3, 4, 5, 6, 7], 2, 2),
        ];
        for (attribute, any, linux, first) in rows {
            let indices = |rule: CacheRule| rule.indices(attribute).iter().collect::<Vec<_>>();
            assert_eq!(indices(AnyCapable), any, "{attribute:?}");
            assert_eq!(indices(WriteBackOrUncached), [linux], "{attribute:?}");
            assert_eq!(indices(FirstCapable), [first], "{attribute:?}");
            assert!((0..=u8::MAX).all(|index| AnyCapable.indices(attribute).contains(index) == any.contains(&index)));
        }
    }

    #[test]
    fn indices_are_named_with_their_types() {
        assert_eq!(PatIndices::only(2).to_string(), "PAT index 2 (UC-)");
        assert_eq!(CacheRule::AnyCapable.indices(WB).to_string(), "PAT index 0 (WB), 4 (WB)");
    }
}
