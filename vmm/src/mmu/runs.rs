//! All that translates in a range of virtual addresses, in runs.

use std::ops::RangeInclusive;

use super::address::{Pa, Va};
use super::entry::{Judgement, frame, judge, offended_rules, table_address};
use super::level::{Level, bits};
use super::paging::Paging;
use super::permission::Rights;
use super::rules::PagingRules;
use super::walk::{TableMemory, Translation};

/// The runs of a range of virtual addresses, in ascending order.
///
/// Depth first over the present entries; an absent entry costs one read however much it spans. Rights
/// are collected, not judged: what is listed is what *some* access may reach, or what no access can
/// for a [`Defect`]. The walk and the runs agree on every page.
///
/// Tables may refer to themselves, and one page of them can then pass for 2^36 leaves. Hence the
/// limit on the entries read, after which the iterator yields [`LimitReached`] and ends.
pub struct Runs<'m, M: ?Sized> {
    memory: &'m M,
    paging: Paging,
    /// The tables open, by the level of their entries; slot 0 stays unused.
    tables: [OpenTable; Level::Pml5e as usize + 1],
    /// Of each such table the line that was read last.
    lines: [Line; Level::Pml5e as usize + 1],
    level: Level,
    /// The next address to look at; none at the end.
    cursor: Option<Va>,
    last: Va,
    budget: u64,
    limit: u64,
    /// The run still growing.
    growing: Option<Run>,
    stopped: Option<LimitReached>,
}

/// Consecutive leaves of one kind: same size, rights, cache index and G bit, contiguous in virtual
/// and in physical addresses. Cut to the range asked for, whole pages at either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first address.
    pub va: Va,
    /// The length in bytes, a multiple of 4096.
    pub bytes: u64,
    /// What `va` translates to.
    pub pa: Pa,
    /// The level of the leaves; of a defect, the level of the entries that have it.
    pub leaf: Level,
    /// What all levels grant together.
    pub rights: Rights,
    /// The leaves' PAT index.
    pub pat_index: u8,
    /// The leaves' G bit.
    pub global: bool,
    /// Why nothing translates here. Runs of one defect need not be contiguous in physical addresses
    /// nor alike in rights: `pa`, `rights`, `pat_index` and `global` are then what the first entry
    /// says, for whatever it is worth.
    pub defect: Option<Defect>,
    /// Where the first leaf's entry lies.
    pub entry_addr: Pa,
}

/// Why a stretch of present entries translates for no access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Reserved bits are set.
    Reserved {
        /// The rules offended, the same for every entry of the run.
        rules: PagingRules,
        /// The guilty bits of all entries of the run, or'ed.
        bits: u64,
    },
    /// The entries lie where nothing is.
    Stranded {
        /// The table that cannot be read.
        table: Pa,
    },
}

/// The tables have more entries in the range than the caller wished to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{limit} table entries read, and the range is listed only up to {at}: raise the limit, or look for tables that refer to themselves"
)]
pub struct LimitReached {
    /// The limit.
    pub limit: u64,
    /// The first address not looked at.
    pub at: Va,
}

impl<'m, M: TableMemory + ?Sized> Runs<'m, M> {
    /// The runs of `range` under the tables at `root` (CR3, its flags ignored). The range is widened
    /// to whole pages and may reach to `Va(u64::MAX)`; `limit_entries` bounds the reads.
    pub fn new(memory: &'m M, root: Pa, range: RangeInclusive<Va>, paging: &Paging, limit_entries: u64) -> Self {
        let (first, last) = (range.start().0 & !0xfff, range.end().0 | 0xfff);
        let open = OpenTable { at: table_address(root.0, paging), rights: Rights::ALL };
        let mut runs = Self {
            memory,
            paging: *paging,
            tables: [open; Level::Pml5e as usize + 1],
            lines: [NO_LINE; Level::Pml5e as usize + 1],
            level: paging.top_level(),
            cursor: None,
            last: Va(last),
            budget: limit_entries,
            limit: limit_entries,
            growing: None,
            stopped: None,
        };
        if range.start() <= range.end() {
            runs.move_to(Some(first));
        }
        runs
    }

    /// Entries read so far.
    pub fn entries_read(&self) -> u64 {
        self.limit - self.budget
    }

    /// The next entry that is not absent, as a run of its own; a PTE, with those of its table that continue it.
    fn next_entry(&mut self) -> Option<Run> {
        while let Some(va) = self.cursor {
            if self.budget == 0 {
                self.stopped = Some(LimitReached { limit: self.limit, at: va });
                self.cursor = None;
                break;
            }
            if self.skip_absent(va) {
                continue;
            }
            self.budget -= 1;
            if let Some(run) = self.look_at(va) {
                return Some(run);
            }
        }
        None
    }

    /// Moves past eight entries from that for `va` on, if they are a line of zeros, all of it in the range. Most of most tables
    /// is absent, and an entry of zero is absent whatever the rules.
    #[inline]
    fn skip_absent(&mut self, va: Va) -> bool {
        let level = self.level;
        let last = va.0 | (8 * level.span_bytes() - 1);
        if !level.index(va).is_multiple_of(8) || self.budget < 8 || last > self.last.0 {
            return false;
        }
        let at = level.entry_addr(self.tables[level as usize].at, va);
        let is_absent = |line: &Line| line.entries.iter().fold(0, |bits, entry| bits | entry) == 0;
        if !self.read_line(level, at).is_some_and(is_absent) {
            return false;
        }
        self.budget -= 8;
        self.move_to(last.checked_add(1));
        true
    }

    /// Reads the entry for `va` in the table now open, and moves on: past it, or into its table.
    #[inline]
    fn look_at(&mut self, va: Va) -> Option<Run> {
        let level = self.level;
        let table = self.tables[level as usize];
        let entry_addr = level.entry_addr(table.at, va);
        let entry = self.entry(level, entry_addr);
        let judgement = entry.map(|entry| (entry, judge(level, entry, &self.paging)));

        let found = match judgement {
            Some((entry, Judgement::Table { at, level: below })) => {
                let rights = table.rights.below(level, entry, &self.paging);
                self.tables[below as usize] = OpenTable { at, rights };
                self.level = below;
                return None;
            }
            Some((_, Judgement::NotPresent)) => None,
            Some((entry, Judgement::Leaf)) => Some((entry, None)),
            Some((entry, Judgement::Reserved(bits))) => {
                let rules = offended_rules(level, entry, &self.paging);
                Some((entry, Some(Defect::Reserved { rules, bits })))
            }
            None => Some((0, Some(Defect::Stranded { table: table.at }))),
        };
        let mut last = self.last_under(va);
        if let (Level::Pte, Some((first, None))) = (level, found) {
            last += self.count_alike(va, entry_addr, first) * Level::Pte.span_bytes();
        }
        self.move_to(last.checked_add(1));

        let (entry, defect) = found?;
        let rights = table.rights.below(level, entry, &self.paging);
        let to = Translation::by_leaf(level, entry, va, rights);
        // An entry that refers to a table maps nothing: show what it refers to.
        let pa = if level.maps_page(entry) { to.pa } else { frame(Level::Pte, entry) };
        Some(Run {
            va,
            bytes: last - va.0 + 1,
            pa,
            leaf: level,
            rights,
            pat_index: to.pat_index,
            global: to.global,
            defect,
            entry_addr,
        })
    }

    /// How many PTEs after the leaf `first` at `entry_addr` continue it within their table and the range: all that a
    /// run says is the same of them. Nearly all entries of large tables are read here, one compare each.
    #[inline]
    fn count_alike(&mut self, va: Va, entry_addr: Pa, first: u64) -> u64 {
        /// Where the page lies, and what the CPU wrote: a run's leaves differ in nothing else.
        const OWN: u64 = bits::ADDRESS | bits::A | bits::D;
        let paging = self.paging;
        let page = Level::Pte.span_bytes();
        let pages_left = (self.last.0 - va.0) / page;
        let in_table = (511 - Level::Pte.index(va)) as u64;
        let most = in_table.min(pages_left).min(self.budget);
        let mut continues = |nth: &u64| {
            let at = Pa(entry_addr.0 + nth * 8);
            if at.0.is_multiple_of(64) && nth + 7 <= most {
                self.read_line(Level::Pte, at);
            }
            let Some(entry) = self.entry(Level::Pte, at) else { return false };
            let same_kind = (entry ^ first) & !OWN == 0;
            let next_frame = entry & bits::ADDRESS == (first & bits::ADDRESS) + nth * page;
            same_kind && next_frame && judge(Level::Pte, entry, &paging) == Judgement::Leaf
        };
        let count = (1..=most).take_while(|nth| continues(nth)).count() as u64;
        self.budget -= count;
        count
    }

    /// Reads the line at an address.
    #[inline]
    fn read_line(&mut self, level: Level, at: Pa) -> Option<&Line> {
        let line = &mut self.lines[level as usize];
        *line = Line { at, entries: self.memory.line(at)? };
        Some(line)
    }

    /// The entry at an address: out of the line that was read last, or of memory.
    #[inline]
    fn entry(&self, level: Level, at: Pa) -> Option<u64> {
        let line = &self.lines[level as usize];
        match line.at.0 == at.0 & !63 {
            true => Some(line.entries[(at.0 >> 3 & 7) as usize]),
            false => self.memory.entry(at),
        }
    }

    /// The last address under the entry for `va`, within the range and its canonical half.
    #[inline]
    fn last_under(&self, va: Va) -> u64 {
        let low_half_last = self.paging.low_half_last();
        let half_last = if va.0 <= low_half_last { low_half_last } else { u64::MAX };
        (va.0 | (self.level.span_bytes() - 1)).min(self.last.0).min(half_last)
    }

    /// Sets the cursor, past the non-canonical hole and within the range, and closes the tables that
    /// end before it.
    #[inline]
    fn move_to(&mut self, va: Option<u64>) {
        self.cursor = None;
        let Some(mut va) = va else { return };
        let top = self.paging.top_level();
        if !self.paging.is_canonical(Va(va)) {
            va = self.paging.high_half_first();
            self.level = top;
        }
        if va > self.last.0 {
            return;
        }
        self.cursor = Some(Va(va));
        while self.level < top && self.level.index(Va(va)) == 0 {
            // Index 0 is where a table begins, and the cursor only ascends: the old one is done.
            let Some(above) = self.level.above() else {
                break;
            };
            self.level = above;
        }
    }
}

impl<M: TableMemory + ?Sized> Iterator for Runs<'_, M> {
    type Item = Result<Run, LimitReached>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(found) = self.next_entry() {
            if self.growing.as_mut().is_some_and(|run| run.absorb(&found)) {
                continue;
            }
            if let Some(finished) = self.growing.replace(found) {
                return Some(Ok(finished));
            }
        }
        self.growing.take().map(Ok).or_else(|| self.stopped.take().map(Err))
    }
}

impl<M: TableMemory + ?Sized> std::iter::FusedIterator for Runs<'_, M> {}

impl Run {
    /// The last address of the run.
    pub const fn last(&self) -> Va {
        Va(self.va.0.wrapping_add(self.bytes.wrapping_sub(1)))
    }

    /// Whether `va` lies in the run.
    pub const fn contains(&self, va: Va) -> bool {
        self.va.0 <= va.0 && va.0 <= self.last().0
    }

    /// Takes `next` in, if it continues this run.
    #[inline]
    fn absorb(&mut self, next: &Run) -> bool {
        let Some(bytes) = self.bytes.checked_add(next.bytes) else {
            return false;
        };
        if self.leaf != next.leaf || self.va.0.wrapping_add(self.bytes) != next.va.0 {
            return false;
        }
        let alike = match (&mut self.defect, &next.defect) {
            (None, None) => {
                self.pa.0.wrapping_add(self.bytes) == next.pa.0
                    && self.rights == next.rights
                    && self.pat_index == next.pat_index
                    && self.global == next.global
            }
            (Some(Defect::Reserved { rules, bits }), Some(Defect::Reserved { rules: next_rules, bits: next_bits }))
                if rules == next_rules =>
            {
                *bits |= next_bits;
                true
            }
            (Some(Defect::Stranded { table }), Some(Defect::Stranded { table: next_table })) => table == next_table,
            _ => false,
        };
        if alike {
            self.bytes = bytes;
        }
        alike
    }
}

/// Eight entries, and where they lie.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: Pa,
    entries: [u64; 8],
}

/// No line lies at such an address.
const NO_LINE: Line = Line { at: Pa(1), entries: [0; 8] };

/// A table on the way down, and the rights on reaching it.
#[derive(Clone, Copy, Debug)]
struct OpenTable {
    at: Pa,
    rights: Rights,
}
