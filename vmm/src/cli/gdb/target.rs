//! What gdb asks of a target, each asked of the guest's side in turn.

use gdbstub::common::Signal;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadRangeStepping, SingleThreadRangeSteppingOps, SingleThreadResume,
    SingleThreadResumeOps, SingleThreadSingleStep, SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::section_offsets::{Offsets, SectionOffsets, SectionOffsetsOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;

use crate::cli::message::{Colours, shown};
use crate::debugger::{Going, Order, Registers, Said, Wire};

/// The guest's side, and what gdb has to know of the file that it runs.
pub struct Guest {
    pub wire: Wire,
    /// Where the first segment of a program lies that was not linked for a fixed address.
    pub base: Option<u64>,
}

/// The guest's side is there no more, or says what is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Guest {
    fn ask(&mut self, order: &Order) -> Result<Said, Gone> {
        if self.wire.send(order) { self.wire.receive().ok_or(Gone) } else { Err(Gone) }
    }

    /// Of an order that may be refused.
    fn done(&mut self, order: &Order) -> Result<bool, Gone> {
        match self.ask(order)? {
            Said::Done(done) => Ok(done),
            _ => Err(Gone),
        }
    }

    fn registers(&mut self) -> Result<Registers, Gone> {
        match self.ask(&Order::Registers)? {
            Said::Registers(registers) => Ok(*registers),
            _ => Err(Gone),
        }
    }

    fn go(&mut self, going: Going) -> Result<(), Gone> {
        if self.wire.send(&Order::Go(going)) { Ok(()) } else { Err(Gone) }
    }
}

/// What gdb says of an address where nothing is mapped (`EFAULT`): "Cannot access memory at address ...".
const FAULT: TargetError<Gone> = TargetError::Errno(libc::EFAULT as u8);

impl Target for Guest {
    type Arch = X86_64_SSE;
    type Error = Gone;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64_SSE, Gone> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_section_offsets(&mut self) -> Option<SectionOffsetsOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadBase for Guest {
    fn read_registers(&mut self, regs: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        *regs = gdbs(&self.registers().map_err(TargetError::Fatal)?);
        Ok(())
    }

    /// Of x87 and SSE nothing can be changed, nor can what ring 3 has no say in.
    fn write_registers(&mut self, regs: &X86_64CoreRegs) -> TargetResult<(), Self> {
        let now = self.registers().map_err(TargetError::Fatal)?;
        let set = Registers { general: regs.regs, rip: regs.rip, rflags: regs.eflags.into(), ..now };
        let is_all = gdbs(&set) == *regs;
        match is_all && self.done(&Order::SetRegisters(Box::new(set))).map_err(TargetError::Fatal)? {
            true => Ok(()),
            false => Err(TargetError::Errno(libc::EPERM as u8)),
        }
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, virt: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        match self.ask(&Order::Read { virt, bytes: data.len() }).map_err(TargetError::Fatal)? {
            Said::Bytes(bytes) if bytes.is_empty() && !data.is_empty() => Err(FAULT),
            Said::Bytes(bytes) if bytes.len() <= data.len() => {
                data[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            _ => Err(TargetError::Fatal(Gone)),
        }
    }

    fn write_addrs(&mut self, virt: u64, data: &[u8]) -> TargetResult<(), Self> {
        match self.done(&Order::Write { virt, bytes: data.to_vec() }).map_err(TargetError::Fatal)? {
            true => Ok(()),
            false => Err(FAULT),
        }
    }
}

impl SingleThreadResume for Guest {
    /// A signal that gdb passes on is the exception that stands for it: the code meets it anyway.
    fn resume(&mut self, _: Option<Signal>) -> Result<(), Gone> {
        self.go(Going::On)
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<SingleThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Guest {
    fn step(&mut self, _: Option<Signal>) -> Result<(), Gone> {
        self.go(Going::Step)
    }
}

impl SingleThreadRangeStepping for Guest {
    fn resume_range_step(&mut self, start: u64, end: u64) -> Result<(), Gone> {
        self.go(Going::Steps(start, end))
    }
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

/// All code is in memory that can be written to, so INT3 does for these too, and is there on every KVM.
impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, at: u64, kind: usize) -> TargetResult<bool, Self> {
        self.add_sw_breakpoint(at, kind)
    }

    fn remove_hw_breakpoint(&mut self, at: u64, kind: usize) -> TargetResult<bool, Self> {
        self.remove_sw_breakpoint(at, kind)
    }
}

/// Changes are seen, and what is only read is not.
impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(&mut self, virt: u64, bytes: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        let bytes = bytes as usize;
        Ok(kind == WatchKind::Write && self.done(&Order::Watch { virt, bytes }).map_err(TargetError::Fatal)?)
    }

    fn remove_hw_watchpoint(&mut self, virt: u64, bytes: u64, _: WatchKind) -> TargetResult<bool, Self> {
        self.done(&Order::Unwatch { virt, bytes: bytes as usize }).map_err(TargetError::Fatal)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.done(&Order::Break(at)).map_err(TargetError::Fatal)
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.done(&Order::Unbreak(at)).map_err(TargetError::Fatal)
    }
}

impl MonitorCmd for Guest {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Gone> {
        let command = String::from_utf8_lossy(command).into_owned();
        match self.ask(&Order::Monitor(command))? {
            Said::Text(text) => out.write_raw(shown(&text, Colours::None).as_bytes()),
            _ => return Err(Gone),
        }
        Ok(())
    }
}

impl SectionOffsets for Guest {
    fn get_section_offsets(&mut self) -> Result<Offsets<u64>, Gone> {
        Ok(match self.base {
            Some(text_seg) => Offsets::Segments { text_seg, data_seg: None },
            None => Offsets::Sections { text: 0, data: 0, bss: None },
        })
    }
}

/// Registers as gdb has them.
fn gdbs(registers: &Registers) -> X86_64CoreRegs {
    let Registers { general, rip, rflags, selectors, fxsave, .. } = registers;
    let [cs, ss, ds, es, fs, gs] = selectors.map(u32::from);
    let mut regs = X86_64CoreRegs { regs: *general, rip: *rip, eflags: *rflags as u32, ..Default::default() };
    (regs.segments.cs, regs.segments.ss, regs.segments.ds) = (cs, ss, ds);
    (regs.segments.es, regs.segments.fs, regs.segments.gs) = (es, fs, gs);
    // FXSAVE in 64-bit mode (SDM vol. 1, table 10-2).
    let bytes = |at: usize, count: usize| fxsave.get(at..at + count).unwrap_or_default();
    let word = |at, count| bytes(at, count).iter().rev().fold(0, |sum: u32, byte| sum << 8 | u32::from(*byte));
    (regs.fpu.fctrl, regs.fpu.fstat, regs.mxcsr) = (word(0, 2), word(2, 2), word(24, 4));
    // A bit for each register that is not empty; two bits for gdb, 11 for empty.
    regs.fpu.ftag = (0..8).filter(|nth| word(4, 1) >> nth & 1 == 0).fold(0, |tags, nth| tags | 0b11 << (2 * nth));
    for (nth, st) in regs.st.iter_mut().enumerate() {
        st.iter_mut().zip(bytes(32 + 16 * nth, 10)).for_each(|(to, from)| *to = *from);
    }
    for (nth, xmm) in regs.xmm.iter_mut().enumerate() {
        *xmm = bytes(160 + 16 * nth, 16).iter().rev().fold(0, |sum, byte| sum << 8 | u128::from(*byte));
    }
    regs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_fxsave_are_where_the_manual_has_them() {
        let mut fxsave = vec![0; 512];
        fxsave[0..2].copy_from_slice(&0x037f_u16.to_le_bytes());
        fxsave[4] = 0b0000_0010;
        fxsave[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        fxsave[48] = 7;
        fxsave[160 + 15 * 16..160 + 16 * 16].copy_from_slice(&u128::MAX.to_le_bytes());
        let regs = gdbs(&Registers { fxsave, selectors: [1, 2, 3, 4, 5, 6], ..Default::default() });
        assert_eq!((regs.fpu.fctrl, regs.fpu.ftag, regs.mxcsr), (0x37f, 0xfff3, 0x1f80));
        assert_eq!((regs.st[1][0], regs.xmm[15], regs.xmm[14]), (7, u128::MAX, 0));
        assert_eq!((regs.segments.cs, regs.segments.ss, regs.segments.gs), (1, 2, 6));
    }
}
