//! A survey of all tables that a root leads to: each is read once, however many entries refer to it.
//!
//! What is judged here belongs to an entry, not to an address: flags ([`flags`](super::flags)), and entries that refer
//! back to tables above them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::budget::{Budget, Cut};
use super::flags::{self, FlagRule, Verdict};
use super::marks::{Mark, Marks};
use super::statement::Statement;
use super::table_check::TableCheck;
use super::{Rule, Witness};
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{Judgement, Level, Pa, Va, bits, each_line, judge, table_address};

/// Entries of a table.
const ENTRIES: u64 = 512;

/// The tables found, by physical address, each with the level of its entries.
#[derive(Debug, Default)]
pub struct Survey {
    tables: BTreeMap<Pa, Table>,
}

/// What a table is known to be.
#[derive(Clone, Copy, Debug)]
struct Table {
    /// The level of its entries.
    level: Level,
    /// Which of its lines may be other than zeros, bit n for line n. Before it was read: all.
    lines: u64,
}

impl Table {
    fn unread(level: Level) -> Self {
        Self { level, lines: u64::MAX }
    }
}

impl Survey {
    /// Of all tables under a check's root. Flags that are wrong and entries that refer back go into `marks`, flags that are
    /// of no use into `notes`.
    pub fn of(check: &TableCheck<'_>, marks: &mut Marks, notes: &mut Vec<String>) -> Result<Self, Cut> {
        let top = check.told.top_level();
        let root = table_address(check.root.0, check.told);
        let tables = BTreeMap::from([(root, Table::unread(top))]);
        let mut surveyor = Surveyor { check, budget: check.budget, marks, tables, next: Vec::new(), useless: None };
        let mut level = Some(top);
        let mut tables_of_level = vec![Seen { at: root, virt: Va(0), is_user: true }];
        while let Some(current) = level {
            for table in &tables_of_level {
                surveyor.read(table, current)?;
            }
            tables_of_level = std::mem::take(&mut surveyor.next);
            level = current.below();
        }
        notes.extend(surveyor.useless.map(|useless| useless.to_string()));
        Ok(Self { tables: surveyor.tables })
    }

    /// The level of the entries of the table at `at`, if one is there.
    pub fn level_of(&self, at: Pa) -> Option<Level> {
        self.tables.get(&at).map(|table| table.level)
    }

    /// Which lines of a table may be other than zeros, bit n for line n; of what is no table, all.
    pub fn lines_in_use(&self, at: Pa) -> u64 {
        self.tables.get(&at).map_or(u64::MAX, |table| table.lines)
    }

    /// The first table among some physical pages.
    pub fn table_in(&self, pages: RangeInclusive<Pa>) -> Option<Pa> {
        self.tables.range(pages).next().map(|(at, _)| *at)
    }
}

/// A table, where it was first come by.
struct Seen {
    at: Pa,
    /// The first address that its entries translate.
    virt: Va,
    /// U/S is set in every entry on the way.
    is_user: bool,
}

/// Goes down level by level, so that a table's level is the highest at which an entry refers to it.
struct Surveyor<'a> {
    check: &'a TableCheck<'a>,
    budget: &'a Budget,
    marks: &'a mut Marks,
    tables: BTreeMap<Pa, Table>,
    /// Tables of the next level.
    next: Vec<Seen>,
    useless: Option<Useless>,
}

impl Surveyor<'_> {
    fn read(&mut self, table: &Seen, level: Level) -> Result<(), Cut> {
        let lines = self.check.memory.lines_in_use(table.at);
        self.tables.insert(table.at, Table { level, lines });
        self.budget.read_entries(u64::from(lines.count_zeros()).wrapping_mul(8))?;
        for first in each_line(lines).map(|line| line << 3) {
            let Some(line) = self.check.memory.line(Pa(table.at.0 | first << 3)) else {
                return self.budget.read_entry();
            };
            if is_unsuspicious(&line, level) {
                self.budget.read_entries(8)?;
                continue;
            }
            for (entry, index) in line.into_iter().zip(first..) {
                self.budget.read_entry()?;
                self.judge(entry, index, table, level);
            }
        }
        Ok(())
    }

    fn judge(&mut self, entry: u64, index: u64, table: &Seen, level: Level) {
        let virt = self.address(table.virt, level, index);
        match judge(level, entry, self.check.told) {
            Judgement::NotPresent | Judgement::Reserved(_) => {}
            Judgement::Leaf => self.judge_flags(entry, virt, level, true, table.is_user),
            Judgement::Table { at, level: below } => {
                self.judge_flags(entry, virt, level, false, table.is_user);
                self.refer(at, below, virt, level, table.is_user && entry & bits::U != 0);
            }
        }
    }

    /// The first address that an entry translates.
    fn address(&self, table_virt: Va, level: Level, index: u64) -> Va {
        let virt = table_virt.0 | index.wrapping_mul(level.span_bytes());
        // The upper half of the top table is the upper half of the addresses.
        if level == self.check.told.top_level() && index >= ENTRIES / 2 {
            return Va(virt | level.span_bytes().wrapping_mul(ENTRIES).wrapping_neg());
        }
        Va(virt)
    }

    /// An entry at `virt` refers to the table at `at`, with entries of level `below`.
    fn refer(&mut self, at: Pa, below: Level, virt: Va, level: Level, is_user: bool) {
        match self.tables.get(&at) {
            None => {
                self.tables.insert(at, Table::unread(below));
                self.next.push(Seen { at, virt, is_user });
                // Where no memory is, that is what is found.
                if !self.check.reach.contains(&at) && self.check.memory.entry(at).is_some() {
                    self.mark(Rule::TableOutsidePool, virt, level, Statement::Physical(at));
                }
            }
            Some(known) if known.level == below => {}
            Some(_) => {
                let observed = match at == table_address(self.check.root.0, self.check.told) {
                    true => Statement::text("an entry that refers to the root"),
                    false => Statement::text("an entry that refers to a table of a higher level"),
                };
                self.mark(Rule::SelfMapping, virt, level, observed);
            }
        }
    }

    #[inline]
    fn judge_flags(&mut self, entry: u64, virt: Va, level: Level, is_leaf: bool, is_user: bool) {
        const LEAF: u64 = flags::suspicious(true);
        const TABLE: u64 = flags::suspicious(false);
        if entry & if is_leaf { LEAF } else { TABLE } == 0 {
            return;
        }
        // The kernel's own pages are not the mapper's.
        if is_leaf && self.check.kernel.iter().any(|range| range.contains(&virt)) {
            return;
        }
        for rule in flags::broken_by(entry, is_leaf, !is_user) {
            match rule.verdict {
                Verdict::Error(found) => self.mark(found, virt, level, Statement::text(rule.reason)),
                Verdict::Note => self.useless(rule, virt),
                Verdict::Allowed => {}
            }
        }
    }

    fn mark(&mut self, rule: Rule, virt: Va, level: Level, observed: Statement) {
        let expectation = self.check.expectation;
        let alias = expectation.alias_at(virt).map(|index| expectation.aliases[index]);
        let pages = level.span_bytes() / PAGE_BYTES;
        self.marks.push(Mark {
            // What a table's entry governs may be many regions'.
            region: alias.filter(|alias| level == Level::Pte || alias.pages >= pages).and_then(|alias| alias.region),
            virt: Some(virt),
            pages,
            observed: Some(observed),
            ..Mark::new(rule, Witness::Walk)
        });
    }

    fn useless(&mut self, rule: &'static FlagRule, virt: Va) {
        let useless = self.useless.get_or_insert(Useless { rule, first: virt, count: 0 });
        useless.count = useless.count.saturating_add(1);
    }
}

/// Whether there is nothing to say of any of eight entries, by all of their bits together: they are the last level's, without a
/// flag that could be wrong. No cut can change that.
#[inline]
fn is_unsuspicious(line: &[u64; 8], level: Level) -> bool {
    const LEAF: u64 = flags::suspicious(true);
    let bits = line.iter().fold(0, |bits, entry| bits | entry);
    level == Level::Pte && bits & LEAF == 0
}

/// Leaves with a flag that is of no use. Only one flag is such.
struct Useless {
    rule: &'static FlagRule,
    first: Va,
    count: u64,
}

impl std::fmt::Display for Useless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rule, first, count } = self;
        let leaves = if *count == 1 { "leaf has" } else { "leaves have" };
        write!(f, "{count} {leaves} {} set, the first for VA {first}: {}", rule.name, rule.reason)
    }
}
