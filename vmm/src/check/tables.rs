//! The third witness: the software walk over the finished tables, before the guest loads them.

use std::ops::RangeInclusive;

use super::expectation::{Alias, Expectation};
use super::marks::{Mark, Marks, Statement};
use super::{Rule, Witness};
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{Access, Defect, ErrorCode, Fault, Level, Pa, Paging, Run, Runs, TableMemory, Va, walk};

/// Entries read before the tables are given up as endless. A 64 GiB window of 4 KiB leaves has 2^24.
const MAX_ENTRIES: u64 = 1 << 26;

/// Leaves of each size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafCounts {
    /// PTEs.
    pub of_4k: u64,
    /// PDEs.
    pub of_2m: u64,
    /// PDPTEs.
    pub of_1g: u64,
}

/// What the tables are checked against.
#[derive(Clone, Copy)]
pub struct TableCheck<'a> {
    /// Where the tables are.
    pub memory: &'a dyn TableMemory,
    /// The mapper's root.
    pub root: Pa,
    /// The kernel's root.
    pub kernel_root: Pa,
    /// The kernel's own ranges.
    pub kernel: &'a [RangeInclusive<u64>],
    /// What the CPU was told.
    pub told: &'a Paging,
    /// What must be.
    pub expectation: &'a Expectation,
}

/// What the walk found.
#[derive(Clone, Debug, Default)]
pub struct TableVerdict {
    /// Leaves that map each alias, in the expectation's order.
    pub leaves: Vec<LeafCounts>,
    /// Everything that translates in the aliases, by address.
    pub runs: Vec<Run>,
    /// Whether the guest can live on these tables: all that is the kernel's is as it was.
    pub kernel_intact: bool,
}

impl TableCheck<'_> {
    /// Checks everything; what is wrong goes into `marks`.
    pub fn run(&self, marks: &mut Marks) -> TableVerdict {
        let mut verdict = TableVerdict { kernel_intact: self.kernel_is_intact(marks), ..Default::default() };
        for alias in &self.expectation.aliases {
            verdict.leaves.push(self.check_alias(alias, &mut verdict.runs, marks));
        }
        for arena in &self.expectation.arenas {
            self.find_strays(arena, marks);
        }
        verdict
    }

    /// All that translates on the tables, the kernel's own too, as far as it can be listed.
    pub fn everything(&self) -> impl Iterator<Item = Run> {
        self.runs_of(self.root, 0..=u64::MAX).map_while(Result::ok)
    }

    /// Every page of the alias must be there, alone, with the right frame, rights and cache index.
    fn check_alias(&self, alias: &Alias, runs: &mut Vec<Run>, marks: &mut Marks) -> LeafCounts {
        let mut counts = LeafCounts::default();
        let mut next = alias.virt;
        for run in self.runs(alias.virt..=alias.last(), marks) {
            self.gap(alias, next, run.va.0, marks);
            count(&mut counts, &run);
            self.check_run(alias, &run, marks);
            next = run.va.0.wrapping_add(run.bytes);
            runs.push(run);
        }
        self.gap(alias, next, alias.last().wrapping_add(1), marks);
        counts
    }

    /// Nothing is mapped from `next` to `until`.
    fn gap(&self, alias: &Alias, next: u64, until: u64, marks: &mut Marks) {
        if next != until {
            marks.push(Mark {
                virt: Some(next),
                pages: until.wrapping_sub(next) / PAGE_BYTES,
                expected: Statement::Frame(alias.target(next)),
                observed: Statement::Faulted(Fault::page(ErrorCode(0))),
                ..alias.mark(Rule::NotPresent, Witness::Walk)
            });
        }
    }

    fn check_run(&self, alias: &Alias, run: &Run, marks: &mut Marks) {
        let target = alias.target(run.va.0);
        let mut found = |rule, expected, observed| {
            marks.push(Mark {
                virt: Some(run.va.0),
                pages: run.bytes / PAGE_BYTES,
                expected,
                observed,
                ..alias.mark(rule, Witness::Walk)
            });
        };
        match run.defect {
            Some(Defect::Reserved { .. }) => {
                let read = walk(&self.memory, self.root, run.va, Access::read(), self.told);
                let observed = read.fault().map_or(Statement::Nothing, Statement::Faulted);
                return found(Rule::ReservedBit, Statement::Frame(target), observed);
            }
            Some(Defect::Stranded { table }) => {
                return found(Rule::TableUnreachable, Statement::Frame(target), Statement::Frame(table.0));
            }
            None => {}
        }
        if run.pa.0 != target {
            found(Rule::WrongFrame, Statement::Frame(target), Statement::Frame(run.pa.0));
        }
        if run.pat_index != alias.pat_index {
            let index = Statement::PatIndex;
            found(Rule::CacheType, index(alias.pat_index), index(run.pat_index));
        }
        let words = |yes, no, value| Statement::Text(if value { yes } else { no });
        let mut right = |rule, yes, no, owed, is| {
            if owed != is {
                found(rule, words(yes, no, owed), words(yes, no, is));
            }
        };
        let executable = if alias.executable { Rule::NotExecutable } else { Rule::ExecutableData };
        let writable = if alias.writable { Rule::NotWritable } else { Rule::NotReadOnly };
        right(writable, "writable", "read-only", alias.writable, run.rights.writable);
        right(executable, "executable", "not executable", alias.executable, run.rights.executable);
        right(Rule::UserAccessible, "supervisor only", "open to ring 3", true, !run.rights.user);
    }

    /// The kernel's ranges must translate as they do on its own tables.
    fn kernel_is_intact(&self, marks: &mut Marks) -> bool {
        let mut intact = true;
        for range in self.kernel {
            let mut mine = self.runs_of(self.root, range.clone());
            let mut own = self.runs_of(self.kernel_root, range.clone());
            loop {
                match (own.next(), mine.next()) {
                    (None, None) => break,
                    (Some(Ok(a)), Some(Ok(b))) if alike(&a, &b) => {}
                    (a, b) => {
                        self.kernel_changed(a.and_then(Result::ok), b.and_then(Result::ok), range, marks);
                        intact = false;
                        break;
                    }
                }
            }
        }
        intact
    }

    fn kernel_changed(&self, own: Option<Run>, mine: Option<Run>, range: &RangeInclusive<u64>, marks: &mut Marks) {
        let virt = [own, mine].iter().flatten().map(|run| run.va.0).min().unwrap_or(*range.start());
        let frame = |run: Option<Run>| match run {
            Some(run) if run.va.0 == virt => Statement::Frame(run.pa.0),
            _ => Statement::Absent,
        };
        let owner = self.expectation.alias_at(virt).map(|index| self.expectation.aliases[index]);
        marks.push(Mark {
            region: owner.and_then(|alias| alias.region),
            virt: Some(virt),
            pages: 1,
            expected: frame(own),
            observed: frame(mine),
            ..Mark::new(Rule::KernelOverlap, Witness::Walk)
        });
    }

    /// What translates in an arena, and is neither an alias's nor the kernel's. What lies between those is walked, and
    /// no more: the aliases' own entries, of which there may be millions, have been.
    fn find_strays(&self, arena: &RangeInclusive<u64>, marks: &mut Marks) {
        let last = *arena.end();
        let mut next = Some(*arena.start());
        while let Some(virt) = next.filter(|virt| *virt <= last) {
            next = match self.owner_from(virt) {
                Some((first, end)) if first <= virt => end.checked_add(1),
                owner => {
                    let end = owner.map_or(last, |(first, _)| last.min(first - 1));
                    let (region, end) = self.expectation.gone_from(virt, end);
                    self.find_strays_in(virt..=end, region, marks);
                    end.checked_add(1)
                }
            };
        }
    }

    /// All that translates here is a stray: of the region that was here before, if one was.
    fn find_strays_in(&self, range: RangeInclusive<u64>, region: Option<usize>, marks: &mut Marks) {
        for run in self.runs(range, marks) {
            let (rule, observed) = match run.defect {
                None => (Rule::StrayMapping, Statement::Frame(run.pa.0)),
                Some(Defect::Reserved { .. }) => (Rule::ReservedBit, Statement::Text("a reserved bit")),
                Some(Defect::Stranded { table }) => (Rule::TableUnreachable, Statement::Frame(table.0)),
            };
            marks.push(Mark {
                region,
                virt: Some(run.va.0),
                pages: run.bytes / PAGE_BYTES,
                expected: Statement::Faulted(Fault::page(ErrorCode(0))),
                observed,
                ..Mark::new(rule, Witness::Walk)
            });
        }
    }

    /// The range, first to last byte, that covers `virt` or is the next one above.
    fn owner_from(&self, virt: u64) -> Option<(u64, u64)> {
        let aliases = &self.expectation.aliases;
        let alias = aliases.get(aliases.partition_point(|alias| alias.last() < virt)).map(|a| (a.virt, a.last()));
        let kernel = self.kernel.iter().map(|range| (*range.start(), *range.end()));
        kernel.filter(|(_, last)| *last >= virt).chain(alias).min()
    }

    /// The runs of a range; that they were cut short is a finding.
    fn runs(&self, range: RangeInclusive<u64>, marks: &mut Marks) -> Vec<Run> {
        let mut runs = Vec::new();
        for run in self.runs_of(self.root, range) {
            match run {
                Ok(run) => runs.push(run),
                Err(limit) => marks.push(Mark { virt: Some(limit.at.0), ..Mark::new(Rule::TableLimit, Witness::Walk) }),
            }
        }
        runs
    }

    fn runs_of(
        &self,
        root: Pa,
        range: RangeInclusive<u64>,
    ) -> impl Iterator<Item = Result<Run, crate::mmu::LimitReached>> {
        Runs::new(&self.memory, root, Va(*range.start())..=Va(*range.end()), self.told, MAX_ENTRIES)
    }
}

/// Same addresses, same frames, same rights; where the entries lie does not matter.
fn alike(a: &Run, b: &Run) -> bool {
    Run { entry_addr: Pa(0), ..*a } == Run { entry_addr: Pa(0), ..*b }
}

fn count(counts: &mut LeafCounts, run: &Run) {
    let leaves = run.bytes.div_ceil(run.leaf.span_bytes());
    match run.leaf {
        Level::Pte => counts.of_4k += leaves,
        Level::Pde => counts.of_2m += leaves,
        _ => counts.of_1g += leaves,
    }
}
