//! The matrix's results, for a program.

use serde_json::{Value, json};

use super::MatrixReport;
use crate::matrix::Mismatch;
use crate::matrix::Single;

/// One object; its keys are stable, and new ones may be added.
pub fn to_json(report: &MatrixReport) -> String {
    let codes: Vec<_> = report.error_codes.iter().map(|code| format!("{code:#x}")).collect();
    let deviations = report.deviations.iter().map(|found| {
        json!({
            "name": found.name,
            "rule": found.rule,
            "reason": found.reason,
            "count": found.count,
            "counts_trials": found.is_of_trials,
            "example": found.example.as_ref().map(case),
        })
    });
    let skipped = report
        .skipped
        .iter()
        .map(|skipped| json!({ "what": skipped.what, "reason": skipped.reason, "count": skipped.count }));
    let parts = report.parts.iter().map(|(title, count)| json!({ "what": title, "combinations": count }));
    let value = json!({
        "schema": 1,
        "set": report.set.name(),
        "sample": report.sample,
        "seed": report.seed,
        "shard": format!("{}/{}", report.shard.number, report.shard.of),
        "combinations": report.combinations,
        "faults": report.faults,
        "distinct_error_codes": codes.len(),
        "error_codes": codes,
        "mismatches": report.mismatches,
        "mismatch_cases": report.shown.iter().map(case).collect::<Vec<_>>(),
        "deviations": deviations.collect::<Vec<_>>(),
        "deviations_not_found": report.not_found,
        "deviations_not_shown": report.not_shown,
        "parts": parts.collect::<Vec<_>>(),
        "skipped": skipped.collect::<Vec<_>>(),
        "threads": report.threads,
        "seconds": report.elapsed.as_secs_f64(),
        "per_second": report.per_second(),
        "floor_per_second": report.floor_per_second(),
    });
    format!("{value:#}\n")
}

/// The same of a single combination.
pub fn single_to_json(single: &Single) -> String {
    let entries = single.entries.iter().map(|entry| {
        let [at, before, after] = [entry.at, entry.before, entry.after].map(|word| format!("{word:#x}"));
        json!({ "level": entry.name, "entry_addr": at, "entry": before, "after": after })
    });
    let mut value = case(&single.outcome);
    let more = json!({
        "schema": 1,
        "virt": format!("{:#x}", single.virt),
        "cr3": format!("{:#x}", single.root),
        "walk": entries.collect::<Vec<_>>(),
        "deviations": single.deviations,
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    format!("{value:#}\n")
}

fn case(mismatch: &Mismatch) -> Value {
    let differs: Vec<_> = mismatch.differences.iter().map(ToString::to_string).collect();
    json!({
        "case": mismatch.case,
        "cpu": mismatch.cpu,
        "expected": mismatch.expected,
        "observed": mismatch.observed,
        "differs": differs,
    })
}
