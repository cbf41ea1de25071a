//! A combination that did not come out as it must, in words.

use super::arena::Case;
use super::expected::Expected;
use super::judge::Difference;
use super::observed::Observed;
use super::sets;
use crate::machine::CpuidRequest;

/// A combination that did not come out as it must.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Its bits, by their short names.
    pub case: String,
    /// The CPU it ran on, as for `--cpu`.
    pub cpu: String,
    /// What must come of it.
    pub expected: String,
    /// What came of it.
    pub observed: String,
    /// In what they differ.
    pub differences: Vec<Difference>,
}

impl Mismatch {
    pub(super) fn new(
        case: &Case,
        cpu: &CpuidRequest,
        expected: &Expected,
        observed: &Observed,
        differences: &[Difference],
    ) -> Self {
        Self {
            case: case.combination.to_string(),
            cpu: sets::cpu(cpu),
            expected: expected.describe(case),
            observed: observed.describe(case),
            differences: differences.to_vec(),
        }
    }
}
