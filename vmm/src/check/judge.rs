//! What came of the guest's accesses, against what had to.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::alias::{Alias, Role};
use super::contract::Term;
use super::expectation::Expectation;
use super::marks::{Mark, Marks};
use super::observation::{Exception, Observation};
use super::plan::{Frames, Plan, PlannedProbe, Purpose};
use super::statement::Statement;
use super::{Rule, Witness};
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{Access, ErrorCode, Fault, Kind, Outcome, Pa, Privilege, Va};

/// Faults reported, of one kind in one region and in all.
const MAX_FAULTS_ALIKE: usize = 4;
const MAX_FAULTS: usize = 256;

/// An unexpected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// What was to be accessed.
    pub virt: Va,
    /// Read, write or fetch, and by whom.
    pub access: Access,
    /// The exception.
    pub fault: Fault,
    /// The faulting address, by the CPU.
    pub cr2: Va,
    /// The faulting instruction.
    pub rip: Va,
    /// The region it belongs to.
    pub region: Option<usize>,
}

/// How many accesses were made, and what of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// All accesses made in the guest.
    pub total: u64,
    /// Those that reached something.
    pub translated: u64,
    /// Those that faulted.
    pub faulted: u64,
    /// Of those, the ones that had to.
    pub faulted_rightly: u64,
    /// Distinct pages that the guest's MMU confirmed.
    pub pages_verified: u64,
}

/// What a judge knows in the end.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// Totals.
    pub counts: ProbeCounts,
    /// Unexpected faults, some of each kind.
    pub faults: Vec<FaultRecord>,
    /// How many more there were.
    pub faults_omitted: u64,
    /// Pages of aliases that were wrong.
    pub pages_spoiled: u64,
}

/// Hears what the guest observes, in any order, and marks what is wrong.
pub struct Judge<'a> {
    expectation: &'a Expectation,
    plan: &'a Plan,
    /// Pages of each alias that were reported, those that were right, and those that were wrong at some time.
    seen: Vec<PageSet>,
    verified: Vec<PageSet>,
    spoiled: Vec<PageSet>,
    observations: Observations,
    /// What the MMU says is wrong.
    pub marks: Marks,
    /// The alias of the last report: a sweep stays in one for long.
    recent: usize,
    /// How the guest image's accesses may be recognized: RIP of a store or load in ring 0 or 3.
    text: [Range<Va>; 2],
}

impl<'a> Judge<'a> {
    /// A judge over what was planned. `text` are the addresses of the guest's own instructions, in ring 0 and in ring 3.
    pub fn new(expectation: &'a Expectation, plan: &'a Plan, text: [Range<Va>; 2]) -> Self {
        let sets = || expectation.aliases.iter().map(|_| PageSet::default()).collect();
        Self {
            expectation,
            plan,
            seen: sets(),
            verified: sets(),
            spoiled: sets(),
            observations: Observations::default(),
            marks: Marks::default(),
            recent: 0,
            text,
        }
    }

    /// A write of `virt` arrived at `pa`.
    pub fn wrote(&mut self, virt: Va, pa: Pa) {
        self.count_translation();
        match self.alias_at(virt) {
            Some(index) => self.reached(index, virt, pa, true),
            None => self.disagree(None, virt, Statement::text("no write"), Statement::Physical(pa.page())),
        }
    }

    /// A sweep's write of `virt` faulted.
    pub fn swept_fault(&mut self, virt: Va, exception: Exception) {
        self.count_fault();
        let Some(index) = self.alias_at(virt) else {
            let observed = Some(Statement::text("an unexpected fault"));
            return self.doubt(Rule::WitnessDisagreement, None, virt, None, observed);
        };
        let page = self.page_of(index, virt);
        self.seen[index].insert(page);
        self.unexpected_fault(index, virt, Access::write(), exception);
        let expected = match self.swept(virt) {
            Some(Frames::Fault(predicted)) => {
                return self.compare_faults(Some(index), virt, Access::write(), predicted, exception);
            }
            Some(Frames::From(pa)) => Statement::Physical(pa),
            None => Statement::text("no write"),
        };
        self.disagree(Some(index), virt, expected, Statement::faulted(exception.fault, virt));
    }

    /// What came of some probes of one kind, one after another.
    pub fn probed(
        &mut self,
        access: Access,
        probes: &[PlannedProbe],
        observations: impl IntoIterator<Item = Observation>,
    ) {
        for (planned, observation) in probes.iter().zip(observations) {
            match observation {
                Observation::Faulted(exception) => self.probe_faulted(access, planned, exception),
                Observation::NotMade => self.disagree(
                    self.alias_of(planned),
                    planned.virt,
                    Statement::text("an access"),
                    Statement::text("none was made"),
                ),
                // Where it arrived was counted when it was told.
                Observation::Written => self.probe_succeeded(access, planned, observation),
                Observation::Reached(_) | Observation::ReachedUnknown => {
                    self.count_translation();
                    self.probe_succeeded(access, planned, observation);
                }
            }
        }
    }

    /// Whether a write of `virt` was found at `pa`, in the stamped page that the walk says it reaches.
    pub fn scratch(&mut self, virt: Va, pa: Pa, found: bool) {
        let Some(index) = self.alias_at(virt) else { return };
        self.count_translation();
        if found {
            return self.reached(index, virt, pa, true);
        }
        let alias = self.expectation.aliases[index];
        let expected = Statement::Physical(alias.target(virt).page());
        self.lost(index, virt, &expected, &Statement::text("a write that arrived elsewhere"));
    }

    /// KVM_TRANSLATE's answer for an address, and those that the walk over the tables as they are now allows.
    pub fn translated(&mut self, virt: Va, answer: Option<Pa>, walked: [Option<Pa>; 2]) {
        let (answer, walked) = (answer.map(Pa::page), walked.map(|pa| pa.map(Pa::page)));
        let state = |pa: Option<Pa>| Some(pa.map_or(Statement::LeftOut, Statement::Physical));
        let alias = self.alias_at(virt).map(|index| self.expectation.aliases[index]);
        let expected = alias.map(|alias| alias.target(virt).page());
        let mark = Mark {
            region: alias.map_or_else(|| self.expectation.gone_from(virt, virt).0, |alias| alias.region),
            virt: Some(virt.page()),
            pages: 1,
            expected: state(expected),
            observed: state(answer),
            ..Mark::new(Rule::WrongFrame, Witness::KvmTranslate)
        };
        if !walked.contains(&answer) {
            let rule = Rule::WitnessDisagreement;
            return self.marks.push(Mark { rule, expected: state(walked[0]), ..mark });
        }
        match (expected, answer) {
            (None, Some(_)) => self.marks.push(Mark { rule: Rule::StrayMapping, ..mark }),
            (Some(_), Some(_)) if expected != answer => self.marks.push(mark),
            // That an owed page leads nowhere others say better: to KVM a reserved bit is an absent page.
            _ => {}
        }
    }

    /// The end: pages that were never reported are wrong too, if the guest finished its work.
    pub fn finish(mut self, complete: bool) -> (Observations, Marks) {
        let lost = Statement::text("a write that arrived in memory, or nowhere");
        for sweep in self.plan.sweeps.iter().filter(|_| complete) {
            for nth in 0..sweep.pages {
                let virt = sweep.virt.wrapping_add(nth.wrapping_mul(PAGE_BYTES));
                let page = self.page_of(sweep.alias, virt);
                if !self.seen[sweep.alias].contains(page) {
                    let expected = Statement::Physical(self.expectation.aliases[sweep.alias].target(virt));
                    self.lost(sweep.alias, virt, &expected, &lost);
                }
            }
        }
        self.observations.counts.pages_verified = self.verified_pages();
        self.observations.pages_spoiled = self.spoiled.iter().map(|pages| pages.pages().count() as u64).sum();
        (self.observations, self.marks)
    }

    /// Distinct physical pages that were right wherever SetVirtualAddressMap is told that they are, and wrong nowhere.
    fn verified_pages(&self) -> u64 {
        let aliases = &self.expectation.aliases;
        let of_role =
            |owed: bool| (0..aliases.len()).filter(move |index| (aliases[*index].role == Role::Virtual) == owed);
        let frame = |index: usize, page: u64| aliases[index].nth_frame(page);
        let elsewhere: HashSet<Pa> =
            of_role(false).flat_map(|index| self.spoiled[index].pages().map(move |page| frame(index, page))).collect();
        let right = |index: usize, page: u64| {
            self.verified[index].contains(page)
                && !self.spoiled[index].contains(page)
                && !elsewhere.contains(&frame(index, page))
        };
        let mut by_phys: Vec<usize> = of_role(true).collect();
        by_phys.sort_unstable_by_key(|index| aliases[*index].phys);
        let (mut pages, mut group) = (0_u64, Vec::new());
        let mut group_end = Pa(0);
        for index in by_phys {
            if !group.is_empty() && aliases[index].phys >= group_end {
                pages = pages.saturating_add(self.verified_of(&group, &right));
                group.clear();
            }
            let end = aliases[index].physical_end();
            group_end = if group.is_empty() { end } else { group_end.max(end) };
            group.push(index);
        }
        pages.saturating_add(self.verified_of(&group, &right))
    }

    /// The same of aliases that share physical pages, or of one that shares none.
    fn verified_of(&self, group: &[usize], right: &dyn Fn(usize, u64) -> bool) -> u64 {
        if let [index] = group {
            return self.verified[*index].pages().filter(|page| right(*index, *page)).count() as u64;
        }
        let aliases = &self.expectation.aliases;
        let mut frames: HashMap<Pa, bool> = HashMap::new();
        for index in group {
            for page in self.seen[*index].pages() {
                *frames.entry(aliases[*index].nth_frame(page)).or_insert(true) &= right(*index, page);
            }
        }
        frames.values().filter(|right| **right).count() as u64
    }

    /// It went through, whether it should or not.
    fn probe_succeeded(&mut self, access: Access, planned: &PlannedProbe, observation: Observation) {
        let virt = planned.virt;
        let found = match observation {
            Observation::Reached(pa) => Statement::Physical(pa),
            _ => Statement::text("an access that succeeded"),
        };
        if let Outcome::Fault(predicted) = planned.predicted {
            self.disagree(self.alias_of(planned), virt, Statement::faulted(predicted, virt), found.clone());
        }
        let Some(index) = self.alias_of(planned) else {
            return self.stray(virt, observation);
        };
        let alias = self.expectation.aliases[index];
        if let Some((rule, found)) = forbidden(access, &alias) {
            self.mark(rule, &alias, virt, Statement::text("a fault"), Statement::text(found));
        }
        match observation {
            Observation::Reached(pa) => self.reached(index, virt, pa, access.privilege == Privilege::Supervisor),
            Observation::ReachedUnknown => {
                let expected = Statement::Physical(alias.target(virt).page());
                let observed = Statement::text("memory that is not the region's");
                self.mark(Rule::WrongFrame, &alias, virt, expected.clone(), observed.clone());
                if !matches!(planned.predicted, Outcome::Translated(to) if to.pa != alias.target(virt)) {
                    self.disagree(Some(index), virt, expected, observed);
                }
            }
            _ => {}
        }
    }

    fn probe_faulted(&mut self, access: Access, planned: &PlannedProbe, exception: Exception) {
        self.count_fault();
        let (alias, virt) = (self.alias_of(planned), planned.virt);
        match alias {
            Some(index) => self.expected_or_not(index, virt, access, exception),
            None => self.count_rightly(),
        }
        match planned.predicted {
            Outcome::Fault(predicted) => self.compare_faults(alias, virt, access, predicted, exception),
            Outcome::Translated(to) => {
                let observed = Statement::faulted(exception.fault, virt);
                self.disagree(alias, virt, Statement::Physical(to.pa), observed);
            }
            Outcome::Stranded { .. } => {}
        }
    }

    /// Ring 3 must fault, and so must fetches from what is not code and writes to what is read-only. What is neither owed nor
    /// forbidden may fault; anything else must not.
    fn expected_or_not(&mut self, index: usize, virt: Va, access: Access, exception: Exception) {
        let code = exception.fault.error_code;
        let is_protection = code.contains(ErrorCode::P) && !code.contains(ErrorCode::RSVD);
        if self.expectation.aliases[index].access(access) != Term::Owed && is_protection {
            self.count_rightly();
        } else {
            self.unexpected_fault(index, virt, access, exception);
        }
    }

    /// A page was reached that is `index`'s; `counts` for its verification.
    fn reached(&mut self, index: usize, virt: Va, pa: Pa, counts: bool) {
        let alias = self.expectation.aliases[index];
        let page = self.page_of(index, virt);
        let target = alias.target(virt);
        self.seen[index].insert(page);
        // A fetch answers with its page only.
        let right = pa == target || pa == target.page();
        if right {
            if counts {
                self.verified[index].insert(page);
            }
        } else {
            self.spoiled[index].insert(page);
            let (expected, observed) = (Statement::Physical(target.page()), Statement::Physical(pa.page()));
            self.mark(Rule::WrongFrame, &alias, virt, expected, observed);
        }
        let predicted = self.swept(virt).map(|frames| match frames {
            Frames::From(predicted) => predicted.page() == pa.page(),
            Frames::Fault(_) => false,
        });
        if predicted == Some(false) || (predicted.is_none() && !right && !self.predicts(virt, pa.page())) {
            let expected = Statement::text("what the walk says");
            self.disagree(Some(index), virt, expected, Statement::Physical(pa.page()));
        }
    }

    /// Whether a single probe of the page was predicted to reach `page`.
    fn predicts(&self, virt: Va, page: Pa) -> bool {
        self.plan.groups.iter().any(|group| {
            let from = group.probes.partition_point(|probe| probe.virt < virt.page());
            group.probes[from..]
                .iter()
                .take_while(|probe| probe.virt.page() == virt.page())
                .any(|probe| matches!(probe.predicted, Outcome::Translated(to) if to.pa.page() == page))
        })
    }

    /// A fault in what the contract owes.
    fn unexpected_fault(&mut self, index: usize, virt: Va, access: Access, exception: Exception) {
        let alias = self.expectation.aliases[index];
        let page = self.page_of(index, virt);
        self.spoiled[index].insert(page);
        let Fault { vector, error_code: code } = exception.fault;
        let rule = match vector {
            Fault::PAGE_FAULT if code.contains(ErrorCode::RSVD) => Rule::ReservedBit,
            Fault::PAGE_FAULT if !code.contains(ErrorCode::P) => Rule::NotPresent,
            Fault::PAGE_FAULT if code.contains(ErrorCode::I) => Rule::NotExecutable,
            Fault::PAGE_FAULT if code.contains(ErrorCode::W) => Rule::NotWritable,
            Fault::PAGE_FAULT => Rule::UserAccessible,
            _ => Rule::NotCanonical,
        };
        let expected = Statement::Physical(alias.target(virt));
        self.mark(rule, &alias, virt, expected, Statement::faulted(exception.fault, exception.cr2));
        self.record(alias.region, virt, access, exception);
    }

    fn compare_faults(
        &mut self,
        index: Option<usize>,
        virt: Va,
        access: Access,
        predicted: Fault,
        exception: Exception,
    ) {
        let Exception { fault, cr2, rip } = exception;
        let right_address = fault.vector != Fault::PAGE_FAULT || cr2 == virt;
        if fault == predicted && right_address && self.is_own_instruction(virt, access, exception) {
            return;
        }
        let expected = Some(Statement::faulted(predicted, virt));
        let observed = Some(Statement::Faulted { fault, cr2: Some(cr2), rip: Some(rip) });
        self.doubt(Rule::WrongErrorCode, index, virt, expected, observed);
        self.record(index.and_then(|index| self.expectation.aliases[index].region), virt, access, exception);
    }

    /// A data access faults at the guest's own instruction, a fetch at the address (or, where that is not canonical, at
    /// the call).
    fn is_own_instruction(&self, virt: Va, access: Access, exception: Exception) -> bool {
        let Exception { fault, rip, .. } = exception;
        if access.kind == Kind::Fetch && rip == virt {
            return true;
        }
        let ring = usize::from(access.privilege == Privilege::User);
        let fetched = access.kind == Kind::Fetch && fault.vector == Fault::PAGE_FAULT;
        !fetched && self.text[ring].contains(&rip)
    }

    fn record(&mut self, region: Option<usize>, virt: Va, access: Access, exception: Exception) {
        let Exception { fault, cr2, rip } = exception;
        let record = FaultRecord { virt, access, fault, cr2, rip, region };
        let known = &mut self.observations.faults;
        if known.contains(&record) {
            return;
        }
        let alike = |r: &&FaultRecord| r.region == region && r.access == record.access && r.fault == record.fault;
        if known.len() >= MAX_FAULTS || known.iter().filter(alike).count() >= MAX_FAULTS_ALIKE {
            self.observations.faults_omitted = self.observations.faults_omitted.saturating_add(1);
        } else {
            known.push(record);
        }
    }

    fn stray(&mut self, virt: Va, observation: Observation) {
        let observed = match observation {
            Observation::Reached(pa) => Statement::Physical(pa.page()),
            _ => Statement::text("memory that no page is known by"),
        };
        self.marks.push(Mark {
            region: self.expectation.gone_from(virt, virt).0,
            virt: Some(virt.page()),
            pages: 1,
            expected: Some(Statement::faulted(Fault::page(ErrorCode(0)), virt)),
            observed: Some(observed),
            ..Mark::new(Rule::StrayMapping, Witness::Mmu)
        });
    }

    /// A write that did not arrive where it had to, and the walk says that it does.
    fn lost(&mut self, index: usize, virt: Va, expected: &Statement, observed: &Statement) {
        let alias = self.expectation.aliases[index];
        self.mark(Rule::WrongFrame, &alias, virt, expected.clone(), observed.clone());
        self.disagree(Some(index), virt, expected.clone(), observed.clone());
    }

    fn mark(&mut self, rule: Rule, alias: &Alias, virt: Va, expected: Statement, observed: Statement) {
        self.marks.push(Mark {
            virt: Some(virt.page()),
            pages: 1,
            expected: Some(expected),
            observed: Some(observed),
            ..alias.mark(rule, Witness::Mmu)
        });
    }

    fn disagree(&mut self, index: Option<usize>, virt: Va, expected: Statement, observed: Statement) {
        self.doubt(Rule::WitnessDisagreement, index, virt, Some(expected), Some(observed));
    }

    fn doubt(
        &mut self,
        rule: Rule,
        index: Option<usize>,
        virt: Va,
        expected: Option<Statement>,
        observed: Option<Statement>,
    ) {
        self.marks.push(Mark {
            region: index.and_then(|index| self.expectation.aliases[index].region),
            virt: Some(virt.page()),
            pages: 1,
            expected,
            observed,
            ..Mark::new(rule, Witness::Mmu)
        });
    }

    fn count_translation(&mut self) {
        let counts = &mut self.observations.counts;
        counts.total = counts.total.saturating_add(1);
        counts.translated = counts.translated.saturating_add(1);
    }

    fn count_fault(&mut self) {
        let counts = &mut self.observations.counts;
        counts.total = counts.total.saturating_add(1);
        counts.faulted = counts.faulted.saturating_add(1);
    }

    fn count_rightly(&mut self) {
        let counts = &mut self.observations.counts;
        counts.faulted_rightly = counts.faulted_rightly.saturating_add(1);
    }

    fn alias_of(&self, planned: &PlannedProbe) -> Option<usize> {
        match planned.purpose {
            Purpose::Alias(index) => Some(index),
            Purpose::Nobody => None,
        }
    }

    fn alias_at(&mut self, virt: Va) -> Option<usize> {
        let recent = self.expectation.aliases.get(self.recent);
        if !recent.is_some_and(|alias| alias.range().contains(&virt)) {
            self.recent = self.expectation.alias_at(virt)?;
        }
        Some(self.recent)
    }

    fn page_of(&self, index: usize, virt: Va) -> u64 {
        virt.wrapping_offset_from(self.expectation.aliases[index].virt) / PAGE_BYTES
    }

    /// What the walk says of a swept address.
    fn swept(&self, virt: Va) -> Option<Frames> {
        let sweeps = &self.plan.sweeps;
        let sweep = sweeps[..sweeps.partition_point(|sweep| sweep.virt <= virt)].last()?;
        let offset = virt.wrapping_offset_from(sweep.virt);
        (offset / PAGE_BYTES < sweep.pages).then(|| match sweep.predicted {
            Frames::From(first) => Frames::From(first.wrapping_add(offset)),
            fault => fault,
        })
    }
}

/// The rule that an access breaks by going through, and how.
fn forbidden(access: Access, alias: &Alias) -> Option<(Rule, &'static str)> {
    match (access.privilege, access.kind) {
        (Privilege::User, _) => Some((Rule::UserAccessible, "ring 3 was not stopped")),
        (_, Kind::Fetch) if alias.executable == Term::Forbidden => Some((Rule::ExecutableData, "it was executed")),
        (_, Kind::Write) if alias.writable == Term::Forbidden => Some((Rule::NotReadOnly, "it was written")),
        _ => None,
    }
}

/// Pages of one alias. It takes as much memory as pages were reported, however long the alias is.
#[derive(Default)]
struct PageSet {
    blocks: HashMap<u64, Box<[u64; BLOCK_WORDS]>>,
}

/// 64 pages each.
const BLOCK_WORDS: usize = 64;
const BLOCK_PAGES: u64 = 64 * BLOCK_WORDS as u64;

impl PageSet {
    fn insert(&mut self, page: u64) {
        let block = self.blocks.entry(page / BLOCK_PAGES).or_insert_with(|| Box::new([0; BLOCK_WORDS]));
        let at = page % BLOCK_PAGES;
        block[(at / 64) as usize] |= 1 << (at % 64);
    }

    fn contains(&self, page: u64) -> bool {
        let at = page % BLOCK_PAGES;
        self.blocks.get(&(page / BLOCK_PAGES)).is_some_and(|block| block[(at / 64) as usize] >> (at % 64) & 1 == 1)
    }

    fn pages(&self) -> impl Iterator<Item = u64> {
        let set = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.blocks.iter().flat_map(move |(block, words)| {
            let words = words.iter().zip((block.saturating_mul(BLOCK_PAGES)..).step_by(64));
            words.flat_map(move |(word, first)| set(*word).map(move |bit| first | bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Phase;
    use crate::check::plan::PlannedSweep;
    use crate::memory_map::MemoryMap;

    /// Four pages, which the walk finds where they must be.
    const VIRT: Va = Va(0xffff_ffef_0000_0000);
    const PHYS: Pa = Pa(0x7e00_0000);

    fn expectation() -> Expectation {
        let alias = Alias::of_data(VIRT, PHYS, 4);
        let (gone, allowed, arenas) = (Vec::new(), Vec::new(), vec![Va(0)..=Va(u64::MAX)]);
        Expectation { placed: vec![alias], aliases: vec![alias], gone, allowed, arenas }
    }

    /// What is found: rule, address, expected, observed.
    type Found = (Rule, Option<Va>, Option<Statement>, Option<Statement>);

    fn found(observe: impl FnOnce(&mut Judge<'_>)) -> Vec<Found> {
        let expectation = expectation();
        let sweep = PlannedSweep { virt: VIRT, pages: 4, alias: 0, predicted: Frames::From(PHYS) };
        let plan = Plan { sweeps: vec![sweep], ..Plan::default() };
        let mut judge = Judge::new(&expectation, &plan, [Va(0)..Va(0), Va(0)..Va(0)]);
        observe(&mut judge);
        let (_, marks) = judge.finish(false);
        let map = MemoryMap::from_descriptors("test", Vec::new());
        let findings = marks.into_findings(Phase::Map, &map, None).into_iter();
        findings.map(|finding| (finding.rule, finding.virt, finding.expected, finding.observed)).collect()
    }

    fn exception() -> Exception {
        let cr2 = VIRT.wrapping_add(2 * PAGE_BYTES);
        Exception { fault: Fault::page(ErrorCode(2)), cr2, rip: Va(0x1234) }
    }

    #[test]
    fn a_write_is_right_where_it_arrives_at_its_own_page() {
        assert_eq!(found(|judge| judge.wrote(VIRT.wrapping_add(0x1ff8), PHYS.wrapping_add(0x1ff8))), []);
        let wrong = found(|judge| judge.wrote(VIRT.wrapping_add(0x1ff8), PHYS.wrapping_add(0x2ff8)));
        let virt = Some(VIRT.wrapping_add(0x1000));
        let physical = |offset| Some(Statement::Physical(PHYS.wrapping_add(offset)));
        assert_eq!(wrong[0], (Rule::WrongFrame, virt, physical(0x1000), physical(0x2000)));
        assert_eq!(wrong[1].0, Rule::WitnessDisagreement, "the walk had it right");
    }

    #[test]
    fn a_fault_in_a_sweep_names_the_frame_of_its_own_page() {
        let virt = exception().cr2;
        let frame = Some(Statement::Physical(PHYS.wrapping_add(2 * PAGE_BYTES)));
        let fault = Some(Statement::faulted(exception().fault, virt));
        assert_eq!(
            found(|judge| judge.swept_fault(virt, exception())),
            [
                (Rule::NotPresent, Some(virt), frame.clone(), fault.clone()),
                (Rule::WitnessDisagreement, Some(virt), frame, fault),
            ]
        );
    }

    #[test]
    fn a_stray_read_says_where_it_arrived_only_if_that_is_known() {
        let probe = PlannedProbe {
            virt: Va(0x5000),
            purpose: Purpose::Nobody,
            predicted: Outcome::Stranded { table: Pa(0) },
            content: None,
        };
        let stray = |observation| found(|judge| judge.probed(Access::read(), &[probe], [observation])).remove(0);
        let absent = Some(Statement::faulted(Fault::page(ErrorCode(0)), probe.virt));
        let at = |observed| (Rule::StrayMapping, Some(probe.virt), absent.clone(), Some(observed));
        assert_eq!(stray(Observation::Reached(Pa(0x7018))), at(Statement::Physical(Pa(0x7000))));
        let unknown = Statement::text("memory that no page is known by");
        assert_eq!(stray(Observation::ReachedUnknown), at(unknown));
    }
}
