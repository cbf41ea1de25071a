//! Runs batches in a guest.

use std::time::Duration;

use efibed_guest::protocol::{BARE_IDT, Op, TRIAL_IDT, TRIAL_USER, TrialKind};
use efibed_stub::rflags;

use super::arena::{ARENAS, Arena, Case, MAX_CASES, Records, Slots};
use super::bits::{Bit, Combination};
use super::part::Part;
use super::script::{Script, Tally};
use crate::bed::TestBed;
use crate::engine::EngineError;
use crate::guest::{
    self, BootTables, End, Guest, GuestEvents, Image, OutOfPages, PAGE_BYTES, Placement, Strides, command, flags,
};
use crate::machine::{Exit, InternalError, Machine};
use crate::memory_map::MemoryMap;
use crate::mmu::{Level, Pa, Paging};

/// Combinations laid out, and then run, in one arena.
#[derive(Debug)]
pub struct Batch {
    /// The part they are of.
    pub part: usize,
    /// The arena they are in.
    pub arena: usize,
    /// At most [`MAX_CASES`], all of the same modes.
    pub cases: Vec<Case>,
    /// What the guest counted.
    pub tally: Tally,
    /// Writes to where no memory is: physical address and data.
    pub stray_writes: Vec<(u64, u64)>,
    /// With the first batch of a guest: accesses before it for which KVM used entries that the host had changed.
    pub stale: u64,
}

impl Batch {
    /// Nothing yet, to be laid out in this arena.
    pub fn new(part: usize, arena: usize) -> Self {
        let cases = Vec::with_capacity(MAX_CASES);
        Self { part, arena, cases, tally: Tally::default(), stray_writes: Vec::new(), stale: 0 }
    }
}

/// A guest that is ready for batches on the CPU of one part.
pub struct Station<'m> {
    guest: Guest<'m>,
    arenas: &'m [Arena; ARENAS],
    told: Paging,
    /// Whether KVM must be told of each batch that tables have changed.
    forgets: bool,
    /// By how many accesses that is known, until a batch carries it away.
    stale: u64,
    handlers: bool,
}

/// What a guest runs on: a machine and its memory.
pub struct Site {
    machine: Machine,
    loaded: guest::Case,
    scratch: Arena,
}

/// Combinations whose reads before come before the accesses of all of them: so few that a TLB keeps what they left.
const TWICE_AT_A_TIME: usize = 64;
/// The vector that stands for an instruction that KVM could not carry out.
pub const NOT_EMULATED: u64 = 255;
/// The vector that stands for an access that has no end.
pub const HANGS: u64 = 254;
/// Writes to nowhere that are kept of a batch.
const MAX_STRAY_WRITES: usize = 4 * MAX_CASES;
/// For a batch. It takes hundredths of a second where ring 0 is emulated, a tenth under emulation of all.
const LIMIT: Duration = Duration::from_secs(20);
/// For an access by itself.
const LIMIT_OF_ONE: Duration = Duration::from_secs(1);

impl Site {
    /// A machine with a CPU as the part asks for, and a guest's memory, its tables with the records' pages.
    pub fn new(bed: &TestBed, part: &Part, arenas: &[Arena; ARENAS]) -> Result<Self, EngineError> {
        let image = Image::built_in()?;
        let nothing = MemoryMap::from_descriptors("matrix", Vec::new());
        let machine = bed.borrow_machine(&part.request)?;
        let mut sizes = guest::Case::sizes(image, &nothing, Strides::default(), 0, 0, 0);
        sizes.boot_tables += EXTRA_TABLES * PAGE_BYTES;
        let placement = Placement::find(&nothing, sizes, 1 << 32, &machine.internals().ranges())
            .map_err(|no_room| EngineError::Kvm(no_room.to_string()))?;
        // With EFER.NXE off, bit 63 would be reserved in the kernel's own tables too.
        let plain = Paging { nxe: false, ..part.told };
        let loaded = guest::Case::new(image, &nothing, Strides::default(), placement, &[], &plain)?;
        let scratch = Arena::new(ARENAS).map_err(crate::guest::LoadError::from)?;
        let end = placement.boot_tables().end;
        let levels = if part.told.la57 { 5 } else { 4 };
        let mut tables = BootTables::new(&loaded.memory, end - EXTRA_TABLES * PAGE_BYTES, end, levels);
        for arena in arenas.iter().chain([&scratch]) {
            map_records(&mut tables, loaded.kernel_root, arena).map_err(|error| EngineError::Kvm(error.to_string()))?;
            let slots = (loaded.kernel_root..).step_by(8).take(512);
            arena.adopt(slots.map(|at| loaded.memory.read_u64(at).unwrap_or(0)));
        }
        Ok(Self { machine, loaded, scratch })
    }

    /// Boots the guest. With `handlers` false it has none for the faults of combinations, and cannot survive the first:
    /// a negative control.
    pub fn open<'m>(
        &'m mut self,
        part: &Part,
        arenas: &'m [Arena; ARENAS],
        handlers: bool,
    ) -> Result<Station<'m>, EngineError> {
        let told = part.told;
        let mut guest = Guest::boot(&mut self.machine, &self.loaded, &[], &told, LIMIT)?;
        for slot in arenas.iter().chain([&self.scratch]).flat_map(Arena::slots) {
            guest.machine().add_slot(slot).map_err(|error| EngineError::Kvm(error.to_string()))?;
        }
        let mut station = Station { guest, arenas, told, forgets: false, stale: 0, handlers };
        if handlers {
            station.stale = station.stale_accesses(&self.scratch).map_err(failed)?;
            station.forgets = station.stale > 0;
        }
        Ok(station)
    }

    /// Gives the machine back.
    pub fn close(self, bed: &TestBed, part: &Part) {
        bed.return_machine(&part.request, self.machine);
    }
}

/// Tables for three arenas' records, each in two places that may lie across a border.
const EXTRA_TABLES: u64 = 3 * 2 * 4;

fn map_records(tables: &mut BootTables<'_>, root: u64, arena: &Arena) -> Result<(), OutOfPages> {
    for page in arena.record_pages() {
        tables.map(root, page.kernel, page.phys, 1, flags::P | flags::W)?;
        tables.map(root, page.user, page.phys, 1, flags::P | flags::W | flags::U)?;
    }
    Ok(())
}

fn failed(end: End) -> EngineError {
    EngineError::Kvm(format!("the matrix's guest ended: {end}"))
}

impl Station<'_> {
    /// Runs a batch.
    pub fn run(&mut self, batch: &mut Batch) -> Result<(), EngineError> {
        let arena = &self.arenas[batch.arena];
        let mut watch = Watch { arena, stray_writes: Vec::new() };
        let tally = self.run_cases(arena, &batch.cases, &mut watch);
        batch.tally = tally.map_err(|end| self.lost(arena, &batch.cases, &end))?;
        batch.stray_writes = watch.stray_writes;
        batch.stale = std::mem::take(&mut self.stale);
        Ok(())
    }

    /// The guest has ended before its batch was done: in which combination?
    fn lost(&mut self, arena: &Arena, cases: &[Case], end: &End) -> EngineError {
        let regs = self.guest.machine().regs();
        let record = arena.record_before(regs.rsi);
        let at = match record.and_then(|(_, index)| cases.get(index)) {
            Some(case) => format!("at the combination \"{}\"", case.combination),
            None => "between combinations".to_owned(),
        };
        EngineError::Kvm(format!("the matrix's guest was lost {at}: {end}"))
    }

    /// Turns of a bare loop on an absent page.
    pub fn run_bare(
        &mut self,
        case: &Case,
        arena: &Arena,
        kind: TrialKind,
        user: bool,
        turns: u64,
    ) -> Result<(), EngineError> {
        self.guest.set_modes(&modes(&self.told, &case.combination));
        self.guest.use_idt(BARE_IDT);
        let mut script = Script::new(arena);
        let entries = [Level::Pte, Level::Pde, Level::Pdpte].map(|level| case.entries[level as usize - 1].at.0);
        arena.put_bare_record(case.va.0, entries);
        let at = arena.record_addresses(Records::Main, 0);
        let (address, ring) = if user { (at.user, TRIAL_USER) } else { (at.kernel, 0) };
        script.commands.push(command(Op::Try, [address, turns, kind as u64 + ring, rflags::FIXED, 0, 0]));
        self.guest.batch(&script.commands, &mut crate::guest::NoEvents).map(drop).map_err(failed)
    }

    fn run_cases(&mut self, arena: &Arena, cases: &[Case], watch: &mut Watch<'_>) -> Result<Tally, End> {
        let mut tally = Tally::default();
        let Some(first) = cases.first() else { return Ok(tally) };
        self.guest.set_modes(&modes(&self.told, &first.combination));
        if self.handlers {
            self.guest.use_idt(TRIAL_IDT);
        }
        if self.forgets {
            let forgotten = self.guest.machine().forget_translations();
            forgotten.map_err(|_| End::Corrupt)?;
        }
        let mut index = 0;
        let mut script = Script::new(arena);
        for run in cases.chunk_by(|a, b| a.combination.run() == b.combination.run()) {
            let implicit = run[0].combination.has(Bit::Implicit);
            let at_a_time = match () {
                () if implicit => 1,
                () if run[0].combination.has(Bit::Twice) => TWICE_AT_A_TIME,
                () => MAX_CASES,
            };
            for chunk in run.chunks(at_a_time) {
                script.add(index, chunk);
                index += chunk.len();
                if implicit {
                    self.read_descriptor(arena, index - 1, &chunk[0], &mut script, &mut tally, watch)?;
                } else if script.is_full() {
                    self.perform(&mut script, &mut tally, watch)?;
                }
            }
        }
        self.perform(&mut script, &mut tally, watch)?;
        Ok(tally)
    }

    fn perform(&mut self, script: &mut Script<'_>, tally: &mut Tally, watch: &mut Watch<'_>) -> Result<(), End> {
        if script.commands.len() > 1 {
            let mut results = self.guest.batch(&script.commands, watch);
            while matches!(&results, Err(End::Exit(Exit::Watchdog { .. })))
                && watch.abandon(self.guest.machine(), HANGS)
            {
                results = self.guest.resume(script.commands.len(), watch);
            }
            script.count(&results?, tally);
        }
        script.clear();
        Ok(())
    }

    /// The processor reads a descriptor from the address: it becomes the LDT's, and what was read is FS's base.
    fn read_descriptor(
        &mut self,
        arena: &Arena,
        index: usize,
        case: &Case,
        script: &mut Script<'_>,
        tally: &mut Tally,
        watch: &mut Watch<'_>,
    ) -> Result<(), End> {
        /// Type of an LDT's descriptor (SDM vol. 3A, table 3-2).
        const LDT: u8 = 2;
        let sregs = self.guest.machine().sregs_mut();
        sregs.ldt.base = case.va.0;
        sregs.ldt.limit = 7;
        (sregs.ldt.type_, sregs.ldt.present, sregs.ldt.unusable) = (LDT, 1, 0);
        (sregs.ldt.selector, sregs.ldt.s) = (8, 0);
        // By itself an access takes microseconds, or has no end.
        self.guest.set_limit(LIMIT_OF_ONE);
        let performed = self.perform(script, tally, watch);
        self.guest.set_limit(LIMIT);
        performed?;
        let base = self.guest.machine().sregs().fs.base;
        arena.put_value(Records::Main, index, base);
        Ok(())
    }

    /// Accesses that arrive although the host has taken an entry away, one of each level, and the guest has loaded CR3
    /// after it. KVM's shadow tables follow the guest's writes, not the host's.
    fn stale_accesses(&mut self, scratch: &Arena) -> Result<u64, End> {
        let levels = [Level::Pte, Level::Pde, Level::Pdpte, Level::Pml4e];
        let path: Combination =
            "pml5e.p pml5e.w pml5e.u pml4e.p pml4e.w pml4e.u pdpte.p pdpte.w pdpte.u pde.p pde.w pde.u \
                                 pte.p pte.w pte.u user efer.nx cr0.wp"
                .parse()
                .unwrap_or_default();
        let mut slots = Slots::default();
        let lay_out = |slots: &mut Slots| -> Vec<Case> {
            (0..levels.len()).filter_map(|index| scratch.lay_out(index, slots, path, self.told.la57)).collect()
        };
        let cases = lay_out(&mut slots);
        let mut watch = Watch { arena: scratch, stray_writes: Vec::new() };
        self.run_cases(scratch, &cases, &mut watch)?;
        for (case, level) in cases.iter().zip(levels) {
            let entry = &case.entries[level as usize - 1];
            scratch.set_entry(entry, 0);
        }
        let tally = self.run_cases(scratch, &cases, &mut watch)?;
        Ok((levels.len() as u64).saturating_sub(tally.faults))
    }
}

/// The modes of a combination on a CPU that is told so.
pub fn modes(told: &Paging, combination: &Combination) -> Paging {
    let has = |bit| combination.has(bit);
    let denied = match has(Bit::Pke) {
        true => u32::from(has(Bit::AccessDisable)) | u32::from(has(Bit::WriteDisable)) << 1,
        // It must count for nothing then, so it denies all.
        false if told.pke => 0b11,
        false => 0,
    };
    Paging {
        nxe: has(Bit::Nxe),
        wp: has(Bit::Wp),
        smep: has(Bit::Smep),
        smap: has(Bit::Smap),
        pke: has(Bit::Pke),
        // Of key 1.
        pkru: denied << 2,
        ..*told
    }
}

/// What happens while a batch runs.
struct Watch<'a> {
    arena: &'a Arena,
    stray_writes: Vec<(u64, u64)>,
}

impl Watch<'_> {
    /// Ends the access that is being made as if it had faulted with this vector. False: none is.
    fn abandon(&self, machine: &mut Machine, vector: u64) -> bool {
        if self.arena.record_before(machine.regs().rsi).is_none() {
            return false;
        }
        let is_user = machine.cpl() == 3;
        let regs = machine.regs_mut();
        (regs.r12, regs.r13) = (vector << 56, 0);
        regs.rip = if is_user { regs.rbx } else { regs.r15 };
        true
    }
}

impl GuestEvents for Watch<'_> {
    fn wrote(&mut self, Pa(pa): Pa, value: u64, _bytes: u8) {
        if self.stray_writes.len() < MAX_STRAY_WRITES {
            self.stray_writes.push((pa, value));
        }
    }

    /// The access that was being made ends as if it had faulted.
    fn internal_error(&mut self, _error: &InternalError, machine: &mut Machine) -> bool {
        self.abandon(machine, NOT_EMULATED)
    }
}
