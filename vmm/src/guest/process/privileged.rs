//! Privileged instructions that a kernel's mapping code may use. In ring 3 they fault, and are carried out here with what a
//! kernel would see.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};

use super::super::Case;
use super::Exception;
use crate::machine::{Machine, kvm_regs, msr};
use crate::mmu::Fault;

/// Carries out the instruction at which an exception came, if it is one of those; the result is what it is called.
///
/// Caches of translations hold nothing that ring 3 can tell from memory: its own tables stay as they are, and those that it
/// builds are not loaded. So to invalidate them is to do nothing.
pub fn serve(exception: &Exception, code: &[u8], machine: &mut Machine, case: &Case) -> Option<&'static str> {
    let instruction = decode(code, exception.rip);
    let mut registers = exception.registers;
    let mut next = instruction.next_ip();
    let what = match instruction.mnemonic() {
        _ if exception.system_call(code).is_some() => {
            next = exception.system_call_at().wrapping_add(2);
            wake(&mut registers)?
        }
        _ if exception.fault.vector != Fault::GENERAL_PROTECTION => return None,
        Mnemonic::Invlpg => "invlpg",
        Mnemonic::Wbinvd => "wbinvd",
        Mnemonic::Mov => read_control_register(&instruction, machine, case, &mut registers)?,
        Mnemonic::Rdmsr => read_msr(machine, &mut registers)?,
        _ => return None,
    };
    // The pointers are the handler's.
    let kvm_regs { rip, rsp, rflags, .. } = machine.regs();
    *machine.regs_mut() = kvm_regs { rip, rsp, rflags, ..registers };
    case.memory.write_u64(exception.frame_at, next).then_some(what)
}

/// Whether an exception came of an instruction that only ring 0 may execute.
pub fn is_cause(exception: &Exception, code: &[u8]) -> bool {
    let instruction = decode(code, exception.rip);
    match exception.fault.vector {
        Fault::GENERAL_PROTECTION => {
            instruction.is_privileged() || matches!(instruction.flow_control(), FlowControl::Interrupt)
        }
        Fault::INVALID_OPCODE => matches!(instruction.mnemonic(), Mnemonic::Sysenter | Mnemonic::Int),
        _ => false,
    }
}

/// The instruction at the start of some code.
fn decode(code: &[u8], rip: u64) -> Instruction {
    Decoder::with_ip(64, code, rip, DecoderOptions::NONE).decode()
}

/// futex(2) with FUTEX_WAKE, as `pthread_once` ends with: there are no other threads to be woken.
fn wake(registers: &mut kvm_regs) -> Option<&'static str> {
    let operation = registers.rsi & !(libc::FUTEX_PRIVATE_FLAG as u64);
    let is_wake = registers.rax == libc::SYS_futex as u64 && operation == libc::FUTEX_WAKE as u64;
    registers.rax = 0;
    is_wake.then_some("futex wake")
}

/// A kernel's own root is what it would find in CR3: mapping code runs before its tables are loaded.
fn read_control_register(
    instruction: &Instruction,
    machine: &Machine,
    case: &Case,
    registers: &mut kvm_regs,
) -> Option<&'static str> {
    if instruction.code() != Code::Mov_r64_cr {
        return None;
    }
    let sregs = machine.sregs();
    let (what, value) = match instruction.op1_register() {
        Register::CR0 => ("mov from cr0", sregs.cr0),
        Register::CR3 => ("mov from cr3", case.boot_root),
        Register::CR4 => ("mov from cr4", sregs.cr4),
        _ => return None,
    };
    *general(registers, instruction.op0_register())? = value;
    Some(what)
}

fn read_msr(machine: &Machine, registers: &mut kvm_regs) -> Option<&'static str> {
    let (what, value) = match registers.rcx as u32 {
        msr::IA32_EFER => ("rdmsr of EFER", machine.sregs().efer),
        msr::IA32_PAT => ("rdmsr of PAT", machine.get_msr(msr::IA32_PAT).ok()?),
        _ => return None,
    };
    (registers.rax, registers.rdx) = (value & 0xffff_ffff, value >> 32);
    Some(what)
}

/// A general register; RSP is in the exception's frame, and no place for this.
fn general(registers: &mut kvm_regs, register: Register) -> Option<&mut u64> {
    Some(match register {
        Register::RAX => &mut registers.rax,
        Register::RBX => &mut registers.rbx,
        Register::RCX => &mut registers.rcx,
        Register::RDX => &mut registers.rdx,
        Register::RSI => &mut registers.rsi,
        Register::RDI => &mut registers.rdi,
        Register::RBP => &mut registers.rbp,
        Register::R8 => &mut registers.r8,
        Register::R9 => &mut registers.r9,
        Register::R10 => &mut registers.r10,
        Register::R11 => &mut registers.r11,
        Register::R12 => &mut registers.r12,
        Register::R13 => &mut registers.r13,
        Register::R14 => &mut registers.r14,
        Register::R15 => &mut registers.r15,
        _ => return None,
    })
}
