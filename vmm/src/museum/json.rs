//! The museum for programs: one object each; keys are stable, and new ones may be added.

use serde_json::{Value, json};

use super::bug::{Asks, Bug, Exhibit, Found, Shown};
use super::trial::{Half, Outcome, Trial};
use super::visitor::Answer;
use crate::report::json::pretty;

/// All bugs.
pub fn list<'a>(bugs: impl Iterator<Item = &'a Bug>) -> String {
    pretty(&json!({ "schema": 1, "bugs": bugs.map(bug).collect::<Vec<_>>() }))
}

fn bug(bug: &Bug) -> Value {
    let why = match bug.shown {
        Shown::By(_) => None,
        Shown::ToldOnly(why) => Some(why),
    };
    json!({
        "number": bug.number,
        "name": bug.name,
        "title": bug.title,
        "code": bug.code,
        "source": bug.source,
        "wrong": bug.wrong,
        "looks": bug.looks,
        "mends": bug.mends,
        "exhibits": bug.exhibits().iter().map(exhibit).collect::<Vec<_>>(),
        "not_shown": why,
    })
}

fn exhibit(exhibit: &Exhibit) -> Value {
    let not_asked = match exhibit.asks {
        Asks::ToMap(_) => None,
        Asks::Nothing(why) => Some(why),
    };
    json!({
        "name": exhibit.name,
        "runs": exhibit.subject(),
        "scenario": exhibit.toml,
        "must_find": must_find(&exhibit.found),
        "may_find": exhibit.besides.iter().map(|rule| rule.name()).collect::<Vec<_>>(),
        "twin": exhibit.twin.words,
        "twin_finds": exhibit.twin.leaves.iter().map(|rule| rule.name()).collect::<Vec<_>>(),
        "not_about_mapping_code": not_asked,
    })
}

fn must_find(found: &Found) -> Value {
    let hex = |number: u64| format!("{number:#x}");
    json!({
        "rule": found.rule.name(),
        "phase": found.phase.name(),
        "region": found.region,
        "virt": found.virt.map(hex),
        "error_code": found.error_code.map(|code| hex(code.into())),
        "expected": found.frames.map(|(expected, _)| hex(expected)),
        "reached": found.frames.map(|(_, reached)| hex(reached)),
        "level": found.level.map(|level| level.to_string()),
    })
}

/// What came of runs.
pub fn trials(rows: &[(&Bug, &Exhibit, &Trial)], verdict: &str) -> String {
    let exhibits = rows.iter().map(|(bug, exhibit, trial)| {
        json!({
            "bug": bug.number,
            "name": exhibit.name,
            "verdict": trial.verdict().name(),
            "exhibit": half(&trial.shown),
            "twin": half(&trial.twin),
            "seconds": trial.time.as_secs_f64(),
        })
    });
    pretty(&json!({ "schema": 1, "verdict": verdict, "exhibits": exhibits.collect::<Vec<_>>() }))
}

fn half(half: &Half) -> Value {
    let (expected, observed, reason) = match &half.outcome {
        Outcome::AsWorkedOut => (None, None, None),
        Outcome::Deviates { expected, observed, .. } => (Some(expected), Some(observed), None),
        Outcome::Skipped(why) | Outcome::NotDone(why) => (None, None, Some(why)),
    };
    json!({ "found": half.found, "expected": expected, "observed": observed, "reason": reason })
}

/// What a visitor's code has.
pub fn answers(who: &str, rows: &[(&Bug, &Exhibit, &Answer)]) -> String {
    let exhibits = rows.iter().map(|(bug, exhibit, answer)| {
        json!({
            "bug": bug.number,
            "name": exhibit.name,
            "has": answer.has.name(),
            "words": answer.has.words(),
            "other_findings": answer.others,
        })
    });
    pretty(&json!({ "schema": 1, "mapper": who, "exhibits": exhibits.collect::<Vec<_>>() }))
}
