//! Threads: each has a guest, and a host that lays out and judges one batch while the guest runs another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::arena::{ARENAS, Arena, Case, MAX_CASES, Slots};
use super::bits::Combination;
use super::deviations::{DEVIATIONS, Machine, Model};
use super::expected::Expected;
use super::observed::{Observed, fault};
use super::part::Part;
use super::plan::{Piece, Plan};
use super::report::Mismatch;
use super::station::{Batch, Site, Tally, modes};
use super::{Done, Matrix};
use crate::bed::TestBed;
use crate::engine::EngineError;
use crate::guest::LoadError;
use crate::mmu::{Fault, Paging, Rule};

/// What was found.
#[derive(Default)]
pub struct Findings {
    /// Guests that ran at a time.
    pub threads: usize,
    /// What the guests counted.
    pub tally: Tally,
    /// Codes of page faults.
    pub error_codes: BTreeSet<u32>,
    /// Combinations that neither the SDM nor a known deviation explains.
    pub mismatches: u64,
    /// The first of them.
    pub shown: Vec<Mismatch>,
    /// For each deviation, by its index: what it explains.
    pub deviations: BTreeMap<usize, Explained>,
    /// For each rule of the software MMU, in how many combinations it was missed when it was broken.
    pub controls: BTreeMap<Rule, u64>,
    /// Deviations that were to be met, by trials of single accesses, and of how many combinations.
    pub due: BTreeMap<usize, u64>,
}

/// What a deviation explains.
#[derive(Default)]
pub struct Explained {
    /// How many combinations.
    pub count: u64,
    /// One of them.
    pub example: Option<Mismatch>,
}

/// Mismatches that are kept.
const MAX_SHOWN: usize = 64;

/// Runs all of a plan.
pub fn run(
    matrix: &Matrix,
    bed: &TestBed,
    plan: &Plan,
    progress: &(dyn Fn(Done) + Sync),
) -> Result<Findings, EngineError> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = matrix.threads.map_or(processors, usize::from).min(plan.pieces().len()).max(1);
    let work = Work {
        matrix,
        bed,
        plan,
        progress,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| work.host())).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut all = Findings { threads, ..Findings::default() };
    for findings in results {
        all.add(findings?);
    }
    Ok(all)
}

/// What the threads share.
struct Work<'a> {
    matrix: &'a Matrix,
    bed: &'a TestBed,
    plan: &'a Plan,
    progress: &'a (dyn Fn(Done) + Sync),
    next: AtomicUsize,
    done: AtomicU64,
    stopped: AtomicBool,
}

impl Work<'_> {
    /// One thread's host, with a guest beside it.
    fn host(&self) -> Result<Findings, EngineError> {
        let arenas = new_arenas()?;
        let (to_guest, from_host) = channel();
        let (to_host, from_guest) = channel();
        thread::scope(|scope| {
            scope.spawn(|| self.guest(&arenas, from_host, to_host));
            let found = self.lay_out_and_judge(&arenas, to_guest, &from_guest);
            if found.is_err() {
                self.stopped.store(true, Ordering::Relaxed);
            }
            found
        })
    }

    fn lay_out_and_judge(
        &self,
        arenas: &[Arena; ARENAS],
        to_guest: Sender<Batch>,
        from_guest: &Receiver<Result<Batch, EngineError>>,
    ) -> Result<Findings, EngineError> {
        let mut findings = Findings::default();
        let mut ahead = Ahead { work: self, piece: None, next: None };
        let mut free: Vec<usize> = (0..ARENAS).collect();
        loop {
            if let Some(&arena) = free.last()
                && let Some(batch) = ahead.batch(arena, arenas)
            {
                free.pop();
                // If nobody takes it, the guest has ended, and says why below.
                let _ = to_guest.send(batch);
                continue;
            }
            if free.len() == ARENAS {
                return Ok(findings);
            }
            let Ok(batch) = from_guest.recv() else {
                return Err(EngineError::Kvm("the guest's thread has ended".into()));
            };
            let batch = batch?;
            let (part, machine) = &self.plan.parts[batch.part];
            findings.judge(&arenas[batch.arena], &batch, part, machine)?;
            if self.matrix.controls {
                findings.break_rules(&arenas[batch.arena], &batch, part);
            }
            free.push(batch.arena);
            let judged = batch.cases.len() as u64;
            let done = self.done.fetch_add(judged, Ordering::Relaxed) + judged;
            (self.progress)(Done { done, all: self.plan.count() });
        }
    }

    /// Runs what it is sent, on a machine of its part.
    fn guest(&self, arenas: &[Arena; ARENAS], batches: Receiver<Batch>, done: Sender<Result<Batch, EngineError>>) {
        let mut next = batches.recv().ok();
        while let Some(batch) = next.take() {
            match self.run_part(arenas, batch, &batches, &done) {
                Ok(rest) => next = rest,
                // The host may have gone for an error of its own.
                Err(error) => drop(done.send(Err(error))),
            }
        }
    }

    /// Runs batches of one part until there is one of another.
    fn run_part(
        &self,
        arenas: &[Arena; ARENAS],
        first: Batch,
        batches: &Receiver<Batch>,
        done: &Sender<Result<Batch, EngineError>>,
    ) -> Result<Option<Batch>, EngineError> {
        let number = first.part;
        let part = &self.plan.parts[number].0;
        let mut site = Site::new(self.bed, part, arenas)?;
        let mut station = site.open(part, arenas, self.matrix.handlers)?;
        let mut next = Some(first);
        while let Some(mut batch) = next.take_if(|batch| batch.part == number) {
            station.run(&mut batch)?;
            let _ = done.send(Ok(batch));
            next = batches.recv().ok();
        }
        site.close(self.bed, part);
        Ok(next)
    }
}

/// Two arenas of a thread's own.
pub fn new_arenas() -> Result<[Arena; ARENAS], EngineError> {
    let arena = |number| Arena::new(number).map_err(|error| EngineError::Load(LoadError::from(error)));
    Ok([arena(0)?, arena(1)?])
}

/// Combinations that come next, laid out batch by batch.
struct Ahead<'w, I> {
    work: &'w Work<'w>,
    piece: Option<(usize, I)>,
    next: Option<(usize, Combination)>,
}

impl<'w> Ahead<'w, Box<dyn Iterator<Item = Combination> + 'w>> {
    /// The next batch; None if there is no more.
    fn batch(&mut self, arena: usize, arenas: &[Arena; ARENAS]) -> Option<Batch> {
        let (part, first) = self.peek()?;
        let la57 = self.work.plan.parts[part].0.told.la57;
        let mut slots = Slots::default();
        let mut batch = Batch {
            part,
            arena,
            cases: Vec::with_capacity(MAX_CASES),
            tally: Tally::default(),
            stray_writes: Vec::new(),
        };
        while let Some((_, combination)) =
            self.peek().filter(|next| next.0 == part && next.1.registers() == first.registers())
        {
            let index = batch.cases.len();
            if index == MAX_CASES {
                break;
            }
            let Some(case) = arenas[arena].lay_out(index, &mut slots, combination, la57) else { break };
            batch.cases.push(case);
            self.next = None;
        }
        Some(batch)
    }

    fn peek(&mut self) -> Option<(usize, Combination)> {
        while self.next.is_none() {
            if self.work.stopped.load(Ordering::Relaxed) {
                return None;
            }
            match &mut self.piece {
                Some((part, combinations)) => match combinations.next() {
                    Some(combination) => self.next = Some((*part, combination)),
                    None => self.piece = None,
                },
                None => {
                    let piece: Piece = *self.work.plan.pieces().get(self.work.next.fetch_add(1, Ordering::Relaxed))?;
                    self.piece = Some((piece.part, Box::new(self.work.plan.combinations(piece))));
                }
            }
        }
        self.next
    }
}

impl Findings {
    fn add(&mut self, other: Self) {
        self.tally.add(&other.tally);
        self.error_codes.extend(other.error_codes);
        self.mismatches += other.mismatches;
        self.shown.extend(other.shown);
        self.shown.truncate(MAX_SHOWN);
        for (index, explained) in other.deviations {
            let mine = self.deviations.entry(index).or_default();
            mine.count += explained.count;
            mine.example = mine.example.take().or(explained.example);
        }
        for (rule, count) in other.controls {
            *self.controls.entry(rule).or_default() += count;
        }
        for (index, count) in other.due {
            *self.due.entry(index).or_default() += count;
        }
    }

    fn judge(&mut self, arena: &Arena, batch: &Batch, part: &Part, machine: &Machine) -> Result<(), EngineError> {
        let mut recorded = Tally::default();
        for (index, case) in batch.cases.iter().enumerate() {
            let observed = Observed::of(arena, batch, index);
            recorded.count(&observed);
            if let Some(fault) = fault(&observed.main)
                && fault.vector == Fault::PAGE_FAULT
            {
                self.error_codes.insert(fault.error_code.0);
            }
            self.judge_case(case, &observed, part, machine);
        }
        if recorded != batch.tally {
            let Tally { accesses, faults, .. } = batch.tally;
            return Err(EngineError::Kvm(format!(
                "the guest counted {accesses} accesses and {faults} faults, and recorded {} and {}",
                recorded.accesses, recorded.faults
            )));
        }
        self.tally.add(&batch.tally);
        Ok(())
    }

    /// Holds each observation that is as the SDM says against a software MMU that is not, one rule at a time.
    fn break_rules(&mut self, arena: &Arena, batch: &Batch, part: &Part) {
        for (index, case) in batch.cases.iter().enumerate() {
            let observed = Observed::of(arena, batch, index);
            let model = Model::of_the_sdm(modes(&part.told, &case.combination));
            let expected = Expected::of(case, &model);
            if !expected.differences(case, &observed).is_empty() {
                continue;
            }
            for &rule in Rule::ALL {
                let rules = model.paging.rules.without(rule);
                let broken = Expected::of(case, &Model::of_the_sdm(Paging { rules, ..model.paging }));
                let missed = broken != expected && !broken.differences(case, &observed).is_empty();
                *self.controls.entry(rule).or_default() += u64::from(missed);
            }
        }
    }

    fn judge_case(&mut self, case: &Case, observed: &Observed, part: &Part, machine: &Machine) {
        let model = Model::of_the_sdm(modes(&part.told, &case.combination));
        let expected = Expected::of(case, &model);
        for (index, deviation) in
            DEVIATIONS.iter().enumerate().filter(|(_, each)| each.precondition.is_some_and(|holds| holds(machine)))
        {
            let due = (deviation.model)(&model, machine).is_some_and(|model| Expected::of(case, &model) != expected);
            *self.due.entry(index).or_default() += u64::from(due);
        }
        let differences = expected.differences(case, observed);
        if differences.is_empty() {
            return;
        }
        let mismatch = || Mismatch::new(case, &part.request, &expected, observed, &differences);
        match explain(case, observed, &model, machine) {
            Some(deviations) => {
                for &index in deviations {
                    let explained = self.deviations.entry(index).or_default();
                    explained.count += 1;
                    explained.example.get_or_insert_with(mismatch);
                }
            }
            None => {
                self.mismatches += 1;
                if self.shown.len() < MAX_SHOWN {
                    self.shown.push(mismatch());
                }
            }
        }
    }
}

/// The likeliest deviations under which the observation is what must be.
pub fn explain<'a>(case: &Case, observed: &Observed, model: &Model, machine: &'a Machine) -> Option<&'a [usize]> {
    let explains = |model: &Model| Expected::of(case, model).differences(case, observed).is_empty();
    machine.deviating(*model).find(|(_, deviating)| explains(deviating)).map(|(deviations, _)| deviations)
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.accesses += other.accesses;
        self.faults += other.faults;
        self.before.0 += other.before.0;
        self.before.1 += other.before.1;
    }

    /// Counts what was recorded, as the guest counts what it does.
    fn count(&mut self, observed: &Observed) {
        self.accesses += 1;
        self.faults += u64::from(fault(&observed.main).is_some());
        if let Some(before) = &observed.before {
            self.before.0 += 1;
            self.before.1 += u64::from(fault(before).is_some());
        }
    }
}
