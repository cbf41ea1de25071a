//! One translation, followed level by level.

use std::iter;

use super::access::Access;
use super::address::{Pa, Va};
use super::entry::{Judgement, frame, judge, next, pat_index, table_address};
use super::fault::{ErrorCode, Fault};
use super::level::{Level, bits};
use super::paging::Paging;
use super::permission::Rights;
use super::rules::{PagingRule, PagingRules};

/// Follows one access through the tables at `root`.
///
/// `root` is CR3: its low 12 bits and those from MAXPHYADDR up are flags and ignored. The access is
/// to the byte at `va`; [`access_bytes`](super::access_bytes) is for those that may cross a page.
pub fn walk(memory: &(impl TableMemory + ?Sized), root: Pa, va: Va, access: Access, paging: &Paging) -> Walk {
    if !paging.is_canonical(va) {
        let fault = Fault::non_canonical(access, paging);
        return Walk::new(va, access, paging.rules, Outcome::Fault(fault));
    }
    let stranded = Outcome::Stranded { table: table_address(root.0, paging) };
    let mut walk = Walk::new(va, access, paging.rules, stranded);
    walk.outcome = walk.descend(memory, table_address(root.0, paging), paging);
    walk
}

/// Where table entries are read.
pub trait TableMemory {
    /// The 8 bytes at `at`, which is a multiple of 8. None: nothing is there.
    fn entry(&self, at: Pa) -> Option<u64>;

    /// The eight entries from `at` on, which is a multiple of 64. None: of some of them nothing is there. To read whole tables
    /// line by line is faster than entry by entry.
    fn line(&self, at: Pa) -> Option<[u64; 8]> {
        let mut line = [0; 8];
        for (nth, entry) in (0..).zip(&mut line) {
            *entry = self.entry(Pa(at.0 | nth << 3))?;
        }
        Some(line)
    }

    /// Which of the 64 lines of the table at `at` may be other than zeros: bit n for line n. Memory that can tell by a glance does,
    /// and spares the reads of those that are not; else it may be any.
    fn lines_in_use(&self, at: Pa) -> u64 {
        let _ = at;
        u64::MAX
    }
}

impl<M: TableMemory + ?Sized> TableMemory for &M {
    fn entry(&self, at: Pa) -> Option<u64> {
        (**self).entry(at)
    }

    fn line(&self, at: Pa) -> Option<[u64; 8]> {
        (**self).line(at)
    }

    fn lines_in_use(&self, at: Pa) -> u64 {
        (**self).lines_in_use(at)
    }
}

/// The numbers of the lines that are in use, from [`TableMemory::lines_in_use`].
pub fn each_line(in_use: u64) -> impl Iterator<Item = u64> {
    let rest = |bits: &u64| Some(bits & (bits - 1)).filter(|rest| *rest != 0);
    iter::successors(Some(in_use).filter(|bits| *bits != 0), rest).map(|bits| bits.trailing_zeros().into())
}

/// A walk that has been made: the access, the entries seen, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The address accessed.
    pub va: Va,
    /// The access made.
    pub access: Access,
    /// How it ended.
    pub outcome: Outcome,
    pub(super) rules: PagingRules,
    steps: [Step; MAX_LEVELS],
    depth: usize,
}

/// One entry a walk looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The level of the entry.
    pub level: Level,
    /// Where it was read.
    pub entry_addr: Pa,
    /// What was read.
    pub entry: u64,
    /// The reserved bits set in it: those the walk stopped for. See
    /// [`reserved_reasons`](super::reserved_reasons).
    pub reserved: u64,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The access reaches memory.
    Translated(Translation),
    /// The access faults.
    Fault(Fault),
    /// The entry lies where nothing is. Hardware reads ones there and some KVMs zeros: the caller
    /// decides what that means.
    Stranded {
        /// The table the walk could not read.
        table: Pa,
    },
}

/// Where an access arrives, and by what leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of the byte accessed.
    pub pa: Pa,
    /// The level of the leaf: PTE, PDE or PDPTE.
    pub leaf: Level,
    /// What all levels grant together.
    pub rights: Rights,
    /// The leaf's PAT index: PAT, PCD, PWT (SDM 4.9.2).
    pub pat_index: u8,
    /// The leaf's G bit, whether or not CR4.PGE heeds it.
    pub global: bool,
}

impl Outcome {
    /// Where the access arrives, if it does.
    pub const fn translation(&self) -> Option<Translation> {
        match *self {
            Self::Translated(translation) => Some(translation),
            _ => None,
        }
    }
}

impl Walk {
    /// The entries seen, from the top down. Empty if the address was not canonical.
    pub fn steps(&self) -> &[Step] {
        &self.steps[..self.depth]
    }

    /// Where the access arrived, if it did.
    pub const fn translation(&self) -> Option<Translation> {
        self.outcome.translation()
    }

    /// The fault, if there was one.
    pub const fn fault(&self) -> Option<Fault> {
        match self.outcome {
            Outcome::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    fn new(va: Va, access: Access, rules: PagingRules, outcome: Outcome) -> Self {
        Self { va, access, outcome, rules, steps: [NO_STEP; MAX_LEVELS], depth: 0 }
    }

    /// Goes down from `table` until an entry ends the walk.
    fn descend(&mut self, memory: &(impl TableMemory + ?Sized), mut table: Pa, paging: &Paging) -> Outcome {
        let mut level = paging.top_level();
        let mut rights = Rights::ALL;
        let mut outranked = None;
        let end = loop {
            let entry_addr = level.entry_addr(table, self.va);
            let Some(entry) = memory.entry(entry_addr) else {
                break Outcome::Stranded { table };
            };
            let judgement = judge(level, entry, paging);
            let reserved = judgement.reserved();
            self.record(Step { level, entry_addr, entry, reserved });
            rights = rights.below(level, entry, paging);

            let onward = match judgement {
                Judgement::Reserved(_) if lets_lower_faults_win(level, entry, paging) => {
                    outranked = outranked.or(Some(self.reserved_fault(rights, paging)));
                    next(level, entry, paging)
                }
                _ => judgement,
            };
            match onward {
                Judgement::NotPresent => {
                    break page_fault(ErrorCode::of_access(self.access, paging));
                }
                Judgement::Reserved(_) => break self.reserved_fault(rights, paging),
                Judgement::Table { at, level: below } => (table, level) = (at, below),
                Judgement::Leaf => break self.arrive(level, entry, rights, paging),
            }
        };
        match (end, outranked) {
            (Outcome::Fault(_), _) | (_, None) => end,
            (_, Some(fault)) => fault,
        }
    }

    /// The access has found its leaf: do the rights suffice?
    fn arrive(&self, level: Level, entry: u64, rights: Rights, paging: &Paging) -> Outcome {
        match rights.refuse(self.access, paging) {
            Some(code) => page_fault(code),
            None => Outcome::Translated(Translation::by_leaf(level, entry, self.va, rights)),
        }
    }

    /// Reserved bits come before rights (SDM 4.7), unless that rule is broken.
    fn reserved_fault(&self, rights: Rights, paging: &Paging) -> Outcome {
        let reserved = ErrorCode::of_reserved(self.access, paging);
        if paging.rules.has(PagingRule::ReservedBeforePermission) {
            return page_fault(reserved);
        }
        page_fault(rights.refuse(self.access, paging).unwrap_or(reserved))
    }

    fn record(&mut self, step: Step) {
        if let Some(slot) = self.steps.get_mut(self.depth) {
            *slot = step;
            self.depth += 1;
        }
    }
}

impl Translation {
    /// What the leaf `entry` makes of `va`.
    #[inline]
    pub(super) fn by_leaf(leaf: Level, entry: u64, va: Va, rights: Rights) -> Self {
        Self {
            pa: Pa(frame(leaf, entry).0 | va.0 & (leaf.span_bytes() - 1)),
            leaf,
            rights,
            pat_index: pat_index(leaf, entry),
            global: entry & bits::G != 0,
        }
    }
}

/// 5-level paging is the deepest there is.
const MAX_LEVELS: usize = Level::Pml5e as usize;

const NO_STEP: Step = Step { level: Level::Pte, entry_addr: Pa(0), entry: 0, reserved: 0 };

/// Only where the rule is broken, and only a table entry has anything below it.
fn lets_lower_faults_win(level: Level, entry: u64, paging: &Paging) -> bool {
    !paging.rules.has(PagingRule::HigherLevelHidesLower) && !level.maps_page(entry)
}

fn page_fault(code: ErrorCode) -> Outcome {
    Outcome::Fault(Fault::page(code))
}
