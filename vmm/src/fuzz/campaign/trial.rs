//! One map, run on the engines that were asked for.

use std::collections::{BTreeSet, HashMap};

use super::shape::{Seen, cells};
use super::slate::{Slate, Word};
use super::{FuzzEngine, counted};
use crate::check::{Contract, Depth, Rule, Severity};
use crate::engine::EngineError;
use crate::fuzz::{FindingKey, as_built_in, keys, keys_beyond};
use crate::memory_map::{MemoryDescriptor, MemoryMap};
use crate::report::{Report, RunVerdict};
use crate::{EngineName, Layout, Scenario, TestBed};

/// Runs maps, one after another, on a bed of its own.
pub struct Trials {
    bed: TestBed,
    judge: Judge,
    scenario: Scenario,
    /// The same natively, with counters if the mapping code has any.
    native: Scenario,
    engine: FuzzEngine,
    /// Whether services are called.
    calls: bool,
    /// [`FuzzEngine::Both`] runs a map in the guest if it sets another cell.
    seen: Seen,
    /// How often a finding was met, of whatever line.
    examples: HashMap<FindingKey, u64>,
    /// Why a map could not be run, if one could not.
    unable: Option<String>,
}

/// What one map came to.
#[derive(Default)]
pub struct Trial {
    /// The runs, and what counts of their findings.
    pub runs: Vec<(Report, Vec<FindingKey>)>,
    /// The cells that the runs set.
    pub cells: Vec<usize>,
}

impl Trial {
    fn drop_keys(&mut self, dropped: &BTreeSet<FindingKey>) {
        self.runs.iter_mut().for_each(|(_, keys)| keys.retain(|key| !dropped.contains(key)));
    }
}

impl Trials {
    /// Of a scenario's mapping code.
    pub fn new(bed: TestBed, scenario: Scenario, engine: FuzzEngine, judge: Judge) -> Self {
        let calls = scenario.calls_firmware();
        let native = scenario.clone().name_writers(false).engine(EngineName::Walker).layout_in(counted::layout);
        let scenario = in_guest(scenario);
        Self {
            bed,
            judge,
            scenario,
            native,
            engine,
            calls,
            seen: Seen::default(),
            examples: HashMap::new(),
            unable: None,
        }
    }

    /// The map as the mapping code is told it.
    pub fn as_told(&self, map: MemoryMap) -> MemoryMap {
        self.judge.as_told(map)
    }

    /// Runs a map, and counts that on the slate. The error: this machine cannot run any.
    pub fn run(&mut self, map: &MemoryMap, slate: &Slate) -> Result<Trial, EngineError> {
        let mut trial = Trial::default();
        let [is_native, is_guest] = [self.engine != FuzzEngine::Kvm, self.engine != FuzzEngine::Walker];
        let mut is_able = true;
        if is_native {
            is_able &= self.add(EngineName::Walker, map, &mut trial)?;
        }
        let is_new = self.seen.lacks_any(&trial.cells);
        if is_guest && (is_new || !is_native) {
            let ran = self.add(EngineName::Kvm, map, &mut trial)?;
            slate.add(Word::Guests, ran.into());
            is_able &= ran;
        }
        self.tell_apart(map, &mut trial)?;
        slate.add(Word::Unable, (!is_able).into());
        self.seen.add(&trial.cells);
        let is_any = |holds: &dyn Fn(&Report) -> bool| u64::from(trial.runs.iter().any(|(report, _)| holds(report)));
        slate.add(Word::Outside, is_any(&|report| self.judge.is_outside(map, report)));
        slate.add(Word::Incomplete, is_any(&|report| report.verdict() == RunVerdict::Incomplete));
        Ok(trial)
    }

    /// Why a map could not be run, if one could not.
    pub fn unable(&self) -> Option<&str> {
        self.unable.as_deref()
    }

    /// Runs a map on one engine. False: this machine cannot run this one.
    fn add(&mut self, engine: EngineName, map: &MemoryMap, trial: &mut Trial) -> Result<bool, EngineError> {
        let scenario = if engine == EngineName::Kvm { &self.scenario } else { &self.native };
        let full = scenario.clone().with_map(map.clone());
        let is_quick = engine == EngineName::Kvm && !self.calls;
        let scenario = if is_quick { quick(full.clone()) } else { full.clone() };
        let Some(report) = self.run_scenario(&scenario)? else { return Ok(false) };
        trial.cells.extend(cells(map, &report));
        let keys = self.counted(&scenario, &report);
        let mut run = (report, keys);
        if is_quick
            && !run.1.is_empty()
            && let Some(report) = self.run_scenario(&full)?
        {
            // What is found is told as a person would see it who runs the map again, if such a run finds it too.
            let keys = self.counted(&full, &report);
            if run.1.iter().all(|key| keys.contains(key)) {
                run = (report, keys);
            }
        }
        trial.runs.push(run);
        Ok(true)
    }

    /// Tells findings apart by the lines that set the guilty entries, where a guest can. That takes two runs more. So of what
    /// has the same key otherwise, the first example is looked at, the second, the fourth, and so on. The others count as known.
    fn tell_apart(&mut self, map: &MemoryMap, trial: &mut Trial) -> Result<(), EngineError> {
        if self.engine == FuzzEngine::Walker || !self.scenario.has_places() {
            return Ok(());
        }
        let about_entries = trial.runs.iter().flat_map(|(_, keys)| keys).filter(|key| key.site.level.is_some());
        let met: BTreeSet<FindingKey> = about_entries.cloned().collect();
        let is_due = |key: &FindingKey| {
            let count = self.examples.entry(key.clone()).or_default();
            *count += 1;
            count.is_power_of_two()
        };
        let (due, known): (BTreeSet<_>, BTreeSet<_>) = met.into_iter().partition(is_due);
        trial.drop_keys(&known);
        if due.is_empty() {
            return Ok(());
        }
        let scenario = self.scenario.clone().with_map(map.clone()).name_writers(true);
        let Some(report) = self.run_scenario(&scenario)? else { return Ok(()) };
        let keys = self.counted(&scenario, &report).into_iter().filter(|key| due.contains(&key.of_any_line()));
        let keys: Vec<_> = keys.collect();
        // What a guest does not find stays as it is.
        trial.drop_keys(&keys.iter().map(FindingKey::of_any_line).collect());
        trial.runs.push((report, keys));
        Ok(())
    }

    fn counted(&self, scenario: &Scenario, report: &Report) -> Vec<FindingKey> {
        self.judge.counted(scenario, report, |scenario| self.bed.run(scenario).ok())
    }

    /// A report; None: this machine cannot run this map.
    fn run_scenario(&mut self, scenario: &Scenario) -> Result<Option<Report>, EngineError> {
        match self.bed.run(scenario) {
            Ok(report) => Ok(Some(report)),
            Err(error) if is_of_the_map(&error) => {
                self.unable = Some(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// A scenario as a guest runs it.
pub fn in_guest(scenario: Scenario) -> Scenario {
    scenario.name_writers(false).engine(EngineName::Kvm)
}

/// The same, every page reached once: for one run among thousands.
pub fn quick(scenario: Scenario) -> Scenario {
    scenario.depth(Depth::Pages)
}

/// Whether another map may well be run.
fn is_of_the_map(error: &EngineError) -> bool {
    matches!(error, EngineError::Unable { .. } | EngineError::Load(_))
}

/// Says what speaks against mapping code that is held to a contract.
pub struct Judge {
    pub contract: Contract,
    /// The layout that it is to be like on maps outside of its domain, too.
    pub like: Option<Layout>,
}

impl Judge {
    /// The findings of a scenario's report that do. On a map outside its domain those are few, and those that the layout
    /// which it is to be like does not show there: `run` runs that.
    pub fn counted(
        &self,
        scenario: &Scenario,
        report: &Report,
        run: impl FnOnce(&Scenario) -> Option<Report>,
    ) -> Vec<FindingKey> {
        let mut counted = keys(report);
        counted.retain(|key| !key.rule.is_firmwares());
        if self.is_outside(scenario.map(), report) {
            let has_an_excuse = |key: &FindingKey| !has_no_excuse(key.rule);
            let like = self.like.filter(|_| counted.iter().any(has_an_excuse));
            let right = like.and_then(|layout| run(&as_built_in(scenario, layout)));
            let unlike = right.map_or(Vec::new(), |right| keys_beyond(report, &right));
            counted.retain(|key| has_no_excuse(key.rule) || unlike.contains(key));
        }
        counted
    }

    /// The map as the mapping code is told it: one that takes addresses over gets those that a first kernel left.
    pub fn as_told(&self, map: MemoryMap) -> MemoryMap {
        let Some(first) = self.contract.heir_of() else { return map };
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
        report.findings.iter().any(|finding| is_of_firmwares_list(finding.rule)) || !self.contract.has_room(map)
    }
}

/// What is found by firmware's map and tables alone, whatever the mapping code does. That there is no room is not among it:
/// mapping code may say so too, and be wrong.
fn is_of_firmwares_list(rule: Rule) -> bool {
    match rule {
        Rule::WindowOverflow | Rule::NoVirtualStart => false,
        Rule::AttributesTable => true,
        _ => rule.is_of_the_map(),
    }
}

/// What mapping code must never do, whatever firmware's map says; and what is wrong with this test bed.
fn has_no_excuse(rule: Rule) -> bool {
    let is_of_the_code = matches!(
        rule,
        Rule::EmulationFailure
            | Rule::KernelState
            | Rule::MachineStopped
            | Rule::MapperFault
            | Rule::PrivilegedInstruction
            | Rule::StackOverflow
            | Rule::StrayAccess
            | Rule::StrayWrite
            | Rule::TablesChanged
    );
    is_of_the_code || rule.severity() == Severity::Doubt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::synthesize::{Class, synthesize};
    use crate::{AddressSpace, LeafRule, MapContext, MapError, Mapper};

    fn keys_of(toml: &str, scenario: impl Fn(Scenario) -> Scenario) -> Vec<String> {
        keys_unlike(toml, None, scenario)
    }

    fn keys_unlike(toml: &str, like: Option<Layout>, scenario: impl Fn(Scenario) -> Scenario) -> Vec<String> {
        let map = MemoryMap::parse(toml).unwrap();
        let scenario = scenario(Scenario::new(map.clone())).engine(EngineName::Walker);
        let bed = TestBed::without_kvm();
        let report = bed.run(&scenario).unwrap();
        assert!(!report.findings.is_empty(), "nothing to count");
        let judge = Judge { contract: scenario.contract_in_force().clone(), like };
        let counted = judge.counted(&scenario, &report, |scenario| bed.run(scenario).ok());
        counted.into_iter().map(|key| key.rule.to_string()).collect()
    }

    const GUILTY: &str =
        "[[descriptor]]\ntype = 'RuntimeServicesData'\nphys = 0x7e107000\npages = 0x400\nattribute = 'RUNTIME|WB'\n";

    #[test]
    fn what_follows_from_the_map_does_not_count() {
        let buggy = |scenario: Scenario| scenario.layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly);
        assert_eq!(keys_of(GUILTY, buggy), ["reserved-bit"]);
        assert_eq!(keys_of(&format!("{GUILTY}{GUILTY}"), buggy), [""; 0]);
        let too_high = GUILTY.replace("0x7e107000", "0x200_0000_0000");
        assert_eq!(keys_of(&too_high, |scenario| scenario.layout(Layout::Window)), [""; 0]);
        let too_large = GUILTY.replace("0x400", "0x1000001").replace("0x7e107000", "0x100000000");
        assert_eq!(keys_of(&too_large, |scenario| scenario.layout(Layout::PackedDown)), [""; 0]);
    }

    /// What the layout shows there, too, is the map's; the rest is the mapping code's.
    #[test]
    fn what_a_layout_does_not_show_counts_for_code_that_is_to_be_like_it() {
        let twice = format!("{GUILTY}{GUILTY}");
        let of_layout = |rule| move |scenario: Scenario| scenario.layout(Layout::PackedDown).leaf_rule(rule);
        let counted = |rule| keys_unlike(&twice, Some(Layout::PackedDown), of_layout(rule));
        assert_eq!(counted(LeafRule::CoAligned), [""; 0]);
        assert_eq!(counted(LeafRule::VaOnly), ["reserved-bit"]);
        // Both say that there is no room.
        let too_high = GUILTY.replace("0x7e107000", "0x200_0000_0000");
        let gives_up = |scenario: Scenario| scenario.mapper(GivesUp).contract(Contract::of(Layout::Window));
        assert_eq!(keys_unlike(&too_high, Some(Layout::Window), gives_up), [""; 0]);
        // Packed down there is room.
        assert!(keys_unlike(&too_high, Some(Layout::PackedDown), gives_up).contains(&"window-overflow".into()));
    }

    /// A shallow run in the guest finds what a full one finds; what it finds is told by a full one.
    #[test]
    fn a_quick_run_finds_what_a_full_one_finds() {
        let Ok(bed) = TestBed::new() else { return println!("not tried: no /dev/kvm") };
        let mut found = 0;
        for (layout, rule) in [(Layout::PackedDown, LeafRule::VaOnly), (Layout::Window, LeafRule::CoAligned)] {
            let scenario = Scenario::new(MemoryMap::from_descriptors("", Vec::new())).layout(layout).leaf_rule(rule);
            let scenario = scenario.firmware_calls(false).sweep_limit(512);
            let judge = || Judge { contract: scenario.contract_in_force().clone(), like: None };
            let mut trials = Trials::new(TestBed::without_kvm(), scenario.clone(), FuzzEngine::Kvm, judge());
            for seed in 0..60 {
                let map = synthesize(seed, if seed % 2 == 0 { Class::Odd } else { Class::Hostile });
                let in_full = scenario.clone().with_map(map.clone()).engine(EngineName::Kvm);
                let Ok(full) = bed.run(&in_full) else { continue };
                let mut trial = Trial::default();
                assert!(trials.add(EngineName::Kvm, &map, &mut trial).unwrap());
                let (report, keys) = &trial.runs[0];
                assert_eq!(*keys, judge().counted(&in_full, &full, |_| None), "seed {seed}\n{full}\n{report}");
                let sampled = |report: &Report| report.skipped.iter().any(|row| row.reason.contains("reached once"));
                assert!(keys.is_empty() || !sampled(report), "a finding is told by a full run");
                found += keys.len();
            }
        }
        assert!(found > 0, "no map has shown anything");
    }

    /// Says that there is no room, wherever there is.
    #[derive(Clone)]
    struct GivesUp;

    impl Mapper for GivesUp {
        fn map(&mut self, _: &mut MapContext<'_>) -> Result<AddressSpace, MapError> {
            Err(MapError::AddressSpaceFull { index: 0 })
        }
    }

    #[test]
    fn mapping_code_that_gives_up_for_no_reason_is_found() {
        assert!(keys_of(GUILTY, |scenario| scenario.mapper(GivesUp)).contains(&"window-overflow".into()));
        let in_the_window = |scenario: Scenario| scenario.mapper(GivesUp).contract(Contract::of(Layout::Window));
        assert!(keys_of(GUILTY, in_the_window).contains(&"window-overflow".into()));
        // Here it is right.
        let too_high = GUILTY.replace("0x7e107000", "0x200_0000_0000");
        assert_eq!(keys_of(&too_high, in_the_window), [""; 0]);
    }
}
