//! The third witness: the software walk over the finished tables, before the guest loads them.

use std::ops::RangeInclusive;

use super::alias::Alias;
use super::budget::Cut;
use super::cache::PatIndices;
use super::contract::Term;
use super::marks::{Mark, Marks};
use super::statement::Statement;
use super::strays::{Ground, Strays};
use super::survey::Survey;
use super::table_check::TableCheck;
use super::{Rule, Skipped, Witness};
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{
    Access, Defect, ErrorCode, Fault, Judgement, Level, Pa, Run, Runs, TableMemory, Va, bits, judge, table_address,
    walk,
};

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

/// What the walk found.
#[derive(Clone, Debug, Default)]
pub struct TableVerdict {
    /// Leaves that map each alias, in the expectation's order.
    pub leaves: Vec<LeafCounts>,
    /// Everything that translates in the aliases, by address.
    pub runs: Vec<Run>,
    /// Whether the guest can live on these tables: all that is the kernel's is as it was.
    pub kernel_intact: bool,
    /// What is worth saying of the tables, and not wrong.
    pub notes: Vec<String>,
    /// What was not looked at, for want of time.
    pub not_done: Option<Skipped>,
}

impl TableCheck<'_> {
    /// Checks everything; what is wrong goes into `marks`.
    pub fn run(&self, marks: &mut Marks) -> TableVerdict {
        let mut verdict = TableVerdict { kernel_intact: self.kernel_is_intact(marks), ..Default::default() };
        for alias in &self.expectation.aliases {
            verdict.leaves.push(self.check_alias(alias, &mut verdict.runs, marks));
        }
        let surveyed = Survey::of(self, marks, &mut verdict.notes);
        // A cut is in the budget's books too.
        let _ = surveyed.and_then(|survey| self.find_strays(&survey, marks));
        verdict.not_done = self.cut_short(marks);
        verdict
    }

    /// All that translates on the tables, the kernel's own too, as far as it can be listed.
    pub fn everything(&self) -> impl Iterator<Item = Result<Run, Cut>> {
        let mut runs = self.runs_of(self.root, &(Va(0)..=Va(u64::MAX)));
        std::iter::from_fn(move || self.budget.next_run(&mut runs).transpose())
    }

    /// Every page of the alias must be there, alone, with the right frame, rights and cache index.
    fn check_alias(&self, alias: &Alias, runs: &mut Vec<Run>, marks: &mut Marks) -> LeafCounts {
        let mut counts = LeafCounts::default();
        let (mut next, end) = (alias.virt, alias.last().wrapping_add(1));
        let mut found = self.runs_of(self.root, &alias.range());
        loop {
            match self.budget.next_run(&mut found) {
                Ok(Some(run)) if self.budget.keep_run().is_ok() => {
                    self.gap(alias, next, run.va, marks);
                    count(&mut counts, &run);
                    self.check_run(alias, &run, marks);
                    next = run.va.wrapping_add(run.bytes);
                    runs.push(run);
                }
                Ok(None) => {
                    self.gap(alias, next, end, marks);
                    return counts;
                }
                Ok(Some(_)) | Err(_) => {
                    self.unseen(alias, next, end, marks);
                    return counts;
                }
            }
        }
    }

    /// Nobody looked at what is mapped from `next` to `end`. That the time was over is not the tables' fault.
    fn unseen(&self, alias: &Alias, next: Va, end: Va, marks: &mut Marks) {
        if self.budget.cut() != Some(Cut::Time) {
            let pages = end.wrapping_offset_from(next) / PAGE_BYTES;
            marks.push(Mark { virt: Some(next), pages, ..alias.mark(Rule::TableLimit, Witness::Walk) });
        }
    }

    /// What is to be said of walks that were cut short, other than of aliases.
    fn cut_short(&self, marks: &mut Marks) -> Option<Skipped> {
        match self.budget.cut()? {
            Cut::Time => Some(Skipped::not_done("the walk over the tables", Cut::Time.as_text())),
            cut => {
                let observed = Some(Statement::text(cut.as_text()));
                marks.push(Mark { observed, ..Mark::new(Rule::TableLimit, Witness::Walk) });
                None
            }
        }
    }

    /// Nothing is mapped from `next` to `until`.
    fn gap(&self, alias: &Alias, next: Va, until: Va, marks: &mut Marks) {
        if next != until {
            marks.push(Mark {
                virt: Some(next),
                pages: until.wrapping_offset_from(next) / PAGE_BYTES,
                expected: Some(Statement::Physical(alias.target(next))),
                observed: Some(Statement::faulted(Fault::page(ErrorCode(0)), next)),
                ..alias.mark(Rule::NotPresent, Witness::Walk)
            });
        }
    }

    fn check_run(&self, alias: &Alias, run: &Run, marks: &mut Marks) {
        let target = alias.target(run.va);
        let mut marked = |rule, expected, observed| {
            marks.push(Mark {
                virt: Some(run.va),
                pages: run.bytes / PAGE_BYTES,
                expected: Some(expected),
                observed,
                ..alias.mark(rule, Witness::Walk)
            });
        };
        match run.defect {
            Some(Defect::Reserved { .. }) => {
                let read = walk(&self.memory, self.root, run.va, Access::read(), self.told);
                let observed = read.fault().map(|fault| Statement::faulted(fault, run.va));
                return marked(Rule::ReservedBit, Statement::Physical(target), observed);
            }
            Some(Defect::Stranded { table }) => {
                return marked(Rule::TableUnreachable, Statement::Physical(target), Some(Statement::Physical(table)));
            }
            None => {}
        }
        let mut found = |rule, expected, observed| marked(rule, expected, Some(observed));
        if run.pa != target {
            found(Rule::WrongFrame, Statement::Physical(target), Statement::Physical(run.pa));
        }
        if !alias.cache.contains(run.pat_index) {
            found(Rule::CacheType, Statement::Cache(alias.cache), Statement::Cache(PatIndices::only(run.pat_index)));
        }
        let rights = [
            (alias.writable, run.rights.writable, "writable", Rule::NotWritable, "read-only", Rule::NotReadOnly),
            (
                alias.executable,
                run.rights.executable,
                "executable",
                Rule::NotExecutable,
                "not executable",
                Rule::ExecutableData,
            ),
        ];
        for (term, is, yes, is_missing, no, is_excess) in rights {
            match (term, is) {
                (Term::Owed, false) => found(is_missing, Statement::text(yes), Statement::text(no)),
                (Term::Forbidden, true) => found(is_excess, Statement::text(no), Statement::text(yes)),
                _ => {}
            }
        }
        if run.rights.user {
            found(Rule::UserAccessible, Statement::text("supervisor only"), Statement::text("open to ring 3"));
        }
    }

    /// The kernel's ranges must translate as they do on its own tables. What the budget does not allow to be seen is not
    /// intact.
    fn kernel_is_intact(&self, marks: &mut Marks) -> bool {
        // All are looked at, whatever is wrong with one.
        self.kernel.iter().filter(|range| !self.range_is_intact(range, marks)).count() == 0
    }

    fn range_is_intact(&self, range: &RangeInclusive<Va>, marks: &mut Marks) -> bool {
        match self.is_shared(range) {
            Ok(false) => {}
            Ok(true) => return true,
            Err(_) => return false,
        }
        let mut mine = self.runs_of(self.root, range);
        let mut own = self.runs_of(self.kernel_root, range);
        loop {
            let (Ok(own), Ok(mine)) = (self.budget.next_run(&mut own), self.budget.next_run(&mut mine)) else {
                return false;
            };
            match (own, mine) {
                (None, None) => return true,
                (Some(a), Some(b)) if alike(&a, &b) => {}
                (own, mine) => {
                    self.kernel_changed(own, mine, range, marks);
                    return false;
                }
            }
        }
    }

    /// Whether both roots lead to the same tables of the last level, by the same flags: what a range translates to is the same
    /// then, whatever those tables hold. Mapping code that leaves the root it is given as it is has it so.
    fn is_shared(&self, range: &RangeInclusive<Va>) -> Result<bool, Cut> {
        let mut next = Some(*range.start());
        while let Some(virt) = next.filter(|virt| virt <= range.end()) {
            let mut tables = [self.root, self.kernel_root].map(|root| table_address(root.0, self.told));
            let mut level = self.told.top_level();
            while level != Level::Pte {
                self.budget.read_entries(2)?;
                let [mine, own] = tables.map(|table| self.memory.entry(level.entry_addr(table, virt)).unwrap_or(0));
                let (Judgement::Table { at, level: below }, Judgement::Table { at: own_at, .. }) =
                    (judge(level, mine, self.told), judge(level, own, self.told))
                else {
                    return Ok(false);
                };
                if (mine ^ own) & !(bits::ADDRESS | bits::A) != 0 {
                    return Ok(false);
                }
                (tables, level) = ([at, own_at], below);
            }
            if tables[0] != tables[1] {
                return Ok(false);
            }
            next = Va(virt.0 | Level::Pde.span_bytes().wrapping_sub(1)).checked_add(1);
        }
        Ok(true)
    }

    fn kernel_changed(&self, own: Option<Run>, mine: Option<Run>, range: &RangeInclusive<Va>, marks: &mut Marks) {
        let virt = [own, mine].iter().flatten().map(|run| run.va).min().unwrap_or(*range.start());
        let frame = |run: Option<Run>| match run {
            Some(run) if run.va == virt => Statement::Physical(run.pa),
            _ => Statement::LeftOut,
        };
        let owner = self.expectation.alias_at(virt).map(|index| self.expectation.aliases[index]);
        marks.push(Mark {
            region: owner.and_then(|alias| alias.region),
            virt: Some(virt),
            pages: 1,
            expected: Some(frame(own)),
            observed: Some(frame(mine)),
            ..Mark::new(Rule::KernelOverlap, Witness::Walk)
        });
    }

    /// What translates, and is neither an alias's nor the kernel's. What lies between those is walked, and no more: the
    /// aliases' own entries, of which there may be millions, have been.
    fn find_strays(&self, survey: &Survey, marks: &mut Marks) -> Result<(), Cut> {
        let mut strays = Strays::new(self, survey, marks);
        let half = self.told.top_level().span_bytes().wrapping_mul(256);
        for half in [Va(0)..=Va(half.wrapping_sub(1)), Va(half.wrapping_neg())..=Va(u64::MAX)] {
            let mut next = Some(*half.start());
            while let Some(virt) = next.filter(|virt| *virt <= *half.end()) {
                let end = match self.owner_from(virt) {
                    Some((first, end)) if first <= virt => end,
                    owner => {
                        let end = owner.map_or(*half.end(), |(first, _)| first.wrapping_sub(1)).min(*half.end());
                        let (ground, end) = self.ground_from(virt, end);
                        strays.find(virt..=end, ground)?;
                        end
                    }
                };
                next = end.checked_add(1);
            }
        }
        Ok(())
    }

    /// What an address that is nobody's lies in, and how far that holds, to `last` at most.
    fn ground_from(&self, virt: Va, last: Va) -> (Ground, Va) {
        let arenas = &self.expectation.arenas;
        if let Some(arena) = arenas.iter().find(|arena| arena.contains(&virt)) {
            let (region, end) = self.expectation.gone_from(virt, last.min(*arena.end()));
            return (Ground::Arena { region }, end);
        }
        let next = arenas.iter().map(|arena| *arena.start()).filter(|start| *start > virt).min();
        (Ground::Elsewhere, next.map_or(last, |start| last.min(start.wrapping_sub(1))))
    }

    /// The range, first to last byte, that covers `virt` or is the next one above.
    fn owner_from(&self, virt: Va) -> Option<(Va, Va)> {
        let aliases = &self.expectation.aliases;
        let alias = aliases.get(aliases.partition_point(|alias| alias.last() < virt)).map(|a| (a.virt, a.last()));
        let kernel = self.kernel.iter().map(|range| (*range.start(), *range.end()));
        kernel.filter(|(_, last)| *last >= virt).chain(alias).min()
    }

    fn runs_of(&self, root: Pa, range: &RangeInclusive<Va>) -> Runs<'_, &dyn TableMemory> {
        Runs::new(&self.memory, root, range.clone(), self.told, self.budget.entries())
    }
}

/// Same addresses, same frames, same rights; where the entries lie does not matter.
fn alike(a: &Run, b: &Run) -> bool {
    Run { entry_addr: Pa(0), ..*a } == Run { entry_addr: Pa(0), ..*b }
}

fn count(counts: &mut LeafCounts, run: &Run) {
    let leaves = run.bytes.div_ceil(run.leaf.span_bytes());
    let of_size = match run.leaf {
        Level::Pte => &mut counts.of_4k,
        Level::Pde => &mut counts.of_2m,
        _ => &mut counts.of_1g,
    };
    *of_size = of_size.saturating_add(leaves);
}

#[cfg(test)]
mod tests;
