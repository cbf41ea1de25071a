//! The loops of [`Op::Try`](crate::protocol::Op::Try): accesses by the thousand, any of which may fault.
//!
//! The host has laid out the tables, so that all an access costs the guest is the access itself, its fault, and a record
//! of a few words. Faults go to handlers of their own, by an IDT of their own; from ring 3 they resume in ring 3.
//!
//! Where ring 0 is emulated, each of its instructions costs as much as a twentieth of a fault, and one that touches memory
//! a tenth. So the handlers do no more than to pass on what the CPU told them: the loop itself writes it down, in ring 3 at
//! the CPU's own speed. And a fault in ring 0 comes back by a jump: an IRETQ would read five words.
//!
//! Registers while a loop runs: RSI the record after this one, RCX the records left, RAX the address, RBP where fetched
//! code returns to, R8 successes so far, R9 faults. The handlers give the error code in R12, with the vector from bit 56 if
//! it was no #PF, and CR2 in R13, and go on at R15. In ring 0 that is in the loop, where the stack is put right from R14,
//! and, where it matters, RFLAGS from R10: some virtual CPUs clear AC when they deliver a fault. Of ring 3 it is what
//! returns to RBX there.

use core::arch::global_asm;

use efibed_stub::rflags;

use crate::protocol::{TRIAL_ARRAY, TRIAL_USER, TrialKind, USER_BASE, selector};

unsafe extern "C" {
    fn efibed_try(code: u64, records: u64, count: u64, rflags: u64) -> u64;
    static efibed_user_text: u8;
    static efibed_trial_loops: [u64; KINDS];
    static efibed_user_trial_loops: [u64; KINDS];
}

const KINDS: usize = TrialKind::BareFetch as usize + 1;

/// Makes `count` accesses of one kind; the arguments and the result are those of the command.
pub(super) fn make(records: u64, count: u64, kind: u64, rflags: u64) -> u64 {
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
        efibed_try(code, records, count, rflags)
    }
}

global_asm!(
    ".section .text.efibed_trials, \"ax\"",
    // (code, records, count, rflags) -> successes, and faults from bit 32. Code in the low half is ring 3's.
    ".globl efibed_try",
    "efibed_try:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [efibed_trial_rsp], rsp",
    "mov r10, rcx",
    "mov rcx, rdx",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "test rdi, rdi",
    "js 1f",
    "mov r15, offset efibed_trial_to_user",
    "mov rdx, {user_stack_top}",
    "push {user_data}",
    "push rdx",
    "push r10",
    "push {user_code}",
    "push rdi",
    "iretq",
    "1: push r10",
    "popfq",
    "call rdi",
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
    // The loop of one kind for one ring, of which `resume`, `back` and `leave` are: how it is told where a fault resumes,
    // what it does first then, and how it ends.
    ".macro efibed_trial_loop name, ring, result, access:vararg",
    "\\name:",
    "lea rbp, [rip + 2f]",
    // This ends at the next label 1.
    "efibed_resume_\\ring 3f, 4f",
    "1: lodsq",
    "\\access",
    "2: mov [rsi + {value}], \\result",
    "inc r8",
    "loop 1b",
    "efibed_leave_\\ring",
    "3: efibed_back_\\ring",
    "mov [rsi + {error_code}], r12",
    "mov [rsi + {cr2}], r13",
    "inc r9",
    "loop 1b",
    "efibed_leave_\\ring",
    "4: efibed_back_\\ring",
    "push r10",
    "popfq",
    "jmp 3b",
    ".endm",
    ".macro efibed_resume_kernel usual, with_flags",
    "mov r14, rsp",
    "lea r15, [rip + \\usual]",
    "bt r10, {ac}",
    "jnc 1f",
    "lea r15, [rip + \\with_flags]",
    ".endm",
    ".macro efibed_back_kernel",
    "mov rsp, r14",
    ".endm",
    ".macro efibed_leave_kernel",
    "ret",
    ".endm",
    ".macro efibed_resume_user usual, with_flags",
    "lea rbx, [rip + \\usual]",
    ".endm",
    ".macro efibed_back_user",
    ".endm",
    ".macro efibed_leave_user",
    "jmp efibed_user_done",
    ".endm",
    ".macro efibed_bare_loop name, ring, access:vararg",
    "\\name:",
    "lodsq",
    "mov rdi, rax",
    "mov r12, [rsi + {value}]",
    "mov r13, [rsi + {error_code}]",
    "mov r14, [rsi + {cr2}]",
    "xor eax, eax",
    "lea rbx, [rip + 2f]",
    "1: \\access",
    "2: loop 1b",
    "efibed_leave_\\ring",
    ".endm",
    ".macro efibed_all_trial_loops prefix, ring",
    "efibed_trial_loop \\prefix\\()_read, \\ring, rdx, mov rdx, [rax]",
    "efibed_trial_loop \\prefix\\()_write, \\ring, rax, mov [rax], rax",
    "efibed_trial_loop \\prefix\\()_fetch, \\ring, rax, jmp rax",
    "efibed_trial_loop \\prefix\\()_stack_read, \\ring, rdx, efibed_stack mov rdx, [rbp]",
    "efibed_trial_loop \\prefix\\()_stack_write, \\ring, rax, efibed_stack mov [rbp], rax",
    // Selector 7: the LDT's first descriptor, for ring 3.
    "efibed_trial_loop \\prefix\\()_implicit, \\ring, rax, efibed_implicit",
    "efibed_bare_loop \\prefix\\()_bare_entries, \\ring, efibed_entries",
    "efibed_bare_loop \\prefix\\()_bare_read, \\ring, mov rax, [rdi]",
    "efibed_bare_loop \\prefix\\()_bare_write, \\ring, mov [rdi], rdi",
    "efibed_bare_loop \\prefix\\()_bare_fetch, \\ring, jmp rdi",
    ".endm",
    ".macro efibed_stack access:vararg",
    "mov rbp, rax",
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
    "efibed_all_trial_loops efibed_trial, kernel",
    ".section .efibed.user.trials, \"ax\"",
    "efibed_all_trial_loops efibed_user_trial, user",
    ".section .rodata.efibed_trials, \"a\"",
    ".balign 8",
    ".globl efibed_trial_loops, efibed_user_trial_loops",
    "efibed_trial_loops: efibed_loop_addresses efibed_trial",
    "efibed_user_trial_loops: efibed_loop_addresses efibed_user_trial",
    "",
    // The handlers. #PF: error code, RIP, CS, RFLAGS, RSP, SS on the stack.
    ".section .text.efibed_trials, \"ax\"",
    "efibed_trial_page_fault:",
    "pop r12",
    "mov r13, cr2",
    "jmp r15",
    "efibed_trial_to_user:",
    "mov [rsp], rbx",
    "iretq",
    "efibed_bare_page_fault:",
    "add rsp, 8",
    "mov [rsp], rbx",
    "iretq",
    // Non-canonical addresses.
    ".macro efibed_trial_fault vector",
    "efibed_trial_fault_\\vector:",
    "movabs r12, \\vector << 56",
    "pop r13",
    "or r12, r13",
    "xor r13d, r13d",
    "jmp r15",
    ".endm",
    "efibed_trial_fault 12",
    "efibed_trial_fault 13",
    // Ring 3 leaves its loop by UD2. Elsewhere UD2 means that something was executed that should not have been.
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
    "1: movabs r12, 6 << 56",
    "xor r13d, r13d",
    "jmp r15",
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
    // Behind the address that has been loaded.
    value = const TRIAL_ARRAY - 8,
    error_code = const 2 * TRIAL_ARRAY - 8,
    cr2 = const 3 * TRIAL_ARRAY - 8,
    // For `bt`, the bit's number.
    ac = const rflags::AC.trailing_zeros(),
    user_stack_top = const USER_BASE + 2 * 4096,
    user_data = const selector::USER_DATA,
    user_code = const selector::USER_CODE,
    kernel_code = const selector::KERNEL_CODE,
    kernel_data = const selector::KERNEL_DATA,
);
