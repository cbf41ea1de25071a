//! What is to be said of a mapper's call: of its outcome, its log, and what it wrote to.

use efibed_guest::MapError;

use super::Job;
use super::mapping::Outcome;
use super::pool::{MAX_POOL_PAGES, pages_wanted, pool_pages};
use crate::check::{Expectation, Marks, Phase, Question, Rule, Skipped};
use crate::guest::{Case, MappedTables};
use crate::memory_map::MemoryDescriptor;
use crate::mmu::{Pa, Paging};
use crate::report::Report;

/// What a call of the mapper came to. Where it is no tables, that is a finding, and None.
pub fn judge_outcome(
    job: &Job<'_>,
    phase: Phase,
    outcome: &Outcome,
    case: &Case,
    report: &mut Report,
    marks: &mut Marks,
) -> Option<MappedTables> {
    match outcome {
        Outcome::Tables(tables) => return Some(*tables),
        Outcome::GaveUp(error) => mapper_gave_up(job, phase, *error, case, report, marks),
        Outcome::Panicked(account) => {
            let account = if account.is_empty() { "panicked, and its log had no room for more" } else { account };
            marks.push_worded(phase, Rule::GuestPanic, None, format!("the mapping code {account}"));
        }
        Outcome::Absurd(sentences) => {
            for sentence in sentences {
                marks.push_worded(phase, Rule::MapperError, None, sentence.clone());
            }
        }
    }
    None
}

/// What the mapper has logged, as notes. It adds to what it logged in an earlier phase, which has been told.
pub fn report_on_log(case: &Case, report: &mut Report) {
    const LOGGED: &str = "the mapping code logged: ";
    let told = report.notes.iter().filter(|note| note.starts_with(LOGGED)).count();
    report.notes.extend(case.logged().lines().skip(told).map(|line| format!("{LOGGED}{line}")));
}

/// What is said of a mapper's write to memory that it was not given.
pub fn stray_write(pa: u64) -> String {
    format!("the mapping code wrote to PA {pa:#x}, which it was not given")
}

/// What becomes of a run whose mapper gave up: that is a finding, unless the test bed gave it less than the map may need.
fn mapper_gave_up(job: &Job<'_>, phase: Phase, error: MapError, case: &Case, report: &mut Report, marks: &mut Marks) {
    if error == MapError::OutOfTablePages && pages_wanted(job.map, job.contract) > MAX_POOL_PAGES {
        let reason = format!("its tables take more than the {MAX_POOL_PAGES} pages that the test bed has for them");
        report.skipped.push(Skipped::not_done("the mapping", reason));
        judge_closed_form(job, &report.cpu.told, marks);
    } else {
        mapper_error(phase, error, job, case, marks);
    }
}

/// What is wrong with the addresses that the closed form gives, independent of who maps them.
fn judge_closed_form(job: &Job<'_>, told: &Paging, marks: &mut Marks) {
    let (map, contract) = (job.map, job.contract);
    let Some(form) = contract.whole_form() else { return };
    let formula = (form.addresses)(map);
    let virtual_map = map.descriptors().iter().enumerate().filter_map(|(index, descriptor)| {
        let virt_start = formula.get(&index)?.map_or(descriptor.virt_start, |virt| virt.0);
        Some(MemoryDescriptor { virt_start, ..*descriptor })
    });
    let virtual_map: Vec<_> = virtual_map.collect();
    let question = Question {
        map,
        contract,
        virtual_map: &virtual_map,
        virtual_map_at: &(Pa(0)..Pa(0)),
        told,
        nx: true,
        kernel: &[],
    };
    Expectation::new(&question, marks);
}

/// A mapper's error as a finding.
fn mapper_error(phase: Phase, error: MapError, job: &Job<'_>, case: &Case, marks: &mut Marks) {
    let (map, contract) = (job.map, job.contract);
    let (rule, index, message) = match error {
        MapError::WindowOverflow { index } | MapError::AddressSpaceFull { index } => {
            (Rule::WindowOverflow, Some(index), contract.no_room(map, index))
        }
        MapError::OutOfTablePages => {
            let pool = pool_pages(map, contract);
            (Rule::MapperError, None, format!("the mapper used up the {pool} pages it was given for tables"))
        }
        MapError::TableOutOfReach { table } => {
            let message =
                format!("an entry names a table at {table:#x}, which is neither the kernel's nor the mapper's");
            (Rule::MapperError, None, message)
        }
        MapError::TooManyRegions { index } => {
            (Rule::MapperError, Some(index), format!("the virtual map has no room for region {index}"))
        }
        _ => (
            Rule::MapperError,
            None,
            format!("the mapping code gave up: {}", case.logged().lines().last().unwrap_or("its log does not say why")),
        ),
    };
    marks.push_worded(phase, rule, index, message);
}
