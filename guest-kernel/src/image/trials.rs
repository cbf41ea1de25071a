//! The loops of [`Op::Try`](crate::protocol::Op::Try): accesses by the thousand, any of which may fault.
//!
//! The host has laid out the tables, so that all an access costs the guest is the access itself, its fault, and a record
//! of a few words. Faults go to handlers of their own, by an IDT of their own; from ring 3 they resume in ring 3.
//!
//! Registers while a loop runs, which the handlers rely on: RSI the record as the ring sees it, R11 what to add for ring
//! 0, RDI the address, RCX the records left, RBX where a fault resumes, RBP where fetched code returns to, R8 successes
//! so far, R9 faults.

use core::arch::global_asm;

use crate::protocol::{TRIAL_USER, Trial, TrialKind, USER_BASE, selector};

unsafe extern "C" {
    fn efibed_try(code: u64, records: u64, alias: u64, count: u64, rflags: u64) -> u64;
    static efibed_user_text: u8;
    static efibed_trial_loops: [u64; KINDS];
    static efibed_user_trial_loops: [u64; KINDS];
}

const KINDS: usize = TrialKind::BareFetch as usize + 1;

/// Makes `count` accesses of one kind; the arguments and the result are those of the command.
pub(super) fn make(records: u64, alias: u64, count: u64, kind: u64, rflags: u64) -> u64 {
    let index = (kind & !TRIAL_USER) as usize;
    if count == 0 || index >= KINDS {
        return 0;
    }
    // SAFETY: the tables hold the loops' addresses, and `index` is inside. The loops save what the C calling convention
    // preserves; the host vouches for the records and for the IDT that brings faults back to them.
    unsafe {
        let code = if kind & TRIAL_USER == 0 {
            efibed_trial_loops[index]
        } else {
            USER_BASE + (efibed_user_trial_loops[index] - (&raw const efibed_user_text).addr() as u64)
        };
        efibed_try(code, records, alias, count, rflags)
    }
}

global_asm!(
    ".section .text.efibed_trials, \"ax\"",
    // (code, records, alias, count, rflags) -> successes, and faults from bit 32. Code in the low half is ring 3's.
    ".globl efibed_try",
    "efibed_try:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [efibed_trial_rsp], rsp",
    "mov r11, rdx",
    "mov rax, r8",
    "mov r15, rdi",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "test r15, r15",
    "js 1f",
    "mov rdx, {user_stack_top}",
    "push {user_data}",
    "push rdx",
    "push rax",
    "push {user_code}",
    "push r15",
    "iretq",
    "1: push rax",
    "popfq",
    "call r15",
    "efibed_tried:",
    "push 2",
    "popfq",
    "mov rax, r9",
    "shl rax, 32",
    "or rax, r8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "",
    // The loop of one kind for one ring, which ends with `leave`.
    ".macro efibed_trial_loop name, leave, result, access:vararg",
    "\\name:",
    "lea rbx, [rip + 3f]",
    "lea rbp, [rip + 2f]",
    "1: mov rdi, [rsi]",
    "\\access",
    "2: mov [rsi + {value}], \\result",
    "inc r8",
    "3: add rsi, {bytes}",
    "dec rcx",
    "jnz 1b",
    "\\leave",
    ".endm",
    ".macro efibed_bare_loop name, leave, access:vararg",
    "\\name:",
    "mov rdi, [rsi]",
    "mov r12, [rsi + {value}]",
    "mov r13, [rsi + {error_code}]",
    "mov r14, [rsi + {cr2}]",
    "xor eax, eax",
    "lea rbx, [rip + 2f]",
    "1: \\access",
    "2: dec rcx",
    "jnz 1b",
    "\\leave",
    ".endm",
    ".macro efibed_all_trial_loops prefix, leave",
    "efibed_trial_loop \\prefix\\()_read, \\leave, rax, mov rax, [rdi]",
    "efibed_trial_loop \\prefix\\()_write, \\leave, rdi, mov [rdi], rdi",
    "efibed_trial_loop \\prefix\\()_fetch, \\leave, rax, jmp rdi",
    "efibed_trial_loop \\prefix\\()_stack_read, \\leave, rax, efibed_stack mov rax, [rbp]",
    "efibed_trial_loop \\prefix\\()_stack_write, \\leave, rdi, efibed_stack mov [rbp], rdi",
    // Selector 7: the LDT's first descriptor, for ring 3.
    "efibed_trial_loop \\prefix\\()_implicit, \\leave, rdi, efibed_implicit",
    "efibed_bare_loop \\prefix\\()_bare_entries, \\leave, efibed_entries",
    "efibed_bare_loop \\prefix\\()_bare_read, \\leave, mov rax, [rdi]",
    "efibed_bare_loop \\prefix\\()_bare_write, \\leave, mov [rdi], rdi",
    "efibed_bare_loop \\prefix\\()_bare_fetch, \\leave, jmp rdi",
    ".endm",
    ".macro efibed_leave_user",
    "jmp efibed_user_done",
    ".endm",
    ".macro efibed_stack access:vararg",
    "mov rbp, rdi",
    "\\access",
    ".endm",
    ".macro efibed_implicit",
    "mov eax, 7",
    "mov fs, eax",
    ".endm",
    ".macro efibed_entries",
    "mov [r12], rax",
    "mov [r13], rax",
    "mov [r14], rax",
    ".endm",
    ".macro efibed_loop_addresses prefix",
    ".quad \\prefix\\()_read, \\prefix\\()_write, \\prefix\\()_fetch, \\prefix\\()_stack_read",
    ".quad \\prefix\\()_stack_write, \\prefix\\()_implicit",
    ".quad \\prefix\\()_bare_entries, \\prefix\\()_bare_read, \\prefix\\()_bare_write, \\prefix\\()_bare_fetch",
    ".endm",
    "",
    "efibed_all_trial_loops efibed_trial, ret",
    ".section .efibed.user.trials, \"ax\"",
    "efibed_all_trial_loops efibed_user_trial, efibed_leave_user",
    ".section .rodata.efibed_trials, \"a\"",
    ".balign 8",
    ".globl efibed_trial_loops, efibed_user_trial_loops",
    "efibed_trial_loops: efibed_loop_addresses efibed_trial",
    "efibed_user_trial_loops: efibed_loop_addresses efibed_user_trial",
    "",
    // The handlers. #PF: error code, RIP, CS, RFLAGS, RSP, SS on the stack.
    ".section .text.efibed_trials, \"ax\"",
    "efibed_trial_page_fault:",
    "pop [rsi + r11 + {error_code}]",
    "mov rax, cr2",
    "mov [rsi + r11 + {cr2}], rax",
    "inc r9",
    "mov [rsp], rbx",
    "iretq",
    "efibed_bare_page_fault:",
    "add rsp, 8",
    "mov [rsp], rbx",
    "iretq",
    // Non-canonical addresses.
    ".macro efibed_trial_fault vector",
    "efibed_trial_fault_\\vector:",
    "pop [rsi + r11 + {error_code}]",
    "mov byte ptr [rsi + r11 + {error_code} + 7], \\vector",
    "inc r9",
    "mov [rsp], rbx",
    "iretq",
    ".endm",
    "efibed_trial_fault 12",
    "efibed_trial_fault 13",
    // Ring 3 leaves its loop by UD2. Elsewhere it is that something was executed which should not have been.
    "efibed_trial_invalid_opcode:",
    "mov rax, [rsp]",
    "cmp rax, [efibed_user_done_at]",
    "jne 1f",
    "mov rax, offset efibed_tried",
    "mov [rsp], rax",
    "mov qword ptr [rsp + 8], {kernel_code}",
    "mov qword ptr [rsp + 16], 2",
    "mov rax, [efibed_trial_rsp]",
    "mov [rsp + 24], rax",
    "mov qword ptr [rsp + 32], {kernel_data}",
    "iretq",
    "1: mov rax, 6 << 56",
    "mov [rsi + r11 + {error_code}], rax",
    "inc r9",
    "mov [rsp], rbx",
    "iretq",
    "",
    // Vectors 6 and 12 to 14 are recorded; any other ends the run with a full account.
    ".altmacro",
    ".macro efibed_trial_vector number",
    ".if \\number == 6",
    ".quad efibed_trial_invalid_opcode",
    ".elseif \\number == 12",
    ".quad efibed_trial_fault_12",
    ".elseif \\number == 13",
    ".quad efibed_trial_fault_13",
    ".elseif \\number == 14",
    ".quad efibed_trial_page_fault",
    ".else",
    ".quad efibed_trial_crash_\\number",
    ".endif",
    ".endm",
    ".macro efibed_trial_crash number",
    "efibed_trial_crash_\\number:",
    ".if !((0x60227d00 >> \\number) & 1)",
    "push 0",
    ".endif",
    "push \\number",
    "push rax",
    "jmp efibed_crash",
    ".endm",
    ".set number, 0",
    ".rept 32",
    "efibed_trial_crash %number",
    ".set number, number + 1",
    ".endr",
    ".section .rodata.efibed_trials, \"a\"",
    ".globl efibed_trial_vectors",
    "efibed_trial_vectors:",
    ".set number, 0",
    ".rept 32",
    "efibed_trial_vector %number",
    ".set number, number + 1",
    ".endr",
    ".noaltmacro",
    // Of the IDT for the bare loops.
    ".quad efibed_bare_page_fault",
    "",
    ".section .bss.efibed_trials, \"aw\", @nobits",
    ".balign 8",
    "efibed_trial_rsp: .zero 8",
    ".text",
    value = const core::mem::offset_of!(Trial, value),
    error_code = const core::mem::offset_of!(Trial, error_code),
    cr2 = const core::mem::offset_of!(Trial, cr2),
    bytes = const size_of::<Trial>(),
    user_stack_top = const USER_BASE + 2 * 4096,
    user_data = const selector::USER_DATA,
    user_code = const selector::USER_CODE,
    kernel_code = const selector::KERNEL_CODE,
    kernel_data = const selector::KERNEL_DATA,
);
