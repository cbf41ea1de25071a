//! Where the access is on the map, as a page for a browser.

use super::account::Account;
use super::fault::{Entry, Fault};
use super::place::{Ground, Place};
use super::replay::{Outcome, Replayed, Step};
use super::words;
use crate::memory_map::MemoryMap;
use crate::mmu::{Level, Pa, Va, bits};
use crate::report::html::{self, Access, Mark, Rung, Walk};

/// The page, of an account that was made with this map, if with any.
pub fn to_html(account: &Account, replayed: &Replayed, map: Option<&MemoryMap>) -> String {
    let ground = map.map(Ground::new);
    let text = words::text(account, &replayed.outcome, Some(80));
    let access = Access {
        title: format!("{}:{}", account.source, account.fault.line),
        headline: words::blame(account),
        lines: text.lines().map(str::to_owned).collect(),
        marks: marks(account),
        walks: [walk_of_log(&account.fault), walk_of_replay(account, replayed)].into_iter().flatten().collect(),
        map: ground.map(|ground| (ground.map, virtual_addresses(&ground))),
    };
    html::of_access("oops", access)
}

/// Where each region is mapped, as far as the map or Linux's layout tells.
fn virtual_addresses(ground: &Ground<'_>) -> Vec<Option<u64>> {
    ground.map.regions().map(|region| ground.virt_of(region.index).map(|(virt, _)| virt)).collect()
}

/// The access, and the instruction that made it, each also where its physical address is, if it is known.
fn marks(account: &Account) -> Vec<Mark> {
    let named = [("the access", account.at.as_ref()), ("the instruction", account.by.as_ref())];
    let of_place = |(name, place): (&str, &Place)| {
        let Place { address, phys, .. } = *place;
        let virt = Mark { name: format!("{name}: {address:#x}"), address, is_physical: false };
        let phys = phys.map(|(phys, source)| Mark {
            name: format!("{name}: PA {phys:#x}, {}", source.words()),
            address: phys.0,
            is_physical: true,
        });
        [Some(virt), phys].into_iter().flatten()
    };
    named.into_iter().filter_map(|(name, place)| Some((name, place?))).flat_map(of_place).collect()
}

/// The entries that the log has. Where each lies follows from the one before it, and of the first from CR3.
fn walk_of_log(fault: &Fault) -> Option<Walk> {
    let address = Va(fault.address?);
    let mut table = fault.cr3.map(|cr3| Pa(cr3 & bits::ADDRESS));
    let mut above = None;
    let mut rungs = Vec::new();
    for Entry { level, value } in fault.entries.iter().copied() {
        // A log may leave out a level; CR3 leads to the first.
        let follows = above.is_none_or(|above: Level| above.below() == Some(level));
        let at = table.filter(|_| follows).map(|table| level.entry_addr(table, address));
        let reserved = Entry { level, value }.reserved();
        let denies = fault.denying() == Some(Entry { level, value });
        rungs.push(Rung { level, index: level.index(address), at, entry: value, reserved, denies });
        (table, above) = (Some(Pa(value & bits::ADDRESS)), Some(level));
    }
    let title = format!("The walk in the log, of {address:#x}");
    let missing = fault.missing().map_or("the log does not tell what was missing", |missing| missing.words());
    (!rungs.is_empty()).then(|| Walk { title, rungs, end: format!("Missing was {missing}.") })
}

/// The entries that the guest's tables had, where it was run.
fn walk_of_replay(account: &Account, replayed: &Replayed) -> Option<Walk> {
    let address = Va(account.fault.address?);
    let code = account.fault.code;
    let rung = |step: &Step| {
        let level = Level::ALL.into_iter().find(|level| *level as u8 == step.level)?;
        let entry = Entry { level, value: step.entry };
        let alone = Fault { code, entries: vec![entry], ..Fault::default() };
        let denies = step.reserved != 0 || (alone.denying().is_some() && matches!(replayed.outcome, Outcome::Met(_)));
        let (index, at) = (level.index(address), Some(Pa(step.at)));
        Some(Rung { level, index, at, entry: step.entry, reserved: step.reserved, denies })
    };
    let rungs: Vec<Rung> = replayed.walk.iter().filter_map(rung).collect();
    let title = format!("The walk in the replay, of {address:#x}");
    let end = format!("{}: {}.", replayed.outcome.name(), replayed.outcome.words());
    (!rungs.is_empty()).then_some(Walk { title, rungs, end })
}
