//! `efibed museum`: the known bugs of EFI mapping code, told, shown in guests, and looked for in somebody's code.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;

use super::input::named;
use super::mapper::Mapper;
use super::progress::{Watching, counted};
use super::results::{Look, Places, Results};
use super::sandbox::Sandbox;
use super::{Failure, Status, several};
use crate::museum::{self, Answer, Bug, Exhibit, Has, Outcome, Trial, TrialVerdict, words};
use crate::report::junit::{Case, Outcome as CaseOutcome, Suite};
use crate::report::sarif::{Entry, Notice, Part};
use crate::report::style::Paint;
use crate::{EngineName, Layout, LeafRule, Scenario, TestBed};

/// The arguments of `museum`.
#[derive(Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// What to do: list the bugs, show all that is known of some, or run what shows them
    #[arg(value_name = "list|show|run", value_parser = named::<Action>(Action::NAMES), default_value = "list")]
    action: Action,

    /// Numbers of bugs, as `list` has them [default: all]
    #[arg(value_name = "NN")]
    numbers: Vec<u32>,

    #[command(flatten)]
    mapper: Mapper,

    /// Look for the bugs in this built-in layout
    #[arg(long, value_name = "NAME", value_parser = named::<Layout>(Layout::NAMES))]
    layout: Option<Layout>,

    /// Its rule for the size of leaves [default: co-aligned]
    #[arg(long, value_name = "NAME", value_parser = named::<LeafRule>(LeafRule::NAMES), requires = "layout")]
    leaf_rule: Option<LeafRule>,

    /// What executes and observes: a KVM guest, or only the software walk, which asks no MMU
    #[arg(long, value_name = "kvm|walker", value_parser = named::<EngineName>(EngineName::NAMES), default_value = "kvm")]
    engine: EngineName,

    #[command(flatten)]
    places: Places,

    /// How many exhibits are run at a time [default: as many as there are processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    #[command(flatten)]
    sandbox: Sandbox,

    #[command(flatten)]
    watching: Watching,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A row for each bug.
    List,
    /// All that is known of some.
    Show,
    /// Runs exhibits.
    Run,
}

efibed_stub::names! {
    Action, "thing to do in the museum":
    List "list",
    Show "show",
    Run "run",
}

const ABOUT: &str = "\
The known bugs of EFI mapping code: what each was, a run in which it shows, and whether your code has it

`list` has a row for each bug, by the number that `efibed oops` gives as `museum` too. `show` tells all that is known of one: \
whose it was, what was wrong, what it looks like, what mends it, and the scenario that shows it; or why nothing here shows it. \
`run` runs exhibits. The wrong mapping code, or firmware, has to show just the finding that was worked out by hand: rule, region, \
address, error code or frame. A twin without the bug runs on the same map, and must be without the finding.

`run` with --mapper or --layout puts that code before all maps in place of both, and says which of the bugs it has. It says no \
only where the run came to its end and the region in question was mapped and reached without other findings.

What this machine cannot show is skipped by name, with the reason.";

const EXAMPLES: &str = "\
Examples:
  efibed museum                             all bugs, a row each
  efibed museum show 1                      the bug of 2013, and the scenarios that show it
  efibed museum run                         everything that shows here
  efibed museum run 1 24 --json bugs.json   two of them, and the results for programs
  efibed museum run --mapper mapper.elf     which of the bugs does this code have?

Exit status: 0 if all is as it was worked out; 1 if not, or if your code has any of the bugs; 2 for a number that is none; \
3 if something could not be run or is not known, or if all was skipped.";

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Status, Failure> {
    let bugs = arguments.bugs()?;
    match arguments.action {
        Action::Run => return arguments.run(&bugs),
        _ if arguments.is_for_a_visitor() => {
            return Err(Failure::Output("--mapper and --layout are for `efibed museum run`".into()));
        }
        Action::Show if arguments.numbers.is_empty() => {
            return Err(Failure::Output(format!("`show` needs a number: {}", there_are())));
        }
        Action::List | Action::Show => {}
    }
    let outputs = arguments.places.open(&[])?;
    let paint = Look::of_standard_output().paint();
    let text = match arguments.action {
        Action::Show => bugs.iter().map(|bug| words::account(bug, paint)).collect::<Vec<_>>().join("\n"),
        _ => words::list(bugs.iter().copied(), paint),
    };
    let json = || museum::json::list(bugs.iter().copied());
    Results::new(Status::Clean, text, arguments.places.wanted(), json, Vec::new, Vec::new).write(outputs)
}

/// Which numbers exist.
fn there_are() -> String {
    let count = museum::bugs().count();
    format!("bugs have the numbers 1 to {count}; `efibed museum list` has them all")
}

impl Arguments {
    /// Those that are meant, once each, by number.
    fn bugs(&self) -> Result<Vec<&'static Bug>, Failure> {
        let unknown = self.numbers.iter().find(|number| museum::bug(**number).is_none());
        if let Some(number) = unknown {
            return Err(Failure::Output(format!("there is no bug {number}: {}", there_are())));
        }
        let is_meant = |bug: &&Bug| self.numbers.is_empty() || self.numbers.contains(&bug.number);
        Ok(museum::bugs().filter(is_meant).collect())
    }

    fn is_for_a_visitor(&self) -> bool {
        self.layout.is_some() || self.mapper.is_given()
    }

    fn run(&self, bugs: &[&'static Bug]) -> Result<Status, Failure> {
        let rows: Vec<Row> =
            bugs.iter().flat_map(|bug| bug.exhibits().iter().map(move |exhibit| (*bug, exhibit))).collect();
        if rows.is_empty() {
            let names: Vec<_> = bugs.iter().map(|bug| bug.number.to_string()).collect();
            let told =
                format!("nothing here shows {}: `efibed museum show {}` says why", names.join(", "), names.join(" "));
            return Err(Failure::Output(told));
        }
        match self.is_for_a_visitor() {
            true => self.visit(&rows),
            false => self.show_all(&rows),
        }
    }

    /// Exhibits and their twins.
    fn show_all(&self, rows: &[Row]) -> Result<Status, Failure> {
        let outputs = self.places.open(&[])?;
        let paint = Look::of_standard_output().paint();
        let engine = self.engine;
        let trials = self.each(rows, &|bed, exhibit| Trial::of(exhibit, bed, engine), &Trial::not_done)?;
        let rows: Vec<_> = rows.iter().zip(&trials).map(|((bug, exhibit), trial)| (*bug, *exhibit, trial)).collect();
        shown(&rows, paint, self.places.wanted()).write(outputs)
    }

    /// Somebody's code, on every map.
    fn visit(&self, rows: &[Row]) -> Result<Status, Failure> {
        let put_in = self.visitor()?;
        let inputs: Vec<&Path> = self.mapper.file().into_iter().collect();
        let outputs = self.places.open(&inputs)?;
        let paint = Look::of_standard_output().paint();
        let engine = self.engine;
        let ask = |bed: &TestBed, exhibit: &Exhibit| Answer::of(exhibit, &put_in, bed, engine);
        let answers = self.each(rows, &ask, &Answer::unknown)?;
        let rows: Vec<_> = rows.iter().zip(&answers).map(|((bug, exhibit), answer)| (*bug, *exhibit, answer)).collect();
        let (who, wanted) = (self.visitors_name(), self.places.wanted());
        let text = words::answers(&who, &rows, paint);
        let json = || museum::json::answers(&who, &rows);
        let suites = || vec![suite_of_answers(&who, &rows)];
        let parts = || vec![part_of_answers(&rows)];
        Results::new(status_of_answers(&rows), text, wanted, json, suites, parts).write(outputs)
    }

    /// Puts the visitor's code into a scenario. Its file is read now, once.
    fn visitor(&self) -> Result<Box<dyn Fn(Scenario) -> Scenario + Sync>, Failure> {
        if let Some(layout) = self.layout {
            let leaf_rule = self.leaf_rule.unwrap_or_default();
            return Ok(Box::new(move |scenario| scenario.layout(layout).leaf_rule(leaf_rule)));
        }
        let empty = Scenario::new(crate::MemoryMap::from_descriptors("", Vec::new()));
        let example = self.mapper.apply(empty, self.engine)?;
        Ok(Box::new(move |scenario: Scenario| example.clone().in_place_of(&scenario)))
    }

    fn visitors_name(&self) -> String {
        match (self.layout, self.mapper.file()) {
            (Some(layout), _) => format!("layout {layout}, leaf rule {}", self.leaf_rule.unwrap_or_default()),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => String::new(),
        }
    }

    /// Does something with each exhibit, as many at a time as were asked for; what came of them, in their order.
    fn each<T: serde::Serialize + serde::de::DeserializeOwned + Clone + Send>(
        &self,
        rows: &[Row],
        work: &(impl Fn(&TestBed, &Exhibit) -> T + Sync),
        failed: &(impl Fn(String) -> T + Sync),
    ) -> Result<Vec<T>, Failure> {
        if self.engine == EngineName::Kvm {
            // Without KVM there is nothing to say of any of them.
            TestBed::new()?;
        }
        let jobs = self.jobs.map_or_else(several::available, NonZeroUsize::get);
        let ended = Mutex::new((0, vec![None; rows.len()]));
        counted(self.watching, "exhibits", |progress| {
            progress(0, rows.len() as u64);
            let work = |bed: &TestBed, index: usize| work(bed, rows[index].1);
            self.sandbox.run_each(self.engine, rows.len(), jobs, &work, &|index, result| {
                let result = result.unwrap_or_else(|failure| failed(failure.in_short()));
                let mut ended = ended.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                ended.0 += 1;
                ended.1[index] = Some(result);
                progress(ended.0, rows.len() as u64);
            })
        })?;
        let (_, ended) = ended.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        Ok(ended.into_iter().map(|it| it.unwrap_or_else(|| failed("nothing came of it".into()))).collect())
    }
}

/// An exhibit, behind its bug.
type Row = (&'static Bug, &'static Exhibit);
type Tried<'a> = (&'a Bug, &'a Exhibit, &'a Trial);
type Answered<'a> = (&'a Bug, &'a Exhibit, &'a Answer);

fn shown(rows: &[Tried<'_>], paint: Paint, wanted: super::results::Wanted) -> Results {
    let is = |verdict| rows.iter().any(|(.., trial)| trial.verdict() == verdict);
    let (status, verdict) = match () {
        () if is(TrialVerdict::Deviates) => (Status::Findings, "findings"),
        // Where all is skipped nothing was shown to be right.
        () if is(TrialVerdict::NotDone) || !is(TrialVerdict::AsWorkedOut) => (Status::Unable, "incomplete"),
        () => (Status::Clean, "clean"),
    };
    let json = || museum::json::trials(rows, verdict);
    let suites = || vec![suite(rows)];
    let parts = || vec![part(rows)];
    Results::new(status, words::trials(rows, paint), wanted, json, suites, parts)
}

/// A case for each exhibit, and one for its twin.
fn suite(rows: &[Tried<'_>]) -> Suite {
    let cases = rows.iter().flat_map(|(bug, exhibit, trial)| {
        trial.halves().map(|(which, half)| {
            let case = Case::new(&format!("bug {}: {which}", bug.number), exhibit.name);
            let outcome = match &half.outcome {
                Outcome::AsWorkedOut => CaseOutcome::Passed,
                Outcome::Skipped(why) => CaseOutcome::Skipped { why: why.clone() },
                Outcome::NotDone(why) => CaseOutcome::Error { kind: NOT_DONE.into(), message: why.clone() },
                Outcome::Deviates { rule, expected, observed } => {
                    let text = format!("expected: {expected}\nobserved: {observed}");
                    CaseOutcome::Failed { rule: rule.clone(), message: format!("observed {observed}"), text }
                }
            };
            Case { output: (!half.found.is_empty()).then(|| half.found.clone()), ..case.with(outcome) }
        })
    });
    let time = rows.iter().map(|(.., trial)| trial.time).sum();
    Suite { name: "museum".into(), time, cases: cases.collect() }
}

const NOT_DONE: &str = "not-done";

/// What is not as it was worked out, and what was not done.
fn part(rows: &[Tried<'_>]) -> Part {
    let mut part = Part::default();
    for (_, exhibit, trial) in rows {
        for (which, half) in trial.halves() {
            match &half.outcome {
                Outcome::Deviates { expected, observed, .. } => {
                    let message = format!("{which} {}: expected {expected}; observed {observed}", exhibit.name);
                    part.results.push(entry("museum-deviation", message, DEVIATION, true));
                }
                Outcome::NotDone(why) => part.notices.push(notice(exhibit, why)),
                Outcome::AsWorkedOut | Outcome::Skipped(_) => {}
            }
        }
    }
    part
}

const DEVIATION: &str = "An exhibit of a known bug does not come out as it was worked out by hand.";

fn notice(exhibit: &Exhibit, why: &str) -> Notice {
    Notice { message: format!("{}: {why}", exhibit.name), file: None }
}

fn entry(rule: &str, message: String, summary: &str, is_doubt: bool) -> Entry {
    let help = "`efibed museum show` with the number tells all that is known of the bug.";
    Entry::of_no_file(rule, summary, help, is_doubt, message)
}

fn status_of_answers(rows: &[Answered<'_>]) -> Status {
    let is = |wanted: fn(&Has) -> bool| rows.iter().any(|(.., answer)| wanted(&answer.has));
    if is(|has| matches!(has, Has::Yes(_))) {
        Status::Findings
    } else if is(|has| matches!(has, Has::Unknown(_))) || !is(|has| matches!(has, Has::No)) {
        Status::Unable
    } else {
        Status::Clean
    }
}

fn suite_of_answers(who: &str, rows: &[Answered<'_>]) -> Suite {
    let cases = rows.iter().map(|(bug, exhibit, answer)| {
        let case = Case::new(&format!("bug {}", bug.number), exhibit.name);
        let outcome = match &answer.has {
            Has::No => CaseOutcome::Passed,
            Has::NotAsked(why) | Has::Skipped(why) => CaseOutcome::Skipped { why: why.clone() },
            Has::Unknown(why) => CaseOutcome::Error { kind: NOT_DONE.into(), message: why.clone() },
            Has::Yes(finding) => CaseOutcome::Failed {
                rule: exhibit.found.rule.name().into(),
                message: format!("has bug {}: {finding}", bug.number),
                text: bug.wrong.into(),
            },
        };
        Case { output: (!answer.others.is_empty()).then(|| answer.others.clone()), ..case.with(outcome) }
    });
    Suite { name: format!("museum: {who}"), time: Duration::ZERO, cases: cases.collect() }
}

fn part_of_answers(rows: &[Answered<'_>]) -> Part {
    let mut part = Part::default();
    for (bug, exhibit, answer) in rows {
        match &answer.has {
            Has::Yes(finding) => {
                let message = format!("has bug {} ({}), on {}: {finding}", bug.number, bug.title, exhibit.name);
                part.results.push(entry(&format!("museum-{:02}-{}", bug.number, bug.name), message, bug.wrong, false));
            }
            Has::Unknown(why) => part.notices.push(notice(exhibit, why)),
            Has::No | Has::NotAsked(_) | Has::Skipped(_) => {}
        }
    }
    part
}
