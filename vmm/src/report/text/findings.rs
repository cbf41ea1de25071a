//! The findings, each with what is needed to understand it.

use std::collections::BTreeMap;

use super::differences;
use crate::check::{Finding, Rule, Severity, Witness};
use crate::memory_map::type_name;
use crate::mmu::{Cpu, reserved_reasons};
use crate::report::style::{Paint, counted, printable, tally, wrapped};
use crate::report::{Report, error_code, walk};

/// Findings shown of one rule, and in all: what is one mistake shows in many places.
const MAX_OF_RULE: usize = 4;
const MAX_SHOWN: usize = 24;
/// Where the text of a finding begins, and the text beside a label.
const INDENT: usize = 3;
const LABEL: usize = 14;

pub(crate) fn lines(report: &Report, paint: Paint) -> Vec<String> {
    let (shown, hidden) = chosen(&report.findings);
    let mut lines = Vec::new();
    for (index, finding) in shown.into_iter().enumerate() {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(one(index + 1, finding, report, paint));
    }
    if !hidden.is_empty() {
        let rules = tally(hidden.iter().map(|finding| finding.rule));
        lines.push(String::new());
        lines.push(format!("... and {} alike, in full in the JSON: {rules}", hidden.len()));
    }
    if report.findings_omitted > 0 {
        lines.push(format!("... and {} that the report has no room for", report.findings_omitted));
    }
    lines
}

/// Each finding by itself, its title first, however many there are; on lines of 80 columns.
#[cfg(feature = "cli")]
pub(in crate::report) fn each(report: &Report) -> impl Iterator<Item = Vec<String>> {
    let paint = Paint::PLAIN.on(Some(80));
    (1..).zip(&report.findings).map(move |(number, finding)| one(number, finding, report, paint))
}

/// What is shown, and what is only counted.
fn chosen(findings: &[Finding]) -> (Vec<&Finding>, Vec<&Finding>) {
    let mut of_rule = BTreeMap::<Rule, usize>::new();
    let (mut shown, mut hidden) = (Vec::new(), Vec::new());
    for finding in findings {
        let count = of_rule.entry(finding.rule).or_default();
        *count += 1;
        match *count <= MAX_OF_RULE && shown.len() < MAX_SHOWN {
            true => shown.push(finding),
            false => hidden.push(finding),
        }
    }
    (shown, hidden)
}

fn one(number: usize, finding: &Finding, report: &Report, paint: Paint) -> Vec<String> {
    let margin = " ".repeat(INDENT);
    let mut lines = vec![title(number, finding, paint)];
    lines.extend(
        wrapped(&sentence(finding, report), paint.width() - INDENT, 0).iter().map(|line| format!("{margin}{line}")),
    );
    let mut say = |label: &str, text: &str| lines.extend(paint.labelled(&format!("{margin}{label}"), text, LABEL));
    if let Some(expected) = &finding.expected {
        say("expected", &printable(&expected.to_string()));
    }
    if let Some(found) = found(finding) {
        say("found", &found);
    }
    if let Some(remedy) = &finding.remedy {
        say("remedy", &printable(remedy));
    }
    if !finding.witnesses.is_empty() {
        say("witnesses", &witnesses(&finding.witnesses));
    }
    if let Some(unseen) = not_enforced(finding, &report.cpu) {
        say("but", &unseen);
    }
    if let Some(place) = &finding.set_by {
        say("set by", &printable(&place.to_string()));
    }
    if !finding.walk.is_empty() {
        let of = finding.virt.map_or_else(String::new, |virt| format!("of VA {virt:#x}"));
        say("walk", &of);
        let walk = walk::lines(&finding.walk, &report.cpu.told, paint);
        lines.extend(walk.iter().map(|line| format!("{margin}  {line}")));
    }
    lines
}

fn title(number: usize, finding: &Finding, paint: Paint) -> String {
    let severity = finding.rule.severity();
    let doubt = match severity {
        Severity::Error => "",
        Severity::Doubt => ": the witnesses are at odds, the mapping may be right",
    };
    let about = format!("({}, phase {}{doubt})", severity.name(), finding.phase.name());
    format!("{number}. {} {}", paint.wrong(finding.rule), paint.dim(about))
}

/// The finding's sentence: without what is said again below it, but with the region and the pages it is about.
fn sentence(finding: &Finding, report: &Report) -> String {
    let mut text = finding.message.clone();
    for (word, what) in [("found", &finding.observed), ("expected", &finding.expected)] {
        if let Some(what) = what {
            text = text.replacen(&format!("; {word} {what}"), "", 1);
        }
    }
    let is_named =
        |index: &usize| ["region", "descriptor"].iter().any(|word| mentions(&text, &format!("{word} {index}")));
    if let Some(index) = finding.region.filter(|index| !is_named(index)) {
        text = format!("{}: {text}", region_name(index, report));
    }
    if let Some(virt) = finding.virt.filter(|virt| !mentions(&text, &format!("{virt:#x}"))) {
        let pages = if finding.pages > 1 { format!("{} from ", counted(finding.pages, "page")) } else { String::new() };
        text += &format!(" ({pages}VA {virt:#x})");
    }
    printable(&text).into_owned()
}

/// Whether the text has the word, not merely as the beginning of a longer number.
fn mentions(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| !text[at + word.len()..].starts_with(|next: char| next.is_ascii_hexdigit()))
}

fn region_name(index: usize, report: &Report) -> String {
    let region = report.regions.iter().find(|region| region.region.index == index);
    match region {
        Some(region) => format!("region {index} ({} at {:#x})", type_name(region.region.ty), region.region.phys),
        None => format!("region {index}"),
    }
}

/// What was observed; an error code in words, too.
fn found(finding: &Finding) -> Option<String> {
    let observed = finding.observed.as_ref()?.to_string();
    let meaning = finding.error_code().map_or_else(String::new, |code| format!(": {}", error_code::summary(code)));
    Some(format!("{}{meaning}", printable(&observed)))
}

fn witnesses(witnesses: &[Witness]) -> String {
    let name = |witness: &Witness| match witness {
        Witness::Expectation => "the memory map and the layout",
        Witness::Mmu => "the guest's MMU",
        Witness::Walk => "the software walk",
        Witness::KvmTranslate => "KVM_TRANSLATE",
        Witness::Run => "what happened in the run",
    };
    witnesses.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Bits that are reserved by what the guest was told, and that the machine lets pass: without this, a reader would
/// wonder why nothing faulted.
fn not_enforced(finding: &Finding, cpu: &Cpu) -> Option<String> {
    let step = finding.walk.iter().find(|step| step.reserved != 0)?;
    let enforced = reserved_reasons(step.level, step.entry, &cpu.checks).any(|(guilty, _)| guilty != 0);
    if enforced {
        return None;
    }
    let checks = differences(&cpu.told, &cpu.checks).join(", ");
    Some(format!("this machine lets those bits pass (it checks {checks}): only the walk sees them"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Place;
    use crate::mmu::Paging;
    use crate::report::samples;

    #[test]
    fn one_mistake_in_many_places_is_shown_a_few_times() {
        let mut report = samples::reserved_bit();
        report.findings = vec![report.findings[0].clone(); 9];
        report.findings_omitted = 3;
        let shown = lines(&report, Paint::PLAIN);
        assert_eq!(shown.iter().filter(|line| line.contains(". reserved-bit")).count(), MAX_OF_RULE);
        assert_eq!(shown[shown.len() - 2], "... and 5 alike, in full in the JSON: reserved-bit (5)");
        assert_eq!(shown[shown.len() - 1], "... and 3 that the report has no room for");
    }

    #[test]
    fn region_and_pages_are_told_where_the_message_does_not() {
        let mut report = samples::reserved_bit();
        report.findings[0].message = "region 11 is in the way".into();
        assert_eq!(
            sentence(&report.findings[0], &report),
            "region 1 (RuntimeServicesData at 0x7e107000): region 11 is in the way (512 pages from VA 0xffffffff00000000)"
        );
        report.findings[0].virt = None;
        for named in ["region 1 is in the way", "descriptor 1 (RuntimeServicesData) starts within a page"] {
            report.findings[0].message = named.into();
            assert_eq!(sentence(&report.findings[0], &report), named, "named once");
        }
    }

    #[test]
    fn the_line_that_set_the_entry_is_told_where_it_is_known() {
        let mut report = samples::reserved_bit();
        assert!(!lines(&report, Paint::PLAIN).iter().any(|line| line.contains("set by")));
        report.findings[0].set_by =
            Some(Place { function: Some("map_region".into()), file: Some("mapper.c".into()), line: Some(41) });
        let shown = lines(&report, Paint::PLAIN);
        assert!(shown.iter().any(|line| line == "   set by     map_region at mapper.c:41"), "{shown:#?}");
    }

    #[test]
    fn a_machine_that_lets_the_bits_pass_is_named() {
        let mut report = samples::reserved_bit();
        report.findings[0].walk[2].entry = 1 << 46 | 0x20_0083;
        report.findings[0].walk[2].reserved = 1 << 46;
        report.cpu.checks = Paging { maxphyaddr: 48, ..report.cpu.told };
        let shown = lines(&report, Paint::PLAIN).join("\n");
        assert!(
            shown.contains("   but        this machine lets those bits pass (it checks MAXPHYADDR 48): only the walk"),
            "{shown}"
        );
    }
}
