//! Results as JUnit's XML, for what shows the results of tests. Of a run there is a case for each region that is mapped or
//! owed, for each call of a runtime service, and for what belongs to neither.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};
use serde::{Deserialize, Serialize};

use super::{CallReport, RegionReport, Report, Verdict};
use crate::check::{Finding, Rule, SkipKind, Skipped};
use crate::memory_map::type_name;

/// The cases of one run, as one process can hand them to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// What was run.
    pub name: String,
    /// How long it took.
    pub time: Duration,
    /// In the order of the report.
    pub cases: Vec<Case>,
}

/// One thing that was to be right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What kind of thing it is.
    pub class: String,
    /// Which one.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// More about it.
    pub output: Option<String>,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is right.
    Passed,
    /// It was not asked, and need not be.
    Skipped {
        /// A sentence.
        why: String,
    },
    /// It is wrong.
    Failed {
        /// The name of a rule.
        rule: String,
        /// A sentence.
        message: String,
        /// All of it.
        text: String,
    },
    /// It was to be asked, and could not be.
    Error {
        /// A name of that.
        kind: String,
        /// A sentence.
        message: String,
    },
}

impl Case {
    /// One that is right, until something else is known.
    pub fn new(class: &str, name: impl Into<String>) -> Self {
        Self { class: class.into(), name: name.into(), outcome: Outcome::Passed, output: None }
    }

    /// The same with what came of it.
    pub fn with(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

/// The document.
pub fn to_junit(suites: &[Suite]) -> String {
    let mut document = Document::new("efibed");
    document.add_test_suites(suites.iter().map(Suite::to_element));
    // It writes to a string, from strings: this does not fail. If it ever does, a reader is told.
    document.to_string().unwrap_or_else(|error| format!("<!-- no JUnit: {error} -->\n"))
}

impl Suite {
    /// The cases of a report.
    pub fn of(name: &str, report: &Report) -> Self {
        // Where a scenario expects findings, and just those were found, nothing has failed.
        let is_failure = !report.passes();
        let owed = report.regions.iter().filter(|region| region.verdict != Verdict::NotOwed);
        let named = |region: &&RegionReport| has_findings(report, region) || region.virt.is_some();
        let not_owed = report.regions.iter().filter(|region| region.verdict == Verdict::NotOwed).filter(named);
        let mut cases: Vec<Case> = owed.chain(not_owed).map(|region| of_region(region, report, is_failure)).collect();
        cases.extend(report.calls.iter().map(of_call));
        let whole: Vec<_> = report.findings.iter().filter(|finding| finding.region.is_none()).collect();
        cases.push(with_findings(Case::new("run", "the whole run"), &whole, is_failure));
        cases.extend(of_expectation(report));
        cases.extend(report.skipped.iter().map(of_skipped));
        Self { name: name.into(), time: report.timing.total, cases }
    }

    fn to_element(&self) -> TestSuite {
        let mut suite = TestSuite::new(self.name.as_str());
        suite.set_time(self.time);
        suite.add_test_cases(self.cases.iter().map(Case::to_element));
        suite
    }
}

impl Case {
    fn to_element(&self) -> TestCase {
        let mut case = TestCase::new(self.name.as_str(), TestCaseStatus::success());
        case.set_classname(self.class.as_str());
        case.status = match &self.outcome {
            Outcome::Passed => TestCaseStatus::success(),
            Outcome::Skipped { why } => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(why.as_str());
                status
            }
            Outcome::Failed { rule, message, text } => {
                let mut status = not_passed(NonSuccessKind::Failure, rule, message);
                status.set_description(text.as_str());
                status
            }
            Outcome::Error { kind, message } => not_passed(NonSuccessKind::Error, kind, message),
        };
        if let Some(output) = &self.output {
            case.set_system_out(output.as_str());
        }
        case
    }
}

fn not_passed(kind: NonSuccessKind, ty: &str, message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(ty).set_message(message);
    status
}

fn has_findings(report: &Report, region: &RegionReport) -> bool {
    report.findings.iter().any(|finding| finding.region == Some(region.region.index))
}

fn of_region(region: &RegionReport, report: &Report, is_failure: bool) -> Case {
    let index = region.region.index;
    let mut case =
        Case::new("regions", format!("region {index}: {} at {:#x}", type_name(region.region.ty), region.region.phys));
    let findings: Vec<_> = report.findings.iter().filter(|finding| finding.region == Some(index)).collect();
    if findings.is_empty() && region.verdict == Verdict::Skipped {
        case.outcome = Outcome::Skipped { why: "it could not be asked about".into() };
    }
    with_findings(case, &findings, is_failure)
}

/// All findings of a case: the first names it, and the text has every one.
fn with_findings(mut case: Case, findings: &[&Finding], is_failure: bool) -> Case {
    let Some(first) = findings.first() else { return case };
    let text: Vec<_> = findings.iter().map(|finding| in_words(finding)).collect();
    let text = text.join("\n");
    if is_failure {
        case.outcome = Outcome::Failed { rule: first.rule.name().into(), message: first.message.clone(), text };
    } else {
        case.output = Some(text);
    }
    case
}

fn in_words(finding: &Finding) -> String {
    format!("{} (phase {}): {}", finding.rule, finding.phase.name(), finding.message)
}

fn of_call(call: &CallReport) -> Case {
    let mut case = Case::new("calls", format!("phase {}: {}", call.phase.name(), call.service));
    if call.rip.is_none() {
        case.outcome = Outcome::Skipped { why: call.reason.clone().unwrap_or_default() };
    }
    let status = call.rip.and(call.status);
    case.output = status.map(|status| format!("status {status:#x}"));
    case
}

fn of_expectation(report: &Report) -> Option<Case> {
    let expected = report.expected()?;
    let case = Case::new("run", "findings as the scenario expects");
    if expected.is_met() {
        return Some(case);
    }
    let names = |rules: &[Rule]| rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", ");
    let message = format!("missing: {}; besides: {}", names(&expected.missing), names(&expected.unexpected));
    Some(case.with(Outcome::Failed { rule: "expectation".into(), text: message.clone(), message }))
}

/// A limit or a sample skips; what was asked for and not done is an error.
fn of_skipped(skipped: &Skipped) -> Case {
    let message = skipped.reason.clone();
    Case::new("not asked", format!("{} {}", skipped.count, skipped.what)).with(match skipped.kind {
        SkipKind::NotDone => Outcome::Error { kind: skipped.kind.name().into(), message },
        SkipKind::Machine | SkipKind::Sample => Outcome::Skipped { why: message },
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn xml(report: &Report) -> String {
        to_junit(&[Suite::of("map", report)])
    }

    #[test]
    fn a_clean_report_has_a_case_for_each_region_and_call_and_no_failure() {
        let xml = xml(&samples::clean());
        // Two regions, one call, the run, and one limit of the machine that is skipped.
        let suite = r#"<testsuite name="map" tests="5" skipped="1" errors="0" failures="0""#;
        assert!(xml.contains(suite), "{xml}");
        assert!(xml.contains(r#"name="region 1: RuntimeServicesData at 0x7e000000""#), "{xml}");
        assert!(xml.contains(r#"name="phase map: SetVirtualAddressMap""#), "{xml}");
    }

    #[test]
    fn a_finding_fails_its_region_under_the_name_of_its_rule() {
        let mut report = samples::clean();
        let message = "every <access> faults".to_owned();
        report.findings.push(Finding::worded(crate::check::Phase::Map, Rule::ReservedBit, Some(2), message));
        let xml = xml(&report);
        assert!(xml.contains(r#"errors="0" failures="1""#), "{xml}");
        assert!(xml.contains(r#"<failure message="every &lt;access&gt; faults" type="reserved-bit">"#), "{xml}");
    }

    #[test]
    fn what_was_expected_is_no_failure_and_what_was_not_done_is_an_error() {
        let mut report = samples::clean();
        report.findings.push(Finding::worded(crate::check::Phase::Map, Rule::Watchdog, None, "a hang".into()));
        report.expected_rules = Some(vec![Rule::Watchdog]);
        assert!(xml(&report).contains(r#"errors="0" failures="0""#));
        report.expected_rules = Some(vec![]);
        assert!(xml(&report).contains(r#"errors="0" failures="2""#));
        report.findings.clear();
        report.skipped.push(Skipped::not_done("the mapping", "no time"));
        assert!(xml(&report).contains(r#"errors="1" failures="0""#));
    }
}
