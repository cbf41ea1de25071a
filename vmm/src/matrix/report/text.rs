//! The matrix's results, for a person.

use std::fmt::{self, Write as _};

use super::{MatrixReport, Mismatch};
use crate::matrix::Single;

/// Mismatches that are shown; the rest is counted.
const SHOWN: usize = 12;

/// How a person reads a report.
pub struct Text<'a>(pub &'a MatrixReport);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        numbers(f, report)?;
        parts(f, report)?;
        mismatches(f, report)?;
        deviations(f, report)?;
        skipped(f, report)?;
        writeln!(f, "\n{}", verdict(report))
    }
}

fn numbers(f: &mut fmt::Formatter<'_>, report: &MatrixReport) -> fmt::Result {
    let codes: String = report.error_codes.iter().map(|code| format!(" {code:#x}")).collect();
    writeln!(f, "Paging matrix, set {}{}\n", report.set.name(), share(report))?;
    writeln!(f, "  combinations {:>12}   each executed in a guest, which counted them", grouped(report.combinations))?;
    let kinds = counted(report.error_codes.len() as u64, "error code");
    writeln!(f, "  faults       {:>12}   {kinds}:{codes}", grouped(report.faults))?;
    writeln!(f, "  mismatches   {:>12}", grouped(report.mismatches))?;
    let (seconds, rate) = (report.elapsed.as_secs_f64(), grouped(report.per_second() as u64));
    writeln!(f, "  per second   {rate:>12}   {seconds:.1} s in all, {}", counted(report.threads as u64, "guest"))?;
    if let (Some(floor), Some(over)) = (report.floor_per_second(), report.over_floor()) {
        writeln!(
            f,
            "  floor        {:>12}   by bare loops: the matrix takes {over:.2} of their time",
            grouped(floor as u64)
        )?;
    }
    Ok(())
}

/// What of the set was run, if not all of it.
fn share(report: &MatrixReport) -> String {
    let mut text = String::new();
    if let Some(sample) = report.sample {
        // Writing to a string does not fail.
        let _ = write!(text, ", a sample of {} with seed {}", grouped(sample), report.seed);
    }
    if report.shard.of.get() > 1 {
        let _ = write!(text, ", shard {}/{}", report.shard.number, report.shard.of);
    }
    text
}

fn parts(f: &mut fmt::Formatter<'_>, report: &MatrixReport) -> fmt::Result {
    if report.parts.len() < 2 {
        return Ok(());
    }
    writeln!(f, "\nWhat was combined:")?;
    report.parts.iter().try_for_each(|(title, count)| writeln!(f, "  {title:<36}{:>12}", grouped(*count)))
}

fn mismatches(f: &mut fmt::Formatter<'_>, report: &MatrixReport) -> fmt::Result {
    if report.mismatches == 0 {
        return Ok(());
    }
    writeln!(f, "\nMismatches: neither the SDM nor a known deviation explains them.")?;
    for mismatch in report.shown.iter().take(SHOWN) {
        writeln!(f)?;
        one(f, mismatch, "  ")?;
    }
    let more = report.mismatches - report.shown.len().min(SHOWN) as u64;
    if more > 0 { writeln!(f, "\n  and {} more", grouped(more)) } else { Ok(()) }
}

/// A combination, `indent` before each of its lines.
fn one(f: &mut fmt::Formatter<'_>, mismatch: &Mismatch, indent: &str) -> fmt::Result {
    let cpu = if mismatch.cpu.is_empty() { String::new() } else { format!(" --cpu {}", mismatch.cpu) };
    let differences: Vec<_> = mismatch.differences.iter().map(ToString::to_string).collect();
    writeln!(f, "{indent}{}", mismatch.case)?;
    writeln!(f, "{indent}  expected  {}", mismatch.expected)?;
    writeln!(f, "{indent}  observed  {}", mismatch.observed)?;
    if !differences.is_empty() {
        writeln!(f, "{indent}  differs   {}", differences.join(", "))?;
    }
    writeln!(f, "{indent}  rerun     efibed matrix --case \"{}\"{cpu}", mismatch.case)
}

fn deviations(f: &mut fmt::Formatter<'_>, report: &MatrixReport) -> fmt::Result {
    if !report.deviations.is_empty() {
        writeln!(f, "\nDeviations of this KVM from the SDM, found by the matrix:")?;
    }
    for found in &report.deviations {
        writeln!(f, "\n  {}: {}", found.name, counted(found.count, "combination"))?;
        writeln!(f, "    the rule  {}", found.rule)?;
        writeln!(f, "    here      {}", found.reason)?;
        if let Some(example) = &found.example {
            writeln!(f, "    for instance")?;
            one(f, example, "      ")?;
        }
    }
    for name in &report.not_found {
        writeln!(f, "\n  {name}: NOT found, though trials of single accesses (`efibed doctor`) show it")?;
    }
    for name in &report.not_shown {
        writeln!(f, "\n  {name}: found, though trials of single accesses (`efibed doctor`) do NOT show it")?;
    }
    Ok(())
}

fn skipped(f: &mut fmt::Formatter<'_>, report: &MatrixReport) -> fmt::Result {
    if !report.skipped.is_empty() {
        writeln!(f, "\nSkipped:")?;
    }
    report.skipped.iter().try_for_each(|skipped| {
        writeln!(f, "  {:<36}{:>12}   {}", skipped.what, grouped(skipped.count), skipped.reason)
    })
}

fn verdict(report: &MatrixReport) -> String {
    match (report.mismatches, report.deviations.len()) {
        _ if report.combinations == 0 => "Nothing was tried: this share of it is empty.".into(),
        (0, _) if !report.not_found.is_empty() => {
            "WRONG: a deviation that single accesses show was not found, so one of the two is mistaken.".into()
        }
        (0, _) if !report.not_shown.is_empty() => {
            "WRONG: a deviation was found that single accesses do not show, so one of the two is mistaken.".into()
        }
        (0, 0) => "Clean: this KVM does as the SDM says in all that was tried.".into(),
        (0, known) => format!(
            "Clean: this KVM does as the SDM says in all that was tried, but for {}.",
            counted(known as u64, "known deviation")
        ),
        (mismatches, _) => format!("WRONG: {} that nothing explains.", counted(mismatches, "combination")),
    }
}

/// How a person reads a single combination.
pub struct SingleText<'a>(pub &'a Single);

impl fmt::Display for SingleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = self.0;
        writeln!(f, "VA {:#x}, CR3 {:#x}\n", single.virt, single.root)?;
        for entry in &single.entries {
            let after =
                if entry.after == entry.before { String::new() } else { format!("  then {:#018x}", entry.after) };
            writeln!(f, "  {:<8} at {:#x}  {:#018x}{after}", entry.name, entry.at, entry.before)?;
        }
        writeln!(f)?;
        one(f, &single.outcome, "  ")?;
        let verdict = match (single.differs, &single.deviations) {
            (false, _) => "As the SDM says.".to_owned(),
            (true, Some(deviations)) => format!("A known deviation of this KVM: {}.", deviations.join(" with ")),
            (true, None) => "WRONG: neither the SDM nor a known deviation explains it.".to_owned(),
        };
        writeln!(f, "\n{verdict}")
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// With commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let groups = [(0, "0"), (999, "999"), (1000, "1,000"), (19_169_280, "19,169,280")];
        assert!(groups.iter().all(|(number, text)| grouped(*number) == *text));
    }

    fn report() -> MatrixReport {
        MatrixReport {
            set: crate::matrix::Set::Access,
            shard: crate::matrix::Shard::default(),
            sample: None,
            seed: 0,
            threads: 1,
            parts: Vec::new(),
            combinations: 5,
            faults: 3,
            error_codes: vec![0, 2],
            mismatches: 0,
            shown: Vec::new(),
            deviations: Vec::new(),
            not_found: Vec::new(),
            not_shown: Vec::new(),
            controls: Vec::new(),
            skipped: Vec::new(),
            elapsed: std::time::Duration::from_secs(1),
            floors: Vec::new(),
        }
    }

    /// The last line says what the exit status says.
    #[test]
    fn a_run_is_clean_only_if_nothing_is_left_to_explain() {
        let deviation = || vec!["1g-reserved"];
        let cases = [
            (report(), true, "Clean: this KVM does as the SDM says in all that was tried."),
            (MatrixReport { combinations: 0, ..report() }, true, "Nothing was tried"),
            (MatrixReport { mismatches: 2, ..report() }, false, "WRONG: 2 combinations that nothing explains."),
            (
                MatrixReport { not_found: deviation(), ..report() },
                false,
                "WRONG: a deviation that single accesses show",
            ),
            (MatrixReport { not_shown: deviation(), ..report() }, false, "WRONG: a deviation was found that single"),
            (
                MatrixReport { not_found: deviation(), mismatches: 1, ..report() },
                false,
                "WRONG: 1 combination that nothing explains.",
            ),
        ];
        for (report, clean, verdict) in cases {
            let text = Text(&report).to_string();
            let last = text.lines().last().unwrap_or_default();
            assert_eq!((report.is_clean(), last.starts_with(verdict)), (clean, true), "{text}");
        }
    }
}
