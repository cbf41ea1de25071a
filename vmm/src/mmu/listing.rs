//! Page tables entry by entry, in few words: entries that continue each other are one run, so that the 512 entries of a table that
//! maps a buffer page by page take as much room as one.

use std::collections::BTreeSet;

use super::address::{Pa, Va};
use super::entry::{Judgement, judge, table_address};
use super::level::{Level, bits};
use super::paging::Paging;
use super::walk::TableMemory;

/// The tables that a root leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Each table once for each level at which it is used, the root's first.
    pub tables: Vec<ListedTable>,
    /// Whether there is more than is listed.
    pub is_cut: bool,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTable {
    /// Where it lies.
    pub at: Pa,
    /// The level of its entries.
    pub level: Level,
    /// Its entries that are not zero, by index. None: nothing is there to be read.
    pub entries: Option<Vec<EntryRun>>,
}

/// Entries of a table that follow each other, each the one before and [`step_bytes`] more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRun {
    /// The index of the first one, below 512.
    pub index: u16,
    /// How many they are, at most 512.
    pub count: u16,
    /// The first one.
    pub entry: u64,
    /// The reserved bits set in each.
    pub reserved: u64,
}

/// By how much an entry's address grows from one to the next in a run: a leaf by what it maps, and what refers to a table by a
/// table's size.
pub const fn step_bytes(level: Level, entry: u64) -> u64 {
    if level.maps_page(entry) { level.span_bytes() } else { Level::Pte.span_bytes() }
}

/// An entry of a walk through listed tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedStep {
    /// Its level.
    pub level: Level,
    /// Where it lies.
    pub at: Pa,
    /// Its value.
    pub entry: u64,
    /// Its reserved bits.
    pub reserved: u64,
}

impl Listing {
    /// The entries on the way to an address, from the root down to the leaf, or to the first that ends the way: one that is not
    /// present, that has reserved bits, or whose table is not listed.
    pub fn walk(&self, va: Va) -> Vec<ListedStep> {
        let mut steps = Vec::new();
        let mut next = self.tables.first().map(|table| (table.at, table.level));
        while let Some((at, level)) = next {
            let table = self.tables.iter().find(|table| (table.at, table.level) == (at, level));
            let Some(entries) = table.and_then(|table| table.entries.as_ref()) else { break };
            let index = level.index(va);
            let run = entries
                .iter()
                .find(|run| (run.index.into()..usize::from(run.index) + usize::from(run.count)).contains(&index));
            let entry = run.map_or(0, |run| {
                let nth = (index - usize::from(run.index)) as u64;
                run.entry.wrapping_add(nth.wrapping_mul(step_bytes(level, run.entry)))
            });
            let reserved = run.map_or(0, |run| run.reserved);
            steps.push(ListedStep { level, at: level.entry_addr(at, va), entry, reserved });
            let goes_on = entry & bits::P != 0 && reserved == 0 && !level.maps_page(entry);
            next = level.below().filter(|_| goes_on).map(|below| (Pa(entry & bits::ADDRESS), below));
        }
        steps
    }

    /// Of the tables at `root` (CR3, its flags ignored). `most_tables` and `most_runs` bound what is read and kept, whatever the
    /// tables refer to.
    pub fn of(
        memory: &(impl TableMemory + ?Sized),
        root: Pa,
        paging: &Paging,
        most_tables: usize,
        most_runs: usize,
    ) -> Self {
        let mut listing = Self::default();
        let mut runs_left = most_runs;
        let mut level = Some(paging.top_level());
        let mut of_level = BTreeSet::from([table_address(root.0, paging)]);
        while let Some(current) = level {
            let mut below = BTreeSet::new();
            for at in of_level {
                if listing.tables.len() >= most_tables || runs_left == 0 {
                    listing.is_cut = true;
                    return listing;
                }
                let entries = read(memory, at, current, paging, &mut below);
                runs_left = runs_left.saturating_sub(entries.as_ref().map_or(0, Vec::len));
                listing.tables.push(ListedTable { at, level: current, entries });
            }
            (level, of_level) = (current.below(), below);
        }
        listing
    }
}

/// The runs of one table; the tables that it refers to go to `below`.
fn read(
    memory: &(impl TableMemory + ?Sized),
    at: Pa,
    level: Level,
    paging: &Paging,
    below: &mut BTreeSet<Pa>,
) -> Option<Vec<EntryRun>> {
    let mut runs: Vec<EntryRun> = Vec::new();
    for line in 0..64_u16 {
        let entries = memory.line(Pa(at.0 | u64::from(line) << 6))?;
        for (entry, index) in entries.into_iter().zip(line * 8..).filter(|(entry, _)| *entry != 0) {
            let judgement = judge(level, entry, paging);
            if let Judgement::Table { at, .. } = judgement {
                below.insert(at);
            }
            let reserved = judgement.reserved();
            match runs.last_mut().filter(|run| continues(run, level, index, entry, reserved)) {
                Some(run) => run.count += 1,
                None => runs.push(EntryRun { index, count: 1, entry, reserved }),
            }
        }
    }
    Some(runs)
}

/// Whether an entry is what the run's next one would be.
fn continues(run: &EntryRun, level: Level, index: u16, entry: u64, reserved: u64) -> bool {
    let grown = u64::from(run.count).checked_mul(step_bytes(level, run.entry));
    let next = grown.and_then(|grown| run.entry.checked_add(grown));
    run.entry & bits::P != 0 && run.index + run.count == index && next == Some(entry) && run.reserved == reserved
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Tables(BTreeMap<Pa, u64>);

    impl TableMemory for Tables {
        fn entry(&self, at: Pa) -> Option<u64> {
            (at.0 < 0x10_0000).then(|| self.0.get(&at).copied().unwrap_or(0))
        }
    }

    fn run(index: u16, count: u16, entry: u64, reserved: u64) -> EntryRun {
        EntryRun { index, count, entry, reserved }
    }

    /// A PML4 at 0x1000, a PDPT at 0x2000, a PD at 0x3000, and a PT at 0x4000 that maps 512 pages one by one.
    fn tables() -> Tables {
        let mut entries = BTreeMap::from([(Pa(0x1000), 0x2003), (Pa(0x2000), 0x3003), (Pa(0x3000), 0x4003)]);
        entries.extend((0..512).map(|index| (Pa(0x4000 + index * 8), 0x8000_0003 + index * 0x1000)));
        Tables(entries)
    }

    #[test]
    fn a_table_that_maps_page_after_page_is_one_run() {
        let listing = Listing::of(&tables(), Pa(0x1fff & !0xfff), &Paging::default(), 100, 100);
        let levels: Vec<_> = listing.tables.iter().map(|table| (table.at.0, table.level)).collect();
        let expected = [(0x1000, Level::Pml4e), (0x2000, Level::Pdpte), (0x3000, Level::Pde), (0x4000, Level::Pte)];
        assert_eq!(levels, expected);
        assert_eq!(listing.tables[3].entries, Some(vec![run(0, 512, 0x8000_0003, 0)]));
        assert!(!listing.is_cut);
    }

    #[test]
    fn what_does_not_continue_is_a_run_of_its_own() {
        let mut tables = tables();
        // Another right; not present; and large leaves, of which the second has bit 13 set, which is reserved (table 4-18).
        tables.0.insert(Pa(0x4000 + 8), 0x8000_1001);
        tables.0.insert(Pa(0x4000 + 16), 0x8000_2002);
        tables.0.extend([(Pa(0x3008), 0x4000_0083), (Pa(0x3010), 0x4020_2083), (Pa(0x3018), 0x4040_2083)]);
        let listing = Listing::of(&tables, Pa(0x1000), &Paging::default(), 100, 100);
        let directory = [run(0, 1, 0x4003, 0), run(1, 1, 0x4000_0083, 0), run(2, 2, 0x4020_2083, 0x2000)];
        assert_eq!(listing.tables[2].entries.as_deref(), Some(&directory[..]));
        let table = listing.tables[3].entries.clone().unwrap();
        assert_eq!(table[1..3], [run(1, 1, 0x8000_1001, 0), run(2, 1, 0x8000_2002, 0)]);
        assert_eq!(table[3], run(3, 509, 0x8000_3003, 0));
    }

    #[test]
    fn a_table_that_refers_to_itself_is_listed_once_a_level_and_one_that_is_not_there_says_so() {
        let tables = Tables(BTreeMap::from([(Pa(0x1000), 0x1003), (Pa(0x1008), 0x20_0003)]));
        let listing = Listing::of(&tables, Pa(0x1000), &Paging::default(), 100, 100);
        assert_eq!(listing.tables.iter().filter(|table| table.at == Pa(0x1000)).count(), 4);
        let absent: Vec<_> = listing.tables.iter().filter(|table| table.entries.is_none()).collect();
        assert_eq!(absent.len(), 3, "one for each level below the top");
    }

    #[test]
    fn limits_hold() {
        for (most_tables, most_runs) in [(2, 100), (100, 2)] {
            let listing = Listing::of(&tables(), Pa(0x1000), &Paging::default(), most_tables, most_runs);
            assert_eq!((listing.tables.len(), listing.is_cut), (2, true));
        }
    }
}
