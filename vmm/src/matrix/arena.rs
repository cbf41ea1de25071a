//! The memory that a batch of combinations is laid out in: tables, pages, records.
//!
//! Every combination of a batch has entries of all levels to itself, so that its accesses mark nobody else's: a slot of
//! the root, and a chain of tables below it of which it uses one entry each. All leaves, whatever their size, lead to
//! the same page, which is the slot's own too. So the guest has no entry to write, and the host can say of each bit by
//! which access it was set.

use std::sync::Arc;

use efibed_guest::protocol::{DIRECT_MAP, IMAGE_BASE, TRIAL_ARRAY, TRIAL_NOT_RUN, Trial, USER_BASE};

use super::bits::{Bit, Combination, LEVELS};
use crate::engine::EngineError;
use crate::guest::LoadError;
use crate::machine::{Backing, BackingError, Slot};
use crate::mmu::{Level, Pa, TableMemory, Va};

/// Batches in memory at a time: one runs while the other is judged and filled again.
pub const ARENAS: usize = 2;
/// Combinations in a batch: root slots without the kernel's.
pub const MAX_CASES: usize = 500;

/// Where arenas are: 64 MiB for each, below any MAXPHYADDR.
const TABLES_AT: u64 = 4 << 30;
const TABLES_APART: u64 = 64 << 20;
/// A gigabyte for each arena's pages, since a leaf may be as large; only its one part of 2 MiB has memory.
const PAGES_AT: u64 = 8 << 30;
const GIB: u64 = 1 << 30;
/// That part: the index of a PDE.
const PART: u64 = 5;
const PART_BYTES: u64 = 2 << 20;

/// Two lists of records, then the root, then the chains of the slots.
const RECORD_PAGES: u64 = 4 * TRIAL_ARRAY as u64 / PAGE;
const _: () = assert!(MAX_CASES * 8 <= TRIAL_ARRAY);
const ROOT: u64 = 2 * RECORD_PAGES * PAGE;
const CHAINS: u64 = ROOT + PAGE;
const CHAIN_PAGES: u64 = LEVELS as u64 - 1;
const ROOT_SLOTS: u64 = 512;
const TABLES_BYTES: u64 = CHAINS + ROOT_SLOTS * CHAIN_PAGES * PAGE;
const PAGE: u64 = 4096;

/// Indices of the entries between the root's and the PTE.
const PML4_INDEX: u64 = 0x134;
const PDPT_INDEX: u64 = 0x12;

/// Slot 256, which is only for combinations that ask for it.
const HIGH_HALF_START: u64 = 256;
/// How many bytes an access has.
pub const ACCESS_BYTES: u64 = 8;
/// Where in its first page it is if it crosses.
const CROSSING_AT: u64 = PAGE - ACCESS_BYTES / 2;

/// One of the arenas.
#[derive(Debug)]
pub struct Arena {
    number: u64,
    tables: Arc<Backing>,
    pages: Arc<Backing>,
}

/// A combination as it is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is combined.
    pub combination: Combination,
    /// The address of its access.
    pub va: Va,
    /// Its entries, PTE first, and the PTE after its own.
    pub entries: [Entry; LEVELS + 1],
    /// The physical address that the access reaches if it reaches any.
    pub reached: u64,
    slot: u64,
    root: Pa,
}

/// An entry before the access.
#[derive(Clone, Copy, Default, Debug)]
pub struct Entry {
    /// Where it is; 0 if there is none.
    pub at: Pa,
    /// What it is.
    pub value: u64,
}

/// Which of the two lists of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Records {
    /// Of the access that matters.
    Main = 0,
    /// Of the read that goes before it.
    Before = 1,
}

/// Two arenas of a thread's own.
pub fn new_arenas() -> Result<[Arena; ARENAS], EngineError> {
    let arena = |number| Arena::new(number).map_err(|error| EngineError::Load(LoadError::from(error)));
    Ok([arena(0)?, arena(1)?])
}

impl Arena {
    /// Its memory, not yet anyone's.
    pub fn new(number: usize) -> Result<Self, BackingError> {
        Ok(Self { number: number as u64, tables: Backing::new(TABLES_BYTES)?, pages: Backing::new(PART_BYTES)? })
    }

    /// What a machine is to be given to have it.
    pub fn slots(&self) -> [Slot; 2] {
        let slot = |phys, memory: &Arc<Backing>| Slot {
            phys: Pa(phys),
            bytes: memory.bytes(),
            readonly: false,
            memory: Arc::clone(memory),
            offset: 0,
        };
        [slot(self.tables_at(), &self.tables), slot(self.pages_at() + PART * PART_BYTES, &self.pages)]
    }

    /// Physical address of the root.
    pub fn root(&self) -> Pa {
        Pa(self.tables_at() + ROOT)
    }

    /// Gives the root the kernel's entries, those of a whole root. No combination has their slots.
    pub fn adopt(&self, kernel: impl Iterator<Item = u64>) {
        for (at, entry) in (ROOT..).step_by(8).zip(kernel).filter(|(_, entry)| *entry != 0) {
            self.write(at, entry);
        }
    }

    /// The pages of the records, and where ring 3 sees them. Ring 0 sees them in the direct map. The root and the tables
    /// of the first slot come after them, for bare loops that write entries.
    pub fn record_pages(&self) -> impl Iterator<Item = RecordPage> {
        let (phys, user) = (self.tables_at(), self.user_records());
        (0..2 * RECORD_PAGES + 1 + CHAIN_PAGES).map(move |page| page * PAGE).map(move |offset| RecordPage {
            phys: phys + offset,
            kernel: DIRECT_MAP.wrapping_add(phys + offset),
            user: user + offset,
        })
    }

    /// Where each ring sees a record.
    pub fn record_addresses(&self, list: Records, index: usize) -> RecordPage {
        let [offset, ..] = field_offsets(list, index);
        let phys = self.tables_at() + offset;
        RecordPage { phys, kernel: DIRECT_MAP.wrapping_add(phys), user: self.user_records() + offset }
    }

    /// The record before the one that some ring sees at this address: a loop that has an address goes on to the next.
    pub fn record_before(&self, next: u64) -> Option<(Records, usize)> {
        let kernel = DIRECT_MAP.wrapping_add(self.tables_at());
        let views = [kernel, self.user_records()].map(|records| next.wrapping_sub(records).wrapping_sub(8));
        let offset = views.into_iter().find(|offset| *offset < 2 * RECORD_PAGES * PAGE)?;
        let (list, within) = (offset / (RECORD_PAGES * PAGE), offset % (RECORD_PAGES * PAGE));
        let list = [Records::Main, Records::Before].into_iter().find(|each| *each as u64 == list)?;
        let index = (within / 8) as usize;
        (index < MAX_CASES).then_some((list, index))
    }

    /// Lays out a combination in the next free slot; None if there is none for it. `index` is its place in the batch.
    pub fn lay_out(&self, index: usize, slots: &mut Slots, combination: Combination, la57: bool) -> Option<Case> {
        let slot = slots.take(combination.has(Bit::HighHalfStart), la57)?;
        let offset = if combination.has(Bit::Crossing) { CROSSING_AT } else { in_page(slot) };
        let va = Va(address(slot, offset, la57) ^ combination.flipped_va());
        let reached = self.frame(Level::Pte, slot) + offset;
        let mut case = Case { combination, va, entries: Default::default(), reached, slot, root: self.root() };
        self.put_entries(&mut case, la57);
        self.put_pages(&case);
        for list in [Records::Main, Records::Before] {
            self.put_record(list, index, [va.0, TRIAL_NOT_RUN, TRIAL_NOT_RUN, 0]);
        }
        Some(case)
    }

    /// What came of the access.
    pub fn record(&self, list: Records, index: usize) -> Trial {
        let [virt, value, error_code, cr2] = field_offsets(list, index).map(|at| self.tables.read_u64(at).unwrap_or(0));
        Trial { virt, value, error_code, cr2 }
    }

    /// The first record as bare loops take it: an address, and where ring 0 sees three entries.
    pub fn put_bare_record(&self, va: u64, entries: [u64; 3]) {
        let [pte, pde, pdpte] = entries.map(|at| DIRECT_MAP.wrapping_add(at));
        self.put_record(Records::Main, 0, [va, pte, pde, pdpte]);
    }

    /// Notes what the guest could not: what an access brought back that has faulted, or not.
    pub fn put_value(&self, list: Records, index: usize, value: u64) {
        self.write(field_offsets(list, index)[1], value);
    }

    /// An entry as it is now.
    pub fn entry(&self, entry: &Entry) -> u64 {
        self.tables.read_u64(entry.at.0.wrapping_sub(self.tables_at())).unwrap_or(0)
    }

    /// Changes an entry.
    pub fn set_entry(&self, entry: &Entry, value: u64) {
        self.write(entry.at.0.wrapping_sub(self.tables_at()), value);
    }

    /// The 8 bytes at a case's page and, if it crosses, the next: as they are now.
    pub fn memory(&self, case: &Case) -> u64 {
        self.bytes_at(case.reached - self.pages_at() - PART * PART_BYTES)
    }

    /// The same, as they were.
    pub fn memory_before(case: &Case) -> u64 {
        let at = case.reached;
        let word = |at: u64| content(at & !7, &case.combination);
        if at.is_multiple_of(8) { word(at) } else { word(at) >> 32 | word(at + 4) << 32 }
    }

    fn put_entries(&self, case: &mut Case, la57: bool) {
        let combination = &case.combination;
        let top = if la57 { 5 } else { 4 };
        for level in Level::ALL.into_iter().take(top) {
            let flags = combination.entry(level);
            let leads_to = match level.below() {
                Some(below) if !level.maps_page(flags) => self.table(below, case.slot),
                _ => self.frame(level, case.slot),
            };
            let key = if combination.has(Bit::Key) && level == combination.leaf() { KEY_1 } else { 0 };
            let table = if level as usize == top { self.root().0 } else { self.table(level, case.slot) };
            // The walk's own index of the address, but of the address before any of its bits were inverted.
            let va = Va(case.va.0 ^ combination.flipped_va());
            let at = level.entry_addr(Pa(table), va);
            case.entries[level as usize - 1] = Entry { at, value: leads_to | flags | key };
        }
        let pte = case.entries[0];
        case.entries[LEVELS] = Entry { at: Pa(pte.at.0 + 8), value: 0 };
        if combination.has(Bit::Crossing) {
            let page = self.frame(Level::Pte, case.slot) + PAGE;
            case.entries[LEVELS].value = page | combination.next();
        }
        for entry in case.entries.iter().filter(|entry| entry.at.0 != 0) {
            self.set_entry(entry, entry.value);
        }
    }

    fn put_pages(&self, case: &Case) {
        let at = case.reached & !7;
        let last = if case.combination.has(Bit::Crossing) { at + 8 } else { at };
        for at in [at, last] {
            let offset = at - self.pages_at() - PART * PART_BYTES;
            let _ = self.pages.write(offset, &content(at, &case.combination).to_le_bytes());
        }
    }

    fn bytes_at(&self, offset: u64) -> u64 {
        let mut bytes = [0; ACCESS_BYTES as usize];
        let _ = self.pages.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The table with a slot's entry of this level.
    fn table(&self, level: Level, slot: u64) -> u64 {
        self.tables_at() + CHAINS + (slot * CHAIN_PAGES + level as u64 - 1) * PAGE
    }

    /// Where a leaf of this level leads to so that its page is the slot's.
    fn frame(&self, level: Level, slot: u64) -> u64 {
        match level {
            Level::Pte => self.pages_at() + PART * PART_BYTES + slot * PAGE,
            Level::Pde => self.pages_at() + PART * PART_BYTES,
            _ => self.pages_at(),
        }
    }

    fn put_record(&self, list: Records, index: usize, words: [u64; 4]) {
        for (word, at) in words.into_iter().zip(field_offsets(list, index)) {
            self.write(at, word);
        }
    }

    fn write(&self, offset: u64, word: u64) {
        // Offsets are of this arena's own parts, and so inside.
        let _ = self.tables.write(offset, &word.to_le_bytes());
    }

    fn tables_at(&self) -> u64 {
        TABLES_AT + self.number * TABLES_APART
    }

    fn pages_at(&self) -> u64 {
        PAGES_AT + self.number * GIB
    }

    fn user_records(&self) -> u64 {
        USER_BASE + (self.number + 1) * GIB / 1024
    }
}

/// Where a record or a page of them is.
#[derive(Clone, Copy, Debug)]
pub struct RecordPage {
    /// Physically.
    pub phys: u64,
    /// For ring 0.
    pub kernel: u64,
    /// For ring 3.
    pub user: u64,
}

impl Case {
    /// What CR3 is.
    pub fn root(&self) -> Pa {
        self.root
    }
}

impl TableMemory for Case {
    /// Its own entries; the rest of its tables is empty, and elsewhere nothing is.
    fn entry(&self, at: Pa) -> Option<u64> {
        let own = self.entries.iter().find(|entry| entry.at == at).map(|entry| entry.value);
        own.or((TABLES_AT..PAGES_AT).contains(&at.0).then_some(0))
    }
}

/// The slots of a root that are still free.
#[derive(Debug, Default)]
pub struct Slots {
    next: u64,
    high_half_start_taken: bool,
}

impl Slots {
    fn take(&mut self, high_half_start: bool, la57: bool) -> Option<u64> {
        if high_half_start {
            let free = !std::mem::replace(&mut self.high_half_start_taken, true);
            return free.then_some(HIGH_HALF_START);
        }
        loop {
            let slot = self.next;
            if slot + 1 >= ROOT_SLOTS {
                return None;
            }
            self.next += 1;
            if slot != HIGH_HALF_START && !is_kernels(slot, la57) {
                return Some(slot);
            }
        }
    }
}

/// Whether the kernel has something in this slot of the root.
fn is_kernels(slot: u64, la57: bool) -> bool {
    [IMAGE_BASE, DIRECT_MAP, USER_BASE].iter().any(|va| va >> top_shift(la57) & (ROOT_SLOTS - 1) == slot)
}

const fn top_shift(la57: bool) -> u32 {
    if la57 { 48 } else { 39 }
}

/// The address of a slot.
fn address(slot: u64, offset: u64, la57: bool) -> u64 {
    let top = slot << top_shift(la57) | if la57 { PML4_INDEX << 39 } else { 0 };
    let unused = 63 - top_shift(la57) - 8;
    let canonical = ((top << unused) as i64 >> unused) as u64;
    canonical | PDPT_INDEX << 30 | PART << 21 | slot << 12 | offset
}

/// Where in its page a slot's access is: neither at its start nor at its end, which are for accesses that cross.
fn in_page(slot: u64) -> u64 {
    64 + slot * 8 % 3840
}

/// Where the fields of a record are.
fn field_offsets(list: Records, index: usize) -> [u64; 4] {
    let first = list as u64 * RECORD_PAGES * PAGE + 8 * index as u64;
    [0, 1, 2, 3].map(|array| first + array * TRIAL_ARRAY as u64)
}

const KEY_1: u64 = 1 << 59;

/// What 8 bytes at a physical address hold: code that puts their number into EAX and jumps to RBP, or, for the
/// processor's own access, a segment descriptor with that number as its base (SDM vol. 3A, 3.4.5), accessed, of ring 3.
fn content(at: u64, combination: &Combination) -> u64 {
    let number = at >> 3 & 0xffff_ffff;
    if combination.has(Bit::Implicit) {
        return 0xffff | (number & 0xff_ffff) << 16 | 0xf3 << 40 | 0xcf << 48 | (number >> 24) << 56;
    }
    0xb8 | number << 8 | 0xe5ff << 40 | 0x90 << 56
}

/// What a fetch or the processor's own access brings back from a physical address.
pub fn number_of(at: u64) -> u64 {
    at >> 3 & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::mmu::{Access, Paging, walk};

    fn arena() -> [Arena; ARENAS] {
        [Arena::new(0).unwrap(), Arena::new(1).unwrap()]
    }

    /// A batch of the same combination in each slot.
    fn batch(arena: &Arena, text: &str, la57: bool) -> Vec<Case> {
        let combination = text.parse().unwrap();
        let mut slots = Slots::default();
        let cases = (0..).map_while(|index| arena.lay_out(index, &mut slots, combination, la57));
        cases.take(MAX_CASES).collect()
    }

    const PATH: &str = "pml5e.p pml4e.p pdpte.p pde.p pte.p efer.nx";

    #[test]
    fn a_batch_shares_nothing() {
        for la57 in [false, true] {
            let (mut entries, mut pages, mut addresses) = (HashSet::new(), HashSet::new(), HashSet::new());
            for arena in arena() {
                let cases = batch(&arena, PATH, la57);
                assert_eq!(cases.len(), MAX_CASES);
                for case in cases {
                    let levels = if la57 { 5 } else { 4 };
                    assert!(case.entries[..levels].iter().all(|entry| entries.insert(entry.at)));
                    assert!(pages.insert(case.reached & !0xfff));
                    assert!(addresses.insert((case.root(), case.va)));
                }
            }
        }
    }

    /// By the software MMU, which the layout's own arithmetic is not part of.
    #[test]
    fn leaves_of_every_size_lead_to_the_slots_own_page() {
        let [arena, _] = arena();
        for la57 in [false, true] {
            let paging = Paging { la57, ..Paging::default() };
            for size in ["", " pde.ps", " pdpte.ps"] {
                for case in batch(&arena, &format!("{PATH}{size}"), la57) {
                    let walk = walk(&case, case.root(), case.va, Access::read(), &paging);
                    assert_eq!(walk.translation().map(|there| there.pa.0), Some(case.reached), "{size} {:?}", case.va);
                    assert_eq!(arena.memory(&case), Arena::memory_before(&case));
                }
            }
        }
    }

    #[test]
    fn crossing_reaches_two_pages() {
        let [arena, _] = arena();
        for case in batch(&arena, &format!("{PATH} next.p crossing"), false) {
            assert_eq!(case.va.0 % PAGE, PAGE - 4);
            let (low, high) = (number_of(case.reached & !7), number_of(case.reached + 4));
            // The last four bytes of the one page's code, the first four of the other's.
            let expected = (0xb8 | low << 8 | 0xe5ff << 40 | 0x90 << 56) >> 32 | (0xb8 | high << 8) << 32;
            assert_eq!(Arena::memory_before(&case), expected);
            assert_eq!(arena.memory(&case), expected);
        }
    }

    #[test]
    fn the_first_slot_of_the_high_half_is_for_those_who_ask() {
        let [arena, _] = arena();
        let usual = batch(&arena, PATH, false);
        assert!(usual.iter().all(|case| case.va.0 >> 39 != 0xffff_8000_0000_0000 >> 39));
        let asked = batch(&arena, &format!("{PATH} pml4.256"), false);
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].va.0 >> 39, 0xffff_8000_0000_0000 >> 39);
    }

    #[test]
    fn records_are_found_again_by_their_address() {
        let [_, arena] = arena();
        for list in [Records::Main, Records::Before] {
            for index in [0, 1, MAX_CASES - 1] {
                let RecordPage { kernel, user, .. } = arena.record_addresses(list, index);
                for next in [kernel + 8, user + 8] {
                    assert_eq!(arena.record_before(next), Some((list, index)));
                }
            }
        }
        assert_eq!(arena.record_before(0), None);
        assert_eq!(arena.record_before(u64::MAX), None);
    }
}
