//! The museum for people: the list, an account of a bug, and what came of runs.

use super::bug::{Asks, Bug, Exhibit, Shown};
use super::trial::{Half, Outcome, Trial, TrialVerdict, in_words};
use super::visitor::{Answer, Has};
use crate::report::style::{Paint, counted};
use crate::report::table::Columns;

/// A row for each bug.
pub fn list<'a>(bugs: impl Iterator<Item = &'a Bug>, paint: Paint) -> String {
    let rows: Vec<[String; 4]> = bugs
        .map(|bug| {
            let shown = match bug.shown {
                Shown::By(exhibits) => counted(exhibits.len() as u64, "exhibit"),
                Shown::ToldOnly(_) => paint.dim("told only"),
            };
            [bug.number.to_string(), bug.title.into(), bug.code.into(), shown]
        })
        .collect();
    let columns = Columns::of(["#", "bug", "whose", "shown by"], [true, false, false, false], &rows);
    let columns = columns.within(paint.table_width(), &[2, 3]);
    let lines = columns.titles().into_iter().chain(rows.iter().flat_map(|row| columns.lines(row)));
    let text: String = lines.map(|line| line + "\n").collect();
    let bugs = counted(rows.len() as u64, "bug");
    format!("{text}\n{bugs}; `efibed museum show 1` tells of the first, `efibed museum run 1` shows it\n")
}

/// Where the text beside a label begins.
const LABEL: usize = 13;

/// All that is known of a bug.
pub fn account(bug: &Bug, paint: Paint) -> String {
    let mut lines = vec![paint.bold(format!("{}. {}", bug.number, bug.title)), String::new()];
    for (label, text) in [
        ("name", bug.name),
        ("whose", bug.code),
        ("source", bug.source),
        ("wrong", bug.wrong),
        ("looks like", bug.looks),
        ("mended by", bug.mends),
    ] {
        lines.extend(paint.labelled(&format!("  {label}"), text, LABEL));
    }
    match bug.shown {
        Shown::ToldOnly(why) => lines.extend(paint.labelled("  not shown", why, LABEL)),
        Shown::By(exhibits) => exhibits.iter().for_each(|exhibit| lines.extend(of_exhibit(exhibit, paint))),
    }
    lines.join("\n") + "\n"
}

fn of_exhibit(exhibit: &Exhibit, paint: Paint) -> Vec<String> {
    let mut lines = vec![String::new(), paint.bold(exhibit.name)];
    let mut say = |label: &str, text: &str| lines.extend(paint.labelled(&format!("  {label}"), text, LABEL));
    say("runs", &exhibit.subject());
    say("must find", &in_words(&exhibit.found));
    if !exhibit.besides.is_empty() {
        let rules: Vec<_> = exhibit.besides.iter().map(|rule| rule.name()).collect();
        say("and may", &rules.join(", "));
    }
    say("twin", &format!("{}: {}", exhibit.twin.words, twin_finds(exhibit)));
    match exhibit.asks {
        Asks::ToMap([]) => {}
        Asks::ToMap(terms) => say("held to", &terms.join(", ")),
        Asks::Nothing(why) => say("visitors", &format!("not asked: {why}")),
    }
    let needs = exhibit.guest_only.map(|why| format!("a guest: {why}"));
    let needs = needs.into_iter().chain(exhibit.checked.map(|checked| format!("an MMU that checks {}", checked.what)));
    needs.for_each(|what| say("needs", &what));
    lines.push(String::new());
    lines.extend(
        exhibit
            .toml
            .lines()
            .filter(|line| !line.starts_with("#:"))
            .map(|line| format!("  {line}").trim_end().to_owned()),
    );
    lines
}

fn twin_finds(exhibit: &Exhibit) -> String {
    let names: Vec<_> = exhibit.twin.leaves.iter().map(|rule| rule.name()).collect();
    if names.is_empty() { "clean".into() } else { format!("nothing but {}", names.join(", ")) }
}

/// Beside the numbers and names of exhibits.
fn column<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(str::len).max().unwrap_or(0) + 2
}

/// A line for each exhibit, and the sum.
pub fn trials(rows: &[(&Bug, &Exhibit, &Trial)], paint: Paint) -> String {
    let column = column(rows.iter().map(|(_, exhibit, _)| exhibit.name));
    let mut lines: Vec<String> = Vec::new();
    for (_, exhibit, trial) in rows {
        lines.extend(paint.row(exhibit.name, &trial_line(exhibit, trial, paint), column));
        lines.extend(trial.halves().into_iter().flat_map(|(which, half)| deviation(which, half, paint)));
    }
    lines.push(String::new());
    lines.extend(paint.wrapped(&sum(rows.iter().map(|(_, _, trial)| trial.verdict())), 0));
    lines.join("\n") + "\n"
}

fn trial_line(exhibit: &Exhibit, trial: &Trial, paint: Paint) -> String {
    match trial.verdict() {
        TrialVerdict::AsWorkedOut => {
            let twin = if exhibit.twin.leaves.is_empty() { "clean".into() } else { trial.twin.found.clone() };
            format!("{}: {}; twin: {twin}", paint.right("shown"), in_words(&exhibit.found))
        }
        TrialVerdict::Skipped => format!("skipped: {}", trial.skipped().unwrap_or_default()),
        TrialVerdict::Deviates => paint.wrong("not as worked out"),
        TrialVerdict::NotDone => paint.wrong("not done"),
    }
}

/// What is not as it must be.
fn deviation(which: &str, half: &Half, paint: Paint) -> Vec<String> {
    let pairs = match &half.outcome {
        Outcome::Deviates { expected, observed, .. } => vec![("expected", expected), ("observed", observed)],
        Outcome::NotDone(why) => vec![("not done", why)],
        Outcome::AsWorkedOut | Outcome::Skipped(_) => Vec::new(),
    };
    let line = |(label, text): (&str, &String)| paint.labelled(&format!("  {which:<8} {label:<9}"), text, 22);
    pairs.into_iter().flat_map(line).collect()
}

fn sum(verdicts: impl Iterator<Item = TrialVerdict>) -> String {
    let verdicts: Vec<_> = verdicts.collect();
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    let counts = [
        (count(TrialVerdict::AsWorkedOut), "shown as worked out, and their twins without the bug"),
        (count(TrialVerdict::Deviates), "not as worked out"),
        (count(TrialVerdict::Skipped), "skipped"),
        (count(TrialVerdict::NotDone), "not done"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}"));
    format!("{}: {}", counted(verdicts.len() as u64, "exhibit"), counts.collect::<Vec<_>>().join(", "))
}

/// What a visitor's code comes to on each map, and in all.
pub fn answers(who: &str, rows: &[(&Bug, &Exhibit, &Answer)], paint: Paint) -> String {
    let column = column(rows.iter().map(|(_, exhibit, _)| exhibit.name));
    let mut lines = vec![who.to_owned(), String::new()];
    for (bug, exhibit, answer) in rows {
        lines.extend(paint.row(exhibit.name, &answer_line(bug, answer, paint), column));
    }
    lines.push(String::new());
    lines.extend(paint.wrapped(&verdict_on(rows), 0));
    lines.join("\n") + "\n"
}

fn answer_line(bug: &Bug, answer: &Answer, paint: Paint) -> String {
    let line = match &answer.has {
        Has::Yes(finding) => format!("{}: {finding}", paint.wrong(format!("has bug {}", bug.number))),
        Has::No => paint.right("no"),
        Has::NotAsked(why) => format!("not about mapping code: {why}"),
        Has::Skipped(why) => format!("skipped: {why}"),
        Has::Unknown(why) => format!("{}: {why}", paint.wrong("not known")),
    };
    if answer.others.is_empty() { line } else { format!("{line}; other findings: {}", answer.others) }
}

fn verdict_on(rows: &[(&Bug, &Exhibit, &Answer)]) -> String {
    let mut numbers: Vec<u32> =
        rows.iter().filter(|(_, _, answer)| matches!(answer.has, Has::Yes(_))).map(|(bug, ..)| bug.number).collect();
    numbers.dedup();
    let count = |name: &str| rows.iter().filter(|(_, _, answer)| answer.has.name() == name).count();
    let names: Vec<_> = numbers.iter().map(u32::to_string).collect();
    let mut text = match names.len() {
        0 if count("no") == 0 => "no bug could be looked for to the end".to_owned(),
        0 => "none of the known bugs was found".to_owned(),
        1 => format!("it has bug {}", names[0]),
        _ => format!("it has the bugs {}", names.join(", ")),
    };
    for (name, words) in [
        ("no", "without the bug"),
        ("unknown", "not known"),
        ("skipped", "skipped"),
        ("not-asked", "not about mapping code"),
    ] {
        if count(name) > 0 {
            text += &format!("; {} {words}", count(name));
        }
    }
    let others = rows.iter().filter(|(_, _, answer)| !answer.others.is_empty()).count();
    if others > 0 { format!("{text}; other findings on {}", counted(others as u64, "map")) } else { text }
}
