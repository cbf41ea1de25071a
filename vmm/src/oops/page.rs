//! Where the access is on the map, as a page for a browser.

use super::account::Account;
use super::place::{Ground, Place};
use super::replay::Outcome;
use super::words;
use crate::memory_map::MemoryMap;
use crate::report::html::{self, Access, Mark};

/// The page, of an account that was made with this map, if with any.
pub fn to_html(account: &Account, outcome: &Outcome, map: Option<&MemoryMap>) -> String {
    let ground = map.map(Ground::new);
    let text = words::text(account, outcome, Some(80));
    let access = Access {
        title: format!("{}:{}", account.source, account.fault.line),
        headline: words::blame(account),
        lines: text.lines().map(str::to_owned).collect(),
        marks: marks(account),
        map: ground.map(|ground| (ground.map, virtual_addresses(&ground))),
    };
    html::of_access("oops", &access)
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
