//! The report as a person reads it: the verdict first, then what was run, then what became of it.
//!
//! Sections with nothing to say are left out, and so is what is all alike: JSON has every detail.

pub(super) mod faults;
pub(super) mod findings;
pub(super) mod headline;
mod regions;
pub(super) mod tables;

use std::fmt;
use std::time::Duration;

use uefi_raw::Status;

use super::style::{Paint, counted, printable};
use super::{CallReport, EngineName, Report};
use crate::check::{ProbeCounts, Skipped};
use crate::memory_map::PAGE_BYTES;
use crate::mmu::{Paging, Vendor};

/// Parts of it on lines, for those who show no more.
#[cfg(feature = "cli")]
pub(crate) use self::{
    findings::lines as finding_lines, headline::lines as headline_lines, regions::lines as region_lines,
    tables::lines as table_lines,
};

/// A report to be displayed. No newline at the end.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    report: &'a Report,
    paint: Paint,
}

impl<'a> Text<'a> {
    /// Without colour.
    pub fn plain(report: &'a Report) -> Self {
        Self { report, paint: Paint::PLAIN }
    }

    /// With colour, for a terminal.
    pub fn coloured(report: &'a Report) -> Self {
        Self { report, paint: Paint::COLOURED }
    }

    /// The same for a terminal of so many columns; None: for a file or a pipe.
    #[must_use]
    pub fn columns(self, columns: Option<usize>) -> Self {
        Self { paint: self.paint.on(columns), ..self }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, paint } = *self;
        let sections = [
            headline::lines(report, paint),
            what_was_run(report, paint),
            regions::lines(report, paint),
            tables::lines(report, paint),
            findings::lines(report, paint),
            faults::lines(report, paint),
            calls(&report.calls, paint),
            skipped(&report.skipped, paint),
            notes(&report.notes, paint),
            totals(report, paint),
        ];
        let mut between = "";
        for section in sections.iter().filter(|section| !section.is_empty()) {
            write!(f, "{between}{}", section.join("\n"))?;
            between = "\n\n";
        }
        Ok(())
    }
}

/// Notes shown.
const MAX_NOTES: usize = 8;
/// Where the text beside a label of the first section begins.
const LABEL: usize = 11;

fn what_was_run(report: &Report, paint: Paint) -> Vec<String> {
    let Report { source, mapper, engine, cpu, .. } = report;
    let descriptors = counted(report.regions.len() as u64, "descriptor");
    let engine = match engine {
        EngineName::Kvm => "kvm",
        EngineName::Walker => "walker (the mapping code ran natively)",
    };
    let mut lines = paint.labelled("  map", &format!("{}, {descriptors}", printable(source)), LABEL);
    lines.extend(paint.labelled("  mapper", &mapper.to_string(), LABEL));
    lines.extend(paint.labelled("  engine", engine, LABEL));
    lines.extend(paint.labelled("  cpu", &told(&cpu.told), LABEL));
    let other = differences(&cpu.told, &cpu.checks);
    if !other.is_empty() {
        let text = format!("{}; the rest as told", other.join(", "));
        lines.extend(paint.labelled("  checks", &text, LABEL));
    }
    lines
}

/// What the guest was told of its CPU. What every x86-64 CPU has is named only where it is missing.
pub(super) fn told(paging: &Paging) -> String {
    let mut words = vec![format!("MAXPHYADDR {}", paging.maxphyaddr), levels(paging).into()];
    for Feature { name, set, is_usual } in features(paging) {
        match (set, is_usual) {
            (true, _) => words.push(name.into()),
            (false, true) => words.push(format!("no {name}")),
            (false, false) => {}
        }
    }
    if paging.vendor == Vendor::Amd {
        words.push("AMD".into());
    }
    words.join(", ")
}

/// Where the machine enforces something else than it says.
pub(super) fn differences(told: &Paging, checks: &Paging) -> Vec<String> {
    let mut words = Vec::new();
    if told.maxphyaddr != checks.maxphyaddr {
        words.push(format!("MAXPHYADDR {}", checks.maxphyaddr));
    }
    if told.la57 != checks.la57 {
        words.push(levels(checks).into());
    }
    for (told, Feature { name, set, .. }) in features(told).into_iter().zip(features(checks)) {
        match (told.set, set) {
            (false, true) => words.push(name.into()),
            (true, false) => words.push(format!("no {name}")),
            _ => {}
        }
    }
    if !checks.reserved_fault_sets_p {
        words.push("reserved-bit faults have no P".into());
    }
    words
}

fn levels(paging: &Paging) -> &'static str {
    if paging.la57 { "5-level" } else { "4-level" }
}

struct Feature {
    name: &'static str,
    set: bool,
    is_usual: bool,
}

fn features(paging: &Paging) -> [Feature; 6] {
    let feature = |name, set, is_usual| Feature { name, set, is_usual };
    [
        feature("1 GiB pages", paging.gbpages, true),
        feature("NX", paging.nxe, true),
        feature("WP", paging.wp, true),
        feature("SMEP", paging.smep, false),
        feature("SMAP", paging.smap, false),
        feature("protection keys", paging.pke, false),
    ]
}

/// Services that were called alike, one after another, share an entry.
pub(super) fn calls(calls: &[CallReport], paint: Paint) -> Vec<String> {
    if calls.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![paint.bold("calls")];
    for alike in calls.chunk_by(are_alike) {
        let (head, rest) = (alike.first(), alike.iter().map(|call| call.service).collect::<Vec<_>>());
        let Some(call) = head else { continue };
        let phase = format!("  {:<6}", call.phase.name());
        lines.extend(paint.labelled(&phase, &how_it_went(call, alike.len(), paint), 10));
        lines.extend(paint.labelled("         ", &rest.join(", "), 10));
    }
    lines
}

fn are_alike(one: &CallReport, other: &CallReport) -> bool {
    let page = |call: &CallReport| call.rip.map(|rip| rip & !(PAGE_BYTES - 1));
    let key = |call: &CallReport| (call.phase, call.tables, call.status, call.expected, call.cr3, page(call));
    key(one) == key(other) && one.reason == other.reason
}

fn how_it_went(call: &CallReport, count: usize, paint: Paint) -> String {
    let mut text = match (call.status, call.rip) {
        (Some(0), _) if call.is_right() => paint.right("EFI_SUCCESS"),
        (Some(status), _) if call.is_right() => format!("{}, as it must,", paint.right(status_name(status))),
        (Some(status), _) => paint.bold(status_name(status)),
        (None, Some(_)) if call.is_right() => format!("{}, as it must not,", paint.right("did not return")),
        (None, Some(_)) => paint.bold("did not return"),
        (None, None) => paint.bold("not called"),
    };
    if call.rip.is_some() {
        text += match call.tables {
            "mapper" => " on the mapper's tables",
            _ => " on the boot tables",
        };
    }
    for (name, value) in [("RIP", call.rip), ("CR3", call.cr3)] {
        let Some(value) = value else { continue };
        match (name, count) {
            ("RIP", 2..) => text += &format!(", in the page at {:#x}", value & !(PAGE_BYTES - 1)),
            _ => text += &format!(", {name} {value:#x}"),
        }
    }
    if let Some(reason) = &call.reason {
        text += &format!(": {}", printable(reason));
    }
    text
}

/// `EFI_INVALID_PARAMETER`, by UEFI 2.10, appendix D; a number where that has no name.
fn status_name(status: u64) -> String {
    let number = || format!("status {status:#x}");
    let Ok(value) = usize::try_from(status) else {
        return number();
    };
    match format!("{:?}", Status(value)) {
        unnamed if unnamed.contains('(') => number(),
        name => format!("EFI_{name}"),
    }
}

pub(super) fn skipped(skipped: &[Skipped], paint: Paint) -> Vec<String> {
    if skipped.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![paint.bold("not asked")];
    let width = skipped.iter().map(|skipped| skipped.count.to_string().len()).max().unwrap_or(0);
    for Skipped { what, reason, count, .. } in skipped {
        let text = format!("{}: {}", printable(what), printable(reason));
        lines.extend(paint.labelled(&format!("  {count:>width$}"), &text, width + 4));
    }
    lines
}

pub(super) fn notes(notes: &[String], paint: Paint) -> Vec<String> {
    if notes.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![paint.bold("odd, but not wrong")];
    for note in &notes[..notes.len().min(MAX_NOTES)] {
        lines.extend(paint.labelled("  -", &printable(note), 4));
    }
    if notes.len() > MAX_NOTES {
        lines.push(format!("  ... and {} more", notes.len() - MAX_NOTES));
    }
    lines
}

fn faulted(ProbeCounts { faulted, faulted_rightly, .. }: ProbeCounts) -> String {
    match faulted_rightly {
        0 => format!("{faulted} faulted"),
        right if right == faulted => format!("{faulted} faulted, as they must"),
        right => format!("{faulted} faulted, {right} of them as they must"),
    }
}

fn totals(report: &Report, paint: Paint) -> Vec<String> {
    let (probes, timing) = (report.probes, report.timing);
    let asked = match report.engine {
        EngineName::Walker => "no access was made in a guest".into(),
        EngineName::Kvm => format!(
            "{} accesses, {}; {} verified",
            probes.total,
            faulted(probes),
            counted(probes.pages_verified, "page")
        ),
    };
    let millis = |duration: Duration| format!("{:.1}", duration.as_secs_f64() * 1e3);
    let [total, build, map, probe, check] =
        [timing.total, timing.build, timing.map, timing.probe, timing.check].map(millis);
    let text = format!("{asked}; {total} ms (build {build}, map {map}, probe {probe}, check {check})");
    paint.wrapped(&text, 2)
}

#[cfg(test)]
mod tests;
