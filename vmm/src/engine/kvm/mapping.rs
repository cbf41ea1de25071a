//! The mapping code's two phases: in the guest, or natively where they take too much for that.

use std::mem::offset_of;
use std::time::Instant;

use efibed_guest::MapError;
use efibed_guest::protocol::{self, Mailbox, MapRequest, Op};

use super::super::native::Native;
use super::super::snapshot::{Snapshot, first_nonzero};
use super::super::{Job, Progress, course};
use super::Run;
use crate::check::{Phase, Rule, Skipped};
use crate::guest::{BackedPage, End, GuestEvents, Loaded, Mapped, MappedTables, PAGE_BYTES, Placement, PortAnswer};
use crate::machine::Machine;

/// What is known of the mapping before there is a guest.
pub(super) struct Rehearsal<'a> {
    /// Pages of tables that it takes.
    pub table_pages: u64,
    /// It takes too many for a guest: the mapper, after its first phase.
    pub native: Option<Native<'a>>,
    /// Where the mapper wrote natively and must not.
    stray: Option<u64>,
}

/// Descriptors of a map that is mapped in the guest: fifty times as many as any known map has. Where ring 0 is emulated each
/// takes half a millisecond.
const MOST_DESCRIPTORS: usize = 8192;

/// Runs phase `map` natively, which is a thousand times as fast as where ring 0 is emulated. What cannot be mapped is so
/// known without a guest. What takes more tables than [`Job::table_limit`] stays as it is, and the guest's MMU is asked
/// about it; else the memory is as new, and the guest does it again.
pub(super) fn rehearse<'a>(
    job: &Job<'_>,
    loaded: &'a Loaded,
    request: &'a MapRequest,
) -> Result<Rehearsal<'a>, MapError> {
    let untouchable = Snapshot::untouchable(loaded, Phase::Map);
    let native = Native::map(job.mapper, loaded, request)?;
    let table_pages = native.tables().table_pages;
    if table_pages > job.table_limit || job.map.descriptors().len() > MOST_DESCRIPTORS {
        let stray = untouchable.stray_write(loaded, Some(&native.tables()));
        return Ok(Rehearsal { table_pages, native: Some(native), stray });
    }
    match loaded.forget_mapping(table_pages) {
        true => Ok(Rehearsal { table_pages, native: None, stray: None }),
        // It says to have used more pages than there are.
        false => Err(MapError::OutOfTablePages),
    }
}

impl Run<'_, '_> {
    /// One phase of the mapper; None: it gave up, which is a finding.
    pub(super) fn run_mapper(&mut self, op: Op) -> Result<Option<MappedTables>, End> {
        let of = self.rehearsal.table_pages;
        (self.job.progress)(match op {
            Op::Map => Progress::Mapping { tables: 0, of: Some(of) },
            _ => Progress::Finishing,
        });
        let started = Instant::now();
        let mapped = if self.rehearsal.native.is_some() { self.map_natively(op) } else { self.map_in_the_guest(op) };
        self.report.timing.map += started.elapsed();
        match mapped? {
            Ok(tables) => Ok(self.makes_sense(&tables).then_some(tables)),
            Err(error) => {
                course::mapper_gave_up(self.job, self.phase, error, &mut self.report, &mut self.marks);
                self.conclude(None);
                Ok(None)
            }
        }
    }

    /// Whether the mapper can have used as many pages and descriptors as it says.
    fn makes_sense(&mut self, tables: &MappedTables) -> bool {
        let Placement { sizes, .. } = self.loaded.placement;
        let counts = [
            ("pages of tables", tables.table_pages, sizes.pool / PAGE_BYTES),
            ("descriptors in the virtual map", tables.mapped, sizes.memory_map / self.loaded.strides.kernel as u64),
        ];
        let absurd: Vec<_> = counts.into_iter().filter(|(_, used, room)| used > room).collect();
        for (what, used, room) in &absurd {
            let message = format!("the mapping code says to have used {used} {what}, and has room for {room}");
            self.marks.push_worded(self.phase, Rule::MapperError, None, message);
        }
        if !absurd.is_empty() {
            self.conclude(None);
        }
        absurd.is_empty()
    }

    fn map_in_the_guest(&mut self, op: Op) -> Result<Mapped, End> {
        self.guest.put_request(self.job.mapper, course::offer(&self.cpu))?;
        let untouchable = Snapshot::untouchable(self.loaded, self.phase);
        let kernels_own = Snapshot::kernels_own(self.loaded);
        let pages = self.page_contents();
        let table_pages = self.rehearsal.table_pages;
        let is_new = op == Op::Map;
        let mut watch =
            Watch { is_new, first_stray: None, built: 0, of: table_pages, loaded: self.loaded, job: self.job };
        let mapped = self.guest.map(op, table_pages, &mut watch);
        // In phase `finish` the mapper goes back to all regions, and no one is at hand.
        self.unfinished = self.guest.region_at_hand().filter(|_| is_new && mapped.is_err());
        let changed = pages.iter().zip(self.page_contents()).position(|(before, now)| *before != now);
        let changed_page = changed.map(|index| self.pages[index].phys);
        let tables = mapped.as_ref().ok().and_then(|mapped| mapped.as_ref().ok());
        let stray = untouchable.stray_write(self.loaded, tables).or(watch.first_stray).or(changed_page);
        // A guest that has crashed has written to its stacks and its mailbox to say so.
        let in_kernel = mapped.as_ref().ok().and_then(|_| kernels_own.first_change(&self.loaded.memory));
        self.find_stray_write(stray.or(in_kernel.map(|change| change.at)));
        if mapped.is_ok() {
            self.look_at_registers("the mapping code");
        }
        mapped
    }

    /// The same outside the guest, on its memory.
    fn map_natively(&mut self, op: Op) -> Result<Mapped, End> {
        let (limit, pages) = (self.job.table_limit, self.rehearsal.table_pages);
        let Some(native) = &mut self.rehearsal.native else { return Err(End::Corrupt) };
        if op == Op::Map {
            // An earlier kernel's map has been in its place.
            if !self.loaded.write_virtual_map(native.virtual_map()) {
                return Err(End::Corrupt);
            }
            let tables = native.tables();
            let (descriptors, most) = (self.job.map.descriptors().len(), MOST_DESCRIPTORS);
            let reason = match descriptors > most {
                true => format!("it has {descriptors} descriptors, and up to {most} are mapped there; it ran natively"),
                false => format!("its tables take {pages} pages, and up to {limit} are built there; it ran natively"),
            };
            self.report.skipped.push(Skipped::not_done("the mapping code in a guest", reason));
            let stray = self.rehearsal.stray;
            self.find_stray_write(stray);
            return Ok(Ok(tables));
        }
        let untouchable = Snapshot::untouchable(self.loaded, self.phase);
        let finished = native.finish();
        let stray = untouchable.stray_write(self.loaded, finished.as_ref().ok());
        self.find_stray_write(stray);
        // A shadow MMU keeps what it saw of these tables in phase `map`, and does not see the host write to them.
        self.guest.machine().forget_translations().map_err(|_| End::Corrupt)?;
        Ok(finished)
    }

    fn find_stray_write(&mut self, first: Option<u64>) {
        if let Some(pa) = first {
            self.marks.push_worded(self.phase, Rule::StrayWrite, None, course::stray_write(pa));
        }
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

/// Hears where the mapping code wrote, if no memory was there, and sees how many tables it has built.
struct Watch<'a> {
    /// The tables are being built, not changed.
    is_new: bool,
    first_stray: Option<u64>,
    built: u64,
    of: u64,
    loaded: &'a Loaded,
    job: &'a Job<'a>,
}

impl GuestEvents for Watch<'_> {
    fn wrote(&mut self, pa: u64, _value: u64) {
        self.first_stray.get_or_insert(pa);
    }

    /// Mapping code sweeps nothing: it has written a record of its own to the mailbox.
    fn swept_fault(&mut self, _fault: protocol::Fault) {
        let mailbox = self.loaded.physical(self.loaded.image.header().mailbox);
        self.first_stray.get_or_insert(mailbox + offset_of!(Mailbox, fault_count) as u64);
    }

    fn port(&mut self, _port: u16, _data: u32, _machine: &mut Machine) -> PortAnswer {
        PortAnswer::Unknown
    }

    /// Tables are taken from the pool one after another, and none stays empty.
    fn still_running(&mut self) {
        if !self.is_new {
            return (self.job.progress)(Progress::Finishing);
        }
        let pool = self.loaded.placement.pool().start;
        let is_in_use = |page: u64| first_nonzero(&self.loaded.memory, page..page + PAGE_BYTES).is_some();
        while self.built < self.of && is_in_use(pool + self.built * PAGE_BYTES) {
            self.built += 1;
        }
        (self.job.progress)(Progress::Mapping { tables: self.built, of: Some(self.of) });
    }
}
