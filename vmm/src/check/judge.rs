//! What came of the guest's accesses, against what had to.

use std::collections::{HashMap, HashSet};

use efibed_guest::protocol::{self, PROBE_DONE, PROBE_FAULTED, Probe, ProbeKind};

use efibed_stub::stamp::stamped;

use super::alias::{Alias, Role};
use super::contract::Term;
use super::expectation::Expectation;
use super::marks::{Mark, Marks};
use super::plan::{Frames, Plan, PlannedProbe, Purpose, access_of};
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
    pub virt: u64,
    /// Read, write or fetch, and by whom.
    pub access: Access,
    /// The exception.
    pub fault: Fault,
    /// The faulting address, by the CPU.
    pub cr2: u64,
    /// The faulting instruction.
    pub rip: u64,
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
    text: [std::ops::Range<u64>; 2],
}

impl<'a> Judge<'a> {
    /// A judge over what was planned. `text` are the addresses of the guest's own instructions, in ring 0 and in ring 3.
    pub fn new(expectation: &'a Expectation, plan: &'a Plan, text: [std::ops::Range<u64>; 2]) -> Self {
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

    /// A write of `virt`, to itself, arrived at physical `pa`.
    pub fn wrote(&mut self, virt: u64, pa: u64) {
        self.observations.counts.total += 1;
        self.observations.counts.translated += 1;
        match self.alias_at(virt) {
            Some(index) => self.reached(index, virt, pa, true),
            None => {
                let observed = Statement::Physical(Pa(pa & !(PAGE_BYTES - 1)));
                self.disagree(None, virt, Statement::text("no write"), observed);
            }
        }
    }

    /// A write of a sweep faulted.
    pub fn swept_fault(&mut self, fault: protocol::Fault) {
        self.count_fault();
        let Some(index) = self.alias_at(fault.virt) else {
            let observed = Some(Statement::text("an unexpected fault"));
            return self.doubt(Rule::WitnessDisagreement, None, fault.virt, None, observed);
        };
        let predicted = self.plan_for(fault.virt).map_or(Frames::From(u64::MAX), |(frames, _)| frames);
        let page = self.page_of(index, fault.virt);
        self.seen[index].insert(page);
        self.unexpected_fault(index, ProbeKind::Write, fault);
        match predicted {
            Frames::Fault(predicted) => self.compare_faults(Some(index), ProbeKind::Write, predicted, fault),
            Frames::From(pa) => {
                let expected = Statement::Physical(Pa(pa));
                self.disagree(Some(index), fault.virt, expected, Statement::faulted(as_fault(fault), Va(fault.virt)));
            }
        }
    }

    /// The records of some probes of one kind, once they are done.
    pub fn probed(&mut self, kind: ProbeKind, probes: &[PlannedProbe], records: &[Probe]) {
        for (planned, record) in probes.iter().zip(records) {
            match record.status {
                PROBE_DONE => self.probe_done(kind, planned, record.value),
                PROBE_FAULTED => self.probe_faulted(kind, planned, record.fault),
                _ => self.disagree(
                    self.alias_of(planned),
                    planned.virt,
                    Statement::text("an access"),
                    Statement::text("none was made"),
                ),
            }
        }
    }

    /// Whether a write of `virt` was found at `pa`, in the stamped page that the walk says it reaches.
    pub fn scratch(&mut self, virt: u64, pa: u64, found: bool) {
        let Some(index) = self.alias_at(virt) else { return };
        self.observations.counts.total += 1;
        self.observations.counts.translated += 1;
        if found {
            return self.reached(index, virt, pa, true);
        }
        let alias = self.expectation.aliases[index];
        let expected = Statement::Physical(Pa(alias.target(virt) & !(PAGE_BYTES - 1)));
        let lost = Statement::text("a write that arrived elsewhere");
        self.mark(Rule::WrongFrame, &alias, virt, expected.clone(), lost.clone());
        self.disagree(Some(index), virt, expected, lost);
    }

    /// KVM_TRANSLATE's answer for an address, and those that the walk over the tables as they are now allows.
    pub fn translated(&mut self, virt: u64, answer: Option<u64>, walked: [Option<u64>; 2]) {
        let page = |pa: Option<u64>| pa.map(|pa| pa & !(PAGE_BYTES - 1));
        let (answer, walked) = (page(answer), walked.map(page));
        let state = |pa: Option<u64>| Some(pa.map_or(Statement::LeftOut, |pa| Statement::Physical(Pa(pa))));
        let alias = self.alias_at(virt).map(|index| self.expectation.aliases[index]);
        let expected = page(alias.map(|alias| alias.target(virt)));
        let mark = Mark {
            region: alias.map_or_else(|| self.expectation.gone_from(virt, virt).0, |alias| alias.region),
            virt: Some(virt & !(PAGE_BYTES - 1)),
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
        for sweep in self.plan.sweeps.iter().filter(|_| complete) {
            for virt in (0..sweep.pages).map(|page| sweep.virt + page * PAGE_BYTES) {
                let page = self.page_of(sweep.alias, virt);
                if !self.seen[sweep.alias].contains(page) {
                    let alias = self.expectation.aliases[sweep.alias];
                    let lost = Statement::text("a write that arrived in memory, or nowhere");
                    let expected = Statement::Physical(Pa(alias.target(virt)));
                    self.mark(Rule::WrongFrame, &alias, virt, expected.clone(), lost.clone());
                    self.disagree(Some(sweep.alias), virt, expected, lost);
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
        let frame = |index: usize, page: u64| aliases[index].phys / PAGE_BYTES + page;
        let elsewhere: HashSet<u64> =
            of_role(false).flat_map(|index| self.spoiled[index].pages().map(move |page| frame(index, page))).collect();
        let right = |index: usize, page: u64| {
            self.verified[index].contains(page)
                && !self.spoiled[index].contains(page)
                && !elsewhere.contains(&frame(index, page))
        };
        let mut by_phys: Vec<usize> = of_role(true).collect();
        by_phys.sort_unstable_by_key(|index| aliases[*index].phys);
        let end = |index: &usize| aliases[*index].phys + aliases[*index].pages * PAGE_BYTES;
        let (mut pages, mut group) = (0, Vec::new());
        let mut group_end = 0;
        for index in by_phys {
            if !group.is_empty() && aliases[index].phys >= group_end {
                pages += self.verified_of(&group, &right);
                group.clear();
            }
            group_end = if group.is_empty() { end(&index) } else { group_end.max(end(&index)) };
            group.push(index);
        }
        pages + self.verified_of(&group, &right)
    }

    /// The same of aliases that share physical pages, or of one that shares none.
    fn verified_of(&self, group: &[usize], right: &dyn Fn(usize, u64) -> bool) -> u64 {
        if let [index] = group {
            return self.verified[*index].pages().filter(|page| right(*index, *page)).count() as u64;
        }
        let aliases = &self.expectation.aliases;
        let mut frames: HashMap<u64, bool> = HashMap::new();
        for index in group {
            for page in self.seen[*index].pages() {
                let frame = aliases[*index].phys / PAGE_BYTES + page;
                *frames.entry(frame).or_insert(true) &= right(*index, page);
            }
        }
        frames.values().filter(|right| **right).count() as u64
    }

    fn probe_done(&mut self, kind: ProbeKind, planned: &PlannedProbe, value: u64) {
        let access = access_of(kind);
        if access.kind == Kind::Write {
            // Where it arrived was reported when it did.
            return self.probe_succeeded(kind, planned, None);
        }
        let pa = match (planned.content, planned.predicted) {
            (Some(content), Outcome::Translated(to)) if content == value => Some(to.pa.0),
            _ => stamped(value),
        };
        self.observations.counts.total += 1;
        self.observations.counts.translated += 1;
        self.probe_succeeded(kind, planned, Some(pa));
    }

    /// `pa`: what the access says it reached, None in it if that is no page we know.
    fn probe_succeeded(&mut self, kind: ProbeKind, planned: &PlannedProbe, pa: Option<Option<u64>>) {
        let virt = planned.virt;
        if let Outcome::Fault(predicted) = planned.predicted {
            let observed = pa.flatten().map(|pa| Statement::Physical(Pa(pa)));
            let observed = observed.unwrap_or(Statement::text("an access that succeeded"));
            self.disagree(self.alias_of(planned), virt, Statement::faulted(predicted, Va(virt)), observed);
        }
        let Some(index) = self.alias_of(planned) else {
            return self.stray(virt, pa.flatten().unwrap_or(0));
        };
        let alias = self.expectation.aliases[index];
        let access = access_of(kind);
        let expected = Statement::Physical(Pa(alias.target(virt) & !(PAGE_BYTES - 1)));
        if access.privilege == Privilege::User {
            self.mark(
                Rule::UserAccessible,
                &alias,
                virt,
                Statement::text("a fault"),
                Statement::text("ring 3 was not stopped"),
            );
        } else if access.kind == Kind::Fetch && alias.executable == Term::Forbidden {
            self.mark(
                Rule::ExecutableData,
                &alias,
                virt,
                Statement::text("a fault"),
                Statement::text("it was executed"),
            );
        } else if access.kind == Kind::Write && alias.writable == Term::Forbidden {
            let written = Statement::text("it was written");
            self.mark(Rule::NotReadOnly, &alias, virt, Statement::text("a fault"), written);
        }
        match pa {
            None => {}
            Some(Some(pa)) => self.reached(index, virt, pa, access.privilege == Privilege::Supervisor),
            Some(None) => {
                let observed = Statement::text("memory that is not the region's");
                self.mark(Rule::WrongFrame, &alias, virt, expected.clone(), observed.clone());
                if !matches!(planned.predicted, Outcome::Translated(t) if t.pa.0 != alias.target(virt)) {
                    self.disagree(Some(index), virt, expected, observed);
                }
            }
        }
    }

    fn probe_faulted(&mut self, kind: ProbeKind, planned: &PlannedProbe, fault: protocol::Fault) {
        self.count_fault();
        let alias = self.alias_of(planned);
        match alias {
            Some(index) => self.expected_or_not(index, kind, fault),
            None => self.observations.counts.faulted_rightly += 1,
        }
        match planned.predicted {
            Outcome::Fault(predicted) => self.compare_faults(alias, kind, predicted, fault),
            Outcome::Translated(to) => {
                let observed = Statement::faulted(as_fault(fault), Va(fault.virt));
                self.disagree(alias, planned.virt, Statement::Physical(to.pa), observed);
            }
            Outcome::Stranded { .. } => {}
        }
    }

    /// Ring 3 must fault, and so must fetches from what is not code and writes to what is read-only. What is neither owed nor
    /// forbidden may fault; anything else must not.
    fn expected_or_not(&mut self, index: usize, kind: ProbeKind, fault: protocol::Fault) {
        let alias = self.expectation.aliases[index];
        let code = ErrorCode(fault.error_code);
        let is_protection = code.contains(ErrorCode::P) && !code.contains(ErrorCode::RSVD);
        if alias.access(access_of(kind)) != Term::Owed && is_protection {
            self.observations.counts.faulted_rightly += 1;
        } else {
            self.unexpected_fault(index, kind, fault);
        }
    }

    /// A page was reached that is `index`'s; `counts` for its verification.
    fn reached(&mut self, index: usize, virt: u64, pa: u64, counts: bool) {
        let alias = self.expectation.aliases[index];
        let page = self.page_of(index, virt);
        let (target, base) = (alias.target(virt), !(PAGE_BYTES - 1));
        self.seen[index].insert(page);
        // A fetch answers with its page only.
        let right = pa == target || (pa == target & base && pa & !base == 0);
        if right {
            if counts {
                self.verified[index].insert(page);
            }
        } else {
            self.spoiled[index].insert(page);
            let (expected, observed) = (Statement::Physical(Pa(target & base)), Statement::Physical(Pa(pa & base)));
            self.mark(Rule::WrongFrame, &alias, virt, expected, observed);
        }
        let predicted = self.plan_for(virt).map(|(frames, offset)| match frames {
            Frames::From(first) => (first + offset) & base == pa & base,
            Frames::Fault(_) => false,
        });
        if predicted == Some(false) || (predicted.is_none() && !right && !self.predicts(virt, pa & base)) {
            self.disagree(Some(index), virt, Statement::text("what the walk says"), Statement::Physical(Pa(pa & base)));
        }
    }

    /// Whether a single probe of the page was predicted to reach `page`.
    fn predicts(&self, virt: u64, page: u64) -> bool {
        let base = !(PAGE_BYTES - 1);
        self.plan.groups.iter().any(|group| {
            let from = group.probes.partition_point(|probe| probe.virt < virt & base);
            group.probes[from..]
                .iter()
                .take_while(|probe| probe.virt & base == virt & base)
                .any(|probe| matches!(probe.predicted, Outcome::Translated(t) if t.pa.0 & base == page))
        })
    }

    /// A fault in what the contract owes.
    fn unexpected_fault(&mut self, index: usize, kind: ProbeKind, fault: protocol::Fault) {
        let alias = self.expectation.aliases[index];
        let page = self.page_of(index, fault.virt);
        self.spoiled[index].insert(page);
        let exception = as_fault(fault);
        let code = exception.error_code;
        let rule = match exception.vector {
            Fault::PAGE_FAULT if code.contains(ErrorCode::RSVD) => Rule::ReservedBit,
            Fault::PAGE_FAULT if !code.contains(ErrorCode::P) => Rule::NotPresent,
            Fault::PAGE_FAULT if code.contains(ErrorCode::I) => Rule::NotExecutable,
            Fault::PAGE_FAULT if code.contains(ErrorCode::W) => Rule::NotWritable,
            Fault::PAGE_FAULT => Rule::UserAccessible,
            _ => Rule::NotCanonical,
        };
        let expected = Statement::Physical(Pa(alias.target(fault.virt)));
        self.mark(rule, &alias, fault.virt, expected, Statement::faulted(exception, Va(fault.cr2)));
        self.record(alias.region, kind, fault);
    }

    fn compare_faults(&mut self, index: Option<usize>, kind: ProbeKind, predicted: Fault, fault: protocol::Fault) {
        let observed = as_fault(fault);
        let is_page_fault = observed.vector == Fault::PAGE_FAULT;
        let right_address = !is_page_fault || fault.cr2 == fault.virt;
        if observed == predicted && right_address && self.is_own_instruction(kind, &fault) {
            return;
        }
        let expected = Some(Statement::faulted(predicted, Va(fault.virt)));
        let observed = Statement::Faulted { fault: observed, cr2: Some(Va(fault.cr2)), rip: Some(Va(fault.rip)) };
        self.doubt(Rule::WrongErrorCode, index, fault.virt, expected, Some(observed));
        self.record(index.and_then(|index| self.expectation.aliases[index].region), kind, fault);
    }

    /// A data access faults at the guest's own instruction, a fetch at the address (or, where that is not canonical, at
    /// the call).
    fn is_own_instruction(&self, kind: ProbeKind, fault: &protocol::Fault) -> bool {
        let access = access_of(kind);
        if access.kind == Kind::Fetch && fault.rip == fault.virt {
            return true;
        }
        let ring = usize::from(access.privilege == Privilege::User);
        let fetched = access.kind == Kind::Fetch && u32::from(Fault::PAGE_FAULT) == fault.vector;
        !fetched && self.text[ring].contains(&fault.rip)
    }

    fn record(&mut self, region: Option<usize>, kind: ProbeKind, fault: protocol::Fault) {
        let record = FaultRecord {
            virt: fault.virt,
            access: access_of(kind),
            fault: as_fault(fault),
            cr2: fault.cr2,
            rip: fault.rip,
            region,
        };
        let known = &mut self.observations.faults;
        if known.contains(&record) {
            return;
        }
        let alike = |r: &&FaultRecord| r.region == region && r.access == record.access && r.fault == record.fault;
        if known.len() >= MAX_FAULTS || known.iter().filter(alike).count() >= MAX_FAULTS_ALIKE {
            self.observations.faults_omitted += 1;
        } else {
            known.push(record);
        }
    }

    fn stray(&mut self, virt: u64, pa: u64) {
        self.marks.push(Mark {
            region: self.expectation.gone_from(virt, virt).0,
            virt: Some(virt & !(PAGE_BYTES - 1)),
            pages: 1,
            expected: Some(Statement::faulted(Fault::page(ErrorCode(0)), Va(virt))),
            observed: Some(Statement::Physical(Pa(pa & !(PAGE_BYTES - 1)))),
            ..Mark::new(Rule::StrayMapping, Witness::Mmu)
        });
    }

    fn mark(&mut self, rule: Rule, alias: &Alias, virt: u64, expected: Statement, observed: Statement) {
        self.marks.push(Mark {
            virt: Some(virt & !(PAGE_BYTES - 1)),
            pages: 1,
            expected: Some(expected),
            observed: Some(observed),
            ..alias.mark(rule, Witness::Mmu)
        });
    }

    fn disagree(&mut self, index: Option<usize>, virt: u64, expected: Statement, observed: Statement) {
        self.doubt(Rule::WitnessDisagreement, index, virt, Some(expected), Some(observed));
    }

    fn doubt(
        &mut self,
        rule: Rule,
        index: Option<usize>,
        virt: u64,
        expected: Option<Statement>,
        observed: Option<Statement>,
    ) {
        self.marks.push(Mark {
            region: index.and_then(|index| self.expectation.aliases[index].region),
            virt: Some(virt & !(PAGE_BYTES - 1)),
            pages: 1,
            expected,
            observed,
            ..Mark::new(rule, Witness::Mmu)
        });
    }

    fn count_fault(&mut self) {
        self.observations.counts.total += 1;
        self.observations.counts.faulted += 1;
    }

    fn alias_of(&self, planned: &PlannedProbe) -> Option<usize> {
        match planned.purpose {
            Purpose::Alias(index) => Some(index),
            Purpose::Nobody => None,
        }
    }

    fn alias_at(&mut self, virt: u64) -> Option<usize> {
        let recent = self.expectation.aliases.get(self.recent);
        if !recent.is_some_and(|alias| (alias.virt..=alias.last()).contains(&virt)) {
            self.recent = self.expectation.alias_at(virt)?;
        }
        Some(self.recent)
    }

    fn page_of(&self, index: usize, virt: u64) -> u64 {
        virt.wrapping_sub(self.expectation.aliases[index].virt) / PAGE_BYTES
    }

    /// What the walk says of a swept page, and the bytes from the sweep's start to it.
    fn plan_for(&self, virt: u64) -> Option<(Frames, u64)> {
        let sweeps = &self.plan.sweeps;
        let sweep = sweeps[..sweeps.partition_point(|sweep| sweep.virt <= virt)].last()?;
        let offset = virt - sweep.virt;
        (offset / PAGE_BYTES < sweep.pages).then_some((sweep.predicted, offset))
    }
}

fn as_fault(fault: protocol::Fault) -> Fault {
    Fault { vector: fault.vector as u8, error_code: ErrorCode(fault.error_code) }
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
            let words = words.iter().zip((block * BLOCK_PAGES..).step_by(64));
            words.flat_map(move |(word, first)| set(*word).map(move |bit| first + bit))
        })
    }
}
