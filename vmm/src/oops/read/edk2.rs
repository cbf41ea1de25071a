//! EDK II: `DumpCpuContext()` of UefiCpuPkg/Library/CpuExceptionHandlerLib. Its handlers are there until an operating system
//! loads an IDT of its own, so such a fault is one before ExitBootServices, or soon after it.
//!
//! ```text
//! !!!! X64 Exception Type - 0E(#PF - Page-Fault)  CPU Apic ID - 00000000 !!!!
//! ExceptionData - 0000000000000003  I:0 R:0 U:0 W:1 P:1 PK:0 SS:0 SGX:0
//! RIP  - 000000003FFC8B50, CS  - 0000000000000038, RFLAGS - 0000000000010046
//! CR0  - 0000000080010033, CR2 - 000000003EC03FC0, CR3 - 000000003EC01000
//! ```

use super::super::fault::{Fault, Printer};
use super::form::{Form, keep, keep_registers};
use super::scan::{number_after, register};
use crate::mmu::ErrorCode;

pub const FORM: Form =
    Form { printer: Printer::Edk2, begins, resumes: |_| false, continues: |_, _| false, take, is_page_fault, ends };

/// Older ones print the vector as 16 digits.
fn begins(line: &str) -> bool {
    let vector = line.split_once("X64 Exception Type - ").map(|(_, rest)| rest);
    let digits = vector.map(|rest| rest.split([' ', '(']).next().unwrap_or_default());
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) == Some(PAGE_FAULT)
}

/// The vector of #PF (SDM vol. 3A, 6.15).
const PAGE_FAULT: u64 = 14;

fn ends(line: &str) -> bool {
    line.contains("FXSAVE_STATE")
}

fn is_page_fault(fault: &Fault) -> bool {
    fault.address.is_some() || fault.code.is_some()
}

fn take(fault: &mut Fault, line: &str) {
    let code = number_after(line, "ExceptionData").and_then(|code| u32::try_from(code).ok());
    keep(&mut fault.code, code.map(ErrorCode));
    keep(&mut fault.address, register(line, "CR2"));
    keep(&mut fault.cr3, register(line, "CR3"));
    keep(&mut fault.cr4, register(line, "CR4"));
    keep(&mut fault.rip, register(line, "RIP"));
    keep(&mut fault.cs, register(line, "CS"));
    keep_registers(fault, line);
}
