//! One exception in ring 3.

use super::super::Case;
use super::super::layout::{IMAGE_BASE, SYSTEM_CALL_AT};
use crate::machine::{Machine, kvm_regs};
use crate::mmu::{ErrorCode, Fault};

/// An exception in ring 3, and the registers at it.
#[derive(Clone, Debug)]
pub struct Exception {
    /// Vector and error code.
    pub fault: Fault,
    /// CR2; of a page fault.
    pub cr2: u64,
    /// The instruction.
    pub rip: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// The general registers. RIP, RSP and RFLAGS are the handler's: ring 3's are in the frame.
    pub registers: kvm_regs,
    /// Physical address of the frame: RIP, CS, RFLAGS, RSP, SS.
    pub(super) frame_at: u64,
}

impl Exception {
    /// What the handler has handed over. None: that was not our kernel, or ring 3 is not where it came from.
    pub fn read(machine: &Machine, case: &Case) -> Option<Self> {
        let registers = machine.regs();
        let image = IMAGE_BASE..case.image.header().end;
        let at = Some(registers.rsp).filter(|rsp| image.contains(rsp)).map(|rsp| case.physical(rsp))?;
        let mut words = [0; 7];
        for (word, at) in words.iter_mut().zip((at..).step_by(8)) {
            *word = case.memory.read_u64(at)?;
        }
        let [vector, error_code, rip, cs, _, rsp, _] = words;
        (cs & 3 == 3).then_some(Self {
            fault: Fault { vector: vector as u8, error_code: ErrorCode(error_code as u32) },
            cr2: machine.sregs().cr2,
            rip,
            rsp,
            registers,
            frame_at: at.wrapping_add(16),
        })
    }

    /// Whether it is a page fault.
    pub fn is_page_fault(&self) -> bool {
        self.fault.vector == Fault::PAGE_FAULT
    }

    /// The number of the system call that it came of; None: it is no such. `code` is what lies at RIP.
    ///
    /// With EFER.SCE clear SYSCALL is #UD (SDM vol. 2B). Some virtual CPUs take it in spite of that, and go on in ring 3 at
    /// IA32_LSTAR, with the next instruction's address in RCX: nothing is mapped there.
    pub fn system_call(&self, code: &[u8]) -> Option<u64> {
        let is_taken = self.rip == SYSTEM_CALL_AT;
        let is_refused = self.fault.vector == Fault::INVALID_OPCODE && code.starts_with(&[0x0f, 0x05]);
        (is_taken || is_refused).then_some(self.registers.rax)
    }

    /// The address of the SYSCALL.
    pub fn system_call_at(&self) -> u64 {
        if self.rip == SYSTEM_CALL_AT { self.registers.rcx.wrapping_sub(2) } else { self.rip }
    }

    /// Whether it is a page fault at a page that is not there.
    pub fn is_not_present(&self) -> bool {
        self.is_page_fault() && !self.fault.error_code.contains(ErrorCode::P)
    }

    /// Whether it is a page fault at a write to a page that is there, and may only be read.
    pub fn is_refused_write(&self) -> bool {
        self.is_page_fault()
            && self.fault.error_code.contains(ErrorCode::P)
            && self.fault.error_code.contains(ErrorCode::W)
    }
}
