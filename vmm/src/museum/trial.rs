//! An exhibit put to the test: it has to show its bug just as it was worked out, and its twin has to be without.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::bug::{Exhibit, Found};
use crate::check::{Finding, Rule, Statement};
use crate::engine::EngineError;
use crate::memory_map::ParseError;
use crate::mmu::ErrorCode;
use crate::report::style::tally;
use crate::report::{Report, RunVerdict};
use crate::{EngineName, Scenario, TestBed};

/// What came of an exhibit and of its twin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The run with the bug.
    pub shown: Half,
    /// The run without.
    pub twin: Half,
    /// How long both took.
    pub time: Duration,
}

/// What came of one of the two runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Half {
    /// Whether it is as it must be.
    pub outcome: Outcome,
    /// What was found, in words.
    pub found: String,
}

/// Whether a run is as it must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is.
    AsWorkedOut,
    /// It is not.
    Deviates {
        /// The rule that the run is about.
        rule: String,
        /// What it must be.
        expected: String,
        /// What it is.
        observed: String,
    },
    /// This machine or this engine cannot show it: why.
    Skipped(String),
    /// It was to be run, and could not be, or not to its end: why.
    NotDone(String),
}

impl Trial {
    /// Runs both.
    pub fn of(exhibit: &Exhibit, bed: &TestBed, engine: EngineName) -> Self {
        let start = Instant::now();
        let shown = match reason_to_skip(exhibit, engine) {
            Some(why) => Half::skipped(why),
            None => Half::of(exhibit.wrong(), exhibit, bed, engine, |report| match unchecked(exhibit, report) {
                Some(why) => Outcome::Skipped(why),
                None => shown(exhibit, report),
            }),
        };
        let twin = match &shown.outcome {
            Outcome::Skipped(why) => Half::skipped(why.clone()),
            _ => Half::of(exhibit.mended(), exhibit, bed, engine, |report| mended(exhibit, report)),
        };
        Self { shown, twin, time: start.elapsed() }
    }

    /// One of which nothing is known: why.
    pub fn not_done(why: String) -> Self {
        let half = Half { outcome: Outcome::NotDone(why), found: String::new() };
        Self { shown: half.clone(), twin: half, time: Duration::ZERO }
    }

    /// Both runs, each with its name.
    pub fn halves(&self) -> [(&'static str, &Half); 2] {
        [("exhibit", &self.shown), ("twin", &self.twin)]
    }

    /// Why it was skipped, if it was.
    pub fn skipped(&self) -> Option<&str> {
        self.halves().into_iter().find_map(|(_, half)| match &half.outcome {
            Outcome::Skipped(why) => Some(why.as_str()),
            _ => None,
        })
    }

    /// What came of it, in a word.
    pub fn verdict(&self) -> TrialVerdict {
        let is = |wanted: fn(&Outcome) -> bool| self.halves().into_iter().any(|(_, half)| wanted(&half.outcome));
        if is(|outcome| matches!(outcome, Outcome::Deviates { .. })) {
            TrialVerdict::Deviates
        } else if is(|outcome| matches!(outcome, Outcome::NotDone(_))) {
            TrialVerdict::NotDone
        } else if is(|outcome| matches!(outcome, Outcome::Skipped(_))) {
            TrialVerdict::Skipped
        } else {
            TrialVerdict::AsWorkedOut
        }
    }
}

/// What came of an exhibit, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialVerdict {
    /// The bug shows as it was worked out, and the twin is without it.
    AsWorkedOut,
    /// One of the two is otherwise.
    Deviates,
    /// This machine cannot show it.
    Skipped,
    /// It could not be run to its end.
    NotDone,
}

efibed_stub::names! {
    TrialVerdict, "verdict of an exhibit":
    AsWorkedOut "as-worked-out",
    Deviates "deviates",
    Skipped "skipped",
    NotDone "not-done",
}

/// Why an engine cannot show an exhibit at all.
pub fn reason_to_skip(exhibit: &Exhibit, engine: EngineName) -> Option<String> {
    let why = exhibit.guest_only.filter(|_| engine == EngineName::Walker)?;
    Some(format!("only a guest shows it: {why}"))
}

impl Half {
    fn skipped(why: String) -> Self {
        Self { outcome: Outcome::Skipped(why), found: String::new() }
    }

    fn of(
        scenario: Result<Scenario, ParseError>,
        exhibit: &Exhibit,
        bed: &TestBed,
        engine: EngineName,
        judge: impl FnOnce(&Report) -> Outcome,
    ) -> Self {
        match scenario.map_err(Unrun::from).and_then(|scenario| run(scenario, exhibit, bed, engine)) {
            Ok(report) => Self { outcome: judge(&report), found: in_short(&report) },
            Err(Unrun::CannotShow(why)) => Self::skipped(why),
            Err(Unrun::Failed(why)) => Self { outcome: Outcome::NotDone(why), found: String::new() },
        }
    }
}

/// Why there is no report.
pub enum Unrun {
    /// The machine lacks what the scenario asks for by name.
    CannotShow(String),
    /// Something else.
    Failed(String),
}

impl From<ParseError> for Unrun {
    fn from(error: ParseError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<EngineError> for Unrun {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Unable { .. } => Self::CannotShow(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// A run takes a second or two at most on a machine that is not busy. What takes longer is not done.
const LIMIT: Duration = Duration::from_secs(120);
/// Pages that are reached one by one, a GiB of them: what is larger is large for its size, not for its pages.
const SWEEP_PAGES: u64 = 1 << 18;

/// Runs a scenario of an exhibit; of two kernels, the report is the second one's.
pub fn run(scenario: Scenario, exhibit: &Exhibit, bed: &TestBed, engine: EngineName) -> Result<Report, Unrun> {
    let mut scenario = scenario.engine(engine).limit(LIMIT).sweep_limit(SWEEP_PAGES);
    if let Some(patience_ms) = exhibit.patience_ms {
        scenario = scenario.stretch_limit(Duration::from_millis(patience_ms));
    }
    let Some(second) = exhibit.second else { return Ok(bed.run(&scenario)?) };
    let map = Scenario::parse(&format!("{}-second.toml", exhibit.name), second)?.map().clone();
    let [_, after] = bed.kexec(&scenario, map)?;
    Ok(after)
}

/// Why the machine of a run cannot show the exhibit, if its MMU does not check what that takes.
pub fn unchecked(exhibit: &Exhibit, report: &Report) -> Option<String> {
    let checked = exhibit.checked.filter(|checked| !(checked.is_by)(&report.cpu.checks))?;
    Some(format!("this machine's MMU does not check {}", checked.what))
}

/// Whether the bug shows as it must, and nothing besides.
fn shown(exhibit: &Exhibit, report: &Report) -> Outcome {
    let found = &exhibit.found;
    let of_rule: Vec<&Finding> = report.findings.iter().filter(|finding| finding.rule == found.rule).collect();
    let Some(closest) = of_rule.iter().copied().min_by_key(|finding| differences(found, finding, report)) else {
        return deviates(found.rule, in_words(found), in_short(report));
    };
    if differences(found, closest, report) > 0 {
        return deviates(found.rule, in_words(found), finding_in_words(closest));
    }
    let is_known = |rule: Rule| rule == found.rule || exhibit.besides.contains(&rule);
    no_others(report, &is_known, in_words(found))
}

/// Whether the twin is clean, except for what is none of the bug's.
fn mended(exhibit: &Exhibit, report: &Report) -> Outcome {
    let leaves = exhibit.twin.leaves;
    let expected = match leaves {
        [] => "clean".to_owned(),
        _ => format!("nothing but {}", tally_of(leaves)),
    };
    let missing = leaves.iter().find(|rule| report.finding(**rule).is_none());
    match missing {
        Some(missing) => deviates(*missing, expected, in_short(report)),
        None => no_others(report, &|rule| leaves.contains(&rule), expected),
    }
}

/// Deviates if other rules are broken, and is not done if something that was asked for was not.
fn no_others(report: &Report, is_known: &dyn Fn(Rule) -> bool, expected: String) -> Outcome {
    if let Some(other) = report.findings.iter().find(|finding| !is_known(finding.rule)) {
        return deviates(other.rule, format!("{expected}, and nothing else"), finding_in_words(other));
    }
    // What a hung guest left out is no reason to doubt that it hung.
    match report.not_done().next() {
        Some(skipped) if report.findings.is_empty() => {
            Outcome::NotDone(format!("{}: {}", skipped.what, skipped.reason))
        }
        _ => Outcome::AsWorkedOut,
    }
}

fn deviates(rule: Rule, expected: String, observed: String) -> Outcome {
    Outcome::Deviates { rule: rule.name().into(), expected, observed }
}

/// How much is not as it must be.
fn differences(found: &Found, finding: &Finding, report: &Report) -> usize {
    let is = [
        finding.phase == found.phase,
        found.region.is_none_or(|index| finding.region == Some(index)),
        found.virt.is_none_or(|virt| is_at(virt, finding)),
        found.error_code.is_none_or(|code| is_code(code, finding, report)),
        found.frames.is_none_or(|frames| frames_of(finding) == Some(frames)),
        found.level.is_none_or(|level| finding.walk.last().is_some_and(|step| step.level == level)),
    ];
    is.into_iter().filter(|is_so| !is_so).count()
}

/// Whether an address is CR2, or where the pages of a finding begin.
fn is_at(virt: u64, finding: &Finding) -> bool {
    [address_of(finding), finding.virt.map(|virt| virt.0)].contains(&Some(virt))
}

/// CR2, if there is one.
fn address_of(finding: &Finding) -> Option<u64> {
    match &finding.observed {
        Some(Statement::Faulted { cr2: Some(cr2), .. }) => Some(cr2.0),
        _ => finding.virt.map(|virt| virt.0),
    }
}

/// The physical address that should be reached, and the one that is.
fn frames_of(finding: &Finding) -> Option<(u64, u64)> {
    match (&finding.expected, &finding.observed) {
        (Some(Statement::Physical(expected)), Some(Statement::Physical(reached))) => Some((expected.0, reached.0)),
        _ => None,
    }
}

/// The code that must be, on this machine: some answer a reserved bit without P, and a write may come before a read. The walker
/// makes no access: of a right that is missing it has no code.
fn is_code(code: u32, finding: &Finding, report: &Report) -> bool {
    let Some(observed) = finding.error_code() else { return report.engine == EngineName::Walker };
    let sets_p = report.cpu.checks.reserved_fault_sets_p;
    let is_reserved = code & ErrorCode::RSVD.0 != 0;
    let code = if is_reserved && !sets_p { code & !ErrorCode::P.0 } else { code };
    let is_read = code & (ErrorCode::W.0 | ErrorCode::I.0) == 0;
    observed.0 == code || (is_read && observed.0 == code | ErrorCode::W.0)
}

/// What must be found, on one line.
pub fn in_words(found: &Found) -> String {
    let mut words = found.rule.name().to_owned();
    if let Some(index) = found.region {
        words += &format!(" in region {index}");
    }
    if let Some(virt) = found.virt {
        words += &format!(" at {virt:#x}");
    }
    if let Some(code) = found.error_code {
        words += &format!(", error code {code:#x}");
    }
    if let Some((expected, reached)) = found.frames {
        words += &format!(", PA {reached:#x} in place of {expected:#x}");
    }
    if let Some(level) = found.level {
        words += &format!(", by a {level}");
    }
    format!("{words}, in phase {}", found.phase)
}

/// What was found, on one line.
pub fn finding_in_words(finding: &Finding) -> String {
    in_words(&Found {
        rule: finding.rule,
        phase: finding.phase,
        region: finding.region,
        virt: address_of(finding),
        error_code: finding.error_code().map(|code| code.0),
        frames: frames_of(finding),
        level: finding.walk.last().map(|step| step.level),
    })
}

/// The rules that were found broken; or the verdict.
fn in_short(report: &Report) -> String {
    match report.verdict() {
        RunVerdict::Findings => tally(report.findings.iter().map(|finding| finding.rule)),
        verdict => verdict.to_string(),
    }
}

fn tally_of(rules: &[Rule]) -> String {
    rules.iter().map(|rule| rule.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Phase;
    use crate::mmu::Level;
    use crate::museum::bug::Twin;
    use crate::museum::catalogue::exhibits;

    fn exhibit(name: &str) -> Exhibit {
        *exhibits().find(|(_, exhibit)| exhibit.name == name).unwrap().1
    }

    fn trial(exhibit: &Exhibit) -> Trial {
        Trial::of(exhibit, &TestBed::without_kvm(), EngineName::Walker)
    }

    fn deviation(half: &Half) -> (&str, &str, &str) {
        let Outcome::Deviates { rule, expected, observed } = &half.outcome else { panic!("{half:?}") };
        (rule, expected, observed)
    }

    #[test]
    fn an_exhibit_is_as_it_was_worked_out_and_no_part_of_that_may_differ() {
        let right = exhibit("01-misaligned-leaf");
        assert_eq!(trial(&right).verdict(), TrialVerdict::AsWorkedOut, "{:?}", trial(&right));
        let found = right.found;
        for (spoiled, says) in [
            (Found { rule: Rule::WrongFrame, ..found }, "wrong-frame in region 0"),
            (Found { phase: Phase::Finish, ..found }, "in phase finish"),
            (found.region(1), "in region 1"),
            (found.at(0xffff_fffe_ffe0_1000), "at 0xfffffffeffe01000"),
            (found.faults(0x11), "error code 0x11"),
            (found.level(Level::Pte), "by a PTE"),
            (found.frames(0x7e76_b000, 0x7e60_0000), "PA 0x7e600000 in place of 0x7e76b000"),
        ] {
            let trial = trial(&Exhibit { found: spoiled, ..right });
            assert_eq!((trial.verdict(), &trial.twin.outcome), (TrialVerdict::Deviates, &Outcome::AsWorkedOut));
            let (_, expected, observed) = deviation(&trial.shown);
            assert!(expected.contains(says), "{expected}");
            assert!(observed.contains("reserved-bit"), "{observed}");
        }
    }

    #[test]
    fn a_frame_is_compared_too() {
        let right = exhibit("01-misaligned-leaf-masked");
        assert_eq!(trial(&right).verdict(), TrialVerdict::AsWorkedOut);
        let spoiled = Exhibit { found: right.found.frames(0x7e76_b000, 0x7e60_1000), ..right };
        let trial = trial(&spoiled);
        let (_, expected, observed) = deviation(&trial.shown);
        assert!(expected.contains("PA 0x7e601000 in place of 0x7e76b000"), "{expected}");
        assert!(observed.contains("PA 0x7e600000 in place of 0x7e76b000"), "{observed}");
    }

    #[test]
    fn what_comes_with_it_has_to_be_named() {
        let right = exhibit("01-misaligned-leaf-by-a-page");
        let trial = trial(&Exhibit { besides: &[], ..right });
        let (rule, expected, observed) = deviation(&trial.shown);
        assert_eq!(rule, "cache-type");
        assert!(expected.ends_with("and nothing else") && observed.starts_with("cache-type in region 2"), "{observed}");
    }

    #[test]
    fn a_twin_with_the_bug_is_no_twin() {
        let right = exhibit("01-misaligned-leaf");
        let spoiled = trial(&Exhibit { twin: Twin::new("unmended", |scenario| scenario), ..right });
        assert_eq!((spoiled.verdict(), &spoiled.shown.outcome), (TrialVerdict::Deviates, &Outcome::AsWorkedOut));
        assert_eq!(deviation(&spoiled.twin).1, "clean, and nothing else");
        // What the bug leaves must be there.
        let left = trial(&Exhibit { twin: right.twin.leaves(&[Rule::MapOverlap]), ..right });
        assert_eq!(deviation(&left.twin), ("map-overlap", "nothing but map-overlap", "clean"));
    }

    #[test]
    fn what_only_a_guest_shows_is_skipped_with_its_reason() {
        let trial = trial(&exhibit("06-never-done"));
        assert_eq!(trial.verdict(), TrialVerdict::Skipped);
        assert!(trial.skipped().unwrap().starts_with("only a guest shows it: it never ends"), "{trial:?}");
    }

    /// Whatever needs no guest, on a CPU with 1 GiB leaves and five levels, which not every machine has.
    #[test]
    fn the_walker_shows_all_exhibits_that_need_no_guest() {
        for (_, exhibit) in exhibits().filter(|(_, exhibit)| exhibit.guest_only.is_none()) {
            let trial = trial(exhibit);
            assert_eq!(trial.verdict(), TrialVerdict::AsWorkedOut, "{}: {trial:#?}", exhibit.name);
        }
    }

    #[test]
    fn a_fault_may_be_met_by_a_write_and_a_reserved_bit_be_told_without_p() {
        let mut report = exhibit("01-misaligned-leaf").wrong().map_err(Unrun::from).and_then(|scenario| {
            run(scenario, &exhibit("01-misaligned-leaf"), &TestBed::without_kvm(), EngineName::Walker)
        });
        let Ok(report) = report.as_mut() else { panic!() };
        let mut finding = report.findings[0].clone();
        let mut code = |code, report: &Report| {
            let Some(Statement::Faulted { fault, .. }) = &mut finding.observed else { panic!("{finding:?}") };
            fault.error_code = ErrorCode(code);
            is_code(0x9, &finding, report)
        };
        assert_eq!([0x9, 0xb, 0x8, 0x19, 0x0].map(|it| code(it, report)), [true, true, false, false, false]);
        report.cpu.checks.reserved_fault_sets_p = false;
        assert_eq!([0x9, 0xb, 0x8, 0xa, 0x0].map(|it| code(it, report)), [false, false, true, true, false]);
    }
}
