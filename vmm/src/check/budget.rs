//! What the walks over whole tables may cost in one run, all of them together.
//!
//! Tables are input: four pages of them may stand for 2^36 leaves. So no walk has a limit of its own: all that a run makes,
//! for each alias and in both phases, draw on one budget. A walk that the budget cuts short is reported and never clean.

use std::cell::Cell;
use std::time::Instant;

use crate::mmu::{Run, Runs, TableMemory};

/// Entries read. In each of two phases the aliases, the survey and the plan read every entry once; the largest tables that
/// there is room for have 42 million (`engine::course` asserts that they fit). To read so many takes some seconds.
pub const MAX_ENTRIES: u64 = 1 << 28;

/// Runs of leaves kept. A map of 65,535 descriptors, at two addresses each, with three runs for each and in both phases,
/// has three quarters of it.
const MAX_RUNS: u64 = 1 << 20;

const _: () = assert!(MAX_RUNS * size_of::<Run>() as u64 <= 128 << 20, "the runs kept take at most 128 MiB");

/// Entries between two looks at the clock.
const ENTRIES_PER_LOOK: u64 = 1 << 16;

/// What is left for one run.
#[derive(Debug)]
pub struct Budget {
    entries: Cell<u64>,
    runs: Cell<u64>,
    deadline: Option<Instant>,
    /// Entries until the next look at the clock.
    until_look: Cell<u64>,
    cut: Cell<Option<Cut>>,
}

/// What a walk was cut short by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The entries.
    Entries,
    /// The runs.
    Runs,
    /// The deadline of the run.
    Time,
}

impl Cut {
    /// The reason, in words.
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::Entries => "more table entries than one run reads (2^28)",
            Self::Runs => "more runs of leaves than one run keeps (2^20)",
            Self::Time => "the time for the run was over",
        }
    }
}

impl Budget {
    /// All that a run has, up to its deadline.
    pub fn new(deadline: Option<Instant>) -> Self {
        Self::of(MAX_ENTRIES, MAX_RUNS, deadline)
    }

    /// So much and no more.
    pub fn of(entries: u64, runs: u64, deadline: Option<Instant>) -> Self {
        let (until_look, cut) = (Cell::new(0), Cell::new(None));
        Self { entries: Cell::new(entries), runs: Cell::new(runs), deadline, until_look, cut }
    }

    /// Entries that may still be read: none after a cut.
    pub fn entries(&self) -> u64 {
        match self.cut.get() {
            Some(_) => 0,
            None => self.entries.get(),
        }
    }

    /// What cut a walk short, if one was.
    pub fn cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// Pays for one entry.
    #[inline]
    pub fn read_entry(&self) -> Result<(), Cut> {
        self.read_entries(1)
    }

    /// Pays for some entries, if there are as many.
    #[inline]
    pub fn read_entries(&self, count: u64) -> Result<(), Cut> {
        let left = self.entries().checked_sub(count).ok_or_else(|| self.stop(Cut::Entries))?;
        self.entries.set(left);
        match self.until_look.get().checked_sub(count) {
            Some(until_look) => self.until_look.set(until_look),
            None => self.look_at_the_clock()?,
        }
        Ok(())
    }

    /// The next run of leaves, paid for with the entries read to find it. Err: there may be more.
    pub fn next_run<M: TableMemory + ?Sized>(&self, runs: &mut Runs<'_, M>) -> Result<Option<Run>, Cut> {
        let before = runs.entries_read();
        let found = runs.next();
        let read = runs.entries_read().saturating_sub(before);
        self.entries.set(self.entries().saturating_sub(read));
        match self.until_look.get().checked_sub(read) {
            Some(until_look) => self.until_look.set(until_look),
            None => self.look_at_the_clock()?,
        }
        match found {
            Some(Ok(run)) => Ok(Some(run)),
            Some(Err(_)) => Err(self.stop(Cut::Entries)),
            None => Ok(None),
        }
    }

    /// Pays for a run that is kept.
    pub fn keep_run(&self) -> Result<(), Cut> {
        let left = self.runs.get().checked_sub(1).ok_or_else(|| self.stop(Cut::Runs))?;
        self.runs.set(left);
        Ok(())
    }

    fn look_at_the_clock(&self) -> Result<(), Cut> {
        self.until_look.set(ENTRIES_PER_LOOK);
        match self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            true => Err(self.stop(Cut::Time)),
            false => Ok(()),
        }
    }

    /// The first cut is the one that is reported.
    fn stop(&self, cut: Cut) -> Cut {
        let first = self.cut.get().unwrap_or(cut);
        self.cut.set(Some(first));
        first
    }
}
