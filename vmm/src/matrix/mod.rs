//! Every combination of paging's bits, tried in a guest and compared with the software MMU.
//!
//! | file | holds |
//! | --- | --- |
//! | `bits` | the bits that are combined, by their short names |
//! | `sets` | which of them: two sets of planes, each a declaration of bits |
//! | `legal` | which combinations do not exist |
//! | `part` | a plane on one CPU, numbered |
//! | `plan` | what of it is run: shards, samples, pieces of work |
//! | `arena` | tables, pages and records of a batch, in the guest's memory |
//! | `script` | the commands by which the guest runs a batch |
//! | `station` | a guest that runs batches |
//! | `expected` | what must come of a combination |
//! | `observed` | what came of it |
//! | `judge` | where the two differ |
//! | `mismatch` | the same in words |
//! | `deviations` | where KVMs are known not to do as the SDM says |
//! | `crew` | threads: each a guest, and a host that judges one batch while the next runs |
//! | `single` | one combination by itself |
//! | `floor` | bare loops, to compare the speed with |
//! | `findings` | what was found, batch by batch |
//! | `report` | what came of it all, as text and as JSON |
//!
//! Nothing is remembered from one combination to the next: each has its own tables, and each is executed.

mod arena;
mod bits;
mod crew;
mod deviations;
mod expected;
mod findings;
mod floor;
mod judge;
mod legal;
mod mismatch;
mod observed;
mod part;
mod plan;
mod report;
mod script;
mod sets;
mod single;
mod station;

use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

pub use bits::{Bit, Combination, EntryBit, UnknownBit};
pub use floor::Floor;
pub use judge::Difference;
pub use mismatch::Mismatch;
pub use plan::{Shard, Skipped};
pub use report::{Found, MatrixReport, json, text};
pub use sets::Set;
pub use single::{CaseError, Single, SingleEntry};

use crate::bed::TestBed;
use crate::engine::EngineError;
use crate::machine::CpuidRequest;
use plan::Plan;

/// What is to be run.
///
/// ```no_run
/// use efibed::TestBed;
/// use efibed::unstable::matrix::{Matrix, Set};
///
/// let report = Matrix::new(Set::Access).run(&TestBed::new()?, &|_| ())?;
/// assert_eq!(report.mismatches, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The set.
    pub set: Set,
    /// Which shard of it.
    pub shard: Shard,
    /// How many combinations at most, evenly of all its parts; None: all.
    pub sample: Option<u64>,
    /// Which ones those are.
    pub seed: u64,
    /// Guests at a time; None: as many as there are processors.
    pub threads: Option<NonZeroUsize>,
    /// Whether the software MMU is compared with what was observed once more for each of its rules, that one broken:
    /// [`MatrixReport::controls`]. It takes as long as everything else does where ring 0 is emulated.
    pub controls: bool,
    /// Whether bare loops are timed before and after, for [`MatrixReport::over_floor`].
    pub floor: bool,
    /// Whether the guest has handlers for faults; it has but in negative controls.
    pub handlers: bool,
}

/// Turns of each bare loop: a tenth of a second for the slowest of them where a fault takes longest.
const FLOOR_TURNS: u64 = 3000;

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Combinations that have been judged.
    pub done: u64,
    /// All that are to be.
    pub all: u64,
}

impl Matrix {
    /// All of a set.
    pub fn new(set: Set) -> Self {
        Self {
            set,
            shard: Shard::default(),
            sample: None,
            seed: 0,
            threads: None,
            controls: false,
            floor: false,
            handlers: true,
        }
    }

    /// Runs it, telling how far it is. An error means that KVM failed, or the guest was lost; what differs from the
    /// software MMU is in the report.
    pub fn run(&self, bed: &TestBed, progress: &(dyn Fn(Done) + Sync)) -> Result<MatrixReport, EngineError> {
        let before = self.floors(bed)?;
        let start = Instant::now();
        let plan = Plan::new(self, bed)?;
        let found = crew::run(self, bed, &plan, progress)?;
        let elapsed = start.elapsed();
        // Twice, because the machine may change in between.
        let floors = [before, self.floors(bed)?].concat();
        Ok(MatrixReport { floors, ..MatrixReport::new(self, plan, found, elapsed) })
    }

    /// The floor, if it is asked for: taken in as many guests at once as the matrix has, because they share the processors.
    fn floors(&self, bed: &TestBed) -> Result<Vec<Floor>, EngineError> {
        let guests = if self.floor { crew::threads(self) } else { 0 };
        thread::scope(|scope| {
            let all: Vec<_> = (0..guests).map(|_| scope.spawn(|| Floor::measure(bed, FLOOR_TURNS))).collect();
            all.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// Runs a single combination on a CPU asked for in this way.
    pub fn case(bed: &TestBed, combination: Combination, cpu: &CpuidRequest) -> Result<Single, CaseError> {
        single::run(bed, combination, cpu)
    }
}
