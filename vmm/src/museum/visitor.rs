//! Somebody's mapping code, put before the maps of the exhibits: which of the known bugs does it have?
//!
//! A `no` has to be true. It is said only where the run came to its end and the exhibit's region was mapped and reached without
//! other findings, which might hide the bug.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::bug::{Asks, Exhibit};
use super::trial::{Unrun, finding_in_words, reason_to_skip, run, unchecked};
use crate::check::{ContractItem, Finding, Rule};
use crate::report::style::tally;
use crate::report::{RegionReport, Report, Verdict};
use crate::{EngineName, Scenario, TestBed};

/// What is known of a visitor's code and one exhibit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it has the bug.
    pub has: Has,
    /// What else was found on the map, by rule; empty: nothing.
    pub others: String,
}

/// Whether a visitor's code has a bug.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Has {
    /// It has: the finding, in words.
    Yes(String),
    /// It has not.
    No,
    /// The exhibit asks nothing of mapping code: why.
    NotAsked(String),
    /// This machine or this engine cannot show the exhibit: why.
    Skipped(String),
    /// It is not known: why.
    Unknown(String),
}

impl Has {
    /// The names of all answers, as JSON has them.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Yes(_) => "yes",
            Self::No => "no",
            Self::NotAsked(_) => "not-asked",
            Self::Skipped(_) => "skipped",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What there is to say of it.
    pub fn words(&self) -> Option<&str> {
        match self {
            Self::Yes(words) | Self::NotAsked(words) | Self::Skipped(words) | Self::Unknown(words) => Some(words),
            Self::No => None,
        }
    }
}

impl Answer {
    /// Runs the visitor's code, which `put_in` puts into a scenario, on the exhibit's map.
    pub fn of(exhibit: &Exhibit, put_in: &dyn Fn(Scenario) -> Scenario, bed: &TestBed, engine: EngineName) -> Self {
        let terms = match exhibit.asks {
            Asks::Nothing(why) => return Self::alone(Has::NotAsked(why.into())),
            Asks::ToMap(terms) => terms,
        };
        if let Some(why) = reason_to_skip(exhibit, engine) {
            return Self::alone(Has::Skipped(why));
        }
        let report = exhibit.scenario().map_err(Unrun::from).and_then(|scenario| {
            let terms: Result<Vec<_>, _> = terms.iter().map(|term| ContractItem::parse(term)).collect();
            let scenario = put_in(scenario).terms_replaced(&terms.map_err(Unrun::Failed)?);
            run(scenario, exhibit, bed, engine)
        });
        match report {
            Ok(report) => match unchecked(exhibit, &report) {
                Some(why) => Self::alone(Has::Skipped(why)),
                None => Self::by(exhibit, &report),
            },
            Err(Unrun::CannotShow(why)) => Self::alone(Has::Skipped(why)),
            Err(Unrun::Failed(why)) => Self::unknown(why),
        }
    }

    /// One that nothing is known of: why.
    pub fn unknown(why: String) -> Self {
        Self::alone(Has::Unknown(why))
    }

    fn alone(has: Has) -> Self {
        Self { has, others: String::new() }
    }

    fn by(exhibit: &Exhibit, report: &Report) -> Self {
        let is_it = |finding: &&Finding| {
            let is_there = exhibit.found.region.is_none_or(|index| finding.region == Some(index));
            finding.rule == exhibit.found.rule && is_there
        };
        let has = match report.findings.iter().find(is_it) {
            Some(finding) => Has::Yes(finding_in_words(finding)),
            None => match reason_to_doubt(exhibit, report) {
                Some(why) => Has::Unknown(why),
                None => Has::No,
            },
        };
        let others = report.findings.iter().filter(|finding| !is_it(finding)).map(|finding| finding.rule);
        Self { has, others: tally(others) }
    }
}

/// Why a run in which the bug does not show proves nothing.
fn reason_to_doubt(exhibit: &Exhibit, report: &Report) -> Option<String> {
    if let Some(skipped) = report.not_done().next() {
        return Some(format!("{} was not done: {}", skipped.what, skipped.reason));
    }
    let asked = |region: &&RegionReport| {
        let index = region.region.index;
        exhibit.found.region.map_or(region.region.is_runtime() && region.region.pages > 0, |asked| asked == index)
    };
    let region = report.regions.iter().filter(asked).find(|region| !is_judged(exhibit, report, region))?;
    let index = region.region.index;
    let of_region = report.findings.iter().filter(|finding| finding.region == Some(index));
    let rules: BTreeSet<Rule> = of_region.map(|finding| finding.rule).collect();
    let what = match region.verdict {
        Verdict::Unmapped => format!("region {index} was not mapped"),
        Verdict::Skipped => format!("region {index} could not be reached"),
        _ => format!("region {index} has other findings"),
    };
    let rules = if rules.is_empty() { report.findings.iter().map(|it| it.rule).collect() } else { rules };
    let names: Vec<_> = rules.iter().map(|rule| rule.name()).collect();
    Some(if names.is_empty() { what } else { format!("{what}: {}", names.join(", ")) })
}

/// What is wrong with a page that is reached all the while: an access goes through, and leads where it leads.
const HIDES_NOTHING: [Rule; 7] = [
    Rule::CacheType,
    Rule::TableCache,
    Rule::GlobalLeaf,
    Rule::ProtectionKey,
    Rule::NotReadOnly,
    Rule::ExecutableData,
    Rule::UserAccessible,
];

/// Whether a region was mapped and is right, besides what on this map cannot be right.
fn is_judged(exhibit: &Exhibit, report: &Report, region: &RegionReport) -> bool {
    let leaves = exhibit.twin.leaves;
    let of_region = |finding: &&Finding| finding.region == Some(region.region.index);
    let is_left = |finding: &Finding| leaves.contains(&finding.rule) || HIDES_NOTHING.contains(&finding.rule);
    match region.verdict {
        Verdict::Ok => true,
        Verdict::Wrong => report.findings.iter().filter(of_region).all(is_left),
        Verdict::Unmapped | Verdict::NotOwed | Verdict::Skipped => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::museum::catalogue::exhibits;
    use crate::{Layout, LeafRule};

    fn answer(name: &str, layout: Layout, leaf_rule: LeafRule) -> Answer {
        let (_, exhibit) = exhibits().find(|(_, exhibit)| exhibit.name == name).unwrap();
        let put_in = move |scenario: Scenario| scenario.layout(layout).leaf_rule(leaf_rule);
        Answer::of(exhibit, &put_in, &TestBed::without_kvm(), EngineName::Walker)
    }

    #[test]
    fn a_bug_is_found_in_the_code_that_has_it_and_not_in_its_mend() {
        let has = |leaf_rule| answer("01-misaligned-leaf", Layout::Window, leaf_rule);
        let yes = has(LeafRule::VaOnly);
        let Has::Yes(finding) = &yes.has else { panic!("{yes:?}") };
        assert!(finding.starts_with("reserved-bit in region 0 at 0xfffffffeffe00000, error code 0x9"), "{finding}");
        assert_eq!(has(LeafRule::CoAligned), Answer { has: Has::No, others: String::new() });
    }

    #[test]
    fn a_finding_that_may_hide_the_bug_is_no_no() {
        // The same leaf, reserved and not masked: nobody knows which frame it would reach.
        let hidden = answer("01-misaligned-leaf-masked", Layout::Window, LeafRule::VaOnly);
        assert_eq!(hidden.has, Has::Unknown("region 0 has other findings: reserved-bit".into()));
        assert_eq!(hidden.others, "reserved-bit (1)");
        // A layout that gives up has mapped nothing.
        let gave_up = answer("40-past-maxphyaddr", Layout::Window, LeafRule::CoAligned);
        assert!(matches!(gave_up.has, Has::NotAsked(_)), "{gave_up:?}");
        let gave_up = answer("05-past-the-table", Layout::Window, LeafRule::CoAligned);
        assert_eq!(gave_up.has, Has::Unknown("region 2 was not mapped: window-overflow".into()));
    }

    #[test]
    fn what_firmwares_map_has_wrong_is_not_the_visitors() {
        let overlap = answer("08-stale-page-number", Layout::Window, LeafRule::CoAligned);
        assert_eq!(overlap, Answer { has: Has::No, others: "map-overlap (1)".into() });
    }

    #[test]
    fn terms_of_an_exhibit_are_asked_of_any_layout() {
        let down = answer("13-list-forwards", Layout::PackedDown, LeafRule::CoAligned);
        assert!(matches!(&down.has, Has::Yes(finding) if finding.starts_with("window-order")), "{down:?}");
        assert_eq!(answer("13-list-forwards", Layout::Window, LeafRule::CoAligned).has, Has::No);
    }
}
