//! Marks: what a witness says of a run of pages, gathered until they become findings.

use std::collections::HashMap;

use super::{Finding, Phase, Rule, Statement, WalkStep, Witness, frames};
use crate::memory_map::{MemoryMap, PAGE_BYTES, Region, type_name};
use crate::mmu::{Access, ErrorCode, Pa, Paging, TableMemory, Va, walk};

/// One witness's word on consecutive pages.
#[derive(Clone, Debug)]
pub struct Mark {
    pub rule: Rule,
    pub region: Option<usize>,
    pub virt: Option<Va>,
    pub pages: u64,
    pub witness: Witness,
    pub expected: Option<Statement>,
    pub observed: Option<Statement>,
}

impl Mark {
    pub fn new(rule: Rule, witness: Witness) -> Self {
        Self { rule, region: None, virt: None, pages: 0, witness, expected: None, observed: None }
    }

    pub fn of_region(rule: Rule, region: &Region, expected: Statement, observed: Statement) -> Self {
        Self {
            region: Some(region.index),
            pages: region.pages,
            expected: Some(expected),
            observed: Some(observed),
            ..Self::new(rule, Witness::Expectation)
        }
    }

    /// Of several faults of the first page, the plain read's speaks for the run: its error code has the fewest bits.
    fn prefer_read(&mut self, other: &Self) {
        let code = other.error_code();
        if other.virt == self.virt && code < self.error_code() && code.is_some() {
            self.observed.clone_from(&other.observed);
        }
    }

    fn error_code(&self) -> Option<ErrorCode> {
        self.observed.as_ref()?.error_code()
    }

    fn end(&self) -> Option<Va> {
        Some(self.virt?.wrapping_add(self.pages.wrapping_mul(PAGE_BYTES)))
    }
}

/// The marks of one phase, runs merged as they come.
#[derive(Debug, Default)]
pub struct Marks {
    marks: Vec<Mark>,
    /// The last mark of each kind, which the next one of that kind may continue.
    open: HashMap<(Rule, Option<usize>, Witness), usize>,
    worded: Vec<Finding>,
    /// What may follow from something that is wrong with the page at an address.
    effects: Vec<(Va, Finding)>,
    omitted: u64,
}

/// Runs kept. Tables made at random could have as many as pages.
const MAX_MARKS: usize = 16_384;

impl Marks {
    pub fn push(&mut self, mark: Mark) {
        let key = (mark.rule, mark.region, mark.witness);
        if let Some(open) = self.open.get(&key).map(|index| &mut self.marks[*index])
            && let (Some(start), Some(end), Some(virt)) = (open.virt, open.end(), mark.virt)
        {
            if virt == end {
                open.pages = open.pages.saturating_add(mark.pages);
                return;
            }
            if virt >= start && mark.end().is_some_and(|last| last <= end) {
                open.prefer_read(&mark);
                return;
            }
        }
        // The first of each kind is never left out: no region with an error is without a finding.
        if self.marks.len() >= MAX_MARKS && self.open.contains_key(&key) {
            self.omitted = self.omitted.saturating_add(1);
            return;
        }
        self.open.insert(key, self.marks.len());
        self.marks.push(mark);
    }

    /// A finding that is whole already.
    pub fn push_finding(&mut self, finding: Finding) {
        self.worded.push(finding);
    }

    /// Several.
    pub fn push_findings(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.worded.extend(findings);
    }

    /// A finding that is not about pages, in its own words.
    pub fn push_worded(&mut self, phase: Phase, rule: Rule, region: Option<usize>, message: String) {
        self.push_finding(Finding::worded(phase, rule, region, message));
    }

    /// A finding that follows from whatever is wrong with the page at `virt`. It stands by itself only if nothing is.
    pub fn push_effect(&mut self, virt: Va, finding: Finding) {
        self.effects.push((virt, finding));
    }

    /// Takes over all of another's marks.
    pub fn absorb(&mut self, other: Self) {
        other.marks.into_iter().for_each(|mark| self.push(mark));
        self.worded.extend(other.worded);
        self.effects.extend(other.effects);
        self.omitted = self.omitted.saturating_add(other.omitted);
    }

    /// Marks that found no place.
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// The first address of every run, for further questions about it.
    pub fn addresses(&self) -> impl Iterator<Item = Va> {
        self.marks.iter().filter_map(|mark| mark.virt)
    }

    /// One finding for each run: the words of all witnesses about the same pages under the same rule together. Causes come
    /// before their effects.
    pub fn into_findings(mut self, phase: Phase, map: &MemoryMap, tables: Option<RootedTables<'_>>) -> Vec<Finding> {
        self.marks.sort_by_key(|mark| (mark.rule, mark.region, mark.virt, mark.witness));
        let mut findings = self.worded;
        let mut marks = self.marks.into_iter().peekable();
        while let Some(mut run) = marks.next() {
            let mut witnesses = vec![run.witness];
            while let Some(next) = marks.next_if(|next| continues(&run, next)) {
                if let (Some(virt), Some(end)) = (run.virt, next.end().max(run.end())) {
                    run.pages = end.wrapping_offset_from(virt) / PAGE_BYTES;
                }
                if run.error_code().is_none() && next.error_code().is_some() {
                    run.observed = next.observed;
                }
                witnesses.push(next.witness);
            }
            witnesses.sort_unstable();
            witnesses.dedup();
            findings.push(finding(phase, run, witnesses, map, tables.as_ref()));
        }
        for (virt, effect) in self.effects {
            match findings.iter_mut().find(|finding| is_cause(finding, virt)) {
                Some(cause) => cause.message += &format!("; what follows from it: {}", effect.message),
                None => findings.push(effect),
            }
        }
        findings.sort_by_key(|finding| finding.rule);
        findings
    }
}

/// Where findings' walks are read.
pub struct RootedTables<'a> {
    pub memory: &'a dyn TableMemory,
    pub root: Pa,
    pub told: &'a Paging,
}

/// Whether a finding is of a page that leads nowhere, or elsewhere, for all who use the address.
fn is_cause(finding: &Finding, virt: Va) -> bool {
    let leads_astray = matches!(
        finding.rule,
        Rule::NotCanonical | Rule::ReservedBit | Rule::NotPresent | Rule::WrongFrame | Rule::TableUnreachable
    );
    let offset = finding.virt.and_then(|start| virt.checked_offset_from(start));
    leads_astray && offset.is_some_and(|offset| offset / PAGE_BYTES < finding.pages)
}

fn continues(run: &Mark, next: &Mark) -> bool {
    run.rule == next.rule
        && run.region == next.region
        && matches!((run.virt, run.end(), next.virt), (Some(start), Some(end), Some(virt)) if virt >= start && virt <= end)
}

fn finding(
    phase: Phase,
    mark: Mark,
    witnesses: Vec<Witness>,
    map: &MemoryMap,
    tables: Option<&RootedTables<'_>>,
) -> Finding {
    let walk = match (mark.virt, tables) {
        (Some(virt), Some(tables)) => {
            let walk = walk(&tables.memory, tables.root, virt, Access::read(), tables.told);
            walk.steps().iter().map(WalkStep::from).collect()
        }
        _ => Vec::new(),
    };
    Finding {
        rule: mark.rule,
        phase,
        region: mark.region,
        virt: mark.virt,
        pages: mark.pages,
        remedy: remedy(mark.rule).map(str::to_owned),
        message: message(&mark, &witnesses, map),
        expected: mark.expected,
        observed: mark.observed,
        walk,
        set_by: None,
        witnesses,
    }
}

/// What helps, where that is the same whatever region it is.
fn remedy(rule: Rule) -> Option<&'static str> {
    match rule {
        Rule::NoVirtualStart => Some(
            "check the first kernel's own map (/sys/firmware/efi/runtime-map), or let `efibed kexec` make both runs",
        ),
        _ => None,
    }
}

/// One sentence: where, what, and what should have been.
fn message(mark: &Mark, witnesses: &[Witness], map: &MemoryMap) -> String {
    let mut text = String::new();
    if let Some(region) = mark.region.and_then(|index| map.regions().nth(index)) {
        text += &format!("region {} ({} at {:#x}): ", region.index, type_name(region.ty), region.phys);
    }
    if let Some(virt) = mark.virt {
        text += &match mark.pages {
            0 | 1 => format!("VA {virt:#x}: "),
            pages => format!("{pages} pages from VA {virt:#x}: "),
        };
    }
    text += match mark.rule {
        Rule::ReservedBit => "every access faults: a reserved bit is set on the way",
        Rule::NotPresent => "nothing is mapped",
        Rule::WrongFrame => "another physical page is reached than the right one",
        Rule::SelfMapping => "the page tables are mapped here",
        Rule::TableOutsidePool => "the table was not taken from the pool",
        Rule::TableCache => "PWT or PCD is set in an entry that refers to a table",
        Rule::GlobalLeaf => "the leaf is global",
        Rule::ProtectionKey => "the leaf has a protection key",
        Rule::CacheType => "the PAT index is not the one that the region asks for",
        Rule::NotWritable => "writes fault",
        Rule::WindowOrder => "its addresses are below those of the region before it in the list",
        Rule::NotContiguous => "it is torn from the code or data before it, which may be of the same image",
        Rule::KexecMoved => "it is not where the first kernel told firmware that it is",
        Rule::NoVirtualStart => "its descriptor has no virtual address to map it at",
        Rule::WindowOverflow => "the layout has no room for it",
        Rule::NotReadOnly => "writes go through",
        Rule::NotExecutable => "instruction fetches fault",
        Rule::ExecutableData => "data can be executed",
        Rule::UserAccessible => "ring 3 has access",
        Rule::StrayMapping => "something is mapped that belongs to no region",
        Rule::WitnessDisagreement => "the guest's MMU does not do what the tables say",
        Rule::WrongErrorCode => "the fault is not the one that the manual's rules give",
        other => other.summary().trim_end_matches('.'),
    };
    if let (Rule::WrongFrame, Some(virt), Some(Statement::Physical(right)), Some(Statement::Physical(wrong))) =
        (mark.rule, mark.virt, &mark.expected, &mark.observed)
    {
        text += &format!(", {}", frames::compare(virt, *right, *wrong, mark.region, map));
    }
    for (word, statement) in [("expected", &mark.expected), ("found", &mark.observed)] {
        text += &statement.as_ref().map_or_else(String::new, |statement| format!("; {word} {statement}"));
    }
    if let [Witness::Mmu] = witnesses {
        text += " (the guest's MMU alone says so)";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::Fault;

    const VIRT: Va = Va(0xffff_fffe_8000_0000);

    fn page(rule: Rule, page: u64) -> Mark {
        let virt = VIRT.saturating_add(page.saturating_mul(PAGE_BYTES));
        Mark {
            virt: Some(virt),
            pages: 1,
            expected: Some(Statement::Physical(Pa(0x5000))),
            observed: Some(Statement::faulted(Fault::page(ErrorCode(0)), virt)),
            ..Mark::new(rule, Witness::Walk)
        }
    }

    fn found(marks: Marks) -> Vec<(Rule, String)> {
        let map = MemoryMap::from_descriptors("test", Vec::new());
        let findings = marks.into_findings(Phase::Map, &map, None);
        findings.into_iter().map(|finding| (finding.rule, finding.message)).collect()
    }

    /// Firmware's tables are damaged, as they are read at the third page.
    fn with_effect(marks: impl IntoIterator<Item = Mark>) -> Vec<(Rule, String)> {
        let mut all = Marks::default();
        let effect = Finding::worded(Phase::Map, Rule::FirmwareTables, None, "the system table is gone".into());
        all.push_effect(VIRT.saturating_add(0x2018), effect);
        marks.into_iter().for_each(|mark| all.push(mark));
        found(all)
    }

    #[test]
    fn an_effect_belongs_to_its_cause() {
        for rule in [Rule::NotPresent, Rule::WrongFrame, Rule::ReservedBit] {
            let all = with_effect([page(rule, 1), page(rule, 2)]);
            let [(found, message)] = all.as_slice() else { panic!("{all:?}") };
            assert_eq!(*found, rule);
            assert!(message.ends_with("; what follows from it: the system table is gone"), "{message}");
        }
    }

    #[test]
    fn without_a_cause_it_is_a_finding_of_its_own() {
        let alone = [(Rule::FirmwareTables, "the system table is gone".to_owned())];
        assert_eq!(with_effect([]), alone);
        // Other pages, and what does not lead astray.
        for mark in [page(Rule::NotPresent, 1), page(Rule::NotPresent, 3), page(Rule::CacheType, 2)] {
            let rule = mark.rule;
            let all = with_effect([mark]);
            assert_eq!(all.iter().map(|(rule, _)| *rule).collect::<Vec<_>>(), [rule, Rule::FirmwareTables]);
            assert!(!all[0].1.contains("gone"));
        }
    }

    #[test]
    fn causes_come_before_their_effects() {
        let mut marks = Marks::default();
        let rules = [Rule::CallFault, Rule::FirmwareTables, Rule::NotMapped, Rule::StrayWrite, Rule::Watchdog];
        for rule in rules {
            marks.push_worded(Phase::Map, rule, None, String::new());
        }
        marks.push(page(Rule::WitnessDisagreement, 0));
        marks.push(page(Rule::NotPresent, 0));
        marks.push(page(Rule::WrongAddress, 0));
        let order: Vec<_> = found(marks).into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(
            order,
            [
                Rule::StrayWrite,
                Rule::NotMapped,
                Rule::WrongAddress,
                Rule::NotPresent,
                Rule::FirmwareTables,
                Rule::CallFault,
                Rule::Watchdog,
                Rule::WitnessDisagreement,
            ]
        );
    }

    #[test]
    fn a_wrong_frame_says_how_far_it_is_off() {
        let mut marks = Marks::default();
        let frame = |frame| Some(Statement::Physical(Pa(frame)));
        marks.push(Mark { expected: frame(0x7e72_9000), observed: frame(0x7e60_0000), ..page(Rule::WrongFrame, 0) });
        assert_eq!(
            found(marks)[0].1,
            "VA 0xfffffffe80000000: another physical page is reached than the right one, 0x129000 bytes below it: the low \
             21 bits of the frame were dropped; expected PA 0x7e729000; found PA 0x7e600000"
        );
    }
}
