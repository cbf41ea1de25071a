//! The mapping code's two phases, in ring 3 of the guest.

use std::time::Instant;

use efibed_guest::mapper::Step;
use efibed_guest::protocol;

use super::super::mapping::Outcome;
use super::super::snapshot::{Snapshot, first_nonzero};
use super::super::{Job, Progress, course};
use super::{Run, disassembled};
use crate::check::{Finding, Rule};
use crate::guest::process::{Called, Ended, Exception, SYSTEM_CALL_AT};
use crate::guest::{BackedPage, End, GuestEvents, Loaded, MappedTables, PAGE_BYTES, PortAnswer};
use crate::machine::Machine;
use crate::mmu::{ErrorCode, Fault};

impl Run<'_, '_> {
    /// One phase of the mapper; None: it came to no tables, which is a finding.
    pub(super) fn run_mapper(&mut self, step: Step) -> Result<Option<MappedTables>, End> {
        (self.job.progress)(match step {
            Step::Map => Progress::Mapping { tables: 0 },
            Step::Finish => Progress::Finishing,
        });
        let started = Instant::now();
        let ended = self.map_in_ring_3(step);
        self.report.timing.map += started.elapsed();
        let ended = ended?;
        course::report_on_log(self.phase, self.loaded, &mut self.report);
        let outcome = match &ended {
            Ended::Returned { .. } => Outcome::read(self.loaded),
            Ended::Exception(exception) => {
                self.find_exception(exception);
                self.conclude(None);
                return Ok(None);
            }
        };
        match course::judge_outcome(self.job, self.phase, &outcome, self.loaded, &mut self.report, &mut self.marks) {
            Some(tables) => Ok(Some(tables)),
            None => {
                self.conclude(None);
                Ok(None)
            }
        }
    }

    fn map_in_ring_3(&mut self, step: Step) -> Result<Ended, End> {
        if step == Step::Map && !self.loaded.ask(course::offer(&self.cpu), self.process.direct_map()) {
            return Err(End::Corrupt);
        }
        let untouchable = Snapshot::untouchable(self.loaded, self.phase);
        let kernels_own = Snapshot::kernels_own(self.loaded);
        let pages = self.page_contents();
        let mut watch = Watch { step, built: 0, loaded: self.loaded, job: self.job };
        let start = match &mut self.mapper {
            Some(mapper) => self.process.start(&Called::new(mapper, step, self.loaded)),
            None => match self.process.start_program(step, self.loaded) {
                Some(start) => start,
                // The program has no such step: what it has done stays as it is.
                None => return Ok(Ended::Returned { rax: 0 }),
            },
        };
        let ended = self.guest.run_process(&mut self.process, start, &mut watch);
        if let (Ok(Ended::Returned { rax }), None) = (&ended, &self.mapper) {
            self.loaded.conclude(*rax as i32);
        }
        let at_hand = self.loaded.result().region_at_hand;
        // In phase `finish` the mapper goes back to all regions, and no one is at hand.
        let is_unfinished = step == Step::Map && !matches!(ended, Ok(Ended::Returned { .. })) && at_hand.page_count > 0;
        self.unfinished = is_unfinished.then_some(at_hand);
        let changed = pages.iter().zip(self.page_contents()).position(|(before, now)| *before != now);
        let changed_page = changed.map(|index| self.pages[index].phys);
        let outcome = Outcome::read(self.loaded);
        let in_kernel = kernels_own.first_change(&self.loaded.memory).map(|change| change.at);
        let stray = untouchable.stray_write(self.loaded, outcome.tables()).or(changed_page).or(in_kernel);
        if let Some(pa) = stray {
            self.marks.push_worded(self.phase, Rule::StrayWrite, None, course::stray_write(pa));
        }
        ended
    }

    /// An exception that ended the mapping code.
    fn find_exception(&mut self, exception: &Exception) {
        let Exception { cr2, rip, error_code, vector, .. } = *exception;
        let code = self.process.code_at(rip);
        let instruction = if code.is_empty() { "no code".to_owned() } else { disassembled(&code, rip) };
        let at = if rip == SYSTEM_CALL_AT { exception.system_call_at() } else { rip };
        let place = format!("`{instruction}` at RIP {rip:#x}{}", self.in_source(at));
        let fault = Fault { vector, error_code };
        let is_overflow = exception.is_page_fault() && self.process.is_below_the_stack(cr2);
        let (rule, expected, message) = if let Some(number) = exception.system_call(&code) {
            let place = exception.system_call_at();
            let message =
                format!("the mapping code made system call {number} at RIP {place:#x}: there is no system here");
            (Rule::PrivilegedInstruction, String::new(), message)
        } else if is_overflow {
            (
                Rule::StackOverflow,
                "a stack that suffices".to_owned(),
                format!("the mapping code's stack overflowed: {place}"),
            )
        } else if exception.is_page_fault() {
            let access = access_of(error_code);
            let what = self.process.what_lies_at(cr2, self.loaded);
            let message = format!("the mapping code {access} {cr2:#x}, where {what} is: {place}");
            (Rule::StrayAccess, "an access to what the mapping code was given".to_owned(), message)
        } else if exception.is_privileged(&code) {
            (Rule::PrivilegedInstruction, String::new(), format!("the mapping code executed {place}"))
        } else {
            (Rule::MapperFault, String::new(), format!("the mapping code met {fault} at {place}"))
        };
        let message = match self.unfinished {
            Some(region) => format!("{message}; {}", course::at_hand(region, self.job.map)),
            None => message,
        };
        let finding = Finding {
            virt: exception.is_page_fault().then_some(cr2),
            pages: u64::from(exception.is_page_fault()),
            expected,
            observed: fault.to_string(),
            error_code: exception.is_page_fault().then_some(error_code.0),
            ..Finding::worded(self.phase, rule, None, message)
        };
        self.marks.push_finding(finding);
    }

    /// Where an instruction is in the source, for behind its address.
    fn in_source(&self, address: u64) -> String {
        /// Most people know by then.
        const MOST: usize = 4;
        let places = self.job.subject.places(address);
        let places: Vec<_> = places.iter().take(MOST).map(ToString::to_string).collect();
        if places.is_empty() { String::new() } else { format!(", {}", places.join(", inlined into ")) }
    }

    /// What is in firmware's pages now.
    fn page_contents(&mut self) -> Vec<[u8; PAGE_BYTES as usize]> {
        let machine = self.guest.machine();
        let content = |page: &BackedPage| {
            let mut content = [0; PAGE_BYTES as usize];
            // What cannot be read has no content to change.
            let _ = machine.read(page.phys, &mut content);
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
    loaded: &'a Loaded,
    job: &'a Job<'a>,
}

impl GuestEvents for Watch<'_> {
    /// In ring 3 there is nothing but memory.
    fn wrote(&mut self, _pa: u64, _value: u64) {}

    fn swept_fault(&mut self, _fault: protocol::Fault) {}

    fn port(&mut self, _port: u16, _data: u32, _machine: &mut Machine) -> PortAnswer {
        PortAnswer::Unknown
    }

    /// Tables are usually taken from the pool one after another, and none stays empty.
    fn still_running(&mut self) {
        if self.step == Step::Finish {
            return (self.job.progress)(Progress::Finishing);
        }
        let pool = self.loaded.placement.pool();
        let is_in_use = |page: u64| first_nonzero(&self.loaded.memory, page..page + PAGE_BYTES).is_some();
        while pool.start + self.built * PAGE_BYTES < pool.end && is_in_use(pool.start + self.built * PAGE_BYTES) {
            self.built += 1;
        }
        (self.job.progress)(Progress::Mapping { tables: self.built });
    }
}
