//! Accesses of several bytes, which may cross into a second page.

use super::access::Access;
use super::address::{Pa, Va};
use super::fault::Fault;
use super::paging::Paging;
use super::rules::PagingRule;
use super::walk::{Outcome, TableMemory, Walk, walk};

/// Follows an access to the `len` bytes at `va`: the walk of its first page, that of a second page
/// if it reaches one, and the fault.
///
/// It faults on the page of the first bad byte, and CR2 is that byte. A length of 0 counts as 1. No
/// instruction's operand reaches a third page, and none is looked at. Where the first page strands,
/// the second is not walked, because nobody knows whether the access gets there.
pub fn access_bytes(
    memory: &(impl TableMemory + ?Sized),
    root: Pa,
    va: Va,
    len: u64,
    access: Access,
    paging: &Paging,
) -> BytesAccess {
    let rules = paging.rules;
    let first = walk(memory, root, va, access, paging);
    let goes_on = match first.outcome {
        Outcome::Translated(_) => true,
        Outcome::Fault(_) => !rules.has(PagingRule::CrossingFirstBadPage),
        Outcome::Stranded { .. } => false,
    };
    let second = second_page(va, len)
        .filter(|_| goes_on && rules.has(PagingRule::CrossingSecondPage))
        .map(|second| walk(memory, root, second, access, paging));

    let faulting = second.iter().chain([&first]).find(|walk| walk.fault().is_some());
    let fault = faulting.and_then(|walk| {
        let fault = walk.fault()?;
        let cr2 = if rules.has(PagingRule::CrossingCr2) { walk.va } else { va };
        Some(Raised { fault, cr2: (fault.vector == Fault::PAGE_FAULT).then_some(cr2) })
    });
    BytesAccess { first, second, fault }
}

/// An access of several bytes, followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BytesAccess {
    /// The walk of the first byte's page.
    pub first: Walk,
    /// The walk of the second page, from its first byte; none if the access ended before it. If
    /// *this* faults, the entries of the first walk may have their A and D bits set, or not.
    pub second: Option<Walk>,
    /// The fault raised. None, too, if a walk stranded.
    pub fault: Option<Raised>,
}

/// A fault, and what CR2 holds in its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The fault.
    pub fault: Fault,
    /// The first byte that faulted; only #PF sets CR2.
    pub cr2: Option<Va>,
}

/// The first byte beyond the first page, if the access gets there. Addresses wrap at 2^64.
fn second_page(va: Va, len: u64) -> Option<Va> {
    const PAGE_BYTES: u64 = 4096;
    let in_first_page = PAGE_BYTES - va.0 % PAGE_BYTES;
    (len > in_first_page).then(|| Va(va.0.wrapping_add(in_first_page)))
}
