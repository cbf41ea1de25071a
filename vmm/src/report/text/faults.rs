//! The faults that had no business to be: one of each kind, and their error codes bit by bit.

use std::collections::BTreeSet;

use crate::mmu::{ErrorCode, Fault};
use crate::report::style::{Paint, printable, wrapped};
use crate::report::{Culprit, FaultDetail, Report, error_code};

/// Faults shown, and error codes explained.
const MAX_SHOWN: usize = 12;
const MAX_CODES: usize = 4;

pub(in crate::report) fn lines(report: &Report, paint: Paint) -> Vec<String> {
    if report.faults.is_empty() && report.faults_omitted == 0 {
        return Vec::new();
    }
    let shown = one_of_each_kind(&report.faults);
    let all = report.faults_omitted.saturating_add(report.faults.len() as u64);
    let title = match all - shown.len() as u64 {
        0 => String::new(),
        more => format!(" (one of each kind in a region; {more} more)"),
    };
    let mut lines = vec![format!("{}{}", paint.bold("unexpected faults"), paint.dim(title))];
    shown.iter().for_each(|fault| lines.extend(one(fault, paint)));
    lines.extend(codes_explained(&shown, paint));
    lines
}

fn one_of_each_kind(faults: &[FaultDetail]) -> Vec<&FaultDetail> {
    let mut seen = BTreeSet::new();
    let is_new = |fault: &&FaultDetail| {
        let record = &fault.record;
        let kind = (fault.phase, record.region, record.access.to_string(), fault.service);
        seen.insert((kind, record.fault.vector, record.fault.error_code))
    };
    faults.iter().filter(is_new).take(MAX_SHOWN).collect()
}

fn one(fault: &FaultDetail, paint: Paint) -> Vec<String> {
    let record = &fault.record;
    let region = record.region.map_or_else(String::new, |index| format!(", region {index}"));
    let raised = paint.wrong(record.fault);
    let mut place = format!("RIP {:#x}", record.rip);
    // #GP and #SS leave CR2 as it was.
    if record.fault.vector == Fault::PAGE_FAULT {
        place = format!("CR2 {:#x}, {place}", record.cr2);
    }
    if let Some(instruction) = &fault.instruction {
        place += &format!(": {}", printable(instruction));
    }
    let what = format!("{} at {:#x}{region}: {raised}{}", record.access, record.virt, by_whom(fault));
    let what = wrapped(&what, paint.width() - 2, 2).into_iter().map(|line| format!("  {line}"));
    let place = paint.labelled("", &place, 4).into_iter().map(|line| paint.dim(line));
    what.chain(place).collect()
}

/// Of a fault in a runtime service: in which, and whose fault it was.
fn by_whom(fault: &FaultDetail) -> String {
    let Some(service) = fault.service else { return String::new() };
    match fault.culprit {
        Culprit::MappingCode => format!(", in {service}"),
        Culprit::AttributesTable => format!(", in {service}, by firmware's own Memory Attributes Table"),
        Culprit::Kernel => format!(", in the call of {service}, by the kernel's fault"),
        Culprit::Firmware(misbehaviour) => format!(", in {service}, by firmware's own fault ({})", misbehaviour.name()),
    }
}

/// Each page fault's error code once.
fn codes_explained(faults: &[&FaultDetail], paint: Paint) -> Vec<String> {
    let page_faults = faults.iter().map(|fault| fault.record.fault).filter(|fault| fault.vector == Fault::PAGE_FAULT);
    let codes: BTreeSet<ErrorCode> = page_faults.map(|fault| fault.error_code).collect();
    let mut lines = Vec::new();
    for code in codes.iter().take(MAX_CODES) {
        lines.extend(paint.labelled("", &format!("{:#x} says: {}", code.0, error_code::summary(*code)), 2));
        lines.extend(error_code::bit_lines(*code, 4, paint).iter().map(|line| paint.dim(line)));
        let odd = error_code::contradictions(*code);
        lines.extend(odd.iter().flat_map(|odd| paint.labelled("    !", odd, 6)));
    }
    if codes.len() > MAX_CODES {
        lines.push("  `efibed explain` says the same of any other error code".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::Misbehaviour;
    use crate::mmu::Access;
    use crate::report::samples;

    #[test]
    fn each_kind_is_shown_once() {
        let mut report = samples::reserved_bit();
        report.faults_omitted = 0;
        let mut fetch = report.faults[0].clone();
        fetch.record.access = Access::fetch();
        fetch.record.fault = Fault::page(ErrorCode(0x19));
        report.faults.push(fetch);
        let shown = lines(&report, Paint::PLAIN);
        assert_eq!(shown[0], "unexpected faults (one of each kind in a region; 1 more)");
        assert_eq!(shown[3], "  supervisor fetch at 0xffffffff00000000, region 1: #PF 0x19 (P RSVD I)");
    }

    #[test]
    fn a_fault_in_a_service_says_whose_it_was() {
        let mut report = samples::reserved_bit();
        report.faults_omitted = 0;
        report.faults.truncate(1);
        report.faults[0].service = Some("GetTime");
        for (culprit, says) in [
            (Culprit::MappingCode, "#PF 0xb (P W RSVD), in GetTime"),
            (Culprit::Kernel, "#PF 0xb (P W RSVD), in the call of GetTime, by the kernel's fault"),
            (Culprit::AttributesTable, "#PF 0xb (P W RSVD), in GetTime, by firmware's own Memory Attributes Table"),
            (Culprit::Firmware(Misbehaviour::Seam), "#PF 0xb (P W RSVD), in GetTime, by firmware's own fault (seam)"),
        ] {
            report.faults[0].culprit = culprit;
            let shown = lines(&report, Paint::PLAIN).join("\n");
            let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            let expected = format!("supervisor write at 0xffffffff00000000, region 1: {says} CR2 ");
            assert!(words.contains(&expected), "{shown}");
        }
    }

    #[test]
    fn a_general_protection_fault_has_no_cr2_and_no_flags() {
        let mut report = samples::reserved_bit();
        report.faults_omitted = 0;
        report.faults.truncate(1);
        report.faults[0].record.fault = Fault { vector: Fault::GENERAL_PROTECTION, error_code: ErrorCode(0) };
        let shown = lines(&report, Paint::PLAIN);
        assert_eq!(
            shown,
            [
                "unexpected faults",
                "  supervisor write at 0xffffffff00000000, region 1: #GP(0x0)",
                "    RIP 0xffffffff80001234: mov %rax,(%rax)"
            ]
        );
    }
}
