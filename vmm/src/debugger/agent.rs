//! The debugger's side that lives with the guest: halts mapping code, and does what it is told until it goes on.

use std::collections::BTreeMap;

use super::core::{Core, CoreTaker};
use super::monitor::{self, Known};
use super::seen::{registers, signal};
use super::wire::{Event, Going, MOST_BYTES, Order, Registers, Said, Wire};
use crate::check::Finding;
use crate::guest::process::{Debugger, Exception, FaultOfRing0, Halt, Halted, Resume};
use crate::machine::kvm_regs;
use crate::memory_map::MemoryMap;
use crate::mmu::Fault;

/// INT3.
const BREAKPOINT: u8 = 0xcc;

/// Breakpoints at a time: more than anybody sets, and few enough to look through at each read.
const MOST_BREAKPOINTS: usize = 1024;

/// Halts mapping code for somebody at the other end of a wire, until that one has gone.
pub struct Agent {
    wire: Wire,
    known: Known,
    /// What was at each breakpoint.
    breakpoints: BTreeMap<u64, u8>,
    watched: Vec<Watched>,
    going: Going,
    has_started: bool,
    /// Somebody is there.
    attached: bool,
    looked_on: bool,
    /// Takes a core, if one is wanted.
    core: Option<CoreTaker>,
}

impl Agent {
    /// For a run on a memory map.
    pub fn new(wire: Wire, map: MemoryMap) -> Self {
        let known = Known { map, findings: Vec::new(), faults: Vec::new() };
        Self {
            wire,
            known,
            breakpoints: BTreeMap::new(),
            watched: Vec::new(),
            going: Going::On,
            has_started: false,
            attached: true,
            looked_on: false,
            core: None,
        }
    }

    /// With a core of the first fault or finding, as it is when gdb halts there.
    #[must_use]
    pub fn with_core(self, wanted: bool) -> Self {
        Self { core: wanted.then(CoreTaker::default), ..self }
    }

    /// The core, if it came to one.
    pub fn into_core(self) -> Option<Core> {
        self.core?.core
    }
}

impl Debugger for Agent {
    fn looked_on(&mut self) -> bool {
        std::mem::replace(&mut self.looked_on, self.attached)
    }

    /// Orders come while the code runs only to halt it; that nobody gives them any more is known once it has halted.
    fn wants_halt(&mut self) -> bool {
        self.attached && self.wire.has_come()
    }

    fn halted(&mut self, why: Halt<'_>, process: &mut Halted<'_>) -> Resume {
        // The exception is passed on, if it is one.
        if !self.attached {
            self.take_core(why, process);
            return Resume::PassOn;
        }
        let Some(event) = self.event(why, process) else {
            process.step(self.steps());
            return Resume::GoOn;
        };
        self.looked_on = true;
        let is_own = matches!(event, Event::Signal(_));
        if is_own || event == Event::Finding {
            self.take_core(why, process);
        }
        match self.take_orders(event, process) {
            End::Going(going) => {
                self.going = going;
                process.step(self.steps() && !is_own);
                if is_own {
                    // A message that quotes the code is to quote the code's own.
                    self.lift(process);
                }
                if is_own { Resume::PassOn } else { Resume::GoOn }
            }
            End::Detached => {
                self.leave(process);
                if is_own { Resume::PassOn } else { Resume::GoOn }
            }
            End::Killed => {
                self.leave(process);
                Resume::End
            }
        }
    }
}

/// Memory that is watched.
struct Watched {
    virt: u64,
    bytes: usize,
    /// What was there when it was last looked at.
    last: Vec<u8>,
}

/// Watchpoints at a time, and bytes of each: all are read after each instruction.
const MOST_WATCHED: usize = 16;
const MOST_WATCHED_BYTES: usize = 64;

impl Watched {
    fn look(&self, process: &mut Halted<'_>) -> Vec<u8> {
        let mut now = vec![0; self.bytes.min(MOST_WATCHED_BYTES)];
        let length = process.read(self.virt, &mut now);
        now.truncate(length);
        now
    }
}

/// How a halt ends.
enum End {
    Going(Going),
    Detached,
    Killed,
}

impl Agent {
    /// What is told of a halt; None: the code goes on as it did.
    fn event(&mut self, why: Halt<'_>, process: &mut Halted<'_>) -> Option<Event> {
        Some(match why {
            Halt::Start if self.has_started => return None,
            Halt::Start => {
                self.has_started = true;
                Event::Start
            }
            Halt::Asked => Event::Asked,
            Halt::Served => return self.stepped(process),
            // It closes none.
            Halt::Closed(_) => return None,
            Halt::Trap(exception) if self.is_at_breakpoint(exception, process) => Event::Breakpoint,
            Halt::Trap(exception) if exception.fault.vector == Fault::DEBUG && self.steps() => {
                return self.stepped(process);
            }
            Halt::Trap(exception) | Halt::Exception(exception) => Event::Signal(signal(exception.fault)),
            Halt::Findings(findings, faults) => return self.found(findings, faults),
        })
    }

    /// Whether it goes on step by step: watchpoints are looked at after each. That is slower than the CPU's debug registers, and
    /// works on every KVM: on some these do nothing in ring 3.
    fn steps(&self) -> bool {
        self.going != Going::On || !self.watched.is_empty()
    }

    fn stepped(&mut self, process: &mut Halted<'_>) -> Option<Event> {
        if let Some(virt) = self.changed(process) {
            return Some(Event::Watch(virt));
        }
        match self.going {
            Going::On => None,
            Going::Steps(from, to) if (from..to).contains(&process.registers().rip) => None,
            Going::Step | Going::Steps(..) => Some(Event::Step),
        }
    }

    /// Where watched memory has changed since it was last looked at.
    fn changed(&mut self, process: &mut Halted<'_>) -> Option<u64> {
        let mut changed = None;
        for watched in &mut self.watched {
            let now = watched.look(process);
            if now != watched.last {
                watched.last = now;
                changed = changed.or(Some(watched.virt));
            }
        }
        changed
    }

    /// Watches memory for changes.
    fn watch(&mut self, virt: u64, bytes: usize, process: &mut Halted<'_>) -> bool {
        let mut watched = Watched { virt, bytes, last: Vec::new() };
        watched.last = watched.look(process);
        let is_watched = (1..=MOST_WATCHED_BYTES).contains(&bytes)
            && watched.last.len() == bytes
            && self.watched.len() < MOST_WATCHED;
        if is_watched {
            self.watched.push(watched);
        }
        is_watched
    }

    fn unwatch(&mut self, virt: u64, bytes: usize) -> bool {
        let index = self.watched.iter().position(|watched| (watched.virt, watched.bytes) == (virt, bytes));
        index.map(|index| self.watched.remove(index)).is_some()
    }

    /// Whether a trap is that of a breakpoint of ours: RIP, which is behind it, goes back to it.
    fn is_at_breakpoint(&self, exception: &Exception, process: &mut Halted<'_>) -> bool {
        let at = exception.rip.wrapping_sub(1);
        let is_ours = exception.fault.vector == Fault::BREAKPOINT && self.breakpoints.contains_key(&at);
        is_ours && process.set_registers(&kvm_regs { rip: at, ..process.registers() })
    }

    /// None: nothing new.
    fn found(&mut self, findings: &[Finding], faults: &[FaultOfRing0]) -> Option<Event> {
        let is_new = findings.len() > self.known.findings.len();
        self.known.findings = findings.to_vec();
        self.known.faults = faults.to_vec();
        is_new.then_some(Event::Finding)
    }

    /// Memory is the code's own in it: without breakpoints.
    fn take_core(&mut self, why: Halt<'_>, process: &mut Halted<'_>) {
        let Some(core) = &mut self.core else { return };
        for (at, original) in &self.breakpoints {
            // It was written to before.
            let _ = process.write(*at, &[*original]);
        }
        // It passes on all that it sees.
        let _ = core.halted(why, process);
        for at in self.breakpoints.keys() {
            let _ = process.write(*at, &[BREAKPOINT]);
        }
    }

    fn take_orders(&mut self, event: Event, process: &mut Halted<'_>) -> End {
        if !self.wire.send(&Said::Halted(event)) {
            return End::Detached;
        }
        loop {
            let said = match self.wire.receive() {
                Some(Order::Go(going)) => return End::Going(going),
                Some(Order::Detach) | None => return End::Detached,
                Some(Order::Kill) => return End::Killed,
                // It came when the code had halted for another reason.
                Some(Order::Halt) => continue,
                Some(order) => self.obey(order, process),
            };
            if !self.wire.send(&said) {
                return End::Detached;
            }
        }
    }

    fn obey(&mut self, order: Order, process: &mut Halted<'_>) -> Said {
        match order {
            Order::Registers => Said::Registers(Box::new(registers(process))),
            Order::SetRegisters(set) => Said::Done(set_registers(process, &set)),
            Order::Read { virt, bytes } => Said::Bytes(self.read(virt, bytes, process)),
            Order::Write { virt, bytes } => Said::Done(self.write(virt, bytes, process)),
            Order::Break(at) => Said::Done(self.set_breakpoint(at, process)),
            Order::Unbreak(at) => Said::Done(self.remove_breakpoint(at, process)),
            Order::Watch { virt, bytes } => Said::Done(self.watch(virt, bytes, process)),
            Order::Unwatch { virt, bytes } => Said::Done(self.unwatch(virt, bytes)),
            Order::Monitor(command) => Said::Text(monitor::answer(&command, &self.known, process)),
            Order::Go(_) | Order::Halt | Order::Detach | Order::Kill => Said::Done(false),
        }
    }

    /// Memory as it would be without breakpoints.
    fn read(&self, virt: u64, bytes: usize, process: &mut Halted<'_>) -> Vec<u8> {
        let mut read = vec![0; bytes.min(MOST_BYTES)];
        let length = process.read(virt, &mut read);
        read.truncate(length);
        for (at, original) in &self.breakpoints {
            if let Some(byte) = at.checked_sub(virt).and_then(|offset| read.get_mut(usize::try_from(offset).ok()?)) {
                *byte = *original;
            }
        }
        read
    }

    fn write(&mut self, virt: u64, mut bytes: Vec<u8>, process: &mut Halted<'_>) -> bool {
        if bytes.len() > MOST_BYTES {
            return false;
        }
        let mut originals = self.breakpoints.clone();
        for (at, original) in &mut originals {
            if let Some(byte) = at.checked_sub(virt).and_then(|offset| bytes.get_mut(usize::try_from(offset).ok()?)) {
                *original = std::mem::replace(byte, BREAKPOINT);
            }
        }
        let is_written = process.write(virt, &bytes);
        if is_written {
            self.breakpoints = originals;
        }
        is_written
    }

    fn set_breakpoint(&mut self, at: u64, process: &mut Halted<'_>) -> bool {
        if self.breakpoints.contains_key(&at) {
            return true;
        }
        let mut original = [0];
        let is_set = self.breakpoints.len() < MOST_BREAKPOINTS
            && process.read(at, &mut original) == 1
            && process.write(at, &[BREAKPOINT]);
        if is_set {
            self.breakpoints.insert(at, original[0]);
        }
        is_set
    }

    fn remove_breakpoint(&mut self, at: u64, process: &mut Halted<'_>) -> bool {
        self.breakpoints.remove(&at).is_some_and(|original| process.write(at, &[original]))
    }

    /// Takes all breakpoints away.
    fn lift(&mut self, process: &mut Halted<'_>) {
        for (at, original) in std::mem::take(&mut self.breakpoints) {
            // It was written to before.
            let _ = process.write(at, &[original]);
        }
    }

    /// From now on the code runs as if there had been nobody.
    fn leave(&mut self, process: &mut Halted<'_>) {
        self.lift(process);
        self.watched.clear();
        process.step(false);
        self.going = Going::On;
        self.attached = false;
    }
}

/// Flags that ring 3 may change by itself (SDM vol. 1, 3.4.3): the status flags, DF, and AC.
const OWN_FLAGS: u64 = 0xcd5 | 1 << 18;

/// What is no general register must stay as it is: false otherwise.
fn set_registers(process: &mut Halted<'_>, set: &Registers) -> bool {
    let now = registers(process);
    let Registers { general, rip, rflags, .. } = *set;
    let is_possible = Registers { general, rip, rflags: now.rflags, ..now.clone() }
        == Registers { rflags: now.rflags, ..set.clone() };
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = general;
    let rflags = now.rflags & !OWN_FLAGS | rflags & OWN_FLAGS;
    is_possible
        && process.set_registers(&kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
        })
}
