//! The mapping code runs natively, and the software walk alone looks at its tables.

use std::convert::Infallible;
use std::time::Instant;

use efibed_guest::Mapper;
use efibed_guest::mapper::Step;

use super::course::{self, Course, Engine};
use super::mapping::Outcome;
use super::snapshot::Snapshot;
use super::{EngineError, Job, Memories, Progress};
use super::{cpu, left_out, native, pool, reports};
use crate::check::{self, Budget, Expectation, Marks, Phase, Skipped, TableCheck};
use crate::guest::{Case, Image, Kernel, LoadError, MappedTables, Placement};
use crate::machine::{CpuidRequest, MaxPhyAddr};
use crate::mmu::{Cpu, Paging, USUAL_MAXPHYADDR, Vendor};
use crate::report::{EngineName, Report};

/// Runs a job without a machine, on one of some memories.
pub fn run(job: &Job<'_>, memories: &Memories) -> Result<Report, EngineError> {
    run_and_look(job, memories, &mut |_, _| {})
}

/// Runs a job, and shows each phase's tables, if there are any: those of phase `finish` only where it changed them.
pub fn run_and_look(
    job: &Job<'_>,
    memories: &Memories,
    look: &mut dyn FnMut(Phase, &TableCheck<'_>),
) -> Result<Report, EngineError> {
    let start = Instant::now();
    let Some(mapper) = job.subject.mapper() else {
        let what = "an ELF file's mapping code under engine walker".into();
        let why = "it runs natively, and only a guest confines what is in a file".into();
        return Err(EngineError::Unable { what, why });
    };
    let paging = Paging { rules: job.rules, ..model(&job.cpu) };
    let mut report = reports::empty(job, EngineName::Walker, Cpu::honest(paging));
    let mut input = Marks::default();
    report.notes.extend(check::judge_map(job.map, &paging, &mut input));
    if reports::misread_map(job, &mut report, &mut input) {
        report.timing.total = start.elapsed();
        return Ok(report);
    }

    let image = Image::built_in()?;
    let pool = pool::pool_pages(job.map, job.contract);
    let sizes = Case::sizes(image, job.map, job.strides(), 0, pool, 0);
    let placement = match Placement::find(job.map, sizes, 1 << paging.maxphyaddr, &[]) {
        Ok(placement) => placement,
        Err(no_room) => return Ok(reports::without_room(job, report, input, &no_room)),
    };
    reports::file_input(job, &mut report, input);
    let memory = memories.take(&placement).map_err(LoadError::from)?;
    let kernel = Kernel::left_out(image, memory, placement);
    let case = Case::beside(&kernel, job.map, job.strides(), &[], &paging).map_err(LoadError::from)?;
    report.timing.build = start.elapsed();

    let kernels_own = reports::ranges(&case.keep);
    let deadline = start.checked_add(job.limit);
    let course = Course {
        job,
        case: &case,
        cpu: report.cpu,
        kernel: &kernels_own,
        report,
        marks: Marks::default(),
        phase: Phase::Map,
        kernels_tables: Snapshot::kernels_tables(&case),
        stray_write: None,
        tables: Snapshot::default(),
        denials: Vec::new(),
        budget: Budget::new(deadline),
        look,
    };
    let mut walker = Walker { course, mapper, deadline };
    let mut judged = None;
    let Ok(()) = course::run(&mut walker, &mut judged);
    let Walker { mut course, .. } = walker;
    let not_asked = left_out::asked_of_services(job).map(|what| Skipped::not_done(what, NO_SERVICES));
    course.report.skipped.extend(not_asked);
    let mut report = course.into_report(judged);
    memories.give_back(case);
    report.timing.total = start.elapsed();
    Ok(report)
}

/// The engine at work: the mapping code runs natively, and nobody loads its tables.
struct Walker<'a> {
    course: Course<'a>,
    mapper: Box<dyn Mapper>,
    deadline: Option<Instant>,
}

impl<'a> Engine<'a> for Walker<'a> {
    type End = Infallible;

    const LOADS_TABLES: bool = false;

    fn course(&mut self) -> &mut Course<'a> {
        &mut self.course
    }

    fn map(&mut self, step: Step) -> Result<Option<Outcome>, Infallible> {
        if step == Step::Finish && self.is_out_of_time(&[FINISH]) {
            return Ok(None);
        }
        let outcome = self.run_mapper(step);
        let is_cut = step == Step::Map
            && outcome.tables().is_some()
            && self.is_out_of_time(&["the walk over the tables", FINISH]);
        Ok((!is_cut).then_some(outcome))
    }

    fn observe(&mut self, _expectation: &Expectation, _tables: &MappedTables) -> Result<(), Infallible> {
        Ok(())
    }

    fn call(&mut self, _expectation: &Expectation, _root: u64) -> Result<(), Infallible> {
        Ok(())
    }
}

impl Walker<'_> {
    /// A phase of the mapper, run on the guest's memory as the guest would.
    fn run_mapper(&mut self, step: Step) -> Outcome {
        let Course { job, case, phase, ref cpu, ref kernels_tables, ref mut report, .. } = self.course;
        if step == Step::Map {
            (job.progress)(Progress::Mapping { tables: 0 });
        }
        let untouchable = Snapshot::untouchable(case, phase, kernels_tables);
        let mapping = Instant::now();
        let outcome = native::call(&mut self.mapper, step, case, cpu::offer(cpu));
        report.timing.map += mapping.elapsed();
        if let Some(pa) = untouchable.stray_write(case, outcome.tables()) {
            self.course.find_stray_write(pa);
        }
        outcome
    }

    /// Whether the run's limit is over; what is left out then is reported.
    fn is_out_of_time(&mut self, open: &[&str]) -> bool {
        let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        for what in open.iter().filter(|_| is_over) {
            self.course.report.skipped.push(left_out::out_of_time(what, self.course.job.limit));
        }
        is_over
    }
}

const FINISH: &str = "phase `finish`";
const NO_SERVICES: &str = "engine walker calls no runtime service";

/// The CPU that is modelled where nothing is asked for: everything but five levels and keys.
pub fn model(asked: &CpuidRequest) -> Paging {
    Paging {
        la57: asked.la57 == Some(true),
        maxphyaddr: asked.maxphyaddr.map_or(USUAL_MAXPHYADDR, MaxPhyAddr::get),
        gbpages: asked.gbpages != Some(false),
        nxe: asked.nx != Some(false),
        wp: true,
        smep: asked.smep != Some(false),
        smap: asked.smap != Some(false),
        pke: asked.pku == Some(true),
        vendor: Vendor::Intel,
        ..Paging::default()
    }
}
