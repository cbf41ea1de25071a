//! The mailbox, as the host reads and writes it while the guest is stopped.

use std::mem::offset_of;

use efibed_guest::protocol::{
    self, Command, Fault, IMAGE_BASE, MAX_COMMANDS, MAX_FAULTS, MAX_PROBES, MAX_SWEEPS, Mailbox, OddCall,
    PROBE_FAULTED, PROBE_NOT_RUN, Panic, Probe, Sweep, SweepKind, VERSION,
};

use super::Case;
use super::end::{Crash, End};
use super::memory::Plain;

/// Pages to be swept, one after another, all in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepPart {
    /// The way.
    pub kind: SweepKind,
    /// The first page.
    pub virt: u64,
    /// How many of its kind, one at least.
    pub count: u64,
}

/// The mailbox of a guest. What cannot be read or written is [`End::Corrupt`].
#[derive(Clone, Copy)]
pub struct Mail<'m> {
    case: &'m Case,
}

impl<'m> Mail<'m> {
    /// That of a guest with this case.
    pub fn of(case: &'m Case) -> Self {
        Self { case }
    }

    /// Puts a batch.
    pub fn put_commands(&self, commands: &[Command]) -> Result<(), End> {
        self.put_all(offset_of!(Mailbox, commands), commands, MAX_COMMANDS)?;
        self.put(offset_of!(Mailbox, version), &VERSION)?;
        self.put(offset_of!(Mailbox, command_count), &(commands.len() as u32))?;
        self.put(offset_of!(Mailbox, command_at), &0u64)
    }

    /// The command that the guest is at, by its place in the batch.
    pub fn command_at(&self) -> Result<usize, End> {
        self.get::<u64>(offset_of!(Mailbox, command_at)).map(|at| at as usize)
    }

    /// The results of so many commands of the last batch; 0 for those that were not come to.
    pub fn results(&self, count: usize) -> Result<Vec<u64>, End> {
        let commands: Vec<Command> = self.get_all(offset_of!(Mailbox, commands), count, MAX_COMMANDS)?;
        Ok(commands.into_iter().map(|command| command.result).collect())
    }

    /// The manner of the next batch's odd call, if it has one.
    pub fn put_odd_call(&self, odd: OddCall) -> Result<(), End> {
        self.put(offset_of!(Mailbox, odd_call), &odd)
    }

    /// The command, counted from 1, in which a runtime service was abandoned, as the guest has it; 0: none was.
    pub fn services_abandoned(&self) -> Result<u64, End> {
        self.get(offset_of!(Mailbox, services_abandoned))
    }

    /// Has the guest take this for it.
    pub fn put_services_abandoned(&self, number: u64) -> Result<(), End> {
        self.put(offset_of!(Mailbox, services_abandoned), &number)
    }

    /// Forgets the last fault outside a probe.
    pub fn forget_service_fault(&self) -> Result<(), End> {
        self.put(offset_of!(Mailbox, crash), &protocol::Crash::default())
    }

    /// The fault that had a service abandoned; None: it was by the host's hand.
    pub fn service_fault(&self) -> Option<protocol::Crash> {
        let crash: protocol::Crash = self.get(offset_of!(Mailbox, crash)).ok()?;
        Some(crash).filter(|crash| crash.frame[0] != 0 || crash.frame[1] != 0)
    }

    /// Puts the list for [`Op::Sweep`](protocol::Op::Sweep).
    pub fn put_sweeps(&self, parts: &[SweepPart]) -> Result<(), End> {
        let end = SweepPart { kind: SweepKind::End, virt: 0, count: 0 };
        let sweep = |part: &SweepPart| Sweep {
            virt: part.virt,
            count: part.count,
            code: self.case.image.sweep_code(part.kind),
        };
        let sweeps: Vec<_> = parts.iter().chain([&end]).map(sweep).collect();
        self.put_all(offset_of!(Mailbox, sweeps), &sweeps, MAX_SWEEPS)
    }

    /// Puts addresses for [`Op::Probe`](protocol::Op::Probe) into the records from the first on.
    pub fn put_probes(&self, addresses: impl Iterator<Item = u64>) -> Result<(), End> {
        let record = |virt| Probe { virt, status: PROBE_NOT_RUN, ..Probe::default() };
        let records: Vec<_> = addresses.map(record).collect();
        self.put_all(offset_of!(Mailbox, probes), &records, MAX_PROBES)
    }

    /// The records, once the batch is done.
    pub fn probes(&self, count: usize) -> Result<Vec<Probe>, End> {
        let mut records: Vec<Probe> = self.get_all(offset_of!(Mailbox, probes), count, MAX_PROBES)?;
        for record in records.iter_mut().filter(|it| it.status == PROBE_NOT_RUN && it.fault.vector != 0) {
            record.status = PROBE_FAULTED;
            record.fault.virt = record.virt;
        }
        Ok(records)
    }

    /// Hands on fault records, and forgets them: so many, or as many as the mailbox says.
    pub fn take_faults(&self, count: Option<usize>, mut take: impl FnMut(Fault)) -> Result<(), End> {
        let counter = offset_of!(Mailbox, fault_count);
        let count = match count {
            Some(count) => count,
            None => self.get::<u64>(counter)? as usize,
        };
        for index in 0..count.min(MAX_FAULTS) {
            take(self.get_item(offset_of!(Mailbox, faults), index)?);
        }
        self.put(counter, &0u64)
    }

    /// A fault outside a probe, as the guest has recorded it.
    pub fn crash(&self) -> End {
        let read = || {
            let command = self.get(offset_of!(Mailbox, command_at)).ok()?;
            Some(Crash { registers: self.get(offset_of!(Mailbox, crash)).ok()?, command })
        };
        read().map_or(End::Corrupt, |crash| End::Crash(Box::new(crash)))
    }

    /// A panic of the kernel, as it has recorded it.
    pub fn panic(&self) -> End {
        let location = || {
            let Panic { file, file_bytes, line } = self.get(offset_of!(Mailbox, panic)).ok()?;
            let image = IMAGE_BASE..self.case.image.header().end;
            if !image.contains(&file) {
                return None;
            }
            let mut name = vec![0; file_bytes.min(LONGEST_NAME) as usize];
            let complete = self.case.memory.read(self.case.physical(file), &mut name);
            complete.then(|| format!("{}:{line}", String::from_utf8_lossy(&name)))
        };
        location().map_or(End::Corrupt, |location| End::Panic { location })
    }

    fn at(&self, offset: usize) -> u64 {
        self.case.physical(self.case.image.header().mailbox).wrapping_add(offset as u64)
    }

    fn get<T: Plain>(&self, offset: usize) -> Result<T, End> {
        self.case.memory.read_object(self.at(offset)).ok_or(End::Corrupt)
    }

    fn put<T: Plain>(&self, offset: usize, value: &T) -> Result<(), End> {
        if self.case.memory.write_object(self.at(offset), value) { Ok(()) } else { Err(End::Corrupt) }
    }

    /// One of an array.
    fn get_item<T: Plain>(&self, offset: usize, index: usize) -> Result<T, End> {
        self.get(size_of::<T>().saturating_mul(index).saturating_add(offset))
    }

    /// So many of an array that has `room` for as many.
    fn get_all<T: Plain>(&self, offset: usize, count: usize, room: usize) -> Result<Vec<T>, End> {
        if count <= room { (0..count).map(|index| self.get_item(offset, index)).collect() } else { Err(End::Corrupt) }
    }

    fn put_all<T: Plain>(&self, offset: usize, items: &[T], room: usize) -> Result<(), End> {
        let fits = items.len() <= room && self.case.memory.write_objects(self.at(offset), items);
        if fits { Ok(()) } else { Err(End::Corrupt) }
    }
}

/// Bytes of a source file's name that are shown.
const LONGEST_NAME: u64 = 256;
