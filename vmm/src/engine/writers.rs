//! Who set a table entry to what it is: the instruction of the mapping code, and the line that it was compiled from.
//!
//! A run is made once more, and watched. The tables with the entries in question are closed to writes: ring 3 halts before
//! each write to them, which then is stepped over. So it costs as much as there are writes to those tables, however much else
//! the mapping code does. Stepping through all of it would cost a hundred times that.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Subject;
use crate::check::{Finding, Phase, Place, Severity};
use crate::guest::process::{Debugger, Exception, Frame, Halt, Halted, Resume};
use crate::mmu::{Fault, Pa, Va, bits};

/// Tables that are watched in one run: those of three walks at least, and of dozens that have most in common.
const MOST_TABLES: usize = 16;

/// Halts in one run, two for each write: enough to clear so many tables by the word, and to fill them. They take some five seconds.
const MOST_HALTS: u64 = (MOST_TABLES as u64) * 512 * 2 * 2;

/// The crates that are this test bed's: of a mapper that builds its tables with their help, the line that asked for it counts.
const BED: [&str; 3] = ["efibed", "efibed_guest", "efibed_stub"];

/// Watches the entries of some findings' walks.
pub struct Writers {
    subject: Subject,
    entries: BTreeMap<Pa, Watched>,
    /// That of the mapping code's step at hand.
    phase: Option<Phase>,
    /// The instruction that is stepped over.
    at: Option<Exception>,
    /// The pages that it may write to, by virtual address.
    opened: BTreeSet<u64>,
    halts: u64,
}

/// An entry that is watched.
#[derive(Default)]
struct Watched {
    /// What it was before anything was written.
    first: u64,
    last: u64,
    writes: Vec<Write>,
}

/// A write that changed it.
struct Write {
    phase: Phase,
    value: u64,
    by: Rc<Writer>,
}

/// The instruction of a write, and the stack at it, from RSP on.
struct Writer {
    exception: Exception,
    stack: Vec<u8>,
}

/// Of a stack: most callers are found in a few hundred bytes.
const MOST_STACK_BYTES: usize = 4096;

/// Whether a finding is about the entry at which its walk ends, and that is the mapping code's.
fn blames_an_entry(finding: &Finding) -> bool {
    let is_of_the_code = finding.rule.severity() == Severity::Error && !finding.rule.is_firmwares();
    is_of_the_code && !finding.walk.is_empty()
}

impl Writers {
    /// Of these findings, as many as can be watched at once; None: nothing can be found out about any.
    pub fn of(findings: &[Finding], subject: &Subject) -> Option<Self> {
        let (mut entries, mut tables) = (BTreeMap::new(), BTreeSet::new());
        for finding in findings.iter().filter(|finding| blames_an_entry(finding)) {
            let walk = || finding.walk.iter().map(|step| step.entry_addr);
            let more: BTreeSet<Pa> = walk().map(Pa::page).filter(|table| !tables.contains(table)).collect();
            if tables.len().saturating_add(more.len()) <= MOST_TABLES {
                tables.extend(more);
                entries.extend(walk().map(|at| (at, Watched::default())));
            }
        }
        let is_asked = !entries.is_empty() && subject.has_places();
        let (subject, opened) = (subject.clone(), BTreeSet::new());
        is_asked.then_some(Self { subject, entries, phase: None, at: None, opened, halts: 0 })
    }

    /// The line that set the last entry of a finding's walk to what it is; if the code never wrote that one, the entry above
    /// it. None: that is not known.
    pub fn of_finding(&self, finding: &Finding) -> Option<Place> {
        if !blames_an_entry(finding) || self.has_given_up() {
            return None;
        }
        for step in finding.walk.iter().rev() {
            let watched = self.entries.get(&step.entry_addr)?;
            let write = watched.writes.iter().rfind(|write| write.phase <= finding.phase);
            let value = write.map_or(watched.first, |write| write.value);
            // A run that went another way has nothing to say of this one.
            if (value ^ step.entry) & !(bits::A | bits::D) != 0 {
                return None;
            }
            if let Some(write) = write {
                return write.by.place(&self.subject);
            }
        }
        None
    }

    /// Whether a finding is about an entry that was not watched, since there were too many tables; or there were too many writes.
    pub fn has_missed(&self, findings: &[Finding]) -> bool {
        let is_missed = |finding: &Finding| {
            blames_an_entry(finding) && finding.walk.iter().any(|step| !self.entries.contains_key(&step.entry_addr))
        };
        self.has_given_up() || findings.iter().any(is_missed)
    }

    fn has_given_up(&self) -> bool {
        self.halts > MOST_HALTS
    }

    fn begin(&mut self, process: &mut Halted<'_>) {
        let is_first = self.phase.is_none();
        self.phase = Some(if is_first { Phase::Map } else { Phase::Finish });
        for (at, watched) in &mut self.entries {
            watched.last = read(process, *at);
            if is_first {
                watched.first = watched.last;
            }
        }
        let direct_map = process.direct_map();
        let tables: BTreeSet<Pa> = self.entries.keys().map(|at| at.page()).collect();
        for table in tables {
            // A table that the code cannot write to has no writers.
            process.close([table.0.wrapping_add(direct_map)]);
        }
    }

    /// It is about to write. That is let happen, and it halts again after the instruction. One instruction may write to two pages.
    fn step_over(&mut self, exception: &Exception, process: &mut Halted<'_>) {
        process.open(exception.cr2);
        process.step(true);
        self.opened.insert(Va(exception.cr2).page().0);
        self.at = Some(exception.clone());
    }

    /// It has written.
    fn stepped_over(&mut self, exception: &Exception, rip: u64, process: &mut Halted<'_>) {
        self.note_changes(exception, process);
        // A string instruction halts after each round of it.
        if rip != exception.rip {
            process.step(false);
            process.close(std::mem::take(&mut self.opened));
            self.at = None;
        }
    }

    fn note_changes(&mut self, exception: &Exception, process: &mut Halted<'_>) {
        let (phase, mut writer) = (self.phase.unwrap_or_default(), None);
        for (at, watched) in &mut self.entries {
            let value = read(process, *at);
            if value == watched.last {
                continue;
            }
            watched.last = value;
            let by = Rc::clone(writer.get_or_insert_with(|| Rc::new(Writer::new(exception, process))));
            watched.writes.retain(|write| write.phase != phase);
            watched.writes.push(Write { phase, value, by });
        }
    }
}

impl Writer {
    fn new(exception: &Exception, process: &mut Halted<'_>) -> Self {
        let mut stack = vec![0; MOST_STACK_BYTES];
        let length = process.read(exception.rsp, &mut stack);
        stack.truncate(length);
        Self { exception: exception.clone(), stack }
    }

    /// The innermost line of the mapping code's own that led to the instruction; or the function that it is in, if no lines are
    /// known.
    fn place(&self, subject: &Subject) -> Option<Place> {
        let rip = self.exception.rip;
        let word = |virt| self.stack_word(virt);
        let callers = subject.callers(Frame::at(&self.exception, rip), &word).map(|frame| frame.rip.wrapping_sub(1));
        let mut lines = [rip].into_iter().chain(callers).flat_map(|address| subject.places(address));
        let own = lines.find(|place| place.is_own() && !is_of_this_bed(place));
        own.or_else(|| subject.places(rip).into_iter().find(|place| !is_of_this_bed(place)))
    }

    fn stack_word(&self, virt: u64) -> Option<u64> {
        let offset = usize::try_from(virt.checked_sub(self.exception.rsp)?).ok()?;
        self.stack.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

impl Debugger for Writers {
    fn halted(&mut self, why: Halt<'_>, process: &mut Halted<'_>) -> Resume {
        match (why, self.at.clone()) {
            (Halt::Start, _) => self.begin(process),
            (Halt::Closed(exception), _) => self.step_over(exception, process),
            (Halt::Trap(trap), Some(exception)) if trap.fault.vector == Fault::DEBUG => {
                self.stepped_over(&exception, trap.rip, process);
            }
            _ => return Resume::PassOn,
        }
        self.halts = self.halts.saturating_add(1);
        if self.has_given_up() { Resume::End } else { Resume::GoOn }
    }
}

/// An entry's value. The pool has memory everywhere.
fn read(process: &Halted<'_>, at: Pa) -> u64 {
    let mut bytes = [0; 8];
    process.read_physical(at, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// Whether a function is this test bed's: `efibed_guest::a::b`, or `<efibed_guest::T as Trait>::b`.
fn is_of_this_bed(place: &Place) -> bool {
    let function = place.function.as_deref().unwrap_or_default();
    let path = function.trim_start_matches(['<', '&']).trim_start_matches("mut ");
    path.split_once("::").is_some_and(|(name, _)| BED.contains(&name))
}
