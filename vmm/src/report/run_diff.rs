//! Two runs, as `efibed check --json` wrote them, and what is different: regions that moved, are gone or new, or have other
//! rights or another cache type, and findings that are gone or new. What one of the files does not tell is said, and not guessed.
//!
//! | file | holds |
//! | --- | --- |
//! | `told` | a report as the file tells it |
//! | `rights` | what the page tables grant of a region |
//! | `text` | how a person reads the difference |

mod rights;
mod text;
mod told;

use std::collections::BTreeMap;

use serde::Serialize;

use self::told::ToldFinding;
use super::json::{SCHEMA, pretty};

pub use self::told::{Address, NoReport, ToldReport};
pub(in crate::report) use self::told::{ToldRegion, ToldRun, ToldTables};

/// What changed from one run to another.
#[derive(Clone, Debug, Serialize)]
pub struct RunDiff<'a> {
    schema: u32,
    /// The names of the files, and of the maps that they are about.
    first: Side<'a>,
    second: Side<'a>,
    /// For each region its place in the list of each run, by physical address.
    #[serde(skip)]
    pub(in crate::report) pairs: Vec<[Option<usize>; 2]>,
    /// Every region of which the runs say different things, by physical address.
    pub regions: Vec<RegionChange<'a>>,
    /// Findings that only one of them has.
    pub findings: Vec<FindingChange<'a>>,
    /// What is not compared, and why.
    pub not_compared: Vec<String>,
    /// One of the runs tells of something that the other leaves out: no difference in the rest says that they are the same.
    #[serde(skip)]
    pub is_partial: bool,
}

/// One of the runs.
#[derive(Clone, Debug, Serialize)]
struct Side<'a> {
    file: &'a str,
    map: &'a str,
    verdict: &'a str,
    mapper: String,
    #[serde(skip)]
    report: &'a ToldReport,
}

/// What changed about a region.
#[derive(Clone, Debug, Serialize)]
pub struct RegionChange<'a> {
    /// In a word, the gravest first.
    pub change: Change,
    /// Its type, as the file has it.
    pub r#type: &'a str,
    /// Where it begins.
    pub phys: Address,
    /// Its place in the list of each run, from 0.
    pub index: [Option<usize>; 2],
    /// Each thing that is different: what it is, before, and after.
    pub differences: Vec<Difference>,
}

/// What became of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the first run maps it, or has it.
    Gone,
    /// Only the second one does.
    New,
    /// It has another virtual address.
    Moved,
    /// Something else about it is different.
    Changed,
}

impl Change {
    /// A name that stays the same.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::New => "new",
            Self::Moved => "moved",
            Self::Changed => "changed",
        }
    }
}

/// One thing that is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is.
    pub what: &'static str,
    /// What it was in the first run.
    pub before: String,
    /// What it is in the second one.
    pub after: String,
}

/// A finding that only one run has, as often as it has it more than the other.
#[derive(Clone, Debug, Serialize)]
pub struct FindingChange<'a> {
    /// `gone` or `new`.
    pub change: Change,
    /// Its rule.
    pub rule: &'a str,
    /// Its phase.
    pub phase: &'a str,
    /// What it says.
    pub message: &'a str,
    /// Where it is.
    pub virt: Option<Address>,
}

impl<'a> RunDiff<'a> {
    /// Compares two runs, each with the name of its file.
    pub fn new(first: (&'a str, &'a ToldReport), second: (&'a str, &'a ToldReport)) -> Self {
        let (before, after) = (first.1, second.1);
        let mut not_compared = Vec::new();
        let rights = rights::comparable([first, second], &mut not_compared);
        let is_partial = rights.is_partial || before.findings_omitted > 0 || after.findings_omitted > 0;
        for (name, report) in [first, second] {
            if report.findings_omitted > 0 {
                let omitted = report.findings_omitted;
                not_compared.push(format!("{omitted} findings, which {name} leaves out for want of room"));
            }
        }
        let pairs = pairs(before, after);
        let regions = pairs.values().filter_map(|pair| region_change(*pair, &rights)).collect();
        let pairs = pairs.into_values().map(indices).collect();
        let findings = finding_changes(before, after);
        Self {
            schema: SCHEMA,
            first: side(first),
            second: side(second),
            pairs,
            regions,
            findings,
            not_compared,
            is_partial,
        }
    }

    /// Whether there is no difference in all that could be compared.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.findings.is_empty() && self.first.verdict == self.second.verdict
    }

    /// As one JSON object, over many lines, with a newline at the end.
    pub fn to_json(&self) -> String {
        pretty(self)
    }

    /// Both runs, and the names of their files.
    pub(in crate::report) fn sides(&self) -> [(&'a str, &'a ToldReport); 2] {
        [(self.first.file, self.first.report), (self.second.file, self.second.report)]
    }
}

fn side<'a>((file, report): (&'a str, &'a ToldReport)) -> Side<'a> {
    Side { file, map: &report.map.source, verdict: &report.verdict, mapper: report.mapper_name(), report }
}

/// What makes a region the same in both runs: its type and where it lies; of several alike, its turn among them.
type Key<'a> = (Address, &'a str, usize);

/// A region's place in each list that has it, and what is said there.
type Pair<'a> = [Option<(usize, &'a ToldRegion)>; 2];

fn pairs<'a>(before: &'a ToldReport, after: &'a ToldReport) -> BTreeMap<Key<'a>, Pair<'a>> {
    let mut pairs: BTreeMap<Key<'_>, Pair<'_>> = BTreeMap::new();
    for (side, report) in [before, after].into_iter().enumerate() {
        let mut turns: BTreeMap<(Address, &str), usize> = BTreeMap::new();
        for (index, region) in report.regions.iter().enumerate() {
            let turn = turns.entry((region.phys, &region.r#type)).or_default();
            let pair = pairs.entry((region.phys, region.r#type.as_str(), *turn)).or_default();
            *turn = turn.saturating_add(1);
            if let Some(slot) = pair.get_mut(side) {
                *slot = Some((index, region));
            }
        }
    }
    pairs
}

fn region_change<'a>(pair: Pair<'a>, rights: &rights::Comparable<'_>) -> Option<RegionChange<'a>> {
    let (_, either) = pair[0].or(pair[1])?;
    let mut differences = Vec::new();
    let mut differ = |what, before: String, after: String| {
        if before != after {
            differences.push(Difference { what, before, after });
        }
    };
    let change = match pair {
        [Some((_, before)), Some((_, after))] => {
            differ("virtual", in_words(before.virt), in_words(after.virt));
            differ("pages", before.pages.to_string(), after.pages.to_string());
            differ("attribute", before.attribute.to_string(), after.attribute.to_string());
            differ("aliases", list(&before.aliases), list(&after.aliases));
            differ("leaves", before.leaves.to_string(), after.leaves.to_string());
            differ("verdict", before.verdict.clone(), after.verdict.clone());
            differences.extend(rights.differences(before, after));
            match (before.virt, after.virt) {
                (Some(_), None) => Change::Gone,
                (None, Some(_)) => Change::New,
                (before, after) if before != after => Change::Moved,
                _ => Change::Changed,
            }
        }
        [Some((_, before)), None] => {
            differ("region", described(before), "none".into());
            Change::Gone
        }
        [None, after] => {
            differ("region", "none".into(), after.map_or_else(String::new, |(_, after)| described(after)));
            Change::New
        }
    };
    let index = indices(pair);
    let change = RegionChange { change, r#type: &either.r#type, phys: either.phys, index, differences };
    (!change.differences.is_empty()).then_some(change)
}

fn indices(pair: Pair<'_>) -> [Option<usize>; 2] {
    pair.map(|side| side.map(|(index, _)| index))
}

fn described(region: &ToldRegion) -> String {
    format!("{} pages, virtual {}", region.pages, in_words(region.virt))
}

fn in_words(virt: Option<Address>) -> String {
    virt.map_or_else(|| "none".into(), |virt| virt.to_string())
}

fn list(addresses: &[Address]) -> String {
    let words: Vec<String> = addresses.iter().map(Address::to_string).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

/// What makes a finding the same: its rule, its phase and the region it is about, wherever that is mapped.
fn finding_key<'a>(finding: &'a ToldFinding, report: &'a ToldReport) -> (&'a str, &'a str, Option<(Address, &'a str)>) {
    let region = finding.region.and_then(|index| report.regions.get(index));
    (&finding.rule, &finding.phase, region.map(|region| (region.phys, region.r#type.as_str())))
}

fn finding_changes<'a>(before: &'a ToldReport, after: &'a ToldReport) -> Vec<FindingChange<'a>> {
    let mut of_key: BTreeMap<_, [Vec<&ToldFinding>; 2]> = BTreeMap::new();
    for (side, report) in [before, after].into_iter().enumerate() {
        for finding in &report.findings {
            if let Some(list) = of_key.entry(finding_key(finding, report)).or_default().get_mut(side) {
                list.push(finding);
            }
        }
    }
    let mut changes = Vec::new();
    for [before, after] in of_key.into_values() {
        let both = before.len().min(after.len());
        let sides = [(Change::Gone, before), (Change::New, after)];
        let of_side = |(change, list): (Change, Vec<&'a ToldFinding>)| {
            list.into_iter().skip(both).map(move |finding| FindingChange {
                change,
                rule: &finding.rule,
                phase: &finding.phase,
                message: &finding.message,
                virt: finding.virt,
            })
        };
        changes.extend(sides.into_iter().flat_map(of_side));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    fn told(report: &crate::report::Report) -> ToldReport {
        ToldReport::read("run.json", &report.to_json()).unwrap().unwrap()
    }

    #[test]
    fn the_same_run_has_no_difference_but_what_is_not_told() {
        let report = told(&samples::clean());
        let diff = RunDiff::new(("a", &report), ("b", &report));
        assert!(diff.is_empty() && !diff.is_partial, "{diff:?}");
        assert_eq!(diff.not_compared.len(), 1, "{:?}", diff.not_compared);
        assert!(diff.not_compared[0].starts_with("rights and cache types: a and b have no page tables"));
    }

    #[test]
    fn runs_that_leave_out_findings_are_not_said_to_be_the_same() {
        let [whole, cut] = [0, 5].map(|omitted| {
            let mut report = samples::reserved_bit();
            report.findings_omitted = omitted;
            told(&report)
        });
        assert!(!RunDiff::new(("a", &whole), ("b", &whole)).is_partial);
        let diff = RunDiff::new(("a", &whole), ("b", &cut));
        assert!(diff.is_empty() && diff.is_partial && diff.not_compared.iter().any(|what| what.contains("5 findings")));
    }

    #[test]
    fn a_region_that_moved_one_that_is_gone_and_one_that_is_new() {
        let (first, mut second) = (samples::clean(), samples::clean());
        second.regions[1].virt = Some(0xffff_fffe_fd00_0000);
        second.regions[2].region.phys = 0x7e91_0000;
        second.regions[3].verdict = crate::report::Verdict::Skipped;
        let (first, second) = (told(&first), told(&second));
        let diff = RunDiff::new(("a", &first), ("b", &second));
        let changes: Vec<_> = diff.regions.iter().map(|change| (change.phys.0, change.change)).collect();
        let expected = [
            (0x7e00_0000, Change::Moved),
            (0x7e90_0000, Change::Gone),
            (0x7e91_0000, Change::New),
            (0xfec0_0000, Change::Changed),
        ];
        assert_eq!(changes, expected);
        let moved =
            Difference { what: "virtual", before: "0xfffffffefe000000".into(), after: "0xfffffffefd000000".into() };
        assert_eq!(diff.regions[0].differences, [moved]);
    }

    #[test]
    fn other_aliases_and_another_verdict_of_the_run_are_differences() {
        let (first, mut second) = (samples::clean(), samples::clean());
        second.regions[1].aliases = vec![0x7e00_0000, 0x1000];
        let (first, second) = (told(&first), told(&second));
        let difference =
            Difference { what: "aliases", before: "0x7e000000".into(), after: "0x7e000000, 0x1000".into() };
        assert_eq!(RunDiff::new(("a", &first), ("b", &second)).regions[0].differences, [difference]);
        let mut incomplete = told(&samples::clean());
        incomplete.verdict = "incomplete".into();
        let diff = RunDiff::new(("a", &first), ("b", &incomplete));
        assert!(diff.regions.is_empty() && diff.findings.is_empty() && !diff.is_empty(), "{diff:?}");
    }

    #[test]
    fn of_findings_alike_the_ones_too_many_are_told_and_phases_are_apart() {
        let once = samples::reserved_bit();
        let (mut thrice, mut later) = (once.clone(), once.clone());
        thrice.findings.extend([once.findings[0].clone(), once.findings[0].clone()]);
        later.findings[0].phase = crate::check::Phase::Finish;
        let [once, thrice, later] = [once, thrice, later].each_ref().map(told);
        let changes = |first, second| {
            let diff = RunDiff::new(("a", first), ("b", second));
            diff.findings.iter().map(|finding| finding.change).collect::<Vec<_>>()
        };
        assert_eq!(changes(&once, &thrice), [Change::New; 2]);
        assert_eq!(changes(&thrice, &once), [Change::Gone; 2]);
        let mut moved = changes(&once, &later);
        moved.sort_unstable();
        assert_eq!(moved, [Change::Gone, Change::New]);
    }

    #[test]
    fn findings_are_the_same_wherever_their_region_is_mapped() {
        let (clean, broken) = (samples::clean(), samples::reserved_bit());
        let mut elsewhere = samples::reserved_bit();
        elsewhere.findings[0].virt = Some(crate::mmu::Va(0x1000));
        let [clean, broken, elsewhere] = [clean, broken, elsewhere].each_ref().map(told);
        assert_eq!(RunDiff::new(("a", &broken), ("b", &elsewhere)).findings.len(), 0);
        let diff = RunDiff::new(("a", &clean), ("b", &broken));
        let found: Vec<_> = diff.findings.iter().map(|finding| (finding.change, finding.rule)).collect();
        assert_eq!(found, [(Change::New, "reserved-bit")]);
        assert_eq!(RunDiff::new(("a", &broken), ("b", &clean)).findings[0].change, Change::Gone);
    }
}
