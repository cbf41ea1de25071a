//! The same access again: a scenario in which fake firmware makes it, on that map, in a guest.
//!
//! The replay meets the fault if the guest's own MMU answers with the same error code and the same CR2. It shows that a kernel
//! that maps as the layout does would have met it too; it does not show that nothing else could have caused it.

use efibed_guest::{Layout, LeafRule};
use efibed_stub::Service;
use serde::{Deserialize, Serialize};

use super::fault::Missing;
use super::place::{Ground, Source};
use super::scene::Moment;
use super::verdict::{Blame, Case, Pattern};
use crate::Scenario;
use crate::firmware::{ServiceMisbehaviour, WildAccess};
use crate::memory_map::MemoryAttribute;
use crate::mmu::{ErrorCode, ListedStep, Va};
use crate::report::{FaultDetail, Report, TableDump};

/// What a replay came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was not made, and why.
    Skipped(String),
    /// The guest met the same error code and CR2.
    Met(String),
    /// It was made, and the guest met something else.
    NotMet(String),
}

impl Outcome {
    /// A name that stays the same.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Skipped(_) => "skipped",
            Self::Met(_) => "met",
            Self::NotMet(_) => "not-met",
        }
    }

    /// What there is to say.
    pub fn words(&self) -> &str {
        match self {
            Self::Skipped(words) | Self::Met(words) | Self::NotMet(words) => words,
        }
    }
}

/// What a replay came to, and what its tables have on the way to the address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replayed {
    /// What it came to.
    pub outcome: Outcome,
    /// From the top down. Empty where no guest was run, or its tables were not asked for.
    pub walk: Vec<Step>,
}

/// An entry of that walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The number of its level, 1 for a PTE.
    pub level: u8,
    /// Where it lies.
    pub at: u64,
    /// Its value.
    pub entry: u64,
    /// Its reserved bits.
    pub reserved: u64,
}

impl From<&ListedStep> for Step {
    fn from(step: &ListedStep) -> Self {
        Self { level: step.level as u8, at: step.at.0, entry: step.entry, reserved: step.reserved }
    }
}

/// A scenario that makes the access, and what it must meet.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What to run.
    pub scenario: Scenario,
    /// The access, by a service.
    asked: ServiceMisbehaviour,
    code: ErrorCode,
    address: u64,
}

/// The pages that a replay sweeps: it asks about one access, and not about the mapping.
const SWEPT_PAGES: u64 = 1024;

impl Replay {
    /// Of a case. The error says why there is none.
    pub fn of(case: &Case<'_>, pattern: &Pattern, ground: Option<&Ground<'_>>) -> Result<Self, String> {
        let fault = case.fault;
        if pattern.blame == Blame::NotEfi {
            return Err("it is no EFI fault".into());
        }
        if let Some(why) = pattern.no_replay {
            return Err(why.into());
        }
        let address = fault.address.ok_or("the log does not tell the address")?;
        let code = fault.code.ok_or("the log does not tell the error code")?;
        let kind = fault.kind().ok_or("the log does not tell the access")?;
        if let Some(why) = objection(case, code) {
            return Err(why.into());
        }
        let ground = ground.ok_or("the log has no memory map; name one behind it")?;
        let service = service(case);
        let access = WildAccess { kind, at: address };
        let asked = ServiceMisbehaviour::faults(access, service).map_err(|error| error.to_string())?;
        let scenario = mapped(case, ground)?.misbehave(asked).sweep_limit(SWEPT_PAGES);
        Ok(Self { scenario, asked, code, address })
    }

    /// The entries that the tables of a run have on the way to the address, where the run has tables.
    pub fn walk(&self, report: &Report) -> Vec<Step> {
        let service = self.asked.service().name();
        let fault = report.faults.iter().find(|fault| fault.service == Some(service));
        // A phase that leaves the tables as they are lists none.
        let is_before = |dump: &&TableDump| fault.is_none_or(|fault| dump.phase <= fault.phase);
        let steps = report.tables.iter().rev().find(is_before).map(|dump| dump.listing.walk(Va(self.address)));
        steps.unwrap_or_default().iter().map(Step::from).collect()
    }

    /// What a run of it came to.
    pub fn judge(&self, report: &Report) -> Outcome {
        let service = self.asked.service().name();
        let of_access = |fault: &&FaultDetail| fault.service == Some(service) && fault.record.cr2.0 == self.address;
        let expected = format!("#PF {:#x} at {:#x}", self.code.0, self.address);
        if let Some(fault) = report.faults.iter().find(of_access) {
            let met = fault.record.fault;
            return if met.vector == crate::mmu::Fault::PAGE_FAULT && met.error_code == self.code {
                Outcome::Met(format!("a guest met {expected} in {service}, on {}", report.mapper))
            } else {
                Outcome::NotMet(format!("a guest met {met} at {:#x}, where the log has {expected}", self.address))
            };
        }
        let what = crate::engine::misbehaviour_in_words(&self.asked);
        if let Some(skipped) = report.skipped.iter().find(|skipped| skipped.what == what) {
            return Outcome::Skipped(format!("the access was not made: {}", skipped.reason));
        }
        let instead = report.faults.iter().find(|fault| fault.service == Some(service));
        Outcome::NotMet(match instead {
            Some(fault) => {
                let record = &fault.record;
                format!("a guest met {} at {:#x} in {service}, where the log has {expected}", record.fault, record.cr2)
            }
            None => format!("the access went through in {service}, on {}; the log has {expected}", report.mapper),
        })
    }
}

/// Why no guest of this bed can make such an access, if none can.
fn objection(case: &Case<'_>, code: ErrorCode) -> Option<&'static str> {
    let known = ErrorCode::P | ErrorCode::W | ErrorCode::RSVD | ErrorCode::I;
    match (case.scene.moment, case.fault.missing()) {
        _ if code.contains(ErrorCode::U) => {
            Some("firmware runs in supervisor mode, and the access was made in user mode")
        }
        _ if code.0 & !known.0 != 0 => Some("the error code has bits that no service's access in a guest brings about"),
        (Moment::BootServices, _) => {
            Some("it was on firmware's own tables, before ExitBootServices; a replay has a kernel's tables")
        }
        (Moment::Kernel, _) => Some("firmware was not running, and a replay has firmware make the access"),
        (_, Some(Missing::SoundEntry)) if case.fault.translated().is_some() || case.fault.leaf().is_none() => {
            Some("the log's entries do not show which bit is reserved, so no mapping can be chosen that sets it")
        }
        _ => None,
    }
}

/// The service that makes it: the one that the log names, or else one for the moment. A guest ends with ResetSystem.
fn service(case: &Case<'_>) -> Service {
    match (case.scene.moment, case.scene.service) {
        (Moment::InSwitch, _) => Service::SetVirtualAddressMap,
        (_, None | Some(Service::ResetSystem | Service::SetVirtualAddressMap)) => Service::GetTime,
        (_, Some(service)) => service,
    }
}

/// The map as that machine had it: under Linux's layout, or, where the log's own entries say otherwise, at their addresses.
fn mapped(case: &Case<'_>, ground: &Ground<'_>) -> Result<Scenario, String> {
    let (scenario, fault) = (Scenario::new(ground.map.clone()), case.fault);
    let reserved = fault.leaf().filter(|leaf| leaf.reserved() != 0);
    let frame = match (case.at.and_then(|at| at.phys), reserved) {
        // The frame that the leaf was meant to have, with the bits that a leaf of its size must not have.
        (_, Some(leaf)) => Some(leaf.value & crate::mmu::bits::ADDRESS),
        (Some((phys, Source::Entries)), None) => Some(phys.page().0),
        _ => None,
    };
    let is_low = fault.address.is_some_and(|address| address >> 63 == 0);
    let Some(frame) = frame.filter(|_| !is_low) else { return Ok(scenario) };
    let address = fault.address.unwrap_or_default();
    let span = reserved.map_or(crate::memory_map::PAGE_BYTES, |leaf| leaf.level.span_bytes());
    let page = address & !span.saturating_sub(1);
    let holds = |region: &crate::memory_map::Region| region.phys <= frame && u128::from(frame) < region.end();
    let region = ground.map.regions().find(holds);
    let region =
        region.ok_or_else(|| format!("no region of the map holds PA {frame:#x}, which the log's entries map"))?;
    let virt = page.wrapping_sub(frame.wrapping_sub(region.phys));
    if ground.virt_of(region.index).map(|(virt, _)| virt) == Some(virt) && reserved.is_none() {
        return Ok(scenario);
    }
    let is_tightened = [MemoryAttribute::EXECUTE_PROTECT, MemoryAttribute::READ_ONLY].map(|said| case.table_says(said));
    if is_tightened.contains(&true) && case.fault.missing() != Some(Missing::Translation) {
        // Layout `linux-fixed` is that of a kernel after kexec, which does not apply the table.
        return Err(format!(
            "Linux's layout of this map has the region elsewhere than at {virt:#x}: the map is not that machine's whole one"
        ));
    }
    let starts: Vec<Option<u64>> = ground
        .layout
        .regions
        .iter()
        .map(|placed| if placed.region.index == region.index { Some(virt) } else { placed.fate.virt() })
        .collect();
    let map = ground.map.clone().with_virtual_starts(|_| starts);
    let leaf_rule = if reserved.is_some() { LeafRule::VaOnly } else { LeafRule::CoAligned };
    Ok(Scenario::new(map).layout(Layout::LinuxFixed).leaf_rule(leaf_rule))
}
