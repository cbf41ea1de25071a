//! The loops that access memory, in as few instructions for each access as possible.
//!
//! Registers while a loop runs, which the fault handlers rely on: RSI the record, RDI the address, RBX where to resume,
//! R12 the stack pointer there; in a sweep R8 the next fault record, R9 the end of the records, R10 their start. For
//! ring 3, which could clobber them, the same is kept in memory.

use core::arch::global_asm;

use super::mailbox;
use crate::protocol::{
    Fault, MAX_FAULTS, MAX_PROBES, MAX_SWEEPS, PROBE_DONE, Probe, ProbeKind, Sweep, USER_BASE, selector,
};

unsafe extern "C" {
    fn efibed_probe_read(records: *mut Probe, count: usize);
    fn efibed_probe_write(records: *mut Probe, count: usize);
    fn efibed_probe_fetch(records: *mut Probe, count: usize);
    fn efibed_probe_user(records: *mut Probe, count: usize, code: u64);
    fn efibed_sweep(ranges: *const Sweep, count: usize, faults: *mut Fault, faults_end: *mut Fault) -> *mut Fault;
    static efibed_user_text: u8;
    static efibed_user_read: u8;
    static efibed_user_write: u8;
    static efibed_user_fetch: u8;
}

/// Makes `count` accesses of one kind, from record `first` on.
pub(super) fn probe(first: usize, count: usize, kind: u64) {
    const READ: u64 = ProbeKind::Read as u64;
    const WRITE: u64 = ProbeKind::Write as u64;
    const FETCH: u64 = ProbeKind::Fetch as u64;
    const USER_READ: u64 = ProbeKind::UserRead as u64;
    const USER_WRITE: u64 = ProbeKind::UserWrite as u64;
    const USER_FETCH: u64 = ProbeKind::UserFetch as u64;
    if count == 0 || first >= MAX_PROBES || count > MAX_PROBES - first {
        return;
    }
    // SAFETY: the records lie in the mailbox, checked above; the loops save what the C calling convention preserves, and
    // every fault of theirs comes back to them.
    unsafe {
        let records = (&raw mut (*mailbox()).probes).cast::<Probe>().add(first);
        let user = |code: *const u8| {
            let offset = code.addr() - (&raw const efibed_user_text).addr();
            efibed_probe_user(records, count, USER_BASE + offset as u64);
        };
        match kind {
            READ => efibed_probe_read(records, count),
            WRITE => efibed_probe_write(records, count),
            FETCH => efibed_probe_fetch(records, count),
            USER_READ => user(&raw const efibed_user_read),
            USER_WRITE => user(&raw const efibed_user_write),
            USER_FETCH => user(&raw const efibed_user_fetch),
            _ => {}
        }
    }
}

/// Writes its own address to every page of the first `count` ranges.
pub(super) fn sweep(count: usize) {
    if count == 0 || count > MAX_SWEEPS {
        return;
    }
    // SAFETY: the ranges and the fault records lie in the mailbox; otherwise as in `probe`.
    unsafe {
        let mail = mailbox();
        let faults = (&raw mut (*mail).faults).cast::<Fault>();
        let ranges = (&raw const (*mail).sweeps).cast::<Sweep>();
        let end = efibed_sweep(ranges, count, faults, faults.add(MAX_FAULTS));
        (*mail).fault_count = end.offset_from_unsigned(faults) as u64;
    }
}

global_asm!(
    // (records, count)
    ".macro efibed_probe_loop name, access:vararg",
    ".globl \\name",
    "\\name:",
    "push rbx",
    "push r12",
    "mov rcx, rsi",
    "mov rsi, rdi",
    "lea rbx, [rip + 2f]",
    "mov r12, rsp",
    "1: mov rdi, [rsi]",
    "\\name\\()_access:",
    "\\access",
    "\\name\\()_done:",
    "mov [rsi + {value}], rax",
    "mov qword ptr [rsi + {status}], {done}",
    "2: add rsi, {probe_bytes}",
    "dec rcx",
    "jnz 1b",
    "pop r12",
    "pop rbx",
    "ret",
    ".endm",
    "",
    ".section .text.efibed_probes, \"ax\"",
    "efibed_probe_loop efibed_probe_read, mov rax, [rdi]",
    "efibed_probe_loop efibed_probe_write, mov [rdi], rdi",
    "efibed_probe_loop efibed_probe_fetch, call rdi",
    ".globl efibed_fetch_return",
    ".set efibed_fetch_return, efibed_probe_fetch_done",
    "",
    // (records, count, code): ring 3 is entered by IRETQ and left by a fault or, all being well, by UD2.
    ".globl efibed_probe_user",
    "efibed_probe_user:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rcx, rsi",
    "mov rsi, rdi",
    "mov [efibed_user_code], rdx",
    "mov [efibed_user_resume_rsp], rsp",
    "1: mov rdi, [rsi]",
    "mov [efibed_user_record], rsi",
    "mov [efibed_user_count], rcx",
    "mov rax, {user_stack_top}",
    "push {user_data}",
    "push rax",
    "push 2",
    "push {user_code}",
    "push [efibed_user_code]",
    "iretq",
    ".globl efibed_user_resume",
    "efibed_user_resume:",
    "mov rsi, [efibed_user_record]",
    "mov rcx, [efibed_user_count]",
    "add rsi, {probe_bytes}",
    "dec rcx",
    "jnz 1b",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "",
    // (ranges, count, faults, faults_end) -> the next free fault record. Eight pages a turn; every store is of the same
    // three bytes, so that the handler knows where the next instruction is.
    ".globl efibed_sweep",
    "efibed_sweep:",
    "mov r8, rdx",
    "mov r9, rcx",
    "mov r10, rdx",
    "mov r11, rsi",
    "mov rsi, rdi",
    "1: mov rdi, [rsi]",
    "mov rdx, [rsi + 8]",
    "mov rcx, rdx",
    "and edx, 7",
    "shr rcx, 3",
    "jz 3f",
    ".globl efibed_sweep_first",
    "efibed_sweep_first:",
    "2:",
    ".rept 8",
    "mov [rdi], rdi",
    "add rdi, 4096",
    ".endr",
    "dec rcx",
    "jnz 2b",
    "3: test edx, edx",
    "jz 5f",
    "4: mov [rdi], rdi",
    "add rdi, 4096",
    "dec edx",
    "jnz 4b",
    ".globl efibed_sweep_last",
    "efibed_sweep_last:",
    "5: add rsi, {sweep_bytes}",
    "dec r11",
    "jnz 1b",
    "mov rax, r8",
    "ret",
    "",
    // Ring 3's own page, mapped at USER_BASE.
    ".section .efibed.user, \"ax\"",
    ".globl efibed_user_text, efibed_user_read, efibed_user_write, efibed_user_fetch, efibed_user_done",
    "efibed_user_text:",
    "efibed_user_read: mov rax, [rdi]",
    "jmp efibed_user_done",
    "efibed_user_write: mov [rdi], rdi",
    "jmp efibed_user_done",
    "efibed_user_fetch: call rdi",
    "efibed_user_done: ud2",
    "",
    ".section .bss.efibed_user, \"aw\", @nobits",
    ".balign 8",
    ".globl efibed_user_record, efibed_user_resume_rsp",
    "efibed_user_record: .zero 8",
    "efibed_user_count: .zero 8",
    "efibed_user_code: .zero 8",
    "efibed_user_resume_rsp: .zero 8",
    ".text",
    value = const core::mem::offset_of!(Probe, value),
    status = const core::mem::offset_of!(Probe, status),
    done = const PROBE_DONE,
    probe_bytes = const size_of::<Probe>(),
    sweep_bytes = const size_of::<Sweep>(),
    user_stack_top = const USER_BASE + 2 * 4096,
    user_data = const selector::USER_DATA,
    user_code = const selector::USER_CODE,
);
