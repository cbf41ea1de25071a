//! The mapping code's two phases, in ring 3 of the guest.

use std::cell::{RefCell, RefMut};
use std::time::Instant;

use efibed_guest::mapper::Step;

use super::super::mapping::Outcome;
use super::super::snapshot::{Snapshot, first_nonzero};
use super::super::{Job, Progress, cpu, judging, regions};
use super::stage::Stage;
use super::{Run, disassembled};
use crate::check::{Finding, Place, Rule, Skipped, Statement};
use crate::guest::process::{Called, Debugger, Ended, Exception, Frame};
use crate::guest::{BackedPage, Case, End, GuestEvents, PAGE_BYTES};
use crate::mmu::{ErrorCode, Pa, Va};

impl Run<'_> {
    /// One phase of the mapper; None: an exception ended it, which is judged.
    pub(super) fn run_mapper(&mut self, step: Step) -> Result<Option<Outcome>, End> {
        if step == Step::Finish {
            self.stage = Stage::Finishing;
        }
        (self.course.job.progress)(match step {
            Step::Map => Progress::Mapping { tables: 0 },
            Step::Finish => Progress::Finishing,
        });
        let (ended, outcome) = self.map_in_ring_3(step)?;
        match ended {
            Ended::Returned { .. } => Ok(Some(outcome)),
            Ended::Exception(exception) => {
                self.judge_exception(&exception);
                Ok(None)
            }
            Ended::Killed => {
                judging::report_on_log(self.course.case, &mut self.course.report);
                Err(End::Killed)
            }
        }
    }

    /// How ring 3 was left, and what the mapper's result says then.
    fn map_in_ring_3(&mut self, step: Step) -> Result<(Ended, Outcome), End> {
        if step == Step::Map && !self.course.case.ask(cpu::offer(&self.course.cpu), self.process.direct_map()) {
            return Err(End::Corrupt);
        }
        let start = match &mut self.mapper {
            Some(mapper) => self.process.start(&Called::new(mapper, step, self.course.case)),
            None => match self.process.start_program(step, self.course.case) {
                Some(start) => start,
                // The program has no such step: what it has done stays as it is.
                None => return Ok((Ended::Returned { rax: 0 }, Outcome::read(self.course.case))),
            },
        };
        // The CPU has set bits in them since.
        self.course.kernels_tables = Snapshot::kernels_tables(self.course.case);
        let untouchable = Snapshot::untouchable(self.course.case, self.course.phase, &self.course.kernels_tables);
        let kernels_own = Snapshot::kernels_own(self.course.case);
        let pages = self.page_contents();
        let debugger = self.course.job.debugger.map(RefCell::borrow_mut);
        let mut watch = Watch { step, built: 0, case: self.course.case, job: self.course.job, debugger };
        let started = Instant::now();
        let ended = self.guest.run_process(&mut self.process, start, &mut watch);
        drop(watch);
        self.course.report.timing.map += started.elapsed();
        if let (Ok(Ended::Returned { rax }), None) = (&ended, &self.mapper) {
            self.course.case.conclude(*rax as i32);
        }
        let outcome = Outcome::read(self.course.case);
        let at_hand = self.course.case.result().region_at_hand;
        // In phase `finish` the mapper goes back to all regions, and no one is at hand.
        let is_unfinished = step == Step::Map && !matches!(ended, Ok(Ended::Returned { .. })) && at_hand.page_count > 0;
        self.unfinished = is_unfinished.then_some(at_hand);
        let changed = pages.iter().zip(self.page_contents()).position(|(before, now)| *before != now);
        let changed_page = changed.map(|index| self.pages[index].phys);
        let in_kernel = kernels_own.first_change(&self.course.case.memory).map(|change| change.at);
        let stray = untouchable.stray_write(self.course.case, outcome.tables()).or(changed_page).or(in_kernel);
        if let Some(pa) = stray {
            self.course.find_stray_write(pa);
        }
        Ok((ended?, outcome))
    }

    /// An exception that ended the mapping code: a finding, unless it met a limit of this test bed's own.
    fn judge_exception(&mut self, exception: &Exception) {
        if let Some(what) = self.process.no_room_for(exception) {
            let reason = format!("it looks at too much: there is no room in the guest for {what}");
            return self.course.report.skipped.push(Skipped::not_done("the mapping code", reason));
        }
        let Exception { cr2, fault, .. } = *exception;
        let (rule, expected, mut message) = self.account_of(exception);
        if self.process.is_out_of_heap() {
            message += "; it had asked for more memory than its heap has";
        }
        if let Some(region) = self.unfinished {
            message += &format!("; {}", regions::at_hand(region, self.course.job.map));
        }
        let finding = Finding {
            virt: exception.is_page_fault().then_some(Va(cr2)),
            pages: u64::from(exception.is_page_fault()),
            expected: expected.map(Statement::text),
            observed: Some(Statement::faulted(fault, Va(cr2))),
            ..Finding::worded(self.course.phase, rule, None, message)
        };
        self.course.marks.push_finding(finding);
    }

    /// The rule that an exception comes under, what was expected, and what to say.
    fn account_of(&self, exception: &Exception) -> (Rule, Option<&'static str>, String) {
        let Exception { cr2, rip, fault, .. } = *exception;
        let code = self.process.code_at(rip);
        if let Some(number) = exception.system_call(&code) {
            let at = exception.system_call_at();
            let place = format!("{at:#x}{}{}", self.in_source(at), self.caller_of(exception, at));
            let message = format!("the mapping code made system call {number} at RIP {place}: there is no system here");
            return (Rule::PrivilegedInstruction, None, message);
        }
        let place = format!("RIP {rip:#x}{}{}", self.in_source(rip), self.caller_of(exception, rip));
        let place = if code.is_empty() { place } else { format!("`{}` at {place}", disassembled(&code, rip)) };
        if exception.is_page_fault() && self.process.is_below_the_stack(cr2) {
            let message = format!("the mapping code's stack overflowed: {place}");
            return (Rule::StackOverflow, Some("a stack that suffices"), message);
        }
        if exception.is_page_fault() {
            let access = access_of(fault.error_code);
            let what = match self.process.what_lies_at(cr2, self.course.case) {
                Some(what) => format!("in {what}"),
                None => "where nothing is".into(),
            };
            let message = format!("the mapping code {access} {cr2:#x}, {what}: {place}");
            return (Rule::StrayAccess, Some("an access to what the mapping code was given"), message);
        }
        if self.process.is_privileged(exception) {
            return (Rule::PrivilegedInstruction, None, format!("the mapping code executed {place}"));
        }
        (Rule::MapperFault, None, format!("the mapping code met {fault} at {place}"))
    }

    /// What was carried out for the mapping code that ring 3 cannot do, as a note.
    pub(super) fn tell_what_was_served(&mut self) {
        let served: Vec<_> = self.process.served().map(|(what, count)| format!("{what} ({count})")).collect();
        if !served.is_empty() {
            self.course.report.notes.push(format!("carried out for the mapping code: {}", served.join(", ")));
        }
    }

    /// Where an instruction is in the source, for behind its address.
    pub(super) fn in_source(&self, address: u64) -> String {
        /// Most people know by then.
        const MOST: usize = 4;
        let places = self.course.job.subject.places(address);
        let places: Vec<_> = places.iter().take(MOST).map(ToString::to_string).collect();
        if places.is_empty() { String::new() } else { format!(", {}", places.join(", inlined into ")) }
    }

    /// Whose call led to an exception in a library, or where there is no code, for behind its place: the innermost of its
    /// callers that is somebody's own.
    fn caller_of(&self, exception: &Exception, at: u64) -> String {
        let subject = self.course.job.subject;
        if subject.places(at).iter().any(Place::is_own) {
            return String::new();
        }
        let word = |virt| self.process.stack_word(virt);
        let frame = Frame::at(exception, at);
        let entered = if self.process.code_at(at).is_empty() { frame.caller_at_entry(&word) } else { None };
        let callers = subject.callers(entered.clone().unwrap_or(frame), &word);
        let calls = entered.into_iter().chain(callers).map(|frame| frame.rip.wrapping_sub(1));
        let place = calls.flat_map(|call| subject.places(call)).find(Place::is_own);
        place.map_or_else(String::new, |place| format!(", called from {place}"))
    }

    /// What is in firmware's pages now.
    fn page_contents(&mut self) -> Vec<[u8; PAGE_BYTES as usize]> {
        let machine = self.guest.machine();
        let content = |page: &BackedPage| {
            let mut content = [0; PAGE_BYTES as usize];
            // What cannot be read has no content to change.
            let _ = machine.read(Pa(page.phys), &mut content);
            content
        };
        self.pages.iter().map(content).collect()
    }
}

/// As a verb.
fn access_of(error_code: ErrorCode) -> &'static str {
    if error_code.contains(ErrorCode::I) {
        "jumped to"
    } else if error_code.contains(ErrorCode::W) {
        "wrote to"
    } else {
        "read from"
    }
}

/// Sees how many tables the mapping code has built.
struct Watch<'a> {
    step: Step,
    built: u64,
    case: &'a Case,
    job: &'a Job<'a>,
    debugger: Option<RefMut<'a, dyn Debugger + 'static>>,
}

impl GuestEvents for Watch<'_> {
    /// In ring 3 there is nothing but memory.
    fn wrote(&mut self, _pa: Pa, _value: u64, _bytes: u8) {}

    fn debugger(&mut self) -> Option<&mut (dyn Debugger + 'static)> {
        self.debugger.as_deref_mut()
    }

    /// Tables are usually taken from the pool one after another, and none stays empty.
    fn still_running(&mut self) {
        if self.step == Step::Finish {
            return (self.job.progress)(Progress::Finishing);
        }
        let pool = self.case.placement.pool();
        let is_in_use = |page: u64| first_nonzero(&self.case.memory, page..page + PAGE_BYTES).is_some();
        while pool.start + self.built * PAGE_BYTES < pool.end && is_in_use(pool.start + self.built * PAGE_BYTES) {
            self.built += 1;
        }
        (self.job.progress)(Progress::Mapping { tables: self.built });
    }
}
