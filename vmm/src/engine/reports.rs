//! Reports on runs that have not begun, or do not come to a mapper.

use std::ops::RangeInclusive;

use efibed_guest::mapper::KeepRange;

use super::{Job, left_out, regions};
use crate::check::{self, Marks, Phase, Rule, Skipped};
use crate::guest::{NoRoom, Strides};
use crate::mmu::{Cpu, Va};
use crate::report::{EngineName, Report, Timing};

/// A report on a job of which nothing is known yet.
pub fn empty(job: &Job<'_>, engine: EngineName, cpu: Cpu) -> Report {
    Report {
        source: job.map.source().to_owned(),
        mapper: job.subject.name().clone(),
        engine,
        cpu,
        regions: Vec::new(),
        probes: Default::default(),
        findings: Vec::new(),
        findings_omitted: 0,
        faults: Vec::new(),
        faults_omitted: 0,
        uncalled: None,
        calls: Vec::new(),
        skipped: Vec::new(),
        expected_rules: None,
        notes: job.subject.notes().collect(),
        timing: Timing::default(),
        runs: Vec::new(),
        virtual_map: Vec::new(),
        tables: Vec::new(),
        counters: Vec::new(),
    }
}

/// The report on a kernel that misreads the memory map: it would map regions that firmware does not have, so it is not run.
/// `marks` are what is wrong with the map itself. False: it reads the map rightly.
pub fn misread_map(job: &Job<'_>, report: &mut Report, marks: &mut Marks) -> bool {
    let Strides { firmware, kernel } = job.strides();
    let Some(finding) = check::misread(job.map, firmware, kernel) else { return false };
    marks.push_finding(finding);
    file_input(job, report, std::mem::take(marks));
    let why = "the kernel misreads the memory map";
    report.uncalled = Some(why.into());
    report.skipped.extend(left_out::asked_of_services(job).map(|what| Skipped::not_done(what, why)));
    report.regions = regions::reports(job.map, None, &report.findings);
    true
}

/// The report on a map that leaves no room for the guest. `input` are what is wrong with the map itself.
pub fn without_room(job: &Job<'_>, mut report: Report, mut input: Marks, no_room: &NoRoom) -> Report {
    input.push_worded(Phase::Input, Rule::NoRoom, None, no_room.to_string());
    file_input(job, &mut report, input);
    report.regions = regions::reports(job.map, None, &report.findings);
    report
}

/// Files what is wrong with the map itself. Every engine does it before it runs anything: these findings come first, are of phase
/// `input`, and are mixed with none of a later phase.
pub fn file_input(job: &Job<'_>, report: &mut Report, input: Marks) {
    report.findings_omitted += input.omitted();
    report.findings.extend(input.into_findings(Phase::Input, job.map, None));
}

/// The kernel's ranges, as the checks take them.
pub fn ranges(keep: &[KeepRange]) -> Vec<RangeInclusive<Va>> {
    keep.iter().map(|range| Va(range.first)..=Va(range.last)).collect()
}
