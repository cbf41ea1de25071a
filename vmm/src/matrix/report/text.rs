//! The matrix's results, for a person.

use std::fmt::{self, Write as _};

use super::{Found, MatrixReport};
use crate::matrix::{Mismatch, Single, Skipped};
use crate::report::style::{Paint, beside};
use crate::report::table::Columns;

/// Mismatches that are shown; the rest is counted.
const SHOWN: usize = 12;

/// How a person reads a report.
pub struct Text<'a> {
    report: &'a MatrixReport,
    paint: Paint,
}

impl<'a> Text<'a> {
    /// Without colour.
    pub fn plain(report: &'a MatrixReport) -> Self {
        Self { report, paint: Paint::PLAIN }
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
        let mut lines = numbers(report, paint);
        lines.extend(parts(report));
        lines.extend(mismatches(report, paint));
        lines.extend(deviations(report, paint));
        lines.extend(skipped(report, paint));
        lines.push(String::new());
        lines.extend(paint.wrapped(&verdict(report), 2));
        lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn numbers(report: &MatrixReport, paint: Paint) -> Vec<String> {
    let mut lines = paint.wrapped(&format!("Paging matrix, set {}{}", report.set.name(), share(report)), 2);
    lines.push(String::new());
    let mut say = |what: &str, number: u64, about: &str| {
        let label = format!("  {what:<12} {:>12}   ", grouped(number));
        let row = paint.labelled(&label, about, label.len());
        lines.extend(row.iter().map(|line| line.trim_end().to_owned()));
    };
    let executed = if report.combinations == 0 { "" } else { "each executed in a guest, which counted them" };
    say("combinations", report.combinations, executed);
    say("faults", report.faults, &error_codes(report));
    say("mismatches", report.mismatches, "");
    let (seconds, guests) = (report.elapsed.as_secs_f64(), counted(report.threads as u64, "guest"));
    say("per second", report.per_second() as u64, &format!("{seconds:.1} s in all, {guests}"));
    if let (Some(floor), Some(over)) = (report.floor_per_second(), report.over_floor()) {
        say("floor", floor as u64, &format!("by bare loops: the matrix takes {over:.2} of their time"));
    }
    lines
}

fn error_codes(report: &MatrixReport) -> String {
    if report.error_codes.is_empty() {
        return String::new();
    }
    let codes: String = report.error_codes.iter().map(|code| format!(" {code:#x}")).collect();
    format!("{}:{codes}", counted(report.error_codes.len() as u64, "error code"))
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

/// What was combined; a share may have nothing of some parts.
fn parts(report: &MatrixReport) -> Vec<String> {
    let some: Vec<_> = report.parts.iter().filter(|(_, count)| *count > 0).collect();
    if some.len() < 2 {
        return Vec::new();
    }
    let rows = some.into_iter().map(|(title, count)| format!("  {title:<36}{:>12}", grouped(*count)));
    [String::new(), "What was combined:".into()].into_iter().chain(rows).collect()
}

fn mismatches(report: &MatrixReport, paint: Paint) -> Vec<String> {
    if report.mismatches == 0 {
        return Vec::new();
    }
    let mut lines = vec![String::new(), "Mismatches: neither the SDM nor a known deviation explains them.".into()];
    for mismatch in report.shown.iter().take(SHOWN) {
        lines.push(String::new());
        lines.extend(one(mismatch, 2, paint));
    }
    let more = report.mismatches - report.shown.len().min(SHOWN) as u64;
    if more > 0 {
        lines.extend([String::new(), format!("  and {} more", grouped(more))]);
    }
    lines
}

/// A combination, `indent` blanks before each of its lines.
fn one(mismatch: &Mismatch, indent: usize, paint: Paint) -> Vec<String> {
    let mut lines = paint.row("", &mismatch.case, indent);
    let mut say = |label: &str, text: &str| {
        let label = format!("{:indent$}  {label:<10}", "");
        lines.extend(paint.row(&label, text, label.len()));
    };
    let differences: Vec<_> = mismatch.differences.iter().map(ToString::to_string).collect();
    say("expected", &mismatch.expected);
    say("observed", &mismatch.observed);
    if !differences.is_empty() {
        say("differs", &differences.join(", "));
    }
    let cpu = if mismatch.cpu.is_empty() { String::new() } else { format!(" --cpu {}", mismatch.cpu) };
    let label = format!("{:indent$}  rerun     ", "");
    let width = paint.table_width().saturating_sub(" \\".len());
    let mut command = beside(&label, &format!("efibed matrix --case \"{}\"{cpu}", mismatch.case), label.len(), width);
    let last = command.len() - 1;
    // As a shell reads it: it can be copied as it stands.
    command[..last].iter_mut().for_each(|line| line.push_str(" \\"));
    lines.extend(command);
    lines
}

fn deviations(report: &MatrixReport, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    if !report.deviations.is_empty() {
        lines.extend([String::new(), "Deviations of this KVM from the SDM, found by the matrix:".into()]);
    }
    for found in &report.deviations {
        lines.push(String::new());
        lines.push(format!("  {}: {}", found.name, how_often(found)));
        lines.extend(paint.labelled("    the rule", found.rule, 14));
        lines.extend(paint.labelled("    here", found.reason, 14));
        if let Some(example) = &found.example {
            lines.push("    for instance".into());
            lines.extend(one(example, 6, paint));
        }
    }
    let not_found = report
        .not_found
        .iter()
        .map(|name| format!("{name}: NOT found, though trials of single accesses (`efibed doctor`) show it"));
    let not_shown = report
        .not_shown
        .iter()
        .map(|name| format!("{name}: found, though trials of single accesses (`efibed doctor`) do NOT show it"));
    for text in not_found.chain(not_shown) {
        lines.push(String::new());
        lines.extend(paint.labelled("", &text, 2));
    }
    lines
}

fn how_often(found: &Found) -> String {
    match found.is_of_trials {
        true => format!("{} of the trial accesses before the combinations", grouped(found.count)),
        false => counted(found.count, "combination"),
    }
}

fn skipped(report: &MatrixReport, paint: Paint) -> Vec<String> {
    if report.skipped.is_empty() {
        return Vec::new();
    }
    let row = |skipped: &Skipped| [skipped.what.clone(), grouped(skipped.count), skipped.reason.clone()];
    let rows: Vec<_> = report.skipped.iter().map(row).collect();
    let columns = Columns::of(["", "", ""], [false, true, false], &rows).within(paint.table_width(), &[2]);
    let rows = rows.iter().flat_map(|row| columns.lines(row));
    [String::new(), "Skipped, by how many combinations and why:".into()].into_iter().chain(rows).collect()
}

fn verdict(report: &MatrixReport) -> String {
    match (report.mismatches, report.deviations.len()) {
        _ if report.combinations == 0 => format!("Nothing was tried: {}.", why_nothing(report)),
        (0, _) if !report.not_found.is_empty() => {
            "WRONG: a deviation that single accesses show was not found, so one of the two is mistaken.".into()
        }
        (0, _) if !report.not_shown.is_empty() => {
            "WRONG: a deviation was found that single accesses do not show, so one of the two is mistaken.".into()
        }
        (0, 0) => "Clean: this KVM does as the SDM says in all that was tried.".into(),
        (0, known) => format!(
            "Clean: this KVM does as the SDM says in all that was tried, except for {}.",
            counted(known as u64, "known deviation")
        ),
        (mismatches, _) => format!("WRONG: {} that nothing explains.", counted(mismatches, "combination")),
    }
}

fn why_nothing(report: &MatrixReport) -> &'static str {
    match report.sample {
        Some(0) => "a sample of none was asked for",
        _ if report.shard.of.get() > 1 => "this share of it is empty",
        _ => "all of it is skipped",
    }
}

/// How a person reads a single combination.
pub struct SingleText<'a> {
    single: &'a Single,
    paint: Paint,
}

impl<'a> SingleText<'a> {
    /// Without colour.
    pub fn plain(single: &'a Single) -> Self {
        Self { single, paint: Paint::PLAIN }
    }

    /// The same for a terminal of so many columns; None: for a file or a pipe.
    #[must_use]
    pub fn columns(self, columns: Option<usize>) -> Self {
        Self { paint: self.paint.on(columns), ..self }
    }
}

impl fmt::Display for SingleText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { single, paint } = *self;
        let mut lines = vec![format!("VA {:#x}, CR3 {:#x}", single.virt, single.root), String::new()];
        for entry in &single.entries {
            let after =
                if entry.after == entry.before { String::new() } else { format!("  then {:#018x}", entry.after) };
            lines.push(format!("  {:<8} at {:#x}  {:#018x}{after}", entry.name, entry.at, entry.before));
        }
        lines.push(String::new());
        lines.extend(one(&single.outcome, 2, paint));
        let verdict = match (single.differs, &single.deviations) {
            (false, _) => "As the SDM says.".to_owned(),
            (true, Some(deviations)) => format!("A known deviation of this KVM: {}.", deviations.join(" with ")),
            (true, None) => "WRONG: neither the SDM nor a known deviation explains it.".to_owned(),
        };
        lines.push(String::new());
        lines.extend(paint.wrapped(&verdict, 2));
        lines.iter().try_for_each(|line| writeln!(f, "{line}"))
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
    use crate::matrix::deviations::DEVIATIONS;
    use crate::matrix::judge::Difference;

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
            (MatrixReport { combinations: 0, ..report() }, true, "Nothing was tried: all of it is skipped."),
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
            let text = Text::plain(&report).to_string();
            let last = text.lines().last().unwrap_or_default();
            assert_eq!((report.is_clean(), last.starts_with(verdict)), (clean, true), "{text}");
        }
    }

    /// The most that may stand in a report, with names as long as they come.
    fn full() -> MatrixReport {
        let case =
            "pml4e.p pml4e.w pml4e.u pdpte.p pdpte.w pdpte.u pde.p pde.w pde.u pde.ps pde.b59 pte.p pkey user write";
        let mismatch = Mismatch {
            case: case.into(),
            cpu: "maxphyaddr=36,1g=on".into(),
            expected: "#PF 0x27 (P W U PK), CR2 0x10480a02050; PML4E A?, PDPTE A?, PDE A?, PTE AD?, next PTE -".into(),
            observed: "reached PA 0x200a02050; PML4E A, PDPTE A, PDE AD, PTE - changed by 0x10, next PTE -".into(),
            differences: vec![Difference::End, Difference::Entry, Difference::Memory],
        };
        let found = |(name, rule, reason)| Found {
            name,
            rule,
            reason,
            is_of_trials: false,
            count: 1,
            example: Some(mismatch.clone()),
        };
        MatrixReport {
            sample: Some(u64::MAX),
            shard: "19999999/20000000".parse().unwrap(),
            parts: vec![("canonical, five levels (maxphyaddr=36,la57=on)".into(), 3), ("keys (pku=on)".into(), 2)],
            error_codes: (0..0x20).collect(),
            mismatches: 20,
            shown: vec![mismatch.clone()],
            deviations: DEVIATIONS.iter().map(|known| (known.name, known.rule, known.reason)).map(found).collect(),
            not_found: vec!["implicit-access-hangs"],
            not_shown: vec!["implicit-access-hangs"],
            skipped: vec![Skipped {
                what: "canonical, five levels (maxphyaddr=36,la57=on)".into(),
                reason: "KVM only lets CPUID say that it has no 1 GiB pages; KVM offers no SMEP".into(),
                count: 17_252_352,
            }],
            ..report()
        }
    }

    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().filter(|word| *word != "\\").collect()
    }

    fn fits(text: &str) -> bool {
        text.lines().all(|line| line.chars().count() <= 80)
    }

    #[test]
    fn a_narrow_terminal_has_every_word_within_its_width() {
        let full = full();
        let (narrow, wide) = (Text::plain(&full).columns(Some(80)).to_string(), Text::plain(&full).to_string());
        assert!(fits(&narrow), "{narrow}");
        assert_eq!(words(&narrow), words(&wide));
        // The negative control: a row for no terminal is one line, however long.
        assert!(!fits(&wide), "{wide}");
        assert_eq!(wide.lines().filter(|line| line.contains(" rerun ")).count(), 1 + DEVIATIONS.len());
        assert!(wide.lines().all(|line| !line.ends_with('\\')), "{wide}");
    }

    /// A shell takes a backslash away with the line's end after it, in double quotes too.
    #[test]
    fn a_command_on_several_lines_is_still_one() {
        let full = full();
        let lines = one(&full.shown[0], 2, Paint::PLAIN.on(Some(80)));
        let from = lines.iter().position(|line| line.contains("rerun")).unwrap();
        let command = lines[from..].join("\n").replace("\\\n", "");
        assert!(lines[from..].len() > 1 && !command.contains('\n'), "{lines:#?}");
        let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
        let case = &full.shown[0].case;
        assert_eq!(command, format!("rerun efibed matrix --case \"{case}\" --cpu maxphyaddr=36,1g=on"));
    }

    #[test]
    fn nothing_is_said_of_what_is_not_there() {
        let nothing = MatrixReport {
            combinations: 0,
            faults: 0,
            error_codes: Vec::new(),
            sample: Some(0),
            parts: vec![("access".into(), 0), ("levels".into(), 0)],
            ..report()
        };
        let text = Text::plain(&nothing).to_string();
        for absent in ["each", "error code", "What was combined", "Clean"] {
            assert!(!text.contains(absent), "{text}");
        }
        assert!(text.ends_with("Nothing was tried: a sample of none was asked for.\n"), "{text}");
        let shard = "2/9".parse().unwrap();
        let text = Text::plain(&MatrixReport { sample: None, shard, ..nothing }).to_string();
        assert!(text.ends_with("Nothing was tried: this share of it is empty.\n"), "{text}");
    }

    #[test]
    fn each_deviation_is_counted_by_what_shows_it() {
        let found = |name, is_of_trials| Found { name, rule: "", reason: "", is_of_trials, count: 4, example: None };
        let deviations = vec![found("torn-write", false), found("stale-after-host-write", true)];
        let text = Text::plain(&MatrixReport { deviations, ..report() }).to_string();
        assert!(text.contains("  torn-write: 4 combinations\n"), "{text}");
        assert!(text.contains("  stale-after-host-write: 4 of the trial accesses before the combinations\n"), "{text}");
    }
}
