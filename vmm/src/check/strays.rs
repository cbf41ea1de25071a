//! What translates at addresses that are nobody's.
//!
//! In an arena nothing may. Elsewhere two things are looked for: that the page tables themselves are mapped, and tables where
//! no memory is. A table that several entries refer to is read once; each further entry is one stretch, and not unfolded.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use super::budget::Cut;
use super::marks::{Mark, Marks};
use super::statement::Statement;
use super::survey::Survey;
use super::table_check::TableCheck;
use super::{Rule, Witness};
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{ErrorCode, Fault, Judgement, Level, Pa, Va, frame, judge, table_address};

/// Looks at one range after another.
pub struct Strays<'a> {
    check: &'a TableCheck<'a>,
    survey: &'a Survey,
    marks: &'a mut Marks,
    /// What is below the tables that were read whole.
    read: BTreeMap<Pa, Below>,
}

/// A stretch of addresses that belong to no alias and not to the kernel.
#[derive(Clone, Copy, Debug)]
pub enum Ground {
    /// In an arena; of the region that was here before, if one was.
    Arena {
        /// Its index.
        region: Option<usize>,
    },
    /// In none.
    Elsewhere,
}

/// What is found below an entry.
#[derive(Clone, Copy, Debug, Default)]
struct Below {
    /// Something is mapped, or would be were it not for a defect.
    is_anything: bool,
    /// A leaf maps a table.
    is_table: bool,
}

impl Below {
    fn add(&mut self, other: Self) {
        self.is_anything |= other.is_anything;
        self.is_table |= other.is_table;
    }
}

/// The last address under an entry, none past `last`.
fn last_under(virt: Va, level: Level, last: Va) -> Va {
    Va(virt.0 | level.span_bytes().wrapping_sub(1)).min(last)
}

/// How many entries of a table, from that for `virt` on and none past `last`, are in lines of zeros, which are those that are
/// not `in_use`; and the last address under them. None: not the first.
fn zeros_from(in_use: u64, level: Level, virt: Va, last: Va) -> Option<(u64, Va)> {
    let index = level.index(virt);
    let line = index as u32 / 8;
    let zeros = (in_use >> line).trailing_zeros().min(64_u32.saturating_sub(line));
    let more = u64::from(zeros).checked_sub(1)?;
    let line_bytes = level.span_bytes().wrapping_mul(8);
    let first_end = virt.0 | line_bytes.wrapping_sub(1);
    let end = Va(first_end.saturating_add(more.wrapping_mul(line_bytes))).min(last);
    let entries = level.index(end).saturating_sub(index).saturating_add(1);
    Some((entries as u64, end))
}

impl<'a> Strays<'a> {
    /// Nothing looked at yet.
    pub fn new(check: &'a TableCheck<'a>, survey: &'a Survey, marks: &'a mut Marks) -> Self {
        Self { check, survey, marks, read: BTreeMap::new() }
    }

    /// Marks what is wrong in a range, all in one half of the addresses.
    pub fn find(&mut self, range: RangeInclusive<Va>, ground: Ground) -> Result<(), Cut> {
        let root = table_address(self.check.root.0, self.check.told);
        self.table(root, self.check.told.top_level(), range, ground).map(|_| ())
    }

    /// The entries of a table for a range.
    fn table(&mut self, at: Pa, level: Level, range: RangeInclusive<Va>, ground: Ground) -> Result<Below, Cut> {
        let (first, last) = (*range.start(), *range.end());
        let in_use = self.survey.lines_in_use(at);
        let mut all = Below::default();
        let mut next = Some(first);
        while let Some(virt) = next.filter(|virt| *virt <= last) {
            if let Some((entries, end)) = zeros_from(in_use, level, virt, last) {
                self.check.budget.read_entries(entries)?;
                next = end.checked_add(1);
                continue;
            }
            let Some((line, part)) = self.entries_from(level.entry_addr(at, virt)) else {
                self.check.budget.read_entry()?;
                self.unreachable(virt..=last, at, ground);
                return Ok(Below { is_anything: true, ..all });
            };
            let mut virt = virt;
            for entry in &line[part] {
                self.check.budget.read_entry()?;
                let end = last_under(virt, level, last);
                all.add(self.entry(*entry, level, virt..=end, ground)?);
                next = end.checked_add(1);
                match next {
                    Some(after) if after <= last => virt = after,
                    _ => break,
                }
            }
        }
        Ok(all)
    }

    /// A line, and which of its entries are that at an address and those after it; one, if the line is not all there.
    fn entries_from(&self, at: Pa) -> Option<([u64; 8], Range<usize>)> {
        let index = (at.0 / 8 % 8) as usize;
        let whole = self.check.memory.line(Pa(at.0 & !63)).map(|line| (line, index..8));
        whole.or_else(|| Some(([self.check.memory.entry(at)?; 8], index..index.saturating_add(1))))
    }

    fn entry(&mut self, entry: u64, level: Level, range: RangeInclusive<Va>, ground: Ground) -> Result<Below, Cut> {
        match judge(level, entry, self.check.told) {
            Judgement::NotPresent => Ok(Below::default()),
            Judgement::Reserved(_) => {
                self.stray(Rule::ReservedBit, range, Statement::text("a reserved bit"), ground);
                Ok(Below { is_anything: true, is_table: false })
            }
            Judgement::Leaf => Ok(self.leaf(entry, level, range, ground)),
            Judgement::Table { at, level: below } => self.reference(at, below, range, ground),
        }
    }

    /// A leaf, as much of it as lies in the range.
    fn leaf(&mut self, entry: u64, level: Level, range: RangeInclusive<Va>, ground: Ground) -> Below {
        let (first, last) = (*range.start(), *range.end());
        let pa = Pa(frame(level, entry).0 | first.0 & level.span_bytes().wrapping_sub(1));
        let table = self.survey.table_in(pa..=pa.saturating_add(last.wrapping_offset_from(first)));
        match (ground, table) {
            (Ground::Arena { .. }, _) => self.stray(Rule::StrayMapping, range, Statement::Physical(pa), ground),
            (Ground::Elsewhere, Some(table)) => self.table_mapped(range, Statement::Physical(table)),
            (Ground::Elsewhere, None) => {}
        }
        Below { is_anything: true, is_table: table.is_some() }
    }

    /// An entry that refers to a table. One that serves at a higher level too has its finding, and is not followed.
    fn reference(&mut self, at: Pa, level: Level, range: RangeInclusive<Va>, ground: Ground) -> Result<Below, Cut> {
        if self.survey.level_of(at) != Some(level) {
            return Ok(Below::default());
        }
        let is_whole =
            range.end().wrapping_offset_from(*range.start()) == level.span_bytes().wrapping_mul(512).wrapping_sub(1);
        if let Some(below) = self.read.get(&at).copied().filter(|_| is_whole) {
            match ground {
                Ground::Arena { .. } if below.is_anything => {
                    self.stray(
                        Rule::StrayMapping,
                        range,
                        Statement::text("tables that are in use elsewhere too"),
                        ground,
                    );
                }
                Ground::Elsewhere if below.is_table => {
                    self.table_mapped(range, Statement::text("leaves below it that map tables"));
                }
                _ => {}
            }
            return Ok(below);
        }
        let below = self.table(at, level, range, ground)?;
        if is_whole {
            self.read.insert(at, below);
        }
        Ok(below)
    }

    /// Marks what translates, or has a defect, in an arena.
    fn stray(&mut self, rule: Rule, range: RangeInclusive<Va>, observed: Statement, ground: Ground) {
        let Ground::Arena { region } = ground else { return };
        self.marks.push(Mark {
            region,
            expected: Some(Statement::faulted(Fault::page(ErrorCode(0)), *range.start())),
            observed: Some(observed),
            ..over(rule, &range)
        });
    }

    /// Marks a table that cannot be read. What lies below it depends on the machine, in an arena or not.
    fn unreachable(&mut self, range: RangeInclusive<Va>, table: Pa, ground: Ground) {
        match ground {
            Ground::Arena { .. } => self.stray(Rule::TableUnreachable, range, Statement::Physical(table), ground),
            Ground::Elsewhere => {
                let observed = Some(Statement::Physical(table));
                self.marks.push(Mark { observed, ..over(Rule::TableUnreachable, &range) });
            }
        }
    }

    fn table_mapped(&mut self, range: RangeInclusive<Va>, observed: Statement) {
        self.marks.push(Mark { observed: Some(observed), ..over(Rule::SelfMapping, &range) });
    }
}

fn over(rule: Rule, range: &RangeInclusive<Va>) -> Mark {
    let pages = (range.end().wrapping_offset_from(*range.start()) / PAGE_BYTES).saturating_add(1);
    Mark { virt: Some(*range.start()), pages, ..Mark::new(rule, Witness::Walk) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: a line of PTEs is 32 KiB of addresses, and a table of them 2 MiB.
    #[test]
    fn lines_of_zeros_are_passed_over_and_no_more() {
        let from = |in_use, virt, last| zeros_from(in_use, Level::Pte, Va(virt), Va(last));
        // Lines 1 to 3 are zeros, line 4 is not.
        assert_eq!(from(0b10001, 0x8000, 0x1f_ffff), Some((24, Va(0x1_ffff))));
        assert_eq!(from(0b10001, 0x2_0000, 0x1f_ffff), None);
        // To the end of the table, to the last address, and from and to within lines.
        assert_eq!(from(1, 0x8000, u64::MAX), Some((504, Va(0x1f_ffff))));
        assert_eq!(from(1, 0x8000, 0x1_7fff), Some((16, Va(0x1_7fff))));
        assert_eq!(from(1, 0x8000, 0x1_7ffe), Some((16, Va(0x1_7ffe))));
        assert_eq!(from(1, 0x8000, 0x8fff), Some((1, Va(0x8fff))));
        assert_eq!(from(0b10001, 0xf123, 0x1f_ffff), Some((17, Va(0x1_ffff))));
        assert_eq!(from(0b10001, 0x7000, 0x1f_ffff), None);
        assert_eq!(from(1 << 63, 0x1f_7000, 0x1f_ffff), Some((1, Va(0x1f_7fff))));
        assert_eq!(from(1 << 63, 0x1f_f000, 0x1f_ffff), None);
        // The top of the address space: line 63 of the root.
        let top = 0xffff_fc00_0000_0000;
        assert_eq!(zeros_from(1 << 63, Level::Pml4e, Va(top), Va(u64::MAX)), None);
        assert_eq!(zeros_from(0, Level::Pml4e, Va(top), Va(u64::MAX)), Some((8, Va(u64::MAX))));
    }
}
