//! Ring 3 halted, for somebody who looks on: a debugger.
//!
//! Breakpoints are INT3 in the guest's own copy of the code, steps are RFLAGS.TF: both are exceptions that the guest's kernel
//! hands over like any other. So they need nothing of KVM, some of which have no debugging of ring 3.

use efibed_guest::protocol::selector;

use super::super::{Case, PAGE_BYTES};
use super::{Ended, Exception, Process};
use crate::check::Finding;
use crate::machine::{Machine, kvm_regs};
use crate::memory_map::MemoryDescriptor;
use crate::mmu::{Access, Fault, Pa, Paging, Run, Runs, Va, Walk, walk};

/// Somebody who looks on while mapping code runs, and may halt it.
pub trait Debugger {
    /// Whether somebody has looked on since this was last asked: meanwhile limits of time are off.
    fn looked_on(&mut self) -> bool {
        false
    }

    /// Whether the guest is to halt now. Asked some times a second.
    fn wants_halt(&mut self) -> bool {
        false
    }

    /// Ring 3 has halted, or has been left for good. It stays so until this returns.
    fn halted(&mut self, why: Halt<'_>, process: &mut Halted<'_>) -> Resume;
}

/// Why ring 3 has halted.
#[derive(Clone, Copy, Debug)]
pub enum Halt<'a> {
    /// It is at its first instruction.
    Start,
    /// The debugger wanted it.
    Asked,
    /// #BP or #DB, the debugger's or the code's own.
    Trap(&'a Exception),
    /// A step led over an instruction that was carried out for it.
    Served,
    /// It is about to write to a page that the debugger has closed: #PF.
    Closed(&'a Exception),
    /// An exception after which it cannot go on.
    Exception(&'a Exception),
    /// The host has found these so far, and services of firmware have met these faults. Ring 3 has been left.
    Findings(&'a [Finding], &'a [FaultOfRing0]),
}

/// A fault in ring 0: of a service of firmware's, with which ring 3 has nothing to do.
#[derive(Clone, Copy, Debug)]
pub struct FaultOfRing0 {
    /// The service.
    pub service: &'static str,
    /// The exception.
    pub fault: Fault,
    /// The instruction.
    pub rip: u64,
    /// CR2.
    pub cr2: u64,
}

/// What becomes of it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It goes on.
    GoOn,
    /// It goes on as if there were no debugger: the exception is the code's own.
    PassOn,
    /// It is ended.
    End,
}

/// A process that is halted, and what it can be asked.
pub struct Halted<'a> {
    process: &'a mut Process,
    machine: &'a mut Machine,
    case: &'a Case,
    at: At,
}

/// Where its registers are.
#[derive(Clone, Debug)]
enum At {
    /// In the CPU.
    Ring3,
    /// RIP, RSP and RFLAGS are in an exception's frame at this physical address, the others in the CPU.
    Handler(u64),
    /// It was left with these.
    Left(kvm_regs),
}

/// Offsets in an exception's frame (SDM vol. 3A, figure 6-9): RIP, CS, RFLAGS, RSP, SS.
const FRAME_RIP: u64 = 0;
const FRAME_RFLAGS: u64 = 16;
const FRAME_RSP: u64 = 24;

/// RFLAGS.TF (SDM vol. 3B, 18.3.1.4): #DB after the next instruction.
const TRAP_FLAG: u64 = 1 << 8;

/// Far more than right tables have.
const MOST_RUNS: usize = 1 << 16;

impl<'a> Halted<'a> {
    /// A process in ring 3, its registers in the CPU.
    pub(in super::super) fn in_ring_3(process: &'a mut Process, machine: &'a mut Machine, case: &'a Case) -> Self {
        Self { process, machine, case, at: At::Ring3 }
    }

    /// A process that has been left.
    pub(in super::super) fn left(process: &'a mut Process, machine: &'a mut Machine, case: &'a Case) -> Self {
        let at = At::Left(process.left_with);
        Self { process, machine, case, at }
    }

    /// The general registers of ring 3, with its RIP, RSP and RFLAGS.
    pub fn registers(&self) -> kvm_regs {
        let word = |at: u64| self.case.memory.read_u64(at).unwrap_or_default();
        let mut registers = match &self.at {
            At::Ring3 => self.machine.regs(),
            At::Left(registers) => *registers,
            At::Handler(frame) => registers_of(self.machine.regs(), |offset| word(frame.wrapping_add(offset))),
        };
        registers.rflags &= !TRAP_FLAG;
        registers
    }

    /// Changes them; false: it has been left, or has no frame.
    pub fn set_registers(&mut self, registers: &kvm_regs) -> bool {
        let frame = match self.at {
            At::Left(_) => return false,
            At::Ring3 => {
                *self.machine.regs_mut() = *registers;
                return true;
            }
            At::Handler(frame) => frame,
        };
        let kvm_regs { rip, rsp, rflags, .. } = self.machine.regs();
        *self.machine.regs_mut() = kvm_regs { rip, rsp, rflags, ..*registers };
        let words =
            [(FRAME_RIP, registers.rip), (FRAME_RFLAGS, registers.rflags), (FRAME_RSP, registers.rsp)].into_iter();
        words.fold(true, |all, (offset, word)| all & self.case.memory.write_u64(frame.wrapping_add(offset), word))
    }

    /// Whether #DB comes after the next instruction.
    pub fn step(&mut self, steps: bool) {
        let with = |rflags: u64| if steps { rflags | TRAP_FLAG } else { rflags & !TRAP_FLAG };
        match self.at {
            At::Left(_) => {}
            At::Ring3 => {
                let rflags = with(self.machine.regs().rflags);
                self.machine.regs_mut().rflags = rflags;
            }
            At::Handler(frame) => {
                let at = frame.wrapping_add(FRAME_RFLAGS);
                if let Some(rflags) = self.case.memory.read_u64(at) {
                    // It was read there.
                    let _ = self.case.memory.write_u64(at, with(rflags));
                }
            }
        }
    }

    /// Has it halt before it writes to these pages, until they are opened; false: it could not write to one of them anyway, or
    /// KVM refuses.
    pub fn close(&mut self, pages: impl IntoIterator<Item = u64>) -> bool {
        let Process { space, memory, .. } = &mut *self.process;
        let are_closed = pages.into_iter().all(|virt| space.close(memory, virt));
        // It may have written there before.
        let [tables, ..] = self.process.parts();
        are_closed && self.machine.forget_translations_by(Pa(tables.start)).is_ok()
    }

    /// Lets it write to a page again; false: it was not given that one.
    pub fn open(&mut self, virt: u64) -> bool {
        let Process { space, memory, .. } = &mut *self.process;
        space.open(memory, virt)
    }

    /// Whether it can go on: it has not been left.
    pub fn can_go_on(&self) -> bool {
        !matches!(self.at, At::Left(_))
    }

    /// The legacy region of its extended state (SDM vol. 1, 13.4.1), which has x87 and SSE; None: KVM does not say.
    pub fn fxsave(&self) -> Option<[u8; 512]> {
        self.machine.fxsave()
    }

    /// The selectors of its segments: CS, SS, DS, ES, FS, GS; and the bases of the last two.
    pub fn segments(&self) -> ([u16; 6], [u64; 2]) {
        let [fs, gs] = self.process.bases;
        let (code, data) = (selector::USER_CODE, selector::USER_DATA);
        ([code, data, data, data, data, data], [fs, gs])
    }

    /// Reads what ring 3 would find from an address on, as far as there is something; the result is the bytes that were read.
    pub fn read(&mut self, virt: u64, bytes: &mut [u8]) -> usize {
        self.each_part(virt, bytes.len(), |halted, pa, part| {
            let part = bytes.get_mut(part)?;
            halted.machine.read(pa, part).ok()
        })
    }

    /// Writes what ring 3 is to find from an address on, also in what it may only read. False: not all of it is there, or it is
    /// the kernel's.
    pub fn write(&mut self, virt: u64, bytes: &[u8]) -> bool {
        let length = bytes.len();
        let written = self.each_part(virt, length, |halted, pa, part| {
            let part = bytes.get(part)?;
            halted.machine.write(pa, part).ok()
        });
        written == length
    }

    /// Reads from a physical address on, as far as there is memory; the result is the bytes that were read.
    pub fn read_physical(&self, pa: Pa, bytes: &mut [u8]) -> usize {
        let mut read: usize = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            let at = pa.wrapping_add(read as u64);
            let length = rest.len().min(left_in_page(at.0));
            let part = rest.get_mut(..length).unwrap_or_default();
            if self.machine.read(at, part).is_err() {
                break;
            }
            read = read.saturating_add(length);
        }
        read
    }

    /// How the guest's MMU reads tables.
    pub fn paging(&self) -> &Paging {
        &self.process.paging
    }

    /// Ring 3's own tables.
    pub fn own_root(&self) -> u64 {
        self.process.root()
    }

    /// The root in the mapping code's result. It is the one that it was given until it says otherwise; None: it is none.
    pub fn made_root(&self) -> Option<u64> {
        Some(self.case.result().root).filter(|root| *root != 0)
    }

    /// Descriptors of the virtual map that the mapping code has made so far.
    pub fn virtual_map(&self) -> Vec<MemoryDescriptor> {
        self.case.virtual_map(self.case.result().mapped)
    }

    /// Virtual minus physical address of what the mapping code was given, as ring 3 sees it.
    pub fn direct_map(&self) -> u64 {
        self.process.direct_map()
    }

    /// A walk through tables anywhere in the guest's memory.
    pub fn walk(&self, root: u64, virt: u64, access: Access) -> Walk {
        walk(&Physical(self.machine), Pa(root), Va(virt), access, &self.process.paging)
    }

    /// What tables map, as far as so many entries tell, and at most `MOST_RUNS`.
    pub fn runs(&self, root: u64, limit_entries: u64) -> Vec<Run> {
        let memory = Physical(self.machine);
        let all = Va(0)..=Va(u64::MAX);
        let runs = Runs::new(&memory, Pa(root), all, &self.process.paging, limit_entries);
        runs.map_while(Result::ok).take(MOST_RUNS).collect()
    }

    /// The guest's memory: a physical range for each slot.
    pub fn memory(&self) -> impl Iterator<Item = std::ops::Range<u64>> {
        self.machine.slots().map(|slot| slot.phys.0..slot.phys.0.saturating_add(slot.bytes))
    }

    /// What an address is of what ring 3 was given.
    pub fn what_lies_at(&self, virt: u64) -> Option<String> {
        self.process.what_lies_at(virt, self.case)
    }

    /// Goes through pages of ring 3, those included that it was given and has not touched yet.
    fn each_part(
        &mut self,
        virt: u64,
        length: usize,
        mut each: impl FnMut(&mut Self, Pa, std::ops::Range<usize>) -> Option<()>,
    ) -> usize {
        let mut done: usize = 0;
        while done < length {
            let at = virt.wrapping_add(done as u64);
            let end = done.saturating_add(left_in_page(at)).min(length);
            let Some(pa) = self.physical(at) else { break };
            if each(self, pa, done..end).is_none() {
                break;
            }
            done = end;
        }
        done
    }

    fn physical(&mut self, virt: u64) -> Option<Pa> {
        let root = self.process.root();
        let reached = |halted: &Self| {
            let walk = halted.walk(root, virt, Access::read().user());
            walk.translation().map(|translation| translation.pa)
        };
        reached(self).or_else(|| if self.process.provide(virt) { reached(self) } else { None })
    }
}

/// Bytes from an address to the end of its page.
fn left_in_page(at: u64) -> usize {
    PAGE_BYTES.wrapping_sub(at & PAGE_BYTES.wrapping_sub(1)) as usize
}

/// The registers of an exception in ring 3: what the frame has, and otherwise those of its handler.
fn registers_of(handlers: kvm_regs, word: impl Fn(u64) -> u64) -> kvm_regs {
    kvm_regs { rip: word(FRAME_RIP), rsp: word(FRAME_RSP), rflags: word(FRAME_RFLAGS), ..handlers }
}

/// Tables anywhere in a machine's memory.
struct Physical<'a>(&'a Machine);

impl crate::mmu::TableMemory for Physical<'_> {
    fn entry(&self, at: Pa) -> Option<u64> {
        self.0.read_u64(at)
    }
}

impl Process {
    /// Keeps the registers that an exception left ring 3 with.
    pub(super) fn leave_with(&mut self, exception: &Exception, case: &Case) {
        let word = |offset| case.memory.read_u64(exception.frame_at.wrapping_add(offset)).unwrap_or_default();
        self.left_with = registers_of(exception.registers, word);
    }

    /// What becomes of an exception under a debugger. True: ring 3 goes on.
    pub(in super::super) fn handle_under(
        &mut self,
        debugger: &mut dyn Debugger,
        exception: Exception,
        machine: &mut Machine,
        case: &Case,
    ) -> bool {
        if exception.is_refused_write() && self.space.is_closed(exception.cr2) {
            let mut halted = Halted { process: self, machine, case, at: At::Handler(exception.frame_at) };
            let resume = debugger.halted(Halt::Closed(&exception), &mut halted);
            return self.resumed(resume, true);
        }
        let is_trap = matches!(exception.fault.vector, Fault::DEBUG | Fault::BREAKPOINT);
        if !is_trap {
            let is_served = !exception.is_page_fault();
            let goes_on = self.handle(exception.clone(), machine, case);
            let at = At::Handler(exception.frame_at);
            let mut halted = Halted { process: self, machine, case, at };
            let is_stepped = halted.rflags() & TRAP_FLAG != 0;
            if goes_on && is_served && is_stepped {
                // #DB would come after the next instruction, and not after this one.
                let resume = debugger.halted(Halt::Served, &mut halted);
                return self.resumed(resume, true);
            }
            if goes_on || matches!(self.ended, Some(Ended::Returned { .. })) {
                return goes_on;
            }
        }
        let why = if is_trap { Halt::Trap(&exception) } else { Halt::Exception(&exception) };
        let mut halted = Halted { process: self, machine, case, at: At::Handler(exception.frame_at) };
        match debugger.halted(why, &mut halted) {
            Resume::PassOn if is_trap => self.handle(exception, machine, case),
            resume => self.resumed(resume, is_trap),
        }
    }

    /// What becomes of ring 3 after a halt, if it `can_go_on`. True: it goes on.
    pub(in super::super) fn resumed(&mut self, resume: Resume, can_go_on: bool) -> bool {
        if resume == Resume::End {
            self.ended = Some(Ended::Killed);
        }
        can_go_on && resume != Resume::End
    }
}

impl Halted<'_> {
    /// With RFLAGS.TF.
    fn rflags(&self) -> u64 {
        match self.at {
            At::Handler(frame) => self.case.memory.read_u64(frame.wrapping_add(FRAME_RFLAGS)).unwrap_or_default(),
            At::Ring3 => self.machine.regs().rflags,
            At::Left(registers) => registers.rflags,
        }
    }
}
