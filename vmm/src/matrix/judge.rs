//! Where what came of a combination differs from what must.

use std::fmt;

use efibed_guest::protocol::{TRIAL_NOT_RUN, Trial};

use super::arena::Case;
use super::bits::{Bit, Combination};
use super::expected::{AccessEnd, Expected};
use super::observed::{Observed, brought_back, fault};
use super::station::{HANGS, NOT_EMULATED};

/// A way in which the two differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// One faults and the other does not, or the one is another exception, or it was not carried out.
    End,
    /// Error codes differ.
    ErrorCode,
    /// CR2 differs.
    Cr2,
    /// Another physical address was reached.
    Page,
    /// The same, of the read before.
    Before,
    /// An entry's A or D bit, or anything else of it.
    Entry,
    /// The bytes at the address.
    Memory,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "fault or not",
            Self::ErrorCode => "error code",
            Self::Cr2 => "CR2",
            Self::Page => "page reached",
            Self::Before => "the read before",
            Self::Entry => "entries afterwards",
            Self::Memory => "memory afterwards",
        })
    }
}

impl Expected {
    /// Where an observation differs.
    pub fn differences(&self, case: &Case, observed: &Observed) -> Vec<Difference> {
        let mut differences = Vec::new();
        let wrote_at = case.combination.has(Bit::Write).then_some(observed.wrote_at);
        differences.extend(differs(case, &case.combination, self.end, &observed.main, wrote_at));
        let read = Combination::default();
        if let (Some(end), Some(trial)) = (self.before, &observed.before)
            && differs(case, &read, end, trial, None).is_some()
        {
            differences.push(Difference::Before);
        }
        if self.entries.iter().zip(observed.entries).any(|(&(value, may), found)| found & !may != value) {
            differences.push(Difference::Entry);
        }
        if self.memory != observed.memory {
            differences.push(Difference::Memory);
        }
        differences
    }
}

fn differs(
    case: &Case,
    combination: &Combination,
    end: AccessEnd,
    trial: &Trial,
    wrote_at: Option<Option<u64>>,
) -> Option<Difference> {
    let seen = fault(trial);
    match (end, seen) {
        (AccessEnd::Faults(expected, cr2), Some(fault)) => match () {
            () if expected.vector != fault.vector => Some(Difference::End),
            () if expected.error_code != fault.error_code => Some(Difference::ErrorCode),
            () if cr2.is_some_and(|cr2| cr2 != trial.cr2) => Some(Difference::Cr2),
            () => None,
        },
        (AccessEnd::Hangs, Some(fault)) if u64::from(fault.vector) == HANGS => None,
        (AccessEnd::Reaches(pa), None) if trial.value != TRIAL_NOT_RUN => {
            let reached = match wrote_at {
                // What was written to the page is compared by itself.
                Some(elsewhere) => elsewhere.unwrap_or(case.reached) == pa,
                None => trial.value == brought_back(case, combination, pa),
            };
            (!reached).then_some(Difference::Page)
        }
        // KVM cannot execute what has no memory behind it.
        (AccessEnd::Reaches(pa), Some(fault)) if fault.vector == NOT_EMULATED as u8 && pa != case.reached => None,
        _ => Some(Difference::End),
    }
}
