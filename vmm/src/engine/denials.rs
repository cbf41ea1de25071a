//! What firmware's own Memory Attributes Table denies it.

use super::Job;
use crate::check::{Denial, Expectation, Finding, Phase, Rule, Statement, WalkStep, Witness};
use crate::firmware::Misbehaviour;
use crate::guest::Case;
use crate::memory_map::type_name;
use crate::mmu::{Kind, Outcome, Pa, Paging, walk};

/// What firmware's own Memory Attributes Table denies it in phase `finish`, with the fault that a call meets on these
/// tables. Where the scenario has the table lie, that is a misbehaviour, and shows as such.
pub fn denials(job: &Job<'_>, expectation: &Expectation, case: &Case, root: u64, paging: &Paging) -> Vec<Denied> {
    if job.firmware.misbehaves.iter().any(|misbehaviour| misbehaviour.what == Misbehaviour::AttributesTable) {
        return Vec::new();
    }
    let denied = |denial: Denial| {
        let walk = walk(&case.memory, Pa(root), denial.virt, denial.access, paging);
        let (what, forbids, first) = match denial.access.kind {
            Kind::Fetch => ("executed", "XP", "the first call of a service"),
            _ => ("written to", "RO", "a service's first write to its data"),
        };
        let ty = type_name(denial.ty);
        let met = match walk.outcome {
            Outcome::Fault(fault) => Statement::faulted(fault, denial.virt),
            _ => Statement::text("no fault: the mapping code did not apply the table"),
        };
        let message = format!(
            "firmware's Memory Attributes Table makes every page of {ty} {forbids} ({} in all): {first} meets {met}",
            denial.pages
        );
        let finding = Finding {
            virt: Some(denial.virt),
            pages: denial.pages,
            expected: Some(Statement::Text(format!("a page of {ty} that may be {what}").into())),
            observed: Some(met),
            walk: walk.steps().iter().map(WalkStep::from).collect(),
            witnesses: vec![Witness::Expectation, Witness::Walk],
            ..Finding::worded(Phase::Finish, Rule::AttributesTable, None, message)
        };
        Denied { kind: denial.access.kind, finding }
    };
    expectation.denials(job.map).into_iter().map(denied).collect()
}

/// What firmware's table denies it.
pub struct Denied {
    /// The access.
    pub kind: Kind,
    /// What is found.
    pub finding: Finding,
}
