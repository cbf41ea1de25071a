//! The part of the contract that no access shows: which flags of a table entry mapping code may set.
//!
//! P, R/W, U/S and XD of all levels together, the address and the PAT index of a leaf are judged by what comes of them
//! (`tables`), reserved bits by the manual's rules (`mmu`). Here is every other flag, with the verdict on it and the reason:
//! the manual, and what kernels rely on. Only the walk can witness them.

use super::Rule;
use crate::mmu::bits;

/// One flag in one kind of entry.
#[derive(Clone, Copy, Debug)]
pub struct FlagRule {
    /// The bits.
    pub flag: u64,
    /// The flag in words.
    pub name: &'static str,
    /// Which entries are meant.
    pub of: EntryKind,
    /// What is to be said if it is set.
    pub verdict: Verdict,
    /// Why, with the manual's section.
    pub reason: &'static str,
}

/// Which entries a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Those that map a page.
    Leaf,
    /// Those that map a page below a table entry with U/S clear.
    SupervisorLeaf,
    /// Those that refer to a table.
    Table,
}

/// What is said of a flag that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is wrong: a finding under this rule.
    Error(Rule),
    /// It does no harm as the tables stand, and serves no purpose: a note.
    Note,
    /// Nothing.
    Allowed,
}

use EntryKind::{Leaf, SupervisorLeaf, Table};
use Verdict::{Allowed, Error, Note};

/// Every flag that is judged by itself.
pub const FLAGS: [FlagRule; 13] = [
    FlagRule {
        flag: bits::G,
        name: "G",
        of: Leaf,
        verdict: Error(Rule::GlobalLeaf),
        reason: "a load of CR3 does not drop a global translation, so the page stays reachable after the kernel has gone back \
                 to its own tables (SDM vol. 3A, 4.10.2.4)",
    },
    FlagRule {
        flag: bits::G,
        name: "G",
        of: Table,
        verdict: Allowed,
        reason: "ignored (SDM vol. 3A, tables 4-14, 4-15, 4-17, 4-19). Where AMD reserves it, that is `reserved-bit`",
    },
    FlagRule {
        flag: bits::PWT | bits::PCD,
        name: "PWT or PCD",
        of: Table,
        verdict: Error(Rule::TableCache),
        reason: "it gives the next table another memory type than write-back, which the kernel's own mapping of that table has: \
                 two types for one page are undefined (SDM vol. 3A, 4.9.2 and 11.12.4). Linux's _KERNPG_TABLE has neither",
    },
    FlagRule {
        flag: bits::PKEY,
        name: "a protection key",
        of: Leaf,
        verdict: Error(Rule::ProtectionKey),
        reason: "the page is then under rights that nobody set for firmware: PKRU's for user pages, IA32_PKRS's for supervisor \
                 pages where the kernel has CR4.PKS (SDM vol. 3A, 4.6.2). Without either it is ignored, and the guest cannot tell",
    },
    FlagRule {
        flag: bits::PKEY,
        name: "bits 62:59",
        of: Table,
        verdict: Allowed,
        reason: "ignored: keys are a leaf's (SDM vol. 3A, tables 4-14, 4-15, 4-17, 4-19)",
    },
    FlagRule {
        flag: bits::U,
        name: "U/S",
        of: SupervisorLeaf,
        verdict: Note,
        reason: "ring 3 has no access, since U/S must be set at every level (SDM vol. 3A, 4.6.1), but one entry above is all that \
                 stands between",
    },
    FlagRule {
        flag: bits::U,
        name: "U/S",
        of: Table,
        verdict: Allowed,
        reason: "the leaves decide (SDM vol. 3A, 4.6.1). Linux's _PAGE_TABLE has it, in kernel mappings too",
    },
    FlagRule {
        flag: bits::A,
        name: "A",
        of: Leaf,
        verdict: Allowed,
        reason: "the CPU sets it at the first use, and the mapper may before, as Linux's __PAGE_KERNEL does (SDM vol. 3A, 4.8)",
    },
    FlagRule {
        flag: bits::A,
        name: "A",
        of: Table,
        verdict: Allowed,
        reason: "the CPU sets it at the first use, and the mapper may before, as Linux's _KERNPG_TABLE does (SDM vol. 3A, 4.8)",
    },
    FlagRule {
        flag: bits::D,
        name: "D",
        of: Leaf,
        verdict: Allowed,
        reason: "the CPU sets it at the first write, and the mapper may before, as Linux's __PAGE_KERNEL does (SDM vol. 3A, 4.8). \
                 With R/W clear it makes a shadow-stack page only where CR4.CET and IA32_S_CET ask for shadow stacks (4.6), \
                 which the guest does not; and what was written before phase `finish` made it read-only keeps its D",
    },
    FlagRule {
        flag: bits::D,
        name: "D",
        of: Table,
        verdict: Allowed,
        reason: "ignored (SDM vol. 3A, tables 4-14, 4-15, 4-17, 4-19). Linux's _KERNPG_TABLE has it",
    },
    FlagRule {
        flag: SOFTWARE,
        name: "software's bits",
        of: Leaf,
        verdict: Allowed,
        reason: "ignored: they are the kernel's to use (SDM vol. 3A, tables 4-16, 4-18, 4-20)",
    },
    FlagRule {
        flag: SOFTWARE,
        name: "software's bits",
        of: Table,
        verdict: Allowed,
        reason: "ignored: they are the kernel's to use (SDM vol. 3A, tables 4-14, 4-15, 4-17, 4-19)",
    },
];

/// Bits 11:9 and 58:52, ignored in every entry (SDM vol. 3A, tables 4-14 to 4-20).
const SOFTWARE: u64 = 0x7 << 9 | 0x7f << 52;

/// The flags that are not allowed in a leaf, or in an entry that refers to a table.
pub const fn suspicious(is_leaf: bool) -> u64 {
    let (mut mask, mut rules): (_, &[FlagRule]) = (0, &FLAGS);
    while let [rule, rest @ ..] = rules {
        if !matches!(rule.verdict, Allowed) && is_leaf == !matches!(rule.of, Table) {
            mask |= rule.flag;
        }
        rules = rest;
    }
    mask
}

/// The rules that an entry with suspicious flags breaks. `below_supervisor`: some entry above has U/S clear.
pub fn broken_by(entry: u64, is_leaf: bool, below_supervisor: bool) -> impl Iterator<Item = &'static FlagRule> {
    FLAGS.iter().filter(move |rule| {
        let is_meant = match rule.of {
            Leaf => is_leaf,
            SupervisorLeaf => is_leaf && below_supervisor,
            Table => !is_leaf,
        };
        is_meant && entry & rule.flag != 0 && rule.verdict != Allowed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tables` and `mmu` judge of every entry: P, R/W and XD, and the address.
    const JUDGED_BY_EFFECT: u64 = bits::P | bits::W | bits::NX | bits::ADDRESS;

    #[test]
    fn every_bit_of_an_entry_is_judged_by_somebody() {
        let ruled = |kinds: &[EntryKind]| {
            FLAGS.iter().filter(|rule| kinds.contains(&rule.of)).fold(0, |mask, rule| mask | rule.flag)
        };
        // Bit 7 is PS or PAT, and with PCD and PWT a leaf's PAT index. Of a leaf, U/S of all levels is judged too.
        let leaf = ruled(&[Leaf, SupervisorLeaf]) | bits::PAT_OF_PTE | bits::PCD | bits::PWT;
        assert_eq!(leaf | JUDGED_BY_EFFECT, u64::MAX);
        assert_eq!(ruled(&[Table]) | bits::PS | JUDGED_BY_EFFECT, u64::MAX);
    }

    #[test]
    fn each_flag_has_one_verdict_for_each_kind_of_entry() {
        for (index, rule) in FLAGS.iter().enumerate() {
            let twice = FLAGS[..index].iter().find(|other| other.of == rule.of && other.flag & rule.flag != 0);
            assert!(twice.is_none(), "{} of {:?}", rule.name, rule.of);
            assert!(rule.reason.contains("SDM vol. 3A, "), "{}", rule.reason);
        }
    }
}
