//! Oracles: what must be, what the tables say, what to ask the guest, and what its answers mean.
//!
//! | file | holds |
//! | --- | --- |
//! | `finding` | rules, witnesses, findings |
//! | `expectation` | the first witness: the memory map and the layout's closed form |
//! | `tables` | the third witness: the software walk over the finished tables, before the guest loads them |
//! | `plan` | which accesses the guest is to make |
//! | `judge` | what came of them, against what had to |
//! | `marks` | runs of pages, gathered until they become findings |
//!
//! The guest's MMU, the second witness, is asked by the engines; so is KVM_TRANSLATE, the fourth.

mod expectation;
mod finding;
mod judge;
mod marks;
mod plan;
mod tables;

pub(crate) use expectation::{Expectation, judge_map};
pub use finding::{Finding, Phase, Rule, Severity, WalkStep, Witness};
pub use judge::{FaultRecord, ProbeCounts};
pub(crate) use judge::{Judge, Observations};
pub(crate) use marks::{Marks, Tables};
pub use plan::Skipped;
pub(crate) use plan::{Behind, Ground, Plan, PlannedProbe, PlannedSweep, Random};
pub use tables::LeafCounts;
pub(crate) use tables::{TableCheck, TableVerdict};
