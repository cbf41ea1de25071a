//! Firmware's side of a call: a stub traps, and the host answers.

use efibed_guest::protocol::MAX_COMMANDS;
use efibed_stub::TRAP_PORT;
use uefi_raw::table::runtime::ResetType;

use super::super::firmware_memory::FirmwareMemory;
use crate::firmware::{Answer, Call, Firmware, StubCall};
use crate::guest::{GuestEvents, Next, OwnMemory};
use crate::machine::Machine;
use crate::mmu::{Pa, Paging};

/// Hears what happens while services are called.
pub(super) struct Listener<'f> {
    pub firmware: Option<Served<'f>>,
    /// What was called, and by which command of the batch.
    pub calls: Vec<(u64, Call)>,
    /// ResetSystem was called.
    pub reset: Option<ResetType>,
}

/// Firmware, and what it needs to see its callers' memory.
pub(super) struct Served<'f> {
    pub firmware: &'f mut Firmware,
    pub tables: &'f OwnMemory,
    pub paging: &'f Paging,
    /// Where the guest says which command it carries out.
    pub command_at: u64,
}

impl GuestEvents for Listener<'_> {
    fn wrote(&mut self, _pa: Pa, _value: u64, _bytes: u8) {}

    fn port(&mut self, port: u16, _data: u32, machine: &mut Machine) -> Next {
        let served = self.firmware.as_mut().filter(|_| port == u16::from(TRAP_PORT));
        let Some(Served { firmware, tables, paging, command_at }) = served else { return Next::Unknown };
        let regs = machine.regs();
        let call = StubCall {
            rax: regs.rax,
            rcx: regs.rcx,
            rdx: regs.rdx,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            rsp: regs.rsp,
            rip: regs.rip,
            rflags: regs.rflags,
            cr3: machine.sregs().cr3,
        };
        let Ok(answer) = firmware.answer(&call, &mut FirmwareMemory { machine, tables, paging }) else {
            return Next::Unknown;
        };
        if let Answer::Reset(_, reset) = answer {
            self.reset = Some(reset);
        }
        let command = tables.read_u64(*command_at).unwrap_or(u64::MAX);
        self.calls.extend(answer.call().map(|call| (command, call)));
        // Only code that has gone astray traps as often.
        let is_too_often = self.calls.len() > MAX_COMMANDS;
        if self.reset.is_some() || is_too_often { Next::Stop } else { Next::GoOn }
    }
}
