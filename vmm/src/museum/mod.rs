//! The museum of the known bugs of EFI mapping code: what each was, and a run in which it shows.
//!
//! | file | holds |
//! | --- | --- |
//! | `bug` | what a bug and an exhibit are |
//! | `catalogue/` | all bugs, a row each; `exhibits/` has their scenarios |
//! | `mappers/` | mapping code with one thing wrong each |
//! | `trial` | an exhibit and its twin, run and judged |
//! | `visitor` | somebody's mapping code, put before all maps |
//! | `words`, `json` | how a person and a program read that |
//!
//! What must be found is worked out by hand, in the comment of each scenario, from the map and the bug. It is never taken from
//! what a run printed.

mod bug;
mod catalogue;
pub mod json;
mod mappers;
mod trial;
mod visitor;
pub mod words;

pub use bug::{Bug, Exhibit};
pub use catalogue::{bug, bugs};
pub use trial::{Outcome, Trial, TrialVerdict};
pub use visitor::{Answer, Has};
