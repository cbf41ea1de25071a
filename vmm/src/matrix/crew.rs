//! Threads: each has a guest, and a host that lays out and judges one batch while the guest runs another.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::arena::{ARENAS, Arena, MAX_CASES, Slots, new_arenas};
use super::bits::Combination;
use super::findings::Findings;
use super::plan::{Piece, Plan};
use super::station::{Batch, Site};
use super::{Done, Matrix};
use crate::bed::TestBed;
use crate::engine::EngineError;

/// Runs all of a plan.
pub fn run(
    matrix: &Matrix,
    bed: &TestBed,
    plan: &Plan,
    progress: &(dyn Fn(Done) + Sync),
) -> Result<Findings, EngineError> {
    let threads = threads(matrix).min(plan.pieces().len()).max(1);
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

/// Guests at a time, if there is work for as many.
pub fn threads(matrix: &Matrix) -> usize {
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    matrix.threads.map_or_else(processors, usize::from)
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
            let part = &self.plan.parts[batch.part];
            findings.judge(&arenas[batch.arena], &batch, part, self.matrix.controls)?;
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
        let mut batch = Batch::new(part, arena);
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
