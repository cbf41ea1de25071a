//! A fault of a log, and all that follows from it and from the map.

use super::fault::Fault;
use super::place::{self, Ground, Place};
use super::read::{Faults, faults};
use super::replay::Replay;
use super::scene::Scene;
use super::verdict::{Case, Pattern, pattern};
use crate::memory_map::MemoryMap;

/// What is known of a fault.
pub struct Account {
    /// The name of the log.
    pub source: String,
    /// The fault.
    pub fault: Fault,
    /// How many more page faults the log has, whatever they are of.
    pub others: usize,
    /// The name of the map, if there is one, and whether it is the whole of firmware's.
    pub map: Option<(String, bool)>,
    /// Where its address is.
    pub at: Option<Place>,
    /// Where its instruction is.
    pub by: Option<Place>,
    /// What was going on.
    pub scene: Scene,
    /// Who is to blame.
    pub pattern: &'static Pattern,
    /// The same access again, or why there is none.
    pub replay: Result<Replay, String>,
}

/// A log without a page fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("{name}:1:1: no page fault: {why}")]
#[diagnostic(help("{HELP}"))]
pub struct NoFault {
    name: String,
    why: &'static str,
}

const HELP: &str = "looked for `BUG: unable to handle ...`, `Oops:` and `[Firmware Bug]: Page fault caused by firmware` of \
                    Linux on x86-64, `FATAL PAGE FAULT` of Xen with the registers above it, a guest's that Xen prints, `X64 Exception Type - 0E` of EDK \
                    II, and `Fatal trap 12: page fault` of FreeBSD. `efibed explain ERROR_CODE` explains a code alone";

impl Account {
    /// Of the page fault in a text: the first that is about EFI, or else the first. The error says that there is none.
    pub fn of(name: &str, text: &str, map: Option<&MemoryMap>) -> Result<Self, NoFault> {
        let ground = map.map(Ground::new);
        let Faults { kept, omitted } = faults(text);
        let others = kept.len().saturating_add(omitted).saturating_sub(1);
        let is_efis = |fault: &&Fault| {
            let [at, by] = places(fault, ground.as_ref());
            Scene::of(fault, at.as_ref(), by.as_ref()).evidence.is_some()
        };
        let fault = kept.iter().find(is_efis).or(kept.first()).cloned();
        let fault = fault.ok_or_else(|| NoFault { name: name.into(), why: why_none(text) })?;
        Ok(Self::of_fault(name, fault, others, ground.as_ref()))
    }

    fn of_fault(name: &str, fault: Fault, others: usize, ground: Option<&Ground<'_>>) -> Self {
        let [at, by] = places(&fault, ground);
        let scene = Scene::of(&fault, at.as_ref(), by.as_ref());
        let has_whole_map = ground.is_some_and(Ground::is_whole);
        let case = Case { fault: &fault, at, scene: &scene, has_whole_map };
        let pattern = pattern(&case);
        let replay = Replay::of(&case, pattern, ground);
        let map = ground.map(|ground| (ground.map.source().to_owned(), has_whole_map));
        Self { source: name.into(), fault, others, map, at, by, scene, pattern, replay }
    }

    /// What the log does not tell, and would have helped.
    pub fn untold(&self) -> Vec<&'static str> {
        let fault = &self.fault;
        let all = [
            (fault.address.is_none(), "the address that was accessed (CR2)"),
            (fault.code.is_none(), "the error code"),
            (fault.rip.is_none() && fault.symbol.is_none(), "the instruction (RIP)"),
            (fault.entries.is_empty(), "the table entries"),
            (self.map.is_none(), "the memory map (boot with efi=debug, and name its log as MAP)"),
        ];
        all.into_iter().filter(|(is_untold, _)| *is_untold).map(|(_, what)| what).collect()
    }
}

fn places(fault: &Fault, ground: Option<&Ground<'_>>) -> [Option<Place>; 2] {
    [place::of_access(fault, ground), place::of_instruction(fault, ground)]
}

fn why_none(text: &str) -> &'static str {
    let others = ["at virtual address", "Unable to handle paging request in EFI runtime service"];
    match () {
        () if text.trim().is_empty() => "there is nothing in it",
        () if others.iter().any(|words| text.contains(words)) => "only one of another architecture than x86-64",
        () if text.contains("general protection fault") => "only a general-protection fault, which has no address",
        () => "no line is of a known form",
    }
}
