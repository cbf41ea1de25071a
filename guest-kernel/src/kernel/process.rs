//! The exceptions of mapping code: each goes to the host, which says what becomes of it.
//!
//! The host enters ring 3 by setting the registers, on the IDT at [`PROCESS_IDT`](crate::protocol::PROCESS_IDT). So all
//! that is left for ring 0 is to hand over, with no register touched, and to go back to where the host then says.

use core::arch::global_asm;

global_asm!(
    ".section .text.efibed_process, \"ax\"",
    ".altmacro",
    ".macro efibed_process_vector number",
    "efibed_process_vector_\\number:",
    // As in `faults`: these push an error code themselves.
    ".if !((0x60227d00 >> \\number) & 1)",
    "push 0",
    ".endif",
    "push \\number",
    "jmp efibed_process_exception",
    ".endm",
    ".macro efibed_process_vector_address number",
    ".quad efibed_process_vector_\\number",
    ".endm",
    ".set number, 0",
    ".rept 32",
    "efibed_process_vector %number",
    ".set number, number + 1",
    ".endr",
    "efibed_process_exception:",
    "hlt",
    ".globl efibed_process_halted",
    "efibed_process_halted:",
    "add rsp, 16",
    "iretq",
    "",
    ".section .rodata.efibed_process, \"a\"",
    ".globl efibed_process_vectors",
    "efibed_process_vectors:",
    ".set number, 0",
    ".rept 32",
    "efibed_process_vector_address %number",
    ".set number, number + 1",
    ".endr",
    ".noaltmacro",
    ".text",
);
