//! Reports as JUnit's XML, for what shows the results of tests: a case for each region that is mapped or owed, for each
//! call of a runtime service, and for what belongs to neither.

use quick_junit::{NonSuccessKind, Report as Document, TestCase, TestCaseStatus, TestSuite};

use super::{CallReport, RegionReport, Report, Verdict};
use crate::check::{Finding, SkipKind, Skipped};
use crate::memory_map::type_name;

/// A suite for each report, under the name given with it.
pub fn to_junit(reports: &[(&str, &Report)]) -> String {
    let mut document = Document::new("efibed");
    document.add_test_suites(reports.iter().map(|(name, report)| suite(name, report)));
    // It writes to a string, from strings: this does not fail. If it ever does, a reader is told.
    document.to_string().unwrap_or_else(|error| format!("<!-- no JUnit: {error} -->\n"))
}

fn suite(name: &str, report: &Report) -> TestSuite {
    let mut suite = TestSuite::new(name);
    suite.set_time(report.timing.total);
    // Where a scenario expects findings, and just those were found, nothing has failed.
    let is_failure = !report.passes();
    let owed = report.regions.iter().filter(|region| region.verdict != Verdict::NotOwed);
    let named = |region: &&RegionReport| has_findings(report, region) || region.virt.is_some();
    let not_owed = report.regions.iter().filter(|region| region.verdict == Verdict::NotOwed).filter(named);
    suite.add_test_cases(owed.chain(not_owed).map(|region| of_region(region, report, is_failure)));
    suite.add_test_cases(report.calls.iter().map(of_call));
    let whole: Vec<_> = report.findings.iter().filter(|finding| finding.region.is_none()).collect();
    suite.add_test_case(with_findings(case("run", "the whole run"), &whole, is_failure));
    suite.add_test_cases(report.expected().map(|expected| {
        let mut of_rules = case("run", "findings as the scenario expects");
        if !expected.is_met() {
            let names =
                |rules: &[crate::check::Rule]| rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", ");
            let text = format!("missing: {}; besides: {}", names(&expected.missing), names(&expected.unexpected));
            of_rules.status = status(NonSuccessKind::Failure, "expectation", &text);
        }
        of_rules
    }));
    suite.add_test_cases(report.skipped.iter().map(of_skipped));
    suite
}

fn case(class: &str, name: &str) -> TestCase {
    let mut case = TestCase::new(name, TestCaseStatus::success());
    case.set_classname(class);
    case
}

fn status(kind: NonSuccessKind, ty: &str, message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(ty).set_message(message);
    status
}

fn has_findings(report: &Report, region: &RegionReport) -> bool {
    report.findings.iter().any(|finding| finding.region == Some(region.region.index))
}

fn of_region(region: &RegionReport, report: &Report, is_failure: bool) -> TestCase {
    let index = region.region.index;
    let name = format!("region {index}: {} at {:#x}", type_name(region.region.ty), region.region.phys);
    let mut case = case("regions", &name);
    let findings: Vec<_> = report.findings.iter().filter(|finding| finding.region == Some(index)).collect();
    if findings.is_empty() && region.verdict == Verdict::Skipped {
        case.status = TestCaseStatus::skipped();
        case.status.set_message("it could not be asked about");
    }
    with_findings(case, &findings, is_failure)
}

/// All findings of a case: the first names it, and the text has every one.
fn with_findings(mut case: TestCase, findings: &[&Finding], is_failure: bool) -> TestCase {
    let Some(first) = findings.first() else { return case };
    let text: Vec<_> = findings.iter().map(|finding| in_words(finding)).collect();
    let text = text.join("\n");
    if is_failure {
        case.status = status(NonSuccessKind::Failure, first.rule.name(), &first.message);
        case.status.set_description(text);
    } else {
        case.set_system_out(text);
    }
    case
}

fn in_words(finding: &Finding) -> String {
    format!("{} (phase {}): {}", finding.rule, finding.phase.name(), finding.message)
}

fn of_call(call: &CallReport) -> TestCase {
    let mut case = case("calls", &format!("phase {}: {}", call.phase.name(), call.service));
    if call.rip.is_none() {
        case.status = TestCaseStatus::skipped();
        case.status.set_message(call.reason.clone().unwrap_or_default());
    } else if let Some(status) = call.status {
        case.set_system_out(format!("status {status:#x}"));
    }
    case
}

/// A limit or a sample skips; what was asked for and not done is an error.
fn of_skipped(skipped: &Skipped) -> TestCase {
    let mut case = case("not asked", &format!("{} {}", skipped.count, skipped.what));
    case.status = match skipped.kind {
        SkipKind::NotDone => status(NonSuccessKind::Error, skipped.kind.name(), &skipped.reason),
        SkipKind::Machine | SkipKind::Sample => TestCaseStatus::skipped(),
    };
    case.status.set_message(skipped.reason.clone());
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Rule;
    use crate::report::samples;

    #[test]
    fn a_clean_report_has_a_case_for_each_region_and_call_and_no_failure() {
        let xml = to_junit(&[("map", &samples::clean())]);
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
        let xml = to_junit(&[("map", &report)]);
        assert!(xml.contains(r#"errors="0" failures="1""#), "{xml}");
        assert!(xml.contains(r#"<failure message="every &lt;access&gt; faults" type="reserved-bit">"#), "{xml}");
    }

    #[test]
    fn what_was_expected_is_no_failure_and_what_was_not_done_is_an_error() {
        let mut report = samples::clean();
        report.findings.push(Finding::worded(crate::check::Phase::Map, Rule::Watchdog, None, "a hang".into()));
        report.expected_rules = Some(vec![Rule::Watchdog]);
        assert!(to_junit(&[("map", &report)]).contains(r#"errors="0" failures="0""#));
        report.expected_rules = Some(vec![]);
        assert!(to_junit(&[("map", &report)]).contains(r#"errors="0" failures="2""#));
        report.findings.clear();
        report.skipped.push(Skipped::not_done("the mapping", "no time"));
        assert!(to_junit(&[("map", &report)]).contains(r#"errors="1" failures="0""#));
    }
}
