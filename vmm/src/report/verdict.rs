//! What a run comes to, in a word.

use super::Report;
use crate::check::{Rule, SkipKind, Skipped};

/// What a run comes to. This is the whole list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunVerdict {
    /// Everything was asked and answered correctly, except for a stated sample and stated limits of this machine.
    Clean,
    /// Something is wrong, or is not what the scenario expects.
    Findings,
    /// Nothing else is wrong, but something that was asked for could not be done.
    Incomplete,
}

efibed_stub::names! {
    RunVerdict, "verdict":
    Clean "clean",
    Findings "findings",
    Incomplete "incomplete",
}

impl RunVerdict {
    /// What several runs come to: whether anything is wrong, and else whether anything could not be done.
    pub fn of_all(verdicts: &[Self]) -> Self {
        let worst_first = [Self::Findings, Self::Incomplete];
        worst_first.into_iter().find(|verdict| verdicts.contains(verdict)).unwrap_or(Self::Clean)
    }
}

/// The rules that a scenario expects to be found, against those that were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What was to be found, each rule once.
    pub rules: Vec<Rule>,
    /// Of those, what was not found.
    pub missing: Vec<Rule>,
    /// What was found and not expected.
    pub unexpected: Vec<Rule>,
}

impl Expected {
    /// Just what was expected was found.
    pub fn is_met(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

impl Report {
    /// What the run comes to.
    pub fn verdict(&self) -> RunVerdict {
        let expected = self.expected();
        let is_met = expected.as_ref().is_some_and(Expected::is_met);
        let is_explained = self.findings.is_empty() || is_met;
        match self.not_done().next() {
            // What did not happen may be why something expected was not found.
            Some(_) if is_explained => RunVerdict::Incomplete,
            None if self.findings.is_empty() && (is_met || expected.is_none()) => RunVerdict::Clean,
            _ => RunVerdict::Findings,
        }
    }

    /// Whether all is well: the run is clean or, where the scenario expects findings, just those were found.
    pub fn passes(&self) -> bool {
        match self.verdict() {
            RunVerdict::Clean => true,
            RunVerdict::Findings => self.expected().is_some_and(|expected| expected.is_met()),
            RunVerdict::Incomplete => false,
        }
    }

    /// What the scenario expects, against what was found; None: it says nothing of it.
    pub fn expected(&self) -> Option<Expected> {
        let rules = sorted(self.expected_rules.as_ref()?.iter().copied());
        let found = sorted(self.findings.iter().map(|finding| finding.rule));
        let without =
            |all: &[Rule], others: &[Rule]| all.iter().copied().filter(|rule| !others.contains(rule)).collect();
        Some(Expected { missing: without(&rules, &found), unexpected: without(&found, &rules), rules })
    }

    /// What was asked for and not done.
    pub fn not_done(&self) -> impl Iterator<Item = &Skipped> {
        self.skipped.iter().filter(|skipped| skipped.kind == SkipKind::NotDone)
    }
}

fn sorted(rules: impl Iterator<Item = Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = rules.collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn with_expected(mut report: Report, rules: &[Rule]) -> Report {
        report.expected_rules = Some(rules.to_vec());
        report
    }

    fn with_something_not_done(mut report: Report) -> Report {
        report.skipped.push(Skipped::not_done("firmware that misbehaves: seam@GetTime", "no neighbour"));
        report
    }

    fn judged(report: &Report) -> (RunVerdict, bool) {
        (report.verdict(), report.passes())
    }

    #[test]
    fn of_several_runs_the_worst_counts() {
        use RunVerdict::{Clean, Findings, Incomplete};
        for (each, all) in [
            (&[Clean, Clean][..], Clean),
            (&[Clean, Incomplete], Incomplete),
            (&[Incomplete, Findings, Clean], Findings),
        ] {
            assert_eq!(RunVerdict::of_all(each), all);
        }
    }

    #[test]
    fn without_an_expectation_findings_come_first() {
        let (clean, wrong) = (samples::clean(), samples::reserved_bit());
        assert!(!clean.skipped.is_empty(), "a limit of the machine and a sample leave it clean");
        assert_eq!(judged(&clean), (RunVerdict::Clean, true));
        assert_eq!(judged(&wrong), (RunVerdict::Findings, false));
        assert_eq!(judged(&with_something_not_done(clean)), (RunVerdict::Incomplete, false));
        assert_eq!(judged(&with_something_not_done(wrong)), (RunVerdict::Findings, false));
    }

    #[test]
    fn what_is_expected_and_not_found_is_never_clean() {
        let report = with_expected(samples::clean(), &[Rule::FirmwareFault]);
        assert_eq!(judged(&report), (RunVerdict::Findings, false));
        let expected = report.expected().unwrap();
        assert_eq!((expected.missing, expected.unexpected), (vec![Rule::FirmwareFault], vec![]));
        // Had it been done, it might have been found.
        assert_eq!(judged(&with_something_not_done(report)), (RunVerdict::Incomplete, false));
    }

    #[test]
    fn findings_that_are_expected_pass() {
        let met = with_expected(samples::reserved_bit(), &[Rule::ReservedBit, Rule::ReservedBit]);
        assert_eq!(met.expected().unwrap().rules, [Rule::ReservedBit]);
        assert_eq!(judged(&met), (RunVerdict::Findings, true));
        assert_eq!(judged(&with_something_not_done(met)), (RunVerdict::Incomplete, false));

        let other = with_expected(samples::reserved_bit(), &[Rule::WrongFrame]);
        let expected = other.expected().unwrap();
        assert_eq!(
            (&expected.missing[..], &expected.unexpected[..]),
            (&[Rule::WrongFrame][..], &[Rule::ReservedBit][..])
        );
        assert_eq!(judged(&with_something_not_done(other)), (RunVerdict::Findings, false));

        let none = with_expected(samples::clean(), &[]);
        assert_eq!(judged(&none), (RunVerdict::Clean, true));
        assert_eq!(judged(&with_expected(samples::reserved_bit(), &[])), (RunVerdict::Findings, false));
    }
}
