//! What a run did, as cells that are set or not. A map that sets a new one is worth building on.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::check::LeafCounts;
use crate::fuzz::keys;
use crate::memory_map::{MemoryMap, Region};
use crate::report::{EngineName, Report};

/// How many there are.
const CELLS: usize = 1 << 16;

/// The cells that some run has set.
#[derive(Debug)]
pub struct Seen {
    cells: Vec<bool>,
    count: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { cells: vec![false; CELLS], count: 0 }
    }
}

impl Seen {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether one of a run's cells is not among them.
    pub fn lacks_any(&self, of_run: &[usize]) -> bool {
        of_run.iter().any(|cell| !self.cells[*cell])
    }

    /// Adds a run's cells.
    pub fn add(&mut self, of_run: &[usize]) {
        for cell in of_run {
            self.count += u64::from(!std::mem::replace(&mut self.cells[*cell], true));
        }
    }
}

/// The cells of a run, some more than once.
pub fn cells(map: &MemoryMap, report: &Report) -> impl Iterator<Item = usize> {
    let guest = report.engine == EngineName::Kvm;
    let findings = keys(report).into_iter().map(move |key| cell(&("finding", guest, key)));
    let regions = report.regions.iter().map(|each| cell(&("region", kind(&each.region), leaves(&each.leaves))));
    let neighbours = report.runs.windows(2).map(|pair| {
        let [before, after] = [&pair[0], &pair[1]];
        let follows = [before.va.0, before.pa.0].map(|start| start.checked_add(before.bytes));
        let follows = [follows[0] == Some(after.va.0), follows[1] == Some(after.pa.0)];
        let rights = |run: &crate::mmu::Run| (run.leaf, run.rights, run.pat_index, run.defect.is_some());
        cell(&("runs", rights(before), rights(after), follows))
    });
    let table = map.attributes_table().iter().map(|entry| Region::new(0, entry));
    let table: Vec<_> = table.map(|entry| cell(&("attributes", kind(&entry), reach(map, &entry)))).collect();
    findings.chain(regions).chain(neighbours).chain(table)
}

fn cell(what: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    (hasher.finish() % CELLS as u64) as usize
}

/// What decides how a region is mapped: which leaves its ends are aligned to, and which it has room for.
fn kind(region: &Region) -> (u32, u64, [usize; 3]) {
    let leaves = |is_met: &dyn Fn(u64) -> bool| SPANS.iter().filter(|span| is_met(**span)).count();
    let [start, end] = [u128::from(region.phys), region.end()];
    let alignment = |address: u128| leaves(&|span| address.is_multiple_of(u128::from(span)));
    let size = leaves(&|span| end - start >= u128::from(span)) + usize::from(region.pages > 1);
    (region.ty.0.min(16), region.attribute.bits() >> 60, [alignment(start), alignment(end), size])
}

/// A page, and what one entry of each table governs (SDM vol. 3A, 4.5).
const SPANS: [u64; 4] = [4 << 10, 2 << 20, 1 << 30, 512 << 30];

fn leaves(leaves: &LeafCounts) -> [u32; 3] {
    [leaves.of_4k, leaves.of_2m, leaves.of_1g].map(logarithm)
}

/// Where an entry of the Memory Attributes Table lies in its region: at its start, its end, or beyond it.
fn reach(map: &MemoryMap, entry: &Region) -> Option<[bool; 3]> {
    let region = map.regions().find(|region| region.phys <= entry.phys && u128::from(entry.phys) < region.end())?;
    Some([region.phys == entry.phys, region.end() == entry.end(), region.end() < entry.end()])
}

fn logarithm(number: u64) -> u32 {
    u64::BITS.saturating_sub(number.leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_new_until_it_is_added() {
        let mut seen = Seen::default();
        let run = [7, 7, CELLS - 1];
        assert!(!seen.lacks_any(&[]) && seen.lacks_any(&run) && seen.lacks_any(&run));
        seen.add(&run);
        assert_eq!((seen.lacks_any(&run), seen.count()), (false, 2));
        assert!(seen.lacks_any(&[7, 8]));
    }
}
