//! The verdict, and how much it stands for.

use super::super::style::{Paint, counted, printable, tally};
use super::super::{EngineName, Report, RunVerdict, Verdict};
use crate::check::{Rule, SkipKind};

/// What was not done, named at most; JSON has all of it.
const MAX_NOT_DONE: usize = 16;

pub(crate) fn lines(report: &Report, paint: Paint) -> Vec<String> {
    sentences(report).into_iter().flat_map(|(text, is_right)| painted(&text, is_right, paint)).collect()
}

/// The same on one line, without colour: that something was only sampled is said, and not what.
pub(in super::super) fn line(report: &Report) -> String {
    let sentences: Vec<String> = match report.verdict() {
        RunVerdict::Clean => {
            let is_sampled = report.skipped.iter().any(|skipped| skipped.kind == SkipKind::Sample);
            let sampled = if is_sampled { "; in part only sampled" } else { "" };
            vec![format!("{}{sampled}{}", clean_in_short(report), uncalled(report))]
        }
        _ => sentences(report).into_iter().map(|(text, _)| text).collect(),
    };
    sentences.join("; ")
}

/// What there is to say, and whether it is good.
fn sentences(report: &Report) -> Vec<(String, bool)> {
    let mut all = match report.verdict() {
        RunVerdict::Clean => vec![(clean(report), true)],
        RunVerdict::Incomplete => vec![(incomplete(report), false)],
        RunVerdict::Findings => Vec::new(),
    };
    if let Some(text) = against_expectation(report) {
        all.push((text, report.expected().is_some_and(|expected| expected.is_met())));
    }
    if !report.findings.is_empty() {
        all.push((findings(report), false));
    }
    all
}

/// Text as lines, what is before its first colon in colour.
fn painted(text: &str, is_right: bool, paint: Paint) -> Vec<String> {
    let mut lines = paint.wrapped(text, 0);
    if let Some(first) = lines.first_mut() {
        let title = first.split(':').next().unwrap_or_default();
        let in_colour = if is_right { paint.right(title) } else { paint.wrong(title) };
        *first = in_colour + &first[title.len()..];
    }
    lines
}

/// How much is clean, and who says so.
fn clean(report: &Report) -> String {
    let mut text = clean_in_short(report);
    let sampled = report.skipped.iter().filter(|skipped| skipped.kind == SkipKind::Sample);
    let sampled: Vec<_> = sampled.map(|row| format!("{} {}", row.count, printable(&row.what))).collect();
    if !sampled.is_empty() {
        text += &format!("; only sampled: {}", sampled.join("; "));
    }
    text + &uncalled(report)
}

fn clean_in_short(report: &Report) -> String {
    let as_expected = if report.expected_rules.is_some() { ", as expected" } else { "" };
    format!("clean{as_expected}: {}", what_is_clean(report))
}

fn uncalled(report: &Report) -> String {
    let reason = report.uncalled.as_deref().map(printable);
    reason.map(|reason| format!("; no runtime service was called: {reason}")).unwrap_or_default()
}

fn what_is_clean(report: &Report) -> String {
    let owed = report.regions.iter().filter(|region| region.verdict != Verdict::NotOwed);
    let (count, pages) =
        owed.fold((0, 0_u64), |(count, pages), region| (count + 1, pages.saturating_add(region.region.pages)));
    if count == 0 {
        return "the map has no region that must be mapped".into();
    }
    let verified = report.probes.pages_verified;
    let who = match report.engine {
        EngineName::Walker => ", by the software walk alone: no MMU was asked, and no service called".into(),
        EngineName::Kvm if verified >= pages => ", each reached by the guest's MMU".into(),
        EngineName::Kvm => format!("; the guest's MMU reached {verified} of them, the software walk all"),
    };
    format!("{}, {}{who}", counted(count, "region"), counted(pages, "page"))
}

/// What was not done, by reason.
fn incomplete(report: &Report) -> String {
    let rows: Vec<_> = report.not_done().collect();
    let (named, more) = rows.split_at(rows.len().min(MAX_NOT_DONE));
    let groups = named.chunk_by(|one, next| one.reason == next.reason).map(|group| {
        let names: Vec<_> = group.iter().map(|row| printable(&row.what)).collect();
        let reason = group.first().map(|row| printable(&row.reason)).unwrap_or_default();
        format!("{} ({reason})", names.join(", "))
    });
    let text = groups.collect::<Vec<_>>().join("; ");
    match more.len() {
        0 => format!("incomplete: not done: {text}"),
        more => format!("incomplete: not done: {text}; and {more} more"),
    }
}

/// Whether just what the scenario expects was found. A clean run says so itself.
fn against_expectation(report: &Report) -> Option<String> {
    let expected = report.expected()?;
    if expected.is_met() {
        return (report.verdict() != RunVerdict::Clean).then(|| format!("as expected: {}", list(&expected.rules)));
    }
    let part = |name: &str, rules: &[Rule]| (!rules.is_empty()).then(|| format!("{name} {}", list(rules)));
    let parts = [part("missing", &expected.missing), part("found besides", &expected.unexpected)];
    Some(format!("not as expected: {}", parts.into_iter().flatten().collect::<Vec<_>>().join("; ")))
}

fn list(rules: &[Rule]) -> String {
    match rules {
        [] => "no findings".into(),
        rules => rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", "),
    }
}

fn findings(report: &Report) -> String {
    let rules = match report.findings.as_slice() {
        [only] => only.rule.to_string(),
        many => tally(many.iter().map(|finding| finding.rule)),
    };
    let mut title = counted(report.findings.len() as u64, "finding");
    if report.findings_omitted > 0 {
        title += &format!(", and {} left out", report.findings_omitted);
    }
    let by_whom = match report.engine {
        EngineName::Kvm => "",
        EngineName::Walker => " (by the software walk alone: no MMU was asked)",
    };
    format!("{title}: {rules}{by_whom}")
}
