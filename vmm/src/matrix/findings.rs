//! What was found, batch by batch.

use std::collections::{BTreeMap, BTreeSet};

use super::arena::{Arena, Case};
use super::deviations::{DEVIATIONS, Machine, Model};
use super::expected::Expected;
use super::observed::{Observed, fault};
use super::part::Part;
use super::report::Mismatch;
use super::station::{Batch, Tally, modes};
use crate::engine::EngineError;
use crate::mmu::{Fault, Paging, Rule};

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
    pub controls: BTreeMap<Rule, u64>,
    /// Deviations that were to be met, by trials of single accesses, and of how many combinations.
    pub due: BTreeMap<usize, u64>,
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
    }

    /// Judges a batch that has been run; with `controls`, by a software MMU too that is broken on purpose.
    pub fn judge(
        &mut self,
        arena: &Arena,
        batch: &Batch,
        (part, machine): &(Part, Machine),
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
        Ok(())
    }

    /// Holds an observation against the software MMU that predicts it with one rule after the other broken.
    fn break_rules(&mut self, case: &Case, observed: &Observed, model: &Model) {
        let expected = Expected::of(case, model);
        for &rule in Rule::ALL {
            let rules = model.paging.rules.without(rule);
            let broken = Expected::of(case, &Model { paging: Paging { rules, ..model.paging }, ..*model });
            let missed = broken != expected && !broken.differences(case, observed).is_empty();
            *self.controls.entry(rule).or_default() += u64::from(missed);
        }
    }

    /// Judges one combination; returns the CPU that does what was observed, if one does.
    fn judge_case(&mut self, case: &Case, observed: &Observed, part: &Part, machine: &Machine) -> Option<Model> {
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
    machine: &'a Machine,
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
