//! Findings as SARIF 2.1.0 (OASIS Standard, errata 01), for what shows them beside code.
//!
//! A finding lies in the file of the map that shows it. What was asked for and not done is a notice of the tool's, and the
//! run was not successful then: without results it does not say that all is well.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Report;
use super::json::pretty;
use crate::check::{Finding, Place, Severity};
use crate::memory_map::type_name;

/// What one run has to say, as one process can hand it to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What is wrong.
    pub results: Vec<Entry>,
    /// What was not done.
    pub notices: Vec<Notice>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The name of its rule.
    pub rule: String,
    /// What the rule is about, in a sentence.
    pub summary: String,
    /// What causes it, and what to look at.
    pub help: String,
    /// Whether the witnesses do not agree, so that it may not be the mapping code's.
    pub is_doubt: bool,
    /// A sentence.
    pub message: String,
    /// The file that shows it, if it is one.
    pub file: Option<String>,
    /// The line of it, from 1, where one is concerned.
    pub line: Option<usize>,
    /// The region or the like, where one is concerned.
    pub place: Option<String>,
    /// What it is known by in another run on the same map.
    pub fingerprint: String,
    /// Whether it was to be found.
    pub is_expected: bool,
    /// The line of the mapping code that set the guilty table entry, where that is known.
    pub set_by: Option<Place>,
}

/// Something that was asked for and not done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// A sentence.
    pub message: String,
    /// The file of the run, if it is one.
    pub file: Option<String>,
}

impl Entry {
    /// One that no file shows, but a machine or this program itself.
    pub fn of_no_file(rule: &str, summary: &str, help: &str, is_doubt: bool, message: String) -> Self {
        Self {
            rule: rule.into(),
            summary: summary.into(),
            help: help.into(),
            is_doubt,
            fingerprint: message.clone(),
            message,
            file: None,
            line: None,
            place: None,
            is_expected: false,
            set_by: None,
        }
    }
}

impl Part {
    /// What a report has to say of a map in a file.
    pub fn of(file: &str, report: &Report) -> Self {
        let is_expected = report.passes();
        let results = report.findings.iter().map(|finding| entry(finding, file, report, is_expected)).collect();
        let not_done = report.not_done().map(|skipped| format!("{}: {}", skipped.what, skipped.reason));
        let missing = report.expected().map(|expected| expected.missing).unwrap_or_default();
        let missing =
            missing.iter().map(|rule| format!("the scenario expects a finding of the rule {rule}, and there is none"));
        let omitted = Some(report.findings_omitted).filter(|omitted| *omitted > 0);
        let omitted = omitted.map(|omitted| format!("{omitted} more findings were left out"));
        let messages = not_done.chain(missing).chain(omitted);
        let notices = messages.map(|message| Notice { message, file: Some(file.into()) }).collect();
        Self { results, notices }
    }
}

fn entry(finding: &Finding, file: &str, report: &Report, is_expected: bool) -> Entry {
    let in_report = finding.region.and_then(|index| report.regions.get(index));
    let region = in_report.map(|region| &region.region);
    let place = region.map(|region| format!("region {}: {} at {:#x}", region.index, type_name(region.ty), region.phys));
    let level = finding.walk.last().map_or_else(|| "none".into(), |step| step.level.to_string());
    let known_by = place.as_deref().unwrap_or("the whole run");
    Entry {
        rule: finding.rule.name().into(),
        summary: finding.rule.summary().into(),
        help: finding.rule.explanation().into(),
        is_doubt: finding.rule.severity() == Severity::Doubt,
        message: finding.message.clone(),
        file: Some(file.into()),
        fingerprint: format!("{}; phase {}; {known_by}; {level}", finding.rule, finding.phase),
        line: in_report.and_then(|region| region.line),
        place,
        is_expected,
        set_by: finding.set_by.clone(),
    }
}

/// The document: one run of the tool.
pub fn to_sarif(parts: &[Part]) -> String {
    let results = || parts.iter().flat_map(|part| &part.results);
    let notices: Vec<&Notice> = parts.iter().flat_map(|part| &part.notices).collect();
    let rules: BTreeMap<&str, &Entry> = results().map(|entry| (entry.rule.as_str(), entry)).collect();
    let index = |entry: &Entry| rules.keys().position(|rule| *rule == entry.rule);
    pretty(&json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "efibed",
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.values().map(|entry| rule(entry)).collect::<Vec<_>>(),
            } },
            "invocations": [{
                "executionSuccessful": notices.is_empty(),
                "toolExecutionNotifications": notices.into_iter().map(notification).collect::<Vec<_>>(),
            }],
            "results": results().map(|entry| result(entry, index(entry))).collect::<Vec<_>>(),
        }],
    }))
}

fn rule(entry: &Entry) -> Value {
    json!({
        "id": entry.rule,
        "shortDescription": { "text": entry.summary },
        "fullDescription": { "text": format!("{} {}", entry.summary, entry.help) },
        "help": { "text": entry.help },
        "defaultConfiguration": { "level": level(entry) },
    })
}

fn level(entry: &Entry) -> &'static str {
    if entry.is_doubt { "warning" } else { "error" }
}

fn notification(notice: &Notice) -> Value {
    let locations: Vec<Value> = notice.file.iter().map(|file| location(file, None, None)).collect();
    json!({ "level": "error", "message": { "text": notice.message }, "locations": locations })
}

fn result(entry: &Entry, rule_index: Option<usize>) -> Value {
    let locate = |file: &String| location(file, entry.line, entry.place.as_deref());
    let locations: Vec<Value> = entry.file.iter().map(locate).collect();
    let mut result = json!({
        "ruleId": entry.rule,
        "ruleIndex": rule_index,
        "level": level(entry),
        "message": { "text": entry.message },
        "locations": locations,
        "partialFingerprints": { "efibed/v1": entry.fingerprint },
    });
    if entry.is_expected {
        let why = "the scenario expects it";
        result["suppressions"] = json!([{ "kind": "external", "status": "accepted", "justification": why }]);
    }
    if let Some(place) = &entry.set_by {
        result["relatedLocations"] = json!([set_here(place)]);
    }
    result
}

/// The map is where a finding lies, so the code behind it is a related location (SARIF 2.1.0, 3.27.22). It has a message of its
/// own (3.28.5). A function alone is a logical location (3.33).
fn set_here(Place { function, file, line }: &Place) -> Value {
    let mut here = json!({ "message": { "text": "the entry was set here" } });
    if let Some(file) = file {
        here["physicalLocation"] = json!({ "artifactLocation": { "uri": uri(file) } });
        if let Some(line) = line {
            here["physicalLocation"]["region"] = json!({ "startLine": line });
        }
    }
    if let Some(function) = function {
        here["logicalLocations"] = json!([{ "fullyQualifiedName": function, "kind": "function" }]);
    }
    here
}

fn location(file: &str, line: Option<usize>, place: Option<&str>) -> Value {
    let mut location = json!({ "physicalLocation": { "artifactLocation": { "uri": uri(file) } } });
    if let Some(line) = line {
        location["physicalLocation"]["region"] = json!({ "startLine": line });
    }
    if let Some(place) = place {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": place }]);
    }
    location
}

/// A path as a reference (RFC 3986, 4.2). Of a relative one, the first colon does not begin with a scheme: it is escaped.
fn uri(path: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(byte);
    let escaped: String = path
        .bytes()
        .map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    if path.starts_with('/') { format!("file://{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::check::{Rule, Skipped};

    fn read(report: &Report) -> Value {
        let text = to_sarif(&[Part::of("maps/a b.txt", report)]);
        serde_json::from_str::<Value>(&text).unwrap()["runs"][0].clone()
    }

    #[test]
    fn a_finding_has_its_rule_its_file_and_its_region() {
        let run = read(&samples::reserved_bit());
        let result = &run["results"][0];
        assert_eq!((&result["ruleId"], &result["level"]), (&"reserved-bit".into(), &"error".into()));
        assert_eq!(
            run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize]["id"],
            "reserved-bit"
        );
        let location = &result["locations"][0];
        assert_eq!(location["physicalLocation"]["artifactLocation"]["uri"], "maps/a%20b.txt");
        assert_eq!(location["physicalLocation"]["region"]["startLine"], 11);
        assert!(location["logicalLocations"][0]["fullyQualifiedName"].as_str().unwrap().starts_with("region "));
        assert_eq!(run["invocations"][0]["executionSuccessful"], true);
        assert!(result.get("suppressions").is_none());
    }

    #[test]
    fn the_line_that_set_the_guilty_entry_is_a_related_location() {
        let mut report = samples::reserved_bit();
        let related = |report: &Report| read(report)["results"][0].get("relatedLocations").cloned();
        assert_eq!(related(&report), None);
        let function = || Some("map_region".to_owned());
        report.findings[0].set_by =
            Some(Place { function: function(), file: Some("src/a b.c".into()), line: Some(41) });
        let logical = json!([{ "fullyQualifiedName": "map_region", "kind": "function" }]);
        let message = json!({ "text": "the entry was set here" });
        let physical = json!({ "artifactLocation": { "uri": "src/a%20b.c" }, "region": { "startLine": 41 } });
        let whole = json!([{ "message": message, "physicalLocation": physical, "logicalLocations": logical }]);
        assert_eq!(related(&report), Some(whole));
        report.findings[0].set_by = Some(Place { function: function(), ..Place::default() });
        assert_eq!(related(&report), Some(json!([{ "message": message, "logicalLocations": logical }])));
    }

    #[test]
    fn a_clean_run_has_no_result_and_one_that_was_not_done_was_not_successful() {
        let mut report = samples::clean();
        let clean = read(&report);
        assert_eq!((&clean["results"], &clean["invocations"][0]["executionSuccessful"]), (&json!([]), &true.into()));
        report.skipped.push(Skipped::not_done("the mapping", "no time"));
        let invocation = &read(&report)["invocations"][0];
        assert_eq!(invocation["executionSuccessful"], false);
        assert_eq!(invocation["toolExecutionNotifications"][0]["message"]["text"], "the mapping: no time");
    }

    #[test]
    fn what_a_scenario_expects_is_suppressed_and_what_it_misses_is_told() {
        let mut report = samples::reserved_bit();
        report.expected_rules = Some(vec![Rule::ReservedBit]);
        assert_eq!(read(&report)["results"][0]["suppressions"][0]["kind"], "external");
        report.expected_rules = Some(vec![Rule::ReservedBit, Rule::Watchdog]);
        let run = read(&report);
        assert!(run["results"][0].get("suppressions").is_none());
        assert!(run["invocations"][0]["toolExecutionNotifications"].to_string().contains("watchdog"), "{run}");
    }

    #[test]
    fn every_path_is_a_reference() {
        for (path, reference) in [
            ("a/b-1.toml", "a/b-1.toml"),
            ("/a b", "file:///a%20b"),
            ("c:d", "c%3Ad"),
            ("<stdin>", "%3Cstdin%3E"),
            ("\u{fc}?#", "%C3%BC%3F%23"),
        ] {
            assert_eq!(uri(path), reference);
        }
    }
}
