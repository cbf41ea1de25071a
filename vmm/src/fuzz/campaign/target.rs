//! The mapping code as LibAFL sees it: an executor, the observers that it fills, and what makes an input an objective.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use libafl::Error;
use libafl::corpus::Testcase;
use libafl::executors::{Executor, ExitKind, HasObservers};
use libafl::feedbacks::{Feedback, StateInitializer};
use libafl::state::HasExecutions;
use libafl_bolts::tuples::RefIndexable;
use libafl_bolts::{Named, ToSliceMut as _};

use super::counters::{self, Coverage};
use super::input::MapInput;
use super::shape::Seen;
use super::slate::{Slate, Word};
use super::trial::Trials;
use crate::fuzz::FindingKey;
use crate::memory_map::MemoryMap;
use crate::report::Report;

/// The mapping code's own counters.
pub type Observers = (Coverage, ());

/// Findings that are passed on: from the executor, which runs, to the objective, which judges, and from there to who tells.
pub type Hits = Rc<RefCell<Vec<Hit>>>;

/// A finding that counts.
#[derive(Clone)]
pub struct Hit {
    /// Its key.
    pub key: FindingKey,
    /// The run that had it.
    pub report: Rc<Report>,
    /// The map that was run.
    pub map: Rc<MemoryMap>,
}

/// The cells of the last run, which the executor leaves to the feedback, and those of all runs whose maps went into the corpus.
#[derive(Default)]
pub struct Shape {
    of_run: Vec<usize>,
    /// Those in the corpus.
    pub kept: Seen,
}

/// Runs inputs.
pub struct Target {
    trials: Trials,
    slate: Slate,
    observers: Observers,
    shape: Rc<RefCell<Shape>>,
    found: Hits,
    /// Maps that this client is still to run.
    left: u64,
    buffer: Vec<u8>,
}

impl Target {
    /// Runs so many maps, and tells of each on the slate.
    pub fn new(
        trials: Trials,
        slate: Slate,
        coverage: Coverage,
        shape: Rc<RefCell<Shape>>,
        found: Hits,
        runs: u64,
    ) -> Self {
        Self { trials, slate, observers: (coverage, ()), shape, found, left: runs, buffer: Vec::new() }
    }

    /// Whether there is nothing left to run, or nobody who wants it.
    pub fn is_done(&self) -> bool {
        self.left == 0 || self.slate.get(Word::Stop) != 0
    }

    /// Why a map could not be run, if one could not.
    pub fn unable(&self) -> Option<&str> {
        self.trials.unable()
    }

    /// Where this client tells how far it is.
    pub fn slate(&self) -> &Slate {
        &self.slate
    }
}

impl<EM, S: HasExecutions, Z> Executor<EM, MapInput, S, Z> for Target {
    fn run_target(&mut self, _: &mut Z, state: &mut S, _: &mut EM, input: &MapInput) -> Result<ExitKind, Error> {
        self.found.borrow_mut().clear();
        self.shape.borrow_mut().of_run.clear();
        if self.is_done() {
            return Ok(ExitKind::Ok);
        }
        self.left -= 1;
        *state.executions_mut() += 1;
        let map = Rc::new(self.trials.as_told(input.to_map()));
        self.slate.begin(input, &mut self.buffer);
        counters::clear();
        let trial = self.trials.run(&map, &self.slate);
        self.slate.end();
        let trial = trial.map_err(|error| Error::unknown(format!("{error:?}")))?;
        let (coverage, ()) = &mut self.observers;
        counters::collect(coverage.to_slice_mut(), trial.runs.iter().map(|(report, _)| report));
        self.shape.borrow_mut().of_run = trial.cells;
        let found = trial.runs.into_iter().flat_map(|(report, keys)| {
            let report = Rc::new(report);
            let map = Rc::clone(&map);
            keys.into_iter().map(move |key| Hit { key, report: Rc::clone(&report), map: Rc::clone(&map) })
        });
        self.found.borrow_mut().extend(found);
        Ok(ExitKind::Ok)
    }
}

impl HasObservers for Target {
    type Observers = Observers;

    fn observers(&self) -> RefIndexable<&Observers, Observers> {
        RefIndexable::from(&self.observers)
    }

    fn observers_mut(&mut self) -> RefIndexable<&mut Observers, Observers> {
        RefIndexable::from(&mut self.observers)
    }
}

/// An input is worth building on if its run sets a cell that none did before. Not by an observer of LibAFL's: that is a map of all
/// cells, and to go through it takes longer than the run of a small map.
pub struct NewCells(pub Rc<RefCell<Shape>>);

impl Named for NewCells {
    fn name(&self) -> &Cow<'static, str> {
        &Cow::Borrowed("new cells")
    }
}

impl<S> StateInitializer<S> for NewCells {}

impl<EM, OT, S> Feedback<EM, MapInput, OT, S> for NewCells {
    fn is_interesting(&mut self, _: &mut S, _: &mut EM, _: &MapInput, _: &OT, _: &ExitKind) -> Result<bool, Error> {
        let Shape { of_run, kept } = &*self.0.borrow();
        Ok(kept.lacks_any(of_run))
    }

    /// The input goes into the corpus. Where it is kept as a finding alone, its cells stay new.
    fn append_metadata(&mut self, _: &mut S, _: &mut EM, _: &OT, _: &mut Testcase<MapInput>) -> Result<(), Error> {
        let Shape { of_run, kept } = &mut *self.0.borrow_mut();
        kept.add(of_run);
        Ok(())
    }
}

/// An input is an objective if it has a finding that none had before.
pub struct NewFinding {
    found: Hits,
    known: HashSet<FindingKey>,
    untold: Hits,
}

impl NewFinding {
    /// With what was known before; new ones go to `untold`.
    pub fn new(found: Hits, known: HashSet<FindingKey>, untold: Hits) -> Self {
        Self { found, known, untold }
    }
}

impl Named for NewFinding {
    fn name(&self) -> &Cow<'static, str> {
        &Cow::Borrowed("new finding")
    }
}

impl<S> StateInitializer<S> for NewFinding {}

impl<EM, OT, S> Feedback<EM, MapInput, OT, S> for NewFinding {
    fn is_interesting(&mut self, _: &mut S, _: &mut EM, _: &MapInput, _: &OT, _: &ExitKind) -> Result<bool, Error> {
        let found = self.found.borrow();
        let new: Vec<_> = found.iter().filter(|hit| is_new(&mut self.known, &hit.key)).cloned().collect();
        let is_new = !new.is_empty();
        self.untold.borrow_mut().extend(new);
        Ok(is_new)
    }
}

/// Whether a finding is new; from now on it is known. Where nobody can tell its line, it may be that of any that is known.
fn is_new(known: &mut HashSet<FindingKey>, key: &FindingKey) -> bool {
    let may_be = |other: &FindingKey| other.of_any_line() == *key;
    let is_known = known.contains(key) || (key.set_by.is_none() && known.iter().any(may_be));
    !is_known && known.insert(key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_without_a_line_may_be_any() {
        let mut known = HashSet::new();
        let mut is_new = |text: &str| is_new(&mut known, &text.parse().unwrap());
        let [any, first, second, other] =
            ["PTE", "PTE.map-1", "PTE.map-2", "PDE"].map(|end| format!("wrong-frame.none.map.{end}"));
        assert!(is_new(&first) && is_new(&second) && !is_new(&first));
        assert!(!is_new(&any) && is_new(&other) && !is_new(&other));
    }
}
