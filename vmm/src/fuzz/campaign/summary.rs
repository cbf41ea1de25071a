//! What a campaign came to, and how far it is.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::slate::{Slate, Word};

/// How far a campaign is. Numbers are sums over its processes, except where that makes no sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Maps that were run.
    pub runs: u64,
    /// Of those, the ones in which the map itself is wrong, or has no room in the layout. Few findings count there.
    pub outside: u64,
    /// Of those, the ones that this machine could not run.
    pub unable: u64,
    /// Of those, the ones of which something could not be asked, or was given up at a limit.
    pub incomplete: u64,
    /// Of those, the ones that were run in a guest.
    pub guests: u64,
    /// Maps that the largest corpus has.
    pub corpus: u64,
    /// Cells of shape that some run set, in the process that saw most.
    pub cells: u64,
    /// Counters of the mapping code's that some run set, likewise; 0 where it was compiled without.
    pub covered: u64,
    /// New findings.
    pub findings: u64,
    /// Processes that died. Another took the place of each.
    pub died: u64,
    /// Since its start.
    pub elapsed: Duration,
}

impl Status {
    /// Adds what a client says.
    pub(super) fn add(&mut self, slate: &Slate) {
        self.runs += slate.get(Word::Runs);
        self.outside += slate.get(Word::Outside);
        self.unable += slate.get(Word::Unable);
        self.incomplete += slate.get(Word::Incomplete);
        self.guests += slate.get(Word::Guests);
        self.corpus = self.corpus.max(slate.get(Word::Corpus));
        self.cells = self.cells.max(slate.get(Word::Cells));
        self.covered = self.covered.max(slate.get(Word::Covered));
    }

    /// Maps a second.
    pub fn per_second(&self) -> f64 {
        self.runs as f64 / self.elapsed.as_secs_f64().max(0.001)
    }
}

/// What a campaign came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Summary {
    /// Its numbers.
    pub status: Status,
    /// The seed that gives the same maps again, in a campaign of one process.
    pub seed: u64,
    /// What was found, by key, sorted: what an earlier campaign in the same folder had found is not among it.
    pub findings: Vec<String>,
    /// The files that were written for that. `efibed check` runs each.
    pub saved: Vec<PathBuf>,
}

impl Summary {
    /// As one JSON object: `{schema, runs, seed, seconds, per_second, findings, saved, ...}`.
    pub fn to_json(&self) -> String {
        let Self { status, seed, findings, saved } = self;
        let document = Document {
            schema: 1,
            runs: status.runs,
            seed: *seed,
            seconds: status.elapsed.as_secs_f64(),
            per_second: status.per_second(),
            findings,
            saved,
            outside: status.outside,
            unable: status.unable,
            incomplete: status.incomplete,
            guests: status.guests,
            corpus: status.corpus,
            cells: status.cells,
            covered: status.covered,
            died: status.died,
        };
        crate::report::json::pretty(&document)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    runs: u64,
    seed: u64,
    seconds: f64,
    per_second: f64,
    findings: &'a [String],
    saved: &'a [PathBuf],
    outside: u64,
    unable: u64,
    incomplete: u64,
    guests: u64,
    corpus: u64,
    cells: u64,
    covered: u64,
    died: u64,
}
