//! Hostile tables: what is found, and how many entries were read to find it. And each flag, with its verdict.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::*;
use crate::check::Phase;
use crate::check::budget::Budget;
use crate::check::expectation::Expectation;
use crate::check::flags::{EntryKind, FLAGS, Verdict};
use crate::memory_map::MemoryMap;
use crate::mmu::Paging;
use crate::mmu::bits::{A, NX, P, PS, U, W};

const ROOT: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;
/// Another table, where one is needed.
const OTHER: u64 = 0x5000;
/// A page that is no table.
const PAGE: u64 = 0x70_0000;
/// A table entry.
const T: u64 = P | W;
const SPAN: [u64; 5] = [0, 1 << 12, 1 << 21, 1 << 30, 1 << 39];
const HALF: u64 = 1 << 47;
/// One table, read to its end.
const TABLE: u64 = 512;

/// Tables by their addresses; how many entries were read.
#[derive(Default)]
struct Memory {
    tables: BTreeMap<u64, [u64; 512]>,
    reads: Cell<u64>,
    /// Whether it tells which lines are in use.
    tells: bool,
}

impl TableMemory for Memory {
    fn entry(&self, at: Pa) -> Option<u64> {
        self.reads.set(self.reads.get() + 1);
        let table = self.tables.get(&(at.0 & !0xfff))?;
        Some(table[(at.0 >> 3) as usize & 511])
    }

    fn lines_in_use(&self, at: Pa) -> u64 {
        let Some(table) = self.tables.get(&at.0).filter(|_| self.tells) else { return u64::MAX };
        let is_in_use = |line: usize| table[8 * line..8 * line + 8].iter().any(|entry| *entry != 0);
        (0..64).filter(|line| is_in_use(*line)).fold(0, |lines, line| lines | 1 << line)
    }
}

impl Memory {
    /// A path of empty tables under the first entries.
    fn path() -> Self {
        Self::default().with(ROOT, 0, PDPT | T).with(PDPT, 0, PD | T).with(PD, 0, PT | T).with(PT, 511, 0)
    }

    fn with(mut self, table: u64, index: usize, entry: u64) -> Self {
        self.tables.entry(table).or_insert([0; 512])[index] = entry;
        self
    }

    fn filled(mut self, table: u64, entry: u64) -> Self {
        self.tables.insert(table, [entry; 512]);
        self
    }

    /// Every entry of every level refers to the same table below.
    fn bomb() -> Self {
        Self::default().filled(ROOT, PDPT | T).filled(PDPT, PD | T).filled(PD, PT | T).filled(PT, PAGE | T)
    }
}

/// What is checked, and against what.
struct Case<'a> {
    memory: &'a Memory,
    kernel_root: u64,
    kernel: Vec<RangeInclusive<Va>>,
    aliases: Vec<Alias>,
    arenas: Vec<RangeInclusive<Va>>,
    reach: Range<Pa>,
    budget: Budget,
}

/// A rule, with the address and the pages.
type Found = (Rule, u64, u64);

struct Outcome {
    found: Vec<Found>,
    reads: u64,
    verdict: TableVerdict,
}

impl<'a> Case<'a> {
    fn new(memory: &'a Memory) -> Self {
        let (reach, budget) = (Pa(0)..Pa(u64::MAX), Budget::new(None));
        Self { memory, kernel_root: ROOT, kernel: Vec::new(), aliases: Vec::new(), arenas: Vec::new(), reach, budget }
    }

    fn everywhere_arena(self) -> Self {
        Self { arenas: vec![Va(0)..=Va(HALF - 1), Va(HALF.wrapping_neg())..=Va(u64::MAX)], ..self }
    }

    fn run(&self) -> Outcome {
        let Self { kernel_root, kernel, aliases, arenas, reach, budget, .. } = self;
        let expectation = Expectation {
            placed: Vec::new(),
            aliases: aliases.clone(),
            gone: Vec::new(),
            allowed: Vec::new(),
            arenas: arenas.clone(),
        };
        let check = TableCheck {
            memory: self.memory,
            root: Pa(ROOT),
            kernel_root: Pa(*kernel_root),
            reach,
            kernel,
            told: &Paging::default(),
            expectation: &expectation,
            budget,
        };
        let mut marks = Marks::default();
        self.memory.reads.set(0);
        let verdict = check.run(&mut marks);
        let map = MemoryMap::from_descriptors("test", Vec::new());
        let findings = marks.into_findings(Phase::Map, &map, None);
        let found = findings.iter().map(|finding| (finding.rule, finding.virt.map_or(0, |virt| virt.0), finding.pages));
        Outcome { found: found.collect(), reads: self.memory.reads.get(), verdict }
    }
}

fn alias(virt: u64, phys: u64, pages: u64) -> Alias {
    Alias { executable: Term::Owed, ..Alias::of_data(Va(virt), Pa(phys), pages) }
}

fn pages(bytes: u64) -> u64 {
    bytes / PAGE_BYTES
}

#[test]
fn a_recursive_entry_is_found_once_and_not_followed() {
    let slot_510 = (510 << 39) | HALF.wrapping_neg();
    let cases = [
        ("PML4[510] to its table", Memory::path().with(ROOT, 510, ROOT | T), slot_510, SPAN[4]),
        ("PML4[5] to its table", Memory::path().with(ROOT, 5, ROOT | T), 5 * SPAN[4], SPAN[4]),
        ("a PDPTE to the root", Memory::path().with(PDPT, 7, ROOT | T), 7 * SPAN[3], SPAN[3]),
        ("a PDPTE to its table", Memory::path().with(PDPT, 7, PDPT | T), 7 * SPAN[3], SPAN[3]),
        ("a PDE to its table", Memory::path().with(PD, 7, PD | T), 7 * SPAN[2], SPAN[2]),
        ("a PDE to the root", Memory::path().with(PD, 7, ROOT | T), 7 * SPAN[2], SPAN[2]),
        // Read-only, it still shows where everything is.
        ("PML4[5], read-only", Memory::path().with(ROOT, 5, ROOT | P), 5 * SPAN[4], SPAN[4]),
        // Not above it, but of its own level: a page directory taken for a page table.
        (
            "a PDE to another directory",
            Memory::path().with(PDPT, 1, OTHER | T).with(OTHER, 3, 0).with(PD, 7, OTHER | T),
            7 * SPAN[2],
            SPAN[2],
        ),
    ];
    for (name, memory, virt, bytes) in &cases {
        for case in [Case::new(memory), Case::new(memory).everywhere_arena()] {
            let outcome = case.run();
            assert_eq!(outcome.found, [(Rule::SelfMapping, *virt, pages(*bytes))], "{name}");
            assert!(outcome.reads <= 10 * TABLE, "{name}: {} entries", outcome.reads);
        }
    }
    // The same tables without it.
    let sound = Memory::path();
    assert_eq!(Case::new(&sound).run().found, []);
    assert_eq!(Case::new(&sound).everywhere_arena().run().found, []);
}

#[test]
fn tables_that_all_refer_to_the_root_are_read_once() {
    let memory = Memory::default().filled(ROOT, ROOT | T);
    let outcome = Case::new(&memory).everywhere_arena().run();
    let half = pages(HALF);
    assert_eq!(outcome.found, [(Rule::SelfMapping, 0, half), (Rule::SelfMapping, HALF.wrapping_neg(), half)]);
    assert_eq!(outcome.reads, 2 * TABLE);
}

#[test]
fn a_table_outside_of_the_pool_is_found_wherever_it_is_used() {
    // The last table on the path is the highest, and two entries refer to it.
    let memory = Memory::path().with(PD, 9, PT | T);
    for (end, found) in [(PT + 1, &[][..]), (PT, &[(Rule::TableOutsidePool, 0, pages(SPAN[2]))])] {
        for case in [Case::new(&memory), Case::new(&memory).everywhere_arena()] {
            assert_eq!(Case { reach: Pa(0)..Pa(end), ..case }.run().found, found, "{end:#x}");
        }
    }
}

#[test]
fn a_table_where_no_memory_is_is_found_wherever_it_is_used() {
    let memory = Memory::path().with(PD, 9, 0xdead_0000 | T);
    for case in [Case::new(&memory), Case::new(&memory).everywhere_arena()] {
        let found = Case { reach: Pa(0)..Pa(0xdead_0000), ..case }.run().found;
        assert_eq!(found, [(Rule::TableUnreachable, 9 * SPAN[2], pages(SPAN[2]))]);
    }
}

#[test]
fn a_leaf_that_maps_a_table_is_found_outside_the_arena_too() {
    // All entries of a page table map that table, with bit 7, which is PAT there; a 2 MiB leaf has all tables in it.
    let own = Memory::path().filled(PT, PT | T | PS);
    let large = Memory::path().with(PD, 9, T | PS);
    for (memory, virt, count) in [(&own, 0, 512), (&large, 9 * SPAN[2], 512)] {
        assert_eq!(Case::new(memory).run().found, [(Rule::SelfMapping, virt, count)]);
        // In the arena nothing may be mapped at all, and that is what is said.
        assert_eq!(Case::new(memory).everywhere_arena().run().found, [(Rule::StrayMapping, virt, count)]);
    }
    let other_page = Memory::path().filled(PT, PAGE | T).with(PD, 9, 0x4000_0000 | T | PS);
    assert_eq!(Case::new(&other_page).run().found, []);
}

#[test]
fn the_kernels_direct_map_of_the_tables_is_allowed_and_no_other() {
    let direct = Va(0)..=Va(SPAN[2] - 1);
    let memory = Memory::path().filled(PT, 0).with(PT, 0, PT | T).with(PT, 1, ROOT | T);
    let run = |memory: &Memory| Case { kernel: vec![direct.clone()], ..Case::new(memory) }.run().found;
    assert_eq!(run(&memory), []);
    // The kernel's page directory at a second address, in front of the first one and behind it.
    let again = memory.with(PDPT, 7, PD | T);
    assert_eq!(run(&again), [(Rule::SelfMapping, 7 * SPAN[3], 2)]);
    let behind = Memory::path().with(ROOT, 0, 0).with(ROOT, 2, PDPT | T).with(ROOT, 1, PDPT | T);
    let behind = behind.filled(PT, 0).with(PT, 0, PT | T);
    let direct = Va(2 * SPAN[4])..=Va(2 * SPAN[4] + SPAN[2] - 1);
    let outcome = Case { kernel: vec![direct], ..Case::new(&behind) }.run();
    assert_eq!(outcome.found, [(Rule::SelfMapping, SPAN[4], 1)]);
}

#[test]
fn shared_tables_are_not_unfolded() {
    let memory = Memory::bomb();
    let outcome = Case::new(&memory).everywhere_arena().run();
    // 2^36 leaves of 2048 entries.
    let half = pages(HALF);
    assert_eq!(outcome.found, [(Rule::StrayMapping, 0, half), (Rule::StrayMapping, HALF.wrapping_neg(), half)]);
    assert_eq!(outcome.reads, 2 * 4 * TABLE);

    // Where nothing is forbidden but to map tables, and the leaves do.
    let memory = Memory::bomb().filled(PT, PT | T);
    let outcome = Case::new(&memory).run();
    assert_eq!(outcome.found, [(Rule::SelfMapping, 0, half), (Rule::SelfMapping, HALF.wrapping_neg(), half)]);
    assert_eq!(outcome.reads, 2 * 4 * TABLE);

    // Shared, but empty: nothing is mapped.
    let memory = Memory::bomb().filled(PT, 0);
    let outcome = Case::new(&memory).everywhere_arena().run();
    assert_eq!((outcome.found, outcome.reads), (vec![], 2 * 4 * TABLE));
}

/// What is in the lines that are passed over is zeros, and nothing else is passed over.
#[test]
fn memory_that_tells_which_lines_are_in_use_is_read_less_and_shows_the_same() {
    let last = Memory::path().with(PT, 511, PAGE | T).with(PDPT, 511, PAGE | T | PS);
    let middle = Memory::path().with(PT, 300, PAGE | T).with(PD, 301, OTHER | T).with(OTHER, 7, PAGE | T);
    let recursive = Memory::path().with(ROOT, 510, ROOT | T).with(PT, 8, 1 << 63 | 1 << 9);
    for memory in [Memory::path(), last, middle, recursive] {
        let before = Case::new(&memory).everywhere_arena().run();
        let after = Case::new(&Memory { tells: true, ..memory }).everywhere_arena().run();
        assert_eq!((&after.found, &after.verdict.notes), (&before.found, &before.verdict.notes));
        assert!(after.reads < before.reads / 8, "{} of {} entries", after.reads, before.reads);
    }
    let full = Memory { tells: true, ..Memory::bomb() };
    assert_eq!(Case::new(&full).everywhere_arena().run().reads, 2 * 4 * TABLE);
}

/// The kernel's own root is another one, whose tables are its own down to the last level, which is shared.
#[test]
fn the_kernels_ranges_are_those_of_its_root_by_whatever_tables() {
    const OWN: [u64; 3] = [0x8000, 0x9000, 0xa000];
    let [own_root, own_pdpt, own_pd] = OWN;
    let shared = || {
        let memory = Memory::path().with(PT, 5, PAGE | T);
        memory.with(own_root, 0, own_pdpt | T).with(own_pdpt, 0, own_pd | T).with(own_pd, 0, PT | T)
    };
    let run = |memory: Memory| {
        let kernel = vec![Va(0)..=Va(SPAN[2] - 1)];
        let outcome = Case { kernel_root: own_root, kernel, ..Case::new(&memory) }.run();
        assert_eq!(outcome.verdict.kernel_intact, outcome.found.is_empty());
        outcome.found
    };
    assert_eq!(run(shared()), []);
    assert_eq!(run(shared().with(PDPT, 0, PD | T | A)), []);
    // A copy of the last table, and one that differs.
    let copied = || shared().with(PD, 0, OTHER | T).with(OTHER, 5, PAGE | T);
    assert_eq!(run(copied()), []);
    let changed = [(Rule::KernelOverlap, 5 * PAGE_BYTES, 1)];
    assert_eq!(run(copied().with(OTHER, 5, (PAGE + PAGE_BYTES) | T)), changed);
    // The same table by other flags.
    for (table, entry) in [(ROOT, PDPT | P), (PDPT, PD | T | NX), (PD, PT | P)] {
        assert_eq!(run(shared().with(table, 0, entry)), changed, "{entry:#x}");
    }
    // None at all.
    assert_eq!(run(shared().with(PD, 0, 0)), changed);
    assert_eq!(run(shared().with(own_root, 0, 0)), changed);
}

#[test]
fn all_aliases_draw_on_one_budget_of_entries() {
    let memory = Memory::bomb();
    let aliases: Vec<_> = (0..64).map(|nth| alias(nth * SPAN[3], nth * SPAN[3], pages(SPAN[3]))).collect();
    let entries = 100_000;
    let case = Case { aliases, budget: Budget::of(entries, 1 << 20, None), ..Case::new(&memory) };
    let outcome = case.run();
    assert!(outcome.reads <= 2 * entries, "{} entries", outcome.reads);
    let unseen: u64 = outcome.found.iter().filter(|found| found.0 == Rule::TableLimit).map(|found| found.2).sum();
    let seen: u64 = outcome.verdict.leaves.iter().map(|leaves| leaves.of_4k).sum();
    assert_eq!((unseen + seen, seen > 0), (64 * pages(SPAN[3]), true));
    // What was not looked at is not said to be absent.
    assert!(
        outcome.found.iter().all(|found| matches!(found.0, Rule::TableLimit | Rule::WrongFrame)),
        "{:?}",
        outcome.found
    );
    // The budget is the run's: a second check has nothing left, and says so.
    let second = case.run();
    assert_eq!(second.verdict.runs, []);
    assert_eq!(second.found.iter().map(|found| found.2).sum::<u64>(), 64 * pages(SPAN[3]));
    assert!(second.reads < TABLE, "{} entries", second.reads);
}

/// None of them comes near the budget alone.
#[test]
fn many_small_aliases_use_a_budget_up() {
    let memory = Memory::bomb();
    let aliases: Vec<_> = (0..64).map(|nth| alias(nth * SPAN[2], nth * SPAN[2], pages(SPAN[2]))).collect();
    let entries = 10_000;
    let case = Case { aliases, budget: Budget::of(entries, 1 << 20, None), ..Case::new(&memory) };
    let outcome = case.run();
    assert!((entries..=2 * entries).contains(&outcome.reads), "{} entries", outcome.reads);
    assert!(outcome.found.iter().any(|found| found.0 == Rule::TableLimit), "{:?}", outcome.found);
}

#[test]
fn the_runs_kept_are_limited_too() {
    let memory = Memory::bomb();
    let aliases = vec![alias(0, 0, pages(SPAN[4]))];
    let case = Case { aliases, budget: Budget::of(1 << 27, 1000, None), ..Case::new(&memory) };
    let outcome = case.run();
    assert_eq!(outcome.verdict.runs.len(), 1000);
    assert!(
        outcome.found.contains(&(Rule::TableLimit, 1000 * PAGE_BYTES, pages(SPAN[4]) - 1000)),
        "{:?}",
        outcome.found
    );
    assert!(outcome.reads < 20_000, "{} entries", outcome.reads);
}

#[test]
fn a_walk_out_of_time_is_not_done_and_no_fault_of_the_tables() {
    let memory = Memory::bomb();
    let budget = Budget::new(Some(Instant::now()));
    let outcome = Case { budget, aliases: vec![alias(0, 0, 512)], ..Case::new(&memory) }.run();
    assert_eq!(outcome.found, []);
    let not_done = outcome.verdict.not_done.map(|row| (row.what, row.reason));
    assert_eq!(not_done, Some(("the walk over the tables".into(), "the time for the run was over".into())));
    assert!(outcome.reads < TABLE);
}

#[test]
fn a_kernel_that_could_not_be_looked_at_is_not_called_intact() {
    let memory = Memory::bomb();
    let kernel = vec![Va(0)..=Va(SPAN[3] - 1)];
    let outcome = Case { kernel, budget: Budget::of(1000, 1000, None), ..Case::new(&memory) }.run();
    assert!(!outcome.verdict.kernel_intact);
    assert_eq!(outcome.found, [(Rule::TableLimit, 0, 0)]);
}

/// One mutant for each flag in each kind of entry: what its row says comes of it, and nothing else.
#[test]
fn each_flag_has_its_verdict() {
    let sound = || Memory::path().with(PT, 0, PAGE | T).with(PD, 1, 0x20_0000 | T | PS);
    let aliases = [alias(0, PAGE, 1), alias(SPAN[2], 0x20_0000, 512)];
    let outcome = |memory: &Memory| Case { aliases: aliases.to_vec(), ..Case::new(memory).everywhere_arena() }.run();
    assert_eq!(outcome(&sound()).found, []);
    for rule in FLAGS {
        let entries: &[(u64, usize, u64)] = match rule.of {
            EntryKind::Leaf | EntryKind::SupervisorLeaf => &[(PT, 0, PAGE | T), (PD, 1, 0x20_0000 | T | PS)],
            EntryKind::Table => &[(PD, 0, PT | T), (PDPT, 0, PD | T), (ROOT, 0, PDPT | T)],
        };
        let all_bits = (0..64).map(|bit| 1 << bit).filter(|bit| rule.flag & bit != 0);
        for (flag, &(table, index, entry)) in all_bits.flat_map(|flag| entries.iter().map(move |entry| (flag, entry))) {
            let outcome = outcome(&sound().with(table, index, entry | flag));
            let found: Vec<_> = outcome.found.iter().map(|found| found.0).collect();
            let noted = outcome.verdict.notes.len();
            let name = format!("{} ({flag:#x}) of {:?}: {:?}", rule.name, rule.of, outcome.found);
            match rule.verdict {
                Verdict::Error(error) => assert_eq!((found, noted), (vec![error], 0), "{name}"),
                Verdict::Note => assert_eq!((found, noted), (vec![], 1), "{name}"),
                Verdict::Allowed => assert_eq!((found, noted), (vec![], 0), "{name}"),
            }
        }
    }
}

#[test]
fn two_flags_of_one_leaf_are_two_findings_and_of_many_leaves_one() {
    let flagged = P | W | 1 << 8 | 3 << 59;
    let mut memory = Memory::path();
    for index in 0..512 {
        memory = memory.with(PT, index, (PAGE + index as u64 * PAGE_BYTES) | flagged);
    }
    let case = Case { aliases: vec![alias(0, PAGE, 512)], ..Case::new(&memory) };
    assert_eq!(case.run().found, [(Rule::GlobalLeaf, 0, 512), (Rule::ProtectionKey, 0, 512)]);
}

#[test]
fn a_user_leaf_is_noted_where_a_table_hides_it_and_found_where_none_does() {
    let leaf = PAGE | T | U;
    let hidden = Memory::path().with(PT, 0, leaf);
    let open = Memory::default().with(ROOT, 0, PDPT | T | U).with(PDPT, 0, PD | T | U).with(PD, 0, PT | T | U);
    let open = open.with(PT, 0, leaf);
    let run = |memory: &Memory| Case { aliases: vec![alias(0, PAGE, 1)], ..Case::new(memory) }.run();
    let outcome = run(&hidden);
    assert_eq!(outcome.found, []);
    assert!(outcome.verdict.notes[0].starts_with("1 leaf has U/S set, the first for VA 0x0: ring 3 has no access"));
    let outcome = run(&open);
    assert_eq!(outcome.found, [(Rule::UserAccessible, 0, 1)]);
    assert!(outcome.verdict.notes.is_empty());
}

/// The kernel's own pages are judged by the kernel.
#[test]
fn the_kernels_leaves_may_have_any_flag() {
    let memory = Memory::path().with(PT, 0, PAGE | T | 1 << 8);
    assert_eq!(Case { kernel: vec![Va(0)..=Va(0xfff)], ..Case::new(&memory) }.run().found, []);
    assert_eq!(Case::new(&memory).run().found, [(Rule::GlobalLeaf, 0, 1)]);
}
