//! The course of a run: what is done one after another, and what each engine does in its own way.

use std::ops::RangeInclusive;
use std::time::Instant;

use efibed_guest::mapper::Step;

use super::denials::{Denied, denials};
use super::mapping::Outcome;
use super::snapshot::Snapshot;
use super::{Job, Moment, Progress, cpu, dump, judging, regions};
use crate::check::{self, Budget, Expectation, Marks, Phase, Question, Rule, TableCheck, TableVerdict};
use crate::guest::{Case, MappedTables};
use crate::mmu::{Access, Cpu, Pa, Paging, Va, walk};
use crate::report::Report;

/// What is known of a run, and with what it is carried out.
pub struct Course<'a> {
    pub job: &'a Job<'a>,
    pub case: &'a Case,
    pub cpu: Cpu,
    /// The kernel's ranges.
    pub kernel: &'a [RangeInclusive<Va>],
    pub report: Report,
    /// What has been noticed and is no finding yet.
    pub marks: Marks,
    pub phase: Phase,
    /// The kernel's own tables, as they must stay.
    pub kernels_tables: Snapshot,
    /// Where mapping code was found to have written that it must leave alone.
    pub stray_write: Option<u64>,
    /// The tables that were judged.
    pub tables: Snapshot,
    /// What firmware's own table denies it.
    pub denials: Vec<Denied>,
    /// Of all walks over whole tables.
    pub budget: Budget,
    /// Shown the tables of each phase: those of phase `finish` only where it changed them.
    pub look: &'a mut dyn FnMut(Phase, &TableCheck<'_>),
}

/// What the tables of phase `map` are to be, and are.
pub type Judged = (Expectation, TableVerdict);

/// An engine at work on a run: what each does in its own way.
pub trait Engine<'a> {
    /// Why a run ends before its time.
    type End;

    /// Whether the tables are loaded. A kernel that loads tables without its own ranges would be stranded.
    const LOADS_TABLES: bool;

    /// The run.
    fn course(&mut self) -> &mut Course<'a>;

    /// Calls the mapper for one of its phases; None: there is nothing to judge, and the report has why.
    fn map(&mut self, step: Step) -> Result<Option<Outcome>, Self::End>;

    /// Loads the tables of a phase, and asks whatever translates addresses there about every page.
    fn observe(&mut self, expectation: &Expectation, tables: &MappedTables) -> Result<(), Self::End>;

    /// Calls runtime services on the tables that the mapper is done with.
    fn call(&mut self, expectation: &Expectation, root: u64) -> Result<(), Self::End>;

    /// Makes findings of the marks so far. `root` is that of the tables they are about.
    fn conclude(&mut self, root: Option<u64>) {
        self.course().conclude(root);
    }
}

/// Phase `map`, its tables, and phase `finish` with what follows it. What the tables of phase `map` are to be, and are, goes
/// into `judged` as soon as it is known.
pub fn run<'a, E: Engine<'a>>(engine: &mut E, judged: &mut Option<Judged>) -> Result<(), E::End> {
    let Some(tables) = map(engine, Step::Map)? else { return Ok(()) };
    let course = engine.course();
    let Course { job, case, cpu, kernel, .. } = *course;
    course.tamper(Moment::BeforeWalk, tables.root);
    if !E::LOADS_TABLES {
        // Nobody else will see the tables.
        course.tamper(Moment::AfterWalk, tables.root);
    }
    course.tables = Snapshot::tables(case, tables.table_pages, &course.kernels_tables);
    let virtual_map = case.virtual_map(tables.mapped);
    let map_at = case.virtual_map_at(tables.mapped);
    let question = Question {
        map: job.map,
        contract: job.contract,
        virtual_map: &virtual_map,
        virtual_map_at: &(Pa(map_at.start)..Pa(map_at.end)),
        told: &cpu.told,
        nx: cpu::offer(&cpu).nx != 0,
        kernel,
    };
    let expectation = Expectation::new(&question, &mut course.marks).on(&course.tables_at(tables.root), &course.budget);
    if let Some(earlier) = job.earlier {
        expectation.compare_with_earlier(job.map, earlier.virtual_map, &mut course.marks);
    }
    course.report.virtual_map.clone_from(&virtual_map);
    let verdict = course.walk(&expectation, &tables);
    let intact = verdict.kernel_intact;
    let (expectation, _) = judged.insert((expectation, verdict));
    if !observe(engine, expectation, &tables, intact)? {
        return Ok(());
    }

    engine.course().phase = Phase::Finish;
    let (mut root, mut changed) = (tables.root, None);
    if job.kernel.finish {
        let Some(tables) = map(engine, Step::Finish)? else { return Ok(()) };
        let course = engine.course();
        course.tamper(Moment::AfterFinish, tables.root);
        let owed = expectation.finished(&question).on(&course.tables_at(tables.root), &course.budget);
        // The kernel's tables were looked at since, and those that had changed were renewed.
        let changed_since = course.tables.first_change_beside(&course.kernels_tables, &case.memory);
        let is_new = tables.root != root || changed_since.is_some();
        if E::LOADS_TABLES {
            course.tables = Snapshot::tables(case, tables.table_pages, &course.kernels_tables);
        }
        root = tables.root;
        // Whether there is anything to check again is not for the mapper to say.
        changed = (is_new || owed != *expectation).then_some((owed, tables));
    }
    if let Some((owed, tables)) = &changed {
        let intact = engine.course().walk(owed, tables).kernel_intact;
        if !observe(engine, owed, tables, intact)? {
            return Ok(());
        }
    }
    let finished = changed.as_ref().map_or(&*expectation, |(owed, _)| owed);
    engine.course().denials = denials(job, finished, case, root, &cpu.checks);
    let called = engine.call(finished, root);
    let course = engine.course();
    course.marks.push_findings(course.denials.drain(..).map(|denied| denied.finding));
    engine.conclude(Some(root));
    called
}

/// One phase of the mapper; None: it came to no tables, which is a finding.
fn map<'a, E: Engine<'a>>(engine: &mut E, step: Step) -> Result<Option<MappedTables>, E::End> {
    let outcome = engine.map(step)?;
    let course = engine.course();
    let Course { job, case, phase, ref mut report, ref mut marks, .. } = *course;
    judging::report_on_log(case, report);
    let tables = outcome.and_then(|outcome| judging::judge_outcome(job, phase, &outcome, case, report, marks));
    if tables.is_none() {
        engine.conclude(None);
    }
    Ok(tables)
}

/// Observes tables that were walked, and makes findings of both. False: the run ends with them.
fn observe<'a, E: Engine<'a>>(
    engine: &mut E,
    expectation: &Expectation,
    tables: &MappedTables,
    intact: bool,
) -> Result<bool, E::End> {
    let goes_on = intact || !E::LOADS_TABLES;
    let observed = if goes_on { engine.observe(expectation, tables) } else { Ok(()) };
    engine.conclude(Some(tables.root));
    observed.map(|()| goes_on)
}

impl Course<'_> {
    /// Changes the tables, as a negative control asks; true: something was changed. The kernel's tables are then taken to be
    /// as they should be: it is what looks at tables that is to see it.
    pub fn tamper(&mut self, moment: Moment, root: u64) -> bool {
        let memory = &self.case.memory;
        let mut changed = false;
        for tamper in self.job.tampers.iter().filter(|tamper| tamper.moment == moment) {
            let walk = walk(memory, Pa(root), Va(tamper.virt), Access::read(), &self.cpu.told);
            let step = walk.steps().iter().find(|step| step.level == tamper.level);
            // An entry the walk does not come to is not there to be changed; the run will be clean, and its test fail.
            if let Some(step) = step {
                changed |= memory.write_u64(step.entry_addr.0, step.entry ^ tamper.flip);
            }
        }
        if changed {
            self.kernels_tables.renew(memory);
        }
        changed
    }

    /// A write of the mapping code where it must not write, at a physical address, is a finding; once, since what it wrote
    /// stays there.
    pub fn find_stray_write(&mut self, pa: u64) {
        self.kernels_tables.renew(&self.case.memory);
        if self.stray_write.replace(pa) == Some(pa) {
            return;
        }
        self.marks.push_worded(self.phase, Rule::StrayWrite, None, judging::stray_write(pa));
    }

    /// Takes the tables that are there now for those that should be.
    pub fn renew_tables(&mut self) {
        self.kernels_tables.renew(&self.case.memory);
        self.tables.renew(&self.case.memory);
    }

    /// Makes findings of the marks so far.
    pub fn conclude(&mut self, root: Option<u64>) {
        let marks = std::mem::take(&mut self.marks);
        self.report.findings_omitted += marks.omitted();
        let tables = root.map(|root| self.tables_at(root));
        let findings = marks.into_findings(self.phase, self.job.map, tables);
        self.report.findings.extend(findings);
    }

    /// The report, with what became of each region.
    pub fn into_report(mut self, judged: Option<Judged>) -> Report {
        let known = judged.as_ref().map(|(expectation, tables)| (expectation, tables));
        self.report.regions = regions::reports(self.job.map, known, &self.report.findings);
        self.report.runs = judged.map_or_else(Vec::new, |(_, tables)| tables.runs);
        self.report
    }

    fn tables_at(&self, root: u64) -> check::RootedTables<'_> {
        check::RootedTables { memory: &self.case.memory, root: Pa(root), told: &self.cpu.told }
    }

    /// The software MMU's walk over all of the tables.
    fn walk(&mut self, expectation: &Expectation, mapped: &MappedTables) -> TableVerdict {
        (self.job.progress)(Progress::Walking);
        let checking = Instant::now();
        let told = Paging { rules: self.job.rules, ..self.cpu.told };
        let reach = self.case.placement.tables(mapped.table_pages);
        let tables = TableCheck {
            memory: &self.case.memory,
            root: Pa(mapped.root),
            kernel_root: Pa(self.case.kernel_root),
            reach: &(Pa(reach.start)..Pa(reach.end)),
            kernel: self.kernel,
            told: &told,
            expectation,
            budget: &self.budget,
        };
        let verdict = tables.run(&mut self.marks);
        dump::dump(self.job, self.phase, &tables, &mut self.report);
        (self.look)(self.phase, &tables);
        self.report_on_walk(&verdict);
        self.report.timing.check += checking.elapsed();
        verdict
    }

    /// What a walk says besides its findings; what it says of both phases, once.
    fn report_on_walk(&mut self, verdict: &TableVerdict) {
        let notes = &mut self.report.notes;
        for note in &verdict.notes {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        self.report.skipped.extend(verdict.not_done.clone());
    }
}
