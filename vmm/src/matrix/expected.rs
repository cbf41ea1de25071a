//! What must come of a combination, by the software MMU.

use super::arena::{ACCESS_BYTES, Arena, Case};
use super::bits::{Bit, Combination, LEVELS};
use super::deviations::Model;
use crate::mmu::{
    self, Access, BytesAccess, EntryAfter, Fault, Kind, Level, Outcome, Pa, Paging, Privilege, Step, access_bytes, bits,
};

/// How an access must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessEnd {
    /// It reaches this physical address.
    Reaches(u64),
    /// It faults; CR2 if it is a page fault.
    Faults(Fault, Option<u64>),
    /// It has no end: only ever what a deviation says.
    Hangs,
    /// Its walk comes to where no memory is. What then happens is nowhere written, so nothing that does is right.
    Strands,
}

/// What must come of a combination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Of its access.
    pub end: AccessEnd,
    /// Of the read that goes before it.
    pub before: Option<AccessEnd>,
    /// Its entries afterwards, and bits of them that may be set.
    pub entries: [(u64, u64); LEVELS + 1],
    /// The bytes at the address, afterwards.
    pub memory: u64,
}

impl Expected {
    /// By the software MMU, on a CPU that is as `model` says.
    pub fn of(case: &Case, model: &Model) -> Self {
        let combination = &case.combination;
        let mut entries = case.entries.map(|entry| (entry.value, 0));
        let before = combination.has(Bit::Twice).then(|| {
            let read = Access { ac: combination.has(Bit::Ac), ..Access::read() };
            follow(case, read, model, &mut entries)
        });
        let end = follow(case, access(combination), model, &mut entries);
        let written = combination.has(Bit::Write) && end == AccessEnd::Reaches(case.reached);
        let memory = match () {
            () if written => case.va.0,
            () if model.torn_writes && tears(case, end) => {
                case.va.0 << 32 >> 32 | Arena::memory_before(case) >> 32 << 32
            }
            () => Arena::memory_before(case),
        };
        Self { end, before, entries, memory }
    }

    /// In words, for a case.
    pub fn describe(&self, case: &Case) -> String {
        let end = match self.end {
            AccessEnd::Reaches(pa) => format!("reaches PA {pa:#x}"),
            AccessEnd::Faults(fault, Some(cr2)) => format!("{fault}, CR2 {cr2:#x}"),
            AccessEnd::Faults(fault, None) => fault.to_string(),
            AccessEnd::Hangs => "has no end".into(),
            AccessEnd::Strands => "walks where no memory is".into(),
        };
        format!("{end}; {}", describe_entries(case, &self.entries))
    }
}

/// Follows one access, and marks the entries it uses.
fn follow(case: &Case, access: Access, model: &Model, entries: &mut [(u64, u64); LEVELS + 1]) -> AccessEnd {
    let mut seen = *case;
    if model.blind_to_high_half_start && case.combination.has(Bit::HighHalfStart) && access.privilege == Privilege::User
    {
        seen.entries[model.paging.top_level() as usize - 1].value = 0;
    }
    let bytes = access_bytes(&seen, case.root(), case.va, ACCESS_BYTES, access, &model.paging);
    let second_faults = bytes.second.as_ref().is_some_and(|walk| walk.fault().is_some());
    for after in bytes.first.entries_after() {
        // Processors differ in whether the first page is marked before the second one is looked at.
        mark(case, entries, after, second_faults);
    }
    for after in bytes.second.iter().flat_map(mmu::Walk::entries_after) {
        mark(case, entries, after, false);
    }
    if model.marks_1g_leaf && bytes.fault.is_some() {
        let leaves =
            bytes.first.steps().iter().filter(|step| step.level == Level::Pdpte && step.level.maps_page(step.entry));
        leaves.for_each(|step| may_be_accessed(case, entries, step));
    }
    if model.implicit_access_hangs && case.combination.has(Bit::User) && hangs(&access, &bytes, case, model) {
        bytes.first.steps().iter().for_each(|step| may_be_accessed(case, entries, step));
        return AccessEnd::Hangs;
    }
    if let Some(raised) = bytes.fault {
        return AccessEnd::Faults(raised.fault, raised.cr2.map(|va| va.0));
    }
    match (bytes.first.outcome, bytes.second.as_ref().map(|walk| walk.outcome)) {
        (Outcome::Translated(_), Some(Outcome::Stranded { .. })) => AccessEnd::Strands,
        (Outcome::Translated(translation), _) if model.emulator_refuses && translation.pa.0 != case.reached => {
            let fault = access_bytes(case, case.root(), case.va, ACCESS_BYTES, access, &model.told).fault;
            fault.map_or(AccessEnd::Strands, |raised| AccessEnd::Faults(raised.fault, raised.cr2.map(|va| va.0)))
        }
        (Outcome::Translated(translation), _) => AccessEnd::Reaches(translation.pa.0),
        (Outcome::Stranded { table }, None) if model.takes_walk_for_access => {
            let entry = missing_entry(&bytes, table, case, model);
            if entry & IN_PAGE == case.va.0 & IN_PAGE { AccessEnd::Reaches(entry) } else { AccessEnd::Strands }
        }
        _ => AccessEnd::Strands,
    }
}

fn mark(case: &Case, entries: &mut [(u64, u64); LEVELS + 1], after: EntryAfter, optional: bool) {
    let Some(index) = case.entries.iter().position(|entry| entry.at == after.addr) else { return };
    let (value, may) = &mut entries[index];
    let set = after.entry & !case.entries[index].value;
    match optional {
        true => *may |= set,
        false => *value |= set,
    }
    *may = (*may | after.may) & !*value;
}

/// An entry that is present may be marked, whatever became of the access.
fn may_be_accessed(case: &Case, entries: &mut [(u64, u64); LEVELS + 1], step: &Step) {
    let accessed = if step.entry & bits::P == 0 { 0 } else { bits::A };
    mark(case, entries, EntryAfter { addr: step.entry_addr, entry: step.entry | accessed, may: 0 }, true);
}

const IN_PAGE: u64 = 0xfff;

/// Where the entry would be that a walk could not read.
fn missing_entry(bytes: &BytesAccess, table: Pa, case: &Case, model: &Model) -> u64 {
    let top = model.paging.top_level();
    let level = bytes.first.steps().last().map_or(Some(top), |step| step.level.below());
    level.map_or(table, |level| level.entry_addr(table, case.va)).0
}

/// Whether SMAP alone forbids an implicit access of ring 3 whose EFLAGS.AC is set: without SMAP it would succeed.
fn hangs(access: &Access, bytes: &BytesAccess, case: &Case, model: &Model) -> bool {
    let paging = Paging { smap: false, ..model.paging };
    let arrives = access_bytes(case, case.root(), case.va, ACCESS_BYTES, *access, &paging).fault.is_none();
    access.privilege == Privilege::Implicit && access.ac && bytes.fault.is_some() && arrives
}

/// Whether a write whose second page faults has reached its first.
fn tears(case: &Case, end: AccessEnd) -> bool {
    let crosses = case.combination.has(Bit::Crossing) && case.combination.has(Bit::Write);
    crosses && matches!(end, AccessEnd::Faults(_, Some(cr2)) if cr2 != case.va.0)
}

fn access(combination: &Combination) -> Access {
    let kind = match () {
        () if combination.has(Bit::Write) => Kind::Write,
        () if combination.has(Bit::Fetch) => Kind::Fetch,
        () => Kind::Read,
    };
    let privilege = match () {
        () if combination.has(Bit::Implicit) => Privilege::Implicit,
        () if combination.has(Bit::User) => Privilege::User,
        () => Privilege::Supervisor,
    };
    Access { kind, privilege, ac: combination.has(Bit::Ac), stack: combination.has(Bit::Stack) }
}

/// A and D of every entry, with a question mark where they may be or not.
pub fn describe_entries(case: &Case, entries: &[(u64, u64); LEVELS + 1]) -> String {
    let levels = [Level::Pml5e, Level::Pml4e, Level::Pdpte, Level::Pde, Level::Pte];
    let named = levels.map(|level| (level.to_string(), level as usize - 1));
    let mut words = Vec::new();
    for (name, index) in named.into_iter().chain([("next PTE".to_owned(), LEVELS)]) {
        let before = case.entries[index];
        if before.at == Pa(0) || (index == LEVELS && !case.combination.has(Bit::Crossing)) {
            continue;
        }
        let (value, may) = entries[index];
        let mark = |bit: u64, letter: &str| match () {
            () if value & bit != 0 => letter.to_owned(),
            () if may & bit != 0 => format!("{letter}?"),
            () => String::new(),
        };
        let marks = format!("{}{}", mark(bits::A, "A"), mark(bits::D, "D"));
        let other = (value ^ before.value) & !(bits::A | bits::D);
        let changed = if other == 0 { String::new() } else { format!(" changed by {other:#x}") };
        words.push(format!("{name} {}{changed}", if marks.is_empty() { "-" } else { &marks }));
    }
    words.join(", ")
}
