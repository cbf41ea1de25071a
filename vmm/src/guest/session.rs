//! A booted guest: batches of commands, and what happens while they run.

use std::time::{Duration, Instant};

use efibed_guest::protocol::{
    Command, Fault, HANDOVER_CRASH, HANDOVER_FAULTS_FULL, HANDOVER_PANIC, MAX_FAULTS, Op, PORT,
};
use efibed_stub::rflags;
use efibed_stub::stamp::stamp;

use super::end::End;
use super::layout::SYSTEM_CALL_AT;
use super::mailbox::Mail;
use super::process::{Debugger, Ended, Exception, Halt, Halted, Process, Start};
use super::state::{Altered, State};
use super::stretch::{bytes_of, length};
use super::{Case, PAGE_BYTES, descriptor_tables};
use crate::machine::{
    Backing, BackingError, CpuidSeen, Exit, InternalError, Machine, RegistersError, Session, Slot, SlotError, kvm_regs,
    kvm_sregs, msr,
};
use crate::mmu::{Pa, Paging, Va};

/// A page with memory behind it, besides what the guest owns.
#[derive(Clone, Debug)]
pub struct BackedPage {
    /// Its physical address.
    pub phys: u64,
    /// What is in it.
    pub content: [u8; PAGE_BYTES as usize],
}

/// What happens while a batch runs.
pub trait GuestEvents {
    /// The guest wrote to where no memory is: a value of 1 to 8 bytes.
    fn wrote(&mut self, pa: Pa, value: u64, bytes: u8);
    /// A write of a sweep faulted. Nothing else faults so.
    fn swept_fault(&mut self, _fault: Fault) {}
    /// KVM could not go on with an instruction. True: what there was to do about it has been done, and the guest may go
    /// on.
    fn internal_error(&mut self, _error: &InternalError, _machine: &mut Machine) -> bool {
        false
    }
    /// Some time has passed, and the guest is not done.
    fn still_running(&mut self) {}
    /// The same, with the machine stopped.
    fn pause(&mut self, _machine: &mut Machine) -> Pace {
        self.still_running();
        Pace::Timed
    }
    /// Who looks on while mapping code runs.
    fn debugger(&mut self) -> Option<&mut (dyn Debugger + 'static)> {
        None
    }
    /// The guest wrote to a port that is not the guest image's own.
    fn port(&mut self, _port: u16, _data: u32, _machine: &mut Machine) -> Next {
        Next::Unknown
    }
    /// Mapping code raised an exception. No other code does so by way of the handlers that are there for it.
    fn exception(&mut self, _machine: &mut Machine) -> Next {
        Next::Unknown
    }
}

/// How a guest goes on that has run for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Within its limits.
    Timed,
    /// They begin anew: somebody has halted it.
    Anew,
    /// It is not to run any more: [`End::Stopped`].
    Stop,
}

/// What becomes of a guest that has handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nobody knows why: its run ends with the exit.
    Unknown,
    /// It goes on.
    GoOn,
    /// It is not to run any more: [`End::Stopped`].
    Stop,
}

/// Why a guest could not be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Memory.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// A slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The registers, such as CR4.LA57 where KVM has no five levels.
    #[error(transparent)]
    Registers(#[from] RegistersError),
}

/// What a mapper has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedTables {
    /// The root to load.
    pub root: u64,
    /// Descriptors in the virtual map.
    pub mapped: u64,
    /// Pages used for tables.
    pub table_pages: u64,
}

/// A guest, booted on the kernel's tables.
pub struct Guest<'m> {
    machine: &'m mut Machine,
    case: &'m Case,
    state: State,
    missing_state: u64,
    limit: Duration,
    deadline: Option<Instant>,
}

impl<'m> Guest<'m> {
    /// Boots the kernel of a case that was laid beside one. The machine must be new or reset. `limit` is for each batch.
    pub fn boot(
        machine: &'m mut Machine,
        case: &'m Case,
        pages: &[BackedPage],
        paging: &Paging,
        limit: Duration,
    ) -> Result<Self, BootError> {
        case.restore_data();
        add_slots(machine, case, pages)?;
        let header = case.image.header();
        let missing_state = machine.take_over_xcr0();
        // Of use where SYSCALL is taken in spite of EFER.
        let _ = machine.keep_msr(msr::IA32_LSTAR, SYSTEM_CALL_AT);
        let cpuid = *machine.cpuid();
        let sregs = machine.sregs_mut();
        set_control_registers(sregs, &cpuid, paging);
        sregs.cr3 = case.boot_root;
        descriptor_tables::load(sregs, header.descriptor_tables);
        let regs = machine.regs_mut();
        *regs = Default::default();
        regs.rip = header.entry;
        regs.rsp = header.stack_top;
        regs.rflags = rflags::FIXED;
        machine.try_registers()?;
        let state = State::of(machine);
        Ok(Self { machine, case, state, missing_state, limit, deadline: None })
    }

    /// The machine it runs in, stopped.
    pub fn machine(&mut self) -> &mut Machine {
        self.machine
    }

    /// What this process has of the extended state and the guest has not, as bits of XCR0.
    pub fn missing_state(&self) -> u64 {
        self.missing_state
    }

    /// Sets the modes of the CPU that concern paging.
    pub fn set_modes(&mut self, paging: &Paging) {
        let cpuid = *self.machine.cpuid();
        set_control_registers(self.machine.sregs_mut(), &cpuid, paging);
        // A KVM that takes CR4.PKE and has no PKRU has no keys either, as its MMU will show.
        if paging.pke || paging.pkru != 0 {
            let _ = self.machine.set_pkru(paging.pkru);
        }
    }

    /// Takes the IDT at this offset in the page of descriptor tables.
    pub fn use_idt(&mut self, offset: u64) {
        self.machine.sregs_mut().idt.base = self.case.image.header().descriptor_tables.wrapping_add(offset);
    }

    /// Of the registers that the kernel relies on, those that are not as they were set when it was booted, and CR3 if it is
    /// not this one. They are set again. IA32_PAT is among them if it is asked for: to read it is a call of the vCPU.
    pub fn restore_state(&mut self, cr3: u64, with_pat: bool) -> Vec<Altered> {
        self.state.restore(self.machine, cr3, with_pat)
    }

    /// Shows the memory of a process to the machine.
    pub fn add_process(&mut self, process: &Process) -> Result<(), SlotError> {
        let memory = process.memory();
        let parts = process.parts();
        for part in &parts {
            let (phys, bytes, offset) = (Pa(part.start), length(part), part.start.saturating_sub(memory.base()));
            self.machine.add_slot(Slot { phys, bytes, readonly: false, memory: memory.backing().clone(), offset })?;
        }
        let [_, usual, _] = parts;
        self.machine.keep_translations(Pa(usual.start));
        Ok(())
    }

    /// Runs a process from its start until ring 3 is left. The kernel stays where it is, and knows nothing of it.
    pub fn run_process(
        &mut self,
        process: &mut Process,
        start: Start,
        events: &mut dyn GuestEvents,
    ) -> Result<Ended, End> {
        // Whatever the kernel did last must be over before its registers are put away, and the process's before they come back.
        // Where it was a HLT it is.
        self.machine.finish_io().map_err(End::Run)?;
        let kernel = (self.machine.regs(), self.machine.sregs());
        let sregs = self.machine.sregs_mut();
        descriptor_tables::enter_ring_3(sregs, self.case.image.header().descriptor_tables, start.bases);
        sregs.cr3 = process.root();
        let [rdi, rsi, rdx, rcx] = start.arguments;
        let Start { rip, rsp, .. } = start;
        *self.machine.regs_mut() =
            kvm_regs { rip, rsp, rdi, rsi, rdx, rcx, rflags: rflags::FIXED, ..Default::default() };
        // What they map elsewhere, KVM forgets with that memory.
        if process.maps_as_before() {
            let [tables, ..] = process.parts();
            self.machine.keep_translations(Pa(tables.start));
        }
        let case = self.case;
        let outcome = match begin(process, self.machine, case, events) {
            true => self.run(&mut ProcessEvents { process, case, events }),
            false => Err(End::Stopped),
        };
        self.machine.finish_io().map_err(End::Run)?;
        *self.machine.regs_mut() = kernel.0;
        *self.machine.sregs_mut() = kernel.1;
        match (outcome, process.ended()) {
            (Err(End::Stopped), Some(ended)) => Ok(ended),
            (Err(end), _) => Err(end),
            // The kernel has no batch at hand.
            (Ok(()), _) => Err(End::Corrupt),
        }
    }

    /// A process that it has run, and has left.
    pub fn left<'a>(&'a mut self, process: &'a mut Process) -> Halted<'a> {
        Halted::left(process, self.machine, self.case)
    }

    /// Its mailbox.
    pub fn mail(&self) -> Mail<'m> {
        Mail::of(self.case)
    }

    /// Carries out commands; returns their results.
    pub fn batch(&mut self, commands: &[Command], events: &mut dyn GuestEvents) -> Result<Vec<u64>, End> {
        self.mail().put_commands(commands)?;
        self.resume(commands.len(), events)
    }

    /// Goes on with a batch of so many commands that ended too early, once its cause has been seen to; returns their
    /// results.
    pub fn resume(&mut self, commands: usize, events: &mut dyn GuestEvents) -> Result<Vec<u64>, End> {
        self.run(events)?;
        // It hands over once all are done, and says so.
        if self.mail().command_at()? != commands {
            return Err(End::Corrupt);
        }
        self.mail().results(commands)
    }

    /// Whether the guest was stopped in a runtime service.
    pub fn is_in_service(&self) -> bool {
        let at = self.case.physical(self.case.image.header().call_rsp);
        self.case.memory.read_u64(at).is_some_and(|rsp| rsp != 0)
    }

    /// Has the guest give up on the runtime service that it is in, as after a fault, and go on with its batch.
    pub fn abandon_service(&mut self, commands: usize, events: &mut dyn GuestEvents) -> Result<Vec<u64>, End> {
        let header = self.case.image.header();
        self.machine.regs_mut().rip = header.call_abandon;
        self.resume(commands, events)
    }

    /// When all batches must be over, whatever the limit of each; None: at no time.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// The limit of further batches.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Runs the guest to the end of its batch, its limit or the deadline; `events` hears now and then that it is at work.
    fn run(&mut self, events: &mut dyn GuestEvents) -> Result<(), End> {
        /// Short enough for people who watch, and long enough to cost nothing.
        const SLICE: Duration = Duration::from_millis(250);
        let mut started = Instant::now();
        loop {
            let now = Instant::now();
            let left = self.limit.saturating_sub(now.saturating_duration_since(started));
            let left_of_all = self.deadline.map_or(left, |deadline| deadline.saturating_duration_since(now));
            match self.run_for(SLICE.min(left).min(left_of_all), events) {
                Err(End::Exit(Exit::Watchdog { rip, cpl, .. })) => {
                    match events.pause(self.machine) {
                        Pace::Timed => {}
                        Pace::Anew => {
                            started = Instant::now();
                            continue;
                        }
                        Pace::Stop => return Err(End::Stopped),
                    }
                    if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(End::OutOfTime);
                    }
                    if started.elapsed() >= self.limit {
                        return Err(End::Exit(Exit::Watchdog { limit: self.limit, rip, cpl }));
                    }
                }
                ended => return ended,
            }
        }
    }

    fn run_for(&mut self, limit: Duration, events: &mut dyn GuestEvents) -> Result<(), End> {
        let mut session = self.machine.session(limit).map_err(End::Watchdog)?;
        let (mail, header) = (Mail::of(self.case), self.case.image.header());
        loop {
            let exit = session.run().map_err(End::Run)?;
            session.drain(|pa, data| {
                let mut value = [0; 8];
                value[..data.len().min(8)].copy_from_slice(&data[..data.len().min(8)]);
                events.wrote(pa, u64::from_le_bytes(value), data.len() as u8);
            });
            match exit {
                Exit::Halt if session.regs().rip == header.batch_done => {
                    return mail.take_faults(None, |fault| events.swept_fault(fault));
                }
                Exit::Halt if session.regs().rip == header.process_halted => {
                    go_on(events.exception(&mut session), exit)?;
                }
                Exit::Out { port: PORT, data: HANDOVER_FAULTS_FULL, .. } => {
                    mail.take_faults(Some(MAX_FAULTS), |fault| events.swept_fault(fault))?;
                }
                Exit::Out { port: PORT, data: HANDOVER_CRASH, .. } => return Err(mail.crash()),
                Exit::Out { port: PORT, data: HANDOVER_PANIC, .. } => return Err(mail.panic()),
                Exit::Out { port, data, .. } => go_on(events.port(port, data, &mut session), exit)?,
                Exit::MmioRead { pa, .. } => {
                    session.answer_mmio(stamp(pa.0));
                }
                Exit::MmioWrite { pa, len, data } => events.wrote(pa, u64::from_le_bytes(data), len),
                Exit::InternalError(error) if events.internal_error(&error, &mut session) => {}
                Exit::InternalError(error) => finish_fetch(&mut session, self.case, error)?,
                other => return Err(End::Exit(other)),
            }
        }
    }
}

/// Whether a guest goes on that handed over with this exit.
fn go_on(next: Next, exit: Exit) -> Result<(), End> {
    match next {
        Next::GoOn => Ok(()),
        Next::Stop => Err(End::Stopped),
        Next::Unknown => Err(End::Exit(exit)),
    }
}

/// A command with its arguments.
pub fn command(op: Op, args: [u64; 6]) -> Command {
    Command { op: op as u64, args, result: 0 }
}

// CR0, CR4, EFER (SDM vol. 3A, 2.5 and 2.2.1).
const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_LA57: u64 = 1 << 12;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const CR4_PKE: u64 = 1 << 22;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// Paging's modes; and what compiled code in ring 3 takes for granted, as far as this CPU has it.
fn set_control_registers(sregs: &mut kvm_sregs, cpuid: &CpuidSeen, paging: &Paging) {
    let bits = |switches: &[(bool, u64)]| switches.iter().filter(|s| s.0).fold(0, |sum, s| sum | s.1);
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG | bits(&[(paging.wp, CR0_WP)]);
    sregs.cr4 = CR4_PAE
        | CR4_OSFXSR
        | CR4_OSXMMEXCPT
        | bits(&[(cpuid.xsave, CR4_OSXSAVE), (cpuid.fsgsbase, CR4_FSGSBASE)])
        | bits(&[(paging.la57, CR4_LA57), (paging.smep, CR4_SMEP), (paging.smap, CR4_SMAP), (paging.pke, CR4_PKE)]);
    sregs.efer = EFER_LME | EFER_LMA | bits(&[(paging.nxe, EFER_NXE)]);
}

fn add_slots(machine: &mut Machine, case: &Case, pages: &[BackedPage]) -> Result<(), BootError> {
    let memory = case.memory.backing();
    let Case { placement, .. } = case;
    let fixed = placement.sizes.read_only;
    let own = |offset: u64, bytes: u64, readonly: bool| Slot {
        phys: Pa(placement.base.wrapping_add(offset)),
        bytes,
        readonly,
        memory: memory.clone(),
        offset,
    };
    let read_only = own(0, fixed, true);
    let at = read_only.phys;
    machine.add_slot(read_only)?;
    // It never changes, whatever a mapper takes for tables there. In what is vouched for below, too, no ordinary guest has tables.
    machine.keep_translations(at);
    machine.add_slot(own(fixed, length(&placement.writable()), false))?;
    if pages.is_empty() {
        return Ok(());
    }
    let bytes = bytes_of(pages.len() as u64);
    // Every byte of it is written below.
    let before = pages.first().and_then(|first| machine.memory_before_reset(Pa(first.phys), bytes));
    let backing = before.map_or_else(|| Backing::new(bytes), Ok)?;
    for (page, offset) in pages.iter().zip((0..).step_by(PAGE_BYTES as usize)) {
        // As many pages as there are: each is inside.
        let _ = backing.write(offset, &page.content);
        let (phys, memory) = (Pa(page.phys), backing.clone());
        machine.add_slot(Slot { phys, bytes: PAGE_BYTES, readonly: false, memory, offset })?;
        machine.keep_translations(phys);
    }
    Ok(())
}

/// KVM cannot execute what has no memory behind it, and stops at the address. If a fetch probe went there, that is its
/// result: the call returns the page's stamp, by KVM's own translation, as the routine in a page with memory does.
fn finish_fetch(session: &mut Session<'_>, case: &Case, error: InternalError) -> Result<(), End> {
    let header = case.image.header();
    let regs = session.regs();
    let mut physical = |linear| session.translate(Va(linear)).ok().flatten();
    let (target, stack) = (physical(regs.rip), physical(regs.rsp));
    let target = target.filter(|target| !session.is_backed(*target));
    let returns_to = stack.and_then(|stack| session.read_u64(stack));
    match (target, returns_to) {
        (Some(target), Some(address)) if [header.fetch_return, header.user_fetch_return].contains(&address) => {
            let regs = session.regs_mut();
            regs.rip = address;
            regs.rsp = regs.rsp.wrapping_add(8);
            regs.rax = stamp(target.0);
            Ok(())
        }
        _ => Err(End::Exit(Exit::InternalError(error))),
    }
}

/// Shows a process that is about to run to a debugger, if there is one. False: it is not to run.
fn begin(process: &mut Process, machine: &mut Machine, case: &Case, events: &mut dyn GuestEvents) -> bool {
    let Some(debugger) = events.debugger() else { return true };
    let resume = debugger.halted(Halt::Start, &mut Halted::in_ring_3(process, machine, case));
    process.resumed(resume, true)
}

/// Answers the exceptions of a process, and passes on whatever else happens while it runs.
struct ProcessEvents<'a, 'e> {
    process: &'a mut Process,
    case: &'a Case,
    events: &'e mut dyn GuestEvents,
}

impl GuestEvents for ProcessEvents<'_, '_> {
    fn wrote(&mut self, pa: Pa, value: u64, bytes: u8) {
        self.events.wrote(pa, value, bytes);
    }

    fn pause(&mut self, machine: &mut Machine) -> Pace {
        self.events.still_running();
        let Some(debugger) = self.events.debugger() else { return Pace::Timed };
        // In ring 0 it is on its way to a halt, or will be back in ring 3 the next time.
        if machine.cpl() == 3 && debugger.wants_halt() {
            let resume = debugger.halted(Halt::Asked, &mut Halted::in_ring_3(self.process, machine, self.case));
            if !self.process.resumed(resume, true) {
                return Pace::Stop;
            }
        }
        if debugger.looked_on() { Pace::Anew } else { Pace::Timed }
    }

    fn exception(&mut self, machine: &mut Machine) -> Next {
        let Some(exception) = Exception::read(machine, self.case) else { return Next::Unknown };
        let goes_on = match self.events.debugger() {
            None => self.process.handle(exception, machine, self.case),
            Some(debugger) => self.process.handle_under(debugger, exception, machine, self.case),
        };
        if goes_on { Next::GoOn } else { Next::Stop }
    }
}

/// For batches in which nothing happens on the way.
pub struct NoEvents;

impl GuestEvents for NoEvents {
    fn wrote(&mut self, _pa: Pa, _value: u64, _bytes: u8) {}
}
