//! All of a run's tables, for reports that have them.

use super::Job;
use crate::check::{Phase, TableCheck};
use crate::mmu::{Listing, Runs, Va};
use crate::report::{Report, TableDump};

/// Lists all of the tables, if the job asks for it. What that costs is no part of the run's budget: somebody wants to see it.
pub fn dump(job: &Job<'_>, phase: Phase, tables: &TableCheck<'_>, report: &mut Report) {
    if !job.dumps_tables {
        return;
    }
    let all = Va(0)..=Va(u64::MAX);
    let listing = Listing::of(tables.memory, tables.root, tables.told, MOST_LISTED_TABLES, MOST_DUMPED_RUNS);
    let kernel = tables.kernel.to_vec();
    let mut dump = TableDump { phase, runs: Vec::new(), kernel, is_cut: false, root: tables.root, listing };
    for run in Runs::new(tables.memory, tables.root, all, tables.told, MOST_DUMPED_ENTRIES) {
        match run {
            Ok(run) if dump.runs.len() < MOST_DUMPED_RUNS => dump.runs.push(run),
            Ok(_) | Err(_) => {
                dump.is_cut = true;
                break;
            }
        }
    }
    report.tables.push(dump);
}

/// Entries read for that, and runs listed: far more than right tables have, and few enough for a second and some megabytes.
const MOST_DUMPED_ENTRIES: u64 = 1 << 24;
const MOST_DUMPED_RUNS: usize = 1 << 16;
/// Tables that are listed entry by entry: those of 32 GiB in 4 KiB leaves.
const MOST_LISTED_TABLES: usize = 1 << 14;
