//! The mapping code runs natively, and the software walk alone looks at its tables.

use std::ops::RangeInclusive;
use std::time::Instant;

use efibed_guest::Mapper;
use efibed_guest::mapper::Step;

use super::native;
use super::snapshot::Snapshot;
use super::{EngineError, Job, Memories, Moment, Progress};
use super::{course, cpu};
use crate::check::{self, Budget, Expectation, Marks, Phase, Question, Rule, Skipped, TableCheck, TableVerdict};
use crate::guest::{Image, LoadError, Loaded, MappedTables, Placement};
use crate::machine::{CpuidRequest, MaxPhyAddr};
use crate::mmu::{Cpu, Pa, Paging, USUAL_MAXPHYADDR, Va, Vendor};
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
    let mut report = course::empty_report(job, EngineName::Walker, Cpu::honest(paging));
    let mut marks = Marks::default();
    report.notes.extend(check::judge_map(job.map, &paging, &mut marks));
    if course::report_on_misread_map(job, &mut report, &mut marks) {
        report.timing.total = start.elapsed();
        return Ok(report);
    }

    let image = Image::built_in()?;
    let pool = course::pool_pages(job.map, job.contract);
    let sizes = Loaded::sizes(image, job.map, job.strides(), 0, pool, 0);
    let placement = match Placement::find(job.map, sizes, 1 << paging.maxphyaddr, &[]) {
        Ok(placement) => placement,
        Err(no_room) => {
            marks.push_worded(Phase::Input, Rule::NoRoom, None, no_room.to_string());
            report.findings = marks.into_findings(Phase::Map, job.map, None);
            report.regions = course::region_reports(job.map, None, &report.findings);
            return Ok(report);
        }
    };
    let memory = memories.take(placement.base, placement.sizes.total()).map_err(LoadError::from)?;
    let loaded = Loaded::on(memory, image, job.map, job.strides(), placement, &[], &paging).map_err(LoadError::from)?;
    report.timing.build = start.elapsed();

    let kernel = course::ranges(&loaded.keep);
    let deadline = start.checked_add(job.limit);
    let budget = Budget::new(deadline);
    let mut run = WalkerRun { job, loaded: &loaded, paging, kernel, report, marks, look, deadline, budget };
    let judged = run.carry_out(mapper);
    let mut report = run.report;
    let known = judged.as_ref().map(|(expectation, tables)| (expectation, tables));
    report.skipped.extend(course::asked_of_services(job).map(|what| Skipped::not_done(what, NO_SERVICES)));
    report.regions = course::region_reports(job.map, known, &report.findings);
    report.runs = judged.map_or_else(Vec::new, |(_, tables)| tables.runs);
    memories.give_back(loaded);
    report.timing.total = start.elapsed();
    Ok(report)
}

/// One run, from the mapper's first phase to its last.
struct WalkerRun<'a> {
    job: &'a Job<'a>,
    loaded: &'a Loaded,
    paging: Paging,
    kernel: Vec<RangeInclusive<Va>>,
    report: Report,
    marks: Marks,
    /// Shown the tables of each phase.
    look: &'a mut dyn FnMut(Phase, &TableCheck<'_>),
    deadline: Option<Instant>,
    /// Of all walks over whole tables.
    budget: Budget,
}

impl WalkerRun<'_> {
    /// Both phases. What the tables of phase `map` are to be, and are, is the result; None: there are none.
    fn carry_out(&mut self, mut mapper: Box<dyn Mapper>) -> Option<(Expectation, TableVerdict)> {
        let MappedTables { root, mapped, table_pages } = self.run_mapper(Step::Map, &mut mapper)?;
        if self.is_out_of_time(&["the walk over the tables", "phase `finish`"]) {
            return None;
        }
        for moment in [Moment::BeforeWalk, Moment::AfterWalk] {
            course::tamper(self.job, moment, &self.loaded.memory, root, &self.paging);
        }
        let (judged_root, judged) = (root, Snapshot::tables(self.loaded, table_pages));
        let virtual_map = self.loaded.virtual_map(mapped);
        let map_at = self.loaded.virtual_map_at(mapped);
        let question = Question {
            map: self.job.map,
            contract: self.job.contract,
            virtual_map: &virtual_map,
            virtual_map_at: &(Pa(map_at.start)..Pa(map_at.end)),
            told: &self.paging.clone(),
            nx: self.paging.nxe,
            kernel: &self.kernel.clone(),
        };
        let expectation = Expectation::new(&question, &mut self.marks).on(&self.tables(root), &self.budget);
        if let Some(earlier) = self.job.earlier {
            expectation.compare_with_earlier(self.job.map, earlier.virtual_map, &mut self.marks);
        }
        let verdict = self.check(Phase::Map, &expectation, root);
        self.report.virtual_map.clone_from(&virtual_map);

        if !self.job.kernel.finish || self.is_out_of_time(&["phase `finish`"]) {
            return Some((expectation, verdict));
        }
        let Some(MappedTables { root, .. }) = self.run_mapper(Step::Finish, &mut mapper) else {
            return Some((expectation, verdict));
        };
        course::tamper(self.job, Moment::AfterFinish, &self.loaded.memory, root, &self.paging);
        let owed = expectation.finished(&question).on(&self.tables(root), &self.budget);
        let is_new = root != judged_root || judged.first_change(&self.loaded.memory).is_some();
        if is_new || owed != expectation {
            self.check(Phase::Finish, &owed, root);
            let denials = course::denials(self.job, &owed, self.loaded, root, &self.paging);
            self.report.findings.extend(denials.into_iter().map(|denied| denied.finding));
        }
        Some((expectation, verdict))
    }

    /// Whether the run's limit is over; what is left out then is reported.
    fn is_out_of_time(&mut self, open: &[&str]) -> bool {
        let is_over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        for what in open.iter().filter(|_| is_over) {
            self.report.skipped.push(course::out_of_time(what, self.job.limit));
        }
        is_over
    }

    /// A phase of the mapper, run on the guest's memory as the guest would; None: it came to no tables, which is a finding.
    fn run_mapper(&mut self, step: Step, mapper: &mut Box<dyn Mapper>) -> Option<MappedTables> {
        let phase = match step {
            Step::Map => Phase::Map,
            Step::Finish => Phase::Finish,
        };
        if step == Step::Map {
            (self.job.progress)(Progress::Mapping { tables: 0 });
        }
        let untouchable = Snapshot::untouchable(self.loaded, phase);
        let mapping = Instant::now();
        let outcome = native::call(mapper, step, self.loaded, cpu::offer(&self.report.cpu));
        self.report.timing.map += mapping.elapsed();
        course::report_on_log(self.loaded, &mut self.report);
        if let Some(pa) = untouchable.stray_write(self.loaded, outcome.tables()) {
            self.marks.push_worded(phase, Rule::StrayWrite, None, course::stray_write(pa));
        }
        let judged = course::judge_outcome(self.job, phase, &outcome, self.loaded, &mut self.report, &mut self.marks);
        if judged.is_none() {
            self.conclude(phase, None);
        }
        judged
    }

    fn check(&mut self, phase: Phase, expectation: &Expectation, root: u64) -> TableVerdict {
        (self.job.progress)(Progress::Walking);
        let checking = Instant::now();
        let tables = TableCheck {
            memory: &self.loaded.memory,
            root: Pa(root),
            kernel_root: Pa(self.loaded.kernel_root),
            kernel: &self.kernel,
            told: &self.paging,
            expectation,
            budget: &self.budget,
        };
        let verdict = tables.run(&mut self.marks);
        course::report_on_walk(&verdict, &mut self.report);
        course::dump(self.job, phase, &tables, &mut self.report);
        (self.look)(phase, &tables);
        self.conclude(phase, Some(root));
        self.report.timing.check += checking.elapsed();
        verdict
    }

    fn tables(&self, root: u64) -> check::RootedTables<'_> {
        check::RootedTables { memory: &self.loaded.memory, root: Pa(root), told: &self.paging }
    }

    /// Makes findings of the marks so far.
    fn conclude(&mut self, phase: Phase, root: Option<u64>) {
        let marks = std::mem::take(&mut self.marks);
        self.report.findings_omitted += marks.omitted();
        let seen = root.map(|root| self.tables(root));
        self.report.findings.extend(marks.into_findings(phase, self.job.map, seen));
    }
}

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
