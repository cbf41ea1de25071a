//! A bug, and what shows it.

use crate::Scenario;
use crate::check::{Phase, Rule};
use crate::memory_map::ParseError;
use crate::mmu::{Level, Paging};

use super::mappers::Code;

/// A known bug of EFI mapping code, or of what it has to live with.
pub struct Bug {
    /// Its number, from 1, by which `efibed oops` names it too.
    pub number: u32,
    /// A name of a few words, with hyphens.
    pub name: &'static str,
    /// One line.
    pub title: &'static str,
    /// Whose code it was in.
    pub code: &'static str,
    /// A commit, or the date of a message.
    pub source: &'static str,
    /// What was wrong.
    pub wrong: &'static str,
    /// What it looks like to those who meet it.
    pub looks: &'static str,
    /// What mends it.
    pub mends: &'static str,
    /// What shows it here.
    pub shown: Shown,
}

/// What shows a bug.
pub enum Shown {
    /// These.
    By(&'static [Exhibit]),
    /// Nothing: this is why.
    ToldOnly(&'static str),
}

impl Bug {
    /// All that shows it.
    pub fn exhibits(&self) -> &'static [Exhibit] {
        match self.shown {
            Shown::By(exhibits) => exhibits,
            Shown::ToldOnly(_) => &[],
        }
    }
}

/// A run in which a bug shows, and its twin, in which it does not.
#[derive(Clone, Copy)]
pub struct Exhibit {
    /// `NN-` and a few words: the name of its scenario.
    pub name: &'static str,
    /// The scenario.
    pub toml: &'static str,
    /// The buggy mapping code, in place of the scenario's layout.
    pub code: Option<&'static Code>,
    /// The map that a second kernel sees, if it takes one to show the bug.
    pub second: Option<&'static str>,
    /// How long the guest may run before it counts as hung, where it is meant to hang.
    pub patience_ms: Option<u64>,
    /// What must be found, worked out by hand.
    pub found: Found,
    /// Rules that may be broken along with it: its effects.
    pub besides: &'static [Rule],
    /// The same without the bug.
    pub twin: Twin,
    /// What a visitor's mapping code is asked on this map.
    pub asks: Asks,
    /// Why only a guest can show it, if that is so.
    pub guest_only: Option<&'static str>,
    /// What the machine's MMU has to check.
    pub checked: Option<Checked>,
}

/// What must be found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The rule.
    pub rule: Rule,
    /// The phase.
    pub phase: Phase,
    /// The descriptor, by its place in the map.
    pub region: Option<usize>,
    /// The first address; of a fault, CR2.
    pub virt: Option<u64>,
    /// The error code of a read or a fetch. If a write met it first, W is set too.
    pub error_code: Option<u32>,
    /// The physical address that should be reached, and the one that is.
    pub frames: Option<(u64, u64)>,
    /// The level of the guilty entry, the last of the walk.
    pub level: Option<Level>,
}

impl Found {
    /// A finding of this rule in phase `map`.
    pub const fn of(rule: Rule) -> Self {
        Self { rule, phase: Phase::Map, region: None, virt: None, error_code: None, frames: None, level: None }
    }

    /// In another phase.
    pub const fn in_phase(self, phase: Phase) -> Self {
        Self { phase, ..self }
    }

    /// In the region of this descriptor.
    pub const fn region(self, index: usize) -> Self {
        Self { region: Some(index), ..self }
    }

    /// From this address on.
    pub const fn at(self, virt: u64) -> Self {
        Self { virt: Some(virt), ..self }
    }

    /// A page fault.
    pub const fn faults(self, error_code: u32) -> Self {
        Self { error_code: Some(error_code), ..self }
    }

    /// One frame in place of another.
    pub const fn frames(self, expected: u64, reached: u64) -> Self {
        Self { frames: Some((expected, reached)), ..self }
    }

    /// The guilty entry.
    pub const fn level(self, level: Level) -> Self {
        Self { level: Some(level), ..self }
    }
}

/// The same map without the bug.
#[derive(Clone, Copy)]
pub struct Twin {
    /// What is different, in words.
    pub words: &'static str,
    /// Makes it different. It starts at the exhibit's scenario, with the layout and without the buggy code.
    pub mend: fn(Scenario) -> Scenario,
    /// Rules that are broken still, as on that map they must be: firmware's share of it.
    pub leaves: &'static [Rule],
}

impl Twin {
    /// Another run of the same map, which must be clean.
    pub const fn new(words: &'static str, mend: fn(Scenario) -> Scenario) -> Self {
        Self { words, mend, leaves: &[] }
    }

    /// The built-in layout of the exhibit's scenario, in place of the buggy code that is in its place there.
    pub const LAYOUT: Self = Self::new("the layout of the scenario, unchanged", |scenario| scenario);

    /// Some rules are broken still.
    pub const fn leaves(self, leaves: &'static [Rule]) -> Self {
        Self { leaves, ..self }
    }
}

/// What a visitor's mapping code is asked.
#[derive(Clone, Copy)]
pub enum Asks {
    /// To map the map. It is held to these terms too, as `--contract` has them.
    ToMap(&'static [&'static str]),
    /// Nothing: why the exhibit says nothing about mapping code.
    Nothing(&'static str),
}

/// Something that not every machine's MMU checks.
#[derive(Clone, Copy)]
pub struct Checked {
    /// What.
    pub what: &'static str,
    /// Whether such an MMU does.
    pub is_by: fn(&Paging) -> bool,
}

impl Exhibit {
    /// One of a built-in layout: its name and scenario, what must be found, and its twin.
    pub const fn of((name, toml): (&'static str, &'static str), found: Found, twin: Twin) -> Self {
        Self {
            name,
            toml,
            code: None,
            second: None,
            patience_ms: None,
            found,
            besides: &[],
            twin,
            asks: Asks::ToMap(&[]),
            guest_only: None,
            checked: None,
        }
    }

    /// With buggy mapping code in place of the layout.
    pub const fn code(self, code: &'static Code) -> Self {
        Self { code: Some(code), ..self }
    }

    /// With a second kernel, which sees this map.
    pub const fn second(self, toml: &'static str) -> Self {
        Self { second: Some(toml), ..self }
    }

    /// A guest that hangs is waited for so long.
    pub const fn patience_ms(self, patience_ms: u64) -> Self {
        Self { patience_ms: Some(patience_ms), ..self }
    }

    /// With effects.
    pub const fn besides(self, besides: &'static [Rule]) -> Self {
        Self { besides, ..self }
    }

    /// Visitors' code is held to further terms.
    pub const fn terms(self, terms: &'static [&'static str]) -> Self {
        Self { asks: Asks::ToMap(terms), ..self }
    }

    /// It says nothing about mapping code.
    pub const fn not_about_mapping_code(self, why: &'static str) -> Self {
        Self { asks: Asks::Nothing(why), ..self }
    }

    /// Only a guest can show it.
    pub const fn guest_only(self, why: &'static str) -> Self {
        Self { guest_only: Some(why), ..self }
    }

    /// Only where the MMU checks something.
    pub const fn where_checked(self, checked: Checked) -> Self {
        Self { checked: Some(checked), ..self }
    }

    /// The scenario's text, with its map and what else it says.
    pub fn scenario(&self) -> Result<Scenario, ParseError> {
        Scenario::parse(&format!("{}.toml", self.name), self.toml)
    }

    /// The run in which the bug shows.
    pub fn wrong(&self) -> Result<Scenario, ParseError> {
        let scenario = self.scenario()?;
        Ok(match self.code {
            Some(code) => code.put_into(scenario),
            None => scenario,
        })
    }

    /// The run in which it does not.
    pub fn mended(&self) -> Result<Scenario, ParseError> {
        Ok((self.twin.mend)(self.scenario()?))
    }

    /// What runs with the bug, in words.
    pub fn subject(&self) -> String {
        match (self.code, self.scenario()) {
            (Some(code), _) => format!("{} (after {})", code.name, code.mimics),
            (None, Ok(scenario)) => {
                let built_in = scenario.built_in();
                format!("layout {}, leaf rule {}", built_in.layout, built_in.leaf_rule)
            }
            (None, Err(error)) => error.to_string(),
        }
    }
}
