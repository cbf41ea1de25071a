//! Running the guest until it has something to say, under a watchdog.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use kvm_bindings::KVM_EXIT_IO;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno;

use super::coalesced::MAX_QUEUED;
use super::watchdog::Watchdog;
use super::{CoalesceError, Exit, Machine, RegistersError, SlotError, WatchdogError, exit};
use crate::mmu::Pa;

/// Parts of one instruction's accesses that [`Machine::finish_io`] lets come before it gives up.
const MAX_PARTS: u32 = 64;

/// A stretch of running, with one limit for the whole of it: arming the watchdog costs a few calls of the
/// system, which each exit should not.
///
/// It is the machine, too: registers and memory are reached through it.
pub struct Session<'m> {
    machine: &'m mut Machine,
    watchdog: Watchdog,
}

impl Machine {
    /// Begins to run: all that is run through the session, and what the host does in between, must be
    /// over in `limit`.
    pub fn session(&mut self, limit: Duration) -> Result<Session<'_>, WatchdogError> {
        let watchdog = Watchdog::arm(limit)?;
        Ok(Session { machine: self, watchdog })
    }
}

impl Session<'_> {
    /// Runs the guest until its next exit, [`Exit::Watchdog`] at the latest, and then at each further
    /// call without running it.
    ///
    /// What was written to coalesced zones before the exit waits in [`Machine::drain`].
    pub fn run(&mut self) -> Result<Exit, RunError> {
        let queued = self.machine.coalesced.queued();
        if queued > MAX_QUEUED {
            return Err(RunError::Undrained { queued });
        }
        self.machine.coalesced.remove_stale(&self.machine.vm)?;
        self.machine.settle_slots()?;
        while !self.watchdog.expired() {
            // Without an exit it was the watchdog, or a signal that has nothing to do with the guest.
            if let Some(exit) = self.machine.enter()? {
                return Ok(exit);
            }
        }
        Ok(Exit::Watchdog { limit: self.watchdog.limit(), rip: self.machine.regs().rip, cpl: self.machine.cpl() })
    }
}

impl Deref for Session<'_> {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        self.machine
    }
}

impl DerefMut for Session<'_> {
    fn deref_mut(&mut self) -> &mut Machine {
        self.machine
    }
}

/// Why the guest could not be run at all.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RunError {
    /// KVM refused the system registers that were set.
    #[error(transparent)]
    SystemRegisters(#[from] RegistersError),
    /// KVM would not let go of the zones of before the last reset.
    #[error(transparent)]
    Coalesce(#[from] CoalesceError),
    /// KVM would not let go of memory from before the last reset.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Too many writes wait to be drained.
    #[error("{queued} coalesced writes wait to be drained, {MAX_QUEUED} may")]
    Undrained {
        /// How many wait.
        queued: usize,
    },
    /// The machine is the parent's: this process was forked after it was made.
    #[error("the machine belongs to process {process}, which this one was forked from, and runs only there")]
    OtherProcess {
        /// The process that made it.
        process: u32,
    },
    /// KVM_RUN failed.
    #[error("KVM_RUN failed at RIP {rip:#x}: {cause}")]
    Kvm {
        /// Where the guest was.
        rip: u64,
        /// What KVM said.
        cause: errno::Error,
    },
}

/// What KVM has yet to do of the instruction that ended the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    Nothing,
    /// A write: KVM takes note of it at the next KVM_RUN.
    Write,
    /// A read from memory, to be answered.
    MmioRead,
    /// A read from a port, to be answered.
    In,
}

impl Machine {
    /// Answers [`Exit::MmioRead`] with the low bytes of `value`. False: no such read is pending.
    pub fn answer_mmio(&mut self, value: u64) -> bool {
        if self.unfinished != Unfinished::MmioRead {
            return false;
        }
        self.vcpu.get_kvm_run().__bindgen_anon_1.mmio.data = value.to_le_bytes();
        true
    }

    /// Answers [`Exit::In`] with the low bytes of `value`. False: no such read is pending.
    pub fn answer_in(&mut self, value: u32) -> bool {
        if self.unfinished != Unfinished::In {
            return false;
        }
        let bytes = value.to_le_bytes();
        let Some((data, size)) = self.port_data() else {
            return false;
        };
        for each in data.chunks_exact_mut(size) {
            each.copy_from_slice(&bytes[..size]);
        }
        true
    }

    /// Lets KVM finish the instruction that ended the run without running the next one, so that registers
    /// may be changed: an answered read is written to the registers it is for, for instance. False: it
    /// would not finish, its accesses went on.
    pub fn finish_io(&mut self) -> Result<bool, RunError> {
        for _ in 0..MAX_PARTS {
            if self.unfinished == Unfinished::Nothing {
                return Ok(true);
            }
            // KVM completes what is pending and then returns at once; with an exit, if there is a further part of the same access.
            self.vcpu.set_kvm_immediate_exit(1);
            let result = self.enter();
            self.vcpu.set_kvm_immediate_exit(0);
            result?;
        }
        Ok(self.unfinished == Unfinished::Nothing)
    }

    /// One KVM_RUN, with the registers that were changed, and the writes it collected; None: a signal ended it.
    fn enter(&mut self) -> Result<Option<Exit>, RunError> {
        let asked = self.changed_system_registers();
        let result = run(&mut self.vcpu);
        self.coalesced.collect(&mut self.vcpu);
        match result {
            Ok(raw) => {
                let (exit, unfinished) = self.interpret(raw);
                self.unfinished = unfinished;
                Ok(Some(exit))
            }
            Err(cause) => {
                if let Some(refusal) = asked.and_then(|asked| self.refusal(&asked, cause)) {
                    return Err(refusal.into());
                }
                self.unfinished = Unfinished::Nothing;
                match cause.errno() {
                    libc::EINTR | libc::EAGAIN => Ok(None),
                    _ => Err(self.run_error(cause)),
                }
            }
        }
    }

    fn interpret(&mut self, raw: Raw) -> (Exit, Unfinished) {
        match raw {
            Raw::Exit(exit, unfinished) => (exit, unfinished),
            Raw::In { port } => self.port_read(port),
            Raw::Out { port } => self.port_write(port),
            Raw::InternalError => {
                let error = self.internal_error();
                (Exit::InternalError(error), Unfinished::Nothing)
            }
            Raw::Other => {
                let reason = self.vcpu.get_kvm_run().exit_reason;
                (other(reason), Unfinished::Write)
            }
        }
    }

    fn port_read(&mut self, port: u16) -> (Exit, Unfinished) {
        let Some((data, size)) = self.port_data() else {
            return (other(KVM_EXIT_IO), Unfinished::Write);
        };
        // What a bus answers that nothing is on.
        data.fill(0xff);
        let count = (data.len() / size) as u32;
        let size = size as u8;
        (Exit::In { port, size, count }, Unfinished::In)
    }

    fn port_write(&mut self, port: u16) -> (Exit, Unfinished) {
        let exit = match self.port_data() {
            Some((data, size)) if data.len() == size => {
                let mut bytes = [0; 4];
                bytes[..size].copy_from_slice(data);
                Exit::Out { port, size: size as u8, data: u32::from_le_bytes(bytes) }
            }
            // KVM gives the writes of `rep outs` one by one.
            _ => other(KVM_EXIT_IO),
        };
        (exit, Unfinished::Write)
    }

    /// The data of the port access that ended the run, and the bytes of each of its reads or writes.
    fn port_data(&mut self) -> Option<(&mut [u8], usize)> {
        let run_bytes = self.run_bytes;
        let run = self.vcpu.get_kvm_run();
        if run.exit_reason != KVM_EXIT_IO {
            return None;
        }
        // SAFETY: the exit reason says that this is the member KVM filled in; any bytes are valid for it.
        let io = unsafe { run.__bindgen_anon_1.io };
        let (size, offset) = (usize::from(io.size), usize::try_from(io.data_offset).ok()?);
        let bytes = size.checked_mul(usize::try_from(io.count).ok()?)?;
        if !matches!(size, 1 | 2 | 4) || offset.checked_add(bytes)? > run_bytes {
            return None;
        }
        let shared: *mut u8 = std::ptr::from_mut(run).cast();
        // SAFETY: the range was found within the area that is mapped for this vCPU, which KVM leaves
        // alone while the vCPU does not run; the borrow of the vCPU lasts as long as the slice.
        let data = unsafe { std::slice::from_raw_parts_mut(shared.add(offset), bytes) };
        Some((data, size))
    }

    fn run_error(&self, cause: errno::Error) -> RunError {
        if !self.is_of_this_process() {
            return RunError::OtherProcess { process: self.process };
        }
        let rip = self.regs().rip;
        RunError::Kvm { rip, cause }
    }
}

/// An exit, or what must be asked of the machine to make one.
enum Raw {
    Exit(Exit, Unfinished),
    In { port: u16 },
    Out { port: u16 },
    InternalError,
    Other,
}

fn run(vcpu: &mut VcpuFd) -> Result<Raw, errno::Error> {
    let ended = |exit| Raw::Exit(exit, Unfinished::Nothing);
    Ok(match vcpu.run()? {
        VcpuExit::IoOut(port, _) => Raw::Out { port },
        VcpuExit::IoIn(port, _) => Raw::In { port },
        VcpuExit::MmioRead(pa, data) => {
            // As hardware reads where nothing answers.
            data.fill(0xff);
            let len = data.len() as u8;
            Raw::Exit(Exit::MmioRead { pa: Pa(pa), len }, Unfinished::MmioRead)
        }
        VcpuExit::MmioWrite(pa, written) => {
            let mut data = [0; 8];
            data[..written.len()].copy_from_slice(written);
            let len = written.len() as u8;
            Raw::Exit(Exit::MmioWrite { pa: Pa(pa), len, data }, Unfinished::Write)
        }
        VcpuExit::Hlt => ended(Exit::Halt),
        VcpuExit::Shutdown => ended(Exit::Shutdown),
        VcpuExit::FailEntry(hardware_reason, cpu) => ended(Exit::FailEntry { hardware_reason, cpu }),
        VcpuExit::Debug(debug) => {
            ended(Exit::Debug { exception: debug.exception as u8, pc: debug.pc, dr6: debug.dr6, dr7: debug.dr7 })
        }
        VcpuExit::MemoryFault { flags, gpa, size } => ended(Exit::MemoryFault { pa: Pa(gpa), bytes: size, flags }),
        VcpuExit::InternalError => Raw::InternalError,
        _ => Raw::Other,
    })
}

fn other(reason: u32) -> Exit {
    Exit::Other { reason, name: exit::name_of(reason) }
}
