//! One map, run on the engines that were asked for.

use super::FuzzEngine;
use super::shape::{CELLS, cells};
use super::slate::{Slate, Word};
use crate::check::{Contract, Rule, Severity};
use crate::engine::EngineError;
use crate::fuzz::{FindingKey, keys};
use crate::memory_map::{MemoryDescriptor, MemoryMap};
use crate::report::Report;
use crate::{EngineName, Scenario, TestBed};

/// Runs maps, one after another, on a bed of its own.
pub struct Trials {
    bed: TestBed,
    judge: Judge,
    scenario: Scenario,
    engine: FuzzEngine,
    /// The cells that some run has set: [`FuzzEngine::Both`] runs a map in the guest if it sets another one.
    seen: Vec<bool>,
}

/// What one map came to.
#[derive(Default)]
pub struct Trial {
    /// The runs, and what counts of their findings.
    pub runs: Vec<(Report, Vec<FindingKey>)>,
    /// The cells that the runs set.
    pub cells: Vec<usize>,
}

impl Trials {
    /// Of a scenario's mapping code.
    pub fn new(scenario: Scenario, engine: FuzzEngine) -> Self {
        let judge = Judge(scenario.contract_in_force().clone());
        Self { bed: TestBed::without_kvm(), judge, scenario, engine, seen: vec![false; CELLS] }
    }

    /// The map as the mapping code is told it.
    pub fn as_told(&self, map: MemoryMap) -> MemoryMap {
        self.judge.as_told(map)
    }

    /// Runs a map, and counts that on the slate. The error: this machine cannot run any.
    pub fn run(&mut self, map: &MemoryMap, slate: &Slate) -> Result<Trial, EngineError> {
        let mut trial = Trial::default();
        let [is_native, is_guest] = [self.engine != FuzzEngine::Kvm, self.engine != FuzzEngine::Walker];
        if is_native {
            self.add(EngineName::Walker, map, slate, &mut trial)?;
        }
        let is_new = trial.cells.iter().any(|cell| !self.seen[*cell]);
        if is_guest && (is_new || !is_native) {
            slate.add(Word::Guests, 1);
            self.add(EngineName::Kvm, map, slate, &mut trial)?;
        }
        trial.cells.iter().for_each(|cell| self.seen[*cell] = true);
        if trial.runs.iter().any(|(report, _)| self.judge.is_outside(map, report)) {
            slate.add(Word::Outside, 1);
        }
        Ok(trial)
    }

    fn add(&self, engine: EngineName, map: &MemoryMap, slate: &Slate, trial: &mut Trial) -> Result<(), EngineError> {
        let scenario = self.scenario.clone().with_map(map.clone()).engine(engine);
        match self.bed.run(&scenario) {
            Ok(report) => {
                trial.cells.extend(cells(map, &report));
                let keys = self.judge.counted(map, &report);
                trial.runs.push((report, keys));
                Ok(())
            }
            Err(error) if is_of_the_map(&error) => {
                slate.add(Word::Unable, 1);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether another map may well be run.
fn is_of_the_map(error: &EngineError) -> bool {
    matches!(error, EngineError::Unable { .. } | EngineError::Load(_))
}

/// Says what speaks against mapping code that is held to a contract.
pub struct Judge(pub Contract);

impl Judge {
    /// The findings that do. On a map outside its domain those are few.
    pub fn counted(&self, map: &MemoryMap, report: &Report) -> Vec<FindingKey> {
        let is_outside = self.is_outside(map, report);
        let counts = |key: &FindingKey| !is_excuse(key.rule) && (!is_outside || has_no_excuse(key.rule));
        keys(report).into_iter().filter(counts).collect()
    }

    /// The map as the mapping code is told it: one that takes addresses over gets those that a first kernel left.
    pub fn as_told(&self, map: MemoryMap) -> MemoryMap {
        let Some(first) = self.0.heir_of() else { return map };
        let addresses = Contract::of(first).addresses(&map);
        let with_address = |(index, descriptor): (usize, &MemoryDescriptor)| {
            let virt = addresses.get(&index).copied().flatten();
            MemoryDescriptor { virt_start: virt.map_or(0, |virt| virt.0), ..*descriptor }
        };
        let descriptors = map.descriptors().iter().enumerate().map(with_address).collect();
        map.with_descriptors(descriptors)
    }

    /// Whether the map itself is wrong, or there is no room for it: what is found then may follow from that.
    fn is_outside(&self, map: &MemoryMap, report: &Report) -> bool {
        report.findings.iter().any(|finding| is_excuse(finding.rule)) || !self.0.has_room(map)
    }
}

/// What says so. Each is found by the map alone, whatever the mapping code did.
fn is_excuse(rule: Rule) -> bool {
    rule.is_of_the_map() || rule.is_firmwares()
}

/// What mapping code must never do, whatever firmware's map says; and what is wrong with this test bed.
fn has_no_excuse(rule: Rule) -> bool {
    use Rule::{
        EmulationFailure, KernelState, MachineStopped, MapperFault, PrivilegedInstruction, StackOverflow, StrayAccess,
        StrayWrite, TablesChanged,
    };
    let of_the_code = [
        EmulationFailure,
        KernelState,
        MachineStopped,
        MapperFault,
        PrivilegedInstruction,
        StackOverflow,
        StrayAccess,
        StrayWrite,
        TablesChanged,
    ];
    of_the_code.contains(&rule) || rule.severity() == Severity::Doubt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, LeafRule};

    fn keys_of(toml: &str, layout: Layout, leaf_rule: LeafRule) -> Vec<String> {
        let map = MemoryMap::parse(toml).unwrap();
        let scenario = Scenario::new(map.clone()).layout(layout).leaf_rule(leaf_rule);
        let report = TestBed::without_kvm().run(&scenario.engine(EngineName::Walker)).unwrap();
        assert!(!report.findings.is_empty(), "nothing to count");
        Judge(Contract::of(layout)).counted(&map, &report).into_iter().map(|key| key.rule.to_string()).collect()
    }

    const GUILTY: &str =
        "[[descriptor]]\ntype = 'RuntimeServicesData'\nphys = 0x7e107000\npages = 0x400\nattribute = 'RUNTIME|WB'\n";

    #[test]
    fn what_follows_from_the_map_does_not_count() {
        assert_eq!(keys_of(GUILTY, Layout::PackedDown, LeafRule::VaOnly), ["reserved-bit"]);
        let overlap = format!("{GUILTY}{GUILTY}");
        assert_eq!(keys_of(&overlap, Layout::PackedDown, LeafRule::VaOnly), [""; 0]);
        let too_high = GUILTY.replace("0x7e107000", "0x200_0000_0000");
        assert_eq!(keys_of(&too_high, Layout::Window, LeafRule::CoAligned), [""; 0]);
        let page_too_large = GUILTY.replace("0x400", "0x1000001").replace("0x7e107000", "0x100000000");
        assert_eq!(keys_of(&page_too_large, Layout::PackedDown, LeafRule::CoAligned), [""; 0]);
    }
}
