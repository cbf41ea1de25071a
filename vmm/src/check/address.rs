//! One address: whose it is, what must come of each access to it, and what comes of it on a phase's tables.
//!
//! What must be is the expectation's word, as everywhere in this room.

use std::collections::BTreeSet;

use super::alias::Alias;
use super::budget::Cut;
use super::contract::Term;
use super::expectation::Expectation;
use super::table_check::TableCheck;
use super::{Phase, WalkStep};
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{Access, ErrorCode, Fault, Outcome, Pa, Translation, Va, Walk, walk};

/// Virtual addresses listed of one physical address in a phase. A layout declares two or three, and they come first;
/// wrong tables may have any number.
pub const MAX_ADDRESSES: usize = 64;

/// What a phase makes of one address.
#[derive(Clone, Debug)]
pub struct Address {
    /// The phase whose tables were walked.
    pub phase: Phase,
    /// The address.
    pub virt: Va,
    /// Whose it is.
    pub standing: Standing,
    /// Every access: reads, writes and fetches, by the supervisor and by ring 3.
    pub accesses: Vec<Accessed>,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in a page of this alias, which must be mapped.
    Mapped(Alias),
    /// It was this alias's in phase `map`, and must not translate any more.
    Dropped(Alias),
    /// It is the kernel's own, and must translate as on the kernel's tables.
    Kernel,
    /// It belongs to nothing, and must not translate.
    Nobody {
        /// Whether it lies in a range that the layout maps regions in.
        in_arena: bool,
    },
    /// No access gets as far as the tables.
    NotCanonical,
}

/// One access, made by the software walk.
#[derive(Clone, Debug)]
pub struct Accessed {
    /// The walk.
    pub walk: Walk,
    /// What must come of it.
    pub expected: Due,
    /// Whether that came of it.
    pub is_right: bool,
}

/// What must come of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It reaches this physical address.
    Reaches(Pa),
    /// It reaches this physical address, or the page refuses it.
    MayReach(Pa),
    /// The page is there, and refuses it.
    Refused,
    /// Nothing is there.
    NotMapped,
    /// The address is not canonical: no page fault, but #GP or #SS.
    NotCanonical,
    /// The same as on the kernel's own tables.
    As(Outcome),
}

impl Due {
    fn is_met_by(self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Reaches(pa), Outcome::Translated(to)) => to.pa == pa,
            (Self::MayReach(pa), Outcome::Translated(to)) => to.pa == pa,
            (Self::Refused | Self::MayReach(_), Outcome::Fault(fault)) => is_refusal(fault),
            (Self::NotMapped, Outcome::Fault(fault)) => fault.vector == Fault::PAGE_FAULT && !is_present(fault),
            (Self::NotCanonical, Outcome::Fault(fault)) => fault.vector != Fault::PAGE_FAULT,
            (Self::As(expected), outcome) => alike(&expected, outcome),
            _ => false,
        }
    }
}

impl Address {
    /// What the tables of a phase make of an address, and what they must.
    pub(crate) fn new(phase: Phase, virt: Va, tables: &TableCheck<'_>) -> Self {
        let standing = standing(virt, tables);
        let kinds = [Access::read(), Access::write(), Access::fetch()];
        let accesses = kinds.into_iter().chain(kinds.map(Access::user)).map(|access| {
            let walk = walk(&tables.memory, tables.root, virt, access, tables.told);
            let expected = expected(standing, virt, access, tables);
            Accessed { is_right: expected.is_met_by(&walk.outcome), expected, walk }
        });
        Self { phase, virt, standing, accesses: accesses.collect() }
    }

    /// Whether every access ends as it must.
    pub fn is_right(&self) -> bool {
        self.accesses.iter().all(|access| access.is_right)
    }

    /// The entries that the walk reads, whatever the access.
    pub fn steps(&self) -> Vec<WalkStep> {
        let first = self.accesses.first();
        first.map_or_else(Vec::new, |access| access.walk.steps().iter().map(WalkStep::from).collect())
    }

    /// Where the first access that gets through arrives.
    pub fn translation(&self) -> Option<Translation> {
        self.accesses.iter().find_map(|access| access.walk.translation())
    }

    /// The region whose it is, or was.
    pub fn region(&self) -> Option<usize> {
        match self.standing {
            Standing::Mapped(alias) | Standing::Dropped(alias) => alias.region,
            _ => None,
        }
    }
}

/// Every virtual address at which a physical one is, or must be, or was: by the tables, and by what is expected of them. Err:
/// there may be more, for the tables could not be read to their end.
pub fn addresses_of(pa: Pa, tables: &TableCheck<'_>) -> Result<BTreeSet<Va>, Cut> {
    let Expectation { aliases, gone, .. } = tables.expectation;
    let declared = aliases.iter().chain(gone).filter_map(|alias| {
        let offset = pa.checked_offset_from(alias.phys)?;
        (offset / PAGE_BYTES < alias.pages).then(|| Ok(alias.virt.wrapping_add(offset)))
    });
    let mapped = tables.everything().filter_map(|run| match run {
        Ok(run) => {
            let offset = pa.checked_offset_from(run.pa).filter(|offset| run.defect.is_none() && *offset < run.bytes)?;
            Some(Ok(run.va.wrapping_add(offset)))
        }
        Err(cut) => Some(Err(cut)),
    });
    declared.chain(mapped).take(MAX_ADDRESSES).collect()
}

fn standing(virt: Va, tables: &TableCheck<'_>) -> Standing {
    let Expectation { aliases, arenas, .. } = tables.expectation;
    if !tables.told.is_canonical(virt) {
        return Standing::NotCanonical;
    }
    if let Some(index) = tables.expectation.alias_at(virt) {
        return Standing::Mapped(aliases[index]);
    }
    if tables.kernel.iter().any(|range| range.contains(&virt)) {
        return Standing::Kernel;
    }
    match tables.expectation.gone_at(virt) {
        Some(alias) => Standing::Dropped(alias),
        None => Standing::Nobody { in_arena: arenas.iter().any(|arena| arena.contains(&virt)) },
    }
}

fn expected(standing: Standing, virt: Va, access: Access, tables: &TableCheck<'_>) -> Due {
    match standing {
        Standing::Mapped(alias) => match alias.access(access) {
            Term::Owed => Due::Reaches(alias.target(virt)),
            Term::Allowed => Due::MayReach(alias.target(virt)),
            Term::Forbidden => Due::Refused,
        },
        Standing::Dropped(_) | Standing::Nobody { .. } => Due::NotMapped,
        Standing::NotCanonical => Due::NotCanonical,
        Standing::Kernel => Due::As(walk(&tables.memory, tables.kernel_root, virt, access, tables.told).outcome),
    }
}

/// Same frame, same rights: the kernel's tables may be copies.
fn alike(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Outcome::Translated(a), Outcome::Translated(b)) => {
            (a.pa, a.rights, a.pat_index) == (b.pa, b.rights, b.pat_index)
        }
        _ => one == other,
    }
}

fn is_present(fault: &Fault) -> bool {
    fault.error_code.contains(ErrorCode::P) || fault.error_code.contains(ErrorCode::RSVD)
}

/// A fault for want of a right, and not for an entry that is absent or has reserved bits.
fn is_refusal(fault: &Fault) -> bool {
    let code = fault.error_code;
    fault.vector == Fault::PAGE_FAULT && code.contains(ErrorCode::P) && !code.contains(ErrorCode::RSVD)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACHED: Outcome = Outcome::Translated(Translation {
        pa: Pa(0x1000),
        leaf: crate::mmu::Level::Pte,
        rights: crate::mmu::Rights { writable: true, user: false, executable: false, pkey: 0 },
        pat_index: 0,
        global: false,
    });

    fn page_fault(code: u32) -> Outcome {
        Outcome::Fault(Fault::page(ErrorCode(code)))
    }

    #[test]
    fn what_must_come_of_an_access_comes_or_not() {
        let cases = [
            (Due::Reaches(Pa(0x1000)), [true, false, false, false]),
            (Due::Reaches(Pa(0x2000)), [false, false, false, false]),
            (Due::MayReach(Pa(0x1000)), [true, false, true, false]),
            (Due::MayReach(Pa(0x2000)), [false, false, true, false]),
            (Due::NotMapped, [false, true, false, false]),
            (Due::Refused, [false, false, true, false]),
            (Due::As(page_fault(2)), [false, true, false, false]),
            (Due::As(REACHED), [true, false, false, false]),
        ];
        // It arrives, nothing is there, a right is missing, a reserved bit is set.
        let outcomes = [REACHED, page_fault(2), page_fault(3), page_fault(0xb)];
        for (expected, met) in cases {
            assert_eq!(outcomes.map(|outcome| expected.is_met_by(&outcome)), met, "{expected:?}");
        }
        let gp = Outcome::Fault(Fault { vector: Fault::GENERAL_PROTECTION, error_code: ErrorCode(0) });
        assert!(Due::NotCanonical.is_met_by(&gp) && !Due::NotMapped.is_met_by(&gp));
        assert!(!Due::NotCanonical.is_met_by(&page_fault(0)));
    }
}
