//! What was found, batch by batch.

use std::collections::{BTreeMap, BTreeSet};

use super::arena::{Arena, Case};
use super::deviations::{DEVIATIONS, KnownMachine, Model, STALE};
use super::expected::Expected;
use super::mismatch::Mismatch;
use super::observed::{Observed, fault};
use super::part::Part;
use super::script::Tally;
use super::station::{Batch, modes};
use crate::engine::EngineError;
use crate::mmu::{Fault, Paging, PagingRule};

/// What was found.
#[derive(Default)]
pub struct Findings {
    /// Guests that ran at a time.
    pub threads: usize,
    /// What the guests counted.
    pub tally: Tally,
    /// Codes of page faults.
    pub error_codes: BTreeSet<u32>,
    /// Combinations that neither the SDM nor a known deviation explains.
    pub mismatches: u64,
    /// The first of them.
    pub shown: Vec<Mismatch>,
    /// For each deviation, by its index: what it explains.
    pub deviations: BTreeMap<usize, Explained>,
    /// For each rule of the software MMU, in how many combinations it was missed when it was broken.
    pub controls: BTreeMap<PagingRule, u64>,
    /// Deviations that were to be met, by trials of single accesses, and of how many combinations.
    pub due: BTreeMap<usize, u64>,
    /// Deviations that explain something although trials of single accesses say that this machine does not have them.
    pub not_shown: BTreeSet<usize>,
}

/// What a deviation explains.
#[derive(Default)]
pub struct Explained {
    /// How many combinations.
    pub count: u64,
    /// One of them.
    pub example: Option<Mismatch>,
}

/// Mismatches that are kept.
const MAX_SHOWN: usize = 64;

impl Findings {
    /// Adds another thread's.
    pub fn add(&mut self, other: Self) {
        self.tally.add(&other.tally);
        self.error_codes.extend(other.error_codes);
        self.mismatches += other.mismatches;
        self.shown.extend(other.shown);
        self.shown.truncate(MAX_SHOWN);
        for (index, explained) in other.deviations {
            let mine = self.deviations.entry(index).or_default();
            mine.count += explained.count;
            mine.example = mine.example.take().or(explained.example);
        }
        for (rule, count) in other.controls {
            *self.controls.entry(rule).or_default() += count;
        }
        for (index, count) in other.due {
            *self.due.entry(index).or_default() += count;
        }
        self.not_shown.extend(other.not_shown);
    }

    /// Deviations that were to be met, and were not.
    pub fn not_found(&self) -> impl Iterator<Item = usize> {
        let due = self.due.iter().filter(|(_, count)| **count > 0).map(|(index, _)| *index);
        due.filter(|index| !self.deviations.contains_key(index))
    }

    /// Judges a batch that has been run; with `controls`, by a software MMU too that is broken on purpose.
    pub fn judge(
        &mut self,
        arena: &Arena,
        batch: &Batch,
        (part, machine): &(Part, KnownMachine),
        controls: bool,
    ) -> Result<(), EngineError> {
        let mut recorded = Tally::default();
        for (index, case) in batch.cases.iter().enumerate() {
            let observed = Observed::of(arena, batch, index);
            recorded.count(&observed);
            if let Some(fault) = fault(&observed.main)
                && fault.vector == Fault::PAGE_FAULT
            {
                self.error_codes.insert(fault.error_code.0);
            }
            let right = self.judge_case(case, &observed, part, machine);
            if let Some(model) = right.filter(|_| controls) {
                self.break_rules(case, &observed, &model);
            }
        }
        if recorded != batch.tally {
            let Tally { accesses, faults, .. } = batch.tally;
            return Err(EngineError::Kvm(format!(
                "the guest counted {accesses} accesses and {faults} faults, and recorded {} and {}",
                recorded.accesses, recorded.faults
            )));
        }
        self.tally.add(&batch.tally);
        if batch.stale > 0 {
            self.deviations.entry(STALE).or_default().count += batch.stale;
        }
        Ok(())
    }

    /// Holds an observation against the software MMU that predicts it with one rule after the other broken.
    fn break_rules(&mut self, case: &Case, observed: &Observed, model: &Model) {
        let expected = Expected::of(case, model);
        for &rule in PagingRule::ALL {
            let rules = model.paging.rules.without(rule);
            let broken = Expected::of(case, &Model { paging: Paging { rules, ..model.paging }, ..*model });
            let missed = broken != expected && !broken.differences(case, observed).is_empty();
            *self.controls.entry(rule).or_default() += u64::from(missed);
        }
    }

    /// Judges one combination; returns the CPU that does what was observed, if one does.
    fn judge_case(&mut self, case: &Case, observed: &Observed, part: &Part, machine: &KnownMachine) -> Option<Model> {
        let model = Model::of_the_sdm(modes(&part.told, &case.combination));
        let expected = Expected::of(case, &model);
        for (index, deviation) in
            DEVIATIONS.iter().enumerate().filter(|(_, each)| each.precondition.is_some_and(|holds| holds(machine)))
        {
            let due = (deviation.model)(&model, machine).is_some_and(|model| Expected::of(case, &model) != expected);
            *self.due.entry(index).or_default() += u64::from(due);
        }
        let differences = expected.differences(case, observed);
        if differences.is_empty() {
            return Some(model);
        }
        let mismatch = || Mismatch::new(case, &part.request, &expected, observed, &differences);
        let Some((deviations, model)) = explain(case, observed, model, machine) else {
            self.mismatches += 1;
            if self.shown.len() < MAX_SHOWN {
                self.shown.push(mismatch());
            }
            return None;
        };
        for &index in deviations {
            if DEVIATIONS[index].precondition.is_some_and(|holds| !holds(machine)) {
                self.not_shown.insert(index);
            }
            let explained = self.deviations.entry(index).or_default();
            explained.count += 1;
            explained.example.get_or_insert_with(mismatch);
        }
        Some(model)
    }
}

/// The likeliest deviations under which the observation is what must be, and the CPU that has them.
pub fn explain<'a>(
    case: &Case,
    observed: &Observed,
    model: Model,
    machine: &'a KnownMachine,
) -> Option<(&'a [usize], Model)> {
    let explains = |model: &Model| Expected::of(case, model).differences(case, observed).is_empty();
    machine.deviating(model).find(|(_, deviating)| explains(deviating))
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.accesses += other.accesses;
        self.faults += other.faults;
        self.before.0 += other.before.0;
        self.before.1 += other.before.1;
    }

    /// Counts what was recorded, as the guest counts what it does.
    fn count(&mut self, observed: &Observed) {
        self.accesses += 1;
        self.faults += u64::from(fault(&observed.main).is_some());
        if let Some(before) = &observed.before {
            self.before.0 += 1;
            self.before.1 += u64::from(fault(before).is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use efibed_guest::protocol::{TRIAL_NOT_RUN, Trial};

    use super::*;
    use crate::engine::Abilities;
    use crate::machine::{CpuidRequest, CpuidSeen};
    use crate::matrix::arena::Slots;
    use crate::matrix::expected::AccessEnd;
    use crate::matrix::observed::brought_back;
    use crate::matrix::sets::Plane;

    /// A leaf of 1 GiB.
    const LARGE: &str = "pml4e.p pml4e.w pml4e.u pdpte.p pdpte.w pdpte.u pdpte.ps efer.nx cr0.wp";

    /// A machine that is told of 1 GiB pages, and has them, or so single accesses say.
    fn machine(has_gbpages: bool) -> KnownMachine {
        let told = Paging { gbpages: true, ..Paging::default() };
        let supported = CpuidSeen {
            maxphyaddr: told.maxphyaddr,
            gbpages: true,
            nx: true,
            la57: false,
            smep: true,
            smap: true,
            pku: false,
            xsave: true,
            fsgsbase: true,
            vendor: crate::machine::CpuVendor::Intel,
        };
        let checks = Paging { gbpages: has_gbpages, ..told };
        let trials = Vec::new();
        KnownMachine::new(Abilities { supported, told, taken: told, checks, high_half_start: true, trials })
    }

    fn part(told: Paging, combination: &str) -> Part {
        let always = combination.parse::<crate::matrix::Combination>().unwrap().iter().collect();
        let plane = Plane { name: "test", always, each: Vec::new(), one_of: Vec::new(), cpus: Vec::new() };
        Part::new(&plane, CpuidRequest::default(), told, &[])
    }

    /// What is observed where a machine does as `expected` says.
    fn observed(case: &Case, expected: &Expected) -> Observed {
        let not_run = Trial { virt: case.va.0, value: TRIAL_NOT_RUN, error_code: TRIAL_NOT_RUN, cr2: 0 };
        let main = match expected.end {
            AccessEnd::Reaches(pa) => Trial { value: brought_back(case, &case.combination, pa), ..not_run },
            AccessEnd::Faults(fault, Some(cr2)) => Trial { error_code: fault.error_code.0.into(), cr2, ..not_run },
            ref other => panic!("{other:?}"),
        };
        let entries = expected.entries.map(|(value, _)| value);
        Observed { main, before: None, entries, memory: expected.memory, wrote_at: None }
    }

    /// What is found where a machine, of which single accesses say so much, does as that other one must.
    fn found(machine: &KnownMachine, does: Paging) -> Findings {
        let part = part(machine.abilities.told, LARGE);
        let arena = Arena::new(0).unwrap();
        let case = arena.lay_out(0, &mut Slots::default(), part.get(0).unwrap(), false).unwrap();
        let seen = observed(&case, &Expected::of(&case, &Model::of_the_sdm(modes(&does, &case.combination))));
        let mut findings = Findings::default();
        findings.judge_case(&case, &seen, &part, machine);
        findings
    }

    fn names(indices: impl Iterator<Item = usize>) -> Vec<&'static str> {
        indices.map(|index| DEVIATIONS[index].name).collect()
    }

    #[test]
    fn a_deviation_that_is_met_where_it_is_due_is_named_and_no_mismatch() {
        let machine = machine(false);
        let findings = found(&machine, machine.abilities.checks);
        assert_eq!(names(findings.deviations.keys().copied()), ["1g-reserved"]);
        assert_eq!(findings.mismatches, 0);
        assert_eq!((findings.not_found().count(), findings.not_shown.len()), (0, 0));
    }

    #[test]
    fn a_deviation_that_is_due_and_not_met_is_told() {
        let machine = machine(false);
        let findings = found(&machine, machine.abilities.told);
        assert_eq!(names(findings.not_found()), ["1g-reserved"]);
        assert_eq!((findings.mismatches, findings.deviations.len()), (0, 0));
    }

    #[test]
    fn a_deviation_that_is_met_and_not_due_is_told() {
        let machine = machine(true);
        let findings = found(&machine, Paging { gbpages: false, ..machine.abilities.told });
        assert_eq!(names(findings.deviations.keys().copied()), ["1g-reserved"]);
        assert_eq!(names(findings.not_shown.iter().copied()), ["1g-reserved"]);
    }

    #[test]
    fn what_nothing_explains_is_a_mismatch() {
        let machine = machine(true);
        let does = Paging {
            rules: machine.abilities.told.rules.without(PagingRule::AccessedOnSuccess),
            ..machine.abilities.told
        };
        let findings = found(&machine, does);
        assert_eq!((findings.mismatches, findings.deviations.len()), (1, 0));
        assert_eq!(findings.shown[0].case, LARGE);
    }

    /// The guest's counts are its own: they must be what its records say.
    #[test]
    fn a_guest_that_counts_otherwise_than_it_records_is_an_error() {
        let machine = machine(true);
        let part = (part(machine.abilities.told, LARGE), machine);
        let arena = Arena::new(0).unwrap();
        let mut batch = Batch::new(0, 0);
        batch.cases.push(arena.lay_out(0, &mut Slots::default(), part.0.get(0).unwrap(), false).unwrap());
        for (accesses, faults, error) in [(0, 0, true), (1, 1, true), (2, 0, true), (1, 0, false)] {
            batch.tally = Tally { accesses, faults, before: (0, 0) };
            let judged = Findings::default().judge(&arena, &batch, &part, false);
            assert_eq!(judged.is_err(), error, "{accesses} {faults}: {judged:?}");
        }
    }

    #[test]
    fn stale_entries_are_a_deviation_too() {
        let machine = machine(true);
        let part = (part(machine.abilities.told, LARGE), machine);
        let arena = Arena::new(0).unwrap();
        for (stale, expected) in [(0, None), (3, Some(3))] {
            let mut findings = Findings::default();
            findings.judge(&arena, &Batch { stale, ..Batch::new(0, 0) }, &part, false).unwrap();
            assert_eq!(findings.deviations.get(&STALE).map(|found| found.count), expected);
            assert_eq!(DEVIATIONS[STALE].name, "stale-after-host-write");
        }
    }
}
