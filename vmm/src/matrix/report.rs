//! What came of a run of the matrix.

pub mod json;
pub mod text;

use std::time::Duration;

use super::deviations::{DEVIATIONS, STALE};
use super::findings::Findings;
use super::mismatch::Mismatch;
use super::plan::{Plan, Shard, Skipped};
use super::{Floor, Matrix, Set};
use crate::mmu::PagingRule;

/// What came of it.
#[derive(Clone, Debug)]
pub struct MatrixReport {
    /// What was run.
    pub set: Set,
    /// Which shard of it.
    pub shard: Shard,
    /// How many combinations at most, and chosen by which seed.
    pub sample: Option<u64>,
    /// The seed.
    pub seed: u64,
    /// Guests at a time.
    pub threads: usize,
    /// The parts, and how many combinations of each.
    pub parts: Vec<(String, u64)>,
    /// Combinations, as the guests counted them.
    pub combinations: u64,
    /// Those of them that faulted, as the guests counted them.
    pub faults: u64,
    /// The error codes of page faults.
    pub error_codes: Vec<u32>,
    /// Combinations that neither the SDM nor a known deviation explains.
    pub mismatches: u64,
    /// The first of them.
    pub shown: Vec<Mismatch>,
    /// Deviations of this KVM that were found.
    pub deviations: Vec<Found>,
    /// Deviations that should have been found, by what single accesses showed, and were not.
    pub not_found: Vec<&'static str>,
    /// Deviations that were found, although single accesses showed that this machine does not have them.
    pub not_shown: Vec<&'static str>,
    /// If asked for: for each rule of the software MMU, how many combinations show that it was broken.
    pub controls: Vec<(PagingRule, u64)>,
    /// What was not run.
    pub skipped: Vec<Skipped>,
    /// How long it took.
    pub elapsed: Duration,
    /// If asked for: what the accesses cost each guest at the least, before and after.
    pub floors: Vec<Floor>,
}

/// A deviation of this KVM from the SDM.
#[derive(Clone, Debug)]
pub struct Found {
    /// A name that stays the same.
    pub name: &'static str,
    /// The rule that is not kept.
    pub rule: &'static str,
    /// What in such KVMs brings it about.
    pub reason: &'static str,
    /// How many combinations it explains; or how many trial accesses before them, with `is_of_trials`.
    pub count: u64,
    /// Whether trial accesses show it, and no combination does.
    pub is_of_trials: bool,
    /// One of them.
    pub example: Option<Mismatch>,
}

impl MatrixReport {
    pub(super) fn new(matrix: &Matrix, plan: Plan, findings: Findings, elapsed: Duration) -> Self {
        let not_found = findings.not_found().map(|index| DEVIATIONS[index].name).collect();
        let found = findings.deviations.into_iter().map(|(index, explained)| Found {
            name: DEVIATIONS[index].name,
            rule: DEVIATIONS[index].rule,
            reason: DEVIATIONS[index].reason,
            count: explained.count,
            is_of_trials: index == STALE,
            example: explained.example,
        });
        Self {
            set: matrix.set,
            shard: matrix.shard,
            sample: matrix.sample,
            seed: matrix.seed,
            threads: findings.threads,
            parts: plan.titles(),
            combinations: findings.tally.accesses,
            faults: findings.tally.faults,
            error_codes: findings.error_codes.into_iter().collect(),
            mismatches: findings.mismatches,
            shown: findings.shown,
            deviations: found.collect(),
            not_found,
            not_shown: findings.not_shown.into_iter().map(|index| DEVIATIONS[index].name).collect(),
            controls: findings.controls.into_iter().collect(),
            skipped: plan.skipped,
            elapsed,
            floors: Vec::new(),
        }
    }

    /// Whether all is as it must be, except for known deviations of this KVM.
    pub fn is_clean(&self) -> bool {
        self.mismatches == 0 && self.not_found.is_empty() && self.not_shown.is_empty()
    }

    /// Combinations in a second.
    pub fn per_second(&self) -> f64 {
        self.combinations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Combinations in a second if each took a guest no longer than its accesses alone do, in bare loops of
    /// as many guests at once.
    pub fn floor_per_second(&self) -> Option<f64> {
        let each: f64 = self.floors.iter().map(|floor| floor.combination().as_secs_f64()).sum();
        (each > 0.0).then(|| self.threads as f64 * self.floors.len() as f64 / each)
    }

    /// The time it took over the time of the bare loops.
    pub fn over_floor(&self) -> Option<f64> {
        Some(self.floor_per_second()? / self.per_second().max(1e-9))
    }
}
