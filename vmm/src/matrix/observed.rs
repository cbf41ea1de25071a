//! What came of a combination.

use efibed_guest::protocol::{TRIAL_NOT_RUN, Trial};
use efibed_stub::stamp::{stamp, stamped};

use super::arena::{Arena, Case, Records, number_of};
use super::bits::{Bit, Combination, LEVELS};
use super::expected::describe_entries;
use super::station::{Batch, HANGS, NOT_EMULATED};
use crate::mmu::{ErrorCode, Fault, Pa};

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The record of its access.
    pub main: Trial,
    /// That of the read before.
    pub before: Option<Trial>,
    /// Its entries.
    pub entries: [u64; LEVELS + 1],
    /// The bytes at the address.
    pub memory: u64,
    /// What its write wrote elsewhere.
    pub wrote_at: Option<u64>,
}

impl Observed {
    /// What came of a batch's case of this index.
    pub fn of(arena: &Arena, batch: &Batch, index: usize) -> Self {
        let case = &batch.cases[index];
        let wrote = batch.stray_writes.iter().find(|(_, value)| *value == case.va.0);
        Self {
            main: arena.record(Records::Main, index),
            before: case.combination.has(Bit::Twice).then(|| arena.record(Records::Before, index)),
            entries: case.entries.map(|entry| if entry.at == Pa(0) { 0 } else { arena.entry(&entry) }),
            memory: arena.memory(case),
            wrote_at: wrote.map(|(pa, _)| *pa),
        }
    }

    /// In words, for a case.
    pub fn describe(&self, case: &Case) -> String {
        let end = match fault(&self.main) {
            Some(fault) if u64::from(fault.vector) == NOT_EMULATED => "KVM could not carry it out".to_owned(),
            Some(fault) if u64::from(fault.vector) == HANGS => "had no end".to_owned(),
            Some(fault) if fault.vector == Fault::PAGE_FAULT => format!("{fault}, CR2 {:#x}", self.main.cr2),
            Some(fault) => fault.to_string(),
            None if self.main.value == TRIAL_NOT_RUN => "not made".to_owned(),
            None => format!("reached {}", self.place(case)),
        };
        format!("{end}; {}", describe_entries(case, &self.entries.map(|entry| (entry, 0))))
    }

    fn place(&self, case: &Case) -> String {
        if let Some(pa) = self.wrote_at {
            return format!("PA {pa:#x}");
        }
        let value = self.main.value;
        let here = brought_back(case, &case.combination, case.reached);
        match stamped(value) {
            _ if case.combination.has(Bit::Write) || value == here => format!("PA {:#x}", case.reached),
            Some(pa) => format!("PA {pa:#x}"),
            None => format!("what holds {value:#x}"),
        }
    }
}

/// How an access faulted, if it did.
pub fn fault(trial: &Trial) -> Option<Fault> {
    if trial.error_code == TRIAL_NOT_RUN {
        return None;
    }
    let vector = match (trial.error_code >> 56) as u8 {
        0 => Fault::PAGE_FAULT,
        vector => vector,
    };
    Some(Fault { vector, error_code: ErrorCode(trial.error_code as u32) })
}

/// What a read, fetch or access of the processor's own brings back from a physical address.
pub fn brought_back(case: &Case, combination: &Combination, pa: u64) -> u64 {
    match () {
        () if combination.has(Bit::Fetch) || combination.has(Bit::Implicit) => number_of(pa),
        () if pa == case.reached => Arena::memory_before(case),
        () => stamp(pa),
    }
}
